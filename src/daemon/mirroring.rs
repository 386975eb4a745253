//! The audit mirror as the daemon runs it: started beside the log, seen in readiness and metrics.

use std::fmt::Write as _;

use super::StartError;
use crate::audit::{Appender, Log};
use crate::config::Config;
use crate::control::Dependency;
use crate::metrics::Reading;
use crate::mirror::{self, Ingredients, Mirror, MirrorStatus, MirrorWatch, TargetName};

/// Starts a thread for each target; the last of the appenders are theirs.
///
/// # Errors
/// If a thread cannot be had.
pub(super) fn start(config: &Config, log: &Log, appenders: &mut Vec<Appender>) -> Result<Mirror, StartError> {
    let targets = usize::from(mirror::targets(&config.audit.mirror));
    mirror::start(Ingredients {
        config: &config.audit.mirror,
        dir: config.audit.dir.clone(),
        origin: config.audit.origin.clone(),
        log: log.watch(),
        appenders: appenders.split_off(appenders.len() - targets),
    })
    .map_err(|error| StartError::System { what: "start the audit mirror", error })
}

/// How a target of the mirror is. Said, and not counted: nothing depends on it.
pub(super) fn dependency(mirror: &MirrorWatch) -> Dependency {
    let MirrorStatus { target, lag, missing, error, .. } = mirror.status();
    let name = match target {
        TargetName::Redis => "mirror_redis",
        TargetName::Syslog => "mirror_syslog",
    };
    let mut detail = format!("{lag} records behind");
    if missing > 0 {
        let _ = write!(detail, ", {missing} missing");
    }
    if let Some(error) = error {
        let _ = write!(detail, "; {error}");
    }
    Dependency { name, ready: true, detail }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge may be rounded above 2^53")]
pub(super) fn readings(mirror: &MirrorWatch) -> Vec<Reading> {
    let names = match mirror.status().target {
        TargetName::Redis => [
            "mirror_redis_connected",
            "mirror_redis_lag_records",
            "mirror_redis_sent",
            "mirror_redis_failures",
            "mirror_redis_missing_records",
        ],
        TargetName::Syslog => [
            "mirror_syslog_connected",
            "mirror_syslog_lag_records",
            "mirror_syslog_sent",
            "mirror_syslog_failures",
            "mirror_syslog_missing_records",
        ],
    };
    let of = |name, help, counter, read: fn(&MirrorStatus) -> f64| {
        let mirror = mirror.clone();
        Reading { name, help, counter, read: Box::new(move || read(&mirror.status())) }
    };
    vec![
        of(names[0], "Whether the mirror has a connection", false, |one| f64::from(u8::from(one.connected))),
        of(names[1], "Durable records that the mirror was not sent yet", false, |one| one.lag as f64),
        of(names[2], "Records sent to the mirror, repetitions included", true, |one| one.sent as f64),
        of(names[3], "Times the mirror's connection was lost or not had", true, |one| one.failures as f64),
        of(names[4], "Records the log no longer had when the mirror could take them", true, |one| {
            one.missing as f64
        }),
    ]
}
