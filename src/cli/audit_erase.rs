//! `edgate audit erase`: an authority has the bodies of records dropped by the running node, which alone may append.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::control_client::{ClientError, Target, post, refuse, text};
use super::{EXIT_INPUT, EXIT_YES, Output, complain, next_line, open_lines, print_line};
use crate::audit::RecordName;
use crate::audit::hold::{WORDS_BYTES_MAX, is_said};

#[derive(Debug, Args)]
#[command(after_help = ERASE_HELP)]
pub(super) struct EraseArguments {
    /// The records: decision ids as clients got them, or record numbers.
    #[arg(value_name = "ID", required_unless_present = "from")]
    records: Vec<RecordName>,
    /// Take more of them from this file, one per line; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Who orders it: a person, a ticket. It stands in the log.
    #[arg(long, value_name = "NAME")]
    authority: String,
    /// Why. It stands in the log, so it names nobody.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

const ERASE_HELP: &str = "Nothing can undo it. The running node records the order, has a checkpoint signed that covers it, and \
overwrites the bodies with zeros; hashes, proofs and tiles stay as they are, and `edgate audit verify` counts the records as redacted, \
authorised. Erased are bodies of decision, decision_batch, issue and revoke records in finished segments, unless a legal hold covers \
them. Copies are not reached: exports, archives, backups, snapshots, and what the disk or a copy-on-write file system keeps. Exit \
codes: 0 erased; 2 a record cannot be erased, and nothing of its 64 was; 69 no node, or its log takes nothing now.";

/// Records of one call: what the control listener takes.
const RECORDS_PER_CALL: usize = 64;

pub(super) fn run(arguments: &EraseArguments) -> u8 {
    if !is_said(&arguments.authority) || !is_said(&arguments.reason) {
        complain(format_args!("give an authority and a reason of 1 to {WORDS_BYTES_MAX} bytes each"));
        return EXIT_INPUT;
    }
    let mut records = match named(arguments) {
        Ok(records) => records,
        Err(message) => {
            complain(message);
            return EXIT_INPUT;
        }
    };
    records.sort_unstable();
    records.dedup();
    let url = match arguments.target.url() {
        Ok(url) => url,
        Err(error) => return refuse(&error),
    };
    let (mut erased, mut already) = (0, 0);
    for records in records.chunks(RECORDS_PER_CALL) {
        let body = json!({
            "records": records, "authority": arguments.authority, "reason": arguments.reason,
        });
        let answer = match post(&url, "/v1/audit/erasures", &body) {
            Ok(answer) => answer,
            Err(error) => {
                if erased > 0 {
                    complain(format_args!("{erased} records were erased before this"));
                }
                if matches!(error, ClientError::Absent(_)) {
                    complain("only the running node may write into its log, so nothing is erased without it");
                }
                return refuse(&error);
            }
        };
        let count = |name: &str| answer[name].as_array().map_or(0, Vec::len);
        erased += count("erased");
        already += count("already_erased");
        if arguments.output.json {
            print_line(&answer);
        } else if !answer["id"].is_null() {
            print_line(format_args!(
                "erased    {} bodies, recorded {}",
                count("erased"),
                text(&answer, "id")
            ));
        }
    }
    if !arguments.output.json && already > 0 {
        print_line(format_args!("{already} had been erased before"));
    }
    EXIT_YES
}

/// The records asked for, in their one spelling.
fn named(arguments: &EraseArguments) -> Result<Vec<String>, String> {
    let mut records: Vec<String> = arguments.records.iter().map(ToString::to_string).collect();
    let Some(path) = &arguments.from else { return Ok(records) };
    let mut lines = open_lines(path)?;
    let unreadable = |cause: &dyn std::fmt::Display| format!("cannot read {}: {cause}", path.display());
    while let Some(line) = next_line(&mut *lines).map_err(|error| unreadable(&error))? {
        let line = line.ok().and_then(|line| String::from_utf8(line).ok());
        let line = line.ok_or_else(|| unreadable(&"a line is no text"))?;
        let line = line.trim();
        if !line.is_empty() {
            records.push(line.parse::<RecordName>().map_err(|error| unreadable(&error))?.to_string());
        }
    }
    if records.is_empty() {
        return Err(format!("{} names no record", path.display()));
    }
    Ok(records)
}
