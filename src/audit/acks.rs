//! How far the log has come with one appender's records, told by the log's threads to the owner.
//!
//! `tests/models.rs` tries the interleavings of both sides.

use std::task::Waker;

use super::sync::{AtomicU64, AtomicWaker, Ordering, fence};

/// One appender's acknowledgements.
pub(super) struct Acks {
    // Written by the sequencer, read by the owner: highest core_seq stored.
    recorded: AtomicU64,
    // Written by the flusher, read by the owner: highest core_seq flushed.
    durable: AtomicU64,
    // Written by the owner, read by the flusher: the highest core_seq whose flush someone waits for.
    durable_wanted: AtomicU64,
    waker: AtomicWaker,
}

impl Default for Acks {
    fn default() -> Self {
        Self {
            recorded: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            durable_wanted: AtomicU64::new(0),
            waker: AtomicWaker::new(),
        }
    }
}

impl Acks {
    pub(super) fn recorded(&self) -> u64 {
        self.recorded.load(Ordering::Acquire)
    }

    pub(super) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Says that someone waits for the flush of `core_seq`; look at [`Self::durable`] afterwards.
    pub(super) fn want_durable(&self, core_seq: u64) {
        self.durable_wanted.fetch_max(core_seq, Ordering::AcqRel);
        // Either the flusher sees the wish, or the owner, who looks next, sees the flush: each side writes before this
        // fence and reads behind it.
        fence(Ordering::SeqCst);
    }

    /// Has `waker` woken by what comes from now on; look, then wait.
    pub(super) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    pub(super) fn wake(&self) {
        self.waker.wake();
    }

    /// Records up to `core_seq` are stored.
    pub(super) fn publish_recorded(&self, core_seq: u64) {
        self.recorded.store(core_seq, Ordering::Release);
        self.waker.wake();
    }

    /// Records up to `core_seq` are flushed. Those who wait only for `recorded` are left alone.
    pub(super) fn publish_durable(&self, core_seq: u64) {
        let before = self.durable.load(Ordering::Relaxed);
        if before < core_seq {
            self.durable.store(core_seq, Ordering::Release);
            fence(Ordering::SeqCst);
            if self.durable_wanted.load(Ordering::Acquire) > before {
                self.waker.wake();
            }
        }
    }
}
