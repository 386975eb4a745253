//! A bounded run of the `verify` fuzz target, on stable Rust and with a seed that is printed.
//!
//! Longest run so far: `EDGATE_FUZZ_ROUNDS=15000`, about 180,000 items, each verified eight times (lanes and portable,
//! registered and raw, together and alone), in 219 s: no difference.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

#[path = "fuzz/verify.rs"]
mod verify;

/// Batches of an ordinary run; `EDGATE_FUZZ_ROUNDS` asks for more.
const ROUNDS: u64 = 150;

#[test]
fn every_path_agrees_with_the_oracle_on_forged_batches() {
    let rounds = number("EDGATE_FUZZ_ROUNDS").unwrap_or(ROUNDS);
    let mut state = number("EDGATE_TEST_SEED").unwrap_or_else(|| {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).expect("random numbers");
        u64::from_le_bytes(seed)
    });
    println!("EDGATE_TEST_SEED={state} EDGATE_FUZZ_ROUNDS={rounds}");
    let (mut genuine, mut all) = (0, 0);
    for _ in 0..rounds {
        // splitmix64 (Vigna): any seed will do.
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let items = next() % 25;
        all += items;
        let mut data = Vec::new();
        for _ in 0..items {
            let mut item = next().to_le_bytes();
            // Most choices of these bytes change nothing; bring the ones that do within reach.
            item[3] %= 48;
            item[4] %= 24;
            data.extend(item);
        }
        genuine += verify::run(&data);
    }
    println!("{genuine} of {all} items are genuine");
    assert!(genuine > 0, "forgeries only: nothing was compared but refusals");
}

#[test]
fn every_path_agrees_with_the_oracle_on_the_corpus() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus/verify");
    let mut inputs = 0;
    for file in std::fs::read_dir(folder).expect("the corpus is part of the project") {
        verify::run(&std::fs::read(file.expect("a readable folder").path()).expect("a readable input"));
        inputs += 1;
    }
    assert!(inputs > 0, "an empty corpus");
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}
