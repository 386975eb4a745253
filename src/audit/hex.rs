//! Bytes as hexadecimal text.

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut text = Vec::with_capacity(2 * bytes.len());
    push_hex(&mut text, bytes);
    String::from_utf8(text).expect("digits are text")
}

/// Appends lower-case hexadecimal.
pub(super) fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + 2 * bytes.len(), 0);
    let (pairs, _) = out[start..].as_chunks_mut::<2>();
    for (pair, byte) in pairs.iter_mut().zip(bytes) {
        *pair = [digit(byte >> 4), digit(byte & 15)];
    }
}

/// The digit of a number below 16. Computed, not looked up: so that many are computed at once.
pub(super) const fn digit(value: u8) -> u8 {
    value + if value < 10 { b'0' } else { b'a' - 10 }
}

/// The bytes of hexadecimal text, in either case; `None` for anything else.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    pairs.iter().map(|[high, low]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()).collect()
}

/// The `N` bytes of hexadecimal text in the one spelling that is written here; `None` for any other.
#[must_use]
pub fn unhex_exact<const N: usize>(text: &str) -> Option<[u8; N]> {
    unhex(text)?.try_into().ok().filter(|bytes: &[u8; N]| hex(bytes) == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_other_text_does_not() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert!(hex(&bytes).starts_with("000102") && hex(&bytes).ends_with("fdfeff"));
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        assert_eq!((unhex("0"), unhex("0g")), (None, None));
        assert_eq!(unhex_exact("0aff"), Some([10, 255]));
        assert_eq!(
            [unhex_exact::<2>("0AFF"), unhex_exact("0aff00"), unhex_exact("0a"), unhex_exact("")],
            [None; 4]
        );
    }

    #[test]
    fn a_digest_has_one_spelling() {
        let text = format!("{}ff", "0a".repeat(31));
        let mut expected = [10; 32];
        expected[31] = 255;
        assert_eq!(unhex_exact::<32>(&text), Some(expected));
        for other in
            [text.to_uppercase(), text[1..].to_owned(), format!("{text}0"), "g".repeat(64), "+f".repeat(32)]
        {
            assert_eq!(unhex_exact::<32>(&other), None, "{other}");
        }
    }
}
