//! What the log needs of a disk, small enough that a simulated one can stand in its place: the tests' disk forgets,
//! reorders and tears whatever was not synced, and fails wherever it is told to.

use std::{io, ops::Range, sync::Arc};

/// A folder that holds files by name; names may have one folder in front (`quarantine/…`).
pub(super) trait Medium: Send + Sync {
    /// The files directly in the folder.
    fn list(&self) -> io::Result<Vec<Listed>>;

    /// Makes a new, empty file for reading and writing. Neither it nor its name is durable yet.
    fn create(&self, name: &str) -> io::Result<Arc<dyn MediumFile>>;

    /// The stored bytes of a file, from the medium rather than from a cache that may have lied.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Cuts a file to `len` bytes (where given), makes it read-only, and makes both durable.
    fn finish(&self, name: &str, len: Option<u64>) -> io::Result<()>;

    /// Writes zeros over ranges of a file that was finished, and makes them durable. It stays read-only for others.
    fn overwrite(&self, name: &str, ranges: &[Range<u64>]) -> io::Result<()>;

    /// Gives a file another name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes a subfolder unless it exists, durably.
    fn make_folder(&self, name: &str) -> io::Result<()>;

    /// Makes the names in the folder (`""`) or in a subfolder durable.
    fn sync_names(&self, folder: &str) -> io::Result<()>;

    /// Bytes that can still be written.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// One file as the folder lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) read_only: bool,
}

/// An open file of a [`Medium`].
pub(super) trait MediumFile: Send + Sync {
    /// Takes room for `bytes`, where the medium can.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Writes all of `bytes`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes content and size durable.
    fn sync(&self) -> io::Result<()>;

    /// Makes the content durable, as `fdatasync`.
    fn sync_data(&self) -> io::Result<()>;

    /// A writing end of the first `bytes` bytes, which were written before.
    fn sink(self: Arc<Self>, bytes: u64) -> io::Result<Box<dyn Sink>>;

    /// Fails when `name` leads to another file, or the file was changed from outside.
    fn check_named(&self, name: &str) -> io::Result<()>;
}

/// The writing end of a segment; the sequencer owns it.
pub(super) trait Sink: Send {
    /// Stores `bytes` at `offset`: visible to readers and safe from the death of the process, not yet durable.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// `mmap` or `pwrite`, for the SEGMENT_OPEN record.
    fn name(&self) -> &'static str;
}
