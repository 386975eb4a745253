//! Opening and closing a log: lock, recover, start the threads; drain, seal, stop them.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc::sync_channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam::channel::{Sender, bounded, unbounded};

use super::{
    appender::{Appender, Shared},
    archive::ARCHIVE_LOCK,
    clock::Clock,
    erase::{self, Eraser},
    error::{AuditError, FailureKind},
    folder::Folder,
    keeper::{EMERGENCY_BYTES, Keeper},
    kept::{self, Conviction},
    key_history::KeyHistory,
    log_watch::LogWatch,
    map::MAP_SINK,
    note::CheckpointKey,
    outlet::{Outlets, Subscription},
    real::{Lock, RealMedium, sink_for},
    recover::{Expected, Recovery, Resume, Vouch, digest_of, recover},
    retire::{Retainer, Retirement},
    schema::Kind,
    sealed::{KeyMaker, SealedKeys, resume_destroying},
    sealer::{CheckpointSigner, Follower, Handovers, Sealer, Signing},
    sequencer::{Sequencer, Stop, run_flusher},
    settings::{OnFailure, Settings},
    status::{Progress, Status},
    stored::list_segments,
    tag_keys::{FIRST_EPOCH, TagKeys, key_path},
    tagging::{LogTags, Tagging},
    writer::{Identity, WRITER, Writer},
};

/// An open log.
pub struct Opened {
    /// One per shard, in order, and one more for the control plane. The index is the record's core number.
    pub appenders: Vec<Appender>,
    /// The log itself: status and close. Dropping it without closing stops like a crash.
    pub log: Log,
    /// What the start found.
    pub recovery: Recovery,
}

/// A running log's threads and lock.
pub struct Log {
    shared: Arc<Shared>,
    progress: Arc<Progress>,
    folder: Arc<Folder>,
    stop: Sender<Stop>,
    // Dropped to have the keys of what is sealed forgotten.
    sealing_stop: Option<Sender<()>>,
    // Where the sealer is given another key.
    handovers: Option<Handovers>,
    // Dropped to let the sealer finish, once the other threads have ended.
    sealer_stop: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
    sealer: Option<JoinHandle<()>>,
    // Where the sealer leaves what it published.
    outlets: Arc<Outlets>,
    on_failure: OnFailure,
    dir: PathBuf,
    // Until somebody takes it.
    retaining: Mutex<Option<Appender>>,
    _lock: Lock,
}

/// Locks the folder, recovers what is there, and starts the log's threads.
///
/// Blocks for as long as recovery takes: reading at most the last finished segment and what follows it.
///
/// # Errors
/// Everything [`AuditError`] can say about a folder; [`AuditError::Damaged`] and [`AuditError::RolledBack`] need a
/// person to decide.
pub fn open(settings: &Settings, shards: u16) -> Result<Opened, AuditError> {
    open_signed(settings, shards, None)
}

/// As [`open`], with checkpoints signed by `signer`.
///
/// # Errors
/// As [`open`].
pub fn open_signed(
    settings: &Settings,
    shards: u16,
    signer: Option<CheckpointSigner>,
) -> Result<Opened, AuditError> {
    open_vouched(settings, shards, signer, &mut |_| Ok(()))
}

/// As [`open_signed`], with a question to somebody outside: `outside` is asked under the lock, before anything is changed,
/// about a log that is there already, and what it refuses stays as it was found.
///
/// # Errors
/// As [`open`], and those of `outside`. A [`AuditError::RolledBack`] is put on the disk: every later start refuses too.
pub fn open_vouched(
    settings: &Settings,
    shards: u16,
    signer: Option<CheckpointSigner>,
    outside: &mut dyn FnMut(&Path) -> Result<(), AuditError>,
) -> Result<Opened, AuditError> {
    settings.check()?;
    let dir = &settings.dir;
    let io = |what| move |source: io::Error| AuditError::io(what, dir, source);
    if settings.create && !dir.exists() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("create"))?;
    }
    if !dir.is_dir() {
        return Err(AuditError::NotFound { path: dir.clone() });
    }
    let lock = Lock::take(dir)?;
    let created = list_segments(dir).map_err(io("list"))?.is_empty();
    if created && !settings.create {
        return Err(AuditError::NotFound { path: dir.clone() });
    }
    let keys = TagKeys::open(dir, created, settings.tag_wrap.as_deref())?;
    let (tag_epoch, key) =
        keys.newest().ok_or_else(|| AuditError::TagKeyMissing { path: key_path(dir, FIRST_EPOCH) })?;
    Lock::prepare(dir, ARCHIVE_LOCK)?;
    let tagging = Tagging::new(tag_epoch, key.clone(), settings.tag_wrap.clone());
    resume_destroying(dir)?;
    let sink = match settings.sink {
        Some(sink) => sink,
        None => sink_for(dir).map_err(io("ask for the file system of"))?.0,
    };
    let folder = Arc::new(Folder::new(Box::new(RealMedium::new(dir, sink))));
    let clock = Clock::system();
    let signing = signer.map(|signer| {
        let configured = CheckpointKey::new(settings.origin.clone(), signer.verifying_key);
        let history = KeyHistory::ending_with(dir, &configured)?;
        let key = history.current().unwrap_or(configured);
        Ok::<_, AuditError>(Signing { signer, key, history })
    });
    let signing = signing.transpose()?;
    // What was signed is compared before anything is written: a log that was rolled back stays as it was found.
    let (mut follower, mut passed_over) = (None, Vec::new());
    let (writer, mut recovery) = resume_if(&folder, settings, tag_epoch, clock, &mut |size| {
        follower = signing.as_ref().map(|signing| Follower::resume(dir, &signing.key, size)).transpose()?;
        let Some(signing) = signing.as_ref().filter(|_| !created) else { return Ok(()) };
        passed_over = kept::vouch(dir, &signing.history, size)?;
        outside(dir).inspect_err(|error| {
            if let AuditError::RolledBack { cause, .. } = error {
                // Without it the next start asks again, and is told the same.
                let _ = kept::mark_rolled_back(dir, cause);
            }
        })
    })?;
    (recovery.created, recovery.passed_over) = (created, passed_over);
    if let Some(signing) = &signing {
        let keys = signing.history.all(dir)?;
        recovery.erasures = erase::resume(&folder, dir, &keys).map_err(io("go on with the erasures of"))?;
    }
    let sealing = signing
        .zip(follower)
        .map(|(signing, mut follower)| {
            follower.begin(writer.genesis());
            signing.history.publish(dir).map_err(io("publish the checkpoint key in"))?;
            Ok((signing, follower))
        })
        .transpose()?;
    start(settings, shards, Parts { folder, writer, tagging, lock, recovery, sealing })
}

/// What `open` has prepared for the threads.
struct Parts {
    folder: Arc<Folder>,
    writer: Writer,
    tagging: Tagging,
    lock: Lock,
    recovery: Recovery,
    sealing: Option<(Signing, Follower)>,
}

/// As [`resume_if`], for a log that nothing outside of it vouches for.
pub(super) fn resume(
    folder: &Folder,
    settings: &Settings,
    clock: Clock,
) -> Result<(Writer, Recovery), AuditError> {
    resume_if(folder, settings, FIRST_EPOCH, clock, &mut |_| Ok(()))
}

/// Recovers and makes the log ready to be written: the new segment, and what it says about the old ones, is durable
/// before this returns. `vouch` is asked before anything is changed; see [`recover`].
fn resume_if(
    folder: &Folder,
    settings: &Settings,
    tag_epoch: u64,
    clock: Clock,
    vouch: Vouch<'_>,
) -> Result<(Writer, Recovery), AuditError> {
    let dir = &settings.dir;
    let io = |what| move |source: io::Error| AuditError::io(what, dir, source);
    let Resume { log, mut head, next_index, prev, unfinished, report } =
        recover(folder, dir, Expected { origin: &settings.origin, tag_epoch }, vouch)?;
    let random = || getrandom::u64().map_err(|error| io("draw random numbers for")(io::Error::other(error)));
    let log_id = match log {
        Some((_, log_id)) => log_id,
        None => {
            let mut log_id = [0; 16];
            log_id[..8].copy_from_slice(&random()?.to_le_bytes());
            log_id[8..].copy_from_slice(&random()?.to_le_bytes());
            head.hash = super::walk::genesis_hash(&settings.origin, &log_id);
            log_id
        }
    };
    let identity =
        Identity { origin: settings.origin.clone(), log_id, boot: random()?, writer: WRITER, tag_epoch };
    let prepared = folder.prepare(next_index, settings.segment_bytes).map_err(io("prepare a segment in"))?;
    let mut writer = Writer::begin(identity, clock, head, prev, prepared).map_err(AuditError::Refused)?;
    let size = head.size;
    for torn in report.torn.iter().take(RECOVERY_RECORDS_MAX) {
        let quarantined = [torn.file.clone()];
        writer
            .append_own(Kind::Recovery, |body| {
                body.uint(1, torn.segment);
                body.uint(2, torn.offset);
                body.uint(3, size);
                body.uint(4, torn.bytes);
                body.bytes(5, &torn.digest);
                body.text(6, &torn.cause);
                body.texts(7, &quarantined);
            })
            .map_err(AuditError::Refused)?;
    }
    if report.torn.is_empty() && !report.clean && size > 0 {
        // The log ended without CLEAN_CLOSE and without a torn byte: still a crash, and still worth a record.
        let (segment, end) = (next_index - 1, prev.map_or(0, |prev| prev.end));
        writer
            .append_own(Kind::Recovery, |body| {
                body.uint(1, segment);
                body.uint(2, end);
                body.uint(3, size);
                body.uint(4, 0);
                body.bytes(5, &digest_of(&[]));
                body.text(6, "the log was not closed");
                body.texts(7, &[]);
            })
            .map_err(AuditError::Refused)?;
    }
    let job = writer.begin_commit().map_err(AuditError::Refused)?;
    job.run().map_err(io("flush the new segment of"))?;
    writer.end_commit(job.head.size);
    for index in unfinished {
        folder.finish(index, None).map_err(io("finish a segment of"))?;
    }
    Ok((writer, report))
}

fn start(settings: &Settings, shards: u16, parts: Parts) -> Result<Opened, AuditError> {
    let Parts { folder, writer, tagging, lock, recovery, sealing } = parts;
    let dir = &settings.dir;
    let io = |what| move |source: io::Error| AuditError::io(what, dir, source);
    // The shards', the control plane's, the sealer's, the keeper's, the retainer's.
    let lanes = usize::from(shards) + 4;
    let shared = Arc::new(Shared::new(
        writer.boot(),
        lanes,
        usize::from(shards),
        tagging,
        settings.queue_events,
        settings.queue_bytes,
    ));
    let progress = Arc::new(Progress::new(&writer));
    // One here and one in the keeper's hands: the next two segments are ready.
    let (prepared_out, prepared_in) = bounded(1);
    let (flushes_out, flushes_in) = sync_channel(1);
    let (flushed_out, flushed_in) = bounded(1);
    let (rolled_out, rolled_in) = unbounded();
    let (stop_out, stop_in) = bounded(1);
    let next_index = writer.segment() + 1;
    let maker = KeyMaker::begin(settings, writer.log_id(), &shared)?;
    let sequencer = Sequencer {
        shared: Arc::clone(&shared),
        progress: Arc::clone(&progress),
        writer,
        flush_interval: settings.flush_interval,
        unflushed_age_max: settings.unflushed_age_max,
        prepared: prepared_in,
        flushes: flushes_out,
        flushed: flushed_in,
        stop: stop_in,
    };
    let mut log = Log {
        shared: Arc::clone(&shared),
        progress: Arc::clone(&progress),
        folder: Arc::clone(&folder),
        stop: stop_out,
        sealing_stop: None,
        sealer_stop: None,
        handovers: None,
        threads: Vec::with_capacity(4),
        sealer: None,
        outlets: Arc::default(),
        on_failure: settings.on_failure,
        dir: dir.clone(),
        retaining: Mutex::new(Some(Appender::new(Arc::clone(&shared), shards + 3))),
        _lock: lock,
    };
    let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(io("start a thread for"))
    };
    if let Some(maker) = maker {
        let (stop, stopped) = bounded(0);
        log.sealing_stop = Some(stop);
        log.threads.push(spawn("audit-sealed", Box::new(move || maker.run(&stopped)))?);
    }
    log.threads.push(spawn("audit-seq", Box::new(move || sequencer.run()))?);
    let (shared_flush, progress_flush) = (Arc::clone(&shared), Arc::clone(&progress));
    log.threads.push(spawn(
        "audit-flush",
        Box::new(move || run_flusher(&shared_flush, &progress_flush, &flushes_in, &flushed_out, &rolled_out)),
    )?);
    let reserve = folder.reserve(EMERGENCY_BYTES).map_err(io("make the emergency segment of"))?;
    let keeper = Keeper {
        shared: Arc::clone(&shared),
        progress: Arc::clone(&progress),
        folder,
        appender: Appender::new(Arc::clone(&shared), shards + 2),
        segment_bytes: settings.segment_bytes,
        marks: settings.watermarks,
        next_index,
        prepared: prepared_out,
        rolled: rolled_in,
        reserve: Some(reserve),
    };
    log.threads.push(spawn("audit-keep", Box::new(move || keeper.run()))?);
    if let Some((signing, follower)) = sealing {
        let (stop_out, stop_in) = bounded(0);
        let (handovers, orders) = Handovers::new(&signing.key);
        let sealer = Sealer::new(
            settings,
            (Arc::clone(&shared), progress, Appender::new(Arc::clone(&shared), shards + 1)),
            (signing, follower),
            Arc::clone(&log.outlets),
            (orders, stop_in),
        );
        log.sealer_stop = Some(stop_out);
        log.handovers = Some(handovers);
        log.sealer = Some(spawn("audit-seal", Box::new(move || sealer.run()))?);
    }
    let appenders = (0..=shards).map(|core| Appender::new(Arc::clone(&shared), core)).collect();
    Ok(Opened { appenders, log, recovery })
}

impl Log {
    /// A look at the log.
    #[must_use]
    pub fn status(&self) -> Status {
        self.progress.status(self.shared.failure())
    }

    /// A way to look at the log that may outlive it, for metrics and readiness.
    #[must_use]
    pub fn watch(&self) -> LogWatch {
        LogWatch::new(Arc::clone(&self.shared), Arc::clone(&self.progress))
    }

    /// A way to change the keys of the tags.
    #[must_use]
    pub fn tags(&self) -> LogTags {
        LogTags::new(Arc::clone(&self.shared), self.dir.clone())
    }

    /// The keys of what is sealed.
    #[must_use]
    pub fn sealed_keys(&self) -> SealedKeys {
        SealedKeys::new(Arc::clone(&self.shared), self.dir.clone())
    }

    /// The checkpoints that are published from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.outlets.subscribe()
    }

    /// Whoever may say that this log was rolled back.
    #[must_use]
    pub fn convict(&self) -> Conviction {
        Conviction { shared: Arc::clone(&self.shared), dir: self.dir.clone() }
    }

    /// What callers do when an event cannot be recorded.
    #[must_use]
    pub fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    /// Why segments are not mapped, where they are not.
    #[must_use]
    pub fn unmapped_because(&self) -> Option<String> {
        if self.status().sink == MAP_SINK {
            return None;
        }
        let file_system = sink_for(&self.dir).map_or("unknown", |(_, name)| name);
        Some(format!(
            "the file system is {file_system}: a store into a map could need space there and end the process; \
             ext4, or XFS made with reflink=0, allows the map"
        ))
    }

    /// What replaces the checkpoint key of this log; `None` where nobody signs.
    #[must_use]
    pub fn handovers(&self) -> Option<Handovers> {
        self.handovers.clone()
    }

    /// Erases bodies; `None` for a log whose checkpoints nobody signs, where no ERASE takes effect.
    #[must_use]
    pub fn eraser(&self) -> Option<Eraser> {
        let signed = self.sealer_stop.is_some();
        signed.then(|| Eraser::new(Arc::clone(&self.folder), self.dir.clone(), self.watch()))
    }

    /// What retires old segments of this log; `None` if somebody has it already.
    #[must_use]
    pub fn retainer(&self) -> Option<Retainer> {
        let appender = self.retaining.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Retainer {
            folder: Arc::clone(&self.folder),
            dir: self.dir.clone(),
            progress: Arc::clone(&self.progress),
            appender,
            retirement: Retirement::default(),
        })
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes what is queued, writes CLEAN_CLOSE and the seal, flushes, and stops the threads.
    ///
    /// # Errors
    /// The failure that shut the log instead, or [`AuditError::DeadlinePassed`]; the threads are then left to
    /// themselves, and the next start recovers.
    pub fn close(mut self, timeout: Duration) -> Result<(), AuditError> {
        let deadline = Instant::now() + timeout;
        let _ = self.stop.send(Stop::Close);
        self.sealing_stop = None;
        self.shared.doorbell.ring();
        let ended = wait_for(&self.threads, deadline);
        // The sealer ends last: it signs what the others left.
        self.sealer_stop = None;
        self.threads.extend(self.sealer.take());
        if !(ended && wait_for(&self.threads, deadline)) {
            self.threads.clear();
            return Err(AuditError::DeadlinePassed);
        }
        match (self.progress.closed_at(), self.shared.failure()) {
            (Some((segment, bytes)), _) => self
                .folder
                .tidy(segment, bytes)
                .map_err(|error| AuditError::io("finish the last segment of", &self.dir, error)),
            (None, Some(failure)) if failure.kind != FailureKind::Closed => Err(AuditError::Refused(failure)),
            (None, _) => Err(AuditError::DeadlinePassed),
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // A closed log's threads have ended; the channel then has no receiver.
        let _ = self.stop.try_send(Stop::Abandon);
        self.shared.doorbell.ring();
        self.sealing_stop = None;
        self.sealer_stop = None;
        self.threads.extend(self.sealer.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Whether all threads end before `deadline`.
fn wait_for(threads: &[JoinHandle<()>], deadline: Instant) -> bool {
    while !threads.iter().all(JoinHandle::is_finished) {
        if Instant::now() >= deadline {
            return false;
        }
        // Threads have no joint with a deadline; a close is rare, and a millisecond is nothing to it.
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// A start leaves room for events in the smallest segment, whatever it found.
const RECOVERY_RECORDS_MAX: usize = 16;
