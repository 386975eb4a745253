//! What is stored is read again before it is signed: a follower on logs whose stored bytes somebody changed.

use std::path::Path;

use super::*;
use crate::audit::{
    Ack, Event, Settings, StopEvent, open,
    record::{Link, chain},
    walk::{SegmentOpen, genesis_hash},
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
    let mut starts = vec![0];
    while let Ok(record) = read_record(&bytes, *starts.last().unwrap()) {
        starts.push(record.next);
    }
    starts.pop();
    (bytes, starts)
}

/// Follows the stored bytes up to `durable`.
fn follow(dir: &Path, bytes: &[u8], durable: Head) -> Result<(), SealError> {
    let open = SegmentOpen::read(&read_record(bytes, 0).unwrap()).unwrap();
    let key = CheckpointKey { name: open.origin.clone(), verifying_key: [0; 32] };
    let mut follower = Follower::resume(dir, &key, durable.size).unwrap();
    follower.begin(Head { size: 0, hash: genesis_hash(&open.origin, &open.log_id) });
    follower.follow(durable)
}

fn head(record: &crate::audit::walk::Record<'_>) -> Head {
    Head { size: record.header.seq + 1, hash: record.hash }
}

#[test]
fn what_is_stored_must_end_as_it_was_chained() {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, starts) = log(folder.path());
    let last = read_record(&bytes, *starts.last().unwrap()).unwrap();
    follow(folder.path(), &bytes, head(&last)).unwrap();
    let other = Head { hash: [7; 32], ..head(&last) };
    let error = follow(folder.path(), &bytes, other).unwrap_err();
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
        let (header, end) = (record.header, at + HEADER_BYTES + record.body.len());
        let mut prev_hash = header.prev_hash;
        prev_hash[0] ^= hash_off;
        let link = Link { seq: header.seq + seq_off, wall_ns: header.wall_ns, mono_ns: header.mono_ns };
        let hash = chain(&mut bytes[at..end], link, &prev_hash);
        let path = folder.path().join(segment_name(1));
        fs::remove_file(&path).unwrap();
        fs::write(&path, &bytes).unwrap();
        // As if the sequencer had meant it so: the link alone can tell.
        let error = follow(folder.path(), &bytes, Head { size: header.seq + 1, hash }).unwrap_err();
        assert!(
            matches!(&error, SealError::Stored(failure) if failure.detail.contains("does not continue the chain")),
            "{error:?}"
        );
    }
}
