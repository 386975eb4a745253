//! Two verifiers that share no code agree: ours, and the Python one written from FORMAT.md alone.
//!
//! `EDGATE_SECOND_VERIFIER_LOGS` sets how many mutated logs are compared, `EDGATE_SEED` which ones. A log on which the
//! two disagree is kept, and its place is printed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer as _, SigningKey};
use edgate::audit::sealed::Sealing;
use edgate::audit::tag::TagField;
use edgate::audit::verify::{Options, Report, verify_dir};
use edgate::audit::{
    Ack, CheckpointKey, CheckpointSigner, DecisionEvent, EraseEvent, Event, RecordName, Settings, hex,
    open_signed,
};
use edgate::decision::Decision;

#[expect(unreachable_pub, reason = "the module is also part of the fuzz bodies")]
#[expect(dead_code, reason = "the fuzz bodies use all of it")]
#[path = "fuzz/bodies/edits.rs"]
mod edits;

use edits::Image;

const ORIGIN: &str = "fuzz.example/log";

/// Logs compared in an ordinary run.
const LOGS: usize = 600;

/// The segment that the killed process was writing to, and its size on the disk.
const OPEN: &str = "0000000002.seg";
const OPEN_BYTES: usize = 136 * 1024;

/// The Python verifier, answering one folder per line. Killed when dropped.
struct Second {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Second {
    fn start(dir: &Path) -> Self {
        let key_file = dir.join("vkey");
        fs::write(&key_file, key().to_text() + "\n").unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/second_verifier/edgate_verify.py");
        let mut child = Command::new("python3")
            .arg(script)
            .args(["--serve", "--key"])
            .arg(key_file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs: tests/run installs it");
        let (ask, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, ask, answers }
    }

    fn verify(&mut self, folder: &Path) -> serde_json::Value {
        writeln!(self.ask, "{}", folder.display()).unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the second verifier ended on {}", folder.display());
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn key() -> CheckpointKey {
    let verifying_key = SigningKey::from_bytes(&[3; 32]).verifying_key().to_bytes();
    CheckpointKey::new(ORIGIN, verifying_key)
}

/// The sample logs of the fuzz bodies: closed in order, and as a killed process left it.
fn sample(name: &str) -> Image {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/log").join(name);
    let files: Vec<(String, Vec<u8>)> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .filter(|(name, _)| name != "checkpoint.tree")
        .collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
    let mut image = Image::new(&files);
    if name == "killed" {
        image.files.get_mut(OPEN).unwrap().resize(OPEN_BYTES, 0);
    }
    image
}

/// A closed log of three boots: in the second, bodies of the first one's decisions were erased, and one more is pending.
fn erased() -> Image {
    let dir = tempfile::tempdir().unwrap();
    let secret = SigningKey::from_bytes(&[3; 32]);
    let open = || {
        let secret = secret.clone();
        let signer = CheckpointSigner {
            verifying_key: secret.verifying_key().to_bytes(),
            sign: Box::new(move |message| Ok(secret.sign(message).to_bytes())),
        };
        let settings = Settings {
            segment_bytes: 136 * 1024,
            flush_interval: Duration::from_millis(2),
            checkpoint_interval: Duration::from_millis(2),
            create: true,
            // Who was sealed for is nothing to a verifier.
            sealing: Some(Sealing {
                fields: vec![TagField::Subject],
                openers: vec!["x25519:hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=".parse().unwrap()],
                tenants: vec!["acme".to_owned()],
            }),
            ..Settings::new(dir.path(), ORIGIN)
        };
        open_signed(&settings, 1, Some(signer)).unwrap()
    };
    let until = |what: &dyn Fn() -> bool| {
        let deadline = Instant::now() + PATIENCE;
        while !what() {
            assert!(Instant::now() < deadline, "it does not come");
            std::thread::yield_now();
        }
    };
    let mut opened = open();
    let mut ids = Vec::new();
    let kids = ["short", &"a long name of a key ".repeat(6)];
    for n in 0..6u32 {
        let event = Event::Decision(DecisionEvent {
            surface: 1,
            decision: Decision::Accepted,
            issuer: "agents",
            kid: kids[n as usize % 2],
            tenant: "acme",
            caller: "",
            subject: Some("person"),
            jti: None,
            client: None,
            policy_epoch: 1,
            revocation_epoch: 2,
            latency_us: n,
            expires: None,
            stale: false,
        });
        ids.push(opened.appenders[0].append(&event, Ack::Durable).unwrap());
    }
    opened.appenders[0].wait(ids[5], Ack::Durable, PATIENCE).unwrap();
    opened.log.close(PATIENCE).unwrap();
    let mut opened = open();
    let eraser = opened.log.eraser().unwrap();
    until(&|| opened.log.status().signed_size > 0);
    let names: Vec<_> = ids[..5].iter().copied().map(RecordName::Id).collect();
    until(&|| eraser.find(&names).is_ok());
    let mut wanted = eraser.find(&names).unwrap();
    let appender = opened.appenders.last_mut().unwrap();
    let mut last = None;
    for record in &wanted.erasable {
        let (seq, body_digest) = (record.seq, &record.body_digest);
        let erase = EraseEvent { seq, body_digest, authority: "the officer", reason: "case 7" };
        last = Some(appender.append(&Event::Erase(erase), Ack::Durable).unwrap());
    }
    appender.wait(last.unwrap(), Ack::Durable, PATIENCE).unwrap();
    let pending = wanted.erasable.pop().unwrap();
    eraser.overwrite(&wanted, PATIENCE).unwrap();
    opened.log.close(PATIENCE).unwrap();
    open().log.close(PATIENCE).unwrap();
    let options = Options { keys: vec![key()], threads: 1, ..Options::default() };
    let report = verify_dir(dir.path(), &options, &mut |_| {}).unwrap();
    assert_eq!(
        (report.breaks.len(), report.redacted, report.notices.len()),
        (0, 4, 1),
        "{pending:?} {report:?}"
    );
    let files: Vec<(String, Vec<u8>)> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .filter(|(name, _)| name.ends_with(".seg") || name == "checkpoint")
        .map(|(name, path)| (name, fs::read(path).unwrap()))
        .collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (&**name, &**bytes)).collect();
    Image::new(&files)
}

const PATIENCE: Duration = Duration::from_secs(20);

/// Seeded: SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

/// Disagreements, in words; empty if the two agree.
fn disagreement(
    ours: &Result<Report, edgate::audit::AuditError>,
    theirs: &serde_json::Value,
) -> Option<String> {
    let Ok(ours) = ours else {
        return theirs["valid"].as_bool().unwrap().then(|| format!("we cannot read it, they say {theirs}"));
    };
    let whole = ours.breaks.is_empty();
    if theirs["valid"] != whole {
        return Some(format!("we say {:?}, they say {theirs}", ours.breaks.first()));
    }
    let root = ours.root.as_ref().map(|root| hex(root));
    let head = ours.head.as_ref().map(|head| hex(head));
    let same = theirs["size"] == ours.size
        && theirs["signed_size"] == ours.signed_size
        && theirs["redacted"] == ours.redacted
        && theirs["head"].as_str() == head.as_deref()
        && root.is_none_or(|root| theirs["root"] == root);
    (whole && !same).then(|| format!("we say {ours:?}, they say {theirs}"))
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn two_verifiers_that_share_no_code_agree_on_mutated_logs() {
    let logs = variable("EDGATE_SECOND_VERIFIER_LOGS").unwrap_or(LOGS as u64);
    let seed = variable("EDGATE_SEED").unwrap_or(1);
    println!("seed {seed}, {logs} logs");
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let mut second = Second::start(dir.path());
    let samples = [("closed", sample("closed")), ("killed", sample("killed")), ("erased", erased())];
    let options = Options { keys: vec![key()], threads: 1, ..Options::default() };
    let (mut whole, mut broken, mut same_place) = (0, 0, 0);
    let mut random = Random(seed);
    for number in 0..logs {
        let chosen = random.next() % samples.len() as u64;
        let untouched = number < samples.len() as u64;
        let (name, original) = &samples[usize::try_from(if untouched { number } else { chosen }).unwrap()];
        let mut image = original.clone();
        // The first ones are the samples as they are; the others get one to four steps.
        let steps = if untouched { 0 } else { 1 + random.next() % 4 };
        let script: Vec<u8> = (0..steps).flat_map(|_| random.next().to_le_bytes()).collect();
        image.edit(&script);
        let open = (*name == "killed").then_some(OPEN);
        let folder = dir.path().join("log");
        fs::create_dir(&folder).unwrap();
        image.write(&folder, open);

        let ours = verify_dir(&folder, &options, &mut |_| {});
        let theirs = second.verify(&folder);
        if let Some(difference) = disagreement(&ours, &theirs) {
            let kept = dir.keep().join("log");
            panic!("log {number} of seed {seed}, kept in {}: {difference}", kept.display());
        }
        match &ours {
            Ok(report) if report.breaks.is_empty() => whole += 1,
            Ok(report) => {
                broken += 1;
                let first = &report.breaks[0];
                same_place +=
                    u64::from(theirs["segment"] == first.segment && theirs["offset"] == first.offset);
            }
            Err(_) => broken += 1,
        }
        fs::remove_dir_all(&folder).unwrap();
    }
    println!("{whole} whole, {broken} broken; the first break is at the same byte in {same_place}");
    assert!(whole >= 2 && broken > logs / 2, "{whole} whole, {broken} broken: the mutations reach nothing");
}
