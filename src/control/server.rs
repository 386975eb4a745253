//! The listener: connections in, requests through the guard to the handlers.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Extension;
use axum::http::Method;
use axum::routing::{get, post};
use axum::{Router, middleware};
use tokio::net::TcpListener;

use super::actions::{self, Peer};
use super::checkpoint_key;
use super::erasures;
use super::error::{ApiError, ErrorKind};
use super::events;
use super::exports;
use super::feed;
use super::guard::{self, Guard};
use super::lookups;
use super::oauth;
use super::observe;
use super::reports;
use super::retention;
use super::revocations;
use super::sealed;
use super::signing_keys;
use super::state::{ACTIONS_MAX, Shared, State};
use super::status_lists;
use super::tag_keys;
use super::tls;
use super::unlock;
use super::verify_runs;
use super::view_feed::purge_expired;
use crate::listener::serve_until;

/// How long shutdown waits for connections and actions under way.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the control listener stopped.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Actions were still under way when the time to drain was over.
    #[error("control listener stopped with {0} actions still under way")]
    DrainTimeout(u32),
    /// The listening socket cannot be used.
    #[error("cannot use the control listener's socket: {0}")]
    Listener(io::Error),
}

/// Serves on `listener` until `shutdown` completes, then drains. Runs on a tokio runtime, which may be single-threaded.
///
/// # Errors
/// [`ControlError`]; a failing connection is no error of the listener.
pub async fn serve(
    listener: std::net::TcpListener,
    state: State,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ControlError> {
    listener.set_nonblocking(true).map_err(ControlError::Listener)?;
    let listener = TcpListener::from_std(listener).map_err(ControlError::Listener)?;
    let local = listener.local_addr().map_err(ControlError::Listener)?;
    let shared = Arc::new(Shared::new(state));
    let router = router(Arc::clone(&shared), local);
    let purge = purge_expired(shared.store.clone(), Arc::clone(&shared.view), shared.now);
    let purge = tokio::spawn(purge);
    // It ends by itself once the node stops.
    tokio::spawn(signing_keys::keep(Arc::clone(&shared)));

    let open = serve_until(listener, |peer| router.clone().layer(Extension(Peer(peer))), shutdown).await;

    purge.abort();
    shared.stopping.send_replace(true);
    let drain = async {
        open.shutdown().await;
        // Actions outlive the connections that asked for them.
        let _ = shared.actions.acquire_many(ACTIONS_MAX).await;
    };
    match tokio::time::timeout(DRAIN_TIMEOUT, drain).await {
        Ok(()) => Ok(()),
        Err(_) => {
            let free = u32::try_from(shared.actions.available_permits()).unwrap_or(ACTIONS_MAX);
            if free < ACTIONS_MAX { Err(ControlError::DrainTimeout(ACTIONS_MAX - free)) } else { Ok(()) }
        }
    }
}

fn router(shared: Arc<Shared>, local: SocketAddr) -> Router {
    let guard = Arc::new(Guard { shared: Arc::clone(&shared), local });
    Router::new()
        .route("/v1/tokens", post(actions::issue))
        .route("/v1/tokens/{id}/revoke", post(actions::revoke))
        .route("/v1/revocations", get(revocations::list).post(revocations::change))
        .route("/v1/revocations/feed", get(feed::feed))
        .route("/v1/revocations/status", get(revocations::status))
        .route("/v1/status-lists/{id}", get(status_lists::list))
        .route("/events/set", post(events::receive))
        .route("/oauth/revoke", post(oauth::revoke))
        .route("/v1/hsm/unlock", post(unlock::unlock))
        .route("/v1/keys", get(signing_keys::list))
        .route("/v1/keys/jwks", get(signing_keys::jwks))
        .route("/v1/keys/kill", post(signing_keys::kill))
        .route("/v1/keys/rewrap", post(tag_keys::rewrap))
        .route("/v1/keys/rotate", post(signing_keys::rotate))
        .merge(signing_keys::to_one_key())
        .route("/v1/audit/erasures", post(erasures::erase))
        .route("/v1/audit/exports", post(exports::record))
        .route("/v1/audit/holds", post(retention::hold))
        .route("/v1/audit/holds/{name}/release", post(retention::release))
        .route("/v1/audit/retire", post(retention::retire))
        .route("/v1/audit/lookups", post(lookups::record))
        .route("/v1/audit/openings", post(sealed::opening))
        .route("/v1/audit/reports", post(reports::record))
        .route("/v1/audit/verify-runs", post(verify_runs::record))
        .route("/v1/audit/sealed-keys/destroy", post(sealed::destroy))
        .route("/v1/audit/checkpoint-key", post(checkpoint_key::rotate))
        .route("/v1/tls", get(tls::show))
        .route("/v1/tls/reload", post(tls::reload))
        .route("/v1/audit/tag-keys", post(tag_keys::rotate))
        .route("/v1/audit/tag-keys/{epoch}/destroy", post(tag_keys::destroy))
        .route("/v1/audit/verify-chain", get(observe::verify_chain))
        .route("/metrics", get(observe::metrics))
        .route("/livez", get(observe::livez))
        .route("/readyz", get(observe::readyz))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(guard, guard::guard))
        .with_state(shared)
}

async fn not_found() -> ApiError {
    ApiError::new(
        ErrorKind::NotFound,
        "nothing is here; the control listener has POST /v1/tokens, POST /v1/tokens/{id}/revoke, \
         /v1/revocations, /v1/keys, POST /oauth/revoke, GET /v1/audit/verify-chain, POST /v1/audit/exports, POST /v1/audit/holds, POST /v1/audit/lookups, POST /v1/audit/reports, POST /v1/audit/retire, POST /v1/audit/verify-runs, /metrics, /livez and /readyz (tokens are verified on the data listener)",
    )
}

async fn method_not_allowed(method: Method) -> ApiError {
    ApiError::new(ErrorKind::MethodNotAllowed, format!("{method} is not possible here; see Allow"))
}
