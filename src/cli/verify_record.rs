//! A verification of a node's log is an event of that log: the command tells the node, and does what it does all the same
//! where there is none.

use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use super::complain;
use super::control_client::{ClientError, Target, post};
use crate::audit::verify::{Options, Report};

/// Whom a verification is told.
#[derive(Debug, Args)]
pub(super) struct RecordArguments {
    /// Do not tell the running node, whose log then says nothing of this verification.
    #[arg(long)]
    unrecorded: bool,
    #[command(flatten)]
    target: Target,
}

/// Whether the log says that it was verified.
pub(super) enum Recorded {
    /// The record of this name does.
    As(String),
    /// There was nobody to tell: no node runs here, or it writes another log.
    Nobody,
    /// It does not, as was asked for or because the node could not.
    Not,
}

impl RecordArguments {
    /// Tells the node whose log lies in `dir`; or the node that was named, whatever folder its log has here. What goes
    /// wrong is said and changes nothing: the verification stands.
    pub(super) fn record(&self, dir: &Path, options: &Options, report: &Report) -> Recorded {
        if self.unrecorded {
            return Recorded::Not;
        }
        let named = self.target.is_named();
        let body = match run_json(dir, options, report, named) {
            Ok(body) => body,
            Err(problem) => {
                complain(format_args!("the verification is not on record: {problem}"));
                return Recorded::Not;
            }
        };
        match self.target.url().and_then(|url| post(&url, "/v1/audit/verify-runs", &body)) {
            Ok(answer) => Recorded::As(answer["id"].as_str().unwrap_or_default().to_owned()),
            // Nobody said that there is a node, and an auditor has none.
            Err(ClientError::Absent(_) | ClientError::Input(_)) if !named => Recorded::Nobody,
            Err(error) => {
                complain(format_args!("the verification is not on record: {error}"));
                Recorded::Not
            }
        }
    }
}

fn run_json(dir: &Path, options: &Options, report: &Report, named: bool) -> Result<Value, String> {
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
    if !named {
        let dir = dir.canonicalize().map_err(|error| format!("cannot find {}: {error}", dir.display()))?;
        body["dir"] = dir.to_str().ok_or("the path of its folder is no text")?.into();
    }
    Ok(body)
}
