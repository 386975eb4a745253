//! A record as a row for programs: a JSON object, or a line of CSV.

use super::{
    cbor::Value,
    hex::push_hex,
    record::CORE_SEQUENCER,
    schema::{self, Body, BodyError, Shape},
    short,
    tail::{Entry, decision_name, time},
};
use crate::json::write_text;

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

/// Those of them that a body says.
pub(super) const CSV_OF_BODY: [&str; 5] = ["tenant", "issuer", "kid", "decision", "body"];

/// In the place of a body that was erased.
const REDACTED: &str = "redacted";

/// Writes rows. Keeps the text of the last second: records come many to one.
#[derive(Default)]
pub(super) struct Rows {
    second: Option<(u64, String)>,
    body: Vec<u8>,
}

impl Rows {
    /// Appends the record as one JSON object, without a line end.
    pub(super) fn write_json(
        &mut self,
        out: &mut Vec<u8>,
        entry: &Entry,
        body: &Result<Body<'_>, BodyError>,
    ) {
        let header = &entry.header;
        out.extend_from_slice(br#"{"seq":"#);
        push_number(out, header.seq);
        out.extend_from_slice(br#","time":""#);
        self.write_time(out, header.wall_ns);
        out.extend_from_slice(br#"","wall_ns":"#);
        push_number(out, header.wall_ns);
        out.extend_from_slice(br#","mono_ns":"#);
        push_number(out, header.mono_ns);
        out.extend_from_slice(br#","kind":""#);
        out.extend_from_slice(entry.kind().as_bytes());
        out.extend_from_slice(br#"","id":""#);
        write_id(out, entry);
        out.extend_from_slice(br#"","epoch":"#);
        push_number(out, header.epoch.into());
        out.extend_from_slice(br#","segment":"#);
        push_number(out, entry.segment);
        out.extend_from_slice(br#","event_hash":""#);
        push_hex(out, &entry.hash);
        out.extend_from_slice(br#"","prev_hash":""#);
        push_hex(out, &header.prev_hash);
        out.extend_from_slice(br#"","body":"#);
        write_body(out, body.as_deref().unwrap_or_default());
        if entry.erased.is_some() {
            out.extend_from_slice(br#","redacted":true"#);
        }
        if let Err(error) = body {
            out.extend_from_slice(br#","error":"#);
            write_text(out, &error.to_string());
        }
        out.push(b'}');
    }

    /// Appends the record as a line of CSV (RFC 4180), with its line end.
    pub(super) fn write_csv(&mut self, out: &mut Vec<u8>, entry: &Entry, body: &Body<'_>) {
        let header = &entry.header;
        push_number(out, header.seq);
        out.push(b',');
        self.write_time(out, header.wall_ns);
        out.push(b',');
        out.extend_from_slice(entry.kind().as_bytes());
        out.push(b',');
        if header.core != CORE_SEQUENCER {
            write_id(out, entry);
        }
        for name in ["tenant", "issuer", "kid", "decision"] {
            out.push(b',');
            match body.iter().find(|(field, _)| field.name == name).map(|(_, value)| value) {
                Some(Value::Text(text)) => write_cell(out, text),
                Some(value) => write_cell(out, decision_name(name, value).unwrap_or_default()),
                None => {}
            }
        }
        out.push(b',');
        push_hex(out, &entry.hash);
        out.push(b',');
        push_hex(out, &header.prev_hash);
        out.push(b',');
        push_number(out, header.wall_ns);
        out.push(b',');
        self.body.clear();
        match entry.erased {
            Some(_) => self.body.extend_from_slice(REDACTED.as_bytes()),
            None => write_body(&mut self.body, body),
        }
        write_cell(out, str::from_utf8(&self.body).expect("JSON is text"));
        out.extend_from_slice(b"\r\n");
    }

    /// RFC 3339 with microseconds, as [`time`] writes it.
    fn write_time(&mut self, out: &mut Vec<u8>, wall_ns: u64) {
        let (second, ns) = (wall_ns / NS_PER_S, wall_ns % NS_PER_S);
        if self.second.as_ref().is_none_or(|(known, _)| *known != second) {
            self.second = None;
        }
        let (_, text) = self.second.get_or_insert_with(|| (second, time(second * NS_PER_S)));
        // A time ends with six digits and a Z; what is no time is a number, which is short.
        let Some(prefix) = text.strip_suffix("000000Z") else {
            return out.extend_from_slice(time(wall_ns).as_bytes());
        };
        out.extend_from_slice(prefix.as_bytes());
        let mut us = ns / 1000;
        let mut digits = *b"000000";
        for digit in digits.iter_mut().rev() {
            *digit += u8::try_from(us % 10).expect("a digit");
            us /= 10;
        }
        out.extend_from_slice(&digits);
        out.push(b'Z');
    }
}

const NS_PER_S: u64 = 1_000_000_000;

fn write_id(out: &mut Vec<u8>, entry: &Entry) {
    short::append(out, entry.id.to_text().as_bytes());
}

/// Appends a number in decimal.
fn push_number(out: &mut Vec<u8>, number: u64) {
    short::append(out, itoa::Buffer::new().format(number).as_bytes());
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
    for piece in text.as_bytes().split_inclusive(|byte| *byte == b'"') {
        short::append(out, piece);
        if piece.ends_with(b"\"") {
            out.push(b'"');
        }
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
    // Names of fields are letters and underscores, numbers of unknown ones digits: nothing to escape.
    out.push(b'"');
    short::append(out, name.as_bytes());
    out.extend_from_slice(b"\":");
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
        Value::Uint(number) => push_number(out, *number),
    }
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
    fn numbers_and_times_are_written_as_the_standard_library_and_jiff_write_them() {
        let mut rows = Rows::default();
        for number in
            [0, 9, 10, 1_000_000_000, 1_795_891_829_595_315_999, 1_795_891_829_000_000_000, u64::MAX]
        {
            let (mut digits, mut text) = (Vec::new(), Vec::new());
            push_number(&mut digits, number);
            assert_eq!(digits, number.to_string().as_bytes());
            for _ in 0..2 {
                text.clear();
                rows.write_time(&mut text, number);
                assert_eq!(String::from_utf8(text.clone()).unwrap(), time(number));
            }
        }
        for kind in schema::Kind::ALL {
            let plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            assert!(kind.fields().iter().all(|field| plain(field.name)), "{}", kind.name());
        }
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
