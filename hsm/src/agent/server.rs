//! The agent: a pool of its own, and the socket at which clients ask for its work.
//!
//! Each connection has a reader and a writer. The reader puts requests into the pool, which answers each by its deadline or
//! refuses it at once; the writer sends whatever answers there are when it wakes up, and says how the token stands.

use std::fmt;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use zeroize::Zeroizing;

use super::connection::told;
use super::frame::{
    BATCH_BYTES, BATCH_LEN_MAX, Draft, Errand, FromAgent, Hello, ReadError, Reply, Request, Role, ToAgent,
    VERSION, read_frame, reply_bytes,
};
use super::opener::{self, Keys, OPENINGS_MAX, Opening};
use super::outbox::Outbox;
use super::peer::{Listening, Peer, own_uid};
use super::settings::{AgentEvent, AgentSettings};
use super::status::Status;
use super::{AgentAddress, HEARTBEAT, HELLO_TIMEOUT, LEFT_MAX, peer};
use crate::pool::{Pool, PoolSettings, Work, lock, spawn};
use crate::{Class, HsmError, Pkcs11Uri, PoolMetrics, Purpose, TokenStanding};

/// Exit code of an agent whose module does not return (`EX_TEMPFAIL`): a service manager is to start it anew.
pub const EXIT_STUCK: u8 = 75;

/// Connections at a time. A service has one for each pool.
const CONNECTIONS_MAX: usize = 32;

/// How often it is looked whether a fault is healed.
const HEALING_INTERVAL: Duration = Duration::from_millis(10);

/// How long a client may not read its answers before the connection is closed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an agent that ends waits for answers that are owed.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// The pause after a connection that could not be accepted, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A token's module, served at a socket. Dropping it ends it: what is owed is answered for a moment, the socket goes.
pub struct Agent {
    served: Arc<Served>,
    // Dropped to stop the opener.
    stop: Option<Sender<()>>,
    // Disconnected when the last thread has ended.
    alive: Receiver<()>,
}

/// What the threads share.
pub(super) struct Served {
    pub(super) pool: Pool,
    pub(super) keys: Keys,
    settings: AgentSettings,
    openings: Sender<Opening>,
    connections: Mutex<Vec<Arc<Connection>>>,
    stopping: AtomicBool,
    tell: Box<dyn Fn(AgentEvent) + Send + Sync>,
    listening: Listening,
}

/// An errand that needs a key.
enum Keyed {
    Open(Work),
    Unopened(Errand),
}

struct Connection {
    stream: UnixStream,
    peer: Peer,
    outbox: Arc<Outbox>,
}

impl Agent {
    /// Starts the pool, then listens. Blocks until the first login ends, one way or the other, as [`Pool::start`] does.
    ///
    /// `tell` is called with what belongs into a log, from any thread.
    ///
    /// # Errors
    /// As [`Pool::start`]; if it cannot listen at the socket.
    pub fn start(
        pool: PoolSettings,
        settings: AgentSettings,
        tell: impl Fn(AgentEvent) + Send + Sync + 'static,
    ) -> Result<Self, HsmError> {
        // First: whoever is not to serve has no business with the token, nor with its PIN.
        let shared = settings.allow_uids.iter().any(|uid| *uid != own_uid());
        let listening = Listening::bind(&settings.socket, shared)?;
        let pool = Pool::start(pool)?;
        let (openings, to_opener) = bounded(OPENINGS_MAX);
        let (stop, stopped) = bounded(0);
        let (thread_alive, alive) = bounded(0);
        let served = Arc::new(Served {
            pool,
            keys: Keys::default(),
            settings,
            openings,
            connections: Mutex::default(),
            stopping: AtomicBool::new(false),
            tell: Box::new(tell),
            listening,
        });
        // From here on dropping it ends the threads.
        let agent = Self { served: Arc::clone(&served), stop: Some(stop), alive };
        let (opener, opener_alive) = (Arc::clone(&served), Sender::clone(&thread_alive));
        let opener_stopped = stopped.clone();
        spawn("hsm-agent-open", move || {
            opener::run(&opener, &to_opener, &opener_stopped);
            drop((opener, opener_alive));
        })?;
        spawn("hsm-agent-accept", move || {
            accept(&served, &stopped, &thread_alive);
            drop((served, thread_alive));
        })?;
        Ok(agent)
    }

    /// How the token stands. Does not call it.
    #[must_use]
    pub fn standing(&self) -> TokenStanding {
        self.served.pool.standing()
    }

    /// What the pool has done so far. Does not call the token.
    #[must_use]
    pub fn metrics(&self) -> PoolMetrics {
        self.served.pool.metrics()
    }

    /// The token's name.
    #[must_use]
    pub fn token(&self) -> Pkcs11Uri {
        self.served.pool.token()
    }

    /// Whether only a new process helps ([`EXIT_STUCK`]): the keeper, or at least half of the workers, sit in calls that do not
    /// return. Such a process must end without running the module's exit handlers, which may hang as well.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        matches!(self.standing(), TokenStanding::Stuck)
            || self.metrics().workers_stuck * 2 >= self.served.pool.workers().max(1)
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent")
            .field("socket", &self.served.settings.socket)
            .field("pool", &self.served.pool)
            .finish_non_exhaustive()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.served.stopping.store(true, Ordering::SeqCst);
        drop(self.stop.take());
        // Wakes whoever accepts.
        let address = AgentAddress { socket: self.served.listening.path().to_owned(), uid: Some(own_uid()) };
        drop(peer::connect(&address));
        for connection in lock(&self.served.connections).iter() {
            connection.outbox.close();
            // Its reader ends, its writer when nothing is owed any more.
            let _ = connection.stream.shutdown(Shutdown::Read);
        }
        let _ = self.alive.recv_timeout(CLOSE_PATIENCE);
        for connection in lock(&self.served.connections).iter() {
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(served: &Arc<Served>, stopped: &Receiver<()>, alive: &Sender<()>) {
    loop {
        let accepted = served.listening.listener.accept();
        if served.stopping.load(Ordering::SeqCst) {
            return;
        }
        let admitted = accepted.and_then(|(stream, _)| {
            let peer = Peer::of(&stream)?;
            stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
            stream.set_read_timeout(Some(HELLO_TIMEOUT))?;
            Ok((stream, peer))
        });
        match admitted {
            Ok((stream, peer)) => served.admit(stream, peer, alive),
            // The client is gone, or there are no descriptors: others may be admitted later.
            Err(_) => drop(stopped.recv_timeout(ACCEPT_PAUSE)),
        }
    }
}

impl Served {
    /// Looks who it is, and gives it a reader.
    fn admit(self: &Arc<Self>, stream: UnixStream, peer: Peer, alive: &Sender<()>) {
        let known = self.may_use(peer) || may_unlock(peer);
        let crowded = lock(&self.connections).len() >= CONNECTIONS_MAX;
        let connection = Arc::new(Connection { stream, peer, outbox: Arc::default() });
        if !known {
            let problem = format!("user id {} is not among agent.allow_uids", peer.uid);
            return self.refuse(&connection, FromAgent::refused, problem);
        }
        if crowded {
            let problem = format!("{CONNECTIONS_MAX} clients are connected");
            return self.refuse(&connection, FromAgent::busy, problem);
        }
        lock(&self.connections).push(Arc::clone(&connection));
        let (served, alive) = (Arc::clone(self), alive.clone());
        let reading = Arc::clone(&connection);
        let started = spawn("hsm-agent-read", move || {
            served.converse(&reading, &alive);
            lock(&served.connections).retain(|other| !Arc::ptr_eq(other, &reading));
            drop((reading, served, alive));
        });
        if let Err(error) = started {
            lock(&self.connections).retain(|other| !Arc::ptr_eq(other, &connection));
            self.refuse(&connection, FromAgent::busy, error.to_string());
        }
    }

    fn may_use(&self, peer: Peer) -> bool {
        self.settings.allow_uids.contains(&peer.uid)
    }

    fn refuse(&self, connection: &Connection, say: fn(&str) -> Zeroizing<Vec<u8>>, problem: String) {
        // It is told why, if it still listens.
        let _ = (&connection.stream).write_all(&say(&problem));
        let Peer { uid, pid } = connection.peer;
        (self.tell)(AgentEvent::Refused { uid, pid, problem });
    }

    /// One connection from hello to end.
    fn converse(self: &Arc<Self>, connection: &Arc<Connection>, alive: &Sender<()>) {
        let Peer { uid, pid } = connection.peer;
        let hello = match read_frame(&mut &connection.stream) {
            Ok(frame) => Hello::decode(&frame).map_err(|error| error.to_string()),
            // It only looked whether somebody listens.
            Err(ReadError::Closed) => return,
            Err(error) => Err(told(&error, HELLO_TIMEOUT)),
        };
        let role = match hello {
            // As it is while one of the two is replaced.
            Ok(Hello { version, .. }) if version != VERSION => {
                let problem = format!(
                    "it speaks version {version} of the agent's protocol, and the agent version {VERSION}; run both from one release"
                );
                return self.refuse(connection, FromAgent::busy, problem);
            }
            Ok(Hello { role: Role::Use, .. }) if !self.may_use(connection.peer) => Err(format!(
                "user id {uid} may not use keys; name it at agent.allow_uids if it is the service's"
            )),
            Ok(Hello { role: Role::Unlock, .. }) if !may_unlock(connection.peer) => {
                Err(format!("user id {uid} may not unlock the token; root and the agent's own user may"))
            }
            Ok(Hello { role, .. }) => Ok(role),
            Err(problem) => Err(problem),
        };
        let role = match role {
            Ok(role) => role,
            Err(problem) => return self.refuse(connection, FromAgent::refused, problem),
        };
        (self.tell)(AgentEvent::Connected { uid, pid });
        let welcome = FromAgent::welcome(&self.pool.token());
        let ready =
            (&connection.stream).write_all(&welcome).and_then(|()| connection.stream.set_read_timeout(None));
        if ready.is_err() {
            return;
        }
        let ended = match role {
            Role::Unlock => self.take_pin(connection),
            Role::Use => self.serve(connection, alive),
        };
        if let Err(problem) = ended {
            (self.tell)(AgentEvent::Broken { uid, pid, problem });
        }
    }

    fn take_pin(&self, connection: &Connection) -> Result<(), String> {
        match read_frame(&mut &connection.stream) {
            Err(ReadError::Closed) => Ok(()),
            Err(error) => Err(told(&error, HELLO_TIMEOUT)),
            Ok(frame) => match ToAgent::decode(&frame) {
                Ok(ToAgent::Unlock(pin)) => {
                    let outcome = self.pool.unlock(Zeroizing::clone(&pin));
                    drop((pin, frame));
                    // Whoever handed it in may have gone; the standing tells the others.
                    let _ = (&connection.stream).write_all(&FromAgent::unlocked(&outcome));
                    Ok(())
                }
                Ok(ToAgent::Requests(_)) => Err("it was to hand in a PIN".to_owned()),
                Err(error) => Err(error.to_string()),
            },
        }
    }

    /// Reads requests until the client goes.
    fn serve(self: &Arc<Self>, connection: &Arc<Connection>, alive: &Sender<()>) -> Result<(), String> {
        let (served, writing, writer_alive) = (Arc::clone(self), Arc::clone(connection), alive.clone());
        let (written, all_written) = bounded::<()>(0);
        let started = spawn("hsm-agent-write", move || {
            served.write(&writing);
            drop((writing, served, writer_alive, written));
        });
        started.map_err(|error| error.to_string())?;
        let ended = loop {
            let frame = match read_frame(&mut &connection.stream) {
                Ok(frame) => frame,
                Err(ReadError::Closed) => break Ok(()),
                Err(error) => break Err(told(&error, HELLO_TIMEOUT)),
            };
            match ToAgent::decode(&frame) {
                Ok(ToAgent::Requests(requests)) => {
                    for request in requests {
                        if !connection.outbox.admit(request.id, request.bytes()) {
                            break;
                        }
                        self.take(request, &connection.outbox);
                    }
                }
                Ok(ToAgent::Unlock(_)) => break Err("it was to use keys, and handed in a PIN".to_owned()),
                Err(error) => break Err(error.to_string()),
            }
        };
        connection.outbox.close();
        if ended.is_err() {
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
        // It counts as a connection until what it is owed is answered.
        let _ = all_written.recv();
        ended
    }

    /// Has a request done, or answers why not.
    fn take(self: &Arc<Self>, request: Request, outbox: &Arc<Outbox>) {
        let Request { id, purpose, left, errand } = request;
        let deadline = Instant::now() + left.min(LEFT_MAX);
        if !self.settings.purposes.contains(&purpose) {
            return outbox.push(Reply { id, outcome: Err(HsmError::PurposeNotServed { purpose }) });
        }
        if !is_consistent(purpose, &errand) {
            let text = format!("a request for {purpose} asks for another kind of key");
            let error = HsmError::AgentSays { class: Class::Caller, text };
            return outbox.push(Reply { id, outcome: Err(error) });
        }
        let work = match errand {
            Errand::FindSigning { uri } => {
                self.pool.object_uri(&uri).map(|uri| Work::FindSigning { uri, allowed: purpose.algorithms() })
            }
            Errand::FindWrapping { uri } => self.pool.object_uri(&uri).map(|uri| Work::FindWrapping { uri }),
            Errand::Make { name } => Ok(Work::Make { name }),
            errand => match self.with_open_key(purpose, errand) {
                Keyed::Open(work) => Ok(work),
                Keyed::Unopened(errand) => {
                    let outbox = Arc::clone(outbox);
                    return self.open_first(Opening { id, purpose, deadline, errand, outbox });
                }
            },
        };
        self.submit(id, purpose, deadline, work, outbox);
    }

    fn with_open_key(&self, purpose: Purpose, errand: Errand) -> Keyed {
        let key = match &errand {
            Errand::Open { key, .. } | Errand::Seal { key, .. } | Errand::Sign { key, .. } => {
                self.keys.find(purpose, key)
            }
            Errand::Destroy { .. }
            | Errand::FindSigning { .. }
            | Errand::FindWrapping { .. }
            | Errand::Make { .. } => None,
        };
        match (errand, key) {
            (Errand::Sign { message, .. }, Some(key)) => Keyed::Open(Work::Sign { key, message }),
            (Errand::Seal { data, associated, .. }, Some(key)) => {
                Keyed::Open(Work::Seal { key, data, associated })
            }
            (Errand::Open { iv, data, associated, .. }, Some(key)) => {
                Keyed::Open(Work::Open { key, iv, data, associated })
            }
            (errand, _) => Keyed::Unopened(errand),
        }
    }

    fn open_first(&self, opening: Opening) {
        if let Err(TrySendError::Full(opening) | TrySendError::Disconnected(opening)) =
            self.openings.try_send(opening)
        {
            let Opening { id, purpose, outbox, .. } = opening;
            outbox.push(Reply { id, outcome: Err(HsmError::Overloaded { purpose }) });
        }
    }

    /// Puts work into the pool; the answer goes to `outbox`.
    pub(super) fn submit(
        &self,
        id: u64,
        purpose: Purpose,
        deadline: Instant,
        work: Result<Work, HsmError>,
        outbox: &Arc<Outbox>,
    ) {
        let answered = Arc::clone(outbox);
        let submitted = work.and_then(|work| {
            let answer = move |outcome| answered.push(Reply { id, outcome });
            self.pool.link().submit(work, purpose, deadline, answer)
        });
        if let Err(error) = submitted {
            outbox.push(Reply { id, outcome: Err(error) });
        }
    }

    /// Writes answers, and how the token stands: first, when that changes, and with each heartbeat.
    fn write(&self, connection: &Connection) {
        let write = |frame: Zeroizing<Vec<u8>>| (&connection.stream).write_all(&frame);
        let mut told: Option<(std::mem::Discriminant<TokenStanding>, Instant)> = None;
        loop {
            let standing = self.pool.standing();
            let kind = std::mem::discriminant(&standing);
            // It changes soon, and those who ask others meanwhile want to know.
            let patience = match standing {
                TokenStanding::Healing => HEALING_INTERVAL,
                TokenStanding::Ready
                | TokenStanding::Stopped
                | TokenStanding::Stuck
                | TokenStanding::Unavailable(_) => HEARTBEAT,
            };
            let mut written = Ok(());
            if told.is_none_or(|(last, at)| last != kind || at.elapsed() >= HEARTBEAT) {
                told = Some((kind, Instant::now()));
                let workers = self.pool.workers();
                let status = Status { standing, workers, metrics: self.pool.metrics() };
                written = write(FromAgent::status(&status));
            }
            let (replies, over) = connection.outbox.take(patience);
            let mut replies = replies.into_iter().peekable();
            while written.is_ok() && replies.peek().is_some() {
                written = write(batch(&mut replies));
            }
            if written.is_err() || over {
                break;
            }
        }
        connection.outbox.close();
        // Its reader ends.
        let _ = connection.stream.shutdown(Shutdown::Both);
    }
}

/// As many answers as go into one frame.
fn batch(replies: &mut std::iter::Peekable<std::vec::IntoIter<Reply>>) -> Zeroizing<Vec<u8>> {
    let (mut chosen, mut bytes) = (Vec::new(), 0);
    while chosen.len() < BATCH_LEN_MAX
        && bytes < BATCH_BYTES
        && let Some(reply) = replies.next()
    {
        bytes += reply_bytes(&reply);
        chosen.push(reply);
    }
    let mut draft = Draft::replies(bytes);
    chosen.iter().for_each(|reply| draft.reply(reply));
    draft.finish()
}

/// Whether a purpose and what is asked for go together.
fn is_consistent(purpose: Purpose, errand: &Errand) -> bool {
    let wrapping = purpose == Purpose::Wrapping;
    match errand {
        // A service makes and destroys the keys that it rotates, and no others.
        Errand::Destroy { public_key, .. } => {
            purpose == Purpose::TokenSigning && purpose.algorithms().contains(&public_key.algorithm())
        }
        Errand::FindSigning { .. } => !wrapping,
        Errand::FindWrapping { .. } => wrapping,
        Errand::Make { name } => purpose == Purpose::TokenSigning && name.purpose() == purpose,
        Errand::Open { key, .. } | Errand::Seal { key, .. } => wrapping && key.public_key.is_none(),
        Errand::Sign { key, .. } => {
            key.public_key.is_some_and(|key| purpose.algorithms().contains(&key.algorithm()))
        }
    }
}

/// A service that was taken over is not to try PINs; it is another user.
fn may_unlock(peer: Peer) -> bool {
    peer.uid == 0 || peer.uid == own_uid()
}
