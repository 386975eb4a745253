//! What a witness does with a request: nothing but the request, the log's keys and the last checkpoint it cosigned.

use sha2::{Digest as _, Sha256};

use crate::audit::note::{Checkpoint, NoteError, UnverifiedNote};
use crate::audit::proof::{ConsistencyProof, is_consistent};
use crate::audit::{CheckpointKey, Hash};

/// tlog-witness: a client must not send more lines of a consistency proof.
pub const PATH_LINES_MAX: usize = 63;

/// A request that can be read. Nothing it says is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    old_size: u64,
    path: Vec<Hash>,
    note: UnverifiedNote,
}

/// A checkpoint that one of its log's keys signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    request: Request,
    note: String,
}

/// Why a checkpoint is not cosigned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another size than the last one cosigned was named, or other records of the same number.
    #[error("the last checkpoint cosigned is of {size} records")]
    Conflict {
        /// Records of the last checkpoint that was cosigned.
        size: u64,
    },
    /// The proof does not lead from the last checkpoint cosigned to this one.
    #[error("the proof does not lead from {old} records to {new}")]
    Inconsistent {
        /// Records of the last checkpoint that was cosigned.
        old: u64,
        /// Records of this one.
        new: u64,
    },
    /// Not a request, or not in the one form it has.
    #[error("{0}")]
    Malformed(String),
    /// No key of the log signed it.
    #[error("checkpoint: {0}")]
    NotSigned(NoteError),
    /// The log is none of those that are witnessed here.
    #[error("no log of this origin is witnessed here")]
    UnknownLog,
}

impl Refusal {
    /// The HTTP status that tlog-witness gives it.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::NotSigned(_) => 403,
            Self::UnknownLog => 404,
            Self::Conflict { .. } => 409,
            Self::Inconsistent { .. } => 422,
        }
    }
}

impl Request {
    /// Reads the body of an add-checkpoint.
    ///
    /// # Errors
    /// [`Refusal::Malformed`].
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let ConsistencyProof { old_size, path, note } =
            ConsistencyProof::parse(body).map_err(|refusal| Refusal::Malformed(refusal.to_string()))?;
        if path.len() > PATH_LINES_MAX {
            let detail = format!("the proof has more than {PATH_LINES_MAX} lines");
            return Err(Refusal::Malformed(detail));
        }
        // Each line ends, the last one too.
        if !note.ends_with('\n') {
            return Err(Refusal::Malformed("the checkpoint is cut short".to_owned()));
        }
        let note = UnverifiedNote::parse(&note)
            .map_err(|error| Refusal::Malformed(format!("checkpoint: {error}")))?;
        let size = note.checkpoint().size;
        if old_size > size {
            return Err(Refusal::Malformed(format!("old size {old_size} of a checkpoint of {size}")));
        }
        Ok(Self { old_size, path, note })
    }

    /// The log that it says it is of.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.note.checkpoint().origin
    }

    /// Checks that one of `keys`, which are those of [`Self::origin`], signed it; other signatures say nothing.
    ///
    /// # Errors
    /// [`Refusal::NotSigned`].
    pub fn authenticate(self, keys: &[CheckpointKey]) -> Result<Signed, Refusal> {
        let note = self.note.verify(keys).map_err(Refusal::NotSigned)?;
        Ok(Signed { request: self, note })
    }
}

impl Signed {
    /// The checkpoint.
    #[must_use]
    pub const fn checkpoint(&self) -> &Checkpoint {
        self.request.note.checkpoint()
    }

    /// The same with the log's signature, and none of others that came with it.
    #[must_use]
    pub fn note(&self) -> &str {
        &self.note
    }

    /// Whether it continues `latest`, the last checkpoint cosigned of this log, if there was one.
    ///
    /// # Errors
    /// [`Refusal::Conflict`] or [`Refusal::Inconsistent`].
    pub fn continues(&self, latest: Option<&Checkpoint>) -> Result<(), Refusal> {
        let (Request { old_size, path, .. }, checkpoint) = (&self.request, self.checkpoint());
        let empty: [u8; 32] = Sha256::digest([]).into();
        let (size, root) = latest.map_or((0, empty), |latest| (latest.size, latest.root));
        if *old_size != size || (checkpoint.size == size && checkpoint.root != root) {
            return Err(Refusal::Conflict { size });
        }
        if !is_consistent(size, checkpoint.size, &root, &checkpoint.root, path) {
            return Err(Refusal::Inconsistent { old: size, new: checkpoint.size });
        }
        Ok(())
    }

    /// Whether it shows beside `latest` that the log was forked: its key signed what cannot both be true.
    #[must_use]
    pub fn contradicts(&self, latest: &Checkpoint) -> bool {
        let Checkpoint { size, root, .. } = self.checkpoint();
        *size == latest.size && *root != latest.root
    }
}
