//! `edgate audit verify-receipt`: what a node promised with an answer, and whether it kept it.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::audit::proof::{Expected, ProveError, Refusal, verify_inclusion};
use crate::audit::receipt::Receipt;
use crate::audit::schema::Kind;
use crate::audit::verify::{Options, verify_dir};
use crate::audit::{RecordId, hex};

use super::audit::with_bar;
use super::audit_proof::{read_proof, refuse, unusable, verifier_keys};
use super::checkpoint_keys::{Believed, extended};
use super::{EXIT_YES, Output, complain, print_line};

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct VerifyReceiptArguments {
    /// The receipt, or the whole answer with a member "receipt"; `-` for standard input.
    file: PathBuf,
    /// The log's verifier key, from where the log's writer cannot change it: the text itself, or a file of such lines.
    #[arg(long, value_name = "VKEY")]
    key: String,
    /// The name the log must have; otherwise that of the key.
    #[arg(long, value_name = "NAME")]
    origin: Option<String>,
    /// The decision's id that the receipt must be about.
    #[arg(long, value_name = "ID")]
    id: Option<RecordId>,
    /// A proof made by `edgate audit prove`: it must be about the record that was promised.
    #[arg(long, value_name = "FILE")]
    proof: Option<PathBuf>,
    /// The log's folder: the whole log is verified, and must hold the record that was promised.
    #[arg(long, value_name = "DIR", conflicts_with = "proof")]
    dir: Option<PathBuf>,
    /// A folder with archives of segments that the log has no longer: with them it is looked at from its beginning.
    #[arg(long, value_name = "FOLDER", requires = "dir")]
    archives: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

const HELP: &str = "Exit codes: 0 genuine, and kept where --proof or --dir were given; 2 could not run; 9 bad-signature; 10 wrong-key; \
11 wrong-origin; 17 unchecked: it may be among records that were retired, see --archives; 21 cut-short; 23 malformed; 25 rollback: the log does not hold what it promised; 27 wrong-record; else that of \
the proof (`verify-proof --help`) or of the log (`verify --help`).";

pub(super) fn run(arguments: &VerifyReceiptArguments) -> u8 {
    let json = arguments.output.json;
    match check(arguments) {
        Ok(found) if json => {
            print_line(found);
            EXIT_YES
        }
        Ok(found) => {
            let word = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
            print_line(format_args!("genuine: {} promised this record", word("origin").escape_debug()));
            print_line(format_args!("id      {}", word("id")));
            print_line(format_args!("kind    {}", word("kind")));
            print_line(format_args!("signed  {}", word("signed_at")));
            print_line(format_args!("body    digest {}", word("body_digest")));
            print_line(match (found["seq"].as_u64(), &arguments.proof) {
                (Some(seq), None) => format!("kept    it is record {seq} of the log, which is whole"),
                (Some(seq), Some(_)) => format!("kept    the proof shows it as record {seq} of the log"),
                (None, _) => "kept    not asked: --dir or --proof show whether the log holds it".to_owned(),
            });
            EXIT_YES
        }
        Err(Problem::Refused(refusal)) => refuse(&refusal, json),
        Err(Problem::Input(message)) => unusable(&message),
        Err(Problem::Log { detail, exit_code }) => {
            match json {
                true => print_line(json!({"valid": false, "class": "log", "detail": detail})),
                false => print_line(format_args!("BROKEN LOG: {detail}")),
            }
            complain("`edgate audit verify` names every break");
            exit_code
        }
    }
}

enum Problem {
    Input(String),
    Refused(Refusal),
    /// The log is not whole, so that it cannot be asked.
    Log {
        detail: String,
        exit_code: u8,
    },
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn check(arguments: &VerifyReceiptArguments) -> Result<Value, Problem> {
    let keys = verifier_keys(&arguments.key).map_err(Problem::Input)?;
    // The receipt may be of a key that these named.
    let Believed { keys, handovers } = match &arguments.dir {
        Some(dir) => extended(dir, keys),
        None => Believed { keys, handovers: Vec::new() },
    };
    let bytes = read_proof(&arguments.file).map_err(Problem::Input)?;
    let expected = Expected { keys: &keys, origin: arguments.origin.as_deref(), id: arguments.id };
    let receipt = Receipt::open(&receipt_text(&bytes).map_err(Problem::Input)?, &expected)?;
    let seq = match (&arguments.proof, &arguments.dir) {
        (Some(proof), _) => {
            let file = read_proof(proof).map_err(Problem::Input)?;
            let proven = verify_inclusion(&file, &Expected { id: Some(receipt.id), ..expected })?;
            receipt.agrees_with(&proven)?;
            Some(proven.header.seq)
        }
        (None, Some(dir)) => {
            let archives = arguments.archives.clone();
            let origin = Some(receipt.origin.clone());
            let options = Options { origin, keys, handovers, archives, ..Options::default() };
            let report = with_bar(arguments.output.json, |progress| verify_dir(dir, &options, progress));
            let report = report.map_err(|error| Problem::Input(error.to_string()))?;
            if let Some(first) = report.breaks.first() {
                return Err(Problem::Log { detail: first.to_string(), exit_code: report.exit_code() });
            }
            let found = receipt.find_in(dir, arguments.archives.as_deref());
            Some(found.map_err(|error: ProveError| Problem::Input(error.to_string()))??)
        }
        (None, None) => None,
    };
    let signed_at = i64::try_from(receipt.signed_at).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    Ok(json!({
        "valid": true,
        "origin": receipt.origin,
        "id": receipt.id.to_string(),
        "kind": Kind::from_code(receipt.kind).map_or_else(|| receipt.kind.to_string(), |kind| kind.name().to_owned()),
        "body_digest": hex(&receipt.body_digest),
        "signed_at": signed_at.map(|at| at.to_string()),
        "seq": seq,
    }))
}

/// The receipt in what was given: itself, or the answer that carries it.
fn receipt_text(bytes: &[u8]) -> Result<String, String> {
    let text =
        std::str::from_utf8(bytes).map_err(|_| "a receipt is text, or an answer in JSON".to_owned())?;
    if !text.trim_start().starts_with('{') {
        return Ok(text.trim().to_owned());
    }
    let answer: Value =
        serde_json::from_str(text).map_err(|error| format!("not an answer in JSON: {error}"))?;
    let receipt = answer["receipt"].as_str();
    receipt.map(str::to_owned).ok_or_else(|| "the answer carries no receipt".to_owned())
}
