//! How long it takes until something is on the disk, and what that costs the disk.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{DoctorError, below::Counters};
use crate::audit::{
    disk::Medium as _,
    folder::{Folder, segment_name},
    real::{RealMedium, SinkKind},
};

/// Times of one call, many times over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// The time that half of them were below.
    pub median: Duration,
    /// The longest.
    pub worst: Duration,
    /// How many there were.
    pub count: usize,
}

impl Latency {
    /// Of these times; `None` where there are none.
    #[must_use]
    pub fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let (median, worst) = (*times.get(times.len() / 2)?, *times.last()?);
        Some(Self { median, worst, count: times.len() })
    }
}

/// What was measured in the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flushes {
    /// 4 KiB at the end of a growing file, and `fdatasync`.
    pub appended: Latency,
    /// 4 KiB over zeros that were prepared as a segment's, and `fdatasync`.
    pub overwritten: Latency,
    /// The same through `O_DIRECT` and `O_DSYNC`, or why it cannot be done here.
    pub direct: Result<Latency, String>,
    /// [`PAYLOAD_BYTES`] as the log would store them here, and `fdatasync`.
    pub committed: Latency,
    /// What those cost.
    pub written: Written,
}

/// Bytes written for the commits of [`Flushes::committed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// How many commits.
    pub commits: u64,
    /// Bytes that this process caused to be written, as the kernel counts them, if it says.
    pub by_process: Option<u64>,
    /// Bytes written to the device meanwhile by everybody, if it can be read.
    pub to_device: Option<u64>,
}

/// Stored by one commit: a decision's record.
pub const PAYLOAD_BYTES: u64 = 256;

/// How often each call is timed.
pub(super) const FLUSHES: usize = 200;

/// How long one kind may take, or two in turn: a slow disk is known before the last of its flushes.
const TIME_MAX: Duration = Duration::from_secs(5);

/// Kinds of flushes that are timed.
pub(super) const KINDS: usize = 4;

/// Bytes of a block, and of memory's alignment for direct writes.
const BLOCK_BYTES: usize = 4096;

/// Half of the file that is overwritten: a block for each time.
const BLOCKS_BYTES: u64 = (FLUSHES * BLOCK_BYTES) as u64;

/// The file of the commits: long enough for the largest folio there is, should the kernel choose it.
const COMMITS_BYTES: u64 = 4 << 20;

/// Room that the probes take.
pub(super) const PROBES_BYTES: u64 = 3 * BLOCKS_BYTES + COMMITS_BYTES;

const _: () = assert!(FLUSHES as u64 * PAYLOAD_BYTES <= COMMITS_BYTES);

/// Times all of it in `scratch`, an empty folder. `tick` is called before each flush and says whether to go on.
pub(super) fn measure(
    scratch: &Path,
    sink: SinkKind,
    counters: &Counters,
    tick: &mut dyn FnMut() -> bool,
) -> Result<Flushes, DoctorError> {
    let failed = |what| DoctorError::io(what, scratch);
    let block = [0x5a; BLOCK_BYTES];
    let medium = RealMedium::new(scratch, SinkKind::Pwrite);
    let growing = medium.create("growing").map_err(failed("make a file in"))?;
    medium.sync_names("").map_err(failed("sync"))?;
    let mut append = |n: usize| {
        growing.write_at(&block, offset(n))?;
        growing.sync_data()
    };
    let [appended] = timed(scratch, tick, [&mut append])?;
    drop(growing);

    let blocks = Folder::new(Box::new(medium)).prepare(BLOCKS, 2 * BLOCKS_BYTES);
    let blocks = blocks.map_err(failed("prepare a segment in"))?.file;
    let mut overwrite = |n: usize| {
        blocks.write_at(&block, offset(n))?;
        blocks.sync_data()
    };
    // In turn, so that what else the disk has to do slows both.
    let (overwritten, direct) = match Direct::open(&scratch.join(segment_name(BLOCKS))) {
        Ok(direct) => {
            let mut write = |n: usize| direct.write(BLOCKS_BYTES + offset(n));
            let [overwritten, direct] = timed(scratch, tick, [&mut overwrite, &mut write])?;
            (overwritten, Ok(direct))
        }
        Err(error) => {
            let [overwritten] = timed(scratch, tick, [&mut overwrite])?;
            (overwritten, Err(error.to_string()))
        }
    };

    let folder = Folder::new(Box::new(RealMedium::new(scratch, sink)));
    let mut commits = folder.prepare(COMMITS, COMMITS_BYTES).map_err(failed("prepare a segment in"))?;
    let file = Arc::clone(&commits.file);
    let payload = &block[..usize::try_from(PAYLOAD_BYTES).expect("a few hundred")];
    let before = counters.read();
    let mut commit = |n: usize| {
        commits.sink.write(n as u64 * PAYLOAD_BYTES, payload)?;
        file.sync_data()
    };
    let [committed] = timed(scratch, tick, [&mut commit])?;
    let after = counters.read();
    let grown = |before: Option<u64>, after: Option<u64>| after?.checked_sub(before?);
    let written = Written {
        commits: committed.count as u64,
        by_process: grown(before.by_process, after.by_process),
        to_device: grown(before.to_device, after.to_device),
    };
    Ok(Flushes { appended, overwritten, direct, committed, written })
}

/// The segments of the probes, by number.
const BLOCKS: u64 = 1;
const COMMITS: u64 = 2;

/// Where a block is.
fn offset(n: usize) -> u64 {
    (n * BLOCK_BYTES) as u64
}

/// What is timed, for the n-th time.
type Call<'a> = &'a mut dyn FnMut(usize) -> io::Result<()>;

/// Times `calls` in turn, each [`FLUSHES`] times, or as often as [`TIME_MAX`] lets.
fn timed<const N: usize>(
    scratch: &Path,
    tick: &mut dyn FnMut() -> bool,
    mut calls: [Call<'_>; N],
) -> Result<[Latency; N], DoctorError> {
    let began = Instant::now();
    let mut times = [const { Vec::new() }; N];
    for n in 0..FLUSHES {
        for (call, times) in calls.iter_mut().zip(&mut times) {
            if !tick() {
                return Err(DoctorError::Interrupted);
            }
            let started = Instant::now();
            call(n).map_err(DoctorError::io("write and flush in", scratch))?;
            times.push(started.elapsed());
        }
        if began.elapsed() > TIME_MAX {
            break;
        }
    }
    Ok(times.map(|times| Latency::of(times).expect("it was done once at least")))
}

/// A file that is written past the cache, each write flushed.
struct Direct {
    file: std::fs::File,
    room: Vec<u8>,
    start: usize,
}

impl Direct {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = libc::O_DIRECT | libc::O_DSYNC | libc::O_NOFOLLOW;
        let file = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
        let room = vec![0xa5; 2 * BLOCK_BYTES];
        let start = room.as_ptr().align_offset(BLOCK_BYTES);
        let direct = Self { file, room, start };
        // Some file systems refuse at the write, not at the opening.
        direct.write(0)?;
        Ok(direct)
    }

    fn write(&self, offset: u64) -> io::Result<()> {
        self.file.write_all_at(&self.room[self.start..self.start + BLOCK_BYTES], offset)
    }
}
