//! What the pool counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::lanes::LANES;
use crate::CallError;

/// Bounds of the histogram buckets in microseconds; the last bucket is open.
pub const BUCKETS_US: [u64; 12] =
    [50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 50_000, 250_000, 1_000_000, 5_000_000];

/// Different (function, code) pairs counted; modules have vendor codes without number.
const CODES_MAX: usize = 256;

/// Counters, written by all threads of the pool.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) signed: AtomicU64,
    pub(crate) overloaded: AtomicU64,
    pub(crate) deadline_passed: AtomicU64,
    pub(crate) signature_faults: AtomicU64,
    pub(crate) reinitialized: AtomicU64,
    pub(crate) logins: AtomicU64,
    pub(crate) sessions_opened: AtomicU64,
    pub(crate) sessions_closed: AtomicU64,
    pub(crate) workers_lost: AtomicU64,
    pub(crate) wait: Histogram,
    pub(crate) call: Histogram,
    pub(crate) verify: Histogram,
    codes: Mutex<BTreeMap<(String, String), u64>>,
}

/// Durations by size.
#[derive(Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
    sum_us: AtomicU64,
}

/// A histogram as read: counts per bucket of [`BUCKETS_US`], and the sum.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durations {
    /// Counts, not cumulative; the last is above all bounds.
    pub buckets: [u64; BUCKETS_US.len() + 1],
    /// Sum of all durations.
    pub sum: Duration,
}

/// What a pool has done so far. Plain numbers for a scraper.
#[derive(Debug, Clone, Default)]
pub struct PoolMetrics {
    /// Jobs waiting: TLS, audit, token, wrapping.
    pub queued: [usize; LANES],
    /// Jobs not answered yet, queued or in the token.
    pub outstanding: usize,
    /// Signatures that left.
    pub signed: u64,
    /// Jobs refused because a lane was full.
    pub overloaded: u64,
    /// Jobs answered by their deadline.
    pub deadline_passed: u64,
    /// Signatures discarded because they did not verify.
    pub signature_faults: u64,
    /// Times the module was re-initialised.
    pub reinitialized: u64,
    /// Logins made.
    pub logins: u64,
    /// Sessions open now, the keeper's included.
    pub sessions: u64,
    /// Workers written off because a call did not return.
    pub workers_lost: u64,
    /// Workers inside such a call now.
    pub workers_stuck: usize,
    /// Connections to an agent that broke.
    pub agent_lost: u64,
    /// Errors by (function, code).
    pub errors: BTreeMap<(String, String), u64>,
    /// From submission to a worker.
    pub wait: Durations,
    /// In the module.
    pub call: Durations,
    /// Verifying before release.
    pub verify: Durations,
}

impl PoolMetrics {
    /// Adds another pool's numbers.
    pub(crate) fn add(&mut self, other: &Self) {
        let Self {
            queued,
            outstanding,
            signed,
            overloaded,
            deadline_passed,
            signature_faults,
            reinitialized,
            logins,
            sessions,
            workers_lost,
            workers_stuck,
            agent_lost,
            errors,
            wait,
            call,
            verify,
        } = other;
        self.queued.iter_mut().zip(queued).for_each(|(sum, queued)| *sum += queued);
        self.outstanding += outstanding;
        self.signed += signed;
        self.overloaded += overloaded;
        self.deadline_passed += deadline_passed;
        self.signature_faults += signature_faults;
        self.reinitialized += reinitialized;
        self.logins += logins;
        self.sessions += sessions;
        self.workers_lost += workers_lost;
        self.workers_stuck += workers_stuck;
        self.agent_lost += agent_lost;
        for (code, count) in errors {
            *self.errors.entry(code.clone()).or_default() += count;
        }
        self.wait.add(wait);
        self.call.add(call);
        self.verify.add(verify);
    }
}

impl Durations {
    fn add(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(sum, count)| *sum += count);
        self.sum += other.sum;
    }
}

impl Counters {
    pub(super) fn note_error(&self, error: &CallError) {
        let mut codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (error.function().to_owned(), error.code().to_owned());
        if codes.len() < CODES_MAX || codes.contains_key(&key) {
            *codes.entry(key).or_default() += 1;
        }
    }

    /// Sessions open now.
    pub(super) fn sessions(&self) -> u64 {
        let opened = self.sessions_opened.load(Ordering::Relaxed);
        opened.saturating_sub(self.sessions_closed.load(Ordering::Relaxed))
    }

    pub(crate) fn read(&self) -> PoolMetrics {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PoolMetrics {
            signed: count(&self.signed),
            overloaded: count(&self.overloaded),
            deadline_passed: count(&self.deadline_passed),
            signature_faults: count(&self.signature_faults),
            reinitialized: count(&self.reinitialized),
            logins: count(&self.logins),
            sessions: self.sessions(),
            workers_lost: count(&self.workers_lost),
            errors: self.codes.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            wait: self.wait.read(),
            call: self.call.read(),
            verify: self.verify.read(),
            ..PoolMetrics::default()
        }
    }
}

impl Histogram {
    pub(crate) fn note(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.partition_point(|bound| us > *bound);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// The mean so far; zero if nothing was noted.
    pub(super) fn mean(&self) -> Duration {
        let count = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum::<u64>();
        let sum = self.sum_us.load(Ordering::Relaxed);
        Duration::from_micros(sum.checked_div(count).unwrap_or(0))
    }

    fn read(&self) -> Durations {
        Durations {
            buckets: std::array::from_fn(|index| self.buckets[index].load(Ordering::Relaxed)),
            sum: Duration::from_micros(self.sum_us.load(Ordering::Relaxed)),
        }
    }
}

pub(crate) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
