#!/usr/bin/env python3
"""A second verifier of the audit log, written from src/audit/FORMAT.md alone. Python 3.9, nothing but its library.

    edgate_verify.py DIR --key VKEY_FILE [--origin NAME] [--allow-unsigned]     one log; exit status 0 whole, 1 broken, 2 unusable
    edgate_verify.py --serve --key VKEY_FILE                                    a folder per line in, a JSON line out

It shares no code with the verifier in the binary, so that a mistake in one shows as a disagreement of the two. It says
whether a log is whole and names the first place where it is not; classes and extents are the other's business.
"""
import base64, hashlib, json, os, re, stat, struct, sys

BODY_MAX, HEADER, SEQ_MAX, COMMITS_TORN_MAX, SEQUENCER = 65536, 128, 2**63 - 1, 2, 65535
OPEN, COMMIT, SEAL, CHECKPOINT, RETIRE, ERASE, CLEAN_CLOSE, REDACTABLE_KINDS, SECTOR = 1, 2, 3, 4, 10, 11, 16, range(32, 36), 512


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


# ---- CRC-32C (Castagnoli, reflected) ----------------------------------------------------------------------------
CRC = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    CRC.append(byte)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


# ---- Ed25519 (RFC 8032 5.1), strict: canonical S, A and R, no small-order point ---------------------------------
P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D, ROOT = -121665 * pow(121666, -1, P) % P, pow(2, (P - 1) // 4, P)


def point(encoded):
    y, sign = int.from_bytes(encoded, "little") & ~(1 << 255), encoded[31] >> 7
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(x2, (P + 3) // 8, P)
    x = x if (x * x - x2) % P == 0 else x * ROOT % P
    if (x * x - x2) % P or (x == 0 and sign):
        return None
    return (P - x if x & 1 != sign else x, y, 1)


def add(a, b):  # projective Edwards addition
    (x, y, z), (u, v, w) = a, b
    A = z * w % P; B = A * A % P; C = x * u % P; E = y * v % P; F = D * C * E % P; G = B - F; H = B + F
    return (A * G * ((x + y) * (u + v) - C - E) % P, A * H * (E + C) % P, G * H % P)


def multiply(n, a):
    result = (0, 1, 1)
    while n:
        if n & 1:
            result = add(result, a)
        a, n = add(a, a), n >> 1
    return result


def same(a, b):
    return (a[0] * b[2] - b[0] * a[2]) % P == 0 and (a[1] * b[2] - b[1] * a[2]) % P == 0


BASE = point((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


def signature_verifies(key, message, signature):
    a, r, s = point(key), point(signature[:32]), int.from_bytes(signature[32:], "little")
    neutral = (0, 1, 1)
    if not a or not r or s >= L or same(multiply(8, a), neutral) or same(multiply(8, r), neutral):
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % L
    return same(multiply(s, BASE), add(r, multiply(k, a)))


# ---- deterministic CBOR, the few kinds of values that bodies have -----------------------------------------------
class Malformed(Exception):
    pass


def cbor(data, at=0, depth=0):
    """The value at `at` and where it ends."""
    if at >= len(data) or depth > 3:
        raise Malformed("body is cut or nested too deep")
    major, small, at = data[at] >> 5, data[at] & 31, at + 1
    if major == 7:
        if small not in (20, 21):
            raise Malformed("a value that bodies do not have")
        return small == 21, at
    if small < 24:
        number = small
    elif small < 28:
        size = 1 << small - 24
        number, at = int.from_bytes(data[at:at + size], "big"), at + size
        if at > len(data) or number < (24 if size == 1 else 1 << 4 * size):
            raise Malformed("not the shortest length")
    else:
        raise Malformed("indefinite length")
    if major == 0:
        return number, at
    if major in (2, 3):
        if at + number > len(data):
            raise Malformed("a string runs over the end")
        raw = data[at:at + number]
        return (raw if major == 2 else utf8(raw)), at + number
    if major not in (4, 5):
        raise Malformed("a value that bodies do not have")
    found, last = ([], None) if major == 4 else ({}, -1)
    for _ in range(number):
        value, at = cbor(data, at, depth + 1)
        if major == 4:
            found.append(value)
            continue
        if type(value) is not int or value <= last:
            raise Malformed("keys are not ascending numbers")
        found[value], at = cbor(data, at, depth + 1)
        last = value
    return found, at


def utf8(raw):
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Malformed("text is not UTF-8")


def schemas():
    """The table of kinds, read from FORMAT.md itself: {code: [(key, shape, optional)]}."""
    page = open(os.path.join(os.path.dirname(__file__), "../../src/audit/FORMAT.md"), encoding="utf-8").read()
    table = page.split("generated: kinds -->")[1].split("<!-- end: kinds")[0]
    return {int(code): fields(text) for code, text in re.findall(r"^\| (\d+) \| \w+ \| (.*?) \|$", table, re.M)}


def fields(text):
    found = []
    for key, optional, shape in re.findall(r"(\d+) \w+(\??) (array of \{.*?\}|array of text|uint|text|bool|bytes sealed|bytes(?:\[\d+\])?)", text):
        found.append((int(key), shape, bool(optional)))
    return found


def fits(value, shape):
    if shape.startswith("array of {"):
        return type(value) is list and all(type(item) is dict and has_schema(item, fields(shape[10:])) for item in value)
    if shape.startswith("bytes["):
        return type(value) is bytes and len(value) == int(shape[6:-1])
    if shape == "bytes sealed":  # key id, nonce, tag, and 1 to 64 times 32 bytes
        return type(value) is bytes and len(value) in range(44 + 32, 44 + 32 * 64 + 1, 32)
    if shape == "array of text":
        return type(value) is list and all(type(item) is str for item in value)
    return type(value) is {"uint": int, "text": str, "bool": bool, "bytes": bytes}[shape]


def has_schema(body, schema):
    known = {key for key, _, _ in schema}
    return set(body) <= known and all(
        fits(body[key], shape) if key in body else optional for key, shape, optional in schema)


SCHEMAS = schemas()


# ---- records ----------------------------------------------------------------------------------------------------
class Record:
    def __init__(self, data, at, erasable=False):
        """Reads the record at `at`; Malformed where it is not whole in itself, or erased where that can be."""
        if data[at:at + 4] != b"EDG\x01" or at + HEADER > len(data):
            raise Malformed("no record")
        head = data[at:at + HEADER]
        (self.body_len, self.seq, self.wall_ns, _, self.kind, flags, self.core, schema, _, self.digest, self.prev, _, crc, zero) = \
            struct.unpack("<4xIQQQHHHHQ32s32sIIQ", head)
        end = at + HEADER + self.body_len
        self.next = end + -end % 8
        if self.body_len > BODY_MAX or self.seq > SEQ_MAX or zero or self.next > len(data):
            raise Malformed("header is out of bounds")
        body = data[at + HEADER:end]
        self.redactable = flags & 2 and self.kind in REDACTABLE_KINDS
        self.hash, self.schema, self.raw, self.erased = sha256(b"\0", head[:116]), schema, body, None
        problem = ("checksum differs" if crc32c(head[:116] + body) != crc else "padding is not zero" if any(data[end:self.next])
                   else "body differs from its digest" if sha256(body) != self.digest else None)
        if self.redactable and not any(data[at + 116:self.next]):
            self.erased, problem = "whole", None if erasable else "body is zeros"
        elif problem and self.redactable and erasable:
            cuts = [at + 116, *range((at + 116) // SECTOR * SECTOR + SECTOR, end, SECTOR), end]
            if len(cuts) > 2 and any(not any(data[a:b]) for a, b in zip(cuts, cuts[1:])):
                self.erased, problem = "partly", None
        if problem:
            raise Malformed(problem)

    def body(self):
        value, end = cbor(self.raw)
        if end != len(self.raw) or type(value) is not dict:
            raise Malformed("body is not one map")
        if self.schema != self.kind or self.kind not in SCHEMAS or not has_schema(value, SCHEMAS[self.kind]):
            raise Malformed("body does not fit its schema")
        return value


def record_or_none(data, at, erasable=False):
    try:
        return Record(data, at, erasable)
    except Malformed:
        return None


# ---- RFC 6962 tree ----------------------------------------------------------------------------------------------
def subtrees(size):
    """Sizes of the perfect subtrees of 0..size, largest first."""
    return [1 << bit for bit in reversed(range(size.bit_length())) if size >> bit & 1]


def perfect(leaves):
    while len(leaves) > 1:
        leaves = [sha256(b"\1", leaves[i], leaves[i + 1]) for i in range(0, len(leaves), 2)]
    return leaves[0]


def root_of(frontier):
    frontier = list(frontier)
    if not frontier:
        return sha256()
    right = frontier.pop()
    while frontier:
        right = sha256(b"\1", frontier.pop(), right)
    return right


def tree_behind(size, frontier, leaves):
    """The head over `size` retired leaves, of which the frontier is known, and those behind them."""
    nodes = list(zip(subtrees(size), frontier))
    for leaf in leaves:
        node = 1, leaf
        while nodes and nodes[-1][0] == node[0]:
            node = 2 * node[0], sha256(b"\1", nodes.pop()[1], node[1])
        nodes.append(node)
    return root_of(hash for _, hash in nodes)


def tree_head(leaves):
    frontier, at = [], 0
    for size in subtrees(len(leaves)):
        frontier.append(perfect(leaves[at:at + size]))
        at += size
    return root_of(frontier)


# ---- checkpoints ------------------------------------------------------------------------------------------------
def unbase64(text):
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        raise Malformed("not base64")
    if base64.b64encode(raw).decode() != text:
        raise Malformed("not the one spelling of base64")
    return raw


def read_keys(text):
    keys = {}
    for line in filter(None, text.splitlines()):
        name, key_id, encoded = line.split("+", 2)
        raw = unbase64(encoded)
        if raw[0] != 1 or len(raw) != 33 or sha256(name.encode(), b"\n", raw)[:4].hex() != key_id:
            raise Malformed("not an Ed25519 verifier key")
        keys[name, bytes.fromhex(key_id)] = raw[1:]
    return keys


def open_note(note, keys):
    """(origin, size, root) of a checkpoint that a known key signed."""
    text, separator, signatures = note.partition("\n\n")
    lines = text.split("\n")
    if not separator or len(lines) != 3 or not re.fullmatch("0|[1-9][0-9]*", lines[1]) or int(lines[1]) >= 2**64:
        raise Malformed("not a checkpoint")
    root = unbase64(lines[2])
    if len(root) != 32:
        raise Malformed("not a tree head")
    found = []
    for line in filter(None, signatures.split("\n")):
        match = re.fullmatch("\u2014 ([^ ]+) ([^ ]+)", line)
        raw = unbase64(match[2]) if match else b""
        if len(raw) < 5:
            raise Malformed("not a signature line")
        found.append((match[1], raw[:4], raw[4:]))
    for name, key_id, signature in found:
        if (name, key_id) in keys:
            if len(signature) == 64 and signature_verifies(keys[name, key_id], (text + "\n").encode(), signature):
                return lines[0], int(lines[1]), root
            raise Malformed("signature does not verify")
    raise Malformed("no signature by a known key")


# ---- the log ----------------------------------------------------------------------------------------------------
class Broken(Exception):
    pass


class Verification:
    def __init__(self, folder, keys, origin=None, allow_unsigned=False):
        self.folder, self.keys, self.origin, self.allow_unsigned = folder, keys, origin, allow_unsigned
        self.leaves, self.log, self.head, self.durable, self.signed = [], None, None, 0, 0
        self.retired, self.frontier, self.retire_seq = 0, [], None  # records that are gone, and the tree over them
        self.where, self.boot, self.records, self.erased = (0, 0), None, [], []
        self.orders, self.waiting, self.in_effect, self.redacted = [], [], set(), 0

    def size(self):
        return self.retired + len(self.leaves)

    def head_at(self, size):
        if self.retired:
            return tree_behind(self.retired, self.frontier, self.leaves[:size - self.retired])
        return tree_head(self.leaves[:size])

    def run(self):
        if any(name.endswith(".arc") for name in os.listdir(self.folder)):
            raise FileNotFoundError("archives (.arc) are not read here: `edgate audit verify` reads them")
        names = sorted(name for name in os.listdir(self.folder) if re.fullmatch(r"[0-9]{10}\.seg", name) and int(name[:10]))
        if not names:
            raise FileNotFoundError("no segments in " + self.folder)
        segments, first = [], int(names[0][:10])
        for expected, name in enumerate(names, first):
            self.where = (expected, 0)
            if int(name[:10]) != expected:
                raise Broken("segment %d is missing" % expected)
            path = os.path.join(self.folder, name)
            finished = not stat.S_IMODE(os.stat(path).st_mode) & 0o200
            segments.append((open(path, "rb").read(), finished))
        while segments and not any(segments[-1][0]):  # made ahead
            segments.pop()
        if first > 1:
            self.begin_behind(first - 1, [data for data, _ in segments])
        previous = None
        for index, (data, finished) in enumerate(segments, first):
            if not any(data):
                raise Broken("an empty segment between others")
            previous = self.segment(index, data, finished, previous, index - first + 1 == len(segments))
        if not previous:
            raise Broken("nothing is written")
        self.check_published()
        self.check_erasures()
        if self.signed == 0 and not self.allow_unsigned:
            raise Broken("no checkpoint vouches for the log")
        if first > 1 and self.retire_seq >= self.signed and not self.allow_unsigned:
            raise Broken("no checkpoint covers the RETIRE record")

    def begin_behind(self, segment, datas):
        """Finds the last RETIRE record of that segment: what the first segment that is there continues."""
        self.where = (1, 0)
        for data in datas:
            at, record = 0, record_or_none(data, 0)
            while record:
                at, body = record.next, record.body() if record.kind == RETIRE else {}
                if body.get(1) == segment and len(body[7]) == 32 * len(subtrees(body[2] + body[3])):
                    self.retired, self.head, self.retire_seq = body[2] + body[3], body[6], record.seq
                    self.frontier = [body[7][i:i + 32] for i in range(0, len(body[7]), 32)]
                record = record_or_none(data, at)
        if not self.retired:
            raise Broken("segments up to %d are missing" % segment)

    def segment(self, index, data, finished, previous, last):
        """Checks one segment; returns how it ended, for the next one's statement."""
        at, sealed, closed = 0, False, False
        while at < len(data) and data[at:at + 4] != b"\0\0\0\0" or sealed and any(data[at:]):
            self.where = (index, at)
            if sealed:
                raise Broken("bytes follow the seal")
            try:
                record = Record(data, at, erasable=not last)
            except Malformed as problem:
                if at == 0 or not self.may_be_torn(data, at, last, finished, closed):
                    raise Broken(str(problem))
                break
            behind = record_or_none(data, record.next, True) if record.erased == "partly" else None
            if record.erased == "partly" and (not behind or behind.prev != record.hash):
                raise Broken("the body is not what was written")
            self.link(record, {} if record.erased else record.body(), index, at, previous)
            sealed, closed = record.kind == SEAL, closed or record.kind == CLEAN_CLOSE
            at = record.next
        self.where = (index, at)
        tail = data[at:].rstrip(b"\0")
        if tail and not self.may_be_torn(data, at, last, finished, closed) and last:
            raise Broken("bytes that no crash can have left")
        if last:
            if self.size() < self.durable:
                raise Broken("records below %d were durable" % self.durable)
            if not sealed and (finished or closed):
                raise Broken("the seal is missing")
            if sealed and not closed:
                raise Broken("the segment behind a seal is missing")
        return (at, len(tail), sha256(tail) if tail else None)

    def may_be_torn(self, data, at, last, finished, closed):
        if not last:  # the next segment's statement decides
            return True
        commits, durable = 0, self.durable
        for position in range(at, len(data) - HEADER, 8):
            found = record_or_none(data, position) if data[position:position + 4] == b"EDG\x01" else None
            if found and found.kind == COMMIT and found.core == SEQUENCER:
                commits, durable = commits + 1, max(durable, found.body()[3])
        return not finished and not closed and durable <= self.size() and commits <= COMMITS_TORN_MAX

    def link(self, record, body, index, at, previous):
        if (record.kind == OPEN) != (at == 0):
            raise Broken("SEGMENT_OPEN begins a segment and stands nowhere else")
        if at == 0:
            self.open(record, body, index, previous)
        if record.seq != self.size() or record.prev != self.head:
            raise Broken("record %d does not continue record %d" % (record.seq, self.size() - 1))
        if record.kind == CHECKPOINT:
            self.checkpoint(body)
            for order in [order for order in self.waiting if order[0] < min(body[1], record.seq)]:
                self.in_effect.add(order[1:])
                self.waiting.remove(order)
        if record.kind == ERASE:
            self.waiting.append((record.seq, body[1], body[2]))
            self.orders.append((record.seq, body[1], body[2], index, at))
        if record.erased:
            self.erased.append((record.seq, record.digest, index, at, record.erased))
        self.records.append((record.digest, record.redactable, index))
        if record.kind == COMMIT and record.core == SEQUENCER:
            self.durable = max(self.durable, body[3])
        self.head = record.hash
        self.leaves.append(record.hash)

    def open(self, record, body, index, previous):
        if body[3] != index:
            raise Broken("the segment calls itself %d" % body[3])
        if body[4] != self.boot:  # what its boot has not signed never takes effect
            self.boot, self.waiting = body[4], []
        if self.log is None:
            self.log = (body[1], body[2])
            if not self.retired:
                self.head = sha256(b"edgate audit log v1\n", body[1].encode(), b"\n", body[2])
        if self.log != (body[1], body[2]) or self.origin not in (None, body[1]):
            raise Broken("the segment belongs to another log")
        if previous and (body.get(7), body.get(8, 0), body.get(9)) != previous:
            raise Broken("the segment before ended elsewhere")

    def checkpoint(self, body):
        try:
            origin, size, root = open_note(body[3], self.keys)
        except Malformed as problem:
            raise Broken("checkpoint: %s" % problem)
        frontier = [body[4][i:i + 32] for i in range(0, len(body[4]), 32)]
        stated = len(body[4]) == 32 * len(subtrees(size)) and root_of(frontier)
        if (origin, size, root, root) != (self.log[0], body[1], body[2], stated) or size > self.size():
            raise Broken("the checkpoint and its record differ")
        self.vouch(size, root)

    def check_published(self):
        path = os.path.join(self.folder, "checkpoint")
        if not os.path.exists(path):
            return
        self.where = (0, 0)
        try:
            origin, size, root = open_note(utf8(open(path, "rb").read()), self.keys)
        except Malformed as problem:
            raise Broken("file checkpoint: %s" % problem)
        if size > self.size():
            raise Broken("%d records were signed, %d are there" % (size, self.size()))
        self.vouch(size, root)

    def check_erasures(self):
        lawful = {}
        for number, seq, digest, index, at in self.orders:
            self.where = (index, at)
            at_hand = self.records[seq - self.retired] if self.retired <= seq < number else (digest, True, None)  # or retired
            if seq >= number or at_hand[0] != digest or not at_hand[1] or at_hand[2] == index:
                raise Broken("ERASE %d names a record that it cannot erase" % number)
            lawful.setdefault((seq, digest), index)
        for seq, digest, index, at, how in self.erased:
            self.where = (index, at)
            if (seq, digest) not in self.in_effect or lawful.get((seq, digest), 0) <= index:
                raise Broken("the body of record %d is zeros, and no ERASE in effect names it" % seq)
            self.redacted += how == "whole"

    def vouch(self, size, root):
        if size < self.retired:  # of a state before the first segment that is there: a later one has to vouch
            return
        if self.head_at(size) != root:
            raise Broken("the first %d records do not hash to what was signed" % size)
        self.signed = max(self.signed, size)


def verify(folder, keys, **options):
    run = Verification(folder, keys, **options)
    try:
        run.run()
        problem = None
    except (Broken, Malformed) as found:
        problem = str(found)
    except OSError as error:
        return {"valid": False, "error": str(error)}
    return {"valid": problem is None, "problem": problem, "segment": run.where[0], "offset": run.where[1],
            "size": run.size(), "signed_size": run.signed, "redacted": run.redacted, "head": run.head.hex() if run.head else None,
            "root": run.head_at(run.size()).hex()}


def main(arguments):
    options = {}
    for name in ("key", "origin"):
        if "--" + name in arguments:
            at = arguments.index("--" + name)
            options[name] = arguments[at + 1]
            del arguments[at:at + 2]
    flags = {word for word in arguments if word.startswith("--")}
    folders = [word for word in arguments if not word.startswith("--")]
    keys = read_keys(open(options.pop("key"), encoding="utf-8").read()) if "key" in options else {}
    options["allow_unsigned"] = "--allow-unsigned" in flags
    if "--serve" in flags:
        for line in sys.stdin:
            print(json.dumps(verify(line.rstrip("\n"), keys, **options)), flush=True)
        return 0
    if len(folders) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    report = verify(folders[0], keys, **options)
    print(json.dumps(report))
    return 2 if "error" in report else 0 if report["valid"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
