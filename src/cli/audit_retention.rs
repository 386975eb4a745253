//! `edgate audit hold`, `release`, `retire`: what a running node does with its log when an operator orders it.

use std::fmt;

use clap::Args;
use serde_json::{Value, json};

use super::audit_export::parse_time;
use super::control_client::{Asked, ClientError, Target, Words, post_slowly, refuse, text};
use super::{EXIT_NO, EXIT_YES, Output, complain, print_line};

#[derive(Debug, Args)]
#[command(
    after_help = "Records of this time are neither retired nor erased until the hold is released. Both are in the log."
)]
pub(super) struct HoldArguments {
    /// The hold's name: a case, a ticket.
    name: String,
    /// Records made at or after this time: RFC 3339, such as 2026-11-28T00:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: u64,
    /// Records made before this time; otherwise all that come.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to: Option<u64>,
    #[command(flatten)]
    words: Words,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
pub(super) struct ReleaseArguments {
    /// The hold's name.
    name: String,
    #[command(flatten)]
    words: Words,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Args)]
#[command(
    after_help = "A segment leaves the log's folder when all its records are older, nobody holds one of them, a signed \
checkpoint covers it, its archive lies in audit.retention.destination and restores to the same bytes, and a RETIRE record of it is \
under a signed checkpoint. If one of these fails nothing is removed."
)]
pub(super) struct RetireArguments {
    /// Segments all of whose records were made before this time.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    before: u64,
    #[command(flatten)]
    words: Words,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

pub(super) fn hold(arguments: &HoldArguments) -> u8 {
    let HoldArguments { name, from, to, words, asked } = arguments;
    let mut body = words.body();
    body["name"] = name.clone().into();
    body["from_ns"] = (*from).into();
    if let Some(to) = to {
        body["to_ns"] = (*to).into();
    }
    asked.post("/v1/audit/holds", &body, |answer| told(answer, format_args!("held      {name}")))
}

pub(super) fn release(arguments: &ReleaseArguments) -> u8 {
    let ReleaseArguments { name, words, asked } = arguments;
    let named = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if !named || name.is_empty() {
        return refuse(&ClientError::Input(format!("{name:?} is no name of a hold")));
    }
    let path = format!("/v1/audit/holds/{name}/release");
    asked.post(&path, &words.body(), |answer| told(answer, format_args!("released  {name}")))
}

fn told(answer: &Value, line: fmt::Arguments<'_>) {
    print_line(line);
    print_line(format_args!("recorded  {}", text(answer, "id")));
}

pub(super) fn retire(arguments: &RetireArguments) -> u8 {
    let RetireArguments { before, words, target, output } = arguments;
    let mut body = words.body();
    body["before_ns"] = (*before).into();
    let mut retired: Vec<Value> = Vec::new();
    let kept = loop {
        let answered = target.url().and_then(|url| post_slowly(&url, "/v1/audit/retire", &body));
        match answered {
            Ok(mut answer) => {
                retired.extend(answer["retired"].as_array().cloned().unwrap_or_default());
                if answer["more"] != true {
                    break answer["kept"].take();
                }
            }
            Err(error) => {
                complain(format_args!("{} segments were retired before this happened", retired.len()));
                return refuse(&error);
            }
        }
    };
    if output.json {
        print_line(json!({"retired": retired, "kept": kept}));
    } else {
        for one in &retired {
            print_line(format_args!("retired   segment {}, {} records", one["segment"], one["records"]));
        }
        print_line(format_args!("retired   {} segments", retired.len()));
        if let Some(why) = kept["why"].as_str() {
            print_line(format_args!("kept      segment {}: {why}", kept["segment"]));
        }
    }
    // Something old enough stays: whoever counted on its going should know.
    if kept.is_null() { EXIT_YES } else { EXIT_NO }
}
