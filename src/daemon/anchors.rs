//! What others say about this log's checkpoints, put on record: by its witnesses, and by its timestamp authority.

use std::sync::{Arc, Mutex, PoisonError};

use crate::audit::{Ack, AnchorEvent, Appender, Event};

/// The way into the log for anchors. Few come and each takes a moment, so all share it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Anchors(Arc<Mutex<Appender>>);

impl Anchors {
    pub(super) fn new(appender: Appender) -> Self {
        Self(Arc::new(Mutex::new(appender)))
    }

    /// Puts an anchor into the log; waits for nothing. What stands beside the log counts already, so a log that takes
    /// nothing now is no harm.
    pub(super) fn record(&self, anchor: AnchorEvent<'_>) {
        let mut appender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = appender.append(&Event::Anchor(anchor), Ack::Recorded) {
            tracing::warn!(%error, "an anchor is not on record");
        }
        appender.submit();
    }
}
