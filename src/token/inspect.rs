//! The decoded text of a token for a person to look at; nothing here is verified.

use crate::base64url;
use crate::token::TOKEN_BYTES_MAX;
use crate::token::compact::{Padding, ParseError, Segments};

/// Header and payload of a token that nobody has verified. For display only: there is no way from here to `Claims`.
#[derive(Clone, PartialEq, Eq)]
pub struct Unverified {
    /// The decoded header.
    pub header: Vec<u8>,
    /// The decoded payload.
    pub payload: Vec<u8>,
    /// Bytes of the decoded signature.
    pub signature_bytes: usize,
}

/// Decodes the three segments of `text`, whatever they contain.
///
/// # Errors
/// [`ParseError`] if they cannot be decoded.
pub fn inspect(text: &[u8]) -> Result<Unverified, ParseError> {
    if text.len() > TOKEN_BYTES_MAX {
        return Err(ParseError::TokenTooLong);
    }
    let segments = Segments::split(text, Padding::Tolerated)?;
    let decode = |segment: &[u8]| {
        let mut buffer = vec![0; segment.len()];
        let length = base64url::decode(segment, &mut buffer).map_err(|_| ParseError::Encoding)?.len();
        buffer.truncate(length);
        Ok(buffer)
    };
    Ok(Unverified {
        header: decode(segments.header)?,
        payload: decode(segments.payload)?,
        signature_bytes: decode(segments.signature)?.len(),
    })
}

impl std::fmt::Debug for Unverified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unverified").field("payload_bytes", &self.payload.len()).finish_non_exhaustive()
    }
}
