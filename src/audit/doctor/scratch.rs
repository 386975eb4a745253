//! Where the probes write: a folder of their own inside the one that is examined, gone when they are.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use super::DoctorError;
use crate::audit::{error::AuditError, real::Lock};

/// The probes' folder; it and everything in it is removed with this.
pub(super) struct Scratch {
    path: PathBuf,
    // Says whether somebody else is at it. Declared last: it is let go when nothing is left.
    _lock: Lock,
}

impl Scratch {
    /// Makes it in `dir`. One that was left by a run that was killed is emptied and used.
    pub(super) fn make(dir: &Path) -> Result<Self, DoctorError> {
        let path = dir.join(NAME);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            // Not through a link that somebody laid here.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let metadata = fs::symlink_metadata(&path);
                if !metadata.map_err(DoctorError::io("look at", &path))?.is_dir() {
                    return Err(DoctorError::InTheWay { path });
                }
            }
            made => made.map_err(DoctorError::io("make the probes' folder", &path))?,
        }
        let lock = Lock::take_named(&path, LOCK).map_err(|error| match error {
            AuditError::Locked { path } => DoctorError::Busy { path },
            AuditError::Io { path, source, .. } => DoctorError::Io { what: "lock", path, source },
            other => DoctorError::Io { what: "lock", path: path.clone(), source: io::Error::other(other) },
        })?;
        let scratch = Self { path, _lock: lock };
        scratch.empty().map_err(DoctorError::io("empty", &scratch.path))?;
        Ok(scratch)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn empty(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name() != LOCK {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The folder's name inside the log's: no name of the log's own files.
const NAME: &str = "doctor";

/// The lock inside it.
const LOCK: &str = "LOCK";
