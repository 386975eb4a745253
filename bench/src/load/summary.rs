//! What a run comes down to: the table for people, the object for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::client::{Outcome, SLICE};

/// The figures of one run. Times are microseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// What was measured, in the words of whoever started the run.
    pub label: String,
    /// Measured answers.
    pub answers: u64,
    /// Seconds from the start of the measurement to the last answer.
    pub seconds: f64,
    /// Answers per second.
    pub throughput: f64,
    /// Latency from the moment a request was due to the end of its answer.
    pub latency_us: Latency,
    /// Measured answers per status code.
    pub statuses: BTreeMap<u16, u64>,
    /// Answers with a wrong verdict or that could not be read.
    pub mismatches: u64,
    /// Requests whose connection ended before their answer.
    pub lost: u64,
    /// Connections opened again.
    pub reconnects: u64,
    /// At a fixed rate: requests due and never sent.
    pub unsent: u64,
    /// The first few errors in words.
    pub complaints: Vec<String>,
    /// The server's processor time; absent without its process id.
    pub cpu: Option<CpuPerDecision>,
    /// Processors this client kept busy; near 1 it is the bottleneck.
    pub client_cores: f64,
    /// The latency curve, for the picture.
    #[serde(skip)]
    pub curve: Vec<CurvePoint>,
    /// Throughput over time, for the picture: seconds since the start and answers per second.
    #[serde(skip)]
    pub timeline: Vec<(f64, f64)>,
}

/// Latency in microseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p99_9: f64,
    /// The slowest answer.
    pub max: f64,
}

/// One point of the latency curve.
#[derive(Debug, Clone, Copy)]
pub struct CurvePoint {
    /// Share of the answers that were not slower, in per cent, below 100.
    pub percentile: f64,
    /// Microseconds.
    pub latency_us: f64,
}

/// The server's processor time divided by its answers, in microseconds.
#[derive(Debug, Clone, Serialize)]
pub struct CpuPerDecision {
    /// User and kernel time of all threads.
    pub total_us: f64,
    /// The part in user mode, from clock ticks.
    pub user_us: f64,
    /// The part in the kernel, from clock ticks.
    pub system_us: f64,
    /// Processors kept busy, on average.
    pub cores: f64,
    /// The total by thread name, largest first, where the kernel tells.
    pub threads: Vec<ThreadCpu>,
}

/// One thread name's part of the processor time.
#[derive(Debug, Clone, Serialize)]
pub struct ThreadCpu {
    /// As the server named it.
    pub name: String,
    /// Microseconds per decision.
    pub us: f64,
}

/// Points of the throughput curve, at most.
const TIMELINE_POINTS_MAX: usize = 160;

/// Threads below this share of the total are left out of the table.
const THREAD_SHARE_MIN: f64 = 0.01;

impl Summary {
    /// Reduces `outcome` to its figures.
    #[must_use]
    pub fn new(label: &str, outcome: &Outcome) -> Self {
        let answers = outcome.latency.count();
        let seconds = outcome.elapsed.as_secs_f64();
        let percentile = |p| us(outcome.latency.percentile(p));
        Self {
            label: label.to_owned(),
            answers,
            seconds,
            throughput: if seconds > 0.0 { answers as f64 / seconds } else { 0.0 },
            latency_us: Latency {
                mean: outcome.latency.mean() / 1000.0,
                p50: percentile(50.0),
                p90: percentile(90.0),
                p99: percentile(99.0),
                p99_9: percentile(99.9),
                max: us(outcome.latency.max()),
            },
            statuses: outcome.statuses.clone(),
            mismatches: outcome.mismatches,
            lost: outcome.lost,
            reconnects: outcome.reconnects,
            unsent: outcome.unsent,
            complaints: outcome.complaints.clone(),
            cpu: cpu_per_decision(outcome, answers, seconds),
            client_cores: if seconds > 0.0 {
                outcome.client_cpu.total().as_secs_f64() / seconds
            } else {
                0.0
            },
            curve: curve(outcome),
            timeline: timeline(&outcome.timeline, outcome.elapsed),
        }
    }

    /// Whether every answer came and was right.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.mismatches == 0 && self.lost == 0
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { latency_us: latency, .. } = self;
        writeln!(f, "{}", self.label)?;
        let seconds = self.seconds;
        writeln!(f, "  answers     {:>12}   in {seconds:.2} s", grouped(self.answers as f64))?;
        writeln!(f, "  throughput  {:>12} /s", grouped(self.throughput))?;
        writeln!(
            f,
            "  latency     p50 {}   p90 {}   p99 {}   p99.9 {}   max {}",
            time(latency.p50),
            time(latency.p90),
            time(latency.p99),
            time(latency.p99_9),
            time(latency.max)
        )?;
        let statuses: Vec<String> = self
            .statuses
            .iter()
            .map(|(status, count)| format!("{status}: {}", grouped(*count as f64)))
            .collect();
        writeln!(f, "  statuses    {}", statuses.join("   "))?;
        if let Some(cpu) = &self.cpu {
            writeln!(
                f,
                "  server CPU  {:.2} µs per decision (user {:.2}, system {:.2}), {:.2} cores busy",
                cpu.total_us, cpu.user_us, cpu.system_us, cpu.cores
            )?;
            let threads: Vec<String> = cpu
                .threads
                .iter()
                .filter(|thread| thread.us >= cpu.total_us * THREAD_SHARE_MIN)
                .map(|thread| format!("{} {:.2}", thread.name, thread.us))
                .collect();
            if threads.len() > 1 {
                writeln!(f, "  by thread   {}", threads.join("   "))?;
            }
        }
        writeln!(f, "  client      {:.2} cores busy", self.client_cores)?;
        if self.reconnects + self.unsent > 0 {
            writeln!(f, "  reconnects  {}   due and never sent {}", self.reconnects, self.unsent)?;
        }
        if !self.is_clean() {
            writeln!(f, "  ERRORS      {} wrong, {} lost", self.mismatches, self.lost)?;
        }
        for complaint in &self.complaints {
            writeln!(f, "    {complaint}")?;
        }
        Ok(())
    }
}

/// Microseconds for people: three digits and a fitting unit.
#[must_use]
pub fn time(us: f64) -> String {
    let (value, unit) = match us {
        _ if us < 1_000.0 => (us, "µs"),
        _ if us < 1_000_000.0 => (us / 1e3, "ms"),
        _ => (us / 1e6, "s"),
    };
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$} {unit}")
}

/// A whole number for people, in groups of three digits.
#[must_use]
pub fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The middle of `values`, or the mean of the middle two; `NaN` when empty.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

fn cpu_per_decision(outcome: &Outcome, answers: u64, seconds: f64) -> Option<CpuPerDecision> {
    let cpu = outcome.cpu.as_ref().filter(|_| answers > 0)?;
    let per_decision = |time: Duration| time.as_secs_f64() * 1e6 / answers as f64;
    let mut threads: Vec<ThreadCpu> = cpu
        .threads
        .iter()
        .map(|(name, time)| ThreadCpu { name: name.clone(), us: per_decision(*time) })
        .collect();
    threads.sort_by(|a, b| b.us.total_cmp(&a.us));
    Some(CpuPerDecision {
        total_us: per_decision(cpu.total()),
        user_us: per_decision(cpu.user),
        system_us: per_decision(cpu.system),
        cores: if seconds > 0.0 { cpu.total().as_secs_f64() / seconds } else { 0.0 },
        threads,
    })
}

/// Points at even steps of "nines" (90 %, 99 %, …) and between, up to the last single answer.
fn curve(outcome: &Outcome) -> Vec<CurvePoint> {
    let count = outcome.latency.count();
    if count == 0 {
        return Vec::new();
    }
    const POINTS_PER_NINE: u32 = 12;
    let nines = (count as f64).log10();
    (1u32..)
        .map(|i| f64::from(i) / f64::from(POINTS_PER_NINE))
        .take_while(|nine| *nine < nines)
        .chain([nines])
        .map(|nine| {
            let percentile = 100.0 * (1.0 - 10f64.powf(-nine));
            CurvePoint { percentile, latency_us: us(outcome.latency.percentile(percentile)) }
        })
        .collect()
}

/// Answers per second in at most [`TIMELINE_POINTS_MAX`] steps; the last, cut-off step is left out of a longer run.
fn timeline(slices: &[u64], elapsed: Duration) -> Vec<(f64, f64)> {
    let step = slices.len().div_ceil(TIMELINE_POINTS_MAX).max(1);
    let seconds = SLICE.as_secs_f64() * step as f64;
    let mut points: Vec<(f64, f64)> = slices
        .chunks(step)
        .enumerate()
        .map(|(i, chunk)| (i as f64 * seconds, chunk.iter().sum::<u64>() as f64 / seconds))
        .collect();
    let whole = elapsed.as_secs_f64() / seconds;
    if points.len() > 1 && (points.len() as f64) > whole {
        points.pop();
    }
    points
}

fn us(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::load::cpu::CpuTime;
    use crate::load::histogram::Histogram;

    pub(in crate::load) fn outcome(answers: u64) -> Outcome {
        let mut latency = Histogram::default();
        for i in 1..=answers {
            latency.record(i * 1000);
        }
        Outcome {
            latency,
            statuses: [(200, answers)].into(),
            timeline: vec![answers / 20; 20],
            elapsed: Duration::from_secs(1),
            mismatches: 0,
            complaints: Vec::new(),
            lost: 0,
            reconnects: 0,
            unsent: 0,
            client_cpu: CpuTime { user: Duration::from_millis(500), ..CpuTime::default() },
            cpu: Some(CpuTime {
                user: Duration::from_millis(30),
                system: Duration::from_millis(10),
                threads: [
                    ("audit".to_owned(), Duration::from_millis(8)),
                    ("shard-0".to_owned(), Duration::from_millis(32)),
                ]
                .into(),
            }),
        }
    }

    #[test]
    fn figures_follow_from_the_outcome() {
        let summary = Summary::new("run", &outcome(1000));
        assert_eq!(summary.throughput, 1000.0);
        assert!((summary.latency_us.p50 - 500.0).abs() < 5.0, "{}", summary.latency_us.p50);
        assert_eq!(summary.latency_us.max, 1000.0);
        let cpu = summary.cpu.as_ref().unwrap();
        assert_eq!((cpu.total_us, cpu.user_us, cpu.system_us), (40.0, 30.0, 10.0));
        assert_eq!(cpu.threads[0].name, "shard-0");
        assert_eq!(summary.client_cores, 0.5);
        assert_eq!(summary.timeline.len(), 20);
        assert_eq!(summary.timeline[3].1, 1000.0);
        assert!(summary.curve.is_sorted_by(|a, b| a.latency_us <= b.latency_us));
    }

    #[test]
    fn table_shows_errors_only_when_there_are_some() {
        let clean = Summary::new("run", &outcome(100));
        assert!(clean.is_clean() && !clean.to_string().contains("ERRORS"));
        let mut failed = outcome(100);
        failed.mismatches = 2;
        failed.complaints = vec!["token 7 should be rejected; the answer is 200".to_owned()];
        let table = Summary::new("run", &failed).to_string();
        assert!(table.contains("2 wrong, 0 lost") && table.contains("token 7"), "{table}");
    }

    #[test]
    fn json_names_units() {
        let json = serde_json::to_value(Summary::new("run", &outcome(100))).unwrap();
        assert_eq!(json["latency_us"]["max"], 100.0);
        assert_eq!(json["statuses"]["200"], 100);
        assert_eq!(json["cpu"]["threads"][0]["name"], "shard-0");
    }

    #[test]
    fn run_without_answers_has_no_figures_to_divide() {
        let summary = Summary::new("run", &outcome(0));
        assert!(summary.cpu.is_none() && summary.curve.is_empty());
        assert!(summary.to_string().contains("answers"));
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            (time(9.876), time(98.76), time(987.6)),
            ("9.88 µs".into(), "98.8 µs".into(), "988 µs".into())
        );
        assert_eq!((time(1_234.0), time(2_500_000.0)), ("1.23 ms".into(), "2.50 s".into()));
        assert_eq!(
            (grouped(0.0), grouped(999.6), grouped(1_234_567.0)),
            ("0".into(), "1,000".into(), "1,234,567".into())
        );
    }

    #[test]
    fn median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
