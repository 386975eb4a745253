//! Bytes as hexadecimal digits, in small letters, and back. One text per sequence of bytes.

use std::fmt;

/// Writes bytes as digits.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Reads 1 to `bytes_max` bytes; `None` for anything but their digits.
pub(crate) fn unhex(text: &str, bytes_max: usize) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() || pairs.len() > bytes_max {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// Reads exactly `N` bytes.
pub(crate) fn unhex_exact<const N: usize>(text: &str) -> Option<[u8; N]> {
    unhex(text, N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let bytes = [0x00, 0x7f, 0x80, 0xff];
        let text = Hex(&bytes).to_string();
        assert_eq!(text, "007f80ff");
        assert_eq!(unhex_exact(&text), Some(bytes));
        assert_eq!(unhex(&text, 3), None);
        for wrong in ["", "0", "0g", "0G", "FF", "+1", " 00", "00 "] {
            assert_eq!(unhex(wrong, 8), None, "{wrong:?}");
        }
        assert_eq!(unhex_exact::<3>(&text), None);
        assert_eq!(unhex_exact::<5>(&text), None);
    }
}
