//! `edgate audit tiles`, `prove` and `verify-proof`: evidence for someone who has neither the log nor the service.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use crate::audit::proof::{
    Expected, PROOF_BYTES_MAX, ProofClass, ProveError, ProvenGrowth, Prover, Refusal, export_tiles,
    verify_consistency, verify_inclusion,
};
use crate::audit::{CheckpointKey, RecordId, hex};

use super::audit::with_bar;
use super::checkpoint_keys::{checkpoint_keys, keys_in};
use super::{EXIT_FAILURE, EXIT_INPUT, EXIT_NO, EXIT_YES, Output, complain, print_line};

#[derive(Debug, Args)]
pub(super) struct TilesArguments {
    /// The log's folder.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/edgate/audit")]
    dir: PathBuf,
    /// Where the tiles go; created if its parent is there. Headers of records are in it, their bodies are not.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// A file with the checkpoint key; otherwise the copy in the log's own folder.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
#[command(after_help = PROVE_HELP)]
pub(super) struct ProveArguments {
    /// The decision's id, as clients got it.
    #[arg(required_unless_present = "consistency", conflicts_with_all = ["consistency"])]
    id: Option<RecordId>,
    /// The log's folder.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/edgate/audit")]
    dir: PathBuf,
    /// Tiles that `edgate audit tiles` made of this log. Without them the whole log is read.
    #[arg(long, value_name = "FOLDER")]
    tiles: Option<PathBuf>,
    /// A file with the checkpoint key; otherwise the copy in the log's own folder.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Show the record's body too. Without it the proof shows when the record was made and of which kind, and commits to
    /// the rest.
    #[arg(long, conflicts_with = "consistency")]
    with_body: bool,
    /// Prove instead that the log continues the older checkpoint in this file.
    #[arg(long, value_name = "FILE")]
    consistency: Option<PathBuf>,
    /// Write the proof to this file, which may not exist, instead of to standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

const PROVE_HELP: &str = "The proof goes to standard output, or to the file of --out; with --json it stands in the member \
`proof`. It is a C2SP tlog-proof, or with --consistency the body of a tlog-witness add-checkpoint. Exit codes: 0 proven; 1 no such \
record, not covered by a checkpoint yet, its body erased, or what is stored is not what was signed; 2 could not run; 9 to 12 the checkpoint, and 25 rollback, as `edgate audit verify-proof --help` says.";

#[derive(Debug, Args)]
#[command(after_help = VERIFY_PROOF_HELP)]
pub(super) struct VerifyProofArguments {
    /// The proof; `-` for standard input.
    file: PathBuf,
    /// The log's verifier key, from where the log's writer cannot change it: the text itself, or a file of such lines.
    #[arg(long, value_name = "VKEY")]
    key: String,
    /// The name the log must have; otherwise that of the key.
    #[arg(long, value_name = "NAME")]
    origin: Option<String>,
    /// The decision's id that the proof must be about. Its first part, the boot, is not in the record and not compared.
    #[arg(long, value_name = "ID", conflicts_with = "consistency")]
    id: Option<RecordId>,
    /// The file is a proof that the log continues the older checkpoint in this file.
    #[arg(long, value_name = "FILE")]
    consistency: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

const VERIFY_PROOF_HELP: &str = "Exit codes: 0 proven; 1 altered-body; 2 could not run; 9 bad-signature; 10 wrong-key; \
11 wrong-origin; 12 unsigned; 20 altered-record; 21 cut-short; 22 inconsistent; 23 malformed; 24 not-included; 25 rollback; \
26 wrong-index; 27 wrong-record.";

pub(super) fn tiles(arguments: &TilesArguments) -> u8 {
    let keys = match checkpoint_keys(&arguments.dir, arguments.key.as_deref()) {
        Ok(keys) => keys,
        Err(message) => return unusable(&message),
    };
    let exported = with_bar(arguments.output.json, |progress| {
        export_tiles(&arguments.dir, &arguments.out, &keys, progress)
    });
    match exported {
        Ok(done) if arguments.output.json => print_line(json!({
            "origin": done.origin, "before": done.before, "size": done.size, "files": done.files,
        })),
        Ok(done) => {
            let (origin, size, files) = (done.origin.escape_debug(), done.size, done.files);
            print_line(format_args!("tiles of {size} records of {origin}, {files} files written"));
        }
        Err(error) => return failed(&error),
    }
    EXIT_YES
}

pub(super) fn prove(arguments: &ProveArguments) -> u8 {
    let keys = match checkpoint_keys(&arguments.dir, arguments.key.as_deref()) {
        Ok(keys) => keys,
        Err(message) => return unusable(&message),
    };
    let prover = Prover { dir: &arguments.dir, tiles: arguments.tiles.as_deref(), keys: &keys };
    let json = arguments.output.json;
    let made = match (&arguments.consistency, arguments.id) {
        (Some(old), _) => {
            with_bar(json, |progress| prover.consistency(old, progress)).map(|proof| proof.to_text())
        }
        (None, Some(id)) => with_bar(json, |progress| prover.inclusion(id, arguments.with_body, progress))
            .map(|proof| proof.to_text()),
        (None, None) => return unusable("give an id, or --consistency FILE"),
    };
    match made {
        Ok(text) => give_out(&text, arguments),
        Err(error) => failed(&error),
    }
}

/// Writes a proof to where it is wanted.
fn give_out(text: &str, arguments: &ProveArguments) -> u8 {
    if let Some(out) = &arguments.out {
        let written = File::create_new(out).and_then(|mut file| file.write_all(text.as_bytes()));
        if let Err(error) = written {
            complain(format_args!("cannot write {}: {error}", out.display()));
            return EXIT_FAILURE;
        }
    }
    match (arguments.output.json, &arguments.out) {
        (true, out) => print_line(json!({"proof": text, "out": out})),
        (false, Some(out)) => print_line(format_args!("proof of {} bytes in {}", text.len(), out.display())),
        // The note ends with a line end of its own.
        (false, None) => print_line(text.trim_end_matches('\n')),
    }
    EXIT_YES
}

pub(super) fn verify_proof(arguments: &VerifyProofArguments) -> u8 {
    let read = || -> Result<_, String> {
        let keys = verifier_keys(&arguments.key)?;
        let old = arguments.consistency.as_deref().map(read_proof).transpose()?;
        Ok((keys, old, read_proof(&arguments.file)?))
    };
    let (keys, old, file) = match read() {
        Ok(read) => read,
        Err(message) => return unusable(&message),
    };
    let expected = Expected { keys: &keys, origin: arguments.origin.as_deref(), id: arguments.id };
    let json = arguments.output.json;
    let checked = match old {
        Some(old) => verify_consistency(&file, &old, &expected).map(|ProvenGrowth { old, new, .. }| {
            if json {
                print_line(json!({
                    "valid": true, "origin": new.origin, "old_size": old.size, "size": new.size,
                    "old_root": hex(&old.root), "root": hex(&new.root),
                }));
            } else {
                let (origin, old, new) = (new.origin.escape_debug(), old.size, new.size);
                print_line(format_args!("proven: {origin} with {new} records continues its {old} records"));
            }
        }),
        None => verify_inclusion(&file, &expected).map(|proven| {
            let (checkpoint, record) = (&proven.checkpoint, proven.to_json());
            if json {
                print_line(json!({
                    "valid": true, "origin": checkpoint.origin, "size": checkpoint.size,
                    "root": hex(&checkpoint.root), "record": record,
                }));
                return;
            }
            let (origin, size, seq) = (checkpoint.origin.escape_debug(), checkpoint.size, &record["seq"]);
            print_line(format_args!("proven: record {seq} is in {origin}, signed at {size} records"));
            let word = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
            print_line(format_args!("kind  {}", word("kind")));
            print_line(format_args!("time  {}", word("time")));
            let (core, core_seq) = (proven.header.core, proven.header.core_seq);
            print_line(format_args!("id    …-{core:x}-{core_seq:x}"));
            print_line(format_args!("hash  {}", word("event_hash")));
            match proven.body {
                Some(_) => print_line(format_args!("body  {}", record["body"])),
                None => print_line(format_args!("body  not shown, digest {}", word("body_digest"))),
            }
        }),
    };
    match checked {
        Ok(()) => EXIT_YES,
        Err(refusal) => refuse(&refusal, json),
    }
}

pub(super) fn refuse(refusal: &Refusal, json: bool) -> u8 {
    let Refusal { class, detail } = refusal;
    // What an operator must not overlook.
    let name = if *class == ProofClass::Rollback { "ROLLBACK" } else { class.name() };
    match json {
        true => print_line(json!({"valid": false, "class": class.name(), "detail": detail})),
        false => print_line(format_args!("NOT PROVEN: {name}: {}", detail.escape_debug())),
    }
    class.exit_code()
}

/// The keys in an argument that is a verifier key, or names a file of them.
pub(super) fn verifier_keys(argument: &str) -> Result<Vec<CheckpointKey>, String> {
    match CheckpointKey::from_text(argument) {
        Ok(key) => Ok(vec![key]),
        Err(_) => keys_in(Path::new(argument)),
    }
}

/// Reads as much of a file as shows that it is too long.
pub(super) fn read_proof(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let limit = PROOF_BYTES_MAX as u64 + 1;
    let read = match path.to_str() {
        Some("-") => std::io::stdin().lock().take(limit).read_to_end(&mut bytes),
        _ => File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)),
    };
    read.map(|_| bytes).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

pub(super) fn unusable(message: &str) -> u8 {
    complain(message);
    EXIT_INPUT
}

/// Says why there are no tiles or is no proof.
pub(super) fn failed(error: &ProveError) -> u8 {
    complain(error);
    match error {
        ProveError::Audit(_) | ProveError::HoldsALog { .. } | ProveError::NoCheckpoint { .. } => EXIT_INPUT,
        ProveError::Checkpoint { cause, .. } => ProofClass::from(*cause).exit_code(),
        ProveError::Rollback(_) => ProofClass::Rollback.exit_code(),
        ProveError::WrongOrigin { .. } => ProofClass::WrongOrigin.exit_code(),
        ProveError::BodyErased { .. }
        | ProveError::NotCovered { .. }
        | ProveError::Retired { .. }
        | ProveError::Stored { .. }
        | ProveError::Tile { .. }
        | ProveError::UnknownRecord { .. }
        | ProveError::Unvouched { .. } => EXIT_NO,
    }
}
