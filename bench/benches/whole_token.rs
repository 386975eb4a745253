//! A whole token: from the bytes of a compact JWS to checked claims, by the two halves the shards run (`admit`,
//! `settle`) with the batch verified in between. The peer is `jsonwebtoken`'s `decode` with its aws-lc backend.
//!
//! Edgate's side also asks the revocation view, which the peer does not have.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group};
use edgate::decision::{Decision, UnixSeconds};
use edgate::keys::{IssuerIndex, KeySet, jwks};
use edgate::revocation::{Freshness, Realms, View};
use edgate::shard::{self, Admitted, Delegates, Moment, Policy};
use edgate::token::{self, Demand, Profile, ProfileKind};
use edgate::verify::{Engine, Item, Verdict, Verifier};
use edgate_bench::att::{Algorithm, tamper};
use edgate_bench::inputs::{self, AUDIENCE, ISSUER, NOW};
use edgate_bench::ratio::interleaved;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation, decode};
use serde::Deserialize;

/// Distinct tokens; more than the branch predictors can learn by heart.
const TOKENS: usize = 4096;

/// Everything a shard keeps between batches.
struct Edgate {
    policy: Policy,
    verifier: Verifier,
    delegates: Delegates,
    verdicts: Vec<Verdict>,
    view: View,
    realms: Vec<Realms>,
    scratch: token::Scratch,
}

impl Edgate {
    fn new(engine: Engine) -> Self {
        let set = jwks::parse(inputs::minter(Algorithm::EdDsa).jwks().as_bytes())
            .expect("the minter writes a JWKS");
        let mut profile = Profile::new(
            ProfileKind::AgentTask,
            "bench".to_owned(),
            "default".to_owned(),
            ISSUER.to_owned(),
            vec![AUDIENCE.to_owned()],
        );
        profile.max_lifetime_s = None;
        let policy =
            Policy::plain(KeySet::new(vec![(IssuerIndex(0), set.keys)]).expect("one key"), vec![profile]);
        let view = View::new(&[7; 16], 0, Freshness::authoritative(Instant::now()));
        Self {
            realms: policy.realms(&view),
            policy,
            verifier: Verifier::new(engine),
            delegates: Delegates::default(),
            verdicts: Vec::new(),
            view,
            scratch: token::Scratch::default(),
        }
    }

    /// How many tokens of the batch are accepted.
    fn decide(&mut self, batch: &[String]) -> usize {
        let Self { policy, verifier, delegates, verdicts, view, realms, scratch } = self;
        let texts = batch.iter().map(|token| Ok(token.as_bytes()));
        let admitted: Vec<Admitted<'_, '_>> =
            shard::admit_all(texts, policy, delegates, verifier, verdicts, scratch)
                .into_iter()
                .collect::<Result<_, _>>()
                .expect("every token is well formed");
        let items: Vec<Item<'_>> = admitted.iter().flat_map(Admitted::items).collect();
        verifier.verify(&items, verdicts);
        let mut verdicts = verdicts.drain(..);
        let look = view.look();
        let moment = Moment { policy, look: &look, realms, now: UnixSeconds(NOW), stale: false, lists: None };
        admitted
            .into_iter()
            .map(|admitted| {
                let settled = shard::settle(admitted, &mut verdicts, &moment, &Demand::default(), scratch);
                black_box(settled.claims.as_ref().and_then(|claims| claims.sub));
                settled.decision
            })
            .filter(|decision| *decision == Decision::Accepted)
            .count()
    }
}

/// The claims a service would ask `jsonwebtoken` for.
#[derive(Deserialize)]
#[expect(dead_code, reason = "read by nobody, but built as for somebody")]
struct Claims {
    iss: String,
    sub: String,
    jti: String,
    exp: u64,
    scope: Vec<String>,
    task: String,
    own: String,
}

struct Peer {
    key: DecodingKey,
    validation: Validation,
}

impl Peer {
    fn new() -> Self {
        let set: JwkSet =
            serde_json::from_str(&inputs::minter(Algorithm::EdDsa).jwks()).expect("the minter writes a JWKS");
        let mut validation = Validation::new(jsonwebtoken::Algorithm::EdDSA);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.validate_nbf = true;
        Self { key: DecodingKey::from_jwk(&set.keys[0]).expect("an Ed25519 key"), validation }
    }

    fn decide(&self, batch: &[String]) -> usize {
        batch
            .iter()
            .filter(|token| black_box(decode::<Claims>(token, &self.key, &self.validation)).is_ok())
            .count()
    }
}

/// Hands out the batches of a pool of tokens in turn.
struct Batches {
    tokens: Vec<String>,
    len: usize,
    next: usize,
}

impl Batches {
    fn new(len: usize, change: impl Fn(usize, String) -> String) -> Self {
        let tokens = inputs::tokens(TOKENS, Algorithm::EdDsa);
        let tokens = tokens.into_iter().enumerate().map(|(i, token)| change(i, token)).collect();
        Self { tokens, len, next: 0 }
    }

    fn good(len: usize) -> Self {
        Self::new(len, |_, token| token)
    }

    fn next(&mut self) -> &[String] {
        let start = self.next;
        self.next = (start + self.len) % TOKENS;
        &self.tokens[start..start + self.len]
    }
}

fn whole_token(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("whole_token");
    for len in [64, 8, 1] {
        group.throughput(Throughput::Elements(len as u64));
        let (mut edgate, mut batches) = (Edgate::new(Engine::Auto), Batches::good(len));
        assert_eq!(edgate.decide(batches.next()), len);
        group.bench_function(format!("edgate/batch_{len}"), |b| b.iter(|| edgate.decide(batches.next())));
    }
    group.throughput(Throughput::Elements(64));
    // Garbage must not be dearer than good tokens, nor make its neighbours so.
    let mut hostile = Batches::new(64, |i, token| if i % 8 == 0 { tamper(&token) } else { token });
    let mut edgate = Edgate::new(Engine::Auto);
    assert_eq!(edgate.decide(hostile.next()), 56);
    group.bench_function("edgate/batch_64_one_bad_in_8", |b| b.iter(|| edgate.decide(hostile.next())));

    let (mut portable, mut batches) = (Edgate::new(Engine::Portable), Batches::good(64));
    group.bench_function("edgate_portable/batch_64", |b| b.iter(|| portable.decide(batches.next())));

    let (peer, mut batches) = (Peer::new(), Batches::good(64));
    assert_eq!(peer.decide(batches.next()), 64);
    group.bench_function("jsonwebtoken/batch_64", |b| b.iter(|| peer.decide(batches.next())));
    group.finish();
}

fn print_ratios() {
    let peer = Peer::new();
    for (name, engine) in [("", Engine::Auto), (", portable path", Engine::Portable)] {
        let mut edgate = Edgate::new(engine);
        let (mut ours, mut theirs) = (Batches::good(64), Batches::good(64));
        let ratio = interleaved(
            15,
            Duration::from_millis(60),
            || _ = black_box(edgate.decide(ours.next())),
            || _ = black_box(peer.decide(theirs.next())),
        );
        println!(
            "whole token, batch 64{name} ({}), against jsonwebtoken: {ratio}",
            edgate.verifier.engine_name()
        );
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = whole_token
}

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
    // `cargo test --benches` runs this too, to see that it runs; `cargo bench` says so.
    if std::env::args().any(|argument| argument == "--bench") {
        print_ratios();
    }
}
