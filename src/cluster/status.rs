//! How the connection to Redis fares: written by its threads, read by whoever shows it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// What goes wrong, in words; `None` where all goes well. Publishing and asking go well until they are tried again.
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
    // One for each kind of work.
    errors: Mutex<[Option<String>; Work::ALL.len()]>,
}

/// What may go wrong by itself; the first that does is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Follow,
    Publish,
    Ask,
    Keep,
}

impl Work {
    const ALL: &[Self] = &[Self::Follow, Self::Publish, Self::Ask, Self::Keep];
}

impl Board {
    pub(super) fn note(&self, write: impl FnOnce(&mut ClusterStatus)) {
        write(&mut self.lock());
    }

    /// Notes a failure; says whether it is another than the one before, and so worth a line in the log.
    pub(super) fn fail(&self, work: Work, error: &ClusterError) -> bool {
        self.set(work, Some(error.to_string()))
    }

    /// Notes that it goes well.
    pub(super) fn succeed(&self, work: Work) {
        self.set(work, None);
    }

    fn set(&self, work: Work, error: Option<String>) -> bool {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = errors[work as usize] != error;
        if changed {
            errors[work as usize] = error;
            let shown = errors.iter().flatten().next().cloned();
            self.lock().last_error = shown;
        }
        changed
    }

    fn lock(&self) -> MutexGuard<'_, ClusterStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_stays_until_that_work_goes_well_again() {
        let board = Board::default();
        let shown = || board.lock().last_error.clone();
        let busy = ClusterError::Busy { waiting: 7 };
        assert!(board.fail(Work::Publish, &busy));
        assert!(!board.fail(Work::Publish, &busy));
        board.succeed(Work::Follow);
        assert_eq!(shown(), Some(busy.to_string()));
        board.fail(Work::Follow, &ClusterError::Stopped);
        assert_eq!(shown(), Some(ClusterError::Stopped.to_string()));
        board.succeed(Work::Follow);
        board.succeed(Work::Publish);
        assert_eq!(shown(), None);
    }
}
