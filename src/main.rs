//! `edgate`: arguments to subcommand to exit code.

use std::process::ExitCode;

use clap::Parser;
use edgate::cli::{self, Arguments};

fn main() -> ExitCode {
    // A closed pipe ends the program quietly, as it does for other filters.
    let arguments = Arguments::parse();
    cli::run(arguments)
}
