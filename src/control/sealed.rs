//! `POST /v1/audit/openings`: the sealed values of a record are about to be opened, and the log says so first.
//! `POST /v1/audit/sealed-keys/destroy` makes those of a tenant's day unreadable for good.
//!
//! Opened is elsewhere, with private keys that this node never sees. So this holds nobody back who opens by other means; it
//! makes an opening with our command leave a trace.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::actions::{Peer, blocking, put_on_record, with_body};
use super::body;
use super::error::ApiError;
use super::lookups::allowed;
use super::retention;
use super::state::Shared;
use super::tag_keys::{AUTHORITY_BYTES_MAX, REASON_BYTES_MAX, destruction, not_changed, on_record};
use crate::audit::sealed::{OpenerKey, parse_day};
use crate::audit::{AdminEvent, ChangeEvent, Event, Phase, RecordId};
use crate::json;

/// Openers of one record: those of its keys, of which a call about many tokens may have several.
const OPENERS_MAX: usize = 16;

const OPENING_MEMBERS: &str = "openers, record, uid";
const DESTROY_MEMBERS: &str = "authority, day, reason, tenant";

/// The longest tenant; `config` has the same limit.
const TENANT_BYTES_MAX: usize = 255;

#[derive(Serialize)]
struct Destroyed {
    /// The record of the outcome.
    id: String,
    tenant: String,
    day: String,
}

/// Records whose private keys are about to open which record; answers once that is durable.
pub(super) async fn opening(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, ApiError> {
    with_body(shared, peer, request, record_opening).await
}

async fn record_opening(shared: Arc<Shared>, peer: Peer, bytes: Vec<u8>) -> Result<Response, ApiError> {
    let mut scratch = json::Scratch::default();
    let (mut record, mut openers, mut uid) = (None, None, None);
    body::read_object(&bytes, &mut scratch, OPENING_MEMBERS, |reader, name| {
        match name {
            "record" => record = Some(body::text(reader, name, 64)?),
            "openers" => openers = Some(body::names(reader, name, OPENERS_MAX, false, check_opener)?),
            "uid" => uid = Some(body::count(reader, name)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let (Some(record), Some(openers), Some(uid)) = (record, openers, uid) else {
        return Err(ApiError::invalid(format!("all of these are needed: {OPENING_MEMBERS}")));
    };
    let record: RecordId =
        record.parse().map_err(|_| ApiError::invalid("\"record\" is no id of a record"))?;
    let actor = allowed(&shared, &peer, uid)?;
    let (target, detail) = (record.to_string(), openers.join(","));
    let event = Event::Admin(AdminEvent {
        phase: Phase::Intent,
        actor: &actor,
        action: "sealed_open",
        target: &target,
        detail: &detail,
        intent: None,
    });
    put_on_record(&shared, &[event], "nothing may be opened").await
}

fn check_opener(text: &str) -> Result<(), String> {
    match OpenerKey::from_text(text) {
        Some(_) => Ok(()),
        None => Err("an opener is named by its public key, x25519: and 32 bytes in base64".to_owned()),
    }
}

/// Destroys the keys of a tenant's day.
pub(super) async fn destroy(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, ApiError> {
    with_body(shared, peer, request, destroy_keys).await
}

async fn destroy_keys(shared: Arc<Shared>, peer: Peer, bytes: Vec<u8>) -> Result<Response, ApiError> {
    let mut scratch = json::Scratch::default();
    let (mut authority, mut reason, mut tenant, mut day) = (None, None, None, None);
    body::read_object(&bytes, &mut scratch, DESTROY_MEMBERS, |reader, name| {
        match name {
            "authority" => authority = Some(body::text(reader, name, AUTHORITY_BYTES_MAX)?),
            "reason" => reason = Some(body::text(reader, name, REASON_BYTES_MAX)?),
            "tenant" => tenant = Some(body::text(reader, name, TENANT_BYTES_MAX)?),
            "day" => day = Some(body::text(reader, name, 10)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let (authority, reason) = body::said(authority, reason, DESTROY_MEMBERS)?;
    let (Some(tenant), Some(day)) = (tenant, day) else {
        return Err(ApiError::invalid(format!("all of these are needed: {DESTROY_MEMBERS}")));
    };
    let day = parse_day(day).ok_or_else(|| ApiError::invalid("\"day\" must be a date, YYYY-MM-DD (UTC)"))?;
    // No hold may be placed between the look at them and the end of the keys.
    let _custody = retention::custody(&shared).await?;
    let _turn = shared.changing_tag_keys.lock().await;
    let (keys, name) = (shared.sealed_keys.clone(), tenant.to_owned());
    blocking(move || keys.may_destroy(&name, day)).await?.map_err(|error| not_changed(&error))?;
    let actor = peer.actor();
    let what = format!("audit.sealed_key, tenant {tenant:?}, {day}");
    let after = format!("destroyed by {authority}: {reason}");
    let phase = Phase::Intent;
    let change =
        ChangeEvent { phase, actor: &actor, what: &what, before: "kept", after: &after, intent: None };
    let (keys, name) = (shared.sealed_keys.clone(), tenant.to_owned());
    let effect = move |record| keys.destroy(&name, day, record).map(drop);
    let id = on_record(&shared, change, destruction, effect).await?;
    Ok(Json(Destroyed { id, tenant: tenant.to_owned(), day: day.to_string() }).into_response())
}
