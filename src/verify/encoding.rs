//! Checks on the bytes of points and scalars that need no arithmetic: canonical form, range, small order.

use super::verdict::SignatureRejection;

/// L, the order of the base point, little-endian 64-bit words (RFC 8032 §5.1).
pub(super) const L: [u64; 4] = [0x5812_631a_5cf5_d3ed, 0x14de_f9de_a2f7_9cd6, 0, 0x1000_0000_0000_0000];

/// p = 2^255 - 19, little-endian 64-bit words.
pub(super) const P: [u64; 4] =
    [0xffff_ffff_ffff_ffed, 0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff, 0x7fff_ffff_ffff_ffff];

/// The canonical encodings of the eight points whose order divides 8.
pub(super) const SMALL_ORDER: [[u8; 32]; 8] = [
    // (0, 1), the identity
    bytes([1, 0, 0, 0]),
    // (0, -1), order 2
    bytes([P[0] - 1, P[1], P[2], P[3]]),
    // (±sqrt(-1), 0), order 4
    bytes([0, 0, 0, 0]),
    bytes([0, 0, 0, SIGN]),
    // order 8
    bytes(ORDER_8_Y),
    bytes([ORDER_8_Y[0], ORDER_8_Y[1], ORDER_8_Y[2], ORDER_8_Y[3] | SIGN]),
    bytes(ORDER_8_MINUS_Y),
    bytes([ORDER_8_MINUS_Y[0], ORDER_8_MINUS_Y[1], ORDER_8_MINUS_Y[2], ORDER_8_MINUS_Y[3] | SIGN]),
];

/// The bit of an encoding that holds the sign of x.
pub(super) const SIGN: u64 = 1 << 63;

/// y of two points of order 8; the other two have -y.
const ORDER_8_Y: [u64; 4] =
    [0xb027_b2c2_8f95_e826, 0xf098_eff2_89f4_c345, 0x3933_c6d3_05ac_dfd5, 0x05fc_536d_8802_38b1];
const ORDER_8_MINUS_Y: [u64; 4] =
    [P[0] - ORDER_8_Y[0], P[1] - ORDER_8_Y[1], P[2] - ORDER_8_Y[2], P[3] - ORDER_8_Y[3]]; // no word borrows

/// Whether `scalar` (little-endian) is below L.
pub(super) fn scalar_in_range(scalar: &[u8; 32]) -> bool {
    below(&words(scalar), &L)
}

/// Whether `encoding` is one of the eight canonical small-order encodings.
pub(super) fn is_small_order(encoding: &[u8; 32]) -> bool {
    // Comparing the first word first settles nearly all of it.
    let first = encoding.first_chunk::<8>();
    SMALL_ORDER.iter().any(|small| small.first_chunk::<8>() == first && small == encoding)
}

/// Whether y is below p and x = 0 (which only y = ±1 has) does not carry a sign.
pub(super) fn is_canonical(encoding: &[u8; 32]) -> bool {
    let mut y = words(encoding);
    let signed = y[3] & SIGN != 0;
    y[3] &= !SIGN;
    let x_is_zero = y == [1, 0, 0, 0] || y == [P[0] - 1, P[1], P[2], P[3]];
    below(&y, &P) && !(signed && x_is_zero)
}

/// The checks of a raw key that need no arithmetic, in the order of the verdicts.
pub(super) fn check_key(bytes: &[u8]) -> Result<&[u8; 32], SignatureRejection> {
    let bytes = bytes.try_into().map_err(|_| SignatureRejection::KeyMalformed)?;
    if !is_canonical(bytes) {
        return Err(SignatureRejection::KeyNotCanonical);
    }
    if is_small_order(bytes) {
        return Err(SignatureRejection::KeySmallOrder);
    }
    Ok(bytes)
}

/// R and S of a signature that passes the checks that need no arithmetic.
pub(super) fn split(signature: &[u8]) -> Result<(&[u8; 32], &[u8; 32]), SignatureRejection> {
    let (r, s) = signature.split_first_chunk::<32>().ok_or(SignatureRejection::SignatureMalformed)?;
    let s: &[u8; 32] = s.try_into().map_err(|_| SignatureRejection::SignatureMalformed)?;
    if !scalar_in_range(s) {
        return Err(SignatureRejection::ScalarOutOfRange);
    }
    if is_small_order(r) {
        return Err(SignatureRejection::SmallOrderR);
    }
    Ok((r, s))
}

/// 32 little-endian bytes as four words.
pub(super) fn words(bytes: &[u8; 32]) -> [u64; 4] {
    let (chunks, _) = bytes.as_chunks::<8>();
    [0, 1, 2, 3].map(|i| u64::from_le_bytes(chunks[i]))
}

fn below(a: &[u64; 4], bound: &[u64; 4]) -> bool {
    a.iter().rev().lt(bound.iter().rev())
}

const fn bytes(words: [u64; 4]) -> [u8; 32] {
    let mut out = [0; 32];
    let mut i = 0;
    while i < 32 {
        out[i] = words[i / 8].to_le_bytes()[i % 8];
        i += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::EIGHT_TORSION;

    use super::*;

    #[test]
    fn small_order_table_is_the_eight_torsion_subgroup() {
        for point in EIGHT_TORSION {
            assert!(is_small_order(&point.compress().0));
        }
        let mut distinct = SMALL_ORDER.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), EIGHT_TORSION.len());
    }

    #[test]
    fn canonical_encodings_end_at_p_and_minus_zero() {
        let mut y = P;
        assert!(!is_canonical(&bytes(y)));
        y[0] -= 1;
        assert!(is_canonical(&bytes(y)));
        y[3] |= SIGN;
        assert!(!is_canonical(&bytes(y)), "-1 with a sign");
        y[0] -= 1;
        assert!(is_canonical(&bytes(y)), "p - 2 with a sign");
        assert!(is_canonical(&bytes([1, 0, 0, 0])));
        assert!(!is_canonical(&bytes([1, 0, 0, SIGN])));
        assert!(!is_canonical(&[0xff; 32]));
    }

    #[test]
    fn scalars_end_at_the_group_order() {
        let mut s = L;
        assert!(!scalar_in_range(&bytes(s)));
        s[0] -= 1;
        assert!(scalar_in_range(&bytes(s)));
        assert!(scalar_in_range(&[0; 32]));
        assert!(!scalar_in_range(&[0xff; 32]));
        assert!(!scalar_in_range(&bytes([0, 0, 1, L[3]])));
    }
}
