//! How old the view may be.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Until when the view is known to hold everything. Written by the follower, read by every shard.
///
/// Where this node alone revokes, the view is the truth and has no age. Where nodes share Redis, the follower confirms
/// the view each time Redis said that nothing is newer than what was applied.
#[derive(Debug)]
pub struct Freshness {
    // What `confirmed_us` counts from.
    origin: Instant,
    confirmed_us: AtomicU64,
}

impl Freshness {
    /// The view is the truth.
    #[must_use]
    pub fn authoritative(origin: Instant) -> Self {
        Self { origin, confirmed_us: AtomicU64::new(AUTHORITATIVE) }
    }

    /// The view follows; nothing is confirmed yet. `origin` is any time before the first confirmation.
    #[must_use]
    pub fn following(origin: Instant) -> Self {
        Self { origin, confirmed_us: AtomicU64::new(NEVER) }
    }

    /// Whether the view is the truth.
    #[must_use]
    pub fn is_authoritative(&self) -> bool {
        self.confirmed_us.load(Ordering::Acquire) == AUTHORITATIVE
    }

    /// The view holds everything that had been revoked at `as_of`.
    pub fn confirm(&self, as_of: Instant) {
        let us = u64::try_from(as_of.duration_since(self.origin).as_micros()).unwrap_or(u64::MAX);
        // At least 1, which is not `NEVER`, and never the truth itself.
        self.confirmed_us.fetch_max(us.clamp(1, AUTHORITATIVE - 1), Ordering::Release);
    }

    /// The view is known to lack something: it has no known age until it is confirmed again.
    pub fn doubt(&self) {
        // The truth does not follow and is not doubted.
        let doubted = |us| (us != AUTHORITATIVE).then_some(NEVER);
        let _ = self.confirmed_us.fetch_update(Ordering::AcqRel, Ordering::Acquire, doubted);
    }

    /// Time since the view was known to hold everything; `Duration::MAX` where that was never, or is in doubt.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        self.as_of().age(now)
    }

    /// As of when the view is known to hold everything, as a value: it does not follow what is confirmed later.
    pub(super) fn as_of(&self) -> AsOf {
        AsOf { origin: self.origin, confirmed_us: self.confirmed_us.load(Ordering::Acquire) }
    }
}

/// As of when a view was known to hold everything.
#[derive(Debug, Clone, Copy)]
pub(super) struct AsOf {
    origin: Instant,
    confirmed_us: u64,
}

impl AsOf {
    /// Time since then.
    pub(super) fn age(self, now: Instant) -> Duration {
        match self.confirmed_us {
            AUTHORITATIVE => Duration::ZERO,
            NEVER => Duration::MAX,
            us => now.saturating_duration_since(self.origin + Duration::from_micros(us)),
        }
    }
}

const NEVER: u64 = 0;
const AUTHORITATIVE: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_counts_from_the_latest_confirmation() {
        let origin = Instant::now();
        let at = |ms| origin + Duration::from_millis(ms);
        let freshness = Freshness::following(origin);
        assert_eq!(freshness.age(at(5)), Duration::MAX);
        freshness.confirm(at(10));
        freshness.confirm(at(7));
        assert_eq!(freshness.age(at(25)), Duration::from_millis(15));
        assert_eq!(freshness.age(at(3)), Duration::ZERO);
        freshness.doubt();
        assert_eq!(freshness.age(at(25)), Duration::MAX);
        freshness.confirm(origin);
        assert!(freshness.age(at(1)) < Duration::from_millis(1));
    }

    #[test]
    fn the_truth_has_no_age() {
        let freshness = Freshness::authoritative(Instant::now());
        freshness.doubt();
        assert_eq!(freshness.age(Instant::now() + Duration::from_secs(9)), Duration::ZERO);
    }
}
