//! `POST /v1/tokens`: one Agent Task Token, or many that are all issued or none.
//!
//! Order: every request is checked, every INTENT is durable, every token is signed (in the token or in this process, which
//! this code cannot tell apart), every outcome is durable, then the answer. A signature whose outcome is not in the log
//! is not handed out.

use std::sync::Arc;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use edgate_hsm::HsmError;
use serde::Serialize;
use tokio::sync::oneshot;

use super::actions::Peer;
use super::body;
use super::error::{ApiError, ErrorKind};
use super::evidence;
use super::issue::{self, Draft, IssueRequest};
use super::signing_keys::{SignedInput, Signers};
use super::state::{Issuing, Shared};
use super::status_lists;
use crate::audit::{Event, IssueEvent, Phase};
use crate::base64url;
use crate::cluster::ClusterError;
use crate::decision::UnixSeconds;
use crate::json;
use crate::store::{Listed, ListedToken};
use crate::token::{self, EncodeError, Profile, StatusPlace};

/// The most tokens one call issues: each is two durable records and a signature.
const TOKENS_MAX: usize = 64;

/// The longest request for one token of many.
const REQUEST_BYTES_MAX: usize = 32 * 1024;

#[derive(Serialize)]
struct Issued {
    token: String,
    id: String,
    issued_at: u64,
    expires_at: u64,
    kid: String,
}

#[derive(Serialize)]
struct IssuedMany {
    tokens: Vec<Issued>,
}

pub(super) async fn issue(shared: Arc<Shared>, peer: Peer, bytes: Vec<u8>) -> Result<Response, ApiError> {
    let Some(issuing) = &shared.issuing else {
        let description = "this node only verifies: it has no [signing] table, so it issues no tokens";
        return Err(ApiError::new(ErrorKind::NotFound, description));
    };
    match body::one_or_many(&bytes, "tokens", TOKENS_MAX, REQUEST_BYTES_MAX)? {
        None => {
            let mut issued = issue_all(&shared, issuing, peer, &[&bytes], false).await?;
            let issued = issued.pop().expect("one request, one token");
            Ok((StatusCode::CREATED, Json(issued)).into_response())
        }
        Some(requests) => {
            let requests: Vec<&[u8]> = requests.iter().map(String::as_bytes).collect();
            let tokens = issue_all(&shared, issuing, peer, &requests, true).await?;
            Ok((StatusCode::CREATED, Json(IssuedMany { tokens })).into_response())
        }
    }
}

async fn issue_all(
    shared: &Shared,
    issuing: &Issuing,
    peer: Peer,
    requests: &[&[u8]],
    numbered: bool,
) -> Result<Vec<Issued>, ApiError> {
    let at = |index: usize| {
        move |error: ApiError| {
            if !numbered {
                return error;
            }
            ApiError::new(error.kind, format!("tokens[{index}]: {}; no token was issued", error.description))
        }
    };
    let own = &shared.issuers[issuing.own];
    let mut scratches: Vec<json::Scratch> = requests.iter().map(|_| json::Scratch::default()).collect();
    let mut drafts = Vec::with_capacity(requests.len());
    for (index, (request, scratch)) in requests.iter().zip(&mut scratches).enumerate() {
        let request = IssueRequest::parse(request, scratch).map_err(at(index))?;
        let draft = Draft::new(request, &issuing.policy, (shared.now)()).map_err(at(index))?;
        drafts.push((draft, random_jti()?));
    }
    // The same keys from here to the answer: in the header, in the records, for the signature. No other task ran between the time in the
    // tokens and this, so that they are not younger than the end of a key that is replaced meanwhile.
    let expires_at = drafts.iter().map(|(draft, _)| draft.expires_at).max().unwrap_or(UnixSeconds(0));
    let signers = shared.keys.signing(expires_at).ok_or_else(|| nobody_signs("no token was issued"))?;
    let Payloads { signers, headers, payloads, places } =
        payloads(shared, issuing, own, signers, &drafts, at).await?;
    // Which of several signs is known once it has.
    let kids = signers.kids().join(" ");

    let actor = peer.actor();
    let intents: Vec<Event<'_>> = drafts
        .iter()
        .map(|(draft, jti)| {
            Event::Issue(IssueEvent {
                phase: Phase::Intent,
                actor: &actor,
                issuer: &own.name,
                kid: &kids,
                tenant: &own.tenant,
                subject: draft.request.agent_id,
                jti,
                issued_at: draft.issued_at,
                expires: draft.expires_at,
                scope: &draft.request.scope,
                intent: None,
                failure: None,
            })
        })
        .collect();
    let intent_ids = shared
        .evidence
        .record_all(&intents)
        .await
        .map_err(|error| evidence::unavailable(&error, "no token was issued"))?;

    let signed = signers.sign_all(&headers, &payloads, issuing.sign_timeout).await;
    let kid_of = |one: &SignedInput| signers.keys()[one.key].kid.as_str();
    // Of a single key it is known already.
    let unnamed = if signers.keys().len() > 1 { &places[..] } else { &[] };
    let listed = match &signed {
        Ok(signed) => list_all(shared, issuing, own, &drafts, unnamed, signed.iter().map(kid_of)).await,
        Err(_) => Ok(()),
    };
    let outcomes: Vec<Event<'_>> = intents
        .iter()
        .zip(&intent_ids)
        .enumerate()
        .map(|(index, (intent, id))| {
            let Event::Issue(intent) = intent else { unreachable!("made above") };
            let (phase, failure) = match (&signed, &listed) {
                (Ok(_), Ok(())) => (Phase::Done, None),
                (Ok(_), Err(unlisted)) => (Phase::Failed, Some(unlisted.failure)),
                (Err(_), _) => (Phase::Failed, Some("signing_unavailable")),
            };
            let kid = signed.as_ref().map_or(intent.kid, |signed| kid_of(&signed[index]));
            Event::Issue(IssueEvent { phase, failure, kid, intent: Some(*id), ..*intent })
        })
        .collect();
    let recorded = shared.evidence.conclude(&outcomes).await;
    let signed = signed.map_err(|error| signing_unavailable(&error))?;
    listed.map_err(|unlisted| unlisted.error)?;
    // A token whose issue is not in the log is not handed out; it dies here.
    recorded.map_err(|error| evidence::unavailable(&error, "no token was handed out"))?;
    let issued = drafts.into_iter().zip(signed).map(|((draft, jti), signed)| {
        shared.counters.issued.increment();
        Issued {
            issued_at: draft.issued_at.0,
            expires_at: draft.expires_at.0,
            id: jti,
            kid: signers.keys()[signed.key].kid.clone(),
            token: token::assemble(signed.input, &signed.signature),
        }
    });
    Ok(issued.collect())
}

/// What is to be signed of a call's tokens, and by what.
struct Payloads {
    signers: Arc<Signers>,
    // One for each key.
    headers: Vec<String>,
    payloads: Vec<String>,
    // In the status list, if one is published.
    places: Vec<u32>,
}

/// The claims of each token, in their order. What does not fit beside a delegation is signed by the key that delegated, since it is nothing
/// of the client's that makes it too long.
async fn payloads<A: Fn(ApiError) -> ApiError>(
    shared: &Shared,
    issuing: &Issuing,
    own: &Profile,
    mut signers: Arc<Signers>,
    drafts: &[(Draft<'_>, String)],
    at: impl Fn(usize) -> A,
) -> Result<Payloads, ApiError> {
    loop {
        let places = places(shared, issuing, &signers, own, drafts).await?;
        match written(issuing, own, &signers, drafts, &places) {
            Ok((headers, payloads)) => return Ok(Payloads { signers, headers, payloads, places }),
            Err((_, EncodeError::TooLong | EncodeError::Kid)) if signers.are_delegated() => {
                signers = shared.keys.active().ok_or_else(|| nobody_signs("no token was issued"))?;
            }
            Err((index, error)) => return Err(at(index)(issue::encode_error(error))),
        }
    }
}

/// The header of each key, and the claims of each token; or the place of the first that cannot be issued.
fn written(
    issuing: &Issuing,
    own: &Profile,
    signers: &Signers,
    drafts: &[(Draft<'_>, String)],
    places: &[u32],
) -> Result<(Vec<String>, Vec<String>), (usize, EncodeError)> {
    let headers = signers.keys().iter().map(|key| token::header_part(key.signed_by()));
    let headers: Vec<String> = headers.collect::<Result<_, _>>().map_err(|error| (0, error))?;
    let longest = headers.iter().map(String::len).max().unwrap_or(0);
    let payload = |(index, (draft, jti)): (usize, &(Draft<'_>, String))| {
        let listed = issuing.status_list.as_ref().zip(places.get(index));
        let status = listed.map(|(list, idx)| StatusPlace { idx: *idx, uri: &list.uri });
        let claims = draft.claims(&own.issuer, jti, status);
        token::payload_part(longest, &claims).map_err(|error| (index, error))
    };
    let payloads = drafts.iter().enumerate().map(payload).collect::<Result<_, _>>()?;
    Ok((headers, payloads))
}

/// Why tokens that were signed are not handed out.
struct Unlisted {
    /// As it stands in the records.
    failure: &'static str,
    error: ApiError,
}

/// Notes what is to be known of the tokens before anybody holds one of them: which key signed each, in the status list, and that they are
/// on the allow list, here and where nodes share one.
async fn list_all<'k>(
    shared: &Shared,
    issuing: &Issuing,
    own: &Profile,
    drafts: &[(Draft<'_>, String)],
    places: &[u32],
    kids: impl Iterator<Item = &'k str>,
) -> Result<(), Unlisted> {
    if let Some(list) = issuing.status_list.as_ref().filter(|_| !places.is_empty()) {
        let named: Vec<(u32, &str)> = places.iter().copied().zip(kids).collect();
        let list = status_lists::place(list, &own.tenant);
        shared.store.name_status_keys(&list, &named).await.map_err(|error| {
            tracing::error!(%error, "cannot note which key signed a token of the status list");
            let description = "the state database takes no writes now; no token was handed out";
            Unlisted {
                failure: "status_list_unavailable",
                error: ApiError::new(ErrorKind::StoreUnavailable, description),
            }
        })?;
    }
    if !issuing.allow_list {
        return Ok(());
    }
    let allowed = allow_all(shared, own, drafts).await;
    allowed.map_err(|error| Unlisted { failure: "allow_list_unavailable", error })
}

/// Puts the tokens on the allow list, here and where nodes share one, before anybody holds one of them.
async fn allow_all(shared: &Shared, own: &Profile, drafts: &[(Draft<'_>, String)]) -> Result<(), ApiError> {
    let until = |draft: &Draft<'_>| draft.expires_at.saturating_add(own.leeway_s);
    let listed: Vec<Listed<'_>> = drafts
        .iter()
        .map(|(draft, jti)| Listed {
            tenant: &own.tenant,
            issuer: &own.issuer,
            jti,
            expires_at: until(draft),
        })
        .collect();
    // Here first: what Redis loses is given back from the state database.
    shared.store.list_tokens(&listed).await.map_err(|error| {
        tracing::error!(%error, "cannot put a token on the allow list");
        let description = "the state database takes no writes now; no token was handed out";
        ApiError::new(ErrorKind::StoreUnavailable, description)
    })?;
    let Some(sharing) = &shared.sharing else { return Ok(()) };
    let (answer, answered) = oneshot::channel();
    sharing.publisher.list(&listed, move |done| drop(answer.send(done)));
    answered.await.unwrap_or(Err(ClusterError::Stopped)).map_err(|error| {
        tracing::error!(%error, "cannot put a token on the shared allow list");
        let description = "Redis takes no writes now, so the token would pass nowhere; none was handed out";
        ApiError::new(ErrorKind::SharingUnavailable, description)
    })
}

/// A place in the status list for each token, in their order; none where no list is published. A place whose token is not
/// issued after all is free again when the token would have expired.
async fn places(
    shared: &Shared,
    issuing: &Issuing,
    signers: &Signers,
    own: &Profile,
    drafts: &[(Draft<'_>, String)],
) -> Result<Vec<u32>, ApiError> {
    let Some(list) = &issuing.status_list else { return Ok(Vec::new()) };
    let listed = |(draft, jti): &(Draft<'_>, String)| ListedToken {
        issuer: own.issuer.clone(),
        // Of several keys the one that signs is named once it has.
        kid: signers.keys()[0].kid.clone(),
        certified_by: signers.keys()[0].certified_by.clone(),
        jti: jti.clone(),
        subject: draft.request.agent_id.to_owned(),
        issued_at: draft.issued_at,
        forget_at: draft.expires_at.saturating_add(own.leeway_s),
    };
    let tokens: Vec<ListedToken> = drafts.iter().map(listed).collect();
    let place = status_lists::place(list, &own.tenant);
    match shared.store.assign_status_indexes(&place, &tokens).await {
        Ok(Some(places)) => Ok(places),
        Ok(None) => Err(ApiError::new(
            ErrorKind::Overloaded,
            "the status list has no place left; no token was issued (signing.status_list_capacity)",
        )),
        Err(error) => {
            tracing::error!(%error, "cannot give tokens places in the status list");
            let description = "the state database takes no writes now; no token was issued";
            Err(ApiError::new(ErrorKind::StoreUnavailable, description))
        }
    }
}

/// What a client is told where there is no key to sign with.
pub(super) fn nobody_signs(consequence: &str) -> ApiError {
    let description = format!(
        "no signing key can be used: the last one was disabled, killed or lost, and an operator has to rotate; {consequence}"
    );
    ApiError::new(ErrorKind::SigningUnavailable, description)
}

/// What a client is told: that verification is not concerned, and when to come again. The cause is the operator's.
fn signing_unavailable(error: &HsmError) -> ApiError {
    tracing::error!(%error, "cannot sign a token");
    match error {
        HsmError::Overloaded { .. } => ApiError::new(
            ErrorKind::Overloaded,
            "more tokens are waiting for the signing key than may wait; no token was issued",
        ),
        _ => ApiError::new(
            ErrorKind::SigningUnavailable,
            "the signing key cannot be used now; no token was issued, and verification is not affected",
        ),
    }
}

/// 128 random bits: nobody guesses it, and no two tokens share it.
fn random_jti() -> Result<String, ApiError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, "the system gives no random bytes");
        ApiError::new(ErrorKind::SigningUnavailable, "the system gives no random bytes; no token was issued")
    })?;
    Ok(base64url::encode(&bytes))
}
