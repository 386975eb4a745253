//! The answers of one connection on their way out, and how many are still owed.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::frame::Reply;
use crate::pool::lock;

/// Requests of one connection that are not answered, after which no more are read. The pool's queues are shorter.
const OWED_MAX: usize = 8192;

#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    replies: Vec<Reply>,
    // Requests admitted whose answer has not been taken.
    owed: usize,
    // Nothing more comes in.
    closing: bool,
}

impl Outbox {
    /// Waits until one more request may be admitted; false if none will be.
    pub(super) fn admit(&self) -> bool {
        let mut state = lock(&self.state);
        while state.owed >= OWED_MAX && !state.closing {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.owed += usize::from(!state.closing);
        !state.closing
    }

    /// Puts an answer out.
    pub(super) fn push(&self, reply: Reply) {
        let mut state = lock(&self.state);
        state.replies.push(reply);
        self.changed.notify_all();
    }

    /// No more requests come; what is owed is still answered.
    pub(super) fn close(&self) {
        lock(&self.state).closing = true;
        self.changed.notify_all();
    }

    /// Waits for answers, for `patience`. Nothing if there are none, and whether that was all.
    pub(super) fn take(&self, patience: Duration) -> (Vec<Reply>, bool) {
        let idle = |state: &mut State| state.replies.is_empty() && !(state.closing && state.owed == 0);
        let (mut state, _) = self
            .changed
            .wait_timeout_while(lock(&self.state), patience, idle)
            .unwrap_or_else(PoisonError::into_inner);
        let replies = std::mem::take(&mut state.replies);
        state.owed = state.owed.saturating_sub(replies.len());
        let over = state.closing && state.owed == 0;
        self.changed.notify_all();
        (replies, over)
    }
}
