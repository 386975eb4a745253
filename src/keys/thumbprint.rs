//! The name a key has by itself.

use sha2::{Digest, Sha256};

use crate::base64url;

/// The RFC 7638 thumbprint of an Ed25519 public key (RFC 8037 §2), base64url: 43 characters.
#[must_use]
pub fn thumbprint(public_key: &[u8; 32]) -> String {
    let x = base64url::encode(public_key);
    // The required members in lexicographic order, without white space.
    let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    base64url::encode(&Sha256::digest(canonical.as_bytes()))
}
