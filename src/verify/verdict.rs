//! What verifying one item yields.

use std::fmt;

use crate::decision::Rejection;

/// The outcome of one item.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The signature is genuine; the proof can be exchanged for the claims.
    Accepted(SignatureVerified),
    /// The signature is refused, for exactly this reason.
    Rejected(SignatureRejection),
}

impl Verdict {
    /// Whether the signature is genuine.
    #[must_use]
    pub const fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted(_))
    }

    pub(super) const fn accepted() -> Self {
        Self::Accepted(SignatureVerified { _only_verify_makes_one: () })
    }
}

/// Proof that one signature was verified. Only this room makes one, and it can be neither copied nor cloned, so it is
/// spent on one token.
#[derive(Debug, PartialEq, Eq)]
pub struct SignatureVerified {
    _only_verify_makes_one: (),
}

/// Why an item was refused; in the order in which reasons take precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignatureRejection {
    /// The raw key is not 32 bytes.
    KeyMalformed,
    /// The raw key's encoding is not canonical.
    KeyNotCanonical,
    /// The raw key is one of the eight points of small order.
    KeySmallOrder,
    /// The raw key is not a point of the curve.
    KeyNotOnCurve,
    /// The raw key is not in the prime-order subgroup.
    KeyMixedOrder,
    /// The signature is not 64 bytes.
    SignatureMalformed,
    /// S is not below L (RFC 8032 §5.1.7).
    ScalarOutOfRange,
    /// R is one of the eight canonical small-order encodings: the signer's nonce was zero, its key is exposed.
    SmallOrderR,
    /// `encode([S]B − [k]A)` differs from R.
    SignatureMismatch,
}

impl From<SignatureRejection> for Rejection {
    fn from(rejection: SignatureRejection) -> Self {
        match rejection {
            SignatureRejection::KeyMalformed => Self::KeyMalformed,
            SignatureRejection::KeyNotCanonical => Self::KeyNotCanonical,
            SignatureRejection::KeySmallOrder => Self::KeySmallOrder,
            SignatureRejection::KeyNotOnCurve => Self::KeyNotOnCurve,
            SignatureRejection::KeyMixedOrder => Self::KeyMixedOrder,
            SignatureRejection::SignatureMalformed => Self::SignatureMalformed,
            SignatureRejection::ScalarOutOfRange => Self::ScalarOutOfRange,
            SignatureRejection::SmallOrderR => Self::SmallOrderR,
            SignatureRejection::SignatureMismatch => Self::SignatureMismatch,
        }
    }
}

impl fmt::Display for SignatureRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Rejection::from(*self).fmt(f)
    }
}
