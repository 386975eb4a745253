//! Memory that segments are read into.

use std::io;

use memmap2::{Advice, MmapMut};

use crate::audit::stored::Stored;

/// Memory for one segment after the other, in huge pages where the system has them: a segment in small ones costs 16,000
/// page faults, a tenth of the time of its verification.
#[derive(Default)]
pub(super) struct SegmentBuffer {
    memory: Option<MmapMut>,
    len: usize,
}

impl SegmentBuffer {
    /// Reads what is stored now. Reads rather than maps: a file shortened under a map would kill the reader.
    pub(super) fn fill(&mut self, stored: &Stored) -> io::Result<()> {
        let bytes = usize::try_from(stored.len()?).map_err(io::Error::other)?;
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
        self.len = stored.read_at(&mut memory[..bytes], 0)?;
        Ok(())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], |memory| &memory[..self.len])
    }
}
