//! The byte streams that connections speak HTTP over: sockets, and TLS on a socket.

use std::io::{self, BufRead as _, Write as _};

use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt};
use monoio::net::TcpStream;
use rustls::ServerConnection;

use super::DriverInUse;
use crate::tls::Ready;

/// What of a TLS connection is read at once, and kept while it is idle: a request with a long token. A record may be longer and
/// arrives in parts then.
const CIPHERTEXT_BYTES: usize = 4096;

/// Reads in a row that bring no content: the parts of one long record are five, and a few may be the protocol's own.
const FRUITLESS_READS_MAX: usize = 32;

/// Bytes in, bytes out. A future that is dropped takes its buffer with it; the stream can then only be closed.
pub(super) trait Stream {
    /// Reads more behind what is in `buffer`; the count is 0 at the end of the stream.
    async fn read(&mut self, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>);

    /// Writes all of `bytes`, which come back for the next time.
    async fn write_all(&mut self, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>);

    /// Says that nothing more will be written.
    async fn shutdown(&mut self);
}

impl<S: AsyncReadRent + AsyncWriteRent> Stream for S {
    async fn read(&mut self, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        let (filled, end) = (buffer.len(), buffer.capacity());
        let (result, slice) = AsyncReadRent::read(self, buffer.slice_mut(filled..end)).await;
        (result, slice.into_inner())
    }

    async fn write_all(&mut self, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        let (result, bytes) = AsyncWriteRentExt::write_all(self, bytes).await;
        (result.map(drop), bytes)
    }

    async fn shutdown(&mut self) {
        let _ = AsyncWriteRent::shutdown(self).await;
    }
}

/// TLS after its handshake.
pub(super) struct TlsStream {
    socket: TcpStream,
    session: Box<ServerConnection>,
    // Ciphertext on its way in and out; moved into each operation and back.
    arriving: Vec<u8>,
    leaving: Vec<u8>,
}

impl TlsStream {
    pub(super) fn new(ready: Ready, driver: DriverInUse) -> io::Result<Self> {
        let Ready { stream, mut session, .. } = ready;
        // io_uring waits in the kernel, and answers a socket that must not block as if nothing were there.
        stream.set_nonblocking(driver == DriverInUse::Epoll)?;
        // What is written is one turn's answers, which are bounded; a limit here would only cut them.
        session.set_buffer_limit(None);
        Ok(Self { socket: TcpStream::from_std(stream)?, session, arriving: Vec::new(), leaving: Vec::new() })
    }

    /// Moves what has been decrypted to the end of `buffer`; `None` if more has to arrive first.
    fn take_plaintext(&mut self, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let before = buffer.len();
        loop {
            let mut reader = self.session.reader();
            match reader.fill_buf() {
                // The peer has said that it is done.
                Ok([]) => return Ok(Some(buffer.len() - before)),
                Ok(bytes) => {
                    buffer.extend_from_slice(bytes);
                    let count = bytes.len();
                    reader.consume(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let count = buffer.len() - before;
                    return Ok((count > 0).then_some(count));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for ciphertext and decrypts it to the end of `buffer`; `false` at the end of the stream.
    async fn receive(&mut self, buffer: &mut Vec<u8>) -> io::Result<bool> {
        let mut arriving = std::mem::take(&mut self.arriving);
        arriving.clear();
        arriving.reserve_exact(CIPHERTEXT_BYTES);
        let (result, arriving) = Stream::read(&mut self.socket, arriving).await;
        if result? == 0 {
            return Ok(false);
        }
        let mut left = &arriving[..];
        while !left.is_empty() {
            let count = self.session.read_tls(&mut left)?;
            if let Err(error) = self.session.process_new_packets() {
                // The alert says why; whether it still arrives is not up to us.
                let _ = self.send().await;
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            // As it comes: the session refuses more while it holds much.
            self.take_plaintext(buffer)?;
            // The peer has said that it is done; what it sends behind that is nobody's.
            if count == 0 {
                break;
            }
        }
        self.arriving = arriving;
        Ok(true)
    }

    /// Sends what the session has to send.
    async fn send(&mut self) -> io::Result<()> {
        let mut leaving = std::mem::take(&mut self.leaving);
        while self.session.wants_write() {
            self.session.write_tls(&mut leaving)?;
        }
        if leaving.is_empty() {
            return Ok(());
        }
        let (result, mut leaving) = Stream::write_all(&mut self.socket, leaving).await;
        leaving.clear();
        leaving.shrink_to(CIPHERTEXT_BYTES);
        self.leaving = leaving;
        result
    }

    async fn read_plaintext(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let before = buffer.len();
        if let Some(count) = self.take_plaintext(buffer)? {
            return Ok(count);
        }
        for _ in 0..FRUITLESS_READS_MAX {
            if !self.receive(buffer).await? {
                return Ok(0);
            }
            // A new key or an alert may be owed for what came.
            self.send().await?;
            let ended = self.take_plaintext(buffer)?.is_some();
            if ended || buffer.len() > before {
                return Ok(buffer.len() - before);
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "the peer sends records without content"))
    }

    async fn write_plaintext(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.session.writer().write_all(bytes)?;
        self.send().await
    }
}

impl Stream for TlsStream {
    async fn read(&mut self, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        let result = self.read_plaintext(&mut buffer).await;
        (result, buffer)
    }

    async fn write_all(&mut self, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        let result = self.write_plaintext(&bytes).await;
        (result, bytes)
    }

    async fn shutdown(&mut self) {
        self.session.send_close_notify();
        let _ = self.send().await;
        let _ = AsyncWriteRent::shutdown(&mut self.socket).await;
    }
}
