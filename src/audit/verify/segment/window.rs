//! A segment read through a window: as long as every record is where and what it must be, nothing needs the whole.
//!
//! The window stays in the second-level cache, and one serves all segments of a thread. A segment at once is 64 MiB of
//! memory that the system clears first, and that is read from memory twice: a fifth of the time of a verification.

use std::{borrow::Cow, io};

use sha2::{Digest as _, Sha256};

use super::{Ending, Scan, Scanner};
use crate::audit::{
    folder::SegmentFile,
    record::{BODY_BYTES_MAX, stored_len},
    stored::Stored,
    verify::Options,
    walk::{Flaw, PrevEnd, Walk, or_erased},
};

/// Memory for a part of a segment. Reads rather than maps: a file shortened under a map would kill the reader.
pub(in crate::audit::verify) struct Window {
    memory: Vec<u8>,
}

impl Window {
    /// Of so many bytes, which a record must fit.
    pub(in crate::audit::verify) fn new(bytes: usize) -> Self {
        assert!(bytes >= stored_len(BODY_BYTES_MAX), "the longest record fits");
        Self { memory: vec![0; bytes] }
    }

    /// Scans what `file` holds now; `ending` is asked when its records have been read. `None` where anything is not as it
    /// must be: then all of the segment has to be looked at together, by [`scan`](super::scan).
    pub(in crate::audit::verify) fn scan(
        &mut self,
        segment: &SegmentFile,
        file: &Stored,
        options: &Options,
        ending: impl FnOnce() -> io::Result<Ending>,
    ) -> io::Result<Option<Scan>> {
        let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
        let mut source = Source { memory: &mut self.memory, file, len, shrunk: false };
        let mut scanner = Scanner::new(segment, len, options, Ending::Open);
        let flaw = loop {
            let base = scanner.offset;
            let Ok(flaw) = scanner.pass_good(source.read(base)?, base, options.upto) else { return Ok(None) };
            if let Some(size) = scanner.wanted.take() {
                // The checkpoint was the last record that was passed.
                let to = scanner.scan.checkpoints.last().map_or(0, |checkpoint| checkpoint.offset);
                let to = usize::try_from(to).map_err(io::Error::other)?;
                let tree = scanner.tree_at(to, size, |range| {
                    let mut bytes = vec![0; range.len()];
                    let read = file.read_at(&mut bytes, range.start as u64).ok()?;
                    (read == bytes.len()).then_some(Cow::Owned(bytes))
                });
                scanner.set_checkpoint_tree(tree);
            } else if scanner.scan.stopped || scanner.offset == len || scanner.offset == base {
                break flaw;
            }
        };
        scanner.ending = ending()?;
        scanner.scan.ended = source.ended(scanner.offset)?;
        let other_end = match scanner.ending {
            Ending::Stated(end) if scanner.scan.stopped => end < scanner.offset as u64,
            Ending::Stated(_) => !scanner.at_stated_end(),
            Ending::Open | Ending::Last => false,
        };
        if source.shrunk || other_end || (!scanner.scan.erased.is_empty() && !scanner.may_be_erased()) {
            return Ok(None);
        }
        if !scanner.scan.stopped && scanner.offset != len && !scanner.at_stated_end() {
            // Only zeros are left.
            if flaw != Some(Flaw::Unwritten) || scanner.scan.ended.tail_bytes > 0 {
                return Ok(None);
            }
            if scanner.may_be_torn(&[]) {
                scanner.scan.tail_cause = flaw;
            }
        }
        let scan = scanner.finish();
        Ok(scan.breaks.is_empty().then_some(scan))
    }
}

impl Scanner {
    /// Passes records of the `bytes` that start at `base`, as [`Scanner::run`] would, up to the first one that is not whole
    /// in them, or a checkpoint whose tree is wanted.
    fn pass_good(&mut self, bytes: &[u8], base: usize, upto: Option<u64>) -> Result<Option<Flaw>, Misplaced> {
        let mut walk = Walk::new(bytes, self.depth);
        while !self.at_upto(upto) && self.offset - base < bytes.len() && self.wanted.is_none() {
            let at = self.offset - base;
            // Read in place: a record is 200 bytes, and to move it takes as long as half of its checks.
            let mut found = walk.read(at);
            if found.is_err() {
                found = or_erased(found, bytes, at);
            }
            let record = match &mut found {
                Ok(record) => record,
                Err(flaw) => return Ok(Some(*flaw)),
            };
            let header = &record.header;
            if self
                .scan
                .end
                .as_ref()
                .is_some_and(|end| end.size != header.seq || end.hash != header.prev_hash)
            {
                return Err(Misplaced);
            }
            record.next += base;
            self.accept(record);
            if !self.scan.breaks.is_empty() {
                return Err(Misplaced);
            }
        }
        Ok(None)
    }
}

/// A record stands where it does not belong, or says what it must not say.
struct Misplaced;

/// A segment's file, and the memory for a part of it.
struct Source<'a> {
    memory: &'a mut [u8],
    file: &'a Stored,
    len: usize,
    // The file ended before `len`.
    shrunk: bool,
}

impl Source<'_> {
    /// The bytes from `base` on, as many as there is memory for.
    fn read(&mut self, base: usize) -> io::Result<&[u8]> {
        let wanted = self.memory.len().min(self.len - base);
        let have = self.file.read_at(&mut self.memory[..wanted], base as u64)?;
        self.shrunk |= have < wanted;
        Ok(&self.memory[..have])
    }

    /// As [`prev_end`](crate::audit::walk::prev_end), of a segment whose valid records end at `end`.
    fn ended(&mut self, end: usize) -> io::Result<PrevEnd> {
        let (mut digest, mut tail_bytes) = (Sha256::new(), 0);
        let mut at = end;
        loop {
            let bytes = self.read(at)?;
            if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
                // The zeros before these bytes are not the last ones.
                let zeros = at - end - tail_bytes;
                (0..zeros / ZEROS.len()).for_each(|_| digest.update(ZEROS));
                digest.update(&ZEROS[..zeros % ZEROS.len()]);
                digest.update(&bytes[..=last]);
                tail_bytes = at + last + 1 - end;
            }
            if bytes.is_empty() {
                let tail_digest = digest.finalize().into();
                return Ok(PrevEnd { end: end as u64, tail_bytes: tail_bytes as u64, tail_digest });
            }
            at += bytes.len();
        }
    }
}

const ZEROS: [u8; 4096] = [0; 4096];

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
