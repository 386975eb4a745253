//! The verification engine against its peers, on one core in one run: the ratios are what counts.
//!
//! `taskset -c 1 cargo bench -p edgate-bench --bench verify`, then `bench/README.md` says how to read it. Messages have
//! 300 bytes; times are per batch.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ed25519_dalek::{Signature, Signer, SigningKey};
use edgate::verify::{Engine, Item, ItemKey, Tables, Verdict, Verifier, VerifyingKey};

const MESSAGE_BYTES: usize = 300;

/// A signed message and its parts in the forms the verifiers want.
struct Signed {
    message: Vec<u8>,
    signature: [u8; 64],
    key_bytes: [u8; 32],
    key: VerifyingKey,
    dalek_key: ed25519_dalek::VerifyingKey,
    dalek_signature: Signature,
}

/// `count` signatures dealt to `keys` keys; one of each eight is bad if `with_bad`.
fn signed(tables: &Tables, count: usize, keys: usize, with_bad: bool) -> Vec<Signed> {
    let signing_key = |i: usize| {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&(i as u64).to_le_bytes());
        SigningKey::from_bytes(&seed)
    };
    (0..count)
        .map(|i| {
            let signing_key = signing_key(i % keys);
            let message: Vec<u8> = (0..MESSAGE_BYTES).map(|j| ((i * 31 + j * 7) % 256) as u8).collect();
            let mut signature = signing_key.sign(&message).to_bytes();
            if with_bad && i % 8 == 3 {
                signature[10] ^= 1;
            }
            let dalek_key = signing_key.verifying_key();
            let key_bytes = dalek_key.to_bytes();
            let key = tables.register(&key_bytes).expect("an honest key");
            let dalek_signature = Signature::from_bytes(&signature);
            Signed { message, signature, key_bytes, key, dalek_key, dalek_signature }
        })
        .collect()
}

fn items(signed: &[Signed], registered: bool) -> Vec<Item<'_>> {
    let mut items = Vec::new();
    for Signed { message, signature, key_bytes, key, .. } in signed {
        let key = if registered { ItemKey::Registered(key) } else { ItemKey::Unregistered(key_bytes) };
        items.push(Item { key, message, signature });
    }
    items
}

/// Measures a verifier on `items`, after checking that it accepts as many as it should.
fn ours(c: &mut Criterion, name: &str, engine: Engine, items: &[Item<'_>], accepted: usize) {
    let mut verifier = Verifier::new(engine);
    let mut verdicts: Vec<Verdict> = Vec::new();
    verifier.verify(items, &mut verdicts);
    assert_eq!(verdicts.iter().filter(|verdict| verdict.is_accepted()).count(), accepted, "{name}");
    let mut group = c.benchmark_group("edgate");
    group.throughput(Throughput::Elements(items.len() as u64));
    group.bench_function(BenchmarkId::new(name, items.len()), |b| {
        b.iter(|| verifier.verify(black_box(items), &mut verdicts));
    });
    group.finish();
}

fn peers(c: &mut Criterion, signed: &[Signed], round: &str) {
    let mut group = c.benchmark_group(format!("dalek, {round} round"));
    group.throughput(Throughput::Elements(signed.len() as u64));
    group.bench_function(BenchmarkId::new("verify_strict", signed.len()), |b| {
        b.iter(|| {
            for s in signed {
                s.dalek_key.verify_strict(black_box(&s.message), &s.dalek_signature).expect("valid");
            }
        });
    });
    let messages: Vec<&[u8]> = signed.iter().map(|s| s.message.as_slice()).collect();
    let signatures: Vec<Signature> = signed.iter().map(|s| s.dalek_signature).collect();
    let keys: Vec<_> = signed.iter().map(|s| s.dalek_key).collect();
    group.bench_function(BenchmarkId::new("verify_batch", signed.len()), |b| {
        b.iter(|| ed25519_dalek::verify_batch(black_box(&messages), &signatures, &keys).expect("valid"));
    });
    group.finish();
}

fn verify(c: &mut Criterion) {
    let tables = Tables::new(Engine::Auto, 256 << 20);
    let portable_tables = Tables::new(Engine::Portable, 256 << 20);
    let one_key = signed(&tables, 64, 1, false);
    let four_keys = signed(&tables, 64, 4, false);
    let all_different = signed(&tables, 64, 64, false);
    let one_bad_in_8 = signed(&tables, 64, 4, true);
    let portable = signed(&portable_tables, 64, 4, false);
    // Peers first and last: a drift of the machine shows as a difference between the rounds.
    peers(c, &four_keys, "first");
    ours(c, "registered, 4 keys", Engine::Auto, &items(&four_keys, true), 64);
    ours(c, "registered, 4 keys, one bad in 8", Engine::Auto, &items(&one_bad_in_8, true), 56);
    ours(c, "registered, 1 key", Engine::Auto, &items(&one_key, true), 64);
    ours(c, "registered, all different", Engine::Auto, &items(&all_different, true), 64);
    for size in [32, 16, 8, 4, 2, 1] {
        ours(c, "registered, 4 keys", Engine::Auto, &items(&four_keys[..size], true), size);
    }
    for size in [64, 8, 1] {
        ours(c, "unregistered, all different", Engine::Auto, &items(&all_different[..size], false), size);
    }
    for size in [64, 8, 1] {
        ours(c, "portable, registered, 4 keys", Engine::Portable, &items(&portable[..size], true), size);
    }
    ours(c, "portable, unregistered", Engine::Portable, &items(&all_different[..8], false), 8);
    peers(c, &four_keys, "last");
}

fn config() -> Criterion {
    Criterion::default()
        .sample_size(40)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500))
        .without_plots()
}

criterion_group! { name = benches; config = config(); targets = verify }
criterion_main!(benches);
