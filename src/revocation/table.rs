//! Open addressing over atomics: one writer, any number of readers that never wait.
//!
//! A slot is four words in four arrays: a one-byte `tag` (which also says whether the slot is in use), the two halves
//! of the fingerprint, the expiry; 21 bytes. A search walks the tags, and goes to the wide arrays only where a tag
//! matches, which for an absent entry is once in forty searches: the tags of ten million entries are 14 MB, which a
//! server's cache holds, and those of one search are one line of it.
//!
//! # Why a reader that races with the writer is never told a falsehood
//!
//! The writer fills the wide words first and then stores the tag with release ordering; a reader loads the tag with
//! acquire ordering and goes on only if it matches. Hence:
//!
//! - *A live entry is always found.* While it lives it neither moves nor changes its key words, and no slot between its
//!   home and itself becomes empty (see [`Table::sweep`]), so the search gets there. Its expiry only ever grows.
//! - *A reader may see words of two entries only in a slot whose first owner was dead* (expired for longer than the
//!   purge delay) and is being replaced. If it was looking for the dead one, either answer is right: that token is
//!   both expired and revoked. If it was looking for the new one, the call that adds it has not returned yet. If it was
//!   looking for a third, one half of a keyed hash came from each, and both would have to match by accident.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::fingerprint::Fingerprint;

/// Tag of a slot that was never used, or is known to end every search that reaches it.
const EMPTY: u8 = 0;
/// Tag of a slot whose entry is gone but which searches must step over.
const TOMBSTONE: u8 = 1;
/// The smallest tag of an entry.
const TAG_MIN: u8 = 2;

/// Bytes of memory a slot takes.
pub(super) const SLOT_BYTES: usize = 1 + 8 + 8 + 4;

/// A fixed number of slots.
pub(super) struct Table {
    tag: Box<[AtomicU8]>,
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
            tag: (0..slots).map(|_| AtomicU8::new(EMPTY)).collect(),
            high: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            low: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            expiry: (0..slots).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    pub(super) fn slots(&self) -> usize {
        self.tag.len()
    }

    /// The expiry of this entry, if it is here. For any thread.
    pub(super) fn lookup(&self, fingerprint: Fingerprint) -> Option<u32> {
        let wanted = tag(fingerprint);
        let mut slot = self.home(fingerprint);
        for _ in 0..self.slots() {
            let found = self.tag[slot].load(Ordering::Acquire);
            if found == wanted && self.holds(slot, fingerprint) {
                return Some(self.expiry[slot].load(Ordering::Relaxed));
            }
            if found == EMPTY {
                return None;
            }
            slot = self.after(slot);
        }
        None
    }

    /// Adds an entry or moves its expiry later. Only for the writer.
    pub(super) fn insert(&self, fingerprint: Fingerprint, expiry: u32) -> Inserted {
        let wanted = tag(fingerprint);
        let mut slot = self.home(fingerprint);
        let mut tombstone = None;
        for _ in 0..self.slots() {
            match self.tag[slot].load(Ordering::Relaxed) {
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
                found if found == wanted && self.holds(slot, fingerprint) => {
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
        let found = self.tag[slot].load(Ordering::Relaxed);
        let dead = found >= TAG_MIN && self.expiry[slot].load(Ordering::Relaxed) < horizon;
        if !dead && found != TOMBSTONE {
            return Swept::Kept;
        }
        let last_of_run = self.tag[self.after(slot)].load(Ordering::Relaxed) == EMPTY;
        match (dead, last_of_run) {
            (true, true) => {
                self.tag[slot].store(EMPTY, Ordering::Release);
                Swept::BuriedAndFreed
            }
            (true, false) => {
                self.tag[slot].store(TOMBSTONE, Ordering::Release);
                Swept::Buried
            }
            (false, true) => {
                self.tag[slot].store(EMPTY, Ordering::Release);
                Swept::Freed
            }
            (false, false) => Swept::Kept,
        }
    }

    /// The entry in `slot`, if there is one. Only for the writer.
    pub(super) fn entry(&self, slot: usize) -> Option<(Fingerprint, u32)> {
        (self.tag[slot].load(Ordering::Relaxed) >= TAG_MIN).then(|| {
            let high = self.high[slot].load(Ordering::Relaxed);
            let low = self.low[slot].load(Ordering::Relaxed);
            (Fingerprint { high, low }, self.expiry[slot].load(Ordering::Relaxed))
        })
    }

    fn fill(&self, slot: usize, fingerprint: Fingerprint, expiry: u32) {
        self.high[slot].store(fingerprint.high, Ordering::Relaxed);
        self.low[slot].store(fingerprint.low, Ordering::Relaxed);
        self.expiry[slot].store(expiry, Ordering::Relaxed);
        self.tag[slot].store(tag(fingerprint), Ordering::Release);
    }

    fn holds(&self, slot: usize, fingerprint: Fingerprint) -> bool {
        self.high[slot].load(Ordering::Relaxed) == fingerprint.high
            && self.low[slot].load(Ordering::Relaxed) == fingerprint.low
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

/// Eight bits that the home, which is the top of `high`, says nothing about.
fn tag(fingerprint: Fingerprint) -> u8 {
    fingerprint.low.to_be_bytes()[0].max(TAG_MIN)
}
