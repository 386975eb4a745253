//! What a witness remembers: a file per log, the last checkpoint it cosigned.
//!
//! Each is replaced whole (written under another name, flushed, renamed, the folder flushed), so that a crash leaves the one
//! before or the new one.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::audit::{Lock, hex, replace_file, sync_folder};

use super::cosigner::CosignerError;

/// The longest file: the longest request.
const KEPT_BYTES_MAX: u64 = 128 * 1024;

/// Where forks are kept.
const FORKS: &str = "forks";

/// Two tree heads of one size that a log signed: evidence.
pub(super) struct Fork {
    /// The second of the two files; the first has the same name and ends with `.remembered`.
    pub(super) path: PathBuf,
    /// Whether these are they; else an earlier pair of this log was there already.
    pub(super) is_new: bool,
}

/// The folder. Held by one process at a time.
pub(super) struct Kept {
    dir: PathBuf,
    _lock: Lock,
}

impl Kept {
    /// Makes the folder.
    pub(super) fn create(dir: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(dir)?;
        match dir.parent() {
            Some(parent) if parent != Path::new("") => sync_folder(parent),
            _ => sync_folder(Path::new(".")),
        }
    }

    /// Takes the folder, which must be there: a witness that begins with an empty memory would cosign what it must not.
    pub(super) fn open(dir: &Path) -> Result<Self, CosignerError> {
        if !dir.is_dir() {
            return Err(CosignerError::NoMemory { dir: dir.to_owned() });
        }
        Ok(Self { dir: dir.to_owned(), _lock: Lock::take(dir)? })
    }

    /// The last note cosigned of a log; `None` before the first.
    pub(super) fn load(&self, origin: &str) -> io::Result<Option<String>> {
        let mut note = String::new();
        let file = match fs::File::open(self.path(origin)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        file.take(KEPT_BYTES_MAX).read_to_string(&mut note)?;
        Ok(Some(note))
    }

    /// Puts `note` in its place; durable when this returns.
    pub(super) fn replace(&self, origin: &str, note: &str) -> io::Result<()> {
        replace_file(&self.dir, &name(origin), note.as_bytes())
    }

    /// Keeps the note that is remembered of a log and one that contradicts it; the first pair of each log only, so that
    /// nobody fills the disk. Durable when this returns.
    pub(super) fn keep_fork(&self, origin: &str, remembered: &str, refused: &str) -> io::Result<Fork> {
        let dir = self.dir.join(FORKS);
        if !dir.is_dir() {
            Self::create(&dir)?;
        }
        let log = hex(&Sha256::digest(origin));
        let (first, second) = (format!("{log}.remembered"), format!("{log}.refused"));
        let path = dir.join(&second);
        let is_new = !path.exists();
        if is_new {
            replace_file(&dir, &first, remembered.as_bytes())?;
            replace_file(&dir, &second, refused.as_bytes())?;
        }
        Ok(Fork { path, is_new })
    }

    pub(super) fn path(&self, origin: &str) -> PathBuf {
        self.dir.join(name(origin))
    }
}

/// An origin may hold anything but line ends; a file's name may not.
fn name(origin: &str) -> String {
    format!("{}.checkpoint", hex(&Sha256::digest(origin)))
}
