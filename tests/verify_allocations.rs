//! A verdict costs no allocation once the verifier's memory has grown: counted, not assumed.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use ed25519_dalek::{Signer, SigningKey};
use edgate::verify::{Engine, Item, ItemKey, Tables, Verifier, VerifyingKey};

struct Signed {
    registered: VerifyingKey,
    key: [u8; 32],
    message: Vec<u8>,
    signature: [u8; 64],
}

/// Allocations of a batch with every second key raw and some items bad, the second time.
fn allocations(engine: Engine, batch_len: u8) -> u64 {
    let tables = Tables::new(engine, usize::MAX);
    let sign = |i: u8| {
        let signing_key = SigningKey::from_bytes(&[i % 10; 32]);
        let message = vec![i; usize::from(i) * 9];
        let mut signature = signing_key.sign(&message).to_bytes();
        signature[usize::from(i) % 64] ^= u8::from(i.is_multiple_of(5));
        let key = signing_key.verifying_key().to_bytes();
        Signed { registered: tables.register(&key).unwrap(), key, message, signature }
    };
    let signed: Vec<Signed> = (0..batch_len).map(sign).collect();
    let item = |(i, Signed { registered, key, message, signature }): (usize, &'static Signed)| {
        let raw = i % 2 == 1;
        let key = if raw { ItemKey::Unregistered(key) } else { ItemKey::Registered(registered) };
        Item { key, message, signature }
    };
    let items: Vec<Item<'_>> = signed.leak().iter().enumerate().map(item).collect();
    let mut verifier = Verifier::new(engine);
    let mut verdicts = Vec::new();
    verifier.verify(&items, &mut verdicts);
    allocation_counter::measure(|| verifier.verify(&items, &mut verdicts)).count_total
}

#[test]
fn batches_are_verified_without_allocating() {
    for engine in [Engine::Auto, Engine::Portable] {
        for batch_len in [0, 1, 3, 8, 64, 200] {
            assert_eq!(allocations(engine, batch_len), 0, "{batch_len} items on {engine:?}");
        }
    }
}
