//! The TLS listeners: their certificate and key, opened at the start and again when an operator has them reloaded.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use edgate_hsm::{Group, PublicKey, TlsServer};
use rustls::ServerConfig;

use super::StartError;
use super::keys::OPEN_TIMEOUT;
use crate::config::{Config, Tls, TlsKeyPlace};
use crate::control::{self, Dependency};
use crate::metrics::Reading;
use crate::tls::{Acceptor, Certificate, Door, Identity, Settings, TlsKey, TlsMetrics};

/// From when on readiness says that the certificate ends soon, in seconds before.
const ENDS_SOON_S: i64 = 7 * 86_400;

/// What TLS listeners share.
pub(super) struct Encrypted {
    identity: Arc<Identity>,
    config: Arc<ServerConfig>,
    metrics: Arc<TlsMetrics>,
    settings: Settings,
}

impl Encrypted {
    /// Reads the certificate and opens its key; `None` where nobody speaks TLS. Blocks.
    ///
    /// A token that is away is no error: the certificate says which key it must have, and handshakes wait for it.
    pub(super) fn prepare(config: &Config, hsm: Option<&Arc<Group>>) -> Result<Option<Self>, StartError> {
        let Some(tls) = &config.server.tls else { return Ok(None) };
        let metrics = Arc::new(TlsMetrics::default());
        let (certificate, key) = open(tls, hsm.map(|hsm| &**hsm), &metrics, Proof::Awaited)?;
        if !certificate.is_valid(SystemTime::now()) {
            let file = tls.certificate_file.display();
            tracing::error!(%file, "the TLS certificate is not valid now: clients will refuse it");
        }
        let identity = Identity::new(certificate, key, Arc::clone(&metrics)).map_err(refused)?;
        let config = identity.server_config().map_err(refused)?;
        let settings = Settings { timeout: tls.handshake_timeout, threads: tls.handshake_threads };
        Ok(Some(Self { identity, config, metrics, settings }))
    }

    /// Accepts from `listeners` from now on.
    pub(super) fn accept(
        &self,
        listeners: Vec<TcpListener>,
        doors: Vec<Door>,
    ) -> Result<Acceptor, StartError> {
        let metrics = Arc::clone(&self.metrics);
        Acceptor::start(listeners, Arc::clone(&self.config), doors, metrics, self.settings)
            .map_err(|error| StartError::System { what: "accept TLS connections", error })
    }

    /// What the control plane can ask and do. The certificate can be reloaded where a configuration file names it.
    pub(super) fn in_control(&self, file: Option<PathBuf>, hsm: Option<Arc<Group>>) -> control::Tls {
        let identity = Arc::clone(&self.identity);
        let (loaded, metrics) = (Arc::clone(&identity), Arc::clone(&self.metrics));
        let next = file.map(|file| -> control::NextCertificate {
            Arc::new(move || {
                let config = Config::load(&file).map_err(|error| error.to_string())?;
                let tls =
                    config.server.tls.ok_or("there is no [server.tls] table any more: restart the node")?;
                let opened = open(&tls, hsm.as_deref(), &metrics, Proof::Demanded);
                let (certificate, key) = opened.map_err(|error| error.to_string())?;
                let before =
                    control::InUse { described: loaded.described(), certificate: loaded.certificate() };
                let shown = certificate.clone();
                let prepared = Identity::prepare(certificate, key, SystemTime::now())
                    .map_err(|error| error.to_string())?;
                let after = control::InUse { described: prepared.described().to_owned(), certificate: shown };
                let identity = Arc::clone(&loaded);
                let present = Box::new(move || identity.present(prepared));
                Ok(control::Reload { before, after, present })
            })
        });
        control::Tls { certificate: Arc::new(move || identity.certificate()), next }
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge may be rounded above 2^53")]
    pub(super) fn readings(&self) -> Vec<Reading> {
        let of = |name, help, counter, field: fn(&TlsMetrics) -> &AtomicU64| {
            let metrics = Arc::clone(&self.metrics);
            let read = Box::new(move || field(&metrics).load(Ordering::Relaxed) as f64);
            Reading { name, help, counter, read }
        };
        vec![
            of("tls_handshakes_full", "TLS handshakes completed with a signature", true, |tls| &tls.full),
            of("tls_handshakes_resumed", "TLS handshakes completed with a ticket", true, |tls| &tls.resumed),
            of(
                "tls_handshakes_failed",
                "TLS handshakes broken off by either side or by the clock",
                true,
                |tls| &tls.failed,
            ),
            of("tls_handshakes_under_way", "TLS handshakes under way", false, |tls| &tls.under_way),
            of("tls_crowded_out", "TLS connections closed since their shard had no room", true, |tls| {
                &tls.crowded_out
            }),
            of("tls_signatures", "Signatures of the TLS key", true, |tls| &tls.signatures),
            of(
                "tls_signatures_failed",
                "Signatures that the TLS key or its token did not give",
                true,
                |tls| &tls.signatures_failed,
            ),
            of("tls_certificate_replaced", "Certificates put in place of another", true, |tls| &tls.replaced),
            of(
                "tls_certificate_not_after_seconds",
                "End of the TLS certificate in use, in seconds since 1970",
                false,
                |tls| &tls.not_after,
            ),
        ]
    }
}

fn refused(problem: impl std::fmt::Display) -> StartError {
    StartError::Tls(format!("server.tls: {problem}"))
}

/// What can be said of certificate and key without logging in.
pub(super) fn check(config: &Config) -> Result<(), StartError> {
    let Some(tls) = &config.server.tls else { return Ok(()) };
    let certificate = Certificate::read(&tls.certificate_file).map_err(refused)?;
    match &tls.key {
        TlsKeyPlace::File(path) => {
            let metrics = Arc::new(TlsMetrics::default());
            let key = TlsKey::read(path, Arc::clone(&metrics)).map_err(refused)?;
            Identity::new(certificate, key, metrics).map_err(refused).map(drop)
        }
        TlsKeyPlace::Token(_) => key_of(&certificate).map(drop),
    }
}

/// Whether a key in a token must sign before it is believed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// It must: there is a certificate that works.
    Demanded,
    /// It may be away: the certificate says which key it must have, and handshakes wait for it.
    Awaited,
}

fn open(
    tls: &Tls,
    hsm: Option<&Group>,
    metrics: &Arc<TlsMetrics>,
    proof: Proof,
) -> Result<(Certificate, TlsKey), StartError> {
    let certificate = Certificate::read(&tls.certificate_file).map_err(refused)?;
    let key = match &tls.key {
        TlsKeyPlace::File(path) => TlsKey::read(path, Arc::clone(metrics)).map_err(refused)?,
        TlsKeyPlace::Token(uri) => {
            let hsm = hsm.ok_or_else(|| {
                refused(format!("{uri} is in a token, and this node was started without [hsm]: restart it"))
            })?;
            let pinned = key_of(&certificate)?;
            let signer = hsm.signing_key::<TlsServer>(uri, Some(pinned), Instant::now() + OPEN_TIMEOUT)?;
            if proof == Proof::Demanded {
                signer.sign(b"edgate tls reload", Instant::now() + tls.sign_timeout)?;
            }
            TlsKey::in_token(signer, uri.to_string(), tls.sign_timeout, Arc::clone(metrics))
        }
    };
    Ok((certificate, key))
}

/// The key that a token must have for `certificate`.
fn key_of(certificate: &Certificate) -> Result<PublicKey, StartError> {
    PublicKey::from_spki(&certificate.public_key).ok_or_else(|| {
        refused("the certificate is of neither a P-256 nor an Ed25519 key; others are not used in tokens")
    })
}

pub(super) fn dependency(tls: &control::Tls) -> Dependency {
    let (certificate, now) = ((tls.certificate)(), SystemTime::now());
    let left = certificate.seconds_left(now);
    let detail = match left {
        _ if now < certificate.validity.0 => "the certificate is not valid yet".to_owned(),
        ..=0 => "the certificate is not valid any more; renew it, then `edgate tls reload`".to_owned(),
        1..ENDS_SOON_S => format!("the certificate ends in {} hours", left / 3600),
        _ => format!("the certificate ends in {} days", left / 86_400),
    };
    Dependency { name: "tls", ready: certificate.is_valid(now), detail }
}
