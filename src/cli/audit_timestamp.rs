//! `edgate audit timestamp` and `verify-timestamp`: a clock that is not ours vouches for a checkpoint's age.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::audit_export::parse_time;
use super::audit_proof::unusable;
use super::{EXIT_FAILURE, EXIT_UNAVAILABLE, EXIT_YES, Output, complain, print_line};
use crate::audit::note::Checkpoint;
use crate::audit::timestamp::{
    AskError, Authorities, Stamp, StampExpected, StampFault, TOKEN_BYTES_MAX, ask_for_stamp, stamp_files,
    verify_stamp,
};

#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub(super) struct TimestampArguments {
    /// The checkpoint to have stamped; it is copied beside the token as it is.
    #[arg(long, value_name = "FILE", default_value = "/var/lib/edgate/audit/checkpoint")]
    checkpoint: PathBuf,
    /// Where the token goes, as SIZE.tsr, with SIZE.checkpoint beside it: created if its parent is there. Otherwise
    /// `timestamps` beside the checkpoint, where `edgate audit bundle` finds them.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// The timestamp authority, such as https://tsa.example/tsr.
    #[arg(long, value_name = "URL")]
    url: String,
    #[command(flatten)]
    authority: AuthorityArguments,
    #[command(flatten)]
    output: Output,
}

/// Whose timestamps are believed.
#[derive(Debug, Args)]
pub(super) struct AuthorityArguments {
    /// Certificates (PEM) of the authorities whose timestamps are believed.
    #[arg(long, value_name = "FILE")]
    tsa_ca: PathBuf,
    /// Revocation lists (PEM) of those authorities; the signer must be on none, and covered by one.
    #[arg(long, value_name = "FILE")]
    tsa_crl: Option<PathBuf>,
    /// The policy that a timestamp must have been given under, as a dotted number.
    #[arg(long, value_name = "OID")]
    tsa_policy: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = CODES)]
pub(super) struct VerifyTimestampArguments {
    /// The token.
    token: PathBuf,
    /// The checkpoint it is about.
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    #[command(flatten)]
    authority: AuthorityArguments,
    /// The time it states must not be before this: RFC 3339, such as 2026-11-28T00:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    after: Option<u64>,
    /// Nor behind this.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    before: Option<u64>,
    #[command(flatten)]
    output: Output,
}

const CODES: &str = "The signature of the log on the checkpoint is not checked here (`edgate audit verify-proof`, \
`verify-bundle`). Exit codes: 0 stamped; 2 could not run; 40 stamp-bad-signature; 41 stamp-expired; 42 stamp-malformed; 43 \
stamp-refused; 44 stamp-revoked; 45 stamp-skewed; 46 stamp-unknown-authority; 47 stamp-unsupported; 48 stamp-wrong-imprint; 49 \
stamp-wrong-nonce; 50 stamp-wrong-policy; 51 stamp-wrong-signer; 52 stamp-wrong-usage; 69 the authority could not be asked.";

impl AuthorityArguments {
    pub(super) fn authorities(&self) -> Result<Authorities, String> {
        read_authorities(&self.tsa_ca, self.tsa_crl.as_deref())
    }
}

/// The authorities in a file, and what a file says they revoked.
pub(super) fn read_authorities(certificates: &Path, lists: Option<&Path>) -> Result<Authorities, String> {
    let read =
        |path: &Path| fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
    let named = |path: &Path, error: String| format!("{}: {error}", path.display());
    let certificates = Authorities::read(&read(certificates)?).map_err(|error| named(certificates, error))?;
    match lists {
        Some(path) => certificates.with_lists(&read(path)?).map_err(|error| named(path, error)),
        None => Ok(certificates),
    }
}

pub(super) fn timestamp(arguments: &TimestampArguments) -> u8 {
    let json = arguments.output.json;
    let read = || -> Result<_, String> {
        let note = read_short(&arguments.checkpoint)?;
        let checkpoint =
            std::str::from_utf8(&note).ok().and_then(|note| Checkpoint::read_unverified(note).ok());
        let checkpoint =
            checkpoint.ok_or_else(|| format!("{} is no checkpoint", arguments.checkpoint.display()))?;
        Ok((note, checkpoint.size, arguments.authority.authorities()?))
    };
    let (note, size, authorities) = match read() {
        Ok(read) => read,
        Err(message) => return unusable(&message),
    };
    let beside = || arguments.checkpoint.parent().unwrap_or(Path::new("")).join("timestamps");
    let out = arguments.out.clone().unwrap_or_else(beside);
    let policy = arguments.authority.tsa_policy.as_deref();
    let now = jiff::Timestamp::now().as_second();
    match ask_for_stamp(&arguments.url, &note, &authorities, policy, now) {
        Ok((token, stamp)) => {
            if let Err(error) = stamp_files::keep(&out, size, &note, &token) {
                complain(format_args!("cannot keep the token in {}: {error}", out.display()));
                return EXIT_FAILURE;
            }
            tell(&stamp, Some(size), json);
            EXIT_YES
        }
        Err(AskError::Refused(fault)) => refuse_stamp(&fault, json),
        Err(error) => {
            complain(&error);
            EXIT_UNAVAILABLE
        }
    }
}

pub(super) fn verify(arguments: &VerifyTimestampArguments) -> u8 {
    let json = arguments.output.json;
    let read = || -> Result<_, String> {
        Ok((
            read_short(&arguments.token)?,
            read_short(&arguments.checkpoint)?,
            arguments.authority.authorities()?,
        ))
    };
    let (token, note, authorities) = match read() {
        Ok(read) => read,
        Err(message) => return unusable(&message),
    };
    let seconds = |ns: Option<u64>| ns.map(|ns| i64::try_from(ns / 1_000_000_000).expect("below 2^34"));
    let expected = StampExpected {
        authorities: &authorities,
        policy: arguments.authority.tsa_policy.as_deref(),
        nonce: None,
        after: seconds(arguments.after),
        before: seconds(arguments.before),
    };
    match verify_stamp(&token, &note, &expected) {
        Ok(stamp) => {
            let checkpoint =
                std::str::from_utf8(&note).ok().and_then(|note| Checkpoint::read_unverified(note).ok());
            tell(&stamp, checkpoint.map(|checkpoint| checkpoint.size), json);
            EXIT_YES
        }
        Err(fault) => refuse_stamp(&fault, json),
    }
}

/// A token or a checkpoint: as much of the file as shows that it is too long.
fn read_short(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let limit = TOKEN_BYTES_MAX as u64 + 1;
    let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn tell(stamp: &Stamp, size: Option<u64>, json: bool) {
    let Stamp { policy, serial, signer, .. } = stamp;
    if json {
        print_line(json!({
            "valid": true, "size": size, "time": stamp.time_text(), "policy": policy, "serial": serial, "signer": signer,
        }));
        return;
    }
    print_line(format_args!("stamped  {}", stamp.time_text()));
    print_line(format_args!("by       {}", signer.escape_debug()));
    print_line(format_args!("policy   {policy}"));
    print_line(format_args!("serial   {serial}"));
}

fn refuse_stamp(fault: &StampFault, json: bool) -> u8 {
    let StampFault { class, detail } = fault;
    match json {
        true => print_line(json!({"valid": false, "class": class.name(), "detail": detail})),
        false => print_line(format_args!("NOT STAMPED: {class}: {}", detail.escape_debug())),
    }
    class.exit_code()
}
