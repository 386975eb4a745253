//! The accept loop of the slower HTTP listeners, those on tokio: the control plane, and a witness.
//!
//! What a connection may cost is bounded here, before anything is read of it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at once. Those who call such a listener hold a few; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;

/// Time from the first byte of a request to the end of its header, and between requests on one connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a request's header, request target included.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// How long a client may leave what was sent to it unacknowledged, or take nothing, before the kernel ends the connection: a
/// stream that nobody reads would hold it for ever.
const WRITE_TIMEOUT_MS: u32 = 30_000;

/// Pause after the system refused a connection for lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves what `router` gives for each peer, until `shutdown` completes; then nobody new is let in. The connections that
/// are open are what is returned, to be waited for.
pub(crate) async fn serve_until(
    listener: TcpListener,
    router: impl Fn(SocketAddr) -> Router,
    shutdown: impl Future<Output = ()>,
) -> GracefulShutdown {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    tokio::pin!(shutdown);
    loop {
        let accept = async {
            let permit = Arc::clone(&connections).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = &mut shutdown => return graceful,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = graceful.watch(connection(stream, router(peer)));
                tokio::spawn(async move {
                    // A client that vanishes or talks no HTTP ends its connection and nothing else.
                    let _ = connection.await;
                    drop(permit);
                });
            }
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "a listener cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

type Connection = http1::Connection<TokioIo<TcpStream>, TowerToHyperService<Router>>;

fn connection(stream: TcpStream, router: Router) -> Connection {
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_tcp_user_timeout(&stream, WRITE_TIMEOUT_MS);
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
}

/// Whether only the connection being accepted failed.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
