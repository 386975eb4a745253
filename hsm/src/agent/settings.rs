//! What an agent is told, and what it has to say.

use std::fmt;
use std::path::PathBuf;

use super::peer::own_uid;
use crate::Purpose;

/// Whom an agent serves, and with what.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    /// Where it listens, by absolute path. The folder is made if it is not there.
    pub socket: PathBuf,
    /// User ids that may use keys. Root and the agent's own user may hand in a PIN, whatever this says, and nobody else may.
    pub allow_uids: Vec<u32>,
    /// What keys may be used for.
    pub purposes: Vec<Purpose>,
}

impl AgentSettings {
    /// What an agent can be asked for: all but backups, which an operator makes.
    pub const PURPOSES: [Purpose; 5] = [
        Purpose::AuditCheckpoint,
        Purpose::TlsServer,
        Purpose::TokenSigning,
        Purpose::Witness,
        Purpose::Wrapping,
    ];

    /// An agent for its own user and every purpose.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, allow_uids: vec![own_uid()], purposes: Self::PURPOSES.to_vec() }
    }
}

/// What an agent has to say; its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentEvent {
    /// A connection ended because of what came through it.
    Broken {
        /// The user id at the other end.
        uid: u32,
        /// The process.
        pid: u32,
        /// Why.
        problem: String,
    },
    /// A client connected.
    Connected {
        /// Its user id.
        uid: u32,
        /// Its process.
        pid: u32,
    },
    /// A client was refused.
    Refused {
        /// Its user id.
        uid: u32,
        /// Its process.
        pid: u32,
        /// Why, and what to do.
        problem: String,
    },
}

impl fmt::Display for AgentEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken { uid, pid, problem } => {
                write!(f, "closed the connection of user id {uid} (process {pid}): {problem}")
            }
            Self::Connected { uid, pid } => write!(f, "user id {uid} (process {pid}) connected"),
            Self::Refused { uid, pid, problem } => {
                write!(f, "refused user id {uid} (process {pid}): {problem}")
            }
        }
    }
}
