//! Checks before any handler and headers after it: the listener must be safe from a browser on the same machine.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::{ApiError, ErrorKind, shortened};
use super::state::Shared;

/// What a check needs to know.
pub(super) struct Guard {
    pub(super) shared: Arc<Shared>,
    /// The listener's own address, which `Host` may name.
    pub(super) local: SocketAddr,
}

/// Runs around every request.
pub(super) async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let mut response = match guard.check(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    let counters = &guard.shared.counters;
    match response.status() {
        status if status.is_client_error() => counters.refused.increment(),
        status if status.is_server_error() => counters.unavailable.increment(),
        _ => {}
    }
    for (name, value) in SECURITY_HEADERS {
        // What may be cached says so itself.
        if name == header::CACHE_CONTROL && response.headers().contains_key(&name) {
            continue;
        }
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

impl Guard {
    fn check(&self, request: &Request) -> Result<(), ApiError> {
        let host = sole_host(request.uri(), request.headers())?;
        if !self.is_ours(host) {
            let host = shortened(host);
            return Err(ApiError::new(
                ErrorKind::Misdirected,
                format!(
                    "Host \"{host}\" is not a name of this listener; use its address or localhost, or add the name to \
                     control.allowed_hosts"
                ),
            ));
        }
        // Browsers send it with every cross-site POST; other clients send none.
        if let Some(origin) = request.headers().get(header::ORIGIN) {
            let origin = origin.to_str().unwrap_or("(not text)");
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            if !authority.is_some_and(|authority| self.is_ours(authority)) {
                let origin = shortened(origin);
                return Err(ApiError::new(
                    ErrorKind::ForeignOrigin,
                    format!("Origin \"{origin}\" is another site; its pages may not use this listener"),
                ));
            }
        }
        // A form may be sent across sites without asking first. Browsers that send no `Origin` with one send this (Fetch
        // Metadata). Only looking is not meant: a link to /metrics in a wiki may be followed.
        if !request.method().is_safe()
            && let Some(site) = request.headers().get("sec-fetch-site")
            && !matches!(site.as_bytes(), b"same-origin" | b"none")
        {
            let site = shortened(site.to_str().unwrap_or("(not text)"));
            return Err(ApiError::new(
                ErrorKind::ForeignOrigin,
                format!("Sec-Fetch-Site \"{site}\" is another site; its pages may not use this listener"),
            ));
        }
        Ok(())
    }

    /// Whether `authority` (a host with or without a port) names this listener.
    ///
    /// A name that is not ours may have been bound to our address by whoever owns it (DNS rebinding); an address
    /// cannot be rebound, but none besides loopback and our own is expected either.
    fn is_ours(&self, authority: &str) -> bool {
        let host = host_of(authority).to_ascii_lowercase();
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return address.is_loopback() || address == self.local.ip();
        }
        host == "localhost" || self.shared.host_names.contains(&host)
    }
}

/// The one host a request names: `Host`, or the authority of an absolute request target (RFC 9112 §3.2).
fn sole_host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<&'a str, ApiError> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next(), uri.authority()) {
        (_, Some(_), _) => Err(ApiError::invalid("Host was sent more than once")),
        (_, None, Some(authority)) => Ok(authority.as_str()),
        (Some(host), None, None) => host.to_str().map_err(|_| ApiError::invalid("Host is not ASCII text")),
        (None, None, None) => Err(ApiError::invalid("Host is missing")),
    }
}

/// `authority` without its port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        // The last colon of `[::1]` stands inside the brackets.
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// On every answer: nothing here is for caches, frames or scripts of other sites.
const SECURITY_HEADERS: [(HeaderName, &str); 6] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
];
