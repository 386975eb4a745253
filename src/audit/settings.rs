//! How a log is kept: the settings, and the bounds they are held to.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{
    error::AuditError, real::SinkKind, sealed::Sealing, sequencer::SEGMENT_BYTES_MIN, tag_file::TagKeyWrap,
};

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The log folder. It must exist unless `create` is set.
    pub dir: PathBuf,
    /// The log's name: a C2SP checkpoint origin, such as `example.com/edgate/node1`. Part of the chain.
    pub origin: String,
    /// Bytes of one segment; 64 MiB unless there is a reason.
    pub segment_bytes: u64,
    /// The longest time a recorded event waits for its flush.
    pub flush_interval: Duration,
    /// When a flush has taken so long, shards are refused ([`FailureKind::Stalled`]) until it ends: nobody is told
    /// more than this much that a power cut would take back.
    pub unflushed_age_max: Duration,
    /// Events of one appender that may wait for the sequencer.
    pub queue_events: usize,
    /// Bytes of one appender that may wait for the sequencer.
    pub queue_bytes: u64,
    /// The longest time between two checkpoints while there are new events.
    pub checkpoint_interval: Duration,
    /// A checkpoint is made earlier when so many events are unsigned.
    pub checkpoint_events: u64,
    /// A checkpoint is made after this time even when there are no new events.
    pub checkpoint_idle: Duration,
    /// When nothing could be signed for so long, shards are refused ([`FailureKind::Unsigned`]).
    pub unsigned_age_max: Duration,
    /// Whether receipts are given to those who ask for them; needs a checkpoint signer.
    pub receipts: bool,
    /// Which values are sealed, and for whom; none by default.
    pub sealing: Option<Sealing>,
    /// Who wraps the files of the tag keys; by default they are not wrapped.
    pub tag_wrap: Option<Arc<dyn TagKeyWrap>>,
    /// What the callers do when an event cannot be recorded. The log only carries the setting.
    pub on_failure: OnFailure,
    /// When the disk counts as low, scarce and full.
    pub watermarks: Watermarks,
    /// How segments are written; `None` chooses by the file system ([`super::sink_for`]).
    pub sink: Option<SinkKind>,
    /// Whether a folder without a log is given one. Only `--dev` and an explicit init set it.
    pub create: bool,
}

impl Settings {
    /// The defaults for a log in `dir` called `origin`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, origin: impl Into<String>) -> Self {
        Self {
            dir: dir.into(),
            origin: origin.into(),
            segment_bytes: 64 << 20,
            flush_interval: Duration::from_millis(50),
            unflushed_age_max: Duration::from_secs(1),
            queue_events: 8192,
            queue_bytes: 4 << 20,
            checkpoint_interval: Duration::from_secs(1),
            checkpoint_events: 1 << 20,
            checkpoint_idle: Duration::from_secs(60),
            unsigned_age_max: Duration::from_secs(600),
            receipts: false,
            sealing: None,
            tag_wrap: None,
            on_failure: OnFailure::Deny,
            watermarks: Watermarks::default(),
            sink: None,
            create: false,
        }
    }

    /// Checks what can be checked without touching the disk.
    ///
    /// # Errors
    /// [`AuditError::Settings`] naming the value and its bounds.
    pub fn check(&self) -> Result<(), AuditError> {
        let refuse = |message: String| Err(AuditError::Settings(message));
        // C2SP tlog-checkpoint: a non-empty line; signed-note: key names have no spaces and no plus.
        let name = &self.origin;
        if name.is_empty()
            || name.len() > ORIGIN_BYTES_MAX
            || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
        {
            return refuse(format!(
                "origin {name:?} must be 1 to {ORIGIN_BYTES_MAX} bytes without spaces or '+'"
            ));
        }
        if self.segment_bytes < SEGMENT_BYTES_MIN || self.segment_bytes > SEGMENT_BYTES_MAX {
            let bytes = self.segment_bytes;
            return refuse(format!(
                "segment_bytes {bytes} is not in {SEGMENT_BYTES_MIN}..={SEGMENT_BYTES_MAX}"
            ));
        }
        if !self.segment_bytes.is_multiple_of(4096) {
            return refuse(format!("segment_bytes {} is not a multiple of 4096", self.segment_bytes));
        }
        if self.queue_events < 4 || self.queue_events > QUEUE_EVENTS_MAX {
            return refuse(format!("queue_events {} is not in 4..={QUEUE_EVENTS_MAX}", self.queue_events));
        }
        self.sealing.as_ref().map_or(Ok(()), Sealing::check)
    }
}

/// How much room counts as how little: in bytes, and in time at the rate of the last seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// Below this many free bytes the disk is low.
    pub low_bytes: u64,
    /// Below this many it is scarce.
    pub scarce_bytes: u64,
    /// Below this many no further segment is made, so that others on the disk can go on.
    pub full_bytes: u64,
    /// The disk is low when it would be full sooner than this.
    pub low_time: Duration,
    /// The disk is scarce when it would be full sooner than this.
    pub scarce_time: Duration,
}

impl Default for Watermarks {
    fn default() -> Self {
        Self {
            low_bytes: 8 << 30,
            scarce_bytes: 2 << 30,
            full_bytes: 64 << 20,
            low_time: Duration::from_secs(24 * 3600),
            scarce_time: Duration::from_secs(3600),
        }
    }
}

/// What a caller does with a decision that cannot be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// Answer without a decision, at once and by name.
    #[default]
    Deny,
    /// Stop the daemon.
    Halt,
    /// Answer, and let a GAP record count what is missing.
    AllowWithGap,
}

impl OnFailure {
    /// The setting's spelling.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Halt => "halt",
            Self::AllowWithGap => "allow_with_gap",
        }
    }

    /// The setting of a spelling.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Deny, Self::Halt, Self::AllowWithGap].into_iter().find(|policy| policy.name() == name)
    }
}

/// The longest origin.
const ORIGIN_BYTES_MAX: usize = 128;

/// A segment is read into memory whole when a log is opened.
pub(super) const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Most events one appender may have waiting.
const QUEUE_EVENTS_MAX: usize = 1 << 20;
