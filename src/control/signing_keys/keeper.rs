//! What happens to signing keys by itself: a Draft takes over when it may, a key retires when nothing it signed can be valid, the
//! next one is prepared in time.

use std::sync::Arc;
use std::time::Duration;

use super::{delegating, steps};
use crate::control::error::ApiError;
use crate::control::state::Shared;
use crate::keys::life::{Due, Ring};

/// Who changed a key where nobody did.
const ACTOR: &str = "edgate";

/// The longest sleep: a clock that was set is noticed within this.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// The pause after something could not be done; it doubles up to [`PAUSE_MAX`], since each try leaves records.
const PAUSE_MIN: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Does what is due, whenever it is, until the node stops. Sleeps meanwhile; whoever changes a key wakes it.
pub(in crate::control) async fn keep(shared: Arc<Shared>) {
    let mut stopping = shared.stopping.subscribe();
    let mut pause = PAUSE_MIN;
    loop {
        // Shutdown waits for what is under way, as it does for an operator's action.
        let Ok(permit) = Arc::clone(&shared.actions).acquire_owned().await else { return };
        if *stopping.borrow_and_update() {
            return;
        }
        let failed = do_what_is_due(&shared).await;
        drop(permit);
        let sleep = if failed {
            let now = pause;
            pause = (pause * 2).min(PAUSE_MAX);
            now
        } else {
            pause = PAUSE_MIN;
            until_next(&shared)
        };
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = shared.keys.changed.notified() => {}
            _ = stopping.changed() => return,
        }
    }
}

/// Whether any of it could not be done. What fails keeps nothing else waiting.
async fn do_what_is_due(shared: &Arc<Shared>) -> bool {
    let keys = &shared.keys;
    let due = |ring: &Ring| ring.due((keys.now)());
    if let Err(error) = keys.forget_ended_delegations() {
        tracing::error!(%error, "cannot take ended delegations out of the JWKS");
    }
    if keys.look(due).unwrap_or_default().is_empty() && !delegating::is_due(keys) {
        return false;
    }
    let Ok(_turn) = keys.turn().await else { return true };
    let mut failed = Vec::new();
    // Each thing may make another due. What is due once more was not done.
    while let Some(next) = keys.look(due).unwrap_or_default().into_iter().find(|next| !failed.contains(next))
    {
        let done: Result<(), ApiError> = match &next {
            Due::Activate(kid) => steps::activate(shared, ACTOR, kid).await.map(drop),
            Due::Prepare => steps::prepare(shared, ACTOR, false).await.map(drop),
            Due::Publish(kid) => steps::publish(shared, kid).await,
            Due::Retire(kid) => steps::retire(shared, ACTOR, kid).await.map(drop),
        };
        if let Err(error) = done {
            tracing::error!(due = ?next, problem = error.description, "cannot do to a signing key what is due; tried again later");
            failed.push(next);
        }
    }
    // After what was due to the keys themselves: the one that delegates is the one that is active then.
    if delegating::is_due(keys)
        && let Err(error) = delegating::delegate(shared, ACTOR).await
    {
        tracing::error!(problem = error.description, "no key could be delegated to; tried again later");
        return true;
    }
    !failed.is_empty()
}

fn until_next(shared: &Shared) -> Duration {
    let now = (shared.keys.now)();
    let keys = &shared.keys;
    let active = keys.active();
    let delegated =
        keys.delegations(|delegations| delegations.next_at(active.as_ref().map(|key| key.kid.as_str()), now));
    let next = keys.look(|ring| ring.next_at(now)).flatten().into_iter().chain(delegated).min();
    next.map_or(SLEEP_MAX, |next| Duration::from_millis(next.since(now)).min(SLEEP_MAX))
}
