//! Compact JWS and claims: bytes in, checked facts out. Pure; time arrives as `now`.
//!
//! The way of a token through this room, each step a type that remembers what was established:
//!
//! 1. [`parse`] splits the text and reads the header: a [`CompactJws`] and its [`Header`], both untrusted.
//! 2. [`Profile::check_header`] compares the header with what the issuer's tokens may look like. It can refuse,
//!    never accept.
//! 3. `verify` makes a [`SignatureVerified`](crate::verify::SignatureVerified); with it, and only with it, comes a
//!    [`VerifiedJws`].
//! 4. [`VerifiedJws::claims`] reads the [`Claims`], [`Profile::check_claims`] decides on them.
//!
//! Imports: `crate::json`, `crate::base64url`, `crate::decision`, and the proof type of `verify`.
//!
//! # The rules
//!
//! The code names them by these letters; `keys` has K, where a key is chosen and a key set is read.
//!
//! | rule | what is refused | from |
//! | --- | --- | --- |
//! | F1 | longer than [`TOKEN_BYTES_MAX`], [`HEADER_BYTES_MAX`], [`KID_BYTES_MAX`], before decoding | |
//! | F2 | a byte outside base64url and the two dots | RFC 7515 §2 |
//! | F3 | not exactly three segments; empty header or signature | RFC 7515 §7.1 |
//! | F4 | a signature that is not 86 characters | RFC 8037 §3.1 |
//! | F5 | unused trailing bits that are not zero, in any segment | RFC 4648 §3.5 |
//! | F6 | padding, unless the issuer opted in | RFC 7515 §2 |
//! | H1 | a header that is not strict JSON, or not an object | RFC 8259, RFC 8725 §3.7 |
//! | H2 | a member name repeated at any level, after unescaping | RFC 7515 §4 |
//! | H3, H4 | `alg` that is not exactly one the issuer allows, out of `Ed25519` and `EdDSA` | RFC 8725 §3.1, RFC 9864 |
//! | H5 | `crit`, whatever it says: no extension is understood | RFC 7515 §4.1.11 |
//! | H6 | `b64` | RFC 7797 §7 |
//! | H7 | `jwk`, `jku`, `x5u`, `x5c`, `zip`, `enc`; nothing is fetched | RFC 8725 §3.10 |
//! | H8 | nothing: `x5t` and unknown members are ignored | RFC 7515 §4 |
//! | H9 | a `typ` that the profile does not name, or none where it demands one | RFC 8725 §3.11 |
//! | H10 | `cty` `JWT`: a nested token | RFC 7519 §5.2 |
//! | C0 | claims read before the signature: impossible here | |
//! | C1 | claims that are not one strict JSON object | RFC 7519 §4, §7.2 |
//! | C2 | `exp`, `nbf`, `iat` not a number from 0 to below 2^53; any registered claim of the wrong type | RFC 7519 §2 |
//! | C3 | `now >= exp + leeway`, `nbf` or `iat` after `now + leeway`, too long a lifetime | RFC 7519 §4.1 |
//! | C4 | `iss` that is not exactly the issuer of the key | RFC 8725 §3.8 |
//! | C5 | `aud` that is absent or names no accepted audience exactly | RFC 8725 §3.9 |
//! | C6 | an `at+jwt` or `att+jwt` without the claims its kind demands | RFC 9068 §2.2 |
//! | D1 | a delegation that is no compact JWS of type [`DELEGATION_TYP`], or has one within it | [`Delegation`] |
//! | D2 | one that is not signed by a key of the issuer, which must be one of its own and not a delegated one | |
//! | D3 | one of another issuer, of more than [`DELEGATION_LIFE_S_MAX`], or with members that are not known | |
//! | D4 | one of a key that the registry refuses, or that is not the one whose RFC 7638 thumbprint is the token's `kid` | |
//! | D5 | a token that was issued before its delegation, or is valid after it, or does not say when it was issued | |

mod claims;
mod compact;
mod delegation;
mod encode;
mod header;
mod inspect;
mod profile;
#[cfg(test)]
mod tests;

pub use claims::{ClaimName, ClaimSet, Claims, ClaimsError, Jti, UnknownClaim, VerifiedJws};
pub use compact::{CompactJws, Padding, ParseError, Scratch, parse, parse_within};
pub use delegation::{
    DELEGATION_LIFE_S_MAX, DELEGATION_MEMBER, DELEGATION_TYP, Delegation, DelegationError,
    UnverifiedDelegation,
};
pub use encode::{
    AgentTask, EncodeError, SignedBy, StatusPlace, assemble, header_part, payload_part, signing_input,
};
pub(crate) use encode::{HeaderText, json_part};
pub use header::{Algorithm, AlgorithmSet, Header};
pub use inspect::{Unverified, inspect};
pub use profile::{Demand, Profile, ProfileKind, TypeSet};

/// Longest token, in bytes (F1). Proxies cap all headers together at 8 to 16 KiB, so none longer arrives anyway.
pub const TOKEN_BYTES_MAX: usize = 8192;

/// Longest header after decoding, in bytes (F1). Without keys and certificates in it, ordinary ones stay below 200.
pub const HEADER_BYTES_MAX: usize = 2048;

/// Longest `kid` after resolving escapes, in bytes (F1).
pub const KID_BYTES_MAX: usize = 1024;

/// Base64url characters of an Ed25519 signature (F4).
pub const SIGNATURE_CHARS: usize = 86;

/// The media type of an Agent Task Token, without `application/`.
pub const AGENT_TASK_TYP: &str = "att+jwt";
