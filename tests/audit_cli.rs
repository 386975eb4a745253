//! `edgate audit` on logs that grew, were damaged, or are shorter than asked for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

#[path = "support/logs.rs"]
mod logs;

use logs::{change, grow, json};

fn audit(arguments: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_edgate"))
        .args(["audit"])
        .args(arguments)
        .arg("--dir")
        .arg(dir)
        .output()
        .unwrap()
}

fn segment(dir: &Path, index: u64) -> PathBuf {
    dir.join(format!("{index:010}.seg"))
}

#[test]
fn records_beyond_the_log_are_not_called_whole() {
    let folder = tempfile::tempdir().unwrap();
    grow(folder.path(), 5);
    let inside = audit(&["verify", "--range", "2..4"], folder.path());
    assert_eq!(inside.status.code(), Some(0), "{inside:?}");
    let beyond = audit(&["verify", "--range", "1000..2000"], folder.path());
    assert_eq!(beyond.status.code(), Some(2), "{beyond:?}");
    let said = String::from_utf8_lossy(&beyond.stderr);
    assert!(said.contains("no records 1000..2000") && said.contains("ends before record"), "{said}");
    assert!(!String::from_utf8_lossy(&beyond.stdout).contains("whole"));
}

#[test]
fn a_later_verification_reads_only_what_was_added() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, state) = (folder.path().join("audit"), folder.path().join("state"));
    let verify = || audit(&["verify", "--json", "--state", state.to_str().unwrap()], &dir);
    grow(&dir, 2000);
    let first = json(&verify());
    assert_eq!(first["valid"], true, "{first}");
    grow(&dir, 3);
    let second = json(&verify());
    assert_eq!(second["valid"], true, "{second}");
    assert!(second["records"].as_u64() < Some(100), "{second}");
    assert!(second["size"].as_u64() > first["size"].as_u64(), "{second}");
    // Nothing new is nothing wrong.
    let third = json(&verify());
    assert_eq!((&third["valid"], &third["size"]), (&Value::from(true), &second["size"]), "{third}");

    // What was added and changed is seen, and the state stays where it was.
    let kept = fs::read(&state).unwrap();
    grow(&dir, 3);
    let newest = fs::read_dir(&dir).unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.strip_suffix(".seg")?.parse().ok()
    });
    let newest: u64 = newest.max().unwrap();
    change(&segment(&dir, newest), |bytes| {
        let at = bytes.windows(7).rposition(|window| window == b"event 2").unwrap();
        bytes[at] ^= 1;
    });
    let broken = verify();
    assert_eq!(broken.status.code(), Some(1), "{broken:?}");
    assert_eq!(fs::read(&state).unwrap(), kept);

    // So is a log that lost what was verified.
    for index in 1..=newest {
        let _ = fs::remove_file(segment(&dir, index));
    }
    fs::write(segment(&dir, newest + 1), [0; 4096]).unwrap();
    let cut = verify();
    assert_eq!(cut.status.code(), Some(7), "{cut:?}");

    fs::write(&state, "something else").unwrap();
    let unusable = verify();
    assert_eq!(unusable.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unusable.stderr).contains("not the state of a verification"));
}

#[test]
fn the_tail_counts_what_it_shows_and_says_where_it_meets_damage() {
    let folder = tempfile::tempdir().unwrap();
    grow(folder.path(), 50);
    let tail = |arguments: &[&str]| audit(&[&["tail", "--json"], arguments].concat(), folder.path());
    let lines = |output: &Output| String::from_utf8_lossy(&output.stdout).lines().count();
    // The last records of a closed log are the log's own; five of this kind are asked for.
    let stops = tail(&["-n", "5", "--kind", "stop"]);
    assert_eq!((lines(&stops), stops.status.code()), (5, Some(0)), "{stops:?}");
    assert!(String::from_utf8_lossy(&stops.stdout).contains("event 49"));

    change(&segment(folder.path(), 1), |bytes| {
        let at = bytes.windows(8).position(|window| window == b"event 30").unwrap();
        bytes[at] ^= 1;
    });
    let damaged = tail(&["-n", "1000"]);
    assert_eq!(damaged.status.code(), Some(1), "{damaged:?}");
    let said = String::from_utf8_lossy(&damaged.stderr);
    assert!(said.contains("stopped at damage, segment 0000000001.seg, offset "), "{said}");
    assert!(lines(&damaged) >= 30);
    // Where a later segment follows, it goes on there and says what it passed over.
    let opened = tempfile::tempdir().unwrap();
    grow(opened.path(), 3000);
    change(&segment(opened.path(), 1), |bytes| {
        let at = bytes.windows(8).position(|window| window == b"event 30").unwrap();
        bytes[at] ^= 1;
    });
    let passed = audit(&["tail", "--json", "-n", "100000"], opened.path());
    assert_eq!(passed.status.code(), Some(0), "{}", String::from_utf8_lossy(&passed.stderr));
    let said = String::from_utf8_lossy(&passed.stderr);
    assert!(said.contains("passed over damage at segment 0000000001.seg"), "{said}");
}

/// An export of the log in `dir` as it lies there, and its manifest.
fn export(dir: &Path, out: &Path, more: &[&str]) -> Output {
    let out = out.to_str().unwrap();
    audit(&[&["export", "--unrecorded", "--out", out], more].concat(), dir)
}

fn verify_export(file: &Path, key: &Path, more: &[&str]) -> (Option<i32>, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_edgate"))
        .args(["audit", "verify-export", "--json", file.to_str().unwrap(), "--key", key.to_str().unwrap()])
        .args(more)
        .output()
        .unwrap();
    (output.status.code(), json(&output))
}

#[test]
fn an_export_is_held_to_its_manifest_its_checkpoint_and_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let (log, key) = (folder.path().join("log"), folder.path().join("log/checkpoint.key"));
    fs::create_dir(&log).unwrap();
    grow(&log, 40);
    for (format, name) in [("jsonl", "stops.jsonl"), ("csv", "stops.csv")] {
        let file = folder.path().join(name);
        let made = export(&log, &file, &["--kind", "stop", "--format", format, "--json"]);
        assert_eq!(made.status.code(), Some(0), "{made:?}");
        assert_eq!(json(&made)["rows"], 40);
        let (dir, unsigned) = (["--dir", log.to_str().unwrap()], ["--allow-unsigned"]);
        assert_eq!(verify_export(&file, &key, &[]).1["class"], "unsigned");
        let (code, said) = verify_export(&file, &key, &dir);
        assert_eq!((code, &said["valid"], &said["rows"]), (Some(0), &true.into(), &40.into()), "{said}");

        let rows = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = rows.split_inclusive('\n').collect();
        let without = |n: usize| [&lines[..n], &lines[n + 1..]].concat().concat();
        let swapped = [&lines[..10], &[lines[11], lines[10]], &lines[12..]].concat().concat();
        for altered in [
            without(20),
            without(lines.len() - 1),
            swapped,
            rows.replacen("event 7", "event 8", 1),
            rows.repeat(2),
        ] {
            fs::write(&file, altered).unwrap();
            let (code, said) = verify_export(&file, &key, &unsigned);
            assert_eq!((code, &said["class"]), (Some(1), &"altered-export".into()), "{said}");
        }

        // A row taken out, and the manifest made to fit: the counts tell, and the checkpoint's signature stays what it was.
        fs::write(&file, without(20)).unwrap();
        let manifest = folder.path().join(format!("{name}.manifest.json"));
        let good = fs::read_to_string(&manifest).unwrap();
        let mut forged: Value = serde_json::from_str(&good).unwrap();
        forged["rows"] = 39.into();
        forged["bytes"] = without(20).len().into();
        forged["sha256"] = sha256(&without(20)).into();
        fs::write(&manifest, forged.to_string()).unwrap();
        assert_eq!(verify_export(&file, &key, &unsigned).1["class"], "incomplete");
        forged["counts"]["kinds"]["stop"] = 39.into();
        fs::write(&manifest, forged.to_string()).unwrap();
        // It was not put on record, so now only the log itself tells.
        assert_eq!(verify_export(&file, &key, &unsigned).0, Some(0));
        assert_eq!(verify_export(&file, &key, &dir).1["class"], "incomplete");

        fs::write(&file, &rows).unwrap();
        let spoil = |change: &dyn Fn(&mut Value)| {
            let mut manifest: Value = serde_json::from_str(&good).unwrap();
            change(&mut manifest);
            manifest.to_string()
        };
        let note = serde_json::from_str::<Value>(&good).unwrap()["checkpoint"].as_str().unwrap().to_owned();
        for (class, spoilt) in [
            ("unsigned", spoil(&|one| one["checkpoint"] = Value::Null)),
            (
                "bad-checkpoint",
                spoil(&|one| one["checkpoint"] = note.replace("test.example", "evil.example").into()),
            ),
            ("bad-checkpoint", spoil(&|one| one["checkpoint"] = note.split_once("\n\n").unwrap().0.into())),
            ("other-log", spoil(&|one| one["log"]["size"] = 3.into())),
            ("other-log", spoil(&|one| one["log"]["origin"] = "evil.example/log".into())),
            ("bad-manifest", spoil(&|one| one["filter"]["what"] = 1.into())),
            ("bad-manifest", good[..good.len() / 2].to_owned()),
        ] {
            fs::write(&manifest, spoilt).unwrap();
            let (code, said) = verify_export(&file, &key, &unsigned);
            assert_eq!((code, &said["class"]), (Some(1), &class.into()), "{said}");
        }
    }
}

fn sha256(text: &str) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn nothing_is_exported_of_a_log_that_is_not_what_was_signed() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    fs::create_dir(&log).unwrap();
    grow(&log, 40);
    let out = folder.path().join("out.jsonl");
    let refused = |class: &str, more: &[&str]| {
        let made = export(&log, &out, &[&["--json"], more].concat());
        assert_eq!((made.status.code(), &json(&made)["class"]), (Some(1), &class.into()), "{made:?}");
        let left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["log"], "nothing is left behind");
    };
    let checkpoint = log.join("checkpoint");
    let note = fs::read_to_string(&checkpoint).unwrap();
    fs::write(&checkpoint, note.replace("test.example", "evil.example")).unwrap();
    refused("bad-checkpoint", &[]);
    fs::remove_file(&checkpoint).unwrap();
    refused("unsigned", &[]);
    fs::write(&checkpoint, &note).unwrap();
    change(&segment(&log, 1), |bytes| bytes[5000] ^= 1);
    refused("broken-log", &["--kind", "stop"]);
    change(&segment(&log, 1), |bytes| bytes[5000] ^= 1);
    // Another log of the same name, whole in itself and longer, under the checkpoint of this one.
    let other = folder.path().join("log/other");
    fs::create_dir(&other).unwrap();
    grow(&other, 200);
    fs::remove_file(segment(&log, 1)).unwrap();
    fs::copy(segment(&other, 1), segment(&log, 1)).unwrap();
    fs::remove_dir_all(&other).unwrap();
    refused("rewritten", &[]);
    // What is there is not written over.
    fs::write(&out, "mine").unwrap();
    assert_eq!(export(&log, &out, &[]).status.code(), Some(2));
    assert_eq!(fs::read_to_string(&out).unwrap(), "mine");
}

#[test]
fn a_checkpoint_kept_elsewhere_convicts_a_log_that_was_restored() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, image, kept) =
        (folder.path().join("audit"), folder.path().join("image"), folder.path().join("kept"));
    grow(&dir, 50);
    fs::create_dir(&image).unwrap();
    for entry in fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), image.join(entry.file_name())).unwrap();
    }
    grow(&dir, 50);
    fs::copy(dir.join("checkpoint"), &kept).unwrap();
    let anchor = ["verify", "--anchor", kept.to_str().unwrap()];
    let whole = audit(&anchor, &dir);
    assert_eq!(whole.status.code(), Some(0), "{whole:?}");
    assert!(String::from_utf8_lossy(&whole.stdout).contains("the log continues it, from "), "{whole:?}");
    assert_eq!(audit(&["verify"], &image).status.code(), Some(0), "whole in itself");
    let restored = audit(&anchor, &image);
    assert_eq!(restored.status.code(), Some(25), "{restored:?}");
    assert!(String::from_utf8_lossy(&restored.stdout).contains(": rollback: "), "{restored:?}");
    let answer = json(&audit(&[&anchor[..], &["--json"]].concat(), &image));
    assert_eq!((&answer["valid"], &answer["anchors"][0]["class"]), (&false.into(), &"rollback".into()));

    // Whoever demands a witness's word is not content with less.
    let witness = edgate::audit::WitnessKey { name: "w.example".into(), verifying_key: [1; 32] };
    let demanded = audit(&[&anchor[..], &["--witness", &witness.to_text()]].concat(), &dir);
    assert_eq!(demanded.status.code(), Some(10), "{demanded:?}");
    for unusable in [&["--anchor", "/nowhere"][..], &["--witness", &witness.to_text()], &["--range", "0..9"]]
    {
        let more = if unusable[0] == "--range" { &anchor[..] } else { &["verify"] };
        let refused = audit(&[more, unusable].concat(), &dir);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    }
}

#[test]
fn a_drill_tampers_with_a_copy_and_says_of_each_case_what_it_was_called() {
    let folder = tempfile::tempdir().unwrap();
    let (log, work) = (folder.path().join("log"), folder.path().join("work"));
    fs::create_dir(&log).unwrap();
    fs::create_dir(&work).unwrap();
    grow(&log, 400);
    let before = fs::read(segment(&log, 1)).unwrap();
    let out = folder.path().join("drill.txt");
    let at = ["--work", work.to_str().unwrap(), "--unrecorded"];
    let drilled = audit(&[&["drill", "--json", "--out", out.to_str().unwrap()], &at[..]].concat(), &log);
    assert_eq!(drilled.status.code(), Some(0), "{drilled:?}");
    let said = json(&drilled);
    assert_eq!((&said["passed"], &said["failed"], &said["record"]), (&true.into(), &0.into(), &Value::Null));
    assert!(said["caught"].as_u64() >= Some(20) && said["not_done"].as_u64() > Some(0), "{said}");
    let cases = said["cases"].as_array().unwrap();
    let case = |name: &str| cases.iter().find(|case| case["case"] == name).unwrap();
    assert_eq!(case("body-bit")["found"]["class"], "altered-body");
    assert!(case("two-segments-gone")["needs"].as_str().unwrap().contains("five segments"));
    let text = fs::read_to_string(&out).unwrap();
    assert_eq!((said["text"].as_str().unwrap(), &said["sha256"]), (&*text, &sha256(&text).into()));
    assert_eq!(fs::read_dir(&work).unwrap().count(), 0, "nothing is left behind");
    assert_eq!(fs::read(segment(&log, 1)).unwrap(), before);

    // For people, and what nobody recorded is said to be so. A report is not written over.
    let shown = audit(&[&["drill"], &at[..]].concat(), &log);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("cases caught; ") && shown.contains("not recorded: "), "{shown}");
    let again = audit(&[&["drill", "--out", out.to_str().unwrap()], &at[..]].concat(), &log);
    assert_eq!(again.status.code(), Some(70), "{again:?}");

    // Without the key nothing can be shown, and of a damaged log neither.
    let other = folder.path().join("other.key");
    let key = fs::read_to_string(log.join("checkpoint.key")).unwrap();
    fs::write(&other, "").unwrap();
    let keyless = audit(&[&["drill", "--key", other.to_str().unwrap()], &at[..]].concat(), &log);
    assert_eq!(keyless.status.code(), Some(2), "{keyless:?}");
    fs::write(&other, key).unwrap();
    change(&segment(&log, 1), |bytes| {
        let at = bytes.windows(8).position(|window| window == b"event 30").unwrap();
        bytes[at] ^= 1;
    });
    let damaged = audit(&[&["drill", "--key", other.to_str().unwrap()], &at[..]].concat(), &log);
    assert_eq!(damaged.status.code(), Some(1), "{damaged:?}");
    assert!(String::from_utf8_lossy(&damaged.stderr).contains("not whole before anything was done to it"));
    assert_eq!(fs::read_dir(&work).unwrap().count(), 0, "nothing is left behind");
}
