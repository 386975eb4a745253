//! `edgate serve`, `edgate init`, `edgate check-config`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::{Config, EXIT_CONFIG};
use crate::daemon::{self, Mode, StartError};

use super::{EXIT_YES, complain, print_line};

#[derive(Debug, Args)]
pub(super) struct ServeArguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", required_unless_present = "dev", conflicts_with = "dev")]
    config: Option<PathBuf>,
    /// Try it out: keep everything in one folder, created at the first run, and listen on loopback.
    #[arg(long)]
    dev: bool,
    /// With --dev: keep the keys in SoftHSM, in a token made in that folder.
    #[arg(long, requires = "dev")]
    softhsm: bool,
    /// The folder of --dev.
    #[arg(long, value_name = "DIR", default_value = "edgate-dev", requires = "dev")]
    data: PathBuf,
    /// The data port of --dev; 0 lets the kernel choose.
    #[arg(long, default_value_t = 8180, requires = "dev")]
    port: u16,
    /// The control port of --dev; 0 lets the kernel choose.
    #[arg(long, default_value_t = 8181, requires = "dev")]
    control_port: u16,
    /// Print one JSON line with the addresses once ready.
    #[arg(long)]
    json: bool,
}

pub(super) fn serve(arguments: &ServeArguments) -> u8 {
    daemon::log_to_stderr();
    let (config, mode) = match &arguments.config {
        Some(path) => match Config::load(path) {
            Ok(config) => (config, Mode::Service),
            Err(error) => return refuse_config(&error),
        },
        None => {
            let dir = std::path::absolute(&arguments.data).unwrap_or_else(|_| arguments.data.clone());
            let token = match arguments.softhsm.then(|| daemon::prepare_softhsm(&dir)).transpose() {
                Ok(token) => token,
                Err(error) => return report(Err(error)),
            };
            (Config::dev(&dir, arguments.port, arguments.control_port, token.as_ref()), Mode::Dev { dir })
        }
    };
    report(daemon::serve(&config, &mode, arguments.json))
}

pub(super) fn init(path: &Path) -> u8 {
    match Config::load(path) {
        Ok(config) => match daemon::init(&config) {
            Ok(created) => {
                created.iter().for_each(|path| print_line(format_args!("created {}", path.display())));
                EXIT_YES
            }
            Err(error) => report(Err(error)),
        },
        Err(error) => refuse_config(&error),
    }
}

pub(super) fn check_config(path: &Path) -> u8 {
    match Config::load(path) {
        Ok(config) => match daemon::check(&config) {
            Ok(summary) => {
                print_line(summary);
                EXIT_YES
            }
            Err(error) => report(Err(error)),
        },
        Err(error) => refuse_config(&error),
    }
}

fn refuse_config(error: &impl std::fmt::Display) -> u8 {
    complain(error);
    EXIT_CONFIG
}

fn report(result: Result<(), StartError>) -> u8 {
    match result {
        Ok(()) => EXIT_YES,
        Err(error) => {
            complain(&error);
            error.exit_code()
        }
    }
}
