//! What a key may be used for.

use std::fmt;

use crate::{HsmError, Pkcs11Uri, PublicKey};

/// What a key may be used for. Stored in key files and named in errors and audit records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Signs checkpoints of the audit log.
    AuditCheckpoint,
    /// Wraps other keys of the token, so that they can be backed up.
    Backup,
    /// Answers TLS handshakes.
    TlsServer,
    /// Signs the tokens this node issues.
    TokenSigning,
    /// Cosigns other logs' checkpoints.
    Witness,
    /// Wraps secrets that this node stores.
    Wrapping,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Self; 6] = [
        Self::AuditCheckpoint,
        Self::Backup,
        Self::TlsServer,
        Self::TokenSigning,
        Self::Witness,
        Self::Wrapping,
    ];

    /// The stable name written into key files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AuditCheckpoint => "audit-checkpoint",
            Self::Backup => "backup",
            Self::TlsServer => "tls-server",
            Self::TokenSigning => "token-signing",
            Self::Witness => "witness",
            Self::Wrapping => "wrapping",
        }
    }

    /// The purpose a key file names.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.name() == name)
    }

    /// The purpose and the name in a label that keygen gives a key: `edgate/PURPOSE/NAME`.
    pub(crate) fn split_label(label: &str) -> Option<(Self, &str)> {
        let (purpose, name) = label.strip_prefix("edgate/")?.split_once('/')?;
        Some((Self::from_name(purpose)?, name))
    }

    /// The purpose that a label names.
    pub(crate) fn of_label(label: &str) -> Option<Self> {
        Some(Self::split_label(label)?.0)
    }

    /// One key, one purpose: [`HsmError::KeyInUse`] if the label of `key` names another. A key may be without a label,
    /// or have one of somebody else's making.
    pub(crate) fn check_label(self, label: Option<&str>, key: &Pkcs11Uri) -> Result<(), HsmError> {
        match label.and_then(Self::of_label) {
            Some(found) if found != self => {
                Err(HsmError::KeyInUse { key: Box::new(key.clone()), found, wanted: self })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A purpose as a type: `Signer<TokenSigning>` and `Signer<AuditCheckpoint>` cannot be confused.
pub trait KeyPurpose: Send + Sync + 'static {
    /// The same purpose as a value.
    const PURPOSE: Purpose;

    /// What public keys of this purpose are: 32 bytes of Ed25519, or of several algorithms.
    type PublicKey: Copy + fmt::Debug + Eq + Into<PublicKey> + Send + Sync + TryFrom<PublicKey> + 'static;
}

/// Type of the keys that sign checkpoints of the audit log.
#[derive(Debug, Clone, Copy)]
pub enum AuditCheckpoint {}

/// Type of the keys that answer TLS handshakes.
#[derive(Debug, Clone, Copy)]
pub enum TlsServer {}

/// Type of the keys that sign tokens.
#[derive(Debug, Clone, Copy)]
pub enum TokenSigning {}

/// Type of the keys that cosign other logs' checkpoints.
#[derive(Debug, Clone, Copy)]
pub enum Witness {}

impl KeyPurpose for AuditCheckpoint {
    const PURPOSE: Purpose = Purpose::AuditCheckpoint;
    type PublicKey = [u8; 32];
}

impl KeyPurpose for TokenSigning {
    const PURPOSE: Purpose = Purpose::TokenSigning;
    type PublicKey = [u8; 32];
}

impl KeyPurpose for TlsServer {
    const PURPOSE: Purpose = Purpose::TlsServer;
    type PublicKey = PublicKey;
}

impl KeyPurpose for Witness {
    const PURPOSE: Purpose = Purpose::Witness;
    type PublicKey = [u8; 32];
}
