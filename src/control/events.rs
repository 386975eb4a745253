//! `POST /events/set`: Security Event Tokens, pushed (RFC 8935).
//!
//! The token is the transmitter's only credential: who may reach the listener is the listener's question, and who signed
//! is the token's. Its body is of a type that no page of another site can send without asking first.
//!
//! Order: the token is read whole and believed whole or not at all, what it changes goes through
//! [`change`](super::changing::change), its name is remembered, then it is acknowledged. If that ends half-way the
//! transmitter sends it again, and what it changes is the same then. A token that was accepted is acknowledged again
//! without a second effect.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::actions::run;
use super::body;
use super::changing;
use super::error::{ApiError, ErrorKind, shortened};
use super::revoke::{Action, RevokeRequest, life_end};
use super::state::{Hearing, Shared};
use crate::decision::UnixSeconds;
use crate::revocation::TargetKind;
use crate::secevent::{Effect, Received, Receiver, SetError, Statement, Target};
use crate::store::{StoreError, StoredChange, StoredEvent};
use crate::token::Profile;

/// RFC 8417 §7.2.
const MEDIA_TYPE: &str = "application/secevent+jwt";

/// [`Hearing`] as the handlers share it.
pub(super) struct Events {
    /// Held for one token, never across an await.
    receiver: Mutex<Receiver>,
    issuers: Vec<usize>,
    /// Held from looking a token up until it is remembered, so that one that comes twice at once has one effect.
    turn: tokio::sync::Mutex<()>,
}

impl Events {
    pub(super) fn new(hearing: Hearing) -> Self {
        let Hearing { receiver, issuers } = hearing;
        assert_eq!(receiver.transmitters().len(), issuers.len(), "each transmitter speaks of one issuer");
        Self { receiver: Mutex::new(receiver), issuers, turn: tokio::sync::Mutex::new(()) }
    }

    fn read(&self, text: &[u8], now: UnixSeconds) -> Result<Heard, SetError> {
        let mut receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        let received = receiver.read(text, now)?;
        let transmitter = &receiver.transmitters()[received.transmitter];
        let (name, issuer) = (transmitter.name.clone(), transmitter.issuer.clone());
        Ok(Heard { profile: self.issuers[received.transmitter], received, name, issuer })
    }
}

/// A token, and who sent it.
struct Heard {
    received: Received,
    name: String,
    issuer: String,
    /// Index of the issuer whose tokens it speaks of.
    profile: usize,
}

#[derive(Serialize)]
struct Refusal<'a> {
    err: &'a str,
    description: &'a str,
}

/// `POST /events/set`: 202 once what it says is durable, 400 as RFC 8935 §2.4 has it.
pub(super) async fn receive(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, ApiError> {
    if shared.events.is_none() {
        let description = "nobody may push events here: there is no [[revocation.transmitters]]";
        return Err(ApiError::new(ErrorKind::NotFound, description));
    }
    if let Err(error) = body::check_media_type(request.headers(), MEDIA_TYPE) {
        return Ok(refusal("invalid_request", &error.description));
    }
    let bytes = body::receive(request.into_body()).await?;
    run(&shared, hear(Arc::clone(&shared), bytes)).await
}

async fn hear(shared: Arc<Shared>, bytes: Vec<u8>) -> Result<Response, ApiError> {
    let Some(events) = &shared.events else { unreachable!("checked before the body was taken") };
    let now = (shared.now)();
    let heard = match events.read(&bytes, now) {
        Ok(heard) => heard,
        Err(error) => return Ok(refusal(error.code(), &error.to_string())),
    };
    let profile = &shared.issuers[heard.profile];
    let event = heard.to_remember(profile);
    let _turn = events.turn.lock().await;
    if shared.store.knows_event(&event).await.map_err(|error| unavailable(&error))? {
        return Ok(StatusCode::ACCEPTED.into_response());
    }
    // Events may overtake each other; what an older one switches has been switched again since.
    let outdated = shared.store.is_outdated(&event).await.map_err(|error| unavailable(&error))?
        || (heard.enables()
            && shared
                .store
                .is_overtaken(&event, &profile.issuer)
                .await
                .map_err(|error| unavailable(&error))?);
    let wanted = match heard.changes(profile, &shared.issuers, outdated, now) {
        Ok(wanted) => wanted,
        Err(error) => return Ok(refusal("invalid_request", &error.description)),
    };
    let changed = wanted.len();
    if !wanted.is_empty() {
        changing::change(&shared, wanted).await?;
    }
    shared.store.remember_event(&event).await.map_err(|error| unavailable(&error))?;
    let (transmitter, ignored) = (&heard.name, &heard.received.ignored);
    tracing::info!(transmitter, changed, outdated, ?ignored, "security event token accepted");
    Ok(StatusCode::ACCEPTED.into_response())
}

impl Heard {
    /// Whether it lets somebody pass again.
    fn enables(&self) -> bool {
        self.received.statements.iter().any(|statement| statement.effect == Effect::Enabled)
    }

    fn to_remember(&self, profile: &Profile) -> StoredEvent {
        let switched = self.received.statements.iter().find_map(|statement| match &statement.target {
            Target::Subject(name) if statement.is_switch() => Some((name.clone(), statement.at)),
            _ => None,
        });
        StoredEvent {
            tenant: profile.tenant.clone(),
            transmitter: self.issuer.clone(),
            jti: self.received.jti.clone(),
            switched,
            forget_at: self.received.forget_at,
        }
    }

    /// What the token changes, all of it checked like any other revocation.
    fn changes(
        &self,
        profile: &Profile,
        issuers: &[Profile],
        outdated: bool,
        now: UnixSeconds,
    ) -> Result<Vec<StoredChange>, ApiError> {
        let actor = format!("set:{}", self.name);
        let mut wanted = Vec::with_capacity(self.received.statements.len());
        for statement in &self.received.statements {
            let reason = format!("{}, SET {}", statement.event, shortened(&self.received.jti));
            let (kind, name) = match &statement.target {
                Target::Session(name) => (TargetKind::Session, name),
                Target::Subject(name) => (TargetKind::Subject, name),
                Target::Token(name) => (TargetKind::Token, name),
            };
            let action = match statement.effect {
                Effect::Ended => Action::Revoke,
                Effect::Disabled => Action::Disable,
                Effect::Enabled => Action::Enable,
            };
            if statement.is_switch() && outdated {
                continue;
            }
            // What was issued by then has expired: there is nothing left to refuse.
            if kind != TargetKind::Token && action == Action::Revoke && life_end(profile, statement.at) <= now
            {
                continue;
            }
            let marked = kind != TargetKind::Token && action == Action::Revoke;
            // The transmitter's clock may be further ahead than an issuer's may.
            let issued_until = marked.then(|| statement.at.min(now.saturating_add(profile.leeway_s)));
            let request = RevokeRequest {
                kind: Some(kind),
                name: Some(name),
                action,
                issuer: Some(&profile.issuer),
                tenant: Some(&profile.tenant),
                reason: &reason,
                expires_at: None,
                issued_until,
            };
            let change = request.change(issuers, None, now, &actor).map_err(|error| {
                let description = format!("event {}: {}", statement.event, error.description);
                ApiError::new(error.kind, description)
            })?;
            wanted.push(change);
        }
        Ok(wanted)
    }
}

impl Statement {
    fn is_switch(&self) -> bool {
        self.effect != Effect::Ended
    }
}

fn refusal(code: &str, description: &str) -> Response {
    (StatusCode::BAD_REQUEST, Json(Refusal { err: code, description })).into_response()
}

fn unavailable(error: &StoreError) -> ApiError {
    tracing::error!(%error, "cannot look up or remember a security event token");
    let description = "the state database cannot be used now; send the event again";
    ApiError::new(ErrorKind::StoreUnavailable, description)
}
