//! One per core: sockets, batching, the request path.
//!
//! A shard is one pinned thread with its own runtime, its own listeners and connections, its own verifier and its own
//! ring to the audit log. Shards share read-only snapshots and nothing else; no lock is taken on the request path.
//! This room joins the pure ones: it may use `wire`, `token`, `keys`, `verify`, `revocation`, `audit` and `metrics`,
//! and with `daemon` it alone may name monoio.

mod awaiting;
mod bulk;
mod clock;
mod connection;
mod decider;
mod delegates;
mod held;
mod listen;
mod outbox;
mod policy;
mod receipts;
mod request;
mod stream;
mod turn;

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use monoio::net::{TcpListener, UnixListener};

use crate::audit::{Ack, Appender, OnFailure};
use crate::config;
use crate::metrics::{ShardMetrics, bump};
use crate::revocation::View;
use crate::status_list;
use crate::tls;
use crate::verify::Verifier;

pub use delegates::Delegates;
pub use held::Waits;
pub use listen::{BindError, Bound, Sockets, bind, unlink};
pub use policy::{IssuerRealms, OwnKeys, Policy, PolicyError, Published, published_keys};
pub use request::{Admitted, Moment, NotAdmitted, Read, Settled, admit, admit_all, look_up, read, settle};

use clock::{Clock, TICK};
use decider::{Decider, Recording};
use stream::{Stream, TlsStream};
use turn::Turn;

/// What one shard is made of; moved into its thread.
pub struct Parts {
    /// The shard's number: its core, and its appender's core id.
    pub number: u16,
    /// Its listening sockets.
    pub sockets: Sockets,
    /// Where it is handed connections that have shaken hands.
    pub inbox: tls::Inbox,
    /// The `[server]` settings.
    pub settings: Arc<config::Server>,
    /// What to decide by; swapped whole.
    pub policy: Arc<ArcSwap<Policy>>,
    /// What is revoked.
    pub view: Arc<View>,
    /// What other issuers' status lists say; `None` where no issuer has any.
    pub lists: Option<Arc<status_list::Cache>>,
    /// Its ring to the audit log.
    pub appender: Appender,
    /// When an answer may leave.
    pub ack: Ack,
    /// How long an answer may wait for that.
    pub ack_timeout: Duration,
    /// What becomes of a decision that cannot be recorded.
    pub on_failure: OnFailure,
    /// How questions may wait that cannot be decided in their turn.
    pub waits: Waits,
    /// Its verifier.
    pub verifier: Verifier,
    /// Its counters.
    pub metrics: Arc<ShardMetrics>,
    /// How the daemon steers it.
    pub control: Arc<Control>,
}

/// How the daemon steers the shards. Written by the daemon, read by every shard.
pub struct Control {
    draining: AtomicBool,
    running: AtomicU32,
    halted: AtomicBool,
    readiness: Box<dyn Fn() -> (bool, String) + Send + Sync>,
    halt: Box<dyn Fn() + Send + Sync>,
}

impl Control {
    /// Steering for shards that report `readiness`: whether decisions can be made, and a line per dependency. `halt`
    /// is called once, by the first shard that must stop the daemon (`audit.on_failure = "halt"`).
    pub fn new(
        readiness: impl Fn() -> (bool, String) + Send + Sync + 'static,
        halt: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            draining: AtomicBool::new(false),
            running: AtomicU32::new(0),
            halted: AtomicBool::new(false),
            readiness: Box::new(readiness),
            halt: Box::new(halt),
        }
    }

    fn halt(&self) {
        if !self.halted.swap(true, Ordering::AcqRel) {
            (self.halt)();
        }
    }

    /// Lets every shard stop accepting, finish what is in flight, and end.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// How many shards are serving.
    #[must_use]
    pub fn running(&self) -> u32 {
        self.running.load(Ordering::Acquire)
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    fn readiness(&self) -> (bool, String) {
        let (ready, mut text) = (self.readiness)();
        if self.is_draining() {
            text.push_str("draining: yes\n");
        }
        (ready && !self.is_draining(), text)
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("draining", &self.is_draining()).finish_non_exhaustive()
    }
}

/// Which driver a shard really runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverInUse {
    /// `io_uring`.
    IoUring,
    /// epoll.
    Epoll,
}

impl std::fmt::Display for DriverInUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        })
    }
}

/// Chooses the driver: `wished`, or what the kernel allows.
///
/// # Errors
/// If `io_uring` is demanded and the kernel refuses it.
pub fn choose_driver(wished: config::Driver) -> Result<DriverInUse, std::io::Error> {
    match wished {
        config::Driver::Epoll => Ok(DriverInUse::Epoll),
        config::Driver::IoUring if !monoio::utils::detect_uring() => Err(std::io::Error::other(
            "the kernel does not allow io_uring (see /proc/sys/kernel/io_uring_disabled)",
        )),
        config::Driver::Auto if !monoio::utils::detect_uring() => Ok(DriverInUse::Epoll),
        config::Driver::Auto | config::Driver::IoUring => Ok(DriverInUse::IoUring),
    }
}

/// The entries of a shard's submission ring: what its busiest turn may submit before entering the kernel.
const RING_ENTRIES: u32 = 1024;

/// Runs a shard on this thread until it is drained.
///
/// # Errors
/// If the runtime cannot be built.
pub fn run(parts: Parts, driver: DriverInUse) -> std::io::Result<()> {
    match driver {
        DriverInUse::IoUring => {
            let mut uring = io_uring::IoUring::builder();
            // One thread submits, completions are run when it asks for them: fewer interrupts of its work.
            uring.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun();
            let builder = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
                .uring_builder(uring)
                .with_entries(RING_ENTRIES);
            // Kernels before 6.1 know fewer of these: there the plain ring does.
            match builder.enable_timer().build() {
                Ok(mut runtime) => runtime.block_on(serve(parts, driver)),
                Err(_) => monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
                    .with_entries(RING_ENTRIES)
                    .enable_timer()
                    .build()?
                    .block_on(serve(parts, driver)),
            }
        }
        DriverInUse::Epoll => monoio::RuntimeBuilder::<monoio::LegacyDriver>::new()
            .enable_timer()
            .build()?
            .block_on(serve(parts, driver)),
    }
}

/// A running shard, as its connections see it.
struct Shard {
    settings: Arc<config::Server>,
    policy: Arc<ArcSwap<Policy>>,
    metrics: Arc<ShardMetrics>,
    control: Arc<Control>,
    clock: Clock,
    turn: Turn,
    json: RefCell<crate::json::Scratch>,
}

impl Shard {
    fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }
}

async fn serve(parts: Parts, driver: DriverInUse) -> std::io::Result<()> {
    let shard = Rc::new(Shard {
        settings: parts.settings,
        policy: parts.policy,
        metrics: Arc::clone(&parts.metrics),
        control: Arc::clone(&parts.control),
        clock: Clock::new(),
        turn: Turn::new(),
        json: RefCell::default(),
    });

    let recording = Recording {
        appender: parts.appender,
        ack: parts.ack,
        ack_timeout: parts.ack_timeout,
        on_failure: parts.on_failure,
    };
    let decider =
        Decider::new(parts.verifier, recording, parts.waits, parts.view, parts.lists, parts.metrics);
    monoio::spawn(decide(decider, Rc::clone(&shard)));

    for socket in parts.sockets.tcp {
        let listener = TcpListener::from_std(socket)?;
        monoio::spawn(accept_tcp(listener, Rc::clone(&shard)));
    }
    for socket in parts.sockets.unix {
        let listener = UnixListener::from_std(socket)?;
        monoio::spawn(accept_unix(listener, Rc::clone(&shard)));
    }
    monoio::spawn(accept_tls(parts.inbox, driver, Rc::clone(&shard)));
    parts.control.running.fetch_add(1, Ordering::AcqRel);

    let mut drain_until = None;
    loop {
        monoio::time::sleep(TICK).await;
        let draining = shard.control.is_draining();
        shard.clock.tick(draining);
        shard.turn.tick();
        // Whoever connects from now on is closed at once (`spawn_connection`).
        if draining {
            let until = *drain_until.get_or_insert_with(|| Instant::now() + shard.settings.drain_timeout);
            if shard.clock.connections() == 0 || Instant::now() >= until {
                break;
            }
        }
    }
    parts.control.running.fetch_sub(1, Ordering::AcqRel);
    Ok(())
}

/// The deciding task: woken by the first question of a turn and by acknowledgements.
async fn decide(mut decider: Decider, shard: Rc<Shard>) {
    poll_fn(|cx| {
        let policy = shard.policy.load();
        if decider.poll(&shard.turn, &policy, cx).is_break() {
            shard.control.halt();
        }
        Poll::<()>::Pending
    })
    .await;
}

async fn accept_tcp(listener: TcpListener, shard: Rc<Shard>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // An answer is one write: waiting for more bytes would only delay it.
                let _ = stream.set_nodelay(true);
                spawn_connection(stream, Some(peer.ip()), &shard);
            }
            Err(error) => pause_after(&error).await,
        }
    }
}

async fn accept_unix(listener: UnixListener, shard: Rc<Shard>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => spawn_connection(stream, None, &shard),
            Err(error) => pause_after(&error).await,
        }
    }
}

async fn accept_tls(inbox: tls::Inbox, driver: DriverInUse, shard: Rc<Shard>) {
    loop {
        let ready = inbox.next().await;
        let peer = ready.peer.ip();
        match TlsStream::new(ready, driver) {
            Ok(stream) => spawn_connection(stream, Some(peer), &shard),
            Err(error) => pause_after(&error).await,
        }
    }
}

fn spawn_connection(stream: impl Stream + 'static, peer: Option<IpAddr>, shard: &Rc<Shard>) {
    if shard.control.is_draining() || shard.clock.connections() >= shard.settings.connections_max {
        bump(&shard.metrics.connections_refused);
        return;
    }
    monoio::spawn(connection::serve(stream, peer, Rc::clone(shard)));
}

/// After a failed accept (no descriptor or memory left) the next one would fail at once too.
async fn pause_after(error: &std::io::Error) {
    const PAUSE: Duration = Duration::from_millis(10);
    tracing::warn!(%error, "cannot accept a connection");
    monoio::time::sleep(PAUSE).await;
}
