//! `POST /v1/tokens`: one Agent Task Token, or many that are all issued or none.
//!
//! Order: every request is checked, every INTENT is durable, every token is signed (in the token or in this process, which
//! this code cannot tell apart), every outcome is durable, then the answer. A signature whose outcome is not in the log
//! is not handed out.

use std::sync::Arc;
use std::time::Instant;

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
use super::signing_keys::ActiveKey;
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

/// The most signatures by a key in memory that are made on the control plane's own thread, at some tens of microseconds each.
const INLINE_MAX: usize = 4;

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

/// A token that waits for its signature.
struct Unsigned<'a> {
    draft: Draft<'a>,
    jti: String,
    signing_input: String,
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
    // One key from here to the answer: in the header, in the records, for the signature. No other task ran between the time in the
    // tokens and this, so that they are not younger than the end of a key that is replaced meanwhile.
    let expires_at = drafts.iter().map(|(draft, _)| draft.expires_at).max().unwrap_or(UnixSeconds(0));
    let key = shared.keys.signing(expires_at).ok_or_else(|| nobody_signs("no token was issued"))?;
    let (key, inputs) = signing_inputs(shared, issuing, own, key, &drafts, at).await?;
    let made = drafts.into_iter().zip(inputs);
    let unsigned: Vec<Unsigned<'_>> =
        made.map(|((draft, jti), signing_input)| Unsigned { draft, jti, signing_input }).collect();

    let actor = peer.actor();
    let intents: Vec<Event<'_>> = unsigned
        .iter()
        .map(|one| {
            Event::Issue(IssueEvent {
                phase: Phase::Intent,
                actor: &actor,
                issuer: &own.name,
                kid: &key.kid,
                tenant: &own.tenant,
                subject: one.draft.request.agent_id,
                jti: &one.jti,
                issued_at: one.draft.issued_at,
                expires: one.draft.expires_at,
                scope: &one.draft.request.scope,
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

    let inputs: Vec<&[u8]> = unsigned.iter().map(|one| one.signing_input.as_bytes()).collect();
    let signed = sign_all(issuing, &key, &inputs).await;
    let listed =
        if issuing.allow_list && signed.is_ok() { list_all(shared, own, &unsigned).await } else { Ok(()) };
    let outcomes: Vec<Event<'_>> = intents
        .iter()
        .zip(&intent_ids)
        .map(|(intent, id)| {
            let Event::Issue(intent) = intent else { unreachable!("made above") };
            let (phase, failure) = match (&signed, &listed) {
                (Ok(_), Ok(())) => (Phase::Done, None),
                (Ok(_), Err(_)) => (Phase::Failed, Some("allow_list_unavailable")),
                (Err(_), _) => (Phase::Failed, Some("signing_unavailable")),
            };
            Event::Issue(IssueEvent { phase, failure, intent: Some(*id), ..*intent })
        })
        .collect();
    let recorded = shared.evidence.conclude(&outcomes).await;
    let signatures = signed.map_err(|error| signing_unavailable(&error))?;
    listed?;
    // A token whose issue is not in the log is not handed out; it dies here.
    recorded.map_err(|error| evidence::unavailable(&error, "no token was handed out"))?;
    let issued = unsigned.into_iter().zip(signatures).map(|(one, signature)| {
        shared.counters.issued.increment();
        Issued {
            issued_at: one.draft.issued_at.0,
            expires_at: one.draft.expires_at.0,
            id: one.jti,
            token: token::assemble(one.signing_input, &signature),
            kid: key.kid.clone(),
        }
    });
    Ok(issued.collect())
}

/// What is to be signed of each token, in their order, and by which key: one that does not fit beside a delegation is signed by the key
/// that delegated, since it is nothing of the client's that makes it too long.
async fn signing_inputs<A: Fn(ApiError) -> ApiError>(
    shared: &Shared,
    issuing: &Issuing,
    own: &Profile,
    mut key: Arc<ActiveKey>,
    drafts: &[(Draft<'_>, String)],
    at: impl Fn(usize) -> A,
) -> Result<(Arc<ActiveKey>, Vec<String>), ApiError> {
    'by_key: loop {
        let places = places(shared, issuing, &key, own, drafts).await?;
        let mut inputs = Vec::with_capacity(drafts.len());
        for (index, (draft, jti)) in drafts.iter().enumerate() {
            let listed = issuing.status_list.as_ref().zip(places.get(index));
            let status = listed.map(|(list, idx)| StatusPlace { idx: *idx, uri: &list.uri });
            match token::signing_input(key.signed_by(), &draft.claims(&own.issuer, jti, status)) {
                Ok(input) => inputs.push(input),
                Err(EncodeError::TooLong | EncodeError::Kid) if key.certified_by.is_some() => {
                    key = shared.keys.active().ok_or_else(|| nobody_signs("no token was issued"))?;
                    continue 'by_key;
                }
                Err(error) => return Err(at(index)(issue::encode_error(error))),
            }
        }
        return Ok((key, inputs));
    }
}

/// Puts the tokens on the allow list, here and where nodes share one, before anybody holds one of them.
async fn list_all(shared: &Shared, own: &Profile, unsigned: &[Unsigned<'_>]) -> Result<(), ApiError> {
    let until = |one: &Unsigned<'_>| one.draft.expires_at.saturating_add(own.leeway_s);
    let listed: Vec<Listed<'_>> = unsigned
        .iter()
        .map(|one| Listed { tenant: &own.tenant, issuer: &own.issuer, jti: &one.jti, expires_at: until(one) })
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
    key: &ActiveKey,
    own: &Profile,
    drafts: &[(Draft<'_>, String)],
) -> Result<Vec<u32>, ApiError> {
    let Some(list) = &issuing.status_list else { return Ok(Vec::new()) };
    let listed = |(draft, jti): &(Draft<'_>, String)| ListedToken {
        issuer: own.issuer.clone(),
        kid: key.kid.clone(),
        certified_by: key.certified_by.clone(),
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

/// Has every message signed within the key's time; all of them or none. Never blocks: a key in a token answers from a
/// thread of its pool. Many by a key in memory are made on a thread that may take its time.
pub(super) async fn sign_all(
    issuing: &Issuing,
    key: &ActiveKey,
    messages: &[&[u8]],
) -> Result<Vec<[u8; 64]>, HsmError> {
    if key.signer.is_in_memory() {
        let (signer, owned) =
            (key.signer.clone(), messages.iter().map(|one| one.to_vec()).collect::<Vec<_>>());
        let sign = move || {
            let messages: Vec<&[u8]> = owned.iter().map(Vec::as_slice).collect();
            signer.sign_at_once(&messages)
        };
        // Many would hold up whatever else this thread does, such as a kill.
        let signed = match messages.len() {
            0..=INLINE_MAX => sign(),
            _ => tokio::task::spawn_blocking(sign).await.unwrap_or(Some(Err(HsmError::Stopped))),
        };
        return signed.unwrap_or(Err(HsmError::Stopped));
    }
    let deadline = Instant::now() + issuing.sign_timeout;
    let mut answers = Vec::new();
    for message in messages {
        let (answer, answered) = oneshot::channel();
        key.signer.submit(message.to_vec(), deadline, move |signature| drop(answer.send(signature)))?;
        answers.push(answered);
    }
    let mut signatures = Vec::with_capacity(answers.len());
    for answered in answers {
        // The pool answers exactly once; one that is dropped instead is a pool that was closed.
        signatures.push(answered.await.unwrap_or(Err(HsmError::Stopped))?);
    }
    Ok(signatures)
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
