//! The checkpoint keys of a log, one after the other: who signed until when, and that each named its successor.
//!
//! A *handover* is a signed note under which both keys put their signature, the one that ends and the one that begins:
//!
//! ```text
//! edgate checkpoint key handover v1
//! ORIGIN
//! SIZE
//! ROOT
//! OLD
//! NEW
//!
//! — ORIGIN SIGNATURE OF OLD
//! — ORIGIN SIGNATURE OF NEW
//! ```
//!
//! `SIZE` and `ROOT` (base64) are the last checkpoint of the old key, `OLD` and `NEW` verifier keys as text. From then on the
//! old key signs nothing more and the new one nothing smaller. The *key file* of a log, `checkpoint.key`, holds its first
//! key and then every handover, in order; who trusts any key of the chain can check all of it.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    error::AuditError,
    note::{Checkpoint, CheckpointKey, NoteError, NoteSignature, is_signed},
    real::replace_file,
};

/// What a key file says; nothing of it is trusted yet but its form and its signatures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyHistory {
    /// The keys it begins with: of a log's own file, the first one.
    pub first: Vec<CheckpointKey>,
    handovers: Vec<Handover>,
}

/// One key of a log gives way to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// The last checkpoint of the old key.
    pub checkpoint: Checkpoint,
    /// The key that ends.
    pub old: CheckpointKey,
    /// The key that begins.
    pub new: CheckpointKey,
    // The whole note.
    note: String,
}

/// Why a key file cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyHistoryError {
    /// A line stands where a key should.
    #[error("line {line} is no checkpoint key: {error}")]
    Key {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        error: NoteError,
    },
    /// A handover is not in the one form it has.
    #[error("handover {number} is malformed")]
    Malformed {
        /// Which one, from 1.
        number: usize,
    },
    /// One of the two signatures is missing or does not verify.
    #[error(
        "handover {number} is not signed by the key that {whose}: whoever put it there did not hold that key"
    )]
    NotCrossSigned {
        /// Which one, from 1.
        number: usize,
        /// `ends` or `begins`.
        whose: &'static str,
    },
    /// A key gives way to two others, follows two others, or comes again, or a key ends before it begins.
    #[error("handover {number} does not fit the ones before it: {key} {problem}")]
    Contradiction {
        /// Which one, from 1.
        number: usize,
        /// The key, as text.
        key: String,
        /// What it does.
        problem: &'static str,
    },
    /// A log's own file does not begin with one key.
    #[error(
        "it begins with {keys} keys; a log begins with one, and each that follows was named by the one before"
    )]
    First {
        /// How many.
        keys: usize,
    },
    /// There are more keys or handovers than a log can be thought to have.
    #[error("there are more than {FIRST_MAX} keys, {HANDOVERS_MAX} handovers, or {KEY_FILE_BYTES_MAX} bytes")]
    TooMany,
}

impl KeyHistory {
    /// Reads a key file, and checks both signatures of every handover.
    ///
    /// # Errors
    /// [`KeyHistoryError`], which names the first line or handover that is wrong.
    pub fn parse(text: &str) -> Result<Self, KeyHistoryError> {
        let mut pieces = text.split(TITLE_LINE);
        let mut first = Vec::new();
        for (line, key) in (1..).zip(pieces.next().unwrap_or_default().lines()) {
            if first.len() == FIRST_MAX {
                return Err(KeyHistoryError::TooMany);
            }
            if !key.is_empty() {
                first.push(
                    CheckpointKey::from_text(key).map_err(|error| KeyHistoryError::Key { line, error })?,
                );
            }
        }
        let mut handovers = Vec::new();
        for (number, piece) in (1..).zip(pieces) {
            if number > HANDOVERS_MAX {
                return Err(KeyHistoryError::TooMany);
            }
            handovers.push(Handover::parse(piece, number)?);
        }
        let history = Self { first, handovers };
        history.check()?;
        Ok(history)
    }

    /// Whether each key begins and ends at most once, in the order of the file, whoever is trusted.
    fn check(&self) -> Result<(), KeyHistoryError> {
        for (at, handover) in self.handovers.iter().enumerate() {
            let Handover { checkpoint, old, new, .. } = handover;
            let before = &self.handovers[..at];
            let refuse = |key: &CheckpointKey, problem| {
                Err(KeyHistoryError::Contradiction { number: at + 1, key: key.to_text(), problem })
            };
            if before.iter().any(|other| other.old.is(old)) {
                return refuse(old, "gave way to another key already");
            }
            if before.iter().any(|other| other.old.is(new) || other.new.is(new)) {
                return refuse(new, "was in use before");
            }
            if before.iter().any(|other| other.new.is(old) && other.checkpoint.size > checkpoint.size) {
                return refuse(old, "ends before it began");
            }
        }
        Ok(())
    }

    /// The history beside the log in `dir`; `None` where there is none.
    ///
    /// # Errors
    /// [`AuditError::KeyHistory`], and what the system refuses.
    pub fn beside(dir: &Path) -> Result<Option<Self>, AuditError> {
        let path = dir.join(KEY_FILE);
        let io = |error| AuditError::io("read the checkpoint keys of", dir, error);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        let mut text = String::new();
        file.take(KEY_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(io)?;
        let parsed = match text.len() as u64 {
            0..=KEY_FILE_BYTES_MAX => Self::parse(&text),
            _ => Err(KeyHistoryError::TooMany),
        };
        // A log begins with one key; whoever put a second one there would have it believed.
        let one = parsed.and_then(|history| match history.first.len() {
            1 => Ok(history),
            keys => Err(KeyHistoryError::First { keys }),
        });
        one.map(Some).map_err(|cause| AuditError::KeyHistory { path, cause })
    }

    /// Writes it beside the log in `dir`, whole.
    pub(super) fn publish(&self, dir: &Path) -> io::Result<()> {
        replace_file(dir, KEY_FILE, self.to_text().as_bytes())
    }

    /// The history of the log in `dir`, which `key` is to sign: it must end with that key.
    ///
    /// # Errors
    /// [`AuditError::CheckpointKeyUnknown`], and as [`Self::beside`].
    pub(super) fn ending_with(dir: &Path, key: &CheckpointKey) -> Result<Self, AuditError> {
        let Some(history) = Self::beside(dir)? else { return Ok(Self::of(key.clone())) };
        let current = history.current();
        if current.as_ref().is_some_and(|current| current.is(key)) {
            return Ok(history);
        }
        let current = current.map_or_else(|| "none".to_owned(), |current| current.to_text());
        let path = dir.join(KEY_FILE);
        Err(AuditError::CheckpointKeyUnknown { path, current, configured: key.to_text() })
    }

    /// A history that begins with this key.
    #[must_use]
    pub fn of(key: CheckpointKey) -> Self {
        Self { first: vec![key], handovers: Vec::new() }
    }

    /// Every key that can be believed by whoever trusts `roots`, each with the sizes it may sign: those keys, whom they named, and
    /// who named them. Handovers of other logs are passed over.
    ///
    /// # Errors
    /// [`KeyHistoryError::Contradiction`].
    pub fn keys(&self, roots: &[CheckpointKey]) -> Result<Vec<CheckpointKey>, KeyHistoryError> {
        let mut keys = roots.to_vec();
        // Forward first, then back: a root may stand anywhere in the chain, and handovers stand in its order.
        for (number, handover) in (1..).zip(&self.handovers) {
            if place(&keys, &handover.old).is_some() {
                handover.apply(&mut keys, number)?;
            }
        }
        for (at, handover) in self.handovers.iter().enumerate().rev() {
            if place(&keys, &handover.old).is_none() && place(&keys, &handover.new).is_some() {
                handover.apply(&mut keys, at + 1)?;
            }
        }
        Ok(keys)
    }

    /// The key that signs now, with the sizes it may sign, of a log's own file.
    #[must_use]
    pub fn current(&self) -> Option<CheckpointKey> {
        match self.handovers.last() {
            Some(Handover { checkpoint, new, .. }) => {
                Some(CheckpointKey { sizes: checkpoint.size..=u64::MAX, ..new.clone() })
            }
            None => self.first.first().cloned(),
        }
    }

    /// Adds a handover.
    ///
    /// # Errors
    /// [`KeyHistoryError::Contradiction`] if the history does not end with its old key, or knows the new one.
    pub fn push(&mut self, handover: Handover) -> Result<(), KeyHistoryError> {
        let follows = self.current().is_some_and(|current| current.is(&handover.old));
        self.handovers.push(handover);
        let number = self.handovers.len();
        let Handover { old, .. } = &self.handovers[number - 1];
        let problem = "is not the key that this history ends with";
        let fits = if follows {
            self.check()
        } else {
            Err(KeyHistoryError::Contradiction { number, key: old.to_text(), problem })
        };
        fits.inspect_err(|_| drop(self.handovers.pop()))
    }

    /// The text of the key file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text: String = self.first.iter().map(|key| key.to_text() + "\n").collect();
        for handover in &self.handovers {
            text.push('\n');
            text.push_str(&handover.note);
        }
        text
    }

    /// Every key of the log in `dir`, whose own file this is.
    pub(super) fn all(&self, dir: &Path) -> Result<Vec<CheckpointKey>, AuditError> {
        self.keys(&self.first).map_err(|cause| AuditError::KeyHistory { path: dir.join(KEY_FILE), cause })
    }

    /// What was signed at the handovers between these keys.
    #[must_use]
    pub fn signed_by(&self, keys: &[CheckpointKey]) -> Vec<Checkpoint> {
        let both = |handover: &&Handover| {
            [&handover.old, &handover.new].iter().all(|key| place(keys, key).is_some())
        };
        self.handovers.iter().filter(both).map(|handover| handover.checkpoint.clone()).collect()
    }

    /// How often the key changed.
    #[must_use]
    pub fn handovers(&self) -> &[Handover] {
        &self.handovers
    }
}

impl Handover {
    /// What both keys sign.
    #[must_use]
    pub fn text(checkpoint: &Checkpoint, old: &CheckpointKey, new: &CheckpointKey) -> String {
        format!("{TITLE_LINE}{}{}\n{}\n", checkpoint.to_text(), old.to_text(), new.to_text())
    }

    /// Puts the signatures below.
    ///
    /// # Errors
    /// [`KeyHistoryError::NotCrossSigned`] if one of them is not of its key.
    pub fn new(
        checkpoint: &Checkpoint,
        [old, new]: [&CheckpointKey; 2],
        signatures: [&[u8; 64]; 2],
    ) -> Result<Self, KeyHistoryError> {
        let mut note = Self::text(checkpoint, old, new) + "\n";
        for (key, signature) in [old, new].into_iter().zip(signatures) {
            note.push_str(&key.signature_line(signature));
        }
        let body = note.strip_prefix(TITLE_LINE).unwrap_or_default();
        Self::parse(body, 1)
    }

    /// Reads what stands behind the title. `number` is what errors call it.
    fn parse(piece: &str, number: usize) -> Result<Self, KeyHistoryError> {
        let (handover, signatures) = Self::read(piece).ok_or(KeyHistoryError::Malformed { number })?;
        let Self { checkpoint, old, new, .. } = &handover;
        let text = Self::text(checkpoint, old, new);
        for ((key, whose), signature) in [(old, "ends"), (new, "begins")].into_iter().zip(signatures) {
            let NoteSignature { name, id, signature } = signature;
            let signed = (name == key.name && id == key.id())
                && signature
                    .as_slice()
                    .try_into()
                    .is_ok_and(|signature| is_signed(&key.verifying_key, text.as_bytes(), signature));
            if !signed {
                return Err(KeyHistoryError::NotCrossSigned { number, whose });
            }
        }
        Ok(handover)
    }

    /// What it says, and the two signature lines below; nothing but empty lines may follow.
    fn read(piece: &str) -> Option<(Self, [NoteSignature; 2])> {
        let (text, below) = piece.trim_end_matches('\n').split_once("\n\n")?;
        let (by_old, by_new) = below.split_once('\n')?;
        let signatures = [NoteSignature::parse(by_old)?, NoteSignature::parse(by_new)?];
        let mut lines = text.split('\n');
        let checkpoint = Checkpoint {
            origin: lines.next()?.to_owned(),
            size: lines.next()?.parse().ok()?,
            root: STANDARD.decode(lines.next()?).ok()?.try_into().ok()?,
        };
        let old = CheckpointKey::from_text(lines.next()?).ok()?;
        let new = CheckpointKey::from_text(lines.next()?).ok()?;
        let ours = old.name == checkpoint.origin && new.name == checkpoint.origin && old != new;
        let note = format!("{TITLE_LINE}{text}\n\n{below}\n");
        // One spelling: what we would have written is what stands there.
        let spelled = Self::text(&checkpoint, &old, &new) == format!("{TITLE_LINE}{text}\n");
        let handover = Self { checkpoint, old, new, note };
        (ours && spelled && lines.next().is_none()).then_some((handover, signatures))
    }

    /// Ends the old key at this size and begins the new one there. One of them is among `keys`.
    fn apply(&self, keys: &mut Vec<CheckpointKey>, number: usize) -> Result<(), KeyHistoryError> {
        let size = self.checkpoint.size;
        let refuse = |key: &CheckpointKey, problem| {
            Err(KeyHistoryError::Contradiction { number, key: key.to_text(), problem })
        };
        let (old, new) = (place(keys, &self.old), place(keys, &self.new));
        if let (Some(old), Some(new)) = (old, new)
            && (*keys[old].sizes.end(), *keys[new].sizes.start()) == (size, size)
        {
            // It was met before, in another copy of the file.
            return Ok(());
        }
        // Within a file this was checked; a root may come with bounds from another copy.
        if old.is_some_and(|at| *keys[at].sizes.end() != u64::MAX) {
            return refuse(&self.old, "gave way to another key already");
        }
        if new.is_some_and(|at| *keys[at].sizes.start() != 0) {
            return refuse(&self.new, "was in use before");
        }
        let begun = old.map_or(0, |at| *keys[at].sizes.start());
        let ends = new.map_or(u64::MAX, |at| *keys[at].sizes.end());
        if size < begun || size > ends {
            return refuse(&self.old, "ends before it began, or after its successor did");
        }
        let mut set = |at: Option<usize>, key: &CheckpointKey, sizes| match at {
            Some(at) => keys[at].sizes = sizes,
            None => keys.push(CheckpointKey { sizes, ..key.clone() }),
        };
        set(old, &self.old, begun..=size);
        set(new, &self.new, size..=ends);
        Ok(())
    }
}

/// Every key of the log in `dir`, as its own key file names them; none where there is no such file.
///
/// # Errors
/// As [`KeyHistory::beside`].
pub fn own_keys(dir: &Path) -> Result<Vec<CheckpointKey>, AuditError> {
    let history = KeyHistory::beside(dir)?;
    history.map_or(Ok(Vec::new()), |history| history.all(dir))
}

fn place(keys: &[CheckpointKey], key: &CheckpointKey) -> Option<usize> {
    keys.iter().position(|other| other.is(key))
}

/// The key file of a log, for `audit verify` on this machine and for whoever trusts one of its keys.
pub(super) const KEY_FILE: &str = "checkpoint.key";

/// The first line of a handover.
const TITLE_LINE: &str = "edgate checkpoint key handover v1\n";

/// A key a week for eighty years is fewer.
const HANDOVERS_MAX: usize = 4096;

/// Keys that a file may begin with: those of so many logs.
const FIRST_MAX: usize = 256;

/// A handover is some 700 bytes.
const KEY_FILE_BYTES_MAX: u64 = 4 << 20;

#[cfg(test)]
#[path = "key_history_tests.rs"]
mod tests;
