//! What the threads share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Heard;
use super::error::ClusterError;
use super::keys::Keys;
use super::link::Link;
use super::sentinels::{Agreement, Votes};
use super::status::Board;
use crate::config::Redis;
use crate::decision::UnixSeconds;
use crate::revocation::View;

/// What every thread of the room reads.
pub(super) struct Shared {
    pub(super) redis: Redis,
    pub(super) keys: Keys,
    pub(super) view: Arc<View>,
    pub(super) board: Arc<Board>,
    pub(super) stop: Stop,
    pub(super) trust: Trust,
    /// What the Sentinels say, where there are any.
    pub(super) votes: Option<Votes>,
    pub(super) now: fn() -> UnixSeconds,
    /// How long after its `iat` any token may be accepted at most: how long a watermark counts.
    pub(super) mark_life_s: u64,
    /// How far any issuer's clock may be ahead: a token may be older than it says by that much.
    pub(super) leeway_s: u64,
    /// Is told what was changed, once it is stored.
    pub(super) heard: Heard,
}

impl Shared {
    /// Refuses a server that is no longer the one most Sentinels name.
    pub(super) fn check_named(&self, link: &Link) -> Result<(), ClusterError> {
        let (Some(votes), Some(address)) = (&self.votes, link.address()) else { return Ok(()) };
        match votes.agreement(address, Instant::now()) {
            Agreement::Another => Err(ClusterError::NotPrimary {
                server: link.server().to_owned(),
                role: "no longer the one that the Sentinels name".to_owned(),
            }),
            Agreement::Named(_) | Agreement::Unclear => Ok(()),
        }
    }
}

/// Tells the threads to end, also while they wait.
#[derive(Debug, Default)]
pub(super) struct Stop {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    pub(super) fn set(&self) {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    pub(super) fn is_set(&self) -> bool {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits at most so long; returns whether to stop.
    pub(super) fn wait(&self, at_most: Duration) -> bool {
        let set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(set, at_most, |set| !*set);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Which data may be believed when a single token is asked about: one the follower has looked at, and given what this node
/// remembers and it lacked. After a restart a server may hold older data than the connection before it did.
#[derive(Debug, Default)]
pub(super) struct Trust {
    trusted: Mutex<Option<Source>>,
    // Other nodes are still giving back what Redis lost.
    held_back: AtomicBool,
}

/// A server, by its process and history, and the data set it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) origin: String,
    pub(super) dataset: String,
}

impl Trust {
    pub(super) fn set(&self, source: Option<Source>) {
        *self.trusted.lock().unwrap_or_else(PoisonError::into_inner) = source;
    }

    pub(super) fn trusts(&self, source: &Source) -> bool {
        !self.held_back.load(Ordering::Acquire) && self.names(source)
    }

    /// Whether it is the one that would be trusted, were nothing held back.
    pub(super) fn names(&self, source: &Source) -> bool {
        self.trusted.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(source)
    }

    pub(super) fn hold_back(&self, held: bool) {
        self.held_back.store(held, Ordering::Release);
    }
}
