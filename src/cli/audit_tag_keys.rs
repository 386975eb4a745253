//! `edgate audit rotate-tag-key` and `destroy-tag-key`: the running node changes the keys of its log's tags.

use clap::Args;
use serde_json::json;

use super::control_client::{Asked, Words, text};
use super::print_line;

#[derive(Debug, Args)]
pub(super) struct DestroyArguments {
    /// The epoch, which must be over: not the one that tags are made in now.
    epoch: u64,
    #[command(flatten)]
    words: Words,
    #[command(flatten)]
    asked: Asked,
}

pub(super) fn rotate(asked: &Asked) -> u8 {
    asked.post("/v1/audit/tag-keys", &json!({}), |answer| {
        print_line(format_args!("epoch     {}", answer["epoch"]));
        print_line(format_args!("recorded  {}", text(answer, "id")));
    })
}

pub(super) fn destroy(arguments: &DestroyArguments) -> u8 {
    let path = format!("/v1/audit/tag-keys/{}/destroy", arguments.epoch);
    arguments.asked.post(&path, &arguments.words.body(), |answer| {
        print_line(format_args!("destroyed the tag key of epoch {}", answer["epoch"]));
        print_line(format_args!("recorded  {}", text(answer, "id")));
        print_line("copies that were made of it, in backups, are yours to destroy");
    })
}
