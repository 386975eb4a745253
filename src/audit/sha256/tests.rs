//! The lanes against the `sha2` and `hmac` crates.

use hmac::{Hmac, KeyInit as _, Mac as _};

use super::*;

/// SplitMix64; small, and the same on every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) >> 1).unwrap()
    }

    fn message(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| u8::try_from(self.next() & 0xFF).unwrap()).collect()
    }
}

fn expected(message: &[u8]) -> Hash {
    Sha256::digest(message).into()
}

/// With the CPU's lanes where it has them, and without.
fn hashers() -> Vec<Hasher> {
    assert!(
        !cfg!(target_arch = "x86_64") || Avx512::detect().is_some() || !has_avx512(),
        "the lanes were looked for"
    );
    let mut hashers = vec![Hasher::on(None)];
    hashers.extend(Avx512::detect().map(|cpu| Hasher::on(Some(cpu))));
    hashers
}

fn has_avx512() -> bool {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    cpu.contains("avx512f") && cpu.contains("avx512bw")
}

fn check(hasher: &mut Hasher, messages: &[Vec<u8>]) {
    hasher.clear();
    messages.iter().for_each(|message| hasher.push(message));
    let hashes = hasher.finish();
    assert_eq!(hashes.len(), messages.len());
    for (hash, message) in hashes.iter().zip(messages) {
        assert_eq!(*hash, expected(message), "{} bytes among {}", message.len(), messages.len());
    }
}

#[test]
fn published_examples_are_met_in_every_lane() {
    // NIST, "SHA-256 example" (one and two blocks), and CAVP SHA256ShortMsg Len = 0 and Len = 8.
    let examples: [(&[u8], &str); 4] = [
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"\xd3", "28969cdfa74a12c82f3bad960b0b000aca2ac329deea5c2328ebc6f2ba9802c1"),
    ];
    for mut hasher in hashers() {
        for (message, digest) in examples {
            hasher.clear();
            (0..LANES).for_each(|_| hasher.push(message));
            assert!(hasher.finish().iter().all(|hash| crate::audit::hex(hash) == digest), "{digest}");
        }
    }
}

#[test]
fn every_length_is_hashed_in_any_company() {
    let mut random = Random(1);
    let messages: Vec<_> = (0..=300).map(|len| random.message(len)).collect();
    for mut hasher in hashers() {
        for message in &messages {
            check(&mut hasher, &vec![message.clone(); LANES]);
        }
        check(&mut hasher, &messages);
        // Around the longest message that still rides.
        let long: Vec<_> =
            (LANE_BLOCKS_MAX * 64 - 20..LANE_BLOCKS_MAX * 64 + 20).map(|len| random.message(len)).collect();
        check(&mut hasher, &long);
    }
}

#[test]
fn a_message_in_any_lane_leaves_the_others_alone() {
    let mut random = Random(2);
    for mut hasher in hashers() {
        for lane in 0..LANES {
            for (len, other) in [(300, 10), (10, 300), (64, 64)] {
                let mut messages: Vec<_> = (0..LANES).map(|_| random.message(other)).collect();
                messages[lane] = random.message(len);
                check(&mut hasher, &messages);
            }
        }
    }
}

#[test]
fn any_number_of_messages_is_hashed_in_order() {
    let mut random = Random(3);
    for mut hasher in hashers() {
        for count in 0..=3 * LANES + 1 {
            let same: Vec<_> = (0..count).map(|_| random.message(116)).collect();
            check(&mut hasher, &same);
            let mixed: Vec<_> = (0..count)
                .map(|_| {
                    let len = random.next() % 400;
                    random.message(len)
                })
                .collect();
            check(&mut hasher, &mixed);
        }
    }
}

#[test]
fn random_messages_are_hashed_like_one_by_one() {
    let mut random = Random(4);
    for mut hasher in hashers() {
        for _ in 0..200 {
            let count = random.next() % 100;
            let longest = [70, 200, 1100][random.next() % 3];
            let messages: Vec<_> = (0..count)
                .map(|_| {
                    let len = random.next() % longest;
                    random.message(len)
                })
                .collect();
            check(&mut hasher, &messages);
        }
    }
}

#[test]
fn first_blocks_are_gone_on_from_like_whole_messages() {
    let mut random = Random(6);
    let cpus = [None].into_iter().chain(Avx512::detect().map(Some));
    for mut firsts in cpus.map(FirstBlocks::on) {
        for count in 0..=3 * LANES + 1 {
            let messages: Vec<_> = (0..count).map(|_| random.message(117)).collect();
            for message in &messages {
                firsts.push_with(|block| block.copy_from_slice(&message[..64]));
            }
            let states = firsts.take().to_vec();
            assert_eq!(states.len(), count);
            for (message, state) in messages.iter().zip(&states) {
                let mut last = [0; 64];
                last[..53].copy_from_slice(&message[64..]);
                last[53] = 0x80;
                last[56..].copy_from_slice(&(117 * 8u64).to_be_bytes());
                assert_eq!(continued(state, &[last]), expected(message), "among {count}");
            }
        }
    }
}

#[test]
fn macs_are_those_of_the_hmac_crate_for_any_number_and_length() {
    let mut random = Random(5);
    for count in 0..=2 * LANES + 1 {
        let key: [u8; 32] = random.message(32).try_into().unwrap();
        let mut macs = vec![Macs::new(&key)];
        macs.push(Macs { cpu: None, ..macs[0].clone() });
        let values: Vec<_> = (0..count)
            .map(|_| {
                let len = random.next() % (MAC_REST_MAX + 1);
                random.message(len)
            })
            .collect();
        let mut blocks = vec![[0; 64]; count];
        blocks.iter_mut().zip(&values).for_each(|(block, value)| Macs::pad(block, 7, value));
        for macs in macs {
            let mut found = Vec::new();
            macs.each(&blocks, &mut found);
            assert_eq!(found.len(), count);
            for ((mac, block), value) in found.iter().zip(&blocks).zip(&values) {
                let hmac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
                let expected: Hash =
                    hmac.chain_update([7]).chain_update(value).finalize().into_bytes().into();
                assert_eq!((*mac, macs.one(block)), (expected, expected));
            }
        }
    }
}
