//! `edgate audit rotate-tag-key` and `destroy-tag-key`: the running node changes the keys of its log's tags.

use clap::Args;
use serde_json::json;

use super::control_client::{Target, Words, post, tell, text};
use super::{Output, print_line};

#[derive(Debug, Args)]
pub(super) struct RotateArguments {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct DestroyArguments {
    /// The epoch, which must be over: not the one that tags are made in now.
    epoch: u64,
    #[command(flatten)]
    words: Words,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

pub(super) fn rotate(arguments: &RotateArguments) -> u8 {
    let answer = arguments.target.url().and_then(|url| post(&url, "/v1/audit/tag-keys", &json!({})));
    tell(answer, &arguments.output, |answer| {
        print_line(format_args!("epoch     {}", answer["epoch"]));
        print_line(format_args!("recorded  {}", text(answer, "id")));
    })
}

pub(super) fn destroy(arguments: &DestroyArguments) -> u8 {
    let body = json!({"authority": arguments.words.authority, "reason": arguments.words.reason});
    let path = format!("/v1/audit/tag-keys/{}/destroy", arguments.epoch);
    let answer = arguments.target.url().and_then(|url| post(&url, &path, &body));
    tell(answer, &arguments.output, |answer| {
        print_line(format_args!("destroyed the tag key of epoch {}", answer["epoch"]));
        print_line(format_args!("recorded  {}", text(answer, "id")));
        print_line("copies that were made of it, in backups, are yours to destroy");
    })
}
