//! What a start does with the list of what is being erased.

use super::*;
use crate::audit::{
    archive::archive,
    folder::segment_name,
    retire::{Kept, Order},
    running::{key_of, open_by},
};

const EVERYTHING: Order<'static> = Order { before_ns: u64::MAX, authority: "policy", reason: "old" };

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
    let mut retainer = opened.log.retainer().unwrap();
    until(|| opened.log.status().signed_size >= opened.log.status().durable_size);
    let turn = retainer.turn(&place, &EVERYTHING).unwrap();
    assert_eq!(turn.retired[0].segment, 1);
    drop((opened, retainer));
    let line = Erasing { segment: 1, seq: records[0].seq, body_digest: records[0].body_digest, from: 2 };
    let text = format!("{} {} {} {}\n", line.segment, line.seq, crate::audit::hex(&line.body_digest), line.from);
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
