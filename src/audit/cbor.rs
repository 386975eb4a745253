//! A strict reader of deterministic CBOR (RFC 8949 §4.2.1), for the subset that record bodies use.
//!
//! Accepted: unsigned integers, byte strings, UTF-8 text, booleans, arrays, and maps whose keys are unsigned
//! integers in ascending order. Every length and integer must have its shortest form. Anything else has a second
//! spelling or no use here, and is refused.

use super::short;

/// One decoded item. Borrows from the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// Major type 4.
    Array(Vec<Value<'a>>),
    /// `false` or `true`.
    Bool(bool),
    /// Major type 2.
    Bytes(&'a [u8]),
    /// Major type 5, keys ascending.
    Map(Vec<(u64, Value<'a>)>),
    /// Major type 3.
    Text(&'a str),
    /// Major type 0.
    Uint(u64),
}

/// Why bytes are not one deterministic item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    /// The item ends beyond the bytes.
    #[error("item is cut off")]
    Cut,
    /// Items are nested deeper than [`DEPTH_MAX`].
    #[error("items are nested too deep")]
    Deep,
    /// A map key repeats or is smaller than the one before.
    #[error("map keys are not ascending")]
    KeyOrder,
    /// An integer or length is not in its shortest form.
    #[error("number is not in its shortest form")]
    NotShortest,
    /// Bytes follow the item.
    #[error("bytes follow the item")]
    Trailing,
    /// Text is not UTF-8.
    #[error("text is not UTF-8")]
    Utf8,
    /// A type this subset does not use (negative, float, tag, null, indefinite length, a map key that is no number).
    #[error("initial byte {0:#04x} has no use here")]
    Unused(u8),
}

/// How deep items may nest: body, array of sub-decisions, sub-decision, list.
pub const DEPTH_MAX: usize = 4;

/// Reads one item that fills `bytes` exactly.
///
/// # Errors
/// The first rule of deterministic encoding that the bytes break.
pub fn decode(bytes: &[u8]) -> Result<Value<'_>, CborError> {
    let mut reader = Reader::new(bytes);
    let value = reader.item(0)?;
    reader.end()?;
    Ok(value)
}

/// Reads items one after the other, for those that need not keep them.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The major type of the next item, if there is one.
    #[inline]
    pub(super) fn major(&self) -> Option<u8> {
        self.bytes.first().map(|initial| initial >> 5)
    }

    /// Reads `false` or `true`.
    pub(super) fn bool(&mut self) -> Result<bool, CborError> {
        let (&initial, rest) = self.bytes.split_first().ok_or(CborError::Cut)?;
        match initial {
            0xF4 | 0xF5 => {
                self.bytes = rest;
                Ok(initial == 0xF5)
            }
            _ => Err(CborError::Unused(initial)),
        }
    }

    /// Passes over the text whose initial byte is next.
    #[inline]
    pub(super) fn skip_text(&mut self) -> Result<(), CborError> {
        let bytes = self.string()?;
        // Most texts are short names in ASCII, which is UTF-8.
        if short::is_ascii(bytes) || std::str::from_utf8(bytes).is_ok() {
            Ok(())
        } else {
            Err(CborError::Utf8)
        }
    }

    /// Reads the text whose initial byte is next.
    #[inline]
    pub(super) fn text(&mut self) -> Result<&'a str, CborError> {
        let bytes = self.string()?;
        std::str::from_utf8(bytes).map_err(|_| CborError::Utf8)
    }

    /// Nothing may be left.
    #[inline]
    pub(super) fn end(&self) -> Result<(), CborError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(CborError::Trailing) }
    }

    /// Reads the item that is next, whatever it is, as its bytes.
    pub(super) fn raw_item(&mut self) -> Result<&'a [u8], CborError> {
        let before = self.bytes;
        self.item(1)?;
        Ok(&before[..before.len() - self.bytes.len()])
    }

    fn item(&mut self, depth: usize) -> Result<Value<'a>, CborError> {
        if depth == DEPTH_MAX {
            return Err(CborError::Deep);
        }
        let initial = *self.bytes.first().ok_or(CborError::Cut)?;
        match initial >> 5 {
            0 => Ok(Value::Uint(self.number()?)),
            2 => Ok(Value::Bytes(self.string()?)),
            3 => self.text().map(Value::Text),
            4 => {
                let count = self.count()?;
                (0..count).map(|_| self.item(depth + 1)).collect::<Result<_, _>>().map(Value::Array)
            }
            5 => self.map(depth).map(Value::Map),
            7 => self.bool().map(Value::Bool),
            _ => Err(CborError::Unused(initial)),
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(u64, Value<'a>)>, CborError> {
        let count = self.count()?;
        let mut entries: Vec<(u64, Value<'a>)> = Vec::with_capacity(count);
        for _ in 0..count {
            let initial = *self.bytes.first().ok_or(CborError::Cut)?;
            if initial >> 5 != 0 {
                return Err(CborError::Unused(initial));
            }
            let key = self.number()?;
            if entries.last().is_some_and(|(last, _)| *last >= key) {
                return Err(CborError::KeyOrder);
            }
            entries.push((key, self.item(depth + 1)?));
        }
        Ok(entries)
    }

    /// An element count, which can be no larger than the bytes left: a length bomb fails before it allocates.
    #[inline]
    pub(super) fn count(&mut self) -> Result<usize, CborError> {
        let count = usize::try_from(self.number()?).map_err(|_| CborError::Cut)?;
        if count > self.bytes.len() { Err(CborError::Cut) } else { Ok(count) }
    }

    #[inline(always)]
    pub(super) fn string(&mut self) -> Result<&'a [u8], CborError> {
        let len = usize::try_from(self.number()?).map_err(|_| CborError::Cut)?;
        let (string, rest) = self.bytes.split_at_checked(len).ok_or(CborError::Cut)?;
        self.bytes = rest;
        Ok(string)
    }

    /// The argument of the next initial byte (RFC 8949 §3), shortest form only.
    #[inline(always)]
    pub(super) fn number(&mut self) -> Result<u64, CborError> {
        let (&initial, rest) = self.bytes.split_first().ok_or(CborError::Cut)?;
        match initial & 0x1F {
            small @ 0..=23 => {
                self.bytes = rest;
                Ok(u64::from(small))
            }
            _ => {
                let (number, rest) = wide_number(initial, rest)?;
                self.bytes = rest;
                Ok(number)
            }
        }
    }
}

/// An argument that takes bytes of its own, and what stands behind it. By value, so that a reader stays in registers.
fn wide_number(initial: u8, rest: &[u8]) -> Result<(u64, &[u8]), CborError> {
    let ((number, rest), least) = match initial & 0x1F {
        24 => (wide::<1>(rest)?, 24),
        25 => (wide::<2>(rest)?, 1 << 8),
        26 => (wide::<4>(rest)?, 1 << 16),
        27 => (wide::<8>(rest)?, 1 << 32),
        _ => return Err(CborError::Unused(initial)),
    };
    if number < least { Err(CborError::NotShortest) } else { Ok((number, rest)) }
}

fn wide<const N: usize>(bytes: &[u8]) -> Result<(u64, &[u8]), CborError> {
    let (number, rest) = bytes.split_first_chunk::<N>().ok_or(CborError::Cut)?;
    Ok((number.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deterministic_items_are_read() {
        assert_eq!(decode(&[0x17]), Ok(Value::Uint(23)));
        assert_eq!(decode(&[0x18, 24]), Ok(Value::Uint(24)));
        assert_eq!(
            decode(&[0xA2, 0x01, 0x62, b'h', b'i', 0x18, 0x20, 0x82, 0x41, 7, 0xF5]),
            Ok(Value::Map(vec![
                (1, Value::Text("hi")),
                (32, Value::Array(vec![Value::Bytes(&[7]), Value::Bool(true)])),
            ]))
        );
    }

    #[test]
    fn second_spellings_are_refused() {
        for (bytes, error) in [
            (&[0x18, 23][..], CborError::NotShortest),
            (&[0x19, 0, 255], CborError::NotShortest),
            (&[0x1A, 0, 0, 255, 255], CborError::NotShortest),
            (&[0x1B, 0, 0, 0, 0, 255, 255, 255, 255], CborError::NotShortest),
            (&[0x58, 1, 7], CborError::NotShortest),
            (&[0xA2, 2, 0, 1, 0], CborError::KeyOrder),
            (&[0xA2, 1, 0, 1, 0], CborError::KeyOrder),
            (&[0xA1, 0x61, b'a', 0], CborError::Unused(0x61)),
            (&[0x9F, 0xFF], CborError::Unused(0x9F)),
            (&[0x20], CborError::Unused(0x20)),
            (&[0xF6], CborError::Unused(0xF6)),
            (&[0xC0, 0], CborError::Unused(0xC0)),
            (&[0x61, 0xFF], CborError::Utf8),
            (&[0, 0], CborError::Trailing),
            (&[0x42, 0], CborError::Cut),
            (&[], CborError::Cut),
            (&[0x9B, 255, 255, 255, 255, 255, 255, 255, 255], CborError::Cut),
            (&[0x81, 0x81, 0x81, 0x81, 0], CborError::Deep),
        ] {
            assert_eq!(decode(bytes), Err(error), "{bytes:02x?}");
        }
    }
}
