//! What happens to signing keys by itself: a Draft takes over when it may, a key retires when nothing it signed can be valid, the
//! next one is prepared in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{delegating, steps};
use crate::control::error::ApiError;
use crate::control::state::Shared;
use crate::keys::life::{Due, Rings};

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

/// How long what could not be done waits, each thing for itself.
#[derive(Default)]
struct Pauses {
    // By ring and what is due to it.
    keys: Vec<((usize, Due), Pause)>,
    delegation: Pause,
}

/// Doubles with each failure; nothing waits where there was none.
#[derive(Default)]
struct Pause {
    length: Option<Duration>,
    until: Option<Instant>,
}

impl Pause {
    /// Begins one, twice as long as the one before; at most `max`.
    fn failed(&mut self, max: Duration) {
        let length = self.length.map_or(PAUSE_MIN, |before| (before * 2).min(max));
        (self.length, self.until) = (Some(length), Some(Instant::now() + length));
    }

    /// What is left of it.
    fn left(&self) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }
}

impl Pauses {
    /// What is left until this is tried again.
    fn left(&self, due: &(usize, Due)) -> Duration {
        let known = self.keys.iter().find(|(known, _)| known == due);
        known.map_or(Duration::ZERO, |(_, pause)| pause.left())
    }

    fn failed(&mut self, due: (usize, Due)) {
        let place = self.keys.iter().position(|(known, _)| *known == due).unwrap_or_else(|| {
            self.keys.push((due, Pause::default()));
            self.keys.len() - 1
        });
        self.keys[place].1.failed(PAUSE_MAX);
    }
}

/// Does what is due, and says how long to sleep. What fails keeps nothing else waiting.
async fn do_what_is_due(shared: &Arc<Shared>, pauses: &mut Pauses) -> Duration {
    let forgotten = shared.keys.forget_ended_delegations();
    if let Err(error) = &forgotten {
        tracing::error!(%error, "cannot take ended delegations out of the JWKS");
    }
    let tried = do_to_keys(shared, pauses).await;
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
    let mut of_keys = until_next(shared, pauses);
    let mut of_delegations = until_next_delegation(shared).max(pauses.delegation.left());
    // What could not be done is due still.
    if !tried {
        of_keys = of_keys.max(PAUSE_MIN);
    }
    if forgotten.is_err() {
        of_delegations = of_delegations.max(PAUSE_MIN);
    }
    of_keys.min(of_delegations).min(SLEEP_MAX)
}

async fn delegated(shared: &Arc<Shared>) -> Result<(), ApiError> {
    let _turn = shared.keys.turn().await?;
    delegating::delegate(shared).await
}

/// Does what is due to the keys, each thing once, but for what waits for another try. Whether it came to that.
async fn do_to_keys(shared: &Arc<Shared>, pauses: &mut Pauses) -> bool {
    let keys = &shared.keys;
    let due = || keys.look(|rings| rings.due((keys.now)())).unwrap_or_default();
    let all = due();
    pauses.keys.retain(|(known, _)| all.contains(known));
    if all.iter().all(|one| !pauses.left(one).is_zero()) {
        return true;
    }
    let Ok(_turn) = keys.turn().await else { return false };
    let mut tried: Vec<(usize, Due)> = Vec::new();
    // Each thing may make another due. A pause may end while others take their time: the next pass is for that.
    while let Some(next) = due().into_iter().find(|next| !tried.contains(next) && pauses.left(next).is_zero())
    {
        tried.push(next.clone());
        let (place, what) = &next;
        let done: Result<(), ApiError> = match what {
            Due::Activate(kid) => steps::activate(shared, ACTOR, kid).await.map(drop),
            Due::Prepare => steps::prepare(shared, ACTOR, *place, false).await.map(drop),
            Due::Publish(kid) => steps::publish(shared, kid).await,
            Due::Retire(kid) => steps::retire(shared, ACTOR, kid).await.map(drop),
        };
        let is_due = due().contains(&next);
        if let Err(error) = &done {
            tracing::error!(due = ?what, problem = error.description, "cannot do to a signing key what is due; tried again later");
        }
        // What is due once more was not done, whatever it said.
        if done.is_err() || is_due {
            pauses.failed(next);
        }
    }
    true
}

/// How long until something happens to the keys by itself, or is tried again.
fn until_next(shared: &Shared, pauses: &Pauses) -> Duration {
    let keys = &shared.keys;
    let now = (keys.now)();
    let of_ring = |rings: &Rings, place: usize| {
        let ring = rings.at(place);
        let waiting = ring.due(now).into_iter().map(|due| pauses.left(&(place, due))).min();
        waiting.or_else(|| ring.next_at(now).map(|next| Duration::from_millis(next.since(now))))
    };
    let next = keys.look(|rings| (0..rings.len()).filter_map(|place| of_ring(rings, place)).min());
    next.flatten().unwrap_or(SLEEP_MAX)
}

/// How long until something happens to delegated keys by itself.
fn until_next_delegation(shared: &Shared) -> Duration {
    let keys = &shared.keys;
    let now = (keys.now)();
    let active = keys.active();
    let active = active.as_ref().map(|signers| signers.kids()).unwrap_or_default();
    let next = keys.delegations(|delegations| delegations.next_at(&active, now));
    next.map_or(SLEEP_MAX, |next| Duration::from_millis(next.since(now)))
}
