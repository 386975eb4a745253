//! Verifying keys: the checks a key passes once, and the table that pays for them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwapOption, Guard};
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::tables::Tables;
use super::verdict::SignatureRejection;
use super::{encoding, portable};

/// An Ed25519 verifying key that passed the registry's checks. Cheap to clone; clones share the table.
#[derive(Clone)]
pub struct VerifyingKey(pub(super) Arc<Registered>);

/// Why a key cannot be registered; in the order in which reasons take precedence.
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
    /// Checks `bytes` (RFC 8032 §5.1.2 encoding) and builds the key's table if the process's budget has room for it, which
    /// takes up to a millisecond. A key that is registered already, and alive, is shared.
    ///
    /// # Errors
    /// The first check that fails, in the order of [`KeyRejection`].
    pub fn register(bytes: &[u8; 32]) -> Result<Self, KeyRejection> {
        Tables::of_process().register(bytes)
    }

    /// As [`VerifyingKey::register`], for a thread that must not wait: `None` while somebody else registers or rebalances. A key that is
    /// new gets its table when [`Tables::rebalance`] next finds it in use.
    ///
    /// # Errors
    /// As of [`VerifyingKey::register`].
    pub fn try_register(bytes: &[u8; 32]) -> Result<Option<Self>, KeyRejection> {
        Tables::of_process().try_register(bytes)
    }

    /// Whether `bytes` could be registered; makes nothing of it.
    ///
    /// # Errors
    /// The first check that fails, in the order of [`KeyRejection`].
    pub fn check(bytes: &[u8; 32]) -> Result<(), KeyRejection> {
        decode(bytes).map(drop)
    }

    /// The 32 bytes that were registered.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0.bytes
    }

    /// The key's table as it is now, kept alive by the guard; none if the budget has no room for it.
    pub(super) fn table(&self) -> Option<TableGuard> {
        let table = self.0.table.load();
        table.is_some().then(|| TableGuard { key: Arc::as_ptr(&self.0).addr(), table })
    }

    pub(super) fn count_uses(&self, count: u64) {
        self.0.uses.fetch_add(count, Ordering::Relaxed);
    }

    /// `-A`.
    pub(super) fn negated_point(&self) -> &EdwardsPoint {
        &self.0.negated
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

/// What the clones of a key share.
pub(super) struct Registered {
    bytes: [u8; 32],
    negated: EdwardsPoint,
    // Set and cleared by `Tables`, read by every shard.
    pub(super) table: ArcSwapOption<Table>,
    // Items since the last rebalancing; added to once per batch by each shard.
    pub(super) uses: AtomicU64,
}

impl Registered {
    /// Makes every registry check; the key has no table yet.
    pub(super) fn new(bytes: &[u8; 32]) -> Result<Self, KeyRejection> {
        let negated = -decode(bytes)?;
        Ok(Self { bytes: *bytes, negated, table: ArcSwapOption::empty(), uses: AtomicU64::new(0) })
    }

    pub(super) fn negated(&self) -> &EdwardsPoint {
        &self.negated
    }
}

/// Multiples of `-A`, in the form one engine reads.
pub(super) enum Table {
    #[cfg(target_arch = "x86_64")]
    Lanes(avx512::Comb),
    Portable(portable::Comb),
}

/// A table that stays alive while it is in use, whatever `Tables` does.
pub(super) struct TableGuard {
    key: usize,
    table: Guard<Option<Arc<Table>>>,
}

impl TableGuard {
    pub(super) fn is_of(&self, key: &VerifyingKey) -> bool {
        self.key == Arc::as_ptr(&key.0).addr()
    }

    pub(super) fn get(&self) -> &Table {
        self.table.as_ref().expect("a guard is made only of a table")
    }
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

impl From<KeyRejection> for SignatureRejection {
    fn from(rejection: KeyRejection) -> Self {
        match rejection {
            KeyRejection::NotCanonical => Self::KeyNotCanonical,
            KeyRejection::SmallOrder => Self::KeySmallOrder,
            KeyRejection::NotOnCurve => Self::KeyNotOnCurve,
            KeyRejection::MixedOrder => Self::KeyMixedOrder,
        }
    }
}
