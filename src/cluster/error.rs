//! Why something could not be done with Redis.

use std::time::Duration;

/// Why the nodes' shared state could not be read or changed. Names servers and keys, never a secret or a token.
///
/// Cheap to clone: one failed script answers every request in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// Too many requests wait already.
    #[error("{waiting} requests to Redis wait already; try again soon")]
    Busy {
        /// How many.
        waiting: usize,
    },
    /// A request holds more than fits.
    #[error("{count} changes in one request, at most {most} fit")]
    TooMany {
        /// How many there were.
        count: usize,
        /// How many fit.
        most: usize,
    },
    /// The server throws keys away when its memory is full, and ours are among them.
    #[error(
        "Redis at {server} evicts keys when its memory is full (maxmemory-policy {policy}): set noeviction, or it forgets \
         what is revoked"
    )]
    Evicts {
        /// Which server.
        server: String,
        /// Its policy.
        policy: String,
    },
    /// A certificate or secret file cannot be used.
    #[error("cannot use {what}: {cause}")]
    File {
        /// Which file, and for what.
        what: String,
        /// Why.
        cause: String,
    },
    /// Redis has it, but too few replicas confirmed that in time. It is in effect; asking again is safe.
    #[error("{confirmed} of {wanted} replicas have it so far; ask again")]
    NotReplicated {
        /// Replicas that confirmed.
        confirmed: u32,
        /// What `revocation.redis.min_replicas` demands.
        wanted: u32,
    },
    /// The server is no primary, so what it says may be old.
    #[error("Redis at {server} is not the primary: it is {role}")]
    NotPrimary {
        /// Which server.
        server: String,
        /// What it says it is.
        role: String,
    },
    /// The server answered with an error.
    #[error("Redis at {server} refused to {action}: {code}{meaning}")]
    Refused {
        /// Which server.
        server: String,
        /// What was attempted.
        action: &'static str,
        /// The first word of its answer; the rest may repeat arguments.
        code: String,
        /// What the code means, where that is known; begins with a separator.
        meaning: &'static str,
    },
    /// The threads have stopped.
    #[error("the connection to Redis is being shut down")]
    Stopped,
    /// No thread could be started.
    #[error("cannot start the thread {name}: {cause}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// Why.
        cause: String,
    },
    /// No answer in time. Whether the server did it is unknown; asking again is safe.
    #[error("Redis at {server} did not answer within {} ms when asked to {action}", timeout.as_millis())]
    TimedOut {
        /// Which server.
        server: String,
        /// What was attempted.
        action: &'static str,
        /// How long was waited.
        timeout: Duration,
    },
    /// An answer that is not what this version of edgate writes or Redis documents.
    #[error("Redis at {server} answered something unexpected when asked to {action}")]
    Unexpected {
        /// Which server.
        server: String,
        /// What was attempted.
        action: &'static str,
    },
    /// No connection, or it broke. Whether the server did what was asked is unknown; asking again is safe.
    #[error("cannot {action} at Redis {server}: {cause}")]
    Unreachable {
        /// Which server.
        server: String,
        /// What was attempted.
        action: &'static str,
        /// What the system said.
        cause: String,
    },
}

impl ClusterError {
    /// Whether the connection is still good: the server answered, and the answer was understood.
    pub(super) fn spares_connection(&self) -> bool {
        match self {
            // A server that was demoted, or that is leaving a cluster's slot, must be looked for again.
            Self::Refused { code, .. } => !matches!(
                code.as_str(),
                "READONLY" | "MOVED" | "ASK" | "CLUSTERDOWN" | "MASTERDOWN" | "LOADING"
            ),
            Self::Busy { .. } | Self::TooMany { .. } | Self::NotReplicated { .. } => true,
            Self::Evicts { .. }
            | Self::File { .. }
            | Self::NotPrimary { .. }
            | Self::Stopped
            | Self::Thread { .. }
            | Self::TimedOut { .. }
            | Self::Unexpected { .. }
            | Self::Unreachable { .. } => false,
        }
    }
}

/// What an operator should know about an error code of Redis.
pub(super) fn meaning(code: &str) -> &'static str {
    match code {
        "AUTH" | "WRONGPASS" => ": wrong user or password",
        "CLUSTERDOWN" => ": the cluster does not serve this slot",
        "LOADING" => ": it is still reading its data from disk",
        "MASTERDOWN" => ": it is a replica without its primary",
        "MISCONF" => ": it cannot save to disk and takes no writes",
        "MOVED" | "ASK" | "TRYAGAIN" => ": the keys are moving to another node",
        "NOAUTH" => ": it wants a password and none is configured",
        "NOPERM" => ": this user may not run the command or touch the key",
        "NOREPLICAS" => ": too few replicas are connected to it",
        "OOM" => ": it is out of memory (maxmemory)",
        "READONLY" => ": it is a replica",
        _ => "",
    }
}
