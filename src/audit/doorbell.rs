//! How those who hand work over wake the one thread that takes it, and pay nothing while it is awake.
//!
//! `tests/models.rs` tries the interleavings of both sides.

use std::time::Duration;

use super::sync::{AtomicBool, Mutex, Ordering, PoisonError, Thread, current, fence, park, park_timeout};

/// Wakes the sequencer if, and only if, it sleeps.
#[derive(Default)]
pub(super) struct Doorbell {
    asleep: AtomicBool,
    sleeper: Mutex<Option<Thread>>,
}

impl Doorbell {
    /// Names the thread to wake: the calling one.
    pub(super) fn answer_here(&self) {
        *self.sleeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(current());
    }

    pub(super) fn ring(&self) {
        // Orders the push before the look at `asleep`; `sleep_unless` orders its store before its look at the rings.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            let sleeper = self.sleeper.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(thread) = sleeper.as_ref() {
                thread.unpark();
            }
        }
    }

    /// Sleeps until rung, or until `timeout`, unless `work` is already there.
    pub(super) fn sleep_unless(&self, timeout: Option<Duration>, work: impl FnOnce() -> bool) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !work() {
            match timeout {
                Some(timeout) => park_timeout(timeout),
                None => park(),
            }
        }
        self.asleep.store(false, Ordering::Relaxed);
    }
}
