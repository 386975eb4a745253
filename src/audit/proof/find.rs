//! Where the record of an id stands, without reading the whole log.
//!
//! The records of one appender stand in the order of their numbers, so segments are chosen by halving, and so is the place in
//! one (`near.rs`); where that does not lead to it, the headers of the segment are walked through.

mod near;

use std::io;

use super::error::ProveError;
use crate::audit::{
    error::AuditError,
    folder::SegmentFile,
    id::RecordId,
    record::{HEADER_BYTES, Header, stored_len},
    stored::Segments,
    walk::{SegmentOpen, or_erased, read_record},
};

/// A record as found: whole in itself, its place in the chain not checked.
pub(in crate::audit) struct Found {
    pub(in crate::audit) segment: u64,
    pub(in crate::audit) offset: u64,
    pub(in crate::audit) header: Header,
    pub(super) hash: crate::audit::record::Hash,
    /// `None` where it was erased.
    pub(in crate::audit) body: Option<Vec<u8>>,
}

/// Where record `seq` stands: segment and offset, if it is there.
pub(in crate::audit) fn find_seq(log: Segments<'_>, seq: u64) -> io::Result<Option<(u64, u64)>> {
    let files = log.list()?;
    let begun = log.begun_by(&files, seq)?;
    let Some(file) = files[..begun].last() else { return Ok(None) };
    let found = first_of(log, file.index, |header| header.seq >= seq)?;
    Ok(found.filter(|(_, header)| header.seq == seq).map(|(offset, _)| (file.index, offset)))
}

/// Finds the record of `id`.
pub(in crate::audit) fn find_record(log: Segments<'_>, id: RecordId) -> Result<Found, ProveError> {
    let unknown = || ProveError::UnknownRecord { id, dir: log.dir.to_owned() };
    let (segment, offset) = find_id(log, id)?.ok_or_else(unknown)?;
    read_found(log, segment, offset)
}

/// Where the record of `id` stands: segment and offset, if it is there.
pub(in crate::audit) fn find_id(log: Segments<'_>, id: RecordId) -> Result<Option<(u64, u64)>, ProveError> {
    let io = |source: io::Error| ProveError::Audit(AuditError::io("read a segment of", log.dir, source));
    let files = log.list().map_err(io)?;
    if files.is_empty() {
        return Err(AuditError::NotFound { path: log.dir.to_owned() }.into());
    }
    let boots = boots_of(log, &files).map_err(io)?;
    let of_boot = files.iter().zip(&boots).filter(|(_, boot)| **boot == Some(id.boot));
    let segments: Vec<u64> = of_boot.map(|(file, _)| file.index).collect();
    // Behind `high` the appender's numbers are above the one wanted, and in or before `low` they begin at or below it. An
    // appender that is silent for long makes this a walk through what is left, once.
    let (mut low, mut high) = (None, segments.len());
    loop {
        let begin = low.map_or(0, |low| low + 1);
        if begin >= high {
            break;
        }
        let middle = usize::midpoint(begin, high);
        let mut first = None;
        for (at, segment) in segments.iter().enumerate().take(high).skip(middle) {
            let found = first_of(log, *segment, |header| header.core == id.core).map_err(io)?;
            if let Some((_, header)) = found {
                first = Some((at, header.core_seq));
                break;
            }
        }
        match first {
            Some((at, core_seq)) if core_seq <= id.core_seq => low = Some(at),
            _ => high = middle,
        }
    }
    let Some(segment) = low.map(|low| segments[low]) else { return Ok(None) };
    let wanted = |header: &Header| header.core == id.core && header.core_seq == id.core_seq;
    let found = match near::find(log, segment, id.core, id.core_seq).map_err(io)? {
        Some(offset) => Some(offset),
        None => first_of(log, segment, wanted).map_err(io)?.map(|(offset, _)| offset),
    };
    Ok(found.map(|offset| (segment, offset)))
}

/// Reads a record whole and checks it in itself.
fn read_found(log: Segments<'_>, segment: u64, offset: u64) -> Result<Found, ProveError> {
    let mut bytes = vec![0; HEADER_BYTES];
    let len = log
        .open(segment)
        .and_then(|stored| {
            stored.read_at(&mut bytes, offset)?;
            let header = bytes.first_chunk().map(Header::parse);
            let body_len = header.and_then(Result::ok).map_or(0, |header| header.body_len as usize);
            bytes.resize(stored_len(body_len), 0);
            stored.read_at(&mut bytes, offset)
        })
        .map_err(|error| AuditError::io("read a segment of", log.dir, error))?;
    bytes.truncate(len);
    // Whether it is erased by right is for a verification to say: what is proven here is the header.
    let record = or_erased(read_record(&bytes, 0), &bytes, 0).map_err(|flaw| ProveError::Stored {
        segment,
        offset,
        cause: flaw.to_string(),
    })?;
    let body = (!record.erased).then(|| record.body.to_vec());
    Ok(Found { segment, offset, header: record.header, hash: record.hash, body })
}

/// The boot of each segment. Those of one boot stand side by side, so where two have the same, those between have it too.
fn boots_of(log: Segments<'_>, files: &[SegmentFile]) -> io::Result<Vec<Option<u64>>> {
    let mut boots = vec![None; files.len()];
    let Some(last) = files.len().checked_sub(1) else { return Ok(boots) };
    boots[0] = boot_of(log, files[0].index)?;
    boots[last] = boot_of(log, files[last].index)?;
    // Runs whose ends are known.
    let mut runs = vec![(0, last)];
    while let Some((first, last)) = runs.pop() {
        // What cannot be read, or is not written to, is no boot.
        if boots[first].is_some() && boots[first] == boots[last] {
            let boot = boots[first];
            boots[first..=last].fill(boot);
        } else if last - first > 1 {
            let middle = usize::midpoint(first, last);
            boots[middle] = boot_of(log, files[middle].index)?;
            runs.extend([(first, middle), (middle, last)]);
        }
    }
    Ok(boots)
}

/// The boot a segment was written in; `None` if nothing was written to it.
fn boot_of(log: Segments<'_>, segment: u64) -> io::Result<Option<u64>> {
    let start = log.open(segment)?.start(OPEN_BYTES)?;
    Ok(read_record(&start, 0).ok().and_then(|record| Some(SegmentOpen::read(&record)?.boot)))
}

/// The first record of a segment that `wanted` wants, by its header alone.
fn first_of(
    log: Segments<'_>,
    segment: u64,
    wanted: impl Fn(&Header) -> bool,
) -> io::Result<Option<(u64, Header)>> {
    let stored = log.open(segment)?;
    // Most often one of the first is wanted.
    let mut buffer = vec![0; READ_BYTES_MIN];
    let (mut start, mut len, mut at) = (0, 0, 0);
    loop {
        if at + HEADER_BYTES > len {
            start += at as u64;
            if start > 0 {
                buffer.resize(READ_BYTES, 0);
            }
            len = stored.read_at(&mut buffer, start)?;
            at = 0;
        }
        let Some(header) = buffer[..len].get(at..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
        let Ok(header) = Header::parse(header) else { return Ok(None) };
        if wanted(&header) {
            return Ok(Some((start + at as u64, header)));
        }
        at += stored_len(header.body_len as usize);
    }
}

/// More than a SEGMENT_OPEN record takes.
const OPEN_BYTES: usize = 4096;

/// Bytes of a segment read at first, and at a time then.
const READ_BYTES_MIN: usize = 16 * 1024;
const READ_BYTES: usize = 1 << 20;
