//! The doctor: looks at the folder where a log is or would be, tries what its disk does, and says in one sentence what is
//! guaranteed there.
//!
//! - `scratch.rs`: where the probes write, beside the log's files and never into them.
//! - `flushes.rs`, `room.rs`, `signing.rs`, `clock.rs`, `below.rs`: what is measured, and what the kernel says.
//! - `judge.rs`, `sentence.rs`: from that to verdicts and the sentence; pure. `report.rs`: as text.
//!
//! No measurement proves that a disk keeps what it acknowledged: only a power cut would. What is found is the disk that
//! cannot have kept it, and the sentence names what is left to believe.

mod below;
mod clock;
mod flushes;
mod judge;
mod report;
mod room;
mod scratch;
mod sentence;
mod signing;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    file_system::FileSystem,
    settings::{Settings, Watermarks},
};
use scratch::Scratch;

pub use below::{Below, Device};
pub use clock::Clocks;
pub use flushes::{Flushes, Latency, PAYLOAD_BYTES, Written};
pub use judge::{Diagnosis, Finding, Verdict, judge};
pub use report::to_text;
pub use room::{Rate, Room};
pub use signing::{Signing, measure_signing};

/// What was measured and seen of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// The folder.
    pub folder: PathBuf,
    /// Its file system, as a start of the log sees it.
    pub file_system: FileSystem,
    /// What lies below that.
    pub below: Below,
    /// How long flushes take, and what they cost.
    pub flushes: Flushes,
    /// How much room there is.
    pub room: Room,
    /// How fast checkpoints are signed.
    pub signing: Signing,
    /// What the clocks did meanwhile.
    pub clocks: Clocks,
}

/// What a log promises by its settings, if the folder is fit for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// The longest time a recorded event waits for its flush.
    pub flush_interval: Duration,
    /// How long a flush may take before shards are refused.
    pub unflushed_age_max: Duration,
    /// How long an answer may wait for its record.
    pub ack_timeout: Duration,
    /// The longest time between two checkpoints while there are new events.
    pub checkpoint_interval: Duration,
    /// When the disk counts as low, scarce and full.
    pub watermarks: Watermarks,
}

impl Promise {
    /// Of a log with these settings, whose answers wait so long for their records.
    #[must_use]
    pub fn of(settings: &Settings, ack_timeout: Duration) -> Self {
        Self {
            flush_interval: settings.flush_interval,
            unflushed_age_max: settings.unflushed_age_max,
            ack_timeout,
            checkpoint_interval: settings.checkpoint_interval,
            watermarks: settings.watermarks,
        }
    }
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// Another run is at it.
    #[error("{path} is in use: another `edgate audit doctor` examines this folder", path = path.display())]
    Busy {
        /// The probes' folder.
        path: PathBuf,
    },
    /// Something that is not ours has the name of the probes' folder.
    #[error("{path} is not a folder: the probes need that name", path = path.display())]
    InTheWay {
        /// Its path.
        path: PathBuf,
    },
    /// Someone stopped it.
    #[error("interrupted")]
    Interrupted,
    /// Reading or writing failed.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The probes would take the room that a log there leaves to others.
    #[error("not enough room in {path}: {free} bytes are free, the probes need {needed} and leave {left} to others as a log does", path = path.display())]
    NoRoom {
        /// The folder.
        path: PathBuf,
        /// Bytes that are free.
        free: u64,
        /// Bytes that the probes write.
        needed: u64,
        /// The last watermark.
        left: u64,
    },
    /// There is no such folder.
    #[error("no folder {path}: correct the path, or make it as it will be for the log", path = path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
}

impl DoctorError {
    fn io(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { what, path: path.to_owned(), source }
    }
}

/// Measures and looks, in files of its own that are gone when this returns. `signing` is what [`measure_signing`] found.
/// `progress` gets the flushes done and how many there are at most, and says whether to go on. Blocks for seconds.
///
/// # Errors
/// [`DoctorError`]: nothing is known then.
pub fn examine(
    dir: &Path,
    promise: &Promise,
    signing: Signing,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Measured, DoctorError> {
    if !dir.is_dir() {
        return Err(DoctorError::NotFound { path: dir.to_owned() });
    }
    let folder = fs::canonicalize(dir).map_err(DoctorError::io("find", dir))?;
    let free = free_bytes(&folder).map_err(DoctorError::io("ask for the room of", dir))?;
    let (needed, left) = (flushes::PROBES_BYTES, promise.watermarks.full_bytes);
    if free < needed.saturating_add(left) {
        return Err(DoctorError::NoRoom { path: dir.to_owned(), free, needed, left });
    }
    let began = clock::Began::now();
    let rate = room::rate_of(&folder).map_err(DoctorError::io("read the log in", dir))?;
    let scratch = Scratch::make(&folder)?;
    let file_system = FileSystem::of(scratch.path());
    let file_system = file_system.map_err(DoctorError::io("ask for the file system of", dir))?;
    let (below, counters) = Below::of(scratch.path());
    let mut done = 0;
    let flushes = flushes::measure(scratch.path(), file_system.sink, &counters, &mut || {
        done += 1;
        progress(done, flushes::KINDS * flushes::FLUSHES)
    })?;
    drop(scratch);
    let clocks = began.until_now();
    Ok(Measured { folder, file_system, below, flushes, room: Room { free, rate }, signing, clocks })
}

fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests;
