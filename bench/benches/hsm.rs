//! Signing through the pool against the bare module, and two calls against three.
//!
//! `cargo bench -p edgate-bench --bench hsm`. Needs SoftHSM; makes its own token in a temporary folder. Contestants run in turn and
//! the median round counts, because on a shared machine the clock drifts more between runs than the difference.

#![allow(clippy::cast_precision_loss, clippy::unwrap_used, reason = "a bench")]

#[path = "../../hsm/tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::Criterion;
use edgate::daemon::release_checks;
use edgate::verify::Engine;
use edgate_hsm::{Callers, Pool, PoolSettings, Purpose, TokenSigning, pooled_rate};
use support::{Stage, soon, stage, stage_with_faults};

const ROUNDS: usize = 31;
/// Workers of a pool, and threads of a bare loop.
const THREADS: [usize; 3] = [1, 2, 4];
/// 64 signatures under way: asked for one by one, and sixteen in a call.
const CALLERS: [Callers; 2] = [Callers { count: 64, together: 1 }, Callers { count: 4, together: 16 }];
const LASTING: Duration = Duration::from_millis(300);

fn main() {
    // Each in its own process, as the tests: `stage` runs this program again.
    let name = std::env::args().skip_while(|argument| argument != "--exact").nth(1);
    let benches: [(&str, fn()); 3] = [("pool", pool), ("paths", paths), ("sign", sign)];
    for (bench, run) in benches {
        if name.as_deref().is_none_or(|name| name == bench) {
            run();
        }
    }
}

/// The pool against bare loops on the same token, with as many threads and with the best number of them.
fn pool() {
    stage("pool", |stage| {
        let token = stage.make_token("bench");
        let key = stage.make_key(&token, Purpose::TokenSigning, "1");
        let admin = stage.admin(&token);
        println!("verify_strict: {:.0} us", verify_strict_us());
        let pools = THREADS.map(|workers| {
            let probe_interval = Duration::from_secs(10);
            let checks = release_checks(Engine::Auto);
            let settings = PoolSettings { workers, probe_interval, checks, ..stage.settings(&token) };
            let pool = Pool::start(settings).unwrap();
            let signer = pool.signing_key::<TokenSigning>(&key.uri, None, soon()).unwrap();
            (pool, signer)
        });
        let mut bare = THREADS.map(|_| Vec::new());
        let mut pooled = THREADS.map(|_| CALLERS.map(|_| Vec::new()));
        for _ in 0..ROUNDS {
            for (number, threads) in THREADS.into_iter().enumerate() {
                bare[number].push(admin.raw_rate(&key.uri, threads, LASTING).unwrap());
                for (rates, callers) in pooled[number].iter_mut().zip(CALLERS) {
                    rates.push(pooled_rate(&pools[number].1, callers, LASTING).unwrap());
                }
            }
        }
        let best = bare.iter().max_by(|one, other| median(one).total_cmp(&median(other))).unwrap();
        for (number, threads) in THREADS.into_iter().enumerate() {
            let verified = pools[number].0.metrics().verify;
            let us = verified.sum.as_secs_f64() * 1e6 / verified.buckets.iter().sum::<u64>() as f64;
            println!(
                "{threads} threads: bare {:.0} /s; the check takes {us:.0} us",
                spread(bare[number].clone())
            );
            for (rates, Callers { count, together }) in pooled[number].iter().zip(CALLERS) {
                // Round by round: what slows the machine slows both halves of one.
                let against =
                    |other: &[f64]| spread(rates.iter().zip(other).map(|(pool, bare)| pool / bare).collect());
                println!(
                    "  pool, {count} callers of {together}: {:.0} /s; / bare {:.3}; / best bare {:.3}",
                    spread(rates.clone()),
                    against(&bare[number]),
                    against(best),
                );
            }
        }
    });
}

fn verify_strict_us() -> f64 {
    let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
    let signature = ed25519_dalek::Signer::sign(&key, b"message");
    let started = Instant::now();
    for _ in 0..5000 {
        key.verifying_key().verify_strict(black_box(b"message"), &signature).unwrap();
    }
    started.elapsed().as_secs_f64() * 1e6 / 5000.0
}

/// Two calls per signature against cryptoki's three.
fn paths() {
    stage_with_faults("paths", |stage| {
        let token = stage.make_token("bench");
        let key = stage.make_key(&token, Purpose::TokenSigning, "1");
        let admin = stage.admin(&token);
        for (what, faults) in [
            ("SoftHSM", ""),
            ("SoftHSM + 200 us per call", "* delay_us=200\n"),
            ("200 us per call, nothing else", "C_SignInit canned delay_us=200\nC_Sign canned delay_us=200\n"),
        ] {
            stage.faults(faults);
            let times = (0..ROUNDS).map(|_| admin.sign_paths(&key.uri, 300).unwrap()).collect::<Vec<_>>();
            let us = |duration: Duration| duration.as_secs_f64() * 1e6;
            let two = spread(times.iter().map(|paths| us(paths.two_calls)).collect());
            let three = spread(times.iter().map(|paths| us(paths.three_calls.unwrap())).collect());
            println!(
                "{what}: two calls {two} us, three calls {three} us, ratio {:.3}",
                two.median / three.median
            );
        }
        stage.faults("");
    });
}

/// One signature, start to end, by the sync face.
fn sign() {
    stage("sign", |stage: &Stage| {
        let token = stage.make_token("bench");
        let key = stage.make_key(&token, Purpose::TokenSigning, "1");
        let mut settings = stage.settings(&token);
        settings.probe_interval = Duration::from_secs(10);
        settings.checks = release_checks(Engine::Auto);
        let pool = Pool::start(settings).unwrap();
        let signer = pool.signing_key::<TokenSigning>(&key.uri, None, soon()).unwrap();
        let mut criterion = Criterion::default();
        criterion.bench_function("hsm/sign", |bencher| {
            bencher.iter(|| signer.sign(black_box(b"message"), Instant::now() + LASTING).unwrap());
        });
    });
}

/// The median with the least and the greatest.
struct Spread {
    least: f64,
    median: f64,
    greatest: f64,
}

fn median(values: &[f64]) -> f64 {
    spread(values.to_vec()).median
}

fn spread(mut values: Vec<f64>) -> Spread {
    values.sort_by(f64::total_cmp);
    Spread { least: values[0], median: values[values.len() / 2], greatest: values[values.len() - 1] }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(0);
        write!(f, "{:.*} ({:.*}..{:.*})", digits, self.median, digits, self.least, digits, self.greatest)
    }
}
