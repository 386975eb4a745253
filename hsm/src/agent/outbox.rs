//! The answers of one connection on their way out, and how many are still owed.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::frame::Reply;
use crate::pool::lock;

/// Requests of one connection that are not answered, after which no more are read. The pool's queues are shorter.
const OWED_MAX: usize = 8192;

/// What those requests may hold, and their answers with them.
const OWED_BYTES_MAX: usize = 8 << 20;

#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    replies: Vec<Reply>,
    // Requests admitted whose answer has not been taken, and the bytes of each.
    owed: HashMap<u64, usize>,
    owed_bytes: usize,
    // Nothing more comes in.
    closing: bool,
}

impl Outbox {
    /// Waits until the request `id` of so many bytes may be admitted; false if none will be, or that number is under way.
    pub(super) fn admit(&self, id: u64, bytes: usize) -> bool {
        let mut state = lock(&self.state);
        let full = |state: &State| state.owed.len() >= OWED_MAX || state.owed_bytes >= OWED_BYTES_MAX;
        while full(&state) && !state.closing {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closing || state.owed.contains_key(&id) {
            return false;
        }
        state.owed.insert(id, bytes);
        state.owed_bytes = state.owed_bytes.saturating_add(bytes);
        true
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
        let idle = |state: &mut State| state.replies.is_empty() && !(state.closing && state.owed.is_empty());
        let (mut state, _) = self
            .changed
            .wait_timeout_while(lock(&self.state), patience, idle)
            .unwrap_or_else(PoisonError::into_inner);
        let replies = std::mem::take(&mut state.replies);
        for reply in &replies {
            let bytes = state.owed.remove(&reply.id).unwrap_or(0);
            state.owed_bytes = state.owed_bytes.saturating_sub(bytes);
        }
        let over = state.closing && state.owed.is_empty();
        self.changed.notify_all();
        (replies, over)
    }
}
