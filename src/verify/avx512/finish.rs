//! What a batch does once for all its groups: inversion, encoding, comparison.

use std::arch::x86_64::*;

use super::super::inverse;
use super::field::Fe;
use super::lanes::{Lanes, from_words, splat, to_words};
use super::point::{ONE, Projective};

/// Replaces every element by its inverse with one inversion for all of them (Montgomery's trick, down the slice and then
/// across the lanes). If any element is 0 all become 0.
#[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
pub(super) fn invert_each(elements: &mut [Fe], products: &mut Vec<Fe>) {
    products.clear();
    let mut product = Fe::splat(&ONE);
    for element in elements.iter() {
        products.push(product);
        product = product.mul(element);
    }
    let mut inverse = invert_lanes(&product);
    for (element, product) in elements.iter_mut().zip(products.iter()).rev() {
        let next = inverse.mul(element);
        *element = inverse.mul(product);
        inverse = next;
    }
}

/// The inverse in every lane.
#[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
fn invert_lanes(x: &Fe) -> Fe {
    let other = |stride: u64| from_words([0, 1, 2, 3, 4, 5, 6, 7].map(|lane| lane ^ stride));
    let pairs = x.mul(&x.permuted(other(1)));
    let fours = pairs.mul(&pairs.permuted(other(2)));
    let all = fours.mul(&fours.permuted(other(4)));
    let product = all.canonical_words().map(|word| to_words(word)[0]);
    debug_assert_ne!(product, [0; 4], "no point of the curve has Z = 0");
    let inverse = inverse::invert(&product);
    let inverse_of_all = Fe::from_words(&inverse.map(|word| splat(word)));
    let inverse_of_fours = inverse_of_all.mul(&fours.permuted(other(4)));
    let inverse_of_pairs = inverse_of_fours.mul(&pairs.permuted(other(2)));
    inverse_of_pairs.mul(&x.permuted(other(1)))
}

/// The lanes in which `point`, whose 1/Z is `inverse_of_z`, encodes to `encoding` (little-endian words; RFC 8032 §5.1.2).
#[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
pub(super) fn encodes_to(point: &Projective, inverse_of_z: &Fe, encoding: &[Lanes; 4]) -> __mmask8 {
    let x = point.x.mul(inverse_of_z).canonical();
    let mut y = point.y.mul(inverse_of_z).canonical_words();
    // The parity of x is the top bit.
    y[3] = _mm512_or_si512(y[3], _mm512_slli_epi64::<63>(x.0[0]));
    let mut equal = u8::MAX;
    for (word, expected) in y.iter().zip(encoding) {
        equal &= _mm512_cmpeq_epi64_mask(*word, *expected);
    }
    equal
}
