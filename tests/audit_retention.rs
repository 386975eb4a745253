//! Old segments leave a running log, and what is left, and what was kept, can still be verified.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ed25519_dalek::Signer as _;
use edgate::audit::note::Checkpoint;
use edgate::audit::proof::{ProveError, latest_signed, range, tree_at};
use edgate::audit::retire::{Kept, Order, Retainer, Turn};
use edgate::audit::verify::{Class, Options, verify_dir};
use edgate::audit::{
    Ack, AuditError, CheckpointKey, Event, PassedOver, Settings, StopEvent, Tail, keep_anchor, open_signed,
};
use edgate::witness::{Answer, Cosigner, KnownLog, Submitted, Submitter, Witness};
use serde_json::Value;

#[path = "support/logs.rs"]
#[allow(dead_code, reason = "other tests use all of it")]
mod logs;

use logs::{json, signer, signing_key};

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

/// A closed log that begins behind retired segments.
struct RetiredLog {
    folder: tempfile::TempDir,
    key: CheckpointKey,
    /// The first record that is left.
    first: u64,
}

impl RetiredLog {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (dir, place) = (folder.path().join("log"), folder.path().join("archives"));
        fs::create_dir(&place).unwrap();
        let mut opened = open_signed(&settings(&dir), 1, Some(signer())).unwrap();
        for n in 0..3000 {
            let reason = format!("event {n}");
            let id = opened.appenders[0]
                .append(&Event::Stop(StopEvent { reason: &reason }), Ack::Recorded)
                .unwrap();
            if n % 100 == 99 {
                opened.appenders[0].wait(id, Ack::Recorded, PATIENCE).unwrap();
            }
        }
        opened.log.close(PATIENCE).unwrap();
        let opened = open_signed(&settings(&dir), 1, Some(signer())).unwrap();
        assert!(!retire_all(&mut opened.log.retainer().unwrap(), &place).is_empty());
        opened.log.close(PATIENCE).unwrap();
        let verifying_key = signing_key().verifying_key().to_bytes();
        let first = Tail::first(&dir).unwrap().next().unwrap().unwrap().header.seq;
        assert!(first > 100, "{first}");
        Self { folder, key: CheckpointKey::new("test.example/log", verifying_key), first }
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn keys(&self) -> &[CheckpointKey] {
        std::slice::from_ref(&self.key)
    }

    /// The latest checkpoint, and its note.
    fn signed(&self) -> (Checkpoint, String) {
        latest_signed(&self.dir(), self.keys()).unwrap().unwrap()
    }

    /// A note of this log's key.
    fn note(&self, size: u64, root: [u8; 32]) -> String {
        let checkpoint = Checkpoint { origin: self.key.name.clone(), size, root };
        let signature = signing_key().sign(checkpoint.to_text().as_bytes()).to_bytes();
        checkpoint.to_note(&self.key, &signature)
    }

    /// This log's side of a witness there.
    fn submitter(&self, witness: &Cosigner, at: SocketAddr) -> Submitter {
        let key = witness.key().clone();
        let witness = Witness { key, url: format!("http://{at}"), timeout: PATIENCE };
        Submitter::new(witness, &self.dir(), vec![self.key.clone()])
    }

    fn witness(&self) -> Cosigner {
        let (key, dir) = (self.folder.path().join("w.key"), self.folder.path().join("memory"));
        Cosigner::create(&key, &dir, "w.example").unwrap();
        Cosigner::open(&key, &dir, "w.example", vec![KnownLog::of_key(self.key.clone())]).unwrap()
    }
}

/// Answers submissions as `answer` does: status, type, text. Ends with the test's process.
fn serve(answer: impl Fn(&[u8]) -> (u16, &'static str, String) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
            let body = loop {
                let read = client.read(&mut buffer).unwrap_or(0);
                request.extend_from_slice(&buffer[..read]);
                let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
                let head = text.find("\r\n\r\n").map(|end| end + 4);
                let len = text
                    .split("content-length: ")
                    .nth(1)
                    .and_then(|rest| rest.lines().next()?.parse::<usize>().ok());
                if let (Some(head), Some(len)) = (head, len)
                    && request.len() >= head + len
                {
                    break request.split_off(head);
                }
                assert!(read > 0, "the request ended early: {text}");
            };
            let (status, kind, text) = answer(&body);
            let head = format!(
                "HTTP/1.1 {status} Said\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n",
                text.len()
            );
            let _ = write!(client, "{head}Connection: close\r\n\r\n{text}");
        }
    });
    at
}

const SIZE: &str = "text/x.tlog.size";

#[test]
fn below_what_is_left_no_tree_is_known_and_from_there_on_the_retire_record_has_it() {
    let log = RetiredLog::new();
    let (dir, first, (checkpoint, _)) = (log.dir(), log.first, log.signed());
    let mut tree = tree_at(&dir, log.keys(), first).unwrap();
    assert_eq!(tree.end(), first);
    assert!(tree.merge(&range(&dir, first, checkpoint.size).unwrap()));
    assert_eq!(tree.root(), Some(checkpoint.root));
    assert_eq!(tree_at(&dir, log.keys(), checkpoint.size).unwrap().root(), Some(checkpoint.root));
    let is_retired =
        |error: ProveError| matches!(error, ProveError::Retired { first: begin, .. } if begin == first);
    for size in [1, 5, first - 1] {
        assert!(is_retired(tree_at(&dir, log.keys(), size).unwrap_err()), "{size}");
        assert!(is_retired(range(&dir, 0, size).unwrap_err()), "{size}");
    }
    assert!(is_retired(range(&dir, 0, first).unwrap_err()));
    // What no key of the log signed removes nothing.
    assert!(matches!(tree_at(&dir, &[], first), Err(ProveError::Stored { .. })));
    fs::remove_file(dir.join(&segments(&dir)[0])).unwrap();
    let error = tree_at(&dir, log.keys(), first).unwrap_err();
    assert!(matches!(error, ProveError::Stored { .. }), "{error}");
}

#[test]
fn a_witness_that_names_a_size_that_was_retired_is_away_and_nothing_ends() {
    let log = RetiredLog::new();
    let (witness, note) = (log.witness(), log.signed().1);
    for size in [1, 5, log.first - 1] {
        let at = serve(move |_| (409, SIZE, format!("{size}\n")));
        let said = log.submitter(&witness, at).submit(&note, None);
        let Submitted::Away(cause) = said else { panic!("{size}: {said:?}") };
        assert!(cause.contains("was retired"), "{cause}");
    }
    // From the size that is left a path leads on, and whoever does not take it contradicts itself.
    let first = log.first;
    let at = serve(move |_| (409, SIZE, format!("{first}\n")));
    let said = log.submitter(&witness, at).submit(&note, None);
    assert!(matches!(&said, Submitted::Away(cause) if cause.contains("contradicts itself")), "{said:?}");
    // So it is where the node itself remembers only what was retired.
    let key = witness.key();
    let old = log.note(3, [7; 32]);
    let at = serve(|_| (409, SIZE, "3\n".to_owned()));
    keep_anchor(&log.dir(), key.id(), &cosigned(&log, 3, &old)).unwrap();
    let said = log.submitter(&witness, at).submit(&note, None);
    assert!(matches!(&said, Submitted::Away(cause) if cause.contains("was retired")), "{said:?}");
}

/// The note with a cosignature of the test's witness, whose key is in the folder.
fn cosigned(log: &RetiredLog, size: u64, note: &str) -> String {
    // Another witness of the same key, which has seen nothing.
    let (key, dir) = (log.folder.path().join("w.key"), log.folder.path().join("other"));
    fs::create_dir(&dir).unwrap();
    let witness = Cosigner::open(&key, &dir, "w.example", vec![KnownLog::of_key(log.key.clone())]).unwrap();
    assert_eq!(Checkpoint::read_unverified(note).unwrap().size, size);
    match witness.add_checkpoint(format!("old 0\n\n{note}").as_bytes(), 7) {
        Answer::Cosigned(line) => format!("{note}{line}"),
        refused => panic!("{refused:?}"),
    }
}

#[test]
fn an_anchor_of_what_was_retired_is_passed_over_by_name_and_any_other_counts() {
    let log = RetiredLog::new();
    let (dir, first) = (log.dir(), log.first);
    let root = tree_at(&dir, log.keys(), first).unwrap().root().unwrap();
    fs::write(dir.join("gone.anchor"), log.note(7, [7; 32])).unwrap();
    fs::write(dir.join("edge.anchor"), log.note(first, root)).unwrap();
    let opened = open_signed(&settings(&dir), 1, Some(signer())).unwrap();
    assert_eq!(opened.recovery.passed_over, [PassedOver { name: "gone.anchor".into(), size: 7 }]);
    opened.log.close(PATIENCE).unwrap();
    fs::write(dir.join("edge.anchor"), log.note(first, [7; 32])).unwrap();
    let refused = open_signed(&settings(&dir), 1, Some(signer())).err().unwrap();
    assert!(
        matches!(&refused, AuditError::RolledBack { cause, .. } if cause.contains("edge.anchor")),
        "{refused}"
    );
}

#[test]
fn a_witness_that_is_new_behind_a_retirement_cosigns() {
    let log = RetiredLog::new();
    let (checkpoint, note) = log.signed();
    let witness = log.witness();
    let key = witness.key().clone();
    let at = serve(move |body| match witness.add_checkpoint(body, 7) {
        Answer::Cosigned(line) => (200, "text/plain", line),
        refused => panic!("{refused:?}"),
    });
    let asked = Witness { key, url: format!("http://{at}"), timeout: PATIENCE };
    let mut submitter = Submitter::new(asked, &log.dir(), vec![log.key]);
    for _ in 0..2 {
        match submitter.submit(&note, None) {
            Submitted::Cosigned(anchored) => {
                assert_eq!((anchored.checkpoint.size, anchored.forgot), (checkpoint.size, None));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(submitter.kept().unwrap().0, checkpoint);
}
