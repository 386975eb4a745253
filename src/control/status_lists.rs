//! `GET /v1/status-lists/{id}`: how the tokens that this node issued stand, as a Token Status List.
//!
//! A token gets its place when it is issued (`issuing`). The list says of each what the view says: everything that would have
//! it refused counts, its subject or key as well as its own id. It is made anew when what is revoked has changed or tokens were
//! issued, at most once a second, and when half of its `ttl` is over; signed like a token, by the same key. If it cannot be made,
//! the one before is served for as long as it is valid.
//!
//! Anybody may read it: it names no token, and a place says nothing by itself. It is served here for now; the data listener, or a
//! cache in front of this one, is where others should fetch it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};

use super::error::{ApiError, ErrorKind, shortened};
use super::issuing;
use super::signing_keys::SignedInput;
use super::state::{Issuing, Shared};
use crate::base64url;
use crate::decision::UnixSeconds;
use crate::etag;
use crate::revocation::{self, Identity, View};
use crate::status_list::{Bits, Document, Status, StatusList};
use crate::store::{ListedToken, StatusListPlace, StoreError};
use crate::token;

/// How long a list may be kept by whoever fetched it, in seconds: the age of what is revoked, for those who go by it.
const TTL_S: u64 = 30;

/// How long a list is valid, in seconds: a cache in front of us may miss us for so long.
pub const STATUS_LIST_LIFE_S: u64 = 600;

/// The least time between two lists.
const REBUILD_INTERVAL: Duration = Duration::from_secs(1);

const MEDIA_TYPE: &str = "application/statuslist+jwt";

/// The list that this node publishes.
#[derive(Debug, Clone)]
pub struct StatusListPolicy {
    /// Where others fetch it: `uri` in tokens, `sub` in the list.
    pub uri: String,
    /// How many tokens it has places for.
    pub capacity: u32,
}

impl StatusListPolicy {
    /// What the path ends with: the last segment of the uri.
    fn id(&self) -> &str {
        self.uri.rsplit('/').next().unwrap_or("")
    }
}

/// The list as it was made last. Held while the next one is made, so that one is made at a time.
pub(super) type Published = tokio::sync::Mutex<Option<Made>>;

/// A list ready to be served.
pub(super) struct Made {
    token: Bytes,
    etag: String,
    // Whose signature it has.
    kid: String,
    made_at: Instant,
    issued_at: UnixSeconds,
    epoch: u64,
    issued: u64,
}

/// `GET /v1/status-lists/{id}`
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let issuing = shared.issuing.as_ref();
    let Some((issuing, policy)) = issuing.and_then(|one| Some((one, one.status_list.as_ref()?))) else {
        let description =
            "this node publishes no status list: signing.status_list_uri says where one would be";
        return Err(ApiError::new(ErrorKind::NotFound, description));
    };
    if id != policy.id() {
        let description =
            format!("there is no list \"{}\"; this node has \"{}\"", shortened(&id), policy.id());
        return Err(ApiError::new(ErrorKind::NotFound, description));
    }
    let mut published = shared.published.lock().await;
    if !published.as_ref().is_some_and(|made| made.is_current(&shared)) {
        match make(&shared, issuing, policy).await {
            Ok(made) => *published = Some(made),
            Err(error) if published.as_ref().is_none_or(|made| !made.is_valid(&shared)) => {
                return Err(error);
            }
            // It was logged; the list before says when it was made.
            Err(_) => {}
        }
    }
    let made = published.as_ref().expect("made, or kept, just now");
    let left_s = TTL_S.saturating_sub((shared.now)().since(made.issued_at));
    let cache = format!("public, max-age={left_s}");
    let head = [(header::ETAG, made.etag.clone()), (header::CACHE_CONTROL, cache)];
    let known =
        headers.get_all(header::IF_NONE_MATCH).iter().any(|value| etag::names(value.as_bytes(), &made.etag));
    if known {
        return Ok((StatusCode::NOT_MODIFIED, head).into_response());
    }
    Ok((head, [(header::CONTENT_TYPE, MEDIA_TYPE)], made.token.clone()).into_response())
}

impl Made {
    fn is_current(&self, shared: &Shared) -> bool {
        let unchanged = self.epoch == shared.view.epoch() && self.issued == shared.counters.issued.total();
        let young = (shared.now)().since(self.issued_at) < TTL_S / 2;
        let recent = self.made_at.elapsed() < REBUILD_INTERVAL && self.is_valid(shared);
        let signs = shared.keys.active().is_some_and(|signers| signers.kids().contains(&self.kid.as_str()));
        signs && (recent || unchanged && young)
    }

    /// Whether anybody would still believe it.
    fn is_valid(&self, shared: &Shared) -> bool {
        (shared.now)().since(self.issued_at) < STATUS_LIST_LIFE_S && shared.keys.verifies(&self.kid)
    }
}

async fn make(shared: &Shared, issuing: &Issuing, policy: &StatusListPolicy) -> Result<Made, ApiError> {
    let own = &shared.issuers[issuing.own];
    // Read before the list is: what changes meanwhile makes the next one.
    let (epoch, issued) = (shared.view.epoch(), shared.counters.issued.total());
    let (now, made_at) = ((shared.now)(), Instant::now());
    // Two bits: revoked, and disabled for the time being, are different things to whoever reads it.
    let mut list = StatusList::new(Bits::Two, policy.capacity).map_err(|error| unmakeable(&error))?;
    let place = place(policy, &own.tenant);
    let mark = |index: u32, token: &ListedToken| {
        let status = standing(&shared.view, &own.tenant, token, now);
        // A place beyond the capacity is one from before it was made smaller; whoever asks gets no answer.
        let _ = list.set(u64::from(index), status);
    };
    shared.store.load_status_indexes(&place, now, mark).await.map_err(|error| unavailable(&error))?;
    let document = Document {
        uri: policy.uri.clone(),
        issuer: Some(own.issuer.clone()),
        issued_at: now,
        expires_at: Some(now.saturating_add(STATUS_LIST_LIFE_S)),
        ttl_s: Some(TTL_S),
        list,
    };
    let signing = shared.keys.active();
    let signing = signing.ok_or_else(|| issuing::nobody_signs("there is no fresh status list"))?;
    let headers: Result<Vec<String>, _> =
        signing.keys().iter().map(|key| Document::header_part(&key.kid)).collect();
    let headers = headers.map_err(|error| unmakeable(&error))?;
    // Compressing a long list takes tens of milliseconds.
    let payload = tokio::task::spawn_blocking(move || document.payload_part()).await;
    let payload = payload
        .map_err(|_| ApiError::new(ErrorKind::Overloaded, "the node is stopping"))?
        .map_err(|error| unmakeable(&error))?;
    let signed = signing.sign_all(&headers, &[payload], issuing.sign_timeout).await;
    let mut signed = signed.map_err(|error| {
        tracing::error!(%error, "cannot sign the status list");
        let description = "the signing key cannot be used now, so there is no fresh status list";
        ApiError::new(ErrorKind::SigningUnavailable, description)
    })?;
    let SignedInput { key, input, signature } = signed.remove(0);
    let token = token::assemble(input, &signature);
    let etag = format!("\"{}\"", base64url::encode(&Sha256::digest(token.as_bytes())[..16]));
    Ok(Made {
        token: Bytes::from(token),
        etag,
        kid: signing.keys()[key].kid.clone(),
        made_at,
        issued_at: now,
        epoch,
        issued,
    })
}

fn standing(view: &View, tenant: &str, token: &ListedToken, now: UnixSeconds) -> Status {
    let identity = Identity {
        tenant,
        issuer: &token.issuer,
        kid: &token.kid,
        certified_by: token.certified_by.as_deref(),
        jti: Some(&token.jti),
        subject: Some(&token.subject),
        session: None,
        issued_at: Some(token.issued_at),
    };
    match view.check(&identity, now) {
        revocation::Status::Clear => Status::VALID,
        revocation::Status::Disabled => Status::SUSPENDED,
        revocation::Status::Revoked => Status::INVALID,
    }
}

/// The list as the store knows it.
pub(super) fn place<'a>(policy: &'a StatusListPolicy, tenant: &'a str) -> StatusListPlace<'a> {
    StatusListPlace { tenant, uri: &policy.uri, capacity: policy.capacity }
}

fn unmakeable(error: &dyn std::error::Error) -> ApiError {
    tracing::error!(%error, "cannot make the status list");
    ApiError::new(ErrorKind::StoreUnavailable, "the status list cannot be made now")
}

fn unavailable(error: &StoreError) -> ApiError {
    tracing::error!(%error, "cannot read the places of tokens in the status list");
    ApiError::new(ErrorKind::StoreUnavailable, "the state database cannot be read now")
}
