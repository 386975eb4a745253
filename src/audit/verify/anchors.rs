//! Anchors: checkpoints of the log that were kept where its writer cannot change them.
//!
//! A log that is whole in itself may still be an older one, or another one. What was signed earlier and kept elsewhere shows
//! that: the log must be at least as long, and hash to the same tree head there.

use std::collections::HashMap;

use super::{Class, Options};
use crate::audit::{
    cosignature::{Cosigned, cosignatures},
    note::{Checkpoint, NoteError},
    record::Hash,
};

/// A checkpoint that was kept elsewhere, cosigned by witnesses or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// What the report calls it: its file.
    pub name: String,
    /// The note as it was kept.
    pub note: String,
}

/// What became of an anchor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnchorVerdict {
    /// What it is called.
    pub name: String,
    /// What it says of the log; `None` where that cannot be read or believed.
    pub checkpoint: Option<Checkpoint>,
    /// The cosignatures on it by witnesses that count.
    pub cosigned: Vec<Cosigned>,
    /// Why the log does not pass it, and the first record concerned; `None`: the log continues it.
    pub failed: Option<(Class, u64)>,
    /// The same in words.
    pub detail: String,
}

/// What was recomputed of the log.
pub(super) struct Known<'a> {
    pub(super) origin: &'a str,
    pub(super) size: u64,
    pub(super) roots: &'a HashMap<u64, Hash>,
}

/// The sizes that anchors name, descending: where the tree over the log is wanted.
pub(super) fn sizes(options: &Options) -> Vec<u64> {
    let read = |anchor: &Anchor| Checkpoint::read_unverified(&anchor.note).ok();
    let anchors = options.anchors.iter().filter_map(read);
    let mut sizes: Vec<u64> =
        anchors.chain(options.handovers.iter().cloned()).map(|anchor| anchor.size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes.reverse();
    sizes
}

impl Anchor {
    /// Holds the log against this anchor.
    pub(super) fn judge(&self, options: &Options, known: &Known<'_>) -> AnchorVerdict {
        let mut verdict = AnchorVerdict {
            name: self.name.clone(),
            checkpoint: None,
            cosigned: Vec::new(),
            failed: None,
            detail: String::new(),
        };
        if let Err((class, seq, detail)) = self.compare(options, known, &mut verdict) {
            verdict.failed = Some((class, seq));
            verdict.detail = detail;
        }
        verdict
    }

    fn compare(
        &self,
        options: &Options,
        known: &Known<'_>,
        verdict: &mut AnchorVerdict,
    ) -> Result<(), (Class, u64, String)> {
        let refuse = |error: NoteError| (error.into(), 0, error.to_string());
        let checkpoint = Checkpoint::open(&self.note, &options.keys).map_err(refuse)?;
        let Checkpoint { origin, size, root } = verdict.checkpoint.insert(checkpoint);
        if origin != known.origin {
            return Err((Class::WrongOrigin, 0, format!("it is of {origin:?}")));
        }
        verdict.cosigned = cosignatures(&self.note, &options.witnesses).map_err(refuse)?;
        if verdict.cosigned.is_empty() && !options.witnesses.is_empty() {
            return Err((Class::WrongKey, 0, "none of the witnesses that count cosigned it".to_owned()));
        }
        continues(known, *size, root)
    }
}

/// Whether the log goes on from what was signed; if not, why not, and the first record concerned.
pub(super) fn continues(known: &Known<'_>, size: u64, root: &Hash) -> Result<(), (Class, u64, String)> {
    if size > known.size {
        let detail = format!("{size} records were signed, {} are there", known.size);
        return Err((Class::Rollback, known.size, detail));
    }
    match known.roots.get(&size) {
        Some(found) if found == root => Ok(()),
        Some(_) => {
            let detail = format!("the first {size} records are not those that were signed");
            Err((Class::Rollback, size, detail))
        }
        None => {
            let detail = format!("the tree head of {size} records was not recomputed");
            Err((Class::Unchecked, size, detail))
        }
    }
}
