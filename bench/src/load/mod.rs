//! The load generator: verify requests over HTTP/1.1 keep-alive, every answer checked, every microsecond counted.
//!
//! One thread and one epoll set drive all connections, so the client costs the machine as little as it can.
//!
//! ```text
//! pool (requests, ready to send) -> client (epoll loop) -> Outcome -> Summary -> table, JSON, picture
//! compare = servers (start, stop) + the same client, peer and Edgate in turn
//! ```

pub mod client;
pub mod compare;
mod connection;
pub mod cpu;
pub mod histogram;
pub mod http;
pub mod pool;
pub mod report;
pub mod servers;
pub mod summary;

use std::io;
use std::net::SocketAddr;

use rustix::process::Pid;
use rustix::thread::CpuSet;
use thiserror::Error;

/// Why a load run could not be done; wrong answers are not here, they are counted in the outcome.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The server could not be reached.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Whom the client called.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The server's processor time could not be read.
    #[error("cannot read the processor time of process {pid}: {source}")]
    Cpu {
        /// The server.
        pid: u32,
        /// What the system said.
        source: io::Error,
    },
    /// The epoll set failed.
    #[error("cannot wait for the sockets: {0}")]
    Epoll(io::Error),
    /// A file of the run could not be read or written.
    #[error("cannot use {path}: {source}")]
    File {
        /// Which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The thread could not be bound to the processor.
    #[error("cannot pin to processor {cpu}: {source}")]
    Pin {
        /// Which processor.
        cpu: usize,
        /// What the system said.
        source: io::Error,
    },
    /// A server did not start, or did not become ready in time.
    #[error("the server {name} did not start: {reason}")]
    ServerStart {
        /// Its label.
        name: String,
        /// What happened, with the end of its output.
        reason: String,
    },
    /// A server went away during its run.
    #[error("the server {name} ended during the run: {reason}")]
    ServerEnded {
        /// Its label.
        name: String,
        /// How it ended, with the end of its output.
        reason: String,
    },
    /// No answer came for the whole answer timeout.
    #[error("no answer for {seconds} s with {in_flight} requests in flight")]
    Stalled {
        /// The timeout.
        seconds: f64,
        /// Requests without an answer.
        in_flight: usize,
    },
    /// The URL is not one this client can call.
    #[error("unusable URL {0}: give http://HOST:PORT/PATH")]
    Url(String),
}

/// Binds the calling thread, and what it starts from here on, to one processor.
///
/// # Errors
/// [`LoadError::Pin`]: no such processor, or not ours to use.
pub fn pin_to_cpu(cpu: usize) -> Result<(), LoadError> {
    let mut set = CpuSet::new();
    if cpu >= CpuSet::MAX_CPU {
        return Err(LoadError::Pin { cpu, source: io::ErrorKind::InvalidInput.into() });
    }
    set.set(cpu);
    rustix::thread::sched_setaffinity(None::<Pid>, &set).map_err(|e| LoadError::Pin { cpu, source: e.into() })
}
