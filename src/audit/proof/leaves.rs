//! The records of a log, one after the other, each checked to continue the one before.

use std::{io, path::Path};

use super::error::ProveError;
use crate::audit::{
    error::AuditError,
    record::Hash,
    stored::{Stored, list_segments},
    verify::{VerifyProgress, first_seq},
    walk::{Depth, Record, Walk, or_erased},
};

/// Hands over the records from `from` up to `upto`, and all those before `from` in the segment it stands in.
///
/// Links are checked and header checksums, bodies are not hashed, and may have been erased: whoever looks at one body has to.
pub(super) fn each_record(
    dir: &Path,
    from: u64,
    upto: u64,
    progress: &mut dyn FnMut(VerifyProgress),
    mut take: impl FnMut(&Record<'_>) -> Result<(), ProveError>,
) -> Result<(), ProveError> {
    let io = |source: io::Error| AuditError::io("read a segment of", dir, source);
    let mut files = list_segments(dir).map_err(io)?;
    if files.is_empty() {
        return Err(AuditError::NotFound { path: dir.to_owned() }.into());
    }
    // The last segment that begins at or before the first record wanted, and those behind it.
    let mut start = 0;
    for (number, file) in files.iter().enumerate() {
        match first_seq(dir, file.index).map_err(io)? {
            Some(first) if first <= from => start = number,
            Some(first) if first >= upto => {
                files.truncate(number);
                break;
            }
            _ => {}
        }
    }
    let files = &files[start..];
    let bytes_total = files.iter().map(|file| file.bytes).sum();
    let mut bytes = 0;
    let mut last: Option<(u64, Hash)> = None;
    // Where the records of the segment before ended, and why: to blame if the next does not continue them.
    let mut ended = None;
    for file in files {
        let segment = Stored::open(dir, file.index).and_then(|stored| stored.read()).map_err(io)?;
        let mut walk = Walk::new(&segment, Depth::Headers);
        let mut offset = 0;
        let flaw = loop {
            if last.is_some_and(|(seq, _)| seq + 1 >= upto) {
                return Ok(());
            }
            let record = match or_erased(walk.read(offset), &segment, offset) {
                Ok(record) => record,
                Err(flaw) => break flaw,
            };
            let continues = match last {
                // Behind records that were retired the log begins later; what is wanted must be there all the same.
                None => file.index == files[0].index && record.header.seq <= from,
                Some((seq, hash)) => record.header.seq == seq + 1 && record.header.prev_hash == hash,
            };
            if !continues {
                let (segment, offset, cause) = ended.take().unwrap_or((
                    file.index,
                    offset as u64,
                    format!("record {} does not continue the chain", record.header.seq),
                ));
                return Err(ProveError::Stored { segment, offset, cause });
            }
            take(&record)?;
            last = Some((record.header.seq, record.hash));
            offset = record.next;
            ended = None;
        };
        // Segments made ahead are empty: the place is where the records ended.
        if offset > 0 || ended.is_none() {
            ended = Some((file.index, offset as u64, flaw.to_string()));
        }
        bytes += file.bytes;
        progress(VerifyProgress { bytes, bytes_total });
    }
    let wanted = last.map_or(from, |(seq, _)| seq + 1);
    if wanted >= upto {
        return Ok(());
    }
    let (segment, offset, cause) = ended.unwrap_or((files[0].index, 0, String::new()));
    Err(ProveError::Stored { segment, offset, cause: format!("record {wanted} is missing: {cause}") })
}
