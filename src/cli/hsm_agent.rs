//! `edgate hsm-agent`, and `edgate hsm unlock --agent`.

use std::path::PathBuf;

use clap::Args;
use edgate_hsm::{AgentAddress, AgentUnlock};
use serde_json::json;
use zeroize::Zeroizing;

use super::{EXIT_YES, complain, print_line};
use crate::config::{EXIT_CONFIG, HsmAgent};
use crate::daemon;

#[derive(Debug, Args)]
pub(super) struct HsmAgentArguments {
    /// The agent's configuration file: an [hsm] table of one token, and an [agent] table.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Look at the configuration and the library, and do not start.
    #[arg(long)]
    check: bool,
}

/// Serves a token to other processes until it is told to stop.
pub(super) fn run(arguments: &HsmAgentArguments) -> u8 {
    daemon::log_to_stderr();
    let config = match HsmAgent::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            complain(&error);
            return EXIT_CONFIG;
        }
    };
    let done = match arguments.check {
        true => daemon::hsm_agent::check(&config),
        false => daemon::hsm_agent::run(&config),
    };
    match done {
        Ok(()) => EXIT_YES,
        Err(error) => {
            complain(&error);
            error.exit_code()
        }
    }
}

/// Hands a PIN to an agent. `ask` reads it, for the token that is named to it.
pub(super) fn unlock(
    socket: PathBuf,
    uid: Option<u32>,
    as_json: bool,
    ask: impl FnOnce(&str) -> Result<Zeroizing<String>, u8>,
) -> u8 {
    let unlock = match AgentUnlock::connect(&AgentAddress { socket, uid }) {
        Ok(unlock) => unlock,
        Err(error) => {
            complain(&error);
            return error.exit_code();
        }
    };
    let pin = match ask(&format!("PIN of {}: ", unlock.token())) {
        Ok(pin) => pin,
        Err(code) => return code,
    };
    match unlock.unlock(&pin) {
        Ok(()) if as_json => print_line(json!({"unlocked": true})),
        Ok(()) => print_line("unlocked"),
        Err(error) => {
            complain(&error);
            return error.exit_code();
        }
    }
    EXIT_YES
}
