//! `edgate audit report`: the log's figures for people, as a page that prints or as JSON, beside what verification says.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::audit::with_bar;
use super::audit_export::parse_time;
use super::checkpoint_keys::checkpoint_keys;
use super::control_client::{Target, post, refuse};
use super::report_page::Page;
use super::{EXIT_FAILURE, EXIT_INPUT, Output, complain, print_line};
use crate::audit::hex;
use crate::audit::note::Checkpoint;
use crate::audit::summary::{Span, Summary, summarise};
use crate::audit::verify::{Options, Report, published_note, verify_dir};

#[derive(Debug, Args)]
#[command(after_help = REPORT_HELP)]
pub(super) struct ReportArguments {
    /// The log's folder; may be in use.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/edgate/audit")]
    dir: PathBuf,
    /// Write the page to this file. It must not exist.
    #[arg(long, value_name = "FILE", required_unless_present = "json")]
    html: Option<PathBuf>,
    /// Count what was recorded at or after this time: RFC 3339, such as 2026-11-28T00:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: Option<u64>,
    /// Count what was recorded before this time.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to: Option<u64>,
    /// A file with the checkpoint key, kept where the log's writer cannot change it. Otherwise the copy in the log's own
    /// folder is used.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Do not tell the running node, whose log then says nothing of this page.
    #[arg(long)]
    unrecorded: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

const REPORT_HELP: &str = "The log is verified first, up to its latest checkpoint; the page says what came of it, also of a \
broken log. It needs nothing from elsewhere and runs no script; a browser prints it to PDF. Exit code 0 for a whole log, otherwise the \
code of `edgate audit verify`.";

pub(super) fn run(arguments: &ReportArguments) -> u8 {
    let made = match make(arguments) {
        Ok(made) => made,
        Err(problem) => {
            complain(problem);
            return EXIT_INPUT;
        }
    };
    let Made { summary, report, key } = made;
    let data = format!("{}\n", data(arguments, &summary, &report));
    let digest = hex(&Sha256::digest(&data));
    if let Some(path) = &arguments.html {
        let page = Page {
            summary: &summary,
            report: &report,
            made: &format!("{:.0}", jiff::Timestamp::now()),
            key,
            data: &data,
            digest: &digest,
        };
        if let Err(code) = publish(arguments, path, &page.html(), summary.records) {
            return code;
        }
    }
    if arguments.output.json {
        print_line(data.trim_end());
    }
    report.exit_code()
}

struct Made {
    summary: Summary,
    report: Report,
    key: &'static str,
}

fn make(arguments: &ReportArguments) -> Result<Made, String> {
    let dir = &arguments.dir;
    let keys = checkpoint_keys(dir, arguments.key.as_deref())?;
    let note = published_note(dir)
        .map_err(|error| format!("cannot read the checkpoint of {}: {error}", dir.display()))?;
    // A running log goes on: what is signed stands still. Where the checkpoint says nothing, verification says why.
    let signed = note.and_then(|note| Checkpoint::open(&note, &keys).ok()).map(|signed| signed.size);
    let options = Options { keys, upto: signed, ..Options::default() };
    let report = with_bar(arguments.output.json, |progress| verify_dir(dir, &options, progress));
    let report = report.map_err(|error| error.to_string())?;
    let span = Span { from_ns: arguments.from, to_ns: arguments.to };
    let counted = summarise(dir, report.size, span, &mut |_| {});
    let (summary, counted) = counted.map_err(|error| error.to_string())?;
    let same = counted.linked && counted.size == report.size && counted.head == report.head;
    if report.breaks.is_empty() && !same {
        return Err("the log changed while it was read; try again".to_owned());
    }
    let key = if arguments.key.is_some() { "the key given" } else { "the key in the log's own folder" };
    Ok(Made { summary, report, key })
}

/// The figures: the same for the same log and span, whenever they are made.
fn data(arguments: &ReportArguments, summary: &Summary, report: &Report) -> Value {
    let hash = |hash: &Option<[u8; 32]>| hash.as_ref().map(|hash| hex(hash));
    let breaks: Vec<_> = report
        .breaks
        .iter()
        .map(|one| {
            json!({"class": one.class.name(), "segment": one.segment, "offset": one.offset, "seq": one.seq,
                "records": one.records, "detail": one.detail})
        })
        .collect();
    json!({
        "edgate_report": REPORT_VERSION,
        "log": {"origin": report.origin, "size": report.size, "root": hash(&report.root), "head": hash(&report.head)},
        "verification": {
            "valid": report.breaks.is_empty(), "breaks": breaks, "checkpoints": report.checkpoints,
            "signed_size": report.signed_size,
        },
        "span": {"from_ns": arguments.from, "to_ns": arguments.to},
        "figures": summary,
    })
}

/// Writes the page and has it recorded; where that is not possible there is no page.
fn publish(arguments: &ReportArguments, path: &Path, html: &str, records: u64) -> Result<(), u8> {
    let failed = |error: std::io::Error| {
        complain(format_args!("cannot write {}: {error}", path.display()));
        if error.kind() == std::io::ErrorKind::AlreadyExists { EXIT_INPUT } else { EXIT_FAILURE }
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(html.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    let digest = hex(&Sha256::digest(html));
    let mut id = None;
    if !arguments.unrecorded {
        let filter = json!({"report": "html", "from_ns": arguments.from, "to_ns": arguments.to}).to_string();
        let body = json!({"filter": filter, "rows": records, "sha256": digest});
        match arguments.target.url().and_then(|url| post(&url, "/v1/audit/exports", &body)) {
            Ok(answer) => id = answer["id"].as_str().map(str::to_owned),
            Err(error) => {
                let _ = fs::remove_file(path);
                complain("the page was dropped: the log must say that it was made (or give --unrecorded)");
                return Err(refuse(&error));
            }
        }
    }
    if !arguments.output.json {
        print_line(format_args!("page      {}", path.display()));
        print_line(format_args!("sha256    {digest}"));
        match id {
            Some(id) => print_line(format_args!("recorded  {id}")),
            None => print_line("not recorded: the log says nothing of this page"),
        }
    }
    Ok(())
}

/// The form of the figures.
const REPORT_VERSION: u64 = 1;
