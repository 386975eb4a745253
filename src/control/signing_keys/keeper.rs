//! What happens to signing keys by itself: a Draft takes over when it may, a key retires when nothing it signed can be valid, the
//! next one is prepared in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{delegating, steps};
use crate::control::error::ApiError;
use crate::control::state::Shared;
use crate::keys::life::{Due, Rings, UnixMillis};

/// Who changed a key where nobody did.
pub(super) const ACTOR: &str = "edgate";

/// The longest sleep: a clock that was set is noticed within this.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// The pause after something could not be done; it doubles up to [`PAUSE_MAX`], since each try leaves records.
const PAUSE_MIN: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// As [`PAUSE_MAX`], for delegations: tokens cost the token a signature each meanwhile.
const DELEGATION_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Does what is due, whenever it is, until the node stops. Sleeps meanwhile; whoever changes a key wakes it.
pub(in crate::control) async fn keep(shared: Arc<Shared>) {
    let mut stopping = shared.stopping.subscribe();
    let mut pauses = Pauses::default();
    loop {
        // Shutdown waits for what is under way, as it does for an operator's action.
        let Ok(permit) = Arc::clone(&shared.actions).acquire_owned().await else { return };
        if *stopping.borrow_and_update() {
            return;
        }
        let sleep = do_what_is_due(&shared, &mut pauses).await;
        drop(permit);
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = shared.keys.changed.notified() => {}
            _ = stopping.changed() => return,
        }
    }
}

/// How long each kind of thing waits after it could not be done.
#[derive(Default)]
struct Pauses {
    keys: Pause,
    delegation: Pause,
}

/// Doubles with each failure; nothing waits where there was none.
#[derive(Default)]
struct Pause {
    length: Option<Duration>,
    until: Option<Instant>,
}

impl Pause {
    /// Until when, from now on; at most `max`.
    fn failed(&mut self, max: Duration) {
        let length = self.length.map_or(PAUSE_MIN, |before| (before * 2).min(max));
        (self.length, self.until) = (Some(length), Some(Instant::now() + length));
    }

    /// What is left of it.
    fn left(&self) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }
}

/// Does what is due, and says how long to sleep. What fails keeps nothing else waiting.
async fn do_what_is_due(shared: &Arc<Shared>, pauses: &mut Pauses) -> Duration {
    if let Err(error) = shared.keys.forget_ended_delegations() {
        tracing::error!(%error, "cannot take ended delegations out of the JWKS");
        return PAUSE_MIN;
    }
    match do_to_keys(shared).await {
        true => pauses.keys.failed(PAUSE_MAX),
        false => pauses.keys = Pause::default(),
    }
    // After what was due to the keys themselves: the one that delegates is the one that is active then.
    if !delegating::is_due(&shared.keys) {
        pauses.delegation = Pause::default();
    } else if pauses.delegation.left().is_zero() {
        match delegated(shared).await {
            Ok(()) => pauses.delegation = Pause::default(),
            Err(error) => {
                tracing::error!(
                    problem = error.description,
                    "no key could be delegated to; tried again later"
                );
                pauses.delegation.failed(DELEGATION_PAUSE_MAX);
            }
        }
    }
    let (keys, delegation) = until_next(shared);
    let keys = keys.max(pauses.keys.left());
    keys.min(delegation.max(pauses.delegation.left()))
}

async fn delegated(shared: &Arc<Shared>) -> Result<(), ApiError> {
    let _turn = shared.keys.turn().await?;
    delegating::delegate(shared).await
}

/// Whether any of what is due to the keys could not be done.
async fn do_to_keys(shared: &Arc<Shared>) -> bool {
    let keys = &shared.keys;
    let due = |rings: &Rings| rings.due((keys.now)());
    if keys.look(due).unwrap_or_default().is_empty() {
        return false;
    }
    let Ok(_turn) = keys.turn().await else { return true };
    let mut failed = Vec::new();
    // Each thing may make another due. What is due once more was not done.
    while let Some(next) = keys.look(due).unwrap_or_default().into_iter().find(|next| !failed.contains(next))
    {
        let (place, what) = &next;
        let done: Result<(), ApiError> = match what {
            Due::Activate(kid) => steps::activate(shared, ACTOR, kid).await.map(drop),
            Due::Prepare => steps::prepare(shared, ACTOR, *place, false).await.map(drop),
            Due::Publish(kid) => steps::publish(shared, kid).await,
            Due::Retire(kid) => steps::retire(shared, ACTOR, kid).await.map(drop),
        };
        if let Err(error) = done {
            tracing::error!(due = ?next, problem = error.description, "cannot do to a signing key what is due; tried again later");
            failed.push(next);
        }
    }
    !failed.is_empty()
}

/// How long until something happens to the keys, and to the delegated ones, by themselves.
fn until_next(shared: &Shared) -> (Duration, Duration) {
    let keys = &shared.keys;
    let now = (keys.now)();
    let active = keys.active();
    let active = active.as_ref().map(|signers| signers.kids()).unwrap_or_default();
    let delegated = keys.delegations(|delegations| delegations.next_at(&active, now));
    let next = keys.look(|rings| rings.next_at(now)).flatten();
    let wait = |next: Option<UnixMillis>| {
        next.map_or(SLEEP_MAX, |next| Duration::from_millis(next.since(now)).min(SLEEP_MAX))
    };
    (wait(next), wait(delegated))
}
