//! Issuers' keys: JWK Sets in, one immutable [`KeySet`] out, looked up by `kid`. Pure.
//!
//! A key is chosen by `kid` alone, because `iss` is a claim and claims are not read before the signature (C0). All
//! keys of that name are candidates, whoever they belong to; the caller verifies with each and then requires `iss` to
//! be the issuer of the key that verified (C4). Nothing in a token adds a key or fetches one (H7, K3).
//!
//! | rule | |
//! | --- | --- |
//! | K1 | `kid` is an opaque string, compared byte by byte; an unknown one is refused |
//! | K2 | without `kid` there must be exactly one key |
//! | K3 | an unknown `kid` never makes anyone fetch while a token waits |
//! | K4 | what a key set may contain: see [`jwks::parse`] |
//! | K5 | thumbprints are RFC 7638 over `crv`, `kty`, `x` (RFC 8037 §2) |
//!
//! A key is for Ed25519 and nothing else; under which of its two names, `Ed25519` or `EdDSA`, is the profile's
//! question, whatever the JWK's `alg` says (H4).
//!
//! Imports: `crate::json`, `crate::base64url` and `verify::VerifyingKey`, which holds the registry's checks of a point.

pub mod delegated;
pub mod jwks;
mod killed;
pub mod life;
mod set;
#[cfg(test)]
mod tests;
mod thumbprint;

pub use killed::KilledKeys;
pub use set::{IssuerIndex, KeySet, KeySetError, PublishedKey, RegisteredKey};
pub use thumbprint::thumbprint;

/// Longest `kid`, in bytes: as long as a token's may be.
pub const KID_BYTES_MAX: usize = 1024;

/// Most keys of one name across all issuers. Each is one more verification for every token that names it.
pub const KID_CANDIDATES_MAX: usize = 4;
