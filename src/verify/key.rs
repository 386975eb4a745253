//! Registration: the checks a verifying key passes once, and the table that pays for them.

use std::fmt;
use std::sync::Arc;

use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};

use super::{encoding, portable};

/// An Ed25519 verifying key that passed the registry's checks. Cheap to clone; clones share the table.
#[derive(Clone)]
pub struct VerifyingKey(Arc<Registered>);

/// Why a key cannot be registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum KeyRejection {
    /// `y >= p`, or `x = 0` with the sign bit set.
    #[error("the verifying key is not canonically encoded")]
    NotCanonical,
    /// One of the eight points whose order divides 8.
    #[error("the verifying key is a point of small order")]
    SmallOrder,
    /// No point of the curve has this y.
    #[error("the verifying key is not a point of the curve")]
    NotOnCurve,
    /// The point has a component of small order: `[L]A` is not the identity.
    #[error("the verifying key is not in the prime-order subgroup")]
    MixedOrder,
}

impl VerifyingKey {
    /// Checks `bytes` (RFC 8032 §5.1.2 encoding) and builds the key's table, which takes a fraction of a millisecond.
    ///
    /// # Errors
    /// The first check that fails, in the order of [`KeyRejection`].
    pub fn register(bytes: &[u8; 32]) -> Result<Self, KeyRejection> {
        let minus_a = -decode(bytes)?;
        let comb = portable::Comb::new(&minus_a, portable::WINDOW_BITS_KEY);
        Ok(Self(Arc::new(Registered { bytes: *bytes, comb })))
    }

    /// The 32 bytes that were registered.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0.bytes
    }

    pub(super) fn portable_comb(&self) -> &portable::Comb {
        &self.0.comb
    }
}

impl PartialEq for VerifyingKey {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for VerifyingKey {}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifyingKey(")?;
        for byte in self.as_bytes() {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(")")
    }
}

struct Registered {
    bytes: [u8; 32],
    comb: portable::Comb, // multiples of -A
}

/// The point `bytes` encodes, after every registry check.
pub(super) fn decode(bytes: &[u8; 32]) -> Result<EdwardsPoint, KeyRejection> {
    if !encoding::is_canonical(bytes) {
        return Err(KeyRejection::NotCanonical);
    }
    if encoding::is_small_order(bytes) {
        return Err(KeyRejection::SmallOrder);
    }
    let point = CompressedEdwardsY(*bytes).decompress().ok_or(KeyRejection::NotOnCurve)?;
    if !point.is_torsion_free() {
        return Err(KeyRejection::MixedOrder);
    }
    Ok(point)
}
