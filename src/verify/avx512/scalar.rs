//! 512-bit hashes reduced modulo L in lanes, radix 2^52.
//!
//! Every multiplication by a challenge is one of a point of order L, so a representative below 2^254 is enough: no
//! final comparison. With L = 2^252 + c, each fold replaces `low + 2^252 · high` by `low - c · high` plus a multiple of L that
//! keeps it positive.

use std::arch::x86_64::*;

use super::super::encoding::L;
use super::lanes::{Lanes, splat};

/// Bits of a reduced challenge.
pub(super) const CHALLENGE_BITS: usize = 254;

/// c = L - 2^252.
const C: [u64; 3] = [0x2_631a_5cf5_d3ed, 0xd_ea2f_79cd_6581, 0x0_0000_0014_def9];
const LOW_52: u64 = (1 << 52) - 1;
/// Bits of 2^252 in limb 4.
const LOW_44: u64 = (1 << 44) - 1;

/// The hashes (little-endian words, one of each per vector) modulo L, below 2^254, as little-endian words.
#[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
pub(super) fn reduce(hash: &[Lanes; 8]) -> [Lanes; 4] {
    let mask = splat(LOW_52);
    let w = hash;
    let x = [
        w[0],
        _mm512_shrdi_epi64::<52>(w[0], w[1]),
        _mm512_shrdi_epi64::<40>(w[1], w[2]),
        _mm512_shrdi_epi64::<28>(w[2], w[3]),
        _mm512_shrdi_epi64::<16>(w[3], w[4]),
        _mm512_srli_epi64::<4>(w[4]),
        _mm512_shrdi_epi64::<56>(w[4], w[5]),
        _mm512_shrdi_epi64::<44>(w[5], w[6]),
        _mm512_shrdi_epi64::<32>(w[6], w[7]),
        _mm512_srli_epi64::<20>(w[7]),
    ]
    .map(|limb| and(limb, mask));
    // 512 bits: high is below 2^260, c · high below 2^385 < 2^133 · L; the result is below 2^386.
    let x = fold::<10, 5, 8>(&x, const { &shifted_order(133) });
    // high is below 2^134, c · high below 2^259 < 2^7 · L; the result is below 2^260.
    let x = fold::<8, 3, 5>(&x, const { &shifted_order(7) });
    // high is below 2^8, c · high below 2^133 < L; the result is below 2^252 + L < 2^254.
    let [x0, x1, x2, x3, x4] = fold::<5, 1, 5>(&x, const { &shifted_order(0) });
    [
        _mm512_or_si512(x0, _mm512_slli_epi64::<52>(x1)),
        _mm512_or_si512(_mm512_srli_epi64::<12>(x1), _mm512_slli_epi64::<40>(x2)),
        _mm512_or_si512(_mm512_srli_epi64::<24>(x2), _mm512_slli_epi64::<28>(x3)),
        _mm512_or_si512(_mm512_srli_epi64::<36>(x3), _mm512_slli_epi64::<16>(x4)),
    ]
}

/// `low + 2^252 · high` as `low - c · high + bias`, in limbs of 52 bits; `HIGH` limbs hold all of high, `OUT` the result.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
fn fold<const IN: usize, const HIGH: usize, const OUT: usize>(
    x: &[Lanes; IN],
    bias: &[u64; OUT],
) -> [Lanes; OUT] {
    let mask = splat(LOW_52);
    let mut low = [_mm512_setzero_si512(); OUT];
    low[..4].copy_from_slice(&x[..4]);
    low[4] = and(x[4], splat(LOW_44));
    let mut product = [_mm512_setzero_si512(); OUT];
    for j in 0..HIGH {
        let next = if 5 + j < IN { _mm512_slli_epi64::<8>(x[5 + j]) } else { _mm512_setzero_si512() };
        let high = and(_mm512_or_si512(_mm512_srli_epi64::<44>(x[4 + j]), next), mask);
        for (i, c) in C.iter().enumerate() {
            // Halves that would fall outside `OUT` are 0: the caller's bounds say so.
            if i + j < OUT {
                product[i + j] = _mm512_madd52lo_epu64(product[i + j], high, splat(*c));
            }
            if i + j + 1 < OUT {
                product[i + j + 1] = _mm512_madd52hi_epu64(product[i + j + 1], high, splat(*c));
            }
        }
    }
    let mut out = low;
    let mut carry = _mm512_setzero_si512();
    for i in 0..OUT {
        // A column may be negative; arithmetic shifts borrow from the next.
        let column = _mm512_sub_epi64(_mm512_add_epi64(low[i], splat(bias[i])), product[i]);
        let column = _mm512_add_epi64(column, carry);
        carry = _mm512_srai_epi64::<52>(column);
        out[i] = if i + 1 < OUT { and(column, mask) } else { column };
    }
    out
}

#[inline]
#[target_feature(enable = "avx512f")]
fn and(a: Lanes, b: Lanes) -> Lanes {
    _mm512_and_si512(a, b)
}

/// `2^shift · L` in limbs of 52 bits.
const fn shifted_order<const N: usize>(shift: usize) -> [u64; N] {
    let mut out = [0; N];
    let mut bit = 0;
    while bit < 253 {
        if L[bit / 64] >> (bit % 64) & 1 == 1 {
            out[(bit + shift) / 52] |= 1 << ((bit + shift) % 52);
        }
        bit += 1;
    }
    out
}
