//! Anchors in the log's own folder: the checkpoints that witnesses cosigned, and the word that this log was rolled back.
//!
//! `NAME.anchor` is a checkpoint that the log must continue: a start compares. `ROLLBACK` stands there once somebody
//! outside showed that the log was rolled back; from then on every start refuses, whoever can be asked.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    appender::Shared,
    error::{AuditError, AuditFailure, FailureKind},
    key_history::{KEY_FILE, KeyHistory},
    note::Checkpoint,
    proof::{ProveError, tree_at},
    real::replace_file,
    verify::note_in,
};

/// Shuts a log for good when somebody outside shows that it was rolled back. Cheap to clone.
#[derive(Clone)]
pub struct Conviction {
    pub(super) shared: Arc<Shared>,
    pub(super) dir: PathBuf,
}

impl Conviction {
    /// Shuts the log and puts the reason on the disk, so that no later start goes on with it either.
    ///
    /// # Errors
    /// If it could not be put there; the log is shut all the same.
    pub fn roll_back(&self, cause: &str) -> Result<(), AuditError> {
        self.shared.fail(AuditFailure::new(FailureKind::RolledBack, cause));
        mark_rolled_back(&self.dir, cause)
            .map_err(|error| AuditError::io("note the rollback in", &self.dir, error))
    }
}

/// What such a file's name ends with.
const ANCHOR: &str = ".anchor";

/// The file that says that the log was rolled back.
const ROLLBACK: &str = "ROLLBACK";

/// Most anchors in a folder; each costs a start the reading of some records.
const ANCHORS_MAX: usize = 64;

/// Keeps a checkpoint beside the log as one durable step; `id` is of whoever cosigned it.
///
/// # Errors
/// What the system refuses.
pub fn keep_anchor(dir: &Path, id: [u8; 4], note: &str) -> Result<(), AuditError> {
    replace_file(dir, &anchor_name(id), note.as_bytes())
        .map_err(|error| AuditError::io("keep an anchor in", dir, error))
}

/// The checkpoint that is kept of `id`.
///
/// # Errors
/// What the system refuses.
pub fn kept_anchor(dir: &Path, id: [u8; 4]) -> Result<Option<String>, AuditError> {
    note_in(&dir.join(anchor_name(id))).map_err(|error| AuditError::io("read an anchor in", dir, error))
}

/// Puts it on the disk that this log was rolled back.
pub(super) fn mark_rolled_back(dir: &Path, cause: &str) -> io::Result<()> {
    replace_file(dir, ROLLBACK, format!("{cause}\n").as_bytes())
}

/// An anchor that a log cannot be held against any more: it ends among records that were retired since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// The file.
    pub name: String,
    /// Records it was signed for.
    pub size: u64,
}

/// Holds a log of `size` records against everything that is kept beside it; what it cannot be held against is named. `history` is the
/// log's own, which was read from there.
///
/// # Errors
/// [`AuditError::RolledBack`], and [`AuditError::Anchor`] for an anchor that cannot be believed.
pub(super) fn vouch(dir: &Path, history: &KeyHistory, size: u64) -> Result<Vec<PassedOver>, AuditError> {
    let io = |error| AuditError::io("read what is kept in", dir, error);
    let rolled_back = |cause: String| AuditError::RolledBack { path: dir.to_owned(), cause };
    if let Some(cause) = note_in(&dir.join(ROLLBACK)).map_err(io)? {
        return Err(rolled_back(cause.trim_end().to_owned()));
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        names.extend(name.to_str().filter(|name| name.ends_with(ANCHOR)).map(str::to_owned));
    }
    let distrusted = |name: &str, cause: String| AuditError::Anchor { path: dir.join(name), cause };
    if let Some(name) = names.get(ANCHORS_MAX) {
        return Err(distrusted(name, format!("there are more than {ANCHORS_MAX}")));
    }
    let keys = history.all(dir)?;
    let mut kept = Vec::new();
    // The last handover between two keys: what both signed contains what all before it did.
    let handover = history.handovers().last().map(|handover| handover.checkpoint.clone());
    kept.extend(handover.map(|checkpoint| (KEY_FILE.to_owned(), checkpoint)));
    for name in names {
        let note = note_in(&dir.join(&name)).map_err(io)?.unwrap_or_default();
        let checkpoint =
            Checkpoint::open(&note, &keys).map_err(|error| distrusted(&name, error.to_string()))?;
        kept.push((name, checkpoint));
    }
    let mut passed_over = Vec::new();
    for (name, checkpoint) in kept {
        if checkpoint.size > size {
            let signed = checkpoint.size;
            return Err(rolled_back(format!(
                "{signed} records were signed as {name} says, {size} are there"
            )));
        }
        let found = match tree_at(dir, &keys, checkpoint.size) {
            Ok(tree) => tree.root(),
            // What was signed there went lawfully, on record; what is left continues it, or `audit verify` says where not.
            Err(ProveError::Retired { .. }) => {
                passed_over.push(PassedOver { name, size: checkpoint.size });
                continue;
            }
            Err(ProveError::Audit(error)) => return Err(error),
            Err(error) => return Err(rolled_back(format!("it does not reach what {name} says: {error}"))),
        };
        if found != Some(checkpoint.root) {
            let size = checkpoint.size;
            return Err(rolled_back(format!(
                "the first {size} records are not those that {name} was signed for"
            )));
        }
    }
    Ok(passed_over)
}

fn anchor_name(id: [u8; 4]) -> String {
    format!("{:08x}{ANCHOR}", u32::from_be_bytes(id))
}
