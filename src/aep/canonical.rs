//! JSON values, read strictly and written in canonical form v2.

use crate::json::{self, JsonError, Kind, Reader};

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An array.
    Array(Vec<Value>),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
    /// A number, as ECMAScript holds it.
    Number(f64),
    /// An object, with its members as they stand there; names are distinct.
    Object(Vec<(String, Value)>),
    /// A string.
    Text(String),
}

/// Why a text has no canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    /// It is no JSON, or JSON with two meanings.
    #[error("not acceptable JSON: {0}")]
    Json(JsonError),
    /// An integer that a double does not hold: readers of JSON differ about it, and its canonical form is another number's.
    #[error(
        "the number {text} is {read} to whoever reads numbers as doubles, so a signature would cover both"
    )]
    NumberInexact {
        /// The number, as it stands there; shortened.
        text: String,
        /// What becomes of it.
        read: String,
    },
    /// A number that is not zero and becomes it.
    #[error("the number {text} is 0 to whoever reads numbers as doubles, so a signature would cover both")]
    NumberVanishes {
        /// The number, as it stands there; shortened.
        text: String,
    },
}

impl From<JsonError> for CanonicalError {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

/// Reads one JSON value.
///
/// # Errors
/// [`CanonicalError`]: also for what JSON allows and two readers may read differently.
pub fn parse(text: &[u8]) -> Result<Value, CanonicalError> {
    json::read(text, &mut json::Scratch::default(), value)
}

fn value(reader: &mut Reader<'_>) -> Result<Value, CanonicalError> {
    Ok(match reader.kind()? {
        Kind::Array => {
            let mut items = Vec::new();
            reader.array(|reader| -> Result<(), CanonicalError> {
                items.push(value(reader)?);
                Ok(())
            })?;
            Value::Array(items)
        }
        Kind::Boolean => Value::Bool(reader.boolean()?),
        Kind::Null => {
            reader.null()?;
            Value::Null
        }
        Kind::Number => {
            let number = reader.number()?;
            checked(number.as_str(), number.to_f64())?
        }
        Kind::Object => {
            let mut members = Vec::new();
            reader.object(|reader, name| -> Result<(), CanonicalError> {
                members.push((name.to_owned(), value(reader)?));
                Ok(())
            })?;
            Value::Object(members)
        }
        Kind::String => Value::Text(reader.string()?.to_owned()),
    })
}

fn checked(text: &str, number: f64) -> Result<Value, CanonicalError> {
    let shown = || text.chars().take(SHOWN_CHARS).collect::<String>();
    let integer = !text.contains(['.', 'e', 'E']);
    if integer {
        let read = number_text(number);
        if read != text {
            return Err(CanonicalError::NumberInexact { text: shown(), read });
        }
    }
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    if number == 0.0 && mantissa.contains(|c: char| ('1'..='9').contains(&c)) {
        return Err(CanonicalError::NumberVanishes { text: shown() });
    }
    Ok(Value::Number(number))
}

/// Digits of a number that an error repeats.
const SHOWN_CHARS: usize = 40;

/// The canonical form v2 of a value.
#[must_use]
pub fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, None);
    out
}

/// As [`canonical`], without the member `left_out` of the outermost object.
pub(super) fn canonical_without(value: &Value, left_out: &str) -> String {
    let mut out = String::new();
    write(&mut out, value, Some(left_out));
    out
}

fn write(out: &mut String, value: &Value, left_out: Option<&str>) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                write(out, item, None);
            }
            out.push(']');
        }
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Null => out.push_str("null"),
        Value::Number(number) => out.push_str(&number_text(*number)),
        Value::Object(members) => {
            let mut members: Vec<_> =
                members.iter().filter(|(name, _)| Some(name.as_str()) != left_out).collect();
            members.sort_by_cached_key(|(name, _)| Order::of(name));
            out.push('{');
            for (place, (name, value)) in members.into_iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                write_text(out, name);
                out.push(':');
                write(out, value, None);
            }
            out.push('}');
        }
        Value::Text(text) => write_text(out, text),
    }
}

/// Where a member stands: ECMAScript puts names that are array indexes first, by number, whatever order they were
/// inserted in (ECMA-262 §10.1.11.1); the others were sorted by UTF-16 code units.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Index(u32),
    Name(Vec<u16>),
}

impl Order {
    fn of(name: &str) -> Self {
        match name.parse::<u32>() {
            // 2^32 - 1 is no index, and neither is a number spelled otherwise.
            Ok(index) if index < u32::MAX && index.to_string() == name => Self::Index(index),
            _ => Self::Name(name.encode_utf16().collect()),
        }
    }
}

/// ECMAScript's `Number::toString` (ECMA-262 §6.1.6.1.20), and so what `JSON.stringify` writes.
pub(super) fn number_text(number: f64) -> String {
    ryu_js::Buffer::new().format(number).to_owned()
}

/// ECMAScript's `QuoteJSONString` (ECMA-262 §25.5.2.3); there are no half surrogates here.
fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            control if control < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            character => out.push(character),
        }
    }
    out.push('"');
}

impl Value {
    /// The member of this name, where it is an object.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.iter().find(|(own, _)| own == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text, where it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The names of its members, where it is an object.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let members: &[(String, Self)] = if let Self::Object(members) = self { members } else { &[] };
        members.iter().map(|(name, _)| name.as_str())
    }

    /// Whether it is the number `count`.
    pub(super) fn is_count(&self, count: usize) -> bool {
        // Counts are far below 2^53.
        #[expect(clippy::cast_precision_loss, reason = "counts of events in a file")]
        let count = count as f64;
        matches!(self, Self::Number(number) if *number == count)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}
