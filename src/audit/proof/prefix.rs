//! The tree over a log's first records, without reading it all: the CHECKPOINT records state it now and then, and the RETIRE
//! record where the log begins behind what was removed.
//!
//! What a CHECKPOINT states, a key signed; from there on the tree is recomputed. So a start can hold the log against an anchor
//! at the price of the records of about a second; that nothing before was rewritten by someone who has the key,
//! `edgate audit verify` tells.

use std::path::Path;

use super::{
    consistency_path,
    error::ProveError,
    leaves::{begin_of, each_record, retired_before},
};
use crate::audit::{
    error::AuditError,
    folder::SegmentFile,
    merkle::CompactRange,
    note::{Checkpoint, CheckpointKey},
    record::Hash,
    schema::{self, Kind},
    stored::{Segments, list_segments},
    verify::published_note,
    walk::Record,
};

/// The tree over the first `size` records of the log in `dir`.
///
/// # Errors
/// [`ProveError::Retired`] where the log begins behind them; and when they are not there, or are no chain.
pub fn tree_at(dir: &Path, keys: &[CheckpointKey], size: u64) -> Result<CompactRange, ProveError> {
    if size == 0 {
        return Ok(CompactRange::new(0));
    }
    let io = |error| AuditError::io("read a segment of", dir, error);
    let files = list_segments(dir).map_err(io)?;
    let first = begin_of(dir, &files)?;
    // From a tree that ends before the first record that is there nothing leads on.
    let stated =
        |record: &Record<'_>| signed_tree(record, keys).filter(|tree| (first..=size).contains(&tree.end()));
    let nearest = Segments::of(dir).last_of(&files, size, Kind::Checkpoint, stated).map_err(io)?;
    let mut tree = match nearest {
        Some(tree) => tree,
        None => tree_before(dir, &files, keys)?,
    };
    if tree.end() > size {
        return Err(ProveError::Retired { seq: size - 1, first });
    }
    let rest = range(dir, tree.end(), size)?;
    assert!(tree.merge(&rest), "the rest begins where the tree ends");
    Ok(tree)
}

/// The tree over what stood before the first of `files`. That it was removed counts only under a signature.
fn tree_before(
    dir: &Path,
    files: &[SegmentFile],
    keys: &[CheckpointKey],
) -> Result<CompactRange, ProveError> {
    let Some(retired) = retired_before(Segments::of(dir), files)? else { return Ok(CompactRange::new(0)) };
    let signed = latest_signed(dir, keys)?;
    if signed.is_none_or(|(checkpoint, _)| checkpoint.size <= retired.seq) {
        let cause =
            format!("the segment is not there, and no checkpoint covers the RETIRE record {}", retired.seq);
        return Err(ProveError::Stored { segment: retired.segment, offset: 0, cause });
    }
    Ok(retired.tree)
}

/// The latest state of the log in `dir` that one of `keys` signed, and the note that says so: the one published beside the
/// log, or that of its last CHECKPOINT record.
///
/// # Errors
/// What the system refuses.
pub fn latest_signed(dir: &Path, keys: &[CheckpointKey]) -> Result<Option<(Checkpoint, String)>, AuditError> {
    let open = |note: &str| Some((Checkpoint::open(note, keys).ok()?, note.to_owned()));
    let published =
        published_note(dir).map_err(|error| AuditError::io("read the checkpoint of", dir, error))?;
    let published = published.and_then(|note| open(&note));
    let recorded = |record: &Record<'_>| {
        let body = record.read_body().ok()?;
        open(schema::text(&body, 3)?)
    };
    let io = |error| AuditError::io("read a segment of", dir, error);
    let files = list_segments(dir).map_err(io)?;
    let recorded = Segments::of(dir).last_of(&files, u64::MAX, Kind::Checkpoint, recorded).map_err(io)?;
    Ok(recorded.into_iter().chain(published).max_by_key(|(checkpoint, _)| checkpoint.size))
}

/// The range over the records from `from` up to `to`.
///
/// # Errors
/// As [`tree_at`].
pub fn range(dir: &Path, from: u64, to: u64) -> Result<CompactRange, ProveError> {
    let mut range = CompactRange::new(from);
    if from < to {
        each_record(dir, from, to, &mut |_| {}, |record| {
            if record.header.seq >= from {
                range.push(&record.hash);
            }
            Ok(())
        })?;
    }
    Ok(range)
}

/// The path that proves that the tree over `old` and `since`, which continues it, begins with `old` (RFC 6962 §2.1.2).
/// `None` where `since` does not continue it.
#[must_use]
pub fn path_between(old: &CompactRange, since: &CompactRange) -> Option<Vec<Hash>> {
    if since.begin() != old.end() {
        return None;
    }
    consistency_path(old.end(), since.end())
        .iter()
        .map(|run| old.head_over(run).or_else(|| since.head_over(run)))
        .collect()
}

/// What a CHECKPOINT record that one of `keys` signed states.
fn signed_tree(record: &Record<'_>, keys: &[CheckpointKey]) -> Option<CompactRange> {
    let body = record.read_body().ok()?;
    let tree = CompactRange::from_bytes(schema::uint(&body, 1)?, schema::bytes(&body, 4)?)?;
    let signed = Checkpoint::open(schema::text(&body, 3)?, keys).ok()?;
    (signed.size == tree.end() && Some(signed.root) == tree.root()).then_some(tree)
}
