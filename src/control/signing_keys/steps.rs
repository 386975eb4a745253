//! Each thing that is done to a signing key, with its records and its rows. Whoever calls one holds the turn.

use std::future::Future;
use std::sync::Arc;

use super::held::{Keys, Own, Which};
use crate::audit::{ChangeEvent, Phase};
use crate::control::actions::blocking;
use crate::control::body::Words;
use crate::control::error::{ApiError, ErrorKind};
use crate::control::state::Shared;
use crate::control::tag_keys::{AsEvent, conclude, destruction as change_of_key, intend, rotation};
use crate::keys::life::{KeyState, NewKey, Refusal, Ring, SigningKey, UnixMillis};
use crate::keys::thumbprint;

/// What is going to be done, as the record says it.
pub(super) struct Order<'a> {
    pub(super) actor: &'a str,
    pub(super) what: &'a str,
    pub(super) before: &'a str,
    pub(super) after: &'a str,
    pub(super) event: AsEvent,
}

/// What was done: the record of it, and the key as it is now.
pub(super) struct Done {
    pub(super) id: String,
    pub(super) key: SigningKey,
}

/// Makes a Draft in the ring at this place, and publishes it; `wanted`: it takes over by itself as soon as it may.
pub(super) async fn prepare(
    shared: &Arc<Shared>,
    actor: &str,
    place: usize,
    wanted: bool,
) -> Result<Done, ApiError> {
    let keys = &shared.keys;
    keys.own_rings(|rings| rings.at(place).may_create())??;
    let order = Order { actor, what: "signing.key", before: "none", after: "draft", event: change_of_key };
    let effect = async {
        let own = keys.own()?;
        let make = Arc::clone(&own.places.make);
        let made = blocking(move || make(place))
            .await?
            .map_err(|problem| unusable("make a signing key", &problem))?;
        let kid = thumbprint(&made.public_key);
        let new = NewKey { kid: kid.clone(), public_key: made.public_key, place: made.place, wanted };
        let create = |ring: &mut Ring, now| ring.create(new.clone(), now).map(|_| vec![new.kid.clone()]);
        // In the database before anybody sees it; since when they do is known a moment later.
        let stored = async { store(shared, own, &planned(keys, Which::At(place), create)?).await };
        if let Err(error) = stored.await {
            discard(own, &new).await;
            return Err(error);
        }
        keys.change(Which::At(place), None, create)?;
        published(shared, own, &kid).await
    };
    recorded(shared, &order, effect).await
}

/// Takes back a key that nobody knows, so that a token does not fill with them.
async fn discard(own: &Own, new: &NewKey) {
    let destroy = Arc::clone(&own.places.destroy);
    let key = SigningKey::unused(new.clone());
    let place = key.place.clone();
    match blocking(move || destroy(&key)).await {
        Ok(Ok(())) => {}
        _ => tracing::warn!(place, "a signing key that was made and not stored stays where it is, unused"),
    }
}

/// Notes that a Draft is in the JWKS that is served.
pub(super) async fn publish(shared: &Arc<Shared>, kid: &str) -> Result<(), ApiError> {
    published(shared, shared.keys.own()?, kid).await.map(drop)
}

async fn published(shared: &Arc<Shared>, own: &Own, kid: &str) -> Result<SigningKey, ApiError> {
    shared.keys.change(Which::Of(kid), None, |ring, now| {
        ring.publish(kid, now);
        Ok(())
    })?;
    note(shared, own, &[kid.to_owned()]).await;
    shared.keys.key(kid)
}

/// The Draft signs from now on, and the key before it no more.
pub(super) async fn activate(shared: &Arc<Shared>, actor: &str, kid: &str) -> Result<Done, ApiError> {
    let (keys, own) = (&shared.keys, shared.keys.own()?);
    keys.own_ring(kid, |ring| ring.may_activate(kid, (keys.now)()))??;
    let key = keys.key(kid)?;
    // Before anything is on record: a token that is away is met again and again.
    let (open, opened) = (Arc::clone(&own.places.open), key.clone());
    let signer = blocking(move || open(&opened)).await?;
    let signer = signer.map_err(|problem| {
        unusable(
            &format!("open signing key {kid}"),
            &format!("{problem}; to give it up: edgate keys disable {kid}"),
        )
    })?;
    let before =
        keys.own_ring(kid, |ring| ring.active().map_or_else(|| "none".to_owned(), |key| key.kid.clone()))?;
    let order = Order { actor, what: "signing.key", before: &before, after: kid, event: rotation };
    let effect = async {
        let claim = keys.own_ring(kid, |ring| ring.claim(kid, (keys.now)()))??;
        store(shared, own, &[claim]).await?;
        let changed = keys.change(Which::Of(kid), Some(signer), |ring, now| ring.activate(kid, now));
        match &changed {
            Ok(changed) => note(shared, own, changed).await,
            // It was killed meanwhile; the claim must not outlive it.
            Err(_) => note(shared, own, &[kid.to_owned()]).await,
        }
        changed?;
        keys.key(kid)
    };
    recorded(shared, &order, effect).await
}

/// The Draft is to take over as soon as it may.
pub(super) async fn want(shared: &Arc<Shared>, actor: &str, kid: &str) -> Result<Done, ApiError> {
    let want = |ring: &mut Ring, _: UnixMillis| {
        ring.want(kid);
        Ok(ring.keys().iter().map(|key| key.kid.clone()).collect())
    };
    simple(shared, actor, kid, "draft, to take over as soon as it may", want).await
}

/// An operator answers for a copy of the key.
pub(super) async fn back_up(
    shared: &Arc<Shared>,
    actor: &str,
    kid: &str,
    words: &Words,
) -> Result<Done, ApiError> {
    let back_up = |ring: &mut Ring, now| ring.back_up(kid, now).map(|()| vec![kid.to_owned()]);
    simple(shared, actor, kid, &words.tell("backed up"), back_up).await
}

/// The key leaves the JWKS.
pub(super) async fn retire(shared: &Arc<Shared>, actor: &str, kid: &str) -> Result<Done, ApiError> {
    let retire = |ring: &mut Ring, now| ring.retire(kid, now).map(|()| vec![kid.to_owned()]);
    simple(shared, actor, kid, "retired", retire).await
}

/// The Active key signs no more, and nobody in its place; or a Draft is given up.
pub(super) async fn disable(
    shared: &Arc<Shared>,
    actor: &str,
    kid: &str,
    words: &Words,
) -> Result<Done, ApiError> {
    let (keys, own) = (&shared.keys, shared.keys.own()?);
    let to = keys.own_ring(kid, |ring| ring.may_disable(kid))??;
    let before = keys.key(kid)?;
    let (what, after) = (format!("signing.key {kid}"), words.tell(to.name()));
    let order =
        Order { actor, what: &what, before: before.state.name(), after: &after, event: change_of_key };
    let effect = async {
        // Since when is not known yet; a start that finds it so takes its own time.
        store(shared, own, &[SigningKey { state: to, ..before.clone() }]).await?;
        let changed = keys.change(Which::Of(kid), None, |ring, now| ring.disable(kid, now))?;
        note(shared, own, &changed).await;
        keys.key(kid)
    };
    recorded(shared, &order, effect).await
}

/// The private half is destroyed.
pub(super) async fn destroy(
    shared: &Arc<Shared>,
    actor: &str,
    kid: &str,
    words: &Words,
) -> Result<Done, ApiError> {
    let (keys, own) = (&shared.keys, shared.keys.own()?);
    keys.own_ring(kid, |ring| ring.may_destroy(kid))??;
    let key = keys.key(kid)?;
    let (what, after) = (format!("signing.key {kid}"), words.tell(KeyState::Destroyed.name()));
    let order = Order { actor, what: &what, before: key.state.name(), after: &after, event: change_of_key };
    let effect = async {
        let destroy = Arc::clone(&own.places.destroy);
        let gone = blocking(move || destroy(&key)).await?;
        gone.map_err(|problem| unusable(&format!("destroy signing key {kid}"), &problem))?;
        // A crash in between leaves a retired key without a file: destroying it again finds it gone.
        let gone = |ring: &mut Ring, now| ring.destroy(kid, now).map(|()| vec![kid.to_owned()]);
        store(shared, own, &planned(keys, Which::Of(kid), gone)?).await?;
        keys.change(Which::Of(kid), None, gone)?;
        keys.key(kid)
    };
    recorded(shared, &order, effect).await
}

/// A change that is stored as it will be, and then made.
async fn simple(
    shared: &Arc<Shared>,
    actor: &str,
    kid: &str,
    after: &str,
    change: impl Fn(&mut Ring, UnixMillis) -> Result<Vec<String>, Refusal>,
) -> Result<Done, ApiError> {
    let (keys, own) = (&shared.keys, shared.keys.own()?);
    // Refused before anything is on record.
    planned(keys, Which::Of(kid), &change)?;
    let before = keys.key(kid)?;
    let what = format!("signing.key {kid}");
    let order = Order { actor, what: &what, before: before.state.name(), after, event: change_of_key };
    let effect = async {
        store(shared, own, &planned(keys, Which::Of(kid), &change)?).await?;
        keys.change(Which::Of(kid), None, &change)?;
        keys.key(kid)
    };
    recorded(shared, &order, effect).await
}

/// The rows as a change would make them.
fn planned(
    keys: &Keys,
    of: Which<'_>,
    change: impl Fn(&mut Ring, UnixMillis) -> Result<Vec<String>, Refusal>,
) -> Result<Vec<SigningKey>, ApiError> {
    let mut ring = keys.own_rings(|rings| of.place(rings).map(|place| rings.at(place).clone()))??;
    let before = ring.clone();
    let changed = change(&mut ring, (keys.now)())?;
    let differs = |key: &&SigningKey| changed.contains(&key.kid) && before.key(&key.kid).ok() != Some(*key);
    Ok(ring.keys().iter().filter(differs).cloned().collect())
}

/// Records the intent, has it done, and records what came of it, of the key that it was done to.
async fn recorded(
    shared: &Shared,
    order: &Order<'_>,
    effect: impl Future<Output = Result<SigningKey, ApiError>>,
) -> Result<Done, ApiError> {
    // Of a key that was just made nobody knew the name before.
    let named = |key: &SigningKey| format!("signing.key {}", key.kid);
    let (id, key) = on_record(shared, order, named, effect).await?;
    let Order { actor, after, .. } = *order;
    tracing::info!(kid = key.kid, state = key.state.name(), actor, after, "a signing key changed");
    Ok(Done { id: id?, key })
}

/// Records the intent, has it done, and records what came of it, of what `named` says it was done to. What was done stands, whether
/// its record does or not.
pub(super) async fn on_record<T>(
    shared: &Shared,
    order: &Order<'_>,
    named: impl FnOnce(&T) -> String,
    effect: impl Future<Output = Result<T, ApiError>>,
) -> Result<(Result<String, ApiError>, T), ApiError> {
    let Order { actor, what, before, after, event } = *order;
    let change = ChangeEvent { phase: Phase::Intent, actor, what, before, after, intent: None };
    let intent = intend(shared, change, event).await?;
    let done = effect.await;
    let named = done.as_ref().ok().map(named);
    let outcome = ChangeEvent { intent: Some(intent), what: named.as_deref().unwrap_or(what), ..change };
    let id = conclude(shared, outcome, event, done.is_ok()).await;
    Ok((id, done?))
}

async fn store(shared: &Shared, own: &Own, rows: &[SigningKey]) -> Result<(), ApiError> {
    // What is owed first: a row of these is newer.
    let owed = shared.keys.owed(&[]);
    let all: Vec<SigningKey> = owed.iter().chain(rows).cloned().collect();
    shared.store.store_signing_keys(&own.tenant, &all).await.map_err(|error| {
        shared.keys.owe(&owed);
        tracing::error!(%error, "cannot store how a signing key stands");
        let description = "the state database takes no writes now; no key was changed";
        ApiError::new(ErrorKind::StoreUnavailable, description)
    })
}

/// Stores how these keys stand, after it is so. What is stored before is enough for a start to go on safely, so that this may fail; it
/// is then made up for with the next row that is written.
async fn note(shared: &Shared, own: &Own, kids: &[String]) {
    let rows = shared.keys.owed(kids);
    if let Err(error) = shared.store.store_signing_keys(&own.tenant, &rows).await {
        shared.keys.owe(&rows);
        tracing::warn!(%error, "cannot store since when a signing key stands so; it is written with the next change");
    }
}

pub(super) fn unusable(what: &str, problem: &str) -> ApiError {
    tracing::error!(problem, "cannot {what}");
    ApiError::new(ErrorKind::SigningUnavailable, format!("cannot {what}: {problem}"))
}

impl Words {
    /// What was done, by whom and why, as it stands in the record.
    fn tell(&self, what: &str) -> String {
        format!("{what}; by {}: {}", self.authority, self.reason)
    }
}
