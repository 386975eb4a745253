//! What a token costs besides its signature: form, header, key lookup, claims and their checks, and the parts of it.
//!
//! `serde_json` and `base64` are there as measures: the first reads the claims into a typed struct without any of the
//! strict rules, the second is the scalar decoder.

use std::hint::black_box;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ed25519_dalek::{Signer, SigningKey};
use edgate::base64url;
use edgate::decision::UnixSeconds;
use edgate::json::{self, Reader};
use edgate::keys::{IssuerIndex, KeySet, PublishedKey};
use edgate::token::{self, AgentTask, Demand, Padding, Profile, ProfileKind, Scratch, SignedBy, VerifiedJws};
use edgate::verify::{Engine, Item, ItemKey, Verdict, Verifier, VerifyingKey};
use edgate_bench::inputs::AGENT_TASK;
use serde::Deserialize;

const NOW: UnixSeconds = UnixSeconds(1_700_000_000);

/// Distinct tokens; more than the branch predictors can learn by heart.
const TOKENS: usize = 1024;

/// Issuers with four keys each: a lookup compares about six names.
const ISSUERS: u16 = 16;

struct Inputs {
    keys: KeySet,
    profile: Profile,
    tokens: Vec<String>,
    payloads: Vec<Vec<u8>>,
}

impl Inputs {
    fn new() -> Self {
        let signing_key = SigningKey::from_bytes(&[9; 32]);
        let verifying_key =
            VerifyingKey::register(signing_key.verifying_key().as_bytes()).expect("an honest key");
        let key = |issuer: u16, n: u16| PublishedKey {
            kid: format!("2026-11-issuer-{issuer}-key-{n}"),
            verifying_key: verifying_key.clone(),
        };
        let issuers =
            (0..ISSUERS).map(|issuer| (IssuerIndex(issuer), (0..4).map(|n| key(issuer, n)).collect()));
        let keys = KeySet::new(issuers.collect()).expect("names are distinct");
        let (issuer, audience) = ("https://auth.example.com", "https://api.example.com");
        let profile = Profile::new(
            ProfileKind::AgentTask,
            "bench".to_owned(),
            "t".to_owned(),
            issuer.to_owned(),
            vec![audience.to_owned()],
        );
        let mint = |i: usize| {
            let (sub, jti) = (format!("agent-{i}"), format!("{:032x}", i * 0x9e37_79b9));
            let task = AgentTask {
                iss: issuer,
                sub: &sub,
                aud: &[audience],
                iat: NOW,
                nbf: NOW,
                exp: NOW.saturating_add(600),
                jti: &jti,
                ..AGENT_TASK
            };
            let kid = format!("2026-11-issuer-0-key-{}", i % 4);
            let input =
                token::signing_input(SignedBy { kid: &kid, delegation: None }, &task).expect("a valid task");
            let signature = signing_key.sign(input.as_bytes()).to_bytes();
            token::assemble(input, &signature)
        };
        let tokens: Vec<String> = (0..TOKENS).map(mint).collect();
        let payload = |token: &String| token::inspect(token.as_bytes()).expect("just minted").payload;
        let payloads = tokens.iter().map(payload).collect();
        Self { keys, profile, tokens, payloads }
    }

    fn verified(&self) -> Vec<VerifiedJws<'_>> {
        let mut scratch = Scratch::default();
        let mut verifier = Verifier::new(Engine::Auto);
        let mut verdicts = Vec::new();
        self.tokens
            .iter()
            .map(|token| {
                let (jws, header) =
                    token::parse(token.as_bytes(), Padding::Refused, &mut scratch).expect("just minted");
                let key = self.keys.candidates(header.kid)[0].verifying_key();
                let item = Item {
                    key: ItemKey::Registered(key),
                    message: jws.signing_input(),
                    signature: jws.signature(),
                };
                verifier.verify(&[item], &mut verdicts);
                match verdicts.pop() {
                    Some(Verdict::Accepted(proof)) => VerifiedJws::new(jws, proof),
                    other => panic!("{other:?}"),
                }
            })
            .collect()
    }
}

fn token_room(criterion: &mut Criterion) {
    let inputs = Inputs::new();
    let verified = inputs.verified();
    let mut scratch = Scratch::default();
    let demand = Demand { audience: None, scopes: &["mail.read"] };
    let mut group = criterion.benchmark_group("token");
    group.throughput(Throughput::Elements(TOKENS as u64));

    group.bench_function("admit: parse, key lookup, header checks", |bencher| {
        bencher.iter(|| {
            for token in &inputs.tokens {
                let (jws, header) =
                    token::parse(token.as_bytes(), Padding::Refused, &mut scratch).expect("valid");
                let candidates = inputs.keys.candidates(header.kid);
                inputs.profile.check_header(&header).expect("valid");
                black_box((jws.signing_input(), candidates));
            }
        });
    });
    group.bench_function("settle: claims, claim checks", |bencher| {
        bencher.iter(|| {
            for jws in &verified {
                let claims = jws.claims(&mut scratch).expect("valid");
                inputs.profile.check_claims(&claims, NOW, &demand).expect("valid");
                black_box(claims.sub);
            }
        });
    });
    group.bench_function("key lookup", |bencher| {
        let kids: Vec<String> =
            (0..TOKENS).map(|i| format!("2026-11-issuer-{}-key-{}", i % 16, i % 4)).collect();
        bencher.iter(|| {
            for kid in &kids {
                black_box(inputs.keys.candidates(Some(kid)));
            }
        });
    });
    group.finish();
}

/// The claims as a service would have them read.
#[derive(Deserialize)]
#[expect(dead_code, reason = "built, and read by nobody")]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    exp: u64,
    jti: &'a str,
    scope: Vec<&'a str>,
    own: &'a str,
}

fn parts(criterion: &mut Criterion) {
    let inputs = Inputs::new();
    let mut group = criterion.benchmark_group("token_parts");
    group.throughput(Throughput::Elements(TOKENS as u64));
    group.bench_function("json: strict, whole claims", |bencher| {
        let mut scratch = json::Scratch::default();
        bencher.iter(|| {
            for payload in &inputs.payloads {
                json::read(payload, &mut scratch, Reader::skip).expect("valid");
            }
        });
    });
    group.bench_function("json: serde_json, typed, lax", |bencher| {
        bencher.iter(|| {
            for payload in &inputs.payloads {
                black_box(serde_json::from_slice::<Claims<'_>>(payload).expect("valid"));
            }
        });
    });
    let texts: Vec<String> = inputs.payloads.iter().map(|payload| base64url::encode(payload)).collect();
    let mut buffer = [0; token::TOKEN_BYTES_MAX];
    group.bench_function("base64url: base64-simd", |bencher| {
        bencher.iter(|| {
            for text in &texts {
                black_box(base64url::decode(text.as_bytes(), &mut buffer).expect("valid"));
            }
        });
    });
    group.bench_function("base64url: base64, scalar", |bencher| {
        bencher.iter(|| {
            for text in &texts {
                black_box(URL_SAFE_NO_PAD.decode_slice(text, &mut buffer).expect("valid"));
            }
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = token_room, parts
}
criterion_main!(benches);
