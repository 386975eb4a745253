//! `POST /v1/audit/tag-keys` begins an epoch of the log's tags; `POST /v1/audit/tag-keys/{epoch}/destroy` makes those of one
//! that is over belong to nobody. Both on record, before and after.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, Request, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::actions::{Peer, blocking, run};
use super::body::{self, Words};
use super::error::{ApiError, ErrorKind};
use super::evidence;
use super::retention;
use super::state::Shared;
use crate::audit::{AuditError, ChangeEvent, Event, Phase, RecordId, Rewrapped};

/// Longest name of whoever answers for a destruction, and longest reason: both go into one text of a record.
pub(super) const AUTHORITY_BYTES_MAX: usize = 256;
pub(super) const REASON_BYTES_MAX: usize = 512;

#[derive(Serialize)]
struct Changed {
    /// The record of the outcome: `edgate audit tail` shows it.
    id: String,
    epoch: u64,
}

/// Begins another epoch.
pub(super) async fn rotate(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, ApiError> {
    body::receive_nothing(request).await?;
    run(&shared, begin_epoch(Arc::clone(&shared), peer)).await
}

async fn begin_epoch(shared: Arc<Shared>, peer: Peer) -> Result<Response, ApiError> {
    let _turn = shared.changing_tag_keys.lock().await;
    let actor = peer.actor();
    let epoch = shared.tags.epoch();
    let (before, after) = (format!("epoch {epoch}"), format!("epoch {}", epoch + 1));
    let (phase, what) = (Phase::Intent, "audit.tag_key");
    let change = ChangeEvent { phase, actor: &actor, what, before: &before, after: &after, intent: None };
    let tags = shared.tags.clone();
    let id = on_record(&shared, change, rotation, move |_| tags.rotate().map(drop)).await?;
    Ok(Json(Changed { id, epoch: epoch + 1 }).into_response())
}

/// Destroys the key of an epoch.
pub(super) async fn destroy(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    Path(epoch): Path<u64>,
    request: Request,
) -> Result<Response, ApiError> {
    let bytes = body::receive_json(request).await?;
    run(&shared, destroy_epoch(Arc::clone(&shared), peer, epoch, bytes)).await
}

async fn destroy_epoch(
    shared: Arc<Shared>,
    peer: Peer,
    epoch: u64,
    bytes: Vec<u8>,
) -> Result<Response, ApiError> {
    let Words { authority, reason } = body::words(&bytes, AUTHORITY_BYTES_MAX, REASON_BYTES_MAX)?;
    // No hold may be placed between the look at them and the end of the key.
    let _custody = retention::custody(&shared).await?;
    let _turn = shared.changing_tag_keys.lock().await;
    let tags = shared.tags.clone();
    blocking(move || tags.may_destroy(epoch)).await?.map_err(|error| not_changed(&error))?;
    let actor = peer.actor();
    let (what, after) =
        (format!("audit.tag_key, epoch {epoch}"), format!("destroyed by {authority}: {reason}"));
    let phase = Phase::Intent;
    let change =
        ChangeEvent { phase, actor: &actor, what: &what, before: "kept", after: &after, intent: None };
    let tags = shared.tags.clone();
    let id = on_record(&shared, change, destruction, move |record| tags.destroy(epoch, record)).await?;
    Ok(Json(Changed { id, epoch }).into_response())
}

#[derive(Serialize)]
struct Wrapped {
    /// The record of the outcome.
    id: String,
    /// Id of the wrapping key, hexadecimal.
    wrapping_key: String,
    /// Files that were wrapped under another key.
    rewrapped: usize,
    /// Files that were not wrapped.
    wrapped: usize,
    /// Files that were under it already.
    unchanged: usize,
}

/// Wraps every stored secret under the wrapping key that the node was started with.
pub(super) async fn rewrap(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, ApiError> {
    body::receive_nothing(request).await?;
    run(&shared, wrap_anew(Arc::clone(&shared), peer)).await
}

async fn wrap_anew(shared: Arc<Shared>, peer: Peer) -> Result<Response, ApiError> {
    let _turn = shared.changing_tag_keys.lock().await;
    let Some(wrapping_key) = shared.tags.wrapping_id() else {
        return Err(ApiError::invalid("nothing is wrapped on this node: hsm.wrapping_key names no key"));
    };
    let (actor, after) = (peer.actor(), format!("wrapped under {wrapping_key}"));
    let (phase, what) = (Phase::Intent, "audit.tag_key, every epoch");
    let change = ChangeEvent { phase, actor: &actor, what, before: "stored", after: &after, intent: None };
    let intent = intend(&shared, change, destruction).await?;
    let tags = shared.tags.clone();
    let done = blocking(move || tags.rewrap()).await?;
    let change = ChangeEvent { intent: Some(intent), ..change };
    let recorded = conclude(&shared, change, destruction, done.is_ok()).await;
    let Rewrapped { current, plain, previous } = done.map_err(|error| not_changed(&error))?;
    let id = recorded?;
    tracing::info!(wrapping_key, current, plain, previous, "tag keys are wrapped under this key");
    Ok(Json(Wrapped { id, wrapping_key, rewrapped: previous, wrapped: plain, unchanged: current })
        .into_response())
}

pub(super) fn rotation(change: ChangeEvent<'_>) -> Event<'_> {
    Event::KeyRotate(change)
}

pub(super) fn destruction(change: ChangeEvent<'_>) -> Event<'_> {
    Event::KeyChange(change)
}

/// How a change of a key is recorded: as a rotation, or as any other.
pub(super) type AsEvent = fn(ChangeEvent<'_>) -> Event<'_>;

/// Records the intent, does it with the intent's id, and records what came of it; the id of that record.
pub(super) async fn on_record(
    shared: &Shared,
    change: ChangeEvent<'_>,
    event: AsEvent,
    effect: impl FnOnce(RecordId) -> Result<(), AuditError> + Send + 'static,
) -> Result<String, ApiError> {
    let intent = intend(shared, change, event).await?;
    let done = blocking(move || effect(intent)).await?;
    let recorded =
        conclude(shared, ChangeEvent { intent: Some(intent), ..change }, event, done.is_ok()).await;
    done.map_err(|error| not_changed(&error))?;
    recorded
}

/// Records what is going to be done to a key; nothing is done where that cannot be.
pub(super) async fn intend(
    shared: &Shared,
    change: ChangeEvent<'_>,
    event: AsEvent,
) -> Result<RecordId, ApiError> {
    let intended = shared.evidence.conclude_one(&event(change)).await;
    intended.map_err(|error| evidence::unavailable(&error, "no key was changed"))
}

/// Records what came of it; the id of that record.
pub(super) async fn conclude(
    shared: &Shared,
    change: ChangeEvent<'_>,
    event: AsEvent,
    done: bool,
) -> Result<String, ApiError> {
    let phase = if done { Phase::Done } else { Phase::Failed };
    let recorded = shared.evidence.conclude_one(&event(ChangeEvent { phase, ..change })).await;
    let id = recorded.map_err(|error| evidence::unavailable(&error, "the key was changed"))?;
    Ok(id.to_string())
}

pub(super) fn not_changed(error: &AuditError) -> ApiError {
    match error {
        AuditError::Held { .. }
        | AuditError::SealedKeyInUse { .. }
        | AuditError::TagKeyInUse { .. }
        | AuditError::TagKeyDestroyed { .. }
        | AuditError::TagKeyUnderOther { .. } => ApiError::invalid(error.to_string()),
        AuditError::TagKeyWrap { .. } => {
            tracing::error!(%error, "a tag key was not changed");
            ApiError::new(ErrorKind::SigningUnavailable, error.to_string())
        }
        AuditError::NotHandedOver { .. } => ApiError::new(ErrorKind::SigningUnavailable, error.to_string()),
        AuditError::SealedKeyMissing { .. } => ApiError::new(ErrorKind::NotFound, error.to_string()),
        AuditError::TagKeyMissing { .. } => {
            ApiError::new(ErrorKind::NotFound, "there is no key of this epoch")
        }
        error => evidence::unavailable(error, "the key was not changed"),
    }
}
