//! A set of fingerprints with a second each, of any size: readable from every thread, grown without stopping them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, Guard};

use super::fingerprint::Fingerprint;
use super::table::{Batch, Inserted, SLOT_BYTES, Swept, Table};

/// Fingerprints, each with a second that only grows. What the second means is the view's business; an entry whose second
/// is below the horizon given to a writer's call may leave.
pub(super) struct Ledger {
    // Replaced whole by the writer; loaded anew by each look.
    tables: ArcSwap<Tables>,
    // Taken by writers only.
    writer: Mutex<Writer>,
}

/// What readers search. An entry of `draining` stays there until all of it is in `current` too.
struct Tables {
    current: Arc<Table>,
    draining: Option<Arc<Table>>,
}

/// The writer's own counts; readers never look at them.
struct Writer {
    // Entries and tombstones in `current`.
    live: usize,
    tombstones: usize,
    // Slots of `draining` below this one are still to be copied, and this many entries in them.
    drain_cursor: usize,
    drain_left: usize,
    // Slots of `current` below this one come next in the sweep.
    sweep_cursor: usize,
}

/// The tables of a ledger at some time, for a batch of searches. What is added later may be seen or not.
pub(super) struct LedgerLook {
    tables: Guard<Arc<Tables>>,
}

impl LedgerLook {
    /// The second of each entry that is here. Never waits, never allocates.
    pub(super) fn lookup(&self, fingerprints: &Batch<Fingerprint>) -> Batch<u32> {
        self.tables.lookup(fingerprints)
    }
}

impl Tables {
    fn lookup(&self, fingerprints: &Batch<Fingerprint>) -> Batch<u32> {
        let mut seconds = self.current.lookup(fingerprints);
        // Where an entry is in both, `current` has the later second.
        if let Some(draining) = &self.draining {
            for (second, earlier) in seconds.iter_mut().zip(draining.lookup(fingerprints)) {
                *second = second.or(earlier);
            }
        }
        seconds
    }
}

impl Ledger {
    /// An empty ledger with room for `entries` without growing.
    pub(super) fn with_capacity(entries: usize) -> Self {
        let current = Arc::new(Table::new(slots_for(entries)));
        let writer =
            Writer { live: 0, tombstones: 0, drain_cursor: 0, drain_left: 0, sweep_cursor: current.slots() };
        Self { tables: ArcSwap::from_pointee(Tables { current, draining: None }), writer: Mutex::new(writer) }
    }

    /// What there is to search now: everything that was added before. Never waits, never allocates.
    pub(super) fn look(&self) -> LedgerLook {
        LedgerLook { tables: self.tables.load() }
    }

    /// Entries held, those not yet swept included. During a move to a bigger table an entry that was added again
    /// counts twice.
    pub(super) fn len(&self) -> usize {
        let writer = self.lock();
        writer.live + writer.drain_left
    }

    /// Bytes of memory the slots take.
    pub(super) fn bytes(&self) -> usize {
        let tables = self.tables.load();
        let slots = tables.current.slots() + tables.draining.as_ref().map_or(0, |draining| draining.slots());
        slots * SLOT_BYTES
    }

    /// Whether entries are on their way from one table to the next, so that both take memory.
    pub(super) fn is_moving(&self) -> bool {
        self.tables.load().draining.is_some()
    }

    /// Adds entries, or moves their second later, and pays for the sweep and for a share of a move in small steps.
    pub(super) fn extend(&self, entries: impl Iterator<Item = (Fingerprint, u32)>, horizon: u32) {
        let mut writer = self.lock();
        for (fingerprint, second) in entries {
            if second < horizon {
                continue;
            }
            self.drain(&mut writer, DRAINED_PER_ENTRY, horizon);
            self.sweep(&mut writer, SWEPT_PER_ENTRY, horizon);
            self.insert(&mut writer, fingerprint, second, horizon);
        }
    }

    /// Makes room for `entries` in all, so that filling the ledger does not grow it step by step.
    pub(super) fn reserve(&self, entries: usize) {
        let mut writer = self.lock();
        let slots = slots_for(entries);
        if slots > self.tables.load().current.slots() {
            self.grow(&mut writer, slots, 0);
            self.drain(&mut writer, usize::MAX, 0);
        }
    }

    /// Lets entries below `horizon` leave, looking at `slots_max` slots at most.
    pub(super) fn purge(&self, horizon: u32, slots_max: usize) {
        let mut writer = self.lock();
        self.drain(&mut writer, slots_max, horizon);
        self.sweep(&mut writer, slots_max, horizon);
    }

    fn insert(&self, writer: &mut Writer, fingerprint: Fingerprint, second: u32, horizon: u32) {
        let tables = self.tables.load();
        // An entry still waiting in `draining` must not lose a later second when `current` is asked first.
        let waiting = tables.draining.as_ref().and_then(|draining| draining.find(fingerprint));
        match tables.current.insert(fingerprint, second.max(waiting.unwrap_or(0))) {
            Inserted::Extended => return,
            Inserted::InEmpty => writer.live += 1,
            Inserted::InTombstone => {
                writer.live += 1;
                writer.tombstones -= 1;
            }
            Inserted::Full => unreachable!("the table grows at three quarters"),
        }
        let slots = tables.current.slots();
        drop(tables);
        if is_full(writer.live + writer.tombstones, slots) {
            self.grow(writer, grown_slots(writer.live, slots), horizon);
        }
    }

    /// Starts the move to a new table of `slots`. Readers search both until it is over.
    fn grow(&self, writer: &mut Writer, slots: usize, horizon: u32) {
        // Readers search two tables at most. The constants below see to it that nothing is left here.
        self.drain(writer, usize::MAX, horizon);
        let draining = Arc::clone(&self.tables.load().current);
        let current = Arc::new(Table::new(slots));
        *writer = Writer {
            live: 0,
            tombstones: 0,
            drain_cursor: draining.slots(),
            drain_left: writer.live,
            sweep_cursor: current.slots(),
        };
        self.tables.store(Arc::new(Tables { current, draining: Some(draining) }));
    }

    /// Copies up to `slots_max` slots from `draining`, and drops it when all are copied.
    fn drain(&self, writer: &mut Writer, slots_max: usize, horizon: u32) {
        let tables = self.tables.load();
        let Some(draining) = &tables.draining else { return };
        let stop = writer.drain_cursor.saturating_sub(slots_max);
        for slot in (stop..writer.drain_cursor).rev() {
            let Some((fingerprint, second)) = draining.entry(slot) else { continue };
            writer.drain_left -= 1;
            if second < horizon {
                continue;
            }
            match tables.current.insert(fingerprint, second) {
                Inserted::Extended => {}
                Inserted::InEmpty => writer.live += 1,
                Inserted::InTombstone => {
                    writer.live += 1;
                    writer.tombstones -= 1;
                }
                Inserted::Full => unreachable!("the new table has room for all of the old one"),
            }
        }
        writer.drain_cursor = stop;
        if stop == 0 {
            let current = Arc::clone(&tables.current);
            self.tables.store(Arc::new(Tables { current, draining: None }));
        }
    }

    /// Clears dead entries in the next `slots_max` slots of `current`.
    fn sweep(&self, writer: &mut Writer, slots_max: usize, horizon: u32) {
        let tables = self.tables.load();
        let slots = tables.current.slots();
        for _ in 0..slots_max.min(slots) {
            if writer.sweep_cursor == 0 {
                writer.sweep_cursor = slots;
            }
            writer.sweep_cursor -= 1;
            match tables.current.sweep(writer.sweep_cursor, horizon) {
                Swept::Kept => {}
                Swept::Buried => {
                    writer.live -= 1;
                    writer.tombstones += 1;
                }
                Swept::BuriedAndFreed => writer.live -= 1,
                Swept::Freed => writer.tombstones -= 1,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The smallest table, about a page.
const SLOTS_MIN: usize = 128;

/// Slots swept for each entry added: a whole pass for each sixteenth of the slots inserted.
const SWEPT_PER_ENTRY: usize = 16;

/// Slots copied for each entry added during a move.
///
/// A table of n slots holding e n live entries (e <= 3/4) is followed by one of max(1.85 e, 1/2) n slots, which takes at
/// least 0.1 n more entries before it is three quarters full: 10 slots per entry would do.
const DRAINED_PER_ENTRY: usize = 16;

/// Searches get long above three quarters: 8.5 slots for an absent entry, 22 at 0.85 (Knuth, vol. 3, 6.4).
const fn is_full(used: usize, slots: usize) -> bool {
    used >= slots / 4 * 3
}

/// Slots for a view that should take `entries` without growing.
fn slots_for(entries: usize) -> usize {
    entries.saturating_add(1).saturating_mul(7).div_ceil(5).max(SLOTS_MIN)
}

/// Slots for a table that is to take over `live` entries from one of `slots`: 0.54 full, 39 bytes per entry.
///
/// Where most were tombstones it shrinks, but by half at most, so that [`DRAINED_PER_ENTRY`] stays enough.
fn grown_slots(live: usize, slots: usize) -> usize {
    live.saturating_mul(37).div_ceil(20).max(slots / 2).max(SLOTS_MIN)
}
