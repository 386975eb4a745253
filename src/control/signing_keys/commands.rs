//! What operators ask for, one request each.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::answers::{Changed, Listed};
use super::steps::{self, Done, Words};
use crate::control::actions::{Peer, run};
use crate::control::body;
use crate::control::error::{ApiError, ErrorKind};
use crate::control::state::Shared;
use crate::control::tag_keys::{AUTHORITY_BYTES_MAX, REASON_BYTES_MAX};
use crate::json;
use crate::keys::life::Ring;

const MEMBERS: &str = "authority, reason";

/// `GET /v1/keys`
pub(in crate::control) async fn list(State(shared): State<Arc<Shared>>) -> Result<Response, ApiError> {
    let killed = shared.store.load_killed_keys().await.map_err(|error| {
        tracing::error!(%error, "cannot read which keys were killed");
        ApiError::new(ErrorKind::StoreUnavailable, "the state database cannot be read now")
    })?;
    let now = (shared.keys.now)();
    let mut listed = shared.keys.look(|ring| Listed::new(ring, now)).unwrap_or_default();
    listed.killed = killed.into_iter().map(Into::into).collect();
    Ok(Json(listed).into_response())
}

/// `GET /v1/keys/jwks`
pub(in crate::control) async fn jwks(State(shared): State<Arc<Shared>>) -> Response {
    ([(header::CONTENT_TYPE, "application/jwk-set+json")], (shared.keys.jwks)()).into_response()
}

/// `POST /v1/keys/rotate`
pub(in crate::control) async fn rotate(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, ApiError> {
    nothing(request).await?;
    run(&shared, rotate_now(Arc::clone(&shared), peer)).await
}

/// The Draft that there is takes over, now if it may; without one, one is made.
async fn rotate_now(shared: Arc<Shared>, peer: Peer) -> Result<Response, ApiError> {
    let keys = &shared.keys;
    let _turn = keys.turn().await?;
    let actor = peer.actor();
    let now = (keys.now)();
    let next = keys.own_ring(|ring| {
        let draft = ring.draft()?;
        Some((draft.kid.clone(), draft.wanted, ring.may_activate(&draft.kid, now).is_ok()))
    })?;
    let done = match next {
        Some((kid, _, true)) => steps::activate(&shared, &actor, &kid).await?,
        Some((kid, _, false)) => steps::want(&shared, &actor, &kid).await?,
        None => steps::prepare(&shared, &actor, true).await?,
    };
    answer(&shared, done)
}

/// What is done to one key.
enum Command {
    Activate,
    BackUp(Words),
    Destroy(Words),
    Disable(Words),
    Retire,
}

/// `POST /v1/keys/{kid}/activate`
pub(in crate::control) async fn activate(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    Path(kid): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    nothing(request).await?;
    run(&shared, one(Arc::clone(&shared), peer, kid, Command::Activate)).await
}

/// `POST /v1/keys/{kid}/retire`
pub(in crate::control) async fn retire(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    Path(kid): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    nothing(request).await?;
    run(&shared, one(Arc::clone(&shared), peer, kid, Command::Retire)).await
}

/// `POST /v1/keys/{kid}/disable`
pub(in crate::control) async fn disable(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    Path(kid): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let command = Command::Disable(words(request).await?);
    run(&shared, one(Arc::clone(&shared), peer, kid, command)).await
}

/// `POST /v1/keys/{kid}/backed-up`
pub(in crate::control) async fn back_up(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    Path(kid): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let command = Command::BackUp(words(request).await?);
    run(&shared, one(Arc::clone(&shared), peer, kid, command)).await
}

/// `POST /v1/keys/{kid}/destroy`
pub(in crate::control) async fn destroy(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    Path(kid): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let command = Command::Destroy(words(request).await?);
    run(&shared, one(Arc::clone(&shared), peer, kid, command)).await
}

async fn one(shared: Arc<Shared>, peer: Peer, kid: String, command: Command) -> Result<Response, ApiError> {
    let _turn = shared.keys.turn().await?;
    let actor = peer.actor();
    let done = match &command {
        Command::Activate => steps::activate(&shared, &actor, &kid).await?,
        Command::BackUp(words) => steps::back_up(&shared, &actor, &kid, words).await?,
        Command::Destroy(words) => steps::destroy(&shared, &actor, &kid, words).await?,
        Command::Disable(words) => steps::disable(&shared, &actor, &kid, words).await?,
        Command::Retire => steps::retire(&shared, &actor, &kid).await?,
    };
    answer(&shared, done)
}

fn answer(shared: &Shared, done: Done) -> Result<Response, ApiError> {
    let changed = shared.keys.own_ring(|ring: &Ring| Changed::new(done.id, ring, &done.key))?;
    Ok(Json(changed).into_response())
}

/// A body that says nothing.
async fn nothing(request: Request) -> Result<(), ApiError> {
    let bytes = body::receive_json(request).await?;
    body::read_object(&bytes, &mut json::Scratch::default(), "none", |_, _| Ok(false))
}

/// A body that says who answers for it, and why.
async fn words(request: Request) -> Result<Words, ApiError> {
    let bytes = body::receive_json(request).await?;
    let (mut authority, mut reason) = (None, None);
    body::read_object(&bytes, &mut json::Scratch::default(), MEMBERS, |reader, name| {
        match name {
            "authority" => authority = Some(body::text(reader, name, AUTHORITY_BYTES_MAX)?.to_owned()),
            "reason" => reason = Some(body::text(reader, name, REASON_BYTES_MAX)?.to_owned()),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let (authority, reason) = body::said(authority, reason, MEMBERS)?;
    Ok(Words { authority, reason })
}
