//! Keys nobody registered: decoded and checked in lanes, multiplied with doublings.

use std::arch::x86_64::*;

use super::super::encoding::L;
use super::comb::{Comb, Scalar};
use super::field::Fe;
use super::lanes::{Lanes, from_words, splat};
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
pub(super) fn sum(base: &Comb, keys: &[Lanes; 4], k: &[[u64; 4]; 8], s: &[Scalar; 8]) -> Cold {
    let (x, y, on_curve) = decode(keys);
    let minus_x = Fe::zero().biased().minus(&x.wide()).carried();
    let table = Table::new(&Sum::from_affine(&minus_x, &y));
    let prime_order = on_curve & table.times_order().projective().is_identity();
    Cold { sum: base.add_multiples(table.times(k), s), on_curve, prime_order }
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
    let x = Fe(x.negated_where(odd ^ negative).0).wide().carried();
    let missing = !(is_root | is_other);
    (x.replaced_where(missing, &Fe::splat(&BASE_X)), y.replaced_where(missing, &Fe::splat(&BASE_Y)), !missing)
}

/// The multiples 0 to 8 of a point.
struct Table([Cached; 9]);

impl Table {
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    fn new(point: &Sum) -> Self {
        let one = point.cached();
        let p2 = point.doubled();
        let p3 = p2.plus(&one);
        let p4 = p2.doubled();
        let p6 = p3.doubled();
        let (p5, p7, p8) = (p4.plus(&one), p6.plus(&one), p4.doubled());
        Self([
            Cached::identity(),
            one,
            p2.cached(),
            p3.cached(),
            p4.cached(),
            p5.cached(),
            p6.cached(),
            p7.cached(),
            p8.cached(),
        ])
    }

    /// `[scalar]` of each lane's point; the scalars are below 2^254.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    fn times(&self, scalars: &[[u64; 4]; 8]) -> Sum {
        // Adding 8 to every digit of 4 bits makes the digits, less 8, signed without any carry.
        let shifted = scalars.map(|scalar| plus_eights(&scalar));
        let words = [0, 1, 2, 3].map(|i| from_words(shifted.map(|scalar| scalar[i])));
        let mut sum = Sum::from_affine(&Fe::zero(), &Fe::splat(&ONE));
        for digit in (0..64).rev() {
            if digit < 63 {
                for _ in 0..4 {
                    sum = sum.doubled();
                }
            }
            let shift = splat(4 * (digit % 16));
            let digits = _mm512_and_si512(_mm512_srlv_epi64(words[(digit / 16) as usize], shift), splat(15));
            sum = sum.plus(&self.select(_mm512_sub_epi64(digits, splat(8))));
        }
        sum
    }

    /// The multiple of each lane's digit, from -8 to 8.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    fn select(&self, digits: Lanes) -> Cached {
        let sizes = _mm512_abs_epi64(digits);
        let mut selected = self.0[0];
        for (size, multiple) in self.0.iter().enumerate().skip(1) {
            selected = selected.replaced_where(_mm512_cmpeq_epi64_mask(sizes, splat(size as u64)), multiple);
        }
        selected.negated_where(_mm512_movepi64_mask(digits))
    }

    /// `[L]` of each lane's point: the same digits for all, so no selection.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    fn times_order(&self) -> Sum {
        let mut sum = Sum::from_affine(&Fe::zero(), &Fe::splat(&ONE)).plus(&self.0[1]);
        for digit in ORDER_DIGITS[..252].iter().rev() {
            sum = sum.doubled();
            if *digit != 0 {
                let multiple = &self.0[usize::from(digit.unsigned_abs())];
                let negative = if *digit < 0 { u8::MAX } else { 0 };
                sum = sum.plus(&multiple.negated_where(negative));
            }
        }
        sum
    }
}

/// `scalar + 0x888…8`, which does not overflow below 2^254.
fn plus_eights(scalar: &[u64; 4]) -> [u64; 4] {
    let mut carry = false;
    scalar.map(|word| {
        let (sum, overflow) = word.overflowing_add(0x8888_8888_8888_8888);
        let (sum, again) = sum.overflowing_add(u64::from(carry));
        carry = overflow || again;
        sum
    })
}

/// L in odd signed digits below 8 in size and zeros, at least three zeros after each digit; digit 252 is 1.
const ORDER_DIGITS: [i8; 253] = {
    let mut digits = [0; 253];
    let mut rest = L;
    let mut bit = 0;
    while bit < 253 {
        if rest[0] & 1 == 1 {
            let low = (rest[0] & 15) as i8;
            let digit = if low > 8 { low - 16 } else { low };
            digits[bit] = digit;
            rest[0] &= !15;
            if digit < 0 {
                let mut word = 0;
                let mut carry = 16;
                while word < 4 {
                    let (sum, overflow) = rest[word].overflowing_add(carry);
                    rest[word] = sum;
                    carry = overflow as u64;
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
    assert!(digits[252] == 1, "L is 2^252 and a number of 125 bits");
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
