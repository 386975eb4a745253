//! A look at a running log, for whoever reports on it.

use std::sync::Arc;

use super::{
    appender::Shared,
    status::{Progress, Status},
};

/// Sees how a log is, and can do nothing to it. Cheap to clone.
#[derive(Clone)]
pub struct LogWatch {
    shared: Arc<Shared>,
    progress: Arc<Progress>,
}

impl LogWatch {
    pub(super) fn new(shared: Arc<Shared>, progress: Arc<Progress>) -> Self {
        Self { shared, progress }
    }

    /// A look at the log.
    #[must_use]
    pub fn status(&self) -> Status {
        self.progress.status(self.shared.failure())
    }

    /// Records of this boot with a value that should have been sealed and could not be.
    #[must_use]
    pub fn unsealed(&self) -> u64 {
        self.shared.sealing.unsealed()
    }

    /// Why no key could be made to seal with, if that is so.
    #[must_use]
    pub fn sealing_failure(&self) -> Option<String> {
        self.shared.sealing.failure()
    }

    /// How many records are durable now, all of which the next checkpoint will cover: for whoever waits for that.
    #[must_use]
    pub fn durable_to_be_signed(&self) -> u64 {
        self.progress.durable_to_be_signed()
    }

    /// Records that a CHECKPOINT record of this boot covers, which is durable itself.
    pub(super) fn vouched_size(&self) -> u64 {
        self.progress.vouched_size()
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}
