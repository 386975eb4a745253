//! The files of the wrapped keys: `sealed-keys/DAY.ID.key` in the log's folder, each whole and durable before it is used.
//!
//! In place of one that was destroyed stands `DAY.ID.destroyed`, with the id of the record that says so: a key that is missing
//! without it was lost.

use std::{
    fmt,
    fs::{self, DirBuilder, File},
    io::{self, Read as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use jiff::civil::Date;

use super::{
    parse_day,
    wrapped::{FILE_BYTES_MAX, WrappedKey},
};
use crate::audit::{
    error::AuditError,
    hex::{hex, unhex_exact},
    real::{replace_file, sync_folder},
};

/// The name of a data key: of its file's digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub(super) [u8; KEY_ID_BYTES]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// What there is of a data key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyState {
    /// It was destroyed; the id of the record that says so.
    Destroyed(String),
    /// Its file is there, and is the one that records name.
    Kept(Box<WrappedKey>),
    /// Nothing is there, and nothing says why.
    Lost,
}

/// A name in the folder of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) day: Date,
    pub(super) id: KeyId,
    pub(super) destroyed: bool,
}

impl Named {
    fn parse(name: &str) -> Option<Self> {
        let (rest, destroyed) = match name.strip_suffix(DESTROYED) {
            Some(rest) => (rest, true),
            None => (name.strip_suffix(KEY)?, false),
        };
        let (day, id) = rest.split_once('.')?;
        Some(Self { day: parse_day(day)?, id: KeyId(unhex_exact(id)?), destroyed })
    }

    fn name(&self) -> String {
        format!("{}.{}{}", self.day, self.id, if self.destroyed { DESTROYED } else { KEY })
    }

    /// Where it lies beside the log in `dir`.
    pub(super) fn path(&self, dir: &Path) -> PathBuf {
        dir.join(FOLDER).join(self.name())
    }
}

/// Puts a wrapped key on the disk; when this returns it is durable, name and folder included.
pub(super) fn store(dir: &Path, key: &WrappedKey) -> io::Result<()> {
    make_folder(dir)?;
    let named = Named { day: key.day(), id: key.id(), destroyed: false };
    replace_file(&dir.join(FOLDER), &named.name(), key.to_text().as_bytes())
}

/// Leaves word that a key was destroyed.
pub(super) fn mark(dir: &Path, named: &Named, record: &str) -> io::Result<()> {
    let marker = Named { destroyed: true, ..*named };
    if marker.path(dir).exists() {
        return Ok(());
    }
    replace_file(&dir.join(FOLDER), &marker.name(), format!("{record}\n").as_bytes())
}

/// Every name in the folder of the keys, ascending by day; none where there is no such folder.
pub(super) fn list(dir: &Path) -> io::Result<Vec<Named>> {
    let entries = match fs::read_dir(dir.join(FOLDER)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_str().and_then(Named::parse)));
    let mut named: Vec<_> = names.filter_map(io::Result::transpose).collect::<io::Result<_>>()?;
    named.sort_unstable_by_key(|named| (named.day, named.id));
    Ok(named)
}

/// What there is of the key of this id.
pub(super) fn find(dir: &Path, id: KeyId) -> io::Result<KeyState> {
    let of_id: Vec<_> = list(dir)?.into_iter().filter(|named| named.id == id).collect();
    // Where both are there, the destruction was interrupted, and stands.
    if let Some(marker) = of_id.iter().find(|named| named.destroyed) {
        let record = fs::read_to_string(marker.path(dir))?;
        return Ok(KeyState::Destroyed(record.trim_end().to_owned()));
    }
    match of_id.first() {
        Some(named) => Ok(KeyState::Kept(Box::new(read(dir, named)?))),
        None => Ok(KeyState::Lost),
    }
}

/// Reads a key's file, which must be the one that its name says.
pub(super) fn read(dir: &Path, named: &Named) -> io::Result<WrappedKey> {
    let mut bytes = Vec::new();
    File::open(named.path(dir))?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    let invalid = |cause: &str| io::Error::new(io::ErrorKind::InvalidData, cause);
    let key = WrappedKey::parse(&bytes).map_err(invalid)?;
    if key.id() != named.id || key.day() != named.day {
        return Err(invalid("another key's file, or an altered one: it has not the digest of its name"));
    }
    Ok(key)
}

/// Copies the keys of a log, and what says that some were destroyed, to the folder of its successor; durable before this
/// returns.
pub(in crate::audit) fn copy(dir: &Path, successor: &Path) -> Result<(), AuditError> {
    let io = |source| AuditError::io("copy the sealed keys of", dir, source);
    let named = list(dir).map_err(io)?;
    if named.is_empty() {
        return Ok(());
    }
    make_folder(successor).map_err(io)?;
    for named in named {
        let copied = named.path(successor);
        fs::copy(named.path(dir), &copied).and_then(|_| File::open(&copied)?.sync_all()).map_err(io)?;
    }
    sync_folder(&successor.join(FOLDER)).map_err(io)
}

fn make_folder(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir.join(FOLDER)) {
        Ok(()) => sync_folder(dir),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Bytes of a key's name: a second file of the same name is as hard to find as 16 bytes of SHA-256 are long.
pub(super) const KEY_ID_BYTES: usize = 16;

/// The folder, in that of the log.
pub(super) const FOLDER: &str = "sealed-keys";

const KEY: &str = ".key";
const DESTROYED: &str = ".destroyed";
