//! `POST /oauth/revoke`: token revocation as OAuth 2.0 clients ask for it (RFC 7009).
//!
//! Who holds a token may revoke it, and nothing else: the token is the only credential, as for a public client (§2.1). It
//! is judged as the data plane judges it, so that a forged one revokes nobody's. What cannot pass anyway (unknown,
//! malformed, expired) is answered like what was revoked (§2.2), so that the answer tells a stranger nothing.
//!
//! A form is what a page of another site can send without asking first (no preflight). It gains nothing here: there is no
//! ambient authority, neither cookie nor address, that it could borrow, and a page that has a token can use it anyhow. The
//! guard turns it away all the same, by `Origin` and `Sec-Fetch-Site`.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::actions::{Peer, run};
use super::body;
use super::changing;
use super::error::{ApiError, ErrorKind};
use super::state::{Judged, Shared};
use crate::decision::{Decision, Rejection};
use crate::revocation::{Effect, TargetKind};
use crate::store::StoredChange;

const FORM: &str = "application/x-www-form-urlencoded";

/// `POST /oauth/revoke` with the form members `token` and, which makes no difference here, `token_type_hint`.
pub(super) async fn revoke(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, ApiError> {
    body::check_media_type(request.headers(), FORM)?;
    let bytes = body::receive(request.into_body()).await?;
    run(&shared, revoke_token(Arc::clone(&shared), peer, bytes)).await
}

async fn revoke_token(shared: Arc<Shared>, peer: Peer, bytes: Vec<u8>) -> Result<Response, ApiError> {
    let token = read_form(&bytes)?;
    if let Some(wanted) = wanted(&shared, &token, &peer)? {
        changing::change(&shared, vec![wanted]).await?;
    }
    Ok(StatusCode::OK.into_response())
}

/// The one `token` of a form. Others are passed over (RFC 6749 §3.2), but none may be there twice.
fn read_form(bytes: &[u8]) -> Result<String, ApiError> {
    let (mut token, mut hint) = (None, None);
    for (name, value) in form_urlencoded::parse(bytes) {
        let slot = match &*name {
            "token" => &mut token,
            "token_type_hint" => &mut hint,
            _ => continue,
        };
        if slot.replace(value.into_owned()).is_some() {
            return Err(ApiError::invalid(format!("\"{name}\" was sent more than once")));
        }
    }
    match token {
        Some(token) if !token.is_empty() => Ok(token),
        _ => Err(ApiError::invalid("\"token\" is missing: the form must name the token to revoke")),
    }
}

/// What revoking `token` changes; nothing for one that cannot pass anyway.
fn wanted(shared: &Shared, token: &str, peer: &Peer) -> Result<Option<StoredChange>, ApiError> {
    let now = (shared.now)();
    let Judged { decision, token } = (shared.judge)(token.as_bytes(), now);
    let Some(token) = token.filter(|_| may_pass(decision)) else { return Ok(None) };
    let Some(jti) = token.jti else {
        let description =
            "this token has no id (\"jti\"), so it cannot be revoked by itself; revoke its subject";
        return Err(ApiError::new(ErrorKind::UnsupportedTokenType, description));
    };
    Ok(Some(StoredChange {
        kind: TargetKind::Token,
        tenant: token.tenant,
        issuer: token.issuer,
        name: jti,
        effect: Effect::RefusedUntil(token.refused_from),
        forget_at: token.refused_from,
        changed_at: now,
        reason: "oauth revocation".to_owned(),
        actor: peer.actor(),
        epoch: 0,
    }))
}

/// Whether a token so decided passes, passed until it was revoked, or may pass later. One that is revoked already is
/// revoked again: the first time may have ended without its record.
fn may_pass(decision: Decision) -> bool {
    match decision {
        Decision::Accepted => true,
        Decision::Rejected(rejection) => matches!(
            rejection,
            Rejection::Disabled
                | Rejection::IssuedInFuture
                | Rejection::NotListed
                | Rejection::NotYetValid
                | Rejection::Replayed
                | Rejection::Revoked
                | Rejection::RevocationUnknown
                | Rejection::ScopeMissing
        ),
    }
}
