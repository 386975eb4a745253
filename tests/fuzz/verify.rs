//! What the `verify` fuzz target does with its input, callable from a plain test as well.
//!
//! The input describes a batch: who signs what, and which of the things forgers do is done to key and signature. Every path
//! (lanes and portable, registered and raw keys, one batch and one by one) must give each item the verdict of the oracle,
//! and all paths the same reason.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use ed25519_dalek::Signature;
use edgate::verify::{Engine, Item, ItemKey, SignatureRejection, Tables, Verdict, Verifier, VerifyingKey};
use sha2::{Digest, Sha512};

/// Items of one input; three groups of lanes.
const ITEMS_MAX: usize = 24;
/// Bytes that describe one item.
const ITEM_BYTES: usize = 8;

/// L, little-endian.
const L: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

#[derive(Clone)]
struct Forgery {
    key: Vec<u8>,
    message: Vec<u8>,
    signature: Vec<u8>,
}

/// Runs one input; tells how many of its items are genuine.
///
/// # Panics
/// If a path contradicts the oracle or another path.
pub(crate) fn run(data: &[u8]) -> usize {
    let mut batch: Vec<Forgery> = Vec::new();
    for bytes in data.as_chunks::<ITEM_BYTES>().0.iter().take(ITEMS_MAX) {
        let item = match (bytes[0] >> 6, batch.last()) {
            // An item again, or with its neighbour's key: what caches and coalescing might confuse.
            (3, Some(previous)) if bytes[1] & 1 == 0 => previous.clone(),
            (3, Some(previous)) => Forgery { key: previous.key.clone(), ..forge(bytes) },
            _ => forge(bytes),
        };
        batch.push(item);
    }
    let expected: Vec<bool> =
        batch.iter().map(|item| oracle(&item.key, &item.message, &item.signature)).collect();
    let mut reasons: Option<Vec<Option<SignatureRejection>>> = None;
    for engine in [Engine::Auto, Engine::Portable] {
        for registered in [true, false] {
            let together = verdicts(engine, registered, &batch);
            let alone: Vec<_> = batch
                .iter()
                .flat_map(|item| verdicts(engine, registered, std::slice::from_ref(item)))
                .collect();
            assert_eq!(together, alone, "batch and single differ on {engine:?}, registered: {registered}");
            for (i, (reason, expected)) in together.iter().zip(&expected).enumerate() {
                assert_eq!(
                    reason.is_none(),
                    *expected,
                    "item {i} on {engine:?}, registered: {registered}: {reason:?}"
                );
            }
            let reasons = reasons.get_or_insert_with(|| together.clone());
            assert_eq!(*reasons, together, "reasons differ on {engine:?}, registered: {registered}");
        }
    }
    expected.iter().filter(|genuine| **genuine).count()
}

/// A signature made with the steps a forger controls, by eight bytes of choices.
fn forge(bytes: &[u8; ITEM_BYTES]) -> Forgery {
    let [who, length, torsion, s_change, encoding, place, flip, _] = *bytes;
    let secret = Scalar::from(u64::from(who & 3) + 2).invert();
    let nonce = Scalar::from(u64::from(place) * 257 + u64::from(flip) + 3).invert();
    let message = vec![length; usize::from(length) * 2];
    let (torsion_a, torsion_r) = match who >> 4 & 3 {
        // Most items are otherwise sound, so that one change decides.
        0 | 1 => (0, 0),
        2 => (usize::from(torsion & 7), 0),
        _ => (usize::from(torsion & 7), usize::from(torsion >> 3 & 7)),
    };
    let point = |scalar: Scalar, torsion: usize| -> EdwardsPoint {
        ED25519_BASEPOINT_POINT * scalar + EIGHT_TORSION[torsion]
    };
    let mut key = point(secret, torsion_a).compress().0;
    let mut r = point(nonce, torsion_r).compress().0;
    match encoding {
        0 => key = EIGHT_TORSION[usize::from(torsion & 7)].compress().0,
        1 => r = EIGHT_TORSION[usize::from(torsion & 7)].compress().0,
        2 => key = not_canonical(place),
        3 => r = not_canonical(place),
        4 => key[usize::from(place) % 32] ^= 1 << (flip & 7),
        5 => r[usize::from(place) % 32] ^= 1 << (flip & 7),
        // The sign of x alone.
        6 => key[31] ^= 0x80,
        7 => r[31] ^= 0x80,
        _ => {}
    }
    let hash = Sha512::new().chain_update(r).chain_update(key).chain_update(&message).finalize();
    let k = Scalar::from_bytes_mod_order_wide(&hash.into());
    let s = changed((nonce + k * secret).to_bytes(), s_change);
    let mut signature = [r, s].concat();
    match encoding {
        8 => signature.truncate(usize::from(place) % 64),
        9 => signature.push(flip),
        10 => signature[usize::from(place) % 64] ^= 1 << (flip & 7),
        11 => return Forgery { key: key[..usize::from(place) % 32].to_vec(), message, signature },
        12 => return Forgery { key: key.to_vec(), message: [message, vec![flip]].concat(), signature },
        _ => {}
    }
    Forgery { key: key.to_vec(), message, signature }
}

/// Encodings with y >= p, or -0.
fn not_canonical(which: u8) -> [u8; 32] {
    let mut bytes = [0xff; 32];
    bytes[0] = 0xed + which % 19;
    bytes[31] = if which & 0x80 == 0 { 0x7f } else { 0xff };
    if which.is_multiple_of(23) {
        bytes = [0; 32];
        bytes[0] = 1;
        bytes[31] = 0x80;
    }
    bytes
}

/// S moved to where range checks are decided.
fn changed(s: [u8; 32], change: u8) -> [u8; 32] {
    match change {
        // S plus a small multiple of L: the same residue, out of range.
        1..16 => (0..change).fold(s, |s, _| plus(&s, &L)),
        16 => [0; 32],
        17 => L,
        18 => plus(&L, &one_at(0)),
        19 => [[0xff; 31].as_slice(), &[0x0f]].concat().try_into().expect("32 bytes"),
        20 => one_at(31).map(|byte| byte * 0x10),
        21 => [0xff; 32],
        22 => (-Scalar::ONE).to_bytes(),
        23 => plus(&s, &one_at(0)),
        _ => s,
    }
}

fn one_at(index: usize) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[index] = 1;
    bytes
}

/// The sum modulo 2^256.
fn plus(a: &[u8; 32], b: &[u8; 32]) -> [u8; 32] {
    let mut carry = 0;
    std::array::from_fn(|i| {
        let sum = u16::from(a[i]) + u16::from(b[i]) + carry;
        carry = sum >> 8;
        sum.to_le_bytes()[0]
    })
}

/// The exact rule without our code: dalek's strict verification, and the registry's checks.
fn oracle(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let (Ok(key), Ok(signature)) = (<&[u8; 32]>::try_from(key), Signature::from_slice(signature)) else {
        return false;
    };
    let Some(point) = CompressedEdwardsY(*key).decompress() else { return false };
    let registry_ok = point.compress().0 == *key && !point.is_small_order() && point.is_torsion_free();
    registry_ok
        && ed25519_dalek::VerifyingKey::from_bytes(key)
            .is_ok_and(|verifying_key| verifying_key.verify_strict(message, &signature).is_ok())
}

/// Verifiers and registered keys live on between inputs: warm caches are part of what is tested.
static ENGINES: LazyLock<Mutex<HashMap<bool, Running>>> = LazyLock::new(Mutex::default);

struct Running {
    tables: Tables,
    verifier: Verifier,
    // By their bytes; none for those the registry refuses.
    keys: HashMap<Vec<u8>, Option<VerifyingKey>>,
}

/// The reasons of rejection, none for accepted items.
fn verdicts(engine: Engine, registered: bool, batch: &[Forgery]) -> Vec<Option<SignatureRejection>> {
    let mut engines = ENGINES.lock().expect("no test panicked while it held the verifiers");
    let Running { tables, verifier, keys } = engines.entry(engine == Engine::Portable).or_insert_with(|| {
        // Room for the tables of some of the keys only.
        Running {
            tables: Tables::new(engine, 1 << 20),
            verifier: Verifier::new(engine),
            keys: HashMap::new(),
        }
    });
    for item in batch {
        let register = || item.key.as_slice().try_into().ok().and_then(|bytes| tables.register(bytes).ok());
        keys.entry(item.key.clone()).or_insert_with(register);
    }
    let items: Vec<Item<'_>> = batch
        .iter()
        .map(|Forgery { key, message, signature }| {
            let registered_key = keys[key].as_ref().filter(|_| registered);
            let key = registered_key.map_or(ItemKey::Unregistered(key), ItemKey::Registered);
            Item { key, message, signature }
        })
        .collect();
    let mut verdicts = Vec::new();
    verifier.verify(&items, &mut verdicts);
    let reasons = verdicts.iter().map(|verdict| match verdict {
        Verdict::Accepted(_) => None,
        Verdict::Rejected(rejection) => Some(*rejection),
    });
    reasons.collect()
}
