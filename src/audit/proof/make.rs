//! Making proofs from a log, or from a log and its tiles. A proof is checked as a stranger would before it is given out.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

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
    stored::Segments,
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

/// A signed state of the log, to prove against.
pub(in crate::audit) struct State {
    pub(in crate::audit) checkpoint: Checkpoint,
    /// The checkpoint as signed.
    pub(in crate::audit) note: String,
    path: PathBuf,
    tree: Option<TileTree>,
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
        self.inclusion_of(id, None, with_body, progress)
    }

    /// As [`Self::inclusion`], with its body, of a record behind those that whoever asks has just read, whose tree is `read`:
    /// they are not read again, and may have been retired.
    ///
    /// # Errors
    /// As [`Self::inclusion`].
    pub fn inclusion_behind(
        &self,
        read: &CompactRange,
        id: RecordId,
        progress: &mut dyn FnMut(VerifyProgress),
    ) -> Result<InclusionProof, ProveError> {
        self.inclusion_of(id, Some(read), true, progress)
    }

    fn inclusion_of(
        &self,
        id: RecordId,
        read: Option<&CompactRange>,
        with_body: bool,
        progress: &mut dyn FnMut(VerifyProgress),
    ) -> Result<InclusionProof, ProveError> {
        // The record first: a running node may sign it in between.
        let found = find_record(Segments::of(self.dir), id)?;
        let read = read.filter(|read| found.header.seq >= read.end());
        let mut proofs = self.inclusions_of(vec![found], &mut self.state()?, read, with_body, progress)?;
        Ok(proofs.pop().expect("a proof per record"))
    }

    /// The state that proofs are made against.
    pub(in crate::audit) fn state(&self) -> Result<State, ProveError> {
        self.state_at(&self.tiles.unwrap_or(self.dir).join(CHECKPOINT_FILE))
    }

    /// The state that the checkpoint in this file was signed for; of tiles it can only be their own.
    pub(in crate::audit) fn state_at(&self, path: &Path) -> Result<State, ProveError> {
        let (checkpoint, note) = read_checkpoint(path, self.keys)?;
        let path = path.to_owned();
        let open = |folder| TileTree::open(folder, checkpoint.size, &checkpoint.root);
        let tree = self.tiles.map(open).transpose()?;
        Ok(State { checkpoint, note, path, tree })
    }

    /// The proofs of several records, as [`Self::inclusion`], in one pass.
    pub(in crate::audit) fn inclusions(
        &self,
        state: &mut State,
        ids: &[RecordId],
        with_body: bool,
        progress: &mut dyn FnMut(VerifyProgress),
    ) -> Result<Vec<InclusionProof>, ProveError> {
        let found =
            ids.iter().map(|id| find_record(Segments::of(self.dir), *id)).collect::<Result<_, _>>()?;
        self.inclusions_of(found, state, None, with_body, progress)
    }

    fn inclusions_of(
        &self,
        found: Vec<Found>,
        state: &mut State,
        read: Option<&CompactRange>,
        with_body: bool,
        progress: &mut dyn FnMut(VerifyProgress),
    ) -> Result<Vec<InclusionProof>, ProveError> {
        let size = state.checkpoint.size;
        for Found { segment, offset, header, hash, body } in &found {
            let index = header.seq;
            if with_body && body.is_none() {
                return Err(ProveError::BodyErased { seq: index });
            }
            if index >= size {
                return Err(ProveError::NotCovered { seq: index, path: state.path.clone(), size });
            }
            if let Some(tree) = &mut state.tree
                && tree.leaf(index)? != *hash
            {
                let tile = Tile::of(0, index / TILE_WIDTH, size).path();
                let cause =
                    format!("record {index} is not the signed one, whose hash is in {}", tile.display());
                return Err(ProveError::Stored { segment: *segment, offset: *offset, cause });
            }
        }
        let runs: Vec<_> = found.iter().map(|found| inclusion_path(found.header.seq, size)).collect();
        let mut heads = self.heads_behind(read, state, &runs.concat(), progress)?.into_iter();
        let mut proofs = Vec::with_capacity(found.len());
        for (Found { header, hash, body, .. }, runs) in found.into_iter().zip(runs) {
            let (index, path) = (header.seq, heads.by_ref().take(runs.len()).collect::<Vec<_>>());
            if root_of_inclusion(&hash, index, size, &path) != Some(state.checkpoint.root) {
                return Err(self.unvouched(size));
            }
            let mut entry = [0; HASHED_BYTES];
            entry.copy_from_slice(&header.to_bytes()[..HASHED_BYTES]);
            let (body, note) = (body.filter(|_| with_body), state.note.clone());
            proofs.push(InclusionProof { index, path, hash, entry, body, note });
        }
        Ok(proofs)
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
        let mut state = self.state()?;
        same_log_continued(old, &before, &state.checkpoint)?;
        let runs = consistency_path(before.size, state.checkpoint.size);
        let path = self.heads(&mut state, &runs, progress)?;
        let now = &state.checkpoint;
        if !is_consistent(before.size, now.size, &before.root, &now.root, &path) {
            if self.tiles.is_none() && !self.is_vouched(now, progress)? {
                return Err(self.unvouched(now.size));
            }
            let cause = format!(
                "the log's first {} records are not those that {} was signed for",
                before.size,
                old.display()
            );
            return Err(ProveError::Rollback(cause));
        }
        Ok(ConsistencyProof { old_size: before.size, path, note: state.note })
    }

    /// The heads over runs of the signed tree, from the tiles or from the records themselves.
    pub(in crate::audit) fn heads(
        &self,
        state: &mut State,
        runs: &[Range<u64>],
        progress: &mut dyn FnMut(VerifyProgress),
    ) -> Result<Vec<Hash>, ProveError> {
        self.heads_behind(None, state, runs, progress)
    }

    fn heads_behind(
        &self,
        read: Option<&CompactRange>,
        state: &mut State,
        runs: &[Range<u64>],
        progress: &mut dyn FnMut(VerifyProgress),
    ) -> Result<Vec<Hash>, ProveError> {
        match &mut state.tree {
            Some(tree) => runs.iter().map(|run| tree.head(run)).collect(),
            None => self.heads_of_segments(read, runs, state.checkpoint.size, progress),
        }
    }

    /// As [`Self::heads`]. Runs may overlap: the leaves are cut wherever one begins or ends, and each piece is hashed once. A run
    /// that begins among the leaves of `read` has to be a subtree, left of a leaf behind them.
    fn heads_of_segments(
        &self,
        read: Option<&CompactRange>,
        runs: &[Range<u64>],
        size: u64,
        progress: &mut dyn FnMut(VerifyProgress),
    ) -> Result<Vec<Hash>, ProveError> {
        let known = read.map_or(0, CompactRange::end);
        let mut bounds = BTreeMap::<u64, i64>::new();
        for run in runs.iter().filter(|run| run.end > known) {
            *bounds.entry(run.start.max(known)).or_default() += 1;
            *bounds.entry(run.end).or_default() -= 1;
        }
        let mut open = 0;
        let ends = bounds.keys().skip(1);
        let pieces = bounds.iter().zip(ends).filter_map(|((start, change), end)| {
            open += change;
            (open > 0).then_some(*start..*end)
        });
        let pieces: Vec<_> = pieces.collect();
        let mut left = pieces.iter().peekable();
        let mut ranges = BTreeMap::new();
        let mut growing = GrowingRange::new();
        if let Some(first) = pieces.first() {
            each_record(self.dir, first.start, size, progress, |record| {
                let seq = record.header.seq;
                let Some(piece) = left.peek().filter(|piece| piece.contains(&seq)) else { return Ok(()) };
                if piece.start == seq {
                    growing.set(Some(CompactRange::new(seq)));
                }
                growing.push(&record.hash);
                if piece.end == seq + 1 {
                    ranges.extend(growing.range().map(|range| (piece.start, range.clone())));
                    left.next();
                }
                Ok(())
            })?;
        }
        let head = |run: &Range<u64>| {
            let begun = read.filter(|read| run.start < read.end());
            let mut whole = begun.cloned().unwrap_or_else(|| CompactRange::new(run.start));
            let joined =
                ranges.range(whole.end()..run.end.max(whole.end())).all(|(_, piece)| whole.merge(piece));
            assert!(joined && whole.end() >= run.end, "every record up to {size} was there");
            whole.head_over(run).expect("a run of a path is a subtree, and has leaves")
        };
        Ok(runs.iter().map(head).collect())
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
