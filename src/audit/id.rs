//! The name of one record, known before it is written: the decision id clients get.

use std::{fmt, str::FromStr};

use super::hex::digit;

/// Which record, across restarts: the boot, the appender, and the position among that appender's records.
///
/// Its text form, `<boot, 16 hex digits>-<core, hex>-<core_seq, hex>`, is stable: clients quote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId {
    /// Random number drawn when the log was opened; each segment's SEGMENT_OPEN record repeats it.
    pub boot: u64,
    /// The appender's number.
    pub core: u16,
    /// Position among the appender's records since the log was opened, from 1.
    pub core_seq: u64,
}

/// A text that is not a record id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a record id: expected <16 hex digits>-<core>-<number>")]
pub struct RecordIdError;

/// The longest text form: 16 + 1 + 4 + 1 + 16.
pub const RECORD_ID_TEXT_MAX: usize = 38;

/// The text form of a [`RecordId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordIdText {
    bytes: [u8; RECORD_ID_TEXT_MAX],
    // The text is what stands from here on.
    from: usize,
}

impl RecordId {
    /// The text form, without an allocation: every answer carries one.
    #[must_use]
    pub fn to_text(self) -> RecordIdText {
        let mut text = RecordIdText { bytes: [b'-'; RECORD_ID_TEXT_MAX], from: RECORD_ID_TEXT_MAX };
        text.push_number(self.core_seq, 1);
        text.from -= 1;
        text.push_number(self.core.into(), 1);
        text.from -= 1;
        text.push_number(self.boot, 16);
        text
    }
}

impl RecordIdText {
    /// Puts a number in hexadecimal, of at least `digits` digits, before what is there.
    fn push_number(&mut self, mut number: u64, digits: usize) {
        let end = self.from;
        while number > 0 || end - self.from < digits {
            self.from -= 1;
            self.bytes[self.from] = digit(u8::try_from(number & 15).expect("four bits"));
            number >>= 4;
        }
    }
}

impl std::ops::Deref for RecordIdText {
    type Target = str;

    fn deref(&self) -> &str {
        str::from_utf8(&self.bytes[self.from..]).expect("digits are text")
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

impl FromStr for RecordId {
    type Err = RecordIdError;

    /// Accepts only what [`fmt::Display`] writes, so that one record has one name.
    fn from_str(text: &str) -> Result<Self, RecordIdError> {
        let mut parts = text.split('-');
        let (Some(boot), Some(core), Some(core_seq), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(RecordIdError);
        };
        let id = Self {
            boot: u64::from_str_radix(boot, 16).map_err(|_| RecordIdError)?,
            core: u16::from_str_radix(core, 16).map_err(|_| RecordIdError)?,
            core_seq: u64::from_str_radix(core_seq, 16).map_err(|_| RecordIdError)?,
        };
        if id.to_string() == text { Ok(id) } else { Err(RecordIdError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_has_one_spelling() {
        let id = RecordId { boot: 0x3f9c, core: 3, core_seq: 0x1a2b };
        assert_eq!(id.to_string(), "0000000000003f9c-3-1a2b");
        assert_eq!("0000000000003f9c-3-1a2b".parse(), Ok(id));
        let longest = RecordId { boot: u64::MAX, core: u16::MAX, core_seq: u64::MAX };
        assert_eq!(longest.to_string().len(), RECORD_ID_TEXT_MAX);
        for id in [
            id,
            longest,
            RecordId { boot: 0, core: 0, core_seq: 0 },
            RecordId { boot: 1, core: 16, core_seq: 255 },
        ] {
            assert_eq!(*id.to_text(), format!("{:016x}-{:x}-{:x}", id.boot, id.core, id.core_seq));
        }
        for other in [
            "3f9c-3-1a2b",
            "0000000000003F9C-3-1a2b",
            "0000000000003f9c-03-1a2b",
            "0000000000003f9c-3",
            "",
            "a-b-c-d",
        ] {
            assert_eq!(other.parse::<RecordId>(), Err(RecordIdError), "{other}");
        }
    }
}
