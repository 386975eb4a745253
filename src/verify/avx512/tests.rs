//! Arithmetic against big integers and against dalek, on random and extreme values, every lane different.

use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::Identity;
use num_bigint::BigUint;
use sha2::{Digest, Sha512};

use super::super::inverse;
use super::super::tests::random::Random;
use super::field::{CARRIED, FACTOR, MASK, WIDE, Wide};
use super::point::Sum;
use super::*;

mod arithmetic;
mod multiples;

/// Runs a check compiled for the lanes' CPU features, or says that this CPU cannot.
#[expect(unsafe_code, reason = "calls a function compiled for detected CPU features")]
fn on_lanes(check: unsafe fn(&mut Random)) {
    if Avx512::detect().is_none() {
        eprintln!("SKIPPED: this CPU has no AVX-512 IFMA");
        return;
    }
    // SAFETY: every check is compiled for a subset of the features just detected.
    unsafe { check(&mut Random::new()) }
}

fn prime() -> BigUint {
    (BigUint::from(1_u8) << 255) - 19_u8
}

/// The number in limbs of 51 bits, whatever their size.
fn value(limbs: &[u64; 5]) -> BigUint {
    limbs.iter().rev().fold(BigUint::ZERO, |sum, limb| (sum << 51) + *limb)
}

fn number(words: &[u64]) -> BigUint {
    words.iter().rev().fold(BigUint::ZERO, |sum, word| (sum << 64) + *word)
}

fn words(number: &BigUint) -> [u64; 4] {
    let digits = number.to_u64_digits();
    array::from_fn(|i| digits.get(i).copied().unwrap_or(0))
}

/// Limbs below `bound`, random or at an edge.
fn limbs(random: &mut Random, bound: u64) -> [u64; 5] {
    array::from_fn(|_| match random.below(6) {
        0 => 0,
        1 => bound - 1,
        2 => MASK.min(bound - 1),
        3 => bound - 1 - random.below(20),
        _ => random.below(bound),
    })
}

fn element(random: &mut Random, bound: u64) -> Fe {
    Fe::from_lanes(&array::from_fn(|_| limbs(random, bound)))
}

fn random_point(random: &mut Random) -> EdwardsPoint {
    ED25519_BASEPOINT_POINT * random_scalar(random)
}

fn random_scalar(random: &mut Random) -> Scalar {
    match random.below(8) {
        0 => Scalar::ZERO,
        1 => Scalar::ONE,
        2 => -Scalar::ONE,
        3 => Scalar::from(random.below(256)),
        _ => Scalar::from_bytes_mod_order_wide(&array::from_fn(|_| random.byte())),
    }
}

fn encodings(points: &[EdwardsPoint; 8]) -> [Lanes; 4] {
    let words = points.map(|point| encoding::words(&point.compress().0));
    [0, 1, 2, 3].map(|word| from_words(words.map(|words| words[word])))
}

/// In which lanes `sum` is the expected point, by the code that decides verdicts.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
fn equals(sum: &Sum, expected: &[EdwardsPoint; 8]) -> u8 {
    let point = sum.projective();
    let mut inverses = [point.z];
    finish::invert_each(&mut inverses, &mut Vec::new());
    finish::encodes_to(&point, &inverses[0], &encodings(expected))
}
