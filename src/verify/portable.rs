//! The portable path: `curve25519-dalek` arithmetic, precomputed multiples for registered keys.
//!
//! A comb over dalek's public `EdwardsPoint`: one addition per signed digit, no doublings, and one inversion for each
//! sixteen results. All inputs are public, so table look-ups need not be constant-time.

use std::sync::LazyLock;

use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::Identity;
use sha2::{Digest, Sha512};

use super::key::{self, Table, TableGuard};
use super::verdict::{SignatureRejection, Verdict};
use super::{Item, ItemKey, encoding};

/// Digits of 5 bits: 51 windows of 16 points, 128 KiB a key.
const WINDOW_BITS_KEY: u32 = 5;
/// Digits of 8 bits: 32 windows of 128 points, 640 KiB, one table for the process.
const WINDOW_BITS_BASE: u32 = 8;
/// Bytes of a registered key's comb.
pub(super) const KEY_COMB_BYTES: usize =
    255_usize.div_ceil(WINDOW_BITS_KEY as usize) * (1 << (WINDOW_BITS_KEY - 1)) * size_of::<EdwardsPoint>();
/// Results compressed with one inversion.
const COMPRESSED_TOGETHER: usize = 16;

static BASE_COMB: LazyLock<Comb> = LazyLock::new(|| Comb::new(&ED25519_BASEPOINT_POINT, WINDOW_BITS_BASE));

/// Multiples `d · 2^(bits·i) · P` for every window i and 1 ≤ d ≤ 2^(bits-1), window by window.
pub(super) struct Comb {
    window_bits: u32,
    points: Box<[EdwardsPoint]>,
}

impl Comb {
    /// The comb of `point` with digits of `window_bits` (at most 8).
    fn new(point: &EdwardsPoint, window_bits: u32) -> Self {
        let windows = 255_usize.div_ceil(window_bits as usize);
        let entries = 1_usize << (window_bits - 1);
        let mut points = Vec::with_capacity(windows * entries);
        let mut step = *point;
        for _ in 0..windows {
            let mut multiple = step;
            for _ in 1..entries {
                points.push(multiple);
                multiple += step;
            }
            points.push(multiple);
            step = multiple + multiple; // 2 · 2^(bits-1) · step
        }
        Self { window_bits, points: points.into_boxed_slice() }
    }

    /// The comb of a registered key.
    pub(super) fn of_key(point: &EdwardsPoint) -> Self {
        Self::new(point, WINDOW_BITS_KEY)
    }

    /// `sum + [scalar]P`; `scalar` is below 2^253, little-endian.
    fn add_multiple(&self, mut sum: EdwardsPoint, scalar: &[u8; 32]) -> EdwardsPoint {
        let words = encoding::words(scalar);
        let entries = 1_usize << (self.window_bits - 1);
        let mut carry = 0;
        let mut bit = 0_u32;
        for window in self.points.chunks_exact(entries) {
            let mut digit = bits(&words, bit, self.window_bits) + carry;
            carry = 0;
            if digit > entries {
                // Signed digits halve the table: 2^bits - digit is subtracted and one carried.
                digit = 2 * entries - digit;
                carry = 1;
                if digit > 0 {
                    sum -= window[digit - 1];
                }
            } else if digit > 0 {
                sum += window[digit - 1];
            }
            bit += self.window_bits;
        }
        debug_assert_eq!(carry, 0, "the top digit of a scalar below 2^253 never carries");
        sum
    }
}

/// The bits `from..from + count` of a 256-bit number.
fn bits(words: &[u64; 4], from: u32, count: u32) -> usize {
    let (word, shift) = ((from / 64) as usize, from % 64);
    let low = words[word] >> shift;
    let high = if shift + count > 64 && word < 3 { words[word + 1] << (64 - shift) } else { 0 };
    usize::try_from((low | high) & ((1 << count) - 1)).expect("at most 8 bits")
}

/// Memory of one verifier, reused from batch to batch.
pub(super) struct Scratch {
    base_comb: &'static Comb,
    pending: Vec<Pending>,
}

/// An item that passed the byte checks, and the point whose encoding must equal its R.
struct Pending {
    index: usize,
    point: EdwardsPoint,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self { base_comb: &BASE_COMB, pending: Vec::new() }
    }

    /// Appends one verdict per item.
    pub(super) fn verify(&mut self, items: &[Item<'_>], verdicts: &mut Vec<Verdict>) {
        self.pending.clear();
        for (index, item) in items.iter().enumerate() {
            // Every verdict starts as a rejection; only an equal encoding below turns it.
            let rejection = match self.recompute_r(item) {
                Ok(point) => {
                    self.pending.push(Pending { index, point });
                    SignatureRejection::SignatureMismatch
                }
                Err(rejection) => rejection,
            };
            verdicts.push(Verdict::Rejected(rejection));
        }
        for group in self.pending.chunks(COMPRESSED_TOGETHER) {
            if let [only] = group {
                settle(only, &only.point.compress().0, items, verdicts);
                continue;
            }
            let mut points = [EdwardsPoint::identity(); COMPRESSED_TOGETHER];
            for (point, pending) in points.iter_mut().zip(group) {
                *point = pending.point;
            }
            let encodings = EdwardsPoint::compress_batch(&points);
            for (pending, encoding) in group.iter().zip(&encodings) {
                settle(pending, &encoding.0, items, verdicts);
            }
        }
    }

    /// The verdict of one item.
    pub(super) fn verify_one(&self, item: &Item<'_>) -> Verdict {
        match self.recompute_r(item) {
            Ok(point) if item.signature.first_chunk() == Some(&point.compress().0) => Verdict::accepted(),
            Ok(_) => Verdict::Rejected(SignatureRejection::SignatureMismatch),
            Err(rejection) => Verdict::Rejected(rejection),
        }
    }

    /// `[S]B − [k]A` of one item, after the checks that need no curve arithmetic.
    fn recompute_r(&self, item: &Item<'_>) -> Result<EdwardsPoint, SignatureRejection> {
        match item.key {
            ItemKey::Registered(key) => {
                let (r, s) = encoding::split(item.signature)?;
                let k = challenge(r, key.as_bytes(), item.message);
                key.count_uses(1);
                let minus_ka = match key.table().as_ref().map(TableGuard::get) {
                    Some(Table::Portable(comb)) => comb.add_multiple(EdwardsPoint::identity(), k.as_bytes()),
                    _ => multiple(&k, key.negated_point()),
                };
                Ok(self.base_comb.add_multiple(minus_ka, s))
            }
            ItemKey::Unregistered(bytes) => {
                let bytes = encoding::check_key(bytes)?;
                let a = key::decode(bytes)?;
                let (r, s) = encoding::split(item.signature)?;
                let k = challenge(r, bytes, item.message);
                Ok(self.base_comb.add_multiple(multiple(&k, &-a), s))
            }
        }
    }
}

/// `[k]P` for a point without a table.
fn multiple(k: &Scalar, point: &EdwardsPoint) -> EdwardsPoint {
    EdwardsPoint::vartime_double_scalar_mul_basepoint(k, point, &Scalar::ZERO)
}

fn settle(pending: &Pending, encoding: &[u8; 32], items: &[Item<'_>], verdicts: &mut [Verdict]) {
    if items[pending.index].signature.first_chunk() == Some(encoding) {
        verdicts[pending.index] = Verdict::accepted();
    }
}

/// `k = SHA-512(R ‖ A ‖ M) mod L` over the received bytes (RFC 8032 §5.1.7).
pub(super) fn challenge(r: &[u8; 32], a: &[u8; 32], message: &[u8]) -> Scalar {
    let hash = Sha512::new().chain_update(r).chain_update(a).chain_update(message).finalize();
    Scalar::from_bytes_mod_order_wide(&hash.into())
}
