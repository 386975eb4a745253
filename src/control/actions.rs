//! What changes the world: issue and revoke, each with its intent and its outcome in the audit log.
//!
//! Each action runs as a task of its own, so that a client that hangs up does not cut it between intent and outcome.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Path, Request, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::body;
use super::error::{ApiError, ErrorKind};
use super::evidence;
use super::issuing;
use super::revoke::{self, RevokeRequest};
use super::state::Shared;
use crate::audit::{Event, Phase, RevokeEvent};
use crate::decision::UnixSeconds;
use crate::json;
use crate::revocation::Revocation;
use crate::store::{Recorded, StoredRevocation};

/// Who is at the other end of the connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

impl Peer {
    /// The actor's name in records: callers do not authenticate here yet.
    pub(super) fn actor(self) -> String {
        format!("control:{}", self.0.ip())
    }
}

#[derive(Serialize)]
struct Revoked {
    id: String,
    issuer: String,
    tenant: String,
    revoked_at: u64,
    forget_at: u64,
    already_revoked: bool,
    revocation_epoch: u64,
}

/// `POST /v1/tokens`
pub(super) async fn issue(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, ApiError> {
    body::check_content_type(request.headers())?;
    let bytes = body::receive(request.into_body()).await?;
    run(&shared, issuing::issue(Arc::clone(&shared), peer, bytes)).await
}

/// `POST /v1/tokens/{id}/revoke`
pub(super) async fn revoke(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    Path(jti): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    revoke::check_jti(&jti)?;
    let (parts, body): (_, Body) = request.into_parts();
    let bytes = body::receive(body).await?;
    if !bytes.is_empty() {
        body::check_content_type(&parts.headers)?;
    }
    run(&shared, revoke_token(Arc::clone(&shared), peer, jti, bytes)).await
}

/// Runs an action to its end, whether or not the client waits for it.
pub(super) async fn run(
    shared: &Arc<Shared>,
    action: impl Future<Output = Result<Response, ApiError>> + Send + 'static,
) -> Result<Response, ApiError> {
    let Ok(permit) = Arc::clone(&shared.actions).try_acquire_owned() else {
        return Err(ApiError::new(
            ErrorKind::Overloaded,
            "too many requests are under way; try again in a second",
        ));
    };
    let task = tokio::spawn(async move {
        let outcome = action.await;
        drop(permit);
        outcome
    });
    task.await.unwrap_or_else(|_| Err(ApiError::new(ErrorKind::Overloaded, "the node is stopping")))
}

async fn revoke_token(
    shared: Arc<Shared>,
    peer: Peer,
    jti: String,
    bytes: Vec<u8>,
) -> Result<Response, ApiError> {
    let mut scratch = json::Scratch::default();
    let request = RevokeRequest::parse(&bytes, &mut scratch)?;
    let now = (shared.now)();
    let profile = request.profile(&shared.issuers, shared.issuing.as_ref().map(|issuing| issuing.own))?;
    let forget_at = request.forget_at(profile, now)?;

    let actor = peer.actor();
    let intent = RevokeEvent {
        phase: Phase::Intent,
        actor: &actor,
        target_kind: "jti",
        target: &jti,
        issuer: &profile.name,
        tenant: &profile.tenant,
        reason: Some(request.reason).filter(|reason| !reason.is_empty()),
        until: Some(forget_at),
        revocation_epoch: None,
        intent: None,
        failure: None,
    };
    let intent_id = shared
        .evidence
        .record(&Event::Revoke(intent))
        .await
        .map_err(|error| evidence::unavailable(&error, "the token is not revoked"))?;

    let stored = StoredRevocation {
        tenant: profile.tenant.clone(),
        issuer: profile.issuer.clone(),
        jti: jti.clone(),
        expires_at: forget_at,
        revoked_at: now,
        reason: request.reason.to_owned(),
        actor: actor.clone(),
    };
    let recorded = match shared.store.revoke(&stored).await {
        Ok(recorded) => recorded,
        Err(error) => {
            tracing::error!(%error, "cannot store a revocation");
            let failure = Some("store_unavailable");
            let outcome = RevokeEvent { phase: Phase::Failed, intent: Some(intent_id), failure, ..intent };
            if let Err(error) = shared.evidence.record(&Event::Revoke(outcome)).await {
                tracing::error!(%error, "cannot record that a revocation failed");
            }
            let description = "the state database takes no writes now; the token is not revoked";
            return Err(ApiError::new(ErrorKind::StoreUnavailable, description));
        }
    };
    let (already_revoked, revoked_at, forget_at) = match recorded {
        Recorded::New => (false, now, forget_at),
        Recorded::Already { revoked_at, expires_at } => (true, revoked_at, expires_at),
    };
    let revocation_epoch = apply(&shared, &stored, forget_at, now).await;

    let outcome = RevokeEvent {
        phase: Phase::Done,
        until: Some(forget_at),
        revocation_epoch: Some(revocation_epoch),
        intent: Some(intent_id),
        ..intent
    };
    shared.evidence.record(&Event::Revoke(outcome)).await.map_err(|error| {
        evidence::unavailable(&error, "the token is revoked, but that could not be recorded: ask again")
    })?;
    shared.counters.revoked.increment();
    let revoked = Revoked {
        id: jti,
        issuer: stored.issuer,
        tenant: stored.tenant,
        revoked_at: revoked_at.0,
        forget_at: forget_at.0,
        already_revoked,
        revocation_epoch,
    };
    Ok(Json(revoked).into_response())
}

/// Puts a stored revocation into the view. On a blocking thread, because the view may have to allocate its next table.
async fn apply(
    shared: &Arc<Shared>,
    stored: &StoredRevocation,
    forget_at: UnixSeconds,
    now: UnixSeconds,
) -> u64 {
    let (view, stored) = (Arc::clone(&shared.view), stored.clone());
    let apply = move || {
        let StoredRevocation { tenant, issuer, jti, .. } = &stored;
        view.apply([Revocation { tenant, issuer, jti, expires_at: forget_at }], now)
    };
    // It is stored already, so it must reach the view: should the runtime refuse a thread, it is done right here.
    match tokio::task::spawn_blocking(apply.clone()).await {
        Ok(epoch) => epoch,
        Err(_) => apply(),
    }
}
