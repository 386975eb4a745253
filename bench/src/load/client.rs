//! The event loop: keeps every connection busy, or keeps a rate, and measures each answer.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::LoadError;
use super::connection::{Connection, InFlight, ReadEnd};
use super::cpu::CpuTime;
use super::histogram::Histogram;
use super::http::Answer;
use super::pool::{Pool, Target};

/// What a run does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Connections, all opened before the first request.
    pub connections: usize,
    /// Requests in flight per connection, at most.
    pub pipeline: usize,
    /// When requests are due.
    pub pace: Pace,
    /// When the run is over.
    pub bound: Bound,
    /// Answers before the measurement starts; they are checked, but not counted.
    pub warmup: u64,
    /// Whose processor time is charged to the decisions.
    pub server_pid: Option<u32>,
    /// The run is given up when nothing arrives for this long.
    pub answer_timeout: Duration,
}

impl Plan {
    /// As many requests as 64 connections get answered one after the other, after `warmup` of them.
    #[must_use]
    pub fn closed(requests: u64, warmup: u64) -> Self {
        Self {
            connections: 64,
            pipeline: 1,
            pace: Pace::Closed,
            bound: Bound::Requests(requests),
            warmup,
            server_pid: None,
            answer_timeout: Duration::from_secs(5),
        }
    }
}

/// When requests are due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As soon as a connection is free (closed loop): a slow server is asked less often.
    Closed,
    /// At a fixed rate per second (open loop), whatever the server does. Latency counts from the moment a request
    /// was due, so a stall is charged to everyone who would have waited through it (no coordinated omission).
    Rate(f64),
}

/// When a run is over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// After this many measured answers.
    Requests(u64),
    /// After this long; what is in flight then is still waited for.
    Duration(Duration),
}

/// What a run found.
#[derive(Debug)]
pub struct Outcome {
    /// Latencies in nanoseconds.
    pub latency: Histogram,
    /// Measured answers per status code.
    pub statuses: BTreeMap<u16, u64>,
    /// Answers per slice of [`SLICE`], from the start of the measurement.
    pub timeline: Vec<u64>,
    /// From the start of the measurement to its last answer.
    pub elapsed: Duration,
    /// Answers with another verdict than the token deserves.
    pub mismatches: u64,
    /// The first few mismatches and broken answers, in words.
    pub complaints: Vec<String>,
    /// Requests whose connection ended before their answer.
    pub lost: u64,
    /// Connections opened again after the server closed them.
    pub reconnects: u64,
    /// At a fixed rate: requests that were due and never sent, because every connection was busy until the end.
    pub unsent: u64,
    /// The server's processor time during the measurement.
    pub cpu: Option<CpuTime>,
    /// This process's own: a client that is busy all the time is the bottleneck it measures.
    pub client_cpu: CpuTime,
}

/// Resolution of [`Outcome::timeline`].
pub const SLICE: Duration = Duration::from_millis(50);

/// Complaints kept in words; the rest is only counted.
const COMPLAINTS_MAX: usize = 5;

/// Bytes of an answer quoted in a complaint.
const QUOTE_BYTES: usize = 120;

/// Events taken from the kernel at once.
const EVENTS_MAX: usize = 256;

/// `epoll_wait` sleeps whole milliseconds, so the last stretch before a request is due is spent polling.
const POLLING_STRETCH: Duration = Duration::from_millis(2);

/// Runs `plan` against `target` with the requests of `pool`, in order, over and over.
///
/// Blocks the calling thread until the run is over.
///
/// # Errors
/// [`LoadError`] when the server cannot be reached, stalls or vanishes; wrong answers are counted instead.
pub fn run(plan: &Plan, target: &Target, pool: &Pool) -> Result<Outcome, LoadError> {
    Client::new(plan, target, pool)?.run()
}

struct Client<'a> {
    plan: &'a Plan,
    target: &'a Target,
    pool: &'a Pool,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    // Connections that may take another request, longest waiting first.
    idle: VecDeque<usize>,
    // Connections with queued bytes.
    dirty: Vec<usize>,
    clock: Instant,
    // Index of the next request in the pool.
    next_request: usize,
    issued: u64,
    answered: u64,
    // When the warm-up ended, on the clock, and the server's processor time then.
    measuring_since: Option<u64>,
    cpu_before: Option<CpuTime>,
    client_cpu_before: CpuTime,
    last_answer_ns: u64,
    outcome: Outcome,
}

impl<'a> Client<'a> {
    fn new(plan: &'a Plan, target: &'a Target, pool: &'a Pool) -> Result<Self, LoadError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|e| LoadError::Epoll(e.into()))?;
        let mut client = Self {
            plan,
            target,
            pool,
            epoll,
            connections: Vec::with_capacity(plan.connections),
            idle: VecDeque::new(),
            dirty: Vec::new(),
            clock: Instant::now(),
            next_request: 0,
            issued: 0,
            answered: 0,
            measuring_since: None,
            cpu_before: None,
            client_cpu_before: CpuTime::default(),
            last_answer_ns: 0,
            outcome: Outcome {
                latency: Histogram::default(),
                statuses: BTreeMap::new(),
                timeline: Vec::new(),
                elapsed: Duration::ZERO,
                mismatches: 0,
                complaints: Vec::new(),
                lost: 0,
                reconnects: 0,
                unsent: 0,
                cpu: None,
                client_cpu: CpuTime::default(),
            },
        };
        for index in 0..plan.connections {
            let connection = Connection::open(target.address)?;
            client.watch(&connection, index)?;
            client.connections.push(connection);
            client.idle.extend(std::iter::repeat_n(index, plan.pipeline));
        }
        Ok(client)
    }

    fn run(mut self) -> Result<Outcome, LoadError> {
        self.clock = Instant::now();
        let mut last_progress = self.now();
        if self.plan.warmup == 0 {
            self.start_measuring(last_progress)?;
        }
        let mut events = Vec::with_capacity(EVENTS_MAX);
        self.issue()?;
        while !self.finished() {
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&self.wait_limit(last_progress)),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(LoadError::Epoll(error.into())),
            }
            for event in &events {
                self.on_event(event)?;
                // At once, not after the whole round of events: the server works on while we read the rest.
                self.issue()?;
            }
            let now = self.now();
            if events.is_empty() {
                self.issue()?;
                let in_flight = self.in_flight();
                let timeout = nanoseconds(self.plan.answer_timeout);
                if in_flight > 0 && now - last_progress > timeout {
                    return Err(LoadError::Stalled {
                        seconds: self.plan.answer_timeout.as_secs_f64(),
                        in_flight,
                    });
                }
            } else {
                last_progress = now;
            }
        }
        self.finish()
    }

    /// Sends every request that is due and has a free connection.
    fn issue(&mut self) -> Result<(), LoadError> {
        let now = self.now();
        while self.may_issue(now) {
            let due_ns = match self.plan.pace {
                Pace::Closed => now,
                Pace::Rate(_) => self.due(self.issued),
            };
            if due_ns > now {
                break;
            }
            let Some(index) = self.idle.pop_front() else { break };
            let request = self.next_request;
            let (bytes, _) = self.pool.request(request);
            self.connections[index].queue(bytes, InFlight { due_ns, request });
            self.issued += 1;
            self.next_request = (request + 1) % self.pool.len();
            if self.dirty.last() != Some(&index) {
                self.dirty.push(index);
            }
        }
        while let Some(index) = self.dirty.pop() {
            if !self.connections[index].flush() {
                self.rewatch(index, EventFlags::IN | EventFlags::OUT)?;
            }
        }
        Ok(())
    }

    fn on_event(&mut self, event: &Event) -> Result<(), LoadError> {
        let index = usize::try_from(event.data.u64()).expect("we gave the event its index");
        let flags = event.flags;
        if flags.contains(EventFlags::OUT) && self.connections[index].flush() {
            self.rewatch(index, EventFlags::IN)?;
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            self.read(index)?;
        }
        Ok(())
    }

    fn read(&mut self, index: usize) -> Result<(), LoadError> {
        let now = self.now();
        let Self { connections, pool, outcome, idle, answered, measuring_since, .. } = self;
        let before = *answered;
        let end = connections[index].read(|request, answer| {
            *answered += 1;
            idle.push_back(index);
            if let Some(since) = *measuring_since {
                outcome.record(now.saturating_sub(request.due_ns), now - since, answer.status);
            }
            outcome.check(pool, request, answer);
        });
        if self.answered > before {
            self.last_answer_ns = now;
        }
        if self.measuring_since.is_none() && self.answered >= self.plan.warmup {
            self.start_measuring(now)?;
        }
        match end {
            ReadEnd::Drained => Ok(()),
            ReadEnd::Closed => self.reopen(index),
            ReadEnd::Broken(reason) => {
                self.outcome.mismatches += 1;
                self.outcome.complain(reason);
                // The broken answer is counted as wrong; only the ones behind it are lost.
                if self.connections[index].abandon_oldest() {
                    self.answered += 1;
                    self.idle.push_back(index);
                }
                self.reopen(index)
            }
        }
    }

    /// Replaces a connection that ended; its requests are lost, not repeated.
    fn reopen(&mut self, index: usize) -> Result<(), LoadError> {
        let lost = self.connections[index].in_flight();
        self.outcome.lost += lost as u64;
        self.answered += lost as u64;
        self.outcome.reconnects += 1;
        let connection = Connection::open(self.target.address)?;
        self.watch(&connection, index)?;
        // Closing the old socket takes it out of the epoll set.
        self.connections[index] = connection;
        self.idle.extend(std::iter::repeat_n(index, lost));
        Ok(())
    }

    fn start_measuring(&mut self, now: u64) -> Result<(), LoadError> {
        self.cpu_before = self.cpu()?;
        self.client_cpu_before = cpu_of(std::process::id())?;
        self.measuring_since = Some(now);
        self.last_answer_ns = now;
        Ok(())
    }

    fn finish(mut self) -> Result<Outcome, LoadError> {
        let end = self.now();
        if let (Some(after), Some(before)) = (self.cpu()?, &self.cpu_before) {
            self.outcome.cpu = Some(after.since(before));
        }
        self.outcome.client_cpu = cpu_of(std::process::id())?.since(&self.client_cpu_before);
        let since = self.measuring_since.unwrap_or(end);
        self.outcome.elapsed = Duration::from_nanos(self.last_answer_ns.saturating_sub(since));
        if let Pace::Rate(_) = self.plan.pace {
            let mut next = self.issued;
            while self.may_be_due(next, end) {
                next += 1;
            }
            self.outcome.unsent = next - self.issued;
        }
        Ok(self.outcome)
    }

    /// Whether the run's bound admits one more request.
    fn may_issue(&self, now: u64) -> bool {
        match self.plan.bound {
            Bound::Requests(count) => self.issued < self.plan.warmup + count,
            Bound::Duration(length) => {
                self.measuring_since.is_none_or(|since| now < since + nanoseconds(length))
            }
        }
    }

    /// Whether request `number` was due at `now` and within the run's bound.
    fn may_be_due(&self, number: u64, now: u64) -> bool {
        let due = self.due(number);
        match self.plan.bound {
            Bound::Requests(count) => number < self.plan.warmup + count && due <= now,
            Bound::Duration(length) => {
                self.measuring_since.is_some_and(|since| due <= now.min(since + nanoseconds(length)))
            }
        }
    }

    fn finished(&self) -> bool {
        self.answered == self.issued && !self.may_issue(self.now())
    }

    /// When request `number` is due at the plan's rate.
    fn due(&self, number: u64) -> u64 {
        match self.plan.pace {
            Pace::Closed => 0,
            #[expect(clippy::cast_possible_truncation, reason = "centuries of nanoseconds fit")]
            #[expect(clippy::cast_sign_loss, reason = "rates are positive")]
            Pace::Rate(per_second) => (number as f64 * 1e9 / per_second) as u64,
        }
    }

    /// How long to sleep for events: until the next request is due, the run ends or the server counts as stalled.
    fn wait_limit(&self, last_progress: u64) -> Timespec {
        let now = self.now();
        let mut until = last_progress + nanoseconds(self.plan.answer_timeout) + 1_000_000;
        if let (Bound::Duration(length), Some(since)) = (self.plan.bound, self.measuring_since) {
            let end = since + nanoseconds(length);
            // Past its end the run only waits for what is in flight.
            if now < end {
                until = until.min(end);
            }
        }
        if matches!(self.plan.pace, Pace::Rate(_)) && self.may_issue(now) && !self.idle.is_empty() {
            until = until.min(self.due(self.issued).saturating_sub(nanoseconds(POLLING_STRETCH)));
        }
        let wait = Duration::from_nanos(until.saturating_sub(now));
        Timespec::try_from(wait).expect("a few seconds fit")
    }

    fn in_flight(&self) -> usize {
        self.connections.iter().map(Connection::in_flight).sum()
    }

    fn now(&self) -> u64 {
        nanoseconds(self.clock.elapsed())
    }

    fn cpu(&self) -> Result<Option<CpuTime>, LoadError> {
        self.plan.server_pid.map(cpu_of).transpose()
    }

    fn watch(&self, connection: &Connection, index: usize) -> Result<(), LoadError> {
        epoll::add(&self.epoll, connection, EventData::new_u64(index as u64), EventFlags::IN)
            .map_err(|e| LoadError::Epoll(e.into()))
    }

    fn rewatch(&self, index: usize, flags: EventFlags) -> Result<(), LoadError> {
        epoll::modify(&self.epoll, &self.connections[index], EventData::new_u64(index as u64), flags)
            .map_err(|e| LoadError::Epoll(e.into()))
    }
}

impl Outcome {
    fn record(&mut self, latency_ns: u64, since_start_ns: u64, status: u16) {
        self.latency.record(latency_ns);
        *self.statuses.entry(status).or_default() += 1;
        let slice = usize::try_from(since_start_ns / nanoseconds(SLICE)).expect("runs end within centuries");
        if self.timeline.len() <= slice {
            self.timeline.resize(slice + 1, 0);
        }
        self.timeline[slice] += 1;
    }

    fn check(&mut self, pool: &Pool, request: InFlight, answer: &Answer<'_>) {
        let (_, verdict) = pool.request(request.request);
        if !verdict.agrees(pool.route(), answer) {
            self.mismatches += 1;
            let quote = String::from_utf8_lossy(&answer.body[..answer.body.len().min(QUOTE_BYTES)]);
            self.complain(format!(
                "token {} should be {verdict}; the answer is {} {quote}",
                request.request, answer.status
            ));
        }
    }

    fn complain(&mut self, complaint: String) {
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(complaint);
        }
    }

    /// Wrong, broken and lost answers: a run is good when there are none.
    #[must_use]
    pub const fn errors(&self) -> u64 {
        self.mismatches + self.lost
    }
}

fn cpu_of(pid: u32) -> Result<CpuTime, LoadError> {
    CpuTime::read(pid).map_err(|source| LoadError::Cpu { pid, source })
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("runs end within centuries")
}

#[cfg(test)]
mod tests;
