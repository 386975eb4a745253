//! How the connection to Redis fares: written by its threads, read by whoever shows it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::ClusterError;
use crate::revocation::View;

/// How this node and Redis get on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterStatus {
    /// Whether the follower is connected.
    pub connected: bool,
    /// The server it follows, or followed last.
    pub server: String,
    /// Age of the view: time since Redis confirmed that it lacks nothing. `None`: never, or it is being rebuilt.
    pub lag: Option<Duration>,
    /// The last stream entry applied.
    pub last_id: String,
    /// The name of the data set it came from.
    pub dataset: String,
    /// Stream entries applied since the start.
    pub events: u64,
    /// Times the view was rebuilt from all entries: once at the start, later after a gap or a loss in Redis.
    pub rebuilds: u64,
    /// Changes given to Redis again, because it lacked what this node remembered.
    pub republished: u64,
    /// Connections made after the first.
    pub reconnects: u64,
    /// Changes that other nodes made and that the state database did not take yet.
    pub unsaved: u64,
    /// What went wrong last, in words; `None` since it went well again.
    pub last_error: Option<String>,
}

/// Shows the status; cheap to clone.
#[derive(Clone)]
pub struct StatusReader {
    board: Arc<Board>,
    view: Arc<View>,
}

impl StatusReader {
    /// The status now.
    #[must_use]
    pub fn read(&self) -> ClusterStatus {
        let age = self.view.freshness().age(Instant::now());
        ClusterStatus { lag: (age != Duration::MAX).then_some(age), ..self.board.lock().clone() }
    }

    pub(super) fn new(board: Arc<Board>, view: Arc<View>) -> Self {
        Self { board, view }
    }
}

/// Where the threads note it. Held for a moment each time, never by a shard.
#[derive(Debug, Default)]
pub(super) struct Board {
    status: Mutex<ClusterStatus>,
}

impl Board {
    pub(super) fn note(&self, write: impl FnOnce(&mut ClusterStatus)) {
        write(&mut self.lock());
    }

    /// Notes a failure; says whether it is another than the one before, and so worth a line in the log.
    pub(super) fn fail(&self, error: &ClusterError) -> bool {
        let text = error.to_string();
        let mut status = self.lock();
        let other = status.last_error.as_ref() != Some(&text);
        status.last_error = Some(text);
        other
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ClusterStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
