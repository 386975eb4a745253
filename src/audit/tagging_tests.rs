//! A key takes another's place while shards record.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::*;
use crate::audit::{
    Ack, Appender, DecisionEvent, Event, Opened, Settings, Tail, hold::Hold, open, schema, schema::Kind,
    tag::TagField, verify,
};
use crate::decision::Decision;

const PATIENCE: Duration = Duration::from_secs(30);

fn settings(dir: &Path) -> Settings {
    Settings { create: true, segment_bytes: 1 << 20, ..Settings::new(dir, "test.example/tags") }
}

fn append(appender: &mut Appender) -> RecordId {
    let event = Event::Decision(DecisionEvent {
        surface: 1,
        decision: Decision::Accepted,
        issuer: "agents",
        kid: "k",
        tenant: "acme",
        caller: "",
        subject: Some("alice"),
        jti: None,
        client: None,
        policy_epoch: 1,
        revocation_epoch: 1,
        latency_us: 1,
        expires: None,
        stale: false,
    });
    let id = appender.append(&event, Ack::Recorded).unwrap();
    appender.submit();
    id
}

/// The tags of all decisions, by the epoch that their segment states, and how many there are.
fn tags_by_epoch(dir: &Path) -> (BTreeMap<u64, BTreeSet<Vec<u8>>>, u64) {
    let mut tail = Tail::first(dir).unwrap();
    let (mut tags, mut epoch, mut count) = (BTreeMap::<_, BTreeSet<_>>::new(), 0, 0);
    while let Some(entry) = tail.next().unwrap() {
        let body = entry.read_body().unwrap();
        match Kind::from_code(entry.header.kind) {
            Some(Kind::SegmentOpen) => epoch = schema::uint(&body, 10).unwrap(),
            Some(Kind::Decision) => {
                count += 1;
                tags.entry(epoch).or_default().insert(schema::bytes(&body, 6).unwrap().to_vec());
            }
            _ => {}
        }
    }
    (tags, count)
}

#[test]
fn every_tag_is_of_the_epoch_its_segment_states_whoever_records_while_keys_change() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { appenders, log, .. } = open(&settings(folder.path()), 3).unwrap();
    let tags = log.tags();
    let stop = AtomicBool::new(false);
    let appended: u64 = std::thread::scope(|scope| {
        let shards: Vec<_> = appenders
            .into_iter()
            .map(|mut appender| {
                let stop = &stop;
                scope.spawn(move || {
                    let mut count = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let id = append(&mut appender);
                        appender.wait(id, Ack::Recorded, PATIENCE).unwrap();
                        count += 1;
                    }
                    // Once more, with the last key.
                    let id = append(&mut appender);
                    appender.wait(id, Ack::Recorded, PATIENCE).unwrap();
                    count + 1
                })
            })
            .collect();
        let segment = || log.status().segment;
        for epoch in 2..=4 {
            let before = segment();
            assert_eq!(tags.rotate().unwrap(), epoch);
            while segment() == before {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
        shards.into_iter().map(|shard| shard.join().unwrap()).sum()
    });
    log.close(PATIENCE).unwrap();

    let (by_epoch, count) = tags_by_epoch(folder.path());
    assert_eq!(count, appended);
    let keys = TagKeys::load(folder.path(), None).unwrap();
    for (epoch, tags) in &by_epoch {
        let Some(EpochKey::Kept(key)) = keys.of(*epoch) else { panic!("epoch {epoch}") };
        let expected = key.tag(TagField::Subject, b"alice");
        assert_eq!(tags.iter().collect::<Vec<_>>(), [&expected.to_vec()], "epoch {epoch}");
    }
    assert!(by_epoch.contains_key(&4), "{:?}", by_epoch.keys());
    let options = verify::Options { allow_unsigned: true, ..verify::Options::default() };
    let report = verify::verify_dir(folder.path(), &options, &mut |_| {}).unwrap();
    assert!(report.breaks.is_empty(), "{:?}", report.breaks);
}

#[test]
fn the_newest_key_is_used_at_the_next_start_and_missed_if_it_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let opened = open(&settings(dir), 0).unwrap();
    assert_eq!(opened.log.tags().rotate().unwrap(), 2);
    // Nothing was recorded in between: the next start begins the epoch.
    opened.log.close(PATIENCE).unwrap();
    let Opened { mut appenders, log, .. } = open(&settings(dir), 0).unwrap();
    assert_eq!(log.tags().epoch(), 2);
    let id = append(&mut appenders[0]);
    appenders[0].wait(id, Ack::Durable, PATIENCE).unwrap();
    log.close(PATIENCE).unwrap();
    assert_eq!(tags_by_epoch(dir).0.into_keys().collect::<Vec<_>>(), [2]);

    let kept = dir.join("kept");
    fs::rename(key_path(dir, 2), &kept).unwrap();
    let files =
        || fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect::<BTreeSet<_>>();
    let before = files();
    let refused = open(&settings(dir), 0).map(|_| ()).unwrap_err();
    assert!(matches!(&refused, AuditError::TagKeyMissing { path } if *path == key_path(dir, 2)), "{refused}");
    assert_eq!(files(), before, "nothing is begun");
    fs::rename(&kept, key_path(dir, 2)).unwrap();
    // One of an epoch that is over is missed by who looks something up.
    fs::remove_file(key_path(dir, 1)).unwrap();
    open(&settings(dir), 0).unwrap().log.close(PATIENCE).unwrap();
}

#[test]
fn only_a_key_of_an_epoch_that_is_over_is_destroyed_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let Opened { mut appenders, log, .. } = open(&settings(dir), 0).unwrap();
    let tags = log.tags();
    let record = append(&mut appenders[0]);
    assert!(matches!(tags.destroy(1, record), Err(AuditError::TagKeyInUse { epoch: 1 })));
    assert!(matches!(tags.destroy(2, record), Err(AuditError::TagKeyMissing { .. })));
    // As a rotation that was interrupted leaves it: the next one takes it.
    tag_file::create(&key_path(dir, 2), 2, None).unwrap();
    assert!(matches!(tags.destroy(2, record), Err(AuditError::TagKeyMissing { .. })));
    assert_eq!(tags.rotate().unwrap(), 2);
    let mut holds = Holds::default();
    let text = str::to_owned;
    let (name, authority, reason) = (text("case-7"), text("court"), text("claim"));
    holds.place(Hold { name, from_ns: 1, to_ns: 2, authority, reason }).unwrap();
    holds.store(dir).unwrap();
    assert!(matches!(tags.destroy(1, record), Err(AuditError::Held { name }) if name == "case-7"));
    holds.release("case-7").unwrap();
    holds.store(dir).unwrap();
    tags.destroy(1, record).unwrap();
    assert!(!key_path(dir, 1).exists());
    assert!(matches!(tags.destroy(1, record), Err(AuditError::TagKeyDestroyed { epoch: 1, .. })));
    log.close(PATIENCE).unwrap();
    open(&settings(dir), 0).unwrap().log.close(PATIENCE).unwrap();
}
