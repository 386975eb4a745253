//! Having a log's checkpoints stamped: asked, checked, and kept beside the log.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    StampExpected,
    ask::{AskError, Authority},
    stamp_files::{self, NOTE_END, TOKEN_END},
    token::{Stamp, verify_stamp},
};
use crate::audit::note::{Checkpoint, NoteError};

/// Has checkpoints stamped by one authority, and keeps the tokens in one folder.
#[derive(Debug, Clone)]
pub struct Stamper {
    /// Who is asked.
    pub authority: Authority,
    /// Where tokens are kept: [`stamp_files::FOLDER`] beside the log, or elsewhere.
    pub folder: PathBuf,
}

/// A checkpoint that was stamped.
#[derive(Debug, Clone)]
pub struct Stamped {
    /// What it says.
    pub checkpoint: Checkpoint,
    /// The token, as it came.
    pub token: Vec<u8>,
    /// What the token says.
    pub stamp: Stamp,
}

/// Why a checkpoint was not stamped.
#[derive(Debug, thiserror::Error)]
pub enum StampError {
    /// The authority gave no token, or none that is believed.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The token cannot be kept.
    #[error("cannot keep the token in {path}: {source}", path = path.display())]
    Keep {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// What was to be stamped is none.
    #[error("not a checkpoint: {0}")]
    NoCheckpoint(#[from] NoteError),
}

impl StampError {
    /// The stable word for it: the class of a token that is not believed, else `away`, `disk` or `node`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Ask(AskError::Http { .. }) => "away",
            Self::Ask(AskError::Random(_)) | Self::NoCheckpoint(_) => "node",
            Self::Ask(AskError::Refused(fault)) => fault.class.name(),
            Self::Keep { .. } => "disk",
        }
    }
}

impl Stamper {
    /// Has the bytes of this checkpoint, as published, stamped at `now` (seconds since 1970), and keeps token and bytes.
    /// Blocks for as long as the authority may take.
    ///
    /// # Errors
    /// [`StampError`]; nothing is kept then.
    pub fn stamp(&self, note: &str, now: i64) -> Result<Stamped, StampError> {
        let checkpoint = Checkpoint::read_unverified(note)?;
        let (token, stamp) = self.authority.ask(note.as_bytes(), now)?;
        stamp_files::keep(&self.folder, checkpoint.size, note.as_bytes(), &token)
            .map_err(|source| StampError::Keep { path: self.folder.clone(), source })?;
        Ok(Stamped { checkpoint, token, stamp })
    }

    /// The largest state that there is a token for which this authority's certificates vouch, and what that says. Others
    /// are passed over: they may be of an authority that was asked before.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn newest(&self) -> io::Result<Option<(u64, Stamp)>> {
        for size in stamp_files::sizes(&self.folder)?.into_iter().rev() {
            let expected = StampExpected {
                authorities: &self.authority.trusted,
                policy: None,
                nonce: None,
                after: None,
                before: None,
            };
            let read = |end: &str| fs::read(self.folder.join(format!("{size}{end}")));
            if let Ok(stamp) = verify_stamp(&read(TOKEN_END)?, &read(NOTE_END)?, &expected) {
                return Ok(Some((size, stamp)));
            }
        }
        Ok(None)
    }

    /// Beside the log in `dir`.
    #[must_use]
    pub fn beside(dir: &Path, authority: Authority) -> Self {
        Self { authority, folder: dir.join(stamp_files::FOLDER) }
    }
}
