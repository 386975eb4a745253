//! The field, hashing, reduction and inversion.

use super::*;

const ROUNDS: usize = 400;

#[test]
fn products_and_squares_are_those_of_integers() {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
    fn check(random: &mut Random) {
        for _ in 0..ROUNDS {
            // One factor may come from a negation, with limbs up to 2^52.
            let (a, b) = (element(random, CARRIED), element(random, FACTOR));
            let (product, biased) = (a.times(&b), a.times_biased(&b));
            let (square, square_biased) = (a.squared(), a.squared_biased());
            for lane in 0..8 {
                let (a, b) = (value(&a.lane(lane)), value(&b.lane(lane)));
                let same = |wide: &Wide, expected: &BigUint| {
                    assert_eq!(value(&Fe(wide.0).lane(lane)) % prime(), expected % prime());
                    let carried = wide.carried();
                    carried.assert_below(CARRIED);
                    assert_eq!(value(&carried.lane(lane)) % prime(), expected % prime());
                };
                same(&product, &(&a * &b));
                same(&biased, &(&a * &b));
                same(&square, &(&a * &a));
                same(&square_biased, &(&a * &a));
            }
        }
    }
    on_lanes(check);
}

#[test]
fn sums_differences_and_negations_stay_in_bounds() {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
    fn check(random: &mut Random) {
        for _ in 0..ROUNDS {
            let [a, b, c, d] = array::from_fn(|_| element(random, CARRIED));
            let negated_lanes = random.byte();
            // The largest subtrahend: a product with a factor of 52 bits.
            let (minuend, subtrahend) = (a.times_biased(&b), c.times(&element(random, FACTOR)));
            let (difference, sum) = (minuend.minus(&subtrahend), minuend.plus(&subtrahend));
            let negated = d.negated_where(negated_lanes);
            negated.assert_below(FACTOR);
            for lane in 0..8 {
                let of = |wide: &Wide| value(&Fe(wide.0).lane(lane));
                let (left, right) = (of(&minuend), of(&subtrahend));
                assert_eq!(value(&difference.carried().lane(lane)) % prime(), (&left - &right) % prime());
                assert_eq!(value(&sum.carried().lane(lane)) % prime(), (left + right) % prime());
                let d = value(&d.lane(lane)) % prime();
                let expected = if negated_lanes >> lane & 1 == 1 { (prime() - &d) % prime() } else { d };
                assert_eq!(value(&negated.lane(lane)) % prime(), expected);
            }
        }
    }
    on_lanes(check);
}

#[test]
fn carrying_takes_the_widest_limbs() {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
    fn check(random: &mut Random) {
        for _ in 0..ROUNDS {
            let wide = Wide(element(random, WIDE).0);
            let carried = wide.carried();
            carried.assert_below(CARRIED);
            for lane in 0..8 {
                assert_eq!(value(&carried.lane(lane)) % prime(), value(&Fe(wide.0).lane(lane)) % prime());
            }
        }
    }
    on_lanes(check);
}

#[test]
fn canonical_form_is_the_residue() {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
    fn check(random: &mut Random) {
        // Values around 0, p, 2p and 2^255, where a missed or a superfluous subtraction shows.
        let edges = [BigUint::ZERO, prime(), prime() * 2_u8, BigUint::from(1_u8) << 255];
        for round in 0..ROUNDS {
            let lanes: [[u64; 5]; 8] = array::from_fn(|lane| {
                if lane == 7 {
                    return limbs(random, CARRIED);
                }
                let above = &edges[round % 4] + random.below(60);
                let near = if above > BigUint::from(60_u8) { above - random.below(60) } else { above };
                // Limb 4 takes what is left: 52 bits for 2p, which a carried element does not reach.
                let limb = |i: u32| words(&(&near >> (51 * i) & BigUint::from(MASK)))[0];
                let top = words(&(&near >> 204))[0];
                if top < CARRIED { [limb(0), limb(1), limb(2), limb(3), top] } else { [MASK; 5] }
            });
            let element = Fe::from_lanes(&lanes);
            let canonical = element.canonical_words().map(to_words);
            for (lane, limbs) in lanes.iter().enumerate() {
                let words = canonical.map(|word| word[lane]);
                assert_eq!(number(&words), value(limbs) % prime(), "{limbs:x?}");
            }
            let again = Fe::from_words(&element.canonical_words());
            assert_eq!(again.canonical_words().map(to_words), canonical);
        }
    }
    on_lanes(check);
}

#[test]
fn inversion_on_general_registers_is_exact() {
    let mut random = Random::new();
    let p = prime();
    let small = |n: u64| BigUint::from(n);
    let mut cases = vec![small(0), small(1), small(2), small(19), &p - 1_u8, &p - 2_u8, (&p + 1_u8) / 2_u8];
    cases.extend((0..255).map(|bit| (BigUint::from(1_u8) << bit) % &p));
    cases.extend((0..1000).map(|_| number(&[(); 4].map(|()| random.next())) % &p));
    for case in cases {
        let inverse = number(&inverse::invert(&words(&case)));
        let expected = if case == BigUint::ZERO { small(0) } else { small(1) };
        assert_eq!(&case * &inverse % &p, expected, "{case:x}");
        assert!(inverse < p);
    }
}

#[test]
fn one_inversion_serves_every_element() {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
    fn check(random: &mut Random) {
        for count in [1, 2, 3, 17] {
            let elements: Vec<Fe> = (0..count)
                .map(|_| Fe::from_lanes(&array::from_fn(|_| array::from_fn(|_| 1 + random.below(MASK)))))
                .collect();
            let mut inverses = elements.clone();
            finish::invert_each(&mut inverses, &mut Vec::new());
            for (element, inverse) in elements.iter().zip(&inverses) {
                for lane in 0..8 {
                    let product = value(&element.lane(lane)) * value(&inverse.lane(lane));
                    assert_eq!(product % prime(), BigUint::from(1_u8));
                }
            }
        }
    }
    on_lanes(check);
}

#[test]
fn hashes_of_mixed_lengths_are_those_of_one_message_at_a_time() {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
    fn check(random: &mut Random) {
        // Every length around the block boundaries, next to others.
        for length in (0..300).chain([500, 1000, 4096]) {
            let messages: [Vec<u8>; 8] = array::from_fn(|lane| {
                let length = if lane == length % 8 { length } else { usize::from(random.byte()) * 2 };
                (0..length).map(|_| random.byte()).collect()
            });
            let padded = messages.each_ref().map(|message| {
                let mut padded = vec![0xa5; sha512::blocks(message.len()) * sha512::BLOCK_BYTES];
                let (first, rest) = message.split_at(message.len() / 3);
                sha512::pad(&mut padded, [first, rest, &[]]);
                padded
            });
            let hashes = sha512::hash(&padded.each_ref().map(Vec::as_slice)).map(to_words);
            for (lane, message) in messages.iter().enumerate() {
                let hash: Vec<u8> = hashes.iter().flat_map(|words| words[lane].to_le_bytes()).collect();
                assert_eq!(
                    hash,
                    Sha512::digest(message).as_slice(),
                    "{} bytes in lane {lane}",
                    message.len()
                );
            }
        }
    }
    on_lanes(check);
}

#[test]
fn challenges_are_reduced_to_the_same_residue() {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
    fn check(random: &mut Random) {
        let order = number(&encoding::L);
        for _ in 0..ROUNDS {
            let lanes: [[u64; 8]; 8] = array::from_fn(|_| match random.below(4) {
                0 => [u64::MAX; 8],
                1 => [0; 8],
                // Small multiples of L and their neighbours.
                2 => {
                    let number = &order * random.below(1 << 20) + random.below(3);
                    let digits = number.to_u64_digits();
                    array::from_fn(|i| digits.get(i).copied().unwrap_or(0))
                }
                _ => array::from_fn(|_| random.next()),
            });
            let hash = array::from_fn(|word| from_words(lanes.map(|lane| lane[word])));
            let reduced = scalar::reduce(&hash).map(to_words);
            for (lane, hash) in lanes.iter().enumerate() {
                let k = number(&reduced.map(|word| word[lane]));
                assert_eq!(&k % &order, number(hash) % &order);
                assert!(k.bits() <= scalar::CHALLENGE_BITS as u64);
            }
        }
    }
    on_lanes(check);
}
