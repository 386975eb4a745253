//! A record as names and texts, for syslog, streams and whoever else reads neither CBOR nor nested JSON.
//!
//! Each value is short: what is long (a proof, an encrypted field) is left out, what is many is joined. The first 116 bytes
//! of the header are among the values, so that a copy of these pairs proves itself: see `copy.rs`.

use std::{borrow::Cow, collections::BTreeMap};

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{
    cbor::Value,
    hex::hex,
    record::{CORE_SEQUENCER, HASHED_BYTES},
    schema::{Class, Field, Shape},
    tail::{Entry, decision_name, time},
};

/// A name and its text.
pub type Pair = (Cow<'static, str>, String);

/// What the log itself says of a record; a body's field of such a name is written as `body_NAME`.
pub(super) const OWN_NAMES: [&str; 9] =
    ["seq", "time", "kind", "id", "event_hash", "prev_hash", "header", "error", "redacted"];

/// The pair with a checkpoint's signed text, in base64: it has several lines.
pub(super) const CHECKPOINT: &str = "checkpoint";

/// The longest text of one field, and of the distinct values of one field in a call about many tokens.
const TEXT_BYTES_MAX: usize = 1024;

/// The longest byte string: a digest. A checkpoint's frontier may be longer.
const BYTES_MAX: usize = 32;

impl Entry {
    /// The record as names and texts, in the order of its header and body.
    #[must_use]
    pub fn pairs(&self) -> Vec<Pair> {
        let header = &self.header;
        let mut pairs: Vec<Pair> = vec![
            ("seq".into(), header.seq.to_string()),
            ("time".into(), time(header.wall_ns)),
            ("kind".into(), self.kind().into_owned()),
        ];
        if header.core != CORE_SEQUENCER {
            pairs.push(("id".into(), self.id.to_string()));
        }
        pairs.push(("event_hash".into(), hex(&self.hash)));
        pairs.push(("prev_hash".into(), hex(&header.prev_hash)));
        pairs.push(("header".into(), BASE64_STANDARD.encode(&header.to_bytes()[..HASHED_BYTES])));
        if self.erased.is_some() {
            pairs.push(("redacted".into(), "true".into()));
        }
        match self.read_body() {
            Ok(body) => body.iter().for_each(|(field, value)| push_field(&mut pairs, field, value)),
            Err(error) => pairs.push(("error".into(), error.to_string())),
        }
        pairs
    }
}

fn push_field(pairs: &mut Vec<Pair>, field: &Field, value: &Value<'_>) {
    // What can be made unreadable is not copied to where it cannot.
    if field.class == Class::Sealed {
        return;
    }
    if let (Shape::Items(fields), Value::Array(items)) = (field.shape, value) {
        return push_items(pairs, fields, items);
    }
    let name: Cow<'static, str> = if OWN_NAMES.contains(&field.name) {
        format!("body_{}", field.name).into()
    } else {
        field.name.into()
    };
    if let Some(decision) = decision_name(field.name, value) {
        return push_decision(pairs, decision);
    }
    let text = match value {
        Value::Text(note) if field.name == "note" => {
            return pairs.push((CHECKPOINT.into(), BASE64_STANDARD.encode(note)));
        }
        Value::Bytes(bytes) if bytes.len() > BYTES_MAX && field.name != "frontier" => return,
        value => text(value),
    };
    pairs.push((name, shortened(text)));
}

fn push_decision(pairs: &mut Vec<Pair>, decision: &str) {
    if decision == "accepted" {
        return pairs.push(("decision".into(), decision.to_owned()));
    }
    pairs.push(("decision".into(), "rejected".to_owned()));
    pairs.push(("reason".into(), decision.to_owned()));
}

/// The sub-decisions of one call: how many of each, and the distinct values of each field.
fn push_items(pairs: &mut Vec<Pair>, fields: &[Field], items: &[Value<'_>]) {
    pairs.push(("items".into(), items.len().to_string()));
    let entries = || {
        items
            .iter()
            .filter_map(|item| if let Value::Map(entries) = item { Some(entries) } else { None })
            .flatten()
    };
    for field in fields.iter().filter(|field| field.class != Class::Sealed) {
        let values = entries().filter(|(key, _)| *key == field.key).map(|(_, value)| value);
        let mut counted: BTreeMap<String, usize> = BTreeMap::new();
        for value in values {
            let name = decision_name(field.name, value).map_or_else(|| text(value), str::to_owned);
            *counted.entry(name).or_default() += 1;
        }
        let listed = match field.name {
            "decision" => counted.iter().map(|(name, count)| format!("{name}:{count}")).collect::<Vec<_>>(),
            // Times and flags say nothing without their item.
            _ if matches!(field.shape, Shape::Uint | Shape::Bool) => continue,
            _ => counted.into_keys().collect(),
        };
        if !listed.is_empty() {
            pairs.push((format!("{}s", field.name).into(), shortened(listed.join(" "))));
        }
    }
}

fn text(value: &Value<'_>) -> String {
    match value {
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(" "),
        Value::Bool(value) => value.to_string(),
        Value::Bytes(bytes) => hex(bytes),
        Value::Map(_) => String::new(),
        Value::Text(text) => (*text).to_owned(),
        Value::Uint(number) => number.to_string(),
    }
}

/// At most [`TEXT_BYTES_MAX`], and an ellipsis where something was cut off.
fn shortened(mut text: String) -> String {
    // A frontier is 64 digits for each binary digit of the size that is one.
    if text.len() > TEXT_BYTES_MAX && !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.push('\u{2026}');
    }
    text
}
