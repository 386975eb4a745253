//! What the Sentinels say about who the primary is, asked all the time: a primary that was deposed behind a cut in the
//! network goes on answering those on its side.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::connect::{self, Address, Backoff};
use super::shared::Shared;

/// The Sentinels' last answers. Written by one thread for each, read by whoever connects or confirms.
#[derive(Debug)]
pub(super) struct Votes {
    votes: Mutex<Vec<Option<Vote>>>,
}

#[derive(Debug, Clone)]
struct Vote {
    address: Address,
    // When the Sentinel was asked.
    at: Instant,
}

/// What the Sentinels say about one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Agreement {
    /// Most of them named another address.
    Another,
    /// Most of them named it at this moment or later, and none named another.
    Named(Instant),
    /// Too few answered, or they differ: a failover may be under way.
    Unclear,
}

impl Votes {
    pub(super) fn new(sentinels: usize) -> Self {
        Self { votes: Mutex::new(vec![None; sentinels]) }
    }

    fn note(&self, sentinel: usize, address: Address, at: Instant) {
        let mut votes = self.votes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(vote) = votes.get_mut(sentinel) {
            *vote = Some(Vote { address, at });
        }
    }

    /// Whether the server at `address` may be believed at `now`.
    pub(super) fn agreement(&self, address: &Address, now: Instant) -> Agreement {
        let (votes, most) = self.recent(now);
        if majority(&votes, most).is_some_and(|named| named != *address) {
            return Agreement::Another;
        }
        let mut named: Vec<Instant> =
            votes.iter().filter(|vote| vote.address == *address).map(|vote| vote.at).collect();
        if named.len() < most || named.len() < votes.len() {
            return Agreement::Unclear;
        }
        named.sort_unstable_by(|one, other| other.cmp(one));
        Agreement::Named(named[most - 1])
    }

    /// The address that most of them name.
    pub(super) fn majority(&self, now: Instant) -> Option<Address> {
        let (votes, most) = self.recent(now);
        majority(&votes, most)
    }

    /// Those whose answer is not too old to count, and how many make most of all.
    fn recent(&self, now: Instant) -> (Vec<Vote>, usize) {
        let votes = self.votes.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |vote: &&Vote| now.saturating_duration_since(vote.at) < VOTE_LIFE;
        (votes.iter().flatten().filter(recent).cloned().collect(), votes.len() / 2 + 1)
    }
}

fn majority(votes: &[Vote], most: usize) -> Option<Address> {
    let count = |address: &Address| votes.iter().filter(|vote| vote.address == *address).count();
    votes.iter().map(|vote| &vote.address).find(|address| count(address) >= most).cloned()
}

/// The work of one of the threads `redis-watch`: asks one Sentinel until told to stop.
pub(super) fn watch(shared: &Shared, number: usize, sentinel: &str, primary: &str) {
    let Some(votes) = &shared.votes else { return };
    let mut link = None;
    let mut backoff = Backoff::new();
    loop {
        let at = Instant::now();
        let pause = match connect::primary_named_by(&shared.redis, sentinel, primary, &mut link) {
            Ok(address) => {
                votes.note(number, address, at);
                backoff.succeeded();
                PAUSE
            }
            Err(error) => {
                tracing::debug!(%error, "a Sentinel does not answer");
                backoff.failed(Instant::now());
                backoff.left(Instant::now())
            }
        };
        if shared.stop.wait(pause) {
            return;
        }
    }
}

/// Time between two questions; the view of a node behind Sentinels is older by as much.
const PAUSE: Duration = Duration::from_millis(100);

/// How long an answer counts: a Sentinel that is gone must not block what the others agree on for ever.
const VOTE_LIFE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_sentinels_must_name_it_and_none_another() {
        let origin = Instant::now();
        let at = |s| origin + Duration::from_secs(s);
        let (old, new) = (("a".to_owned(), 1), ("a".to_owned(), 2));
        let votes = Votes::new(3);
        assert_eq!(votes.agreement(&old, at(0)), Agreement::Unclear);
        votes.note(0, old.clone(), at(0));
        assert_eq!(votes.agreement(&old, at(1)), Agreement::Unclear);
        votes.note(1, old.clone(), at(1));
        assert_eq!(votes.agreement(&old, at(1)), Agreement::Named(at(0)));
        votes.note(2, old.clone(), at(2));
        assert_eq!(votes.agreement(&old, at(2)), Agreement::Named(at(1)));
        // One has heard of another: it may be the first to.
        votes.note(0, new.clone(), at(3));
        assert_eq!(votes.agreement(&old, at(3)), Agreement::Unclear);
        assert_eq!(votes.majority(at(3)), Some(old.clone()));
        votes.note(1, new.clone(), at(4));
        assert_eq!(votes.agreement(&old, at(4)), Agreement::Another);
        assert_eq!(votes.agreement(&new, at(4)), Agreement::Unclear);
        // The third is gone, and its word with it.
        assert_eq!(votes.agreement(&new, at(7)), Agreement::Named(at(3)));
        assert_eq!(votes.agreement(&new, at(20)), Agreement::Unclear);
        assert_eq!(votes.majority(at(20)), None);
    }
}
