//! Proofs: that one record is in the log, and that one state of the log continues another (RFC 6962 §2.1).
//!
//! A proof is a list of tree heads, each over a run of leaves. Which runs, sizes alone decide ([`inclusion_path`],
//! [`consistency_path`]); their heads come from stored tiles or from the segments. The checks are those of
//! RFC 9162 §2.1.3.2 and §2.1.4.2, step by step, and share no code with the making.

//!
//! - `find.rs`, `make.rs`: the record of an id, and the proofs about a log.
//! - `file.rs`: proofs as files, and the check that needs nothing else but a key.
//! - `prefix.rs`: the tree over the first records of a log that is being written.
//! - `export.rs`, `tile.rs`: the tree as C2SP tlog-tiles, which spares reading the log. Never trusted.

mod error;
mod export;
mod file;
mod find;
mod leaves;
mod make;
mod prefix;
mod tile;

use std::ops::Range;

use sha2::{Digest as _, Sha256};

use super::{merkle::node_hash, record::Hash};

pub use error::ProveError;
pub(super) use error::{read_checkpoint, same_log_continued};
pub use export::{Exported, export_tiles};
pub use file::{
    ConsistencyProof, Expected, InclusionProof, PROOF_BYTES_MAX, ProofClass, ProvenGrowth, ProvenRecord,
    Refusal, verify_consistency, verify_inclusion,
};
pub(super) use find::{find_id, find_record, find_seq};
pub use make::Prover;
pub use prefix::{latest_signed, path_between, range, tree_at};
pub(super) use {file::open_note, leaves::retired_before, make::State};

/// The runs whose heads prove that leaf `index` is in the tree of `size` leaves, from the leaf's sibling up
/// (RFC 6962 §2.1.1, `PATH`). Every other leaf is in exactly one of them.
///
/// # Panics
/// When the tree has no such leaf.
#[must_use]
pub fn inclusion_path(index: u64, size: u64) -> Vec<Range<u64>> {
    assert!(index < size, "leaf {index} of {size}");
    let (mut begin, mut end) = (0, size);
    let mut path = Vec::new();
    while end - begin > 1 {
        let middle = begin + left_leaves(end - begin);
        if index < middle {
            path.push(middle..end);
            end = middle;
        } else {
            path.push(begin..middle);
            begin = middle;
        }
    }
    path.reverse();
    path
}

/// The runs whose heads prove that the tree of `new` leaves begins with the tree of `old` leaves (RFC 6962 §2.1.2,
/// `PROOF`); none for equal sizes, and none for an empty tree, which begins every other.
///
/// # Panics
/// When the old tree is the larger one.
#[must_use]
pub fn consistency_path(old: u64, new: u64) -> Vec<Range<u64>> {
    assert!(old <= new, "a tree of {new} leaves cannot continue one of {old}");
    let mut path = Vec::new();
    if old == 0 || old == new {
        return path;
    }
    let (mut begin, mut end) = (0, new);
    while end != old {
        let middle = begin + left_leaves(end - begin);
        if old <= middle {
            path.push(middle..end);
            end = middle;
        } else {
            path.push(begin..middle);
            begin = middle;
        }
    }
    // Whoever checks has the head of all old leaves already.
    if begin > 0 {
        path.push(begin..end);
    }
    path.reverse();
    path
}

/// The perfect subtrees that a run of a path consists of, left to right, as (level, number within the level).
pub fn subtrees(run: &Range<u64>) -> impl Iterator<Item = (u32, u64)> {
    let mut begin = run.start;
    let leaves = run.end - run.start;
    (0..u64::BITS).rev().filter(move |level| leaves >> level & 1 == 1).map(move |level| {
        let subtree = (level, begin >> level);
        begin += 1 << level;
        subtree
    })
}

/// The root of the tree of `size` leaves that has `leaf` at `index` if `path` is its path; `None` if no path of such a
/// leaf has this length (RFC 9162 §2.1.3.2).
#[must_use]
pub fn root_of_inclusion(leaf: &Hash, index: u64, size: u64, path: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut first, mut second) = (index, size - 1);
    let mut root = *leaf;
    for hash in path {
        if second == 0 {
            return None;
        }
        if first & 1 == 1 || first == second {
            root = node_hash(hash, &root);
            while first & 1 == 0 && first != 0 {
                first >>= 1;
                second >>= 1;
            }
        } else {
            root = node_hash(&root, hash);
        }
        first >>= 1;
        second >>= 1;
    }
    (second == 0).then_some(root)
}

/// Whether `path` proves that the tree of `new` leaves under `new_root` begins with the tree of `old` leaves under
/// `old_root` (RFC 9162 §2.1.4.2).
#[must_use]
pub fn is_consistent(old: u64, new: u64, old_root: &Hash, new_root: &Hash, path: &[Hash]) -> bool {
    if old > new {
        return false;
    }
    if old == 0 {
        return path.is_empty() && old_root[..] == Sha256::digest([])[..];
    }
    if old == new {
        return path.is_empty() && old_root == new_root;
    }
    let complete = old.is_power_of_two().then_some(old_root);
    let mut path = complete.into_iter().chain(path);
    let Some(seed) = path.next() else { return false };
    let (mut first, mut second) = (old - 1, new - 1);
    while first & 1 == 1 {
        first >>= 1;
        second >>= 1;
    }
    let (mut old_head, mut new_head) = (*seed, *seed);
    for hash in path {
        if second == 0 {
            return false;
        }
        if first & 1 == 1 || first == second {
            old_head = node_hash(hash, &old_head);
            new_head = node_hash(hash, &new_head);
            while first & 1 == 0 && first != 0 {
                first >>= 1;
                second >>= 1;
            }
        } else {
            new_head = node_hash(&new_head, hash);
        }
        first >>= 1;
        second >>= 1;
    }
    second == 0 && old_head == *old_root && new_head == *new_root
}

/// Leaves of the left subtree of a tree of `leaves`, of which there are at least two: the largest power of two below.
const fn left_leaves(leaves: u64) -> u64 {
    1 << (leaves - 1).ilog2()
}

#[cfg(test)]
mod tests;
