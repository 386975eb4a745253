//! `edgate audit verify-export`: an export held to its manifest, its checkpoint, and the log.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::checkpoint_keys::keys_in;
use super::export_manifest::{
    Form, MANIFEST_VERSION, Problem, counts_json, manifest_digest, manifest_path, read_filter,
};
use super::{EXIT_YES, Output, print_line};
use crate::audit::export::{Exported, Filter, Source, export};
use crate::audit::export_again::{compare, exported_digest, recorded_digest};
use crate::audit::hex;
use crate::audit::note::Checkpoint;
use crate::audit::proof::{Expected, verify_inclusion};

#[derive(Debug, Args)]
pub(super) struct VerifyExportArguments {
    /// The export.
    file: PathBuf,
    /// Its manifest; otherwise FILE.manifest.json.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// The checkpoint key, from whoever vouches for the log. Without it nobody has signed for anything.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The log itself, or a copy: the export is made once more from it and compared.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Accept rows that nobody signed for: the export was not put on record, and the log is not there to compare with.
    #[arg(long)]
    allow_unsigned: bool,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(arguments: &VerifyExportArguments) -> u8 {
    let json = arguments.output.json;
    match verify(arguments) {
        Ok(Verified { manifest, signed, since }) => {
            if json {
                print_line(json!({
                    "valid": true, "rows": manifest["rows"], "origin": manifest["log"]["origin"],
                    "signed": signed,
                    "erased_since": since.map(|(rows, _)| rows), "on_record": since.map(|(_, on_record)| on_record),
                }));
            } else {
                let origin =
                    manifest["log"]["origin"].as_str().unwrap_or_default().escape_debug().to_string();
                print_line(format_args!(
                    "whole: {} rows of {origin}, as its manifest says",
                    manifest["rows"]
                ));
                print_line(match signed {
                    true => "signed: the log has this manifest on record, under its checkpoint",
                    false => "not signed: the manifest is not shown to be on record",
                });
                if let Some((rows, on_record)) = since {
                    print_line(format_args!(
                        "erased    {rows} bodies that it shows were erased from the log since, by authority"
                    ));
                    print_line(match on_record {
                        true => {
                            "complete: all else is as in the log, which has the digest of these rows on record"
                        }
                        false => {
                            "complete: all else is as in the log; for those bodies only the export vouches"
                        }
                    });
                    return EXIT_YES;
                }
                print_line(match arguments.dir {
                    Some(_) => "complete: made once more from the log, it is the same",
                    None => "complete as far as the counts tell; --dir LOG compares with the log itself",
                });
            }
            EXIT_YES
        }
        Err(problem) => problem.tell(json),
    }
}

fn verify(arguments: &VerifyExportArguments) -> Result<Verified, Problem> {
    let path = arguments.manifest.clone().unwrap_or_else(|| manifest_path(&arguments.file));
    let unreadable = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| Problem::Input(format!("cannot read {path}: {error}"))
    };
    let mut text = String::new();
    File::open(&path)
        .and_then(|file| file.take(MANIFEST_BYTES_MAX).read_to_string(&mut text))
        .map_err(unreadable(&path))?;
    let malformed =
        || Problem::Differs("bad-manifest", format!("{} is no manifest of an export", path.display()));
    let manifest: Value = serde_json::from_str(&text).map_err(|_| malformed())?;
    if manifest["edgate_export"] != MANIFEST_VERSION {
        return Err(malformed());
    }
    let filter = read_filter(&manifest["filter"]).ok_or_else(malformed)?;
    let form = match manifest["format"].as_str() {
        Some("csv") => Form::Csv,
        Some("jsonl") => Form::Jsonl,
        _ => return Err(malformed()),
    };
    let number = |value: &Value| value.as_u64().ok_or_else(malformed);
    let (rows, size) = (number(&manifest["rows"])?, number(&manifest["log"]["size"])?);

    let keys = keys_in(&arguments.key).map_err(Problem::Input)?;
    let note = manifest["checkpoint"].as_str().ok_or_else(|| {
        Problem::Differs(
            "unsigned",
            "the manifest has no checkpoint: nobody vouches for this export".to_owned(),
        )
    })?;
    let signed = Checkpoint::open(note, &keys).map_err(|error| {
        Problem::Differs("bad-checkpoint", format!("the checkpoint in the manifest: {error}"))
    })?;
    let stated = &manifest["log"];
    if stated["origin"] != signed.origin.as_str()
        || size != signed.size
        || stated["root"] != hex(&signed.root).as_str()
    {
        return Err(Problem::Differs(
            "other-log",
            "the manifest speaks of another log than its checkpoint".to_owned(),
        ));
    }

    let mut file = File::open(&arguments.file).map_err(unreadable(&arguments.file))?;
    let found = Rows::read(&mut file, form).map_err(unreadable(&arguments.file))?;
    let differs = |what: &str| {
        Problem::Differs(
            "altered-export",
            format!("{what}; rows were changed, added or taken out after it was made"),
        )
    };
    if manifest["sha256"] != hex(&found.digest).as_str() || manifest["bytes"] != found.bytes {
        return Err(differs("the digest of the rows is not the manifest's"));
    }
    if found.rows != rows {
        return Err(differs(&format!("there are {} rows where the manifest says {rows}", found.rows)));
    }
    if let Some(cause) = found.broken {
        return Err(Problem::Differs("broken-rows", cause));
    }
    check_counts(&manifest, &filter, rows)?;
    let signature = manifest["proof"].as_str();
    let is_signed = signature.is_some();
    if let Some(proof) = signature {
        check_signature(&manifest, proof, &Expected { keys: &keys, origin: Some(&signed.origin), id: None })?;
    } else if arguments.dir.is_none() && !arguments.allow_unsigned {
        let detail = "the manifest is not signed: nobody vouches for these rows (--dir LOG compares them with the log itself, \
                      --allow-unsigned takes them all the same)";
        return Err(Problem::Differs("unsigned", detail.to_owned()));
    }
    if let Some(dir) = &arguments.dir {
        let source = Source { dir, keys: &keys, size: Some(size) };
        let again = export(&source, &filter, form.format(), &mut io::sink(), &mut |_, _| {})?;
        if again.root() != signed.root {
            return Err(Problem::Differs("rewritten", "the log is not the one that was signed".to_owned()));
        }
        if again.digest != found.digest || manifest["counts"] != counts_json(&again.counts) {
            let since = erased_since(&manifest["counts"], &source, &filter, form, &mut file, &again)
                .map_err(|error| unreadable(&arguments.file)(error))?;
            let since = since?.ok_or_else(|| {
                let detail =
                    format!("made once more from the log it has {} rows, and is another", again.rows);
                Problem::Differs("incomplete", detail)
            })?;
            let id = manifest["record"].as_str().and_then(|id| id.parse().ok());
            let digest = manifest_digest(&manifest);
            let on_record = is_signed || id.and_then(|id| recorded_digest(&source, id)) == Some(digest);
            return Ok(Verified { manifest, signed: is_signed, since: Some((since, on_record)) });
        }
    }
    Ok(Verified { manifest, signed: is_signed, since: None })
}

/// Whether the log has this very manifest on record.
fn check_signature(manifest: &Value, proof: &str, expected: &Expected<'_>) -> Result<(), Problem> {
    let proven = verify_inclusion(proof.as_bytes(), expected).map_err(|refusal| {
        Problem::Differs(refusal.class.name(), format!("the proof in the manifest: {refusal}"))
    })?;
    match exported_digest(&proven) {
        Some(digest) if digest == manifest_digest(manifest) => Ok(()),
        _ => Err(Problem::Differs(
            "altered-manifest",
            "what the log has on record is another manifest than this".to_owned(),
        )),
    }
}

/// An export that holds.
struct Verified {
    manifest: Value,
    /// Whether the log is proven to have the manifest on record.
    signed: bool,
    /// Rows with bodies that were erased since, and whether the log has the digest of these very rows.
    since: Option<(u64, bool)>,
}

/// How many of the rows show a body that was erased since, if that is all that is other than in the log.
fn erased_since(
    counts: &Value,
    source: &Source<'_>,
    filter: &Filter,
    form: Form,
    file: &mut File,
    again: &Exported,
) -> io::Result<Result<Option<u64>, Problem>> {
    let now = counts_json(&again.counts);
    // Of erased records the decisions are not known any more; the records are still counted.
    let fewer = again
        .counts
        .decisions
        .iter()
        .all(|(name, count)| counts["decisions"][*name].as_u64().is_some_and(|before| before >= *count));
    let known = again.counts.redacted > 0 && counts["redacted"].as_u64() <= Some(again.counts.redacted);
    if counts["records"] != now["records"] || counts["kinds"] != now["kinds"] || !fewer || !known {
        return Ok(Ok(None));
    }
    file.rewind()?;
    let mut rows = io::BufReader::with_capacity(64 * 1024, file);
    let compared = match compare(source, filter, form.format(), &mut rows) {
        Ok(compared) => compared,
        Err(error) => return Ok(Err(error.into())),
    };
    Ok(Ok(compared.differs_at.is_none().then_some(compared.erased_since)))
}

/// Compares the rows with the counts, where those say how many rows there must be.
fn check_counts(manifest: &Value, filter: &Filter, rows: u64) -> Result<(), Problem> {
    let counts = &manifest["counts"];
    let of_kinds = match filter.kinds.as_slice() {
        [] => counts["records"].as_u64(),
        kinds => Some(kinds.iter().map(|kind| counts["kinds"][kind.name()].as_u64().unwrap_or(0)).sum()),
    };
    let fits =
        of_kinds.is_some_and(|most| if filter.is_by_kind_alone() { rows == most } else { rows <= most });
    if fits {
        return Ok(());
    }
    Err(Problem::Differs("incomplete", format!("{rows} rows do not fit the counts of what was read")))
}

/// What the rows themselves say.
struct Rows {
    rows: u64,
    bytes: u64,
    digest: [u8; 32],
    /// The first row that does not follow the one before it.
    broken: Option<String>,
}

impl Rows {
    fn read(file: &mut File, form: Form) -> io::Result<Self> {
        let mut digest = Sha256::new();
        let (mut rows, mut bytes, mut broken) = (0, 0, None);
        let mut last: Option<(u64, String)> = None;
        let mut line = Vec::new();
        let mut reader = io::BufReader::with_capacity(64 * 1024, file);
        let (mut quoted, mut header) = (false, form == Form::Csv);
        loop {
            line.clear();
            let read = io::BufRead::read_until(&mut reader, b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            digest.update(&line);
            bytes += read as u64;
            // In CSV a line end inside quotes is part of a cell.
            quoted ^= form == Form::Csv && line.iter().filter(|byte| **byte == b'"').count() % 2 == 1;
            if quoted || std::mem::take(&mut header) {
                continue;
            }
            rows += 1;
            if form == Form::Csv || broken.is_some() {
                continue;
            }
            let row: Value = serde_json::from_slice(&line).unwrap_or_default();
            let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
            let Some(seq) = row["seq"].as_u64() else {
                broken = Some(format!("row {rows} is no record"));
                continue;
            };
            broken = match &last {
                Some((before, _)) if seq <= *before => {
                    Some(format!("row {rows}: record {seq} stands behind record {before}"))
                }
                Some((before, hash)) if seq == before + 1 && text("prev_hash") != *hash => {
                    Some(format!("row {rows}: record {seq} does not continue record {before}"))
                }
                _ => None,
            };
            last = Some((seq, text("event_hash")));
        }
        Ok(Self { rows, bytes, digest: digest.finalize().into(), broken })
    }
}

/// Longest manifest that is read: counts by kind and decision, and a checkpoint.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
