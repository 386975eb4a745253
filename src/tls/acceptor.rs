//! Accepting and handshakes.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::hello::offers_ticket;
use super::inbox::{Door, Ready};
use super::key::{signing_until, without_signing};
use super::metrics::{TlsMetrics, add};

/// Handshakes under way at once; whoever comes then waits in the listener's backlog. `rustls` holds 64 KiB of an unfinished
/// message, so strangers hold 64 MiB at most.
pub const HANDSHAKES_MAX: usize = 1024;

/// What a client sends in one go: a hello with a post-quantum key share takes 1.5 KiB.
const READ_BYTES: usize = 4096;

/// How long accepting pauses after it failed: without descriptors or memory the next would fail at once too.
const PAUSE: Duration = Duration::from_millis(10);

/// How handshakes are made.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long one may take, from the connection on.
    pub timeout: Duration,
    /// Threads that wait for signatures.
    pub threads: usize,
}

/// The running acceptor. Dropping it stops it.
#[derive(Debug)]
pub struct Acceptor {
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Acceptor {
    /// Accepts from `listeners`, which do not block, and hands what has shaken hands to the `doors` in turn.
    ///
    /// # Errors
    /// If a thread or its runtime cannot be had.
    pub fn start(
        listeners: Vec<TcpListener>,
        config: Arc<ServerConfig>,
        doors: Vec<Door>,
        metrics: Arc<TlsMetrics>,
        settings: Settings,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(settings.threads)
            .thread_name("tls-handshake")
            .build()?;
        let entrance = Arc::new(Entrance {
            config,
            doors,
            metrics,
            timeout: settings.timeout,
            turn: AtomicUsize::new(0),
            room: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
        });
        let (stop, mut stopped) = watch::channel(());
        let run = move || {
            runtime.block_on(async {
                for listener in listeners {
                    match tokio::net::TcpListener::from_std(listener) {
                        Ok(listener) => drop(tokio::spawn(accept(listener, Arc::clone(&entrance)))),
                        Err(error) => tracing::error!(%error, "a TLS listener cannot be used"),
                    }
                }
                // Ends with an error once the acceptor is dropped.
                let _ = stopped.changed().await;
            });
            // A handshake that waits for a token is not waited for.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("tls".to_owned()).spawn(run)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Acceptor {
    /// Closes the listeners; handshakes under way are broken off.
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that accepts TLS connections panicked");
        }
    }
}

struct Entrance {
    config: Arc<ServerConfig>,
    doors: Vec<Door>,
    metrics: Arc<TlsMetrics>,
    timeout: Duration,
    turn: AtomicUsize,
    room: Arc<Semaphore>,
}

async fn accept(listener: tokio::net::TcpListener, entrance: Arc<Entrance>) {
    // Never closed.
    while let Ok(permit) = Arc::clone(&entrance.room).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let place = Place { deadline: Instant::now() + entrance.timeout, _permit: Arc::new(permit) };
                let entrance = Arc::clone(&entrance);
                drop(tokio::spawn(async move { entrance.receive(stream, peer, place).await }));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a TLS connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// A handshake's place among [`HANDSHAKES_MAX`], and its time. Kept for as long as anything of it waits for a thread, whether or
/// not the client still does: what is given up is not done, and what is not done does not pile up.
#[derive(Clone)]
struct Place {
    deadline: Instant,
    _permit: Arc<OwnedSemaphorePermit>,
}

/// Why a handshake ended without a session.
enum Broken {
    Io,
    Late,
    Refused(rustls::Error),
    Stopping,
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

impl Entrance {
    async fn receive(&self, stream: TcpStream, peer: SocketAddr, place: Place) {
        self.metrics.under_way.fetch_add(1, Ordering::Relaxed);
        let outcome = tokio::time::timeout_at(place.deadline.into(), self.shake_hands(&stream, &place)).await;
        self.metrics.under_way.fetch_sub(1, Ordering::Relaxed);
        let session = match outcome {
            Ok(Ok(session)) => session,
            Ok(Err(Broken::Refused(error))) => {
                add(&self.metrics.failed);
                // Whoever connects can cause it, so it is no line of everyday's log.
                return tracing::debug!(%peer, %error, "a TLS handshake failed");
            }
            Ok(Err(Broken::Io | Broken::Late | Broken::Stopping)) | Err(_) => {
                return add(&self.metrics.failed);
            }
        };
        add(match session.handshake_kind() {
            Some(HandshakeKind::Resumed) => &self.metrics.resumed,
            _ => &self.metrics.full,
        });
        // An answer is one write: waiting for more bytes would only delay it.
        let _ = stream.set_nodelay(true);
        let Ok(stream) = stream.into_std() else { return };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let given = match turn.checked_rem(self.doors.len()) {
            Some(index) => self.doors[index].give(Ready { stream, session, peer }),
            None => false,
        };
        if !given {
            add(&self.metrics.crowded_out);
        }
    }

    fn session(&self) -> Result<Box<ServerConnection>, Broken> {
        ServerConnection::new(Arc::clone(&self.config)).map(Box::new).map_err(Broken::Refused)
    }

    async fn shake_hands(&self, stream: &TcpStream, place: &Place) -> Result<Box<ServerConnection>, Broken> {
        let mut session = self.session()?;
        let mut bytes = receive(stream).await?;
        // A ticket needs no signature, so it is not made to wait behind those that do: it is tried here and now. Where it turns
        // out to be worth nothing, the same hello is answered as any other.
        let (mut signs, mut retried) = (!offers_ticket(&bytes), false);
        if !signs {
            let (outcome, asked) = without_signing(|| take(&mut session, &bytes));
            if asked {
                (session, signs) = (self.session()?, true);
            } else {
                refuse(stream, &mut session, outcome).await?;
                // Asked to say hello once more, it may yet need a signature.
                retried = session.handshake_kind() != Some(HandshakeKind::Resumed);
            }
        }
        loop {
            if signs {
                let outcome;
                let place = place.clone();
                (session, outcome) = tokio::task::spawn_blocking(move || place.take(session, &bytes))
                    .await
                    .map_err(|_| Broken::Stopping)??;
                refuse(stream, &mut session, outcome).await?;
            }
            send(stream, &mut session).await?;
            if !session.is_handshaking() {
                return Ok(session);
            }
            bytes = receive(stream).await?;
            signs |= retried;
            if !signs {
                let (outcome, _) = without_signing(|| take(&mut session, &bytes));
                refuse(stream, &mut session, outcome).await?;
            }
        }
    }
}

/// A session, and whether it took what arrived.
type Taken = (Box<ServerConnection>, Result<(), rustls::Error>);

impl Place {
    /// As [`take`], on a thread that may wait; not if the client's time is over.
    fn take(&self, mut session: Box<ServerConnection>, bytes: &[u8]) -> Result<Taken, Broken> {
        if Instant::now() >= self.deadline {
            return Err(Broken::Late);
        }
        let outcome = signing_until(self.deadline, || take(&mut session, bytes));
        Ok((session, outcome))
    }
}

/// Gives the session what has arrived. May sign, and so block, where that is allowed.
fn take(session: &mut ServerConnection, mut bytes: &[u8]) -> Result<(), rustls::Error> {
    while !bytes.is_empty() {
        let count =
            session.read_tls(&mut bytes).map_err(|error| rustls::Error::General(error.to_string()))?;
        session.process_new_packets()?;
        // The peer has said that it is done; what it sends behind that is nobody's.
        if count == 0 {
            break;
        }
    }
    Ok(())
}

/// Tells the client why it is refused, if it is.
async fn refuse(
    stream: &TcpStream,
    session: &mut ServerConnection,
    outcome: Result<(), rustls::Error>,
) -> Result<(), Broken> {
    let Err(error) = outcome else { return Ok(()) };
    // The alert says why; whether it still arrives is not up to us.
    let _ = send(stream, session).await;
    Err(Broken::Refused(error))
}

/// Waits for bytes; an error at the end of the stream.
async fn receive(stream: &TcpStream) -> io::Result<Vec<u8>> {
    loop {
        stream.readable().await?;
        let mut bytes = vec![0; READ_BYTES];
        match stream.try_read(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                bytes.truncate(count);
                return Ok(bytes);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends what the session has to send.
async fn send(stream: &TcpStream, session: &mut ServerConnection) -> io::Result<()> {
    let mut bytes = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut bytes)?;
    }
    let mut left = &bytes[..];
    while !left.is_empty() {
        stream.writable().await?;
        match stream.try_write(left) {
            Ok(count) => left = left.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
