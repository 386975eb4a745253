//! What the pool's threads share: the queues, the standing of the token, and who is inside the module since when.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use cryptoki::session::Session;

use super::PoolSettings;
use super::job::{Completion, PinnedKey, Ticket, Work};
use super::keeper::Order;
use super::lanes::Lanes;
use super::metrics::{Counters, add};
use crate::pkcs11::{Activity, Module, Tenant, TokenSeen};
use crate::{HsmError, PinSource, Purpose};

/// Whether the token can be used.
#[derive(Debug, Clone)]
pub(super) enum Standing {
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

pub(super) struct Shared {
    pub(super) settings: PoolSettings,
    pub(super) module: Arc<Module>,
    pub(super) lanes: Lanes,
    pub(super) counters: Counters,
    pub(super) orders: Sender<Order>,
    pub(super) slots: Mutex<Slots>,
    pub(super) keys: Mutex<Vec<Arc<PinnedKey>>>,
    // The token and the epoch of the module in which its slot is that. Set by the keeper with each login, read by workers
    // that open a session ([`Shared::token_in`]).
    pub(super) token: Mutex<Option<(TokenSeen, u64)>>,
    /// This pool, as others in the module see it.
    pub(super) tenant: Arc<Tenant>,
    /// Jobs not answered, by deadline. Submitters insert, workers and the watch remove.
    outstanding: Mutex<BTreeMap<(Instant, u64), Arc<Ticket>>>,
    standing: Mutex<(Standing, u64)>,
    standing_changed: Condvar,
    // When the watch wakes next, in nanoseconds since `origin`.
    wake_at: AtomicU64,
    watch: OnceLock<Thread>,
    tickets: AtomicU64,
    origin: Instant,
}

/// The threads that call the module.
#[derive(Default)]
pub(super) struct Slots {
    pub(super) live: Vec<Arc<Slot>>,
    pub(super) lost: Vec<Arc<Slot>>,
}

/// Since when one thread is inside the module.
#[derive(Debug, Default)]
pub(super) struct Slot {
    // Nanoseconds since the pool's origin; 0 when outside.
    since: AtomicU64,
    // Set by the watch: the thread ends when its call returns.
    pub(super) lost: AtomicBool,
}

impl Shared {
    pub(super) fn new(settings: PoolSettings, module: Arc<Module>, orders: Sender<Order>) -> Arc<Self> {
        // A pipe serves one login, an operator has to be asked.
        let logs_in_again = matches!(settings.pin.source, PinSource::Credential(_) | PinSource::File(_));
        Arc::new_cyclic(|shared: &Weak<Self>| Self {
            tenant: Tenant::new(logs_in_again, {
                let shared = Weak::clone(shared);
                move || shared.upgrade().iter().for_each(|shared| shared.heal_if(|_| true))
            }),
            lanes: Lanes::new(settings.queue_len_max),
            settings,
            module,
            counters: Counters::default(),
            orders,
            slots: Mutex::default(),
            keys: Mutex::default(),
            token: Mutex::default(),
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
    pub(super) fn submit(
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
        let number = self.tickets.fetch_add(1, Ordering::Relaxed);
        let ticket = Arc::new(Ticket::new(work, purpose, deadline, number, answer));
        // Before the queue: a worker may be done with it before this thread goes on.
        lock(&self.outstanding).insert((deadline, number), Arc::clone(&ticket));
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

    /// Answers a job.
    pub(super) fn settle(&self, ticket: &Ticket, outcome: Result<super::job::Output, HsmError>) {
        self.forget(ticket);
        ticket.settle(outcome);
    }

    fn forget(&self, ticket: &Ticket) {
        lock(&self.outstanding).remove(&(ticket.deadline, ticket.number));
    }

    /// Answers every job whose deadline has passed, and says when the next one is due.
    pub(super) fn expire(&self, now: Instant) -> Option<Instant> {
        loop {
            let mut outstanding = lock(&self.outstanding);
            let entry = outstanding.first_entry()?;
            if entry.key().0 > now {
                return Some(entry.key().0);
            }
            let ticket = entry.remove();
            drop(outstanding);
            if ticket.settle(Err(HsmError::DeadlinePassed { purpose: ticket.purpose })) {
                add(&self.counters.deadline_passed);
            }
        }
    }

    pub(super) fn outstanding_len(&self) -> usize {
        lock(&self.outstanding).len()
    }

    /// The token as it was seen in this epoch of the module, so that its slot is still that.
    ///
    /// # Errors
    /// [`HsmError::ModuleRenewed`] if its slot may be another token's by now; the keeper finds it again.
    pub(super) fn token_in(&self, epoch: u64) -> Result<TokenSeen, HsmError> {
        let (token, seen) = lock(&self.token).clone().ok_or(HsmError::Stopped)?;
        if seen != epoch {
            return Err(HsmError::ModuleRenewed { path: self.module.path().to_owned() });
        }
        Ok(token)
    }

    /// The standing and its generation, which grows with each change to `Ready`.
    pub(super) fn standing(&self) -> (Standing, u64) {
        lock(&self.standing).clone()
    }

    pub(super) fn set_standing(&self, standing: Standing) {
        let mut held = lock(&self.standing);
        if matches!(held.0, Standing::Stopped) {
            return;
        }
        if matches!(standing, Standing::Ready) {
            held.1 += 1;
        }
        self.tenant.does(match standing {
            Standing::Ready | Standing::Healing => Activity::Working,
            Standing::Starting | Standing::Down(_) | Standing::Stuck => Activity::Waiting,
            Standing::Stopped => Activity::Gone,
        });
        held.0 = standing;
        self.standing_changed.notify_all();
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
    pub(super) fn wait_started(&self, patience: Duration) -> Standing {
        let held = lock(&self.standing);
        let starting = |held: &mut (Standing, u64)| matches!(held.0, Standing::Starting);
        let (held, _) = self
            .standing_changed
            .wait_timeout_while(held, patience, starting)
            .unwrap_or_else(PoisonError::into_inner);
        held.0.clone()
    }

    /// Tells the keeper that something failed in `generation`; later reports from the same generation are no news.
    pub(super) fn report(&self, generation: u64) {
        self.heal_if(|current| current == generation);
    }

    fn heal_if(&self, concerns: impl Fn(u64) -> bool) {
        let mut held = lock(&self.standing);
        if matches!(held.0, Standing::Ready) && concerns(held.1) {
            held.0 = Standing::Healing;
            // The keeper lives as long as the pool; when it is gone nobody waits for healing.
            let _ = self.orders.send(Order::Heal);
        }
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
            Some(cause) => {
                Err(HsmError::Unavailable { token: Box::new(self.settings.token.token_only()), cause })
            }
        }
    }

    fn refusal_of(&self, standing: &Standing) -> HsmError {
        match standing {
            Standing::Down(cause) => HsmError::Unavailable {
                token: Box::new(self.settings.token.token_only()),
                cause: Arc::clone(cause),
            },
            Standing::Stuck => HsmError::Stuck { workers: self.settings.workers },
            Standing::Stopped | Standing::Starting | Standing::Ready | Standing::Healing => HsmError::Stopped,
        }
    }

    /// Nanoseconds since the pool's origin; never 0.
    pub(super) fn clock(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.origin).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX).max(1)
    }

    pub(super) fn moment(&self, clock: u64) -> Instant {
        self.origin + Duration::from_nanos(clock)
    }

    pub(super) fn set_watch(&self, thread: Thread) {
        // Set once, by the pool.
        let _ = self.watch.set(thread);
    }

    /// The watch announces when it wakes next; an earlier deadline wakes it.
    pub(super) fn announce_wake(&self, at: Option<Instant>) {
        self.wake_at.store(at.map_or(u64::MAX, |at| self.clock(at)), Ordering::SeqCst);
    }

    pub(super) fn wake_watch_by(&self, deadline: Instant) {
        if self.clock(deadline) < self.wake_at.load(Ordering::SeqCst) {
            self.wake_watch();
        }
    }

    pub(super) fn wake_watch(&self) {
        if let Some(thread) = self.watch.get() {
            thread.unpark();
        }
    }
}

impl Slot {
    /// Marks the thread as inside the module until the mark is dropped.
    pub(super) fn enter<'a>(&'a self, shared: &Shared) -> Inside<'a> {
        self.since.store(shared.clock(Instant::now()), Ordering::SeqCst);
        Inside(self)
    }

    /// Since when the thread is inside.
    pub(super) fn inside_since(&self, shared: &Shared) -> Option<Instant> {
        match self.since.load(Ordering::SeqCst) {
            0 => None,
            clock => Some(shared.moment(clock)),
        }
    }
}

/// The mark of [`Slot::enter`].
pub(super) struct Inside<'a>(&'a Slot);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.since.store(0, Ordering::SeqCst);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half-changed under these locks, whatever a panicking thread did.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes a session of this epoch. It may be broken, and is given up either way.
pub(super) fn give_back(session: Session) {
    let _ = session.close();
}
