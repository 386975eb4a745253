//! The wall clock beside the one that only counts.

use std::{
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// What the clocks did while the probes ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// How far the wall clock moved against the other one.
    pub step: Duration,
    /// The wall clock, in seconds since 1970.
    pub wall_s: u64,
    /// Whether systemd-timesyncd says that it set the clock; `None` where it is not there to say.
    pub synchronised: Option<bool>,
}

/// The clocks when the probes began.
pub(super) struct Began {
    wall: Duration,
    mono: Instant,
}

impl Began {
    pub(super) fn now() -> Self {
        Self { wall: wall(), mono: Instant::now() }
    }

    pub(super) fn until_now(&self) -> Clocks {
        let (wall, passed) = (wall(), self.mono.elapsed());
        Clocks {
            step: wall.abs_diff(self.wall + passed),
            wall_s: wall.as_secs(),
            synchronised: Path::new(TIMESYNC).is_dir().then(|| Path::new(SYNCHRONISED).exists()),
        }
    }
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// systemd-timesyncd.service(8): its folder, and a file that is there once it set the clock.
const TIMESYNC: &str = "/run/systemd/timesync";
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";
