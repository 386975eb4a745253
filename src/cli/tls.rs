//! `edgate tls`: the certificate that a running node presents.

use clap::Subcommand;
use serde_json::{Value, json};

use super::control_client::{Asked, text};
use super::print_line;

#[derive(Debug, Subcommand)]
pub(super) enum TlsCommand {
    /// Tell which certificate is in use, and until when it is valid.
    Show(Asked),
    /// Present what the configured files hold now, from the next handshake on; no connection is closed.
    Reload(Asked),
}

pub(super) fn run(command: &TlsCommand) -> u8 {
    match command {
        TlsCommand::Show(asked) => asked.get("/v1/tls", |answer| print_line(line(answer))),
        TlsCommand::Reload(asked) => asked.post("/v1/tls/reload", &json!({}), |answer| {
            print_line(format_args!("until now  {}", line(&answer["before"])));
            print_line(format_args!("from now   {}", line(&answer["after"])));
            match answer["id"].as_str() {
                Some(id) => print_line(format_args!("recorded   {id}")),
                None => print_line("nothing changed: chain and key are those that were in use"),
            }
        }),
    }
}

fn line(certificate: &Value) -> String {
    let days = certificate["seconds_left"].as_i64().unwrap_or_default() / 86_400;
    format!("sha256 {}, valid for {days} more days", text(certificate, "certificate"))
}
