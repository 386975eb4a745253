//! The verification engine against its peers: `cargo bench -p edgate-bench --bench verify` (on one core: `taskset -c 1`).
//!
//! Absolute times per batch come from criterion; the ratios of `bench/README.md` are printed at the end, each made by timing
//! ours and the peer in turn. 4,096 distinct messages of 300 bytes are cycled through, so that no table entry is learnt by
//! heart; verdicts are checked before anything is timed.

use std::cell::Cell;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use ed25519_dalek::Signature;
use edgate::verify::{Engine, Item, ItemKey, Tables, Verdict, Verifier, VerifyingKey};
use edgate_bench::inputs::{SignedMessage, signed_messages};
use edgate_bench::ratio::interleaved;

/// Distinct signatures cycled through.
const SIGNATURES: usize = 4096;
/// Room for the table of every key used here.
const TABLES_BYTES: usize = 1 << 30;
const ROUNDS: usize = 15;
const SLICE: Duration = Duration::from_millis(40);

/// How the keys of a case reach the verifier.
#[derive(Clone, Copy)]
enum Keys {
    Registered,
    Unregistered,
}

/// Batches of one size, and a verifier to give them to.
struct Case {
    name: &'static str,
    engine: Engine,
    keys: Keys,
    batch_len: usize,
    signed: Vec<SignedMessage>,
    registered: Vec<VerifyingKey>,
}

impl Case {
    fn new(name: &'static str, engine: Engine, keys: Keys, key_count: usize, batch_len: usize) -> Self {
        let tables = Tables::new(engine, TABLES_BYTES);
        let signed = signed_messages(SIGNATURES, key_count);
        let registered =
            signed.iter().map(|s| tables.register(&s.verifying_key).expect("an honest key")).collect();
        Self { name, engine, keys, batch_len, signed, registered }
    }

    /// One bad signature in each eight.
    fn with_bad(mut self) -> Self {
        for s in self.signed.iter_mut().skip(3).step_by(8) {
            s.signature[10] ^= 1;
        }
        self
    }

    fn items(&self) -> Vec<Item<'_>> {
        let mut items = Vec::with_capacity(SIGNATURES);
        for (s, registered) in self.signed.iter().zip(&self.registered) {
            let key = match self.keys {
                Keys::Registered => ItemKey::Registered(registered),
                Keys::Unregistered => ItemKey::Unregistered(&s.verifying_key),
            };
            items.push(Item { key, message: &s.message, signature: &s.signature });
        }
        items
    }

    /// A function that verifies the next batch.
    fn work<'a>(&self, items: &'a [Item<'a>]) -> impl FnMut() + 'a {
        let mut verifier = Verifier::new(self.engine);
        let mut verdicts: Vec<Verdict> = Vec::new();
        verifier.verify(items, &mut verdicts);
        let expected = self.signed.iter().map(|s| {
            let key = ed25519_dalek::VerifyingKey::from_bytes(&s.verifying_key).expect("an honest key");
            key.verify_strict(&s.message, &Signature::from_bytes(&s.signature)).is_ok()
        });
        assert!(verdicts.iter().map(Verdict::is_accepted).eq(expected), "{}", self.name);
        let batch_len = self.batch_len;
        let mut at = 0;
        move || {
            verifier.verify(black_box(&items[at..at + batch_len]), &mut verdicts);
            at = (at + batch_len) % (SIGNATURES - SIGNATURES % batch_len);
        }
    }
}

/// dalek's inputs, prepared once.
struct Peer {
    keys: Vec<ed25519_dalek::VerifyingKey>,
    messages: Vec<Vec<u8>>,
    signatures: Vec<Signature>,
}

impl Peer {
    fn new(key_count: usize) -> Self {
        let signed = signed_messages(SIGNATURES, key_count);
        let key =
            |s: &SignedMessage| ed25519_dalek::VerifyingKey::from_bytes(&s.verifying_key).expect("honest");
        Self {
            keys: signed.iter().map(key).collect(),
            signatures: signed.iter().map(|s| Signature::from_bytes(&s.signature)).collect(),
            messages: signed.into_iter().map(|s| s.message).collect(),
        }
    }

    /// `verify_strict` of the next `count`.
    fn strict(&self, count: usize) -> impl FnMut() {
        let at = Cell::new(0);
        move || {
            for i in at.get()..at.get() + count {
                let key = &self.keys[i];
                key.verify_strict(black_box(&self.messages[i]), &self.signatures[i]).expect("valid");
            }
            at.set((at.get() + count) % (SIGNATURES - SIGNATURES % count));
        }
    }

    /// `verify_batch` of the next 64.
    fn batch(&self) -> impl FnMut() {
        let messages: Vec<&[u8]> = self.messages.iter().map(Vec::as_slice).collect();
        let mut at = 0;
        move || {
            let range = at..at + 64;
            let (signatures, keys) = (&self.signatures[range.clone()], &self.keys[range.clone()]);
            ed25519_dalek::verify_batch(black_box(&messages[range]), signatures, keys).expect("valid");
            at = (at + 64) % SIGNATURES;
        }
    }
}

fn main() {
    let (auto, portable) = (Engine::Auto, Engine::Portable);
    let (registered, unregistered) = (Keys::Registered, Keys::Unregistered);
    let cases = [
        Case::new("registered, 4 keys", auto, registered, 4, 64),
        Case::new("registered, 4 keys, one bad in 8", auto, registered, 4, 64).with_bad(),
        Case::new("registered, 1 key", auto, registered, 1, 64),
        Case::new("registered, 64 keys", auto, registered, 64, 64),
        Case::new("registered, 1024 keys", auto, registered, 1024, 64),
        Case::new("registered, 4 keys", auto, registered, 4, 16),
        Case::new("registered, 4 keys", auto, registered, 4, 8),
        Case::new("registered, 4 keys", auto, registered, 4, 4),
        Case::new("registered, 4 keys", auto, registered, 4, 2),
        Case::new("registered, 4 keys", auto, registered, 4, 1),
        Case::new("unregistered, all different", auto, unregistered, SIGNATURES, 64),
        Case::new("unregistered, all different", auto, unregistered, SIGNATURES, 1),
        Case::new("portable, registered, 4 keys", portable, registered, 4, 64),
        Case::new("portable, registered, 4 keys", portable, registered, 4, 1),
        Case::new("portable, unregistered", portable, unregistered, SIGNATURES, 64),
    ];
    let peer = Peer::new(4);
    absolute_times(&cases, &peer);
    println!("\npeer's time / ours: median (worst..best) of {ROUNDS} rounds");
    for case in &cases {
        let items = case.items();
        let ratio = interleaved(ROUNDS, SLICE, case.work(&items), peer.strict(case.batch_len));
        println!("{:36} {:3} against verify_strict: {ratio}", case.name, case.batch_len);
    }
    let items = cases[0].items();
    let ratio = interleaved(ROUNDS, SLICE, cases[0].work(&items), peer.batch());
    println!("{:36} {:3} against verify_batch(64): {ratio}", cases[0].name, 64);
    let bad = cases[1].items();
    let ratio = interleaved(ROUNDS, SLICE, cases[0].work(&items), cases[1].work(&bad));
    println!("one bad in 8, time against all good: {ratio}");
}

fn absolute_times(cases: &[Case], peer: &Peer) {
    let mut criterion = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(1000))
        .without_plots()
        .configure_from_args();
    let mut group = criterion.benchmark_group("verify");
    for case in cases {
        let items = case.items();
        let mut work = case.work(&items);
        group.throughput(Throughput::Elements(case.batch_len as u64));
        group.bench_function(BenchmarkId::new(case.name, case.batch_len), |b| b.iter(&mut work));
    }
    group.throughput(Throughput::Elements(64));
    let (mut strict, mut batch) = (peer.strict(64), peer.batch());
    group.bench_function(BenchmarkId::new("dalek verify_strict", 64), |b| b.iter(&mut strict));
    group.bench_function(BenchmarkId::new("dalek verify_batch", 64), |b| b.iter(&mut batch));
    group.finish();
    criterion.final_summary();
}
