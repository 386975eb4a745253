//! `/v1/revocations`: revoke, disable and enable, one thing or many; list; and how the view stands.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Extension, Query, Request, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::actions::{Peer, with_body};
use super::body;
use super::changing::{self, CHANGES_MAX};
use super::error::{ApiError, ErrorKind, shortened};
use super::revoke::RevokeRequest;
use super::state::Shared;
use crate::cluster::ClusterStatus;
use crate::json;
use crate::revocation::{Effect, TargetKind};
use crate::store::{ListFilter, StoredChange};

/// The longest request for one of many.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// The most rows of one page.
const PAGE_ROWS_MAX: u32 = 1000;

/// One thing as it stands.
#[derive(Serialize)]
pub(super) struct Entry {
    kind: &'static str,
    tenant: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    issuer: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    /// `revoked`, `disabled` or `enabled`.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_until: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forget_at: Option<u64>,
    changed_at: u64,
    reason: String,
    actor: String,
    epoch: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    already: Option<bool>,
}

impl From<StoredChange> for Entry {
    fn from(stored: StoredChange) -> Self {
        let forget_at = (stored.forget_at.0 != u64::MAX).then_some(stored.forget_at.0);
        let (state, issued_until) = match stored.effect {
            Effect::IssuedUntil(second) => ("revoked", Some(second.0)),
            Effect::RefusedUntil(_) => ("revoked", None),
            Effect::Switched(state) => (state.name(), None),
        };
        Self {
            kind: stored.kind.name(),
            tenant: stored.tenant,
            issuer: stored.issuer,
            name: stored.name,
            state,
            issued_until,
            forget_at,
            changed_at: stored.changed_at.0,
            reason: stored.reason,
            actor: stored.actor,
            epoch: stored.epoch,
            already: None,
        }
    }
}

#[derive(Serialize)]
struct ChangedAnswer {
    revocation_epoch: u64,
    revocations: Vec<Entry>,
}

/// `POST /v1/revocations`: one object, or `{"revocations": [{…}, …]}`; all of it or nothing.
pub(super) async fn change(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, ApiError> {
    with_body(shared, peer, request, change_all).await
}

async fn change_all(shared: Arc<Shared>, peer: Peer, bytes: Vec<u8>) -> Result<Response, ApiError> {
    let many = body::one_or_many(&bytes, "revocations", CHANGES_MAX, REQUEST_BYTES_MAX)?;
    let now = (shared.now)();
    let own = shared.issuing.as_ref().map(|issuing| issuing.own);
    let actor = peer.actor();
    let read = |bytes: &[u8]| {
        let mut scratch = json::Scratch::default();
        RevokeRequest::parse(bytes, &mut scratch)?.change(&shared.issuers, own, now, &actor)
    };
    let wanted = match &many {
        None => vec![read(&bytes)?],
        Some(requests) => {
            let numbered = |(index, request): (usize, &String)| {
                read(request.as_bytes()).map_err(|error| {
                    let description =
                        format!("revocations[{index}]: {}; nothing was changed", error.description);
                    ApiError::new(error.kind, description)
                })
            };
            requests.iter().enumerate().map(numbered).collect::<Result<_, _>>()?
        }
    };
    let changing::Changed { epoch, recorded } = changing::change(&shared, wanted).await?;
    let entry = |one: crate::store::Recorded| Entry { already: Some(one.already), ..Entry::from(one.stands) };
    let revocations = recorded.into_iter().map(entry).collect();
    Ok(Json(ChangedAnswer { revocation_epoch: epoch, revocations }).into_response())
}

#[derive(Serialize)]
struct Page {
    revocations: Vec<Entry>,
    /// What `before` must be for the page after this one; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_before: Option<u64>,
}

/// `GET /v1/revocations?kind=&tenant=&issuer=&before=&limit=`: the latest first.
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let mut filter = ListFilter::default();
    let mut limit = 100;
    for (name, value) in parameters {
        match name.as_str() {
            "kind" => {
                let unknown = || ApiError::invalid(format!("kind \"{}\" is unknown", shortened(&value)));
                filter.kind = Some(TargetKind::from_name(&value).ok_or_else(unknown)?);
            }
            "tenant" => filter.tenant = Some(value),
            "issuer" => filter.issuer = Some(value),
            "before" => filter.before = Some(number(&name, &value)?),
            "limit" => limit = number(&name, &value)?,
            _ => {
                let name = shortened(&name);
                let known = "kind, tenant, issuer, before and limit are known";
                return Err(ApiError::invalid(format!("unknown parameter \"{name}\"; {known}")));
            }
        }
    }
    if !(1..=PAGE_ROWS_MAX).contains(&limit) {
        return Err(ApiError::invalid(format!("limit is {limit}; it must be 1 to {PAGE_ROWS_MAX}")));
    }
    let changes = shared.store.list_changes(&filter, (shared.now)(), limit).await.map_err(|error| {
        tracing::error!(%error, "cannot list revocations");
        ApiError::new(ErrorKind::StoreUnavailable, "the state database cannot be read now")
    })?;
    // What was changed together is on one page, so a page may be longer than it was asked to be.
    let full = changes.len() >= limit as usize;
    let next_before = changes.last().filter(|_| full).map(|last| last.epoch);
    let revocations = changes.into_iter().map(Entry::from).collect();
    Ok(Json(Page { revocations, next_before }).into_response())
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<T, ApiError>
where
    T::Err: Display,
{
    value.parse().map_err(|error| {
        ApiError::invalid(format!("{name} \"{}\" is not a usable number: {error}", shortened(value)))
    })
}

#[derive(Serialize)]
struct Standing {
    /// The highest revocation epoch this node's view has.
    epoch: u64,
    /// Entries the view holds.
    entries: usize,
    /// Memory they take.
    bytes: usize,
    /// Milliseconds since the view was known to be complete: 0 where this node is the truth; null where never.
    age_ms: Option<u64>,
    /// How this node and Redis get on; absent on a node on its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    redis: Option<RedisStanding>,
}

#[derive(Serialize)]
struct RedisStanding {
    connected: bool,
    server: String,
    last_id: String,
    dataset: String,
    events: u64,
    rebuilds: u64,
    republished: u64,
    reconnects: u64,
    unsaved: u64,
    last_error: Option<String>,
}

impl From<ClusterStatus> for RedisStanding {
    fn from(status: ClusterStatus) -> Self {
        let ClusterStatus { connected, server, lag: _, last_id, dataset, .. } = status;
        Self {
            connected,
            server,
            last_id,
            dataset,
            events: status.events,
            rebuilds: status.rebuilds,
            republished: status.republished,
            reconnects: status.reconnects,
            unsaved: status.unsaved,
            last_error: status.last_error,
        }
    }
}

/// `GET /v1/revocations/status`
pub(super) async fn status(State(shared): State<Arc<Shared>>) -> Response {
    let view = &shared.view;
    let age = view.freshness().age(Instant::now());
    let age_ms = (age != Duration::MAX).then(|| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    let redis = shared.sharing.as_ref().map(|sharing| sharing.status.read().into());
    let standing = Standing { epoch: view.epoch(), entries: view.len(), bytes: view.bytes(), age_ms, redis };
    Json(standing).into_response()
}
