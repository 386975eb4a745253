//! A syslog receiver that does as it is told.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A running receiver.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    lines: Mutex<Vec<String>>,
    connections: Mutex<Vec<TcpStream>>,
    accepted: AtomicUsize,
    // Messages of which only a part came before the connection ended.
    halves: AtomicUsize,
    stopped: AtomicBool,
    // Connections are taken and nothing is read.
    deaf: AtomicBool,
    // The connection is cut once so many bytes of it were read; 0: never.
    cut_after: AtomicUsize,
}

impl Receiver {
    pub(crate) fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), None)
    }

    pub(crate) fn start_at(address: SocketAddr, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let mut readers = Vec::new();
            for connection in listener.incoming() {
                if own.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let connection = connection.unwrap();
                own.accepted.fetch_add(1, Ordering::SeqCst);
                own.connections.lock().unwrap().push(connection.try_clone().unwrap());
                let (own, tls) = (Arc::clone(&own), tls.clone());
                readers.push(std::thread::spawn(move || {
                    let kept = connection.try_clone().unwrap();
                    match tls {
                        None => own.read(connection),
                        Some(config) => {
                            own.read(StreamOwned::new(ServerConnection::new(config).unwrap(), connection));
                        }
                    }
                    // There are other handles of it.
                    let _ = kept.shutdown(Shutdown::Both);
                }));
            }
            readers.into_iter().for_each(|reader| reader.join().unwrap());
        });
        Self { address, shared, thread: Some(thread) }
    }

    /// Everything received, in order.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.shared.lines.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.shared.lines.lock().unwrap().len()
    }

    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    pub(crate) fn halves(&self) -> usize {
        self.shared.halves.load(Ordering::SeqCst)
    }

    /// Each connection is cut after so many bytes, whatever they are.
    pub(crate) fn cut_after(&self, bytes: usize) {
        self.shared.cut_after.store(bytes, Ordering::SeqCst);
    }

    pub(crate) fn be_deaf(&self, deaf: bool) {
        self.shared.deaf.store(deaf, Ordering::SeqCst);
    }

    /// Ends everything, as the end of its process would.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.end();
        self.lines()
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener.
        drop(TcpStream::connect(self.address));
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
        thread.join().unwrap();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn read(&self, mut stream: impl Read + Write) {
        let (mut buffer, mut taken, mut piece) = (Vec::new(), 0, [0; 4096]);
        loop {
            while self.deaf.load(Ordering::SeqCst) && !self.stopped.load(Ordering::SeqCst) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            let limit = match self.cut_after.load(Ordering::SeqCst) {
                0 => piece.len(),
                most => piece.len().min(most.saturating_sub(taken)),
            };
            let read = if limit == 0 { 0 } else { stream.read(&mut piece[..limit]).unwrap_or(0) };
            if read == 0 {
                self.halves.fetch_add(usize::from(!buffer.is_empty()), Ordering::SeqCst);
                return;
            }
            taken += read;
            buffer.extend_from_slice(&piece[..read]);
            while let Some((message, rest)) = frame(&buffer) {
                let line = String::from_utf8(message.to_vec()).unwrap();
                assert!(line.starts_with('<') && line.ends_with(']') && !line.contains('\n'), "{line}");
                self.lines.lock().unwrap().push(line);
                buffer = rest.to_vec();
            }
        }
    }
}

/// The first message, by its octet count (RFC 5425 §4.3), and what follows.
fn frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let count: usize = std::str::from_utf8(&bytes[..space]).unwrap().parse().unwrap();
    let rest = &bytes[space + 1..];
    (rest.len() >= count).then(|| rest.split_at(count))
}
