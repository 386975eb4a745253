//! Why the daemon does not start, and what the process ends with then.

use std::path::PathBuf;

use edgate_hsm::HsmError;

use crate::audit::AuditError;
use crate::cluster::ClusterError;
use crate::config;
use crate::shard::{BindError, PolicyError};
use crate::store::StoreError;
use crate::verify::KeyRejection;

/// Why the daemon does not start, or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The audit log refuses.
    #[error("audit log: {0}")]
    Audit(#[from] AuditError),
    /// An issuer's status lists could not be believed.
    #[error("issuers.{name}.status_list_prefix: {problem}")]
    StatusList {
        /// The issuer.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The connection to Redis cannot be kept.
    #[error("revocation: {0}")]
    Cluster(#[from] ClusterError),
    /// A listening socket cannot be had.
    #[error("{0}")]
    Bind(#[from] BindError),
    /// The control plane cannot run.
    #[error("control listener: {0}")]
    Control(std::io::Error),
    /// The control listener's address cannot be had.
    #[error("cannot listen on {address} (control.listen): {error}")]
    ControlBind {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// The folder of `--dev` cannot be made.
    #[error("cannot create the folder {}: {error}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The signing key cannot be used.
    #[error("{0}")]
    Key(#[from] HsmError),
    /// The signing key's public half is no verifying key of ours.
    #[error("signing key: its public key is refused: {0}")]
    OwnKey(KeyRejection),
    /// The issuers cannot be used.
    #[error("{0}")]
    Policy(#[from] PolicyError),
    /// TLS cannot be set up.
    #[error("{0}")]
    Tls(String),
    /// A shard cannot run.
    #[error("shard {number}: {error}")]
    Shard {
        /// Its number.
        number: u16,
        /// Why.
        error: std::io::Error,
    },
    /// SoftHSM cannot be used for `--dev --softhsm`.
    #[error("SoftHSM: {problem}")]
    SoftHsm {
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The state database refuses.
    #[error("state database: {0}")]
    Store(#[from] StoreError),
    /// A transmitter of security events cannot be used.
    #[error("revocation.transmitters.{name}: {problem}")]
    Transmitter {
        /// Its name.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The timestamp authority's certificates cannot be used.
    #[error("audit.timestamp: {problem}")]
    Timestamp {
        /// What is wrong, with the file.
        problem: String,
    },
    /// A witness's key is none.
    #[error(
        "audit.witness: {key:?} is no witness's verifier key; it is what `edgate audit witness --init` printed"
    )]
    Witness {
        /// What is configured.
        key: String,
    },
    /// The system refuses something every process needs: a thread, a signal handler, randomness.
    #[error("cannot {what}: {error}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// Why.
        error: std::io::Error,
    },
}

impl StartError {
    /// What the process ends with: 78 where settings or files must be changed, 77 where an operator must help a token
    /// ([`edgate_hsm::EXIT_OPERATOR`]), 69 where a token is away, else 70. systemd does not start again after 77 and 78.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Key(error) => error.exit_code(),
            Self::OwnKey(_) | Self::Policy(_) | Self::Store(_) | Self::Transmitter { .. } => {
                config::EXIT_CONFIG
            }
            Self::SoftHsm { .. }
            | Self::StatusList { .. }
            | Self::Timestamp { .. }
            | Self::Tls(_)
            | Self::Witness { .. } => config::EXIT_CONFIG,
            Self::Audit(
                AuditError::NotFound { .. } | AuditError::Settings(_) | AuditError::TagKeyUnderOther { .. },
            ) => config::EXIT_CONFIG,
            // A port in use may be free again in a moment.
            Self::Audit(_)
            | Self::Bind(_)
            | Self::Cluster(_)
            | Self::Control(_)
            | Self::ControlBind { .. }
            | Self::Folder { .. }
            | Self::Shard { .. }
            | Self::System { .. } => EXIT_SOFTWARE,
        }
    }
}

/// Something failed at run time (`EX_SOFTWARE`).
const EXIT_SOFTWARE: u8 = 70;
