//! The certificate chain in a file.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use der::{Decode as _, Encode as _};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

use super::key::{open_regular, read_at_most};

/// The largest chain that is read: many times what any authority issues.
pub const CERTIFICATE_FILE_BYTES_MAX: usize = 1 << 20;

/// A chain, and what its first certificate says.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificates in DER, the server's own first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The DER of its SubjectPublicKeyInfo: the key that must answer handshakes.
    pub public_key: Vec<u8>,
    /// SHA-256 of the first certificate, by which people compare certificates.
    pub fingerprint: [u8; 32],
    /// From when and until when it is valid, by its own word.
    pub validity: (SystemTime, SystemTime),
}

/// Why a chain cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the certificates in {}: {problem}", path.display())]
pub struct CertificateError {
    path: PathBuf,
    problem: String,
}

impl Certificate {
    /// Reads the chain in the PEM file at `path` (RFC 7468), the server's certificate first.
    ///
    /// # Errors
    /// What is wrong with the file, or with the first certificate in it.
    pub fn read(path: &Path) -> Result<Self, CertificateError> {
        let refuse = |problem: String| CertificateError { path: path.to_owned(), problem };
        let pem = open_regular(path).and_then(|(file, _)| read_at_most(&file, CERTIFICATE_FILE_BYTES_MAX));
        pem.and_then(|pem| Self::parse(&pem)).map_err(refuse)
    }

    fn parse(pem: &[u8]) -> Result<Self, String> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("it is no PEM: {error}"))?;
        let first = chain.first().ok_or("there is no certificate (-----BEGIN CERTIFICATE-----) in it")?;
        let parsed = x509_cert::Certificate::from_der(first)
            .map_err(|error| format!("the first certificate is none (X.509 in DER): {error}"))?;
        let subject = parsed.tbs_certificate;
        let public_key = subject
            .subject_public_key_info
            .to_der()
            .map_err(|error| format!("its public key cannot be written in DER: {error}"))?;
        let fingerprint = Sha256::digest(first).into();
        let validity =
            (subject.validity.not_before.to_system_time(), subject.validity.not_after.to_system_time());
        Ok(Self { chain, public_key, fingerprint, validity })
    }

    /// SHA-256 of the server's certificate, and of all of the chain.
    pub(super) fn described(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        let chain = self.chain.iter().fold(Sha256::new(), |digest, one| digest.chain_update(one));
        format!("sha256 {} chain {}", hex(&self.fingerprint), hex(&chain.finalize()))
    }

    /// Seconds from `now` until it is no longer valid; negative once it is not.
    #[must_use]
    pub fn seconds_left(&self, now: SystemTime) -> i64 {
        let whole = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        match self.validity.1.duration_since(now) {
            Ok(left) => whole(left),
            Err(over) => -whole(over.duration()),
        }
    }

    /// Whether it is valid at `now`.
    #[must_use]
    pub fn is_valid(&self, now: SystemTime) -> bool {
        (self.validity.0..=self.validity.1).contains(&now)
    }
}
