//! A token's module in a process of its own, behind a Unix socket.
//!
//! ```text
//! Pool at an agent                            Agent
//! lanes ─▶ sender ── frames of requests ──▶ reader ─▶ its own Pool: workers, keeper, watch
//! watch: deadlines                             (opener: keys asked for the first time)
//! link:  answers  ◀── frames of replies ── writer ◀── answers, how the token stands
//! ```
//!
//! Why: a module that hangs can only be killed, one that crashes takes its process with it, and whoever has the module has the
//! PIN. The service that faces the network then has neither. To the rest of the crate a pool at an agent is a [`Pool`]:
//! the same queue bounds, deadlines, errors and answers.
//!
//! Who believes whom. The agent takes requests from user ids it was told (`SO_PEERCRED`), for purposes it was told, and uses a
//! key only for the purpose its label names. The client takes answers only from a process of the user it expects, and
//! believes none of them: a signature is verified again before it leaves, lengths and kinds of answers are checked, an
//! answer to what was not asked ends the connection. An agent that lies makes requests fail, and no more; but what is
//! wrapped cannot be checked without the key, so a lying agent can lose it.
//!
//! [`Pool`]: crate::Pool

mod client;
mod connection;
mod frame;
mod names;
mod opener;
mod outbox;
mod peer;
mod refusal;
mod server;
mod settings;
mod status;
#[cfg(test)]
mod tests;
mod unlock;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use frame::{FromAgent, Hello, ToAgent, read_frame};

use crate::{HsmError, TokenStanding};

pub(crate) use client::Link;
pub use server::{Agent, EXIT_STUCK};
pub use settings::{AgentEvent, AgentSettings};
pub use unlock::AgentUnlock;

/// Where an agent listens, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentAddress {
    /// Its socket.
    pub socket: PathBuf,
    /// The user id it must have. Without one: this process's own, root's, or that of the owner of the socket's folder, if
    /// nobody else may write there.
    pub uid: Option<u32>,
}

/// What either side makes of bytes that come through the socket: the words for people in the first frame, if it is one. For the
/// fuzzer, which has no other way in.
#[doc(hidden)]
#[must_use]
pub fn agent_frame_words(bytes: &[u8]) -> Option<Vec<String>> {
    let frame = read_frame(&mut &*bytes).ok()?;
    let asked = Hello::decode(&frame).is_ok() || ToAgent::decode(&frame).is_ok();
    let said = match FromAgent::decode(&frame) {
        Ok(FromAgent::Refused(words) | FromAgent::Busy(words)) => vec![words],
        Ok(FromAgent::Replies(replies)) => {
            replies.iter().filter_map(|reply| reply.outcome.as_ref().err().map(HsmError::to_string)).collect()
        }
        Ok(FromAgent::Status(status)) => match &status.standing {
            TokenStanding::Unavailable(cause) => vec![cause.to_string()],
            TokenStanding::Healing | TokenStanding::Ready | TokenStanding::Stopped | TokenStanding::Stuck => {
                Vec::new()
            }
        },
        Ok(FromAgent::Unlocked(outcome)) => outcome.err().iter().map(HsmError::to_string).collect(),
        Ok(FromAgent::Welcome(token)) => vec![token.to_string()],
        Err(_) => return asked.then(Vec::new),
    };
    Some(said)
}

/// How often an agent says how its token stands.
const HEARTBEAT: Duration = Duration::from_millis(250);

/// How long the other side may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest time a request may ask for. No setting gives one more than a tenth of it.
const LEFT_MAX: Duration = Duration::from_secs(600);
