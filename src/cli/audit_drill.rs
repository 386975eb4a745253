//! `edgate audit drill`: tampers with a copy of the log in every way we know of, and shows that verification names each.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::checkpoint_keys::checkpoint_keys;
use super::verify_record::{RecordArguments, print_report};
use super::{EXIT_FAILURE, EXIT_INPUT, EXIT_NO, EXIT_YES, Output, complain, print_line};
use crate::audit::drill::{CaseResult, Drill, DrillError, Outcome, Settings, drill};
use crate::audit::hex;
use crate::audit::verify::verify_dir;

#[derive(Debug, Args)]
#[command(after_help = DRILL_HELP)]
pub(super) struct DrillArguments {
    /// The log's folder; only read, and may be in use.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/edgate/audit")]
    dir: PathBuf,
    /// A file with the checkpoint key, kept where the log's writer cannot change it. Otherwise the copy in the log's own
    /// folder is used.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Copy at most so much of the log, from its beginning on. Five segments are enough for every case.
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    copy_mib: u64,
    /// Where the copies are made, and removed again: room for twice --copy-mib [default: the system's temporary folder].
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Write the report to this file too, to be kept beside its record. It must not exist.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    record: RecordArguments,
    #[command(flatten)]
    output: Output,
}

const DRILL_HELP: &str = "The copy ends where a checkpoint was signed. Each case changes it in one way and has the code of \
`edgate audit verify` look at it; a case is caught if that names it as what it is, and where. Exit code 0 if all that were done \
were caught, 1 if not. The running node puts the report's digest on record; `edgate audit prove ID` then proves it to a stranger.";

pub(super) fn run(arguments: &DrillArguments) -> u8 {
    let keys = match checkpoint_keys(&arguments.dir, arguments.key.as_deref()) {
        Ok(keys) if keys.is_empty() => {
            complain("the drill needs the log's checkpoint key: --key FILE");
            return EXIT_INPUT;
        }
        Ok(keys) => keys,
        Err(message) => {
            complain(message);
            return EXIT_INPUT;
        }
    };
    let stop = match stop_flag() {
        Ok(stop) => stop,
        Err(error) => {
            complain(format_args!("cannot listen to signals: {error}"));
            return EXIT_FAILURE;
        }
    };
    let parent = arguments.work.clone().unwrap_or_else(std::env::temp_dir);
    // Removed with all that is in it, whichever way this ends: a signal only raises the flag.
    let work = match tempfile::Builder::new().prefix("edgate-drill-").tempdir_in(&parent) {
        Ok(work) => work,
        Err(error) => {
            complain(format_args!("cannot make a folder in {}: {error}", parent.display()));
            return EXIT_INPUT;
        }
    };
    let settings = Settings {
        dir: &arguments.dir,
        keys: &keys,
        work: work.path(),
        copy_bytes_max: arguments.copy_mib.saturating_mul(1 << 20),
    };
    let bar = if arguments.output.json { ProgressBar::hidden() } else { ProgressBar::new(0) };
    let shown =
        drill(&settings, &|dir, options| verify_dir(dir, options, &mut |_| {}), &mut |done, cases| {
            bar.set_length(cases as u64);
            bar.set_position(done as u64);
            !stop.load(Ordering::Relaxed)
        });
    bar.finish_and_clear();
    drop(work);
    match shown {
        Ok(shown) => report(arguments, &shown),
        Err(error) => {
            complain(&error);
            match error {
                DrillError::NotWhole(_) => EXIT_NO,
                DrillError::Copy { .. } | DrillError::Interrupted => EXIT_FAILURE,
                DrillError::Audit(_) | DrillError::Checkpoint(_) | DrillError::TooLittle(_) => EXIT_INPUT,
            }
        }
    }
}

/// Raised by a signal that would end the program and leave the copies behind.
pub(super) fn stop_flag() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

fn report(arguments: &DrillArguments, shown: &Drill) -> u8 {
    let text = shown.to_text(&format!("{:.0}", jiff::Timestamp::now()));
    if let Some(path) = &arguments.out {
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
        if let Err(error) = written {
            complain(format_args!("cannot write {}: {error}", path.display()));
            return EXIT_FAILURE;
        }
    }
    let recorded =
        arguments.record.record_report(&arguments.dir, &shown.origin, ("drill", &shown.summary(), &text));
    let id = recorded.id();
    let digest = hex(&Sha256::digest(&text));
    if arguments.output.json {
        print_line(json!({
            "passed": shown.failed() == 0,
            "origin": shown.origin,
            "size": shown.size,
            "log_size": shown.log_size,
            "root": hex(&shown.root),
            "segments": shown.segments,
            "caught": shown.caught(),
            "failed": shown.failed(),
            "not_done": shown.not_done(),
            "cases": shown.cases.iter().map(case_json).collect::<Vec<_>>(),
            "text": text,
            "sha256": digest,
            "record": id,
        }));
    } else {
        print_report(&text, &digest, id, "drill, so nobody signed for it");
        if shown.not_done() > 0 {
            print_line("some cases need a longer log, or more of it (--copy-mib)");
        }
    }
    if shown.failed() == 0 { EXIT_YES } else { EXIT_NO }
}

fn case_json(case: &CaseResult) -> Value {
    let found = match &case.outcome {
        Outcome::Caught { found } | Outcome::Misnamed { found, .. } => {
            json!({
                "class": found.class.name(), "segment": found.segment, "offset": found.offset, "seq": found.seq,
                "records": found.records, "detail": found.detail,
            })
        }
        Outcome::Missed | Outcome::NotDone { .. } => Value::Null,
    };
    json!({
        "case": case.name,
        "done": case.what,
        "expected": case.expected.iter().map(|class| class.name()).collect::<Vec<_>>(),
        "outcome": case.outcome.name(),
        "found": found,
        "needs": if let Outcome::NotDone { needs } = &case.outcome { Some(needs) } else { None },
    })
}
