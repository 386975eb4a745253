//! `edgate audit rotate-checkpoint-key`: the running node has the log's checkpoint key name its successor.

use clap::Args;
use serde_json::json;

use super::control_client::{Target, post, tell, text};
use super::{Output, print_line};

#[derive(Debug, Args)]
pub(super) struct RotateArguments {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
}

pub(super) fn rotate(arguments: &RotateArguments) -> u8 {
    let answer = arguments.target.url().and_then(|url| post(&url, "/v1/audit/checkpoint-key", &json!({})));
    tell(answer, &arguments.output, |answer| {
        print_line(format_args!("until now  {}", text(answer, "old")));
        print_line(format_args!("from now   {}", text(answer, "new")));
        print_line(format_args!("recorded   {}", text(answer, "id")));
        print_line(
            "checkpoint.key beside the log holds what both keys signed: whoever trusts one of them can follow",
        );
        print_line(
            "give copies of it to whoever checks mirrors, bundles and exports; witnesses need the new line, and no more the old",
        );
    })
}
