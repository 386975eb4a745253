//! The name of one record, known before it is written: the decision id clients get.

use std::{fmt, str::FromStr};

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

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:x}-{:x}", self.boot, self.core, self.core_seq)
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
