//! The Agent Event Protocol's audit bundles: events in a file that somebody with the same secret can hold to their manifest.
//!
//! Version 0.1.0 over canonical form v2: what `JSON.stringify` writes with the members of each object in order, hashed and
//! signed with HMAC-SHA-256. The form is that of ECMAScript to the byte, because the protocol's own server is what made
//! the bundles there are: numbers as `Number::toString` writes them, names by UTF-16 code units, and names that are
//! array indexes first. What has two meanings (repeated names, half surrogates, integers that a double does not hold) is refused.
//! Pure: no files, no clock.

mod bundle;
mod canonical;
mod verify;

pub use bundle::{BUNDLE_VERSION, DigestAlgorithm, Scope, make};
pub use canonical::{CanonicalError, Value, canonical, parse};
pub use verify::{EventReport, Verified, verify};

#[cfg(test)]
mod tests;
