//! Where strings and numbers end, and what escapes stand for.

use super::{Cause, JsonError};

/// The first byte at or after `start` that is a quote, a backslash or a control character; else the text's length.
///
/// Eight bytes at a time ("determine if a word has a zero byte", Bit Twiddling Hacks): the lowest marked byte is
/// exact, those above it may be false, and only the lowest is used.
pub(super) fn plain_end(text: &[u8], start: usize) -> usize {
    const ONES: u64 = u64::from_le_bytes([0x01; 8]);
    const HIGH_BITS: u64 = u64::from_le_bytes([0x80; 8]);
    let zero_bytes = |word: u64| word.wrapping_sub(ONES) & !word;
    let mut position = start;
    while let Some(word) = text.get(position..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*word);
        let quotes = zero_bytes(word ^ (ONES * u64::from(b'"')));
        let backslashes = zero_bytes(word ^ (ONES * u64::from(b'\\')));
        let controls = word.wrapping_sub(ONES * 0x20) & !word;
        let marks = (quotes | backslashes | controls) & HIGH_BITS;
        if marks != 0 {
            // Fits: at most 7.
            return position + (marks.trailing_zeros() / 8) as usize;
        }
        position += 8;
    }
    let rest = text.get(position..).unwrap_or_default();
    position + rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)).unwrap_or(rest.len())
}

/// The end of the number that begins at `start` (RFC 8259 §6), or the offset where the grammar fails.
pub(super) fn number_end(text: &[u8], start: usize) -> Result<usize, usize> {
    let digits = |from: usize| {
        from + text.get(from..).unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit()).count()
    };
    let at_least_one = |from: usize| match digits(from) {
        end if end > from => Ok(end),
        _ => Err(from),
    };
    let mut end = start + usize::from(text.get(start) == Some(&b'-'));
    // A leading zero stands alone: the digit that follows it is then what cannot stand there.
    end = if text.get(end) == Some(&b'0') { end + 1 } else { at_least_one(end)? };
    if text.get(end) == Some(&b'.') {
        end = at_least_one(end + 1)?;
    }
    if let Some(b'e' | b'E') = text.get(end) {
        end += 1;
        end += usize::from(matches!(text.get(end), Some(b'+' | b'-')));
        end = at_least_one(end)?;
    }
    Ok(end)
}

/// Writes the string that begins at `start` into `memory`, its first backslash being at `backslash`.
///
/// Returns the length written and the offset after the closing quote. No escape is shorter than what it stands for,
/// so `memory` suffices if it is as long as the text.
pub(super) fn unescape(
    text: &str,
    start: usize,
    backslash: usize,
    memory: &mut [u8],
) -> Result<(usize, usize), JsonError> {
    let bytes = text.as_bytes();
    let mut out = Out { memory, length: 0 };
    let (mut plain, mut position) = (start, backslash);
    loop {
        out.put(bytes.get(plain..position).unwrap_or_default(), position)?;
        match bytes.get(position) {
            Some(b'"') => return Ok((out.length, position + 1)),
            Some(b'\\') => {
                let (character, end) = escape(bytes, position)?;
                out.put(character.encode_utf8(&mut [0; 4]).as_bytes(), position)?;
                plain = end;
                position = plain_end(bytes, end);
            }
            Some(_) => return Err(JsonError { cause: Cause::ControlCharacter, offset: position }),
            None => return Err(JsonError { cause: Cause::Incomplete, offset: position }),
        }
    }
}

struct Out<'m> {
    memory: &'m mut [u8],
    length: usize,
}

impl Out<'_> {
    fn put(&mut self, bytes: &[u8], offset: usize) -> Result<(), JsonError> {
        let end = self.length + bytes.len();
        // Cannot fail for memory as long as the text; an error rather than a panic all the same.
        let room =
            self.memory.get_mut(self.length..end).ok_or(JsonError { cause: Cause::Incomplete, offset })?;
        room.copy_from_slice(bytes);
        self.length = end;
        Ok(())
    }
}

/// The character that the escape at `backslash` stands for, and the offset after it (RFC 8259 §7).
fn escape(text: &[u8], backslash: usize) -> Result<(char, usize), JsonError> {
    let simple = |character| Ok((character, backslash + 2));
    match text.get(backslash + 1) {
        Some(b'"') => simple('"'),
        Some(b'\\') => simple('\\'),
        Some(b'/') => simple('/'),
        Some(b'b') => simple('\u{8}'),
        Some(b'f') => simple('\u{c}'),
        Some(b'n') => simple('\n'),
        Some(b'r') => simple('\r'),
        Some(b't') => simple('\t'),
        Some(b'u') => unicode_escape(text, backslash),
        Some(_) => Err(JsonError { cause: Cause::Syntax, offset: backslash + 1 }),
        None => Err(JsonError { cause: Cause::Incomplete, offset: backslash + 1 }),
    }
}

fn unicode_escape(text: &[u8], backslash: usize) -> Result<(char, usize), JsonError> {
    let lone = JsonError { cause: Cause::LoneSurrogate, offset: backslash };
    let first = hex4(text, backslash + 2)?;
    if let Some(character) = char::from_u32(first) {
        return Ok((character, backslash + 6));
    }
    // Only surrogates are no characters; a high one needs an escaped low one right behind it.
    if first >= 0xdc00 || text.get(backslash + 6..backslash + 8) != Some(b"\\u") {
        return Err(lone);
    }
    let second = hex4(text, backslash + 8)?;
    if !(0xdc00..0xe000).contains(&second) {
        return Err(lone);
    }
    let character = char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)).ok_or(lone)?;
    Ok((character, backslash + 12))
}

fn hex4(text: &[u8], start: usize) -> Result<u32, JsonError> {
    let mut value = 0;
    for offset in start..start + 4 {
        let byte = *text.get(offset).ok_or(JsonError { cause: Cause::Incomplete, offset })?;
        let digit = char::from(byte).to_digit(16).ok_or(JsonError { cause: Cause::Syntax, offset })?;
        value = value << 4 | digit;
    }
    Ok(value)
}
