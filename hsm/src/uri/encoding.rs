//! Percent-encoding as RFC 7512 §2.3 has it: which characters stand for themselves differs by place.

use std::fmt;

use super::UriError;

/// A value as written, still percent-encoded.
#[derive(Clone, Copy)]
pub(super) struct Encoded<'a>(pub(super) &'a str);

/// The part of the URI a value stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Path,
    Query,
}

/// Decodes a value to bytes.
pub(super) fn decode(name: &str, value: Encoded<'_>, place: Place) -> Result<Vec<u8>, UriError> {
    let text = value.0;
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
            let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
                return Err(UriError::Percent { attribute: name.to_owned() });
            };
            decoded.push(u8::try_from(high << 4 | low).unwrap_or(0));
        } else if stands_for_itself(byte, place) {
            decoded.push(byte);
        } else {
            let found = text.chars().find(|c| *c != '%' && !is_plain(*c, place)).unwrap_or('\u{fffd}');
            return Err(UriError::Character { attribute: name.to_owned(), found });
        }
    }
    Ok(decoded)
}

/// Decodes a value that must be UTF-8 without NUL, which no PKCS#11 string can carry.
pub(super) fn decode_text(name: &str, value: Encoded<'_>, place: Place) -> Result<String, UriError> {
    let bytes = decode(name, value, place)?;
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(UriError::Text { attribute: name.to_owned() }),
    }
}

/// Writes text so that it reads back in either place.
pub(super) struct Text<'a>(pub(super) &'a str);

/// Writes every byte as `%XX`, as `id` is customarily written.
pub(super) struct Binary<'a>(pub(super) &'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            if is_unreserved(byte) || matches!(byte, b':' | b'+' | b',' | b'@') {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Binary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "%{byte:02X}"))
    }
}

fn is_plain(c: char, place: Place) -> bool {
    u8::try_from(c).is_ok_and(|byte| stands_for_itself(byte, place))
}

/// `pk11-pchar` and `pk11-qchar`.
fn stands_for_itself(byte: u8, place: Place) -> bool {
    is_unreserved(byte)
        || b":[]@!$'()*+,=".contains(&byte)
        || match place {
            Place::Path => byte == b'&',
            Place::Query => b"/?|".contains(&byte),
        }
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}
