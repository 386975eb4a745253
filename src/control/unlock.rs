//! `POST /v1/hsm/unlock`: an operator hands in the PIN that the token waits for.
//!
//! The PIN lives in this request and in the module, and is wiped in between. A PIN the token refused is never tried again
//! (the guard of the session pool), so a client that repeats itself costs no further try.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use edgate_hsm::PIN_BYTES_MAX;
use serde::Serialize;
use zeroize::Zeroizing;

use super::actions::{self, Peer};
use super::body;
use super::error::{ApiError, ErrorKind};
use super::evidence;
use super::state::Shared;
use crate::audit::{AdminEvent, Event, Phase};
use crate::json;

#[derive(Serialize)]
struct Unlocked {
    unlocked: bool,
}

/// `POST /v1/hsm/unlock` with `{"pin": "…"}`.
pub(super) async fn unlock(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, ApiError> {
    let bytes = Zeroizing::new(body::receive_json(request).await?);
    let pin = read_pin(&bytes)?;
    drop(bytes);
    actions::run(&shared, try_pin(Arc::clone(&shared), peer, pin)).await
}

fn read_pin(bytes: &[u8]) -> Result<Zeroizing<String>, ApiError> {
    let mut scratch = json::Scratch::default();
    let mut pin = Zeroizing::new(String::new());
    body::read_object(bytes, &mut scratch, "pin", |reader, name| {
        if name != "pin" {
            return Ok(false);
        }
        pin.push_str(body::text(reader, name, PIN_BYTES_MAX)?);
        Ok(true)
    })?;
    if pin.is_empty() {
        return Err(ApiError::invalid("\"pin\" is missing or empty"));
    }
    Ok(pin)
}

async fn try_pin(shared: Arc<Shared>, peer: Peer, pin: Zeroizing<String>) -> Result<Response, ApiError> {
    let Some(unlock) = shared.unlock.clone() else {
        return Err(ApiError::new(
            ErrorKind::NotFound,
            "this node has no [hsm] table: there is nothing to unlock",
        ));
    };
    let Ok(_turn) = Arc::clone(&shared.unlocking).try_acquire_owned() else {
        return Err(ApiError::new(ErrorKind::Overloaded, "another PIN is being tried; wait for its answer"));
    };
    let actor = peer.actor();
    let intent = AdminEvent {
        phase: Phase::Intent,
        actor: &actor,
        action: "hsm_unlock",
        target: "",
        detail: "",
        intent: None,
    };
    let intent_id = shared
        .evidence
        .record(&Event::Admin(intent))
        .await
        .map_err(|error| evidence::unavailable(&error, "the PIN was not tried"))?;
    let tried = tokio::task::spawn_blocking(move || unlock(pin)).await;
    let (phase, problem) = match tried {
        Ok(Ok(())) => (Phase::Done, None),
        Ok(Err(problem)) => (Phase::Failed, Some(problem)),
        Err(_) => (Phase::Failed, Some("the node is stopping".to_owned())),
    };
    let outcome =
        AdminEvent { phase, intent: Some(intent_id), detail: problem.as_deref().unwrap_or(""), ..intent };
    let recorded = shared.evidence.conclude(&[Event::Admin(outcome)]).await;
    if let Some(problem) = problem {
        tracing::warn!(problem, "the token stays locked");
        return Err(ApiError::new(
            ErrorKind::SigningUnavailable,
            format!("the token stays locked: {problem}"),
        ));
    }
    recorded.map_err(|error| evidence::unavailable(&error, "the token is unlocked"))?;
    Ok(Json(Unlocked { unlocked: true }).into_response())
}
