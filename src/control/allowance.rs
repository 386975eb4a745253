//! How often something may be asked for: so often at once, and then once in a while.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A bucket that refills by one in each interval (GCRA, the ATM Forum's generic cell rate algorithm). It lives in memory: a
/// restart fills it.
pub(super) struct Allowance {
    interval: Duration,
    at_once: u32,
    // When the bucket is full again.
    full_at: Mutex<Option<Instant>>,
}

impl Allowance {
    /// `at_once` from the beginning, and one more in each `interval`.
    pub(super) const fn new(at_once: u32, interval: Duration) -> Self {
        Self { interval, at_once, full_at: Mutex::new(None) }
    }

    /// Takes one.
    ///
    /// # Errors
    /// How long until there is one, if there is none at `now`.
    pub(super) fn take(&self, now: Instant) -> Result<(), Duration> {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let refilling = full_at.map_or(Duration::ZERO, |full_at| full_at.saturating_duration_since(now));
        let refilling = refilling + self.interval;
        match refilling.checked_sub(self.interval * self.at_once) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                *full_at = Some(now + refilling);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_followed_by_one_in_each_interval() {
        let minute = Duration::from_secs(60);
        let allowance = Allowance::new(3, minute);
        let start = Instant::now();
        assert_eq!([0; 3].map(|_| allowance.take(start)), [Ok(()); 3]);
        assert_eq!(allowance.take(start), Err(minute));
        assert_eq!(allowance.take(start + minute / 2), Err(minute / 2));
        assert_eq!(allowance.take(start + minute), Ok(()), "one has come back");
        assert_eq!(allowance.take(start + minute), Err(minute), "what was refused cost nothing");
        let later = start + 100 * minute;
        assert_eq!([0; 4].map(|_| allowance.take(later)), [Ok(()), Ok(()), Ok(()), Err(minute)]);
    }
}
