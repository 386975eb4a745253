//! Paths and their checks against RFC 6962 §2.1 as it is written there, which is recursive.

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::audit::{
    merkle::head_of,
    note::{Checkpoint, CheckpointKey},
};

fn leaf(n: u64) -> Hash {
    Sha256::digest(n.to_le_bytes()).into()
}

/// MTH of the RFC, over a run of leaves.
fn tree_head(run: Range<u64>) -> Hash {
    match run.end - run.start {
        0 => Sha256::digest([]).into(),
        1 => leaf(run.start),
        leaves => {
            let middle = run.start + leaves.next_power_of_two() / 2;
            node_hash(&tree_head(run.start..middle), &tree_head(middle..run.end))
        }
    }
}

/// PATH of the RFC.
fn path(index: u64, run: Range<u64>) -> Vec<Hash> {
    let leaves = run.end - run.start;
    if leaves == 1 {
        return Vec::new();
    }
    let middle = run.start + leaves.next_power_of_two() / 2;
    let (mut below, sibling) = if index < middle {
        (path(index, run.start..middle), tree_head(middle..run.end))
    } else {
        (path(index, middle..run.end), tree_head(run.start..middle))
    };
    below.push(sibling);
    below
}

/// SUBPROOF of the RFC.
fn subproof(old: u64, run: Range<u64>, known: bool) -> Vec<Hash> {
    let leaves = run.end - run.start;
    if old == leaves {
        return if known { Vec::new() } else { vec![tree_head(run)] };
    }
    let left = leaves.next_power_of_two() / 2;
    let middle = run.start + left;
    let (mut below, other) = if old <= left {
        (subproof(old, run.start..middle, known), tree_head(middle..run.end))
    } else {
        (subproof(old - left, middle..run.end, false), tree_head(run.start..middle))
    };
    below.push(other);
    below
}

fn heads(runs: &[Range<u64>], node: impl Fn(u32, u64) -> Hash) -> Vec<Hash> {
    let head = |run| head_of(subtrees(run).map(|(level, number)| node(level, number)).collect());
    runs.iter().map(|run| head(run).unwrap()).collect()
}

fn perfect(level: u32, number: u64) -> Hash {
    tree_head(number << level..(number + 1) << level)
}

#[test]
fn paths_of_small_trees_are_those_of_the_rfc() {
    // Heads of perfect subtrees are asked for again and again.
    let nodes: Vec<Vec<Hash>> =
        (0..=8).map(|level| (0..512 >> level).map(|number| perfect(level, number)).collect()).collect();
    let node = |level: u32, number: u64| nodes[level as usize][usize::try_from(number).unwrap()];
    for size in 1..=300 {
        let root = tree_head(0..size);
        // Every leaf of the smallest trees, and of the others those where something changes.
        let step = if size <= 70 { 1 } else { 7 };
        for index in (0..size).filter(|index| index % step == 0 || index + 3 > size) {
            let made = heads(&inclusion_path(index, size), node);
            assert_eq!(made, path(index, 0..size), "leaf {index} of {size}");
            assert_eq!(root_of_inclusion(&leaf(index), index, size, &made), Some(root), "{index} of {size}");
        }
        for old in (0..=size).filter(|old| old % step == 0 || old.is_power_of_two() || old + 3 > size) {
            let made = heads(&consistency_path(old, size), node);
            if old > 0 {
                assert_eq!(made, subproof(old, 0..size, true), "{old} to {size}");
            }
            assert!(is_consistent(old, size, &tree_head(0..old), &root, &made), "{old} to {size}");
        }
    }
}

#[test]
fn a_path_with_a_hash_too_many_or_too_few_proves_nothing() {
    for size in 2..70 {
        let root = tree_head(0..size);
        for index in 0..size {
            let mut long = path(index, 0..size);
            let last = long.pop().unwrap();
            assert_ne!(root_of_inclusion(&leaf(index), index, size, &long), Some(root));
            long.extend([last, last]);
            assert_eq!(root_of_inclusion(&leaf(index), index, size, &long), None);
        }
        for old in 1..size {
            let old_root = tree_head(0..old);
            let mut long = subproof(old, 0..size, true);
            let last = long.pop().unwrap();
            assert!(!is_consistent(old, size, &old_root, &root, &long));
            long.extend([last, last]);
            assert!(!is_consistent(old, size, &old_root, &root, &long));
        }
    }
    assert_eq!(root_of_inclusion(&leaf(0), 5, 5, &[]), None);
    assert!(!is_consistent(6, 5, &tree_head(0..6), &tree_head(0..5), &[]));
    assert!(!is_consistent(5, 5, &tree_head(0..5), &tree_head(0..4), &[]));
    assert!(!is_consistent(0, 5, &tree_head(0..1), &tree_head(0..5), &[]));
}

/// A tree whose leaves are all alike: the head of a perfect subtree is known from its level, so that a proof in a tree
/// of any size can be made.
fn uniform(level: u32, _number: u64) -> Hash {
    (0..level).fold([7; 32], |hash, _| node_hash(&hash, &hash))
}

fn uniform_root(size: u64) -> Hash {
    match size {
        0 => Sha256::digest([]).into(),
        _ => head_of(subtrees(&(0..size)).map(|(level, number)| uniform(level, number)).collect()).unwrap(),
    }
}

proptest! {
    #[test]
    fn proofs_in_large_trees_hold_and_altered_ones_do_not(
        sizes in (1..i64::MAX as u64, 1..i64::MAX as u64),
        shift in 0u32..60,
        seed in any::<u64>(),
    ) {
        let (a, b) = ((sizes.0 >> shift).max(1), (sizes.1 >> shift).max(1));
        let (old, size) = (a.min(b), a.max(b));
        let index = seed % size;
        let root = uniform_root(size);
        let runs = inclusion_path(index, size);
        prop_assert!(runs.len() <= 63);
        prop_assert_eq!(runs.iter().map(|run| run.end - run.start).sum::<u64>(), size - 1);
        let made = heads(&runs, uniform);
        prop_assert_eq!(root_of_inclusion(&[7; 32], index, size, &made), Some(root));
        let consistent = heads(&consistency_path(old, size), uniform);
        let old_root = uniform_root(old);
        prop_assert!(is_consistent(old, size, &old_root, &root, &consistent));

        for at in 0..made.len() {
            let mut altered = made.clone();
            altered[at][usize::try_from(seed % 32).unwrap()] ^= 1;
            prop_assert_ne!(root_of_inclusion(&[7; 32], index, size, &altered), Some(root));
        }
        for at in 0..consistent.len() {
            let mut altered = consistent.clone();
            altered[at][usize::try_from(seed % 32).unwrap()] ^= 1;
            prop_assert!(!is_consistent(old, size, &old_root, &root, &altered));
        }
        prop_assert_ne!(root_of_inclusion(&[8; 32], index, size, &made), Some(root));
        if old < size {
            prop_assert!(!is_consistent(old, size, &[8; 32], &root, &consistent));
            prop_assert!(!is_consistent(old, size, &old_root, &[8; 32], &consistent));
        }
    }
}

#[test]
fn a_proof_from_a_log_of_a_billion_is_under_four_kilobytes() {
    let origin = "a-long-name-of-a-log.example.com/europe-west/appliance-17/audit";
    let checkpoint = |size| Checkpoint { origin: origin.to_owned(), size, root: uniform_root(size) };
    let key = CheckpointKey::new(origin, [1; 32]);
    let text = |index, size| {
        InclusionProof {
            index,
            path: heads(&inclusion_path(index, size), uniform),
            hash: [7; 32],
            entry: [8; 116],
            body: None,
            note: checkpoint(size).to_note(&key, &[9; 64]),
        }
        .to_text()
    };
    let billion = 1_000_000_000;
    let longest = [0, 1, billion / 2, billion - 1].map(|index| text(index, billion).len());
    assert!(longest.iter().all(|bytes| *bytes < 2500), "{longest:?}");
    // Nor is that of the largest log there can be.
    assert!(text(0, i64::MAX as u64).len() < 4096);
}
