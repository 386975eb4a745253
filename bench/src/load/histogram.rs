//! Latencies in buckets of bounded relative width, so that a run of any length needs the same memory.

/// Each power of two is cut into this many buckets: a recorded value is known to better than 0.8 %.
const BUCKETS_PER_OCTAVE: usize = 1 << OCTAVE_BITS;
const OCTAVE_BITS: u32 = 7;
const BUCKETS: usize = (64 - OCTAVE_BITS as usize + 1) * BUCKETS_PER_OCTAVE;

/// Counts of values, here nanoseconds; values below 128 are exact.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum: u128,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, sum: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts `value` once.
    pub fn record(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
        self.sum += u128::from(value);
        self.max = self.max.max(value);
    }

    /// How many values were recorded.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.total
    }

    /// The largest value, exactly; 0 when empty.
    #[must_use]
    pub const fn max(&self) -> u64 {
        self.max
    }

    /// The mean, exactly; 0 when empty.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.total == 0 { 0.0 } else { self.sum as f64 / self.total as f64 }
    }

    /// The smallest value that at least `percentile` per cent of the values do not exceed, rounded up to its
    /// bucket's end; 0 when empty.
    #[must_use]
    pub fn percentile(&self, percentile: f64) -> u64 {
        if self.total == 0 {
            return 0;
        }
        let share = (percentile / 100.0).clamp(0.0, 1.0);
        // The rank of the wanted value, from 1. The tiny subtraction keeps 99.9 % of 1000 at 999 although
        // 0.999 * 1000.0 is a little above it.
        #[expect(clippy::cast_possible_truncation, reason = "between 0 and `total`")]
        #[expect(clippy::cast_sign_loss, reason = "between 0 and `total`")]
        let rank = ((share * self.total as f64 - 1e-6).ceil() as u64).clamp(1, self.total);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return last_value(index).min(self.max);
            }
        }
        self.max
    }
}

/// The bucket `value` belongs to.
fn bucket(value: u64) -> usize {
    let magnitude = 63 - (value | 1).leading_zeros();
    let shift = magnitude.saturating_sub(OCTAVE_BITS);
    #[expect(clippy::cast_possible_truncation, reason = "below 256 after the shift")]
    let mantissa = (value >> shift) as usize;
    shift as usize * BUCKETS_PER_OCTAVE + mantissa
}

/// The largest value of a bucket.
fn last_value(index: usize) -> u64 {
    let shift = (index / BUCKETS_PER_OCTAVE).saturating_sub(1);
    let mantissa = (index - shift * BUCKETS_PER_OCTAVE) as u64;
    (mantissa << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::Random;

    #[test]
    fn every_bucket_ends_where_the_next_begins() {
        for index in 0..BUCKETS - 1 {
            let last = last_value(index);
            assert_eq!(bucket(last), index);
            assert_eq!(bucket(last + 1), index + 1);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(last_value(BUCKETS - 1), u64::MAX);
    }

    #[test]
    fn small_values_have_exact_percentiles() {
        let mut histogram = Histogram::default();
        for value in 1..=100 {
            histogram.record(value);
        }
        assert_eq!(histogram.percentile(50.0), 50);
        assert_eq!(histogram.percentile(90.0), 90);
        assert_eq!(histogram.percentile(99.0), 99);
        assert_eq!(histogram.percentile(99.9), 100);
        assert_eq!(histogram.percentile(0.0), 1);
        assert_eq!(histogram.percentile(100.0), 100);
        assert_eq!(histogram.mean(), 50.5);
    }

    #[test]
    fn percentiles_agree_with_a_sorted_list_within_one_per_cent() {
        let seed = 11;
        let mut random = Random::new(seed);
        let mut histogram = Histogram::default();
        let mut values: Vec<u64> = (0..10_000)
            .map(|_| {
                let value = random.next_u64() >> (20 + random.next_u64() % 30);
                histogram.record(value);
                value
            })
            .collect();
        values.sort_unstable();
        for (percentile, rank) in
            [(50.0, 5_000), (90.0, 9_000), (99.0, 9_900), (99.9, 9_990), (100.0, 10_000)]
        {
            let exact = values[rank - 1];
            let found = histogram.percentile(percentile);
            assert!(
                found >= exact && found as f64 <= exact as f64 * 1.008,
                "p{percentile}: {found} for {exact} (seed {seed})"
            );
        }
    }

    #[test]
    fn empty_histogram_answers_zero() {
        let histogram = Histogram::default();
        assert_eq!((histogram.percentile(99.0), histogram.max(), histogram.count()), (0, 0, 0));
    }
}
