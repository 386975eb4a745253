//! What the CHECKPOINT records of a segment say, and the trees over its own records that they are to be held against.

use std::{borrow::Cow, ops::Range};

use super::{Class, Scanner};
use crate::audit::{
    merkle::CompactRange,
    record::{HEADER_BYTES, Hash, Header, event_hash, stored_len},
    schema,
    walk::Record,
};

/// A CHECKPOINT record.
pub(in crate::audit::verify) struct FoundCheckpoint {
    pub(in crate::audit::verify) seq: u64,
    pub(in crate::audit::verify) offset: u64,
    pub(in crate::audit::verify) size: u64,
    pub(in crate::audit::verify) root: Hash,
    pub(in crate::audit::verify) note: String,
    /// Wall clock of the record.
    pub(in crate::audit::verify) wall_ns: u64,
    /// The tree over the segment's records below `size`, if that size is one of the segment's recent commits.
    pub(in crate::audit::verify) tree: Option<CompactRange>,
    /// The tree over all records below `size`, as the record states it.
    pub(in crate::audit::verify) frontier: Option<CompactRange>,
}

impl Scanner {
    pub(super) fn note_checkpoint(&mut self, record: &Record<'_>, seq: u64) {
        let fields = record.read_body().ok().and_then(|body| {
            let size = schema::uint(&body, 1)?;
            let root = schema::bytes(&body, 2)?.try_into().ok()?;
            let frontier = CompactRange::from_bytes(size, schema::bytes(&body, 4)?);
            Some((size, root, schema::text(&body, 3)?.to_owned(), frontier))
        });
        let Some((size, root, note, frontier)) = fields else {
            self.report(Class::BadSignature, self.offset, seq, 1, "the checkpoint record cannot be read");
            return;
        };
        let tree = self.scan.commit_trees.iter().rev().find(|tree| tree.end() == size).cloned();
        self.wanted = tree.is_none().then_some(size);
        self.scan.checkpoints.push(FoundCheckpoint {
            seq,
            offset: self.offset as u64,
            size,
            root,
            note,
            wall_ns: record.header.wall_ns,
            tree,
            frontier,
        });
    }

    /// The tree over the segment's records before `to` and below `size`, recomputed from the nearest mark.
    pub(super) fn tree_at<'a>(
        &self,
        to: usize,
        size: u64,
        read: impl FnOnce(Range<usize>) -> Option<Cow<'a, [u8]>>,
    ) -> Option<CompactRange> {
        let (from, mut tree) = self.marks.iter().rev().find(|(_, tree)| tree.end() <= size).cloned()?;
        let bytes = read(from..to)?;
        let mut offset = 0;
        while tree.end() < size && offset < bytes.len() {
            let header = bytes.get(offset..)?.first_chunk::<HEADER_BYTES>()?;
            tree.push(&event_hash(header));
            offset += stored_len(Header::parse(header).ok()?.body_len as usize);
        }
        (tree.end() == size).then_some(tree)
    }

    pub(super) fn set_checkpoint_tree(&mut self, tree: Option<CompactRange>) {
        if let Some(checkpoint) = self.scan.checkpoints.last_mut() {
            checkpoint.tree = tree;
        }
    }
}
