//! What the daemon tells about itself: readiness by dependency, and numbers to scrape.

use std::fmt::Write as _;
use std::sync::Arc;

use edgate_hsm::{Pool, TokenStanding};

use crate::audit::{self, LogWatch};
use crate::control::Dependency;
use crate::metrics::Reading;
use crate::revocation::View;

/// What the data plane depends on, by name: whether all of it works, and a line for each.
pub(super) fn data_readiness(
    log: LogWatch,
    view: Arc<View>,
    pool: Option<Arc<Pool>>,
) -> impl Fn() -> (bool, String) + Send + Sync {
    move || {
        let dependencies = [audit_dependency(&log), revocation_dependency(&view)];
        // Said, and not counted: verification goes on without the token.
        let token = pool.as_ref().map(|pool| hsm_dependency(pool));
        let mut text = String::new();
        for Dependency { name, ready, detail } in dependencies.iter().chain(&token) {
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

pub(super) fn revocation_dependency(view: &View) -> Dependency {
    // The embedded view is filled before anything is decided and changed by this process alone: it cannot be stale.
    Dependency { name: "revocation", ready: true, detail: format!("epoch {}", view.epoch()) }
}

/// The token with the keys. Verification does not depend on it: issuing and checkpoints do.
pub(super) fn hsm_dependency(pool: &Pool) -> Dependency {
    let (ready, detail) = match pool.standing() {
        TokenStanding::Ready => (true, String::new()),
        TokenStanding::Healing => (false, "a fault is being looked into".to_owned()),
        TokenStanding::Stopped => (false, "closed".to_owned()),
        TokenStanding::Stuck => (false, "calls into its module do not return".to_owned()),
        TokenStanding::Unavailable(cause) => (false, cause.to_string()),
    };
    Dependency { name: "hsm", ready, detail }
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
