//! `edgate audit doctor`: examines the disk of a log, and says in one sentence what is guaranteed on it.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::audit_drill::stop_flag;
use super::verify_record::{RecordArguments, Recorded, print_report};
use super::{EXIT_FAILURE, EXIT_INPUT, EXIT_NO, EXIT_YES, Output, complain, print_line};
use crate::audit::doctor::{
    Diagnosis, DoctorError, Latency, Measured, Promise, Signing, examine, judge, measure_signing, to_text,
};
use crate::audit::note::Checkpoint;
use crate::audit::verify::published_note;
use crate::audit::{Settings, hex};
use crate::config::{ACK_TIMEOUT_MS, Config, EXIT_CONFIG, FLUSH_INTERVAL_MS, UNFLUSHED_AGE_MAX_MS};
use crate::daemon::open_checkpoint_signer;

#[derive(Debug, Args)]
#[command(after_help = DOCTOR_HELP)]
pub(super) struct DoctorArguments {
    /// The folder where a log is or will be [default: that of --config, else /var/lib/edgate/audit].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    record: RecordArguments,
    #[command(flatten)]
    output: Output,
}

const DOCTOR_HELP: &str = "The probes write some MiB in a folder `doctor` inside DIR and remove it; the log's files are only \
read, and may be in use. With --config also the settings, and the key that signs checkpoints, are those of the node, and the key \
signs something that is no checkpoint; otherwise the default settings hold. Exit code 0: fit; 1: something is not; 2: nothing \
could be measured; 70: interrupted, or the disk failed; 77, 78: the key or the configuration cannot be used. The running node \
puts the report's digest and the sentence on record.";

/// Where a log is, unless somebody says otherwise.
const DIR: &str = "/var/lib/edgate/audit";

pub(super) fn run(arguments: &DoctorArguments) -> u8 {
    let config = match arguments.record.config().map(Config::load).transpose() {
        Ok(config) => config,
        Err(error) => {
            complain(&error);
            return EXIT_CONFIG;
        }
    };
    let dir = match (&arguments.dir, &config) {
        (Some(dir), _) => dir.clone(),
        (None, Some(config)) => config.audit.dir.clone(),
        (None, None) => PathBuf::from(DIR),
    };
    let stop = match stop_flag() {
        Ok(stop) => stop,
        Err(error) => {
            complain(format_args!("cannot listen to signals: {error}"));
            return EXIT_FAILURE;
        }
    };
    let signing = match &config {
        None => Signing::NotMeasured,
        Some(config) => match open_checkpoint_signer(config) {
            // The pool, where the key is in one, lives for as long as it signs.
            Ok((mut signer, _pool)) => measure_signing(&mut signer),
            Err(error) => {
                complain(&error);
                return error.exit_code();
            }
        },
    };
    let promise = promise(config.as_ref());
    let bar = if arguments.output.json { ProgressBar::hidden() } else { ProgressBar::new(0) };
    let measured = examine(&dir, &promise, signing, &mut |done, flushes| {
        bar.set_length(flushes as u64);
        bar.set_position(done as u64);
        !stop.load(Ordering::Relaxed)
    });
    bar.finish_and_clear();
    match measured {
        Ok(measured) => report(arguments, &dir, config.as_ref(), &measured, &judge(&measured, &promise)),
        Err(error) => {
            complain(&error);
            match error {
                DoctorError::Interrupted | DoctorError::Io { .. } => EXIT_FAILURE,
                DoctorError::Busy { .. }
                | DoctorError::InTheWay { .. }
                | DoctorError::NoRoom { .. }
                | DoctorError::NotFound { .. } => EXIT_INPUT,
            }
        }
    }
}

/// What a node of this configuration promises, or one of the default settings.
fn promise(config: Option<&Config>) -> Promise {
    let defaults = [FLUSH_INTERVAL_MS, UNFLUSHED_AGE_MAX_MS, ACK_TIMEOUT_MS].map(Duration::from_millis);
    let [flush_interval, unflushed_age_max, ack_timeout] = config.map_or(defaults, |config| {
        [config.audit.flush_interval, config.audit.unflushed_age_max, config.audit.ack_timeout]
    });
    let settings = Settings { flush_interval, unflushed_age_max, ..Settings::new("", "") };
    Promise::of(&settings, ack_timeout)
}

fn report(
    arguments: &DoctorArguments,
    dir: &Path,
    config: Option<&Config>,
    measured: &Measured,
    diagnosis: &Diagnosis,
) -> u8 {
    let log = origin_of(dir);
    let text = to_text(measured, diagnosis, log.as_deref(), &format!("{:.0}", jiff::Timestamp::now()));
    // A node whose log has no checkpoint yet knows its name all the same.
    let origin = log.or_else(|| config.map(|config| config.audit.origin.clone()));
    let recorded = match &origin {
        Some(origin) => arguments.record.record_report(dir, origin, ("doctor", &diagnosis.sentence, &text)),
        None => Recorded::Nobody,
    };
    let id = recorded.id();
    let digest = hex(&Sha256::digest(&text));
    if arguments.output.json {
        print_line(json!({
            "fit": diagnosis.is_fit(),
            "folder": measured.folder,
            "origin": origin,
            "sentence": diagnosis.sentence,
            "findings": findings_json(diagnosis),
            "measured": measured_json(measured),
            "text": text,
            "sha256": digest,
            "record": id,
        }));
    } else {
        print_report(&text, &digest, id, "examination");
    }
    if diagnosis.is_fit() { EXIT_YES } else { EXIT_NO }
}

/// The name of the log in `dir`, as its latest checkpoint says.
fn origin_of(dir: &Path) -> Option<String> {
    let note = published_note(dir).ok().flatten()?;
    Checkpoint::read_unverified(&note).ok().map(|checkpoint| checkpoint.origin)
}

fn findings_json(diagnosis: &Diagnosis) -> Vec<Value> {
    let finding = |finding: &crate::audit::doctor::Finding| json!({"subject": finding.subject, "verdict": finding.verdict.name(), "detail": finding.detail});
    diagnosis.findings.iter().map(finding).collect()
}

fn measured_json(measured: &Measured) -> Value {
    let Measured { file_system, below, flushes, room, signing, clocks, .. } = measured;
    let times = |times: &Latency| {
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        json!({"median_us": us(times.median), "worst_us": us(times.worst), "count": times.count})
    };
    json!({
        "file_system": file_system.name,
        "shares_blocks": file_system.shares_blocks,
        "device": below.device.as_ref().map(|device| &device.name),
        "volatile_cache": below.device.as_ref().and_then(|device| device.volatile_cache),
        "virtual_machine": below.is_virtual,
        "append": times(&flushes.appended),
        "overwrite": times(&flushes.overwritten),
        "o_dsync": flushes.direct.as_ref().ok().map(times),
        "commit": times(&flushes.committed),
        "commits": flushes.written.commits,
        "bytes_by_process": flushes.written.by_process,
        "bytes_to_device": flushes.written.to_device,
        "free_bytes": room.free,
        "bytes_per_second": room.rate.map(|rate| rate.per_second()),
        "signature": if let Signing::Signs(signing) = signing { Some(times(signing)) } else { None },
        "clock_step_ms": u64::try_from(clocks.step.as_millis()).unwrap_or(u64::MAX),
        "clock_synchronised": clocks.synchronised,
    })
}
