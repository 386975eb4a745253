//! Open addressing over atomics: one writer, any number of readers that never wait.
//!
//! A slot is three words, held in three arrays so that a search touches only the first: `high` (which also says
//! whether the slot is in use), `low`, `expiry`. 20 bytes per slot.
//!
//! # Why a reader that races with the writer is never told a falsehood
//!
//! The writer fills `low` and `expiry` first and then stores `high` with release ordering; a reader loads `high` with
//! acquire ordering and goes on to the other words only if it matches. Hence:
//!
//! - *A live entry is always found.* While it lives it neither moves nor changes its key words, and no slot between its
//!   home and itself becomes empty (see [`Table::sweep`]), so the search gets there. Its expiry only ever grows.
//! - *A reader may see words of two entries only in a slot whose first owner was dead* (expired for longer than the
//!   purge delay) and is being replaced. If it was looking for the dead one, either answer is right: that token is
//!   both expired and revoked. If it was looking for another, `high` came from the one and `low` from the other, and
//!   both halves of a keyed hash would have to match by accident.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::fingerprint::Fingerprint;

/// `high` of a slot that was never used, or is known to end every search that reaches it.
const EMPTY: u64 = 0;
/// `high` of a slot whose entry is gone but which searches must step over.
const TOMBSTONE: u64 = 1;
const _: () = assert!(EMPTY < Fingerprint::HIGH_MIN && TOMBSTONE < Fingerprint::HIGH_MIN);

/// A fixed number of slots.
pub(super) struct Table {
    high: Box<[AtomicU64]>,
    low: Box<[AtomicU64]>,
    expiry: Box<[AtomicU32]>,
}

/// What an insertion did to the slots.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    /// The entry was there; its expiry is now the later of both.
    Extended,
    /// It took a slot that was empty.
    InEmpty,
    /// It took the place of a tombstone.
    InTombstone,
    /// No slot was free.
    Full,
}

/// What one step of the sweep did to its slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Swept {
    /// Nothing: live or empty, or a tombstone that must stay.
    Kept,
    /// A dead entry became a tombstone.
    Buried,
    /// A dead entry became an empty slot.
    BuriedAndFreed,
    /// A tombstone became an empty slot.
    Freed,
}

impl Table {
    /// All slots are written once here, so that no shard takes the page fault later.
    pub(super) fn new(slots: usize) -> Self {
        Self {
            high: (0..slots).map(|_| AtomicU64::new(EMPTY)).collect(),
            low: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            expiry: (0..slots).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    pub(super) fn slots(&self) -> usize {
        self.high.len()
    }

    /// The expiry of this entry, if it is here. For any thread.
    pub(super) fn lookup(&self, fingerprint: Fingerprint) -> Option<u32> {
        let mut slot = self.home(fingerprint);
        for _ in 0..self.slots() {
            let high = self.high[slot].load(Ordering::Acquire);
            if high == fingerprint.high && self.low[slot].load(Ordering::Relaxed) == fingerprint.low {
                return Some(self.expiry[slot].load(Ordering::Relaxed));
            }
            if high == EMPTY {
                return None;
            }
            slot = self.after(slot);
        }
        None
    }

    /// Adds an entry or moves its expiry later. Only for the writer.
    pub(super) fn insert(&self, fingerprint: Fingerprint, expiry: u32) -> Inserted {
        let mut slot = self.home(fingerprint);
        let mut tombstone = None;
        for _ in 0..self.slots() {
            match self.high[slot].load(Ordering::Relaxed) {
                EMPTY => {
                    return match tombstone {
                        Some(earlier) => {
                            self.fill(earlier, fingerprint, expiry);
                            Inserted::InTombstone
                        }
                        None => {
                            self.fill(slot, fingerprint, expiry);
                            Inserted::InEmpty
                        }
                    };
                }
                TOMBSTONE => tombstone = tombstone.or(Some(slot)),
                high if high == fingerprint.high
                    && self.low[slot].load(Ordering::Relaxed) == fingerprint.low =>
                {
                    self.expiry[slot].fetch_max(expiry, Ordering::Relaxed);
                    return Inserted::Extended;
                }
                _ => {}
            }
            slot = self.after(slot);
        }
        match tombstone {
            Some(earlier) => {
                self.fill(earlier, fingerprint, expiry);
                Inserted::InTombstone
            }
            None => Inserted::Full,
        }
    }

    /// Clears `slot` if its entry expired before `horizon`. Only for the writer.
    ///
    /// Call it from high slots to low ones: a slot may become empty only where the next one is empty, since then no
    /// search passes through it; going down, a run of dead entries in front of an empty slot is freed in one pass.
    pub(super) fn sweep(&self, slot: usize, horizon: u32) -> Swept {
        let high = self.high[slot].load(Ordering::Relaxed);
        let dead = high >= Fingerprint::HIGH_MIN && self.expiry[slot].load(Ordering::Relaxed) < horizon;
        if !dead && high != TOMBSTONE {
            return Swept::Kept;
        }
        let last_of_run = self.high[self.after(slot)].load(Ordering::Relaxed) == EMPTY;
        match (dead, last_of_run) {
            (true, true) => {
                self.high[slot].store(EMPTY, Ordering::Release);
                Swept::BuriedAndFreed
            }
            (true, false) => {
                self.high[slot].store(TOMBSTONE, Ordering::Release);
                Swept::Buried
            }
            (false, true) => {
                self.high[slot].store(EMPTY, Ordering::Release);
                Swept::Freed
            }
            (false, false) => Swept::Kept,
        }
    }

    /// The entry in `slot`, if there is one. Only for the writer.
    pub(super) fn entry(&self, slot: usize) -> Option<(Fingerprint, u32)> {
        let high = self.high[slot].load(Ordering::Relaxed);
        (high >= Fingerprint::HIGH_MIN).then(|| {
            let low = self.low[slot].load(Ordering::Relaxed);
            (Fingerprint { high, low }, self.expiry[slot].load(Ordering::Relaxed))
        })
    }

    fn fill(&self, slot: usize, fingerprint: Fingerprint, expiry: u32) {
        self.low[slot].store(fingerprint.low, Ordering::Relaxed);
        self.expiry[slot].store(expiry, Ordering::Relaxed);
        self.high[slot].store(fingerprint.high, Ordering::Release);
    }

    /// Maps `high` onto the slots in proportion (Lemire's multiply-shift): any slot count works, not only powers of two.
    #[expect(clippy::cast_possible_truncation, reason = "the result is below the slot count")]
    fn home(&self, fingerprint: Fingerprint) -> usize {
        ((u128::from(fingerprint.high) * self.slots() as u128) >> 64) as usize
    }

    fn after(&self, slot: usize) -> usize {
        if slot + 1 == self.slots() { 0 } else { slot + 1 }
    }
}
