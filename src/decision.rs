//! The outcome words that wire, audit and metrics share.
//!
//! A decision is made once, in `shard/request.rs`. Its exact cause goes to the audit log and the metrics under the
//! names below; `wire` reduces it to the coarse answer a client may see.

use std::fmt;

/// What was decided about one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Genuine, in time, for this audience, in scope and not revoked.
    Accepted,
    /// Refused, for exactly this reason.
    Rejected(Rejection),
}

impl Decision {
    /// The stable number written into audit records: 0 for accepted, else the rejection's code.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Accepted => 0,
            Self::Rejected(rejection) => rejection.code(),
        }
    }

    /// The decision an audit record's number stands for.
    #[must_use]
    pub fn from_code(code: u16) -> Option<Self> {
        match code {
            0 => Some(Self::Accepted),
            _ => Rejection::from_code(code).map(Self::Rejected),
        }
    }

    /// The decision of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        if name == Self::Accepted.name() {
            return Some(Self::Accepted);
        }
        Rejection::ALL.iter().copied().find(|rejection| rejection.name() == name).map(Self::Rejected)
    }

    /// `accepted`, or the rejection's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected(rejection) => rejection.name(),
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Declares the rejections once: variant, code, name, meaning.
///
/// Codes are stored in audit records: never change or reuse one.
macro_rules! rejections {
    ($($(#[doc = $meaning:literal])+ $variant:ident = $code:literal, $name:literal;)+) => {
        /// Why a token was refused. Codes and names are stable: the log, the metrics and the manual use them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Rejection {
            $($(#[doc = $meaning])+ $variant,)+
        }

        impl Rejection {
            /// Every rejection, in the order of the codes.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable number written into audit records.
            #[must_use]
            pub const fn code(self) -> u16 {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The stable name used in the log, in metrics (`reason="…"`) and by the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The rejection an audit record's number stands for.
            #[must_use]
            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

rejections! {
    // 100-119: the request carried no usable token.
    /// No token was presented (no `Authorization` header).
    TokenMissing = 100, "token_missing";
    /// `Authorization` is not `Bearer` followed by one token (RFC 6750 §2.1).
    AuthorizationMalformed = 101, "authorization_malformed";
    /// More than one `Authorization` header was sent.
    AuthorizationRepeated = 102, "authorization_repeated";

    // 120-199: the token's form, header and key (tokens.md F, H, K), before the signature.
    /// The token, its header or its `kid` is longer than its limit.
    TokenTooLong = 120, "token_too_long";
    /// Not three base64url segments of the right shape and alphabet (RFC 7515 §7.1).
    TokenMalformed = 121, "token_malformed";
    /// The header is not one strict JSON object with distinct members.
    HeaderMalformed = 122, "header_malformed";
    /// A header member that may not stand in a token: an embedded or linked key, `zip`, `enc`, `b64`, `cty: JWT`.
    HeaderMemberForbidden = 123, "header_member_forbidden";
    /// `crit` is present; no extension is understood (RFC 7515 §4.1.11).
    CriticalHeader = 124, "critical_header";
    /// `alg` is missing or not one the issuer's keys are allowed to use.
    AlgorithmNotAllowed = 125, "algorithm_not_allowed";
    /// `typ` is not one the issuer's profile accepts.
    TypeNotAllowed = 126, "type_not_allowed";
    /// No key of a configured issuer has this `kid`, or `kid` is missing where several keys are eligible.
    KeyUnknown = 127, "key_unknown";
    /// The delegation that the token carries is no good: not of its issuer, not of its key, or not for its time (D1 to D5).
    DelegationInvalid = 128, "delegation_invalid";

    // 200-219: the signature and, for keys that were not registered, the key (the exact rule).
    /// The signature is not 64 bytes.
    SignatureMalformed = 200, "signature_malformed";
    /// S is not below the group order L (RFC 8032 §5.1.7).
    ScalarOutOfRange = 201, "scalar_out_of_range";
    /// R is one of the eight canonical small-order encodings: a nonce was zero, the private key is exposed.
    SmallOrderR = 202, "small_order_r";
    /// `encode([S]B - [k]A)` differs from R.
    SignatureMismatch = 203, "signature_mismatch";
    /// The key is not 32 bytes.
    KeyMalformed = 210, "key_malformed";
    /// The key's encoding is not canonical (y >= p, or x = 0 with the sign bit set).
    KeyNotCanonical = 211, "key_not_canonical";
    /// The key is not a point of the curve.
    KeyNotOnCurve = 212, "key_not_on_curve";
    /// The key is one of the eight points of small order.
    KeySmallOrder = 213, "key_small_order";
    /// The key is not in the prime-order subgroup.
    KeyMixedOrder = 214, "key_mixed_order";

    // 300-329: the claims of a verified token (tokens.md C).
    /// The claims are not one strict JSON object, or a claim has the wrong type.
    ClaimsMalformed = 300, "claims_malformed";
    /// A claim the issuer's profile requires is absent.
    ClaimMissing = 301, "claim_missing";
    /// `iss` is not the issuer the key belongs to.
    IssuerMismatch = 302, "issuer_mismatch";
    /// No accepted audience is in `aud`.
    AudienceMismatch = 303, "audience_mismatch";
    /// `exp` plus the leeway has passed.
    Expired = 304, "expired";
    /// `nbf` minus the leeway is still to come.
    NotYetValid = 305, "not_yet_valid";
    /// `iat` minus the leeway is still to come.
    IssuedInFuture = 306, "issued_in_future";
    /// `exp - iat` is longer than the issuer's tokens may live.
    LifetimeTooLong = 307, "lifetime_too_long";
    /// The token is good, but does not cover a scope the caller demands.
    ScopeMissing = 308, "scope_missing";

    // 400-419: revocation.
    /// The token, or something it depends on, is revoked.
    Revoked = 400, "revoked";
    /// Whether the token is revoked cannot be told.
    RevocationUnknown = 401, "revocation_unknown";
    /// The token's tenant, issuer, key or subject is disabled for the time being.
    Disabled = 402, "disabled";
    /// The issuer has an allow list and the token is not on it.
    NotListed = 403, "not_listed";
    /// The token may be used once and was used before.
    Replayed = 404, "replayed";

    // 500-519: the service could not decide.
    /// The decision could not be recorded, so it was not given.
    AuditUnavailable = 500, "audit_unavailable";
    /// A bounded queue is full.
    Overloaded = 501, "overloaded";
    /// The node is draining or not yet ready.
    Unavailable = 502, "unavailable";
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<Rejection> for Decision {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

/// Seconds since 1970-01-01T00:00:00Z, without leap seconds (RFC 7519 `NumericDate`, whole seconds).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// `self + seconds`, stopping at the largest representable time.
    #[must_use]
    pub const fn saturating_add(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// Seconds from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_distinct_and_round_trip() {
        for (i, rejection) in Rejection::ALL.iter().enumerate() {
            assert_eq!(Rejection::from_code(rejection.code()), Some(*rejection));
            assert_eq!(Decision::from_code(rejection.code()), Some(Decision::Rejected(*rejection)));
            for other in &Rejection::ALL[..i] {
                assert!(other.code() < rejection.code(), "{rejection} is out of order or repeats a code");
                assert_ne!(other.name(), rejection.name());
            }
        }
        assert_eq!(Decision::from_code(0), Some(Decision::Accepted));
        assert_eq!(Decision::from_code(1), None);
    }
}
