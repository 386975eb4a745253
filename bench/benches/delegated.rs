//! Delegated issuing per core against `ed25519-dalek`'s bare signature, in this process and as a whole node; and what it costs a verifier
//! that tokens bring their delegations.
//!
//! `cargo bench -p edgate-bench --bench delegated`. Contestants run in turn and the median round counts, because on a shared machine
//! the clock drifts more between runs than the difference.

#![allow(clippy::cast_precision_loss, clippy::unwrap_used, reason = "a bench")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use ed25519_dalek::{Signer as _, SigningKey};
use edgate::daemon::release_checks;
use edgate::decision::{Decision, UnixSeconds};
use edgate::keys::{IssuerIndex, KeySet, PublishedKey, thumbprint};
use edgate::revocation::{Freshness, View};
use edgate::shard::{self, Delegates, Moment, Policy};
use edgate::token::{
    self, AgentTask, DELEGATION_LIFE_S_MAX, Delegation, Demand, Profile, ProfileKind, SignedBy,
};
use edgate::verify::{Engine, Item, Tables, Verdict, Verifier, VerifyingKey};
use edgate_bench::inputs::AGENT_TASK;
use edgate_bench::load::cpu::CpuTime;
use edgate_bench::load::http;
use edgate_bench::load::servers::{Server, as_edgate, edgate, free_address};
use edgate_bench::load::summary::median;
use edgate_bench::ratio::{Ratio, interleaved};
use edgate_hsm::{MemoryKey, Purpose, Signer, TokenSigning};

const ISSUER: &str = "https://issuer.bench";
const AUDIENCE: &str = "https://api.bench";
const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
/// Tokens of one call: the most that one may ask for.
const TOGETHER: usize = 64;
const ROUNDS: usize = 31;
const SLICE: Duration = Duration::from_millis(100);
/// Calls of a round with the node.
const CALLS: usize = 40;
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    if let Some(code) = as_edgate() {
        return code;
    }
    let name = std::env::args().skip_while(|argument| argument != "--exact").nth(1);
    let benches: [(&str, fn()); 3] = [("issuing", issuing), ("node", node), ("verifying", verifying)];
    for (bench, run) in benches {
        if name.as_deref().is_none_or(|name| name == bench) {
            run();
        }
    }
    Criterion::default().configure_from_args().final_summary();
    ExitCode::SUCCESS
}

/// A delegated key, the issuer's key that made it one, and the text in which it says so.
struct Delegated {
    issuer: SigningKey,
    signer: Signer<TokenSigning>,
    kid: String,
    text: String,
}

impl Delegated {
    fn new() -> Self {
        let issuer = SigningKey::from_bytes(&[3; 32]);
        let key = MemoryKey::generate(Purpose::TokenSigning, &release_checks(Engine::Auto)).unwrap();
        let signer = Signer::in_memory(key).unwrap();
        let public_key = signer.public_key();
        let expires_at = NOW.saturating_add(DELEGATION_LIFE_S_MAX);
        let says = Delegation { issuer: ISSUER.into(), issued_at: NOW, expires_at, public_key };
        let input = says.signing_input(&thumbprint(issuer.verifying_key().as_bytes()));
        let signature = issuer.sign(input.as_bytes()).to_bytes();
        Self { text: token::assemble(input, &signature), kid: thumbprint(&public_key), issuer, signer }
    }

    fn signed_by(&self) -> SignedBy<'_> {
        SignedBy { kid: &self.kid, delegation: Some(&self.text) }
    }

    /// Issues a call's tokens, as the control plane does between the records.
    fn issue(&self) -> Vec<String> {
        let inputs: Vec<String> = (0..TOGETHER).map(|i| input(self.signed_by(), i)).collect();
        let messages: Vec<&[u8]> = inputs.iter().map(String::as_bytes).collect();
        let signatures = self.signer.sign_at_once(&messages).unwrap().unwrap();
        let tokens = inputs.into_iter().zip(&signatures);
        tokens.map(|(input, signature)| token::assemble(input, signature)).collect()
    }
}

fn input(key: SignedBy<'_>, i: usize) -> String {
    let (sub, jti) = (format!("agent-{i:04}"), format!("5b3c7c1e-0d7a-4a53-{i:04}"));
    let task = AgentTask {
        iss: ISSUER,
        sub: &sub,
        aud: &[AUDIENCE],
        iat: NOW,
        nbf: NOW,
        exp: NOW.saturating_add(120),
        jti: &jti,
        ..AGENT_TASK
    };
    token::signing_input(key, &task).unwrap()
}

fn percent(name: &str, ratio: Ratio) {
    println!(
        "{name}: {:.1} % of ed25519-dalek ({:.1}..{:.1})",
        100.0 * ratio.median,
        100.0 * ratio.least,
        100.0 * ratio.most
    );
}

/// Whole tokens: claims and header written, signed, checked, assembled; against the bare signatures over the same bytes.
fn issuing() {
    let delegated = Delegated::new();
    let bare = SigningKey::from_bytes(&[5; 32]);
    let inputs: Vec<String> = (0..TOGETHER).map(|i| input(delegated.signed_by(), i)).collect();
    let sign_bare = || {
        for input in &inputs {
            black_box(bare.sign(input.as_bytes()));
        }
    };
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("delegated");
    group.throughput(Throughput::Elements(TOGETHER as u64));
    group.bench_function("issue_64", |bencher| bencher.iter(|| black_box(delegated.issue())));
    group.bench_function("sign_64_dalek", |bencher| bencher.iter(sign_bare));
    group.finish();
    let issue = || {
        black_box(delegated.issue());
    };
    percent("delegated issuance per core", interleaved(ROUNDS, SLICE, issue, sign_bare));
    let messages: Vec<&[u8]> = inputs.iter().map(String::as_bytes).collect();
    let sign = || {
        black_box(delegated.signer.sign_at_once(&messages).unwrap().unwrap());
    };
    percent("  of which signing and checking", interleaved(ROUNDS, SLICE, sign, sign_bare));
}

/// A whole node: HTTP, every record twice and durable, all of its threads' processor time.
fn node() {
    let folder = tempfile::tempdir().unwrap();
    let (data, control) = (free_address().unwrap(), free_address().unwrap());
    let config = folder.path().join("edgate.toml");
    std::fs::write(&config, config_text(folder.path(), data, control)).unwrap();
    assert!(edgate(&["init", config.to_str().unwrap()]).unwrap().status().unwrap().success());
    let command = edgate(&["serve", "--config", config.to_str().unwrap()]).unwrap();
    let server = Server::start("edgate", command, data, &folder.path().join("output"), (0, 1)).unwrap();
    let (request, mut connection) = (request(), TcpStream::connect(control).unwrap());
    let mut buffer = Vec::new();
    let until = Instant::now() + PATIENCE;
    // Until the delegated key signs, which its tokens' headers show.
    while call(&mut connection, &request, &mut buffer) < 64 * 1000 {
        assert!(Instant::now() < until, "no delegated key signs");
    }
    let bare = SigningKey::from_bytes(&[5; 32]);
    let delegated = Delegated::new();
    let inputs: Vec<String> = (0..TOGETHER).map(|i| input(delegated.signed_by(), i)).collect();
    let (mut shares, mut rates) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let before = CpuTime::read(server.pid()).unwrap();
        let begun = Instant::now();
        for _ in 0..CALLS {
            call(&mut connection, &request, &mut buffer);
        }
        rates.push((CALLS * TOGETHER) as f64 / begun.elapsed().as_secs_f64());
        let used = CpuTime::read(server.pid()).unwrap().since(&before).total().as_secs_f64();
        let begun = Instant::now();
        for _ in 0..CALLS {
            for input in &inputs {
                black_box(bare.sign(input.as_bytes()));
            }
        }
        shares.push(begun.elapsed().as_secs_f64() / used);
    }
    server.stop().unwrap();
    percent("a whole node's issuance, per core of all its threads", Ratio::of(&shares));
    println!("  one connection, 64 tokens a call: {:.0} tokens/s", median(&rates));
}

fn request() -> Vec<u8> {
    let mut body = String::from(r#"{"tokens":["#);
    for i in 0..TOGETHER {
        let comma = if i == 0 { "" } else { "," };
        write!(
            body,
            r#"{comma}{{"agent_id":"agent-{i:04}","scope":["mail.read","calendar.read"],"task":"weekly-report","own":"ann@example.com"}}"#
        )
        .unwrap();
    }
    body.push_str("]}");
    let length = body.len();
    format!(
        "POST /v1/tokens HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Asks for 64 tokens; how long the answer is.
fn call(connection: &mut TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> usize {
    connection.write_all(request).unwrap();
    buffer.clear();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let count = connection.read(&mut chunk).unwrap();
        assert!(count > 0, "the connection ended");
        buffer.extend_from_slice(&chunk[..count]);
        if let Some((answer, _)) = http::parse(buffer).unwrap() {
            assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(answer.body));
            return answer.body.len();
        }
    }
}

fn config_text(folder: &Path, data: SocketAddr, control: SocketAddr) -> String {
    let path = |name: &str| folder.join(name).display().to_string();
    format!(
        "[server]\nlisten = [\"{data}\"]\nshards = 1\n[control]\nlisten = \"{control}\"\n\
         [state]\ndatabase = {database:?}\n\
         [audit]\ndir = {audit:?}\norigin = \"edgate.bench/log\"\ncheckpoint_key_file = {checkpoint:?}\n\
         [signing]\nkey_file = {signing:?}\nissuer = \"own\"\ndefault_audience = \"{AUDIENCE}\"\n\
         jwks_max_age_s = 1\ndelegation_s = 3600\n\
         [[issuers]]\nname = \"own\"\nissuer = \"{ISSUER}\"\naudiences = [\"{AUDIENCE}\"]\nkeys = \"signing_key\"\n",
        database = path("state.db"),
        audit = path("audit"),
        checkpoint = path("checkpoint.key"),
        signing = path("signing.key"),
    )
}

/// Everything a shard keeps between batches.
struct Shard {
    policy: Policy,
    view: View,
    delegates: Delegates,
    verifier: Verifier,
    verdicts: Vec<Verdict>,
    scratch: token::Scratch,
}

impl Shard {
    fn new(issuer: &SigningKey) -> Self {
        let public_key = issuer.verifying_key().to_bytes();
        let verifying_key = VerifyingKey::register(&public_key).unwrap();
        let keys = vec![PublishedKey { kid: thumbprint(&public_key), verifying_key }];
        let (name, tenant) = ("bench".to_owned(), "default".to_owned());
        let profile =
            Profile::new(ProfileKind::AgentTask, name, tenant, ISSUER.to_owned(), vec![AUDIENCE.to_owned()]);
        Self {
            policy: Policy::plain(KeySet::new(vec![(IssuerIndex(0), keys)]).unwrap(), vec![profile]),
            view: View::new(&[7; 16], 0, Freshness::authoritative(Instant::now())),
            delegates: Delegates::default(),
            verifier: Verifier::new(Engine::Auto),
            verdicts: Vec::new(),
            scratch: token::Scratch::default(),
        }
    }

    /// Decides a batch, every token of which passes.
    fn decide(&mut self, batch: &[String]) {
        let Self { policy, view, delegates, verifier, verdicts, scratch } = self;
        let texts = batch.iter().map(|token| Ok(token.as_bytes()));
        let admitted = shard::admit_all(texts, policy, delegates, verifier, verdicts, scratch);
        let items: Vec<Item<'_>> = admitted.iter().flatten().flat_map(|one| one.items()).collect();
        verifier.verify(&items, verdicts);
        let mut verdicts = verdicts.drain(..);
        let (look, realms) = (view.look(), policy.realms(view));
        let moment = Moment { policy, look: &look, realms: &realms, now: NOW, stale: false, lists: None };
        for admitted in admitted {
            let settled =
                shard::settle(admitted.unwrap(), &mut verdicts, &moment, &Demand::default(), scratch);
            assert_eq!(settled.decision, Decision::Accepted);
        }
    }
}

/// Tokens that bring a delegation against tokens by the issuer's own key, decided by a shard's own steps.
fn verifying() {
    let delegated = Delegated::new();
    let kid = thumbprint(delegated.issuer.verifying_key().as_bytes());
    let own = |i| {
        let input = input(SignedBy { kid: &kid, delegation: None }, i);
        let signature = delegated.issuer.sign(input.as_bytes()).to_bytes();
        token::assemble(input, &signature)
    };
    let (own, theirs): (Vec<String>, _) = ((0..TOGETHER).map(own).collect(), delegated.issue());
    println!("a token of {} bytes by the issuer's key, {} with a delegation", own[0].len(), theirs[0].len());
    let (mut shard, mut another) = (Shard::new(&delegated.issuer), Shard::new(&delegated.issuer));
    shard.decide(&theirs);
    // As the daemon does each second: the key is in use by now, and gets its table.
    Tables::of_process().rebalance();
    let ratio = interleaved(ROUNDS, SLICE, || shard.decide(&theirs), || another.decide(&own));
    println!("deciding tokens with a delegation, against those by the issuer's key: {ratio:.3}");
    let fresh = || {
        let mut first = Shard { delegates: Delegates::default(), ..Shard::new(&delegated.issuer) };
        let begun = Instant::now();
        first.decide(&theirs[..1]);
        let met = begun.elapsed();
        let begun = Instant::now();
        first.decide(&theirs[..1]);
        1e6 * (met.as_secs_f64() - begun.elapsed().as_secs_f64())
    };
    let met: Vec<f64> = (0..ROUNDS).map(|_| fresh()).collect();
    println!("  a delegation that is met for the first time costs {:.0} us more, once", median(&met));
}
