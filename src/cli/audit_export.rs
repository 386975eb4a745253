//! `edgate audit export`: records as a file for somebody else, and a manifest that holds them to it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::audit::with_bar;
use super::audit_tag::{self, Sought};
use super::checkpoint_keys::checkpoint_keys;
use super::control_client::{Target, post, refuse};
use super::export_manifest::{
    Form, Problem, filter_json, manifest, manifest_digest, manifest_path, manifest_text, parse_kind,
};
use super::{EXIT_YES, Output, complain, print_line};
use crate::audit::export::{Exported, Filter, Source, export};
use crate::audit::merkle::CompactRange;
use crate::audit::note::{Checkpoint, CheckpointKey};
use crate::audit::proof::{ProveError, Prover};
use crate::audit::schema::Kind;
use crate::audit::tag::TagField;
use crate::audit::verify::{VerifyProgress, published_note};
use crate::audit::{RecordId, hex};
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
    /// Only records about one value of this field: subject, jti, client or session. The value is read from standard input,
    /// and only its tags are kept. Needs the log's tag keys; the node records it as a look-up (see `edgate audit tag`).
    #[arg(long, value_name = "FIELD", value_parser = audit_tag::parse_field)]
    tag: Option<TagField>,
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
pub(super) struct FilterArguments {
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
filter, the counts of everything in the time asked for, and the checkpoint. The node puts the manifest's digest on record; the proof \
of that record, under the next checkpoint, is the manifest's signature. `edgate audit verify-export` checks it all.";

pub(super) fn parse_time(text: &str) -> Result<u64, String> {
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
    pub(super) fn filter(&self) -> Filter {
        let Self { kind, from, to, tenant, issuer, kid, decision } = self;
        Filter {
            kinds: kind.clone(),
            from_ns: *from,
            to_ns: *to,
            tenant: tenant.clone(),
            issuer: issuer.clone(),
            kid: kid.clone(),
            decision: decision.clone(),
            tags: Vec::new(),
        }
    }
}

pub(super) fn run(arguments: &ExportArguments) -> u8 {
    let json = arguments.output.json;
    let mut filter = arguments.filter.filter();
    let sought = arguments.tag.map(|field| {
        audit_tag::read_value()
            .and_then(|value| Sought::read(&arguments.dir, field, &value, &arguments.target))
    });
    let sought = match sought.transpose() {
        Ok(sought) => sought,
        Err(problem) => return problem.tell(json),
    };
    let mut lookup = Value::Null;
    if let Some(sought) = &sought {
        filter.tags.clone_from(&sought.tags);
        lookup = match sought.record(arguments.unrecorded, &arguments.target) {
            Ok(record) => record,
            Err(error) => return refuse(&error),
        };
    }
    let made = match make(arguments, &filter) {
        Ok(made) => made,
        Err(problem) => return problem.tell(json),
    };
    let Made { partial, exported, mut manifest, keys } = made;
    let unsearched = sought.map(|sought| sought.unsearched(&exported));
    if let Some(unsearched) = &unsearched {
        manifest["not_searched"] = unsearched.json();
        manifest["lookup"] = lookup;
    }
    if !arguments.unrecorded {
        let body = json!({
            "filter": filter_json(&filter).to_string(), "rows": exported.rows,
            "sha256": hex(&manifest_digest(&manifest)),
        });
        let answered = arguments.target.url().and_then(|url| post(&url, "/v1/audit/exports", &body));
        match answered {
            Ok(answer) => {
                manifest["record"] = answer["id"].clone();
                let id = answer["id"].as_str().and_then(|id| id.parse().ok());
                match id.map(|id| signature(&arguments.dir, &keys, &exported.tree, id)) {
                    Some(Ok(proof)) => manifest["proof"] = proof.into(),
                    Some(Err(error)) => complain(format_args!("the manifest is not signed: {error}")),
                    None => {}
                }
            }
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
        if manifest["proof"].is_null() {
            print_line("unsigned: only the log itself shows that these are its rows (verify-export --dir)");
        }
    }
    unsearched.map_or(EXIT_YES, |unsearched| unsearched.tell())
}

struct Made {
    partial: PathBuf,
    exported: Exported,
    manifest: Value,
    keys: Vec<CheckpointKey>,
}

/// The proof that the log has this export on record, under a checkpoint, for which it waits. `read` is the tree over what was
/// exported.
fn signature(
    dir: &Path,
    keys: &[CheckpointKey],
    read: &CompactRange,
    id: RecordId,
) -> Result<String, ProveError> {
    let started = Instant::now();
    let prover = Prover { dir, tiles: None, keys };
    loop {
        match prover.inclusion_behind(read, id, &mut |_| {}) {
            Err(ProveError::NotCovered { .. }) if started.elapsed() < SIGNED_TIMEOUT => {
                thread::sleep(SIGNED_POLL);
            }
            proof => return proof.map(|proof| proof.to_text()),
        }
    }
}

/// How long the node gets to sign its next checkpoint: it makes one every second, unless its signer is slow.
const SIGNED_TIMEOUT: Duration = Duration::from_secs(30);
const SIGNED_POLL: Duration = Duration::from_millis(50);

/// The checkpoint of a log, and what it covers.
pub(super) struct Signed {
    keys: Vec<CheckpointKey>,
    note: Option<String>,
    checkpoint: Option<Checkpoint>,
}

impl Signed {
    pub(super) fn read(dir: &Path, key: Option<&Path>, allow_unsigned: bool) -> Result<Self, Problem> {
        let keys = checkpoint_keys(dir, key).map_err(Problem::Input)?;
        let note = published_note(dir).map_err(|error| {
            Problem::Input(format!("cannot read the checkpoint of {}: {error}", dir.display()))
        })?;
        let checkpoint = match &note {
            Some(note) => Some(Checkpoint::open(note, &keys).map_err(|error| {
                Problem::Differs("bad-checkpoint", format!("the checkpoint in {}: {error}", dir.display()))
            })?),
            None if allow_unsigned => None,
            None => {
                return Err(Problem::Differs(
                    "unsigned",
                    format!("{} has no checkpoint (--allow-unsigned takes it all the same)", dir.display()),
                ));
            }
        };
        Ok(Self { keys, note, checkpoint })
    }

    /// The log in `dir`, as far as it is signed; all of it if nothing is.
    pub(super) fn source<'a>(&'a self, dir: &'a Path) -> Source<'a> {
        let size = self.checkpoint.as_ref().map(|checkpoint| checkpoint.size);
        Source { dir, keys: &self.keys, size }
    }

    /// Compares what was read with what was signed.
    pub(super) fn check(&self, read: &Exported) -> Result<(), Problem> {
        match &self.checkpoint {
            Some(signed) if signed.root != read.root() || signed.origin != read.origin => {
                let detail = "the records are not those that the checkpoint was signed for; `edgate audit verify` says more";
                Err(Problem::Differs("rewritten", detail.to_owned()))
            }
            _ => Ok(()),
        }
    }
}

fn make(arguments: &ExportArguments, filter: &Filter) -> Result<Made, Problem> {
    let (dir, out) = (&arguments.dir, &arguments.out);
    for path in [out.clone(), manifest_path(out)] {
        if fs::symlink_metadata(&path).is_ok() {
            return Err(Problem::Input(format!("{} exists; name another file", path.display())));
        }
    }
    let signed = Signed::read(dir, arguments.key.as_deref(), arguments.allow_unsigned)?;
    let partial = out.with_added_extension("partial");
    let written = |error: io::Error| Problem::Failure(format!("cannot write {}: {error}", partial.display()));
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial).map_err(written)?;
    let form = arguments.format;
    let exported = with_bar(arguments.output.json, |progress| {
        export(&signed.source(dir), filter, form.format(), &mut file, &mut |bytes, bytes_total| {
            progress(VerifyProgress { bytes, bytes_total });
        })
    });
    let outcome = exported.map_err(Problem::from).and_then(|exported| {
        signed.check(&exported)?;
        file.sync_all().map_err(written)?;
        Ok(exported)
    });
    match outcome {
        Ok(exported) => {
            let manifest = manifest(form, filter, &exported, signed.note.as_deref());
            Ok(Made { partial, exported, manifest, keys: signed.keys })
        }
        Err(problem) => {
            let _ = fs::remove_file(&partial);
            Err(problem)
        }
    }
}

fn publish(partial: &Path, out: &Path, beside_it: &Path, manifest: &Value) -> io::Result<()> {
    let manifest_partial = beside_it.with_added_extension("partial");
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&manifest_partial)?;
    file.write_all(manifest_text(manifest).as_bytes())?;
    file.sync_all()?;
    // The rows last: where they are, their manifest is.
    fs::rename(&manifest_partial, beside_it)?;
    fs::rename(partial, out)?;
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
