//! A state that a verification established and a later one starts from, so that a log is read once.

use super::super::{
    merkle::CompactRange,
    record::Hash,
    sealer::{hex, unhex},
};

/// A state of the log that a verification established and a later one may start from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    /// The log's name.
    pub origin: String,
    /// The segment to continue with.
    pub segment: u64,
    /// Records before that segment.
    pub size: u64,
    /// Event hash of the last of them.
    pub hash: Hash,
    /// The tree over them.
    pub tree: CompactRange,
}

/// The first line of the text form.
const TITLE: &str = "edgate verify state v1";

impl Trusted {
    /// The text form: title, origin, segment, size, hash and tree, a line each. Whoever can change it can hide a change of
    /// everything before it: keep it where the log's writer cannot.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Self { origin, segment, size, hash, tree } = self;
        format!("{TITLE}\n{origin}\n{segment}\n{size}\n{}\n{}\n", hex(hash), hex(&tree.to_bytes()))
    }

    /// Reads the text form; `None` if it is not one.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        if lines.next()? != TITLE {
            return None;
        }
        let origin = lines.next()?.to_owned();
        let segment = lines.next()?.parse().ok()?;
        let size = lines.next()?.parse().ok()?;
        let hash = unhex(lines.next()?)?.try_into().ok()?;
        let tree = CompactRange::from_bytes(size, &unhex(lines.next()?)?)?;
        lines.next().is_none().then_some(Self { origin, segment, size, hash, tree })
    }
}
