//! `POST /v1/audit/lookups`: somebody is about to look for the records of one person, token, address or session, and the log
//! says so first. It gets the tags, never the value.
//!
//! The look-up itself is done with the key files, by whoever may read them. So this does not hold anyone back who computes
//! tags by other means; it makes a look-up with our command leave a trace, and many of them take long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Extension, Request, State};
use axum::response::Response;

use super::actions::{Peer, put_on_record, with_body};
use super::body;
use super::error::{ApiError, ErrorKind};
use super::state::Shared;
use crate::audit::tag::{TAG_BYTES, TagField};
use crate::audit::{AdminEvent, Event, Phase, unhex_exact};
use crate::json;

/// Look-ups that may follow one another at once.
pub(super) const LOOKUPS_AT_ONCE: u32 = 10;

/// After them one may be made in each of these, 30 in an hour. All that reach this listener share them: they do not say
/// who they are, and one machine has sixteen million loopback addresses.
pub(super) const LOOKUP_INTERVAL: Duration = Duration::from_secs(120);

/// Tags of one look-up: one value in each epoch of the tag key, in two forms if it is an address.
const TAGS_MAX: usize = 512;

/// Tags in one record: its text has room for 1024 bytes.
const TAGS_IN_RECORD: usize = 28;

const MEMBERS: &str = "field, tags, uid";

/// Records what is looked for; answers once that is durable.
pub(super) async fn record(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, ApiError> {
    with_body(shared, peer, request, record_lookup).await
}

async fn record_lookup(shared: Arc<Shared>, peer: Peer, bytes: Vec<u8>) -> Result<Response, ApiError> {
    let mut scratch = json::Scratch::default();
    let (mut field, mut tags, mut uid) = (None, None, None);
    body::read_object(&bytes, &mut scratch, MEMBERS, |reader, name| {
        match name {
            "field" => field = Some(body::text(reader, name, 16)?),
            "tags" => tags = Some(body::names(reader, name, TAGS_MAX, false, check_tag)?),
            "uid" => uid = Some(body::count(reader, name)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let (Some(field), Some(tags), Some(uid)) = (field, tags, uid) else {
        return Err(ApiError::invalid(format!("all of these are needed: {MEMBERS}")));
    };
    if TagField::from_name(field).is_none() {
        return Err(ApiError::invalid("\"field\" must be subject, jti, client or session"));
    }
    let actor = allowed(&shared, &peer, uid)?;
    let details: Vec<String> = tags.chunks(TAGS_IN_RECORD).map(|tags| tags.join(",")).collect();
    let event = |detail| {
        let (phase, action) = (Phase::Intent, "tag_lookup");
        Event::Admin(AdminEvent { phase, actor: &actor, action, target: field, detail, intent: None })
    };
    let events: Vec<_> = details.iter().map(|detail| event(detail)).collect();
    put_on_record(&shared, &events, "nothing may be shown of it").await
}

/// Takes one of the look-ups and openings that are allowed, and answers who makes it.
pub(super) fn allowed(shared: &Shared, peer: &Peer, uid: u64) -> Result<String, ApiError> {
    shared.lookups.take(Instant::now()).map_err(|wait| {
        tracing::warn!(uid, "look-ups in the audit log and openings of sealed values are refused: too many");
        ApiError::later(
            ErrorKind::TooManyLookups,
            wait,
            "too many look-ups and openings; each of them is about a person",
        )
    })?;
    // Whoever asks says which user they are: better than nothing, and no proof.
    Ok(format!("{}, uid {uid}", peer.actor()))
}

/// A tag has one spelling.
fn check_tag(text: &str) -> Result<(), String> {
    match unhex_exact::<TAG_BYTES>(text) {
        Some(_) => Ok(()),
        None => Err(format!("a tag is {} hexadecimal digits, in lower case", 2 * TAG_BYTES)),
    }
}
