//! The live segment in other hands: removed, renamed, replaced, shortened, punched, its mode changed, its file system
//! gone, broken or read-only. Nobody is told that an event is safe that is not.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    time::Instant,
};

use edgate::audit::{
    Ack, FailureKind, Opened, SinkKind, open,
    verify::{Options, verify_dir},
};

use crate::{
    PATIENCE, decision,
    disk::{FileSystem, Mounted, run},
    records, settings, whole,
};

/// Changes the active segment behind the log's back, and waits until it notices.
fn changed_from_outside(change: impl Fn(&Path), expected: &[FailureKind]) {
    let folder = tempfile::tempdir().unwrap();
    changed_in(&folder.path().join("audit"), SinkKind::Map, change, expected);
}

/// Returns how many events had been acknowledged as durable before.
fn changed_in(dir: &Path, sink: SinkKind, change: impl Fn(&Path), expected: &[FailureKind]) -> usize {
    let mut settings = settings(dir);
    settings.sink = Some(sink);
    let Opened { mut appenders, log, .. } = open(&settings, 1).unwrap();
    for _ in 0..BEFORE {
        let id = appenders[0].append(&decision(), Ack::Durable).unwrap();
        appenders[0].wait(id, Ack::Durable, PATIENCE).unwrap();
    }
    let segment = log.status().segment;
    change(&dir.join(format!("{segment:010}.seg")));
    let until = Instant::now() + PATIENCE;
    let failure = loop {
        if let Ok(id) = appenders[0].append(&decision(), Ack::Recorded) {
            // Acknowledged or refused, never a hang.
            let _ = appenders[0].wait(id, Ack::Recorded, PATIENCE);
        }
        // A folder that is gone has no room for the next segment either, which passes.
        if let Some(failure) = appenders[0].failure().filter(|failure| failure.kind.is_permanent()) {
            break failure;
        }
        assert!(Instant::now() < until, "nobody notices");
        std::thread::yield_now();
    };
    assert!(expected.contains(&failure.kind), "{failure}");
    assert!(appenders[0].append(&decision(), Ack::Recorded).is_err());
    assert!(log.close(PATIENCE).is_err());
    BEFORE
}

/// Durable events before the change.
const BEFORE: usize = 20;

#[test]
fn a_removed_segment_is_noticed() {
    changed_from_outside(|path| fs::remove_file(path).unwrap(), &[FailureKind::Replaced]);
}

#[test]
fn a_replaced_segment_is_noticed() {
    changed_from_outside(
        |path| {
            let copy = path.with_extension("copy");
            fs::copy(path, &copy).unwrap();
            fs::rename(copy, path).unwrap();
        },
        &[FailureKind::Replaced],
    );
}

#[test]
fn a_segment_whose_mode_was_changed_is_noticed() {
    changed_from_outside(
        |path| fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap(),
        &[FailureKind::Replaced],
    );
}

#[test]
fn a_shortened_segment_fails_closed_instead_of_killing_the_process() {
    changed_from_outside(
        |path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(4096).unwrap(),
        &[FailureKind::MapLost, FailureKind::Replaced],
    );
}

#[test]
fn a_renamed_segment_is_noticed() {
    // Under its new name it would not be read as part of the log.
    changed_from_outside(
        |path| fs::rename(path, path.with_extension("old")).unwrap(),
        &[FailureKind::Replaced],
    );
}

#[test]
fn a_segment_that_swapped_names_with_the_next_is_noticed() {
    changed_from_outside(
        |path| {
            let next = path.with_file_name("0000000002.seg");
            crate::until("the next segment", || next.exists());
            let here = rustix::fs::CWD;
            rustix::fs::renameat_with(here, path, here, next, rustix::fs::RenameFlags::EXCHANGE).unwrap();
        },
        &[FailureKind::Replaced],
    );
}

#[test]
fn a_segment_with_a_second_name_is_noticed() {
    changed_from_outside(
        |path| fs::hard_link(path, path.with_extension("link")).unwrap(),
        &[FailureKind::Replaced],
    );
}

#[test]
fn a_hole_punched_into_the_live_segment_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("audit");
    let Opened { mut appenders, log, .. } = open(&settings(&dir), 1).unwrap();
    let append = |appender: &mut edgate::audit::Appender| {
        for _ in 0..100 {
            let id = appender.append(&decision(), Ack::Durable).unwrap();
            appender.wait(id, Ack::Durable, PATIENCE).unwrap();
        }
    };
    append(&mut appenders[0]);
    let file = fs::File::options().write(true).open(dir.join("0000000001.seg")).unwrap();
    let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, flags, HOLE, 4096).unwrap();
    append(&mut appenders[0]);
    log.close(PATIENCE).unwrap();
    let options = Options { allow_unsigned: true, ..Options::default() };
    let report = verify_dir(&dir, &options, &mut |_| {}).unwrap();
    let first = report.breaks.first().unwrap_or_else(|| panic!("nobody sees the hole: {report:?}"));
    assert!(first.segment == 1 && (HOLE - 1024..HOLE + 4096).contains(&first.offset), "{first}");
}

/// Where the hole begins: behind the first commits, before the last.
const HOLE: u64 = 8192;

/// After what was changed is whole again, everything that was durable is there.
fn recovers_with(dir: &Path, durable: usize) {
    let Opened { log, .. } = open(&settings(dir), 1).unwrap();
    log.close(PATIENCE).unwrap();
    whole(dir);
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.extension().is_some_and(|extension| extension == "seg") {
            let mode = fs::metadata(&entry).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o400, "{} is finished by the next start or its close", entry.display());
        }
    }
    let stored = records(dir).iter().filter(|(kind, _)| kind == "decision").count();
    assert!(stored >= durable, "{stored} of {durable} durable events are there");
}

#[test]
fn a_file_system_that_is_unmounted_lazily_is_noticed() {
    let Some(disk) = Mounted::new(FileSystem::Ext4, 16) else { return };
    let dir = disk.path().join("audit");
    changed_in(&dir, SinkKind::Map, |_| assert!(disk.unmount_lazily()), &[FailureKind::Replaced]);
}

#[test]
fn a_file_system_that_shuts_down_denies_and_keeps_what_was_durable() {
    for kind in [FileSystem::Xfs, FileSystem::Ext4] {
        for sink in [SinkKind::Map, SinkKind::Pwrite] {
            let Some(disk) = Mounted::new(kind, 32) else { return };
            let dir = disk.path().join("audit");
            let root = disk.path();
            let failures = [
                FailureKind::FlushFailed,
                FailureKind::WriteFailed,
                FailureKind::MapLost,
                FailureKind::Replaced,
            ];
            let shut = |_: &Path| {
                assert!(run("xfs_io", &["-x", "-c", "shutdown", root.to_str().unwrap()]), "shuts down");
            };
            let durable = changed_in(&dir, sink, shut, &failures);
            let disk = disk.mounted_again();
            recovers_with(&dir, durable);
            drop(disk);
        }
    }
}

#[test]
fn a_file_system_that_turns_read_only_denies_and_keeps_what_was_durable() {
    for sink in [SinkKind::Map, SinkKind::Pwrite] {
        let Some(disk) = Mounted::new(FileSystem::Ext4, 32) else { return };
        assert!(disk.remount("errors=remount-ro"));
        let dir = disk.path().join("audit");
        let number = fs::metadata(disk.path()).unwrap().dev();
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        let device = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).unwrap();
        let name = device.file_name().unwrap().to_str().unwrap().to_owned();
        let failures = [FailureKind::FlushFailed, FailureKind::WriteFailed, FailureKind::MapLost];
        let trigger =
            |_: &Path| fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "a test").unwrap();
        let durable = changed_in(&dir, sink, trigger, &failures);
        let disk = disk.mounted_again();
        recovers_with(&dir, durable);
        drop(disk);
    }
}
