//! A state that a verification established and a later one starts from, so that a log is read once.

use std::{ffi::OsStr, fs, io, path::Path};

use super::super::{
    hex::{hex, unhex},
    merkle::CompactRange,
    real::replace_file,
    record::Hash,
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
    /// The state that an earlier verification left at `path`; `None` before the first.
    ///
    /// # Errors
    /// What the system refuses, and `InvalidData` for a file that is not such a state.
    pub fn load(path: &Path) -> io::Result<Option<Self>> {
        match fs::read_to_string(path) {
            Ok(text) => Self::from_text(&text).map(Some).ok_or(io::ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the state at `path` whole: an interrupted run leaves the one before.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn store(&self, path: &Path) -> io::Result<()> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().and_then(OsStr::to_str).ok_or(io::ErrorKind::InvalidFilename)?;
        replace_file(dir, name, self.to_text().as_bytes())
    }

    /// The text form: title, origin, segment, size, hash and tree, a line each. Whoever can change it can hide a change of
    /// everything before it: keep it where the log's writer cannot.
    pub(in crate::audit) fn to_text(&self) -> String {
        let Self { origin, segment, size, hash, tree } = self;
        format!("{TITLE}\n{origin}\n{segment}\n{size}\n{}\n{}\n", hex(hash), hex(&tree.to_bytes()))
    }

    /// Reads the text form; `None` if it is not one.
    pub(in crate::audit) fn from_text(text: &str) -> Option<Self> {
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
