//! `edgate audit bundle` and `verify-bundle`: evidence for somebody outside, to be checked years later and without us.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::audit::{parse_range, with_bar};
use super::audit_anchors::witness_keys;
use super::audit_export::parse_time;
use super::audit_proof::{failed, unusable, verifier_keys};
use super::checkpoint_keys::checkpoint_keys;
use super::control_client::{Target, post, refuse};
use super::{EXIT_FAILURE, EXIT_YES, Output, complain, print_line};
use crate::audit::bundle::{
    BundleFault, CheckError, MakeError, Part, Request, Trust, Verified, What, make_bundle, verify_bundle,
};
use crate::audit::proof::ProofClass;
use crate::audit::timestamp::Authorities;
use crate::audit::{AuditError, Cosigned, RecordId, hex};

#[derive(Debug, Args)]
#[command(after_help = BUNDLE_HELP)]
pub(super) struct BundleArguments {
    /// The log's folder.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/edgate/audit")]
    dir: PathBuf,
    /// Where the bundle goes: an archive if the name ends with `.tar`, else a folder. It may not exist.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// The segments that hold these records, by number; otherwise all.
    #[arg(long, value_name = "FROM..TO", value_parser = parse_range, conflicts_with_all = ["from", "to", "ids"])]
    range: Option<(u64, u64)>,
    /// The segments written from this time on: RFC 3339, such as 2026-11-28T00:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "ids")]
    from: Option<u64>,
    /// The segments written before this time.
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with = "ids")]
    to: Option<u64>,
    /// Only these decisions, with their bodies, and nothing of the others.
    #[arg(long, value_name = "ID", num_args = 1..)]
    ids: Vec<RecordId>,
    /// Prove too that the log continues the older checkpoint in this file, which the reader has kept.
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,
    /// A checkpoint to hold everything to, such as one that witnesses have cosigned; otherwise the log's latest.
    #[arg(long, value_name = "FILE", conflicts_with = "tiles")]
    checkpoint: Option<PathBuf>,
    /// Tiles that `edgate audit tiles` made of this log. Without them the whole log is read.
    #[arg(long, value_name = "FOLDER")]
    tiles: Option<PathBuf>,
    /// A file with the checkpoint key; otherwise the copy in the log's own folder.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Do not tell the running node, whose log then says nothing of this bundle.
    #[arg(long)]
    unrecorded: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

const BUNDLE_HELP: &str = "The bundle holds the records (whole segments, or single decisions), the latest checkpoint, the \
proofs that lead from one to the other, and a manifest; it is checked as `edgate audit verify-bundle` does before it is given \
out. Exit codes: 0 made; 1 no such records, or they are not what was signed; 2 could not run; 9 to 12 the checkpoint, and 25 \
rollback, as `edgate audit verify-proof --help` says; 69 the node could not be told.";

#[derive(Debug, Args)]
#[command(after_help = VERIFY_BUNDLE_HELP)]
pub(super) struct VerifyBundleArguments {
    /// The bundle: an archive, or the folder it was unpacked to.
    file: PathBuf,
    /// The log's verifier key, from where the log's writer cannot change it: the text itself, or a file of such lines.
    #[arg(long, value_name = "VKEY")]
    key: String,
    /// The name the log must have; otherwise that of the key.
    #[arg(long, value_name = "NAME")]
    origin: Option<String>,
    /// A witness that must have cosigned the checkpoint: its verifier key, or a file of such lines; may be repeated.
    #[arg(long, value_name = "VKEY")]
    witness: Vec<String>,
    /// Certificates (PEM) of timestamp authorities: there must then be a timestamp, and each must be theirs.
    #[arg(long, value_name = "FILE")]
    tsa_ca: Option<PathBuf>,
    /// Revocation lists (PEM) of those authorities; the signer must be on none, and covered by one.
    #[arg(long, value_name = "FILE", requires = "tsa_ca")]
    tsa_crl: Option<PathBuf>,
    /// The policy that timestamps must have been given under, as a dotted number.
    #[arg(long, value_name = "OID", requires = "tsa_ca")]
    tsa_policy: Option<String>,
    /// An older checkpoint that you have kept: the bundle must prove that its log continues it.
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

const VERIFY_BUNDLE_HELP: &str = "Reads the bundle and nothing else: no network, no clock. Exit codes: 0 proven; 2 could not \
run; 30 member-altered; 31 member-extra; 32 member-missing; 33 unrelated (nothing is proven about the checkpoint of --since); 34 unwitnessed; 35 unstamped; 40 to 52 \
timestamps, as `edgate audit verify-timestamp --help` says; \
what checkpoints and proofs can have, as `edgate audit verify-proof --help` says; what records can have, as `edgate audit verify \
--help` says.";

pub(super) fn bundle(arguments: &BundleArguments) -> u8 {
    let json = arguments.output.json;
    let keys = match checkpoint_keys(&arguments.dir, arguments.key.as_deref()) {
        Ok(keys) => keys,
        Err(message) => return unusable(&message),
    };
    let what = match (arguments.ids.as_slice(), arguments.range, arguments.from, arguments.to) {
        ([], Some((from, to)), _, _) => What::Records { from, to },
        ([], None, None, None) => What::Records { from: 0, to: u64::MAX },
        ([], None, from, to) => What::Times { from_ns: from.unwrap_or(0), to_ns: to.unwrap_or(u64::MAX) },
        (ids, ..) => What::Decisions(ids),
    };
    let made_at = jiff::Timestamp::now().round(jiff::Unit::Second).expect("now is far from the ends of time");
    let request = Request {
        dir: &arguments.dir,
        tiles: arguments.tiles.as_deref(),
        keys: &keys,
        what,
        since: arguments.since.as_deref(),
        checkpoint: arguments.checkpoint.as_deref(),
        made_at: &made_at.to_string(),
    };
    let draft = with_bar(json, |progress| make_bundle(&request, &arguments.out, progress));
    let draft = match draft {
        Ok(draft) => draft,
        Err(error) => return not_made(&error, json),
    };
    let verified = draft.verified().clone();
    let mut record = None;
    if !arguments.unrecorded {
        let body = json!({
            "filter": filter_text(&verified), "rows": rows(&verified), "sha256": hex(&verified.digest),
        });
        let answered = arguments.target.url().and_then(|url| post(&url, "/v1/audit/exports", &body));
        match answered {
            Ok(answer) => record = answer["id"].as_str().map(str::to_owned),
            Err(error) => {
                complain("the bundle was dropped: the log must say that it was made (or give --unrecorded)");
                return refuse(&error);
            }
        }
    }
    if let Err(error) = draft.publish(&arguments.out, record.clone()) {
        complain(&error);
        return EXIT_FAILURE;
    }
    if json {
        let mut said = verified_json(&verified);
        said["out"] = arguments.out.display().to_string().into();
        said["record"] = record.into();
        print_line(said);
        return EXIT_YES;
    }
    print_line(format_args!("bundle    {}", arguments.out.display()));
    print_line(format_args!("holds     {}", held(&verified)));
    print_line(format_args!("digest    {}", hex(&verified.digest)));
    match record {
        Some(id) => print_line(format_args!("recorded  {id}")),
        None => print_line("not recorded: the log says nothing of this bundle"),
    }
    EXIT_YES
}

pub(super) fn verify(arguments: &VerifyBundleArguments) -> u8 {
    let json = arguments.output.json;
    let keys = match verifier_keys(&arguments.key) {
        Ok(keys) => keys,
        Err(message) => return unusable(&message),
    };
    let kept = match arguments.since.as_deref().map(|path| (path, fs::read(path))) {
        None => None,
        Some((_, Ok(kept))) => Some(kept),
        Some((path, Err(error))) => return unusable(&format!("cannot read {}: {error}", path.display())),
    };
    let witnesses = arguments.witness.iter().map(|text| witness_keys(text)).collect::<Result<Vec<_>, _>>();
    let witnesses = match witnesses {
        Ok(witnesses) => witnesses.concat(),
        Err(message) => return unusable(&message),
    };
    let authorities =
        arguments.tsa_ca.as_deref().map(|path| Authorities::load(path, arguments.tsa_crl.as_deref()));
    let authorities = match authorities.transpose() {
        Ok(authorities) => authorities,
        Err(message) => return unusable(&message),
    };
    let trust = Trust {
        keys: &keys,
        origin: arguments.origin.as_deref(),
        kept: kept.as_deref(),
        witnesses: &witnesses,
        authorities: authorities.as_ref(),
        stamp_policy: arguments.tsa_policy.as_deref(),
    };
    let verified = match with_bar(json, |progress| verify_bundle(&arguments.file, &trust, progress)) {
        Ok(verified) => verified,
        Err(CheckError::Audit(error)) => return unusable(&error.to_string()),
        Err(CheckError::Refused(fault)) => return refuse_bundle(&fault, json),
    };
    if json {
        print_line(verified_json(&verified));
        return EXIT_YES;
    }
    let log = &verified.summary.log;
    print_line(format_args!(
        "proven: {}, of {} as signed at {} records",
        held(&verified),
        log.origin.escape_debug(),
        log.size
    ));
    if let Some(since) = &verified.since {
        print_line(format_args!("since        {} records, which this log continues", since.size));
    }
    for Cosigned { witness, time, .. } in &verified.cosigned {
        print_line(format_args!(
            "cosigned     by {} at {time} s since 1970, by its clock",
            witness.escape_debug()
        ));
    }
    for (size, stamp) in &verified.stamps {
        let (time, signer) = (stamp.time_text(), stamp.signer.escape_debug().to_string());
        print_line(format_args!("timestamp    {size} records were there at {time}, says {signer}"));
    }
    for (_, decision) in &verified.decisions {
        print_line(format_args!("decision     {}", decision.to_json()));
    }
    for notice in &verified.notices {
        print_line(format_args!("notice       {notice}"));
    }
    print_line(format_args!("digest       {}", hex(&verified.digest)));
    for what in &verified.not_checked {
        print_line(format_args!("not checked  {}", what.escape_debug()));
    }
    EXIT_YES
}

/// What a bundle holds, for people.
fn held(verified: &Verified) -> String {
    let decisions = verified.summary.decisions;
    match &verified.summary.part {
        Some(Part { records, segments: (first, last) }) => {
            let (from, to) = (records.start, records.end - 1);
            format!("records {from} to {to} in {} segments", last - first + 1)
        }
        None => format!("{decisions} decisions"),
    }
}

/// What a bundle holds, for the log.
fn filter_text(verified: &Verified) -> String {
    match &verified.summary.part {
        Some(Part { records, .. }) => json!({"bundle": "segments", "from": records.start, "to": records.end}),
        None => json!({"bundle": "decisions"}),
    }
    .to_string()
}

fn rows(verified: &Verified) -> u64 {
    verified
        .summary
        .part
        .as_ref()
        .map_or(verified.summary.decisions, |part| part.records.end - part.records.start)
}

fn verified_json(verified: &Verified) -> Value {
    let log = &verified.summary.log;
    let part = verified.summary.part.as_ref().map(|part| {
        json!({
            "from": part.records.start, "to": part.records.end,
            "first_segment": part.segments.0, "last_segment": part.segments.1,
        })
    });
    let decisions = verified.decisions.iter().map(|(_, decision)| decision.to_json());
    let stamps = verified.stamps.iter().map(|(size, stamp)| {
        json!({"size": size, "time": stamp.time_text(), "policy": stamp.policy, "signer": stamp.signer})
    });
    let cosigned = verified.cosigned.iter().map(|one| json!({"witness": one.witness, "time": one.time}));
    json!({
        "valid": true,
        "origin": log.origin,
        "size": log.size,
        "root": hex(&log.root),
        "timestamps": stamps.collect::<Vec<_>>(),
        "cosigned": cosigned.collect::<Vec<_>>(),
        "since": verified.since.as_ref().map(|since| since.size),
        "segments": part,
        "decisions": decisions.collect::<Vec<_>>(),
        "notices": verified.notices.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "not_checked": verified.not_checked,
        "digest": hex(&verified.digest),
    })
}

fn refuse_bundle(fault: &BundleFault, json: bool) -> u8 {
    let BundleFault { class, member, detail } = fault;
    if json {
        print_line(json!({"valid": false, "class": class.name(), "member": member, "detail": detail}));
    } else {
        // What must not be overlooked.
        let rollback = *class == crate::audit::bundle::BundleClass::Proof(ProofClass::Rollback);
        let name = if rollback { "ROLLBACK" } else { class.name() };
        let place = if member.is_empty() { String::new() } else { format!("{}: ", member.escape_debug()) };
        print_line(format_args!("NOT PROVEN: {name}: {place}{}", detail.escape_debug()));
    }
    class.exit_code()
}

/// Says why there is no bundle.
fn not_made(error: &MakeError, json: bool) -> u8 {
    match error {
        MakeError::Prove(error) => failed(error),
        MakeError::Dropped(CheckError::Refused(fault)) => {
            complain(error);
            if json {
                return refuse_bundle(fault, json);
            }
            fault.class.exit_code()
        }
        MakeError::Audit(AuditError::Io { what: "write", .. }) | MakeError::Dropped(CheckError::Audit(_)) => {
            complain(error);
            EXIT_FAILURE
        }
        MakeError::Audit(_) => unusable(&error.to_string()),
        MakeError::NoRecords { .. } => {
            complain(error);
            super::EXIT_NO
        }
    }
}
