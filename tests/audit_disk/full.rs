//! A disk without room: while appending, at the roll, at the seal, at a checkpoint, at the close.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use ed25519_dalek::{Signer as _, SigningKey};
use edgate::audit::{
    Ack, AuditError, CheckpointSigner, Event, FailureKind, Opened, SinkKind, StopEvent, open, open_signed,
};

use crate::{
    PATIENCE, append_until_refused, decision,
    disk::{FileSystem, Mounted},
    records, settings, until, whole,
};

#[test]
fn a_full_disk_refuses_shards_at_once_keeps_the_operator_and_heals() {
    for sink in [SinkKind::Map, SinkKind::Pwrite] {
        let Some(disk) = Mounted::new(FileSystem::Ext4, 16) else { return };
        let dir = disk.path().join("audit");
        let mut settings = settings(&dir);
        settings.sink = Some(sink);
        let Opened { mut appenders, log, .. } = open(&settings, 1).unwrap();
        let mut control = appenders.pop().unwrap();
        let mut shard = appenders.pop().unwrap();
        disk.fill();
        let (recorded, error) = append_until_refused(&mut shard);
        assert!(recorded > 1000, "{recorded}");
        assert!(
            matches!(&error, AuditError::Refused(failure) if failure.kind == FailureKind::DiskFull),
            "{error}"
        );
        let started = Instant::now();
        assert!(shard.append(&decision(), Ack::Recorded).is_err());
        assert!(started.elapsed() < Duration::from_millis(50), "a refusal must not hang");
        // The operator's actions still get through, durably.
        let id = control.append(&Event::Stop(StopEvent { reason: "disk full" }), Ack::Durable).unwrap();
        control.wait(id, Ack::Durable, PATIENCE).unwrap();

        disk.relieve();
        let until = Instant::now() + PATIENCE;
        let id = loop {
            match shard.append(&decision(), Ack::Durable) {
                Ok(id) => break id,
                Err(error) => assert!(Instant::now() < until, "service does not resume: {error}"),
            }
            std::thread::yield_now();
        };
        shard.wait(id, Ack::Durable, PATIENCE).unwrap();
        log.close(PATIENCE).unwrap();
        whole(&dir);
        assert!(tells_full_in_an_emergency_segment(&records(&dir)));
        let Opened { log, recovery, .. } = open(&settings, 1).unwrap();
        assert!(recovery.clean);
        log.close(PATIENCE).unwrap();
    }
}

#[test]
fn a_log_on_a_full_disk_can_still_be_closed_and_verified() {
    let Some(disk) = Mounted::new(FileSystem::Ext4, 16) else { return };
    let dir = disk.path().join("audit");
    let Opened { mut appenders, log, .. } = open(&settings(&dir), 1).unwrap();
    disk.fill();
    let (_, error) = append_until_refused(&mut appenders[0]);
    assert!(matches!(error, AuditError::Refused(_)), "{error}");
    until("the emergency segment", || tells_full_in_an_emergency_segment(&records(&dir)));
    log.close(PATIENCE).unwrap();
    whole(&dir);
    let records = records(&dir);
    let last: Vec<&str> = records.iter().rev().take(3).map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(
        last,
        ["segment_seal", "commit", "clean_close"],
        "closed in order, on a disk without a free block"
    );
}

/// Waits until the first log of a folder has everything that is made ahead.
fn stocked(dir: &Path) {
    for (name, bytes) in [("0000000002.seg", 1 << 20), ("0000000003.seg", 1 << 20), ("emergency", 1 << 20)] {
        until(name, || fs::metadata(dir.join(name)).is_ok_and(|file| file.len() == bytes));
    }
}

/// Whether an emergency segment was opened and says why.
fn tells_full_in_an_emergency_segment(records: &[(String, serde_json::Value)]) -> bool {
    let opened = records.iter().position(|(kind, body)| kind == "segment_open" && body["emergency"] == true);
    opened.is_some_and(|at| {
        let mut rest = records[at + 1..].iter().take_while(|(kind, _)| kind != "segment_open");
        rest.any(|(kind, body)| kind == "disk_state" && body["state"] == "full")
    })
}

#[test]
fn a_disk_that_is_full_when_a_segment_is_sealed_and_the_next_begun_refuses_nobody() {
    let Some(disk) = Mounted::new(FileSystem::Ext4, 16) else { return };
    let dir = disk.path().join("audit");
    let Opened { mut appenders, log, .. } = open(&settings(&dir), 1).unwrap();
    let first = log.status().segment;
    // The next segments are made ahead, so that neither step needs room.
    stocked(&dir);
    disk.fill();
    while log.status().segment == first {
        let id = appenders[0].append(&decision(), Ack::Durable).unwrap();
        appenders[0].wait(id, Ack::Durable, PATIENCE).unwrap();
    }
    let sealed = dir.join(format!("{first:010}.seg"));
    until("the seal", || fs::metadata(&sealed).unwrap().permissions().mode() & 0o777 == 0o400);
    disk.relieve();
    let id = appenders[0].append(&decision(), Ack::Durable).unwrap();
    appenders[0].wait(id, Ack::Durable, PATIENCE).unwrap();
    log.close(PATIENCE).unwrap();
    whole(&dir);
}

#[test]
fn a_checkpoint_without_room_is_made_when_there_is_room_again() {
    let Some(disk) = Mounted::new(FileSystem::Ext4, 16) else { return };
    let dir = disk.path().join("audit");
    let mut settings = settings(&dir);
    settings.checkpoint_interval = Duration::from_millis(4);
    settings.unsigned_age_max = Duration::from_millis(300);
    let key = SigningKey::from_bytes(&[3; 32]);
    let signer = CheckpointSigner {
        verifying_key: key.verifying_key().to_bytes(),
        sign: Box::new(move |message| Ok(key.sign(message).to_bytes())),
    };
    let Opened { mut appenders, log, .. } = open_signed(&settings, 1, Some(signer)).unwrap();
    let (mut shard, mut control) = (appenders.remove(0), appenders.remove(0));
    until("the first checkpoint", || log.status().signed_size > 0);
    // What is still being made could give up, and give room back.
    stocked(&dir);
    disk.fill();
    let unsigned_from = log.status().size;
    let id = shard.append(&decision(), Ack::Durable).unwrap();
    shard.wait(id, Ack::Durable, PATIENCE).unwrap();
    until("the refusal", || {
        log.status().failure.is_some_and(|failure| failure.kind == FailureKind::Unsigned)
    });
    assert!(log.status().signed_size <= unsigned_from, "what cannot be published does not count as signed");
    let refused = shard.append(&decision(), Ack::Recorded);
    assert!(matches!(refused, Err(AuditError::Refused(_))), "{refused:?}");
    let id = control.append(&Event::Stop(StopEvent { reason: "no room to sign" }), Ack::Durable).unwrap();
    control.wait(id, Ack::Durable, PATIENCE).unwrap();

    disk.relieve();
    until("the checkpoint", || log.status().signed_size > unsigned_from && log.status().failure.is_none());
    let id = shard.append(&decision(), Ack::Durable).unwrap();
    shard.wait(id, Ack::Durable, PATIENCE).unwrap();
    log.close(PATIENCE).unwrap();
    whole(&dir);
    // Some hundred tries found no room. What each of them writes is taken from the emergency segment.
    let checkpoints = records(&dir).iter().filter(|(kind, _)| kind == "checkpoint").count();
    assert!(checkpoints < 10, "{checkpoints} checkpoints were recorded for one new event");
}
