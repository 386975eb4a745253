//! The log on disks that misbehave: real file systems of a few megabytes that fill up, share blocks or shut down, and
//! files that are changed from outside. Mounting needs root; without it those tests say that they are skipped.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

#[path = "../support/disk.rs"]
mod disk;
mod doctor;
mod full;
mod outside;
mod running;
mod shared_blocks;
mod written;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use edgate::{
    audit::{
        Ack, Appender, AuditError, DecisionEvent, Event, Settings, Tail, Watermarks,
        verify::{Options, verify_dir},
    },
    decision::Decision,
};

const PATIENCE: Duration = Duration::from_secs(20);

fn settings(dir: &Path) -> Settings {
    Settings {
        segment_bytes: 1 << 20,
        flush_interval: Duration::from_millis(2),
        watermarks: Watermarks { full_bytes: 0, ..Watermarks::default() },
        create: true,
        ..Settings::new(dir, "test.example/disk")
    }
}

fn decision() -> Event<'static> {
    Event::Decision(DecisionEvent {
        surface: 1,
        decision: Decision::Accepted,
        issuer: "agents",
        kid: "k1",
        tenant: "acme",
        caller: "",
        subject: None,
        jti: None,
        client: None,
        policy_epoch: 1,
        revocation_epoch: 1,
        latency_us: 5,
        expires: None,
        stale: false,
    })
}

/// Appends until the log refuses; returns how many events were acknowledged, and the refusal.
fn append_until_refused(appender: &mut Appender) -> (u64, AuditError) {
    let mut recorded = 0;
    let until = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < until, "the disk never fills");
        match appender.append(&decision(), Ack::Recorded) {
            Ok(id) => match appender.wait(id, Ack::Recorded, Duration::from_secs(5)) {
                Ok(()) => recorded += 1,
                Err(error) => return (recorded, error),
            },
            Err(error) => return (recorded, error),
        }
    }
}

fn whole(dir: &Path) {
    let options = Options { allow_unsigned: true, ..Options::default() };
    let report = verify_dir(dir, &options, &mut |_| {}).unwrap();
    assert_eq!(report.breaks, vec![], "{report:?}");
}

/// Every record of a log: its kind and its body.
fn records(dir: &Path) -> Vec<(String, serde_json::Value)> {
    let mut tail = Tail::last(dir, usize::MAX, |_| true).unwrap();
    let next = || {
        tail.next().unwrap().map(|entry| {
            (
                entry.kind().into_owned(),
                serde_json::from_str::<serde_json::Value>(&entry.json()).unwrap()["body"].take(),
            )
        })
    };
    std::iter::from_fn(next).collect()
}

/// Asks until `done`.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} does not happen");
        std::thread::yield_now();
    }
}
