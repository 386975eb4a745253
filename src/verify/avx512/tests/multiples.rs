//! Points: decoding, combs, doublings, against dalek.

use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::edwards::CompressedEdwardsY;

use super::*;

#[test]
fn decoding_agrees_with_dalek_on_any_y() {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
    fn check(random: &mut Random) {
        for _ in 0..60 {
            let bytes: [[u8; 32]; 8] = array::from_fn(|_| {
                loop {
                    let bytes = array::from_fn(|_| random.byte());
                    if encoding::is_canonical(&bytes) {
                        return bytes;
                    }
                }
            });
            let words = bytes.map(|bytes| encoding::words(&bytes));
            let (x, y, on_curve) = cold::decode(&[0, 1, 2, 3].map(|word| from_words(words.map(|w| w[word]))));
            let decoded = bytes.map(|bytes| CompressedEdwardsY(bytes).decompress());
            // Lanes without a point hold B.
            let expected = decoded.map(|point| point.unwrap_or(ED25519_BASEPOINT_POINT));
            assert_eq!(equals(&Sum::from_affine(&x, &y), &expected), u8::MAX);
            for (lane, point) in decoded.iter().enumerate() {
                assert_eq!(on_curve >> lane & 1 == 1, point.is_some());
            }
        }
    }
    on_lanes(check);
}

#[test]
fn additions_and_doublings_are_complete() {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
    fn check(random: &mut Random) {
        for _ in 0..40 {
            let a: [EdwardsPoint; 8] = array::from_fn(|_| random_point(random));
            // Equal, opposite, identity and torsion points among others.
            let b: [EdwardsPoint; 8] = array::from_fn(|lane| match lane {
                0 => a[0],
                1 => -a[1],
                2 => EdwardsPoint::identity(),
                3 | 4 => a[lane] + EIGHT_TORSION[usize::from(random.byte() & 7)],
                _ => random_point(random),
            });
            let sum_of = |points: &[EdwardsPoint; 8]| {
                let (x, y, _) = cold::decode(&encodings(points));
                Sum::from_affine(&x, &y)
            };
            let (left, right) = (sum_of(&a), sum_of(&b));
            let zip = |f: fn(EdwardsPoint, EdwardsPoint) -> EdwardsPoint| array::from_fn(|i| f(a[i], b[i]));
            let (mut sum, mut difference) = (left, left);
            sum.add(&right.cached());
            assert_eq!(equals(&sum, &zip(|a, b| a + b)), u8::MAX);
            difference.add(&right.cached().negated_where(u8::MAX));
            assert_eq!(equals(&difference, &zip(|a, b| a - b)), u8::MAX);
            assert_eq!(difference.projective().is_identity() & 1, 1, "a point less itself");
            sum.double();
            assert_eq!(equals(&sum, &zip(|a, b| a + b + a + b)), u8::MAX);
            difference.double();
            difference.double();
            assert_eq!(equals(&difference, &zip(|a, b| (a - b) * Scalar::from(4_u8))), u8::MAX);
        }
    }
    on_lanes(check);
}

#[test]
fn combs_multiply_for_any_number_of_walks() {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
    fn check(random: &mut Random) {
        let cpu = Avx512::detect().expect("checked by the caller");
        let points: [EdwardsPoint; 3] = array::from_fn(|_| random_point(random));
        let combs = points.each_ref().map(|point| cpu.key_comb(&engine::half(point)));
        for round in 0..40 {
            let count = 1 + round % 8;
            let choices: [usize; 8] = array::from_fn(|_| usize::from(random.byte()) % 3);
            let scalars: [(Scalar, Scalar); 8] =
                array::from_fn(|_| (random_scalar(random), random_scalar(random)));
            let walks: [Walk<'_>; 8] = array::from_fn(|i| Walk {
                s: encoding::words(scalars[i].0.as_bytes()),
                point: &combs[choices[i]],
                k: encoding::words(scalars[i].1.as_bytes()),
            });
            let sum = comb::sum_walks(cpu.base_comb(), &walks[..count]);
            let lanes_each = comb::lanes_each(count);
            let expected: [EdwardsPoint; 8] = array::from_fn(|lane| {
                let i = lane / lanes_each;
                ED25519_BASEPOINT_POINT * scalars[i].0 + points[choices[i]] * scalars[i].1
            });
            let equal = equals(&sum, &expected);
            for i in 0..count {
                assert_eq!(equal >> (i * lanes_each) & 1, 1, "walk {i} of {count}");
            }
        }
    }
    on_lanes(check);
}

#[test]
fn largest_challenge_needs_no_more_windows() {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
    fn check(random: &mut Random) {
        let cpu = Avx512::detect().expect("checked by the caller");
        let point = random_point(random);
        let comb = cpu.key_comb(&engine::half(&point));
        let k = [u64::MAX, u64::MAX, u64::MAX, u64::MAX >> 2];
        let sum = comb::sum_walks(cpu.base_comb(), &[Walk { s: [0; 4], point: &comb, k }]);
        let mut bytes = [0xff; 32];
        bytes[31] = 0x3f;
        let expected = point * Scalar::from_bytes_mod_order(bytes);
        assert_eq!(equals(&sum, &[expected; 8]), u8::MAX);
    }
    on_lanes(check);
}

#[test]
fn raw_keys_are_multiplied_and_judged_lane_by_lane() {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
    fn check(random: &mut Random) {
        let cpu = Avx512::detect().expect("checked by the caller");
        for _ in 0..12 {
            let torsion: [usize; 8] = array::from_fn(|_| usize::from(random.byte() & 15) % 8);
            let keys: [EdwardsPoint; 8] = array::from_fn(|lane| {
                ED25519_BASEPOINT_POINT * Scalar::from(2 + random.below(1000)) + EIGHT_TORSION[torsion[lane]]
            });
            let scalars: [(Scalar, Scalar); 8] =
                array::from_fn(|_| (random_scalar(random), random_scalar(random)));
            let of_lanes = |scalar: &dyn Fn(&(Scalar, Scalar)) -> Scalar| {
                let words = scalars.each_ref().map(|pair| encoding::words(scalar(pair).as_bytes()));
                [0, 1, 2, 3].map(|word| from_words(words.map(|words| words[word])))
            };
            let (s, k) = (of_lanes(&|pair| pair.0), of_lanes(&|pair| pair.1));
            let cold = cold::sum(cpu.base_comb(), &encodings(&keys), &k, &s);
            let expected =
                array::from_fn(|i| ED25519_BASEPOINT_POINT * scalars[i].0 - keys[i] * scalars[i].1);
            assert_eq!(cold.on_curve, u8::MAX);
            assert_eq!(equals(&cold.sum, &expected), u8::MAX);
            for (lane, torsion) in torsion.iter().enumerate() {
                assert_eq!(cold.prime_order >> lane & 1 == 1, *torsion == 0, "torsion point {torsion}");
            }
        }
    }
    on_lanes(check);
}
