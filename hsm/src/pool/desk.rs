//! Where work is taken in: the queues before whoever does it, the deadlines, the answers, and how the token stands.
//!
//! A pool in this process and a link to an agent have this in common, and whoever signs sees no more of either.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::job::{Completion, Output, PinnedKey, Ticket, Work};
use super::lanes::{LANES, Lanes, lane_of};
use super::metrics::{Counters, add};
use super::{PoolSettings, TICK, TokenStanding};
use crate::{HsmError, Pkcs11Uri, Purpose, ReleaseChecks};

/// Whether the token can be used.
#[derive(Debug, Clone)]
pub(crate) enum Standing {
    /// The first login is under way.
    Starting,
    /// Every key has signed.
    Ready,
    /// Something failed; the keeper looks into it. Jobs wait.
    Healing,
    /// Not usable for now. Jobs are refused.
    Down(Arc<HsmError>),
    /// As many workers as there are sit in calls that do not return.
    Stuck,
    /// The pool is closed.
    Stopped,
}

pub(crate) struct Desk {
    /// The token, by label and serial.
    pub(crate) token_uri: Pkcs11Uri,
    pub(crate) checks: ReleaseChecks,
    pub(crate) lanes: Lanes,
    pub(crate) counters: Counters,
    pub(crate) keys: Mutex<Vec<Arc<PinnedKey>>>,
    // How many work at once. An agent tells how many it has.
    workers: AtomicUsize,
    // How long a call takes, in microseconds, as an agent tells; 0 where the calls are made here and counted.
    call_us: AtomicU64,
    // Jobs of one lane not answered, after which more are refused; `None` where the lanes' own bound is all.
    unanswered_max: Option<usize>,
    /// Jobs not answered. Submitters insert, whoever answers removes.
    outstanding: Mutex<Outstanding>,
    standing: Mutex<(Standing, u64)>,
    standing_changed: Condvar,
    // When the watch wakes next, in nanoseconds since `origin`.
    wake_at: AtomicU64,
    watch: OnceLock<Thread>,
    tickets: AtomicU64,
    origin: Instant,
}

#[derive(Default)]
struct Outstanding {
    by_deadline: BTreeMap<(Instant, u64), Arc<Ticket>>,
    by_lane: [usize; LANES],
}

impl Desk {
    /// A desk for `settings`. With `unanswered_max` no more than so many jobs of a lane are out at once, wherever they are.
    pub(crate) fn new(settings: &PoolSettings, unanswered_max: Option<usize>) -> Arc<Self> {
        Arc::new(Self {
            token_uri: settings.token.token_only(),
            checks: settings.checks.clone(),
            lanes: Lanes::new(settings.queue_len_max),
            counters: Counters::default(),
            keys: Mutex::default(),
            workers: AtomicUsize::new(settings.workers),
            call_us: AtomicU64::new(0),
            unanswered_max,
            outstanding: Mutex::default(),
            standing: Mutex::new((Standing::Starting, 0)),
            standing_changed: Condvar::new(),
            wake_at: AtomicU64::new(u64::MAX),
            watch: OnceLock::new(),
            tickets: AtomicU64::new(1),
            // A second back, so that no moment of this pool reads as 0.
            origin: Instant::now().checked_sub(Duration::from_secs(1)).unwrap_or_else(Instant::now),
        })
    }

    /// Queues a job. Its completion is called once, at the deadline at the latest, on a thread of the pool; not at all
    /// if this returns an error.
    pub(crate) fn submit(
        &self,
        work: Work,
        purpose: Purpose,
        deadline: Instant,
        answer: Completion,
    ) -> Result<Arc<Ticket>, HsmError> {
        if Instant::now() >= deadline {
            return Err(HsmError::DeadlinePassed { purpose });
        }
        self.refusal()?;
        self.key_refusal(&work)?;
        let ticket = self.enter(work, purpose, deadline, answer)?;
        if !self.lanes.push(Arc::clone(&ticket)) {
            self.forget(&ticket);
            add(&self.counters.overloaded);
            return Err(HsmError::Overloaded { purpose });
        }
        self.wake_watch_by(deadline);
        // The standing may have changed in between, with nobody left to empty the queue.
        if let Err(error) = self.refusal() {
            self.settle(&ticket, Err(error));
        }
        Ok(ticket)
    }

    /// Takes a job in that does not go by way of the queues: from here on its deadline is kept.
    pub(crate) fn enter(
        &self,
        work: Work,
        purpose: Purpose,
        deadline: Instant,
        answer: Completion,
    ) -> Result<Arc<Ticket>, HsmError> {
        let number = self.tickets.fetch_add(1, Ordering::Relaxed);
        let ticket = Arc::new(Ticket::new(work, purpose, deadline, number, answer));
        // Before the queue: a worker may be done with it before this thread goes on.
        let mut outstanding = lock(&self.outstanding);
        let unanswered = &mut outstanding.by_lane[lane_of(purpose)];
        if self.unanswered_max.is_some_and(|max| *unanswered >= max) {
            drop(outstanding);
            add(&self.counters.overloaded);
            return Err(HsmError::Overloaded { purpose });
        }
        *unanswered += 1;
        outstanding.by_deadline.insert((deadline, number), Arc::clone(&ticket));
        drop(outstanding);
        Ok(ticket)
    }

    /// Answers a job.
    pub(crate) fn settle(&self, ticket: &Ticket, outcome: Result<Output, HsmError>) {
        self.forget(ticket);
        ticket.settle(outcome);
    }

    fn forget(&self, ticket: &Ticket) {
        lock(&self.outstanding).remove((ticket.deadline, ticket.number));
    }

    /// Answers every job whose deadline has passed, and says when the next one is due.
    pub(crate) fn expire(&self, now: Instant) -> Option<Instant> {
        loop {
            let mut outstanding = lock(&self.outstanding);
            let (deadline, number) = *outstanding.by_deadline.first_key_value()?.0;
            if deadline > now {
                return Some(deadline);
            }
            let ticket = outstanding.remove((deadline, number));
            drop(outstanding);
            if let Some(ticket) = ticket
                && ticket.settle(Err(HsmError::DeadlinePassed { purpose: ticket.purpose }))
            {
                add(&self.counters.deadline_passed);
            }
        }
    }

    pub(crate) fn outstanding_len(&self) -> usize {
        lock(&self.outstanding).by_deadline.len()
    }

    /// How many work at once.
    pub(crate) fn workers(&self) -> usize {
        self.workers.load(Ordering::Relaxed)
    }

    /// Takes an agent at its word about how many work there and how long a call takes: it sets how patient a group is.
    pub(crate) fn told_pace(&self, workers: usize, call: Duration) {
        self.workers.store(workers.max(1), Ordering::Relaxed);
        self.call_us.store(u64::try_from(call.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The standing and its generation, which grows with each change to `Ready`.
    pub(crate) fn standing(&self) -> (Standing, u64) {
        lock(&self.standing).clone()
    }

    /// Changes the standing, unless the pool is closed; `also` is done at the same moment.
    pub(crate) fn change_standing(&self, standing: Standing, also: impl FnOnce(&Standing)) {
        let mut held = lock(&self.standing);
        if matches!(held.0, Standing::Stopped) {
            return;
        }
        if matches!(standing, Standing::Ready) {
            held.1 += 1;
        }
        also(&standing);
        held.0 = standing;
        self.standing_changed.notify_all();
    }

    /// From `Ready`, of a generation that `concerns`, to `Healing`; `begin` has it looked into.
    pub(super) fn heal_if(&self, concerns: impl Fn(u64) -> bool, begin: impl FnOnce()) {
        let mut held = lock(&self.standing);
        if matches!(held.0, Standing::Ready) && concerns(held.1) {
            held.0 = Standing::Healing;
            begin();
        }
    }

    /// Waits while the token is being looked into; then the generation in which it is ready.
    pub(super) fn wait_ready(&self, purpose: Purpose, deadline: Instant) -> Result<u64, HsmError> {
        let mut held = lock(&self.standing);
        loop {
            match &held.0 {
                Standing::Ready => return Ok(held.1),
                Standing::Starting | Standing::Healing => {}
                other => return Err(self.refusal_of(other)),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(HsmError::DeadlinePassed { purpose });
            }
            held = self.standing_changed.wait_timeout(held, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the standing is no longer `Starting`, or for `patience`.
    pub(crate) fn wait_started(&self, patience: Duration) -> Standing {
        let held = lock(&self.standing);
        let starting = |held: &mut (Standing, u64)| matches!(held.0, Standing::Starting);
        let (held, _) = self
            .standing_changed
            .wait_timeout_while(held, patience, starting)
            .unwrap_or_else(PoisonError::into_inner);
        held.0.clone()
    }

    fn refusal(&self) -> Result<(), HsmError> {
        match &lock(&self.standing).0 {
            Standing::Starting | Standing::Ready | Standing::Healing => Ok(()),
            other => Err(self.refusal_of(other)),
        }
    }

    /// Whether the key at hand is out of use although the token is not.
    pub(super) fn key_refusal(&self, work: &Work) -> Result<(), HsmError> {
        match work.key().and_then(|key| key.fault()) {
            None => Ok(()),
            Some(cause) => Err(HsmError::Unavailable { token: Box::new(self.token_uri.clone()), cause }),
        }
    }

    fn refusal_of(&self, standing: &Standing) -> HsmError {
        match standing {
            Standing::Down(cause) => {
                HsmError::Unavailable { token: Box::new(self.token_uri.clone()), cause: Arc::clone(cause) }
            }
            Standing::Stuck => HsmError::Stuck { workers: self.workers() },
            Standing::Stopped | Standing::Starting | Standing::Ready | Standing::Healing => HsmError::Stopped,
        }
    }

    /// Nanoseconds since the pool's origin; never 0.
    pub(crate) fn clock(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.origin).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX).max(1)
    }

    pub(crate) fn moment(&self, clock: u64) -> Instant {
        self.origin + Duration::from_nanos(clock)
    }

    pub(crate) fn set_watch(&self, thread: Thread) {
        // Set once, by the pool.
        let _ = self.watch.set(thread);
    }

    /// The watch announces when it wakes next; an earlier deadline wakes it.
    pub(crate) fn announce_wake(&self, at: Option<Instant>) {
        self.wake_at.store(at.map_or(u64::MAX, |at| self.clock(at)), Ordering::SeqCst);
    }

    /// The watch sleeps until `next`, or until it is woken before.
    pub(crate) fn sleep_until(&self, next: Option<Instant>) {
        self.announce_wake(next);
        match next {
            Some(moment) => std::thread::park_timeout(moment.saturating_duration_since(Instant::now())),
            None => std::thread::park(),
        }
    }

    pub(super) fn wake_watch_by(&self, deadline: Instant) {
        if self.clock(deadline) < self.wake_at.load(Ordering::SeqCst) {
            self.wake_watch();
        }
    }

    pub(crate) fn wake_watch(&self) {
        if let Some(thread) = self.watch.get() {
            thread.unpark();
        }
    }
}

impl Outstanding {
    fn remove(&mut self, key: (Instant, u64)) -> Option<Arc<Ticket>> {
        let ticket = self.by_deadline.remove(&key)?;
        let unanswered = &mut self.by_lane[lane_of(ticket.purpose)];
        *unanswered = unanswered.saturating_sub(1);
        Some(ticket)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half-changed under these locks, whatever a panicking thread did.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a signer holds of the pool: enough to submit, not enough to keep it open.
#[derive(Clone)]
pub(crate) struct PoolLink(pub(super) Arc<Desk>);

impl PoolLink {
    pub(crate) fn token(&self) -> Pkcs11Uri {
        self.0.token_uri.clone()
    }

    pub(crate) fn standing(&self) -> TokenStanding {
        match self.0.standing().0 {
            Standing::Starting | Standing::Healing => TokenStanding::Healing,
            Standing::Ready => TokenStanding::Ready,
            Standing::Down(cause) => TokenStanding::Unavailable(cause),
            Standing::Stuck => TokenStanding::Stuck,
            Standing::Stopped => TokenStanding::Stopped,
        }
    }

    /// Jobs not answered yet.
    pub(crate) fn outstanding(&self) -> usize {
        self.0.outstanding_len()
    }

    /// How long a job may wait for those before it: twice what as many took on average so far.
    pub(crate) fn queue_time(&self) -> Duration {
        let desk = &self.0;
        let workers = u32::try_from(desk.workers()).unwrap_or(u32::MAX);
        let before = u32::try_from(desk.outstanding_len()).unwrap_or(u32::MAX);
        let call = match desk.call_us.load(Ordering::Relaxed) {
            0 => desk.counters.call.mean(),
            told => Duration::from_micros(told),
        };
        call.saturating_mul(before.saturating_mul(2)) / workers
    }

    /// Submits a job; `complete` is called once, on a thread of the pool, by the deadline; never if this is an error.
    pub(crate) fn submit(
        &self,
        work: Work,
        purpose: Purpose,
        deadline: Instant,
        complete: impl FnOnce(Result<Output, HsmError>) + Send + 'static,
    ) -> Result<(), HsmError> {
        self.0.submit(work, purpose, deadline, Box::new(complete)).map(|_| ())
    }

    pub(crate) fn run(&self, work: Work, purpose: Purpose, deadline: Instant) -> Result<Output, HsmError> {
        let (answer, outcome) = bounded(1);
        // The caller may have stopped waiting.
        self.submit(work, purpose, deadline, move |result| drop(answer.send(result)))?;
        outcome.recv_deadline(deadline + TICK).unwrap_or(Err(HsmError::DeadlinePassed { purpose }))
    }
}
