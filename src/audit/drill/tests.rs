use std::{fs, time::Duration};

use ed25519_dalek::{Signer as _, SigningKey};

use super::*;
use crate::{
    audit::{
        Ack, CheckpointSigner, DecisionEvent, Event, Log, Opened, Settings as LogSettings, open_signed,
        verify::verify_dir,
    },
    decision::Decision,
};

const PATIENCE: Duration = Duration::from_secs(30);

fn signer() -> CheckpointSigner {
    let key = SigningKey::from_bytes(&[3; 32]);
    CheckpointSigner {
        verifying_key: key.verifying_key().to_bytes(),
        sign: Box::new(move |message| Ok(key.sign(message).to_bytes())),
    }
}

fn key() -> CheckpointKey {
    CheckpointKey::new("test.example/log", signer().verifying_key)
}

fn open(dir: &Path) -> Opened {
    let settings = LogSettings {
        segment_bytes: 136 * 1024,
        flush_interval: Duration::from_millis(2),
        checkpoint_interval: Duration::from_millis(4),
        create: true,
        ..LogSettings::new(dir, "test.example/log")
    };
    open_signed(&settings, 1, Some(signer())).unwrap()
}

fn decide(opened: &mut Opened, decisions: usize) {
    let mut last = None;
    for n in 0..decisions {
        let event = DecisionEvent {
            surface: 1,
            decision: Decision::Accepted,
            issuer: "main",
            kid: if n % 2 == 0 { "2026" } else { "a longer name" },
            tenant: "",
            caller: "",
            subject: Some("agent-7"),
            jti: None,
            client: None,
            policy_epoch: 1,
            revocation_epoch: 1,
            latency_us: u32::try_from(n).unwrap(),
            expires: None,
            stale: false,
        };
        last = Some(opened.appenders[0].append(&Event::Decision(event), Ack::Durable).unwrap());
        opened.appenders[0].submit();
    }
    opened.appenders[0].wait(last.unwrap(), Ack::Durable, PATIENCE).unwrap();
}

fn wait_signed(log: &Log, size: u64) {
    let until = std::time::Instant::now() + PATIENCE;
    while log.status().signed_size < size {
        assert!(std::time::Instant::now() < until && log.status().failure.is_none(), "{:?}", log.status());
        std::thread::yield_now();
    }
}

fn run_drill(dir: &Path, copy_bytes_max: u64, verifier: Verifier<'_>) -> Result<Drill, DrillError> {
    let work = tempfile::tempdir().unwrap();
    let keys = [key()];
    let settings = Settings { dir, keys: &keys, work: work.path(), copy_bytes_max };
    drill(&settings, verifier, &mut |_, _| true)
}

fn verifier(dir: &Path, options: &Options) -> Result<Report, AuditError> {
    verify_dir(dir, options, &mut |_| {})
}

/// Everything that was done is caught; names the cases that the log has nothing for.
fn assert_caught(drill: &Drill) -> Vec<&'static str> {
    assert_eq!(drill.failed(), 0, "{}", drill.to_text("2026-11-28T00:00:00Z"));
    let not_done = |case: &&CaseResult| matches!(case.outcome, Outcome::NotDone { .. });
    drill.cases.iter().filter(not_done).map(|case| case.name).collect()
}

fn files(dir: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    let mut files: Vec<_> = files.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn every_case_is_caught_on_a_closed_log_which_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open(folder.path());
    decide(&mut opened, 2000);
    wait_signed(&opened.log, 2000);
    decide(&mut opened, 2000);
    opened.log.close(PATIENCE).unwrap();
    let before = files(folder.path());
    let drill = run_drill(folder.path(), u64::MAX, &verifier).unwrap();
    assert_eq!(assert_caught(&drill), Vec::<&str>::new());
    assert!(drill.cases.len() >= 44 && drill.segments >= 5 && drill.size == drill.log_size);
    assert_eq!(files(folder.path()), before);
    // The same again, to the byte: nothing in it is left to chance.
    let again = run_drill(folder.path(), u64::MAX, &verifier).unwrap();
    assert_eq!(drill.to_text("now"), again.to_text("now"));
}

#[test]
fn a_log_that_is_being_written_is_drilled_up_to_what_was_signed() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open(folder.path());
    for signed in [2000, 4000] {
        decide(&mut opened, 2000);
        wait_signed(&opened.log, signed);
    }
    decide(&mut opened, 40);
    let drill = run_drill(folder.path(), u64::MAX, &verifier).unwrap();
    assert_eq!(assert_caught(&drill), Vec::<&str>::new());
    decide(&mut opened, 40);
    opened.log.close(PATIENCE).unwrap();
}

#[test]
fn of_a_long_log_the_beginning_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open(folder.path());
    for round in 1..=10 {
        decide(&mut opened, 100);
        wait_signed(&opened.log, round * 100);
    }
    decide(&mut opened, 2000);
    opened.log.close(PATIENCE).unwrap();
    let drill = run_drill(folder.path(), 3 * 136 * 1024, &verifier).unwrap();
    assert!(drill.size < drill.log_size && drill.segments < 5, "{drill:?}");
    let left_out = assert_caught(&drill);
    assert!(left_out.contains(&"two-segments-gone") && left_out.len() < 5, "{left_out:?}");
    // Less than a checkpoint is nothing to hold anything to.
    let refused = run_drill(folder.path(), 2000, &verifier).unwrap_err();
    assert!(matches!(refused, DrillError::TooLittle(_)), "{refused}");
}

#[test]
fn what_a_small_log_is_too_small_for_is_said_and_not_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open(folder.path());
    decide(&mut opened, 20);
    opened.log.close(PATIENCE).unwrap();
    let drill = run_drill(folder.path(), u64::MAX, &verifier).unwrap();
    assert_eq!(drill.failed(), 0);
    assert!(drill.not_done() >= 5 && drill.summary().contains("not done, for which"), "{}", drill.summary());
}

#[test]
fn a_verification_that_accepts_everything_fails_the_drill() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open(folder.path());
    decide(&mut opened, 4000);
    opened.log.close(PATIENCE).unwrap();
    let good = verify_dir(folder.path(), &Options { keys: vec![key()], ..Options::default() }, &mut |_| {});
    let good = good.unwrap();
    let credulous = |_: &Path, _: &Options| Ok(good.clone());
    let drill = run_drill(folder.path(), u64::MAX, &credulous).unwrap();
    let missed = |case: &CaseResult| case.outcome == Outcome::Missed;
    assert!(drill.cases.iter().all(missed), "{}", drill.to_text(""));
    assert_eq!(drill.failed(), drill.cases.len());

    // One that finds something, but not what was done, or not there.
    let mut wrong = good.clone();
    wrong.breaks = vec![Break {
        class: Class::Duplicate,
        segment: 1,
        offset: 0,
        seq: 1,
        records: 1,
        detail: String::new(),
    }];
    let copy_is_whole = std::cell::Cell::new(true);
    let confused =
        |_: &Path, _: &Options| Ok(if copy_is_whole.take() { good.clone() } else { wrong.clone() });
    let drill = run_drill(folder.path(), u64::MAX, &confused).unwrap();
    assert_eq!(drill.failed(), drill.cases.len(), "{}", drill.to_text(""));

    // One that does not look at signatures misses those cases, and no other.
    let blind = |dir: &Path, options: &Options| {
        verifier(dir, &Options { keys: Vec::new(), allow_unsigned: true, ..options.clone() })
    };
    let drill = run_drill(folder.path(), u64::MAX, &blind).unwrap();
    let failed = |case: &&CaseResult| !matches!(case.outcome, Outcome::Caught { .. });
    let failed: Vec<_> = drill.cases.iter().filter(failed).map(|case| case.name).collect();
    assert!(failed.contains(&"signature-bit") && !failed.contains(&"body-bit"), "{failed:?}");
}

#[test]
fn a_log_that_is_damaged_or_unsigned_is_not_drilled() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open(folder.path());
    decide(&mut opened, 100);
    opened.log.close(PATIENCE).unwrap();
    let segment = folder.path().join("0000000001.seg");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[3000] ^= 1;
    fs::remove_file(&segment).unwrap();
    fs::write(&segment, bytes).unwrap();
    let refused = run_drill(folder.path(), u64::MAX, &verifier).unwrap_err();
    assert!(matches!(refused, DrillError::NotWhole(_) | DrillError::TooLittle(_)), "{refused}");
    fs::remove_file(folder.path().join("checkpoint")).unwrap();
    let refused = run_drill(folder.path(), u64::MAX, &verifier).unwrap_err();
    assert!(matches!(refused, DrillError::Checkpoint(_)), "{refused}");
}

#[test]
fn an_interrupted_drill_shows_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open(folder.path());
    decide(&mut opened, 20);
    opened.log.close(PATIENCE).unwrap();
    let work = tempfile::tempdir().unwrap();
    let keys = [key()];
    let settings = Settings { dir: folder.path(), keys: &keys, work: work.path(), copy_bytes_max: u64::MAX };
    let stopped = drill(&settings, &verifier, &mut |done, _| done < 3);
    assert!(matches!(stopped, Err(DrillError::Interrupted)), "{stopped:?}");
}
