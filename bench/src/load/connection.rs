//! One keep-alive connection: requests out in order, answers back in the same order.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use super::LoadError;
use super::http::{self, Answer};

/// Bytes an answer with its head may have; more means that the peer is no verify server.
const INPUT_BYTES: usize = 64 * 1024;

/// A request that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct InFlight {
    /// When it was sent or, at a fixed rate, when it should have been sent: nanoseconds on the run's clock.
    pub(super) due_ns: u64,
    /// Its index in the pool.
    pub(super) request: usize,
}

/// Why reading stopped.
#[derive(Debug)]
pub(super) enum ReadEnd {
    /// Everything that has arrived was read; the connection lives.
    Drained,
    /// The server closed, or announced that it will: nothing more comes.
    Closed,
    /// The bytes are not HTTP, or not short enough: the connection cannot be used on.
    Broken(String),
}

pub(super) struct Connection {
    stream: TcpStream,
    in_flight: VecDeque<InFlight>,
    output: Vec<u8>,
    // Bytes of `output` the socket has taken.
    sent: usize,
    input: Vec<u8>,
    // Bytes of `input` that were read and not yet parsed; they start at 0.
    filled: usize,
}

impl Connection {
    pub(super) fn open(address: SocketAddr) -> Result<Self, LoadError> {
        let stream = TcpStream::connect(address)
            .and_then(|stream| {
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                Ok(stream)
            })
            .map_err(|source| LoadError::Connect { address, source })?;
        Ok(Self {
            stream,
            in_flight: VecDeque::new(),
            output: Vec::new(),
            sent: 0,
            input: vec![0; INPUT_BYTES],
            filled: 0,
        })
    }

    /// Requests without an answer.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Gives up the oldest request without an answer, if there is one.
    pub(super) fn abandon_oldest(&mut self) -> bool {
        self.in_flight.pop_front().is_some()
    }

    /// Adds a request to what the next [`flush`](Self::flush) sends.
    pub(super) fn queue(&mut self, bytes: &[u8], request: InFlight) {
        self.output.extend_from_slice(bytes);
        self.in_flight.push_back(request);
    }

    /// Sends what is queued; `false` while the socket takes no more and must become writable first.
    ///
    /// A broken connection counts as sent: the following read finds out.
    pub(super) fn flush(&mut self) -> bool {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(_) => break,
            }
        }
        self.output.clear();
        self.sent = 0;
        true
    }

    /// Reads what has arrived and hands each whole answer on with the request it belongs to.
    pub(super) fn read(&mut self, mut on_answer: impl FnMut(InFlight, &Answer<'_>)) -> ReadEnd {
        loop {
            let room = self.input.len() - self.filled;
            let count = match self.stream.read(&mut self.input[self.filled..]) {
                Ok(0) => return ReadEnd::Closed,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return ReadEnd::Drained,
                Err(_) => return ReadEnd::Closed,
            };
            self.filled += count;
            if let Some(end) = self.answers(&mut on_answer) {
                return end;
            }
            if self.filled == self.input.len() {
                return ReadEnd::Broken(format!("an answer is longer than {INPUT_BYTES} bytes"));
            }
            // A short read has emptied the socket; epoll tells about anything that comes later.
            if count < room {
                return ReadEnd::Drained;
            }
        }
    }

    /// Splits the whole answers off `input`; says so when the last of them ends the connection.
    fn answers(&mut self, on_answer: &mut impl FnMut(InFlight, &Answer<'_>)) -> Option<ReadEnd> {
        let mut used = 0;
        let mut end = None;
        while end.is_none() && used < self.filled {
            match http::parse(&self.input[used..self.filled]) {
                Ok(Some((answer, bytes))) => {
                    let Some(request) = self.in_flight.pop_front() else {
                        end = Some(ReadEnd::Broken("an answer came that nobody asked for".to_owned()));
                        continue;
                    };
                    on_answer(request, &answer);
                    used += bytes;
                    if !answer.keep_alive {
                        end = Some(ReadEnd::Closed);
                    }
                }
                Ok(None) => break,
                Err(error) => end = Some(ReadEnd::Broken(error.to_string())),
            }
        }
        self.input.copy_within(used..self.filled, 0);
        self.filled -= used;
        end
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
