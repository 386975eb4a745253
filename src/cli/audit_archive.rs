//! `edgate audit archive`: finished segments in their small form.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::audit::progress_bar;
use super::{EXIT_INPUT, EXIT_NO, EXIT_YES, Output, complain, print_line};
use crate::audit::archive::{ArchiveError, Archived, archive};
use crate::audit::hex;

#[derive(Debug, Args)]
#[command(after_help = ARCHIVE_HELP)]
pub(super) struct ArchiveArguments {
    /// The log's folder.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/edgate/audit")]
    dir: PathBuf,
    /// Write the archives to this folder, which must exist, and leave the segments where they are.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Only this segment; may be repeated.
    #[arg(long, value_name = "NUMBER")]
    segment: Vec<u64>,
    #[command(flatten)]
    output: Output,
}

const ARCHIVE_HELP: &str = "Without --out an archive takes the place of its segment in the log's folder, once it was read back \
from the disk and restored to the same bytes; verify, export, prove, tail and tiles read archives as they read segments. The \
segment that is being written and the last one before it stay as they are. Exit codes: 0 archived; 1 a segment is not whole, or \
its archive is not what it must be; 2 could not run.";

pub(super) fn run(arguments: &ArchiveArguments) -> u8 {
    let bar = progress_bar(arguments.output.json);
    let mut all: Vec<Archived> = Vec::new();
    let outcome = archive(&arguments.dir, arguments.out.as_deref(), &arguments.segment, &mut |one| {
        bar.inc(one.segment_bytes);
        all.push(one.clone());
    });
    bar.finish_and_clear();
    let sum = |of: fn(&Archived) -> u64| all.iter().map(of).sum::<u64>();
    let (before, after) = (sum(|one| one.segment_bytes), sum(|one| one.archive_bytes));
    if arguments.output.json {
        let shown: Vec<_> = all
            .iter()
            .map(|one| {
                json!({
                    "segment": one.segment, "records": one.records, "segment_bytes": one.segment_bytes,
                    "archive_bytes": one.archive_bytes, "sha256": hex(&one.digest),
                })
            })
            .collect();
        print_line(json!({"archived": shown, "segment_bytes": before, "archive_bytes": after}));
    } else {
        let count = all.len();
        let records = sum(|one| one.records);
        print_line(format_args!("archived  {count} segments, {records} records"));
        print_line(format_args!("bytes     {after} instead of {before}"));
    }
    match outcome {
        Ok(()) => EXIT_YES,
        Err(error) => {
            complain(&error);
            match error {
                ArchiveError::Audit(_) | ArchiveError::NotFinished { .. } => EXIT_INPUT,
                ArchiveError::Differs { .. }
                | ArchiveError::NotWhole { .. }
                | ArchiveError::OtherArchive { .. } => EXIT_NO,
            }
        }
    }
}
