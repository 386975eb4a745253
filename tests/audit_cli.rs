//! `edgate audit` on logs that grew, were damaged, or are shorter than asked for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use edgate::audit::{Ack, CheckpointSigner, Event, Settings, StopEvent, open_signed};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

fn settings(dir: &Path) -> Settings {
    Settings { segment_bytes: 160 * 1024, create: true, ..Settings::new(dir, "test.example/log") }
}

fn signer() -> CheckpointSigner {
    let key = SigningKey::from_bytes(&[3; 32]);
    CheckpointSigner {
        verifying_key: key.verifying_key().to_bytes(),
        sign: Box::new(move |message| Ok(key.sign(message).to_bytes())),
    }
}

/// Adds events to the log in `dir` and closes it.
fn grow(dir: &Path, events: usize) {
    let mut opened = open_signed(&settings(dir), 1, Some(signer())).unwrap();
    let mut last = None;
    for n in 0..events {
        let reason = format!("event {n}");
        last = Some(
            opened.appenders[0].append(&Event::Stop(StopEvent { reason: &reason }), Ack::Durable).unwrap(),
        );
        opened.appenders[0].submit();
    }
    opened.appenders[0].wait(last.unwrap(), Ack::Durable, PATIENCE).unwrap();
    opened.log.close(PATIENCE).unwrap();
}

fn audit(arguments: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_edgate"))
        .args(["audit"])
        .args(arguments)
        .arg("--dir")
        .arg(dir)
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o400)).unwrap();
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
