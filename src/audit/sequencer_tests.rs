//! The sequencer and the flusher, step by step on the simulated medium: what each does when a flush fails, hangs or is
//! not wanted, whatever the other does.

use std::io;

use crossbeam::channel::{bounded, unbounded};

use super::*;
use crate::audit::{
    Ack, Appender, Event, Settings, StopEvent,
    clock::{Clock, Reading},
    folder::Folder,
    open::resume,
    sim::{Effect, Fail, Sim},
    tag::TagKey,
    tagging::Tagging,
};

const SEGMENT_BYTES: u64 = 8192;

/// A sequencer whose neighbours are played by the test: one shard's lane, the control plane's.
struct Stage {
    sim: Sim,
    folder: Folder,
    sequencer: Sequencer,
    run: Run,
    appenders: Vec<Appender>,
    prepared: Sender<Prepared>,
    jobs: mpsc::Receiver<(FlushJob, Vec<u64>)>,
    flushed: Sender<Flushed>,
    _stop: Sender<Stop>,
}

fn stage() -> Stage {
    let sim = Sim::new(1);
    let folder = Folder::new(Box::new(sim.clone()));
    let mut settings = Settings::new("/sim", "test.example/sim");
    settings.segment_bytes = SEGMENT_BYTES;
    let clock = Clock::new(|| Reading { wall_ns: 1_000, mono_ns: 1_000 });
    let (writer, _) = resume(&folder, &settings, clock).unwrap();
    let tagging = Tagging::new(1, TagKey::new(&[0; 32]), None);
    let shared = Arc::new(Shared::new(writer.boot(), 2, 1, tagging, 64, 1 << 20));
    let progress = Arc::new(Progress::new(&writer));
    let (prepared_out, prepared_in) = bounded(1);
    let (flushes_out, flushes_in) = mpsc::sync_channel(1);
    let (flushed_out, flushed_in) = bounded(1);
    let (stop_out, stop_in) = bounded(1);
    let appenders = (0..2).map(|core| Appender::new(Arc::clone(&shared), core)).collect();
    let sequencer = Sequencer {
        shared,
        progress,
        writer,
        flush_interval: Duration::ZERO,
        unflushed_age_max: Duration::from_secs(60),
        prepared: prepared_in,
        flushes: flushes_out,
        flushed: flushed_in,
        stop: stop_in,
    };
    let run = Run {
        stalled: vec![None, None],
        recorded: vec![0; 2],
        in_flight: None,
        wave: Wave::default(),
        dirty_since: None,
        acks: Vec::new(),
        events: 0,
    };
    Stage {
        sim,
        folder,
        sequencer,
        run,
        appenders,
        prepared: prepared_out,
        jobs: flushes_in,
        flushed: flushed_out,
        _stop: stop_out,
    }
}

impl Stage {
    fn append(&mut self, lane: usize) -> u64 {
        let event = Event::Stop(StopEvent { reason: "test" });
        let id = self.appenders[lane].append(&event, Ack::Durable).unwrap();
        self.appenders[lane].submit();
        id.core_seq
    }

    /// What the flusher says of a flush that failed.
    fn flush_failed(&self) {
        let result = Err(io::Error::other("the disk is gone"));
        self.flushed.send(Flushed { result, size: u64::MAX, acks: Vec::new() }).unwrap();
    }

    /// The flusher alone, with these jobs and no more.
    fn flush(&self, jobs: Vec<(FlushJob, Vec<u64>)>) -> Vec<io::Result<()>> {
        let (jobs_out, jobs_in) = mpsc::channel();
        jobs.into_iter().for_each(|job| jobs_out.send(job).unwrap());
        drop(jobs_out);
        let (done_out, done_in) = unbounded();
        let (rolled_out, _rolled_in) = unbounded();
        run_flusher(&self.sequencer.shared, &self.sequencer.progress, &jobs_in, &done_out, &rolled_out);
        done_in.try_iter().map(|flushed| flushed.result).collect()
    }
}

#[test]
fn a_failed_flush_shuts_the_log_tells_nobody_and_is_the_last() {
    let mut stage = stage();
    let mut jobs = Vec::new();
    for _ in 0..2 {
        let core_seq = stage.append(0);
        stage.sequencer.drain(&mut stage.run).unwrap();
        jobs.push((stage.sequencer.writer.begin_commit().unwrap(), vec![core_seq, 0]));
    }
    let before = stage.sequencer.progress.durable().size;
    // It says that it failed, once; the next one would say that all is well.
    stage.sim.fail(Fail { at: 1, sticky: false, effect: Effect::Nothing, error: io::ErrorKind::Other });
    let results = stage.flush(jobs);
    assert_eq!(results.len(), 1, "nothing is flushed after a flush that failed");
    assert!(results[0].is_err());
    let failure = stage.sequencer.shared.failure().unwrap();
    assert!(failure.kind == FailureKind::FlushFailed && failure.kind.is_permanent(), "{failure}");
    assert_eq!(stage.appenders[0].acknowledged(Ack::Durable), 0, "nobody is told that it is safe");
    assert_eq!(stage.sequencer.progress.durable().size, before);
    let event = Event::Stop(StopEvent { reason: "late" });
    assert!(stage.appenders[0].append(&event, Ack::Recorded).is_err());
}

#[test]
fn a_failed_flush_stops_the_sequencer_before_it_states_anything() {
    let mut stage = stage();
    stage.append(0);
    stage.sequencer.drain(&mut stage.run).unwrap();
    stage.sequencer.commit_if_due(&mut stage.run).unwrap();
    stage.flush_failed();
    let failure = stage.sequencer.collect_flushed(&mut stage.run).unwrap_err();
    assert_eq!(failure.kind, FailureKind::FlushFailed);
}

#[test]
fn one_flush_is_under_way_at_a_time() {
    let mut stage = stage();
    stage.append(0);
    stage.sequencer.drain(&mut stage.run).unwrap();
    stage.sequencer.commit_if_due(&mut stage.run).unwrap();
    let (job, acks) = stage.jobs.try_recv().unwrap();
    let commits = stage.sequencer.writer.commits();
    stage.append(0);
    stage.sequencer.drain(&mut stage.run).unwrap();
    stage.sequencer.commit_if_due(&mut stage.run).unwrap();
    assert!(stage.jobs.try_recv().is_err(), "the first has not come back");
    assert_eq!(stage.sequencer.writer.commits(), commits, "and nothing states more than it flushed");
    let size = job.head.size;
    stage.flushed.send(Flushed { result: job.run(), size, acks }).unwrap();
    stage.sequencer.collect_flushed(&mut stage.run).unwrap();
    stage.sequencer.commit_if_due(&mut stage.run).unwrap();
    assert_eq!(stage.jobs.try_iter().count(), 1, "what waited goes with the next");
}

#[test]
fn shards_wait_while_only_the_emergency_segment_is_left_and_come_back_after_it() {
    let mut stage = stage();
    let reserve = stage.folder.reserve(SEGMENT_BYTES).unwrap();
    let emergency = stage.folder.adopt(reserve, stage.sequencer.writer.segment() + 1).unwrap();
    stage.sequencer.roll(emergency, 1).unwrap();
    stage.sequencer.shared.restrict(AuditFailure::new(FailureKind::DiskFull, "no room"));
    // The shard's was on its way when the disk was full; the control plane's comes later and goes first.
    let event = Event::Stop(StopEvent { reason: "operator" });
    stage.appenders[1].append(&event, Ack::Recorded).unwrap();
    stage.appenders[1].submit();
    stage.sequencer.shared.lanes[0].ring.push(queued_batch()).map_err(|_| "full").unwrap();
    stage.sequencer.drain(&mut stage.run).unwrap();
    assert_eq!(stage.sequencer.shared.lanes[0].ring.len(), 1, "the shard's waits");
    assert!(stage.sequencer.shared.lanes[1].ring.is_empty(), "the operator's does not");

    let next = stage.folder.prepare(stage.sequencer.writer.segment() + 1, SEGMENT_BYTES).unwrap();
    stage.prepared.send(next).unwrap();
    stage.sequencer.leave_emergency().unwrap();
    assert!(stage.sequencer.shared.failure().is_none(), "there is room again");
    stage.sequencer.drain(&mut stage.run).unwrap();
    assert!(stage.sequencer.shared.lanes[0].ring.is_empty());
}

/// A shard's batch, as it lies in its ring.
fn queued_batch() -> Batch {
    Batch {
        bytes: crate::audit::probe::lay_out(&[Event::Stop(StopEvent { reason: "shard" })]),
        durable: false,
        tag_epoch: 1,
    }
}

#[test]
fn batches_with_tags_of_another_epoch_wait_for_the_rest_and_begin_a_segment() {
    let mut stage = stage();
    let first = stage.sequencer.writer.segment();
    let batch = |tag_epoch| Batch { tag_epoch, ..queued_batch() };
    let queue = |stage: &Stage, lane: usize, tag_epoch| {
        stage.sequencer.shared.lanes[lane].ring.push(batch(tag_epoch)).map_err(|_| "full").unwrap();
    };
    let left = |stage: &Stage| stage.run.stalled.iter().flatten().count();
    for (lane, epoch) in [(0, 2), (1, 1), (1, 1), (0, 2)] {
        queue(&stage, lane, epoch);
    }
    assert!(stage.sequencer.drain(&mut stage.run).unwrap(), "what is of this epoch goes first");
    assert_eq!((stage.run.events, left(&stage)), (2, 1));
    assert!(!stage.sequencer.drain(&mut stage.run).unwrap(), "there is no segment yet");
    assert!(stage.sequencer.progress.is_starved());

    let next = stage.folder.prepare(first + 1, SEGMENT_BYTES).unwrap();
    stage.prepared.send(next).unwrap();
    while stage.sequencer.drain(&mut stage.run).unwrap() {}
    assert_eq!((stage.run.events, left(&stage)), (4, 0));
    assert_eq!((stage.sequencer.writer.segment(), stage.sequencer.writer.tag_epoch()), (first + 1, 2));

    // Who comes late is still told apart: back for their segment, and forth again.
    queue(&stage, 1, 1);
    queue(&stage, 0, 2);
    for index in 2..=3 {
        while stage.sequencer.drain(&mut stage.run).unwrap() {}
        let next = stage.folder.prepare(first + index, SEGMENT_BYTES).unwrap();
        stage.prepared.send(next).unwrap();
    }
    while stage.sequencer.drain(&mut stage.run).unwrap() {}
    assert_eq!((stage.run.events, left(&stage)), (6, 0));
}

#[test]
fn a_close_fails_when_a_flush_before_it_or_its_own_fails() {
    for under_way in [true, false] {
        let mut stage = stage();
        stage.append(0);
        stage.sequencer.drain(&mut stage.run).unwrap();
        if under_way {
            stage.sequencer.commit_if_due(&mut stage.run).unwrap();
            drop(stage.jobs.try_recv().unwrap());
        }
        stage.flush_failed();
        let failure = stage.sequencer.close(&mut stage.run).unwrap_err();
        assert_eq!(failure.kind, FailureKind::FlushFailed, "under way: {under_way}");
        assert_eq!(stage.sequencer.progress.closed_at(), None);
        assert_eq!(
            stage.jobs.try_iter().count(),
            usize::from(!under_way),
            "nothing more is written after a failed one"
        );
    }
}

#[test]
fn a_flush_waits_only_for_those_that_the_last_one_answered() {
    let hour = Duration::from_secs(3600);
    let mut wave = Wave::default();
    wave.join(3);
    assert_eq!(wave.patience(), Duration::ZERO, "the first");
    wave.leave();
    wave.ended = Some((Instant::now(), hour));
    wave.join(3);
    wave.join(3);
    assert_eq!(wave.patience(), Duration::ZERO, "a lone writer");
    wave.join(4);
    wave.leave();
    wave.ended = Some((Instant::now(), hour));
    wave.join(4);
    let patience = wave.patience();
    assert!(patience > Duration::ZERO && patience <= PATIENCE_MAX, "lane 3 may come back: {patience:?}");
    wave.join(5);
    assert_eq!(wave.patience(), Duration::ZERO, "as many as before");
    wave.leave();
    wave.join(4);
    wave.ended = Some((Instant::now().checked_sub(PATIENCE_MAX).unwrap(), hour));
    assert_eq!(wave.patience(), Duration::ZERO, "who is not back by now is not waited for");
    wave.ended = Some((Instant::now(), Duration::ZERO));
    assert_eq!(wave.patience(), Duration::ZERO, "no longer than the flush took");
}
