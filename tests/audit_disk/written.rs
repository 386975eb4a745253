//! What a commit costs the device. A segment that was zeroed with large writes has large folios, and then a store of
//! some hundred bytes through the map writes 2 MiB.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use edgate::audit::{Ack, Opened, SinkKind, open};

use crate::{
    PATIENCE, decision,
    disk::{FileSystem, Mounted},
    settings,
};

/// Measured one after the other, of so many commits; the median counts.
const WINDOWS: usize = 9;
const COMMITS: u64 = 40;

#[test]
fn a_commit_writes_little_more_than_what_was_appended() {
    for kind in [FileSystem::Ext4, FileSystem::XfsWithoutReflink] {
        for sink in [SinkKind::Map, SinkKind::Pwrite] {
            let Some(disk) = Mounted::new(kind, 32) else { return };
            let dir = disk.path().join("audit");
            let mut settings = settings(&dir);
            settings.sink = Some(sink);
            settings.segment_bytes = 4 << 20;
            let Opened { mut appenders, log, .. } = open(&settings, 1).unwrap();
            let mut windows: Vec<(u64, u64)> = (0..WINDOWS)
                .map(|_| {
                    let before = (log.status().commits, log.status().bytes, bytes_written(&dir));
                    for _ in 0..COMMITS {
                        let id = appenders[0].append(&decision(), Ack::Durable).unwrap();
                        appenders[0].wait(id, Ack::Durable, PATIENCE).unwrap();
                    }
                    let commits = log.status().commits - before.0;
                    assert!(commits >= COMMITS);
                    ((bytes_written(&dir) - before.2) / commits, (log.status().bytes - before.1) / commits)
                })
                .collect();
            windows.sort_unstable();
            // Segments are made ahead, in the first windows: what that costs is not what a commit costs.
            let (written, payload) = windows[windows.len() / 2];
            println!(
                "{kind:?} {sink:?}: {payload} bytes appended per commit, {written} written to the device"
            );
            assert!(payload > 100 && written >= 512, "the device counts what is written to it");
            assert!(written <= 3 * payload + 8192, "{kind:?} {sink:?}: {written} bytes for {payload}");
        }
    }
}

/// Bytes written to the device below a folder so far.
fn bytes_written(dir: &Path) -> u64 {
    let number = fs::metadata(dir).unwrap().dev();
    let path = format!("/sys/dev/block/{}:{}/stat", rustix::fs::major(number), rustix::fs::minor(number));
    // Documentation/block/stat.rst: the seventh number counts sectors of 512 bytes.
    fs::read_to_string(path).unwrap().split_whitespace().nth(6).unwrap().parse::<u64>().unwrap() * 512
}
