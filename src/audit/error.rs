//! How the log fails: errors of a call, and the failure that shuts the writer.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::key_history::KeyHistoryError;

/// Why a call on the log did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A checkpoint kept beside the log cannot be believed.
    #[error("anchor {path}: {cause}; it is never passed over: put it back from a copy, or take it away if it is not this log's", path = path.display())]
    Anchor {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A batch event has more decisions than one record takes.
    #[error("batch event of {len} decisions is above the limit of {limit}", limit = super::event::BATCH_ITEMS_MAX)]
    BatchTooLong {
        /// Decisions in the event.
        len: usize,
    },
    /// The body is longer than a record may hold.
    #[error("event body of {len} bytes is above the limit of {limit}", limit = super::record::BODY_BYTES_MAX)]
    BodyTooLong {
        /// Bytes of the encoded body.
        len: usize,
    },
    /// Recovery found damage that a crash cannot explain, and will not go on without an operator's decision.
    #[error("audit log {dir} is damaged at segment {segment}, offset {offset}, record {seq}: {cause}; run `edgate audit verify --dir {dir}`, and when you know what happened `edgate audit set-aside`", dir = dir.display())]
    Damaged {
        /// The log folder.
        dir: PathBuf,
        /// Segment with the first damage.
        segment: u64,
        /// Byte offset of the damage in that segment.
        offset: u64,
        /// Position in the chain of the first record that cannot be trusted.
        seq: u64,
        /// What is wrong there, in words.
        cause: String,
    },
    /// The deadline passed first.
    #[error("audit log did not acknowledge within the deadline")]
    DeadlinePassed,
    /// A legal hold keeps what was to be destroyed.
    #[error("legal hold {name:?} is in force: no key is destroyed until it is released")]
    Held {
        /// The hold's name.
        name: String,
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
    /// A key file may be read by others than its owner.
    #[error("{path} has mode {mode:04o}: only its owner may read a key (chmod 600)", path = path.display())]
    KeyFileLax {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// What stands beside the log about its checkpoint keys cannot be believed.
    #[error("{path}: {cause}; `edgate audit verify --key FILE` with a key you trust goes on without it", path = path.display())]
    KeyHistory {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        cause: KeyHistoryError,
    },
    /// The configured checkpoint key is not the one that the log's history ends with.
    #[error(
        "the log's checkpoint key is {current}, and it did not name the configured one, {configured}, as its successor: configure \
         the log's key, start, and hand over with `edgate audit rotate-checkpoint-key`; if that key is lost, move {path} away: checkpoints \
         from before then verify with the old key alone", path = path.display()
    )]
    CheckpointKeyUnknown {
        /// The key file.
        path: PathBuf,
        /// The key that the history ends with, as text.
        current: String,
        /// The configured one.
        configured: String,
    },
    /// The checkpoint key was not replaced.
    #[error("the checkpoint key was not replaced: {cause}; the one before signs on")]
    NotHandedOver {
        /// Why.
        cause: String,
    },
    /// Another process has the log open.
    #[error("{path} is in use by another process", path = path.display())]
    Locked {
        /// The folder of a log, or of its tiles.
        path: PathBuf,
    },
    /// The folder has no log, and creating one was not asked for.
    #[error("no audit log in {path}; correct the path, or let `edgate init CONFIG` create one", path = path.display())]
    NotFound {
        /// The log folder.
        path: PathBuf,
    },
    /// The log is whole: there is no damage to decide about.
    #[error("audit log {path} is whole; only a damaged log is set aside", path = path.display())]
    NothingToDecide {
        /// The log folder.
        path: PathBuf,
    },
    /// The folder holds the log of another name.
    #[error("audit log {path} belongs to {found:?}, not to {expected:?}", path = path.display())]
    OriginMismatch {
        /// The log folder.
        path: PathBuf,
        /// The name in the log.
        found: String,
        /// The configured name.
        expected: String,
    },
    /// No witness cosigned a checkpoint over the record in time.
    #[error("no witness cosigned a checkpoint of {size} records in time")]
    NotWitnessed {
        /// Records the checkpoint must cover.
        size: u64,
    },
    /// Too much is waiting for the sequencer. The event is counted as lost (GAP) unless the caller retries.
    #[error("audit queue is full")]
    QueueFull,
    /// The writer is shut, for now or for good.
    #[error("audit log refuses events: {0}")]
    Refused(AuditFailure),
    /// The log is shorter than, or another than, what was signed before.
    #[error("audit log {path} was rolled back: {cause}; it is never continued: find the missing records, or decide with `edgate audit set-aside`", path = path.display())]
    RolledBack {
        /// The log folder.
        path: PathBuf,
        /// What the anchor says and what the log holds.
        cause: String,
    },
    /// No witness could be asked whether this is the log that it saw, and the settings want an answer first.
    #[error("audit log {path} is not opened: no word from witness {witness}: {cause}; start it, or set audit.on_witness_away = \"serve\"", path = path.display())]
    Unwitnessed {
        /// The log folder.
        path: PathBuf,
        /// The witness's name.
        witness: String,
        /// Why it gave no answer.
        cause: String,
    },
    /// The keys of a day that is not over, or not over for long enough.
    #[error("values are sealed under the keys of {day}: keys are destroyed from the next day (UTC) on")]
    SealedKeyInUse {
        /// The day.
        day: String,
    },
    /// There is no key of this tenant and day.
    #[error("there is no sealed key of tenant {tenant:?} and {day}: none was made, or it was destroyed")]
    SealedKeyMissing {
        /// The tenant.
        tenant: String,
        /// The day.
        day: String,
    },
    /// The settings contradict themselves.
    #[error("audit settings: {0}")]
    Settings(String),
    /// The key of an epoch was destroyed before.
    #[error("the tag key of epoch {epoch} was destroyed already: record {record}")]
    TagKeyDestroyed {
        /// The epoch.
        epoch: u64,
        /// The record that says so.
        record: String,
    },
    /// Tags are made with this key.
    #[error(
        "tags are made with the key of epoch {epoch}: begin another epoch first (`edgate audit rotate-tag-key`)"
    )]
    TagKeyInUse {
        /// The epoch.
        epoch: u64,
    },
    /// A key that must be there is not.
    #[error("tag key {path} is missing: bring it back from a copy, or nobody can be found in the log any more", path = path.display())]
    TagKeyMissing {
        /// The key file.
        path: PathBuf,
    },
    /// A wrapped tag key is not what was wrapped.
    #[error("the wrapped tag key {path} was altered, or is of another epoch: it does not open under the key that it names; bring it back from a copy", path = path.display())]
    TagKeyAltered {
        /// The file.
        path: PathBuf,
    },
    /// A tag key is wrapped under a key that is not at hand.
    #[error("the tag key {path} is wrapped under the token's key with the id {id}: let hsm.wrapping_key or hsm.previous_wrapping_key name that key, or give a command that works beside the node --config", path = path.display())]
    TagKeyUnderOther {
        /// The file.
        path: PathBuf,
        /// `CKA_ID`, hexadecimal.
        id: String,
    },
    /// A tag key cannot be wrapped or opened.
    #[error("cannot {what} the tag key {path}: {cause}", path = path.display())]
    TagKeyWrap {
        /// `wrap` or `open`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
}

impl AuditError {
    pub(super) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }
}

/// Why the writer takes no more events.
#[derive(Debug, Clone)]
pub struct AuditFailure {
    /// What failed.
    pub kind: FailureKind,
    /// The details, for the log.
    pub detail: Arc<str>,
}

impl AuditFailure {
    pub(super) fn new(kind: FailureKind, detail: impl fmt::Display) -> Self {
        Self { kind, detail: detail.to_string().into() }
    }
}

impl fmt::Display for AuditFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.detail)
    }
}

/// What can shut the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The log was closed.
    Closed,
    /// No space for another segment. Ends when space comes back.
    DiskFull,
    /// `fdatasync` failed. Its pages may be lost while marked clean, so there is no way back but recovery.
    FlushFailed,
    /// A mapped page lost its backing (SIGBUS).
    MapLost,
    /// The segment file was replaced, removed, shortened or changed under us.
    Replaced,
    /// Somebody outside has seen more of this log, or another one of its name. Never continued.
    RolledBack,
    /// The log neither acknowledges nor fails: a flush or the sequencer hangs. Ends with the next flush that does.
    Stalled,
    /// What was stored is not what was hashed. Nothing may be signed any more.
    StoredDiffers,
    /// Nothing was signed for longer than allowed. Ends when signing works again.
    Unsigned,
    /// A write to the segment failed.
    WriteFailed,
}

impl FailureKind {
    /// The stable name for metrics and the log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::DiskFull => "disk_full",
            Self::FlushFailed => "flush_failed",
            Self::MapLost => "map_lost",
            Self::Replaced => "replaced",
            Self::RolledBack => "rolled_back",
            Self::Stalled => "stalled",
            Self::StoredDiffers => "stored_differs",
            Self::Unsigned => "unsigned",
            Self::WriteFailed => "write_failed",
        }
    }

    /// Whether only a restart, through recovery, can end it.
    #[must_use]
    pub const fn is_permanent(self) -> bool {
        match self {
            Self::Closed
            | Self::FlushFailed
            | Self::MapLost
            | Self::Replaced
            | Self::RolledBack
            | Self::StoredDiffers
            | Self::WriteFailed => true,
            Self::DiskFull | Self::Stalled | Self::Unsigned => false,
        }
    }
}
