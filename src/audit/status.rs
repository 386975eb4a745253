//! What the log says about itself while it runs.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    error::AuditFailure,
    keeper::DiskState,
    record::Hash,
    writer::{Head, Writer},
};

/// A look at a running log.
#[derive(Debug, Clone)]
pub struct Status {
    /// Records in the log; the next one gets this as its `seq`.
    pub size: u64,
    /// Event hash of the last record.
    pub head: Hash,
    /// Every record below this is durable.
    pub durable_size: u64,
    /// Records the latest checkpoint covers.
    pub signed_size: u64,
    /// The segment being written.
    pub segment: u64,
    /// The last segment that was made ready; 0 until the first is.
    pub prepared_segment: u64,
    /// Commits since the log was opened.
    pub commits: u64,
    /// Time of the latest flush.
    pub last_flush: Duration,
    /// Why the writer is shut, if it is.
    pub failure: Option<AuditFailure>,
    /// Why the next segment could not be made, if that is so.
    pub prepare_error: Option<String>,
    /// How much room the disk has.
    pub disk: DiskState,
    /// Bytes that can still be written to it.
    pub free_bytes: u64,
    /// How segments are written: `mmap` or `pwrite`.
    pub sink: &'static str,
    /// Bytes written since the log was opened.
    pub bytes: u64,
}

/// Counters the log's threads publish.
pub(super) struct Progress {
    head: Mutex<Head>,
    segment: AtomicU64,
    prepared_segment: AtomicU64,
    commits: AtomicU64,
    durable: Mutex<Head>,
    signed_size: AtomicU64,
    // Somebody waits until a checkpoint covers so many records.
    wanted_size: AtomicU64,
    // Records covered by a CHECKPOINT record of this boot that is durable.
    vouched_size: AtomicU64,
    last_flush_ns: AtomicU64,
    prepare_error: Mutex<Option<String>>,
    disk: Mutex<(DiskState, u64)>,
    sink: &'static str,
    bytes: AtomicU64,
    // Set by the sequencer when it cannot go on without another segment.
    starved: AtomicBool,
    closed_at: Mutex<Option<(u64, u64)>>,
}

impl Progress {
    pub(super) fn new(writer: &Writer) -> Self {
        Self {
            head: Mutex::new(writer.head()),
            segment: AtomicU64::new(writer.segment()),
            prepared_segment: AtomicU64::new(0),
            commits: AtomicU64::new(writer.commits()),
            durable: Mutex::new(writer.head()),
            signed_size: AtomicU64::new(0),
            wanted_size: AtomicU64::new(0),
            vouched_size: AtomicU64::new(0),
            last_flush_ns: AtomicU64::new(0),
            prepare_error: Mutex::new(None),
            disk: Mutex::new((DiskState::Ample, u64::MAX)),
            sink: writer.sink_name(),
            bytes: AtomicU64::new(0),
            starved: AtomicBool::new(false),
            closed_at: Mutex::new(None),
        }
    }

    pub(super) fn publish(&self, writer: &Writer) {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner) = writer.head();
        self.segment.store(writer.segment(), Ordering::Relaxed);
        self.commits.store(writer.commits(), Ordering::Relaxed);
        self.bytes.store(writer.bytes(), Ordering::Relaxed);
    }

    pub(super) fn publish_flush(&self, durable: Head, took: Duration) {
        *self.durable.lock().unwrap_or_else(PoisonError::into_inner) = durable;
        self.last_flush_ns.store(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn publish_prepared(&self, segment: u64) {
        self.prepared_segment.store(segment, Ordering::Relaxed);
    }

    pub(super) fn publish_prepare_error(&self, error: Option<String>) {
        *self.prepare_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    pub(super) fn publish_disk(&self, state: DiskState, free: u64) {
        *self.disk.lock().unwrap_or_else(PoisonError::into_inner) = (state, free);
    }

    pub(super) fn publish_starved(&self, starved: bool) {
        self.starved.store(starved, Ordering::Release);
    }

    pub(super) fn is_starved(&self) -> bool {
        self.starved.load(Ordering::Acquire)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The last record known to be flushed: always a COMMIT, or the seal of a closed log.
    pub(super) fn durable(&self) -> Head {
        *self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many records are durable now; the next checkpoint is not to leave out any of them. Without the wish none comes while
    /// nothing but the log's own records are new, such as the CHECKPOINT that was a moment faster than this look.
    pub(super) fn durable_to_be_signed(&self) -> u64 {
        let size = self.durable().size;
        self.wanted_size.fetch_max(size, Ordering::Relaxed);
        size
    }

    /// Whether somebody waits for a checkpoint that is not there yet.
    pub(super) fn is_checkpoint_wanted(&self) -> bool {
        self.wanted_size.load(Ordering::Relaxed) > self.signed_size.load(Ordering::Relaxed)
    }

    pub(super) fn publish_signed(&self, size: u64) {
        self.signed_size.store(size, Ordering::Relaxed);
    }

    /// A CHECKPOINT record that covers so many records is durable.
    pub(super) fn publish_vouched(&self, size: u64) {
        self.vouched_size.store(size, Ordering::Relaxed);
    }

    pub(super) fn vouched_size(&self) -> u64 {
        self.vouched_size.load(Ordering::Relaxed)
    }

    /// The log was closed in order; its last segment ends at this position.
    pub(super) fn publish_closed(&self, position: (u64, u64)) {
        *self.closed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(position);
    }

    pub(super) fn closed_at(&self) -> Option<(u64, u64)> {
        *self.closed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn segment(&self) -> u64 {
        self.segment.load(Ordering::Relaxed)
    }

    pub(super) fn head(&self) -> Head {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn status(&self, failure: Option<AuditFailure>) -> Status {
        let head = self.head();
        let (disk, free_bytes) = *self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        Status {
            disk,
            free_bytes,
            sink: self.sink,
            bytes: self.bytes(),
            size: head.size,
            head: head.hash,
            durable_size: self.durable().size,
            signed_size: self.signed_size.load(Ordering::Relaxed),
            segment: self.segment(),
            prepared_segment: self.prepared_segment.load(Ordering::Relaxed),
            commits: self.commits.load(Ordering::Relaxed),
            last_flush: Duration::from_nanos(self.last_flush_ns.load(Ordering::Relaxed)),
            failure,
            prepare_error: self.prepare_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
