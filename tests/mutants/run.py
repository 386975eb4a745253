#!/usr/bin/env python3
"""Deletes the flushes, barriers and checks of the audit log's writer one at a time, and shows that a test fails; and
weakens the fences and orderings that the models are for, and shows that a model fails.

    tests/mutants/run.py              every mutant of mutants.txt (needs root for the disk tests; half an hour)
    tests/mutants/run.py WORD…        those whose name contains one of the words

The room and its tests are copied into a crate of their own below target/mutants, so that a mutant builds in seconds.
Prints one line per mutant: killed (and by which test), survived, or does not build. Exits 1 if one survived that
mutants.txt does not call equivalent.
"""

import os
import re
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WORK = os.path.join(ROOT, "target", "mutants")
COPIED = ["src/audit", "src/decision.rs", "tests/audit_disk", "tests/power_cut", "tests/support/disk.rs"]
# Files that the models compile, and the models: a crate of its own that builds in a second. Mutants of these files are
# for the models to kill, and for nothing else.
MODELS = os.path.join(WORK, "models")
MODELLED = ["src/audit/acks.rs", "src/audit/doorbell.rs", "hsm/src/pkcs11/gate.rs", "hsm/src/pool/once.rs"]
MODEL_TESTS = ["tests/models.rs", "hsm/tests/models.rs"]
MODELS_MANIFEST = """[package]
name = "models"
edition = "2024"

[dev-dependencies]
loom = { version = "0.7", features = ["futures"] }

[[test]]
name = "hsm_models"
path = "hsm/tests/models.rs"

[workspace]
"""
# Tests that are quick and tests that need file systems, in this order. Each stage ends at its first failure.
STAGES = [
    ["--lib", "-E", "test(/^audit::/)"],
    ["--test", "audit_disk"],
    ["--test", "power_cut"],
]
# A mutant that waits for ever is noticed as well.
STAGE_SECONDS = 600


def mutants():
    """Blocks of mutants.txt: `name | file`, then the lines to find behind `-`, and those to put there behind `+`."""
    found = []
    with open(os.path.join(ROOT, "tests/mutants/mutants.txt"), encoding="utf-8") as lines:
        for line in lines:
            line = line.rstrip("\n")
            if line.startswith(("-", "+")):
                found[-1][line[0]].append(line[1:])
            elif line.startswith("= "):
                found[-1]["equivalent"] = line[2:]
            elif line and not line.startswith("#"):
                name, file = line.split(" | ")
                found.append({"name": name, "file": file, "-": [], "+": [], "equivalent": None})
    return found


def copy(paths, work):
    os.makedirs(os.path.join(work, "src"), exist_ok=True)
    for path in paths:
        source, target = os.path.join(ROOT, path), os.path.join(work, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.isdir(source):
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)
    shutil.copy2(os.path.join(ROOT, "Cargo.lock"), work)


def copy_room():
    copy(COPIED, WORK)
    with open(os.path.join(ROOT, "Cargo.toml"), encoding="utf-8") as manifest:
        text = manifest.read()
    text = re.sub(r"members = \[.*\]\ndefault-members = \[.*\]\n", "members = []\n", text)
    text = text.replace('default-run = "edgate"\n', "")
    text = re.sub(r'^[a-z-]+ = \{ path = "[^"]*".*\}\n', "", text, flags=re.M)
    with open(os.path.join(WORK, "Cargo.toml"), "w", encoding="utf-8") as manifest:
        manifest.write(text)
    with open(os.path.join(WORK, "src/lib.rs"), "w", encoding="utf-8") as lib:
        lib.write("//! The audit room alone.\npub mod audit;\npub mod decision;\n")


def copy_models():
    copy(MODELLED + MODEL_TESTS, MODELS)
    with open(os.path.join(MODELS, "Cargo.toml"), "w", encoding="utf-8") as manifest:
        manifest.write(MODELS_MANIFEST)
    with open(os.path.join(MODELS, "src/lib.rs"), "w", encoding="utf-8") as lib:
        lib.write("//! Nothing: the models are tests.\n")


def run(stage, work):
    """The first failing test of a stage, `built` if there is none, or `broken` if it does not build."""
    command = os.environ.get("CARGO", "cargo").split()
    command += ["nextest", "run", "--fail-fast", "--no-tests=pass", "--status-level=fail"] + stage
    process = subprocess.Popen(
        command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=STAGE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        return "(it hangs)"
    if process.returncode == 0:
        return "built"
    failed = re.search(r"^\s*(?:FAIL|SIG\w+|ABORT SIG \d+|TIMEOUT) \[.*?\].*? (\S+)$", output, re.M)
    if failed:
        return failed.group(1)
    sys.stderr.write(output[-3000:])
    return "broken"


def main():
    words = sys.argv[1:]
    chosen = [m for m in mutants() if not words or any(word in m["name"] for word in words)]
    for mutant in chosen:
        modelled = mutant["file"] in MODELLED
        mutant["work"], mutant["stages"] = (MODELS, [[]]) if modelled else (WORK, STAGES)
    for work, copied, stages in [(WORK, copy_room, STAGES), (MODELS, copy_models, [[]])]:
        if all(mutant["work"] != work for mutant in chosen):
            continue
        copied()
        for stage in stages:
            if (without := run(stage, work)) != "built":
                sys.exit(f"without a mutant: {without}")
    survivors = 0
    for mutant in chosen:
        work = mutant["work"]
        path = os.path.join(work, mutant["file"])
        with open(path, encoding="utf-8") as source:
            text = source.read()
        old, new = "\n".join(mutant["-"]), "\n".join(mutant["+"])
        if text.count(old) != 1:
            sys.exit(f"{mutant['name']}: {text.count(old)} places in {mutant['file']}: correct mutants.txt")
        started = time.monotonic()
        with open(path, "w", encoding="utf-8") as source:
            source.write(text.replace(old, new))
        result = "built"
        for stage in mutant["stages"]:
            if (result := run(stage, work)) != "built":
                break
        with open(path, "w", encoding="utf-8") as source:
            source.write(text)
        seconds = time.monotonic() - started
        if result == "built" and mutant["equivalent"]:
            verdict = f"equivalent: {mutant['equivalent']}"
        elif result == "built":
            verdict = "SURVIVED"
            survivors += 1
        elif result == "broken":
            verdict = "DOES NOT BUILD"
            survivors += 1
        else:
            verdict = f"killed by {result}"
        print(f"{mutant['name']}: {verdict} ({seconds:.0f} s)", flush=True)
    print(f"{len(chosen)} mutants, {survivors} survived")
    sys.exit(survivors > 0)


main()
