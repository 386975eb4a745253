//! The RFC 6962 tree over event hashes, kept as compact ranges: the perfect subtrees that cover a run of leaves.

use std::ops::Range;

use sha2::{Digest as _, Sha256};

use super::{
    record::Hash,
    sha256::{Hasher, hash_blocks},
};

/// The perfect subtrees, left to right, that cover the leaves `begin..end`.
///
/// A tree of a billion leaves is 30 hashes. Ranges of neighbouring runs merge, so segments can be hashed apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactRange {
    begin: u64,
    end: u64,
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Node {
    // The subtree has 2^level leaves.
    level: u32,
    hash: Hash,
}

impl CompactRange {
    /// The empty range at leaf `begin`.
    #[must_use]
    pub const fn new(begin: u64) -> Self {
        Self { begin, end: begin, nodes: Vec::new() }
    }

    /// Leaves up to here are covered.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Leaves from here on are covered.
    #[must_use]
    pub const fn begin(&self) -> u64 {
        self.begin
    }

    /// Adds the next leaf.
    pub fn push(&mut self, leaf: &Hash) {
        self.push_node(Node { level: 0, hash: *leaf });
    }

    /// Adds the leaves of a range that starts where this one ends; false, and unchanged, if it does not.
    pub fn merge(&mut self, next: &Self) -> bool {
        if next.begin != self.end {
            return false;
        }
        next.nodes.iter().for_each(|node| self.push_node(*node));
        true
    }

    /// Both ranges as one, if this one continues `earlier`; else this one.
    #[must_use]
    pub fn after(self, earlier: Option<Self>) -> Self {
        match earlier {
            Some(mut earlier) if earlier.end == self.begin => {
                earlier.merge(&self);
                earlier
            }
            _ => self,
        }
    }

    /// The RFC 6962 tree head of all leaves; `None` unless the range starts at leaf 0.
    #[must_use]
    pub fn root(&self) -> Option<Hash> {
        if self.begin != 0 {
            return None;
        }
        Some(self.head().unwrap_or_else(|| Sha256::digest([]).into()))
    }

    /// The head over the leaves of the range, as it stands in the tree if the range is one of its subtrees; `None` for
    /// no leaves.
    pub(super) fn head(&self) -> Option<Hash> {
        head_of(self.nodes.iter().map(|node| node.hash).collect())
    }

    /// The head over a run of leaves that some of the subtrees cover exactly, as it stands in the tree; `None` for another.
    pub(super) fn head_over(&self, run: &Range<u64>) -> Option<Hash> {
        let (mut at, mut end, mut inside) = (self.begin, run.start, Vec::new());
        for node in &self.nodes {
            if at >= run.start && at < run.end && end == at {
                inside.push(node.hash);
                end = at + (1 << node.level);
            }
            at += 1 << node.level;
        }
        if end == run.end { head_of(inside) } else { None }
    }

    /// Adds the next 2^`level` leaves by the head of their subtree, which must start at a multiple of their number.
    pub(super) fn push_subtree(&mut self, level: u32, hash: &Hash) {
        assert_eq!(self.end & ((1 << level) - 1), 0, "a subtree of level {level} at leaf {}", self.end);
        self.push_node(Node { level, hash: *hash });
    }

    /// The hashes of the subtrees, back to back, for storage beside the size.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.nodes.iter().flat_map(|node| node.hash).collect()
    }

    /// The range `0..size` from its stored hashes; `None` if their number does not fit the size.
    #[must_use]
    pub fn from_bytes(size: u64, bytes: &[u8]) -> Option<Self> {
        let (hashes, []) = bytes.as_chunks::<32>() else { return None };
        // The subtrees of 0..size are the binary digits of the size, largest first.
        let levels = (0..u64::BITS).rev().filter(|level| size >> level & 1 == 1);
        if hashes.len() != size.count_ones() as usize {
            return None;
        }
        let nodes = levels.zip(hashes).map(|(level, hash)| Node { level, hash: *hash }).collect();
        Some(Self { begin: 0, end: size, nodes })
    }

    /// Adds the next leaves, as [`Self::push`] one by one, but hashes each level of the tree together.
    pub(super) fn extend(&mut self, leaves: &[Hash], hasher: &mut Hasher) {
        let mut row = leaves.to_vec();
        let mut start = self.end;
        self.end += leaves.len() as u64;
        // The last node of each level that has no right sibling yet: smallest first, which is right to left.
        let mut last = Vec::new();
        for level in 0.. {
            let mut nodes = row.as_slice();
            let mut left = None;
            if let Some((first, rest)) = row.split_first()
                && (start >> level) & 1 == 1
            {
                nodes = rest;
                start -= 1 << level;
                match self.nodes.pop_if(|node| node.level == level) {
                    Some(sibling) => left = Some((sibling.hash, *first)),
                    None => {
                        // The range begins here: its first node of this level has no left sibling, ever.
                        self.nodes.push(Node { level, hash: *first });
                        start += 2 << level;
                    }
                }
            }
            let (pairs, rest) = nodes.as_chunks::<2>();
            last.extend(rest.iter().map(|hash| Node { level, hash: *hash }));
            hasher.clear();
            for [left, right] in left
                .iter()
                .map(|(left, right)| [left, right])
                .chain(pairs.iter().map(|[left, right]| [left, right]))
            {
                hasher.push_with(65, |bytes| {
                    bytes[0] = 1;
                    bytes[1..33].copy_from_slice(left);
                    bytes[33..].copy_from_slice(right);
                });
            }
            let parents = hasher.finish();
            if parents.is_empty() {
                break;
            }
            row = parents.to_vec();
        }
        self.nodes.extend(last.into_iter().rev());
    }

    fn push_node(&mut self, node: Node) {
        let mut node = node;
        let mut start = self.end;
        self.end += 1 << node.level;
        // A left sibling of the same size that starts at an even place makes a parent.
        while let Some(left) = self.nodes.last().filter(|left| left.level == node.level)
            && (start >> node.level) & 1 == 1
        {
            start -= 1 << node.level;
            node = Node { level: node.level + 1, hash: node_hash(&left.hash, &node.hash) };
            self.nodes.pop();
        }
        self.nodes.push(node);
    }
}

/// A range that takes its leaves one by one and hashes them together, when someone looks.
pub(super) struct GrowingRange {
    // `None` where it cannot be known.
    range: Option<CompactRange>,
    waiting: Vec<Hash>,
    hasher: Hasher,
}

impl GrowingRange {
    /// Nothing is known yet.
    pub(super) fn new() -> Self {
        Self { range: None, waiting: Vec::new(), hasher: Hasher::new() }
    }

    /// From here on the range is `range`.
    pub(super) fn set(&mut self, range: Option<CompactRange>) {
        self.range = range;
        self.waiting.clear();
    }

    /// Whether there is a range.
    pub(super) const fn is_known(&self) -> bool {
        self.range.is_some()
    }

    /// Adds the next leaf, if there is a range.
    pub(super) fn push(&mut self, leaf: &Hash) {
        if self.range.is_some() {
            self.waiting.push(*leaf);
            if self.waiting.len() == WAITING_MAX {
                self.range();
            }
        }
    }

    /// The range over all leaves so far.
    pub(super) fn range(&mut self) -> Option<&CompactRange> {
        let range = self.range.as_mut()?;
        range.extend(&self.waiting, &mut self.hasher);
        self.waiting.clear();
        Some(range)
    }
}

/// Leaves that are hashed together: enough to fill the lanes but for the last levels, and 32 KiB.
const WAITING_MAX: usize = 1024;

/// The head over neighbouring perfect subtrees, each smaller than the one to its left; `None` for none.
pub(super) fn head_of(subtrees: Vec<Hash>) -> Option<Hash> {
    subtrees.into_iter().rev().reduce(|right, left| node_hash(&left, &right))
}

/// `SHA-256(0x01 ‖ left ‖ right)` (RFC 6962 §2.1).
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    // 65 bytes and the padding are exactly two blocks.
    let mut blocks = [[0u8; 64]; 2];
    let flat = blocks.as_flattened_mut();
    flat[0] = 1;
    flat[1..33].copy_from_slice(left);
    flat[33..65].copy_from_slice(right);
    flat[65] = 0x80;
    flat[120..128].copy_from_slice(&(8 * 65u64).to_be_bytes());
    hash_blocks(&blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6962 §2.1, word for word.
    fn tree_head(leaves: &[Hash]) -> Hash {
        match leaves.len() {
            0 => Sha256::digest([]).into(),
            1 => leaves[0],
            n => {
                let k = n.next_power_of_two() / 2;
                let mut hash = Sha256::new();
                hash.update([1]);
                hash.update(tree_head(&leaves[..k]));
                hash.update(tree_head(&leaves[k..]));
                hash.finalize().into()
            }
        }
    }

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|n| Sha256::digest(n.to_le_bytes()).into()).collect()
    }

    #[test]
    fn roots_are_those_of_the_rfc() {
        let leaves = leaves(70);
        let mut range = CompactRange::new(0);
        for count in 0..=leaves.len() {
            assert_eq!(range.root(), Some(tree_head(&leaves[..count])), "{count} leaves");
            let stored = CompactRange::from_bytes(count as u64, &range.to_bytes());
            assert_eq!(stored.as_ref(), Some(&range));
            if let Some(leaf) = leaves.get(count) {
                range.push(leaf);
            }
        }
    }

    #[test]
    fn leaves_added_together_make_the_tree_of_leaves_added_alone() {
        let leaves = leaves(150);
        let mut hasher = Hasher::new();
        for begin in 0..=33 {
            for first in (0..40).chain([63, 64, 65]) {
                let mut alone = CompactRange::new(begin);
                let mut together = CompactRange::new(begin);
                for part in
                    [&leaves[..first], &leaves[first..first], &leaves[first..first + 1], &leaves[first + 1..]]
                {
                    part.iter().for_each(|leaf| alone.push(leaf));
                    together.extend(part, &mut hasher);
                    assert_eq!(alone, together, "from {begin}, {first} first");
                }
            }
        }
        let mut growing = GrowingRange::new();
        growing.push(&leaves[0]);
        assert_eq!(growing.range(), None);
        growing.set(Some(CompactRange::new(5)));
        let mut alone = CompactRange::new(5);
        for _ in 0..20 {
            leaves.iter().for_each(|leaf| {
                growing.push(leaf);
                alone.push(leaf);
            });
        }
        assert_eq!(growing.range(), Some(&alone));
    }

    #[test]
    fn neighbouring_ranges_merge_at_every_place() {
        let leaves = leaves(40);
        for first in 0..=leaves.len() {
            for second in first..=leaves.len() {
                let mut whole = CompactRange::new(0);
                leaves[..first].iter().for_each(|leaf| whole.push(leaf));
                for (from, to) in [(first, second), (second, leaves.len())] {
                    let mut part = CompactRange::new(from as u64);
                    leaves[from..to].iter().for_each(|leaf| part.push(leaf));
                    assert!(whole.merge(&part));
                }
                assert_eq!(whole.root(), Some(tree_head(&leaves)), "{first} {second}");
            }
        }
        assert!(!CompactRange::new(0).merge(&CompactRange::new(1)));
        assert_eq!(CompactRange::from_bytes(3, &[0; 32]), None);
    }
}
