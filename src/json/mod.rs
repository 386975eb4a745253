//! The one strict JSON reader, and how a text is written, for token headers, claims, key sets and HTTP bodies.
//!
//! RFC 8259 and nothing beyond it, plus what RFC 7515 §4, RFC 7519 §4 and RFC 8725 §2.4 ask of a token reader:
//! member names are distinct **after** unescaping at every level, text is UTF-8 without a byte order mark, a
//! surrogate never stands alone, numbers are finite, nesting has a limit and nothing follows the value. There is no
//! second, laxer path: skipping a value checks it as hard as reading it does.
//!
//! It is a pull reader and not `serde_json` with visitors, because that would skip ignored members laxly
//! (`IgnoredAny` and `RawValue` accept lone surrogates and repeated names), knows no spans, and allocates for every
//! string with an escape. `tests.rs` holds both to the same verdicts over JSONTestSuite and random texts.
//!
//! Ordinary input is read without allocating: strings borrow from the text, or from the [`Scratch`] where an escape
//! had to be resolved. Only more than 32 names open at once spill to the heap.

mod error;
mod names;
mod number;
mod scan;
#[cfg(test)]
mod tests;
mod write;

use std::{fmt, mem, str};

use smallvec::SmallVec;

pub use error::{Cause, JsonError, Kind};
pub use number::Number;
pub use write::write_text;

use names::{Name, repeats};

/// Deepest nesting of arrays and objects; deeper text is refused before it can cost stack.
pub const DEPTH_MAX: usize = 64;

/// Names of the objects being read that are held without allocating; claims of ordinary tokens have 8 to 20.
const NAMES_INLINE: usize = 32;

/// Memory for resolved escapes, reused from text to text.
///
/// It grows to the longest text with an escape that it has met and belongs to one caller at a time.
#[derive(Default)]
pub struct Scratch {
    unescaped: Vec<u8>,
}

/// Reads `text` as one JSON value with `value`, which must consume exactly one.
///
/// # Errors
/// What `value` returns, or a [`JsonError`] for what stands around the value.
pub fn read<'a, T, E: From<JsonError>>(
    text: &'a [u8],
    scratch: &'a mut Scratch,
    value: impl FnOnce(&mut Reader<'a>) -> Result<T, E>,
) -> Result<T, E> {
    let mut reader = Reader::new(text, scratch)?;
    let out = value(&mut reader)?;
    reader.finish()?;
    Ok(out)
}

/// A position in a JSON text, and the methods that consume one value from there.
///
/// An error ends the reading: after one, the position is not meaningful.
pub struct Reader<'a> {
    text: &'a str,
    position: usize,
    depth: usize,
    /// The names of all objects now open, innermost last.
    names: SmallVec<[Name<'a>; NAMES_INLINE]>,
    /// What is left of the scratch; as long as the text if that has any escape, so it cannot run out.
    unescaped: &'a mut [u8],
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], scratch: &'a mut Scratch) -> Result<Self, JsonError> {
        let text = str::from_utf8(bytes)
            .map_err(|error| JsonError { cause: Cause::NotUtf8, offset: error.valid_up_to() })?;
        if text.starts_with('\u{feff}') {
            return Err(JsonError { cause: Cause::ByteOrderMark, offset: 0 });
        }
        let unescaped = if bytes.contains(&b'\\') {
            if scratch.unescaped.len() < bytes.len() {
                scratch.unescaped.resize(bytes.len(), 0);
            }
            scratch.unescaped.as_mut_slice()
        } else {
            &mut []
        };
        Ok(Self { text, position: 0, depth: 0, names: SmallVec::new(), unescaped })
    }

    fn finish(&mut self) -> Result<(), JsonError> {
        match self.next_byte() {
            None => Ok(()),
            Some(_) => Err(self.error(Cause::TrailingData)),
        }
    }

    /// The kind of the value that comes next, from its first byte alone.
    ///
    /// # Errors
    /// [`Cause::Syntax`] if no value begins here, [`Cause::Incomplete`] at the end of the text.
    pub fn kind(&mut self) -> Result<Kind, JsonError> {
        match self.next_byte() {
            Some(b'"') => Ok(Kind::String),
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Boolean),
            Some(b'n') => Ok(Kind::Null),
            Some(_) => Err(self.error(Cause::Syntax)),
            None => Err(self.error(Cause::Incomplete)),
        }
    }

    /// Reads an object; `member` is called with each name and must consume that member's value.
    ///
    /// # Errors
    /// What `member` returns; [`Cause::DuplicateMember`] after the last member; else why this is no object.
    pub fn object<E: From<JsonError>>(
        &mut self,
        mut member: impl FnMut(&mut Self, &'a str) -> Result<(), E>,
    ) -> Result<(), E> {
        self.open(b'{', Kind::Object)?;
        let first = self.names.len();
        if !self.consume(b'}') {
            loop {
                let name = self.string()?;
                self.names.push(Name::new(name));
                self.consume_or_fail(b':')?;
                member(self, name)?;
                if self.consume(b'}') {
                    break;
                }
                self.consume_or_fail(b',')?;
            }
        }
        if repeats(&mut self.names[first..]) {
            return Err(self.error(Cause::DuplicateMember).into());
        }
        self.names.truncate(first);
        self.depth -= 1;
        Ok(())
    }

    /// Reads an array; `element` is called before each element and must consume it.
    ///
    /// # Errors
    /// What `element` returns; else why this is no array.
    pub fn array<E: From<JsonError>>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.open(b'[', Kind::Array)?;
        if !self.consume(b']') {
            loop {
                element(self)?;
                if self.consume(b']') {
                    break;
                }
                self.consume_or_fail(b',')?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads a string and resolves its escapes.
    ///
    /// # Errors
    /// Why this is no string.
    pub fn string(&mut self) -> Result<&'a str, JsonError> {
        if self.next_byte() != Some(b'"') {
            return Err(self.wrong_kind(Kind::String));
        }
        self.position += 1;
        let start = self.position;
        self.position = scan::plain_end(self.text.as_bytes(), start);
        match self.peek() {
            Some(b'"') => {
                let string = &self.text[start..self.position];
                self.position += 1;
                Ok(string)
            }
            Some(b'\\') => self.escaped_string(start),
            Some(_) => Err(self.error(Cause::ControlCharacter)),
            None => Err(self.error(Cause::Incomplete)),
        }
    }

    /// Reads a number.
    ///
    /// # Errors
    /// Why this is no number.
    pub fn number(&mut self) -> Result<Number<'a>, JsonError> {
        self.expect_kind(Kind::Number)?;
        let start = self.position;
        self.position = scan::number_end(self.text.as_bytes(), start)
            .map_err(|offset| self.syntax_or_incomplete(offset))?;
        let number = Number::new(&self.text[start..self.position]);
        if !number.is_finite() {
            return Err(JsonError { cause: Cause::NumberNotFinite, offset: start });
        }
        Ok(number)
    }

    /// Reads `true` or `false`.
    ///
    /// # Errors
    /// Why this is neither.
    pub fn boolean(&mut self) -> Result<bool, JsonError> {
        self.expect_kind(Kind::Boolean)?;
        let value = self.peek() == Some(b't');
        self.literal(if value { "true" } else { "false" })?;
        Ok(value)
    }

    /// Reads `null`.
    ///
    /// # Errors
    /// Why this is something else.
    pub fn null(&mut self) -> Result<(), JsonError> {
        self.expect_kind(Kind::Null)?;
        self.literal("null")
    }

    /// Passes over one value of any kind, with every check that reading it would make.
    ///
    /// # Errors
    /// Why this is no acceptable value.
    pub fn skip(&mut self) -> Result<(), JsonError> {
        match self.kind()? {
            Kind::Array => self.array(Self::skip),
            Kind::Boolean => self.boolean().map(drop),
            Kind::Null => self.null(),
            Kind::Number => self.number().map(drop),
            Kind::Object => self.object(|reader, _| reader.skip()),
            Kind::String => self.string().map(drop),
        }
    }

    /// Passes over one value like [`Reader::skip`] and returns its text, as received.
    ///
    /// # Errors
    /// Why this is no acceptable value.
    pub fn raw(&mut self) -> Result<&'a str, JsonError> {
        self.kind()?;
        let start = self.position;
        self.skip()?;
        Ok(&self.text[start..self.position])
    }

    /// The whole text that is being read.
    #[must_use]
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// A string of which the first escape has been reached; `self.position` is at the backslash.
    fn escaped_string(&mut self, start: usize) -> Result<&'a str, JsonError> {
        let memory = mem::take(&mut self.unescaped);
        let (length, end) = scan::unescape(self.text, start, self.position, memory)?;
        let (string, rest) = memory.split_at_mut(length);
        self.unescaped = rest;
        self.position = end;
        str::from_utf8(string).map_err(|_| self.error(Cause::NotUtf8))
    }

    fn literal(&mut self, literal: &str) -> Result<(), JsonError> {
        for expected in literal.bytes() {
            match self.peek() {
                Some(byte) if byte == expected => self.position += 1,
                Some(_) => return Err(self.error(Cause::Syntax)),
                None => return Err(self.error(Cause::Incomplete)),
            }
        }
        Ok(())
    }

    fn open(&mut self, bracket: u8, kind: Kind) -> Result<(), JsonError> {
        if !self.consume(bracket) {
            return Err(self.wrong_kind(kind));
        }
        self.depth += 1;
        if self.depth > DEPTH_MAX { Err(self.error(Cause::DepthExceeded)) } else { Ok(()) }
    }

    fn expect_kind(&mut self, expected: Kind) -> Result<(), JsonError> {
        if self.kind()? == expected { Ok(()) } else { Err(self.wrong_kind(expected)) }
    }

    /// The error for a value that is not of the kind asked for, which may be that there is none.
    #[cold]
    fn wrong_kind(&mut self, expected: Kind) -> JsonError {
        match self.kind() {
            Ok(_) => self.error(Cause::WrongKind { expected }),
            Err(error) => error,
        }
    }

    /// Skips white space; whether `byte` came next, and if so passes over it.
    fn consume(&mut self, byte: u8) -> bool {
        let found = self.next_byte() == Some(byte);
        self.position += usize::from(found);
        found
    }

    fn consume_or_fail(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.consume(byte) { Ok(()) } else { Err(self.syntax_or_incomplete(self.position)) }
    }

    /// Skips white space (RFC 8259 §2) and looks at the byte that follows. Tokens have none as a rule.
    #[inline]
    fn next_byte(&mut self) -> Option<u8> {
        match self.peek() {
            Some(byte) if byte > b' ' => Some(byte),
            _ => self.byte_after_white_space(),
        }
    }

    #[inline(never)]
    fn byte_after_white_space(&mut self) -> Option<u8> {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.position += 1,
                other => return other,
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.position).copied()
    }

    fn error(&self, cause: Cause) -> JsonError {
        JsonError { cause, offset: self.position }
    }

    fn syntax_or_incomplete(&self, offset: usize) -> JsonError {
        let cause = if offset < self.text.len() { Cause::Syntax } else { Cause::Incomplete };
        JsonError { cause, offset }
    }
}

impl fmt::Debug for Scratch {
    /// Says how much, never what: the last text may have been a token's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").field("bytes", &self.unescaped.len()).finish()
    }
}

impl fmt::Debug for Reader<'_> {
    /// Says where, never what: the text may be a token's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("position", &self.position).finish_non_exhaustive()
    }
}
