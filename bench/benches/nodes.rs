//! Nodes that share a redis-server: how soon a revocation is refused elsewhere, what following costs, what asking costs; and
//! what receipts, a witness and the rotation of keys cost.
//!
//! `cargo bench -p edgate-bench --bench nodes [-- delay|following|lookup|receipts|rotation]`. Needs redis-server. Contestants run at the
//! same time and are loaded in turn; the median round counts.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::unwrap_used,
    reason = "a bench"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use edgate_bench::att::{Algorithm, Grant, Minter};
use edgate_bench::load::client::{self, Bound, Pace, Plan};
use edgate_bench::load::pool::{Pool, Target, Tokens};
use edgate_bench::load::servers::{Server, as_edgate, edgate, free_address};
use edgate_bench::load::summary::median;
use edgate_bench::ratio::Ratio;
use tempfile::TempDir;

const ROUNDS: usize = 31;
/// Decisions in one round.
const DECISIONS: u64 = 30_000;
/// Requests on one connection that wait for their answers, where there are to be many.
const PIPELINE: usize = 16;
/// Revocations whose delay is measured.
const REVOCATIONS: usize = 400;
/// Decisions per second on each node meanwhile.
const LOAD: f64 = 5_000.0;
const PATIENCE: Duration = Duration::from_secs(30);
const ISSUER: &str = "https://issuer.bench";
const AUDIENCE: &str = "bench";

fn main() -> ExitCode {
    if let Some(code) = as_edgate() {
        return code;
    }
    let benches: [(&str, fn()); 5] = [
        ("delay", delay),
        ("following", following),
        ("lookup", lookup),
        ("receipts", receipts),
        ("rotation", rotation),
    ];
    let names: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    for (name, run) in benches {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            run();
        }
    }
    ExitCode::SUCCESS
}

/// From the answer on one node until another refuses the token, both under load.
fn delay() {
    let stage = Stage::new();
    let [a, b] = [0, 1].map(|cpu| stage.node(&format!("node-{cpu}"), SHARING, cpu));
    let stop = Arc::new(AtomicBool::new(false));
    let loads: Vec<_> = [&a, &b]
        .into_iter()
        .map(|node| {
            let (target, stop) = (node.target(), Arc::clone(&stop));
            let requests = stage.requests(&target, 10_000);
            thread::spawn(move || {
                let plan = Plan {
                    pace: Pace::Rate(LOAD),
                    bound: Bound::Requests(LOAD as u64),
                    ..Plan::closed(DECISIONS, 2_000)
                };
                while !stop.load(Ordering::Relaxed) {
                    let outcome = client::run(&plan, &target, &requests).unwrap();
                    assert!(outcome.mismatches == 0 && outcome.lost == 0, "{:?}", outcome.complaints);
                }
            })
        })
        .collect();
    let mut asking = Asking::open(b.data);
    let (mut answered, mut refused) = (Vec::new(), Vec::new());
    for i in 0..REVOCATIONS {
        let name = format!("gone-{i}");
        let token = stage.token(&name);
        assert!(asking.is_accepted(&token));
        let started = Instant::now();
        assert_eq!(revoke(a.control, &name), 200);
        let done = Instant::now();
        while asking.is_accepted(&token) {}
        answered.push((done - started).as_secs_f64() * 1e3);
        refused.push(done.elapsed().as_secs_f64() * 1e3);
    }
    stop.store(true, Ordering::Relaxed);
    loads.into_iter().for_each(|load| load.join().unwrap());
    let at = |times: &mut Vec<f64>, part: f64| {
        times.sort_unstable_by(f64::total_cmp);
        times[((times.len() - 1) as f64 * part) as usize]
    };
    println!(
        "delay: revoke answered after p50 {:.2} ms, p99 {:.2} ms; then refused on the other node after p50 {:.2} ms, \
         p99 {:.2} ms, most {:.2} ms ({REVOCATIONS} revocations, {LOAD} decisions/s on each node)",
        at(&mut answered, 0.5),
        at(&mut answered, 0.99),
        at(&mut refused, 0.5),
        at(&mut refused, 0.99),
        at(&mut refused, 1.0),
    );
    a.server.stop().unwrap();
    b.server.stop().unwrap();
}

/// Throughput of a node that follows Redis, with revocations arriving, against one on its own.
fn following() {
    let stage = Stage::new();
    let with = stage.node("following", SHARING, 0);
    let other = stage.node("revoking", SHARING, 1);
    let alone = stage.node("alone", Lines::default(), 0);
    let stop = Arc::new(AtomicBool::new(false));
    let revoking = {
        let (stop, control) = (Arc::clone(&stop), other.control);
        thread::spawn(move || {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(revoke(control, &format!("other-{count}")), 200);
                count += 1;
                thread::sleep(Duration::from_millis(20));
            }
            count
        })
    };
    let ratio = in_turn(
        &stage,
        &Plan::closed(DECISIONS, 2_000),
        "following",
        &with.target(),
        "on its own",
        &alone.target(),
    );
    stop.store(true, Ordering::Relaxed);
    let count = revoking.join().unwrap();
    println!("following: {ratio} of a node on its own, while {count} revocations arrived (floor 0.95)");
    for node in [with, other, alone] {
        node.server.stop().unwrap();
    }
}

/// Throughput of a node that asks Redis about every token, against a server that does one `EXISTS` per call.
fn lookup() {
    let stage = Stage::new();
    let ours = stage.node(
        "asking",
        Lines {
            issuer: "on_stale = \"lookup\"\n",
            revocation: Some("max_staleness_ms = 0\nlookup_timeout_ms = 2000\n"),
            ..Lines::default()
        },
        0,
    );
    let address = free_address().unwrap();
    let jwks = stage.folder.path().join("jwks.json");
    std::fs::write(&jwks, stage.minter.jwks()).unwrap();
    let mut peer = Command::new(env!("CARGO_BIN_EXE_peer-axum"));
    peer.args(["--listen", &address.to_string(), "--jwks", jwks.to_str().unwrap(), "--issuer", ISSUER])
        .args(["--audience", AUDIENCE, "--redis", &stage.redis_url()]);
    let output = stage.folder.path().join("peer.out");
    let peer = Server::start("peer-axum", peer, address, &output, (0, 1)).unwrap();
    let target = Target::parse(&format!("http://{address}/auth/nginx")).unwrap();
    let ratio = in_turn(
        &stage,
        &Plan::closed(DECISIONS, 2_000),
        "asking about every token",
        &ours.target(),
        "one EXISTS per call",
        &target,
    );
    println!("lookup: {ratio} of one EXISTS per call on a multiplexed connection (floor 3)");
    ours.server.stop().unwrap();
    peer.stop().unwrap();
}

/// Throughput of the verify call with receipts and a witness on, against a node with neither.
fn receipts() {
    let stage = Stage::new();
    // A disk that is busy with others' work makes answers late here, not refused.
    let patient = "ack_timeout_ms = 10000\nunflushed_age_max_ms = 10000\n";
    let audit = format!("receipts = true\n{patient}");
    let with = stage.node("receipts", Lines { audit: &audit, witnessed: true, ..Lines::default() }, 0);
    let plain = stage.node("plain", Lines { audit: patient, ..Lines::default() }, 0);
    // A receipt leaves when its record is durable, the plain answer before that: with few requests under way callers wait for
    // the disk, with many only the work counts.
    for (name, asked, pipeline) in [
        ("receipts on, none asked for", false, 1),
        ("a receipt with every answer", true, 1),
        ("receipts on, none asked for, 1024 under way", false, PIPELINE),
        ("a receipt with every answer, 1024 under way", true, PIPELINE),
    ] {
        let ours = Target { receipts: asked, ..with.verify_target() };
        let plan = Plan { pipeline, ..Plan::closed(DECISIONS, 2_000) };
        let ratio = in_turn(&stage, &plan, name, &ours, "neither", &plain.verify_target());
        println!("receipts: {name}: {ratio} of a node with neither (floor 0.97)");
    }
    with.server.stop().unwrap();
    plain.server.stop().unwrap();
}

/// Throughput of a node that signs with another key each second, against one that keeps its key. Both verify another issuer's tokens,
/// whose table must survive each change of the policy.
fn rotation() {
    let stage = Stage::new();
    let lines = |name: &str, schedule: &str| {
        let key = stage.folder.path().join(name).join("signing.key");
        format!(
            "[[issuers]]\nname = \"own\"\nissuer = \"https://own.bench\"\naudiences = [\"{AUDIENCE}\"]\n\
             keys = \"signing_key\"\nmax_lifetime_s = 4\nleeway_s = 0\n\
             [signing]\nkey_file = {key:?}\nissuer = \"own\"\ndefault_ttl_s = 4\njwks_max_age_s = 1\n{schedule}"
        )
    };
    let (scheduled, kept) = (lines("rotating", "rotate_every_s = 1\n"), lines("plain", ""));
    let rotating = stage.node("rotating", Lines { issuer: &scheduled, ..Lines::default() }, 0);
    let plain = stage.node("plain", Lines { issuer: &kept, ..Lines::default() }, 0);
    let plan = Plan { pipeline: PIPELINE, ..Plan::closed(DECISIONS, 2_000) };
    let begun = Instant::now();
    let (ours, theirs) = (rotating.verify_target(), plain.verify_target());
    let ratio = in_turn(&stage, &plan, "a key a second", &ours, "one key", &theirs);
    let url = format!("http://{}", rotating.control);
    let listed = edgate(&["keys", "list", "--json", "--control", &url]).unwrap().output().unwrap();
    let signed = String::from_utf8(listed.stdout).unwrap().matches("\"activated_ms\"").count();
    assert!(signed as u64 > begun.elapsed().as_secs() / 2, "only {signed} keys have signed");
    println!(
        "rotation: {ratio} of a node that keeps its key, {signed} keys in {:.0?} (floor 0.97)",
        begun.elapsed()
    );
    rotating.server.stop().unwrap();
    plain.server.stop().unwrap();
}

fn in_turn(
    stage: &Stage,
    plan: &Plan,
    our_name: &str,
    ours: &Target,
    their_name: &str,
    theirs: &Target,
) -> Ratio {
    let rate = |target: &Target, requests: &Pool| {
        let outcome = client::run(plan, target, requests).unwrap();
        assert!(outcome.mismatches == 0 && outcome.lost == 0, "{:?}", outcome.complaints);
        DECISIONS as f64 / outcome.elapsed.as_secs_f64()
    };
    let (our_requests, their_requests) = (stage.requests(ours, 10_000), stage.requests(theirs, 10_000));
    let (mut our_rates, mut their_rates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        our_rates.push(rate(ours, &our_requests));
        their_rates.push(rate(theirs, &their_requests));
        ratios.push(our_rates[our_rates.len() - 1] / their_rates[their_rates.len() - 1]);
    }
    println!(
        "{our_name}: {:.0} /s; {their_name}: {:.0} /s (medians of {ROUNDS} rounds of {DECISIONS})",
        median(&our_rates),
        median(&their_rates)
    );
    Ratio::of(&ratios)
}

/// A folder, a redis-server and an issuer.
struct Stage {
    folder: TempDir,
    _redis: Running,
    minter: Minter,
}

/// Further lines of a node's configuration.
#[derive(Clone, Copy, Default)]
struct Lines<'a> {
    audit: &'a str,
    issuer: &'a str,
    /// Whether a witness on processor 1 cosigns its checkpoints.
    witnessed: bool,
    /// Where it shares Redis.
    revocation: Option<&'a str>,
}

const SHARING: Lines<'static> = Lines { audit: "", issuer: "", witnessed: false, revocation: Some("") };

struct Node {
    server: Server,
    data: SocketAddr,
    control: SocketAddr,
    _witness: Option<Running>,
}

/// A process that ends with its owner.
struct Running(Child);

/// A witness with a key of its own, not started yet.
struct Witness {
    dir: PathBuf,
    address: SocketAddr,
    key: String,
}

impl Witness {
    fn command(dir: &Path) -> Command {
        let mut command = edgate(&["audit", "witness", "--name", "witness.bench/w"]).unwrap();
        command.arg("--key").arg(dir.join("witness.key")).arg("--dir").arg(dir.join("witness"));
        command
    }

    fn init(dir: &Path) -> Self {
        let output = Self::command(dir).arg("--init").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let key = String::from_utf8(output.stdout).unwrap().trim_end().to_owned();
        Self { dir: dir.to_owned(), address: free_address().unwrap(), key }
    }

    fn lines(&self) -> String {
        format!("[[audit.witness]]\nkey = \"{}\"\nurl = \"http://{}\"\n", self.key, self.address)
    }

    fn start(&self, log_key: &Path) -> Running {
        let log_key = std::fs::read_to_string(log_key).unwrap();
        let mut command = Self::command(&self.dir);
        command.args(["--listen", &self.address.to_string(), "--log", log_key.trim_end()]);
        let running = Running(command.stdout(Stdio::null()).spawn().unwrap());
        soon("the witness", || TcpStream::connect(self.address).is_ok());
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new("redis-server")
            .current_dir(folder.path())
            .args(["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let redis = Running(child);
        soon("redis-server", || UnixStream::connect(folder.path().join("redis.sock")).is_ok());
        let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
        let minter = Minter::new(key, Algorithm::EdDsa, "bench", ISSUER, AUDIENCE);
        Self { folder, _redis: redis, minter }
    }

    /// A node with one shard on processor `cpu`.
    fn node(&self, name: &str, lines: Lines<'_>, cpu: usize) -> Node {
        let Lines { audit: audit_lines, issuer, witnessed, revocation } = lines;
        let (data, control) = (free_address().unwrap(), free_address().unwrap());
        let dir = self.folder.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        let path = |name: &str| dir.join(name).display().to_string();
        let shared = revocation.map_or(String::new(), |lines| {
            format!("[revocation]\n{lines}[revocation.redis]\nurl = \"{}\"\n", self.redis_url())
        });
        let witness = witnessed.then(|| Witness::init(&dir));
        let witness_lines = witness.as_ref().map_or(String::new(), Witness::lines);
        let text = format!(
            "[server]\nlisten = [\"{data}\"]\nshards = 1\n[control]\nlisten = \"{control}\"\n\
             [state]\ndatabase = {database:?}\n\
             [audit]\ndir = {audit:?}\norigin = \"edgate.bench/log\"\ncheckpoint_key_file = {key:?}\n{audit_lines}{witness_lines}\
             [[issuers]]\nname = \"bench\"\nissuer = \"{ISSUER}\"\naudiences = [\"{AUDIENCE}\"]\njwks = '{jwks}'\n\
             {issuer}{shared}",
            database = path("state.db"),
            audit = path("audit"),
            key = path("checkpoint.key"),
            jwks = self.minter.jwks(),
        );
        let config = dir.join("edgate.toml");
        std::fs::write(&config, text).unwrap();
        assert!(
            edgate(&["init", config.to_str().unwrap()])
                .unwrap()
                .stdout(Stdio::null())
                .status()
                .unwrap()
                .success()
        );
        let witness = witness.map(|witness| witness.start(&dir.join("audit/checkpoint.key")));
        let command = edgate(&["serve", "--config", config.to_str().unwrap()]).unwrap();
        let server = Server::start(name, command, data, &dir.join("output"), (cpu, 1)).unwrap();
        let node = Node { server, data, control, _witness: witness };
        let mut asking = Asking::open(data);
        soon("the view", || asking.is_accepted(&self.token("first")));
        node
    }

    fn redis_url(&self) -> String {
        format!("unix://{}", self.folder.path().join("redis.sock").display())
    }

    fn token(&self, jti: &str) -> String {
        self.minter.mint(&Grant { number: 0, token_id: jti, issued_at: now(), expires_at: now() + 3600 })
    }

    fn requests(&self, target: &Target, count: usize) -> Pool {
        let tokens = Tokens { count, bad_share: 0.0, issued_at: now(), lifetime: 3600, seed: 1 };
        Pool::mint(target, &self.minter, &tokens)
    }
}

impl Node {
    fn target(&self) -> Target {
        Target::parse(&format!("http://{}/auth/nginx", self.data)).unwrap()
    }

    fn verify_target(&self) -> Target {
        Target::parse(&format!("http://{}/v1/tokens/verify", self.data)).unwrap()
    }
}

/// One connection that asks about one token after the other.
struct Asking(BufReader<TcpStream>);

impl Asking {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    fn is_accepted(&mut self, token: &str) -> bool {
        let request = format!("GET /auth/nginx HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {token}\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let mut status = String::new();
        self.0.read_line(&mut status).unwrap();
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            self.0.read_line(&mut line).unwrap();
        }
        status.starts_with("HTTP/1.1 200 ")
    }
}

/// Revokes one token; the status of the answer.
fn revoke(control: SocketAddr, jti: &str) -> u16 {
    let body = format!("{{\"kind\":\"token\",\"name\":\"{jti}\",\"issuer\":\"{ISSUER}\"}}");
    let mut stream = TcpStream::connect(control).unwrap();
    write!(
        stream,
        "POST /v1/revocations HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn soon(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "{what} did not come");
        thread::sleep(Duration::from_millis(5));
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}
