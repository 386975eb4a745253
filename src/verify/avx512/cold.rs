//! Keys nobody registered: decoded and checked in lanes, multiplied with doublings.

use std::arch::x86_64::*;

use super::super::encoding::L;
use super::comb::{Comb, Scalars};
use super::field::Fe;
use super::lanes::{Lanes, splat};
use super::point::{Cached, D, ONE, Sum};

/// What the lanes of a cold group turned out to be.
pub(super) struct Cold {
    /// `[s]B - [k]A`; in lanes without a good key, a point of the curve without meaning.
    pub(super) sum: Sum,
    /// Lanes whose key is a point of the curve.
    pub(super) on_curve: __mmask8,
    /// Lanes whose key is in the prime-order subgroup; a subset of `on_curve`.
    pub(super) prime_order: __mmask8,
}

/// `[s]B - [k]A` for eight keys, given as encodings that are canonical and not of small order.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
pub(super) fn sum(base: &Comb, keys: &[Lanes; 4], k: &Scalars, s: &Scalars) -> Cold {
    let (x, y, on_curve) = decode(keys);
    let minus_x = Fe::zero().biased().minus(&x.wide()).carried();
    let Multiples { by_scalars: mut sum, by_order } = multiples(Sum::from_affine(&minus_x, &y), k);
    base.add_multiples(&mut sum, s);
    Cold { sum, on_curve, prime_order: on_curve & by_order.projective().is_identity() }
}

/// The affine points of eight encodings, and the lanes that have one (RFC 8032 §5.1.3); the others get B, so that every
/// lane goes on with a point of the curve.
#[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
pub(super) fn decode(encodings: &[Lanes; 4]) -> (Fe, Fe, __mmask8) {
    let y = Fe::from_words(encodings);
    let negative = _mm512_movepi64_mask(encodings[3]);
    let one = Fe::splat(&ONE);
    let y_squared = y.squared().carried();
    let u = y_squared.biased().minus(&one.wide()).carried();
    let v = y_squared.times(&Fe::splat(&D)).plus(&one.wide()).carried();
    // x = sqrt(u/v) = u v³ (u v⁷)^((p-5)/8), or that times sqrt(-1).
    let v3 = v.squared().carried().mul(&v);
    let v7 = v3.squared().carried().mul(&v);
    let root = u.mul(&v3).mul(&u.mul(&v7).pow_p58());
    let check = v.mul(&root.squared().carried());
    let is_root = check.biased().minus(&u.wide()).carried().is_zero();
    let is_other = check.wide().plus(&u.wide()).carried().is_zero();
    let x = root.replaced_where(is_other, &root.mul(&Fe::splat(&SQRT_OF_MINUS_1))).canonical();
    let odd = _mm512_test_epi64_mask(x.0[0], splat(1));
    let x = x.negated_where(odd ^ negative).wide().carried();
    let missing = !(is_root | is_other);
    (x.replaced_where(missing, &Fe::splat(&BASE_X)), y.replaced_where(missing, &Fe::splat(&BASE_Y)), !missing)
}

/// What [`multiples`] yields.
struct Multiples {
    by_scalars: Sum,
    by_order: Sum,
}

/// `[scalar]P` and `[L]P` of each lane; the scalars are below 2^254.
///
/// Both come from the same doublings, from the lowest bit up: each power of two is added to or subtracted from the sum for L
/// where L has a digit, and every fourth one to the bucket of each lane's digit (Yao's method). Two chains of doublings from the
/// top would take half as long again.
#[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
fn multiples(point: Sum, scalars: &Scalars) -> Multiples {
    let identity = Sum::from_affine(&Fe::zero(), &Fe::splat(&ONE));
    let shifted = plus_eights(scalars);
    let mut buckets = [identity; 8];
    let mut by_order = identity;
    let mut power = point;
    for (bit, order_digit) in ORDER_DIGITS.iter().enumerate() {
        if bit % 4 == 0 || *order_digit != 0 {
            let cached = power.cached();
            if *order_digit != 0 {
                let negative = if *order_digit < 0 { u8::MAX } else { 0 };
                by_order.add(&cached.negated_where(negative));
            }
            if bit % 4 == 0 {
                let digit = _mm512_srlv_epi64(shifted[bit / 64], splat((bit % 64) as u64));
                let digit = _mm512_sub_epi64(_mm512_and_si512(digit, splat(15)), splat(8));
                add_to_bucket(&mut buckets, &cached, digit);
            }
        }
        if bit + 1 < ORDER_DIGITS.len() {
            power.double();
        }
    }
    // The sum of j times bucket j, as the sum of the sums of buckets j and above.
    let [first, rest @ ..] = &buckets;
    let mut above = identity;
    let mut by_scalars = identity;
    for bucket in rest.iter().rev() {
        above.add(&bucket.cached());
        by_scalars.add(&above.cached());
    }
    above.add(&first.cached());
    by_scalars.add(&above.cached());
    Multiples { by_scalars, by_order }
}

/// Adds each lane's point, with the sign of its digit, to the bucket of the digit's size (1 to 8, in place size - 1).
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
fn add_to_bucket(buckets: &mut [Sum; 8], point: &Cached, digits: Lanes) {
    let sizes = _mm512_abs_epi64(digits);
    let lanes_of = |place: usize| _mm512_cmpeq_epi64_mask(sizes, splat(place as u64 + 1));
    let mut sum = buckets[0];
    for (place, bucket) in buckets.iter().enumerate().skip(1) {
        sum = sum.replaced_where(lanes_of(place), bucket);
    }
    // A lane whose digit is 0 adds in vain: no bucket takes its sum.
    sum.add(&point.negated_where(_mm512_movepi64_mask(digits)));
    for (place, bucket) in buckets.iter_mut().enumerate() {
        *bucket = bucket.replaced_where(lanes_of(place), &sum);
    }
}

/// `scalar + 0x888…8` of each lane: its digits of 4 bits, less 8 each, are signed without any carry. The scalars are
/// below 2^254, so that nothing overflows.
#[target_feature(enable = "avx512f")]
fn plus_eights(scalars: &Scalars) -> Scalars {
    let eights = splat(0x8888_8888_8888_8888);
    let mut carry = 0;
    scalars.map(|word| {
        let with_carry = _mm512_mask_add_epi64(word, carry, word, splat(1));
        let wrapped = _mm512_mask_testn_epi64_mask(carry, with_carry, with_carry);
        let sum = _mm512_add_epi64(with_carry, eights);
        carry = wrapped | _mm512_cmplt_epu64_mask(sum, eights);
        sum
    })
}

/// L in signed binary digits, no two of them adjacent (the non-adjacent form): the 253 lowest are all.
const ORDER_DIGITS: [i8; 253] = {
    let mut digits = [0; 253];
    let mut rest = L;
    let mut bit = 0;
    while bit < 253 {
        if rest[0] & 1 == 1 {
            // 3 modulo 4 is -1 and a carry; L's top digit is far above its others, so nothing overflows.
            digits[bit] = if rest[0] & 2 == 2 { -1 } else { 1 };
            let mut carry = rest[0] >> 1 & 1 == 1;
            rest[0] &= !1;
            if carry {
                let (sum, overflow) = rest[0].overflowing_add(2);
                rest[0] = sum;
                carry = overflow;
                let mut word = 1;
                while word < 4 && carry {
                    (rest[word], carry) = rest[word].overflowing_add(1);
                    word += 1;
                }
            }
        }
        let mut word = 0;
        while word < 4 {
            let next = if word < 3 { rest[word + 1] } else { 0 };
            rest[word] = rest[word] >> 1 | next << 63;
            word += 1;
        }
        bit += 1;
    }
    assert!(digits[252] == 1 && rest[0] == 0, "L is 2^252 and a number of 125 bits");
    digits
};

/// A square root of -1 modulo p.
const SQRT_OF_MINUS_1: [u64; 5] =
    [0x6_1b27_4a0e_a0b0, 0x0_d5a5_fc8f_189d, 0x7_ef5e_9cbd_0c60, 0x7_8595_a680_4c9e, 0x2_b832_4804_fc1d];
/// B (RFC 8032 §5.1).
const BASE_X: [u64; 5] =
    [0x6_2d60_8f25_d51a, 0x4_12a4_b4f6_592a, 0x7_5b71_71a4_b31d, 0x1_ff60_5271_18fe, 0x2_1693_6d3c_d6e5];
const BASE_Y: [u64; 5] =
    [0x6_6666_6666_6658, 0x4_cccc_cccc_cccc, 0x1_9999_9999_9999, 0x3_3333_3333_3333, 0x6_6666_6666_6666];
