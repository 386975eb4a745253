//! The key behind the certificate: in a file, or in a token.

use std::cell::Cell;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgate_hsm::{PublicKey, Signer, TlsServer};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use rustls::sign::SigningKey;
use rustls::{SignatureAlgorithm, SignatureScheme};
use zeroize::Zeroizing;

use super::der::ecdsa_signature;
use super::metrics::TlsMetrics;

/// The largest key file that is read.
pub const KEY_FILE_BYTES_MAX: usize = 64 << 10;

/// A key that answers handshakes, for `rustls`.
#[derive(Debug)]
pub struct TlsKey {
    home: Home,
    // Where it lives, for the record.
    place: String,
    metrics: Arc<TlsMetrics>,
}

#[derive(Debug)]
enum Home {
    File(Arc<dyn SigningKey>),
    Token { signer: Signer<TlsServer>, timeout: Duration },
}

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the TLS key in {}: {problem}", path.display())]
pub struct KeyFileError {
    path: PathBuf,
    problem: String,
}

impl TlsKey {
    /// The private key in the PEM file at `path`, of any kind that `rustls` knows.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn read(path: &Path, metrics: Arc<TlsMetrics>) -> Result<Self, KeyFileError> {
        let refuse = |problem: String| KeyFileError { path: path.to_owned(), problem };
        let pem = read_private(path).map_err(refuse)?;
        let der = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
            refuse("there is no private key in PEM in it (-----BEGIN PRIVATE KEY-----)".to_owned())
        })?;
        let key = rustls::crypto::ring::sign::any_supported_type(&der)
            .map_err(|_| refuse("it is no RSA, P-256, P-384 or Ed25519 key that can be used".to_owned()))?;
        Ok(Self { home: Home::File(key), place: path.display().to_string(), metrics })
    }

    /// The key of `signer` at `place`, which has `timeout` for each signature.
    #[must_use]
    pub fn in_token(
        signer: Signer<TlsServer>,
        place: String,
        timeout: Duration,
        metrics: Arc<TlsMetrics>,
    ) -> Self {
        Self { home: Home::Token { signer, timeout }, place, metrics }
    }

    /// Where it lives: a file's path, or a URI.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }
}

/// A file that others cannot read. A group may: certificates are often renewed by one user and used by another.
fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let (file, metadata) = open_regular(path)?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o027 != 0 {
        return Err(format!(
            "mode {mode:04o} lets others read it, or its group write it: chmod 0600 or 0640"
        ));
    }
    read_at_most(&file, KEY_FILE_BYTES_MAX).map(Zeroizing::new)
}

/// Opens a regular file; one that would have to be waited for, such as a pipe, is refused at once.
pub(super) fn open_regular(path: &Path) -> Result<(std::fs::File, std::fs::Metadata), String> {
    let mut options = std::fs::OpenOptions::new();
    let file =
        options.read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    Ok((file, metadata))
}

/// All of a file of at most `most` bytes.
pub(super) fn read_at_most(file: &std::fs::File, most: usize) -> Result<Vec<u8>, String> {
    // Room for all of it at once: what a growing vector leaves behind is not wiped.
    let mut bytes = Vec::with_capacity(most + 1);
    file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() > most {
        return Err(format!("it has more than the {most} bytes that are read"));
    }
    Ok(bytes)
}

thread_local! {
    /// Until when a key may sign for the handshake that this thread works at; `None` where it may not: on a thread that must not
    /// wait.
    static SIGNING_UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
    /// Whether a signature was asked for where there is none to be had.
    static ASKED: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`, in which this thread may have keys sign until `deadline`, and wait for them.
pub fn signing_until<T>(deadline: Instant, work: impl FnOnce() -> T) -> T {
    SIGNING_UNTIL.set(Some(deadline));
    let outcome = work();
    SIGNING_UNTIL.set(None);
    outcome
}

/// Does `work`, in which no key signs; and whether a signature was asked for.
pub(super) fn without_signing<T>(work: impl FnOnce() -> T) -> (T, bool) {
    ASKED.set(false);
    let outcome = work();
    (outcome, ASKED.get())
}

impl SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        let metrics = Arc::clone(&self.metrics);
        match &self.home {
            Home::File(key) => {
                let inner = key.choose_scheme(offered)?;
                Some(Box::new(Counted { inner, metrics }))
            }
            Home::Token { signer, timeout } => {
                let scheme = scheme(&signer.public_key());
                let inner = InToken { signer: signer.clone(), timeout: *timeout, scheme };
                offered.contains(&scheme).then(|| Box::new(Counted { inner: Box::new(inner), metrics }) as _)
            }
        }
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        match &self.home {
            Home::File(key) => key.public_key(),
            Home::Token { signer, .. } => Some(signer.public_key().to_spki().into()),
        }
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match &self.home {
            Home::File(key) => key.algorithm(),
            Home::Token { signer, .. } => match signer.public_key() {
                PublicKey::Ed25519(_) => SignatureAlgorithm::ED25519,
                PublicKey::P256(_) => SignatureAlgorithm::ECDSA,
            },
        }
    }
}

const fn scheme(key: &PublicKey) -> SignatureScheme {
    match key {
        PublicKey::Ed25519(_) => SignatureScheme::ED25519,
        PublicKey::P256(_) => SignatureScheme::ECDSA_NISTP256_SHA256,
    }
}

/// One signature in a token. Blocks, by its deadline at the latest.
#[derive(Debug)]
struct InToken {
    signer: Signer<TlsServer>,
    timeout: Duration,
    scheme: SignatureScheme,
}

impl rustls::sign::Signer for InToken {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let until = SIGNING_UNTIL.get().ok_or_else(not_here)?;
        let signature = self
            .signer
            .sign(message, until.min(Instant::now() + self.timeout))
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(match self.signer.public_key() {
            PublicKey::Ed25519(_) => signature.to_vec(),
            PublicKey::P256(_) => ecdsa_signature(&signature),
        })
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

fn not_here() -> rustls::Error {
    ASKED.set(true);
    rustls::Error::General("no signature is made on this thread".to_owned())
}

/// Counts what a key does, wherever it lives, and lets it sign only where that may take its time.
#[derive(Debug)]
struct Counted {
    inner: Box<dyn rustls::sign::Signer>,
    metrics: Arc<TlsMetrics>,
}

impl rustls::sign::Signer for Counted {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        if SIGNING_UNTIL.get().is_none() {
            return Err(not_here());
        }
        let outcome = self.inner.sign(message);
        self.metrics.signed(outcome.is_ok());
        outcome
    }

    fn scheme(&self) -> SignatureScheme {
        self.inner.scheme()
    }
}
