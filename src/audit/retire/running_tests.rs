//! Retention of running logs on a real disk, and the starts behind it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::*;
use crate::audit::{
    Ack, EraseEvent, Event, RecordId,
    folder::segment_name,
    proof::find_id,
    running::{PATIENCE, Signed, classes, filled, key, key_of, open_by, options, retire, until},
    stored::Segments,
    verify::{Class, Mode, Options, verify_dir},
    walk::read_record,
};

/// A folder for the log, and one for its archives.
fn folders(parent: &Path) -> (PathBuf, PathBuf) {
    let (dir, place) = (parent.join("log"), parent.join("archives"));
    fs::create_dir(&place).unwrap();
    (dir, place)
}

#[test]
fn what_is_left_behind_retired_segments_is_signed_without_a_tree_beside_it_and_by_another_key() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, place) = folders(parent.path());
    let (opened, _) = filled(&dir, Signed::Soon);
    let first = retire(&opened, &place);
    assert!(first > 1 && !dir.join(segment_name(1)).exists());
    let mut size = opened.log.status().size;
    opened.log.close(PATIENCE).unwrap();
    for number in [3, 4] {
        // It may be deleted; and that of another key is none.
        if number == 3 {
            fs::remove_file(dir.join("checkpoint.tree")).unwrap();
        } else {
            // The key before is lost.
            fs::remove_file(dir.join("checkpoint.key")).unwrap();
        }
        let opened = open_by(&dir, Signed::Soon, number).unwrap();
        until(|| opened.log.status().signed_size > size || opened.log.status().failure.is_some());
        assert!(opened.log.status().failure.is_none(), "{:?}", opened.log.status().failure);
        let before = std::mem::replace(&mut size, opened.log.status().size);
        opened.log.close(PATIENCE).unwrap();
        let keys = vec![key(), key_of(4)];
        let report = verify_dir(&dir, &Options { keys, ..options() }, &mut |_| {}).unwrap();
        assert_eq!(classes(&report), [], "{report:?}");
        assert!(report.signed_size > before, "{report:?}");
    }
}

#[test]
fn a_start_without_a_tree_names_the_segment_that_nobody_retired() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, _) = folders(parent.path());
    filled(&dir, Signed::Soon).0.log.close(PATIENCE).unwrap();
    fs::remove_file(dir.join(segment_name(1))).unwrap();
    fs::remove_file(dir.join("checkpoint.tree")).unwrap();
    let refused = open_by(&dir, Signed::Soon, 3).map(drop).unwrap_err();
    assert!(matches!(refused, AuditError::Damaged { segment: 1, .. }), "{refused}");
}

#[test]
fn what_an_erase_says_of_a_retired_record_is_judged_with_the_archives_at_hand() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, place) = folders(parent.path());
    let (mut opened, ids) = filled(&dir, Signed::Soon);
    let seq = find_seq_of(&dir, ids[5]);
    let erase = EraseEvent { seq, body_digest: &[7; 32], authority: "a", reason: "b" };
    let appender = opened.appenders.last_mut().unwrap();
    let id = appender.append(&Event::Erase(erase), Ack::Durable).unwrap();
    appender.submit();
    appender.wait(id, Ack::Durable, PATIENCE).unwrap();
    assert!(retire(&opened, &place) > 1);
    opened.log.close(PATIENCE).unwrap();
    let alone = verify_dir(&dir, &options(), &mut |_| {}).unwrap();
    assert_eq!(classes(&alone), [], "it is not there to be compared: {alone:?}");
    for mode in [Mode::Full, Mode::Range { from: 0, to: 1 << 40 }] {
        let with = Options { archives: Some(place.clone()), mode, ..options() };
        let report = verify_dir(&dir, &with, &mut |_| {}).unwrap();
        assert_eq!(classes(&report), [Class::BadErase], "{mode:?} {report:?}");
    }
}

fn find_seq_of(dir: &Path, id: RecordId) -> u64 {
    let (segment, offset) = find_id(Segments::of(dir), id).unwrap().unwrap();
    let bytes = fs::read(dir.join(segment_name(segment))).unwrap();
    read_record(&bytes, usize::try_from(offset).unwrap()).unwrap().header.seq
}
