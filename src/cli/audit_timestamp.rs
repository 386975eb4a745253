//! `edgate audit timestamp` and `verify-timestamp`: a clock that is not ours vouches for a checkpoint's age.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::audit_export::parse_time;
use super::audit_proof::unusable;
use super::{EXIT_FAILURE, EXIT_UNAVAILABLE, EXIT_YES, Output, complain, print_line};
use crate::audit::note::Checkpoint;
use crate::audit::timestamp::{
    AskError, Authorities, Authority, Stamp, StampError, StampExpected, StampFault, Stamper, TOKEN_BYTES_MAX,
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
        Authorities::load(&self.tsa_ca, self.tsa_crl.as_deref())
    }
}

pub(super) fn timestamp(arguments: &TimestampArguments) -> u8 {
    let json = arguments.output.json;
    let read = || -> Result<_, String> {
        let note = String::from_utf8(read_short(&arguments.checkpoint)?).ok();
        let note = note.filter(|note| Checkpoint::read_unverified(note).is_ok());
        let note = note.ok_or_else(|| format!("{} is no checkpoint", arguments.checkpoint.display()))?;
        Ok((note, arguments.authority.authorities()?))
    };
    let (note, trusted) = match read() {
        Ok(read) => read,
        Err(message) => return unusable(&message),
    };
    let policy = arguments.authority.tsa_policy.clone();
    let authority = Authority { url: arguments.url.clone(), trusted, policy, timeout: TIMEOUT };
    let stamper = match &arguments.out {
        Some(folder) => Stamper { authority, folder: folder.clone() },
        None => Stamper::beside(arguments.checkpoint.parent().unwrap_or(Path::new("")), authority),
    };
    match stamper.stamp(&note, jiff::Timestamp::now().as_second()) {
        Ok(stamped) => {
            tell(&stamped.stamp, Some(stamped.checkpoint.size), json);
            EXIT_YES
        }
        Err(StampError::Ask(AskError::Refused(fault))) => refuse_stamp(&fault, json),
        Err(error) => {
            complain(&error);
            match error {
                StampError::Ask(_) => EXIT_UNAVAILABLE,
                StampError::Keep { .. } | StampError::NoCheckpoint(_) => EXIT_FAILURE,
            }
        }
    }
}

/// How long an authority may take.
const TIMEOUT: Duration = Duration::from_secs(30);

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
