//! `edgate audit tiles`, `prove` and `verify-proof`: what a stranger can check, and what a second reader that shares no
//! code with ours (`second_verifier/tlog_reader.py`) says about the same files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use edgate::audit::merkle::CompactRange;
use edgate::audit::note::Checkpoint;
use edgate::audit::proof::{Expected, ProofClass, Prover, range, verify_consistency, verify_inclusion};
use edgate::audit::{Ack, CheckpointKey, Event, RecordId, Settings, StopEvent, open_signed};
use serde_json::Value;

#[path = "support/logs.rs"]
mod logs;

use logs::{ORIGIN, change, grow, json, signer, signing_key};

const PATIENCE: Duration = Duration::from_secs(30);

fn key() -> CheckpointKey {
    CheckpointKey::new(ORIGIN, signing_key().verifying_key().to_bytes())
}

fn signed(origin: &str, size: u64, root: [u8; 32]) -> String {
    let checkpoint = Checkpoint { origin: origin.into(), size, root };
    checkpoint.to_note(&key(), &signing_key().sign(checkpoint.to_text().as_bytes()).to_bytes())
}

/// A log of some segments and two boots, its tiles, and the key in a file.
struct Setting {
    folder: tempfile::TempDir,
    ids: Vec<RecordId>,
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut setting = Self { folder, ids: Vec::new() };
        setting.ids = grow(&setting.log(), 900);
        setting.ids.extend(grow(&setting.log(), 600));
        fs::write(setting.key(), key().to_text() + "\n").unwrap();
        setting
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> PathBuf {
        self.path("audit")
    }

    fn tiles(&self) -> PathBuf {
        self.path("tiles")
    }

    fn key(&self) -> PathBuf {
        self.path("vkey")
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    fn export(&self) -> Output {
        audit(&["tiles", "--json", "--out", text(&self.tiles()), "--dir", text(&self.log())])
    }

    fn prove(&self, more: &[&str]) -> Output {
        audit(&[&["prove", "--dir", text(&self.log())], more].concat())
    }

    fn proof(&self, more: &[&str]) -> String {
        let made = self.prove(more);
        assert_eq!(made.status.code(), Some(0), "{made:?}");
        String::from_utf8(made.stdout).unwrap()
    }

    fn check(&self, file: &Path, more: &[&str]) -> Output {
        audit(&[&["verify-proof", text(file), "--key", text(&self.key())], more].concat())
    }

    /// What the independent reader says.
    fn read(&self, what: &[&str]) -> Value {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/second_verifier/tlog_reader.py");
        let output = Command::new("python3")
            .args(["-B", text(&script)])
            .args(what)
            .arg(self.key())
            .output()
            .expect("python3 runs: tests/run installs it");
        json(&output)
    }

    fn size(&self) -> u64 {
        let note = fs::read_to_string(self.log().join("checkpoint")).unwrap();
        Checkpoint::read_unverified(&note).unwrap().size
    }
}

fn audit(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_edgate")).arg("audit").args(arguments).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Every file below a folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_decision_is_proven_to_a_stranger_with_tiles_and_without() {
    let setting = Setting::new();
    assert_eq!(setting.export().status.code(), Some(0));
    let tiles = setting.tiles();
    for at in [0, 1, 255, 256, 898, 899, 900, 1200, 1499] {
        let id = setting.ids[at].to_string();
        let proof = setting.proof(&[&id]);
        assert_eq!(proof, setting.proof(&[&id, "--tiles", text(&tiles)]), "{id}");
        let file = setting.write("one.tlog-proof", &proof);
        let checked = setting.check(&file, &["--json", "--id", &id]);
        assert_eq!(checked.status.code(), Some(0), "{checked:?}");
        let (ours, theirs) = (json(&checked), setting.read(&["proof", text(&file)]));
        assert_eq!(theirs["valid"], true, "{theirs}");
        assert_eq!(ours["record"]["seq"], theirs["index"]);
        assert_eq!(ours["record"]["event_hash"], theirs["hash"]);
        assert_eq!((&ours["root"], &ours["size"]), (&theirs["root"], &theirs["size"]));
        assert_eq!((&ours["record"]["kind"], &ours["record"]["body"]), (&"stop".into(), &Value::Null));
    }
    // To a file, and for programs: the same text.
    let id = setting.ids[7].to_string();
    let proof = setting.proof(&[&id]);
    let out = setting.path("out.tlog-proof");
    let made = setting.prove(&[&id, "--json", "--out", text(&out)]);
    assert_eq!((made.status.code(), json(&made)["proof"].as_str()), (Some(0), Some(&*proof)), "{made:?}");
    assert_eq!(fs::read_to_string(&out).unwrap(), proof);
    assert_eq!(setting.prove(&[&id, "--out", text(&out)]).status.code(), Some(70), "it is there already");
    // The body comes only when asked for, and the key may be given as text.
    let id = setting.ids[1200].to_string();
    let shown = setting.write("shown", setting.proof(&[&id, "--with-body"]));
    let checked = audit(&["verify-proof", text(&shown), "--key", &key().to_text()]);
    assert!(said(&checked).contains(r#"{"reason":"event 300"}"#), "{checked:?}");
    assert!(said(&setting.check(&setting.path("one.tlog-proof"), &[])).contains("body  not shown"));
    assert_eq!(setting.read(&["proof", text(&shown)])["valid"], true);
}

#[test]
fn what_is_not_in_the_log_or_not_signed_yet_has_no_proof() {
    let setting = Setting::new();
    let id = setting.ids[5];
    for unknown in [
        RecordId { boot: id.boot ^ 1, ..id },
        RecordId { core: 9, ..id },
        RecordId { core_seq: 5000, ..id },
        RecordId { core_seq: 0, ..id },
    ] {
        let none = setting.prove(&[&unknown.to_string()]);
        assert_eq!(none.status.code(), Some(1), "{none:?}");
        assert!(said(&none).contains(&format!("no record {unknown}")), "{none:?}");
    }
    assert_eq!(setting.prove(&["not-an-id"]).status.code(), Some(2));
    assert_eq!(setting.prove(&[]).status.code(), Some(2));
    assert_eq!(setting.export().status.code(), Some(0));
    let later = grow(&setting.log(), 1)[0].to_string();
    let behind = setting.prove(&[&later, "--tiles", text(&setting.tiles())]);
    assert_eq!(behind.status.code(), Some(1));
    assert!(said(&behind).contains("is not covered yet"), "{behind:?}");
    assert_eq!(setting.prove(&[&later]).status.code(), Some(0));
    // Another key did not sign it.
    let other = CheckpointKey { verifying_key: [9; 32], ..key() };
    let other = setting.write("other", other.to_text());
    let refused = setting.prove(&[&later, "--key", text(&other)]);
    assert_eq!(refused.status.code(), Some(10), "{refused:?}");
}

#[test]
fn tiles_grow_with_the_log_and_hash_to_what_was_signed() {
    let setting = Setting::new();
    for events in [0, 1, 7, 120, 300, 2000] {
        if events > 0 {
            grow(&setting.log(), events);
        }
        let exported = setting.export();
        assert_eq!(exported.status.code(), Some(0), "{exported:?}");
        let read = setting.read(&["tiles", text(&setting.tiles())]);
        assert_eq!((&read["valid"], &read["size"]), (&true.into(), &setting.size().into()), "{read}");
    }
    let again = json(&setting.export());
    assert_eq!((&again["files"], &again["before"]), (&0.into(), &again["size"]));

    // Whatever way they grew, the tiles of this size are those of one export.
    let fresh = setting.path("fresh");
    let made = audit(&["tiles", "--out", text(&fresh), "--dir", text(&setting.log())]);
    assert!(said(&made).contains(&format!("tiles of {} records of {ORIGIN}", setting.size())), "{made:?}");
    let (grown, fresh) = (files(&setting.tiles()), files(&fresh));
    for (name, bytes) in &fresh {
        assert_eq!(grown.get(name), Some(bytes), "{}", name.display());
    }
    for name in grown.keys().filter(|name| !fresh.contains_key(*name)) {
        assert!(text(name).contains(".p/"), "{}", name.display());
    }
    assert!(!grown.keys().any(|name| text(name).contains("000.p/") && text(name).contains("tile/0")));
}

#[test]
fn tiles_go_into_a_folder_of_their_own_one_export_at_a_time() {
    let setting = Setting::new();
    let log = setting.log();
    let before = files(&log);
    let into_log = audit(&["tiles", "--dir", text(&log), "--out", text(&log)]);
    assert_eq!(into_log.status.code(), Some(2), "{into_log:?}");
    assert!(said(&into_log).contains("holds an audit log"), "{into_log:?}");
    assert_eq!(files(&log), before);
    let nowhere = audit(&["tiles", "--dir", text(&log), "--out", "/nowhere/tiles"]);
    assert_eq!(nowhere.status.code(), Some(2), "{nowhere:?}");

    assert_eq!(setting.export().status.code(), Some(0));
    let lock = fs::File::open(setting.tiles().join("LOCK")).unwrap();
    lock.lock().unwrap();
    let busy = setting.export();
    assert_eq!(busy.status.code(), Some(2), "{busy:?}");
    assert!(said(&busy).contains("is in use by another process"), "{busy:?}");
    drop(lock);
    // With nothing to add, what is there is looked at all the same.
    fs::remove_dir_all(setting.tiles().join("tile/1")).unwrap();
    let missing = setting.export();
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    assert!(said(&missing).contains("it is missing"), "{missing:?}");
}

#[test]
fn an_interrupted_export_is_taken_up_again() {
    let setting = Setting::new();
    assert_eq!(setting.export().status.code(), Some(0));
    let whole = files(&setting.tiles());
    let tile = |name: &str| setting.tiles().join("tile").join(name);
    // As after a power cut in the first run: no checkpoint, a tile that was never written out, a draft.
    fs::remove_file(setting.tiles().join("checkpoint")).unwrap();
    fs::write(tile("0/002"), "").unwrap();
    fs::write(tile("entries/001"), vec![0; 30208]).unwrap();
    fs::remove_file(tile("entries/003")).unwrap();
    fs::write(tile("0/003.new"), "half").unwrap();
    fs::remove_dir_all(tile("1")).unwrap();
    let again = setting.export();
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    assert_eq!(json(&again)["files"], 4, "{again:?}");
    fs::remove_file(tile("0/003.new")).unwrap();
    assert_eq!(files(&setting.tiles()), whole);

    // As after a kill while it grew: what lies beyond the checkpoint is of no importance.
    let done = fs::read(setting.tiles().join("checkpoint")).unwrap();
    grow(&setting.log(), 700);
    assert_eq!(setting.export().status.code(), Some(0));
    fs::write(setting.tiles().join("checkpoint"), done).unwrap();
    change(&tile("0/007"), |bytes| bytes[9] ^= 1);
    let partial = tile("0/005.p");
    assert!(!partial.exists(), "the full tile took its place");
    let again = setting.export();
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    assert_eq!(setting.read(&["tiles", text(&setting.tiles())])["valid"], true);
}

#[test]
fn an_export_that_is_killed_leaves_whole_files_only() {
    let setting = Setting::new();
    grow(&setting.log(), 3000);
    let fresh = setting.path("fresh");
    assert!(audit(&["tiles", "--out", text(&fresh), "--dir", text(&setting.log())]).status.success());
    let fresh = files(&fresh);
    let mut killed = 0;
    for wait in 0..40 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_edgate"))
            .args([
                "audit",
                "tiles",
                "--json",
                "--dir",
                text(&setting.log()),
                "--out",
                text(&setting.tiles()),
            ])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(3 * wait));
        child.kill().unwrap();
        killed += u64::from(!child.wait().unwrap().success());
        if !setting.tiles().exists() {
            continue;
        }
        let left = files(&setting.tiles());
        if left.contains_key(Path::new("checkpoint")) {
            assert!(fresh.keys().all(|name| left.contains_key(name)), "the checkpoint comes last");
        }
        for (name, bytes) in left {
            if name.extension().is_none_or(|extension| extension != "new") {
                assert_eq!(fresh.get(&name), Some(&bytes), "{}", name.display());
            }
        }
    }
    println!("{killed} of 40 were killed");
    assert!(killed > 0);
    assert_eq!(setting.export().status.code(), Some(0));
    let whole = files(&setting.tiles());
    assert!(fresh.iter().all(|(name, bytes)| whole.get(name) == Some(bytes)));
}

#[test]
fn a_wrong_tile_or_record_is_named_before_a_proof_is_made_of_it() {
    let setting = Setting::new();
    grow(&setting.log(), 700);
    assert_eq!(setting.export().status.code(), Some(0));
    let (id, tiles) = (setting.ids[300].to_string(), setting.tiles());
    let prove = || setting.prove(&[&id, "--tiles", text(&tiles)]);
    assert_eq!(prove().status.code(), Some(0));
    let edge = |level: &str| -> PathBuf {
        let mut names = files(&tiles).into_keys();
        names.rfind(|name| text(name).starts_with(&format!("tile/{level}/"))).unwrap()
    };
    for (name, cause) in [
        (PathBuf::from("tile/0/001"), "its head is not what tile/1/000.p/"),
        (edge("1"), "is not the head of tile/0/"),
        (edge("0"), "is not of the signed tree"),
    ] {
        let kept = fs::read(tiles.join(&name)).unwrap();
        change(&tiles.join(&name), |bytes| bytes[40] ^= 4);
        let refused = prove();
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(said(&refused).contains(text(&name)) && said(&refused).contains(cause), "{refused:?}");
        assert!(refused.stdout.is_empty());
        fs::remove_file(tiles.join(&name)).unwrap();
        let missing = prove();
        assert!(said(&missing).contains("it is missing"), "{missing:?}");
        fs::write(tiles.join(&name), &kept[1..]).unwrap();
        assert!(said(&prove()).contains(&format!("it has {} bytes", kept.len() - 1)));
        fs::write(tiles.join(&name), kept).unwrap();
    }
    assert_eq!(prove().status.code(), Some(0));

    // A record that was rewritten with all that is derived from it: the tiles tell, and so does the chain.
    let segment = setting.log().join("0000000001.seg");
    change(&segment, |bytes| {
        let at = bytes.windows(9).position(|window| window == b"event 300").unwrap();
        bytes[at + 8] ^= 1;
    });
    let refused = prove();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(said(&refused).contains("segment 0000000001.seg, offset "), "{refused:?}");
    let neighbour = setting.prove(&[&setting.ids[301].to_string(), "--tiles", text(&tiles)]);
    assert_eq!(
        neighbour.status.code(),
        Some(0),
        "the neighbour's proof does not depend on it: {neighbour:?}"
    );
    // Its chain is read where no tiles are given, and its checksum does not fit.
    let whole = setting.prove(&[&setting.ids[301].to_string()]);
    assert_eq!(whole.status.code(), Some(1), "{whole:?}");
    assert!(said(&whole).contains("segment 0000000001.seg, offset "), "{whole:?}");
}

#[test]
fn proofs_are_made_while_the_log_is_written() {
    let setting = Setting::new();
    let settings = Settings {
        segment_bytes: 160 * 1024,
        checkpoint_interval: Duration::from_millis(100),
        ..Settings::new(setting.log(), ORIGIN)
    };
    let mut opened = open_signed(&settings, 1, Some(signer())).unwrap();
    let appender = &mut opened.appenders[0];
    let (mut tried, mut proven) = (0, 0);
    let mut ids = Vec::new();
    while proven < 5 {
        tried += 1;
        assert!(tried < 200, "{proven} proofs in {tried} tries");
        for n in 0..300 {
            let reason = format!("event {n}");
            ids.push(appender.append(&Event::Stop(StopEvent { reason: &reason }), Ack::Durable).unwrap());
        }
        appender.submit();
        appender.wait(*ids.last().unwrap(), Ack::Durable, PATIENCE).unwrap();
        let exported = setting.export();
        assert_eq!(exported.status.code(), Some(0), "{exported:?}");
        assert_eq!(setting.read(&["tiles", text(&setting.tiles())])["valid"], true);
        let id = ids[ids.len() * 2 / 3].to_string();
        let made = setting.prove(&[&id, "--tiles", text(&setting.tiles())]);
        if made.status.code() == Some(0) {
            let file = setting.write("live", &made.stdout);
            assert_eq!(setting.check(&file, &["--id", &id]).status.code(), Some(0));
            assert_eq!(setting.prove(&[&id]).status.code(), Some(0));
            proven += 1;
        } else {
            assert!(said(&made).contains("is not covered yet"), "{made:?}");
        }
    }
    opened.log.close(PATIENCE).unwrap();
}

#[test]
fn another_log_of_the_same_name_and_key_is_no_continuation() {
    let setting = Setting::new();
    assert_eq!(setting.export().status.code(), Some(0));
    let exported = files(&setting.tiles());
    let (log, first) = (setting.log(), setting.path("first"));
    fs::rename(&log, &first).unwrap();
    let ids = grow(&log, 2500);
    let old = first.join("checkpoint");
    // By their sizes the checkpoints could be of one log.
    let forked = setting.prove(&["--consistency", text(&old)]);
    assert_eq!(forked.status.code(), Some(25), "{forked:?}");
    let refused = setting.export();
    assert_eq!(refused.status.code(), Some(25), "{refused:?}");
    assert!(said(&refused).contains("is not the one that was exported before"), "{refused:?}");
    assert_eq!(files(&setting.tiles()), exported, "what was exported stays");
    // A tile of the old log does not vouch for a record of the new one.
    let mixed = setting.prove(&[&ids[100].to_string(), "--tiles", text(&setting.tiles())]);
    assert_eq!(mixed.status.code(), Some(1), "{mixed:?}");
    assert!(said(&mixed).contains("is not the signed one"), "{mixed:?}");

    // Whole in itself, and not what was signed.
    fs::copy(&old, log.join("checkpoint")).unwrap();
    let unvouched = setting.prove(&[&ids[100].to_string()]);
    assert_eq!(unvouched.status.code(), Some(1), "{unvouched:?}");
    assert!(said(&unvouched).contains("do not hash to the signed tree head"), "{unvouched:?}");
    let fresh = setting.path("fresh");
    let export = || audit(&["tiles", "--out", text(&fresh), "--dir", text(&log)]);
    let unvouched = export();
    assert_eq!(unvouched.status.code(), Some(1), "{unvouched:?}");
    assert!(!fresh.join("checkpoint").exists(), "nothing vouches for these tiles");
    // What such a run leaves is replaced by the next one.
    let note = fs::read(first.join("checkpoint")).unwrap();
    fs::remove_dir_all(&log).unwrap();
    fs::rename(&first, &log).unwrap();
    assert_eq!(fs::read(log.join("checkpoint")).unwrap(), note);
    assert_eq!(export().status.code(), Some(0));
    assert_eq!(setting.read(&["tiles", text(&fresh)])["valid"], true);
}

#[test]
fn a_log_that_lost_signed_records_has_no_tiles_and_no_proofs() {
    let setting = Setting::new();
    grow(&setting.log(), 100);
    let segments: Vec<PathBuf> =
        files(&setting.log()).into_keys().filter(|name| text(name).ends_with(".seg")).collect();
    assert!(segments.len() > 2, "{segments:?}");
    let last = setting.log().join(segments.last().unwrap());
    let kept = fs::read(&last).unwrap();
    fs::remove_file(&last).unwrap();
    let id = setting.ids[5].to_string();
    for refused in [setting.export(), setting.prove(&[&id])] {
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(said(&refused).contains("is missing"), "{refused:?}");
    }
    fs::write(&last, kept).unwrap();
    assert_eq!(setting.prove(&[&id]).status.code(), Some(0));
    fs::remove_file(setting.log().join(&segments[1])).unwrap();
    for refused in [setting.export(), setting.prove(&[&id])] {
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(said(&refused).contains("segment 0000000001.seg, offset "), "{refused:?}");
    }
    fs::remove_file(setting.log().join("checkpoint")).unwrap();
    let unsigned = setting.prove(&[&id]);
    assert_eq!(unsigned.status.code(), Some(2), "{unsigned:?}");
    assert!(said(&unsigned).contains("no checkpoint at "), "{unsigned:?}");
}

#[test]
fn no_byte_of_a_proof_is_free() {
    let setting = Setting::new();
    let id = setting.ids[300].to_string();
    let old = fs::read(setting.log().join("checkpoint")).unwrap();
    let proofs = [setting.proof(&[&id]), setting.proof(&[&id, "--with-body"])];
    let keys = [key()];
    let expected = Expected { keys: &keys, origin: None, id: None };
    for proof in &proofs {
        assert!(verify_inclusion(proof.as_bytes(), &expected).is_ok());
        for at in 0..proof.len() {
            for bit in 0..8 {
                let mut altered = proof.clone().into_bytes();
                altered[at] ^= 1 << bit;
                assert!(verify_inclusion(&altered, &expected).is_err(), "bit {bit} of byte {at}");
            }
            let mut longer = proof.clone().into_bytes();
            longer.insert(at, b'\n');
            assert!(verify_inclusion(&longer, &expected).is_err(), "a line end before byte {at}");
            let cut = verify_inclusion(&proof.as_bytes()[..at], &expected).unwrap_err();
            let classes = [ProofClass::CutShort, ProofClass::Unsigned, ProofClass::Malformed];
            assert!(classes.contains(&cut.class), "cut at {at}: {cut}");
        }
        assert!(verify_inclusion(&[proof.as_bytes(), b"\n"].concat(), &expected).is_err());
    }
    grow(&setting.log(), 100);
    let old_file = setting.write("old", &old);
    let proof = setting.proof(&["--consistency", text(&old_file)]);
    assert!(verify_consistency(proof.as_bytes(), &old, &expected).is_ok());
    for at in 0..proof.len() {
        for bit in 0..8 {
            let mut altered = proof.clone().into_bytes();
            altered[at] ^= 1 << bit;
            assert!(verify_consistency(&altered, &old, &expected).is_err(), "bit {bit} of byte {at}");
        }
        assert!(verify_consistency(&proof.as_bytes()[..at], &old, &expected).is_err(), "cut at {at}");
    }
    for at in 0..old.len() {
        let mut altered = old.clone();
        altered[at] ^= 1;
        assert!(verify_consistency(proof.as_bytes(), &altered, &expected).is_err(), "old, byte {at}");
    }
}

#[test]
fn each_reason_to_refuse_a_proof_has_its_class_and_exit_code() {
    let setting = Setting::new();
    let id = setting.ids[300].to_string();
    let proof = setting.proof(&[&id, "--with-body"]);
    let lines: Vec<&str> = proof.lines().collect();
    let changed = |from: &str, to: &str| {
        assert!(proof.contains(from), "{from}");
        proof.replacen(from, to, 1)
    };
    let note_at = proof.find("\n\n").unwrap() + 2;
    let signature_at = proof.rfind("\u{2014}").unwrap();
    let index: u64 = lines[2].strip_prefix("index ").unwrap().parse().unwrap();
    let extra = lines[1].strip_prefix("extra ").unwrap();
    let swap = |at: usize| {
        let mut swapped = extra.as_bytes().to_vec();
        swapped[at] = if swapped[at] == b'A' { b'B' } else { b'A' };
        changed(extra, std::str::from_utf8(&swapped).unwrap())
    };
    let size = setting.size();
    let forged_root = proof[..note_at].to_owned() + &signed(ORIGIN, size, [1; 32]);
    let other_log = proof[..note_at].to_owned() + &signed("other.example/log", size, [1; 32]);
    let mut stranger = key();
    stranger.verifying_key = SigningKey::from_bytes(&[4; 32]).verifying_key().to_bytes();
    let stranger = setting.write("stranger", stranger.to_text());
    let neighbour = setting.ids[301].to_string();
    let about_neighbour: &[&str] = &["--id", &neighbour];
    let hash_line = format!("{}\n", lines[4]);
    let cases: Vec<(&str, String, &[&str], u8)> = vec![
        ("wrong-origin", proof.clone(), &["--origin", "other.example/log"], 11),
        ("wrong-origin", other_log, &[], 11),
        ("unsigned", proof[..signature_at].to_owned(), &[], 12),
        ("unsigned", proof[..signature_at - 1].to_owned(), &[], 12),
        ("bad-signature", changed(&format!("\n{size}\n"), &format!("\n{}\n", size + 1)), &[], 9),
        ("wrong-index", changed(lines[2], &format!("index {}", index + 1)), &[], 26),
        ("altered-record", swap(60), &[], 20),
        ("altered-body", swap(extra.len() - 6), &[], 1),
        ("not-included", changed(&hash_line, &(lines[5].to_owned() + "\n")), &[], 24),
        ("not-included", changed(&hash_line, ""), &[], 24),
        ("not-included", forged_root, &[], 24),
        ("wrong-record", proof.clone(), about_neighbour, 27),
        ("cut-short", proof[..note_at - 20].to_owned(), &[], 21),
        ("cut-short", proof[..proof.len() - 1].to_owned(), &[], 21),
        ("malformed", changed("tlog-proof@v1", "tlog-proof@v2"), &[], 23),
        ("malformed", changed(&hash_line, "no hash\n"), &[], 23),
        ("malformed", changed("index ", "index 0"), &[], 23),
        ("malformed", proof.repeat(200), &[], 23),
    ];
    for (class, file, more, code) in cases {
        let file = setting.write("case", file);
        let refused = setting.check(&file, &[&["--json"], more].concat());
        let answer = json(&refused);
        assert_eq!((&answer["valid"], &answer["class"]), (&false.into(), &class.into()), "{answer}");
        assert_eq!(refused.status.code(), Some(i32::from(code)), "{answer}");
        let plain = setting.check(&file, more);
        assert!(said(&plain).starts_with(&format!("NOT PROVEN: {class}: ")), "{plain:?}");
        // What the file itself is, the other reader sees too.
        assert_eq!(setting.read(&["proof", text(&file)])["valid"], !more.is_empty(), "{class}");
    }
    let file = setting.write("case", &proof);
    let other_key = audit(&["verify-proof", text(&file), "--key", text(&stranger)]);
    assert_eq!(other_key.status.code(), Some(10), "{other_key:?}");
    // The key of one log does not sign for another, though both are known.
    let second =
        CheckpointKey::new("other.example/log", SigningKey::from_bytes(&[4; 32]).verifying_key().to_bytes());
    let both = setting.write("both", format!("{}\n{}\n", key().to_text(), second.to_text()));
    let signed_for_other = proof[..note_at].to_owned() + &signed("other.example/log", size, [1; 32]);
    let crossed = setting.write("crossed", signed_for_other);
    let crossed = audit(&["verify-proof", text(&crossed), "--key", text(&both)]);
    assert_eq!(crossed.status.code(), Some(10), "{crossed:?}");
    assert_eq!(audit(&["verify-proof", text(&file), "--key", text(&both)]).status.code(), Some(0));
    assert_eq!(audit(&["verify-proof", "/nowhere", "--key", &key().to_text()]).status.code(), Some(2));
    assert_eq!(audit(&["verify-proof", text(&file), "--key", "/nowhere"]).status.code(), Some(2));
}

#[test]
fn a_checkpoint_is_proven_to_continue_an_older_one_and_a_rollback_is_named() {
    let setting = Setting::new();
    let first = setting.write("first", fs::read(setting.log().join("checkpoint")).unwrap());
    let first_size = setting.size();
    grow(&setting.log(), 400);
    assert_eq!(setting.export().status.code(), Some(0));
    let tiles = setting.tiles();
    let proof = setting.proof(&["--consistency", text(&first)]);
    assert_eq!(proof, setting.proof(&["--consistency", text(&first), "--tiles", text(&tiles)]));
    let file = setting.write("grown", &proof);
    let checked = setting.check(&file, &["--json", "--consistency", text(&first)]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let (ours, theirs) = (json(&checked), setting.read(&["consistency", text(&file), text(&first)]));
    assert_eq!((&ours["old_size"], &ours["size"]), (&first_size.into(), &setting.size().into()));
    assert_eq!((&theirs["valid"], &theirs["root"]), (&true.into(), &ours["root"]), "{theirs}");
    // A log that stood still continues itself.
    let now = setting.write("now", fs::read(setting.log().join("checkpoint")).unwrap());
    let still = setting.write("still", setting.proof(&["--consistency", text(&now)]));
    assert_eq!(setting.check(&still, &["--consistency", text(&now)]).status.code(), Some(0));

    let size = setting.size();
    let ahead = setting.write("ahead", signed(ORIGIN, size + 1, [1; 32]));
    let fork = setting.write("fork", signed(ORIGIN, size, [1; 32]));
    let past_fork = setting.write("past-fork", signed(ORIGIN, first_size, [1; 32]));
    let other = setting.write("other", signed("other.example/log", 1, [1; 32]));
    for (old, made, checked, class) in [
        (&ahead, 25, 25, "ROLLBACK"),
        (&fork, 25, 25, "ROLLBACK"),
        (&past_fork, 25, 22, "inconsistent"),
        (&other, 11, 11, "wrong-origin"),
        (&now, 0, 26, "wrong-index"),
    ] {
        let old = text(old);
        assert_eq!(setting.prove(&["--consistency", old]).status.code(), Some(made), "{old}");
        let of_tiles = setting.prove(&["--consistency", old, "--tiles", text(&tiles)]);
        assert_eq!(of_tiles.status.code(), Some(made), "{of_tiles:?}");
        let refused = setting.check(&file, &["--consistency", old]);
        assert_eq!(refused.status.code(), Some(checked), "{refused:?}");
        assert!(said(&refused).contains(class), "{refused:?}");
        assert_eq!(setting.read(&["consistency", text(&file), old])["valid"], false);
    }
    // Tiles of a longer log are not brought "up" to an older checkpoint of it.
    let checkpoint = setting.log().join("checkpoint");
    fs::write(&checkpoint, fs::read(&first).unwrap()).unwrap();
    let back = setting.export();
    assert_eq!(back.status.code(), Some(25), "{back:?}");
    assert!(said(&back).contains("ROLLBACK"), "{back:?}");
}

/// Two appenders, one of which is silent for many segments at a time.
#[test]
fn every_id_of_a_log_is_found_whoever_wrote_between() {
    let setting = Setting::new();
    let settings = Settings { segment_bytes: 140 * 1024, ..Settings::new(setting.log(), ORIGIN) };
    let mut opened = open_signed(&settings, 3, Some(signer())).unwrap();
    let mut ids = Vec::new();
    let reason = "x".repeat(1000);
    for turn in 0..60 {
        for core in 0..3 {
            let events = match (core, turn) {
                (0, _) => 40,
                (1, 7 | 30 | 31 | 59) => 1,
                (2, 40) => 3,
                _ => continue,
            };
            let appender = &mut opened.appenders[core];
            for _ in 0..events {
                let id = appender.append(&Event::Stop(StopEvent { reason: &reason }), Ack::Durable).unwrap();
                if core > 0 || turn % 9 == 0 {
                    ids.push(id);
                }
            }
            appender.submit();
            let last = appender.append(&Event::Stop(StopEvent { reason: "turn" }), Ack::Durable).unwrap();
            appender.submit();
            appender.wait(last, Ack::Durable, PATIENCE).unwrap();
            ids.push(last);
        }
    }
    opened.log.close(PATIENCE).unwrap();
    let segments = files(&setting.log()).into_keys().filter(|name| text(name).ends_with(".seg")).count();
    assert!(segments > 15, "{segments} segments");
    assert_eq!(setting.export().status.code(), Some(0));
    let (log, tiles) = (setting.log(), setting.tiles());
    let keys = [key()];
    let prover = Prover { dir: &log, tiles: Some(&tiles), keys: &keys };
    let mut found = std::collections::BTreeSet::new();
    for id in &ids {
        let proof = prover.inclusion(*id, true, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
        let expected = Expected { keys: &keys, origin: Some(ORIGIN), id: Some(*id) };
        verify_inclusion(proof.to_text().as_bytes(), &expected).unwrap();
        assert!(found.insert(proof.index), "{id} has the record of another");
    }
    let never = RecordId { core: 1, core_seq: 9, ..ids[0] };
    assert!(prover.inclusion(never, false, &mut |_| {}).is_err());
}

/// Whoever has just read the first records, all of them or some, gets the same proof without their being read again.
#[test]
fn a_proof_behind_what_was_read_is_the_proof() {
    let setting = Setting::new();
    let log = setting.log();
    let ids = grow(&log, 150);
    let keys = [key()];
    let prover = Prover { dir: &log, tiles: None, keys: &keys };
    for id in [ids[0], ids[40], ids[148], ids[149]] {
        let proof = prover.inclusion(id, true, &mut |_| {}).unwrap();
        for read in (0..=proof.index).chain([proof.index + 1, proof.index + 2]) {
            let read = range(&log, 0, read).unwrap();
            let again = prover.inclusion_behind(&read, id, &mut |_| {}).unwrap();
            assert_eq!(again, proof, "{} behind {}", proof.index, read.end());
        }
    }
    // What was read counts: the proof of another tree is none.
    let wrong = CompactRange::from_bytes(4, &[7; 32]).unwrap();
    assert!(prover.inclusion_behind(&wrong, ids[149], &mut |_| {}).is_err());
}
