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

/// Tokens checked together, whose searches wait for memory together: about as many loads as a core can have on their way.
pub const BATCH_LEN: usize = 16;

/// One place for each search of a batch.
pub type Batch<T> = [Option<T>; BATCH_LEN];

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

    /// The expiry of each entry that is here. For any thread.
    ///
    /// A large table is in no cache, and a search that waits for its line costs twice what all the rest does. So the
    /// searches of a batch wait together: each of three short loops holds loads that do not depend on each other.
    pub(super) fn lookup(&self, fingerprints: &Batch<Fingerprint>) -> Batch<u32> {
        // The tags of their homes,
        let mut at = [(0, EMPTY); BATCH_LEN];
        for ((slot, found), fingerprint) in at.iter_mut().zip(fingerprints) {
            if let Some(fingerprint) = fingerprint {
                *slot = self.home(*fingerprint);
                *found = self.tag[*slot].load(Ordering::Acquire);
            }
        }
        // the first slots whose tags match,
        for ((slot, found), fingerprint) in at.iter_mut().zip(fingerprints) {
            if let Some(fingerprint) = fingerprint {
                (*slot, *found) = self.search(tag(*fingerprint), *slot, *found);
            }
        }
        // and what they hold.
        let mut expiries = [None; BATCH_LEN];
        for ((expiry, (slot, found)), fingerprint) in expiries.iter_mut().zip(at).zip(fingerprints) {
            if let Some(fingerprint) = fingerprint
                && found != EMPTY
            {
                *expiry = self.expiry_of(*fingerprint, slot);
            }
        }
        expiries
    }

    /// The expiry of this one entry, if it is here. For any thread.
    pub(super) fn find(&self, fingerprint: Fingerprint) -> Option<u32> {
        let home = self.home(fingerprint);
        let (slot, found) = self.search(tag(fingerprint), home, self.tag[home].load(Ordering::Acquire));
        if found == EMPTY { None } else { self.expiry_of(fingerprint, slot) }
    }

    /// From `slot`, whose tag is `found`, on: the first slot with the tag `wanted`, or `EMPTY` in front of it. Where the
    /// table has no empty slot it may be any.
    fn search(&self, wanted: u8, mut slot: usize, mut found: u8) -> (usize, u8) {
        for _ in 0..self.slots() {
            if found == wanted || found == EMPTY {
                break;
            }
            slot = self.after(slot);
            found = self.tag[slot].load(Ordering::Acquire);
        }
        (slot, found)
    }

    /// The expiry of an entry that is in no slot between its home and `slot`, whose tag matches.
    fn expiry_of(&self, fingerprint: Fingerprint, mut slot: usize) -> Option<u32> {
        for _ in 0..self.slots() {
            if self.holds(slot, fingerprint) {
                return Some(self.expiry[slot].load(Ordering::Relaxed));
            }
            let next = self.after(slot);
            let (matching, found) =
                self.search(tag(fingerprint), next, self.tag[next].load(Ordering::Acquire));
            if found == EMPTY {
                return None;
            }
            slot = matching;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_one_home_and_one_tag_are_told_apart_around_the_end() {
        let table = Table::new(64);
        // The last home, so that they run on at the first slot.
        let of = |low| Fingerprint { high: u64::MAX, low: 7 << 56 | low };
        for low in 0..40_u32 {
            assert_eq!(table.insert(of(u64::from(low)), 1000 + low), Inserted::InEmpty);
        }
        for low in 0..60_u32 {
            let expected = (low < 40).then_some(1000 + low);
            let mut asked = [None; BATCH_LEN];
            asked[3] = Some(of(u64::from(low)));
            asked[9] = Some(of(u64::from(39 - low % 40)));
            let found = table.lookup(&asked);
            assert_eq!((found[3], found[9]), (expected, Some(1039 - low % 40)), "{low}");
            assert_eq!(found.iter().flatten().count(), 1 + usize::from(expected.is_some()));
            assert_eq!(table.find(of(u64::from(low))), expected);
        }
        // Of another tag, with as long a way to the first empty slot.
        assert_eq!(table.find(Fingerprint { high: u64::MAX, low: 8 << 56 }), None);
    }
}
