//! Making proofs from a log, or from a log and its tiles. A proof is checked as a stranger would before it is given out.

use std::{ops::Range, path::Path};

use super::{
    consistency_path,
    error::{ProveError, read_checkpoint, same_log_continued},
    file::{ConsistencyProof, InclusionProof},
    find::{Found, find_record},
    inclusion_path, is_consistent,
    leaves::each_record,
    root_of_inclusion,
    tile::{TILE_WIDTH, Tile, TileTree},
};
use crate::audit::{
    id::RecordId,
    merkle::{CompactRange, GrowingRange},
    note::{Checkpoint, CheckpointKey},
    record::{HASHED_BYTES, Hash},
    sealer::CHECKPOINT_FILE,
    verify::VerifyProgress,
};

/// Makes proofs about one log.
#[derive(Debug, Clone, Copy)]
pub struct Prover<'a> {
    /// The log's folder.
    pub dir: &'a Path,
    /// Its tiles, and the checkpoint to prove against; without them the whole log is read.
    pub tiles: Option<&'a Path>,
    /// Keys that may have signed the checkpoint.
    pub keys: &'a [CheckpointKey],
}

impl Prover<'_> {
    /// Proves that the record of `id` is in the log, and shows its header, and its body if asked to.
    ///
    /// # Errors
    /// When there is no such record, it is not covered by the checkpoint yet, or what is stored is not what was signed.
    pub fn inclusion(
        &self,
        id: RecordId,
        with_body: bool,
        progress: &mut dyn FnMut(VerifyProgress),
    ) -> Result<InclusionProof, ProveError> {
        let Found { segment, offset, header, hash, body } = find_record(self.dir, id)?;
        let path = self.tiles.unwrap_or(self.dir).join(CHECKPOINT_FILE);
        let (checkpoint, note) = read_checkpoint(&path, self.keys)?;
        let index = header.seq;
        if index >= checkpoint.size {
            return Err(ProveError::NotCovered { seq: index, path, size: checkpoint.size });
        }
        let runs = inclusion_path(index, checkpoint.size);
        let path = match self.tiles {
            None => self.heads_of_segments(&runs, checkpoint.size, progress)?,
            Some(folder) => {
                let mut tree = TileTree::open(folder, checkpoint.size, &checkpoint.root)?;
                if tree.leaf(index)? != hash {
                    let tile = Tile::of(0, index / TILE_WIDTH, checkpoint.size).path();
                    let cause =
                        format!("record {index} is not the signed one, whose hash is in {}", tile.display());
                    return Err(ProveError::Stored { segment, offset, cause });
                }
                runs.iter().map(|run| tree.head(run)).collect::<Result<_, _>>()?
            }
        };
        if root_of_inclusion(&hash, index, checkpoint.size, &path) != Some(checkpoint.root) {
            return Err(self.unvouched(checkpoint.size));
        }
        let mut entry = [0; HASHED_BYTES];
        entry.copy_from_slice(&header.to_bytes()[..HASHED_BYTES]);
        Ok(InclusionProof { index, path, hash, entry, body: with_body.then_some(body), note })
    }

    /// Proves that the log's checkpoint continues the one in the file `old`.
    ///
    /// # Errors
    /// [`ProveError::Rollback`] when it does not; and when what is stored is not what was signed.
    pub fn consistency(
        &self,
        old: &Path,
        progress: &mut dyn FnMut(VerifyProgress),
    ) -> Result<ConsistencyProof, ProveError> {
        let (before, _) = read_checkpoint(old, self.keys)?;
        let (now, note) = read_checkpoint(&self.tiles.unwrap_or(self.dir).join(CHECKPOINT_FILE), self.keys)?;
        same_log_continued(old, &before, &now)?;
        let runs = consistency_path(before.size, now.size);
        let path = match self.tiles {
            None => self.heads_of_segments(&runs, now.size, progress)?,
            Some(folder) => {
                let mut tree = TileTree::open(folder, now.size, &now.root)?;
                runs.iter().map(|run| tree.head(run)).collect::<Result<_, _>>()?
            }
        };
        if !is_consistent(before.size, now.size, &before.root, &now.root, &path) {
            if self.tiles.is_none() && !self.is_vouched(&now, progress)? {
                return Err(self.unvouched(now.size));
            }
            let cause = format!(
                "the log's first {} records are not those that {} was signed for",
                before.size,
                old.display()
            );
            return Err(ProveError::Rollback(cause));
        }
        Ok(ConsistencyProof { old_size: before.size, path, note })
    }

    /// The heads over runs of a path, from the records themselves: in memory there is one run at a time.
    fn heads_of_segments(
        &self,
        runs: &[Range<u64>],
        size: u64,
        progress: &mut dyn FnMut(VerifyProgress),
    ) -> Result<Vec<Hash>, ProveError> {
        let mut order: Vec<usize> = (0..runs.len()).collect();
        order.sort_unstable_by_key(|run| runs[*run].start);
        let Some(first) = order.first() else { return Ok(Vec::new()) };
        let mut heads = vec![[0; 32]; runs.len()];
        let mut order_left = order.iter().copied().peekable();
        let mut growing = GrowingRange::new();
        each_record(self.dir, runs[*first].start, size, progress, |record| {
            let seq = record.header.seq;
            if let Some(run) = order_left.next_if(|run| runs[*run].start <= seq && runs[*run].end == seq + 1)
            {
                if runs[run].start == seq {
                    heads[run] = record.hash;
                } else {
                    growing.push(&record.hash);
                    let head = growing.range().and_then(CompactRange::head);
                    heads[run] = head.expect("the run has leaves");
                    growing.set(None);
                }
            } else if let Some(run) = order_left.peek()
                && runs[*run].start <= seq
            {
                if runs[*run].start == seq {
                    growing.set(Some(CompactRange::new(seq)));
                }
                growing.push(&record.hash);
            }
            Ok(())
        })?;
        Ok(heads)
    }

    /// Whether the stored records are those that were signed.
    fn is_vouched(
        &self,
        checkpoint: &Checkpoint,
        progress: &mut dyn FnMut(VerifyProgress),
    ) -> Result<bool, ProveError> {
        let mut growing = GrowingRange::new();
        growing.set(Some(CompactRange::new(0)));
        each_record(self.dir, 0, checkpoint.size, progress, |record| {
            growing.push(&record.hash);
            Ok(())
        })?;
        Ok(growing.range().and_then(CompactRange::root) == Some(checkpoint.root))
    }

    fn unvouched(&self, size: u64) -> ProveError {
        ProveError::Unvouched { dir: self.dir.to_owned(), size }
    }
}
