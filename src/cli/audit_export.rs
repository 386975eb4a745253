//! `edgate audit export`: records as a file for somebody else, and a manifest that holds them to it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::audit::{checkpoint_keys, progress_bar};
use super::control_client::{Target, post, refuse};
use super::export_manifest::{Form, Problem, filter_json, manifest, manifest_path, parse_kind};
use super::{EXIT_YES, Output, complain, print_line};
use crate::audit::export::{Exported, Filter, export};
use crate::audit::note::Checkpoint;
use crate::audit::schema::Kind;
use crate::audit::{hex, verify::published_note};
use crate::decision::Decision;

#[derive(Debug, Args)]
#[command(after_help = EXPORT_HELP)]
pub(super) struct ExportArguments {
    /// The log's folder.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/edgate/audit")]
    dir: PathBuf,
    /// The file to write; beside it comes FILE.manifest.json. Neither may exist.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The form of the rows.
    #[arg(long, value_enum, default_value_t = Form::Jsonl)]
    format: Form,
    #[command(flatten)]
    filter: FilterArguments,
    /// A file with the checkpoint key, kept where the log's writer cannot change it. Otherwise the copy in the log's own
    /// folder is used.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Export a log that has no checkpoint, to its end.
    #[arg(long)]
    allow_unsigned: bool,
    /// Do not tell the running node, whose log then says nothing of this export.
    #[arg(long)]
    unrecorded: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

/// Which records; what is not named is not asked about.
#[derive(Debug, Args)]
struct FilterArguments {
    /// Only this kind of record, such as `decision`; may be repeated.
    #[arg(long, value_name = "KIND", value_parser = parse_kind)]
    kind: Vec<Kind>,
    /// Recorded at or after this time: RFC 3339, such as 2026-11-28T00:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: Option<u64>,
    /// Recorded before this time.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to: Option<u64>,
    /// Of this tenant.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Of this issuer, by the name the configuration gives it.
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// Signed with the key of this name.
    #[arg(long, value_name = "KID")]
    kid: Option<String>,
    /// With this decision: `accepted`, or a reason such as `revoked`.
    #[arg(long, value_name = "DECISION", value_parser = parse_decision)]
    decision: Option<String>,
}

const EXPORT_HELP: &str = "The rows are those of the records that the latest checkpoint covers, read whole, with their \
links, and compared with what was signed; of a broken log nothing is exported. The manifest holds the digest of the rows, the \
filter, the counts of everything in the time asked for, and the checkpoint; `edgate audit verify-export` checks it.";

fn parse_time(text: &str) -> Result<u64, String> {
    let time: jiff::Timestamp =
        text.parse().map_err(|_| "write a time such as 2026-11-28T00:00:00Z".to_owned())?;
    u64::try_from(time.as_nanosecond())
        .map_err(|_| "the log knows no times before 1970 or after 2554".to_owned())
}

fn parse_decision(text: &str) -> Result<String, String> {
    Decision::from_name(text).map(|decision| decision.name().to_owned()).ok_or_else(|| {
        "write accepted, or the reason of a refusal as `edgate audit tail` shows it".to_owned()
    })
}

impl FilterArguments {
    fn filter(&self) -> Filter {
        let Self { kind, from, to, tenant, issuer, kid, decision } = self;
        Filter {
            kinds: kind.clone(),
            from_ns: *from,
            to_ns: *to,
            tenant: tenant.clone(),
            issuer: issuer.clone(),
            kid: kid.clone(),
            decision: decision.clone(),
        }
    }
}

pub(super) fn run(arguments: &ExportArguments) -> u8 {
    let json = arguments.output.json;
    let made = match make(arguments) {
        Ok(made) => made,
        Err(problem) => return problem.tell(json),
    };
    let Made { partial, exported, manifest } = made;
    let mut manifest = manifest;
    if !arguments.unrecorded {
        let body = json!({
            "filter": filter_text(&arguments.filter.filter()), "rows": exported.rows, "sha256": hex(&exported.digest),
        });
        let answered = arguments.target.url().and_then(|url| post(&url, "/v1/audit/exports", &body));
        match answered {
            Ok(answer) => manifest["record"] = answer["id"].clone(),
            Err(error) => {
                let _ = fs::remove_file(&partial);
                complain("the export was dropped: the log must say that it was made (or give --unrecorded)");
                return refuse(&error);
            }
        }
    }
    let beside = manifest_path(&arguments.out);
    if let Err(error) = publish(&partial, &arguments.out, &beside, &manifest) {
        let _ = fs::remove_file(&partial);
        return Problem::Failure(format!("cannot write {}: {error}", arguments.out.display())).tell(json);
    }
    if json {
        print_line(&manifest);
    } else {
        let Exported { rows, size, .. } = exported;
        print_line(format_args!("exported  {rows} of {size} records to {}", arguments.out.display()));
        print_line(format_args!("manifest  {}", beside.display()));
        print_line(format_args!("sha256    {}", hex(&exported.digest)));
        match manifest["record"].as_str() {
            Some(id) => print_line(format_args!("recorded  {id}")),
            None => print_line("not recorded: the log says nothing of this export"),
        }
    }
    EXIT_YES
}

struct Made {
    partial: PathBuf,
    exported: Exported,
    manifest: Value,
}

fn make(arguments: &ExportArguments) -> Result<Made, Problem> {
    let (dir, out, filter) = (&arguments.dir, &arguments.out, arguments.filter.filter());
    for path in [out.clone(), manifest_path(out)] {
        if fs::symlink_metadata(&path).is_ok() {
            return Err(Problem::Input(format!("{} exists; name another file", path.display())));
        }
    }
    let keys = checkpoint_keys(dir, arguments.key.as_deref()).map_err(Problem::Input)?;
    let note = published_note(dir).map_err(|error| {
        Problem::Input(format!("cannot read the checkpoint of {}: {error}", dir.display()))
    })?;
    let checkpoint = match &note {
        Some(note) => Some(Checkpoint::open(note, &keys).map_err(|error| {
            Problem::Differs("bad-checkpoint", format!("the checkpoint in {}: {error}", dir.display()))
        })?),
        None if arguments.allow_unsigned => None,
        None => {
            return Err(Problem::Differs(
                "unsigned",
                format!("{} has no checkpoint (--allow-unsigned exports it all the same)", dir.display()),
            ));
        }
    };
    let partial = out.with_added_extension("partial");
    let written = |error: io::Error| Problem::Failure(format!("cannot write {}: {error}", partial.display()));
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial).map_err(written)?;
    let bar = progress_bar(arguments.output.json);
    let size = checkpoint.as_ref().map(|checkpoint| checkpoint.size);
    let exported = export(dir, &filter, arguments.format.format(), size, &mut file, &mut |read, total| {
        bar.set_length(total);
        bar.set_position(read);
    });
    bar.finish_and_clear();
    let outcome = exported.map_err(Problem::from).and_then(|exported| {
        if checkpoint.as_ref().is_some_and(|signed| signed.root != exported.root || signed.origin != exported.origin) {
            let detail = "the records are not those that the checkpoint was signed for; `edgate audit verify` says more";
            return Err(Problem::Differs("rewritten", detail.to_owned()));
        }
        file.sync_all().map_err(written)?;
        Ok(exported)
    });
    match outcome {
        Ok(exported) => {
            let manifest = manifest(arguments.format, &filter, &exported, note.as_deref());
            Ok(Made { partial, exported, manifest })
        }
        Err(problem) => {
            let _ = fs::remove_file(&partial);
            Err(problem)
        }
    }
}

/// The filter as the log keeps it.
fn filter_text(filter: &Filter) -> String {
    filter_json(filter).to_string()
}

fn publish(partial: &Path, out: &Path, beside_it: &Path, manifest: &Value) -> io::Result<()> {
    let manifest_partial = beside_it.with_added_extension("partial");
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&manifest_partial)?;
    writeln!(file, "{manifest:#}")?;
    file.sync_all()?;
    // The rows last: where they are, their manifest is.
    fs::rename(&manifest_partial, beside_it)?;
    fs::rename(partial, out)?;
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
