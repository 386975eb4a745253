//! A record as a row for programs: a JSON object, or a line of CSV.

use std::io::Write as _;

use super::{
    cbor::Value,
    hex::push_hex,
    record::CORE_SEQUENCER,
    schema::{self, Body, BodyError, Shape},
    tail::{Entry, decision_name, time},
};

/// The columns of a CSV file, in their order. `body` is the whole body as JSON.
pub(super) const CSV_COLUMNS: [&str; 12] = [
    "seq",
    "time",
    "kind",
    "id",
    "tenant",
    "issuer",
    "kid",
    "decision",
    "event_hash",
    "prev_hash",
    "wall_ns",
    "body",
];

/// Appends the record as one JSON object, without a line end.
pub(super) fn write_json(out: &mut Vec<u8>, entry: &Entry, body: &Result<Body<'_>, BodyError>) {
    let header = &entry.header;
    // Writing to a vector does not fail.
    let _ = write!(
        out,
        r#"{{"seq":{},"time":"{}","wall_ns":{},"mono_ns":{},"kind":"{}","id":"{}","epoch":{},"segment":{},"event_hash":""#,
        header.seq,
        time(header.wall_ns),
        header.wall_ns,
        header.mono_ns,
        entry.kind(),
        entry.id,
        header.epoch,
        entry.segment,
    );
    push_hex(out, &entry.hash);
    out.extend_from_slice(br#"","prev_hash":""#);
    push_hex(out, &header.prev_hash);
    out.extend_from_slice(br#"","body":"#);
    write_body(out, body.as_deref().unwrap_or_default());
    if let Err(error) = body {
        out.extend_from_slice(br#","error":"#);
        write_text(out, &error.to_string());
    }
    out.push(b'}');
}

/// Appends the record as a line of CSV (RFC 4180), with its line end.
pub(super) fn write_csv(out: &mut Vec<u8>, entry: &Entry, body: &Body<'_>, scratch: &mut Vec<u8>) {
    let header = &entry.header;
    let _ = write!(out, "{},{},{},", header.seq, time(header.wall_ns), entry.kind());
    if header.core != CORE_SEQUENCER {
        let _ = write!(out, "{}", entry.id);
    }
    for name in ["tenant", "issuer", "kid", "decision"] {
        out.push(b',');
        let value = body.iter().find(|(field, _)| field.name == name).map(|(_, value)| value);
        match value {
            Some(Value::Text(text)) => write_cell(out, text),
            Some(value) => write_cell(out, decision_name(name, value).unwrap_or_default()),
            None => {}
        }
    }
    out.push(b',');
    push_hex(out, &entry.hash);
    out.push(b',');
    push_hex(out, &header.prev_hash);
    let _ = write!(out, ",{},", header.wall_ns);
    scratch.clear();
    write_body(scratch, body);
    write_cell(out, str::from_utf8(scratch).expect("JSON is text"));
    out.extend_from_slice(b"\r\n");
}

/// The first line of a CSV file.
pub(super) fn write_csv_header(out: &mut Vec<u8>) {
    out.extend_from_slice(CSV_COLUMNS.join(",").as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// A cell, quoted where RFC 4180 §2 asks for it. A spreadsheet takes text that begins like a formula for one, whoever
/// wrote it (a `kid` is chosen by whoever makes a token): an apostrophe in front makes it text.
fn write_cell(out: &mut Vec<u8>, text: &str) {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    let quoted = text.contains(['"', ',', '\r', '\n']);
    if quoted {
        out.push(b'"');
    }
    if formula {
        out.push(b'\'');
    }
    for (place, piece) in text.split('"').enumerate() {
        if place > 0 {
            out.extend_from_slice(b"\"\"");
        }
        out.extend_from_slice(piece.as_bytes());
    }
    if quoted {
        out.push(b'"');
    }
}

pub(super) fn write_body(out: &mut Vec<u8>, body: &[(&'static schema::Field, Value<'_>)]) {
    out.push(b'{');
    for (place, (field, value)) in body.iter().enumerate() {
        write_key(out, place, field.name);
        write_value(out, field.name, value, field.shape);
    }
    out.push(b'}');
}

fn write_key(out: &mut Vec<u8>, place: usize, name: &str) {
    if place > 0 {
        out.push(b',');
    }
    write_text(out, name);
    out.push(b':');
}

fn write_value(out: &mut Vec<u8>, name: &str, value: &Value<'_>, shape: Shape) {
    if let Some(name) = decision_name(name, value) {
        return write_text(out, name);
    }
    match value {
        Value::Array(items) => {
            out.push(b'[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    out.push(b',');
                }
                write_value(out, "", item, shape);
            }
            out.push(b']');
        }
        Value::Bool(value) => out.extend_from_slice(if *value { b"true" } else { b"false" }),
        Value::Bytes(bytes) => {
            out.push(b'"');
            push_hex(out, bytes);
            out.push(b'"');
        }
        Value::Map(entries) => {
            let fields = if let Shape::Items(fields) = shape { fields } else { &[] };
            out.push(b'{');
            for (place, (key, value)) in entries.iter().enumerate() {
                match fields.iter().find(|field| field.key == *key) {
                    Some(field) => {
                        write_key(out, place, field.name);
                        write_value(out, field.name, value, field.shape);
                    }
                    None => {
                        write_key(out, place, &key.to_string());
                        write_value(out, "", value, Shape::Uint);
                    }
                }
            }
            out.push(b'}');
        }
        Value::Text(text) => write_text(out, text),
        Value::Uint(number) => {
            let _ = write!(out, "{number}");
        }
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a text is written to memory");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(text: &str) -> String {
        let mut out = Vec::new();
        write_cell(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn cells_are_quoted_and_formulas_are_text() {
        assert_eq!(cell("plain"), "plain");
        assert_eq!(cell("a,b"), "\"a,b\"");
        assert_eq!(cell("say \"x\""), "\"say \"\"x\"\"\"");
        assert_eq!(cell("two\r\nlines"), "\"two\r\nlines\"");
        for formula in ["=1+1", "+1", "-1", "@SUM(A1)", "\tx"] {
            assert_eq!(cell(formula), format!("'{formula}"));
        }
        assert_eq!(cell("=cmd|' /C calc',A1"), "\"'=cmd|' /C calc',A1\"");
    }
}
