#!/usr/bin/env python3
"""An independent reader of what `edgate audit tiles` and `edgate audit prove` write, made from the C2SP specifications
(tlog-tiles, tlog-proof, tlog-witness), RFC 6962 section 2.1 and FORMAT.md alone. Python 3.9, nothing but its library.

    tlog_reader.py tiles FOLDER VKEY_FILE               every tile and entry bundle of the checkpoint, recomputed
    tlog_reader.py proof FILE VKEY_FILE                 one record in the log
    tlog_reader.py consistency FILE OLD VKEY_FILE       one checkpoint continues an older one

Prints one JSON line; exit status 0 if all is as signed, 1 if not. Proofs are computed by the recursive definitions of the
RFC, which is not how the binary does it.
"""
import json, os, struct, sys

from edgate_verify import Malformed, open_note, read_keys, sha256, unbase64

TITLE, HEADER = "c2sp.org/tlog-proof@v1", 116


def fail(problem):
    raise Malformed(problem)


def read(*path):
    try:
        return open(os.path.join(*path), "rb").read()
    except FileNotFoundError:
        fail("missing: " + os.path.join(*path[1:]))


# ---- tlog-tiles ---------------------------------------------------------------------------------------------------
def tile_path(level, number, width):
    groups = []
    while True:
        groups.insert(0, "%s%03d" % ("x" if groups else "", number % 1000))
        number //= 1000
        if number == 0:
            break
    return "tile/%s/%s%s" % (level, "/".join(groups), "" if width == 256 else ".p/%d" % width)


def tiles_of(size, level):
    """(number, width) of every tile of a level."""
    hashes = size // 256 ** level
    return [(number, min(256, hashes - 256 * number)) for number in range(-(-hashes // 256))]


def entries_of(bundle, width):
    entries, at = [], 0
    while at < len(bundle):
        length, = struct.unpack_from(">H", bundle, at)
        entries.append(bundle[at + 2:at + 2 + length])
        at += 2 + length
    if len(entries) != width or at != len(bundle):
        fail("an entry bundle of another width")
    return entries


def tree_head(hashes):
    """MTH over leaf hashes."""
    if len(hashes) == 1:
        return hashes[0]
    k = 1 << (len(hashes) - 1).bit_length() - 1
    return sha256(b"\1", tree_head(hashes[:k]), tree_head(hashes[k:]))


def check_tiles(folder, keys):
    origin, size, root = open_note(read(folder, "checkpoint").decode(), keys)
    leaves, previous = [], None
    for number, width in tiles_of(size, 0):
        for entry in entries_of(read(folder, tile_path("entries", number, width)), width):
            if len(entry) != HEADER or entry[:4] != b"EDG\1" or struct.unpack_from("<Q", entry, 8)[0] != len(leaves):
                fail("entry %d is not that record's header" % len(leaves))
            if previous is not None and entry[80:112] != previous:
                fail("entry %d does not continue the chain" % len(leaves))
            previous = sha256(b"\0", entry)
            leaves.append(previous)
    level, row, files = 0, leaves, 0
    while row:
        for number, width in tiles_of(size, level):
            if read(folder, tile_path(level, number, width)) != b"".join(row[256 * number:256 * number + width]):
                fail("tile %s differs" % tile_path(level, number, width))
            files += 1
        row = [tree_head(row[at:at + 256]) for at in range(0, len(row) - 255, 256)]
        level += 1
    if tree_head(leaves) != root:
        fail("the entries do not hash to the signed root")
    return {"origin": origin, "size": size, "root": root.hex(), "tiles": files}


# ---- tlog-proof, tlog-witness ---------------------------------------------------------------------------------------
def split_number(m, n):
    return 1 << (n - 1).bit_length() - 1


def root_of(leaf, m, n, path):
    if n == 1:
        return leaf if not path else fail("the path is too long")
    if not path:
        fail("the path is too short")
    k = split_number(m, n)
    if m < k:
        return sha256(b"\1", root_of(leaf, m, k, path[:-1]), path[-1])
    return sha256(b"\1", path[-1], root_of(leaf, m - k, n - k, path[:-1]))


def roots_of(old_root, m, n, path, known):
    """(old root, new root) that a consistency proof leads to."""
    if m == n:
        if known:
            return (old_root, old_root) if not path else fail("the path is too long")
        return (path[0], path[0]) if len(path) == 1 else fail("the path has another length")
    if not path:
        fail("the path is too short")
    k, last = split_number(m, n), path[-1]
    if m <= k:
        old, new = roots_of(old_root, m, k, path[:-1], known)
        return old, sha256(b"\1", new, last)
    old, new = roots_of(old_root, m - k, n - k, path[:-1], False)
    return sha256(b"\1", last, old), sha256(b"\1", last, new)


def number_in(line, word):
    name, _, digits = line.partition(" ")
    if name != word or not digits.isascii() or not digits.isdigit() or str(int(digits)) != digits:
        fail("no line " + word)
    return int(digits)


def check_proof(text, keys):
    lines, separator, note = text.partition("\n\n")
    lines = lines.split("\n")
    if not separator or not text.endswith("\n") or lines[0] != TITLE or not lines[1].startswith("extra "):
        fail("not a proof with a record")
    extra = unbase64(lines[1][6:])
    stated, entry, body = extra[:32], extra[32:32 + HEADER], extra[32 + HEADER:]
    index = number_in(lines[2], "index")
    origin, size, root = open_note(note, keys)
    leaf = sha256(b"\0", entry)
    if len(entry) != HEADER or leaf != stated or struct.unpack_from("<Q", entry, 8)[0] != index or index >= size:
        fail("the record does not fit")
    if body and (sha256(body) != entry[48:80] or struct.unpack_from("<I", entry, 4)[0] != len(body)):
        fail("the body does not fit")
    if root_of(leaf, index, size, [unbase64(line) for line in lines[3:]]) != root:
        fail("the path does not lead to the signed root")
    return {"origin": origin, "size": size, "root": root.hex(), "index": index, "hash": leaf.hex(), "body": body.hex()}


def check_consistency(text, old_note, keys):
    lines, separator, note = text.partition("\n\n")
    lines = lines.split("\n")
    old_origin, old_size, old_root = open_note(old_note, keys)
    origin, size, root = open_note(note, keys)
    path = [unbase64(line) for line in lines[1:]]
    if not separator or not text.endswith("\n") or number_in(lines[0], "old") != old_size or origin != old_origin or not 0 < old_size <= size:
        fail("not a proof for these checkpoints")
    if roots_of(old_root, old_size, size, path, True) != (old_root, root):
        fail("the path does not lead to the signed roots")
    return {"origin": origin, "old_size": old_size, "size": size, "root": root.hex()}


def main(arguments):
    what, *files, key_file = arguments
    keys = read_keys(read(key_file).decode())
    check = {"tiles": check_tiles, "proof": check_proof, "consistency": check_consistency}[what]
    try:
        inputs = files if what == "tiles" else [read(name).decode() for name in files]
        print(json.dumps({"valid": True, **check(*inputs, keys)}))
    except (Malformed, UnicodeDecodeError) as problem:
        print(json.dumps({"valid": False, "problem": str(problem)}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
