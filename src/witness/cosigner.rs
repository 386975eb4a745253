//! A witness: what it remembers of each log, and the key it cosigns with.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use edgate_hsm::{HsmError, Purpose, Signer, SoftwareKey};

use super::judge::{Refusal, Request, Signed};
use super::kept::{Fork, Kept};
use super::list::KnownLog;
use crate::audit::note::{Checkpoint, NoteError, UnverifiedNote};
use crate::audit::{AuditError, CheckpointKey, WitnessKey};

/// How long one cosignature may take.
const SIGN_TIMEOUT: Duration = Duration::from_secs(5);

const DAY_S: u64 = 86_400;

/// A witness. Shared by the threads that answer.
pub struct Cosigner {
    key: WitnessKey,
    signer: Signer<edgate_hsm::Witness>,
    kept: Kept,
    logs: HashMap<String, Watched>,
}

/// A log, and what is remembered of it.
struct Watched {
    keys: Vec<CheckpointKey>,
    per_day: Option<u32>,
    // Held from the look at what was cosigned last until the new checkpoint is durable: two requests never both continue
    // the same one.
    seen: Mutex<Seen>,
}

struct Seen {
    latest: Option<Checkpoint>,
    day: u64,
    // On that day.
    remembered: u32,
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The cosignature: a line of a signed note.
    Cosigned(String),
    /// The checkpoint is not cosigned.
    Refused(Refusal),
    /// The log submitted more checkpoints today than it may.
    TooMany,
    /// It could not be remembered, or the key could not be used; so it is not cosigned.
    Unavailable,
}

/// Why a witness does not start.
#[derive(Debug, thiserror::Error)]
pub enum CosignerError {
    /// The folder cannot be taken.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// What is remembered cannot be believed. It is never taken for nothing.
    #[error("what is remembered of {origin:?} in {path} cannot be believed: {cause}; give every key that the log had, or put the file back from a copy", path = path.display())]
    Damaged {
        /// The log.
        origin: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: NoteError,
    },
    /// Reading or writing failed.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The key cannot be used.
    #[error("{0}")]
    Key(#[from] HsmError),
    /// The name cannot stand in a note.
    #[error("name {0:?} cannot be a witness's: write it like a URL without a scheme, without spaces or '+'")]
    Name(String),
    /// The folder is not there.
    #[error("no folder {dir}: a witness that remembers nothing cosigns what it must not; correct the path, or let --init make it", dir = dir.display())]
    NoMemory {
        /// The folder.
        dir: PathBuf,
    },
}

impl Cosigner {
    /// Makes the key and the folder of a new witness; what exists is never touched.
    ///
    /// # Errors
    /// What cannot be made.
    pub fn create(key: &Path, dir: &Path, name: &str) -> Result<WitnessKey, CosignerError> {
        let known = |public| witness_key(name, public);
        known([0; 32])?;
        Kept::create(dir).map_err(|source| CosignerError::Io {
            what: "create",
            path: dir.to_owned(),
            source,
        })?;
        let signer = Signer::<edgate_hsm::Witness>::software(SoftwareKey::create(key, Purpose::Witness)?)?;
        known(signer.public_key())
    }

    /// Opens a witness: its key, and what it remembers of each of `logs`.
    ///
    /// # Errors
    /// [`CosignerError`].
    pub fn open(key: &Path, dir: &Path, name: &str, logs: Vec<KnownLog>) -> Result<Self, CosignerError> {
        let signer = Signer::<edgate_hsm::Witness>::software(SoftwareKey::load(key, Purpose::Witness)?)?;
        let key = witness_key(name, signer.public_key())?;
        let kept = Kept::open(dir)?;
        let mut watched: HashMap<String, Watched> = HashMap::with_capacity(logs.len());
        for KnownLog { origin, key, per_day } in logs {
            let log = watched.entry(origin).or_insert_with(|| Watched {
                keys: Vec::new(),
                per_day,
                seen: Mutex::new(Seen { latest: None, day: 0, remembered: 0 }),
            });
            // A log that changed its key has two.
            log.keys.push(key);
        }
        for (origin, log) in &mut watched {
            let path = kept.path(origin);
            let note = kept.load(origin).map_err(|source| CosignerError::Io {
                what: "read",
                path: path.clone(),
                source,
            })?;
            let Some(note) = note else { continue };
            let damaged =
                |cause| CosignerError::Damaged { origin: origin.clone(), path: path.clone(), cause };
            let latest = Checkpoint::open(&note, &log.keys).map_err(damaged)?;
            if latest.origin != *origin {
                return Err(damaged(NoteError::Malformed));
            }
            log.seen.get_mut().unwrap_or_else(PoisonError::into_inner).latest = Some(latest);
        }
        Ok(Self { key, signer, kept, logs: watched })
    }

    /// The key it cosigns with.
    #[must_use]
    pub const fn key(&self) -> &WitnessKey {
        &self.key
    }

    /// How many logs it knows.
    #[must_use]
    pub fn logs(&self) -> usize {
        self.logs.len()
    }

    /// Answers an add-checkpoint at `now`, in seconds since 1970. Blocks for two flushes of the disk.
    #[must_use]
    pub fn add_checkpoint(&self, body: &[u8], now: u64) -> Answer {
        match self.judge(body, now) {
            Ok(signed) => self.cosign(signed.checkpoint(), now),
            Err(answer) => answer,
        }
    }

    /// Checks the request against what is remembered and remembers it, as one step.
    fn judge(&self, body: &[u8], now: u64) -> Result<Signed, Answer> {
        let request = Request::parse(body).map_err(Answer::Refused)?;
        let log = self.logs.get(request.origin()).ok_or(Answer::Refused(Refusal::UnknownLog))?;
        let signed = request.authenticate(&log.keys).map_err(Answer::Refused)?;
        let checkpoint = signed.checkpoint();
        let mut seen = log.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(refusal) = signed.continues(seen.latest.as_ref()) {
            // Under the lock: what is remembered is still the other half of the evidence.
            match &seen.latest {
                Some(latest) if signed.contradicts(latest) => self.keep_fork(log, latest, &signed),
                _ => tell(&signed, &refusal),
            }
            return Err(Answer::Refused(refusal));
        }
        if seen.latest.as_ref() != Some(checkpoint) {
            seen.may_grow(now, log.per_day)?;
            // Should this fail half-way the file may hold the new checkpoint. It was not cosigned, so both are true.
            self.kept.replace(&checkpoint.origin, signed.note()).map_err(|error| {
                let origin = &checkpoint.origin;
                tracing::error!(%origin, %error, "cannot remember a checkpoint; it is not cosigned");
                Answer::Unavailable
            })?;
            seen.latest = Some(checkpoint.clone());
            // Whoever has nothing new uses nothing up, so that nobody can replay what the log published in its stead.
            seen.remembered = seen.remembered.saturating_add(1);
        }
        drop(seen);
        Ok(signed)
    }

    fn cosign(&self, checkpoint: &Checkpoint, now: u64) -> Answer {
        let message = WitnessKey::message(checkpoint, now);
        match self.signer.sign(message.as_bytes(), Instant::now() + SIGN_TIMEOUT) {
            Ok(signature) => Answer::Cosigned(self.key.line(now, &signature)),
            Err(error) => {
                tracing::error!(%error, "cannot cosign");
                Answer::Unavailable
            }
        }
    }

    /// Keeps the two tree heads of one size that a log signed, and says so.
    fn keep_fork(&self, log: &Watched, latest: &Checkpoint, signed: &Signed) {
        let Checkpoint { origin, size, .. } = latest;
        let remembered = self.kept.load(origin).and_then(|note| {
            let note = UnverifiedNote::parse(note.as_deref().unwrap_or_default());
            let note = note.ok().filter(|note| note.checkpoint() == latest);
            let note = note.and_then(|note| note.verify(&log.keys).ok());
            note.ok_or_else(|| io::Error::other("what was remembered is not there any more"))
        });
        match remembered.and_then(|remembered| self.kept.keep_fork(origin, &remembered, signed.note())) {
            Ok(Fork { path, is_new: true }) => {
                let path = path.display();
                tracing::error!(%origin, size, %path, "FORK: the log signed two tree heads of this size; both are kept");
            }
            Ok(Fork { path, is_new: false }) => {
                let path = path.display();
                tracing::error!(%origin, size, %path, "FORK: the log signed two tree heads of this size; not kept, an earlier pair is");
            }
            Err(error) => {
                tracing::error!(%origin, size, %error, "FORK: the log signed two tree heads of this size; they could not be kept");
            }
        }
    }
}

/// Says what a log's own signature shows of it.
fn tell(signed: &Signed, refusal: &Refusal) {
    let Checkpoint { origin, size, .. } = signed.checkpoint();
    if matches!(refusal, Refusal::Inconsistent { .. }) {
        tracing::warn!(%origin, size, "a checkpoint that its log signed is not shown to continue the last one");
    }
}

impl Seen {
    /// Whether another checkpoint may be remembered today.
    fn may_grow(&mut self, now: u64, per_day: Option<u32>) -> Result<(), Answer> {
        if now / DAY_S != self.day {
            (self.day, self.remembered) = (now / DAY_S, 0);
        }
        match per_day {
            Some(per_day) if self.remembered >= per_day => Err(Answer::TooMany),
            _ => Ok(()),
        }
    }
}

fn witness_key(name: &str, verifying_key: [u8; 32]) -> Result<WitnessKey, CosignerError> {
    let key = WitnessKey { name: name.to_owned(), verifying_key };
    match WitnessKey::from_text(&key.to_text()) {
        Ok(read) if read == key => Ok(key),
        _ => Err(CosignerError::Name(name.to_owned())),
    }
}
