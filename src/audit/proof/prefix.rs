//! The tree over a log's first records, without reading it all: the CHECKPOINT records state it now and then.
//!
//! What a CHECKPOINT states, a key signed; from there on the tree is recomputed. So a start can hold the log against an anchor
//! at the price of the records of about a second; that nothing before was rewritten by someone who has the key,
//! `edgate audit verify` tells.

use std::{io, path::Path};

use super::{consistency_path, error::ProveError, leaves::each_record};
use crate::audit::{
    error::AuditError,
    merkle::CompactRange,
    note::{Checkpoint, CheckpointKey},
    record::Hash,
    schema::{self, Kind},
    stored::{Stored, list_segments},
    verify::first_seq,
    walk::{Depth, Record, Walk},
};

/// The tree over the first `size` records of the log in `dir`.
///
/// # Errors
/// When they are not there, or are no chain.
pub fn tree_at(dir: &Path, keys: &[CheckpointKey], size: u64) -> Result<CompactRange, ProveError> {
    let mut tree = nearest_signed(dir, keys, size)
        .map_err(|error| AuditError::io("read a segment of", dir, error))?
        .unwrap_or_else(|| CompactRange::new(0));
    let rest = range(dir, tree.end(), size)?;
    assert!(tree.merge(&rest), "the rest begins where the tree ends");
    Ok(tree)
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

/// The tree of the last signed CHECKPOINT of at most `size` records that stands before record `size`.
fn nearest_signed(dir: &Path, keys: &[CheckpointKey], size: u64) -> io::Result<Option<CompactRange>> {
    let files = list_segments(dir)?;
    let mut found = None;
    for file in files.iter().rev() {
        if first_seq(dir, file.index)?.is_none_or(|first| first >= size) {
            continue;
        }
        let segment = Stored::open(dir, file.index)?.read()?;
        let mut walk = Walk::new(&segment, Depth::Headers);
        let mut offset = 0;
        while let Ok(record) = walk.read(offset) {
            if record.header.seq >= size {
                break;
            }
            if record.kind() == Some(Kind::Checkpoint) {
                found = signed_tree(&record, keys).filter(|tree| tree.end() <= size).or(found);
            }
            offset = record.next;
        }
        if found.is_some() {
            break;
        }
    }
    Ok(found)
}

fn signed_tree(record: &Record<'_>, keys: &[CheckpointKey]) -> Option<CompactRange> {
    let body = record.read_body().ok()?;
    let tree = CompactRange::from_bytes(schema::uint(&body, 1)?, schema::bytes(&body, 4)?)?;
    let signed = Checkpoint::open(schema::text(&body, 3)?, keys).ok()?;
    (signed.size == tree.end() && Some(signed.root) == tree.root()).then_some(tree)
}
