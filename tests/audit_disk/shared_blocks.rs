//! Copies that share blocks with the live segment (`cp --reflink`, snapshots): the zeroed, allocated segment needs
//! space after all when it is written, and on a full disk there is none. Through a map that would be a signal.

use edgate::audit::{Ack, AuditError, FailureKind, Opened, SinkKind, open, sink_for};

use crate::{
    PATIENCE, append_until_refused, decision,
    disk::{FileSystem, Mounted, run},
    records, settings, whole,
};

#[test]
fn a_file_system_that_shares_blocks_is_not_mapped_and_the_log_says_why() {
    for (kind, sink) in [
        (FileSystem::Xfs, SinkKind::Pwrite),
        (FileSystem::XfsWithoutReflink, SinkKind::Map),
        (FileSystem::Ext4, SinkKind::Map),
    ] {
        let Some(disk) = Mounted::new(kind, 32) else { return };
        let dir = disk.path().join("audit");
        let Opened { log, .. } = open(&settings(&dir), 1).unwrap();
        assert_eq!(sink_for(&dir).unwrap().0, sink, "{kind:?}");
        assert_eq!(log.status().sink, if sink == SinkKind::Map { "mmap" } else { "pwrite" });
        let reason = log.unmapped_because();
        assert_eq!(reason.is_some(), sink == SinkKind::Pwrite);
        assert!(reason.is_none_or(|reason| reason.contains("shares blocks")));
        log.close(PATIENCE).unwrap();
        assert!(records(&dir)[0].1["sink"] == if sink == SinkKind::Map { "mmap" } else { "pwrite" });
    }
}

#[test]
fn a_snapshot_of_the_live_segment_on_a_full_disk_denies_and_kills_nobody() {
    for (sink, expected) in
        [(SinkKind::Pwrite, FailureKind::WriteFailed), (SinkKind::Map, FailureKind::MapLost)]
    {
        let Some(disk) = Mounted::new(FileSystem::Xfs, 32) else { return };
        let dir = disk.path().join("audit");
        let mut settings = settings(&dir);
        settings.sink = Some(sink);
        let Opened { mut appenders, log, .. } = open(&settings, 1).unwrap();
        for _ in 0..20 {
            let id = appenders[0].append(&decision(), Ack::Durable).unwrap();
            appenders[0].wait(id, Ack::Durable, PATIENCE).unwrap();
        }
        let segment = dir.join(format!("{:010}.seg", log.status().segment));
        let copy = disk.path().join("snapshot");
        assert!(run("cp", &["--reflink=always", segment.to_str().unwrap(), copy.to_str().unwrap()]));
        disk.fill();
        let (recorded, error) = append_until_refused(&mut appenders[0]);
        assert!(
            matches!(&error, AuditError::Refused(failure) if failure.kind == expected),
            "{sink:?}, after {recorded}: {error}"
        );
        assert!(appenders[0].append(&decision(), Ack::Recorded).is_err(), "and it stays shut");
        drop(log);
        disk.relieve();
        std::fs::remove_file(copy).unwrap();
        let Opened { log, .. } = open(&settings, 1).unwrap();
        log.close(PATIENCE).unwrap();
        whole(&dir);
        let stored = records(&dir).iter().filter(|(kind, _)| kind == "decision").count() as u64;
        assert!(stored >= 20 + recorded, "{stored} of {} acknowledged events are there", 20 + recorded);
    }
}
