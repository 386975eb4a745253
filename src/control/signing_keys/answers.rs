//! What is told of signing keys: in answers, and in metrics.

use std::fmt::Write as _;

use serde::Serialize;

use super::held::Keys;
use crate::base64url;
use crate::decision::UnixSeconds;
use crate::keys::delegated::{DelegatedKey, Delegations};
use crate::keys::life::{KeyState, Ring, Rings, SigningKey, UnixMillis};
use crate::store::KilledKey;

/// One key. Times are Unix milliseconds.
#[derive(Serialize)]
pub(super) struct Key {
    kid: String,
    state: &'static str,
    /// `x` of its JWK.
    x: String,
    place: String,
    created_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    published_ms: Option<u64>,
    /// Of a draft: when it may sign at the earliest.
    #[serde(skip_serializing_if = "Option::is_none")]
    ready_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    activated_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retire_not_before_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retired_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destroyed_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backed_up_ms: Option<u64>,
    /// Of a draft: whether it takes over by itself as soon as it may.
    wanted: bool,
    /// Of a draft: what it waits for besides its time.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<&'static str>,
}

/// Every key, and what is due.
#[derive(Serialize, Default)]
pub(super) struct Listed {
    keys: Vec<Key>,
    /// Keys in memory, which the active one delegated to.
    delegated: Vec<Delegated>,
    /// When something happens by itself next.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_ms: Option<u64>,
    pub(super) killed: Vec<Killed>,
}

/// A key in memory. Times are Unix milliseconds.
#[derive(Serialize)]
struct Delegated {
    kid: String,
    /// `x` of its JWK.
    x: String,
    /// The key that says that it signs.
    certified_by: String,
    published_ms: u64,
    /// When it may sign at the earliest; absent where its private half is gone, with the process or with the active key.
    #[serde(skip_serializing_if = "Option::is_none")]
    ready_ms: Option<u64>,
    /// No token that it signs is valid longer.
    ends_ms: u64,
    /// When it leaves the JWKS: the leeway later.
    leaves_ms: u64,
}

/// A key that an operator killed.
#[derive(Serialize)]
pub(super) struct Killed {
    kid: String,
    issuer: String,
    tenant: String,
    killed_ms: u64,
    authority: String,
    reason: String,
}

/// What a change came to.
#[derive(Serialize)]
pub(super) struct Changed {
    /// The record of the outcome: `edgate audit tail` shows it.
    id: String,
    key: Key,
    /// What it came to in the other tokens, where each has a key of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    more: Vec<Changed>,
    /// Where it could not be done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<NotChanged>,
}

/// What could not be done in one of several tokens.
#[derive(Serialize)]
pub(super) struct NotChanged {
    /// A key that is there: what `beside` takes.
    beside: String,
    problem: String,
}

impl NotChanged {
    pub(super) fn new(beside: String, problem: String) -> Self {
        Self { beside, problem }
    }
}

impl Key {
    pub(super) fn new(ring: &Ring, key: &SigningKey) -> Self {
        let ms = |time: Option<UnixMillis>| time.map(|time| time.0);
        let unsafe_yet =
            key.state == KeyState::Draft && ring.rules().require_backup && key.backed_up.is_none();
        Self {
            kid: key.kid.clone(),
            state: key.state.name(),
            x: base64url::encode(&key.public_key),
            place: key.place.clone(),
            created_ms: key.created.0,
            published_ms: ms(key.published),
            ready_ms: ms(ring.ready_at(key)),
            activated_ms: ms(key.activated),
            stopped_ms: ms(key.stopped),
            retire_not_before_ms: ms(key.retire_not_before),
            retired_ms: ms(key.retired),
            destroyed_ms: ms(key.destroyed),
            backed_up_ms: ms(key.backed_up),
            wanted: key.wanted,
            waits_for: unsafe_yet.then_some("backup"),
        }
    }
}

impl Listed {
    pub(super) fn new(keys: &Keys) -> Self {
        let now = (keys.now)();
        let of_rings = |rings: &Rings| {
            let active: Vec<String> = rings.active().map(|key| key.kid.clone()).collect();
            let each = (0..rings.len()).map(|place| rings.at(place));
            let listed = each.flat_map(|ring| ring.keys().iter().map(|key| Key::new(ring, key))).collect();
            (listed, rings.next_at(now), active)
        };
        let (listed, next, active): (Vec<Key>, _, _) = keys.look(of_rings).unwrap_or_default();
        let active: Vec<&str> = active.iter().map(String::as_str).collect();
        let of_delegations = |delegations: &Delegations| {
            let each = delegations.keys().iter();
            let delegated = each.map(|key| Delegated::new(delegations, key, &active)).collect();
            (delegated, delegations.next_at(&active, now))
        };
        let (delegated, next_delegated) = keys.delegations(of_delegations);
        let next = next.into_iter().chain(next_delegated).min();
        Self { keys: listed, delegated, next_ms: next.map(|next| next.0), killed: Vec::new() }
    }
}

impl Delegated {
    fn new(delegations: &Delegations, key: &DelegatedKey, active: &[&str]) -> Self {
        let signs = key.held && active.contains(&key.certified_by.as_str());
        Self {
            kid: key.kid.clone(),
            x: base64url::encode(&key.public_key),
            certified_by: key.certified_by.clone(),
            published_ms: key.published.0,
            ready_ms: signs.then(|| delegations.ready_at(key).0),
            ends_ms: key.expires_at.0.saturating_mul(1000),
            leaves_ms: delegations.ends_at(key).0,
        }
    }
}

impl Changed {
    pub(super) fn new(id: String, ring: &Ring, key: &SigningKey) -> Self {
        Self { id, key: Key::new(ring, key), more: Vec::new(), failed: Vec::new() }
    }

    /// This, and what came of the same in other tokens.
    pub(super) fn with(self, more: Vec<Self>, failed: Vec<NotChanged>) -> Self {
        Self { more, failed, ..self }
    }
}

impl From<KilledKey> for Killed {
    fn from(killed: KilledKey) -> Self {
        let KilledKey { tenant, issuer, kid, killed_at, authority, reason, .. } = killed;
        Self { kid, issuer, tenant, killed_ms: killed_at.0, authority, reason }
    }
}

/// Appends how this node's signing keys stand; no name of a key is in it.
pub(in crate::control) fn metrics(keys: &Keys, out: &mut String) {
    let now = (keys.now)();
    // Writing to a string does not fail.
    let told = keys.look(|rings| {
        let _ = writeln!(
            out,
            "# HELP edgate_signing_keys This node's signing keys, by state.\n# TYPE edgate_signing_keys gauge"
        );
        for state in KeyState::ALL {
            let count = rings.keys().filter(|key| key.state == state).count();
            let _ = writeln!(out, "edgate_signing_keys{{state=\"{}\"}} {count}", state.name());
        }
        let seconds = |ms: u64| ms as f64 / 1000.0;
        // Of several the one that has signed longest.
        let since = rings.active().filter_map(|key| key.activated).min();
        let age = since.map(|at| seconds(now.since(at)));
        let next = rings.next_at(now).map(|at| seconds(at.since(now)));
        [
            (
                "signing_key_age_seconds",
                "How long the active signing key has signed; absent without one.",
                age,
            ),
            (
                "signing_key_next_change_seconds",
                "Until something happens to a signing key by itself; absent if nothing will.",
                next,
            ),
        ]
    });
    let signs = keys.delegations(|delegations| {
        let rules = delegations.rules()?;
        let ordinary = UnixSeconds((now.0 / 1000).saturating_add(rules.token_life_s));
        Some(delegations.signing(&keys.active()?.kids(), ordinary, now).is_some())
    });
    if let Some(signs) = signs {
        let _ = writeln!(
            out,
            "# HELP edgate_delegated_key_signs Whether a key in memory signs ordinary tokens now, and not the active key itself.\n\
             # TYPE edgate_delegated_key_signs gauge\nedgate_delegated_key_signs {}",
            u8::from(signs)
        );
    }
    for (name, help, value) in told.into_iter().flatten() {
        let _ = writeln!(
            out,
            "# HELP edgate_{name} {help}\n# TYPE edgate_{name} gauge\n# UNIT edgate_{name} seconds"
        );
        if let Some(value) = value {
            let _ = writeln!(out, "edgate_{name} {value}");
        }
    }
}
