//! `edgate token inspect`: what a token says, unverified.

use clap::Args;
use serde_json::{Value, json};

use crate::token::{self, Unverified};

use super::{EXIT_INPUT, EXIT_YES, Output, complain, print_line};

#[derive(Debug, Args)]
pub(super) struct InspectArguments {
    /// The token.
    token: String,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(arguments: &InspectArguments) -> u8 {
    let Unverified { header, payload, signature_bytes } = match token::inspect(arguments.token.as_bytes()) {
        Ok(unverified) => unverified,
        Err(error) => {
            complain(format_args!("not a compact JWS: {error}"));
            return EXIT_INPUT;
        }
    };
    if arguments.output.json {
        let line = json!({
            "verified": false,
            "header": shown(&header),
            "payload": shown(&payload),
            "signature_bytes": signature_bytes,
        });
        print_line(line);
        return EXIT_YES;
    }
    print_line("NOT VERIFIED: anyone can write such a token. Verify it with `edgate token verify`.");
    print_line(format_args!("header   {}", pretty(&header)));
    print_line(format_args!("payload  {}", pretty(&payload)));
    print_line(format_args!("signature  {signature_bytes} bytes"));
    EXIT_YES
}

/// The JSON value, or the text, or the number of bytes: whatever can be shown without harm to a terminal.
fn shown(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).escape_debug().to_string()))
}

fn pretty(bytes: &[u8]) -> String {
    let value = shown(bytes);
    // Control characters stay escaped in JSON, so a token cannot drive the terminal.
    serde_json::to_string_pretty(&value).unwrap_or_default()
}
