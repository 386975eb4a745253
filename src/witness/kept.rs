//! What a witness remembers: a file per log, the last checkpoint it cosigned.
//!
//! Each is replaced whole (written under another name, flushed, renamed, the folder flushed), so that a crash leaves the one
//! before or the new one.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::audit::{Lock, hex, replace_file};

use super::cosigner::CosignerError;

/// The longest file: the longest request.
const KEPT_BYTES_MAX: u64 = 128 * 1024;

/// Requests that show a fork and are kept, in all.
const FORKS_KEPT_MAX: usize = 64;

/// Where they are.
const FORKS: &str = "forks";

/// The folder. Held by one process at a time.
pub(super) struct Kept {
    dir: PathBuf,
    _lock: Lock,
}

impl Kept {
    /// Makes the folder.
    pub(super) fn create(dir: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(dir)
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

    /// Keeps a request that shows that a log was forked, as evidence; the first ones only.
    pub(super) fn keep_fork(&self, request: &[u8]) -> io::Result<PathBuf> {
        let dir = self.dir.join(FORKS);
        if !dir.is_dir() {
            Self::create(&dir)?;
        }
        let name = hex(&Sha256::digest(request));
        let path = dir.join(&name);
        if !path.exists() && fs::read_dir(&dir)?.count() < FORKS_KEPT_MAX {
            replace_file(&dir, &name, request)?;
        }
        Ok(path)
    }

    pub(super) fn path(&self, origin: &str) -> PathBuf {
        self.dir.join(name(origin))
    }
}

/// An origin may hold anything but line ends; a file's name may not.
fn name(origin: &str) -> String {
    format!("{}.checkpoint", hex(&Sha256::digest(origin)))
}
