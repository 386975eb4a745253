//! `edgate audit witness`: this program as a witness of other logs (C2SP tlog-witness).

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::audit::CheckpointKey;
use crate::config::EXIT_CONFIG;
use crate::daemon::log_to_stderr;
use crate::witness::{Cosigner, KnownLog, parse_list, serve};

use super::{EXIT_FAILURE, EXIT_INPUT, EXIT_YES, Output, complain, print_line};

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct WitnessArguments {
    /// The witness's name, like a URL without its scheme: part of its key.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// The key it cosigns with; a file of its user, mode 0600.
    #[arg(long, value_name = "FILE", default_value = "/var/lib/edgate-witness/witness.key")]
    key: PathBuf,
    /// Where it remembers what it cosigned. Losing this folder is losing the witness: give it a new key then.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/edgate-witness/logs")]
    dir: PathBuf,
    /// Make the key and the folder, print the verifier key, and end.
    #[arg(long)]
    init: bool,
    /// Where logs submit their checkpoints. There is no TLS here: let a proxy on this machine add it.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8190")]
    listen: SocketAddr,
    /// A log's verifier key, as in its audit/checkpoint.key; may be repeated, also for a log that changed its key.
    #[arg(long, value_name = "VKEY", required_unless_present_any = ["logs", "init"])]
    log: Vec<String>,
    /// A file of logs (C2SP tlog-list).
    #[arg(long, value_name = "FILE")]
    logs: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

const HELP: &str = "POST /add-checkpoint answers 200 with the cosignature, or why there is none: 400 malformed, 403 not \
signed by a key of its log, 404 unknown log, 409 another last size (in the body), 422 not shown to be a continuation. Nothing is \
cosigned before it is on the disk.";

pub(super) fn run(arguments: &WitnessArguments) -> u8 {
    let WitnessArguments { name, key, dir, output, .. } = arguments;
    if arguments.init {
        return match Cosigner::create(key, dir, name) {
            Ok(key) => {
                print_line(key.to_text());
                EXIT_YES
            }
            Err(error) => {
                complain(error);
                EXIT_CONFIG
            }
        };
    }
    let logs = match known_logs(arguments) {
        Ok(logs) => logs,
        Err(message) => {
            complain(message);
            return EXIT_INPUT;
        }
    };
    log_to_stderr();
    let cosigner = match Cosigner::open(key, dir, name, logs) {
        Ok(cosigner) => cosigner,
        Err(error) => {
            complain(error);
            return EXIT_CONFIG;
        }
    };
    let (key, logs) = (cosigner.key().to_text(), cosigner.logs());
    let served = serve(cosigner, arguments.listen, |listen| match output.json {
        true => print_line(json!({"ready": true, "listen": listen, "key": key, "logs": logs})),
        false => print_line(format_args!("{key} witnesses {logs} logs on {listen}")),
    });
    match served {
        Ok(()) => EXIT_YES,
        Err(error) => {
            complain(error);
            EXIT_FAILURE
        }
    }
}

fn known_logs(arguments: &WitnessArguments) -> Result<Vec<KnownLog>, String> {
    let mut logs = match &arguments.logs {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            parse_list(&text).map_err(|error| format!("{}, {error}", path.display()))?
        }
        None => Vec::new(),
    };
    for text in &arguments.log {
        let key = CheckpointKey::from_text(text)
            .map_err(|error| format!("--log {text}: no verifier key of a log: {error}"))?;
        logs.push(KnownLog::of_key(key));
    }
    Ok(logs)
}
