//! How far a target came, kept in a small file beside the log.
//!
//! What the file says is never ahead of what the target has; it may be behind, and then records are sent again. Without the
//! file a mirror begins with the oldest record that the log still has.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::audit::{Hash, hex, replace_file, unhex};

/// A place in the log: before the record `next`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) next: u64,
    /// The event hash of the record before it; not known at the oldest record and behind a gap.
    pub(super) before: Option<Hash>,
}

/// The file with a target's place.
#[derive(Debug)]
pub(super) struct PlaceFile {
    dir: PathBuf,
    name: String,
    origin: String,
    stored: Option<(Place, Instant)>,
}

impl PlaceFile {
    pub(super) fn new(dir: &Path, target: &str, origin: &str) -> Self {
        Self {
            dir: dir.to_owned(),
            name: format!("mirror-{target}.place"),
            origin: origin.to_owned(),
            stored: None,
        }
    }

    /// The place stored; `None` where there is no file, or one of another log or make.
    pub(super) fn load(&self) -> Option<Place> {
        let text = std::fs::read_to_string(self.dir.join(&self.name)).ok()?;
        let mut lines = text.strip_suffix('\n')?.split('\n');
        if lines.next()? != TITLE || lines.next()? != self.origin {
            return None;
        }
        let next = lines.next()?.parse().ok()?;
        let before = match lines.next()? {
            "" => None,
            text => Some(unhex(text)?.try_into().ok()?),
        };
        lines.next().is_none().then_some(Place { next, before })
    }

    /// Stores the place, not too often unless `now` is asked for. That it cannot be stored costs repetitions, no more.
    pub(super) fn store(&mut self, place: Place, at_once: bool) {
        let due =
            |(stored, at): &(Place, Instant)| *stored != place && (at_once || at.elapsed() >= STORE_PAUSE);
        if !self.stored.as_ref().is_none_or(due) {
            return;
        }
        let before = place.before.as_ref().map(|hash| hex(hash)).unwrap_or_default();
        let text = format!("{TITLE}\n{}\n{}\n{before}\n", self.origin, place.next);
        if let Err(error) = replace_file(&self.dir, &self.name, text.as_bytes()) {
            tracing::warn!(%error, file = self.name, "cannot store how far the audit mirror came; more will be sent again");
        }
        self.stored = Some((place, Instant::now()));
    }
}

/// What was sent to a receiver that confirms nothing, and how much of it counts as received.
///
/// A byte counts once so many were taken behind it that it cannot be in a buffer of ours any more, or once the connection
/// has lived on for longer than it would have with a byte that was not acknowledged. What does not count is sent again
/// after the connection broke.
#[derive(Debug)]
pub(super) struct Unsettled {
    marks: VecDeque<Mark>,
    bytes: u64,
}

#[derive(Debug)]
struct Mark {
    place: Place,
    bytes: u64,
    at: Instant,
}

impl Unsettled {
    pub(super) const fn new() -> Self {
        Self { marks: VecDeque::new(), bytes: 0 }
    }

    /// So many bytes were sent, up to `place`.
    pub(super) fn sent(&mut self, bytes: usize, place: Place, now: Instant) {
        self.bytes += bytes as u64;
        let mark = Mark { place, bytes: self.bytes, at: now };
        // Few are enough: one for each second or for so many bytes.
        let before = self.marks.len().checked_sub(2).map(|at| &self.marks[at]);
        let close = before.is_some_and(|before| {
            mark.bytes - before.bytes < MARK_BYTES && now.saturating_duration_since(before.at) < MARK_PAUSE
        });
        if close {
            self.marks.pop_back();
        }
        self.marks.push_back(mark);
    }

    /// The latest place up to which everything counts as received, if it is another than before.
    pub(super) fn settle(&mut self, now: Instant) -> Option<Place> {
        let mut settled = None;
        while let Some(mark) = self.marks.front()
            && (self.bytes - mark.bytes >= BUFFERED_BYTES
                || now.saturating_duration_since(mark.at) >= SETTLE_TIME)
        {
            settled = Some(mark.place);
            self.marks.pop_front();
        }
        settled
    }

    /// Nothing of it is on its way any more.
    pub(super) fn forget(&mut self) {
        self.marks.clear();
    }
}

const TITLE: &str = "edgate mirror place v1";

/// Time between two writes of the file, each of which is flushed.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// What may be in buffers between us and the receiver's program: the kernel's on both sides.
const BUFFERED_BYTES: u64 = 8 << 20;

/// A connection with a byte unacknowledged for this long is ended by the kernel.
pub(super) const SETTLE_TIME: Duration = Duration::from_secs(30);

const MARK_BYTES: u64 = 64 << 10;
const MARK_PAUSE: Duration = Duration::from_secs(1);
