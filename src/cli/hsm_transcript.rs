//! `edgate hsm verify-transcript`: whether a ceremony was worked through to its end, and whether that is what was written.

use std::path::{Path, PathBuf};

use clap::Args;
use ed25519_dalek::{Signature, VerifyingKey};
use edgate_hsm::TRANSCRIPT_PREFIX;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{EXIT_INPUT, EXIT_NO, EXIT_YES, complain, print_line};
use crate::audit::{hex, unhex_exact};

#[derive(Debug, Args)]
pub(super) struct TranscriptArguments {
    /// The transcript.
    file: PathBuf,
    /// Public key of the signer in hexadecimal, known from elsewhere.
    #[arg(long, value_name = "HEX")]
    public_key: String,
    /// The script that it must be of, byte by byte: the page that both people had in hand.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
}

pub(super) fn run(arguments: &TranscriptArguments) -> u8 {
    let Some(expected) = unhex_exact::<32>(&arguments.public_key) else {
        complain("--public-key takes 64 hex digits");
        return EXIT_INPUT;
    };
    let (text, script) = match read(&arguments.file)
        .and_then(|text| Ok((text, arguments.script.as_deref().map(read).transpose()?)))
    {
        Ok(read) => read,
        Err(problem) => {
            complain(problem);
            return EXIT_INPUT;
        }
    };
    match check(&text, &expected, script.as_deref()) {
        Ok((steps, dry_run)) => {
            let kind = if dry_run { "a DRY RUN" } else { "a real run" };
            let of = if script.is_some() { "the script given, " } else { "" };
            print_line(format_args!("complete: {kind} of {of}{steps} steps, signed by the expected key"));
            EXIT_YES
        }
        Err(problem) => {
            complain(format_args!("{} proves nothing: {problem}", arguments.file.display()));
            EXIT_NO
        }
    }
}

/// A file that a ceremony is held to; the error names it.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// The last line: `end`, `public_key`, `signature`.
const END_MEMBERS: usize = 3;

/// The number of steps, and whether they were a rehearsal. `script` is what it must be of, if that is known.
fn check(text: &[u8], expected: &[u8; 32], script: Option<&[u8]>) -> Result<(u64, bool), String> {
    let ended = text.strip_suffix(b"\n").ok_or("its last line is cut")?;
    let start = ended.iter().rposition(|byte| *byte == b'\n').map_or(0, |position| position + 1);
    let parse =
        |line: &[u8]| serde_json::from_slice::<Value>(line).map_err(|_| "a line is not JSON".to_owned());
    let end = parse(&ended[start..])?;
    if end.get("end").is_none() {
        let step = end["step"].as_u64().unwrap_or(0);
        let how = if end["result"] == "failed" { "which failed" } else { "which was the last" };
        return Err(format!("the ceremony was broken off, or the file cut, at step {step}, {how}"));
    }
    if end.as_object().is_none_or(|members| members.len() != END_MEMBERS) {
        return Err("its last line says more than an end and a signature, and is not signed".to_owned());
    }
    let member = |name: &str| end[name].as_str().unwrap_or_default();
    if unhex_exact::<32>(member("public_key")).as_ref() != Some(expected) {
        return Err(format!("it is signed by another key, {:?}", member("public_key")));
    }
    let key = VerifyingKey::from_bytes(expected).map_err(|_| "the expected public key is none")?;
    let signature = unhex_exact::<64>(member("signature")).ok_or("its signature is malformed")?;
    let signed = [TRANSCRIPT_PREFIX, &text[..start]].concat();
    key.verify_strict(&signed, &Signature::from_bytes(&signature))
        .map_err(|_| "it was altered: the signature does not verify")?;
    let mut lines = text[..start].split_inclusive(|byte| *byte == b'\n');
    let header = parse(lines.next().ok_or("it is empty")?)?;
    let (Some(steps), Some(dry_run)) = (header["steps"].as_u64(), header["dry_run"].as_bool()) else {
        return Err("its first line is not a ceremony's".to_owned());
    };
    // What the last line says of the number is not signed.
    if lines.count() as u64 != steps || end["end"].as_u64() != Some(steps) {
        return Err("its steps are not as many as it says".to_owned());
    }
    let of = header["script_sha256"].as_str().unwrap_or_default();
    if let Some(digest) = script.map(|script| hex(&Sha256::digest(script)))
        && digest != of
    {
        return Err(format!("it is of another script: of one with the SHA-256 {of}, not {digest}"));
    }
    Ok((steps, dry_run))
}
