//! What surrounds the arithmetic: the budget of tables, the shadow check, the choice of the engine.

use std::sync::{Arc, mpsc};

use super::*;

fn key_bytes(seed: u8) -> [u8; 32] {
    SigningKey::from_bytes(&[seed; 32]).verifying_key().to_bytes()
}

fn signed(tables: &Tables, seed: u8) -> (VerifyingKey, Vec<u8>, [u8; 64]) {
    let signing_key = SigningKey::from_bytes(&[seed; 32]);
    let message = vec![seed; 100];
    let signature = signing_key.sign(&message).to_bytes();
    (tables.register(signing_key.verifying_key().as_bytes()).unwrap(), message, signature)
}

/// Verifies the signature and a bad copy of it.
fn verify_twice(verifier: &mut Verifier, signed: &(VerifyingKey, Vec<u8>, [u8; 64])) {
    let (key, message, signature) = signed;
    let mut bad = *signature;
    bad[3] ^= 1;
    let item = |signature| Item { key: ItemKey::Registered(key), message, signature };
    let mut verdicts = Vec::new();
    verifier.verify(&[item(signature), item(&bad)], &mut verdicts);
    assert!(verdicts[0].is_accepted());
    assert_eq!(verdicts[1], Verdict::Rejected(SignatureRejection::SignatureMismatch));
}

#[test]
fn least_used_keys_lose_their_table_and_get_it_back() {
    for engine in engines() {
        let room_for_two = 2 * Arithmetic::of(engine).table_bytes();
        let tables = Tables::new(engine, room_for_two);
        let mut verifier = Verifier::new(engine);
        let keys: Vec<_> = (1..=3).map(|seed| signed(&tables, seed)).collect();
        let have_tables = || keys.iter().map(|(key, ..)| key.table().is_some()).collect::<Vec<_>>();
        assert_eq!(have_tables(), [true, true, false], "the budget is full");
        for _ in 0..3 {
            verify_twice(&mut verifier, &keys[1]);
            verify_twice(&mut verifier, &keys[2]);
        }
        let expected = TablesUse { keys: 3, tables: 2, bytes: room_for_two };
        assert_eq!(tables.rebalance(), expected);
        assert_eq!(have_tables(), [false, true, true]);
        // Every key gets the same verdicts with and without its table.
        keys.iter().for_each(|key| verify_twice(&mut verifier, key));
        for _ in 0..50 {
            verify_twice(&mut verifier, &keys[0]);
        }
        assert_eq!(tables.rebalance(), expected);
        assert!(have_tables()[0], "used again");
        tables.set_budget_bytes(0);
        assert_eq!(tables.rebalance(), TablesUse { keys: 3, tables: 0, bytes: 0 });
        keys.iter().for_each(|key| verify_twice(&mut verifier, key));
    }
}

#[test]
fn idle_keys_keep_their_tables() {
    let tables = Tables::new(Engine::Auto, usize::MAX);
    let key = signed(&tables, 9).0;
    for _ in 0..3 {
        tables.rebalance();
        assert!(key.table().is_some());
    }
}

#[test]
fn registering_a_key_again_shares_it_until_nobody_holds_it() {
    let tables = Tables::new(Engine::Auto, usize::MAX);
    let first = tables.register(&key_bytes(1)).unwrap();
    let again = tables.register(&key_bytes(1)).unwrap();
    assert!(Arc::ptr_eq(&first.0, &again.0));
    drop((first, again));
    assert_eq!(tables.rebalance().keys, 0);
    assert!(tables.register(&key_bytes(1)).is_ok());
}

#[test]
fn shadow_agrees_with_every_engine() {
    let tables: &'static Tables = Box::leak(Box::new(Tables::new(Engine::Auto, usize::MAX)));
    let (sender, disagreements) = mpsc::channel();
    let shadow = Shadow::start(1.0, tables, move |disagreement| sender.send(disagreement.clone()).unwrap());
    let shadow = shadow.unwrap();
    let cases = honest(40);
    for engine in engines() {
        let mut verifier = Verifier::with_shadow(engine, &shadow).unwrap();
        for route in ROUTES {
            let mut bad = cases.clone();
            bad[7].signature[5] ^= 1;
            bad[8].key[0] ^= 1;
            verdicts(&mut verifier, route, &bad.iter().collect::<Vec<_>>());
        }
    }
    let expected = (engines().len() * ROUTES.len() * cases.len()) as u64;
    while shadow.checked() + shadow.dropped() < expected {
        std::thread::yield_now();
    }
    assert_eq!((shadow.disagreements(), shadow.dropped()), (0, 0));
    drop(shadow);
    assert_eq!(disagreements.iter().count(), 0, "and the thread has ended");
}

#[test]
fn disagreement_leaves_the_lanes_and_is_told() {
    let tables: &'static Tables = Box::leak(Box::new(Tables::new(Engine::Auto, usize::MAX)));
    let (sender, disagreements) = mpsc::channel();
    let shadow = Shadow::start(0.0, tables, move |disagreement| sender.send(disagreement.clone()).unwrap());
    let shadow = shadow.unwrap();
    let mut verifier = Verifier::with_shadow(Engine::Auto, &shadow).unwrap();
    let key = signed(tables, 5);
    verify_twice(&mut verifier, &key);
    assert_eq!(shadow.checked(), 0, "a rate of 0 samples nothing");
    // An engine that accepts what it must not.
    let item = Item { key: ItemKey::Registered(&key.0), message: b"another message", signature: &key.2 };
    shadow.sampler().unwrap().offer(&item, true, "broken");
    let told = disagreements.recv().unwrap();
    assert_eq!(told, Disagreement { engine: "broken", accepted: true, key: key.0.as_bytes().to_vec() });
    assert_eq!(shadow.disagreements(), 1);
    verify_twice(&mut verifier, &key);
    assert_eq!(verifier.engine_name(), "portable");
    // Its table is replaced by one the portable engine reads.
    tables.rebalance();
    assert!(Arithmetic::Portable.reads(key.0.table().unwrap().get()));
    verify_twice(&mut verifier, &key);
}

#[test]
fn sampling_follows_its_rate() {
    let tables: &'static Tables = Box::leak(Box::new(Tables::new(Engine::Portable, usize::MAX)));
    let shadow = Shadow::start(0.25, tables, |_| {}).unwrap();
    let mut sampler = shadow.sampler().unwrap();
    let item = Item { key: ItemKey::Unregistered(&[]), message: &[], signature: &[] };
    let items = [item; 64];
    let mut verdicts = Vec::new();
    Verifier::new(Engine::Portable).verify(&items, &mut verdicts);
    (0..64).for_each(|_| sampler.sample(&items, &verdicts, "portable"));
    drop(sampler);
    let sampled = || shadow.checked() + shadow.dropped();
    // 1024 expected of 4096, with a standard deviation of 28.
    while sampled() < 800 {
        std::thread::yield_now();
    }
    assert!(sampled() < 1250);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn lanes_need_every_one_of_their_features() {
    use super::avx512::Avx512;
    assert!(Avx512::suffices(|_| true));
    for missing in Avx512::FEATURES {
        assert!(!Avx512::suffices(|feature| feature != missing), "{missing} is needed");
    }
    assert!(!Avx512::suffices(|feature| feature == "avx2" || feature == "avx512f"));
}
