//! The log as its users see it, on a real folder.

use std::{fs, net::Ipv4Addr, path::Path, time::Duration};

use super::*;
use crate::decision::{Decision, Rejection, UnixSeconds};

const SECOND: Duration = Duration::from_secs(10);

fn settings(dir: &Path) -> Settings {
    let mut settings = Settings::new(dir, "test.example/log");
    settings.segment_bytes = 256 * 1024;
    settings.flush_interval = Duration::from_millis(5);
    settings.create = true;
    settings
}

fn decision(number: u32) -> DecisionEvent<'static> {
    DecisionEvent {
        surface: 1,
        decision: if number.is_multiple_of(3) { Rejection::Expired.into() } else { Decision::Accepted },
        issuer: "agents",
        kid: "k1",
        tenant: "acme",
        caller: "",
        subject: Some("agent-7"),
        jti: Some("5b3c"),
        client: Some(Ipv4Addr::LOCALHOST.into()),
        policy_epoch: 1,
        revocation_epoch: 9,
        latency_us: number,
        expires: Some(UnixSeconds(1_900_000_000)),
    }
}

#[test]
fn events_are_recorded_then_durable_and_survive_a_close() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { mut appenders, log, recovery } = open(&settings(folder.path()), 2).unwrap();
    assert!(recovery.created && appenders.len() == 3);
    let mut last = None;
    for number in 0..100 {
        let expected = appenders[1].peek_id();
        let id = appenders[1].append(&Event::Decision(decision(number)), Ack::Recorded).unwrap();
        assert_eq!(id, expected);
        last = Some(id);
    }
    appenders[1].wait(last.unwrap(), Ack::Recorded, SECOND).unwrap();
    let stop = appenders[2].append(&Event::Stop(StopEvent { reason: "test" }), Ack::Durable).unwrap();
    appenders[2].wait(stop, Ack::Durable, SECOND).unwrap();
    let status = log.status();
    assert!(status.size >= 102 && status.failure.is_none());
    log.close(SECOND).unwrap();
    assert!(matches!(
        appenders[0].append(&Event::Stop(StopEvent { reason: "late" }), Ack::Recorded),
        Err(AuditError::Refused(failure)) if failure.kind == FailureKind::Closed
    ));
    let Opened { log, recovery, .. } = open(&settings(folder.path()), 2).unwrap();
    assert!(recovery.clean && recovery.torn.is_empty() && recovery.size > 102, "{recovery:?}");
    log.close(SECOND).unwrap();
}

#[test]
fn a_log_that_was_not_closed_is_recovered_whole() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { mut appenders, log, .. } = open(&settings(folder.path()), 1).unwrap();
    let mut last = None;
    for number in 0..5000 {
        last = Some(appenders[0].append(&Event::Decision(decision(number)), Ack::Recorded).unwrap());
        appenders[0].submit();
    }
    appenders[0].wait(last.unwrap(), Ack::Recorded, SECOND).unwrap();
    let size = log.status().size;
    assert!(log.status().segment > 2, "segments roll");
    drop(log);
    let Opened { log, recovery, .. } = open(&settings(folder.path()), 1).unwrap();
    assert!(!recovery.clean && recovery.torn.is_empty() && recovery.size >= size, "{recovery:?}");
    drop(log);
}

#[test]
fn a_folder_without_a_log_is_not_given_one_by_a_typo() {
    let folder = tempfile::tempdir().unwrap();
    let mut typo = settings(folder.path());
    typo.create = false;
    assert!(matches!(open(&typo, 1), Err(AuditError::NotFound { .. })));
    typo.dir = folder.path().join("nowhere");
    assert!(matches!(open(&typo, 1), Err(AuditError::NotFound { .. })));
    assert_eq!(
        fs::read_dir(folder.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name() != "LOCK")
            .count(),
        0
    );
}

#[test]
fn two_processes_cannot_open_one_log() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(&settings(folder.path()), 1).unwrap();
    assert!(matches!(open(&settings(folder.path()), 1), Err(AuditError::Locked { .. })));
    drop(first);
    open(&settings(folder.path()), 1).unwrap();
}

#[test]
fn another_logs_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(&settings(folder.path()), 1).unwrap());
    let mut other = settings(folder.path());
    other.origin = "test.example/other".into();
    assert!(matches!(open(&other, 1), Err(AuditError::OriginMismatch { .. })));
}
