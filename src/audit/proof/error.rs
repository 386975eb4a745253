//! Why tiles or a proof could not be made.

use std::path::{Path, PathBuf};

use crate::audit::{
    error::AuditError,
    id::RecordId,
    note::{Checkpoint, CheckpointKey, NoteError},
    verify::note_in,
};

/// Why tiles or a proof could not be made. Nothing is given out in its place.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// A folder or file could not be read or written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// There is no body to show any more; without it the record is proven as before.
    #[error("the body of record {seq} was erased; without --with-body the record can still be proven")]
    BodyErased {
        /// The record.
        seq: u64,
    },
    /// The checkpoint to prove against is not one by a key we were given.
    #[error("checkpoint {path}: {cause}", path = path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: NoteError,
    },
    /// Tiles go into a folder of their own.
    #[error("{path} holds an audit log; tiles go into a folder of their own", path = path.display())]
    HoldsALog {
        /// The folder.
        path: PathBuf,
    },
    /// Nothing is signed yet, or the folder is not the one meant.
    #[error("no checkpoint at {path}", path = path.display())]
    NoCheckpoint {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The record is in the log, but behind the checkpoint.
    #[error("record {seq} is not covered yet: the checkpoint at {path} ends before record {size}", path = path.display())]
    NotCovered {
        /// The record.
        seq: u64,
        /// The checkpoint.
        path: PathBuf,
        /// Records it covers.
        size: u64,
    },
    /// The record stood in a segment that an authority had removed, and so did what its place in the tree is proven with.
    #[error(
        "record {seq} was retired, and the log begins with record {first}: the archive of its segment has it, and tiles that were made before prove it"
    )]
    Retired {
        /// The record.
        seq: u64,
        /// The first record that is there.
        first: u64,
    },
    /// What was signed earlier is no beginning of what is there now.
    #[error("ROLLBACK: {0}")]
    Rollback(String),
    /// The stored records are not a chain.
    #[error("segment {segment}, offset {offset}: {cause}; `edgate audit verify` says more", segment = crate::audit::folder::segment_name(*segment))]
    Stored {
        /// The segment.
        segment: u64,
        /// Byte offset in it.
        offset: u64,
        /// What is wrong there.
        cause: String,
    },
    /// A tile is not what the checkpoint vouches for.
    #[error("tile {path}: {cause}; tiles are made from the log: export them anew into an empty folder", path = path.display())]
    Tile {
        /// The tile.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The log has no such record.
    #[error("no record {id} in {dir}", dir = dir.display())]
    UnknownRecord {
        /// The record asked for.
        id: RecordId,
        /// The log's folder.
        dir: PathBuf,
    },
    /// The records are a chain, but not the signed one.
    #[error("the first {size} records in {dir} do not hash to the signed tree head; `edgate audit verify` says more", dir = dir.display())]
    Unvouched {
        /// The log's folder.
        dir: PathBuf,
        /// Records the checkpoint covers.
        size: u64,
    },
    /// A checkpoint is that of another log.
    #[error("checkpoint {path} is of {found:?}, not of {expected:?}", path = path.display())]
    WrongOrigin {
        /// The file.
        path: PathBuf,
        /// The log it names.
        found: String,
        /// The log asked about.
        expected: String,
    },
}

/// Reads a checkpoint that one of `keys` must have signed; the note as it stands comes with it.
pub(in crate::audit) fn read_checkpoint(
    path: &Path,
    keys: &[CheckpointKey],
) -> Result<(Checkpoint, String), ProveError> {
    let note = note_in(path).map_err(|error| AuditError::io("read", path, error))?;
    let note = note.ok_or_else(|| ProveError::NoCheckpoint { path: path.to_owned() })?;
    let checkpoint = Checkpoint::open(&note, keys)
        .map_err(|cause| ProveError::Checkpoint { path: path.to_owned(), cause })?;
    Ok((checkpoint, note))
}

/// Whether `new` can be a later state of the log that `old`, read from `path`, is a checkpoint of.
pub(in crate::audit) fn same_log_continued(
    path: &Path,
    old: &Checkpoint,
    new: &Checkpoint,
) -> Result<(), ProveError> {
    if old.origin != new.origin {
        return Err(ProveError::WrongOrigin {
            path: path.to_owned(),
            found: old.origin.clone(),
            expected: new.origin.clone(),
        });
    }
    if old.size > new.size {
        let cause =
            format!("{} records were signed as {} says, now {} are", old.size, path.display(), new.size);
        return Err(ProveError::Rollback(cause));
    }
    if old.size == new.size && old.root != new.root {
        let cause =
            format!("{} and the log's checkpoint, both of {} records, differ", path.display(), old.size);
        return Err(ProveError::Rollback(cause));
    }
    Ok(())
}
