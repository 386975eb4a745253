//! What issuers' lists say, for shards: a snapshot that the fetcher swaps whole.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};

use super::{Reference, Status, StatusList};
use crate::decision::UnixSeconds;
use crate::keys::IssuerIndex;

/// Lists asked for that the fetcher has not looked at yet; more are asked for again by the next token.
const WANTED_MAX: usize = 1024;

/// How a token stands by its issuer's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It may pass.
    Valid,
    /// It is revoked, or has a status of its issuer's own, which nobody here knows to be good.
    Invalid,
    /// It is not valid for the time being.
    Suspended,
    /// Its place is not in the list: it must not pass, now or later (§8.3).
    OutOfRange,
    /// The list is not there, or too old: it is being fetched.
    Unknown,
}

/// The shards' side. Never waits.
pub struct Cache {
    lists: Arc<ArcSwap<Lists>>,
    wanted: Sender<Wanted>,
}

/// The fetcher's side.
pub struct Places {
    pub(super) lists: Arc<ArcSwap<Lists>>,
    pub(super) wanted: Receiver<Wanted>,
}

/// Every list, by issuer and uri. Replaced whole; at most
/// [`LISTS_PER_ISSUER_MAX`](super::fetcher::LISTS_PER_ISSUER_MAX) of each issuer.
pub(super) type Lists = HashMap<IssuerIndex, HashMap<String, Arc<Entry>>>;

/// A list that somebody asks about.
pub(super) struct Wanted {
    pub(super) issuer: IssuerIndex,
    pub(super) uri: String,
}

/// What is known of one list. A new one is made with each fetch, so readers never see half of it.
pub(super) struct Entry {
    /// None: it was never fetched.
    pub(super) held: Option<Held>,
    // Written by shards, about once a second.
    pub(super) used_at: AtomicU64,
}

/// A list as it was fetched.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) list: Arc<StatusList>,
    pub(super) issued_at: UnixSeconds,
    /// From this second on nothing may be concluded from it.
    pub(super) usable_until: UnixSeconds,
}

/// An empty cache, and the fetcher's way into it.
#[must_use]
pub fn places() -> (Cache, Places) {
    let lists = Arc::new(ArcSwap::default());
    let (sender, wanted) = bounded(WANTED_MAX);
    (Cache { lists: Arc::clone(&lists), wanted: sender }, Places { lists, wanted })
}

impl Cache {
    /// How a token of `issuer` stands at `now`. Takes no lock and makes no system call; allocates only where the list is
    /// asked for the first time.
    ///
    /// [`Standing::Unknown`] has the list fetched, if it is one that the issuer may name.
    #[must_use]
    pub fn standing(&self, issuer: IssuerIndex, reference: &Reference<'_>, now: UnixSeconds) -> Standing {
        let lists = self.lists.load();
        let Some(entry) = lists.get(&issuer).and_then(|lists| lists.get(reference.uri)) else {
            // A full queue is one that is being worked on.
            let wanted = Wanted { issuer, uri: reference.uri.to_owned() };
            let (Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) =
                self.wanted.try_send(wanted);
            return Standing::Unknown;
        };
        if entry.used_at.load(Ordering::Relaxed) != now.0 {
            entry.used_at.store(now.0, Ordering::Relaxed);
        }
        let Some(held) = entry.held.as_ref().filter(|held| now < held.usable_until) else {
            return Standing::Unknown;
        };
        match held.list.status(reference.index) {
            Ok(Status::VALID) => Standing::Valid,
            Ok(Status::SUSPENDED) => Standing::Suspended,
            Ok(_) => Standing::Invalid,
            Err(_) => Standing::OutOfRange,
        }
    }
}
