//! The memory map of the active segment: the one place of this room with `unsafe`.
#![expect(unsafe_code, reason = "memory-mapped append is the log's write path; see each SAFETY comment")]

use std::{fs::File, io};

use memmap2::{MmapMut, MmapOptions};

use super::disk::Sink;

/// A writable shared map of a prepared segment.
pub(super) struct MapSink {
    map: MmapMut,
}

impl MapSink {
    /// Maps `file`, whose `bytes` were written with zeros and synced.
    pub(super) fn new(file: &File, bytes: usize) -> io::Result<Self> {
        // SAFETY: the directory lock makes this process the only writer of the folder, `MapSink` is the only map of
        // this file in it, and no code path shortens a segment before its `MapSink` is dropped. Whoever shortens the
        // file from outside makes the next store raise SIGBUS, never a data race on Rust memory.
        let map = unsafe { MmapOptions::new().len(bytes).populate().map_mut(file)? };
        // Without the right to lock memory (RLIMIT_MEMLOCK) the pages are merely likely to stay.
        let _ = map.lock();
        Ok(Self { map })
    }
}

impl Sink for MapSink {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let room = self.map.get_mut(start..).and_then(|rest| rest.get_mut(..bytes.len()));
        room.ok_or(io::ErrorKind::WriteZero)?.copy_from_slice(bytes);
        Ok(())
    }

    fn name(&self) -> &'static str {
        "mmap"
    }
}
