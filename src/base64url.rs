//! Base64url without padding, strictly: exactly one text for each sequence of bytes (RFC 4648 §3.5, §5).
//!
//! `base64-simd` decodes 300-byte payloads several times faster than the scalar `base64` (`bench/benches/token.rs`)
//! and refuses non-zero trailing bits; the tests below check that byte by byte against `base64`.

use base64_simd::{AsOut, URL_SAFE_NO_PAD};

/// The text is not canonical, unpadded base64url, or longer than the buffer for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotBase64url;

/// Decodes `text` into the beginning of `buffer` and returns that part.
///
/// # Errors
/// [`NotBase64url`] for any byte outside the alphabet, padding, an impossible length, non-zero trailing bits, or a
/// buffer that is too short.
pub fn decode<'b>(text: &[u8], buffer: &'b mut [u8]) -> Result<&'b [u8], NotBase64url> {
    if URL_SAFE_NO_PAD.decoded_length(text).map_err(|_| NotBase64url)? > buffer.len() {
        return Err(NotBase64url);
    }
    match URL_SAFE_NO_PAD.decode(text, buffer.as_out()) {
        Ok(decoded) => Ok(decoded),
        Err(_) => Err(NotBase64url),
    }
}

/// Decodes `text` into exactly `N` bytes.
///
/// # Errors
/// [`NotBase64url`] as for [`decode`], or if there are not exactly `N` bytes.
pub fn decode_array<const N: usize>(text: &[u8]) -> Result<[u8; N], NotBase64url> {
    let mut bytes = [0; N];
    if decode(text, &mut bytes)?.len() == N { Ok(bytes) } else { Err(NotBase64url) }
}

/// Whether `text` would decode, without decoding it.
#[must_use]
pub fn is_canonical(text: &[u8]) -> bool {
    URL_SAFE_NO_PAD.check(text).is_ok()
}

/// Encodes `bytes`.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode_to_string(bytes)
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as REFERENCE;
    use proptest::prelude::*;

    use super::*;

    fn agrees_with_reference(text: &[u8]) {
        let mut buffer = vec![0; text.len()];
        let ours = decode(text, &mut buffer);
        assert_eq!(ours.is_ok(), is_canonical(text));
        match (ours, REFERENCE.decode(text)) {
            (Ok(ours), Ok(theirs)) => {
                assert_eq!(ours, theirs);
                assert_eq!(encode(ours).as_bytes(), text, "one text for each sequence of bytes");
            }
            (Err(_), Err(_)) => {}
            (ours, theirs) => panic!("{}: {ours:?} / {theirs:?}", text.escape_ascii()),
        }
    }

    #[test]
    fn every_byte_at_every_place_is_judged_like_the_reference() {
        // Long enough for the 32-byte lanes, the 8- and 4-byte steps and each kind of tail.
        for length in (0..12).chain([36, 37, 38, 39, 64, 70, 71, 86, 101]) {
            let text = vec![b'A'; length];
            agrees_with_reference(&text);
            for place in 0..length {
                for byte in 0..=u8::MAX {
                    let mut text = text.clone();
                    text[place] = byte;
                    agrees_with_reference(&text);
                }
            }
        }
    }

    #[test]
    fn the_sixteen_spellings_of_a_signature_are_one() {
        let text = encode(&[0x5a; 64]);
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let accepted = alphabet.iter().filter(|last| {
            let mut text = text.clone().into_bytes();
            text[85] = **last;
            decode_array::<64>(&text) == Ok([0x5a; 64])
        });
        assert_eq!(accepted.count(), 1);
    }

    #[test]
    fn a_short_buffer_is_an_error() {
        assert_eq!(decode(b"AAAA", &mut [0; 2]), Err(NotBase64url));
        assert_eq!(decode_array::<4>(b"AAAA"), Err(NotBase64url));
        assert_eq!(decode_array::<3>(b"AAAA"), Ok([0; 3]));
    }

    proptest! {
        #[test]
        fn random_texts_are_judged_like_the_reference(text in "[A-Za-z0-9_-]{0,120}[A-Za-z0-9_=+/. -]{0,3}") {
            agrees_with_reference(text.as_bytes());
        }
    }
}
