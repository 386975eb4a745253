//! `edgate audit tag`: which records are about one person, token, address or session.
//!
//! Records hold keyed tags of such values. Here the tags are computed with the key files, so it runs where the log is, as the
//! node's user; the running node records first what is looked for.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::audit_export::{FilterArguments, Signed};
use super::control_client::{ClientError, Target, post, refuse};
use super::export_manifest::Problem;
use super::{EXIT_NO, EXIT_YES, Output, complain, print_line};
use crate::audit::export::{Exported, Format, export};
use crate::audit::tag::{Tag, TagField};
use crate::audit::{AuditError, EpochKey, TagKeys, hex};
use crate::config::Config;
use crate::daemon::open_tag_key_wrap;

#[derive(Debug, Args)]
#[command(after_help = TAG_HELP)]
pub(super) struct TagArguments {
    /// What the value is: subject, jti, client (an address) or session.
    #[arg(value_parser = parse_field)]
    field: TagField,
    /// The value; `-` reads it from standard input, so that it stands neither in the list of processes nor in a shell's
    /// history.
    value: String,
    /// The log's folder.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/edgate/audit")]
    dir: PathBuf,
    #[command(flatten)]
    filter: FilterArguments,
    /// A file with the checkpoint key, kept where the log's writer cannot change it. Otherwise the copy in the log's own
    /// folder is used.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Search a log that has no checkpoint, to its end.
    #[arg(long)]
    allow_unsigned: bool,
    /// Do not tell the running node, whose log then says nothing of this look-up.
    #[arg(long)]
    unrecorded: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

const TAG_HELP: &str = "Needs the log's tag keys, so it runs on the node's host as the node's user. The running node records the \
tags before anything is searched, and takes 10 look-ups at once and then 30 in an hour; a restart forgets how many there were. \
Searched is what the latest checkpoint covers. `edgate audit export --tag FIELD` writes the same records to a file. Exit codes: 0 \
searched whole; 1 a key is missing, so that some records could not be searched, or the log is not what was signed.";

pub(super) fn parse_field(text: &str) -> Result<TagField, String> {
    TagField::from_name(text).ok_or_else(|| "write subject, jti, client or session".to_owned())
}

pub(super) fn run(arguments: &TagArguments) -> u8 {
    let json = arguments.output.json;
    let value = match arguments.value.as_str() {
        "-" => read_value(),
        value => Ok(Zeroizing::new(value.to_owned())),
    };
    let sought =
        value.and_then(|value| Sought::read(&arguments.dir, arguments.field, &value, &arguments.target));
    let sought = match sought {
        Ok(sought) => sought,
        Err(problem) => return problem.tell(json),
    };
    let record = match sought.record(arguments.unrecorded, &arguments.target) {
        Ok(record) => record,
        Err(error) => return refuse(&error),
    };
    let searched = match search(arguments, &sought) {
        Ok(searched) => searched,
        Err(problem) => return problem.tell(json),
    };
    let Exported { rows, size, .. } = searched;
    let unsearched = sought.unsearched(&searched);
    if json {
        print_line(json!({"found": rows, "size": size, "record": record, "not_searched": unsearched.json()}));
    } else {
        print_line(format_args!("found     {rows} of {size} records"));
        match record.as_str() {
            Some(id) => print_line(format_args!("recorded  {id}")),
            None => print_line("not recorded: the log says nothing of this look-up"),
        }
    }
    unsearched.tell()
}

fn search(arguments: &TagArguments, sought: &Sought) -> Result<Exported, Problem> {
    let signed = Signed::read(&arguments.dir, arguments.key.as_deref(), arguments.allow_unsigned)?;
    let mut filter = arguments.filter.filter();
    filter.tags.clone_from(&sought.tags);
    let format = if arguments.output.json { Format::JsonLines } else { Format::Text };
    let mut out = io::stdout().lock();
    let searched = export(&signed.source(&arguments.dir), &filter, format, &mut out, &mut |_, _| {})?;
    out.flush().map_err(|error| Problem::Failure(format!("cannot write to standard output: {error}")))?;
    signed.check(&searched)?;
    Ok(searched)
}

/// The value on standard input, without the line end behind it.
pub(super) fn read_value() -> Result<Zeroizing<String>, Problem> {
    let mut text = Zeroizing::new(String::with_capacity(VALUE_BYTES_MAX + 1));
    io::stdin()
        .take(VALUE_BYTES_MAX as u64 + 1)
        .read_to_string(&mut text)
        .map_err(|error| Problem::Input(format!("cannot read the value: {error}")))?;
    let line = text.strip_suffix('\n').map_or(&**text, |line| line.strip_suffix('\r').unwrap_or(line));
    let len = line.len();
    text.truncate(len);
    Ok(text)
}

/// What is looked for: the tags of one value, and the keys they were made with.
pub(super) struct Sought {
    pub(super) tags: Vec<Tag>,
    field: TagField,
    keys: TagKeys,
}

impl Sought {
    /// The keys that are wrapped are opened in the token of the configuration that `target` names.
    pub(super) fn read(dir: &Path, field: TagField, value: &str, target: &Target) -> Result<Self, Problem> {
        if value.is_empty() || value.len() > VALUE_BYTES_MAX {
            return Err(Problem::Input(format!("the value must have 1 to {VALUE_BYTES_MAX} bytes")));
        }
        let values =
            field.values(value).ok_or_else(|| Problem::Input("a client is an IP address".to_owned()))?;
        let keys = match (TagKeys::load(dir, None), target.config()) {
            // Only then the token is asked.
            (Err(AuditError::TagKeyUnderOther { .. }), Some(config)) => open_wrapped(dir, config)?,
            (keys, _) => keys.map_err(|error| unreadable(&error))?,
        };
        let tags: Vec<Tag> = values.iter().flat_map(|value| keys.tags(field, value)).collect();
        if tags.is_empty() {
            return Err(Problem::Input(format!("there is no tag key in {}", dir.display())));
        }
        Ok(Self { tags, field, keys })
    }

    /// Has the running node record the look-up; the record's id, or null without one.
    pub(super) fn record(&self, unrecorded: bool, target: &Target) -> Result<Value, ClientError> {
        if unrecorded {
            return Ok(Value::Null);
        }
        let tags: Vec<String> = self.tags.iter().map(|tag| hex(tag)).collect();
        let uid = rustix::process::getuid().as_raw();
        let body = json!({"field": self.field.name(), "tags": tags, "uid": uid});
        let answer =
            target.url().and_then(|url| post(&url, "/v1/audit/lookups", &body)).inspect_err(|_| {
                complain("nothing was looked up: the log must say that it was (or give --unrecorded)");
            })?;
        Ok(answer["id"].clone())
    }

    /// The epochs of the records read whose tags could not be computed.
    pub(super) fn unsearched(&self, searched: &Exported) -> Unsearched {
        let mut unsearched = Unsearched::default();
        for epoch in &searched.tag_epochs {
            match self.keys.of(*epoch) {
                Some(EpochKey::Kept(_)) => {}
                Some(EpochKey::Destroyed(record)) => unsearched.destroyed.push((*epoch, record.clone())),
                None => unsearched.lost.push(*epoch),
            }
        }
        unsearched
    }
}

fn unreadable(error: &AuditError) -> Problem {
    Problem::Input(format!("{error} (the node's user can read the log's keys)"))
}

/// The keys of a log that wraps them, opened as a start of the node opens them.
fn open_wrapped(dir: &Path, config: &Path) -> Result<TagKeys, Problem> {
    let config = Config::load(config).map_err(|error| Problem::Input(error.to_string()))?;
    let opened = open_tag_key_wrap(&config).map_err(|error| Problem::Input(error.to_string()))?;
    let wrap = opened.as_ref().map(|(wrap, _tokens)| &**wrap);
    TagKeys::load(dir, wrap).map_err(|error| unreadable(&error))
}

/// Epochs whose records may be about the value all the same.
#[derive(Default)]
pub(super) struct Unsearched {
    lost: Vec<u64>,
    // With the record that says so.
    destroyed: Vec<(u64, String)>,
}

impl Unsearched {
    pub(super) fn json(&self) -> Value {
        let destroyed: Vec<u64> = self.destroyed.iter().map(|(epoch, _)| *epoch).collect();
        json!({"lost": self.lost, "destroyed": destroyed})
    }

    /// Says what is missing, and yields the exit code: a key that was destroyed is meant to be.
    pub(super) fn tell(&self) -> u8 {
        for (epoch, record) in &self.destroyed {
            complain(format_args!(
                "tags of epoch {epoch} belong to nobody any more: their key was destroyed (record {record})"
            ));
        }
        for epoch in &self.lost {
            complain(format_args!(
                "INCOMPLETE: the tag key of epoch {epoch} is missing; its records could not be searched"
            ));
        }
        if self.lost.is_empty() { EXIT_YES } else { EXIT_NO }
    }
}

/// The longest value: longer ones are in no token.
const VALUE_BYTES_MAX: usize = 8 * 1024;
