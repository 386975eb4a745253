//! `POST /v1/audit/checkpoint-key`: the log's checkpoint key gives way to the one that the configuration names now. On record, before
//! and after.
//!
//! The request says nothing about the key: who may change the configuration's file may change the key, and nobody else.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::actions::{Peer, blocking, run};
use super::body;
use super::error::{ApiError, ErrorKind};
use super::state::Shared;
use super::tag_keys::{on_record, rotation};
use crate::audit::{ChangeEvent, CheckpointKey, CheckpointSigner, Handovers, Phase};

/// Reads the configuration again and opens the checkpoint key that it names. Blocks; the error is for the operator.
pub type NextKey = Arc<dyn Fn() -> Result<CheckpointSigner, String> + Send + Sync>;

/// What replaces the log's checkpoint key.
#[derive(Clone)]
pub struct KeyChange {
    /// Hands over.
    pub handovers: Handovers,
    /// The key to hand over to.
    pub next: NextKey,
}

#[derive(Serialize)]
struct Changed {
    /// The record of the outcome: `edgate audit tail` shows it.
    id: String,
    /// The key that signed until now, and the one that signs from now on, as signed-note text.
    old: String,
    new: String,
}

/// Hands over.
pub(super) async fn rotate(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, ApiError> {
    body::receive_nothing(request).await?;
    run(&shared, hand_over(Arc::clone(&shared), peer)).await
}

async fn hand_over(shared: Arc<Shared>, peer: Peer) -> Result<Response, ApiError> {
    let Some(KeyChange { handovers, next }) = shared.checkpoint_key.clone() else {
        let description =
            "this node was started without a configuration file (--dev), so no file can name the next key";
        return Err(ApiError::new(ErrorKind::NotFound, description));
    };
    let _turn = shared.changing_tag_keys.lock().await;
    let current = handovers.current();
    let signer = blocking(move || next()).await?.map_err(|cause| {
        tracing::error!(cause, "the next checkpoint key cannot be opened");
        ApiError::invalid(
            "the checkpoint key was not replaced: the configuration, or the key that it names, cannot be used now; the service's log and \
             `edgate check-config` say why",
        )
    })?;
    let new = CheckpointKey::new(current.name.clone(), signer.verifying_key).to_text();
    let old = current.to_text();
    if old == new {
        return Err(ApiError::invalid(format!(
            "the configuration still names the log's own checkpoint key, {old}: let audit.checkpoint_key_file or \
             audit.checkpoint_key name the next one, then ask again"
        )));
    }
    let actor = peer.actor();
    let (phase, what) = (Phase::Intent, "audit.checkpoint_key");
    let change = ChangeEvent { phase, actor: &actor, what, before: &old, after: &new, intent: None };
    let id = on_record(&shared, change, rotation, move |_| handovers.hand_over(signer).map(drop)).await?;
    Ok(Json(Changed { id, old, new }).into_response())
}
