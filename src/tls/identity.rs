//! Who this node is: a certificate and its key, replaced while connections go on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey as _};

use super::certificate::Certificate;
use super::key::TlsKey;
use super::metrics::{TlsMetrics, add};

/// The certificate that handshakes begin with now. Handshakes under way end with what they began with.
#[derive(Debug)]
pub struct Identity {
    current: ArcSwap<Held>,
    metrics: Arc<TlsMetrics>,
}

#[derive(Debug)]
struct Held {
    certificate: Certificate,
    certified: Arc<CertifiedKey>,
    // For the record: the whole chain, and where the key lives.
    described: String,
}

/// A certificate and its key, to be presented.
#[derive(Debug)]
pub struct Prepared(Held);

impl Prepared {
    /// As [`Identity::described`].
    #[must_use]
    pub fn described(&self) -> &str {
        &self.0.described
    }
}

/// Why a certificate cannot be presented.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The certificate is of another key.
    #[error(
        "the certificate is of another key than the one configured; name the certificate's key, or have the request that \
         `edgate hsm csr` makes for this key signed"
    )]
    OtherKey,
    /// The certificate is not valid now.
    #[error("the certificate is {0}; the one in use stays")]
    NotNow(&'static str),
    /// `rustls` does not take it.
    #[error("cannot set TLS up: {0}")]
    Refused(rustls::Error),
}

impl Identity {
    /// An identity of `certificate` and the key it is for. One that is not valid now is presented all the same: clients say
    /// what is wrong with it, and the other listeners need none.
    ///
    /// # Errors
    /// [`IdentityError::OtherKey`].
    pub fn new(
        certificate: Certificate,
        key: TlsKey,
        metrics: Arc<TlsMetrics>,
    ) -> Result<Arc<Self>, IdentityError> {
        let held = Held::new(certificate, key)?;
        held.note(&metrics);
        Ok(Arc::new(Self { current: ArcSwap::from_pointee(held), metrics }))
    }

    /// Makes `certificate` ready to be presented.
    ///
    /// # Errors
    /// [`IdentityError`] if it is of another key, or not valid at `now`.
    pub fn prepare(
        certificate: Certificate,
        key: TlsKey,
        now: SystemTime,
    ) -> Result<Prepared, IdentityError> {
        if !certificate.is_valid(now) {
            let early = now < certificate.validity.0;
            return Err(IdentityError::NotNow(if early { "not valid yet" } else { "not valid any more" }));
        }
        Held::new(certificate, key).map(Prepared)
    }

    /// Presents another certificate from the next handshake on. Sessions that were begun before can still be resumed.
    pub fn present(&self, Prepared(held): Prepared) {
        held.note(&self.metrics);
        self.current.store(Arc::new(held));
        add(&self.metrics.replaced);
    }

    /// What is in use, for the record: the certificate, its chain, and where the key lives.
    #[must_use]
    pub fn described(&self) -> String {
        self.current.load().described.clone()
    }

    /// The certificate in use.
    #[must_use]
    pub fn certificate(&self) -> Certificate {
        self.current.load().certificate.clone()
    }

    /// What handshakes are made with: TLS 1.3 and 1.2, HTTP/1.1, tickets, no early data, and no client certificates.
    ///
    /// # Errors
    /// [`IdentityError::Refused`] if the system gives no random bytes for the tickets' key.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, IdentityError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(IdentityError::Refused)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        // Sessions that the node would hold have no age; tickets have one, and need no memory.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ticketer = ring::Ticketer::new().map_err(IdentityError::Refused)?;
        // A load balancer needs one ticket for its next connection; each costs a sealing and 200 bytes.
        config.send_tls13_tickets = 1;
        Ok(Arc::new(config))
    }
}

impl Held {
    fn new(certificate: Certificate, key: TlsKey) -> Result<Self, IdentityError> {
        if key.public_key().as_deref() != Some(&certificate.public_key[..]) {
            return Err(IdentityError::OtherKey);
        }
        let described = format!("{} key {}", certificate.described(), key.place());
        let certified = Arc::new(CertifiedKey::new(certificate.chain.clone(), Arc::new(key)));
        Ok(Self { certificate, certified, described })
    }

    fn note(&self, metrics: &TlsMetrics) {
        let end = self.certificate.validity.1.duration_since(UNIX_EPOCH).unwrap_or_default();
        metrics.not_after.store(end.as_secs(), Ordering::Relaxed);
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().certified))
    }
}
