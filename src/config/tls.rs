//! The `[server.tls]` table: certificate and key of the listeners written `tls:ADDRESS`.

use std::path::PathBuf;
use std::time::Duration;

use edgate_hsm::Pkcs11Uri;
use serde::Deserialize;

use super::file::{in_range, wrong};
use super::hsm::{Hsm, token_key};
use super::{ConfigError, defaults};

/// Who this node is to TLS clients, and how handshakes are made.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The chain in PEM, the server's certificate first: `server.tls.certificate_file`.
    pub certificate_file: PathBuf,
    /// The certificate's key: `server.tls.key_file`, or `server.tls.key` in the token.
    pub key: TlsKeyPlace,
    /// How long one signature in the token may take: `hsm.sign_timeout_ms`.
    pub sign_timeout: Duration,
    /// How long a handshake may take: `server.tls.handshake_timeout_ms`.
    pub handshake_timeout: Duration,
    /// Threads that wait for signatures: `server.tls.handshake_threads`.
    pub handshake_threads: usize,
}

/// Where the key of a certificate lives. The certificate says which key it must be.
#[derive(Debug, Clone)]
pub enum TlsKeyPlace {
    /// In a PEM file.
    File(PathBuf),
    /// In the token of `[hsm]`, or in each of its members.
    Token(Box<Pkcs11Uri>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsTable {
    certificate_file: PathBuf,
    key_file: Option<PathBuf>,
    key: Option<String>,
    #[serde(default = "defaults::handshake_timeout_ms")]
    handshake_timeout_ms: u64,
    #[serde(default = "defaults::handshake_threads")]
    handshake_threads: usize,
}

impl TlsTable {
    pub(super) fn check(self, hsm: Option<&Hsm>) -> Result<Tls, ConfigError> {
        let key = match (self.key_file, self.key) {
            (Some(path), None) => TlsKeyPlace::File(path),
            (None, Some(text)) => TlsKeyPlace::Token(Box::new(token_key("server.tls.key", &text, hsm)?)),
            _ => {
                return Err(wrong(
                    "server.tls.key_file",
                    "…",
                    "exactly one of server.tls.key_file and server.tls.key must be given",
                    "keep one of them",
                ));
            }
        };
        let threads = in_range("server.tls.handshake_threads", self.handshake_threads as u64, 1, 256)?;
        Ok(Tls {
            certificate_file: self.certificate_file,
            key,
            sign_timeout: hsm.map_or(Duration::ZERO, |hsm| hsm.sign_timeout),
            handshake_timeout: in_range(
                "server.tls.handshake_timeout_ms",
                self.handshake_timeout_ms,
                100,
                60_000,
            )
            .map(Duration::from_millis)?,
            handshake_threads: usize::try_from(threads).unwrap_or(1),
        })
    }
}
