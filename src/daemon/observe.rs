//! What the daemon tells about itself: readiness by dependency, and numbers to scrape.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgate_hsm::{Group, MemberStanding, TokenStanding};

use crate::audit::{self, LogWatch};
use crate::cluster::{ClusterStatus, StatusReader};
use crate::config::{Config, OnStale};
use crate::control::Dependency;
use crate::metrics::Reading;
use crate::revocation::View;
use crate::witness::StandingReader;

use super::witnesses;

/// What the data plane depends on, by name: whether all of it works, and a line for each.
pub(super) fn data_readiness(
    log: LogWatch,
    view: Arc<View>,
    strictness: Strictness,
    hsm: Option<Arc<Group>>,
    witnesses: Vec<StandingReader>,
) -> impl Fn() -> (bool, String) + Send + Sync {
    move || {
        let dependencies = [audit_dependency(&log), revocation_dependency(&view, strictness)];
        // Said, and not counted: verification goes on without the token and without a witness.
        let tokens = hsm.as_ref().map(|hsm| hsm_dependency(hsm));
        let witnesses: Vec<Dependency> = witnesses::dependencies(&witnesses).collect();
        let mut text = String::new();
        for Dependency { name, ready, detail } in dependencies.iter().chain(&tokens).chain(&witnesses) {
            let state = if *ready { "ok" } else { "failed" };
            let comma = if detail.is_empty() { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name}: {state}{comma}{detail}");
        }
        (dependencies.iter().all(|dependency| dependency.ready), text)
    }
}

fn audit_dependency(log: &LogWatch) -> Dependency {
    let failure = log.status().failure;
    let detail = failure.as_ref().map(ToString::to_string).unwrap_or_default();
    Dependency { name: "audit", ready: failure.is_none(), detail }
}

/// What a view that is too old means for this node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strictness {
    staleness_max: Duration,
    // Whether some issuer's tokens are refused then.
    denies: bool,
}

impl Strictness {
    pub(super) fn of(config: &Config) -> Self {
        let denies = config.issuers.iter().any(|issuer| issuer.revocation.on_stale == OnStale::Deny);
        Self { staleness_max: config.revocation.staleness_max, denies }
    }
}

/// A node on its own is never stale: its view is filled before anything is decided and changed by this process alone.
pub(super) fn revocation_dependency(view: &View, strictness: Strictness) -> Dependency {
    let (epoch, age) = (view.epoch(), view.freshness().age(Instant::now()));
    let stale = age > strictness.staleness_max;
    let detail = match (stale, age) {
        (false, Duration::ZERO) => format!("epoch {epoch}"),
        (false, age) => format!("epoch {epoch}, {} ms old", age.as_millis()),
        (true, Duration::MAX) => {
            format!("epoch {epoch}, never confirmed by Redis since it was lost or not reached")
        }
        (true, age) => format!("epoch {epoch}, {} ms old, which is too old", age.as_millis()),
    };
    Dependency { name: "revocation", ready: !(stale && strictness.denies), detail }
}

/// How this node and Redis get on, in numbers.
#[expect(clippy::cast_precision_loss, reason = "a gauge may be rounded above 2^53")]
pub(super) fn cluster_readings(status: &StatusReader) -> Vec<Reading> {
    let of = |name, help, counter, read: fn(&ClusterStatus) -> f64| {
        let status = status.clone();
        Reading { name, help, counter, read: Box::new(move || read(&status.read())) }
    };
    vec![
        of("redis_connected", "Whether the follower is connected to Redis", false, |status| {
            f64::from(u8::from(status.connected))
        }),
        of(
            "revocation_view_age_seconds",
            "Time since Redis confirmed the view; -1: never, or being rebuilt",
            false,
            |status| status.lag.map_or(-1.0, |lag| lag.as_secs_f64()),
        ),
        of("redis_events", "Revocation events applied", true, |status| status.events as f64),
        of("redis_rebuilds", "Times the view was rebuilt from all entries", true, |status| {
            status.rebuilds as f64
        }),
        of("redis_republished", "Changes given back to Redis, which lacked them", true, |status| {
            status.republished as f64
        }),
        of("redis_reconnects", "Connections to Redis after the first", true, |status| {
            status.reconnects as f64
        }),
        of("redis_unsaved", "Other nodes' changes the state database did not take yet", false, |status| {
            status.unsaved as f64
        }),
    ]
}

/// The tokens with the keys. Verification does not depend on them: issuing and checkpoints do, on one of them.
pub(super) fn hsm_dependency(hsm: &Group) -> Dependency {
    let members = hsm.members();
    let signs = |member: &MemberStanding| matches!(member.standing, TokenStanding::Ready) && !member.draining;
    let signing = members.iter().filter(|member| signs(member)).count();
    let mut detail = match members.len() {
        1 => String::new(),
        all => format!("{signing} of {all} tokens sign"),
    };
    for member in members.iter().filter(|member| !signs(member)) {
        if members.len() > 1 {
            // Writing to a string does not fail.
            let _ = write!(detail, "; {}: ", member.token);
        }
        match &member.standing {
            TokenStanding::Ready => detail.push_str("draining"),
            TokenStanding::Healing => detail.push_str("a fault is being looked into"),
            TokenStanding::Stopped => detail.push_str("closed"),
            TokenStanding::Stuck => detail.push_str("calls into its module do not return"),
            TokenStanding::Unavailable(cause) => detail.push_str(&cause.to_string()),
        }
    }
    Dependency { name: "hsm", ready: signing > 0, detail }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge may be rounded above 2^53")]
pub(super) fn readings(log: &LogWatch) -> Vec<Reading> {
    let of_log = |name, help, counter, read: fn(&audit::Status) -> f64| {
        let log = log.clone();
        Reading { name, help, counter, read: Box::new(move || read(&log.status())) }
    };
    vec![
        of_log("audit_records", "Records in the log", false, |status| status.size as f64),
        of_log("audit_records_durable", "Records known to be on the disk", false, |status| {
            status.durable_size as f64
        }),
        of_log("audit_commits", "Flushes of the log", true, |status| status.commits as f64),
        of_log("audit_flush_seconds", "Time of the latest flush", false, |status| {
            status.last_flush.as_secs_f64()
        }),
        of_log("audit_failed", "Whether the log refuses events", false, |status| {
            f64::from(u8::from(status.failure.is_some()))
        }),
    ]
}
