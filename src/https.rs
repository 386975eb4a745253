//! How this program asks others over the web: the system's trust store, no redirects, and one deadline for all of it.

use std::sync::Arc;
use std::time::Duration;

/// An agent that gives up after `timeout`. Every status is an answer; a redirect is one too, and is not followed, since it would
/// lead to somebody whom nobody named.
pub(crate) fn agent(timeout: Duration) -> ureq::Agent {
    let found = rustls_native_certs::load_native_certs();
    let roots: Vec<_> =
        found.certs.iter().map(|one| ureq::tls::Certificate::from_der(one).to_owned()).collect();
    let tls = ureq::tls::TlsConfig::builder()
        .root_certs(ureq::tls::RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(timeout))
        .tls_config(tls)
        .build()
        .into()
}
