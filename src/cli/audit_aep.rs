//! `edgate audit aep-bundle` and `verify-aep-bundle`: decisions as an audit bundle of the Agent Event Protocol.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::audit_export::{FilterArguments, Signed};
use super::control_client::{Target, post, refuse};
use super::export_manifest::{Problem, filter_json};
use super::{EXIT_INPUT, EXIT_NO, EXIT_YES, Output, complain, print_line};
use crate::aep::{self, DigestAlgorithm, Scope, Value};
use crate::audit::export::{Format, export};
use crate::audit::hex;
use crate::audit::schema::Kind;

#[derive(Debug, Args)]
#[command(after_help = BUNDLE_HELP)]
pub(super) struct BundleArguments {
    /// The log's folder.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/edgate/audit")]
    dir: PathBuf,
    /// The bundle to write. It must not exist.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// A file with the secret that the bundle is signed with, closed to group and others.
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
    /// How the events are digested.
    #[arg(long, value_enum, default_value_t = DigestName::Sha256)]
    digest: DigestName,
    #[command(flatten)]
    filter: FilterArguments,
    /// A file with the checkpoint key, kept where the log's writer cannot change it. Otherwise the copy in the log's own
    /// folder is used.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Take decisions from a log that has no checkpoint, to its end.
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

const BUNDLE_HELP: &str = "Decisions become events: a refusal is `policy.blocked`, an acceptance `tool.result`; each sub-decision \
of a call about many tokens is one. The session is the run of the service, the trace the call, and the payload what the record \
says, with its number and hashes. Whoever verifies the bundle needs the same secret, and so could have made it: towards others, \
`edgate audit export` and `prove` are what convinces.";

/// How the events are digested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DigestName {
    Sha256,
    Sha512,
}

#[derive(Debug, Args)]
pub(super) struct VerifyBundleArguments {
    /// The bundle.
    file: PathBuf,
    /// A file with the secret it was signed with, closed to group and others.
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// Makes a bundle.
pub(super) fn bundle(arguments: &BundleArguments) -> u8 {
    let json = arguments.output.json;
    let made = read_secret(&arguments.secret_file)
        .map_err(Problem::Input)
        .and_then(|secret| make(arguments, &secret));
    let Made { text, events, digest, filter } = match made {
        Ok(made) => made,
        Err(problem) => return problem.tell(json),
    };
    let mut record = Json::Null;
    if !arguments.unrecorded {
        let body = json!({"filter": filter, "rows": events, "sha256": digest});
        match arguments.target.url().and_then(|url| post(&url, "/v1/audit/exports", &body)) {
            Ok(answer) => record = answer["id"].clone(),
            Err(error) => {
                complain("no bundle was written: the log must say that it was made (or give --unrecorded)");
                return refuse(&error);
            }
        }
    }
    if let Err(error) = write_new(&arguments.out, text.as_bytes()) {
        return Problem::Failure(format!("cannot write {}: {error}", arguments.out.display())).tell(json);
    }
    if json {
        print_line(json!({"events": events, "sha256": digest, "record": record}));
    } else {
        print_line(format_args!("bundled   {events} decisions in {}", arguments.out.display()));
        print_line(format_args!("sha256    {digest}"));
        match record.as_str() {
            Some(id) => print_line(format_args!("recorded  {id}")),
            None => print_line("not recorded: the log says nothing of this export"),
        }
    }
    EXIT_YES
}

struct Made {
    text: String,
    events: usize,
    digest: String,
    filter: String,
}

fn make(arguments: &BundleArguments, secret: &[u8]) -> Result<Made, Problem> {
    if fs::symlink_metadata(&arguments.out).is_ok() {
        return Err(Problem::Input(format!("{} exists; name another file", arguments.out.display())));
    }
    let mut filter = arguments.filter.filter();
    if filter.kinds.iter().any(|kind| !DECISIONS.contains(kind)) {
        return Err(Problem::Input("a bundle holds decisions: --kind decision or decision_batch".to_owned()));
    }
    if filter.kinds.is_empty() {
        filter.kinds = DECISIONS.to_vec();
    }
    let signed = Signed::read(&arguments.dir, arguments.key.as_deref(), arguments.allow_unsigned)?;
    let mut rows = Rows(Vec::new());
    let exported =
        export(&signed.source(&arguments.dir), &filter, Format::JsonLines, &mut rows, &mut |_, _| {})
            .map_err(Problem::from)?;
    signed.check(&exported)?;
    let mut events = Vec::new();
    let mut runs: Vec<String> = Vec::new();
    for line in rows.0.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let row: Json = serde_json::from_slice(line)
            .map_err(|error| Problem::Failure(format!("a row is no JSON: {error}")))?;
        let run = run_of(&row);
        if !runs.contains(&run) {
            runs.push(run);
        }
        push_events(&mut events, &row, &exported.origin);
    }
    if events.is_empty() {
        return Err(Problem::Input("there is no such decision in the log".to_owned()));
    }
    let scope = Scope {
        session_id: runs.pop().filter(|_| runs.is_empty()),
        trace_id: None,
        tenant_id: filter.tenant.clone(),
    };
    let algorithm = match arguments.digest {
        DigestName::Sha256 => DigestAlgorithm::Sha256,
        DigestName::Sha512 => DigestAlgorithm::Sha512,
    };
    let count = events.len();
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string();
    let bundle = aep::make(events, &scope, algorithm, &now, secret);
    let text = aep::canonical(&bundle) + "\n";
    let checked = aep::verify(text.as_bytes(), secret);
    if !checked.valid {
        return Err(Problem::Failure(format!("the bundle does not verify: {}", checked.errors.join("; "))));
    }
    let digest = hex(&Sha256::digest(&text));
    Ok(Made { text, events: count, digest, filter: filter_json(&filter).to_string() })
}

/// The records that are decisions.
const DECISIONS: [Kind; 2] = [Kind::Decision, Kind::DecisionBatch];

/// Gathers rows, up to a size: a bundle is held in memory as a whole, also by whoever verifies it.
struct Rows(Vec<u8>);

impl Write for Rows {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > BUNDLE_BYTES_MAX {
            let limit =
                format!("more than {} MiB; ask for less time, or for one tenant", BUNDLE_BYTES_MAX >> 20);
            return Err(io::Error::other(limit));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The longest bundle, and the most rows that are made into one.
const BUNDLE_BYTES_MAX: usize = 256 << 20;

/// The run of the service that a record's id names.
fn run_of(row: &Json) -> String {
    let id = row["id"].as_str().unwrap_or_default();
    format!("ses_{}", id.split('-').next().unwrap_or_default())
}

/// The events of a record: one, or one for each sub-decision.
fn push_events(events: &mut Vec<Value>, row: &Json, origin: &str) {
    let mut common = row["body"].clone();
    let items = common.as_object_mut().and_then(|body| body.remove("items"));
    match items {
        Some(Json::Array(items)) => {
            for (place, item) in items.iter().enumerate() {
                let mut body = common.clone();
                if let (Some(body), Some(item)) = (body.as_object_mut(), item.as_object()) {
                    body.extend(item.clone());
                }
                events.push(event(row, &body, origin, &format!("-{place}")));
            }
        }
        _ => events.push(event(row, &common, origin, "")),
    }
}

fn event(row: &Json, body: &Json, origin: &str, suffix: &str) -> Value {
    let id = row["id"].as_str().unwrap_or_default();
    let decision = body["decision"].as_str().unwrap_or_default();
    let accepted = decision == "accepted";
    let mut payload = body.clone();
    if let Some(payload) = payload.as_object_mut() {
        if accepted {
            payload.insert("tool".to_owned(), "edgate".into());
            payload.insert("status".to_owned(), "success".into());
        } else {
            payload.insert("policy".to_owned(), "edgate".into());
            payload.insert("reason".to_owned(), decision.into());
            payload.insert("action_blocked".to_owned(), "token".into());
        }
        for name in ["seq", "event_hash", "prev_hash"] {
            payload.insert(name.to_owned(), row[name].clone());
        }
    }
    value(&json!({
        "specversion": "0.2.0",
        "id": format!("evt_{id}{suffix}"),
        "time": row["time"],
        "source": format!("edgate://{origin}"),
        "type": if accepted { "tool.result" } else { "policy.blocked" },
        "session_id": run_of(row),
        "trace_id": format!("trc_{id}"),
        "payload": payload,
    }))
}

/// A row's value; a number that a double does not hold becomes text.
fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => {
            match number.as_u64().filter(|number| *number < 1 << 53).and_then(|_| number.as_f64()) {
                Some(number) => Value::Number(number),
                None => Value::Text(number.to_string()),
            }
        }
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(items) => Value::Array(items.iter().map(value).collect()),
        Json::Object(members) => {
            Value::Object(members.iter().map(|(name, member)| (name.clone(), value(member))).collect())
        }
    }
}

/// Checks a bundle.
pub(super) fn verify_bundle(arguments: &VerifyBundleArguments) -> u8 {
    let read = read_secret(&arguments.secret_file).and_then(|secret| {
        let failed = |error: io::Error| format!("cannot read {}: {error}", arguments.file.display());
        let mut text = Vec::new();
        let file = File::open(&arguments.file).map_err(failed)?;
        file.take(BUNDLE_BYTES_MAX as u64 + 1).read_to_end(&mut text).map_err(failed)?;
        if text.len() > BUNDLE_BYTES_MAX {
            return Err(format!(
                "{} is longer than {} MiB",
                arguments.file.display(),
                BUNDLE_BYTES_MAX >> 20
            ));
        }
        Ok((secret, text))
    });
    let (secret, text) = match read {
        Ok(read) => read,
        Err(problem) => {
            complain(problem);
            return EXIT_INPUT;
        }
    };
    let found = aep::verify(&text, &secret);
    if arguments.output.json {
        let per_event: Vec<_> = found
            .per_event
            .iter()
            .map(|one| json!({"index": one.index, "id": one.id, "signature_present": one.signature_present}))
            .collect();
        print_line(json!({
            "valid": found.valid,
            "errors": found.errors,
            "content_digest_match": found.content_digest_match,
            "manifest_signature_valid": found.manifest_signature_valid,
            "per_event": per_event,
            "not_checked": found.not_checked,
        }));
    } else {
        match found.valid {
            true => print_line(format_args!("valid: {} events, as they were signed", found.per_event.len())),
            false => print_line("INVALID"),
        }
        found.errors.iter().for_each(|error| print_line(format_args!("  {}", error.escape_debug())));
        found
            .not_checked
            .iter()
            .for_each(|what| print_line(format_args!("not checked  {}", what.escape_debug())));
    }
    if found.valid { EXIT_YES } else { EXIT_NO }
}

/// The secret, without the line end behind it; never shown.
fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let failed = |error: io::Error| format!("cannot read the secret in {}: {error}", path.display());
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "{} has mode {mode:04o}, but a secret must be closed to group and others",
            path.display()
        ));
    }
    // Reserved at once, so that no smaller buffer with a part of it is left behind.
    let mut secret = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX + 1));
    file.take(SECRET_BYTES_MAX as u64 + 1).read_to_end(&mut secret).map_err(failed)?;
    while secret.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        secret.pop();
    }
    match secret.len() {
        0 => Err(format!("{} is empty", path.display())),
        len if len > SECRET_BYTES_MAX => {
            Err(format!("{} is longer than {SECRET_BYTES_MAX} bytes", path.display()))
        }
        _ => Ok(secret),
    }
}

/// Longest secret.
const SECRET_BYTES_MAX: usize = 4096;

/// Writes a file that must not be there, whole or not at all.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_added_extension("partial");
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    let written =
        file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::hard_link(&partial, path));
    fs::remove_file(&partial)?;
    written
}
