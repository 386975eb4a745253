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
