//! The face a shard sees: encode and hash the bodies here, hand the batch over, learn when it is safe.
//!
//! Nothing here blocks or takes a lock. A batch is one growing buffer of finished record layouts; `submit` moves it
//! into the appender's own bounded ring and wakes the sequencer only if it sleeps. The sequencer completes the
//! records in place, stores them, publishes how far it came, wakes the owner once, and gives the buffer back.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    task::{Wake, Waker},
    thread::Thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use crossbeam::{queue::ArrayQueue, utils::CachePadded};

use super::{
    acks::Acks,
    body::{self, Body},
    doorbell::Doorbell,
    draft::Draft,
    error::{AuditError, AuditFailure, FailureKind},
    event::{BATCH_ITEMS_MAX, Event},
    id::RecordId,
    receipt::{ReceiptBatch, ReceiptKey, SignedReceipts},
    record::{FLAG_CRITICAL, FLAG_REDACTABLE},
    schema::Kind,
    sealed::{KeysInUse, Seals},
    tag::OpenTags,
    tagging::Tagging,
    writer::Stamp,
};
use crate::decision::UnixSeconds;

/// When an event counts as safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// Stored in the log: survives the death of the process.
    Recorded,
    /// Flushed: survives the loss of power.
    Durable,
}

/// One owner's way into the log. `Send`, not shared: each shard has its own.
pub struct Appender {
    shared: Arc<Shared>,
    core: u16,
    // The batch being filled; moved out by `submit`. All its tags are of one epoch.
    draft: Draft,
    tag_epoch: u64,
    // Values sealed so far, by which no nonce is used twice.
    sealed: u64,
    // Whether someone waits for its records to be durable.
    durable: bool,
    // The last `core_seq` given out, to events and to lost events alike.
    core_seq: u64,
    // Records and bytes ever appended; what is not yet recorded of them waits.
    records: u64,
    bytes: u64,
    lost: Option<Lost>,
}

/// Records of one appender, laid out back to back, all of them waiting for the sequencer's fields.
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    /// Whether someone waits for these records to be durable.
    pub(super) durable: bool,
    /// Epoch of the key that their tags were made with.
    pub(super) tag_epoch: u64,
}

/// Events that never reached the sequencer.
struct Lost {
    first_core_seq: u64,
    events: u64,
    since: Instant,
    cause: &'static str,
}

/// What appenders and the log's threads share.
pub(super) struct Shared {
    pub(super) boot: u64,
    /// One per appender: the shards', then the control plane's, then the sealer's.
    pub(super) lanes: Vec<CachePadded<Lane>>,
    /// Lanes below this belong to shards and wait when only critical records can be written.
    pub(super) shards: usize,
    pub(super) doorbell: Doorbell,
    pub(super) tagging: Tagging,
    pub(super) sealing: KeysInUse,
    gate: AtomicU8,
    // Why it is shut: several restrictions may hold at once; the failure that is for good stands first.
    failures: Mutex<Vec<AuditFailure>>,
    queue_bytes: u64,
    /// What receipts are signed with; set by the sealer, where receipts are given.
    pub(super) receipt_key: ArcSwapOption<ReceiptKey>,
}

/// One appender's ring and acknowledgements.
pub(super) struct Lane {
    pub(super) ring: ArrayQueue<Batch>,
    // Emptied buffers on their way back.
    pub(super) spare: ArrayQueue<Vec<u8>>,
    // Written by the sequencer, read by the owner: the records and bytes it has taken.
    pub(super) recorded_records: AtomicU64,
    pub(super) recorded_bytes: AtomicU64,
    pub(super) acks: Acks,
}

impl Appender {
    pub(super) fn new(shared: Arc<Shared>, core: u16) -> Self {
        let (tag_epoch, key) = shared.tagging.current();
        let draft = Draft::new(key);
        Self {
            shared,
            core,
            draft,
            tag_epoch,
            sealed: 0,
            durable: false,
            core_seq: 0,
            records: 0,
            bytes: 0,
            lost: None,
        }
    }

    /// Encodes `event` into the current batch and returns its id. It is hashed and handed over by [`Self::submit`].
    ///
    /// # Errors
    /// [`AuditError::Refused`] while the writer is shut, [`AuditError::QueueFull`] when too much is waiting: the
    /// event is then counted, and a GAP record names the count when the next event gets through. The caller must
    /// not act as if the event had been recorded. [`AuditError::BodyTooLong`] and [`AuditError::BatchTooLong`] are
    /// the caller's mistakes and leave no gap.
    pub fn append(&mut self, event: &Event<'_>, ack: Ack) -> Result<RecordId, AuditError> {
        if let Event::DecisionBatch(batch) = event
            && batch.items.len() > BATCH_ITEMS_MAX
        {
            return Err(AuditError::BatchTooLong { len: batch.items.len() });
        }
        let ring = self.shared.sealing.load();
        let mut seals = Seals::new(ring.as_deref(), event.kind(), self.sealed);
        let appended = self.append_with(event.kind(), event.epoch(), ack, |out, tags, id| {
            seals.name(id);
            body::encode(event, tags, &mut seals, out);
        });
        self.sealed = seals.count();
        if appended.is_ok() && seals.missed() {
            self.shared.sealing.count_unsealed();
        }
        appended
    }

    /// Appends a record whose body `fill` writes; for the log's own threads.
    pub(super) fn append_own(
        &mut self,
        kind: Kind,
        fill: impl FnOnce(&mut Body<'_>),
    ) -> Result<RecordId, AuditError> {
        self.append_with(kind, 0, Ack::Recorded, |out, _, _| {
            let mut body = Body::begin(out);
            fill(&mut body);
            body.end();
        })
    }

    fn append_with(
        &mut self,
        kind: Kind,
        epoch: u32,
        ack: Ack,
        encode: impl FnOnce(&mut Vec<u8>, &mut OpenTags, RecordId),
    ) -> Result<RecordId, AuditError> {
        if let Err(error) = self.admit() {
            self.count_lost(&error);
            return Err(error);
        }
        if self.draft.is_empty() && self.shared.tagging.epoch() != self.tag_epoch {
            let (epoch, key) = self.shared.tagging.current();
            self.draft.use_key(key);
            self.tag_epoch = epoch;
        }
        if let Some(lost) = self.lost.take() {
            self.push_gap(&lost);
        }
        let flags = if kind.is_critical() { FLAG_CRITICAL } else { 0 }
            | if kind.is_redactable() { FLAG_REDACTABLE } else { 0 };
        self.push(kind, flags, epoch, encode).map_err(|len| AuditError::BodyTooLong { len })?;
        self.durable |= ack == Ack::Durable;
        Ok(self.id(self.core_seq))
    }

    fn id(&self, core_seq: u64) -> RecordId {
        RecordId { boot: self.shared.boot, core: self.core, core_seq }
    }

    /// Hashes the batch and hands it over. Call it once per batch; an empty batch costs nothing.
    pub fn submit(&mut self) {
        if self.draft.is_empty() {
            return;
        }
        let lane = &self.shared.lanes[usize::from(self.core)];
        let durable = std::mem::take(&mut self.durable);
        if durable {
            lane.acks.want_durable(self.core_seq);
        }
        let bytes = self.draft.take(lane.spare.pop().unwrap_or_default());
        let batch = Batch { bytes, durable, tag_epoch: self.tag_epoch };
        // A batch holds at least one event, and `admit` keeps the events in flight below the ring's length.
        assert!(lane.ring.push(batch).is_ok(), "the ring takes as many batches as events may be in flight");
        self.shared.doorbell.ring();
    }

    /// Begins the receipts of at most `wanted` records of the current batch, to be signed at `now`; `None` where this log
    /// gives none, or its checkpoint key has certified no key for them.
    #[must_use]
    pub fn begin_receipts(&self, wanted: usize, now: UnixSeconds) -> Option<ReceiptBatch> {
        ReceiptBatch::begin(self.shared.receipt_key.load_full()?, wanted, now.0)
    }

    /// Hashes the current batch and signs the receipts asked for. They must not be given out before their records are
    /// acknowledged as [`Ack::Durable`]: a receipt is a promise that a power cut does not break.
    pub fn sign_receipts(&mut self, receipts: ReceiptBatch) -> SignedReceipts {
        receipts.sign(self.draft.headers())
    }

    /// The highest `core_seq` of this appender that is safe in the sense of `ack`; 0 when none is.
    #[must_use]
    pub fn acknowledged(&self, ack: Ack) -> u64 {
        let lane = &self.shared.lanes[usize::from(self.core)];
        match ack {
            Ack::Recorded => lane.acks.recorded(),
            Ack::Durable => lane.acks.durable(),
        }
    }

    /// Why the writer is shut for this appender, if it is. Events not acknowledged by then may or may not be in the
    /// log. The control plane's appender still gets through while shards wait for space or for a signature.
    #[must_use]
    pub fn failure(&self) -> Option<AuditFailure> {
        self.shared.refusal(usize::from(self.core))
    }

    /// Says that `core_seq` was not acknowledged in the caller's time, so that shards are refused at once
    /// ([`FailureKind::Stalled`]) until a flush ends, instead of each caller waiting as long.
    pub fn report_stalled(&self, core_seq: u64, ack: Ack, waited: Duration) {
        let detail = format_args!("no acknowledgement for {} ms", waited.as_millis());
        self.shared.restrict(AuditFailure::new(FailureKind::Stalled, detail));
        // The flush that ends a stall publishes first and reopens then. If it did both before we shut the gate, what it
        // published is visible now; a record that is stored but not flushed has its flush, and the end of this, ahead.
        if self.acknowledged(ack) >= core_seq {
            self.shared.reopen(FailureKind::Stalled);
        }
    }

    /// Has `waker` woken when an acknowledgement advances or the writer fails. One waker at a time; register, then
    /// look, then wait.
    pub fn register(&self, waker: &Waker) {
        self.shared.lanes[usize::from(self.core)].acks.register(waker);
    }

    /// The id the next successful [`Self::append`] will return.
    #[must_use]
    pub fn peek_id(&self) -> RecordId {
        let gap = u64::from(self.lost.is_some());
        self.id(self.core_seq + gap + 1)
    }

    /// Blocks the calling thread until `id` is safe; for callers that have nothing else to do. Submits first.
    ///
    /// # Errors
    /// [`AuditError::Refused`] when the writer fails, [`AuditError::DeadlinePassed`].
    pub fn wait(&mut self, id: RecordId, ack: Ack, timeout: Duration) -> Result<(), AuditError> {
        if ack == Ack::Durable {
            // Also for a record that was appended without this wish: its flush is then not hurried, but wakes us.
            self.durable |= !self.draft.is_empty();
            self.shared.lanes[usize::from(self.core)].acks.want_durable(id.core_seq);
        }
        self.submit();
        let deadline = Instant::now() + timeout;
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        loop {
            self.register(&waker);
            if self.acknowledged(ack) >= id.core_seq {
                return Ok(());
            }
            // A stall ends with the flush that this waits for, or the deadline passes.
            if let Some(failure) = self.failure().filter(|failure| failure.kind != FailureKind::Stalled) {
                return Err(AuditError::Refused(failure));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(AuditError::DeadlinePassed);
            }
            std::thread::park_timeout(left);
        }
    }

    /// Whether one more event may be taken.
    fn admit(&self) -> Result<(), AuditError> {
        if let Some(failure) = self.failure() {
            return Err(AuditError::Refused(failure));
        }
        let lane = &self.shared.lanes[usize::from(self.core)];
        let records = self.records - lane.recorded_records.load(Ordering::Acquire);
        let bytes = self.bytes - lane.recorded_bytes.load(Ordering::Acquire);
        // One place is kept for the GAP record that may have to go first.
        if records + 1 >= lane.ring.capacity() as u64 || bytes >= self.shared.queue_bytes {
            return Err(AuditError::QueueFull);
        }
        Ok(())
    }

    /// Gives the lost event a `core_seq`, so that the hole shows even if no GAP record follows.
    fn count_lost(&mut self, error: &AuditError) {
        let cause = match error {
            AuditError::Refused(failure) => failure.kind.name(),
            _ => "queue_full",
        };
        self.core_seq += 1;
        match &mut self.lost {
            Some(lost) => lost.events += 1,
            None => {
                self.lost =
                    Some(Lost { first_core_seq: self.core_seq, events: 1, since: Instant::now(), cause });
            }
        }
    }

    fn push_gap(&mut self, lost: &Lost) {
        let milliseconds = u64::try_from(lost.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let gap = self.push(Kind::Gap, FLAG_CRITICAL, 0, |out, _, _| {
            let mut body = Body::begin(out);
            body.uint(1, lost.first_core_seq);
            body.uint(2, lost.events);
            body.uint(3, milliseconds);
            body.text(4, lost.cause);
            body.end();
        });
        gap.expect("three numbers and a short text fit");
    }

    /// Adds a record to the batch.
    ///
    /// # Errors
    /// The length of the body, if it is too long; nothing was added then.
    fn push(
        &mut self,
        kind: Kind,
        flags: u16,
        epoch: u32,
        encode: impl FnOnce(&mut Vec<u8>, &mut OpenTags, RecordId),
    ) -> Result<(), usize> {
        let (core, core_seq) = (self.core, self.core_seq + 1);
        let id = self.id(core_seq);
        let encode = |out: &mut Vec<u8>, tags: &mut OpenTags| encode(out, tags, id);
        let stored = self.draft.push(encode, &Stamp { kind, flags, core, core_seq, epoch })?;
        self.core_seq = core_seq;
        self.records += 1;
        self.bytes += stored as u64;
        Ok(())
    }
}

impl Shared {
    pub(super) fn new(
        boot: u64,
        lanes: usize,
        shards: usize,
        tagging: Tagging,
        events_max: usize,
        queue_bytes: u64,
    ) -> Self {
        Self {
            boot,
            tagging,
            sealing: KeysInUse::default(),
            lanes: (0..lanes).map(|_| CachePadded::new(Lane::new(events_max))).collect(),
            shards,
            doorbell: Doorbell::default(),
            gate: AtomicU8::new(GATE_OPEN),
            failures: Mutex::default(),
            queue_bytes,
            receipt_key: ArcSwapOption::empty(),
        }
    }

    pub(super) fn failure(&self) -> Option<AuditFailure> {
        if self.gate.load(Ordering::Acquire) == GATE_OPEN {
            return None;
        }
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).first().cloned()
    }

    /// The failure, if it concerns this lane.
    fn refusal(&self, lane: usize) -> Option<AuditFailure> {
        match self.gate.load(Ordering::Acquire) {
            GATE_OPEN => None,
            GATE_CRITICAL if lane >= self.shards => None,
            _ => self.failure(),
        }
    }

    /// Shuts the writer for the life of the process; only the first failure counts.
    pub(super) fn fail(&self, failure: AuditFailure) {
        self.shut(failure, GATE_SHUT);
    }

    /// Shuts the shards out until [`Self::reopen`]; the control plane and the sealer still get through.
    pub(super) fn restrict(&self, failure: AuditFailure) {
        debug_assert!(!failure.kind.is_permanent());
        self.shut(failure, GATE_CRITICAL);
    }

    /// Ends a restriction of this kind.
    pub(super) fn reopen(&self, kind: FailureKind) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|failure| failure.kind != kind);
        if failures.is_empty() {
            self.gate.store(GATE_OPEN, Ordering::Release);
        }
    }

    fn shut(&self, failure: AuditFailure, gate: u8) {
        {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            if failures.iter().any(|earlier| earlier.kind.is_permanent() || earlier.kind == failure.kind) {
                return;
            }
            let at = if failure.kind.is_permanent() { 0 } else { failures.len() };
            failures.insert(at, failure);
            self.gate.store(gate, Ordering::Release);
        }
        self.lanes.iter().for_each(|lane| lane.acks.wake());
        self.doorbell.ring();
    }
}

impl Lane {
    fn new(events_max: usize) -> Self {
        Self {
            ring: ArrayQueue::new(events_max),
            spare: ArrayQueue::new(SPARES),
            recorded_records: AtomicU64::new(0),
            recorded_bytes: AtomicU64::new(0),
            acks: Acks::default(),
        }
    }

    /// Publishes that `records` more are stored, up to `core_seq`, and wakes the owner.
    pub(super) fn publish_recorded(&self, core_seq: u64, records: u64, bytes: u64) {
        self.recorded_records.fetch_add(records, Ordering::Release);
        self.recorded_bytes.fetch_add(bytes, Ordering::Release);
        self.acks.publish_recorded(core_seq);
    }

    /// Publishes that records up to `core_seq` are flushed, and wakes the owner if it waits for that.
    pub(super) fn publish_durable(&self, core_seq: u64) {
        self.acks.publish_durable(core_seq);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

const GATE_OPEN: u8 = 0;
const GATE_CRITICAL: u8 = 1;
const GATE_SHUT: u8 = 2;

/// Emptied buffers kept per lane.
const SPARES: usize = 4;
