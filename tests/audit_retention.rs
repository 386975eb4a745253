//! Old segments leave a running log, and what is left, and what was kept, can still be verified.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use edgate::audit::retire::{Kept, Order, Retainer, Turn};
use edgate::audit::verify::{Class, Options, verify_dir};
use edgate::audit::{Ack, CheckpointKey, Event, Settings, StopEvent, Tail, open_signed};
use serde_json::Value;

#[path = "support/logs.rs"]
#[allow(dead_code, reason = "other tests use all of it")]
mod logs;

use logs::{json, signer};

const PATIENCE: Duration = Duration::from_secs(30);

const ORDER: Order<'static> =
    Order { before_ns: u64::MAX, authority: "records office", reason: "older than 90 days" };

fn settings(dir: &Path) -> Settings {
    Settings {
        segment_bytes: 160 * 1024,
        create: true,
        checkpoint_interval: Duration::from_millis(20),
        // Other tests keep the disk busy.
        unflushed_age_max: PATIENCE,
        ..Settings::new(dir, "test.example/log")
    }
}

fn audit(arguments: &[&str], dir: &Path) -> Output {
    let dir = ["--dir", dir.to_str().unwrap()];
    Command::new(env!("CARGO_BIN_EXE_edgate")).arg("audit").args(arguments).args(dir).output().unwrap()
}

fn verify(more: &[&str], dir: &Path) -> Output {
    audit(&[&["verify", "--json", "--unrecorded"], more].concat(), dir)
}

/// Turns until there is nothing more to do, waiting for checkpoints.
fn retire_all(retainer: &mut Retainer, place: &Path) -> Vec<u64> {
    let mut retired = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Turn { retired: some, more, kept } = retainer.turn(place, &ORDER).unwrap();
        retired.extend(some.into_iter().map(|one| one.segment));
        let unsigned = matches!(kept, Some((_, Kept::Unsigned)));
        if !(more || unsigned) {
            return retired;
        }
        assert!(Instant::now() < deadline, "no checkpoint came");
    }
}

fn second_verifier(dir: &Path) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/second_verifier/edgate_verify.py");
    let key = dir.join("checkpoint.key");
    let said = Command::new("python3").arg(script).arg("--key").arg(key).arg(dir).output().unwrap();
    serde_json::from_slice(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

fn segments(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".seg")).collect();
    names.sort();
    names
}

/// Ends the others with a thread that ends, so that one that fails is heard of.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn retention_runs_under_load_beside_readers_and_everything_stays_verifiable() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, place) = (folder.path().join("log"), folder.path().join("archives"));
    fs::create_dir(&place).unwrap();
    let mut opened = open_signed(&settings(&dir), 1, Some(signer())).unwrap();
    let mut retainer = opened.log.retainer().unwrap();
    assert!(opened.log.retainer().is_none(), "there is one");
    let key =
        CheckpointKey::from_text(fs::read_to_string(dir.join("checkpoint.key")).unwrap().trim()).unwrap();
    let stop = &AtomicBool::new(false);
    let running = || !stop.load(Ordering::Relaxed);
    let (mut retired, mut ids) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let appender = &mut opened.appenders[0];
        let writing = scope.spawn(move || {
            let _stop = StopAtEnd(stop);
            let mut ids = Vec::new();
            let mut n = 0;
            while running() {
                let reason = format!("event {n}");
                n += 1;
                let id = appender.append(&Event::Stop(StopEvent { reason: &reason }), Ack::Durable).unwrap();
                if n % 50 == 0 {
                    // As fast as the disk, so that the readers beside it get to the end.
                    appender.wait(id, Ack::Durable, PATIENCE).unwrap();
                    ids.push(id);
                }
            }
            appender.wait(*ids.last().unwrap(), Ack::Durable, PATIENCE).unwrap();
            ids
        });
        let watch = opened.log.watch();
        let (log, keys) = (&dir, [key]);
        scope.spawn(move || {
            let _stop = StopAtEnd(stop);
            while running() {
                let upto = Some(watch.status().durable_size);
                let options = Options {
                    keys: keys.to_vec(),
                    upto,
                    allow_unsigned: true,
                    threads: 1,
                    ..Options::default()
                };
                let report = verify_dir(log, &options, &mut |_| {}).unwrap();
                assert!(report.breaks.is_empty(), "{:?}", report.breaks);
            }
        });
        let log = &dir;
        scope.spawn(move || {
            let _stop = StopAtEnd(stop);
            while running() {
                // The first segment may go between the listing and the look; a reader is told, and nothing else happens.
                let Ok(mut tail) = Tail::first(log) else { continue };
                let mut before: Option<u64> = None;
                while let Ok(Some(entry)) = tail.next() {
                    // A reader that is overtaken by the retiring goes on behind it.
                    assert!(before.is_none_or(|before| entry.header.seq > before));
                    before = Some(entry.header.seq);
                }
            }
        });
        let _stop = StopAtEnd(stop);
        let deadline = Instant::now() + PATIENCE;
        // Turn by turn: there is always a segment more to be signed and retired.
        while retired.len() < 6 && running() {
            assert!(Instant::now() < deadline, "only {retired:?} were retired");
            let turn = retainer.turn(&place, &ORDER).unwrap();
            retired.extend(turn.retired.into_iter().map(|one| one.segment));
        }
        stop.store(true, Ordering::Relaxed);
        ids = writing.join().unwrap();
    });
    opened.log.close(PATIENCE).unwrap();
    let last = *retired.last().unwrap();
    assert_eq!(retired, (1..=last).collect::<Vec<_>>());
    assert_eq!(segments(&dir)[0], format!("{:010}.seg", last + 1));

    let left = verify(&[], &dir);
    assert_eq!(left.status.code(), Some(0), "{left:?}");
    let report = json(&left);
    let notice =
        report["notices"].as_array().unwrap().iter().find(|one| one["class"] == Class::Retired.name());
    let detail = notice.unwrap()["detail"].as_str().unwrap();
    assert!(
        detail.contains(&format!("segments 1 to {last}")) && detail.contains("by records office"),
        "{detail}"
    );
    let second = second_verifier(&dir);
    assert_eq!((&second["valid"], &second["root"]), (&true.into(), &report["root"]), "{second}");

    // With the archives it is the whole log, and the same one.
    let archives = place.to_str().unwrap();
    let whole = json(&verify(&["--archives", archives], &dir));
    assert_eq!((&whole["valid"], &whole["root"]), (&true.into(), &report["root"]), "{whole}");
    assert_eq!(whole["records"], whole["size"]);

    // What is left is exported, and tiles go on from there; a retired decision is proven by tiles and its archive.
    let rows = folder.path().join("rows");
    let exported = audit(&["export", "--unrecorded", "--out", rows.to_str().unwrap()], &dir);
    assert_eq!(exported.status.code(), Some(0), "{exported:?}");
    let first = fs::read_to_string(&rows).unwrap();
    let first: Value = serde_json::from_str(first.lines().next().unwrap()).unwrap();
    assert!(first["seq"].as_u64().unwrap() > 0, "{first}");
    let unknown = audit(&["prove", &ids[0].to_string()], &dir);
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");

    // A start goes on, and so does retention.
    let opened = open_signed(&settings(&dir), 1, Some(signer())).unwrap();
    let more = retire_all(&mut opened.log.retainer().unwrap(), &place);
    assert_eq!(more[0], last + 1);
    opened.log.close(PATIENCE).unwrap();
    assert_eq!(verify(&[], &dir).status.code(), Some(0));

    // One more segment gone, without a record: named by both.
    fs::remove_file(dir.join(&segments(&dir)[0])).unwrap();
    let missing = verify(&[], &dir);
    assert_eq!(missing.status.code(), Some(7), "{missing:?}");
    assert_eq!(second_verifier(&dir)["valid"], false);
}

#[test]
fn a_decision_that_was_retired_is_proven_by_tiles_and_its_archive() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, place) = (folder.path().join("log"), folder.path().join("archives"));
    let tiles = folder.path().join("tiles");
    fs::create_dir(&place).unwrap();
    let fill = |opened: &mut edgate::audit::Opened| {
        let mut ids = Vec::new();
        for n in 0..4000 {
            let reason = format!("event {n}");
            let id = opened.appenders[0]
                .append(&Event::Stop(StopEvent { reason: &reason }), Ack::Recorded)
                .unwrap();
            if n % 100 == 0 {
                opened.appenders[0].wait(id, Ack::Recorded, PATIENCE).unwrap();
                ids.push(id.to_string());
            }
        }
        opened.appenders[0].submit();
        ids
    };
    let mut opened = open_signed(&settings(&dir), 1, Some(signer())).unwrap();
    let ids = fill(&mut opened);
    opened.log.close(PATIENCE).unwrap();
    let out = ["--out", tiles.to_str().unwrap()];
    let state = folder.path().join("state");
    let since = ["--state", state.to_str().unwrap()];
    assert_eq!(verify(&since, &dir).status.code(), Some(0));
    assert_eq!(audit(&[&["tiles"], &out[..]].concat(), &dir).status.code(), Some(0));

    let opened = open_signed(&settings(&dir), 1, Some(signer())).unwrap();
    assert!(retire_all(&mut opened.log.retainer().unwrap(), &place).len() > 2);
    opened.log.close(PATIENCE).unwrap();
    let made = audit(&[&["tiles"], &out[..]].concat(), &dir);
    assert_eq!(made.status.code(), Some(0), "tiles go on behind what was retired: {made:?}");
    assert_eq!(verify(&since, &dir).status.code(), Some(0), "so does a verification that had come further");

    let key = dir.join("checkpoint.key");
    let key = key.to_str().unwrap();
    let from_tiles = ["prove", &ids[3], "--tiles", tiles.to_str().unwrap(), "--key", key];
    let proof = audit(&from_tiles, &place);
    assert_eq!(proof.status.code(), Some(0), "{proof:?}");
    let file = folder.path().join("proof");
    fs::write(&file, proof.stdout).unwrap();
    let proven = Command::new(env!("CARGO_BIN_EXE_edgate"))
        .args(["audit", "verify-proof", file.to_str().unwrap(), "--key", key, "--id", &ids[3]])
        .output()
        .unwrap();
    assert_eq!(proven.status.code(), Some(0), "{proven:?}");
}

#[test]
fn without_a_place_or_a_signature_nothing_goes() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("log");
    let mut opened = edgate::audit::open(&settings(&dir), 1).unwrap();
    for n in 0..3000 {
        let reason = format!("event {n}");
        let id =
            opened.appenders[0].append(&Event::Stop(StopEvent { reason: &reason }), Ack::Recorded).unwrap();
        if n % 100 == 0 {
            opened.appenders[0].wait(id, Ack::Durable, PATIENCE).unwrap();
        }
    }
    let mut retainer = opened.log.retainer().unwrap();
    let error = retainer.turn(&folder.path().join("nowhere"), &ORDER).unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
    let place = folder.path().join("archives");
    fs::create_dir(&place).unwrap();
    let turn = retainer.turn(&place, &ORDER).unwrap();
    assert!(turn.retired.is_empty());
    assert_eq!(turn.kept.unwrap().1.to_string(), "no signed checkpoint covers it");
    assert_eq!(segments(&dir)[0], "0000000001.seg");
}
