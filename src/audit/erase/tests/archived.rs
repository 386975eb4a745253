//! Bodies in archives that stand in the place of their segments, and whoever else changes segments meanwhile.

use super::*;
use crate::audit::{
    archive::archive,
    folder::{archive_draft, archive_name},
    running::EVERYTHING,
    stored::Stored,
};

fn archive_all(dir: &Path) {
    archive(dir, None, &[], &mut |_| {}).unwrap();
}

#[test]
fn a_body_in_an_archive_is_erased_and_the_archive_restores_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let (mut opened, ids) = filled(dir, Signed::Soon);
    let whole = fs::read(dir.join(segment_name(1))).unwrap();
    archive_all(dir);
    assert!(!dir.join(segment_name(1)).exists());
    // What interrupted archivings leave has the bodies as well.
    fs::write(dir.join(archive_draft(1)), &whole).unwrap();
    let records = erase(&mut opened, &names(&ids[7..10]));
    assert!(records.iter().all(|record| record.segment == 1));
    assert!(!dir.join(archive_draft(1)).exists() && !dir.join(segment_name(1)).exists());
    let mut expected = whole;
    for record in &records {
        let at = usize::try_from(record.offset).unwrap();
        expected[at + HASHED_BYTES..at + HEADER_BYTES + record.body_len as usize].fill(0);
    }
    assert!(Stored::open(dir, 1).unwrap().read().unwrap() == expected);
    let again = opened.log.eraser().unwrap().find(&names(&ids[7..10])).unwrap();
    assert_eq!((again.erasable, again.erased.len()), (vec![], 3));
    opened.log.close(PATIENCE).unwrap();
    let report = verify(dir);
    assert_eq!((classes(&report), report.redacted), (vec![], 3), "{report:?}");
    let mut tail = crate::audit::Tail::first(dir).unwrap().with_keys(&[key()]);
    let shown = std::iter::from_fn(|| tail.next().unwrap()).filter(|entry| entry.erased.is_some());
    assert_eq!(shown.count(), 3);
    // A start reads it, also from the beginning.
    fs::remove_file(dir.join("checkpoint.tree")).unwrap();
    let opened = open_log(dir, Signed::Soon);
    until(|| opened.log.status().signed_size > u64::from(DECISIONS) || opened.log.status().failure.is_some());
    assert!(opened.log.status().failure.is_none());
    opened.log.close(PATIENCE).unwrap();
}

#[test]
fn a_body_goes_from_the_archive_that_an_interrupted_archiving_left_beside_its_segment() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let (mut opened, ids) = filled(dir, Signed::Soon);
    let segment = fs::read(dir.join(segment_name(1))).unwrap();
    archive_all(dir);
    fs::write(dir.join(segment_name(1)), segment).unwrap();
    fs::set_permissions(dir.join(segment_name(1)), fs::Permissions::from_mode(0o400)).unwrap();
    erase(&mut opened, &names(&ids[7..10]));
    assert!(!dir.join(archive_name(1)).exists());
    opened.log.close(PATIENCE).unwrap();
    assert_eq!((classes(&verify(dir)), verify(dir).redacted), (vec![], 3));
}

#[test]
fn whoever_archives_retires_or_erases_is_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, place) = (folder.path().join("log"), folder.path().join("archives"));
    fs::create_dir(&place).unwrap();
    let (opened, ids) = filled(&dir, Signed::Soon);
    let wanted = some(&opened, &ids);
    for out in [None, Some(place.as_path())] {
        let refused = archive(&dir, out, &[], &mut |_| {}).unwrap_err().to_string();
        assert!(refused.contains("in use"), "{refused}");
    }
    let mut retainer = opened.log.retainer().unwrap();
    let refused = retainer.turn(&place, &EVERYTHING).unwrap_err().to_string();
    assert!(refused.contains("in use"), "{refused}");
    drop(wanted);
    let _archiving = Lock::take_named(&dir, ARCHIVE_LOCK).unwrap();
    let refused = opened.log.eraser().unwrap().find(&names(&ids[..1])).unwrap_err();
    assert!(matches!(refused, EraseError::Archiving), "{refused}");
}
