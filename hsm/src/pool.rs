//! The session pool of one token: who may call its module, how long, and what happens when it fails.
//!
//! ```text
//! submit ─▶ lanes (bounded, by purpose) ─▶ worker 0..n  one thread, one session each; sign, verify, answer
//!              │                             │ reports faults
//!            watch: deadlines, hung workers  ▼
//!                                          keeper: login, tests, re-initialisation
//! ```
//!
//! Only workers and the keeper call the module; either may hang there for ever. The watch never does: it answers each
//! job at its deadline whatever the module does, writes hung workers off and replaces them. The answer to a job is
//! given exactly once, by whoever is first.

mod desk;
mod gcm;
mod job;
mod keeper;
mod lanes;
mod making;
mod metrics;
mod once;
mod settings;
mod shared;
mod sync;
mod watch;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use zeroize::Zeroizing;

pub(crate) use desk::{Desk, PoolLink, Standing, lock};
pub(crate) use job::{KeyKind, Output, PinnedKey, Ticket, Work};
pub(crate) use keeper::probe_message;
pub(crate) use metrics::add;
pub use metrics::{BUCKETS_US, Durations, PoolMetrics};
pub(crate) use once::Once;
pub use settings::{Access, PoolSettings, TokenStanding};
use shared::{Shared, Slot};
pub(crate) use watch::TICK;

use crate::agent::{AgentAddress, Link};
use crate::pkcs11::{Class, Module, PinPolicy};
use crate::route::{Route, Seat};
use crate::{HsmError, KeyPurpose, Pkcs11Uri, PublicKey, Purpose, Signer};

/// The pool of one token. Dropping it closes it: queued jobs are answered, threads end when their calls return.
pub struct Pool {
    desk: Arc<Desk>,
    source: Source,
    // Dropped to stop all threads.
    stop: Option<Sender<()>>,
    // Disconnected when the last thread that calls the module has ended.
    alive: Receiver<()>,
}

/// Where the work is done.
enum Source {
    Agent(Arc<Link>),
    Module(Arc<Shared>),
}

impl Pool {
    /// Loads the module, logs in and starts the threads. Blocks until the first login ends, one way or the other.
    ///
    /// A token that is away is no error: the pool keeps looking for it, and keys whose public key is pinned can be
    /// opened meanwhile. [`Pool::standing`] tells.
    ///
    /// # Errors
    /// What configuration or an operator must change.
    pub fn start(settings: PoolSettings) -> Result<Self, HsmError> {
        let pool = Self::open(settings)?;
        pool.fatal().map_or(Ok(()), Err)?;
        Ok(pool)
    }

    /// As [`Self::start`], whatever the first login comes to.
    pub(crate) fn open(mut settings: PoolSettings) -> Result<Self, HsmError> {
        settings.token.require_token()?;
        settings.workers = settings.workers.clamp(1, WORKERS_MAX);
        match settings.access.clone() {
            Access::Agent(address) => Self::open_at_agent(&settings, address),
            Access::Module { path, pin } => Self::open_module(settings, Module::load(&path)?, pin),
        }
    }

    fn open_module(settings: PoolSettings, module: Arc<Module>, pin: PinPolicy) -> Result<Self, HsmError> {
        let start_timeout = settings.start_timeout;
        let (orders, to_keeper) = unbounded();
        let (stop, stopped) = bounded(0);
        let desk = Desk::new(&settings, None);
        let shared = Shared::new(Arc::clone(&desk), settings, pin, module, orders);
        shared.module.admit(&shared.tenant);

        let keeper_slot = Arc::new(Slot::default());
        let (thread_alive, alive) = bounded(0);
        let watch = watch::Watch {
            shared: Arc::clone(&shared),
            keeper: Arc::clone(&keeper_slot),
            stop: stopped.clone(),
            alive: thread_alive.clone(),
        };
        let thread = spawn("hsm-watch", move || watch.run())?;
        shared.set_watch(thread.thread().clone());
        // From here on the watch answers for the workers: it starts them, too.
        let source = Source::Module(Arc::clone(&shared));
        let pool = Self { desk, source, stop: Some(stop), alive };
        let keeper = keeper::Keeper::new(Arc::clone(&shared), keeper_slot, to_keeper, stopped);
        let keeper = spawn("hsm-keeper", move || {
            keeper.run();
            drop(thread_alive);
        })?;
        shared.keep_thread(keeper);
        shared.wake_watch();

        shared.wait_started(start_timeout);
        Ok(pool)
    }

    fn open_at_agent(settings: &PoolSettings, address: AgentAddress) -> Result<Self, HsmError> {
        let desk = Desk::new(settings, Some(settings.queue_len_max));
        let (stop, stopped) = bounded(0);
        let (link, alive) = Link::start(&desk, settings, address, &stopped)?;
        desk.wait_started(settings.start_timeout);
        Ok(Self { desk, source: Source::Agent(link), stop: Some(stop), alive })
    }

    /// Why the token cannot be used, if waiting does not change it.
    pub(crate) fn fatal(&self) -> Option<HsmError> {
        match self.desk.standing().0 {
            Standing::Down(cause) if self.is_fatal(&cause) => {
                Some(HsmError::Unavailable { token: Box::new(self.token()), cause })
            }
            _ => None,
        }
    }

    /// Whether the first login failed in a way that waiting does not change.
    fn is_fatal(&self, cause: &HsmError) -> bool {
        match &self.source {
            // What is wrong at the agent is looked into by it, and by whoever restarts it.
            Source::Agent(_) => matches!(cause, HsmError::AgentRefused { .. }),
            Source::Module(shared) => match cause.class() {
                Class::Config | Class::Caller => true,
                // With an operator to supply the PIN, being locked is how it starts.
                Class::Pin => shared.pin.source != crate::PinSource::Operator,
                Class::Busy | Class::Device | Class::Login | Class::Rejected | Class::Session => false,
            },
        }
    }

    /// Opens the signing key that `uri` names for the purpose `P`. Blocks until `deadline`.
    ///
    /// `pinned` is the public key it must have. Without it the token's word is taken now and held on to. A key can only
    /// be opened unseen, while the token is away, if it is pinned.
    ///
    /// # Errors
    /// What is wrong with the name, the key or the token.
    pub fn signing_key<P: KeyPurpose>(
        &self,
        uri: &Pkcs11Uri,
        pinned: Option<P::PublicKey>,
        deadline: Instant,
    ) -> Result<Signer<P>, HsmError> {
        let (key, public_key) = self.open_key(uri, P::PURPOSE, pinned.map(Into::into), deadline)?;
        let seat = Seat::new(self.link(), key, public_key, Arc::default());
        Ok(Signer::routed(Route::new(vec![seat], Duration::MAX), typed::<P>(public_key, uri)?))
    }

    /// Opens a signing key as [`Self::signing_key`] does, for a route to it.
    pub(crate) fn open_key(
        &self,
        uri: &Pkcs11Uri,
        purpose: Purpose,
        pinned: Option<PublicKey>,
        deadline: Instant,
    ) -> Result<(Arc<PinnedKey>, PublicKey), HsmError> {
        self.open_key_if(uri, purpose, pinned, pinned.is_some(), deadline)
    }

    /// As [`Self::open_key`]; only with `unseen` may the key be one that cannot be looked at now.
    pub(crate) fn open_key_if(
        &self,
        uri: &Pkcs11Uri,
        purpose: Purpose,
        pinned: Option<PublicKey>,
        unseen: bool,
        deadline: Instant,
    ) -> Result<(Arc<PinnedKey>, PublicKey), HsmError> {
        let uri = self.object_uri(uri)?;
        let work = Work::FindSigning { uri: uri.clone(), allowed: purpose.algorithms() };
        let found = match self.run(work, purpose, deadline) {
            Ok(Output::Found { public_key, label, id }) => Some((public_key, label, id)),
            Ok(_) => None,
            // The keeper checks it when the token is back.
            Err(error) if unseen && is_absence(&error) => None,
            Err(error) => return Err(error),
        };
        let mut exact = uri.clone();
        let mut public_key = pinned;
        if let Some((shown, label, id)) = found {
            if let (Some(pinned), Some(shown)) = (pinned, shown)
                && pinned != shown
            {
                return Err(HsmError::KeyMismatch { key: Box::new(uri) });
            }
            purpose.check_label(label.as_deref(), &uri)?;
            public_key = pinned.or(shown);
            if exact.id.is_none() && !id.is_empty() {
                exact.id = Some(id);
            }
        }
        let public_key = public_key.ok_or_else(|| HsmError::Unpinned { key: Box::new(uri.clone()) })?;
        let public_half = self.desk.checks.pin(public_key).ok_or_else(|| HsmError::KeyAttribute {
            key: Box::new(uri.clone()),
            problem: "its public key is not a usable Ed25519 key",
        })?;
        let key = self.adopt(exact, purpose, KeyKind::Signing(Box::new(public_half)))?;
        if let Err(error) = self.prove(&key, deadline)
            && !(unseen && is_absence(&error))
        {
            self.forget(&key);
            return Err(error);
        }
        Ok((key, public_key))
    }

    /// Supplies the PIN for one login ([`PinSource::Operator`](crate::PinSource::Operator)). Blocks until it is made.
    ///
    /// # Errors
    /// Why the token still cannot be used.
    pub fn unlock(&self, pin: Zeroizing<String>) -> Result<(), HsmError> {
        let shared = match &self.source {
            Source::Agent(link) => return Err(link.unlock_refusal()),
            Source::Module(shared) => shared,
        };
        let (reply, outcome) = bounded(1);
        let order = keeper::Order::Unlock(pin, reply);
        shared.orders.send(order).map_err(|_| HsmError::Stopped)?;
        let patience = shared.settings.start_timeout;
        match outcome.recv_timeout(patience) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(cause)) => Err(HsmError::Unavailable { token: Box::new(self.token()), cause }),
            Err(_) => Err(HsmError::ModuleBusy { path: shared.module.path().to_owned() }),
        }
    }

    /// The token's name.
    #[must_use]
    pub fn token(&self) -> Pkcs11Uri {
        self.link().token()
    }

    /// How the token stands. Does not call it.
    #[must_use]
    pub fn standing(&self) -> TokenStanding {
        self.link().standing()
    }

    /// What is wrong with one of the keys, if something is and the token can be used all the same.
    pub(crate) fn key_fault(&self) -> Option<Arc<HsmError>> {
        lock(&self.desk.keys).iter().find_map(|key| key.fault())
    }

    /// What the pool has done so far. Does not call the token.
    #[must_use]
    pub fn metrics(&self) -> PoolMetrics {
        let mut metrics = self.desk.counters.read();
        metrics.queued = self.desk.lanes.lens();
        metrics.outstanding = self.desk.outstanding_len();
        match &self.source {
            Source::Agent(link) => link.add_told(&mut metrics),
            Source::Module(shared) => metrics.workers_stuck = lock(&shared.slots).lost.len(),
        }
        metrics
    }

    /// Whether another process has the module, and the PIN.
    pub(crate) fn is_at_agent(&self) -> bool {
        matches!(self.source, Source::Agent(_))
    }

    /// How many work at once.
    pub(crate) fn workers(&self) -> usize {
        self.desk.workers()
    }

    /// Runs one job and waits for it.
    pub(crate) fn run(&self, work: Work, purpose: Purpose, deadline: Instant) -> Result<Output, HsmError> {
        self.link().run(work, purpose, deadline)
    }

    pub(crate) fn link(&self) -> PoolLink {
        PoolLink(Arc::clone(&self.desk))
    }

    /// The full name of an object in this pool's token.
    pub(crate) fn object_uri(&self, uri: &Pkcs11Uri) -> Result<Pkcs11Uri, HsmError> {
        uri.require_object()?;
        let ours = &self.desk.token_uri;
        if uri.token != ours.token || uri.serial != ours.serial {
            return Err(HsmError::Token {
                wanted: Box::new(uri.token_only()),
                matches: 0,
                present: vec![ours.token_only()],
            });
        }
        Ok(Pkcs11Uri { pin_source: None, pin_value: None, module_path: None, ..uri.clone() })
    }

    /// Enters a key in the list of those the keeper tests.
    pub(crate) fn adopt(
        &self,
        uri: Pkcs11Uri,
        purpose: Purpose,
        kind: KeyKind,
    ) -> Result<Arc<PinnedKey>, HsmError> {
        let mut keys = lock(&self.desk.keys);
        let same = |key: &&Arc<PinnedKey>| match (&key.kind, &kind) {
            (KeyKind::Signing(one), KeyKind::Signing(other)) => one.key() == other.key(),
            (KeyKind::Wrapping, KeyKind::Wrapping) => key.uri == uri,
            _ => false,
        };
        // Nobody signs with those any more: a service that rotates its keys would test more and more of them.
        keys.retain(|key| Arc::strong_count(key) > 1);
        if let Some(known) = keys.iter().find(same) {
            // One key, one purpose, however it is named.
            if known.purpose != purpose {
                return Err(HsmError::KeyInUse { key: Box::new(uri), found: known.purpose, wanted: purpose });
            }
            return Ok(Arc::clone(known));
        }
        let key = Arc::new(PinnedKey::new(uri, purpose, kind));
        keys.push(Arc::clone(&key));
        Ok(key)
    }

    pub(crate) fn forget(&self, key: &Arc<PinnedKey>) {
        lock(&self.desk.keys).retain(|other| !Arc::ptr_eq(other, key));
    }

    /// Lets go of keys that nobody holds any more.
    pub(crate) fn forget_unused(&self) {
        lock(&self.desk.keys).retain(|key| Arc::strong_count(key) > 1);
    }

    /// Lets go of the key with this public half, which is about to go.
    pub(crate) fn forget_public(&self, public_key: PublicKey) {
        lock(&self.desk.keys)
            .retain(|key| !matches!(&key.kind, KeyKind::Signing(pinned) if pinned.key() == public_key));
    }

    /// A test signature: the key is the one whose public half we hold.
    fn prove(&self, key: &Arc<PinnedKey>, deadline: Instant) -> Result<(), HsmError> {
        let work = Work::Sign { key: Arc::clone(key), message: probe_message() };
        self.run(work, key.purpose, deadline).map(|_| ())
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("token", &self.desk.token_uri)
            .field("standing", &self.standing())
            .finish_non_exhaustive()
    }
}

impl Drop for Pool {
    /// Waits a moment for the threads: a process that ends while one is in the module, which then takes its state down,
    /// crashes at the very end.
    fn drop(&mut self) {
        match &self.source {
            Source::Agent(link) => link.stop(),
            Source::Module(shared) => shared.set_standing(Standing::Stopped),
        }
        drop(self.stop.take());
        self.desk.wake_watch();
        let all_left = self.alive.recv_timeout(CLOSE_PATIENCE) == Err(RecvTimeoutError::Disconnected);
        // What a library keeps for a thread is freed after the thread's last line, by code of the module. Whoever hangs
        // in a call is left behind.
        if let (true, Source::Module(shared)) = (all_left, &self.source) {
            shared.join_threads();
        }
    }
}

/// `key` as what the purpose `P` takes.
pub(crate) fn typed<P: KeyPurpose>(key: PublicKey, uri: &Pkcs11Uri) -> Result<P::PublicKey, HsmError> {
    P::PublicKey::try_from(key).map_err(|_| HsmError::KeyAttribute {
        key: Box::new(uri.clone()),
        problem: "its algorithm is none for this purpose",
    })
}

/// Whether a key could not be looked at, as opposed to looked at and found wrong.
fn is_absence(error: &HsmError) -> bool {
    matches!(error, HsmError::Unavailable { .. } | HsmError::Stuck { .. } | HsmError::DeadlinePassed { .. })
}

pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, HsmError> {
    let handle = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    handle.map_err(|source| HsmError::Thread { source })
}

fn spawn_worker(shared: &Arc<Shared>, slot: &Arc<Slot>, stop: &Receiver<()>, alive: &Sender<()>) -> bool {
    let alive = alive.clone();
    let worker = worker::Worker::new(Arc::clone(shared), Arc::clone(slot), stop.clone());
    let run = move || {
        worker.run();
        drop(alive);
    };
    spawn("hsm-worker", run).map(|thread| shared.keep_thread(thread)).is_ok()
}

/// How long closing a pool waits for calls that are under way. One that hangs is left behind.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// More threads than any token has use for.
const WORKERS_MAX: usize = 256;
