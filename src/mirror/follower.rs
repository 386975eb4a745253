//! From the log to one target: read what is durable, send it, remember how far.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};

use super::place::{Place, PlaceFile, Unsettled};
use super::status::Board;
use super::target::{Line, Target};
use crate::audit::{Ack, AdminEvent, Appender, AuditError, Event, LogWatch, Phase, Tail};
use crate::cluster::Backoff;

pub(super) struct Follower {
    dir: PathBuf,
    log: LogWatch,
    target: Target,
    board: Arc<Board>,
    recorder: Appender,
    stop: Receiver<()>,
    file: PlaceFile,
    // What is read next. `None` before the log was looked at.
    place: Option<Place>,
    // The reader that stands there.
    tail: Option<Tail>,
    // What the target is known to have: where to go on when a connection broke.
    settled: Option<Place>,
    unsettled: Unsettled,
    connected: bool,
    backoff: Backoff,
    // The latest gap that was stated.
    gap: Option<(u64, u64)>,
}

/// Why nothing can be sent.
enum Trouble {
    /// The connection: trying again helps.
    Target(String),
    /// The log, as it is read: it is looked at again after a while.
    Log(String),
}

impl Follower {
    pub(super) fn new(
        dir: PathBuf,
        origin: &str,
        log: LogWatch,
        target: Target,
        board: Arc<Board>,
        recorder: Appender,
        stop: Receiver<()>,
    ) -> Self {
        let file = PlaceFile::new(&dir, target.name().text(), origin);
        let settled = file.load();
        Self {
            dir,
            log,
            target,
            board,
            recorder,
            stop,
            file,
            place: settled,
            tail: None,
            settled,
            unsettled: Unsettled::new(),
            connected: false,
            backoff: Backoff::between(BACKOFF_MIN, BACKOFF_MAX),
            gap: None,
        }
    }

    /// Works until told to stop.
    pub(super) fn run(mut self) {
        let mut pause = Duration::ZERO;
        while matches!(self.stop.recv_timeout(pause), Err(RecvTimeoutError::Timeout)) {
            pause = match self.step() {
                // There is more.
                Ok(true) => Duration::ZERO,
                Ok(false) => LOOK_PAUSE,
                Err(Trouble::Log(error)) => {
                    self.board.failed(error);
                    TROUBLE_PAUSE
                }
                Err(Trouble::Target(error)) => {
                    self.disconnect();
                    self.board.failed(error);
                    self.backoff.failed(Instant::now());
                    self.backoff.left(Instant::now())
                }
            };
            self.settle(false);
        }
        if self.connected && self.target.close() {
            self.settled = self.place;
        }
        self.settle(true);
    }

    /// Sends what there is, at most one batch; whether there is more.
    fn step(&mut self) -> Result<bool, Trouble> {
        let durable = self.log.status().durable_size;
        self.board.lag(durable.saturating_sub(self.place.map_or(0, |place| place.next)));
        if !self.connected {
            self.connect(durable)?;
        }
        let (lines, place) = self.read(durable)?;
        let Some(place) = place else {
            self.target.check().map_err(Trouble::Target)?;
            return Ok(false);
        };
        let bytes = self.target.deliver(&lines).map_err(Trouble::Target)?;
        self.backoff.succeeded();
        self.place = Some(place);
        self.board.sent(lines.len() as u64);
        self.board.lag(durable.saturating_sub(place.next));
        if self.target.confirms() {
            self.settled = Some(place);
        } else {
            self.unsettled.sent(bytes, place, Instant::now());
        }
        Ok(place.next < durable)
    }

    fn connect(&mut self, durable: u64) -> Result<(), Trouble> {
        self.check_not_ahead(durable)?;
        let stands = self.target.connect().map_err(Trouble::Target)?;
        if let Some(stands) = stands {
            self.place = Some(stands);
            self.settled = Some(stands);
            self.tail = None;
            self.check_not_ahead(durable)?;
        }
        self.connected = true;
        self.board.connected();
        Ok(())
    }

    /// Only what was durable was ever sent, so the log had it once.
    fn check_not_ahead(&self, durable: u64) -> Result<(), Trouble> {
        match self.place.filter(|place| place.next > durable) {
            None => Ok(()),
            Some(place) => Err(Trouble::Log(format!(
                "it has {} records, and the log only {durable}: the log was rolled back, or is another one of this name; \
                 nothing is sent (see edgate-audit(8))",
                place.next
            ))),
        }
    }

    fn disconnect(&mut self) {
        if std::mem::take(&mut self.connected) {
            self.target.close();
        }
        // Everything that may not have arrived is sent again.
        self.unsettled.forget();
        self.place = self.settled;
        self.tail = None;
    }

    /// The next lines, and the place behind them; `None` where there are none yet.
    fn read(&mut self, durable: u64) -> Result<(Vec<Line>, Option<Place>), Trouble> {
        let mut lines = Vec::new();
        let mut place = self.place;
        let mut bytes = 0;
        while lines.len() < BATCH_LINES && bytes < BATCH_BYTES {
            if place.is_some_and(|place| place.next >= durable) {
                break;
            }
            let entry = match self.next_entry(place) {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                // What was read before it can be sent.
                Err(_) if !lines.is_empty() => break,
                Err(trouble) => return Err(trouble),
            };
            let seq = entry.header.seq;
            if let Some(Place { next, before }) = place {
                if seq == next && before.is_some_and(|before| before != entry.header.prev_hash) {
                    self.tail = None;
                    return Err(Trouble::Log(format!(
                        "record {seq} does not continue what was mirrored: the log was exchanged or altered; nothing is sent \
                         (see edgate-audit(8))"
                    )));
                }
                if seq > next {
                    lines.push(self.gap(next, seq));
                }
            }
            bytes += entry.header.body_len as usize + LINE_BYTES;
            place = Some(Place { next: seq + 1, before: Some(entry.hash) });
            lines.push(Line { seq, pairs: entry.pairs() });
        }
        if lines.is_empty() {
            return Ok((lines, None));
        }
        Ok((lines, place))
    }

    fn next_entry(&mut self, place: Option<Place>) -> Result<Option<crate::audit::Entry>, Trouble> {
        let unreadable = |error: AuditError| Trouble::Log(format!("the log cannot be read: {error}"));
        // Twice: the segment at hand may have been removed, and then a later one is the next.
        for _ in 0..2 {
            let tail = match &mut self.tail {
                Some(tail) => tail,
                none => {
                    let from = place.map_or(0, |place| place.next);
                    none.insert(Tail::from_record(&self.dir, from).map_err(unreadable)?)
                }
            };
            match tail.next() {
                Ok(Some(entry)) if place.is_some_and(|place| entry.header.seq < place.next) => {
                    self.tail = None;
                }
                Ok(Some(entry)) => return Ok(Some(entry)),
                Ok(None) => {
                    return match tail.damage() {
                        // A segment that was renamed while we looked, or damage; what was looked at is looked at anew.
                        Some(damage) => {
                            self.tail = None;
                            Err(Trouble::Log(format!("the log is damaged at {damage}")))
                        }
                        None => Ok(None),
                    };
                }
                Err(error) if error.kind() == ErrorKind::NotFound => self.tail = None,
                Err(error) => {
                    self.tail = None;
                    return Err(unreadable(AuditError::Io {
                        what: "read",
                        path: self.dir.clone(),
                        source: error,
                    }));
                }
            }
        }
        Ok(None)
    }

    /// States a gap: here, in the log, and in the line returned.
    fn gap(&mut self, from: u64, to: u64) -> Line {
        let cause = "the log no longer had them when they could be sent";
        if self.gap == Some((from, to)) {
            // Sent again, after the connection broke.
            return Line::gap(from, to, cause);
        }
        self.gap = Some((from, to));
        let target = self.target.name().text();
        tracing::error!(target, from, to, cause, "records are missing in the audit mirror");
        self.board.missing(to - from);
        let detail = format!("records {from} to {}: {cause}", to - 1);
        let action = "mirror_gap";
        let event =
            AdminEvent { phase: Phase::Done, actor: "mirror", action, target, detail: &detail, intent: None };
        if let Err(error) = self.recorder.append(&Event::Admin(event), Ack::Recorded) {
            tracing::error!(%error, "cannot record a gap of the audit mirror");
        }
        self.recorder.submit();
        Line::gap(from, to, cause)
    }

    fn settle(&mut self, at_once: bool) {
        if let Some(place) = self.unsettled.settle(Instant::now()) {
            self.settled = Some(place);
        }
        if let Some(place) = self.settled {
            self.file.store(place, at_once);
        }
    }
}

/// Lines sent together, and about how many bytes they may be.
const BATCH_LINES: usize = 256;
const BATCH_BYTES: usize = 128 << 10;

/// About what a line has beside the body.
const LINE_BYTES: usize = 512;

/// How soon a follower that has sent everything looks again.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// How soon a log that cannot be followed is looked at again.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
