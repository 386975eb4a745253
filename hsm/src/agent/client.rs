//! A pool whose module is an agent's: what is queued goes there, and what comes back is checked before it goes anywhere.
//!
//! Three threads, none of which waits for the agent longer than it must: the watch answers every job at its deadline, the
//! sender writes what is queued into frames, and the link connects, reads, and says how the token stands. When the connection
//! breaks what was under way is answered at once, and the link connects anew until it succeeds.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

use super::connection::{Connection, greet, told};
use super::frame::{
    BATCH_BYTES, BATCH_LEN_MAX, DATA_BYTES_MAX, FromAgent, Reply, Role, read_frame, request_bytes,
};
use super::status::Status;
use super::{AgentAddress, HEARTBEAT};
use crate::pool::{
    Desk, KeyKind, Output, PinnedKey, PoolMetrics, PoolSettings, Standing, Ticket, Work, add, lock,
    probe_message, spawn,
};
use crate::{HsmError, TokenStanding};

/// The pause before connecting anew, and what it grows to: about as long as a service manager takes to start an agent.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The tag that AES-GCM adds.
const TAG_BYTES: usize = 16;

/// What a thread does until it is stopped.
type Run = fn(&Arc<Link>, &Receiver<()>);

/// What the threads share, and the pool asks.
pub(crate) struct Link {
    desk: Arc<Desk>,
    address: AgentAddress,
    // How long the agent may say nothing before the connection counts as broken. It has a heartbeat.
    silence: Duration,
    probe_interval: Duration,
    // Set by the link, taken by the sender.
    connection: Mutex<Option<Arc<Connection>>>,
    // What the agent said last.
    told: Mutex<Option<Status>>,
    // Connections that broke.
    lost: AtomicU64,
    // Whether every key has signed, or shown why it does not, since the connection was made.
    proven: AtomicBool,
    // A proof is under way.
    proving: AtomicBool,
}

impl Link {
    /// Starts the threads; `stopped` ends them, and what is returned is disconnected with the last of them.
    pub(crate) fn start(
        desk: &Arc<Desk>,
        settings: &PoolSettings,
        address: AgentAddress,
        stopped: &Receiver<()>,
    ) -> Result<(Arc<Self>, Receiver<()>), HsmError> {
        let link = Arc::new(Self {
            desk: Arc::clone(desk),
            address,
            silence: settings.hang_limit.max(HEARTBEAT * 4),
            probe_interval: settings.probe_interval,
            connection: Mutex::default(),
            told: Mutex::default(),
            lost: AtomicU64::new(0),
            proven: AtomicBool::new(false),
            proving: AtomicBool::new(false),
        });
        let (thread_alive, alive) = bounded::<()>(0);
        let threads: [(&str, Run); 3] =
            [("hsm-watch", Self::watch), ("hsm-agent-send", Self::send), ("hsm-agent-link", Self::run)];
        for (name, run) in threads {
            let (link, stopped) = (Arc::clone(&link), stopped.clone());
            let alive: Sender<()> = thread_alive.clone();
            let thread = spawn(name, move || {
                run(&link, &stopped);
                drop(alive);
            })?;
            if name == "hsm-watch" {
                desk.set_watch(thread.thread().clone());
            }
        }
        Ok((link, alive))
    }

    /// Closes the pool: what is under way is answered.
    pub(crate) fn stop(&self) {
        self.desk.change_standing(Standing::Stopped, |_| ());
        if let Some(connection) = lock(&self.connection).as_ref() {
            connection.shut();
        }
    }

    /// Adds what only the agent knows.
    pub(crate) fn add_told(&self, metrics: &mut PoolMetrics) {
        metrics.agent_lost = self.lost.load(Ordering::Relaxed);
        if let Some(status) = lock(&self.told).as_ref() {
            metrics.add(&status.metrics);
        }
    }

    /// Why a PIN is not taken here.
    pub(crate) fn unlock_refusal(&self) -> HsmError {
        HsmError::UnlockAtAgent { socket: self.address.socket.clone() }
    }

    /// The watch: answers jobs at their deadlines.
    fn watch(self: &Arc<Self>, stopped: &Receiver<()>) {
        loop {
            // While the next moment is computed every new job wakes this thread again.
            self.desk.announce_wake(None);
            if is_over(stopped) {
                for ticket in self.desk.lanes.drain() {
                    self.desk.settle(&ticket, Err(HsmError::Stopped));
                }
                if self.desk.outstanding_len() == 0 {
                    return;
                }
            }
            let due = self.desk.expire(Instant::now());
            self.desk.sleep_until(due);
        }
    }

    /// The sender: whatever is queued when it wakes up goes into one frame.
    fn send(self: &Arc<Self>, stopped: &Receiver<()>) {
        let mut turn = 0;
        while let Some(first) = self.desk.lanes.take(&mut turn, stopped) {
            let (mut batch, mut bytes, mut next) = (Vec::new(), 0, Some(first));
            while let Some(ticket) = next {
                let length = request_bytes(&ticket.work);
                if length > DATA_BYTES_MAX {
                    let error = HsmError::TooLong { bytes: length, max: DATA_BYTES_MAX };
                    self.desk.settle(&ticket, Err(error));
                } else if !ticket.is_settled() {
                    self.desk.counters.wait.note(ticket.queued.elapsed());
                    bytes += length;
                    batch.push(ticket);
                }
                let full = batch.len() >= BATCH_LEN_MAX || bytes >= BATCH_BYTES;
                next = if full { None } else { self.desk.lanes.try_take(&mut turn) };
            }
            let connection = lock(&self.connection).clone();
            let refused = match connection {
                Some(connection) => connection.send(batch, bytes),
                None => batch,
            };
            self.refuse(refused);
        }
    }

    /// Answers jobs for which there is no agent.
    fn refuse(&self, tickets: Vec<Arc<Ticket>>) {
        for ticket in tickets {
            self.desk.settle(&ticket, Err(self.absence()));
        }
    }

    fn absence(&self) -> HsmError {
        let cause = match self.desk.standing().0 {
            Standing::Down(cause) => cause,
            Standing::Stopped => return HsmError::Stopped,
            Standing::Healing | Standing::Ready | Standing::Starting | Standing::Stuck => {
                Arc::new(self.failed("the connection broke"))
            }
        };
        HsmError::Unavailable { token: Box::new(self.desk.token_uri.clone()), cause }
    }

    /// The link: connects, reads until the connection breaks, and again.
    fn run(self: &Arc<Self>, stopped: &Receiver<()>) {
        let mut pause = PAUSE_MIN;
        loop {
            let error = match self.connect() {
                Ok(connection) => {
                    *lock(&self.connection) = Some(Arc::clone(&connection));
                    // Closed meanwhile: nobody else would shut it.
                    if matches!(self.desk.standing().0, Standing::Stopped) {
                        connection.shut();
                    }
                    let error = self.listen(&connection, &mut pause);
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    self.lose(&connection, error);
                    None
                }
                Err(error) => Some(error),
            };
            if let Some(error) = error {
                self.desk.change_standing(Standing::Down(Arc::new(error)), |_| ());
            }
            match stopped.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => pause = (pause * 2).min(PAUSE_MAX),
                _ => return,
            }
        }
    }

    fn connect(&self) -> Result<Arc<Connection>, HsmError> {
        let (stream, token) = greet(&self.address, Role::Use)?;
        let ours = &self.desk.token_uri;
        if token.token != ours.token || token.serial != ours.serial {
            let problem = format!("it serves {token}, and {ours} is configured");
            return Err(HsmError::AgentRefused { socket: self.address.socket.clone(), problem });
        }
        let limited = stream
            .set_read_timeout(Some(self.silence))
            .and_then(|()| stream.set_write_timeout(Some(self.silence)));
        limited.map_err(|error| self.failed(&error.to_string()))?;
        self.proven.store(false, Ordering::SeqCst);
        self.proving.store(false, Ordering::SeqCst);
        Ok(Connection::new(stream))
    }

    /// Reads until the connection breaks; why it did. Something sensible heard resets `pause`.
    fn listen(self: &Arc<Self>, connection: &Connection, pause: &mut Duration) -> HsmError {
        let mut probed = Instant::now();
        loop {
            let frame = match read_frame(&mut &connection.stream) {
                Ok(frame) => frame,
                Err(error) => return self.failed(&told(&error, self.silence)),
            };
            let heard = match FromAgent::decode(&frame) {
                Ok(FromAgent::Replies(replies)) => {
                    replies.into_iter().try_for_each(|reply| self.take(connection, reply))
                }
                Ok(FromAgent::Status(status)) => {
                    *pause = PAUSE_MIN;
                    self.hear(*status);
                    Ok(())
                }
                Ok(FromAgent::Refused(words) | FromAgent::Busy(words)) => Err(words),
                Ok(FromAgent::Unlocked(_) | FromAgent::Welcome(_)) => {
                    Err("it said what it was not asked".to_owned())
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(problem) = heard {
                return self.failed(&problem);
            }
            if probed.elapsed() >= self.probe_interval
                && self.proven.load(Ordering::SeqCst)
                && self.is_told_ready()
            {
                probed = Instant::now();
                self.probe_idle();
            }
        }
    }

    /// Everything that was on its way through the connection is answered, and all that comes is refused.
    fn lose(&self, connection: &Connection, error: HsmError) {
        *lock(&self.connection) = None;
        // Its counts are history; what it had open is not.
        if let Some(status) = lock(&self.told).as_mut() {
            status.standing = TokenStanding::Healing;
            status.metrics.sessions = 0;
            status.metrics.workers_stuck = 0;
        }
        connection.shut();
        // First, so that whoever is answered finds it out of service when it looks for another.
        self.desk.change_standing(Standing::Down(Arc::new(error)), |_| ());
        self.refuse(connection.abandon());
        self.refuse(self.desk.lanes.drain().collect());
    }

    /// The agent says how its token stands.
    fn hear(self: &Arc<Self>, status: Status) {
        let call = &status.metrics.call;
        let calls = call.buckets.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
        let mean = Duration::from_micros(
            u64::try_from(call.sum.as_micros()).unwrap_or(u64::MAX).checked_div(calls).unwrap_or(0),
        );
        self.desk.told_pace(status.workers, mean);
        // What the keys did before says nothing about a token that comes back.
        if !matches!(status.standing, TokenStanding::Ready | TokenStanding::Healing) {
            self.proven.store(false, Ordering::SeqCst);
        }
        let standing = match &status.standing {
            TokenStanding::Ready if self.proven.load(Ordering::SeqCst) => Some(Standing::Ready),
            TokenStanding::Ready => None,
            TokenStanding::Healing => Some(Standing::Healing),
            TokenStanding::Stopped => Some(Standing::Down(Arc::new(self.failed("it is stopping")))),
            TokenStanding::Stuck => Some(Standing::Stuck),
            TokenStanding::Unavailable(cause) => Some(Standing::Down(Arc::clone(cause))),
        };
        *lock(&self.told) = Some(status);
        let Some(standing) = standing else { return self.prove() };
        // Each change to ready is a generation.
        let same = std::mem::discriminant(&self.desk.standing().0) == std::mem::discriminant(&standing);
        if !same || matches!(standing, Standing::Down(_)) {
            self.desk.change_standing(standing, |_| ());
        }
    }

    /// Has every key sign; the token is ready when all have been heard of.
    fn prove(self: &Arc<Self>) {
        if self.proving.swap(true, Ordering::SeqCst) {
            return;
        }
        let keys = self.signing_keys();
        let left = Arc::new(AtomicUsize::new(keys.len()));
        let unclear = Arc::new(AtomicBool::new(false));
        if keys.is_empty() {
            self.conclude(true);
        }
        for key in keys {
            let (link, left, unclear) = (Arc::clone(self), Arc::clone(&left), Arc::clone(&unclear));
            self.probe(&key, move |clear| {
                unclear.fetch_or(!clear, Ordering::SeqCst);
                if left.fetch_sub(1, Ordering::SeqCst) == 1 {
                    link.conclude(!unclear.load(Ordering::SeqCst));
                }
            });
        }
    }

    fn conclude(&self, clear: bool) {
        self.proven.store(clear, Ordering::SeqCst);
        self.proving.store(false, Ordering::SeqCst);
        // Lost meanwhile, connection or token: what the keys did says nothing about the next.
        match clear && self.is_told_ready() {
            true => self.desk.change_standing(Standing::Ready, |_| ()),
            false => self.proven.store(false, Ordering::SeqCst),
        }
    }

    /// Whether the agent, through the connection that there is, says that its token can be used.
    fn is_told_ready(&self) -> bool {
        let ready = |status: &Status| matches!(status.standing, TokenStanding::Ready);
        lock(&self.connection).is_some() && lock(&self.told).as_ref().is_some_and(ready)
    }

    /// Has each key sign that has not for a while, and those that could not.
    fn probe_idle(self: &Arc<Self>) {
        let now = Instant::now();
        for key in self.signing_keys() {
            let last = key.last_good.load(Ordering::Relaxed);
            let fresh = last != 0
                && now.saturating_duration_since(self.desk.moment(last)) < self.probe_interval
                && key.is_usable();
            if !fresh {
                self.probe(&key, |_| ());
            }
        }
    }

    fn signing_keys(&self) -> Vec<Arc<PinnedKey>> {
        let keys = lock(&self.desk.keys);
        keys.iter().filter(|key| matches!(key.kind, KeyKind::Signing(_))).cloned().collect()
    }

    /// Has `key` sign, whether it is in use or not, and remembers what came of it. `done` is told whether that says anything
    /// about the key.
    fn probe(self: &Arc<Self>, key: &Arc<PinnedKey>, done: impl FnOnce(bool) + Send + 'static) {
        let work = Work::Sign { key: Arc::clone(key), message: probe_message() };
        let (probed, link) = (Arc::clone(key), Arc::clone(self));
        let answer = move |outcome: Result<Output, HsmError>| {
            let clear = match outcome {
                Ok(_) => {
                    probed.set_fault(None);
                    true
                }
                // The token can be used, so it is the key that cannot.
                Err(error) if !is_passing(&error) && link.is_told_ready() => {
                    probed.set_fault(Some(Arc::new(error)));
                    true
                }
                Err(_) => false,
            };
            done(clear);
        };
        let deadline = Instant::now() + self.silence;
        match self.desk.enter(work, key.purpose, deadline, Box::new(answer)) {
            Ok(ticket) if self.desk.lanes.push(Arc::clone(&ticket)) => self.desk.wake_watch(),
            Ok(ticket) => {
                self.desk.settle(&ticket, Err(HsmError::Overloaded { purpose: key.purpose }));
            }
            // As much as the queue takes is under way: it is asked again, and `prove` begins anew.
            Err(_) => self.proving.store(false, Ordering::SeqCst),
        }
    }

    /// An answer. The error is what the agent should not have said.
    fn take(&self, connection: &Connection, reply: Reply) -> Result<(), String> {
        let ticket = match connection.answered(reply.id) {
            Ok(Some(ticket)) => ticket,
            Ok(None) => return Ok(()),
            Err(()) => return Err("it answers what it was not asked".to_owned()),
        };
        let outcome = match reply.outcome {
            Err(error) => Err(error),
            Ok(output) => match self.check(&ticket.work, output) {
                Ok(outcome) => outcome,
                Err(problem) => {
                    self.desk.settle(&ticket, Err(self.failed(problem)));
                    return Err(problem.to_owned());
                }
            },
        };
        self.desk.settle(&ticket, outcome);
        Ok(())
    }

    /// Believes nothing. The outer error is what no honest agent says.
    fn check(&self, work: &Work, output: Output) -> Result<Result<Output, HsmError>, &'static str> {
        let counters = &self.desk.counters;
        match (work, &output) {
            (Work::Sign { key, message }, Output::Signature(signature)) => {
                let started = Instant::now();
                let verified = match &key.kind {
                    KeyKind::Signing(pinned) => pinned.verifies(message, signature),
                    KeyKind::Wrapping => false,
                };
                counters.verify.note(started.elapsed());
                if !verified {
                    add(&counters.signature_faults);
                    return Ok(Err(HsmError::SignatureFault { purpose: key.purpose }));
                }
                add(&counters.signed);
                key.last_good.store(self.desk.clock(Instant::now()), Ordering::Relaxed);
            }
            (Work::FindSigning { allowed, .. }, Output::Found { public_key, .. })
                if public_key.is_none_or(|key| allowed.contains(&key.algorithm())) => {}
            (Work::FindWrapping { .. }, Output::Found { public_key: None, .. })
            | (Work::Destroy { .. }, Output::Destroyed) => {}
            (Work::Make { name }, Output::Made { uri })
                if uri.object.as_deref() == Some(&name.label())
                    && uri.token == self.desk.token_uri.token
                    && uri.serial == self.desk.token_uri.serial => {}
            (Work::Seal { data, .. }, Output::Sealed { data: sealed, .. })
                if sealed.len() == data.len().saturating_add(TAG_BYTES) => {}
            (Work::Open { data, .. }, Output::Opened(opened))
                if opened.len().saturating_add(TAG_BYTES) == data.len() => {}
            _ => return Err("its answer is none to what it was asked"),
        }
        Ok(Ok(output))
    }

    fn failed(&self, problem: &str) -> HsmError {
        HsmError::Agent { socket: self.address.socket.clone(), problem: problem.to_owned() }
    }
}

/// Whether an error says nothing about the key: it, or the way to it, had no turn.
fn is_passing(error: &HsmError) -> bool {
    matches!(
        error.cause(),
        HsmError::Agent { .. }
            | HsmError::DeadlinePassed { .. }
            | HsmError::ModuleBusy { .. }
            | HsmError::ModuleRenewed { .. }
            | HsmError::Overloaded { .. }
            | HsmError::Stopped
            | HsmError::Stuck { .. }
    )
}

fn is_over(stopped: &Receiver<()>) -> bool {
    matches!(stopped.try_recv(), Err(TryRecvError::Disconnected))
}
