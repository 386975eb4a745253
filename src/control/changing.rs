//! The one way in which something is revoked, disabled or enabled.
//!
//! Order: every INTENT is durable, the state database has all of it or none, Redis has it where nodes share one, the view
//! has it, every outcome is durable, then the caller is answered. A client that hangs up does not stop that half-way.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::error::{ApiError, ErrorKind};
use super::evidence;
use super::state::Shared;
use crate::audit::{Event, Phase, RevokeEvent};
use crate::cluster::ClusterError;
use crate::revocation::{Effect, Switch, TargetKind};
use crate::store::{Recorded, StoredChange};

/// What one call may change: each is two durable records.
pub(super) const CHANGES_MAX: usize = 256;

/// Things that may be disabled or revoked as a whole, or have been: each change copies the list of them.
const SWITCHES_MAX: usize = 100_000;

/// What was done.
#[derive(Debug)]
pub(super) struct Changed {
    /// The revocation epoch that has all of it.
    pub(super) epoch: u64,
    /// What stands now, in the order asked for.
    pub(super) recorded: Vec<Recorded>,
}

/// Makes `wanted` happen, all or none of it. Must run inside [`run`](super::actions::run).
pub(super) async fn change(shared: &Arc<Shared>, wanted: Vec<StoredChange>) -> Result<Changed, ApiError> {
    let nothing = "nothing was changed";
    let switching = wanted.iter().any(|one| matches!(one.effect, Effect::Switched(_)));
    if switching && shared.view.switches_len() >= SWITCHES_MAX {
        let description =
            format!("{SWITCHES_MAX} things are disabled or revoked as a whole, or were; {nothing}");
        return Err(ApiError::new(ErrorKind::Overloaded, description));
    }
    let intents: Vec<Event<'_>> = wanted.iter().map(|one| Event::Revoke(intent(shared, one))).collect();
    let recorded = shared.evidence.record_all(&intents).await;
    let intent_ids = recorded.map_err(|error| evidence::unavailable(&error, nothing))?;
    let outcomes = |of: &dyn Fn(usize, RevokeEvent<'_>) -> RevokeEvent<'_>| -> Vec<Event<'_>> {
        let outcome = |(i, one)| {
            Event::Revoke(of(i, RevokeEvent { intent: Some(intent_ids[i]), ..intent(shared, one) }))
        };
        wanted.iter().enumerate().map(outcome).collect()
    };

    let failed = async |failure| {
        let failed =
            outcomes(&|_, event| RevokeEvent { phase: Phase::Failed, failure: Some(failure), ..event });
        if let Err(error) = shared.evidence.record_all(&failed).await {
            tracing::error!(%error, "cannot record that a revocation failed");
        }
    };
    // On a node on its own changes are made one after the other, so that an epoch has everything below it.
    let _turn = match &shared.sharing {
        None => Some(shared.changing.lock().await),
        Some(_) => None,
    };
    let (local_epoch, mut recorded) = match shared.store.record_changes(&wanted, floor(shared)).await {
        Ok(done) => done,
        Err(error) => {
            tracing::error!(%error, "cannot store a revocation");
            failed("store_unavailable").await;
            let description = format!("the state database takes no writes now; {nothing}");
            return Err(ApiError::new(ErrorKind::StoreUnavailable, description));
        }
    };
    let stands: Vec<StoredChange> = recorded.iter().map(|one| one.stands.clone()).collect();
    let epoch = match publish(shared, &stands, local_epoch).await {
        Ok(epoch) => epoch,
        Err(error) => {
            tracing::error!(%error, "cannot share a revocation; it is in force on this node and will be shared");
            // What is to be refused is refused here at once. What is to be let pass again waits until all nodes know.
            let refusing = |one: &StoredChange| one.effect != Effect::Switched(Switch::Enabled);
            apply(shared, stands.into_iter().filter(refusing).collect(), 0).await;
            failed("redis_unavailable").await;
            let description = "Redis does not confirm it now; this node has it and the others get it as soon as Redis \
                               takes it: ask again to be sure";
            return Err(ApiError::new(ErrorKind::SharingUnavailable, description));
        }
    };
    for one in &mut recorded {
        one.stands.epoch = epoch;
    }
    // Where nodes share Redis the follower raises the epoch: another node's change, published just before, may not be here.
    let reached = if shared.sharing.is_some() { 0 } else { epoch };
    apply(shared, recorded.iter().map(|one| one.stands.clone()).collect(), reached).await;
    // Nobody may be listening. Where nodes share Redis every change comes back in the order of the epochs and is announced then.
    if shared.sharing.is_none() {
        let _ = shared.announce.send(recorded.iter().map(|one| one.stands.clone()).collect());
    }

    let done = outcomes(&|i, event| RevokeEvent {
        phase: Phase::Done,
        until: until(&recorded[i].stands),
        revocation_epoch: Some(epoch),
        ..event
    });
    shared.evidence.conclude(&done).await.map_err(|error| {
        evidence::unavailable(&error, "it is done, but that could not be confirmed: ask again")
    })?;
    shared.counters.revoked.add(recorded.len() as u64);
    Ok(Changed { epoch, recorded })
}

/// The new epoch is above this one. Where nodes share Redis epochs are not below its clock; what is decided here while it
/// is away must not look older than what the others decide meanwhile.
fn floor(shared: &Shared) -> u64 {
    let clock = if shared.sharing.is_some() { (shared.now)().0.saturating_mul(1000) } else { 0 };
    shared.view.epoch().max(clock)
}

/// Lets every node know; returns the epoch that has it everywhere. On a node on its own that is the local one.
async fn publish(shared: &Shared, stands: &[StoredChange], local_epoch: u64) -> Result<u64, ClusterError> {
    let Some(sharing) = &shared.sharing else { return Ok(local_epoch) };
    let (answer, answered) = oneshot::channel();
    sharing.publisher.publish(stands, shared.view.epoch(), move |published| drop(answer.send(published)));
    let epoch = answered.await.unwrap_or(Err(ClusterError::Stopped))?.epoch;
    if let Err(error) = shared.store.mark_published(local_epoch, epoch).await {
        // It will be published once more, which is harmless.
        tracing::warn!(%error, "cannot note that a revocation was shared");
    }
    Ok(epoch)
}

fn intent<'a>(shared: &'a Shared, wanted: &'a StoredChange) -> RevokeEvent<'a> {
    let named =
        |profile: &&crate::token::Profile| profile.issuer == wanted.issuer && profile.tenant == wanted.tenant;
    RevokeEvent {
        phase: Phase::Intent,
        actor: &wanted.actor,
        target_kind: match wanted.kind {
            TargetKind::Token => "jti",
            kind => kind.name(),
        },
        target: match wanted.kind {
            TargetKind::Issuer => &wanted.issuer,
            TargetKind::Tenant => &wanted.tenant,
            _ => &wanted.name,
        },
        issuer: shared.issuers.iter().find(named).map_or("", |profile| &profile.name),
        tenant: &wanted.tenant,
        reason: Some(wanted.reason.as_str()).filter(|reason| !reason.is_empty()),
        until: until(wanted),
        revocation_epoch: None,
        intent: None,
        failure: None,
        action: match wanted.effect {
            Effect::Switched(Switch::Disabled) => "disable",
            Effect::Switched(Switch::Enabled) => "enable",
            Effect::IssuedUntil(_) | Effect::RefusedUntil(_) | Effect::Switched(Switch::Revoked) => "",
        },
        issued_until: match wanted.effect {
            Effect::IssuedUntil(second) => Some(second),
            Effect::RefusedUntil(_) | Effect::Switched(_) => None,
        },
    }
}

/// When it may be forgotten; a switch never is.
fn until(change: &StoredChange) -> Option<crate::decision::UnixSeconds> {
    (!matches!(change.effect, Effect::Switched(_))).then_some(change.forget_at)
}

/// Puts stored changes into the view. On a blocking thread, because the view may have to allocate its next table.
async fn apply(shared: &Arc<Shared>, stored: Vec<StoredChange>, epoch: u64) {
    let (view, now) = (Arc::clone(&shared.view), (shared.now)());
    let stored = Arc::new(stored);
    let apply = {
        let stored = Arc::clone(&stored);
        move || view.apply(stored.iter().filter_map(StoredChange::change), epoch, now)
    };
    // It is stored already, so it must reach the view: should the runtime refuse a thread, it is done right here.
    if tokio::task::spawn_blocking(apply.clone()).await.is_err() {
        apply();
    }
}
