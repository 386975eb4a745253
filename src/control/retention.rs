//! Legal holds and retirement by an operator: `POST /v1/audit/holds`, `/v1/audit/holds/{name}/release`, `/v1/audit/retire`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{self, Extension, Request, State};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::actions::{Peer, blocking, run, with_body};
use super::body::{self, Words};
use super::error::{ApiError, ErrorKind};
use super::evidence;
use super::state::Shared;
use crate::audit::hold::{
    ACTION_HOLD, ACTION_RELEASE, Hold, HoldError, Holds, NAME_BYTES_MAX, WORDS_BYTES_MAX,
};
use crate::audit::retire::Turn;
use crate::audit::{AdminEvent, Event, Phase, hex};
use crate::json;

/// What an operator orders to be retired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetireOrder {
    /// Segments all of whose records were made before this time, in nanoseconds since 1970.
    pub before_ns: u64,
    /// Who answers for it.
    pub authority: String,
    /// Why.
    pub reason: String,
}

/// Retires a few segments; blocks. The error is in words.
pub type Retire = Arc<dyn Fn(RetireOrder) -> Result<Turn, String> + Send + Sync>;

/// Held by whoever places a hold, retires, erases or destroys a key: none of them may come between the steps of another.
pub type Custody = Arc<Mutex<()>>;

/// How long it is waited for: a turn of retirement archives a few segments and waits for a checkpoint.
const CUSTODY_TIMEOUT: Duration = Duration::from_secs(10);

const HOLD_MEMBERS: &str = "name, from_ns, to_ns, authority, reason";

const RETIRE_MEMBERS: &str = "before_ns, authority, reason";

/// Places a hold; answers once it is in force and on record.
pub(super) async fn hold(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, ApiError> {
    with_body(shared, peer, request, place).await
}

/// Releases a hold; answers once that is on record and no longer in force.
pub(super) async fn release(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    extract::Path(name): extract::Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let bytes = body::receive_json(request).await?;
    run(&shared, end(Arc::clone(&shared), peer, name, bytes)).await
}

/// Retires a few segments; answers with what left, and whether there is more to do.
pub(super) async fn retire(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, ApiError> {
    with_body(shared, peer, request, retire_some).await
}

/// Waits until nobody else places a hold, retires or erases, and keeps them out.
pub(super) async fn custody(shared: &Shared) -> Result<OwnedMutexGuard<()>, ApiError> {
    tokio::time::timeout(CUSTODY_TIMEOUT, Arc::clone(&shared.custody).lock_owned()).await.map_err(|_| {
        let description =
            "segments are being retired, or records erased; nothing was changed, try again later";
        ApiError::new(ErrorKind::Overloaded, description)
    })
}

async fn place(shared: Arc<Shared>, peer: Peer, bytes: Vec<u8>) -> Result<Response, ApiError> {
    let mut scratch = json::Scratch::default();
    let (mut name, mut from_ns, mut to_ns, mut authority, mut reason) = (None, None, None, None, None);
    body::read_object(&bytes, &mut scratch, HOLD_MEMBERS, |reader, member| {
        match member {
            "name" => name = Some(body::text(reader, member, NAME_BYTES_MAX)?.to_owned()),
            "from_ns" => from_ns = Some(body::count(reader, member)?),
            "to_ns" => to_ns = Some(body::count(reader, member)?),
            "authority" => authority = Some(body::text(reader, member, WORDS_BYTES_MAX)?.to_owned()),
            "reason" => reason = Some(body::text(reader, member, WORDS_BYTES_MAX)?.to_owned()),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let (Some(name), Some(from_ns), Some(authority), Some(reason)) = (name, from_ns, authority, reason)
    else {
        return Err(ApiError::invalid(format!("needed are: {HOLD_MEMBERS} (to_ns may be left out)")));
    };
    let hold = Hold { name, from_ns, to_ns: to_ns.unwrap_or(u64::MAX), authority, reason };
    let _custody = custody(&shared).await?;
    // In force before it is on record: a crash in between keeps too much.
    let (dir, placed) = (shared.own_log.dir.clone(), hold.clone());
    change(move || {
        let mut holds = Holds::load(&dir)?;
        holds.place(placed)?;
        store(&holds, &dir)
    })
    .await?;
    let (actor, detail) = (peer.actor(), hold.detail());
    let event = AdminEvent {
        phase: Phase::Done,
        actor: &actor,
        action: ACTION_HOLD,
        target: &hold.name,
        detail: &detail,
        intent: None,
    };
    let id = shared.evidence.conclude_one(&Event::Admin(event)).await.map_err(|error| {
        evidence::unavailable(&error, "the hold is in force; place it again, so that it is on record")
    })?;
    Ok(Json(json!({"id": id.to_string(), "name": hold.name})).into_response())
}

async fn end(shared: Arc<Shared>, peer: Peer, name: String, bytes: Vec<u8>) -> Result<Response, ApiError> {
    let Words { authority, reason } = body::words(&bytes, WORDS_BYTES_MAX, WORDS_BYTES_MAX)?;
    let _custody = custody(&shared).await?;
    let (dir, named) = (shared.own_log.dir.clone(), name.clone());
    let holds = change(move || {
        let mut holds = Holds::load(&dir)?;
        holds.release(&named)?;
        Ok(holds)
    })
    .await?;
    let (actor, detail) = (peer.actor(), json!({"authority": authority, "reason": reason}).to_string());
    let event = AdminEvent {
        phase: Phase::Done,
        actor: &actor,
        action: ACTION_RELEASE,
        target: &name,
        detail: &detail,
        intent: None,
    };
    let id = shared
        .evidence
        .conclude_one(&Event::Admin(event))
        .await
        .map_err(|error| evidence::unavailable(&error, "the hold stays in force: release it again"))?;
    // On record before it ends: a crash in between keeps too much.
    let (dir, named) = (shared.own_log.dir.clone(), name.clone());
    change(move || {
        Holds::release_aside(&dir, &named)?;
        store(&holds, &dir)
    })
    .await?;
    Ok(Json(json!({"id": id.to_string(), "name": name})).into_response())
}

async fn retire_some(shared: Arc<Shared>, peer: Peer, bytes: Vec<u8>) -> Result<Response, ApiError> {
    let mut scratch = json::Scratch::default();
    let (mut before_ns, mut authority, mut reason) = (None, None, None);
    body::read_object(&bytes, &mut scratch, RETIRE_MEMBERS, |reader, member| {
        match member {
            "before_ns" => before_ns = Some(body::count(reader, member)?),
            "authority" => authority = Some(body::text(reader, member, WORDS_BYTES_MAX)?.to_owned()),
            "reason" => reason = Some(body::text(reader, member, WORDS_BYTES_MAX)?.to_owned()),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let (authority, reason) = body::said(authority, reason, RETIRE_MEMBERS)?;
    let before_ns = before_ns.ok_or_else(|| ApiError::invalid(format!("needed are: {RETIRE_MEMBERS}")))?;
    let order = RetireOrder { before_ns, authority, reason };
    let retire = shared.retire.clone().ok_or_else(|| {
        let why = "nothing is retired here: audit.retention.destination names no folder for the archives";
        ApiError::new(ErrorKind::Conflict, why)
    })?;
    let (actor, target) = (peer.actor(), format!("segments before {before_ns}"));
    let detail = json!({"authority": order.authority, "reason": order.reason}).to_string();
    let intent = AdminEvent {
        phase: Phase::Intent,
        actor: &actor,
        action: "audit-retire",
        target: &target,
        detail: &detail,
        intent: None,
    };
    // RETIRE records say what left; who ordered it, and what came of it, say these.
    let asked = shared.evidence.conclude_one(&Event::Admin(intent)).await;
    let asked = asked.map_err(|error| evidence::unavailable(&error, "nothing was retired"))?;
    let done =
        blocking(move || retire(order)).await.unwrap_or_else(|_| Err("the node is stopping".to_owned()));
    let came_of_it = match &done {
        Ok(turn) => told(turn),
        Err(problem) => problem.clone(),
    };
    let phase = if done.is_ok() { Phase::Done } else { Phase::Failed };
    let outcome = AdminEvent { phase, detail: &came_of_it, intent: Some(asked), ..intent };
    let recorded = shared.evidence.conclude_one(&Event::Admin(outcome)).await;
    let turn = done.map_err(|problem| ApiError::new(ErrorKind::Conflict, problem))?;
    recorded.map_err(|error| evidence::unavailable(&error, "what was retired has RETIRE records"))?;
    let retired: Vec<_> = turn
        .retired
        .iter()
        .map(|one| {
            json!({
                "segment": one.segment, "records": one.records, "segment_bytes": one.segment_bytes,
                "archive_bytes": one.archive_bytes, "archive_sha256": hex(&one.digest),
            })
        })
        .collect();
    let kept = turn.kept.map(|(segment, why)| json!({"segment": segment, "why": why.to_string()}));
    Ok(Json(json!({"retired": retired, "more": turn.more, "kept": kept})).into_response())
}

/// What a turn came to, in words for the record.
fn told(turn: &Turn) -> String {
    let segments: Vec<_> = turn.retired.iter().map(|one| one.segment.to_string()).collect();
    let retired =
        if segments.is_empty() { "none".to_owned() } else { format!("segments {}", segments.join(", ")) };
    match &turn.kept {
        Some((segment, why)) => format!("retired: {retired}; segment {segment} stays: {why}"),
        None => format!("retired: {retired}"),
    }
}

/// Does something with the file of holds, away from the listener's thread.
async fn change<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, HoldError> + Send + 'static,
) -> Result<T, ApiError> {
    blocking(act).await?.map_err(|error| match error {
        HoldError::Invalid(_) => ApiError::invalid(error.to_string()),
        HoldError::File(_) => ApiError::new(ErrorKind::AuditUnavailable, error.to_string()),
        HoldError::Exists(_) | HoldError::Missing(_) | HoldError::TooMany | HoldError::Unknown(_) => {
            ApiError::new(ErrorKind::Conflict, error.to_string())
        }
    })
}

fn store(holds: &Holds, dir: &Path) -> Result<(), HoldError> {
    Ok(holds.store(dir)?)
}
