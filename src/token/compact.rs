//! From bytes to an untrusted compact JWS (F1-F6).

use std::fmt;

use crate::base64url;
use crate::decision::Rejection;
use crate::json::{self, JsonError};
use crate::token::header::{self, Header};
use crate::token::{DELEGATION_MEMBER, HEADER_BYTES_MAX, KID_BYTES_MAX, SIGNATURE_CHARS, TOKEN_BYTES_MAX};

/// Whether segments may carry the `=` that base64url in a JWS leaves out (F6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// Any `=` is a malformed token: the rule.
    Refused,
    /// Exactly the `=` that fill a segment to a multiple of four are passed over when decoding; the signature is
    /// still over the text as received. For issuers like AWS ALB, which opt in; [`Header::padded`] remembers.
    Tolerated,
}

/// A compact JWS of the right form: parsed, untrusted, nothing of its payload read.
///
/// Borrows from the text; small enough to be moved into a batch.
#[derive(Clone)]
pub struct CompactJws<'a> {
    signing_input: &'a [u8],
    /// Base64url without padding, known to be canonical.
    pub(super) payload: &'a [u8],
    signature: [u8; 64],
}

/// Memory for decoded segments and resolved escapes, reused from token to token by one caller.
pub struct Scratch {
    pub(super) decoded: Box<[u8; DECODED_BYTES_MAX]>,
    pub(super) json: json::Scratch,
}

/// No segment decodes to more than three quarters of the longest token.
const DECODED_BYTES_MAX: usize = TOKEN_BYTES_MAX / 4 * 3;

const _: () = assert!(HEADER_BYTES_MAX <= DECODED_BYTES_MAX);

/// Splits a compact JWS into its three parts and reads its header, without verifying anything.
///
/// `text` must be three segments of canonical base64url (RFC 7515 §2, §7.1); one byte outside the alphabet anywhere
/// refuses it. The [`CompactJws`] borrows from `text`, the [`Header`] from `scratch`. The payload is checked for
/// its encoding only: claims are readable from a [`VerifiedJws`](crate::token::VerifiedJws) alone.
///
/// # Errors
/// [`ParseError::TokenTooLong`] and [`ParseError::HeaderTooLong`] before any decoding; otherwise the first part
/// found to be malformed.
pub fn parse<'a, 's>(
    text: &'a [u8],
    padding: Padding,
    scratch: &'s mut Scratch,
) -> Result<(CompactJws<'a>, Header<'s>), ParseError> {
    parse_within(text, TOKEN_BYTES_MAX, padding, scratch)
}

/// As [`parse`], for a document of up to `bytes_max` bytes that is signed like a token and is none, such as a status list. Its
/// payload is to be had from [`VerifiedJws::payload_to_vec`](crate::token::VerifiedJws::payload_to_vec).
///
/// # Errors
/// As for [`parse`]; [`ParseError::TokenTooLong`] from `bytes_max` on.
pub fn parse_within<'a, 's>(
    text: &'a [u8],
    bytes_max: usize,
    padding: Padding,
    scratch: &'s mut Scratch,
) -> Result<(CompactJws<'a>, Header<'s>), ParseError> {
    if text.len() > bytes_max {
        return Err(ParseError::TokenTooLong);
    }
    let segments = Segments::split(text, padding)?;
    if segments.header.len() / 4 * 3 > HEADER_BYTES_MAX {
        return Err(ParseError::HeaderTooLong);
    }
    if !base64url::is_canonical(segments.payload) {
        // A dot is outside the alphabet too: four segments or more end here.
        return Err(if segments.payload.contains(&b'.') {
            ParseError::Segments
        } else {
            ParseError::Encoding
        });
    }
    let decoded =
        base64url::decode(segments.header, &mut scratch.decoded[..]).map_err(|_| ParseError::Encoding)?;
    if decoded.len() > HEADER_BYTES_MAX {
        return Err(ParseError::HeaderTooLong);
    }
    // Before the signature's length: "algorithm not allowed" tells the sender of an RS256 token more.
    let header = header::read(decoded, segments.padded, &mut scratch.json)?;
    if segments.signature.len() != SIGNATURE_CHARS && base64url::is_canonical(segments.signature) {
        return Err(ParseError::SignatureLength);
    }
    let signature = base64url::decode_array(segments.signature).map_err(|_| ParseError::Encoding)?;
    let jws = CompactJws { signing_input: segments.signing_input, payload: segments.payload, signature };
    Ok((jws, header))
}

impl<'a> CompactJws<'a> {
    /// `header.payload`, exactly as received: what the signature is over (C0).
    #[must_use]
    pub fn signing_input(&self) -> &'a [u8] {
        self.signing_input
    }

    /// The signature's 64 bytes.
    #[must_use]
    pub fn signature(&self) -> &[u8; 64] {
        &self.signature
    }
}

impl fmt::Debug for CompactJws<'_> {
    /// Lengths only: a token never shows in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompactJws")
            .field("signing_input_bytes", &self.signing_input.len())
            .finish_non_exhaustive()
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self { decoded: Box::new([0; DECODED_BYTES_MAX]), json: json::Scratch::default() }
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").finish_non_exhaustive()
    }
}

/// The segments without the padding that was tolerated, and the signing input with it.
pub(super) struct Segments<'a> {
    pub(super) header: &'a [u8],
    pub(super) payload: &'a [u8],
    pub(super) signature: &'a [u8],
    signing_input: &'a [u8],
    padded: bool,
}

impl<'a> Segments<'a> {
    /// Cuts at the first and the last dot; a dot in between is left for the alphabet check of the payload.
    pub(super) fn split(text: &'a [u8], padding: Padding) -> Result<Self, ParseError> {
        let first = memchr::memchr(b'.', text).ok_or(ParseError::Segments)?;
        let last = memchr::memrchr(b'.', text).ok_or(ParseError::Segments)?;
        // Empty payloads are the claims' question, an empty signature has the wrong length; both are refused (F3).
        if first == last || first == 0 {
            return Err(ParseError::Segments);
        }
        let mut segments = Self {
            header: &text[..first],
            payload: &text[first + 1..last],
            signature: &text[last + 1..],
            signing_input: &text[..last],
            padded: false,
        };
        if padding == Padding::Tolerated {
            segments.strip_padding();
        }
        Ok(segments)
    }

    /// Strips one or two `=` from segments that they fill to a multiple of four; others keep theirs and fail.
    fn strip_padding(&mut self) {
        for segment in [&mut self.header, &mut self.payload, &mut self.signature] {
            let padded: &'a [u8] = segment;
            if padded.len().is_multiple_of(4) && padded.ends_with(b"=") {
                let one_off = padded.strip_suffix(b"=").unwrap_or(padded);
                *segment = one_off.strip_suffix(b"=").unwrap_or(one_off);
                self.padded = true;
            }
        }
    }
}

/// Why a text is not a compact JWS this service could ever accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// H3.
    #[error("alg is missing, not a string, or neither Ed25519 nor EdDSA")]
    AlgorithmUnknown,
    /// H5.
    #[error("crit is present and no extension is understood")]
    Critical,
    /// RFC 7515 §4.1.10.
    #[error("cty is not a string")]
    CtyNotString,
    /// D1.
    #[error("{DELEGATION_MEMBER} is not a string")]
    DelegationNotString,
    /// F2, F5.
    #[error("a segment is not canonical base64url without padding")]
    Encoding,
    /// H6, H7, H10.
    #[error("header member {0} is not allowed")]
    ForbiddenMember(&'static str),
    /// H1, H2.
    #[error("header: {0}")]
    HeaderJson(JsonError),
    /// F1.
    #[error("header is longer than {HEADER_BYTES_MAX} bytes")]
    HeaderTooLong,
    /// RFC 7515 §4.1.4.
    #[error("kid is not a string")]
    KidNotString,
    /// F1.
    #[error("kid is longer than {KID_BYTES_MAX} bytes")]
    KidTooLong,
    /// F3.
    #[error("not three segments, the first of them not empty")]
    Segments,
    /// F4.
    #[error("signature is not {SIGNATURE_CHARS} characters")]
    SignatureLength,
    /// F1.
    #[error("token is longer than {TOKEN_BYTES_MAX} bytes")]
    TokenTooLong,
    /// H9.
    #[error("typ is not a string")]
    TypNotString,
}

impl ParseError {
    /// The outcome word for this cause.
    #[must_use]
    pub const fn rejection(self) -> Rejection {
        match self {
            Self::AlgorithmUnknown => Rejection::AlgorithmNotAllowed,
            Self::Critical => Rejection::CriticalHeader,
            Self::DelegationNotString => Rejection::DelegationInvalid,
            Self::CtyNotString | Self::HeaderJson(_) | Self::KidNotString => Rejection::HeaderMalformed,
            Self::Encoding | Self::Segments => Rejection::TokenMalformed,
            Self::ForbiddenMember(_) => Rejection::HeaderMemberForbidden,
            Self::HeaderTooLong | Self::KidTooLong | Self::TokenTooLong => Rejection::TokenTooLong,
            Self::SignatureLength => Rejection::SignatureMalformed,
            Self::TypNotString => Rejection::TypeNotAllowed,
        }
    }
}
