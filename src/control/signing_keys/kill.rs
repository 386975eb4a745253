//! `POST /v1/keys/kill`: the emergency. A key of whatever issuer verifies nothing any more, on every shard of this node from its next
//! turn on; written down afterwards, and for good.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::answers::Key;
use crate::audit::{ChangeEvent, Event, Phase};
use crate::control::actions::{Peer, run};
use crate::control::body;
use crate::control::error::{ApiError, ErrorKind, shortened};
use crate::control::evidence;
use crate::control::state::Shared;
use crate::control::tag_keys::{AUTHORITY_BYTES_MAX, REASON_BYTES_MAX};
use crate::json;
use crate::keys::KID_BYTES_MAX;
use crate::keys::life::SigningKey;
use crate::store::KilledKey;

/// The longest `iss` or name of an issuer.
const ISSUER_BYTES_MAX: usize = 1024;

const MEMBERS: &str = "kid, issuer, authority, reason";

const NEEDED: &str = "kid, authority, reason";

#[derive(Serialize)]
struct Killed {
    /// The record of it.
    id: String,
    /// The `iss` of each issuer whose key it was.
    killed: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Key>,
}

pub(in crate::control) async fn kill(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Response, ApiError> {
    let bytes = body::receive_json(request).await?;
    let dead = read(&shared, peer, &bytes)?;
    // Whatever else is under way.
    let changed = shared.keys.kill(&dead)?;
    if let Some(KilledKey { kid, authority, reason, .. }) = dead.first() {
        tracing::warn!(kid, issuers = dead.len(), authority, reason, "a key was killed");
    }
    // From here on it is so; what follows keeps it so beyond a restart, and on record.
    run(&shared, write_down(Arc::clone(&shared), dead, changed)).await.map_err(|error| match error.kind {
        ErrorKind::Overloaded => {
            let description =
                format!("{ONLY_UNTIL_RESTART}: too many requests are under way; kill it once more");
            ApiError::new(ErrorKind::Overloaded, description)
        }
        _ => error,
    })
}

const ONLY_UNTIL_RESTART: &str = "the key is dead on this node, but only until it is started again";

/// The keys that are to die: one, under each issuer that has it.
fn read(shared: &Shared, peer: Peer, bytes: &[u8]) -> Result<Vec<KilledKey>, ApiError> {
    let mut scratch = json::Scratch::default();
    let (mut kid, mut issuer, mut authority, mut reason) = (None, None, None, None);
    body::read_object(bytes, &mut scratch, MEMBERS, |reader, name| {
        match name {
            "kid" => kid = Some(body::any_text(reader, name, KID_BYTES_MAX)?),
            "issuer" => issuer = Some(body::text(reader, name, ISSUER_BYTES_MAX)?),
            "authority" => authority = Some(body::text(reader, name, AUTHORITY_BYTES_MAX)?),
            "reason" => reason = Some(body::text(reader, name, REASON_BYTES_MAX)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let (authority, reason) = body::said(authority, reason, NEEDED)?;
    let kid = kid.ok_or_else(|| ApiError::invalid(format!("needed are: {NEEDED}")))?;
    let like = KilledKey {
        tenant: String::new(),
        issuer: String::new(),
        kid: kid.to_owned(),
        killed_at: (shared.keys.now)(),
        authority: authority.to_owned(),
        reason: reason.to_owned(),
        actor: peer.actor(),
    };
    Ok(shared.keys.dead(&issuers(shared, kid, issuer)?, &like))
}

/// Stores it and puts it on record; `changed` is this node's own key, as it was and as it is.
async fn write_down(
    shared: Arc<Shared>,
    dead: Vec<KilledKey>,
    changed: Option<(SigningKey, SigningKey)>,
) -> Result<Response, ApiError> {
    let Some(one) = dead.first() else { return Err(ApiError::invalid("no key is meant")) };
    let own = changed.as_ref().zip(shared.keys.own().ok());
    let own = own.map(|((_, after), own)| (own.tenant.as_str(), after));
    let stored = shared.store.store_killed_key(&dead, own).await;
    let before = changed.as_ref().map_or("published", |(before, _)| before.state.name());
    let kept = if stored.is_ok() { "" } else { ", until a restart: it could not be stored" };
    let what = format!("issuer.key {}", one.kid);
    let after = format!("killed{kept}; by {}: {}", one.authority, one.reason);
    let phase = if stored.is_ok() { Phase::Done } else { Phase::Failed };
    let event = ChangeEvent { phase, actor: &one.actor, what: &what, before, after: &after, intent: None };
    let recorded = shared.evidence.conclude_one(&Event::KeyChange(event)).await;
    if let Err(error) = stored {
        tracing::error!(%error, "cannot store that a key was killed");
        let description = format!(
            "{ONLY_UNTIL_RESTART}: the state database takes no writes now; kill it once more when it does"
        );
        return Err(ApiError::new(ErrorKind::StoreUnavailable, description));
    }
    let id = recorded.map_err(|error| {
        evidence::unavailable(&error, "the key is dead and stays so; kill it again, so that it is on record")
    })?;
    let key = changed
        .map(|(_, after)| shared.keys.own_ring(&after.kid.clone(), |ring| Key::new(ring, &after)))
        .transpose()?;
    let killed = dead.iter().map(|one| one.issuer.clone()).collect();
    Ok(Json(Killed { id: id.to_string(), killed, key }).into_response())
}

/// Whose key is meant: the issuer that is named, by its `iss` or its name; else our own, or the only issuer that has such a key.
fn issuers(shared: &Shared, kid: &str, named: Option<&str>) -> Result<Vec<usize>, ApiError> {
    let all = &shared.issuers;
    let keys = &shared.keys;
    if let Some(named) = named {
        let Some(index) = all.iter().position(|one| one.issuer == named || one.name == named) else {
            let description = format!("no issuer is called \"{}\", by its iss or its name", shortened(named));
            return Err(ApiError::new(ErrorKind::NotFound, description));
        };
        // One key of ours is one key, for whichever of these issuers it signs.
        return Ok(if keys.own_issuers.contains(&index) { keys.own_issuers.clone() } else { vec![index] });
    }
    let holders = (keys.holders)(kid);
    if keys.is_own(kid) {
        // Named by its thumbprint: whoever else has it has the very key.
        let others = holders.into_iter().filter(|index| !keys.own_issuers.contains(index));
        return Ok(keys.own_issuers.iter().copied().chain(others).collect());
    }
    match holders[..] {
        [_] => Ok(holders),
        // Once more: it is in no set any more.
        [] if !keys.killed(kid).is_empty() => Ok(keys.killed(kid)),
        [] => {
            let description = format!(
                "no issuer has a key named \"{}\" now; name its issuer to kill it all the same",
                shortened(kid)
            );
            Err(ApiError::new(ErrorKind::NotFound, description))
        }
        _ => {
            let names = holders.iter().filter_map(|index| all.get(*index)).map(|one| one.name.as_str());
            let names = names.collect::<Vec<_>>().join(", ");
            let description = format!("several issuers have a key of this name: {names}; say whose is meant");
            Err(ApiError::new(ErrorKind::Conflict, description))
        }
    }
}
