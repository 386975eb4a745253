//! One connection to an agent: how it begins, and what was sent through it and is not answered.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::frame::{Draft, FromAgent, Hello, ReadError, Role, VERSION, read_frame};
use super::{AgentAddress, HELLO_TIMEOUT, peer};
use crate::pool::{Ticket, lock};
use crate::{HsmError, Pkcs11Uri};

/// Jobs sent and not answered after which those that nobody waits for any more are looked for.
const SENT_SWEEP: usize = 4096;

/// One connection, and what was sent through it.
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    sent: Mutex<Sent>,
}

struct Sent {
    // Whether what is sent now will be answered, if only with an error.
    open: bool,
    tickets: HashMap<u64, Arc<Ticket>>,
    // The largest number sent: an answer to one beyond it was never asked for.
    highest: u64,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Arc<Self> {
        let sent = Mutex::new(Sent { open: true, tickets: HashMap::new(), highest: 0 });
        Arc::new(Self { stream, sent })
    }

    /// Sends a batch; what cannot be sent any more comes back. What was sent and is lost is for the link to answer.
    pub(super) fn send(&self, batch: Vec<Arc<Ticket>>, bytes: usize) -> Vec<Arc<Ticket>> {
        let mut draft = Draft::requests(bytes);
        {
            let mut sent = lock(&self.sent);
            if !sent.open {
                return batch;
            }
            if sent.tickets.len() >= SENT_SWEEP {
                sent.tickets.retain(|_, ticket| !ticket.is_settled());
            }
            let now = Instant::now();
            for ticket in batch {
                let left = ticket.deadline.saturating_duration_since(now);
                draft.request(ticket.number, ticket.purpose, left, &ticket.work);
                sent.highest = sent.highest.max(ticket.number);
                sent.tickets.insert(ticket.number, ticket);
            }
        }
        if (&self.stream).write_all(&draft.finish()).is_err() {
            // The link reads its end, and answers.
            self.shut();
        }
        Vec::new()
    }

    /// The request that is answered; `None` if nobody waits for it any more.
    ///
    /// # Errors
    /// If it was never asked.
    pub(super) fn answered(&self, id: u64) -> Result<Option<Arc<Ticket>>, ()> {
        let mut sent = lock(&self.sent);
        match sent.tickets.remove(&id) {
            None if id > sent.highest => Err(()),
            ticket => Ok(ticket),
        }
    }

    /// Shuts it for good; what was sent and is not answered.
    pub(super) fn abandon(&self) -> Vec<Arc<Ticket>> {
        self.shut();
        let mut sent = lock(&self.sent);
        sent.open = false;
        std::mem::take(&mut sent.tickets).into_values().collect()
    }

    pub(super) fn shut(&self) {
        // It may be shut already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Connects and exchanges the first frames; the token that the agent serves.
pub(super) fn greet(address: &AgentAddress, role: Role) -> Result<(UnixStream, Pkcs11Uri), HsmError> {
    let socket = &address.socket;
    let failed = |problem: String| HsmError::Agent { socket: socket.clone(), problem };
    let stream = peer::connect(address)?;
    let hello = || -> io::Result<()> {
        stream.set_read_timeout(Some(HELLO_TIMEOUT))?;
        stream.set_write_timeout(Some(HELLO_TIMEOUT))?;
        (&stream).write_all(&Hello { version: VERSION, role }.encode())
    };
    // An agent that refuses may have closed it before this was written; it said why.
    let greeted = hello();
    let frame = match (read_frame(&mut &stream), greeted) {
        (Ok(frame), _) => frame,
        (Err(_), Err(error)) => return Err(failed(error.to_string())),
        (Err(error), Ok(())) => return Err(failed(told(&error, HELLO_TIMEOUT))),
    };
    match FromAgent::decode(&frame) {
        Ok(FromAgent::Welcome(token)) => Ok((stream, token)),
        Ok(FromAgent::Refused(problem)) => Err(HsmError::AgentRefused { socket: socket.clone(), problem }),
        Ok(FromAgent::Busy(problem)) => Err(failed(problem)),
        Ok(FromAgent::Replies(_) | FromAgent::Status(_) | FromAgent::Unlocked(_)) => {
            Err(failed("it does not say who it is".to_owned()))
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Why nothing could be read.
pub(super) fn told(error: &ReadError, patience: Duration) -> String {
    match error {
        ReadError::Closed => "it closed the connection".to_owned(),
        ReadError::Io(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
        {
            format!("it said nothing for {} ms", patience.as_millis())
        }
        ReadError::Io(error) => error.to_string(),
        ReadError::TooLong(bytes) => format!("it sent a frame of {bytes} bytes"),
    }
}
