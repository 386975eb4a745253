//! From the state database into the view: at start, and out of both when entries have died.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::decision::UnixSeconds;
use crate::revocation::{PURGE_DELAY_S, View};
use crate::store::{LoadProgress, Store, StoreError};

/// How long a revocation stays on disk after it expired: if the clock was ahead by up to a day and is set right, a
/// restart still finds it.
const ROW_DELAY_S: u64 = 86_400;

/// Time between purges.
const PURGE_INTERVAL: Duration = Duration::from_secs(60);

/// Slots of the view looked at by one purge: a fraction of a millisecond.
const PURGE_SLOTS: usize = 65_536;

/// Fills the view with every revocation in force. Nothing may be decided before it has returned.
///
/// # Errors
/// What the state database said; the view is incomplete then and must not be used.
pub async fn fill_view(
    store: &Store,
    view: &View,
    now: UnixSeconds,
    mut progress: impl FnMut(LoadProgress),
) -> Result<u64, StoreError> {
    let from = UnixSeconds(now.0.saturating_sub(PURGE_DELAY_S));
    let mut sized = false;
    let loaded = store
        .load_view(from, |batch, done| {
            // Counting millions of rows takes a second: once is enough.
            if !std::mem::replace(&mut sized, true) {
                view.reserve(usize::try_from(done.total).unwrap_or(usize::MAX));
            }
            view.apply(batch.iter().copied(), 0, now);
            progress(done);
        })
        .await?;
    // Where nodes share Redis, only the follower knows that everything up to an epoch is here.
    if view.freshness().is_authoritative() {
        view.apply([], store.revocation_epoch().await?, now);
    }
    Ok(loaded)
}

/// Lets expired revocations leave, once a minute, for as long as it is polled.
pub(super) async fn purge_expired(store: Store, view: Arc<View>, now: fn() -> UnixSeconds) {
    let mut minutes = tokio::time::interval(PURGE_INTERVAL);
    minutes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        minutes.tick().await;
        view.purge(now(), PURGE_SLOTS);
        let horizon = UnixSeconds(now().0.saturating_sub(ROW_DELAY_S));
        let purged = match store.purge_changes(horizon).await {
            Ok(_) => store.purge_nonces(horizon).await,
            failed => failed,
        };
        if let Err(error) = purged {
            tracing::warn!(%error, "cannot purge expired revocations; trying again in a minute");
        }
        if let Err(error) = store.purge_events(horizon).await {
            tracing::warn!(%error, "cannot purge old security events; trying again in a minute");
        }
        // A place is given to another token as soon as no clock that was set back could revive the last one.
        let horizon = UnixSeconds(now().0.saturating_sub(PURGE_DELAY_S));
        if let Err(error) = store.purge_status_indexes(horizon).await {
            tracing::warn!(%error, "cannot free places in the status list; trying again in a minute");
        }
    }
}
