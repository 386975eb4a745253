//! Accepting and handshakes.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};

use super::inbox::{Door, Ready};
use super::metrics::{TlsMetrics, add};

/// Handshakes under way at once; whoever comes then waits in the listener's backlog.
pub const HANDSHAKES_MAX: usize = 4096;

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
                let entrance = Arc::clone(&entrance);
                tokio::spawn(async move {
                    entrance.receive(stream, peer).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a TLS connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Why a handshake ended without a session.
enum Broken {
    Io,
    Refused(rustls::Error),
    Stopping,
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

impl Entrance {
    async fn receive(&self, stream: TcpStream, peer: SocketAddr) {
        self.metrics.under_way.fetch_add(1, Ordering::Relaxed);
        let outcome = tokio::time::timeout(self.timeout, self.shake_hands(&stream)).await;
        self.metrics.under_way.fetch_sub(1, Ordering::Relaxed);
        let session = match outcome {
            Ok(Ok(session)) => session,
            Ok(Err(Broken::Refused(error))) => {
                add(&self.metrics.failed);
                // Whoever connects can cause it, so it is no line of everyday's log.
                return tracing::debug!(%peer, %error, "a TLS handshake failed");
            }
            Ok(Err(Broken::Io | Broken::Stopping)) | Err(_) => return add(&self.metrics.failed),
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

    async fn shake_hands(&self, stream: &TcpStream) -> Result<Box<ServerConnection>, Broken> {
        let session = ServerConnection::new(Arc::clone(&self.config)).map_err(Broken::Refused)?;
        let mut session = Box::new(session);
        loop {
            send(stream, &mut session).await?;
            if !session.is_handshaking() {
                return Ok(session);
            }
            let bytes = receive(stream).await?;
            let outcome;
            (session, outcome) = tokio::task::spawn_blocking(move || {
                let outcome = take(&mut session, &bytes);
                (session, outcome)
            })
            .await
            .map_err(|_| Broken::Stopping)?;
            if let Err(error) = outcome {
                // The alert says why; whether it still arrives is not up to us.
                let _ = send(stream, &mut session).await;
                return Err(Broken::Refused(error));
            }
        }
    }
}

/// Gives the session what has arrived. May sign, and so block.
fn take(session: &mut ServerConnection, mut bytes: &[u8]) -> Result<(), rustls::Error> {
    while !bytes.is_empty() {
        session.read_tls(&mut bytes).map_err(|error| rustls::Error::General(error.to_string()))?;
        session.process_new_packets()?;
    }
    Ok(())
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
