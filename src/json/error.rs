//! What can be wrong with a JSON text.

use std::fmt;

use super::DEPTH_MAX;

/// Why a text is not acceptable JSON, and the byte at which that showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonError {
    /// What is wrong.
    pub cause: Cause,
    /// Bytes from the beginning of the text.
    pub offset: usize,
}

/// What is wrong with a JSON text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It begins with a byte order mark.
    ByteOrderMark,
    /// A string contains an unescaped control character.
    ControlCharacter,
    /// Arrays and objects nest deeper than [`DEPTH_MAX`].
    DepthExceeded,
    /// Two members of one object have the same name.
    DuplicateMember,
    /// The text ends inside a value.
    Incomplete,
    /// A `\u` escape names half of a surrogate pair.
    LoneSurrogate,
    /// The bytes are not UTF-8.
    NotUtf8,
    /// A number is too large to be finite.
    NumberNotFinite,
    /// This byte cannot stand here.
    Syntax,
    /// Something follows the value.
    TrailingData,
    /// The value is well-formed, but not of the kind that was asked for.
    WrongKind {
        /// The kind that was asked for.
        expected: Kind,
    },
}

/// The six kinds of JSON values; the boolean literals count as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `[…]`
    Array,
    /// `true` or `false`
    Boolean,
    /// `null`
    Null,
    /// A number.
    Number,
    /// `{…}`
    Object,
    /// A string.
    String,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.cause, self.offset)
    }
}

impl std::error::Error for JsonError {}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByteOrderMark => f.write_str("byte order mark"),
            Self::ControlCharacter => f.write_str("unescaped control character in a string"),
            Self::DepthExceeded => write!(f, "nested deeper than {DEPTH_MAX}"),
            Self::DuplicateMember => f.write_str("member name repeated in the object that ends"),
            Self::Incomplete => f.write_str("text ends inside a value"),
            Self::LoneSurrogate => f.write_str("half of a surrogate pair"),
            Self::NotUtf8 => f.write_str("not UTF-8"),
            Self::NumberNotFinite => f.write_str("number too large"),
            Self::Syntax => f.write_str("unexpected byte"),
            Self::TrailingData => f.write_str("data after the value"),
            Self::WrongKind { expected } => write!(f, "expected {expected}"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Array => "an array",
            Self::Boolean => "true or false",
            Self::Null => "null",
            Self::Number => "a number",
            Self::Object => "an object",
            Self::String => "a string",
        })
    }
}
