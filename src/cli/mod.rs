//! The command line: what each subcommand reads and prints.
//!
//! Human text goes to a terminal, `--json` gives one JSON value per line to programs. Exit codes are stable:
//! 0 yes, 1 no (a token or signature refused, a broken chain), 2 unusable input, 69 a service that cannot be reached,
//! 70 a failure at run time, 78 a configuration that cannot be used.

mod audit;
mod audit_aep;
mod audit_anchors;
mod audit_archive;
mod audit_bundle;
mod audit_checkpoint_key;
mod audit_doctor;
mod audit_drill;
mod audit_erase;
mod audit_export;
mod audit_proof;
mod audit_receipt;
mod audit_report;
mod audit_retention;
mod audit_sealed;
mod audit_tag;
mod audit_tag_keys;
mod audit_timestamp;
mod audit_verify_export;
mod audit_verify_mirror;
mod audit_witness;
mod checkpoint_keys;
mod control_client;
mod export_manifest;
mod hsm;
mod hsm_agent;
mod hsm_backup;
mod hsm_ceremony;
mod hsm_csr;
mod hsm_transcript;
mod inspect;
mod keys;
mod report_page;
mod report_svg;
mod revocations;
mod serve;
mod signature;
mod tls;
mod token_verify;
mod verify_record;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Everything asked for was true.
pub const EXIT_YES: u8 = 0;
/// Something asked for was not true.
pub const EXIT_NO: u8 = 1;
/// The input could not be used.
pub const EXIT_INPUT: u8 = 2;
/// A service is not reachable (`EX_UNAVAILABLE`).
pub const EXIT_UNAVAILABLE: u8 = 69;
/// Something failed at run time (`EX_SOFTWARE`).
pub const EXIT_FAILURE: u8 = 70;

/// Verification appliance for Ed25519 tokens.
#[derive(Debug, Parser)]
#[command(name = "edgate", version, max_term_width = 110, after_help = AFTER_HELP)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "Exit codes: 0 yes; 1 no (token or signature refused, chain altered); 2 unusable input; \
3 to 17 other breaks of the chain, by class, 25 a log that was rolled back (see `edgate audit verify --help`); 20 to 27 proofs that prove nothing (see \
`edgate audit verify-proof --help`); 30 to 35 bundles and 40 to 52 timestamps that prove nothing (see `edgate audit verify-bundle --help`); 69 service not \
reachable; 70 failure at run time; 78 unusable configuration.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service.
    Serve(serve::ServeArguments),
    /// Create the signing key, the state database and the audit log that a configuration names.
    Init {
        /// The configuration file.
        config: PathBuf,
    },
    /// Check a configuration with the code that `serve` runs.
    CheckConfig {
        /// The configuration file.
        config: PathBuf,
    },
    /// Issue, verify and look at tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Revoke tokens, and what tokens depend on, at a running node; for good.
    #[command(subcommand)]
    Revoke(revocations::RevokeCommand),
    /// Refuse what tokens depend on, at a running node, until it is enabled again.
    #[command(subcommand)]
    Disable(revocations::SwitchCommand),
    /// Let pass again what was disabled.
    #[command(subcommand)]
    Enable(revocations::SwitchCommand),
    /// Look at what is revoked, at a running node.
    #[command(subcommand)]
    Revocations(revocations::RevocationsCommand),
    /// Look at a running node's signing keys, rotate, retire, disable and kill them.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// The certificate that a running node presents to TLS clients.
    #[command(subcommand)]
    Tls(tls::TlsCommand),
    /// Verify raw Ed25519 signatures.
    #[command(subcommand)]
    Signature(SignatureCommand),
    /// Look at the audit log; needs no running node.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Look into hardware tokens, generate and test keys; needs no running node.
    #[command(subcommand)]
    Hsm(hsm::HsmCommand),
    /// Serve one hardware token to other processes: its library and its PIN are in this one alone.
    HsmAgent(hsm_agent::HsmAgentArguments),
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Issue an Agent Task Token at a running node.
    Issue(control_client::IssueArguments),
    /// Verify tokens offline, by the very rules of the server. Whether one is revoked only a node knows.
    Verify(token_verify::VerifyArguments),
    /// Decode a token without verifying it.
    Inspect(inspect::InspectArguments),
}

#[derive(Debug, Subcommand)]
enum SignatureCommand {
    /// Verify JSON Lines of {"public_key": hex, "message": hex, "signature": hex}.
    Verify(signature::SignatureArguments),
}

/// How results are printed.
#[derive(Debug, Clone, Copy, Args)]
pub struct Output {
    /// Print one JSON value per line.
    #[arg(long)]
    pub json: bool,
}

/// Runs the subcommand.
#[must_use]
pub fn run(arguments: Arguments) -> ExitCode {
    let code = match arguments.command {
        Command::Serve(arguments) => serve::serve(&arguments),
        Command::Init { config } => serve::init(&config),
        Command::CheckConfig { config } => serve::check_config(&config),
        Command::Audit(command) => audit::run(&command),
        Command::Hsm(command) => hsm::run(&command),
        Command::HsmAgent(arguments) => hsm_agent::run(&arguments),
        Command::Keys(command) => keys::run(&command),
        Command::Tls(command) => tls::run(&command),
        Command::Revoke(command) => revocations::revoke(&command),
        Command::Disable(command) => revocations::switch("disable", &command),
        Command::Enable(command) => revocations::switch("enable", &command),
        Command::Revocations(command) => revocations::revocations(&command),
        Command::Token(TokenCommand::Issue(arguments)) => control_client::issue(&arguments),
        Command::Token(TokenCommand::Verify(arguments)) => token_verify::run(&arguments),
        Command::Token(TokenCommand::Inspect(arguments)) => inspect::run(&arguments),
        Command::Signature(SignatureCommand::Verify(arguments)) => signature::run(&arguments),
    };
    ExitCode::from(code)
}

/// Says on standard error what went wrong.
fn complain(what: impl std::fmt::Display) {
    eprintln!("edgate: {what}");
}

/// Prints one line; a reader that has gone away ends the program quietly, as it does other filters.
fn print_line(line: impl std::fmt::Display) {
    use std::io::Write;
    if writeln!(std::io::stdout().lock(), "{line}").is_err() {
        std::process::exit(i32::from(EXIT_FAILURE));
    }
}

/// Opens a file of lines, or standard input for `-`.
///
/// # Errors
/// If it cannot be opened; the message names it.
fn open_lines(path: &std::path::Path) -> Result<Box<dyn std::io::BufRead>, String> {
    if path == std::path::Path::new("-") {
        return Ok(Box::new(std::io::BufReader::new(std::io::stdin())));
    }
    let file =
        std::fs::File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(Box::new(std::io::BufReader::new(file)))
}

/// The longest line of a JSON Lines input: a token and its quotes, or a signed message of half a mebibyte in hex.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Reads one line without its end; `None` at the end of the input, `Some(Err)` for a line over [`LINE_BYTES_MAX`],
/// which is passed over whole.
///
/// # Errors
/// If reading fails.
fn next_line(input: &mut dyn std::io::BufRead) -> std::io::Result<Option<Result<Vec<u8>, ()>>> {
    use std::io::{BufRead as _, Read as _};
    let mut line = Vec::new();
    let mut limited = (&mut *input).take(LINE_BYTES_MAX);
    if limited.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    } else if line.len() as u64 == LINE_BYTES_MAX {
        input.skip_until(b'\n')?;
        return Ok(Some(Err(())));
    }
    Ok(Some(Ok(line)))
}
