//! What a proof of one decision costs: found by its id in a log, made from exported tiles, checked before it is given out.
//!
//! `cargo bench -p edgate-bench --bench proofs`. `EDGATE_PROOF_RECORDS` sets the size of the log (default two million; a
//! hundred million take about 25 GB, and 15 for the tiles). It lies in a temporary folder below `EDGATE_BENCH_DIR`.

use std::{
    hint::black_box,
    path::Path,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use ed25519_dalek::{Signer as _, SigningKey};
use edgate::audit::{
    Ack, CheckpointKey, CheckpointSigner, Event, Opened, RecordId, Settings, open_signed,
    proof::{Expected, Prover, export_tiles, verify_inclusion},
};
use edgate_bench::inputs::decision;
use edgate_bench::load::summary::median;
use edgate_bench::wanted;

const ORIGIN: &str = "bench.example/log";
const PATIENCE: Duration = Duration::from_secs(60);

/// Records of the log unless `EDGATE_PROOF_RECORDS` says another number.
const RECORDS: u64 = 2_000_000;

/// Records appended between two waits, and of which one id is kept.
const BATCH: u64 = 1000;

/// A closed log of that many decisions; some of their ids.
fn filled(dir: &Path, signing: &SigningKey, records: u64) -> Vec<RecordId> {
    let settings = Settings { create: true, ..Settings::new(dir, ORIGIN) };
    let signing = signing.clone();
    let signer = CheckpointSigner {
        verifying_key: signing.verifying_key().to_bytes(),
        sign: Box::new(move |message| Ok(signing.sign(message).to_bytes())),
    };
    let Opened { mut appenders, log, .. } = open_signed(&settings, 1, Some(signer)).expect("a log");
    let mut ids = Vec::new();
    for _ in 0..records / BATCH {
        let mut last = None;
        for _ in 0..BATCH {
            last = Some(appenders[0].append(&Event::Decision(decision()), Ack::Recorded).expect("room"));
        }
        let last = last.expect("some");
        appenders[0].wait(last, Ack::Recorded, PATIENCE).expect("recorded");
        ids.push(last);
    }
    log.close(PATIENCE).expect("closed");
    ids
}

fn proofs(criterion: &mut Criterion) {
    if !wanted("proofs") {
        return;
    }
    let records = std::env::var("EDGATE_PROOF_RECORDS").map_or(RECORDS, |text| {
        text.parse().unwrap_or_else(|_| panic!("EDGATE_PROOF_RECORDS={text} is no number"))
    });
    let folder = match std::env::var_os("EDGATE_BENCH_DIR") {
        Some(dir) => tempfile::tempdir_in(dir).expect("EDGATE_BENCH_DIR can be written"),
        None => tempfile::tempdir().expect("the temporary folder can be written"),
    };
    let (dir, tiles) = (folder.path().join("log"), folder.path().join("tiles"));
    let signing = SigningKey::from_bytes(&[3; 32]);
    let keys = [CheckpointKey::new(ORIGIN, signing.verifying_key().to_bytes())];
    let ids = filled(&dir, &signing, records);

    let started = Instant::now();
    let exported = export_tiles(&dir, &tiles, &keys, &mut |_| {}).expect("tiles");
    println!(
        "proofs/export: {} records, {} files in {:.1} s",
        exported.size,
        exported.files,
        started.elapsed().as_secs_f64()
    );

    // Each id once, spread over the log: percentiles, which criterion does not give.
    let prover = Prover { dir: &dir, tiles: Some(&tiles), keys: &keys };
    let step = (ids.len() / 200).max(1);
    let mut times: Vec<f64> = Vec::new();
    let mut proof = String::new();
    for id in ids.iter().step_by(step) {
        let started = Instant::now();
        proof = prover.inclusion(*id, false, &mut |_| {}).expect("a proof").to_text();
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let worst = times.iter().fold(0.0, |worst: f64, time| worst.max(*time));
    println!(
        "proofs/prove, {} records, by id, from tiles: median {:.2} ms, worst of {} {worst:.2} ms; {} bytes; floor 50 ms",
        exported.size,
        median(&times),
        times.len(),
        proof.len()
    );

    let expected = Expected { keys: &keys, origin: Some(ORIGIN), id: None };
    criterion.bench_function("proofs/check", |bencher| {
        bencher.iter(|| verify_inclusion(black_box(proof.as_bytes()), &expected).expect("proven"));
    });
}

criterion_group!(benches, proofs);
criterion_main!(benches);
