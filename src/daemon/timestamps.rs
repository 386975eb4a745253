//! The thread that has the log's checkpoints stamped by an authority elsewhere, every `audit.timestamp.interval_s`.
//!
//! It takes what the sealer published and writes files of its own, so nothing of the log waits for it; what it could not
//! have stamped now it has stamped later, in the state that is then the latest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::anchors::Anchors;
use super::hsm_metrics::{family, line};
use super::{StartError, now};
use crate::audit::timestamp::{Authorities, Authority, StampError, Stamped, Stamper};
use crate::audit::{AnchorEvent, Log, Published, Subscription, Taken};
use crate::config::{self, Config};
use crate::control::Dependency;

/// The running thread.
pub(super) struct TimestampThread {
    subscription: Subscription,
    thread: JoinHandle<()>,
    standing: StampReader,
}

/// How the authority and this log get on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Standing {
    // Records of the latest state that was stamped, and when that was by the authority's clock.
    newest: Option<(u64, i64)>,
    // Why the last try came to nothing, if so.
    problem: Option<String>,
    // Failures since the start, by the word for them.
    failures: BTreeMap<&'static str, u64>,
}

/// Reads how they get on. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct StampReader(Arc<Mutex<Standing>>);

/// Checks what the settings say about the authority, if they name one.
pub(super) fn check(config: &Config) -> Result<(), StartError> {
    let Some(settings) = &config.audit.timestamp else { return Ok(()) };
    stamper(settings, &config.audit.dir).map(drop).map_err(|problem| StartError::Timestamp { problem })
}

/// Reads what is believed: anew for each try, since revocation lists are replaced before they expire.
fn stamper(settings: &config::Timestamp, dir: &Path) -> Result<Stamper, String> {
    let config::Timestamp { url, ca_file, crl_file, policy, .. } = settings;
    let trusted = Authorities::load(ca_file, crl_file.as_deref())?;
    let authority = Authority { url: url.clone(), trusted, policy: policy.clone(), timeout: TIMEOUT };
    Ok(Stamper::beside(dir, authority))
}

impl TimestampThread {
    /// Starts it, where the settings name an authority.
    pub(super) fn start(config: &Config, log: &Log, anchors: Anchors) -> Result<Option<Self>, StartError> {
        let Some(settings) = &config.audit.timestamp else { return Ok(None) };
        let subscription = log.subscribe();
        let standing = StampReader::default();
        let stamping = Stamping {
            settings: settings.clone(),
            dir: config.audit.dir.clone(),
            subscription: subscription.clone(),
            anchors,
            standing: standing.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("audit-stamp".to_owned())
            .spawn(move || stamping.run())
            .map_err(|error| StartError::System { what: "start the thread for timestamps", error })?;
        Ok(Some(Self { subscription, thread, standing }))
    }

    /// How it goes.
    pub(super) fn standing(&self) -> StampReader {
        self.standing.clone()
    }

    /// Ends it, after the exchange under way.
    pub(super) fn stop(self) {
        self.subscription.close();
        // It ends by returning; a panic aborts the process.
        let _ = self.thread.join();
    }
}

struct Stamping {
    settings: config::Timestamp,
    // The log's folder.
    dir: PathBuf,
    subscription: Subscription,
    anchors: Anchors,
    standing: StampReader,
}

impl Stamping {
    fn run(self) {
        let mut waiting: Option<String> = None;
        let mut failures = 0;
        let mut pause = self.first_pause();
        loop {
            if self.subscription.pause(pause) {
                return;
            }
            // While one waits for its second try a newer one may take its place.
            let timeout = if waiting.is_some() { Duration::ZERO } else { TAKE_TIMEOUT };
            match self.subscription.take(timeout) {
                Taken::Closed => return,
                Taken::Nothing => {}
                Taken::Published(Published { note, .. }) => waiting = Some(note),
            }
            pause = match &waiting {
                None => Duration::ZERO,
                Some(note) => match self.stamp(note) {
                    Ok(stamped) => {
                        (waiting, failures) = (None, 0);
                        self.stamped(&stamped);
                        self.settings.interval
                    }
                    Err(failure) => {
                        failures += 1;
                        self.failed(failure);
                        // Without random numbers all wait equally long, which is no harm.
                        let random = getrandom::u32().unwrap_or(u32::MAX / 2);
                        retry_pause(failures, self.settings.interval, random)
                    }
                },
            };
        }
    }

    fn stamp(&self, note: &str) -> Result<Stamped, Failure> {
        let stamper =
            stamper(&self.settings, &self.dir).map_err(|cause| Failure { reason: "certificates", cause })?;
        let failure = |error: StampError| Failure { reason: error.reason(), cause: error.to_string() };
        stamper.stamp(note, seconds()).map_err(failure)
    }

    /// Until the newest timestamp there is gets too old; a node that is started often asks no more often.
    fn first_pause(&self) -> Duration {
        let newest = stamper(&self.settings, &self.dir)
            .and_then(|stamper| stamper.newest().map_err(|error| error.to_string()));
        match newest {
            Ok(Some((size, stamp))) => {
                self.standing.change(|standing| standing.newest = Some((size, stamp.time)));
                // One of the future says nothing about when the next is due.
                let age = u64::try_from(seconds().saturating_sub(stamp.time)).map(Duration::from_secs);
                age.map_or(Duration::ZERO, |age| self.settings.interval.saturating_sub(age))
            }
            Ok(None) => Duration::ZERO,
            Err(cause) => {
                tracing::warn!(cause, "cannot read the timestamps there are");
                Duration::ZERO
            }
        }
    }

    fn stamped(&self, stamped: &Stamped) {
        let Stamped { checkpoint, token, stamp } = stamped;
        self.anchors.record(AnchorEvent {
            size: checkpoint.size,
            root: &checkpoint.root,
            anchor: "timestamp",
            proof: token,
        });
        let before = self.standing.change(|standing| {
            standing.newest = Some((checkpoint.size, stamp.time));
            standing.problem.take()
        });
        if before.is_some() {
            let time = stamp.time_text();
            tracing::info!(size = checkpoint.size, time, "checkpoints are stamped again");
        }
    }

    fn failed(&self, Failure { reason, cause }: Failure) {
        let first = self.standing.change(|standing| {
            *standing.failures.entry(reason).or_default() += 1;
            standing.problem.replace(cause.clone()).is_none()
        });
        if first {
            tracing::warn!(reason, cause, "no timestamp for the log's checkpoint; it is tried again");
        }
    }
}

/// Why a try came to nothing.
struct Failure {
    // A stable word.
    reason: &'static str,
    cause: String,
}

impl StampReader {
    fn change<T>(&self, change: impl FnOnce(&mut Standing) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Said, and not counted: nothing depends on it.
    pub(super) fn dependency(&self) -> Dependency {
        let Standing { newest, problem, .. } = self.change(|standing| standing.clone());
        let mut detail = match newest {
            None => "no checkpoint stamped yet".to_owned(),
            Some((size, time)) => {
                format!("{size} records stamped {} s ago", seconds().saturating_sub(time))
            }
        };
        if let Some(problem) = problem {
            detail.push_str(", ");
            detail.push_str(&problem);
        }
        Dependency { name: "timestamp", ready: true, detail }
    }

    /// The same in numbers, as OpenMetrics text.
    pub(super) fn render(&self, out: &mut String) {
        let Standing { newest, failures, .. } = self.change(|standing| standing.clone());
        let age = newest.map_or(-1, |(_, time)| seconds().saturating_sub(time));
        family(
            out,
            "audit_timestamp_age_seconds",
            "gauge",
            "Time since the latest checkpoint that was stamped was; -1: never",
        );
        line(out, format_args!("edgate_audit_timestamp_age_seconds {age}"));
        let size = newest.map_or(0, |(size, _)| size);
        family(out, "audit_timestamped_records", "gauge", "Records under a checkpoint that was stamped");
        line(out, format_args!("edgate_audit_timestamped_records {size}"));
        family(out, "audit_timestamp_failures", "counter", "Tries to have a checkpoint stamped that failed");
        for (reason, count) in failures {
            line(out, format_args!("edgate_audit_timestamp_failures_total{{reason=\"{reason}\"}} {count}"));
        }
    }
}

/// How long to wait after so many failures in a row: twice as long each time, up to [`PAUSE_MAX`] or the interval, and a
/// quarter more or less, so that those who lost an authority together do not come back together.
fn retry_pause(failures: u32, interval: Duration, random: u32) -> Duration {
    let doubled = PAUSE_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let pause = doubled.min(PAUSE_MAX).min(interval);
    pause.mul_f64(0.75 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}

fn seconds() -> i64 {
    i64::try_from(now().0).unwrap_or(i64::MAX)
}

/// The first pause after a failure.
const PAUSE_MIN: Duration = Duration::from_secs(2);

/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(900);

/// How long one wait for a checkpoint takes.
const TAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long an authority may take; a stop waits for it.
const TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_get_rarer_up_to_a_bound_and_are_never_in_step() {
        let hour = Duration::from_secs(3600);
        let range = |failures| {
            (retry_pause(failures, hour, 0).as_millis(), retry_pause(failures, hour, u32::MAX).as_millis())
        };
        assert_eq!(range(1), (1_500, 2_500));
        assert_eq!(range(2), (3_000, 5_000));
        assert_eq!(range(5), (24_000, 40_000));
        assert_eq!(range(30), (675_000, 1_125_000));
        assert_eq!(range(u32::MAX), range(30));
        let minute = Duration::from_secs(60);
        assert_eq!(
            retry_pause(30, minute, u32::MAX / 2 + 1).as_secs(),
            60,
            "not rarer than when all is well"
        );
    }
}
