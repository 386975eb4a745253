//! Memory that segments are read into.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use memmap2::{Advice, MmapMut};

use crate::audit::folder::segment_name;

/// Reads a whole segment into `buffer`. Reads rather than maps: a file shortened under a map would kill the reader.
pub(super) fn read_segment(dir: &Path, index: u64, buffer: &mut SegmentBuffer) -> io::Result<()> {
    buffer.fill(&File::open(dir.join(segment_name(index)))?)
}

/// Memory for one segment after the other, in huge pages where the system has them: a segment in small ones costs 16,000
/// page faults, a tenth of the time of its verification.
#[derive(Default)]
pub(super) struct SegmentBuffer {
    memory: Option<MmapMut>,
    len: usize,
}

impl SegmentBuffer {
    /// Reads what `file` holds now.
    fn fill(&mut self, mut file: &File) -> io::Result<()> {
        let bytes = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        self.len = 0;
        let memory = match &mut self.memory {
            Some(memory) if memory.len() >= bytes => memory,
            _ => {
                let memory = MmapMut::map_anon(bytes.max(1))?;
                // A wish: without it the pages are small.
                let _ = memory.advise(Advice::HugePage);
                self.memory.insert(memory)
            }
        };
        // A segment never grows: what is behind `bytes` was not there when we looked.
        while self.len < bytes {
            match file.read(&mut memory[self.len..bytes]) {
                Ok(0) => break,
                Ok(read) => self.len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], |memory| &memory[..self.len])
    }
}
