//! `edgate audit rotate-checkpoint-key`: the running node has the log's checkpoint key name its successor.

use serde_json::json;

use super::control_client::{Asked, text};
use super::print_line;

pub(super) fn rotate(asked: &Asked) -> u8 {
    asked.post("/v1/audit/checkpoint-key", &json!({}), |answer| {
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
