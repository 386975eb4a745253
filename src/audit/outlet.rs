//! Published checkpoints on their way out: what is needed to show a witness that each continues the last it saw.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use super::merkle::CompactRange;

/// Where the sealer leaves what it published. One for each who takes it elsewhere.
#[derive(Default)]
pub(super) struct Outlets(Mutex<Vec<Subscription>>);

/// Takes published checkpoints; the latest one is enough. Cheap to clone: all clones take from the same place.
#[derive(Clone)]
pub struct Subscription(Arc<Waiting>);

struct Waiting {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    published: Option<Published>,
    closed: bool,
}

/// A published checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The note.
    pub note: String,
    /// The records since the last one that was taken from here; where nothing was, since the one before this one.
    pub since: CompactRange,
}

/// What a wait ended with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// The latest checkpoint.
    Published(Published),
    /// Nothing new in that time.
    Nothing,
    /// The subscription was closed.
    Closed,
}

impl Outlets {
    pub(super) fn subscribe(&self) -> Subscription {
        let subscription =
            Subscription(Arc::new(Waiting { state: Mutex::default(), changed: Condvar::new() }));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(subscription.clone());
        subscription
    }

    /// Leaves a checkpoint for everyone; `since` are the records since the one before. Costs a few hashes each, however
    /// long nobody takes anything.
    pub(super) fn publish(&self, note: &str, since: &CompactRange) {
        for subscription in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            subscription.put(note, since);
        }
    }
}

impl Subscription {
    /// Waits for a checkpoint that was not taken yet.
    #[must_use]
    pub fn take(&self, timeout: Duration) -> Taken {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let nothing = |state: &mut State| state.published.is_none() && !state.closed;
        let (mut state, _) = self
            .0
            .changed
            .wait_timeout_while(state, timeout, nothing)
            .unwrap_or_else(PoisonError::into_inner);
        match state.published.take() {
            _ if state.closed => Taken::Closed,
            Some(published) => Taken::Published(published),
            None => Taken::Nothing,
        }
    }

    /// Waits, and says whether it was closed meanwhile.
    #[must_use]
    pub fn pause(&self, time: Duration) -> bool {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let open = |state: &mut State| !state.closed;
        let (state, _) =
            self.0.changed.wait_timeout_while(state, time, open).unwrap_or_else(PoisonError::into_inner);
        state.closed
    }

    /// Ends every wait, now and later.
    pub fn close(&self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.0.changed.notify_all();
    }

    fn put(&self, note: &str, since: &CompactRange) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = state.published.take().map(|published| published.since);
        let since = since.clone().after(earlier);
        state.published = Some(Published { note: note.to_owned(), since });
        self.0.changed.notify_all();
    }
}
