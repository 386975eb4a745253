//! The records of a log, one after the other, each checked to continue the one before.

use std::{io, path::Path};

use super::error::ProveError;
use crate::audit::{
    error::AuditError,
    folder::SegmentFile,
    record::Hash,
    recover::FIRST_SEGMENT,
    retire::{Retired, find_retired},
    stored::{Segments, Stored, list_segments},
    verify::VerifyProgress,
    walk::{Record, Records},
};

/// Hands over the records from `from` up to `upto`, and all those before `from` in the segment it stands in.
///
/// Links are checked and header checksums, bodies are not hashed, and may have been erased: whoever looks at one body has to.
///
/// # Errors
/// [`ProveError::Retired`] where the log begins behind `from`.
pub(super) fn each_record(
    dir: &Path,
    from: u64,
    upto: u64,
    progress: &mut dyn FnMut(VerifyProgress),
    mut take: impl FnMut(&Record<'_>) -> Result<(), ProveError>,
) -> Result<(), ProveError> {
    let io = |source: io::Error| AuditError::io("read a segment of", dir, source);
    let mut files = list_segments(dir).map_err(io)?;
    let begin = begin_of(dir, &files)?;
    if begin > from {
        retired_before(Segments::of(dir), &files)?;
        return Err(ProveError::Retired { seq: from, first: begin });
    }
    // The last segment that begins at or before the first record wanted, and those behind it.
    let mut start = 0;
    for (number, file) in files.iter().enumerate() {
        match Segments::of(dir).first_seq(file.index).map_err(io)? {
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
        let mut records = Records::of(&segment);
        loop {
            if last.is_some_and(|(seq, _)| seq + 1 >= upto) {
                return Ok(());
            }
            let offset = records.offset() as u64;
            let Some(record) = records.next() else { break };
            let continues = match last {
                None => record.header.seq <= from,
                Some((seq, hash)) => record.header.seq == seq + 1 && record.header.prev_hash == hash,
            };
            if !continues {
                let cause = format!("record {} does not continue the chain", record.header.seq);
                let (segment, offset, cause) = ended.take().unwrap_or((file.index, offset, cause));
                return Err(ProveError::Stored { segment, offset, cause });
            }
            take(&record)?;
            last = Some((record.header.seq, record.hash));
            ended = None;
        }
        // Segments made ahead are empty: the place is where the records ended.
        if records.offset() > 0 || ended.is_none() {
            let cause = records.flaw().map(|flaw| flaw.to_string()).unwrap_or_default();
            ended = Some((file.index, records.offset() as u64, cause));
        }
        bytes += file.bytes;
        progress(VerifyProgress { bytes, bytes_total });
    }
    let wanted = last.map_or(from, |(seq, _)| seq + 1);
    if wanted >= upto {
        return Ok(());
    }
    let (segment, offset, cause) = ended.unwrap_or_default();
    Err(ProveError::Stored { segment, offset, cause: format!("record {wanted} is missing: {cause}") })
}

/// The first record of the log whose segments are `files`, where that can be read.
pub(super) fn begin_of(dir: &Path, files: &[SegmentFile]) -> Result<u64, ProveError> {
    let Some(file) = files.first() else {
        return Err(AuditError::NotFound { path: dir.to_owned() }.into());
    };
    let first = Segments::of(dir).first_seq(file.index);
    Ok(first.map_err(|source| AuditError::io("read a segment of", dir, source))?.unwrap_or(0))
}

/// What the log says about the segments that are no longer there before `files`; `None` where it has all of them.
///
/// # Errors
/// [`ProveError::Stored`] where it says nothing.
pub(in crate::audit) fn retired_before(
    log: Segments<'_>,
    files: &[SegmentFile],
) -> Result<Option<Retired>, ProveError> {
    let first = files.first().filter(|file| file.index > FIRST_SEGMENT);
    let Some(before) = first.map(|file| file.index - 1) else { return Ok(None) };
    match find_retired(log, files, before) {
        Ok(Some(retired)) => Ok(Some(retired)),
        Ok(None) => {
            let cause = "the segment is not there, and no RETIRE record says why".to_owned();
            Err(ProveError::Stored { segment: before, offset: 0, cause })
        }
        Err(source) => Err(AuditError::io("read a segment of", log.dir, source).into()),
    }
}
