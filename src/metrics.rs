//! Counters: one set per shard, written by that shard alone, summed when scraped.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::decision::{Decision, Rejection};

/// Upper bounds of the latency buckets, in microseconds.
const LATENCY_BOUNDS_US: [u64; 12] =
    [25, 50, 100, 200, 400, 800, 1_600, 5_000, 20_000, 100_000, 500_000, 2_000_000];

/// Upper bounds of the batch-size buckets.
const BATCH_BOUNDS: [u64; 8] = [1, 2, 4, 8, 16, 32, 64, 256];

/// The counters of one shard. Written by the shard's thread, read when scraped.
#[derive(Debug)]
pub struct ShardMetrics {
    accepted: AtomicU64,
    rejected: Vec<AtomicU64>,
    latency: Histogram<12>,
    batch: Histogram<8>,
    /// Answers taken back because their record was not acknowledged in time.
    pub unacknowledged: AtomicU64,
    /// Connections open now.
    pub connections: AtomicU64,
    /// Connections accepted since the start.
    pub connections_accepted: AtomicU64,
    /// Connections refused because the shard had too many.
    pub connections_refused: AtomicU64,
    /// Requests refused because they were not HTTP as spoken here.
    pub http_errors: AtomicU64,
    /// Requests for the other routes.
    pub http_other: AtomicU64,
}

#[derive(Debug)]
struct Histogram<const N: usize> {
    bounds: [u64; N],
    counts: [AtomicU64; N],
    count: AtomicU64,
    sum: AtomicU64,
}

/// Adds one to a counter that only this thread writes: no locked instruction is needed.
pub fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// Takes one from a gauge that only this thread writes.
pub fn drop_one(gauge: &AtomicU64) {
    gauge.store(gauge.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
}

impl<const N: usize> Histogram<N> {
    fn new(bounds: [u64; N]) -> Self {
        Self {
            bounds,
            counts: [const { AtomicU64::new(0) }; N],
            count: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    fn observe(&self, value: u64) {
        if let Some(bucket) = self.bounds.iter().position(|bound| value <= *bound) {
            bump(&self.counts[bucket]);
        }
        bump(&self.count);
        self.sum.store(self.sum.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
    }
}

impl Default for ShardMetrics {
    fn default() -> Self {
        Self {
            accepted: AtomicU64::new(0),
            rejected: Rejection::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            latency: Histogram::new(LATENCY_BOUNDS_US),
            batch: Histogram::new(BATCH_BOUNDS),
            unacknowledged: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            connections_accepted: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            http_errors: AtomicU64::new(0),
            http_other: AtomicU64::new(0),
        }
    }
}

impl ShardMetrics {
    /// Counts one decision.
    pub fn decided(&self, decision: Decision) {
        match decision {
            Decision::Accepted => bump(&self.accepted),
            Decision::Rejected(rejection) => {
                let index = Rejection::ALL.iter().position(|other| *other == rejection);
                bump(&self.rejected[index.expect("every rejection is in ALL")]);
            }
        }
    }

    /// Notes how long an answer took from the arrival of its request to its release.
    pub fn answered(&self, latency: Duration) {
        self.latency.observe(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// Notes how many tokens were decided together.
    pub fn batched(&self, tokens: usize) {
        self.batch.observe(tokens as u64);
    }
}

/// A number some other room reports at scrape time.
pub struct Reading {
    /// The metric's name, without the prefix `edgate_`.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Whether it only grows.
    pub counter: bool,
    /// Its value now.
    pub read: Box<dyn Fn() -> f64 + Send + Sync>,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Everything that can be scraped.
pub struct Metrics {
    registry: Registry,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// The metrics of these shards, with the `readings` of other rooms.
    #[must_use]
    pub fn new(shards: Vec<Arc<ShardMetrics>>, readings: Vec<Reading>) -> Self {
        let mut registry = Registry::with_prefix("edgate");
        registry.register_collector(Box::new(Scrape { shards, readings }));
        Self { registry }
    }

    /// The OpenMetrics text, which Prometheus reads.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        if prometheus_client::encoding::text::encode(&mut text, &self.registry).is_err() {
            text.clear();
            let _ = write!(text, "# EOF");
        }
        text
    }
}

#[derive(Debug)]
struct Scrape {
    shards: Vec<Arc<ShardMetrics>>,
    readings: Vec<Reading>,
}

impl Scrape {
    fn sum(&self, read: impl Fn(&ShardMetrics) -> &AtomicU64) -> u64 {
        self.shards.iter().map(|shard| read(shard).load(Ordering::Relaxed)).sum()
    }

    fn histogram<const N: usize>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        read: impl Fn(&ShardMetrics) -> &Histogram<N>,
        per_unit: f64,
    ) -> std::fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "a histogram's sum and bounds may be rounded")]
        let scaled = |value: u64| value as f64 / per_unit;
        let bounds = read(&self.shards[0]).bounds;
        let mut buckets: Vec<(f64, u64)> = bounds
            .iter()
            .enumerate()
            .map(|(i, bound)| (scaled(*bound), self.sum(|shard| &read(shard).counts[i])))
            .collect();
        let count = self.sum(|shard| &read(shard).count);
        let below: u64 = buckets.iter().map(|(_, count)| count).sum();
        buckets.push((f64::MAX, count.saturating_sub(below)));
        encoder
            .encode_descriptor(name, help, None, MetricType::Histogram)?
            .encode_histogram::<prometheus_client::encoding::NoLabelSet>(
            scaled(self.sum(|shard| &read(shard).sum)),
            count,
            &buckets,
            None,
        )
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut family = encoder.encode_descriptor(
            "decisions",
            "Tokens decided, by decision",
            None,
            MetricType::Counter,
        )?;
        ConstCounter::new(self.sum(|shard| &shard.accepted))
            .encode(family.encode_family(&[("decision", "accepted"), ("reason", "accepted")])?)?;
        for (i, rejection) in Rejection::ALL.iter().enumerate() {
            let count = self.sum(|shard| &shard.rejected[i]);
            ConstCounter::new(count)
                .encode(family.encode_family(&[("decision", "rejected"), ("reason", rejection.name())])?)?;
        }
        let counters: [(&str, &str, u64); 5] = [
            ("connections_accepted", "Connections accepted", self.sum(|shard| &shard.connections_accepted)),
            (
                "connections_refused",
                "Connections refused: a shard had too many",
                self.sum(|shard| &shard.connections_refused),
            ),
            (
                "http_errors",
                "Requests that were not HTTP as spoken here",
                self.sum(|shard| &shard.http_errors),
            ),
            (
                "audit_unacknowledged",
                "Answers taken back because their record was not acknowledged in time",
                self.sum(|shard| &shard.unacknowledged),
            ),
            ("http_other", "Requests for routes that decide nothing", self.sum(|shard| &shard.http_other)),
        ];
        for (name, help, value) in counters {
            ConstCounter::new(value).encode(encoder.encode_descriptor(
                name,
                help,
                None,
                MetricType::Counter,
            )?)?;
        }
        let open = i64::try_from(self.sum(|shard| &shard.connections)).unwrap_or(i64::MAX);
        ConstGauge::new(open).encode(encoder.encode_descriptor(
            "connections",
            "Connections open now",
            None,
            MetricType::Gauge,
        )?)?;
        let latency = "From the arrival of a request to the release of its answer";
        self.histogram(&mut encoder, "answer_seconds", latency, |shard| &shard.latency, 1e6)?;
        self.histogram(&mut encoder, "batch_tokens", "Tokens decided together", |shard| &shard.batch, 1.0)?;
        for reading in &self.readings {
            let value = (reading.read)();
            if reading.counter {
                let descriptor =
                    encoder.encode_descriptor(reading.name, reading.help, None, MetricType::Counter)?;
                ConstCounter::new(value).encode(descriptor)?;
            } else {
                let descriptor =
                    encoder.encode_descriptor(reading.name, reading.help, None, MetricType::Gauge)?;
                ConstGauge::new(value).encode(descriptor)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_summed() {
        let shards: Vec<_> = (0..2).map(|_| Arc::new(ShardMetrics::default())).collect();
        shards[0].decided(Decision::Accepted);
        shards[1].decided(Decision::Accepted);
        shards[1].decided(Decision::Rejected(Rejection::Expired));
        shards[0].answered(Duration::from_micros(30));
        shards[0].batched(5);
        let reading = Reading { name: "x", help: "X", counter: false, read: Box::new(|| 2.5) };
        let text = Metrics::new(shards, vec![reading]).render();
        assert!(
            text.contains("edgate_decisions_total{decision=\"accepted\",reason=\"accepted\"} 2\n"),
            "{text}"
        );
        assert!(text.contains("edgate_decisions_total{decision=\"rejected\",reason=\"expired\"} 1\n"));
        assert!(text.contains("edgate_answer_seconds_count 1\n"));
        assert!(text.contains("edgate_answer_seconds_bucket{le=\"0.00005\"} 1\n"), "{text}");
        assert!(text.contains("edgate_batch_tokens_bucket{le=\"8.0\"} 1\n"), "{text}");
        assert!(text.contains("edgate_x 2.5\n"));
    }
}
