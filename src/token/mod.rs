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
//! Rules F, H and C of the project's token checklist (RFC 7515, 7519, 8725, 9068, 9864) live here; where a rule has
//! a letter, the code names it. Imports: `crate::json`, `crate::base64url`, `crate::decision`, and the proof type of `verify`.

mod claims;
mod compact;
mod encode;
mod header;
mod inspect;
mod profile;
#[cfg(test)]
mod tests;

pub use claims::{ClaimName, ClaimSet, Claims, ClaimsError, Jti, UnknownClaim, VerifiedJws};
pub use compact::{CompactJws, Padding, ParseError, Scratch, parse};
pub use encode::{AgentTask, EncodeError, assemble, signing_input};
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
