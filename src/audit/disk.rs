//! What the log needs of a disk. Two real cases: a folder (`folder.rs`), and the simulated disk of the tests, which
//! forgets, reorders and tears whatever was not flushed.

use std::{io, sync::Arc};

/// A folder of segments.
pub(super) trait Disk: Send + Sync {
    /// The segments, ascending by index.
    fn segments(&self) -> io::Result<Vec<SegmentFile>>;

    /// Makes an empty segment whose zeros and name are durable before this returns. Leaves nothing behind on failure.
    fn prepare(&self, index: u64, bytes: u64) -> io::Result<Prepared>;

    /// The stored bytes, from the medium rather than from a cache that may have lied.
    fn read(&self, index: u64) -> io::Result<Vec<u8>>;

    /// Removes a segment nothing was ever written to.
    fn remove(&self, index: u64) -> io::Result<()>;

    /// Makes a segment read-only for good, cut to `bytes` where given. Repeatable.
    fn finish(&self, index: u64, bytes: Option<u64>) -> io::Result<()>;

    /// Keeps a copy of damaged bytes, durable before this returns. Repeatable.
    fn quarantine_bytes(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Moves a segment that never became part of the log out of the way, durably.
    fn quarantine_segment(&self, index: u64, name: &str) -> io::Result<()>;

    /// Whether the segment's name still leads to the file we write.
    fn check_identity(&self, index: u64) -> io::Result<()>;
}

/// One segment as the folder lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentFile {
    pub(super) index: u64,
    pub(super) bytes: u64,
    /// Made read-only: everything in it is durable, and nothing will be added.
    pub(super) finished: bool,
}

/// An empty segment, ready to be written.
pub(super) struct Prepared {
    pub(super) index: u64,
    pub(super) bytes: u64,
    pub(super) sink: Box<dyn Sink>,
    pub(super) flush: Arc<dyn Flush>,
}

/// The writing end of a segment; the sequencer owns it.
pub(super) trait Sink: Send {
    /// Stores `bytes` at `offset`: visible to readers and safe from the death of the process, not yet durable.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// `mmap` or `pwrite`, for the SEGMENT_OPEN record.
    fn name(&self) -> &'static str;
}

/// The flushing end of a segment; the flusher uses it while the sequencer goes on writing.
pub(super) trait Flush: Send + Sync {
    /// Returns once everything written before the call is durable.
    fn flush(&self) -> io::Result<()>;
}
