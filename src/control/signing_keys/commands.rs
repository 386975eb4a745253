//! What operators ask for, one request each.

use std::sync::Arc;

use axum::extract::{Extension, Path, Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use axum::{Json, Router};

use super::answers::{Changed, Listed, NotChanged};
use super::steps::{self, Done};
use crate::control::actions::{Peer, run};
use crate::control::body::{self, Words};
use crate::control::error::{ApiError, ErrorKind};
use crate::control::state::Shared;
use crate::control::tag_keys::{AUTHORITY_BYTES_MAX, REASON_BYTES_MAX};
use crate::json;
use crate::keys::KID_BYTES_MAX;
use crate::keys::life::{Refusal, Rings};

/// `GET /v1/keys`
pub(in crate::control) async fn list(State(shared): State<Arc<Shared>>) -> Result<Response, ApiError> {
    let killed = shared.store.load_killed_keys().await.map_err(|error| {
        tracing::error!(%error, "cannot read which keys were killed");
        ApiError::new(ErrorKind::StoreUnavailable, "the state database cannot be read now")
    })?;
    let mut listed = Listed::new(&shared.keys);
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
    let bytes = body::receive_json(request).await?;
    let (mut scratch, mut beside) = (json::Scratch::default(), None);
    body::read_object(&bytes, &mut scratch, "beside", |reader, name| {
        match name {
            "beside" => beside = Some(body::any_text(reader, name, KID_BYTES_MAX)?.to_owned()),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    run(&shared, rotate_now(Arc::clone(&shared), peer, beside)).await
}

/// The Draft that there is takes over, now if it may; without one, one is made. Where there are several rings, in the one that has the
/// key `beside`, or in each that has a key which signs or is to; what fails in one keeps no other waiting.
async fn rotate_now(shared: Arc<Shared>, peer: Peer, beside: Option<String>) -> Result<Response, ApiError> {
    let keys = &shared.keys;
    let _turn = keys.turn().await?;
    let actor = peer.actor();
    let places = keys.own_rings(|rings| which(rings, beside.as_deref()))??;
    let (mut changed, mut failed) = (Vec::with_capacity(places.len()), Vec::new());
    for place in places {
        match rotate_one(&shared, &actor, place).await {
            Ok(done) => {
                changed.push(keys.own_rings(|rings| Changed::new(done.id, rings.at(place), &done.key))?);
            }
            Err(error) => failed.push((place, error)),
        }
    }
    if changed.is_empty() {
        let all: Vec<&str> = failed.iter().map(|(_, error)| error.description.as_str()).collect();
        let description = all.join("; and ");
        let Some((_, error)) = failed.pop() else {
            return Err(ApiError::invalid("this node has no signing keys"));
        };
        return Err(ApiError { description, ..error });
    }
    let failed = keys.own_rings(|rings| {
        let told = |(place, error): (usize, ApiError)| {
            let ring = rings.at(place);
            let key = ring.active().or(ring.keys().last());
            NotChanged::new(key.map(|key| key.kid.clone()).unwrap_or_default(), error.description)
        };
        failed.into_iter().map(told).collect()
    })?;
    let mut changed = changed.into_iter();
    let first = changed.next().expect("one was changed at least");
    Ok(Json(first.with(changed.collect(), failed)).into_response())
}

/// The places of the rings that are meant.
fn which(rings: &Rings, beside: Option<&str>) -> Result<Vec<usize>, Refusal> {
    if let Some(kid) = beside {
        return Ok(vec![rings.of(kid)?]);
    }
    let all = 0..rings.len();
    let lives = |place: &usize| rings.at(*place).active().is_some() || rings.at(*place).draft().is_some();
    // One whose key was disabled or killed is left as it is while others sign: an operator says when it comes back.
    let living: Vec<usize> = all.clone().filter(lives).collect();
    Ok(if living.is_empty() { all.collect() } else { living })
}

async fn rotate_one(shared: &Arc<Shared>, actor: &str, place: usize) -> Result<Done, ApiError> {
    let keys = &shared.keys;
    let now = (keys.now)();
    let next = keys.own_rings(|rings| {
        let ring = rings.at(place);
        let draft = ring.draft()?;
        Some((draft.kid.clone(), ring.may_activate(&draft.kid, now).is_ok()))
    })?;
    match next {
        Some((kid, true)) => steps::activate(shared, actor, &kid).await,
        Some((kid, false)) => steps::want(shared, actor, &kid).await,
        None => steps::prepare(shared, actor, place, true).await,
    }
}

/// What is done to one key.
enum Command {
    Activate,
    BackUp(Words),
    Destroy(Words),
    Disable(Words),
    Retire,
}

/// `POST /v1/keys/{kid}/…`
pub(in crate::control) fn to_one_key() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/keys/{kid}/activate", command(|body| body::nothing(body).map(|()| Command::Activate)))
        .route("/v1/keys/{kid}/backed-up", command(|body| words(body).map(Command::BackUp)))
        .route("/v1/keys/{kid}/destroy", command(|body| words(body).map(Command::Destroy)))
        .route("/v1/keys/{kid}/disable", command(|body| words(body).map(Command::Disable)))
        .route("/v1/keys/{kid}/retire", command(|body| body::nothing(body).map(|()| Command::Retire)))
}

/// What does the command that `read` makes of the body.
fn command(read: fn(&[u8]) -> Result<Command, ApiError>) -> MethodRouter<Arc<Shared>> {
    let handle = move |State(shared): State<Arc<Shared>>,
                       Extension(peer): Extension<Peer>,
                       Path(kid): Path<String>,
                       request: Request| async move {
        let command = read(&body::receive_json(request).await?)?;
        run(&shared, one(Arc::clone(&shared), peer, kid, command)).await
    };
    post(handle)
}

fn words(body: &[u8]) -> Result<Words, ApiError> {
    body::words(body, AUTHORITY_BYTES_MAX, REASON_BYTES_MAX)
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
    let kid = done.key.kid.clone();
    let changed = shared.keys.own_ring(&kid, |ring| Changed::new(done.id, ring, &done.key))?;
    Ok(Json(changed).into_response())
}
