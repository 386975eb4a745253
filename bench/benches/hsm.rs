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
use edgate_hsm::{Pool, Purpose, TokenSigning, pooled_rate};
use support::{Stage, soon, stage, stage_with_faults};

const ROUNDS: usize = 31;
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

/// The pool against the best bare loop on the same token.
fn pool() {
    stage("pool", |stage| {
        let token = stage.make_token("bench");
        let key = stage.make_key(&token, Purpose::TokenSigning, "1");
        let admin = stage.admin(&token);
        let dalek = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
        let signature = ed25519_dalek::Signer::sign(&dalek, b"message");
        let started = Instant::now();
        for _ in 0..5000 {
            dalek.verifying_key().verify_strict(black_box(b"message"), &signature).unwrap();
        }
        println!("verify_strict: {:.0} us", started.elapsed().as_secs_f64() * 1e6 / 5000.0);
        for threads in [1, 2, 4] {
            let mut settings = stage.settings(&token);
            (settings.workers, settings.probe_interval) = (threads, Duration::from_secs(10));
            settings.checks = release_checks(Engine::Auto);
            let pool = Pool::start(settings).unwrap();
            let signer = pool.signing_key::<TokenSigning>(&key.uri, None, soon()).unwrap();
            let (mut bare, mut pooled) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                bare.push(admin.raw_rate(&key.uri, threads, LASTING).unwrap());
                pooled.push(pooled_rate(&signer, 64, LASTING).unwrap());
            }
            // Round by round: what slows the machine slows both halves of one.
            let ratios = spread(pooled.iter().zip(&bare).map(|(pooled, bare)| pooled / bare).collect());
            let (bare, pooled) = (spread(bare), spread(pooled));
            let verified = pool.metrics().verify;
            let count = verified.buckets.iter().sum::<u64>().max(1);
            println!(
                "verification before release: {:.0} us",
                verified.sum.as_secs_f64() * 1e6 / count as f64
            );
            println!(
                "{threads} threads: bare {bare} /s, pool {pooled} /s, ratio {:.3} ({:.3}..{:.3})",
                ratios.median, ratios.least, ratios.greatest
            );
        }
    });
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

fn spread(mut values: Vec<f64>) -> Spread {
    values.sort_by(f64::total_cmp);
    Spread { least: values[0], median: values[values.len() / 2], greatest: values[values.len() - 1] }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} ({:.0}..{:.0})", self.median, self.least, self.greatest)
    }
}
