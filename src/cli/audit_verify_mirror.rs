//! `edgate audit verify-mirror`: whether a SIEM's copy of the log is whole, from the copy and a key alone.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::checkpoint_keys::keys_in;
use super::{EXIT_INPUT, Output, complain, next_line, open_lines, print_line};
use crate::audit::{Copy, CopyReport};

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct VerifyMirrorArguments {
    /// The copy, a record on each line: syslog messages as they were sent, JSON objects with the same names or with such a
    /// message in one of their members, or rows of `edgate audit export`; `-` is standard input.
    file: PathBuf,
    /// A file with the checkpoint key, kept where neither the log's writer nor the SIEM can change it.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    #[command(flatten)]
    output: Output,
}

const HELP: &str = "Checked are the numbers (nothing missing from the first to the last), the links, each record's hash, and the \
signed checkpoints in the copy, against the tree of its records. Records may stand in any order and more than once. What a line \
states beside its header (number, time, kind, links) is not proven by the copy: `edgate audit prove` shows a body. Exit codes: 0 \
whole and signed; else those of `edgate audit verify`: 1 altered, 3 missing records, 9 to 11 bad checkpoints, 12 no checkpoint, 14 \
rewritten; 2 could not run.";

/// Breaks shown to a person; `--json` shows all.
const BREAKS_SHOWN: usize = 20;

pub(super) fn run(arguments: &VerifyMirrorArguments) -> u8 {
    let read = read(arguments).unwrap_or_else(|problem| {
        complain(problem);
        None
    });
    let Some(report) = read else { return EXIT_INPUT };
    if arguments.output.json {
        print_json(&report);
    } else {
        print_text(&report);
    }
    report.exit_code()
}

fn read(arguments: &VerifyMirrorArguments) -> Result<Option<CopyReport>, String> {
    let keys = keys_in(&arguments.key)?;
    let mut lines = open_lines(&arguments.file)?;
    let mut copy = Copy::new(keys);
    loop {
        match next_line(&mut *lines) {
            Ok(None) => return Ok(Some(copy.finish())),
            Ok(Some(Ok(line))) => copy.line(&line),
            // No record of ours is as long.
            Ok(Some(Err(()))) => copy.line(b""),
            Err(error) => return Err(format!("cannot read {}: {error}", arguments.file.display())),
        }
    }
}

fn print_json(report: &CopyReport) {
    let breaks: Vec<_> = report
        .breaks
        .iter()
        .map(|one| json!({"class": one.class.name(), "seq": one.seq, "records": one.records, "detail": one.detail}))
        .collect();
    print_line(json!({
        "valid": report.breaks.is_empty(),
        "origin": report.origin,
        "records": report.records,
        "first": report.first,
        "last": report.last,
        "repeated": report.repeated,
        "without_header": report.without_header,
        "other_lines": report.other_lines,
        "checkpoints": report.checkpoints,
        "proven_from": report.proven_from,
        "proven_to": report.proven_to,
        "breaks": breaks,
    }));
}

fn print_text(report: &CopyReport) {
    let CopyReport { records, first, last, origin, .. } = report;
    let origin = origin.escape_debug();
    if report.breaks.is_empty() {
        print_line(format_args!("whole: {records} records of {origin}, {first} to {last}, none missing"));
    } else {
        print_line(format_args!("BROKEN: {records} records of {origin}, {} breaks", report.breaks.len()));
        for one in report.breaks.iter().take(BREAKS_SHOWN) {
            let more = if one.records > 1 { format!(" and {} more", one.records - 1) } else { String::new() };
            print_line(format_args!("  {} at record {}{more}: {}", one.class, one.seq, one.detail));
        }
        if report.breaks.len() > BREAKS_SHOWN {
            print_line(format_args!("  and {} more (--json shows all)", report.breaks.len() - BREAKS_SHOWN));
        }
    }
    if report.proven_to > report.proven_from {
        let (from, last, checkpoints) = (report.proven_from, report.proven_to - 1, report.checkpoints);
        print_line(format_args!("signed  records {from} to {last}, by {checkpoints} checkpoints"));
    }
    if *first < report.proven_from && report.proven_to > report.proven_from {
        let last = report.proven_from - 1;
        print_line(format_args!("note  records {first} to {last} are tied to no checkpoint in the copy"));
    }
    if report.proven_to > 0 && report.proven_to <= *last {
        print_line(format_args!("note  records {} to {last} are not signed yet", report.proven_to));
    }
    for (count, what) in [
        (report.without_header, "records have no header: their time and kind are bound to nothing"),
        (report.repeated, "records stand there more than once, the same"),
        (report.other_lines, "lines are no records"),
    ] {
        if count > 0 {
            print_line(format_args!("note  {count} {what}"));
        }
    }
}
