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
use super::changing::{self, Changed};
use super::error::{ApiError, ErrorKind};
use super::evidence;
use super::issuing;
use super::revoke::{self, RevokeRequest};
use super::state::Shared;
use crate::audit::Event;
use crate::json;
use crate::store::Recorded;

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
    with_body(shared, peer, request, issuing::issue).await
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

/// Runs an action on the JSON that came with the request.
pub(super) async fn with_body<F>(
    shared: Arc<Shared>,
    peer: Peer,
    request: Request,
    action: fn(Arc<Shared>, Peer, Vec<u8>) -> F,
) -> Result<Response, ApiError>
where
    F: Future<Output = Result<Response, ApiError>> + Send + 'static,
{
    let bytes = body::receive_json(request).await?;
    run(&shared, action(Arc::clone(&shared), peer, bytes)).await
}

/// Does what blocks away from the listener's thread.
pub(super) async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(act).await.map_err(|_| stopping())
}

fn stopping() -> ApiError {
    ApiError::new(ErrorKind::Overloaded, "the node is stopping")
}

/// Puts `events` on record as one whole, and answers with the name of the first: `edgate audit tail` shows it. `consequence`
/// says what follows where that cannot be.
pub(super) async fn put_on_record(
    shared: &Shared,
    events: &[Event<'_>],
    consequence: &str,
) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct OnRecord {
        id: String,
    }
    let ids = shared.evidence.conclude(events).await;
    let ids = ids.map_err(|error| evidence::unavailable(&error, consequence))?;
    let id = ids.first().map(ToString::to_string).unwrap_or_default();
    Ok(Json(OnRecord { id }).into_response())
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
    task.await.unwrap_or_else(|_| Err(stopping()))
}

async fn revoke_token(
    shared: Arc<Shared>,
    peer: Peer,
    jti: String,
    bytes: Vec<u8>,
) -> Result<Response, ApiError> {
    let mut scratch = json::Scratch::default();
    let request = RevokeRequest::parse(&bytes, &mut scratch)?;
    let own = shared.issuing.as_ref().map(|issuing| issuing.own);
    let wanted = request.token(&jti, &shared.issuers, own, (shared.now)(), &peer.actor())?;
    let Changed { epoch, mut recorded } = changing::change(&shared, vec![wanted]).await?;
    let Recorded { already, stands } = recorded.pop().expect("one was wanted");
    let revoked = Revoked {
        id: jti,
        issuer: stands.issuer,
        tenant: stands.tenant,
        revoked_at: stands.changed_at.0,
        forget_at: stands.forget_at.0,
        already_revoked: already,
        revocation_epoch: epoch,
    };
    Ok(Json(revoked).into_response())
}
