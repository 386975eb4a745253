//! Bundles: what somebody outside needs to check a part of the log, or single decisions, years later and without us.
//!
//! A bundle is a tar archive of one fixed form, or a folder, of these members; nothing else may be in it.
//!
//! | member | what |
//! | --- | --- |
//! | `checkpoint` | the end: the latest signed state of the log when the bundle was made |
//! | `since`, `since.proof` | the start, an older signed state, and that the end continues it (tlog-witness add-checkpoint) |
//! | `segments/N.seg` | whole segments; the last one is cut behind the last record that the end covers |
//! | `segments/state` | the tree before the first of them, unless that is the log's first |
//! | `segments/proof` | that the end continues the tree behind the last of them |
//! | `decisions/ID.tlog-proof` | single records and their paths to the end (C2SP tlog-proof) |
//! | `timestamps/SIZE.tsr`, `.checkpoint`, `.proof` | a token of an authority, the signed state it is about, and that the end continues that |
//! | `policy` | the keys that the maker says the log is signed with: a claim, never trusted |
//! | `manifest.json` | what is in it: sizes and digests of all other members, range, counts, when and by what it was made |
//!
//! Nothing in a bundle vouches for itself: the checker brings the key, the key vouches for the checkpoint, and every
//! member is held to that. No clock is asked, so that a bundle means the same ten years on.
//!
//! - `make.rs` makes one, and checks it as a stranger would before it is given out; `check.rs` is that stranger.
//! - `container.rs`, `manifest.rs`, `policy.rs`: the forms. `fault.rs`: why a bundle proves nothing.

mod check;
mod container;
mod fault;
mod make;
mod manifest;
mod policy;

use std::ops::Range;

pub use check::{Trust, Verified, verify_bundle};
pub use fault::{BundleClass, BundleFault, CheckError};
pub use make::{Draft, MakeError, Request, What, make_bundle};

use super::note::Checkpoint;

/// What a bundle is about, as its manifest states it and as it was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The signed state everything in it is held to.
    pub log: Checkpoint,
    /// The records that are there whole.
    pub part: Option<Part>,
    /// Decisions shown by themselves.
    pub decisions: u64,
}

/// Whole records of a log, in its segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// By number.
    pub records: Range<u64>,
    /// The segments they are in, the first and the last.
    pub segments: (u64, u64),
}

/// The end: the checkpoint everything in a bundle is held to.
const CHECKPOINT: &str = "checkpoint";
/// An older checkpoint, and that the end continues it.
const SINCE: &str = "since";
const SINCE_PROOF: &str = "since.proof";
/// What the maker claims.
const POLICY: &str = "policy";
const SEGMENTS: &str = "segments/";
const STATE: &str = "segments/state";
const PART_PROOF: &str = "segments/proof";
const DECISIONS: &str = "decisions/";
const DECISION_END: &str = ".tlog-proof";

const STAMPS: &str = "timestamps/";
const STAMP_PROOF_END: &str = ".proof";

/// Members of a bundle, all kinds together.
const MEMBERS_MAX: usize = 100_000;
/// A checkpoint with its cosignatures, a policy, a state, a proof of consistency.
const TEXT_BYTES_MAX: u64 = 64 * 1024;
