//! `edgate audit open` and `edgate audit sealed`: who a record is about, for those who may know it together.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::control_client::{Asked, ClientError, Target, Words, post, refuse, text};
use super::{EXIT_INPUT, EXIT_NO, EXIT_YES, Output, complain, print_line};
use crate::audit::RecordId;
use crate::audit::sealed::{OpenError, OpenedValues, OpenerSecret, SealedRecord, parse_day};

#[derive(Debug, Args)]
#[command(after_help = OPEN_HELP)]
pub(super) struct OpenArguments {
    /// The record's id, as clients got it.
    id: RecordId,
    /// The private key of an opener: once for each of them, in any order.
    #[arg(long, value_name = "FILE", required = true)]
    opener_key: Vec<PathBuf>,
    /// The log's folder.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/edgate/audit")]
    dir: PathBuf,
    /// The log's folder with the sealed keys, where the record is read from a copy or from archives that are back.
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// Do not tell the running node, whose log then says nothing of this opening.
    #[arg(long)]
    unrecorded: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

const OPEN_HELP: &str = "Opens with the private keys of all openers that were configured when the record was made. The running node \
records the opening before anything is shown; openings and look-ups (`edgate audit tag`) share one limit, 10 at once and then 30 in an \
hour. Exit codes: 0 opened; 1 redacted, authorised: its key or its body was destroyed, and the log says so; 2 not opened: no such \
record, nothing sealed in it, a key lost or altered, an opener missing.";

#[derive(Debug, Subcommand)]
pub(super) enum SealedCommand {
    /// Make the key pair of an opener: a private key in a file, and a public key for `audit.sealed.openers`.
    Keygen(KeygenArguments),
    /// Destroy the keys of a tenant's day that is over: what was sealed under them can never be read again.
    Destroy(DestroyArguments),
}

#[derive(Debug, Args)]
pub(super) struct KeygenArguments {
    /// The file of the private key, mode 0600; it must not exist. Keep it away from the node.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct DestroyArguments {
    /// Whose values; an empty name for what is of no tenant.
    #[arg(long, value_name = "NAME")]
    tenant: String,
    /// Of which day (UTC), YYYY-MM-DD; it must be over.
    #[arg(long, value_name = "DAY")]
    day: String,
    #[command(flatten)]
    words: Words,
    #[command(flatten)]
    asked: Asked,
}

pub(super) fn run(command: &SealedCommand) -> u8 {
    match command {
        SealedCommand::Keygen(arguments) => keygen(arguments),
        SealedCommand::Destroy(arguments) => destroy(arguments),
    }
}

fn keygen(arguments: &KeygenArguments) -> u8 {
    let secret = match OpenerSecret::create(&arguments.out) {
        Ok(secret) => secret,
        Err(error) => {
            complain(error);
            return EXIT_INPUT;
        }
    };
    let public = secret.public().to_text();
    if arguments.output.json {
        print_line(json!({"private": arguments.out, "public": public}));
    } else {
        print_line(public);
    }
    EXIT_YES
}

fn destroy(arguments: &DestroyArguments) -> u8 {
    if parse_day(&arguments.day).is_none() {
        complain("a day is written YYYY-MM-DD");
        return EXIT_INPUT;
    }
    let DestroyArguments { tenant, day, words, asked } = arguments;
    let mut body = words.body();
    body["tenant"] = tenant.clone().into();
    body["day"] = day.clone().into();
    asked.post("/v1/audit/sealed-keys/destroy", &body, |answer| {
        print_line(format_args!("destroyed the sealed keys of tenant {tenant:?} of {day}"));
        print_line(format_args!("recorded  {}", text(answer, "id")));
        print_line("copies that were made of them, in backups, are yours to destroy");
    })
}

pub(super) fn open(arguments: &OpenArguments) -> u8 {
    let secrets =
        arguments.opener_key.iter().map(|path| OpenerSecret::load(path)).collect::<Result<Vec<_>, _>>();
    let secrets = match secrets {
        Ok(secrets) => secrets,
        Err(error) => {
            complain(error);
            return EXIT_INPUT;
        }
    };
    let keys = arguments.keys.as_ref().unwrap_or(&arguments.dir);
    let record = match SealedRecord::find(&arguments.dir, keys, arguments.id)
        .and_then(|record| record.check_openers(&secrets).map(|()| record))
    {
        Ok(record) => record,
        Err(error) => return not_opened(&error),
    };
    let recorded = match tell(arguments, &record) {
        Ok(recorded) => recorded,
        Err(error) => return refuse(&error),
    };
    match record.open(&secrets) {
        Ok(opened) => show(arguments, &record, &opened, &recorded),
        Err(error) => return not_opened(&error),
    }
    EXIT_YES
}

/// Has the running node record what is about to be opened; the record's id, or null without one.
fn tell(arguments: &OpenArguments, record: &SealedRecord) -> Result<Value, ClientError> {
    if arguments.unrecorded {
        return Ok(Value::Null);
    }
    let openers: Vec<String> = record.openers().into_iter().map(|key| key.to_text()).collect();
    let uid = rustix::process::getuid().as_raw();
    let body = json!({"record": arguments.id.to_string(), "openers": openers, "uid": uid});
    let answer =
        arguments.target.url().and_then(|url| post(&url, "/v1/audit/openings", &body)).inspect_err(|_| {
            complain("nothing was opened: the log must say that it was (or give --unrecorded)");
        })?;
    Ok(answer["id"].clone())
}

fn not_opened(error: &OpenError) -> u8 {
    complain(error);
    match error {
        OpenError::Destroyed { .. } | OpenError::Erased(_) => EXIT_NO,
        _ => EXIT_INPUT,
    }
}

fn show(arguments: &OpenArguments, record: &SealedRecord, opened: &[OpenedValues], recorded: &Value) {
    let id = arguments.id;
    if arguments.output.json {
        let values: Vec<Value> = opened
            .iter()
            .map(|OpenedValues { item, tenant, day, key, clear }| {
                json!({
                    "item": item, "tenant": tenant, "day": day, "key": key.to_string(), "subject": clear.subject,
                    "jti": clear.jti, "client": clear.client.map(|address| address.to_string()),
                })
            })
            .collect();
        return print_line(
            json!({"id": id.to_string(), "kind": record.kind().name(), "values": values, "record": recorded}),
        );
    }
    for OpenedValues { item, tenant, day, key, clear } in opened {
        match item {
            0 => print_line(format_args!("record    {id}, {}", record.kind().name())),
            item => print_line(format_args!("item      {item}")),
        }
        print_line(format_args!("key       {key} of tenant {tenant:?}, {day}"));
        // From tokens: whoever made them may have meant to steer a terminal.
        if let Some(subject) = &clear.subject {
            print_line(format_args!("subject   {}", subject.escape_debug()));
        }
        if let Some(jti) = &clear.jti {
            print_line(format_args!("jti       {}", jti.escape_debug()));
        }
        if let Some(client) = clear.client {
            print_line(format_args!("client    {client}"));
        }
    }
    match recorded.as_str() {
        Some(id) => print_line(format_args!("recorded  {id}")),
        None => print_line("not recorded: the log says nothing of this opening"),
    }
}
