//! The keeper: makes segments ready before they are needed, finishes full ones, and looks after the disk.
//!
//! Space runs out here, not in the sequencer: a segment is zeroed and synced before anyone writes to it. When the
//! next one cannot be made, the log still has the rest of the active segment, then a small emergency segment for the
//! control plane's records and the log's own. Shards are refused by name meanwhile, and let in again when a segment
//! can be made.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam::channel::{Receiver, Select, Sender};

use super::{
    appender::{Appender, Shared},
    error::{AuditFailure, FailureKind},
    folder::{Folder, Prepared, Reserve},
    schema::Kind,
    settings::Watermarks,
    status::Progress,
    writer::Rolled,
};

/// How much room the disk has for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskState {
    /// Above all watermarks.
    Ample,
    /// Below the first watermark: someone should look.
    Low,
    /// Below the second: someone must act.
    Scarce,
    /// Below the third, or no segment can be made.
    Full,
}

impl DiskState {
    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ample => "ample",
            Self::Low => "low",
            Self::Scarce => "scarce",
            Self::Full => "full",
        }
    }

    /// The state of a disk with `free` bytes that will be full in `seconds_to_full`.
    pub(super) fn of(free: u64, seconds_to_full: Option<u64>, marks: &Watermarks) -> Self {
        let soon = |time: Duration| seconds_to_full.is_some_and(|seconds| seconds < time.as_secs());
        if free < marks.full_bytes {
            Self::Full
        } else if free < marks.scarce_bytes || soon(marks.scarce_time) {
            Self::Scarce
        } else if free < marks.low_bytes || soon(marks.low_time) {
            Self::Low
        } else {
            Self::Ample
        }
    }
}

/// The keeper's thread.
pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) progress: Arc<Progress>,
    pub(super) folder: Arc<Folder>,
    pub(super) appender: Appender,
    pub(super) segment_bytes: u64,
    pub(super) marks: Watermarks,
    pub(super) next_index: u64,
    pub(super) prepared: Sender<Prepared>,
    pub(super) rolled: Receiver<Rolled>,
    /// The emergency segment: made before anyone relies on it.
    pub(super) reserve: Option<Reserve>,
}

/// What the keeper has at hand.
#[derive(Default)]
struct Stock {
    ready: Option<Prepared>,
    error: Option<String>,
    looked_at: Option<Instant>,
    // Records and time of the last look, for the rate at which the disk fills.
    last_bytes: Option<(u64, Instant)>,
    state: Option<DiskState>,
}

impl Keeper {
    /// Runs until the sequencer and the flusher have ended.
    pub(super) fn run(mut self) {
        let mut stock = Stock::default();
        loop {
            self.look(&mut stock);
            self.provide(&mut stock);
            let pause = if stock.ready.is_some() { LOOK_INTERVAL } else { RETRY_INTERVAL };
            let timeout = crossbeam::channel::after(pause);
            let mut select = Select::new();
            let rolled_at = select.recv(&self.rolled);
            let timeout_at = select.recv(&timeout);
            if stock.ready.is_some() {
                select.send(&self.prepared);
            }
            let chosen = select.select();
            match chosen.index() {
                at if at == rolled_at => match chosen.recv(&self.rolled) {
                    Ok(rolled) => self.finish(rolled),
                    // Flusher and sequencer are gone: the log is closed or has failed.
                    Err(_) => return,
                },
                at if at == timeout_at => {
                    let _ = chosen.recv(&timeout);
                }
                _ => {
                    let segment = stock.ready.take().expect("the offer is made only when a segment is ready");
                    if chosen.send(&self.prepared, segment).is_err() {
                        return;
                    }
                    self.progress.publish_starved(false);
                    self.shared.doorbell.ring();
                }
            }
        }
    }

    /// Makes what is missing: the next segment, and the emergency segment. Hands out the latter when it is needed.
    fn provide(&mut self, stock: &mut Stock) {
        if stock.ready.is_none() {
            let made = if stock.state == Some(DiskState::Full) {
                Err(io::Error::new(io::ErrorKind::StorageFull, "below the last watermark"))
            } else {
                self.folder.prepare(self.next_index, self.segment_bytes)
            };
            match made {
                Ok(segment) => {
                    self.progress.publish_prepared(self.next_index);
                    self.next_index += 1;
                    stock.ready = Some(segment);
                    stock.error = None;
                }
                Err(error) => stock.error = Some(error.to_string()),
            }
            self.progress.publish_prepare_error(stock.error.clone());
        }
        if self.reserve.is_none() && stock.ready.is_some() {
            self.reserve = self.folder.reserve(EMERGENCY_BYTES).ok();
        }
        if let (Some(error), true) = (&stock.error, self.progress.is_starved() && self.prepared.is_empty()) {
            let failure = format!("cannot make segment {}: {error}", self.next_index);
            self.shared.restrict(AuditFailure::new(FailureKind::DiskFull, failure));
            if let Some(reserve) = self.reserve.take()
                && let Ok(segment) = self.folder.adopt(reserve, self.next_index)
            {
                self.next_index += 1;
                // The channel was empty a moment ago, and only the keeper sends.
                let _ = self.prepared.try_send(segment);
                self.progress.publish_starved(false);
                self.shared.doorbell.ring();
                self.tell(DiskState::Full, self.folder.free_bytes().unwrap_or(0), None);
            }
        }
    }

    /// Looks at the active file and at the room left, now and then.
    fn look(&mut self, stock: &mut Stock) {
        if stock.looked_at.is_some_and(|at| at.elapsed() < LOOK_INTERVAL) {
            return;
        }
        stock.looked_at = Some(Instant::now());
        self.check_named();
        let Ok(free) = self.folder.free_bytes() else { return };
        let seconds_to_full = self.seconds_to_full(stock, free);
        let state = DiskState::of(free, seconds_to_full, &self.marks);
        if stock.state.replace(state).unwrap_or(DiskState::Ample) != state {
            self.tell(state, free, seconds_to_full);
        }
        self.progress.publish_disk(state, free);
    }

    fn seconds_to_full(&self, stock: &mut Stock, free: u64) -> Option<u64> {
        let bytes = self.progress.bytes();
        let (earlier, at) = stock.last_bytes.replace((bytes, Instant::now()))?;
        let rate = (bytes - earlier).checked_div(at.elapsed().as_secs().max(1))?;
        free.checked_div(rate)
    }

    /// Records a change of the disk's state; as every record, it can come to nothing when the log is shut.
    fn tell(&mut self, state: DiskState, free: u64, seconds_to_full: Option<u64>) {
        let _ = self.appender.append_own(Kind::DiskState, |body| {
            body.text(1, state.name());
            body.uint(2, free);
            body.uint_if(3, seconds_to_full);
        });
        self.appender.submit();
    }

    fn check_named(&self) {
        if let Err(error) = self.folder.check_named() {
            self.shared.fail(AuditFailure::new(FailureKind::Replaced, error));
        }
    }

    fn finish(&self, rolled: Rolled) {
        // The last look: afterwards nobody remembers which file it was.
        self.check_named();
        let (index, bytes) = (rolled.index, rolled.bytes);
        // The map goes before the file is cut.
        drop(rolled);
        if let Err(error) = self.folder.finish(index, Some(bytes)) {
            let detail = format_args!("cannot finish segment {index}: {error}").to_string();
            self.shared.fail(AuditFailure::new(FailureKind::WriteFailed, detail));
        }
    }
}

/// How often the keeper looks at the active file and the disk.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How soon a segment that could not be made is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Room for some thousands of the control plane's and the log's own records.
pub(super) const EMERGENCY_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watermarks_count_in_bytes_and_in_time() {
        let marks = Watermarks {
            low_bytes: 300,
            scarce_bytes: 200,
            full_bytes: 100,
            low_time: Duration::from_secs(60),
            scarce_time: Duration::from_secs(10),
        };
        assert_eq!(DiskState::of(1000, None, &marks), DiskState::Ample);
        assert_eq!(DiskState::of(1000, Some(59), &marks), DiskState::Low);
        assert_eq!(DiskState::of(299, Some(1000), &marks), DiskState::Low);
        assert_eq!(DiskState::of(1000, Some(9), &marks), DiskState::Scarce);
        assert_eq!(DiskState::of(199, None, &marks), DiskState::Scarce);
        assert_eq!(DiskState::of(99, None, &marks), DiskState::Full);
    }
}
