//! Verifying, often, under a key that is known for long.
//!
//! Every signature from a token is verified before it leaves, which is an eighth of the processor time of a signature on
//! SoftHSM. With tables of multiples of the pinned key and of the base point both products of the verification equation
//! (RFC 8032 §5.1.7) are sums of table entries, no point is doubled, and R need not be decompressed. The time depends on
//! the scalars, which are public: they come from the signature that is about to be given away.

use std::sync::LazyLock;

use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::Identity as _;
use ed25519_dalek::VerifyingKey;
use sha2::{Digest, Sha512};

/// A public key with its table.
pub(crate) struct PinnedVerifier {
    key: VerifyingKey,
    // Multiples of -A.
    negated: FixedBase,
}

/// The multiples of one point by each value of each byte of a scalar: 1.3 MiB.
struct FixedBase(Box<[[EdwardsPoint; 256]; WINDOWS]>);

/// Bytes of a scalar.
const WINDOWS: usize = 32;

static BASE: LazyLock<FixedBase> = LazyLock::new(|| FixedBase::new(ED25519_BASEPOINT_POINT));

impl FixedBase {
    fn new(point: EdwardsPoint) -> Self {
        let mut unit = point;
        let mut windows = Vec::with_capacity(WINDOWS);
        for _ in 0..WINDOWS {
            let mut multiples = vec![EdwardsPoint::identity()];
            for _ in 0..u8::MAX {
                multiples.push(multiples[multiples.len() - 1] + unit);
            }
            unit += multiples[multiples.len() - 1];
            windows.push(<[EdwardsPoint; 256]>::try_from(multiples).expect("one for each value of a byte"));
        }
        Self(windows.try_into().expect("one for each byte"))
    }

    /// Adds `scalar` times the point to `sum`.
    fn add_to(&self, mut sum: EdwardsPoint, scalar: &Scalar) -> EdwardsPoint {
        for (multiples, byte) in self.0.iter().zip(scalar.as_bytes()) {
            if *byte != 0 {
                sum += multiples[usize::from(*byte)];
            }
        }
        sum
    }
}

impl PinnedVerifier {
    /// Prepares to verify under `bytes`; `None` unless it is a canonical key of prime order.
    pub(crate) fn new(bytes: &[u8; 32]) -> Option<Self> {
        let key = VerifyingKey::from_bytes(bytes).ok()?;
        let point = key.to_edwards();
        let usable = !key.is_weak() && point.is_torsion_free() && point.compress().as_bytes() == bytes;
        usable.then(|| Self { key, negated: FixedBase::new(-point) })
    }

    pub(crate) fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// Accepts exactly what `VerifyingKey::verify_strict` accepts: S below the group order, R not of small order, and
    /// encode([S]B - [k]A) equal to R byte for byte.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let (encoded, scalar) = signature.split_at(32);
        let Some(scalar) =
            scalar.try_into().ok().and_then(|bytes| Scalar::from_canonical_bytes(bytes).into_option())
        else {
            return false;
        };
        let mut hash = Sha512::new();
        hash.update(encoded);
        hash.update(self.key.as_bytes());
        hash.update(message);
        let challenge = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
        let expected = self.negated.add_to(BASE.add_to(EdwardsPoint::identity(), &scalar), &challenge);
        !expected.is_small_order() && expected.compress().as_bytes() == encoded
    }
}

impl std::fmt::Debug for PinnedVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PinnedVerifier").field(&self.key).finish()
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signature, Signer, SigningKey};

    use super::*;

    /// Both must say the same.
    fn verdict(verifier: &PinnedVerifier, message: &[u8], signature: &[u8; 64]) -> bool {
        let ours = verifier.verify(message, signature);
        let strict = verifier.key().verify_strict(message, &Signature::from_bytes(signature)).is_ok();
        assert_eq!(ours, strict, "{signature:02x?}");
        ours
    }

    #[test]
    fn it_agrees_with_verify_strict_on_good_signatures_and_on_each_flipped_bit() {
        for seed in 0..8 {
            let key = SigningKey::from_bytes(&[seed; 32]);
            let verifier = PinnedVerifier::new(&key.verifying_key().to_bytes()).unwrap();
            let message = [seed; 40];
            let signature = key.sign(&message).to_bytes();
            assert!(verdict(&verifier, &message, &signature));
            assert!(!verdict(&verifier, b"other", &signature));
            for bit in (0..512).skip(usize::from(seed)).step_by(8) {
                let mut flipped = signature;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(!verdict(&verifier, &message, &flipped), "bit {bit}");
            }
        }
    }

    #[test]
    fn it_agrees_with_verify_strict_on_signatures_made_to_split_verifiers() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let verifier = PinnedVerifier::new(&key.verifying_key().to_bytes()).unwrap();
        let good = key.sign(b"m").to_bytes();
        // S plus the group order: the same scalar, not canonical.
        let mut order = (-Scalar::ONE).to_bytes();
        order[0] += 1;
        let mut carry = 0_u16;
        let mut malleable = good;
        for (byte, add) in malleable[32..].iter_mut().zip(&order) {
            carry += u16::from(*byte) + u16::from(*add);
            *byte = carry.to_le_bytes()[0];
            carry >>= 8;
        }
        assert!(!verdict(&verifier, b"m", &malleable));
        // R of small order, with the S that the owner of the key can find for it: [S]B = [k]A.
        let secret = Scalar::from_bytes_mod_order(key.to_scalar_bytes());
        for torsion in curve25519_dalek::constants::EIGHT_TORSION {
            let encoded = torsion.compress();
            let mut hash = Sha512::new();
            hash.update(encoded.as_bytes());
            hash.update(verifier.key().as_bytes());
            hash.update(b"m");
            let challenge = Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(encoded.as_bytes());
            signature[32..].copy_from_slice((challenge * secret).as_bytes());
            assert!(!verdict(&verifier, b"m", &signature));
        }
        assert!(!verdict(&verifier, b"m", &[0; 64]));
    }

    #[test]
    fn keys_that_are_not_of_prime_order_are_not_pinned() {
        for torsion in curve25519_dalek::constants::EIGHT_TORSION {
            assert!(PinnedVerifier::new(torsion.compress().as_bytes()).is_none());
            let mixed = ED25519_BASEPOINT_POINT + torsion;
            let of_prime_order = torsion == curve25519_dalek::constants::EIGHT_TORSION[0];
            assert_eq!(PinnedVerifier::new(mixed.compress().as_bytes()).is_some(), of_prime_order);
        }
    }
}
