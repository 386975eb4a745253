//! The two clocks of a record, behind a seam so that tests can make them jump.

use std::{
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// A reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    /// Nanoseconds since 1970; 0 for any time before.
    pub(super) wall_ns: u64,
    /// Nanoseconds since the log was opened.
    pub(super) mono_ns: u64,
}

/// Where readings come from.
#[derive(Clone)]
pub(super) struct Clock {
    read: Arc<dyn Fn() -> Reading + Send + Sync>,
}

impl Clock {
    /// The system's clocks; monotonic time counts from now.
    pub(super) fn system() -> Self {
        let opened = Instant::now();
        Self::new(move || Reading {
            wall_ns: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)),
            mono_ns: u64::try_from(opened.elapsed().as_nanos()).unwrap_or(u64::MAX),
        })
    }

    pub(super) fn new(read: impl Fn() -> Reading + Send + Sync + 'static) -> Self {
        Self { read: Arc::new(read) }
    }

    pub(super) fn read(&self) -> Reading {
        (self.read)()
    }
}
