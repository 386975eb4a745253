//! What a signature from a token must pass before it leaves.
//!
//! The rule by which signatures are accepted is the caller's to define, and to define once: a service that verifies
//! tokens hands its own engine in ([`ReleaseChecks::new`]), so that nothing is released that it would refuse. Without
//! one, `ed25519-dalek`'s strict verification decides.

use std::fmt;
use std::sync::Arc;

use ed25519_dalek::{Signature, VerifyingKey};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

use crate::PublicKey;

/// Verifies signatures under one pinned public key. Shared by all threads of the pool.
pub trait ReleaseCheck: Send + Sync {
    /// Whether `signature` is one of `message` under the pinned key.
    fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool;

    /// Whether each of `signatures` is one of the message in its place.
    fn verifies_all(&self, messages: &[&[u8]], signatures: &[[u8; 64]]) -> bool {
        messages.len() == signatures.len()
            && messages.iter().zip(signatures).all(|(message, signature)| self.verifies(message, signature))
    }
}

/// Makes the check of a public key; `None` for a key under which nothing may be released.
type Make = dyn Fn(&[u8; 32]) -> Option<Box<dyn ReleaseCheck>> + Send + Sync;

/// How the checks of a pool's Ed25519 keys are made: pure Ed25519 (RFC 8032 §5.1.7). Cheap to clone. What P-256 keys sign,
/// in handshakes alone, is checked by `ring`.
#[derive(Clone)]
pub struct ReleaseChecks(Arc<Make>);

impl ReleaseChecks {
    /// Checks made by `make`, which is called once for each key that is opened; `None` refuses the key.
    pub fn new(make: impl Fn(&[u8; 32]) -> Option<Box<dyn ReleaseCheck>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }

    /// Strict verification by `ed25519-dalek`, for canonical keys of prime order.
    #[must_use]
    pub fn strict() -> Self {
        Self::new(|bytes| {
            let key = VerifyingKey::from_bytes(bytes).ok()?;
            let point = key.to_edwards();
            let usable = !key.is_weak() && point.is_torsion_free() && point.compress().as_bytes() == bytes;
            usable.then(|| Box::new(key) as Box<dyn ReleaseCheck>)
        })
    }

    pub(crate) fn pin(&self, public_key: PublicKey) -> Option<Pinned> {
        let check = match &public_key {
            PublicKey::Ed25519(bytes) => (self.0)(bytes)?,
            PublicKey::P256(point) => Box::new(OnP256(*point)),
        };
        Some(Pinned { public_key, check })
    }
}

impl ReleaseCheck for VerifyingKey {
    fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

/// A point that is on no curve verifies nothing.
struct OnP256([u8; 65]);

impl ReleaseCheck for OnP256 {
    fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.0).verify(message, signature).is_ok()
    }
}

impl fmt::Debug for ReleaseChecks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReleaseChecks")
    }
}

/// A pinned public key and its check.
pub(crate) struct Pinned {
    public_key: PublicKey,
    check: Box<dyn ReleaseCheck>,
}

impl Pinned {
    pub(crate) fn key(&self) -> PublicKey {
        self.public_key
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.check.verifies(message, signature)
    }

    pub(crate) fn verifies_all(&self, messages: &[&[u8]], signatures: &[[u8; 64]]) -> bool {
        self.check.verifies_all(messages, signatures)
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pinned").field(&self.public_key).finish()
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;

    #[test]
    fn the_strict_check_refuses_each_flipped_bit_and_another_message() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let pinned = ReleaseChecks::strict().pin(key.verifying_key().to_bytes().into()).unwrap();
        let good = key.sign(b"message").to_bytes();
        assert!(pinned.verifies(b"message", &good));
        assert!(!pinned.verifies(b"other", &good));
        for bit in 0..512 {
            let mut flipped = good;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!pinned.verifies(b"message", &flipped), "bit {bit}");
        }
    }

    #[test]
    fn a_key_that_is_not_of_prime_order_or_no_key_is_not_pinned() {
        for torsion in EIGHT_TORSION {
            assert!(ReleaseChecks::strict().pin(torsion.compress().to_bytes().into()).is_none());
            let mixed = ED25519_BASEPOINT_POINT + torsion;
            let pinned = ReleaseChecks::strict().pin(mixed.compress().to_bytes().into());
            assert_eq!(pinned.is_some(), torsion == EIGHT_TORSION[0]);
        }
        let mut no_point = [0; 32];
        no_point[0] = 2;
        assert!(ReleaseChecks::strict().pin(no_point.into()).is_none());
        assert!(ReleaseChecks::new(|_| None).pin([1; 32].into()).is_none(), "the caller may refuse any");
    }
}
