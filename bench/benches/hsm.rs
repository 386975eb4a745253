//! Signing through the pool against the bare module, two calls against three, what a token that hangs costs, and how soon
//! another signs in its place; and what it costs that the module is an agent's.
//!
//! `cargo bench -p edgate-bench --bench hsm`. Needs SoftHSM; makes its own token in a temporary folder. Contestants run in turn and
//! the median round counts, because on a shared machine the clock drifts more between runs than the difference.

#![allow(clippy::cast_precision_loss, clippy::unwrap_used, reason = "a bench")]

#[path = "../../hsm/tests/support/agent.rs"]
mod agent_support;
#[path = "../../hsm/tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use criterion::Criterion;
use edgate::daemon::release_checks;
use edgate::verify::Engine;
use edgate_bench::att::{Algorithm, Minter};
use edgate_bench::load::client::{self, Plan};
use edgate_bench::load::pool::{Pool as Requests, Target, Tokens};
use edgate_bench::load::servers::{Server, as_edgate, edgate, free_address};
use edgate_bench::load::summary::median;
use edgate_bench::ratio::Ratio;
use edgate_hsm::{
    Callers, GeneratedKey, Group, MemberSettings, MemberStanding, Pkcs11Uri, Pool, PoolSettings, Purpose,
    Signer, TokenSigning, TokenStanding, pooled_rate,
};
use support::{Stage, soon, stage, stage_with_faults};

const ROUNDS: usize = 31;
/// Workers of a pool, and threads of a bare loop.
const THREADS: [usize; 3] = [1, 2, 4];
/// 64 signatures under way: asked for one by one, and sixteen in a call.
const CALLERS: [Callers; 2] = [Callers { count: 64, together: 1 }, Callers { count: 4, together: 16 }];
const LASTING: Duration = Duration::from_millis(300);
/// The process that part `agent` starts, and its workers.
const AGENT: &str = "agent_process";
const AGENT_WORKERS: usize = 2;
/// Decisions in one round with the daemon.
const DECISIONS: u64 = 30_000;
/// Times that a token is lost, and how long others sign before and after.
const LOSSES: usize = 21;
const LOAD: Duration = Duration::from_millis(150);
/// How long a member may take: the daemon's default.
const MEMBER_TIMEOUT: Duration = Duration::from_millis(150);
/// How long the token may take to heal.
const PATIENCE: Duration = Duration::from_secs(60);
const ISSUER: &str = "https://issuer.bench";
const AUDIENCE: &str = "bench";

fn main() -> ExitCode {
    if let Some(code) = as_edgate() {
        return code;
    }
    // Each in its own process, as the tests: `stage` runs this program again.
    let name = std::env::args().skip_while(|argument| argument != "--exact").nth(1);
    if name.as_deref() == Some(AGENT) {
        stage(AGENT, |stage| {
            agent_support::serve_as(stage, settings(stage, &stage.helper_token(), AGENT_WORKERS));
        });
        return ExitCode::SUCCESS;
    }
    let benches: [(&str, fn()); 6] = [
        ("pool", pool),
        ("agent", agent),
        ("paths", paths),
        ("hanging", hanging),
        ("failover", failover),
        ("sign", sign),
    ];
    for (bench, run) in benches {
        if name.as_deref().is_none_or(|name| name == bench) {
            run();
        }
    }
    ExitCode::SUCCESS
}

/// The pool against bare loops on the same token, with as many threads and with the best number of them.
fn pool() {
    stage("pool", |stage| {
        let token = stage.make_token("bench");
        let key = stage.make_key(&token, Purpose::TokenSigning, "1");
        let admin = stage.admin(&token);
        println!("verify_strict: {:.0} us", verify_strict_us());
        let pools = THREADS.map(|workers| {
            let pool = Pool::start(settings(stage, &token, workers)).unwrap();
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
            println!("{threads} threads: bare {:.0} /s; the check takes {us:.0} us", median(&bare[number]));
            for (rates, Callers { count, together }) in pooled[number].iter().zip(CALLERS) {
                println!(
                    "  pool, {count} callers of {together}: {:.0} /s; / bare {:.3}; / best bare {:.3}",
                    median(rates),
                    round_by_round(rates, &bare[number]),
                    round_by_round(rates, best),
                );
            }
        }
    });
}

/// The same pool in this process and at an agent, which is another.
fn agent() {
    stage("agent", |stage| {
        let token = stage.make_token("bench");
        let key = stage.make_key(&token, Purpose::TokenSigning, "1");
        let here = settings(stage, &token, AGENT_WORKERS);
        let _process = stage.start_agent(AGENT, "agent", &token);
        let there = PoolSettings { access: stage.at_agent("agent", &token).access, ..here.clone() };
        let pools = [here, there].map(|settings| {
            let pool = Pool::start(settings).unwrap();
            let signer = pool.signing_key::<TokenSigning>(&key.uri, None, soon()).unwrap();
            (pool, signer)
        });
        let alone = Callers { count: 1, together: 1 };
        for callers in [alone, CALLERS[0], CALLERS[1]] {
            let mut rates = [Vec::new(), Vec::new()];
            for _ in 0..ROUNDS {
                for (rates, (_, signer)) in rates.iter_mut().zip(&pools) {
                    rates.push(pooled_rate(signer, callers, LASTING).unwrap());
                }
            }
            let [here, there] = &rates;
            println!(
                "{AGENT_WORKERS} workers, {} callers of {}: in this process {:.0} /s, at an agent {:.0} /s, ratio {:.3}",
                callers.count,
                callers.together,
                median(here),
                median(there),
                round_by_round(there, here)
            );
        }
    });
}

fn settings(stage: &Stage, token: &Pkcs11Uri, workers: usize) -> PoolSettings {
    let (probe_interval, checks) = (Duration::from_secs(10), release_checks(Engine::Auto));
    PoolSettings { workers, probe_interval, checks, ..stage.settings(token) }
}

/// What slows the machine slows both halves of a round.
fn round_by_round(ours: &[f64], theirs: &[f64]) -> Ratio {
    Ratio::of(&ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>())
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
            let two: Vec<_> = times.iter().map(|paths| us(paths.two_calls)).collect();
            let three: Vec<_> = times.iter().map(|paths| us(paths.three_calls.unwrap())).collect();
            println!(
                "{what}: two calls {:.0} us, three calls {:.0} us, ratio {:.3}",
                median(&two),
                median(&three),
                round_by_round(&two, &three)
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

/// From the moment a token is lost under load to the first signature that was asked for after that.
fn failover() {
    stage_with_faults("failover", |stage| {
        stage.faults("");
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        let label = "edgate/token-signing/1";
        let tokens = ["one", "two"].map(|label| stage.make_token(label));
        let named = tokens.each_ref().map(|token| stage.import(token, &key, label));
        let members = tokens.each_ref().map(|token| {
            // As in service, but for the time until a lost token is looked for again.
            let pool = PoolSettings {
                workers: 2,
                probe_interval: Duration::from_millis(500),
                reinit_interval: Duration::from_millis(300),
                hang_limit: Duration::from_secs(5),
                checks: release_checks(Engine::Auto),
                ..stage.settings(token)
            };
            MemberSettings { pool, weight: 1, draining: false }
        });
        let group = Group::start(members.to_vec(), MEMBER_TIMEOUT).unwrap();
        let pinned = key.verifying_key().to_bytes();
        let signer =
            group.signing_key::<TokenSigning>(&named[0].object_only(), Some(pinned), soon()).unwrap();
        let both = || {
            let until = Instant::now() + PATIENCE;
            let ready = |member: &MemberStanding| matches!(member.standing, TokenStanding::Ready);
            while !group.members().iter().all(ready) || signed_in_turn(&group, &signer).contains(&0) {
                assert!(Instant::now() < until, "the lost token does not rejoin");
            }
        };
        let killed = |lost: usize| {
            let away = stage.take_away(&tokens[lost]);
            move || away.bring_back()
        };
        let hung = |lost: usize| {
            let label = tokens[lost].token.clone().unwrap();
            stage.faults(&format!("C_Sign hang token={label}\nC_SignInit hang token={label}\n"));
            || stage.faults("")
        };
        println!("killed (its token folder is moved away): {}", lose(&signer, &both, killed));
        println!("hung (its calls do not return): {}", lose(&signer, &both, hung));
    });
}

/// What each member signed of ten signatures.
fn signed_in_turn(group: &Group, signer: &Signer<TokenSigning>) -> Vec<u64> {
    let signed = || group.members().into_iter().map(|member| member.metrics.signed).collect::<Vec<_>>();
    let before = signed();
    for _ in 0..10 {
        signer.sign(b"message", Instant::now() + PATIENCE).unwrap();
    }
    signed().iter().zip(before).map(|(after, before)| after - before).collect()
}

/// Loses one member and the other in turn while three threads sign; the times to the first signature, and the longest that
/// any signature took.
fn lose<Back: FnOnce()>(
    signer: &Signer<TokenSigning>,
    both: &impl Fn(),
    lose: impl Fn(usize) -> Back,
) -> String {
    let (mut firsts, mut longest) = (Vec::new(), Duration::ZERO);
    for round in 0..LOSSES {
        both();
        let (stop, slowest) = (AtomicBool::new(false), Mutex::new(Duration::ZERO));
        let back = std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let started = Instant::now();
                        signer.sign(b"message", started + PATIENCE).unwrap();
                        let mut slowest = slowest.lock().unwrap();
                        *slowest = started.elapsed().max(*slowest);
                    }
                });
            }
            std::thread::sleep(LOAD);
            let back = lose(round % 2);
            let lost = Instant::now();
            // Both kinds of seat are tried: the first that comes is asked of the lost one every other time.
            let answers: Vec<Duration> = (0..2)
                .map(|_| {
                    signer.sign(b"message", lost + PATIENCE).unwrap();
                    lost.elapsed()
                })
                .collect();
            firsts.push(answers[1].as_secs_f64() * 1e3);
            std::thread::sleep(LOAD);
            stop.store(true, Ordering::Relaxed);
            back
        });
        longest = longest.max(slowest.into_inner().unwrap());
        back();
    }
    let worst = firsts.iter().copied().fold(0.0, f64::max);
    format!(
        "two signatures asked for one after the other once it is lost: median {:.1} ms, worst {worst:.1} ms of {LOSSES}; the \
         longest that any signature took {:.1} ms",
        median(&firsts),
        longest.as_secs_f64() * 1e3
    )
}

/// Verification by the whole daemon while every signing call hangs, against the same daemon with a healthy token.
fn hanging() {
    stage_with_faults("hanging", |stage| {
        let token = stage.make_token("bench");
        let signing = stage.make_key(&token, Purpose::TokenSigning, "1");
        let checkpoint = stage.make_key(&token, Purpose::AuditCheckpoint, "1");
        let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
        let minter = Minter::new(key, Algorithm::Ed25519, "bench", ISSUER, AUDIENCE);
        let (data, control) = (free_address().unwrap(), free_address().unwrap());
        let config = stage.folder.join("edgate.toml");
        let text = config_text(stage, &token, [&signing, &checkpoint], [data, control], &minter);
        std::fs::write(&config, text).unwrap();
        stage.faults("");
        assert!(edgate(&["init", config.to_str().unwrap()]).unwrap().status().unwrap().success());
        let command = edgate(&["serve", "--config", config.to_str().unwrap()]).unwrap();
        let server = Server::start("edgate", command, data, &stage.folder.join("output"), (0, 1)).unwrap();
        let target = Target::parse(&format!("http://{data}/auth/nginx")).unwrap();
        let issued_at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let tokens = Tokens { count: 10_000, bad_share: 0.0, issued_at, lifetime: 3600, seed: 1 };
        let requests = Requests::mint(&target, &minter, &tokens);
        let plan = Plan::closed(DECISIONS, 5_000);
        let rate = || {
            let outcome = client::run(&plan, &target, &requests).unwrap();
            assert!(outcome.mismatches == 0 && outcome.lost == 0, "{:?}", outcome.complaints);
            DECISIONS as f64 / outcome.elapsed.as_secs_f64()
        };
        let issue_until = |status| {
            let until = Instant::now() + PATIENCE;
            while issue(control) != status {
                assert!(Instant::now() < until, "issuing is not answered with {status}");
            }
        };
        let (mut healthy, mut hanging) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            issue_until(201);
            healthy.push(rate());
            stage.faults("C_Sign hang\nC_SignInit hang\n");
            issue_until(503);
            hanging.push(rate());
            stage.faults("");
        }
        server.stop().unwrap();
        println!(
            "verification: {:.0} /s healthy, {:.0} /s while every signing call hangs, ratio {:.3}",
            median(&healthy),
            median(&hanging),
            round_by_round(&hanging, &healthy)
        );
    });
}

fn config_text(
    stage: &Stage,
    token: &Pkcs11Uri,
    [signing, checkpoint]: [&GeneratedKey; 2],
    [data, control]: [SocketAddr; 2],
    minter: &Minter,
) -> String {
    let path = |name: &str| stage.folder.join(name).display().to_string();
    let public = |key: &GeneratedKey| key.public_key.unwrap().to_string();
    let named =
        |key: &GeneratedKey| Pkcs11Uri { object: key.uri.object.clone(), ..Pkcs11Uri::empty() }.to_string();
    format!(
        "[server]\nlisten = [\"{data}\"]\nshards = 1\n[control]\nlisten = \"{control}\"\n\
         [state]\ndatabase = {database:?}\n\
         [hsm]\nmodule = {module:?}\ntoken = \"{token}\"\npin_source = \"file:{pin}\"\n\
         probe_interval_ms = 200\nhang_limit_ms = 500\nsign_timeout_ms = 700\n\
         [audit]\ndir = {audit:?}\norigin = \"edgate.bench/log\"\n\
         checkpoint_key = \"{checkpoint}\"\ncheckpoint_public_key = \"{checkpoint_public}\"\n\
         [signing]\nkey = \"{signing}\"\npublic_key = \"{signing_public}\"\nissuer = \"own\"\n\
         default_audience = \"{AUDIENCE}\"\n\
         [[issuers]]\nname = \"own\"\nissuer = \"https://own.bench\"\naudiences = [\"{AUDIENCE}\"]\nkeys = \"signing_key\"\n\
         [[issuers]]\nname = \"bench\"\nissuer = \"{ISSUER}\"\naudiences = [\"{AUDIENCE}\"]\njwks = '{jwks}'\n",
        database = path("state/state.db"),
        module = stage.module.display().to_string(),
        pin = path("pin"),
        audit = path("audit"),
        checkpoint = named(checkpoint),
        checkpoint_public = public(checkpoint),
        signing = named(signing),
        signing_public = public(signing),
        jwks = minter.jwks(),
    )
}

/// Asks for one token; the status of the answer.
fn issue(control: SocketAddr) -> u16 {
    let body = r#"{"agent_id":"agent-1","scope":["orders.read"]}"#;
    let mut stream = TcpStream::connect(control).unwrap();
    write!(
        stream,
        "POST /v1/tokens HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.split(' ').nth(1).unwrap().parse().unwrap()
}
