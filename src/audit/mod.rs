//! The evidence: one hash chain per node, one writer, memory-mapped segments.
//!
//! - [`Appender`]: what a shard holds. Encodes and hashes an event's body, hands batches over, learns when they are
//!   safe. Never blocks.
//! - `sequencer.rs`: the one thread that completes headers (`prev_hash`, `seq`, clocks) and stores records; the
//!   flusher and the keeper beside it. `writer.rs` is the same without threads.
//! - `recover.rs`: what a start finds, and what it does about it; `succeed.rs`: what an operator decides where it refuses.
//! - `archive/`: the small form of a segment that nobody writes to any more; `stored.rs`: a segment's bytes, whatever their form.
//! - [`verify`]: recomputes everything from the stored bytes; needs no running log.
//! - [`bundle`]: a part of the log with all that a stranger needs to check it, in one file.
//! - [`drill`]: shows that verification sees what is done to a log.
//! - [`doctor`]: what the disk of a log does, and so what is guaranteed on it.
//! - [`timestamp`]: what an authority elsewhere says about a checkpoint's age (RFC 3161).
//! - [`proof`]: what shows a stranger one record, or that one state of the log continues another.
//! - [`Eraser`]: bodies dropped by an authority; `erased.rs` says which orders count.
//! - [`hold`]: what nobody may retire or erase.
//! - [`sealed`]: values that only named openers can read, together.
//! - [`receipt`]: what a client keeps of an answer, to show later that its record was promised.
//! - [`summary`]: its figures, for people.
//! - FORMAT.md: every byte.
//!
//! This room uses std threads and `std::task::Waker` only; it imports `crate::decision` and nothing else of ours.
//! The wall clock of a record is read by the sequencer, once per batch.

mod acks;
mod appender;
pub mod archive;
mod body;
pub mod bundle;
pub mod cbor;
mod checksums;
mod classes;
mod clock;
mod copy;
mod copy_line;
mod cosignature;
mod disk;
pub mod doctor;
mod doorbell;
mod draft;
pub mod drill;
mod erase;
mod erased;
mod error;
mod event;
pub mod export;
pub mod export_again;
mod file_system;
mod flat;
mod folder;
mod hex;
pub mod hold;
mod id;
mod keeper;
mod kept;
mod key_history;
mod log_watch;
mod map;
pub mod merkle;
pub mod note;
mod open;
mod outlet;
#[doc(hidden)]
pub mod probe;
pub mod proof;
mod real;
pub mod receipt;
pub mod record;
mod recover;
pub mod retire;
mod rows;
pub mod schema;
pub mod sealed;
mod sealer;
mod sequencer;
mod settings;
mod sha256;
mod short;
mod status;
mod stored;
mod succeed;
pub mod summary;
mod sync;
pub mod tag;
mod tag_file;
mod tag_keys;
mod tagging;
mod tail;
pub mod timestamp;
pub mod verify;
mod walk;
mod writer;

pub use appender::{Ack, Appender};
pub use copy::{Copy, CopyBreak, CopyReport};
pub use copy_line::{GAP_KIND, SD_ID};
pub use cosignature::{Cosigned, WitnessKey, cosignatures};
pub use erase::{Erasable, EraseError, Eraser, RecordName, Resumed, Waiting, Wanted};
pub use erased::Erasure;
pub use error::{AuditError, AuditFailure, FailureKind};
pub use event::{
    AdminEvent, AnchorEvent, BATCH_ITEMS_MAX, BatchEvent, BatchItem, ChangeEvent, DecisionEvent, EraseEvent,
    Event, ExportEvent, IssueEvent, KID_BYTES_MAX, Phase, RetireEvent, RevokeEvent, StartEvent, StopEvent,
    VerifyRunEvent,
};
pub use file_system::{FileSystem, KeptBy};
pub use flat::Pair;
pub use hex::{hex, unhex, unhex_exact};
pub use id::{RECORD_ID_TEXT_MAX, RecordId, RecordIdError, RecordIdText};
pub use keeper::DiskState;
pub use kept::{Conviction, PassedOver, keep_anchor, kept_anchor};
pub use key_history::{Handover, KeyHistory, KeyHistoryError, own_keys};
pub use log_watch::LogWatch;
pub use note::{CheckpointKey, NoteError};
pub use open::{Log, Opened, open, open_signed, open_vouched};
pub use outlet::{Published, Subscription, Taken};
pub(crate) use real::{Lock, sync_folder};
pub use real::{SinkKind, replace_file, sink_for};
pub use record::Hash;
pub use recover::{Recovery, Torn};
pub use sealer::{CheckpointSigner, Handovers, Sign, SignError};
pub use settings::{OnFailure, Settings, Watermarks};
pub use status::Status;
pub use succeed::{Decision, SetAside, succeed};
pub use tag_file::{NotOpened, TagKeyWrap};
pub use tag_keys::{EpochKey, Rewrapped, TagKeys};
pub use tagging::LogTags;
pub use tail::{Entry, Tail};

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod format_tests;
#[cfg(test)]
mod recover_tests;
#[cfg(test)]
mod running;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod succeed_tests;
#[cfg(test)]
mod tests;
