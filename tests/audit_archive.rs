//! Logs whose finished segments were put into their small form.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[path = "support/logs.rs"]
mod logs;

use logs::{change, grow, json};

fn edgate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_edgate")).arg("audit").args(arguments).output().unwrap()
}

fn on(dir: &Path, arguments: &[&str]) -> Output {
    edgate(&[arguments, &["--dir", dir.to_str().unwrap()]].concat())
}

fn files(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().ends_with(suffix))
        .collect();
    found.sort();
    found
}

/// All that a log shows of itself: what it is, its records, the tree, and one proof.
fn shown(dir: &Path) -> (String, Vec<u8>, Vec<u8>, Vec<u8>) {
    let verified = on(dir, &["verify", "--json"]);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    let tail = on(dir, &["tail", "-n", "1000000", "--json"]);
    assert_eq!(tail.status.code(), Some(0), "{tail:?}");
    let rows = String::from_utf8(tail.stdout.clone()).unwrap();
    let row = rows.lines().find(|row| row.contains("event 700\"")).unwrap();
    let id = serde_json::from_str::<serde_json::Value>(row).unwrap()["id"].as_str().unwrap().to_owned();
    let proof = on(dir, &["prove", &id]);
    assert_eq!(proof.status.code(), Some(0), "{proof:?}");
    let out = tempfile::tempdir().unwrap();
    let (tiles, export) = (out.path().join("tiles"), out.path().join("rows"));
    let made = on(dir, &["tiles", "--out", tiles.to_str().unwrap()]);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let made = on(dir, &["export", "--unrecorded", "--out", export.to_str().unwrap()]);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let tile = fs::read(tiles.join("tile/0/000")).unwrap();
    let report = String::from_utf8(verified.stdout).unwrap();
    (report, [tail.stdout, fs::read(export).unwrap()].concat(), tile, proof.stdout)
}

#[test]
fn a_log_in_archives_shows_what_it_showed_in_segments_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("log");
    grow(&dir, 4000);
    let before = shown(&dir);
    let segments = files(&dir, ".seg");
    assert!(segments.len() > 3, "{segments:?}");
    let state = folder.path().join("state");
    let since = |state: &Path| on(&dir, &["verify", "--json", "--state", state.to_str().unwrap()]);
    assert_eq!(since(&state).status.code(), Some(0));

    // An interrupted run leaves a draft, or both forms: the next one goes on.
    fs::write(dir.join("0000000002.arc.new"), "half").unwrap();
    let made = on(&dir, &["archive", "--segment", "1", "--out", dir.to_str().unwrap(), "--json"]);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    assert!(dir.join("0000000001.arc").exists() && dir.join("0000000001.seg").exists());
    assert_eq!(shown(&dir), before);

    let made = on(&dir, &["archive", "--json"]);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let made = json(&made);
    let finished = segments.len() - 1;
    assert_eq!(made["archived"].as_array().unwrap().len(), finished, "{made}");
    assert!(made["archive_bytes"].as_u64().unwrap() * 3 < made["segment_bytes"].as_u64().unwrap(), "{made}");
    assert_eq!((files(&dir, ".seg").len(), files(&dir, ".arc").len()), (1, finished));
    assert!(files(&dir, ".new").is_empty());
    assert_eq!(shown(&dir), before);
    assert_eq!(since(&state).status.code(), Some(0));
    let again = json(&on(&dir, &["archive", "--json"]));
    assert!(again["archived"].as_array().unwrap().is_empty(), "{again}");

    grow(&dir, 4000);
    assert_eq!(json(&on(&dir, &["verify", "--json"]))["valid"], true);
    assert_eq!(since(&state).status.code(), Some(0));
    // A start goes on from the latest segments alone, whatever lies before them: a long history costs it nothing.
    for archive in files(&dir, ".arc") {
        change(&archive, |bytes| bytes.fill(7));
    }
    grow(&dir, 10);
    let broken = on(&dir, &["verify", "--json"]);
    assert_eq!(broken.status.code(), Some(1), "{broken:?}");
    assert_eq!(json(&broken)["breaks"][0]["class"], "altered-header");
}

#[test]
fn a_changed_archive_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    grow(dir, 3000);
    assert_eq!(on(dir, &["archive"]).status.code(), Some(0));
    let archive = dir.join("0000000002.arc");
    let whole = fs::read(&archive).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        change(&archive, |bytes| bytes[at] ^= 1);
        let found = on(dir, &["verify", "--json"]);
        assert!(![Some(0), Some(2)].contains(&found.status.code()), "byte {at}: {found:?}");
        let breaks = json(&found)["breaks"].clone();
        // A changed link is also a break of the segment before, which it does not continue any more.
        assert!(breaks.as_array().unwrap().iter().any(|one| one["segment"] == 2), "byte {at}: {breaks}");
        let exported = on(dir, &["export", "--unrecorded", "--out", dir.join("rows").to_str().unwrap()]);
        assert_eq!(exported.status.code(), Some(1), "byte {at}: {exported:?}");
        change(&archive, |bytes| bytes.clone_from(&whole));
    }
    assert_eq!(on(dir, &["verify"]).status.code(), Some(0));
    change(&archive, |bytes| bytes[whole.len() - 3] ^= 1);
    let said = json(&on(dir, &["verify", "--json"]))["breaks"][0]["detail"].to_string();
    assert!(
        said.contains("the archive cannot be restored here: a block does not match its digest"),
        "{said}"
    );
    // Another segment's archive under this name is none of it.
    change(&archive, |bytes| bytes.clone_from(&fs::read(dir.join("0000000001.arc")).unwrap()));
    assert_eq!(on(dir, &["verify"]).status.code(), Some(1));
}

#[test]
fn archives_elsewhere_stand_for_segments_that_are_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, out) = (folder.path().join("log"), folder.path().join("kept"));
    fs::create_dir(&out).unwrap();
    grow(&dir, 3000);
    let to = ["archive", "--out", out.to_str().unwrap()];
    assert_eq!(on(&dir, &to).status.code(), Some(0));
    assert_eq!(on(&dir, &to).status.code(), Some(0), "repeatable");
    let whole = on(&dir, &["verify", "--json"]);
    for segment in &files(&dir, ".seg")[..2] {
        fs::remove_file(segment).unwrap();
    }
    assert_eq!(on(&dir, &["verify"]).status.code(), Some(7));
    let with = on(&dir, &["verify", "--json", "--archives", out.to_str().unwrap()]);
    assert_eq!((with.status.code(), json(&with)), (Some(0), json(&whole)));

    // An archive that is none of this log's is not written over.
    let other = folder.path().join("other");
    grow(&other, 3000);
    let refused = on(&other, &to);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("is the archive of other records"), "{said}");
}

#[test]
fn only_finished_and_whole_segments_are_archived() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    grow(dir, 3000);
    let last = files(dir, ".seg").len().to_string();
    let refused = on(dir, &["archive", "--segment", &last]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("it stays as it is"));
    let segment = dir.join("0000000002.seg");
    change(&segment, |bytes| bytes[9000] ^= 1);
    let refused = on(dir, &["archive"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("segment 2 is not archived"), "{refused:?}");
    assert!(dir.join("0000000001.arc").exists() && segment.exists() && !dir.join("0000000002.arc").exists());
}
