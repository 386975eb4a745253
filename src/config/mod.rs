//! Settings: TOML to checked types. The only place that reads the configuration or the environment.
//!
//! A file is read in two steps: `file` mirrors the TOML, where unknown keys are errors; [`Config`] is what the rest of
//! the program sees, where every value has been checked. Errors name the key, the value and what to do.

mod defaults;
mod dev;
mod file;
mod hsm;
mod hsm_agent;
mod issuers;
mod mirror;
mod retention;
mod revocation;
mod sealed;
mod signing;
mod status_list;
mod timestamp;
mod tls;
mod transmitters;
mod url;
mod witness;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use defaults::{ACK_TIMEOUT_MS, FLUSH_INTERVAL_MS, UNFLUSHED_AGE_MAX_MS};
pub use dev::{DevKey, DevToken};
pub use hsm::{Hsm, HsmAccess, HsmMember, KeyPlace};
pub use hsm_agent::HsmAgent;
pub use mirror::{HostPort, Mirror, Receiver, Syslog};
pub use retention::Retention;
pub use revocation::{OnStale, Redis, RedisServers, Revocation, RevocationRules, SecretSource};
pub use sealed::{Sealed, SealedField};
pub use signing::{
    DELEGATED_PUBLISHED_MAX, DELEGATION_S_MAX, JWKS_MAX_AGE_S, KEYS_PUBLISHED_MAX, STATUS_LIST_LIFE_S,
    Signing,
};
pub use status_list::StatusList;
pub use timestamp::Timestamp;
pub use tls::{Tls, TlsKeyPlace};
pub use transmitters::Transmitter;
pub use witness::{AdminAck, OnWitnessAway, Witness};

/// The exit status for a configuration that cannot be used (`EX_CONFIG` of sysexits.h).
pub const EXIT_CONFIG: u8 = 78;

/// Everything the daemon is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from; `None` where there is none (`--dev`).
    pub file: Option<PathBuf>,
    /// The data listener and the shards behind it.
    pub server: Server,
    /// The control listener.
    pub control: Control,
    /// The audit log.
    pub audit: Audit,
    /// The state database: `state.database`.
    pub database: PathBuf,
    /// The verification engine.
    pub verify: Verify,
    /// Revocation.
    pub revocation: Revocation,
    /// The token that holds keys, if one does.
    pub hsm: Option<Hsm>,
    /// The issuing key and its policy, if this node issues tokens.
    pub signing: Option<Signing>,
    /// The issuers whose tokens are accepted, in the order of the file.
    pub issuers: Vec<Issuer>,
}

/// The data listener and the shards behind it.
#[derive(Debug, Clone)]
pub struct Server {
    /// Where callers connect: `server.listen`.
    pub listen: Vec<Listen>,
    /// How many shards run, one thread each: `server.shards`.
    pub shards: u16,
    /// Which driver moves bytes: `server.driver`.
    pub driver: Driver,
    /// Whether `Unavailable` peers that are not local may call without authentication.
    pub allow_unauthenticated: bool,
    /// How long a request may take to arrive: `server.header_timeout_ms`.
    pub header_timeout: Duration,
    /// How long a connection may stay idle between requests: `server.idle_timeout_ms`.
    pub idle_timeout: Duration,
    /// The longest request body, in bytes: `server.body_bytes_max`.
    pub body_bytes_max: usize,
    /// The most connections of one shard: `server.connections_max`.
    pub connections_max: usize,
    /// How long shutdown waits for requests in flight: `server.drain_timeout_ms`.
    pub drain_timeout: Duration,
    /// Certificate and key of the TLS listeners, if there are any: `server.tls`.
    pub tls: Option<Tls>,
}

/// A place to listen at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A TCP address whose callers speak TLS; written `tls:ADDRESS:PORT`.
    Tls(SocketAddr),
    /// A Unix socket; written `unix:/path`.
    Unix(PathBuf),
}

impl Listen {
    /// Whether only this machine can connect.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) | Self::Tls(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl Listen {
    /// Whether both cannot be bound at once; a port of 0 is another one each time.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix(one), Self::Unix(two)) => one == two,
            (Self::Tcp(one) | Self::Tls(one), Self::Tcp(two) | Self::Tls(two)) => {
                one == two && one.port() != 0
            }
            _ => false,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Tls(address) => write!(f, "tls:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Which driver moves bytes in the shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// `io_uring` where the kernel allows it, else epoll; said at start.
    Auto,
    /// `io_uring`, or refuse to start.
    IoUring,
    /// epoll.
    Epoll,
}

/// The control listener.
#[derive(Debug, Clone)]
pub struct Control {
    /// Where operators connect: `control.listen`.
    pub listen: SocketAddr,
    /// Further names accepted in `Host` (against DNS rebinding): `control.allowed_hosts`.
    pub allowed_hosts: Vec<String>,
}

/// The audit log.
#[derive(Debug, Clone)]
pub struct Audit {
    /// The folder of the log: `audit.dir`.
    pub dir: PathBuf,
    /// The log's name in checkpoints: `audit.origin`.
    pub origin: String,
    /// The key that signs checkpoints: `audit.checkpoint_key_file`, or `audit.checkpoint_key` in the token.
    pub checkpoint_key: KeyPlace,
    /// The size of one segment: `audit.segment_mib`, in bytes.
    pub segment_bytes: u64,
    /// How soon recorded events reach the disk: `audit.flush_interval_ms`.
    pub flush_interval: Duration,
    /// How long a flush may take before verify calls are refused: `audit.unflushed_age_max_ms`.
    pub unflushed_age_max: Duration,
    /// How long an answer may wait for its record, from when the log was given it: `audit.ack_timeout_ms`.
    pub ack_timeout: Duration,
    /// How long nothing may be signed before verify calls are refused: `audit.unsigned_age_max_s`.
    pub unsigned_age_max: Duration,
    /// When a verify answer may leave: `audit.verify_ack`.
    pub verify_ack: VerifyAck,
    /// What becomes of a decision that cannot be recorded: `audit.on_failure`.
    pub on_failure: OnAuditFailure,
    /// When segments leave the folder: `audit.retention`.
    pub retention: Retention,
    /// Who cosigns this log's checkpoints: `[[audit.witness]]`.
    pub witnesses: Vec<Witness>,
    /// Who stamps them: `audit.timestamp`.
    pub timestamp: Option<Timestamp>,
    /// Whether a start goes on when no witness can be asked: `audit.on_witness_away`.
    pub on_witness_away: OnWitnessAway,
    /// When an operator's action is answered: `audit.admin_ack`.
    pub admin_ack: AdminAck,
    /// How long it may wait for a witness then: `audit.admin_ack_timeout_ms`.
    pub admin_ack_timeout: Duration,
    /// Whether receipts are given to callers who ask for them: `audit.receipts`.
    pub receipts: bool,
    /// Where it is mirrored to: `audit.mirror`.
    pub mirror: Mirror,
    /// Which values it holds for named openers: `audit.sealed`.
    pub sealed: Option<Sealed>,
}

/// What becomes of a decision that cannot be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnAuditFailure {
    /// It is not given: the answer is 503.
    Deny,
    /// It is not given, and the daemon stops.
    Halt,
    /// It is given; how many were is recorded once the log takes records again.
    AllowWithGap,
}

/// When the answer to a verify call may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyAck {
    /// Once the event is in the mapped segment: it survives `kill -9`, not a power cut within the flush interval.
    Recorded,
    /// Once the event is on the disk.
    Durable,
}

/// The verification engine.
#[derive(Debug, Clone)]
pub struct Verify {
    /// `verify.engine`.
    pub engine: Engine,
    /// Memory for the tables of registered keys: `verify.table_budget_mib`, in bytes.
    pub table_budget_bytes: usize,
    /// The share of verifications repeated by a second library: `verify.shadow_rate`, 0 to 1.
    pub shadow_rate: f64,
}

/// Which verification engine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// The fastest this CPU can run.
    Auto,
    /// The portable one.
    Portable,
}

/// An issuer whose tokens are accepted.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// Its name in this configuration, in the log and in metrics.
    pub name: String,
    /// The tenant it belongs to.
    pub tenant: String,
    /// The exact `iss` of its tokens.
    pub issuer: String,
    /// The `alg` values accepted: of `Ed25519`, `EdDSA`.
    pub algorithms: Vec<String>,
    /// Where its keys come from.
    pub keys: KeySource,
    /// A token must name one of these in `aud`.
    pub audiences: Vec<String>,
    /// Clock skew allowed, in seconds.
    pub leeway_s: u64,
    /// The longest `exp - iat` allowed, in seconds.
    pub max_lifetime_s: u64,
    /// The kind of token it issues; decides `typ` and the required claims unless they are given.
    pub profile: TokenProfile,
    /// Claims that must be present, instead of the profile's.
    pub required_claims: Option<Vec<String>>,
    /// The `typ` values accepted, instead of the profile's; an empty string stands for no `typ`.
    pub types: Option<Vec<String>>,
    /// Whether segments may end in `=` (AWS load balancers write them so).
    pub padded: bool,
    /// What revocation asks of its tokens.
    pub revocation: RevocationRules,
    /// What the `uri` of its status lists begins with: `issuers.status_list_prefix`. Nothing else is fetched.
    pub status_list_prefix: Option<String>,
}

/// The kinds of token with rules of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub enum TokenProfile {
    /// A plain JWT (RFC 7519).
    #[serde(rename = "jwt")]
    Jwt,
    /// An OAuth access token (RFC 9068).
    #[serde(rename = "at+jwt")]
    AccessToken,
    /// An Agent Task Token.
    #[serde(rename = "att+jwt")]
    AgentTask,
}

/// Where an issuer's keys come from.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// A JWKS file.
    File(PathBuf),
    /// A JWKS in the configuration itself.
    Inline(String),
    /// This node's signing key.
    SigningKey,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The text is not the TOML expected: a syntax error, an unknown key, a wrong type.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser says, with line and key.
        message: String,
    },
    /// A value cannot be used.
    #[error("{key} = {value}: {problem}; {fix}")]
    Value {
        /// The key, as written in the file.
        key: String,
        /// The value found.
        value: String,
        /// What is wrong.
        problem: String,
        /// What to do.
        fix: String,
    },
}

impl Config {
    /// Reads and checks the configuration in the file `path`.
    ///
    /// # Errors
    /// [`ConfigError`]: the first thing that is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
        Ok(Self { file: Some(path.to_owned()), ..Self::parse(&text, path)? })
    }

    /// Checks a configuration given as text; `path` is what errors call it.
    ///
    /// # Errors
    /// [`ConfigError`]: the first thing that is wrong.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let file: file::File = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        file.check()
    }
}

#[cfg(test)]
mod tests;
