//! What a verification reads besides records: whole segments, their first and last records, the note beside the log.

use std::{io, path::Path};

use super::{
    Break, Class, Options, Trusted,
    buffer::SegmentBuffer,
    segment::{Ending, Scan},
};
use crate::audit::{
    archive::Damage,
    folder::SegmentFile,
    record::Header,
    recover::FIRST_SEGMENT,
    retire::{Retired, find_retired},
    sealer::CHECKPOINT_FILE,
    stored::{Segments, Stored},
    walk::{Depth, Walk, or_partly_erased},
};

/// The note that was published beside the log, if there is one. Bytes that are no text are none of ours either; they
/// stay visible as such, so that the note does not verify rather than seem absent.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn published_note(dir: &Path) -> io::Result<Option<String>> {
    note_in(&dir.join(CHECKPOINT_FILE))
}

/// The note in this file, as [`published_note`].
pub(in crate::audit) fn note_in(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where the first segments are not there, and an earlier verification does not stand for them: the record that says why.
pub(super) fn retired_before(
    segments: Segments<'_>,
    files: &[SegmentFile],
    options: &Options,
) -> io::Result<Option<Retired>> {
    let since = options.since.as_ref().map_or(FIRST_SEGMENT, |trusted| trusted.segment);
    match files.first() {
        Some(first) if first.index > FIRST_SEGMENT && first.index >= since && options.mode.is_whole() => {
            find_retired(segments, files, first.index - 1)
        }
        _ => Ok(None),
    }
}

/// Whether the last record of a segment is still the one that was verified.
pub(super) fn ends_as(segments: Segments<'_>, index: u64, trusted: &Trusted) -> io::Result<bool> {
    let mut buffer = SegmentBuffer::default();
    buffer.fill(&segments.open(index)?)?;
    let mut walk = Walk::new(buffer.bytes(), Depth::Bodies);
    let (mut offset, mut last) = (0, None);
    while let Ok(record) = or_partly_erased(walk.read(offset), buffer.bytes(), offset) {
        offset = record.next;
        last = Some((record.header.seq + 1, record.hash));
    }
    Ok(last == Some((trusted.size, trusted.hash)))
}

/// How a segment ended, as the next one says.
pub(super) fn ending_before(segments: Segments<'_>, next: u64) -> io::Result<Ending> {
    let start = segments.open(next)?.start(OPEN_BYTES)?;
    if start.iter().all(|byte| *byte == 0) {
        // Made ahead and not yet written to; those after it are no further.
        return Ok(Ending::Last);
    }
    Ok(Ending::stated_by(&start))
}

/// The header of a segment's first record, if it can be read.
pub(in crate::audit) fn first_header(dir: &Path, index: u64) -> io::Result<Option<Header>> {
    Stored::open(dir, index)?.first_header()
}

/// More than a SEGMENT_OPEN record takes.
const OPEN_BYTES: usize = 4096;

impl Scan {
    /// Says of damage that it is an archive's.
    pub(super) fn name_damage(&mut self, damage: Damage) {
        let Damage { offset, cause } = damage;
        match self.breaks.iter_mut().find(|found| found.offset == offset) {
            Some(found) => found.detail = cause,
            None => {
                let (segment, seq) = (self.index, self.end.map_or(0, |end| end.size));
                self.breaks.push(Break {
                    class: Class::AlteredHeader,
                    segment,
                    offset,
                    seq,
                    records: 1,
                    detail: cause,
                });
            }
        }
    }
}
