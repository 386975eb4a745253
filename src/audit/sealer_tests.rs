//! What is stored is read again before it is signed: a follower on logs whose stored bytes somebody changed.

use std::{fs, path::Path};

use ed25519_dalek::{Signer as _, SigningKey};

use super::*;
use crate::audit::{
    Ack, AuditError, Event, Settings, StopEvent,
    folder::segment_name,
    open, open_signed,
    record::Hash,
    recover_tests::{forge, records},
    running::{Signed, decision, open_log, until},
    walk::{SegmentOpen, genesis_hash, read_record},
    writer::Head,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// A closed log of some events: its bytes, and where each record starts.
fn log(dir: &Path) -> (Vec<u8>, Vec<usize>) {
    let settings =
        Settings { create: true, segment_bytes: 256 * 1024, ..Settings::new(dir, "test.example/log") };
    let mut opened = open(&settings, 1).unwrap();
    for reason in ["one", "two", "three"] {
        let id = opened.appenders[0].append(&Event::Stop(StopEvent { reason }), Ack::Durable).unwrap();
        opened.appenders[0].wait(id, Ack::Durable, PATIENCE).unwrap();
    }
    opened.log.close(PATIENCE).unwrap();
    let bytes = fs::read(dir.join(segment_name(1))).unwrap();
    let starts = records(&bytes).into_iter().map(|(start, _)| start).collect();
    (bytes, starts)
}

/// A follower that has read the stored bytes up to `durable`.
fn followed(dir: &Path, bytes: &[u8], durable: Head) -> Result<Follower, SealError> {
    let open = SegmentOpen::read(&read_record(bytes, 0).unwrap()).unwrap();
    let mut follower = Follower::resume(dir, &signing_key().1, durable.size).unwrap();
    follower.begin(Head { size: 0, hash: genesis_hash(&open.origin, &open.log_id) });
    follower.follow(durable)?;
    Ok(follower)
}

fn signing_key() -> (SigningKey, CheckpointKey) {
    let key = SigningKey::from_bytes(&[3; 32]);
    let verifying_key = key.verifying_key().to_bytes();
    (key, CheckpointKey::new("test.example/log", verifying_key))
}

/// What a start says of a log for which `follower` would vouch with this hash of its last record.
fn vouched(dir: &Path, follower: &mut Follower, hash: Hash) -> Result<Follower, AuditError> {
    let (signing, key) = signing_key();
    follower.fold();
    let (size, root) = (follower.tree.end(), follower.tree.root().unwrap());
    let checkpoint = Checkpoint { origin: key.name.clone(), size, root };
    let note = checkpoint.to_note(&key, &signing.sign(checkpoint.to_text().as_bytes()).to_bytes());
    follower.head.hash = hash;
    fs::write(dir.join(TREE_FILE), follower.to_text(&note)).unwrap();
    Follower::resume(dir, &key, size)
}

#[test]
fn whoever_waits_gets_a_checkpoint_though_only_the_logs_own_records_are_new() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open_log(folder.path(), Signed::Soon);
    let id = opened.appenders[0].append(&decision("one"), Ack::Durable).unwrap();
    opened.appenders[0].wait(id, Ack::Durable, PATIENCE).unwrap();
    let watch = opened.log.watch();
    // The CHECKPOINT and its COMMIT stand behind what was signed, and nothing else comes.
    until(|| {
        let status = watch.status();
        status.signed_size > 0 && status.durable_size > status.signed_size
    });
    let size = watch.durable_to_be_signed();
    until(|| watch.status().signed_size >= size);
    opened.log.close(PATIENCE).unwrap();
}

#[test]
fn a_log_whose_signed_record_is_another_one_was_rolled_back() {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, starts) = log(folder.path());
    let last = head(&read_record(&bytes, *starts.last().unwrap()).unwrap());
    let mut follower = followed(folder.path(), &bytes, last).unwrap();
    assert_eq!(vouched(folder.path(), &mut follower, last.hash).unwrap().head, last);
    match vouched(folder.path(), &mut follower, [7; 32]) {
        Err(AuditError::RolledBack { cause, .. }) => assert!(cause.contains("its hash differs"), "{cause}"),
        other => panic!("{:?}", other.map(|follower| follower.head)),
    }
}

fn head(record: &crate::audit::walk::Record<'_>) -> Head {
    Head { size: record.header.seq + 1, hash: record.hash }
}

#[test]
fn a_checkpoint_signed_by_another_key_is_not_published() {
    let folder = tempfile::tempdir().unwrap();
    let other = SigningKey::from_bytes(&[4; 32]);
    let signer = CheckpointSigner {
        verifying_key: signing_key().1.verifying_key,
        sign: Box::new(move |message| Ok(other.sign(message).to_bytes())),
    };
    let settings = Settings { create: true, ..Settings::new(folder.path(), "test.example/log") };
    let mut opened = open_signed(&settings, 1, Some(signer)).unwrap();
    let id = opened.appenders[0].append(&Event::Stop(StopEvent { reason: "one" }), Ack::Durable).unwrap();
    opened.appenders[0].wait(id, Ack::Durable, PATIENCE).unwrap();
    // The last try to sign is part of the close.
    opened.log.close(PATIENCE).unwrap();
    assert!(!folder.path().join(CHECKPOINT_FILE).exists() && !folder.path().join(TREE_FILE).exists());
}

#[test]
fn what_is_stored_must_end_as_it_was_chained() {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, starts) = log(folder.path());
    let last = read_record(&bytes, *starts.last().unwrap()).unwrap();
    followed(folder.path(), &bytes, head(&last)).unwrap();
    let other = Head { hash: [7; 32], ..head(&last) };
    let error = followed(folder.path(), &bytes, other).map(drop).unwrap_err();
    assert!(
        matches!(&error, SealError::Stored(failure) if failure.detail.contains("not the one that was chained")),
        "{error:?}"
    );
}

#[test]
fn a_stored_record_that_is_whole_but_not_the_next_one_is_not_signed() {
    for (seq_off, hash_off) in [(1, 0), (0, 1)] {
        let folder = tempfile::tempdir().unwrap();
        let (mut bytes, starts) = log(folder.path());
        let at = starts[starts.len() - 2];
        let record = read_record(&bytes, at).unwrap();
        let seq = record.header.seq;
        let (forged, hash) = forge(&record, &bytes[at..], seq_off, hash_off);
        bytes[at..at + forged.len()].copy_from_slice(&forged);
        let path = folder.path().join(segment_name(1));
        fs::remove_file(&path).unwrap();
        fs::write(&path, &bytes).unwrap();
        // As if the sequencer had meant it so: the link alone can tell.
        let durable = Head { size: seq + 1, hash };
        let error = followed(folder.path(), &bytes, durable).map(drop).unwrap_err();
        assert!(
            matches!(&error, SealError::Stored(failure) if failure.detail.contains("does not continue the chain")),
            "{error:?}"
        );
    }
}
