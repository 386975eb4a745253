//! A running log of several segments on a real disk, for the tests of what is done to one.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use ed25519_dalek::{Signer as _, SigningKey};

use super::{
    Ack, AuditError, CheckpointKey, CheckpointSigner, DecisionEvent, Event, Handover, Opened, RecordId,
    Settings,
    note::Checkpoint,
    open_signed,
    record::Hash,
    retire::Order,
    stored::list_segments,
    verify::{Class, Options, Report, verify_dir},
};
use crate::decision::Decision;

pub(super) const ORIGIN: &str = "test.example/log";
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

const FIRST_KEY: u8 = 3;

/// Enough for four of the smallest segments.
pub(super) const DECISIONS: u32 = 2000;

/// When checkpoints are signed.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Signed {
    Soon,
    /// Once, at the start.
    OnceOnly,
}

pub(super) fn open_log(dir: &Path, signed: Signed) -> Opened {
    open_by(dir, signed, FIRST_KEY).unwrap()
}

/// As [`open_log`], with the key of this number.
pub(super) fn open_by(dir: &Path, signed: Signed, key: u8) -> Result<Opened, AuditError> {
    let often = if signed == Signed::Soon { Duration::from_millis(4) } else { Duration::from_secs(3600) };
    let settings = Settings {
        segment_bytes: 136 * 1024,
        flush_interval: Duration::from_millis(2),
        checkpoint_interval: often,
        checkpoint_idle: often.max(Duration::from_secs(60)),
        create: true,
        ..Settings::new(dir, ORIGIN)
    };
    open_signed(&settings, 1, Some(signer_of(key)))
}

/// Signs with the key of this number.
pub(super) fn signer_of(number: u8) -> CheckpointSigner {
    let key = SigningKey::from_bytes(&[number; 32]);
    CheckpointSigner {
        verifying_key: key.verifying_key().to_bytes(),
        sign: Box::new(move |message| Ok(key.sign(message).to_bytes())),
    }
}

/// The key of one number gives way to another's at this size.
pub(super) fn handover(old: u8, new: u8, size: u64, root: Hash) -> Handover {
    let checkpoint = Checkpoint { origin: ORIGIN.into(), size, root };
    let keys = [key_of(old), key_of(new)];
    let text = Handover::text(&checkpoint, &keys[0], &keys[1]);
    let signatures = [old, new].map(|number| sign(number, &text));
    Handover::new(&checkpoint, keys.each_ref(), signatures.each_ref()).unwrap()
}

pub(super) fn sign(number: u8, text: &str) -> [u8; 64] {
    SigningKey::from_bytes(&[number; 32]).sign(text.as_bytes()).to_bytes()
}

pub(super) fn key() -> CheckpointKey {
    key_of(FIRST_KEY)
}

pub(super) fn key_of(number: u8) -> CheckpointKey {
    let verifying_key = SigningKey::from_bytes(&[number; 32]).verifying_key().to_bytes();
    CheckpointKey::new(ORIGIN, verifying_key)
}

pub(super) fn decision(subject: &str) -> Event<'_> {
    Event::Decision(DecisionEvent {
        surface: 1,
        decision: Decision::Accepted,
        issuer: "agents",
        kid: subject,
        tenant: "acme",
        caller: "",
        subject: Some(subject),
        jti: None,
        client: None,
        policy_epoch: 1,
        revocation_epoch: 2,
        latency_us: 3,
        expires: None,
        stale: false,
    })
}

/// Appends so many decisions; returns their ids.
pub(super) fn decide(opened: &mut Opened, count: u32) -> Vec<RecordId> {
    let appender = &mut opened.appenders[0];
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(appender.append(&decision(&format!("person-{n}")), Ack::Durable).unwrap());
        appender.submit();
    }
    appender.wait(*ids.last().unwrap(), Ack::Durable, PATIENCE).unwrap();
    ids
}

pub(super) fn until(what: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !what() {
        assert!(Instant::now() < deadline, "it does not come");
        std::thread::yield_now();
    }
}

/// An open log of several segments, signed; the ids of its decisions.
pub(super) fn filled(dir: &Path, signed: Signed) -> (Opened, Vec<RecordId>) {
    let mut opened = open_log(dir, Signed::Soon);
    let ids = decide(&mut opened, DECISIONS);
    until(|| opened.log.status().signed_size > u64::from(DECISIONS));
    assert!(opened.log.status().segment > 2);
    until(|| list_segments(dir).unwrap().iter().filter(|file| file.finished).count() > 1);
    if signed == Signed::Soon {
        return (opened, ids);
    }
    opened.log.close(PATIENCE).unwrap();
    (open_log(dir, signed), ids)
}

pub(super) const EVERYTHING: Order<'static> =
    Order { before_ns: u64::MAX, authority: "policy", reason: "old" };

/// Retires what can be; returns the first segment that is left.
pub(super) fn retire(opened: &Opened, place: &Path) -> u64 {
    let mut retainer = opened.log.retainer().unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "nothing is retired");
        // The newest checkpoint may be on its way.
        if let Some(last) = retainer.turn(place, &EVERYTHING).unwrap().retired.last() {
            return last.segment + 1;
        }
    }
}

pub(super) fn options() -> Options {
    Options { keys: vec![key()], allow_unsigned: true, threads: 1, ..Options::default() }
}

pub(super) fn verify(dir: &Path) -> Report {
    verify_dir(dir, &options(), &mut |_| {}).unwrap()
}

pub(super) fn classes(report: &Report) -> Vec<Class> {
    report.breaks.iter().map(|found| found.class).collect()
}
