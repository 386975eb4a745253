//! The threads that grow the log: the sequencer writes, the flusher flushes (`keeper.rs` makes segments ready).
//!
//! The sequencer never waits for the disk while there is room: a flush runs on the flusher's thread, and the next
//! one starts when it ends. It sleeps when the rings are empty and nothing is due, so it may share a core with a
//! shard.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use crossbeam::channel::{Receiver, Sender, TryRecvError};

use super::{
    appender::{Batch, Shared},
    error::{AuditFailure, FailureKind},
    folder::Prepared,
    status::Progress,
    writer::{FlushJob, RESERVED_BYTES, Rolled, Writer},
};

/// The sequencer's thread.
pub(super) struct Sequencer {
    pub(super) shared: Arc<Shared>,
    pub(super) progress: Arc<Progress>,
    pub(super) writer: Writer,
    pub(super) flush_interval: Duration,
    pub(super) unflushed_age_max: Duration,
    pub(super) prepared: Receiver<Prepared>,
    // Of the standard library: its receiver sleeps at once, where crossbeam's first yields the core again and again, and
    // is then behind whatever took it when a job comes.
    pub(super) flushes: mpsc::SyncSender<(FlushJob, Vec<u64>)>,
    pub(super) flushed: Receiver<Flushed>,
    pub(super) stop: Receiver<Stop>,
}

/// How the log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Take what is queued, close in order, flush.
    Close,
    /// Stop where we are, as a crash would.
    Abandon,
}

/// What came of a flush.
pub(super) struct Flushed {
    result: std::io::Result<()>,
    size: u64,
    // The vector of acknowledgements, given back for the next job.
    acks: Vec<u64>,
}

/// A batch that is partly written, waiting for a segment.
struct Stalled {
    batch: Batch,
    at: usize,
}

/// The state of one run, apart from the settings above.
struct Run {
    stalled: Vec<Option<Stalled>>,
    // Highest core_seq stored per lane.
    recorded: Vec<u64>,
    // When the flush began that has not ended.
    in_flight: Option<Instant>,
    dirty_since: Option<Instant>,
    wave: Wave,
    acks: Vec<u64>,
    events: u64,
}

/// Those who wait for a flush, as a wave that comes back: whoever was told that a record is durable hands over the next.
///
/// A flush that starts with the first of them leaves the others for the one after it, and all wait for two. So the ones
/// that the last flush answered get the time it took to be there again. Nobody waits for anyone who is alone, or who
/// comes later than that.
#[derive(Default)]
struct Wave {
    // Lanes that wait for the next flush, each once.
    waiting: Vec<usize>,
    // How many the flush before it is for, or answered.
    answered: usize,
    // When the last flush ended, and what it took.
    ended: Option<(Instant, Duration)>,
}

impl Wave {
    fn join(&mut self, lane: usize) {
        if !self.waiting.contains(&lane) {
            self.waiting.push(lane);
        }
    }

    /// How long the flush may wait for the rest.
    fn patience(&self) -> Duration {
        match self.ended {
            Some((at, took)) if self.waiting.len() < self.answered => {
                took.min(PATIENCE_MAX).saturating_sub(at.elapsed())
            }
            _ => Duration::ZERO,
        }
    }

    /// A flush begins, for all that wait.
    fn leave(&mut self) {
        self.answered = self.waiting.len();
        self.waiting.clear();
    }
}

impl Sequencer {
    /// Runs until told to stop or until the log fails.
    pub(super) fn run(mut self) {
        self.shared.doorbell.answer_here();
        let lanes = self.shared.lanes.len();
        let mut run = Run {
            stalled: (0..lanes).map(|_| None).collect(),
            recorded: vec![0; lanes],
            in_flight: None,
            dirty_since: None,
            wave: Wave::default(),
            acks: Vec::new(),
            events: 0,
        };
        let shared = Arc::clone(&self.shared);
        match self.turn_until_stopped(&mut run) {
            Ok(()) => {
                shared.fail(AuditFailure::new(FailureKind::Closed, "the log was closed"));
            }
            Err(failure) => shared.fail(failure),
        }
    }

    fn turn_until_stopped(&mut self, run: &mut Run) -> Result<(), AuditFailure> {
        loop {
            self.leave_emergency()?;
            let progressed = self.drain(run)?;
            self.collect_flushed(run)?;
            self.commit_if_due(run)?;
            self.police_flush(run);
            if let Some(failure) = self.shared.failure()
                && failure.kind.is_permanent()
            {
                return Err(failure);
            }
            match self.stop.try_recv() {
                Ok(Stop::Close) => return self.close(run),
                Ok(Stop::Abandon) | Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => {}
            }
            if !progressed {
                self.sleep(run);
            }
        }
    }

    /// Takes a bounded number of batches from each lane in turn; says whether there were any.
    fn drain(&mut self, run: &mut Run) -> Result<bool, AuditFailure> {
        let shared = Arc::clone(&self.shared);
        let mut progressed = false;
        for (index, lane) in shared.lanes.iter().enumerate() {
            if index < shared.shards && self.writer.in_emergency() {
                continue;
            }
            let (mut records, mut bytes) = (0, 0);
            for _ in 0..BATCHES_PER_TURN {
                let Some(mut work) = run.stalled[index]
                    .take()
                    .or_else(|| lane.ring.pop().map(|batch| Stalled { batch, at: 0 }))
                else {
                    break;
                };
                if work.batch.tag_epoch != self.writer.tag_epoch() {
                    run.stalled[index] = Some(work);
                    break;
                }
                let taken = self.take(&mut work)?;
                bytes += taken.bytes as u64;
                if let Some(core_seq) = taken.core_seq {
                    run.recorded[index] = core_seq;
                    progressed = true;
                    if work.batch.durable {
                        run.wave.join(index);
                    }
                }
                records += taken.records;
                if work.at < work.batch.bytes.len() {
                    run.stalled[index] = Some(work);
                    break;
                }
                let mut buffer = work.batch.bytes;
                buffer.clear();
                // A lane that has enough spare buffers lets this one go.
                let _ = lane.spare.push(buffer);
            }
            if bytes > 0 {
                run.events += records;
                lane.publish_recorded(run.recorded[index], records, bytes);
            }
        }
        if progressed {
            run.dirty_since.get_or_insert_with(Instant::now);
            self.progress.publish(&self.writer);
        } else if let Some(epoch) = self.next_tag_epoch(run) {
            match self.prepared.try_recv() {
                Ok(prepared) => {
                    self.roll(prepared, epoch)?;
                    return Ok(true);
                }
                Err(_) => self.progress.publish_starved(true),
            }
        }
        Ok(progressed)
    }

    /// The epoch of the tags that the next segment is for, if all that waits is of another than this one's. What other
    /// lanes still have of this one goes first; each lane changes over once, so that a rotation takes one segment, and
    /// a lane that comes late two more.
    fn next_tag_epoch(&self, run: &Run) -> Option<u64> {
        let mut waiting = run.stalled.iter().flatten().map(|stalled| stalled.batch.tag_epoch);
        let next = waiting.next()?;
        let current = self.writer.tag_epoch();
        (next != current && waiting.all(|epoch| epoch != current)).then_some(next)
    }

    /// Writes as much of a batch as the segments at hand can hold.
    fn take(&mut self, work: &mut Stalled) -> Result<Taken, AuditFailure> {
        let mut taken = Taken::default();
        loop {
            let appended = self.writer.append(&mut work.batch.bytes[work.at..])?;
            work.at += appended.bytes;
            taken.bytes += appended.bytes;
            taken.records += appended.records;
            taken.core_seq = appended.core_seq.or(taken.core_seq);
            if work.at == work.batch.bytes.len() {
                return Ok(taken);
            }
            match self.prepared.try_recv() {
                Ok(prepared) => self.roll(prepared, self.writer.tag_epoch())?,
                Err(_) => {
                    self.progress.publish_starved(true);
                    return Ok(taken);
                }
            }
        }
    }

    fn roll(&mut self, prepared: Prepared, tag_epoch: u64) -> Result<(), AuditFailure> {
        let relieved = self.writer.in_emergency() && !prepared.emergency;
        self.progress.publish_starved(false);
        self.writer.roll(prepared, tag_epoch)?;
        if relieved {
            self.shared.reopen(FailureKind::DiskFull);
        }
        Ok(())
    }

    /// Leaves the emergency segment as soon as there is another.
    fn leave_emergency(&mut self) -> Result<(), AuditFailure> {
        if self.writer.in_emergency()
            && let Ok(prepared) = self.prepared.try_recv()
        {
            self.roll(prepared, self.writer.tag_epoch())?;
        }
        Ok(())
    }

    fn collect_flushed(&mut self, run: &mut Run) -> Result<(), AuditFailure> {
        while let Ok(flushed) = self.flushed.try_recv() {
            run.wave.ended = run.in_flight.take().map(|begun| (Instant::now(), begun.elapsed()));
            run.acks = flushed.acks;
            flushed.result.map_err(|error| AuditFailure::new(FailureKind::FlushFailed, error))?;
            self.writer.end_commit(flushed.size);
        }
        Ok(())
    }

    fn commit_if_due(&mut self, run: &mut Run) -> Result<(), AuditFailure> {
        let Some(since) = run.dirty_since else { return Ok(()) };
        let wanted = !run.wave.waiting.is_empty() && run.wave.patience().is_zero();
        if run.in_flight.is_some() || !(wanted || since.elapsed() >= self.flush_interval) {
            return Ok(());
        }
        let job = self.writer.begin_commit()?;
        let mut acks = std::mem::take(&mut run.acks);
        acks.clone_from(&run.recorded);
        run.wave.leave();
        run.dirty_since = None;
        run.in_flight = Some(Instant::now());
        self.progress.publish(&self.writer);
        self.flushes
            .send((job, acks))
            .map_err(|_| AuditFailure::new(FailureKind::FlushFailed, "the flusher has ended"))
    }

    /// Shuts the shards out while a flush takes longer than the promise that was made to those already answered. The
    /// flusher lets them in again.
    fn police_flush(&self, run: &Run) {
        if let Some(since) = run.in_flight
            && since.elapsed() > self.unflushed_age_max
            // It may have ended just now, and with it the reason.
            && self.flushed.is_empty()
        {
            let detail = format_args!("a flush has not ended for {} ms", since.elapsed().as_millis());
            self.shared.restrict(AuditFailure::new(FailureKind::Stalled, detail));
            if !self.flushed.is_empty() {
                self.shared.reopen(FailureKind::Stalled);
            }
        }
    }

    /// Sleeps until something is queued, due, or done.
    fn sleep(&self, run: &Run) {
        let due = match (run.in_flight, run.dirty_since) {
            // Once the shards are shut out the flusher alone ends that.
            (Some(since), _) => self.unflushed_age_max.checked_sub(since.elapsed()).map(|left| left + SLACK),
            (None, Some(_)) if !run.wave.waiting.is_empty() => Some(run.wave.patience()),
            (None, Some(since)) => Some(self.flush_interval.saturating_sub(since.elapsed())),
            (None, None) => None,
        };
        let emergency = self.writer.in_emergency();
        self.shared.doorbell.sleep_unless(due, || {
            let queued = |(index, lane): (usize, &crossbeam::utils::CachePadded<super::appender::Lane>)| {
                (index >= self.shared.shards || !emergency)
                    && !lane.ring.is_empty()
                    && run.stalled[index].is_none()
            };
            self.shared.lanes.iter().enumerate().any(queued)
                || !self.flushed.is_empty()
                || !self.stop.is_empty()
                || ((emergency || run.stalled.iter().any(Option::is_some)) && !self.prepared.is_empty())
        });
    }

    /// Takes everything queued, writes the last records and waits for the last flush.
    fn close(&mut self, run: &mut Run) -> Result<(), AuditFailure> {
        loop {
            while self.drain(run)? {}
            if run.stalled.iter().all(Option::is_none) {
                break;
            }
            match self.prepared.recv_timeout(CLOSE_WAIT) {
                Ok(prepared) => {
                    let epoch = self.next_tag_epoch(run).unwrap_or(self.writer.tag_epoch());
                    self.roll(prepared, epoch)?;
                }
                // What still waits was never acknowledged.
                Err(_) => break,
            }
        }
        while run.in_flight.is_some() {
            let flushed = self
                .flushed
                .recv()
                .map_err(|_| AuditFailure::new(FailureKind::FlushFailed, "the flusher has ended"))?;
            run.in_flight = None;
            flushed.result.map_err(|error| AuditFailure::new(FailureKind::FlushFailed, error))?;
            self.writer.end_commit(flushed.size);
        }
        let job = self.writer.close(run.events)?;
        self.progress.publish(&self.writer);
        self.flushes
            .send((job, run.recorded.clone()))
            .map_err(|_| AuditFailure::new(FailureKind::FlushFailed, "the flusher has ended"))?;
        let flushed = self
            .flushed
            .recv()
            .map_err(|_| AuditFailure::new(FailureKind::FlushFailed, "the flusher has ended"))?;
        flushed.result.map_err(|error| AuditFailure::new(FailureKind::FlushFailed, error))?;
        self.progress.publish_closed(self.writer.position());
        Ok(())
    }
}

#[derive(Default)]
struct Taken {
    bytes: usize,
    records: u64,
    core_seq: Option<u64>,
}

/// Flushes one job after the other and tells the owners of what became durable.
pub(super) fn run_flusher(
    shared: &Shared,
    progress: &Progress,
    jobs: &mpsc::Receiver<(FlushJob, Vec<u64>)>,
    done: &Sender<Flushed>,
    finished: &Sender<Rolled>,
) {
    for (job, acks) in jobs {
        let started = Instant::now();
        let result = job.run();
        let failed = result.is_err();
        if let Err(error) = &result {
            // Shut the gate before anyone can be told that a later record is safe.
            shared.fail(AuditFailure::new(FailureKind::FlushFailed, error));
        } else {
            progress.publish_flush(job.head, started.elapsed());
            for (lane, core_seq) in shared.lanes.iter().zip(&acks) {
                lane.publish_durable(*core_seq);
            }
            for rolled in job.rolled {
                // The keeper ends after us; if it is gone, recovery finishes the segment.
                let _ = finished.send(rolled);
            }
        }
        let _ = done.send(Flushed { result, size: job.head.size, acks });
        // After what was flushed is published and told: whoever shuts the shards out looks again at one of the two.
        shared.reopen(FailureKind::Stalled);
        shared.doorbell.ring();
        if failed {
            // The pages of a failed flush may be marked clean without being stored: never flush again.
            return;
        }
    }
}

/// Batches taken from one lane before the others get their turn.
const BATCHES_PER_TURN: usize = 16;

/// The longest time a wave is waited for, however slow the disk.
const PATIENCE_MAX: Duration = Duration::from_millis(1);

/// Past a deadline by so much it has surely passed.
const SLACK: Duration = Duration::from_millis(1);

/// How long a close waits for a segment that records still queued would need.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// The smallest segment: one record of the longest kind, its neighbours, and the reserve.
pub(super) const SEGMENT_BYTES_MIN: u64 = 2 * super::record::BODY_BYTES_MAX as u64 + 4096 + RESERVED_BYTES;

#[cfg(test)]
#[path = "sequencer_tests.rs"]
mod tests;
