//! `POST /v1/audit/erasures`: an authority has the bodies of records dropped, and the log says so first, under a checkpoint.
//!
//! Order: what is about to go is listed durably; the intent and an ERASE record each are durable; a checkpoint that covers
//! them is; then the bytes are overwritten; then the outcome is durable, then the caller is answered.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::actions::{Peer, blocking, with_body};
use super::body;
use super::error::{ApiError, ErrorKind};
use super::evidence;
use super::retention;
use super::state::Shared;
use crate::audit::{AdminEvent, EraseError, EraseEvent, Event, Phase, RecordName, hold::WORDS_BYTES_MAX};
use crate::json;

/// Records of one call. More calls may follow.
const RECORDS_MAX: usize = 64;

/// How long the checkpoint that covers the ERASE records may take: one is signed every second.
const SIGNED_TIMEOUT: Duration = Duration::from_secs(6);

const MEMBERS: &str = "records, authority, reason";

#[derive(Serialize)]
struct Erased {
    /// The name of the record that says it is done.
    id: Option<String>,
    erased: Vec<u64>,
    /// Nothing had to be done for these.
    already_erased: Vec<u64>,
}

/// Erases; answers once nothing of the bodies is left.
pub(super) async fn erase(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, ApiError> {
    with_body(shared, peer, request, erase_records).await
}

async fn erase_records(shared: Arc<Shared>, peer: Peer, bytes: Vec<u8>) -> Result<Response, ApiError> {
    let (names, authority, reason) = read(&bytes)?;
    let Some(eraser) = shared.eraser.clone() else {
        let description = "nobody signs this log's checkpoints, and an erasure takes effect with one";
        return Err(ApiError::new(ErrorKind::NotFound, description));
    };
    // From the look at the holds to the outcome no hold may be placed, and no segment leave.
    let _custody = retention::custody(&shared).await?;
    // A verification that had read the end of the log would take what is erased meanwhile for damage.
    let Ok(_alone) = Arc::clone(&shared.verifications).try_acquire_owned() else {
        let description = "the log is being verified, or something else is being erased; nothing was erased, try again later";
        return Err(ApiError::new(ErrorKind::Overloaded, description));
    };
    let finder = eraser.clone();
    let wanted = blocking(move || {
        let wanted = finder.find(&names)?;
        if !wanted.erasable.is_empty() {
            finder.announce(&wanted)?;
        }
        Ok(wanted)
    })
    .await?
    .map_err(|error| refused(&error))?;
    let (erasable, already_erased) = (wanted.erasable.clone(), wanted.erased.clone());
    if erasable.is_empty() {
        return Ok(Json(Erased { id: None, erased: Vec::new(), already_erased }).into_response());
    }

    let actor = peer.actor();
    let target = format!("{} records, from {}", erasable.len(), erasable[0].seq);
    let intent = AdminEvent {
        phase: Phase::Intent,
        actor: &actor,
        action: "audit-erase",
        target: &target,
        detail: &authority,
        intent: None,
    };
    let erases = erasable.iter().map(|record| {
        let (seq, body_digest) = (record.seq, &record.body_digest);
        Event::Erase(EraseEvent { seq, body_digest, authority: &authority, reason: &reason })
    });
    let events: Vec<_> = std::iter::once(Event::Admin(intent)).chain(erases).collect();
    let ids = shared.evidence.conclude(&events).await;
    let ids = ids.map_err(|error| {
        evidence::unavailable(
            &error,
            "nothing was erased so far, and the order may still take effect at the next start",
        )
    })?;
    // The runtime is stopping: whatever was announced is for the next start.
    let overwritten = blocking(move || eraser.overwrite(&wanted, SIGNED_TIMEOUT)).await;
    let overwritten = overwritten.unwrap_or(Err(EraseError::NotSigned));
    let problem = overwritten.as_ref().err().map(ToString::to_string);
    let outcome = AdminEvent {
        phase: if problem.is_none() { Phase::Done } else { Phase::Failed },
        detail: problem.as_deref().unwrap_or(&authority),
        intent: ids.first().copied(),
        ..intent
    };
    let recorded = shared.evidence.conclude_one(&Event::Admin(outcome)).await;
    if let Err(error) = overwritten {
        tracing::error!(%error, "an erasure was not carried out; the next start, or erasing again, does it");
        return Err(refused(&error));
    }
    let id = recorded.map_err(|error| evidence::unavailable(&error, "the bodies are erased"))?;
    let erased = erasable.iter().map(|record| record.seq).collect();
    Ok(Json(Erased { id: Some(id.to_string()), erased, already_erased }).into_response())
}

fn read(bytes: &[u8]) -> Result<(Vec<RecordName>, String, String), ApiError> {
    let mut scratch = json::Scratch::default();
    let (mut records, mut authority, mut reason) = (None, None, None);
    let check = |text: &str| text.parse::<RecordName>().map(drop);
    body::read_object(bytes, &mut scratch, MEMBERS, |reader, name| {
        match name {
            "records" => records = Some(body::names(reader, name, RECORDS_MAX, false, check)?),
            "authority" => authority = Some(body::text(reader, name, WORDS_BYTES_MAX)?),
            "reason" => reason = Some(body::text(reader, name, WORDS_BYTES_MAX)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let (authority, reason) = body::said(authority, reason, MEMBERS)?;
    let records = records.ok_or_else(|| ApiError::invalid(format!("needed are: {MEMBERS}")))?;
    let names = records.iter().filter_map(|record| record.parse().ok()).collect();
    Ok((names, authority.to_owned(), reason.to_owned()))
}

fn refused(error: &EraseError) -> ApiError {
    match error {
        EraseError::Archiving => ApiError::new(ErrorKind::Overloaded, format!("{error}; nothing was erased")),
        EraseError::Damaged { .. }
        | EraseError::Held { .. }
        | EraseError::NotFinished(_)
        | EraseError::NotRedactable { .. }
        | EraseError::Unknown(_) => ApiError::invalid(format!("{error}; nothing was erased")),
        EraseError::Audit(_) => {
            tracing::error!(%error, "cannot erase");
            let description =
                "the log cannot be read or written now; what was under way goes on at the next start";
            ApiError::new(ErrorKind::AuditUnavailable, description)
        }
        EraseError::NotSigned => ApiError::new(ErrorKind::AuditUnavailable, error.to_string()),
    }
}
