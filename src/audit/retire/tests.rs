//! Retention on simulated disks: a crash or a failure at every step, of the log's disk and of the archives'.

use super::*;
use crate::audit::{
    archive::Archive,
    crash_tests::{clock, folder, settings},
    folder::{SegmentFile, archive_name, segment_name},
    hold::Hold,
    open::resume,
    schema::Kind,
    sim::{Crash, Effect, Fail, Sim},
    stored::Stored,
    verify::{Class, Options, Report, verify_dir},
    writer::Writer,
};

const ORDER: Order<'static> = Order { before_ns: 2000, authority: "policy", reason: "older than 90 days" };

/// A log on `sim` with a writer in segment 6, five finished ones before it.
fn grown(sim: &Sim) -> Writer {
    let folder = folder(sim);
    let (mut writer, _) = resume(&folder, &settings(), clock()).unwrap();
    let mut number = 0;
    while writer.segment() < 6 {
        if !writer.has_room(400) {
            let prepared = folder.prepare(writer.segment() + 1, settings().segment_bytes).unwrap();
            writer.roll(prepared, writer.tag_epoch()).unwrap();
            commit(&folder, &mut writer).unwrap();
        }
        number += 1;
        writer.append_own(Kind::Stop, |body| body.text(1, &format!("event {number}"))).unwrap();
    }
    commit(&folder, &mut writer).unwrap();
    writer
}

fn commit(folder: &Folder, writer: &mut Writer) -> io::Result<()> {
    let job = writer.begin_commit().map_err(|failure| io::Error::other(failure.to_string()))?;
    job.run()?;
    writer.end_commit(job.head.size);
    job.rolled.into_iter().try_for_each(|rolled| folder.finish(rolled.index, Some(rolled.bytes)))
}

/// One turn, with RETIRE records that the writer chains and flushes at once.
fn turn(
    retirement: &mut Retirement,
    log: &Sim,
    place: &Sim,
    writer: &mut Writer,
    holds: &Holds,
    signed_size: u64,
) -> Result<Turn, RetireError> {
    let folder = folder(log);
    let mut record = |events: &[RetireEvent<'_>]| {
        for event in events {
            writer.append_own(Kind::Retire, |body| event.encode(body)).map_err(AuditError::Refused)?;
        }
        commit(&folder, writer).map_err(|error| AuditError::io("flush", std::path::Path::new("/sim"), error))
    };
    let mut means = Means { folder: &folder, place, holds, signed_size, record: &mut record };
    retirement.turn(&mut means, &ORDER)
}

fn read(sim: &Sim) -> Vec<(SegmentFile, Vec<u8>)> {
    let folder = folder(sim);
    folder.segments().unwrap().into_iter().map(|file| (file, folder.read(file.index).unwrap())).collect()
}

/// What a verification says of these segments, as files.
fn verified(segments: &[(SegmentFile, Vec<u8>)]) -> Report {
    use std::{fs, os::unix::fs::PermissionsExt as _};
    let folder = tempfile::tempdir().unwrap();
    for (file, bytes) in segments {
        let path = folder.path().join(segment_name(file.index));
        fs::write(&path, bytes).unwrap();
        let mode = if file.finished { 0o400 } else { 0o600 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let options = Options { allow_unsigned: true, threads: 1, ..Options::default() };
    verify_dir(folder.path(), &options, &mut |_| {}).unwrap()
}

fn indices(sim: &Sim) -> Vec<u64> {
    read(sim).iter().map(|(file, _)| file.index).collect()
}

/// Nothing is lost: what is not in the folder was retired on record and is restored by its archive, and what is left verifies,
/// alone and with the archives.
fn assert_whole(log: &Sim, place: &Sim, original: &[(SegmentFile, Vec<u8>)], what: &str) {
    let left = read(log);
    let report = verified(&left);
    assert!(report.breaks.is_empty(), "{what}: {:?}", report.breaks);
    let first = left[0].0.index;
    let retired = report.notices.iter().filter(|notice| notice.class == Class::Retired).count();
    assert_eq!(retired, usize::from(first > 1), "{what}: {:?}", report.notices);
    let mut all = Vec::new();
    for (file, bytes) in original.iter().filter(|(file, _)| file.index < first) {
        let archive = place.read(&archive_name(file.index)).unwrap();
        let restored = Stored::Archive(Archive::from_bytes(archive, file.index).unwrap()).read().unwrap();
        assert!(restored == *bytes, "{what}: segment {}", file.index);
        all.push((*file, restored));
    }
    all.extend(left);
    let report = verified(&all);
    assert!(
        report.breaks.is_empty() && report.notices.iter().all(|one| one.class != Class::Retired),
        "{what}"
    );
}

#[test]
fn old_segments_leave_with_a_record_and_the_rest_verifies_alone_and_with_the_archives() {
    let (log, place) = (Sim::new(1), Sim::new(2));
    let mut writer = grown(&log);
    let original = read(&log);
    let done =
        turn(&mut Retirement::default(), &log, &place, &mut writer, &Holds::default(), u64::MAX).unwrap();
    // The latest finished one stays.
    assert_eq!(done.retired.iter().map(|one| one.segment).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!((done.more, done.kept), (false, None));
    assert_eq!(indices(&log), [5, 6]);
    assert_whole(&log, &place, &original, "retired");
    let report = verified(&read(&log));
    let notice = report.notices.iter().find(|notice| notice.class == Class::Retired).unwrap();
    assert!(
        notice.detail.contains("segments 1 to 4") && notice.detail.contains("by policy: older than 90 days")
    );
    // A start goes on, and another run has nothing to do.
    let (mut writer, recovery) = resume(&folder(&log), &settings(), clock()).unwrap();
    assert_eq!(recovery.size, report.size);
    let again =
        turn(&mut Retirement::default(), &log, &place, &mut writer, &Holds::default(), u64::MAX).unwrap();
    // Segment 5 is not the latest finished one any more.
    assert_eq!(again.retired.iter().map(|one| one.segment).collect::<Vec<_>>(), [5]);
    assert_whole(&log, &place, &original, "retired again");
}

#[test]
fn a_segment_that_was_removed_without_a_record_is_missing() {
    let (log, place) = (Sim::new(1), Sim::new(2));
    let mut writer = grown(&log);
    turn(&mut Retirement::default(), &log, &place, &mut writer, &Holds::default(), u64::MAX).unwrap();
    let left = read(&log);
    let report = verified(&left[1..]);
    assert_eq!(report.breaks[0].class, Class::MissingSegment, "{:?}", report.breaks);
    // And retention goes no further from there.
    folder(&log).remove_stored(5).unwrap();
    for _ in 0..2 {
        writer = resume(&folder(&log), &settings(), clock()).unwrap().0;
    }
    let refused = turn(&mut Retirement::default(), &log, &place, &mut writer, &Holds::default(), u64::MAX);
    assert!(matches!(refused, Err(RetireError::Broken { segment: 6, .. })), "{refused:?}");
}

#[test]
fn held_unsigned_and_young_segments_stay() {
    let (log, place) = (Sim::new(1), Sim::new(2));
    let mut writer = grown(&log);
    let hold = |from_ns, to_ns| {
        let mut holds = Holds::default();
        let (authority, reason) = ("counsel".to_owned(), "case 7".to_owned());
        holds.place(Hold { name: "case-7".into(), from_ns, to_ns, authority, reason }).unwrap();
        holds
    };
    let mut retirement = Retirement::default();
    // The clock of these logs stands at 1000.
    let held = turn(&mut retirement, &log, &place, &mut writer, &hold(1000, 1001), u64::MAX).unwrap();
    assert_eq!((held.retired.len(), held.kept), (0, Some((1, Kept::Held("case-7".into())))));
    let unsigned = turn(&mut retirement, &log, &place, &mut writer, &hold(0, 1000), 30).unwrap();
    assert_eq!((unsigned.retired.len(), unsigned.kept), (0, Some((1, Kept::Unsigned))));
    assert_eq!(indices(&log), [1, 2, 3, 4, 5, 6]);
    assert!(place.list().unwrap().is_empty(), "nothing was archived for nothing");
}

#[test]
fn a_hold_of_the_log_that_the_file_lost_stops_everything() {
    let (log, place) = (Sim::new(1), Sim::new(2));
    let mut writer = grown(&log);
    let hold = Hold {
        name: "case-7".into(),
        from_ns: 1,
        to_ns: 2,
        authority: "counsel".into(),
        reason: "why".into(),
    };
    writer
        .append_own(Kind::Admin, |body| {
            body.uint(1, 1);
            body.text(2, "control:127.0.0.1");
            body.text(3, crate::audit::hold::ACTION_HOLD);
            body.text(4, "case-7");
            body.text(5, &hold.detail());
        })
        .unwrap();
    commit(&folder(&log), &mut writer).unwrap();
    let mut retirement = Retirement::default();
    let refused = turn(&mut retirement, &log, &place, &mut writer, &Holds::default(), u64::MAX);
    assert!(matches!(refused, Err(RetireError::Hold(HoldError::Missing(_)))), "{refused:?}");
    let mut holds = Holds::default();
    holds.place(hold).unwrap();
    let done = turn(&mut retirement, &log, &place, &mut writer, &holds, u64::MAX).unwrap();
    assert_eq!(done.retired.len(), 4, "it covers none of them");
}

#[test]
fn a_crash_at_any_step_leaves_the_log_whole_and_the_next_run_finishes() {
    for crash in [Crash::Kill, Crash::Power] {
        for at in 1..400 {
            let (log, place) = (Sim::new(at), Sim::new(at + 1000));
            let mut writer = grown(&log);
            let original = read(&log);
            // Both disks are of one machine; which of them the step is about takes turns.
            let (crashing, other) = if at % 2 == 0 { (&log, &place) } else { (&place, &log) };
            crashing.crash_at(at / 2 + 1);
            let mut retirement = Retirement::default();
            let done = turn(&mut retirement, &log, &place, &mut writer, &Holds::default(), u64::MAX);
            if !crashing.crashed() {
                assert!(done.is_ok() && at > 40, "at {at}: {done:?}");
                continue;
            }
            let (log, place) = match at % 2 {
                0 => (crashing.after(crash), other.after(crash)),
                _ => (other.after(crash), crashing.after(crash)),
            };
            let what = format!("{crash:?} at {at}");
            let (mut writer, _) = resume(&folder(&log), &settings(), clock()).unwrap();
            assert_whole(&log, &place, &original, &what);
            let mut retirement = Retirement::default();
            turn(&mut retirement, &log, &place, &mut writer, &Holds::default(), u64::MAX).expect(&what);
            assert!(indices(&log)[0] >= 5, "{what}: {:?}", indices(&log));
            assert_whole(&log, &place, &original, &what);
        }
    }
}

#[test]
fn a_disk_that_fails_at_any_step_loses_nothing() {
    for effect in [Effect::Nothing, Effect::Half, Effect::All] {
        for at in 1..60 {
            let (log, place) = (Sim::new(at), Sim::new(at + 1000));
            let mut writer = grown(&log);
            let original = read(&log);
            place.fail(Fail { at, sticky: false, effect, error: io::ErrorKind::Other });
            let mut retirement = Retirement::default();
            let done = turn(&mut retirement, &log, &place, &mut writer, &Holds::default(), u64::MAX);
            // From here on it works.
            place.fail(Fail { at: 1 << 40, sticky: false, effect, error: io::ErrorKind::Other });
            let what = format!("{effect:?} at {at}");
            if done.is_err() {
                assert_eq!(indices(&log), [1, 2, 3, 4, 5, 6], "{what}: nothing was removed");
            }
            assert_whole(&log, &place, &original, &what);
            turn(&mut retirement, &log, &place, &mut writer, &Holds::default(), u64::MAX).expect(&what);
            assert_whole(&log, &place, &original, &what);
        }
    }
}

#[test]
fn an_archive_that_does_not_restore_its_segment_keeps_the_segment() {
    let (log, place) = (Sim::new(1), Sim::new(2));
    let mut writer = grown(&log);
    // What is written to this disk is not what is read from it.
    let medium = Flipping(place);
    let folder = folder(&log);
    let mut record = |_: &[RetireEvent<'_>]| -> Result<(), AuditError> { panic!("nothing is put on record") };
    let holds = Holds::default();
    let mut means =
        Means { folder: &folder, place: &medium, holds: &holds, signed_size: u64::MAX, record: &mut record };
    let refused = Retirement::default().turn(&mut means, &ORDER);
    assert!(
        matches!(refused, Err(RetireError::Archive(ArchiveError::Differs { segment: 1 }))),
        "{refused:?}"
    );
    assert_eq!(indices(&log), [1, 2, 3, 4, 5, 6]);
    commit(&folder, &mut writer).unwrap();
    assert!(folder.segments().unwrap().iter().all(|file| log.read(&segment_name(file.index)).is_ok()));
}

/// A disk that flips a bit of what is read.
struct Flipping(Sim);

impl Medium for Flipping {
    fn list(&self) -> io::Result<Vec<crate::audit::disk::Listed>> {
        self.0.list()
    }

    fn create(&self, name: &str) -> io::Result<std::sync::Arc<dyn crate::audit::disk::MediumFile>> {
        self.0.create(name)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = self.0.read(name)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        Ok(bytes)
    }

    fn overwrite(&self, name: &str, ranges: &[std::ops::Range<u64>]) -> io::Result<()> {
        self.0.overwrite(name, ranges)
    }

    fn finish(&self, name: &str, len: Option<u64>) -> io::Result<()> {
        self.0.finish(name, len)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn make_folder(&self, name: &str) -> io::Result<()> {
        self.0.make_folder(name)
    }

    fn sync_names(&self, folder: &str) -> io::Result<()> {
        self.0.sync_names(folder)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.0.free_bytes()
    }
}

#[test]
fn a_hold_placed_when_a_retirement_was_interrupted_between_two_files_is_kept_and_the_log_is_not_broken() {
    let (log, place) = (Sim::new(1), Sim::new(2));
    let mut writer = grown(&log);
    let original = read(&log);
    turn(&mut Retirement::default(), &log, &place, &mut writer, &Holds::default(), u64::MAX).unwrap();
    // As if the power went when two of four files were gone.
    for (file, bytes) in &original[2..4] {
        let name = segment_name(file.index);
        log.create(&name).unwrap().write_at(bytes, 0).unwrap();
        log.finish(&name, None).unwrap();
    }
    assert_eq!(indices(&log), [3, 4, 5, 6]);
    let mut holds = Holds::default();
    let (authority, reason) = ("counsel".to_owned(), "case 7".to_owned());
    holds.place(Hold { name: "case-7".into(), from_ns: 0, to_ns: u64::MAX, authority, reason }).unwrap();
    let mut retirement = Retirement::default();
    let held = turn(&mut retirement, &log, &place, &mut writer, &holds, u64::MAX).unwrap();
    assert_eq!((held.retired.len(), held.kept), (0, Some((3, Kept::Held("case-7".into())))));
    let done = turn(&mut retirement, &log, &place, &mut writer, &Holds::default(), u64::MAX).unwrap();
    assert_eq!((done.retired.len(), indices(&log)), (0, vec![5, 6]), "what was on record is finished");
    assert_whole(&log, &place, &original, "finished");
}

#[test]
fn damage_that_may_hide_a_hold_stops_retention() {
    let (log, place) = (Sim::new(1), Sim::new(2));
    let mut writer = grown(&log);
    let at = memchr::memmem::find(&folder(&log).read(3).unwrap(), b"event ").unwrap();
    log.corrupt(&segment_name(3), at);
    let refused =
        turn(&mut Retirement::default(), &log, &place, &mut writer, &Holds::default(), u64::MAX).unwrap_err();
    assert!(refused.to_string().contains("segment 3 cannot be read behind offset"), "{refused}");
    assert_eq!(indices(&log), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn what_was_read_before_a_turn_is_not_read_in_it() {
    let (log, place) = (Sim::new(1), Sim::new(2));
    let mut writer = grown(&log);
    let mut retirement = Retirement::default();
    retirement.catch_up(&folder(&log)).unwrap();
    // Whoever reads it again stops here.
    let at = memchr::memmem::find(&folder(&log).read(3).unwrap(), b"event ").unwrap();
    log.corrupt(&segment_name(3), at);
    let mut holds = Holds::default();
    let (authority, reason) = ("counsel".to_owned(), "case 7".to_owned());
    holds.place(Hold { name: "case-7".into(), from_ns: 0, to_ns: u64::MAX, authority, reason }).unwrap();
    let held = turn(&mut retirement, &log, &place, &mut writer, &holds, u64::MAX).unwrap();
    assert_eq!(held.kept, Some((1, Kept::Held("case-7".into()))));
}
