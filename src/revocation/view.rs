//! The local view: which tokens are revoked, readable from every shard.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::PURGE_DELAY_S;
use super::fingerprint::{Fingerprint, Fingerprinter, Realm};
use super::table::{Inserted, SLOT_BYTES, Swept, Table};
use crate::decision::UnixSeconds;

/// One revoked token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revocation<'a> {
    /// Tenant the issuer belongs to.
    pub tenant: &'a str,
    /// The token's `iss`.
    pub issuer: &'a str,
    /// The token's `jti`.
    pub jti: &'a str,
    /// From this second on the token is refused as expired anyway: its `exp` plus the issuer's leeway.
    pub expires_at: UnixSeconds,
}

/// What the view says about a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Not revoked.
    Clear,
    /// Revoked; refuse it.
    Revoked,
}

/// Every revocation in force on this node. Shared by `Arc`; see the room's page for its promise.
pub struct View {
    fingerprinter: Fingerprinter,
    // Replaced whole by the writer; loaded anew by each check.
    tables: ArcSwap<Tables>,
    // Number of batches applied. Written by the writer after the batch is visible.
    epoch: AtomicU64,
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

impl View {
    /// An empty view whose fingerprints are keyed with `seed`: 16 secret random bytes, fresh for each process.
    #[must_use]
    pub fn new(seed: &[u8; 16]) -> Self {
        Self::with_capacity(seed, 0)
    }

    /// As [`View::new`], with room for `entries` without growing.
    #[must_use]
    pub fn with_capacity(seed: &[u8; 16], entries: usize) -> Self {
        let current = Arc::new(Table::new(slots_for(entries)));
        let writer =
            Writer { live: 0, tombstones: 0, drain_cursor: 0, drain_left: 0, sweep_cursor: current.slots() };
        Self {
            fingerprinter: Fingerprinter::new(seed),
            tables: ArcSwap::from_pointee(Tables { current, draining: None }),
            epoch: AtomicU64::new(0),
            writer: Mutex::new(writer),
        }
    }

    /// Digests the names of one issuer, so that each of its tokens costs half the hashing; see [`View::check_in`].
    #[must_use]
    pub fn realm(&self, tenant: &str, issuer: &str) -> Realm {
        self.fingerprinter.realm(tenant, issuer)
    }

    /// Whether this token is revoked at `now`. Never waits, never allocates.
    #[must_use]
    pub fn check(&self, tenant: &str, issuer: &str, jti: &str, now: UnixSeconds) -> Status {
        self.check_in(self.realm(tenant, issuer), jti, now)
    }

    /// As [`View::check`], for a realm that this view made before.
    #[must_use]
    pub fn check_in(&self, realm: Realm, jti: &str, now: UnixSeconds) -> Status {
        let fingerprint = self.fingerprinter.fingerprint(realm, jti);
        let tables = self.tables.load();
        // Where an entry is in both, `current` has the later expiry.
        let found = match (tables.current.lookup(fingerprint), &tables.draining) {
            (None, Some(draining)) => draining.lookup(fingerprint),
            (found, _) => found,
        };
        match found {
            Some(expiry) if now < time_of(expiry) => Status::Revoked,
            _ => Status::Clear,
        }
    }

    /// Number of batches applied so far. A check that starts after `epoch` was read sees all of them.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Number of entries held, expired ones not yet swept included. During a move to a bigger table an entry that was
    /// applied again counts twice.
    #[must_use]
    pub fn len(&self) -> usize {
        let writer = self.lock();
        writer.live + writer.drain_left
    }

    /// Whether the view holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory the slots take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let tables = self.tables.load();
        let slots = tables.current.slots() + tables.draining.as_ref().map_or(0, |draining| draining.slots());
        slots * SLOT_BYTES
    }

    /// Whether entries are on their way from one table to the next, so that both take memory.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.tables.load().draining.is_some()
    }

    /// Adds a batch and returns the new epoch. When it returns, every later check on any thread sees the batch.
    ///
    /// Applying an entry again is harmless; the later expiry counts. `now` only decides which old entries may leave, in
    /// small steps: each entry added pays for the sweep, and for its share of the move to a bigger table. Allocating
    /// that table is the one longer step (about 0.1 s at ten million entries); it blocks writers, never readers.
    pub fn apply<'a>(&self, batch: impl IntoIterator<Item = Revocation<'a>>, now: UnixSeconds) -> u64 {
        let mut writer = self.lock();
        let horizon = horizon(now);
        for revocation in batch {
            let expiry = expiry_of(revocation.expires_at);
            if expiry < horizon {
                continue;
            }
            let Revocation { tenant, issuer, jti, .. } = revocation;
            let fingerprint = self.fingerprinter.fingerprint(self.realm(tenant, issuer), jti);
            self.drain(&mut writer, DRAINED_PER_ENTRY, horizon);
            self.sweep(&mut writer, SWEPT_PER_ENTRY, horizon);
            self.insert(&mut writer, fingerprint, expiry, horizon);
        }
        self.epoch.fetch_add(1, Ordering::Release) + 1
    }

    /// Makes room for `entries` in all, so that filling the view does not grow it step by step.
    pub fn reserve(&self, entries: usize) {
        let mut writer = self.lock();
        let slots = slots_for(entries);
        if slots > self.tables.load().current.slots() {
            self.grow(&mut writer, slots, 0);
            self.drain(&mut writer, usize::MAX, 0);
        }
    }

    /// Lets entries leave that expired long enough before `now`, looking at `slots_max` slots at most.
    pub fn purge(&self, now: UnixSeconds, slots_max: usize) {
        let mut writer = self.lock();
        self.drain(&mut writer, slots_max, horizon(now));
        self.sweep(&mut writer, slots_max, horizon(now));
    }

    fn insert(&self, writer: &mut Writer, fingerprint: Fingerprint, expiry: u32, horizon: u32) {
        let tables = self.tables.load();
        // An entry still waiting in `draining` must not lose a later expiry when `current` is asked first.
        let waiting = tables.draining.as_ref().and_then(|draining| draining.lookup(fingerprint));
        match tables.current.insert(fingerprint, expiry.max(waiting.unwrap_or(0))) {
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
            let Some((fingerprint, expiry)) = draining.entry(slot) else { continue };
            writer.drain_left -= 1;
            if expiry < horizon {
                continue;
            }
            match tables.current.insert(fingerprint, expiry) {
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

/// Entries that expired before this second may leave.
fn horizon(now: UnixSeconds) -> u32 {
    u32::try_from(now.0.saturating_sub(PURGE_DELAY_S)).unwrap_or(u32::MAX)
}

/// Stored expiry. Times beyond the year 2106 become "never".
fn expiry_of(time: UnixSeconds) -> u32 {
    u32::try_from(time.0).unwrap_or(EXPIRY_NEVER)
}

fn time_of(expiry: u32) -> UnixSeconds {
    if expiry == EXPIRY_NEVER { UnixSeconds(u64::MAX) } else { UnixSeconds(u64::from(expiry)) }
}

const EXPIRY_NEVER: u32 = u32::MAX;
