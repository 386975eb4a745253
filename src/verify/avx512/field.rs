//! Arithmetic modulo p = 2^255 - 19 on eight independent elements, one per 64-bit lane.
//!
//! An element is five limbs of radix 2^51. `vpmadd52` multiplies the low 52 bits of two lanes and adds the low or the
//! high half of the 104-bit product, so every factor's limbs must be below 2^52. Reduction is lazy, in two types:
//!
//! * [`Fe`], carried: every limb is below [`CARRIED`]. Any two can be multiplied.
//! * [`Wide`], a sum of products not yet carried: every limb is below [`WIDE`]. Wides can be added and subtracted,
//!   then carried.
//!
//! The sum of two `Fe` may pass 2^52 by a hair, so sums are made of `Wide`s *before* the carry that each product needs
//! anyway: an addition of points has seven multiplications and seven carries. The bounds are checked in debug builds.

use std::arch::x86_64::*;

use super::lanes::{Lanes, from_words, splat, to_words};

/// Carried element: limbs below [`CARRIED`] (or below 2^52 where a function says so).
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Fe(pub(super) [Lanes; 5]);

/// Uncarried element: limbs below [`WIDE`].
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Wide(pub(super) [Lanes; 5]);

/// 2^51 - 1.
pub(super) const MASK: u64 = (1 << 51) - 1;
/// Bound of a carried limb: 51 bits, plus 19 times a carry below 2^11 (limb 0) or that carry itself (the others).
pub(super) const CARRIED: u64 = (1 << 51) + (1 << 16);
/// Bound of a factor's limb: what `vpmadd52` looks at.
pub(super) const FACTOR: u64 = 1 << 52;
/// Bound of a limb that can be carried.
pub(super) const WIDE: u64 = 1 << 62;

// Bounds of the limbs of a product, in units of 2^52: limb 0 is the largest, 1 low half of column 0 and 19 times column
// 5 (4 low halves and 5 doubled high halves). A low half is below 1; a high half is below 1/4 for two carried factors
// (124.5 in all), below 1/2 if one factor is only below 2^52 (172), below 1 if both are (267).

/// p-multiple added to a minuend: 512p. Each of its limbs is 256 units, more than the 172 of a product with one carried
/// factor, so that minuend - subtrahend stays positive; 256 + 267 + 172 units are below [`WIDE`] (1024).
const BIAS: [u64; 5] = [512 * (MASK - 18), 512 * MASK, 512 * MASK, 512 * MASK, 512 * MASK];
/// 2p: what [`Fe::negated_where`] subtracts from; its limbs are below 2^52.
const TWO_P: [u64; 5] = [2 * (MASK - 18), 2 * MASK, 2 * MASK, 2 * MASK, 2 * MASK];

impl Fe {
    /// The element 0 in every lane.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn zero() -> Self {
        Self([_mm512_setzero_si512(); 5])
    }

    /// The same element, given as radix 2^51 limbs, in every lane.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn splat(limbs: &[u64; 5]) -> Self {
        Self([splat(limbs[0]), splat(limbs[1]), splat(limbs[2]), splat(limbs[3]), splat(limbs[4])])
    }

    /// Elements from little-endian 255-bit numbers, one word of each per vector; bit 255 is ignored.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn from_words(w: &[Lanes; 4]) -> Self {
        let mask = splat(MASK);
        Self([
            _mm512_and_si512(w[0], mask),
            _mm512_and_si512(_mm512_shrdi_epi64::<51>(w[0], w[1]), mask),
            _mm512_and_si512(_mm512_shrdi_epi64::<38>(w[1], w[2]), mask),
            _mm512_and_si512(_mm512_shrdi_epi64::<25>(w[2], w[3]), mask),
            _mm512_and_si512(_mm512_srli_epi64::<12>(w[3]), mask),
        ])
    }

    /// The unique representative below p, as little-endian words; `self` is carried.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn canonical_words(&self) -> [Lanes; 4] {
        let [l0, l1, l2, l3, l4] = self.canonical().0;
        [
            _mm512_or_si512(l0, _mm512_slli_epi64::<51>(l1)),
            _mm512_or_si512(_mm512_srli_epi64::<13>(l1), _mm512_slli_epi64::<38>(l2)),
            _mm512_or_si512(_mm512_srli_epi64::<26>(l2), _mm512_slli_epi64::<25>(l3)),
            _mm512_or_si512(_mm512_srli_epi64::<39>(l3), _mm512_slli_epi64::<12>(l4)),
        ]
    }

    /// The unique representative below p; `self` is carried.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn canonical(&self) -> Self {
        self.assert_below(CARRIED);
        let mask = splat(MASK);
        let times_19 = splat(19);
        // Carried limbs make a value below 2p; one chain leaves it below 2^255 + 19, in limbs of 51 bits but the first.
        let mut l = self.0;
        for i in 0..4 {
            l[i + 1] = _mm512_add_epi64(l[i + 1], _mm512_srli_epi64::<51>(l[i]));
            l[i] = _mm512_and_si512(l[i], mask);
        }
        l[0] = _mm512_madd52lo_epu64(l[0], _mm512_srli_epi64::<51>(l[4]), times_19);
        l[4] = _mm512_and_si512(l[4], mask);
        // value >= p exactly if value + 19 reaches 2^255; then subtract p by adding 19 and dropping bit 255.
        let mut reaches = _mm512_srli_epi64::<51>(_mm512_add_epi64(l[0], times_19));
        for limb in &l[1..] {
            reaches = _mm512_srli_epi64::<51>(_mm512_add_epi64(*limb, reaches));
        }
        l[0] = _mm512_madd52lo_epu64(l[0], reaches, times_19);
        for i in 0..4 {
            l[i + 1] = _mm512_add_epi64(l[i + 1], _mm512_srli_epi64::<51>(l[i]));
            l[i] = _mm512_and_si512(l[i], mask);
        }
        l[4] = _mm512_and_si512(l[4], mask);
        Self(l)
    }

    /// `self · other`, uncarried; the limbs of both are below 2^52.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn times(&self, other: &Self) -> Wide {
        let zero = _mm512_setzero_si512();
        product(self, other, zero, &[zero; 4])
    }

    /// `self · other` plus a multiple of p large enough for a product to be subtracted.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn times_biased(&self, other: &Self) -> Wide {
        product(self, other, splat(BIAS[0]), &[splat(BIAS[1] / 2); 4])
    }

    /// `self²`, uncarried; limbs below 2^52.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn squared(&self) -> Wide {
        let zero = _mm512_setzero_si512();
        square(self, zero, &[zero; 4])
    }

    /// `self²` plus a multiple of p large enough for a product to be subtracted.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn squared_biased(&self) -> Wide {
        square(self, splat(BIAS[0]), &[splat(BIAS[1] / 2); 4])
    }

    /// `self · other`, carried.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn mul(&self, other: &Self) -> Self {
        self.times(other).carried()
    }

    /// `self` as a minuend or summand.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn biased(&self) -> Wide {
        let mut l = self.0;
        for (limb, bias) in l.iter_mut().zip(BIAS) {
            *limb = _mm512_add_epi64(*limb, splat(bias));
        }
        Wide(l)
    }

    /// `self` as a summand or subtrahend.
    #[inline]
    pub(super) fn wide(&self) -> Wide {
        Wide(self.0)
    }

    /// `-self` in the lanes of `lanes`; `self` is carried, the result's limbs are below 2^52.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn negated_where(&self, lanes: __mmask8) -> Self {
        self.assert_below(CARRIED);
        let mut l = self.0;
        for (limb, two_p) in l.iter_mut().zip(TWO_P) {
            *limb = _mm512_mask_sub_epi64(*limb, lanes, splat(two_p), *limb);
        }
        Self(l)
    }

    /// `other` in the lanes of `lanes`, `self` in the rest.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn replaced_where(&self, lanes: __mmask8, other: &Self) -> Self {
        let mut l = self.0;
        for (limb, other) in l.iter_mut().zip(other.0) {
            *limb = _mm512_mask_mov_epi64(*limb, lanes, other);
        }
        Self(l)
    }

    /// The lanes in which `self` is 0 modulo p.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn is_zero(&self) -> __mmask8 {
        let [a, b, c, d, e] = self.canonical().0;
        let any = _mm512_or_si512(_mm512_or_si512(_mm512_or_si512(a, b), _mm512_or_si512(c, d)), e);
        _mm512_testn_epi64_mask(any, any)
    }

    /// Element i of the result is element `from[i]` of `self`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn permuted(&self, from: Lanes) -> Self {
        let mut l = self.0;
        for limb in &mut l {
            *limb = _mm512_permutexvar_epi64(from, *limb);
        }
        Self(l)
    }

    /// `self^(2^n)`.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn squared_times(&self, n: u32) -> Self {
        let mut x = *self;
        for _ in 0..n {
            x = x.squared().carried();
        }
        x
    }

    /// `self^((p-5)/8)`, with (p-5)/8 = 2^252 - 3: the power both roots and quotients are made of (RFC 8032 §5.1.3).
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn pow_p58(&self) -> Self {
        // x_n is self^(2^n - 1).
        let x2 = self.squared_times(1).mul(self);
        let x4 = x2.squared_times(2).mul(&x2);
        let x5 = x4.squared_times(1).mul(self);
        let x10 = x5.squared_times(5).mul(&x5);
        let x20 = x10.squared_times(10).mul(&x10);
        let x40 = x20.squared_times(20).mul(&x20);
        let x50 = x40.squared_times(10).mul(&x10);
        let x100 = x50.squared_times(50).mul(&x50);
        let x200 = x100.squared_times(100).mul(&x100);
        let x250 = x200.squared_times(50).mul(&x50);
        x250.squared_times(2).mul(self)
    }

    /// The limbs of one lane.
    pub(super) fn lane(&self, lane: usize) -> [u64; 5] {
        self.0.map(|limb| to_words(limb)[lane])
    }

    /// Elements from the limbs of each lane.
    pub(super) fn from_lanes(lanes: &[[u64; 5]; 8]) -> Self {
        Self([0, 1, 2, 3, 4].map(|limb| from_words(lanes.map(|lane| lane[limb]))))
    }

    /// In debug builds, that every limb is below `bound`.
    #[inline]
    pub(super) fn assert_below(&self, bound: u64) {
        debug_assert!(
            self.0.iter().all(|limb| to_words(*limb).iter().all(|word| *word < bound)),
            "a limb of {self:x?} is not below {bound:x}"
        );
    }
}

impl Wide {
    /// `self + other`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn plus(&self, other: &Self) -> Self {
        let mut l = self.0;
        for (limb, other) in l.iter_mut().zip(other.0) {
            *limb = _mm512_add_epi64(*limb, other);
        }
        Self(l)
    }

    /// `self - other`, where `self` is biased and `other` is a product or an [`Fe`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn minus(&self, other: &Self) -> Self {
        let mut l = self.0;
        for (limb, other) in l.iter_mut().zip(other.0) {
            *limb = _mm512_sub_epi64(*limb, other);
        }
        Self(l)
    }

    /// `self`, of limbs below 512 · 2^52, as a minuend.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn with_bias(&self) -> Self {
        Fe(self.0).biased()
    }

    /// One parallel carry: each limb keeps 51 bits and gives the rest, below 2^11, to the next; limb 4 gives it times 19
    /// to limb 0, as 2^255 = 19 modulo p.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn carried(&self) -> Fe {
        debug_assert!(
            self.0.iter().all(|limb| to_words(*limb).iter().all(|word| *word < WIDE)),
            "a limb of {self:x?} is not below 2^62"
        );
        let mask = splat(MASK);
        let [l0, l1, l2, l3, l4] = self.0;
        Fe([
            _mm512_madd52lo_epu64(_mm512_and_si512(l0, mask), _mm512_srli_epi64::<51>(l4), splat(19)),
            _mm512_add_epi64(_mm512_and_si512(l1, mask), _mm512_srli_epi64::<51>(l0)),
            _mm512_add_epi64(_mm512_and_si512(l2, mask), _mm512_srli_epi64::<51>(l1)),
            _mm512_add_epi64(_mm512_and_si512(l3, mask), _mm512_srli_epi64::<51>(l2)),
            _mm512_add_epi64(_mm512_and_si512(l4, mask), _mm512_srli_epi64::<51>(l3)),
        ])
    }
}

/// `a · b + bias`: `bias_0` is limb 0 of the bias, `half_bias` half of each other limb.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
fn product(a: &Fe, b: &Fe, bias_0: Lanes, half_bias: &[Lanes; 4]) -> Wide {
    a.assert_below(FACTOR);
    b.assert_below(FACTOR);
    let zero = _mm512_setzero_si512();
    let [h1, h2, h3, h4] = *half_bias;
    // High halves first: column k + 1 holds them with weight 2^(51k + 52), so doubled once they are summed.
    let mut column = [zero, h1, h2, h3, h4, zero, zero, zero, zero, zero];
    for i in 0..5 {
        for j in 0..5 {
            column[i + j + 1] = _mm512_madd52hi_epu64(column[i + j + 1], a.0[i], b.0[j]);
        }
    }
    for limb in &mut column[1..] {
        *limb = _mm512_add_epi64(*limb, *limb);
    }
    column[0] = bias_0;
    for i in 0..5 {
        for j in 0..5 {
            column[i + j] = _mm512_madd52lo_epu64(column[i + j], a.0[i], b.0[j]);
        }
    }
    fold(&column)
}

/// `a² + bias`, as in [`product`]: the ten cross products are made once and doubled.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
fn square(a: &Fe, bias_0: Lanes, half_bias: &[Lanes; 4]) -> Wide {
    a.assert_below(FACTOR);
    let zero = _mm512_setzero_si512();
    let mut column = [zero; 10];
    for i in 0..5 {
        for j in i + 1..5 {
            column[i + j + 1] = _mm512_madd52hi_epu64(column[i + j + 1], a.0[i], a.0[j]);
        }
    }
    for limb in &mut column[2..9] {
        *limb = _mm512_add_epi64(*limb, *limb);
    }
    for (limb, bias) in column[1..5].iter_mut().zip(half_bias) {
        *limb = _mm512_add_epi64(*limb, *bias);
    }
    for i in 0..5 {
        column[2 * i + 1] = _mm512_madd52hi_epu64(column[2 * i + 1], a.0[i], a.0[i]);
        for j in i + 1..5 {
            column[i + j] = _mm512_madd52lo_epu64(column[i + j], a.0[i], a.0[j]);
        }
    }
    for limb in &mut column[1..] {
        *limb = _mm512_add_epi64(*limb, *limb);
    }
    column[0] = bias_0;
    for i in 0..5 {
        column[2 * i] = _mm512_madd52lo_epu64(column[2 * i], a.0[i], a.0[i]);
    }
    fold(&column)
}

/// Columns 5 to 9 weigh 2^255 = 19 times columns 0 to 4; they are below 6.5 · 2^52 (10.6 · 2^52 for factors of 52 bits),
/// so that 19 times them stays below [`WIDE`].
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
fn fold(column: &[Lanes; 10]) -> Wide {
    let mut l = [column[0], column[1], column[2], column[3], column[4]];
    for (limb, high) in l.iter_mut().zip(&column[5..]) {
        let times_2 = _mm512_add_epi64(*high, *high);
        let times_3 = _mm512_add_epi64(times_2, *high);
        *limb = _mm512_add_epi64(_mm512_add_epi64(*limb, times_3), _mm512_slli_epi64::<4>(*high));
    }
    Wide(l)
}
