//! How many times faster: ours and the peer's work timed in turn, so that a slow moment of the machine hits both.
//!
//! Criterion measures one thing after the other; on a shared machine the clock speed drifts in between. The ratios this
//! project states come from here, the absolute times from criterion.

use std::fmt;
use std::time::{Duration, Instant};

use crate::load::summary::median;

/// The peer's time divided by ours, over several rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// The middle round.
    pub median: f64,
    /// The round that was worst for us.
    pub least: f64,
    /// The round that was best for us.
    pub most: f64,
}

/// Times `ours` and `peer` in turn for `rounds` rounds, each for about `slice`, in units of the same work.
///
/// # Panics
/// `rounds` is 0.
pub fn interleaved(rounds: usize, slice: Duration, mut ours: impl FnMut(), mut peer: impl FnMut()) -> Ratio {
    assert!(rounds > 0, "a ratio needs a round");
    // Warm caches and branch predictors, and the clock.
    per_call(slice, &mut ours);
    per_call(slice, &mut peer);
    let ratios: Vec<f64> = (0..rounds)
        .map(|_| {
            let own = per_call(slice, &mut ours);
            per_call(slice, &mut peer) / own
        })
        .collect();
    Ratio::of(&ratios)
}

impl Ratio {
    /// The ratios of several rounds, each of two things measured in turn.
    #[must_use]
    pub fn of(rounds: &[f64]) -> Self {
        Self {
            median: median(rounds),
            least: rounds.iter().copied().fold(f64::INFINITY, f64::min),
            most: rounds.iter().copied().fold(0.0, f64::max),
        }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$}x ({:.digits$}..{:.digits$})", self.median, self.least, self.most)
    }
}

/// Mean seconds per call over about `slice`, and at least one call.
fn per_call(slice: Duration, work: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut calls = 0u32;
    loop {
        work();
        calls += 1;
        let elapsed = start.elapsed();
        if elapsed >= slice {
            return elapsed.as_secs_f64() / f64::from(calls);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_lies_between_its_worst_and_its_best_round() {
        let work = |n: u64| {
            let mut random = crate::inputs::Random::new(n);
            move || {
                for _ in 0..n {
                    std::hint::black_box(random.next_u64());
                }
            }
        };
        let ratio = interleaved(9, Duration::from_millis(2), work(1_000), work(10_000));
        assert!(ratio.least <= ratio.median && ratio.median <= ratio.most);
        // How large it is depends on what else the machine does: that is for a bench, not for a test.
        assert!(ratio.least > 0.0, "{ratio}");
    }
}
