//! What is done to the log, one case after the other, and what it must be called.

mod forging;
mod insider;
mod records;
mod segments;
mod signatures;

use std::io;

use super::ground::Ground;
use crate::audit::{note::CheckpointKey, verify::Class};

/// One way to tamper.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) expected: &'static [Class],
    pub(super) tamper: fn(&Ground<'_>) -> Result<Done, Undone>,
}

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// The record at which it must be found, where there is only one right answer.
    pub(super) at: Option<u64>,
    /// The key that is to be believed instead of the log's: what an insider with the key could do.
    pub(super) key: Option<CheckpointKey>,
    /// A checkpoint that was kept elsewhere, where only such a one tells.
    pub(super) anchor: Option<String>,
    /// Breaks of the expected classes that there must be; 0 counts as 1.
    pub(super) places: usize,
}

impl Done {
    pub(super) fn at(seq: u64) -> Self {
        Self { at: Some(seq), ..Self::default() }
    }
}

/// Why nothing was done.
#[derive(Debug)]
pub(super) enum Undone {
    /// The disk refused.
    Io(io::Error),
    /// The copy does not hold what this takes.
    Needs(&'static str),
}

impl From<io::Error> for Undone {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

macro_rules! cases {
    ($($name:literal, $what:literal, [$($class:ident),+], $tamper:path;)+) => {
        /// Every case, in the order of the report.
        pub(super) const CASES: &[Case] = &[
            $(Case { name: $name, what: $what, expected: &[$(Class::$class),+], tamper: $tamper },)+
        ];
    };
}

cases! {
    "header-bit", "one bit of a record's time", [AlteredHeader], records::header_bit;
    "checksum-bit", "one bit of a record's checksum", [AlteredHeader], records::checksum_bit;
    "body-bit", "one bit of a record's body", [AlteredBody], records::body_bit;
    "body-zeroed", "a body overwritten with zeros, and no ERASE that says so", [AlteredBody], records::body_zeroed;
    "padding", "a byte hidden behind a body", [AlteredBody], records::padding;
    "body-refitted", "another body, its digest and checksum made to fit", [AlteredHeader], records::body_refitted;
    "record-zeroed", "a record overwritten with zeros", [AlteredHeader], records::record_zeroed;
    "record-elsewhere", "a good record copied over another", [AlteredHeader], records::elsewhere;
    "deleted-event", "an event cut out", [Deleted], records::delete_event;
    "deleted-commit", "a COMMIT cut out", [Deleted], records::delete_commit;
    "deleted-checkpoint", "a CHECKPOINT cut out", [Deleted], records::delete_checkpoint;
    "inserted", "a record of another content put before the one of its number", [Inserted], records::insert;
    "reordered", "two neighbours exchanged", [Reordered], records::swap;
    "duplicated", "a record repeated", [Duplicate], records::repeat;
    "cut-in-record", "the end cut in the middle of a record", [AlteredHeader], segments::cut_in_record;
    "cut-at-record", "the end cut behind a record", [Truncated], segments::cut_at_record;
    "cut-at-commit", "the end cut behind a COMMIT", [Truncated], segments::cut_at_commit;
    "cut-at-checkpoint", "the end cut behind a CHECKPOINT", [Truncated], segments::cut_at_checkpoint;
    "last-segment-gone", "the last segment removed", [Truncated], segments::last_gone;
    "first-segment-gone", "the first segment removed", [MissingSegment], segments::first_gone;
    "middle-segment-gone", "a segment between others removed", [MissingSegment], segments::middle_gone;
    "two-segments-gone", "two segments removed that are no neighbours", [MissingSegment], segments::two_gone;
    "segments-exchanged", "two segments exchanged", [Reordered], segments::exchanged;
    "segment-unsealed", "the seal of a segment cut off", [AlteredHeader, Unsealed], segments::unsealed;
    "behind-the-seal", "bytes put behind a sealed segment", [Inserted], segments::behind_the_seal;
    "segment-spliced", "a segment of another log of this name, whole in itself", [WrongOrigin], segments::spliced;
    "rehashed", "a record's time altered, all behind it hashed again, same length", [Rewritten], forging::rehashed;
    "decision-turned", "a decision turned into another, all behind it hashed again", [Rewritten], forging::decision_turned;
    "removed-rehashed", "an event removed, all behind it numbered and hashed again", [Truncated], forging::removed;
    "inserted-rehashed", "an event invented, all behind it numbered and hashed again", [Rewritten], forging::inserted;
    "invented-at-the-end", "two events invented behind the last CHECKPOINT, all hashed again", [Rewritten], forging::invented_at_the_end;
    "other-log", "everything hashed again as another log of this name", [Rewritten], forging::other_log;
    "origin-changed", "everything hashed again under another name", [WrongOrigin], forging::other_origin;
    "checkpoints-removed", "everything hashed again without any checkpoint", [Unsigned], forging::without_checkpoints;
    "signed-by-another", "everything hashed again, every checkpoint signed by another key", [WrongKey], forging::signed_by_another;
    "signature-stripped", "the published checkpoint without its signature", [Unsigned], signatures::stripped;
    "record-signature-stripped", "a CHECKPOINT without its signature, all behind it hashed again", [Unsigned], signatures::stripped_in_the_log;
    "signature-bit", "one bit of the published signature", [BadSignature], signatures::bit;
    "signature-downgraded", "the published signature called one of another kind", [WrongKey], signatures::downgraded;
    "published-by-another", "the published checkpoint signed by another key", [WrongKey], signatures::by_another;
    "published-root", "another root in the published checkpoint, under its old signature", [BadSignature], signatures::other_root;
    "rolled-back", "an older state with its checkpoint; a newer one was kept elsewhere", [Rollback], insider::rolled_back;
    "told-otherwise", "behind an older checkpoint all told otherwise; a newer one was kept", [Rollback], insider::tail_told_otherwise;
    "signed-anew", "everything hashed and signed again with the key; the old one was kept", [Rollback], insider::signed_anew;
}
