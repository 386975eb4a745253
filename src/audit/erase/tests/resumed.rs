//! What a start does with the list of what is being erased.

use super::*;
use crate::audit::{
    KeyHistory,
    archive::archive,
    folder::segment_name,
    proof::tree_at,
    retire::Kept,
    running::{EVERYTHING, handover, key_of, open_by, retire},
};

/// A log whose ERASE records are in effect and whose bodies are all still there, as when the node stops right then.
fn ordered(dir: &Path) -> Vec<Erasable> {
    let (mut opened, ids) = filled(dir, Signed::Soon);
    let wanted = some(&opened, &ids);
    let eraser = opened.log.eraser().unwrap();
    eraser.announce(&wanted).unwrap();
    order(&mut opened, &named(&wanted.erasable));
    let size = opened.log.status().durable_size;
    until(|| opened.log.status().signed_size >= size && eraser.watch.vouched_size() >= size);
    wanted.erasable
}

fn seqs(records: &[Erasable]) -> Vec<u64> {
    records.iter().map(|record| record.seq).collect()
}

#[test]
fn a_list_that_names_a_segment_that_is_gone_stops_no_start() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, place) = (folder.path().join("log"), folder.path().join("archives"));
    fs::create_dir(&place).unwrap();
    let (opened, ids) = filled(&dir, Signed::Soon);
    let records = some(&opened, &ids).erasable;
    assert!(retire(&opened, &place) > 1);
    drop(opened);
    let line = Erasing { segment: 1, seq: records[0].seq, body_digest: records[0].body_digest, from: 2 };
    let text =
        format!("{} {} {} {}\n", line.segment, line.seq, crate::audit::hex(&line.body_digest), line.from);
    fs::write(dir.join("erasing"), text).unwrap();
    let opened = open_log(&dir, Signed::Soon);
    assert_eq!(opened.recovery.erasures, Resumed { gone: vec![line.seq], ..Resumed::default() });
    assert!(!dir.join("erasing").exists());
}

#[test]
fn a_start_goes_on_with_an_erasure_in_a_segment_that_was_archived_since() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let records = ordered(dir);
    archive(dir, None, &[], &mut |_| {}).unwrap();
    assert!(!dir.join(segment_name(1)).exists());
    let opened = open_log(dir, Signed::Soon);
    assert_eq!(opened.recovery.erasures, Resumed { erased: seqs(&records), ..Resumed::default() });
    opened.log.close(PATIENCE).unwrap();
    assert_eq!((classes(&verify(dir)), verify(dir).redacted), (vec![], 3));
}

#[test]
fn a_segment_with_bodies_that_are_being_erased_is_not_retired() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, place) = (folder.path().join("log"), folder.path().join("archives"));
    fs::create_dir(&place).unwrap();
    let (opened, ids) = filled(&dir, Signed::Soon);
    let wanted = some(&opened, &ids);
    opened.log.eraser().unwrap().announce(&wanted).unwrap();
    drop(wanted);
    let mut retainer = opened.log.retainer().unwrap();
    let turn = retainer.turn(&place, &EVERYTHING).unwrap();
    assert_eq!((turn.retired, turn.kept), (vec![], Some((1, Kept::Erasing))));
    assert!(dir.join(segment_name(1)).exists());
}

#[test]
fn a_hold_that_was_placed_since_keeps_a_body_until_it_is_released() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let records = ordered(dir);
    let mut holds = Holds::default();
    let (authority, reason) = ("counsel".to_owned(), "case 9".to_owned());
    holds.place(Hold { name: "case-9".into(), from_ns: 0, to_ns: u64::MAX, authority, reason }).unwrap();
    holds.store(dir).unwrap();
    let kept = |why: Waiting| {
        let opened = open_log(dir, Signed::Soon);
        let waiting = records.iter().map(|record| (record.seq, why.clone())).collect();
        assert_eq!(opened.recovery.erasures, Resumed { waiting, ..Resumed::default() });
        opened.log.close(PATIENCE).unwrap();
        assert_eq!((verify(dir).redacted, notices(&verify(dir), Class::ErasePending)), (0, 3));
    };
    kept(Waiting::Held("case-9".into()));
    fs::write(dir.join("holds"), "not a hold").unwrap();
    kept(Waiting::Holds);
    fs::remove_file(dir.join("holds")).unwrap();
    let alone = Lock::take_named(dir, ARCHIVE_LOCK).unwrap();
    kept(Waiting::Archiving);
    drop(alone);
    let opened = open_log(dir, Signed::Soon);
    assert_eq!(opened.recovery.erasures, Resumed { erased: seqs(&records), ..Resumed::default() });
    opened.log.close(PATIENCE).unwrap();
    assert_eq!((classes(&verify(dir)), verify(dir).redacted), (vec![], 3));
}

#[test]
fn an_erasure_under_the_key_before_this_one_is_gone_on_with_and_under_an_unknown_one_is_not_forgotten() {
    for known in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let records = ordered(dir);
        if known {
            let mut history = KeyHistory::beside(dir).unwrap().unwrap();
            let size = verify(dir).size;
            let root = tree_at(dir, &[key()], size).unwrap().root().unwrap();
            history.push(handover(3, 4, size, root)).unwrap();
            history.publish(dir).unwrap();
        } else {
            fs::remove_file(dir.join("checkpoint.key")).unwrap();
        }
        let opened = open_by(dir, Signed::Soon, 4).unwrap();
        let expected = if known {
            Resumed { erased: seqs(&records), ..Resumed::default() }
        } else {
            let waiting = records.iter().map(|record| (record.seq, Waiting::UnknownKey)).collect();
            Resumed { waiting, ..Resumed::default() }
        };
        assert_eq!(opened.recovery.erasures, expected);
        assert_eq!(dir.join("erasing").exists(), !known);
        opened.log.close(PATIENCE).unwrap();
        let options = Options { keys: vec![key(), key_of(4)], ..options() };
        let report = verify_dir(dir, &options, &mut |_| {}).unwrap();
        assert_eq!((classes(&report), report.redacted), (vec![], if known { 3 } else { 0 }));
    }
}

#[test]
fn a_segment_that_a_kill_left_writable_is_still_one_whose_bodies_may_be_erased() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let (mut opened, ids) = filled(dir, Signed::Soon);
    let last = list_segments(dir).unwrap().into_iter().rfind(|file| file.finished).unwrap().index;
    let late =
        *ids.iter().rev().find(|id| find_id(Segments::of(dir), **id).unwrap().unwrap().0 == last).unwrap();
    let records = erase(&mut opened, &[RecordName::Id(late)]);
    assert_eq!(records[0].segment, last);
    drop(opened);
    let path = dir.join(segment_name(last));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    open_log(dir, Signed::Soon).log.close(PATIENCE).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
    assert_eq!((classes(&verify(dir)), verify(dir).redacted), (vec![], 1));
}

#[test]
fn an_erasure_that_is_ordered_once_more_is_not_lost_when_the_second_order_is() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let records = ordered(dir);
    let alone = Lock::take_named(dir, ARCHIVE_LOCK).unwrap();
    let opened = open_log(dir, Signed::Soon);
    assert_eq!(opened.recovery.erasures.waiting.len(), 3);
    drop(alone);
    until(|| opened.log.status().signed_size > records[2].seq);
    let eraser = opened.log.eraser().unwrap();
    let wanted = eraser.find(&seqs(&records).into_iter().map(RecordName::Seq).collect::<Vec<_>>()).unwrap();
    eraser.announce(&wanted).unwrap();
    drop((opened, eraser, wanted));
    let opened = open_log(dir, Signed::Soon);
    assert_eq!(opened.recovery.erasures, Resumed { erased: seqs(&records), ..Resumed::default() });
}
