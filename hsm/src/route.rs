//! From a signer to its key: which member of a group signs a message, and who is asked when that one does not.
//!
//! A token alone is a group of one and goes the same way. Ed25519 signatures carry no state and each pool verifies before
//! it releases, so asking another member is always safe. What is not asked again is a request that is itself at fault
//! ([`Class::Caller`]): it would fail everywhere.
//!
//! Nothing here waits: the pools' watches keep the time, and the next member is asked by whoever answers for the last.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use crate::pkcs11::Class;
use crate::pool::{Once, Output, PinnedKey, PoolLink, TICK, Work, probe_message};
use crate::{HsmError, MemberFailure, PublicKey, Purpose, TokenStanding};

/// How long a member that failed or was too slow is asked only after the others. Then it is tried with a signature that
/// nobody waits for.
const REST: Duration = Duration::from_secs(1);

/// A member's share in the work, and how it did of late. Shared by the routes to all of its keys.
#[derive(Debug)]
pub(crate) struct Share {
    weight: u32,
    resting_until: Mutex<Option<Instant>>,
    // Times another member was asked instead.
    failed_over: AtomicU64,
}

/// A key in one member.
#[derive(Clone)]
pub(crate) struct Seat {
    pool: PoolLink,
    key: Arc<PinnedKey>,
    public_key: PublicKey,
    share: Arc<Share>,
}

/// The keys that may sign, each in its member.
pub(crate) struct Route {
    seats: Vec<Seat>,
    // How long a member may take before another is asked, if there is another.
    patience: Duration,
    turn: AtomicUsize,
}

/// What is signed.
pub(crate) enum Message {
    /// The same by whichever member.
    Same(Vec<u8>),
    /// A message for each public key, such as a JWS, which names its key. Short; does not block.
    ByKey(MessageOf),
}

type MessageOf = Box<dyn Fn(&PublicKey) -> Option<Vec<u8>> + Send>;

/// A signature, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signed {
    /// The key that signed.
    pub public_key: PublicKey,
    /// Its signature, verified.
    pub signature: [u8; 64],
}

/// Called once with what came of it.
type Complete = Box<dyn FnOnce(Result<Signed, HsmError>) + Send>;

/// A message on its way from member to member.
struct Journey {
    route: Arc<Route>,
    purpose: Purpose,
    message: Message,
    deadline: Instant,
    // By seat, in this round.
    asked: Vec<bool>,
    // By seat: it was too slow in the first round, and is asked again when no other is left.
    slow: Vec<bool>,
    second_round: bool,
    failures: Vec<MemberFailure>,
    complete: Complete,
}

/// How well a member stands, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It signs; so much waits there for its weight.
    Ready(usize),
    /// It failed a moment ago, or a fault is being looked into.
    Doubtful(usize),
    /// It refuses at once, and says why.
    Away,
}

impl Route {
    /// A route by way of `seats`; none where the only member is drained, and then nothing is signed.
    pub(crate) fn new(seats: Vec<Seat>, patience: Duration) -> Arc<Self> {
        Arc::new(Self { seats, patience, turn: AtomicUsize::new(0) })
    }

    /// A route by way of all the seats of `routes`; `None` if there is no route.
    pub(crate) fn joined(routes: &[Arc<Self>]) -> Option<Arc<Self>> {
        let patience = routes.first()?.patience;
        Some(Self::new(routes.iter().flat_map(|route| route.seats.iter().cloned()).collect(), patience))
    }

    /// Signs without blocking; `complete` is called once, by `deadline`, on a thread of a pool; never if this is an
    /// error.
    pub(crate) fn submit(
        self: &Arc<Self>,
        message: Message,
        purpose: Purpose,
        deadline: Instant,
        complete: impl FnOnce(Result<Signed, HsmError>) + Send + 'static,
    ) -> Result<(), HsmError> {
        let none = vec![false; self.seats.len()];
        let journey = Journey {
            route: Arc::clone(self),
            purpose,
            message,
            deadline,
            asked: none.clone(),
            slow: none,
            second_round: false,
            failures: Vec::new(),
            complete: Box::new(complete),
        };
        journey.go_on().map_err(|(error, _)| error)
    }

    /// Signs and waits for it.
    pub(crate) fn sign(
        self: &Arc<Self>,
        message: Message,
        purpose: Purpose,
        deadline: Instant,
    ) -> Result<Signed, HsmError> {
        let (answer, outcome) = bounded(1);
        // The caller may have stopped waiting.
        self.submit(message, purpose, deadline, move |result| drop(answer.send(result)))?;
        outcome.recv_deadline(deadline + TICK).unwrap_or(Err(HsmError::DeadlinePassed { purpose }))
    }

    /// The seat to ask next: of those that stand best the one with the least to do for its weight, in turns.
    fn choose(&self, asked: &[bool]) -> Option<usize> {
        let open: Vec<usize> = (0..self.seats.len()).filter(|index| !asked[*index]).collect();
        if let [only] = open[..] {
            return Some(only);
        }
        let now = Instant::now();
        let ranked: Vec<(Rank, usize)> =
            open.iter().map(|index| (self.seats[*index].rank(now, self.patience), *index)).collect();
        let best = ranked.iter().map(|(rank, _)| *rank).min()?;
        let level = || ranked.iter().filter(|(rank, _)| *rank == best).map(|(_, index)| *index);
        let weight = |index: usize| self.seats[index].share.weight as usize;
        let mut turn = self.turn.fetch_add(1, Ordering::Relaxed) % level().map(weight).sum::<usize>();
        level().find(|index| {
            let mine = turn < weight(*index);
            turn = turn.saturating_sub(weight(*index));
            mine
        })
    }
}

impl Seat {
    pub(crate) fn new(pool: PoolLink, key: Arc<PinnedKey>, public_key: PublicKey, share: Arc<Share>) -> Self {
        Self { pool, key, public_key, share }
    }

    fn rank(&self, now: Instant, patience: Duration) -> Rank {
        let load = self.pool.outstanding() / self.share.weight as usize;
        match self.pool.standing() {
            TokenStanding::Ready if !self.key.is_usable() => Rank::Away,
            TokenStanding::Ready if self.rests(now, patience) => Rank::Doubtful(load),
            TokenStanding::Ready => Rank::Ready(load),
            TokenStanding::Healing => Rank::Doubtful(load),
            TokenStanding::Stopped | TokenStanding::Stuck | TokenStanding::Unavailable(_) => Rank::Away,
        }
    }

    /// Whether others go first. Whoever finds that the rest is over has the member tried; until that succeeds it is no
    /// better than it was.
    fn rests(&self, now: Instant, patience: Duration) -> bool {
        {
            let mut until = self.share.resting_until();
            match *until {
                None => return false,
                Some(moment) if now < moment => return true,
                Some(_) => *until = Some(now + REST),
            }
        }
        let work = Work::Sign { key: Arc::clone(&self.key), message: probe_message() };
        let share = Arc::clone(&self.share);
        let judge = move |outcome: Result<Output, HsmError>| {
            if outcome.is_ok() {
                share.did(true);
            }
        };
        // Refused: it rests on.
        let _ = self.pool.submit(work, self.key.purpose, now + patience, judge);
        true
    }

    /// How long it may take for one more signature: `patience`, and what those before it will need.
    fn patience(&self, patience: Duration) -> Duration {
        patience.saturating_add(self.pool.queue_time())
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::new(1)
    }
}

impl Share {
    pub(crate) fn new(weight: u32) -> Self {
        Self { weight: weight.max(1), resting_until: Mutex::default(), failed_over: AtomicU64::new(0) }
    }

    pub(crate) fn failed_over(&self) -> u64 {
        self.failed_over.load(Ordering::Relaxed)
    }

    fn did(&self, well: bool) {
        *self.resting_until() = (!well).then(|| Instant::now() + REST);
    }

    fn resting_until(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        // One assignment: whole, whatever a panicking thread did.
        self.resting_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journey {
    /// Asks members until one takes the job. The error is what to tell whoever waits.
    fn go_on(mut self) -> Result<(), (HsmError, Complete)> {
        loop {
            let Some(index) = self.next() else { return Err(self.give_up()) };
            let route = Arc::clone(&self.route);
            let (seat, purpose) = (&route.seats[index], self.purpose);
            let deadline = self.time_for(seat);
            let Some(message) = self.message_for(seat) else {
                return Err((HsmError::SignatureFault { purpose }, self.complete));
            };
            let work = Work::Sign { key: Arc::clone(&seat.key), message };
            let held = Arc::new(Once::new(self));
            let arriving = Arc::clone(&held);
            let answer = move |outcome| {
                if let Some(journey) = arriving.take() {
                    journey.arrive(index, outcome);
                }
            };
            let Err(error) = seat.pool.submit(work, purpose, deadline, answer) else { return Ok(()) };
            // Refused at once: it is still ours.
            let Some(back) = held.take() else { return Ok(()) };
            self = back;
            if !self.note(index, error) {
                return Err(self.give_up());
            }
        }
    }

    fn next(&mut self) -> Option<usize> {
        if Instant::now() >= self.deadline {
            return None;
        }
        if !self.second_round && self.asked.iter().all(|asked| *asked) {
            self.second_round = true;
            self.asked = self.slow.iter().map(|slow| !slow).collect();
        }
        let index = self.route.choose(&self.asked)?;
        self.asked[index] = true;
        Some(index)
    }

    /// Until when the seat chosen may take. While another could be asked after it, no longer than is left for each of
    /// them; and in the first round no longer than a good member needs.
    fn time_for(&self, seat: &Seat) -> Instant {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let others = self.asked.iter().filter(|asked| !**asked).count();
        let slow = if self.second_round { 0 } else { self.slow.iter().filter(|slow| **slow).count() };
        let after = u32::try_from(others + slow).unwrap_or(u32::MAX);
        let fair = left / after.saturating_add(1);
        let time = match (after, self.second_round) {
            (0, _) => left,
            (_, true) => fair,
            (_, false) => fair.min(seat.patience(self.route.patience)),
        };
        self.deadline.min(Instant::now() + time)
    }

    fn message_for(&self, seat: &Seat) -> Option<Vec<u8>> {
        match &self.message {
            Message::Same(message) => Some(message.clone()),
            Message::ByKey(write) => write(&seat.public_key),
        }
    }

    /// A member answered.
    fn arrive(mut self, index: usize, outcome: Result<Output, HsmError>) {
        let error = match outcome {
            Ok(Output::Signature(signature)) => {
                let seat = &self.route.seats[index];
                // In the second round it was asked because it rests.
                if !self.second_round {
                    seat.share.did(true);
                }
                let public_key = seat.public_key;
                return (self.complete)(Ok(Signed { public_key, signature }));
            }
            Ok(
                Output::Destroyed
                | Output::Found { .. }
                | Output::Made { .. }
                | Output::Opened(_)
                | Output::Sealed { .. },
            ) => HsmError::SignatureFault { purpose: self.purpose },
            Err(error) => error,
        };
        let outcome = if self.note(index, error) { self.go_on() } else { Err(self.give_up()) };
        if let Err((error, complete)) = outcome {
            complete(Err(error));
        }
    }

    /// Remembers a failure; whether another member may be asked.
    fn note(&mut self, index: usize, error: HsmError) -> bool {
        let seat = &self.route.seats[index];
        let grouped = self.route.seats.len() > 1;
        let at_fault = !is_callers(&error);
        let late = matches!(error, HsmError::DeadlinePassed { .. });
        // A full queue is no fault, and whoever is away is known to be.
        if !matches!(error, HsmError::Overloaded { .. } | HsmError::Unavailable { .. }) && at_fault && grouped
        {
            seat.share.did(false);
        }
        self.slow[index] |= late && grouped && !self.second_round;
        if at_fault && grouped {
            seat.share.failed_over.fetch_add(1, Ordering::Relaxed);
        }
        self.failures.push(MemberFailure { token: Box::new(seat.pool.token()), cause: Box::new(error) });
        at_fault
    }

    fn give_up(mut self) -> (HsmError, Complete) {
        let full = |failure: &MemberFailure| matches!(*failure.cause, HsmError::Overloaded { .. });
        let away = |failure: &MemberFailure| matches!(*failure.cause, HsmError::Unavailable { .. });
        // Those that can be used have too much to do: that is what must be told, and not that there is nobody.
        if self.failures.iter().all(|failure| full(failure) || away(failure))
            && let Some(busy) = self.failures.iter().position(full)
        {
            return (*self.failures.swap_remove(busy).cause, self.complete);
        }
        // What is to be told plainly: that of a token alone, and a request at fault.
        let plain =
            self.route.seats.len() == 1 || self.failures.last().is_some_and(|last| is_callers(&last.cause));
        let error = match self.failures.pop() {
            None => HsmError::DeadlinePassed { purpose: self.purpose },
            Some(last) if plain => *last.cause,
            Some(last) => {
                self.failures.push(last);
                HsmError::NoMember { purpose: self.purpose, failures: self.failures }
            }
        };
        (error, self.complete)
    }
}

/// Whether the request is at fault, and not the member.
fn is_callers(error: &HsmError) -> bool {
    matches!(error.class(), Class::Caller | Class::Rejected)
}
