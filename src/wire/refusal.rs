//! What a client may learn of a refusal. The exact cause stays in the audit log.

use crate::decision::Rejection;

/// The coarse answer to a refused token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status on a forward-authentication surface: 401, 403 or 503.
    pub status: u16,
    /// The error code: RFC 6750 §3.1 for what the client did, RFC 6749 §5.2 words for what the service could not do.
    /// `None` when no token was presented: then the challenge carries no error (RFC 6750 §3.1).
    pub error: Option<&'static str>,
}

/// Maps a rejection to what the client is told.
#[must_use]
pub const fn refusal(rejection: Rejection) -> Refusal {
    match rejection {
        Rejection::TokenMissing => Refusal { status: 401, error: None },
        // RFC 6750 would answer 400; nginx turns everything but 401 and 403 into its own 500.
        Rejection::AuthorizationMalformed | Rejection::AuthorizationRepeated => {
            Refusal { status: 401, error: Some("invalid_request") }
        }
        Rejection::TokenTooLong
        | Rejection::TokenMalformed
        | Rejection::HeaderMalformed
        | Rejection::HeaderMemberForbidden
        | Rejection::CriticalHeader
        | Rejection::AlgorithmNotAllowed
        | Rejection::TypeNotAllowed
        | Rejection::KeyUnknown
        | Rejection::DelegationInvalid
        | Rejection::SignatureMalformed
        | Rejection::ScalarOutOfRange
        | Rejection::SmallOrderR
        | Rejection::SignatureMismatch
        | Rejection::KeyMalformed
        | Rejection::KeyNotCanonical
        | Rejection::KeyNotOnCurve
        | Rejection::KeySmallOrder
        | Rejection::KeyMixedOrder
        | Rejection::ClaimsMalformed
        | Rejection::ClaimMissing
        | Rejection::IssuerMismatch
        | Rejection::AudienceMismatch
        | Rejection::Expired
        | Rejection::NotYetValid
        | Rejection::IssuedInFuture
        | Rejection::LifetimeTooLong
        | Rejection::Revoked
        | Rejection::Disabled
        | Rejection::NotListed
        | Rejection::Replayed => Refusal { status: 401, error: Some("invalid_token") },
        Rejection::ScopeMissing => Refusal { status: 403, error: Some("insufficient_scope") },
        Rejection::RevocationUnknown
        | Rejection::AuditUnavailable
        | Rejection::Overloaded
        | Rejection::Unavailable => Refusal { status: 503, error: Some("temporarily_unavailable") },
    }
}
