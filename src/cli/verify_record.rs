//! What is done about a node's log is an event of that log: the command tells the node, and does what it does all the same
//! where there is none.

use std::path::Path;

use clap::Args;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::control_client::{ClientError, Target, post};
use super::{complain, print_line};
use crate::audit::hex;
use crate::audit::verify::{Options, Report};

/// Who is told.
#[derive(Debug, Args)]
pub(super) struct RecordArguments {
    /// Do not tell the running node, whose log then says nothing of this.
    #[arg(long)]
    unrecorded: bool,
    #[command(flatten)]
    target: Target,
}

/// Whether the log says what was done.
pub(super) enum Recorded {
    /// The record of this name does.
    As(String),
    /// There was nobody to tell: no node runs here, or it writes another log.
    Nobody,
    /// It does not, as was asked for or because the node could not.
    Not,
}

impl Recorded {
    /// The record's name, if there is one.
    pub(super) fn id(&self) -> Option<&str> {
        match self {
            Self::As(id) => Some(id),
            Self::Nobody | Self::Not => None,
        }
    }
}

/// Prints a report for a person, its digest, and the record that has it; `unrecorded` says what it means that there is none.
pub(super) fn print_report(text: &str, digest: &str, id: Option<&str>, unrecorded: &str) {
    print_line(text.trim_end());
    print_line(format_args!("\nsha256    {digest}"));
    match id {
        Some(id) => print_line(format_args!("recorded  {id}, under the log's next checkpoint")),
        None => print_line(format_args!("not recorded: the log says nothing of this {unrecorded}")),
    }
}

impl RecordArguments {
    /// The configuration that says where the node is, if one was named.
    pub(super) fn config(&self) -> Option<&Path> {
        self.target.config()
    }

    /// Tells the node whose log lies in `dir`; or the node that was named, whatever folder its log has here. What goes
    /// wrong is said and changes nothing: the verification stands.
    pub(super) fn record(&self, dir: &Path, options: &Options, report: &Report) -> Recorded {
        self.tell("verification", dir, "/v1/audit/verify-runs", run_json(options, report))
    }

    /// Tells of a report on the log called `origin`: what it is, in short what it says, and the digest of its text.
    pub(super) fn record_report(
        &self,
        dir: &Path,
        origin: &str,
        (name, summary, text): (&str, &str, &str),
    ) -> Recorded {
        let sha256 = hex(&Sha256::digest(text));
        let body = json!({"origin": origin, "report": name, "summary": summary, "sha256": sha256});
        self.tell(name, dir, "/v1/audit/reports", body)
    }

    fn tell(&self, what: &str, dir: &Path, path: &str, body: Value) -> Recorded {
        if self.unrecorded {
            return Recorded::Not;
        }
        let named = self.target.is_named();
        let mut body = body;
        if !named {
            // The node is to say whether this is its folder.
            match dir.canonicalize().map(|dir| dir.to_str().map(str::to_owned)) {
                Ok(Some(dir)) => body["dir"] = dir.into(),
                Ok(None) => return not_recorded(what, "the path of its folder is no text"),
                Err(error) => {
                    let problem = format!("cannot find {}: {error}", dir.display());
                    return not_recorded(what, &problem);
                }
            }
        }
        match self.target.url().and_then(|url| post(&url, path, &body)) {
            Ok(answer) => Recorded::As(answer["id"].as_str().unwrap_or_default().to_owned()),
            // Nobody said that there is a node, and an auditor has none.
            Err(ClientError::Absent(_) | ClientError::Input(_)) if !named => Recorded::Nobody,
            Err(error) => not_recorded(what, &error.to_string()),
        }
    }
}

fn not_recorded(what: &str, problem: &str) -> Recorded {
    complain(format_args!("the {what} is not on record: {problem}"));
    Recorded::Not
}

fn run_json(options: &Options, report: &Report) -> Value {
    let mut body = json!({
        "origin": report.origin,
        "mode": options.mode.name(),
        "from": options.first_seq(),
        "records": report.records,
        "breaks": report.breaks.len(),
    });
    if let Some(first) = report.breaks.first() {
        body["first_class"] = first.class.name().into();
    }
    body
}
