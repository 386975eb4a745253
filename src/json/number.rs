//! A number as the text spells it.

/// Digits that always fit `u64` and, with any sign, are finite.
const U64_DIGITS_SAFE: usize = 19;

/// A well-formed, finite JSON number, kept as its text: what it is converted to is the reader's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number<'a> {
    text: &'a str,
}

impl<'a> Number<'a> {
    /// `text` follows the number grammar of RFC 8259 §6.
    pub(super) fn new(text: &'a str) -> Self {
        Self { text }
    }

    pub(super) fn is_finite(self) -> bool {
        self.text.len() <= U64_DIGITS_SAFE && !self.has_fraction_or_exponent() || self.to_f64().is_finite()
    }

    /// The nearest double (RFC 8259 §6).
    #[must_use]
    pub fn to_f64(self) -> f64 {
        // Rust's grammar for floating point numbers contains JSON's.
        self.text.parse().unwrap_or(f64::NAN)
    }

    /// The value of an integer literal without sign, fraction or exponent that fits 64 bits.
    #[must_use]
    pub fn to_u64(self) -> Option<u64> {
        self.text.parse().ok()
    }

    /// The text, as received.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        self.text
    }

    fn has_fraction_or_exponent(self) -> bool {
        self.text.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E'))
    }
}
