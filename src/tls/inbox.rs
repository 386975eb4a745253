//! From the handshake to a shard: a bounded queue and a bell.

use std::future::poll_fn;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::task::Poll;

use atomic_waker::AtomicWaker;
use crossbeam::queue::ArrayQueue;
use rustls::ServerConnection;

/// Connections that wait for their shard to take them.
const READY_MAX: usize = 256;

/// A connection whose handshake is complete. What the client has sent since may be in the session already.
pub struct Ready {
    /// The socket, not blocking.
    pub stream: TcpStream,
    /// The session.
    pub session: Box<ServerConnection>,
    /// Who is at the other end.
    pub peer: SocketAddr,
}

struct Queue {
    ready: ArrayQueue<Ready>,
    bell: AtomicWaker,
}

/// The end of the handshakes.
pub struct Door(Arc<Queue>);

/// The end of a shard.
pub struct Inbox(Arc<Queue>);

/// Both ends of one shard's queue.
#[must_use]
pub fn inbox() -> (Door, Inbox) {
    let queue = Arc::new(Queue { ready: ArrayQueue::new(READY_MAX), bell: AtomicWaker::new() });
    (Door(Arc::clone(&queue)), Inbox(queue))
}

impl Door {
    /// Hands a connection over; `false`, and it is closed, if the shard does not take them as fast as they come.
    pub(super) fn give(&self, ready: Ready) -> bool {
        let given = self.0.ready.push(ready).is_ok();
        self.0.bell.wake();
        given
    }
}

impl Inbox {
    /// The next connection.
    pub async fn next(&self) -> Ready {
        poll_fn(|context| {
            if let Some(ready) = self.0.ready.pop() {
                return Poll::Ready(ready);
            }
            self.0.bell.register(context.waker());
            // It may have come between the look and the registration.
            self.0.ready.pop().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").field("waiting", &self.0.ready.len()).finish()
    }
}
