//! The log on disks that misbehave: a real ext4 file system of a few megabytes that fills up, and files that are
//! changed from outside. Mounting needs root; without it the disk tests say that they are skipped.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use edgate::{
    audit::{
        Ack, Appender, AuditError, DecisionEvent, Event, FailureKind, Opened, Settings, SinkKind, StopEvent,
        Watermarks, open,
        verify::{Options, verify_dir},
    },
    decision::Decision,
};

const PATIENCE: Duration = Duration::from_secs(20);

fn settings(dir: &Path) -> Settings {
    Settings {
        segment_bytes: 1 << 20,
        flush_interval: Duration::from_millis(2),
        watermarks: Watermarks { full_bytes: 0, ..Watermarks::default() },
        create: true,
        ..Settings::new(dir, "test.example/disk")
    }
}

fn decision() -> Event<'static> {
    Event::Decision(DecisionEvent {
        surface: 1,
        decision: Decision::Accepted,
        issuer: "agents",
        kid: "k1",
        tenant: "acme",
        caller: "",
        subject: None,
        jti: None,
        client: None,
        policy_epoch: 1,
        revocation_epoch: 1,
        latency_us: 5,
        expires: None,
    })
}

/// A file system in a file, mounted for as long as this lives.
struct Mounted {
    folder: tempfile::TempDir,
}

impl Mounted {
    fn ext4(megabytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        let run = |program: &str, arguments: &[&str]| {
            Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
        };
        let mounted = run("mkfs.ext4", &["-q", "-m", "0", image.to_str()?])
            && run("mount", &["-o", "loop", image.to_str()?, folder.path().join("mnt").to_str()?]);
        if !mounted {
            eprintln!("SKIPPED: cannot mount an ext4 image here (needs root, mkfs.ext4 and loop devices)");
            return None;
        }
        Some(Self { folder })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// Takes every free block.
    fn fill(&self) {
        let hog = fs::File::create(self.path().join("hog")).unwrap();
        for size in [1 << 20, 64 << 10, 4096] {
            let mut len = hog.metadata().unwrap().len();
            while rustix_fallocate(&hog, len, size) {
                len += size;
            }
        }
        let _ = hog.sync_all();
    }

    fn relieve(&self) {
        fs::remove_file(self.path().join("hog")).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn rustix_fallocate(file: &fs::File, offset: u64, len: u64) -> bool {
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), offset, len).is_ok()
}

/// Appends until the log refuses; returns how many events were acknowledged, and the refusal.
fn append_until_refused(appender: &mut Appender) -> (u64, AuditError) {
    let mut recorded = 0;
    let until = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < until, "the disk never fills");
        match appender.append(&decision(), Ack::Recorded) {
            Ok(id) => match appender.wait(id, Ack::Recorded, Duration::from_secs(5)) {
                Ok(()) => recorded += 1,
                Err(error) => return (recorded, error),
            },
            Err(error) => return (recorded, error),
        }
    }
}

fn whole(dir: &Path) {
    let options = Options { allow_unsigned: true, ..Options::default() };
    let report = verify_dir(dir, &options, &mut |_| {}).unwrap();
    assert_eq!(report.breaks, vec![], "{report:?}");
}

#[test]
fn a_full_disk_refuses_shards_at_once_keeps_the_operator_and_heals() {
    for sink in [SinkKind::Map, SinkKind::Pwrite] {
        let Some(disk) = Mounted::ext4(16) else { return };
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
        let Opened { log, recovery, .. } = open(&settings, 1).unwrap();
        assert!(recovery.clean);
        log.close(PATIENCE).unwrap();
    }
}

#[test]
fn a_log_on_a_full_disk_can_still_be_closed_and_verified() {
    let Some(disk) = Mounted::ext4(16) else { return };
    let dir = disk.path().join("audit");
    let Opened { mut appenders, log, .. } = open(&settings(&dir), 1).unwrap();
    disk.fill();
    let (_, error) = append_until_refused(&mut appenders[0]);
    assert!(matches!(error, AuditError::Refused(_)), "{error}");
    log.close(PATIENCE).unwrap();
    whole(&dir);
}

/// Changes the active segment behind the log's back, and waits until it notices.
fn changed_from_outside(change: impl Fn(&Path), expected: &[FailureKind]) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("audit");
    let Opened { mut appenders, log, .. } = open(&settings(&dir), 1).unwrap();
    let segment = log.status().segment;
    change(&dir.join(format!("{segment:010}.seg")));
    let until = Instant::now() + PATIENCE;
    let failure = loop {
        if let Ok(id) = appenders[0].append(&decision(), Ack::Recorded) {
            // Acknowledged or refused, never a hang.
            let _ = appenders[0].wait(id, Ack::Recorded, PATIENCE);
        }
        if let Some(failure) = appenders[0].failure() {
            break failure;
        }
        assert!(Instant::now() < until, "nobody notices");
        std::thread::yield_now();
    };
    assert!(expected.contains(&failure.kind), "{failure}");
    assert!(failure.kind.is_permanent());
    assert!(appenders[0].append(&decision(), Ack::Recorded).is_err());
    assert!(log.close(PATIENCE).is_err());
}

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
