//! `edgate-load`: load for verify servers, and Edgate against its peer.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand};
use ed25519_dalek::SigningKey;
use edgate_bench::att::{Algorithm, Minter, load_signing_key};
use edgate_bench::load::client::{self, Bound, Pace, Plan};
use edgate_bench::load::compare::Comparison;
use edgate_bench::load::pin_to_cpu;
use edgate_bench::load::pool::{Pool, Target, Tokens};
use edgate_bench::load::report::Report;
use edgate_bench::load::summary::{Summary, grouped};

/// HTTP/1.1 load for verify servers; every answer is checked against the token it belongs to.
///
/// Exit status: 0 every answer was right, 1 some were wrong or lost, 2 the run could not be done.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArguments,
}

#[derive(Subcommand)]
enum Command {
    /// Run the axum + jsonwebtoken peer and Edgate in turn under the same load and print the ratio.
    Compare(CompareArguments),
    /// Print the JWKS for a key, for the configuration of the server under test.
    Jwks(KeyArguments),
}

#[derive(Args)]
struct RunArguments {
    /// `http://HOST:PORT/auth/nginx` (GET, bearer token) or `…/v1/tokens/verify` (POST, JSON).
    // Optional only to the parser: a subcommand goes without it.
    #[arg(long)]
    url: Option<String>,
    #[command(flatten)]
    key: KeyArguments,
    #[command(flatten)]
    load: LoadArguments,
    /// Ask for a receipt with every answer of the verify API.
    #[arg(long)]
    receipts: bool,
    /// Requests per second, whatever the server does; latency counts from the moment a request was due.
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Stop after this many seconds instead of a number of requests.
    #[arg(long, value_name = "SECONDS", conflicts_with = "requests")]
    duration: Option<f64>,
    /// Process id of the server: its processor time is divided by its decisions.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Pin this client to one processor.
    #[arg(long)]
    cpu: Option<usize>,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Args)]
struct CompareArguments {
    /// The peer's binary; default: `peer-axum` beside this one.
    #[arg(long, value_name = "FILE")]
    peer: Option<PathBuf>,
    /// Edgate's binary; default: `edgate` beside this one.
    #[arg(long, value_name = "FILE")]
    edgate: Option<PathBuf>,
    /// A line for Edgate's `[verify]` table, for example 'engine = "portable"'; may be repeated.
    #[arg(long, value_name = "TOML")]
    edgate_verify: Vec<String>,
    /// Path of the requests: /auth/nginx or /v1/tokens/verify.
    #[arg(long, default_value = "/auth/nginx")]
    path: String,
    /// Runs of each server, in turn.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Processor of the servers.
    #[arg(long, default_value_t = 0)]
    server_cpu: usize,
    /// Processor of the client.
    #[arg(long, default_value_t = 1)]
    client_cpu: usize,
    /// Folder for Edgate's log and state during the runs; default: the system's folder for temporary files.
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    #[command(flatten)]
    load: LoadArguments,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Args)]
struct LoadArguments {
    /// Connections, all kept alive.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests in flight per connection.
    #[arg(long, default_value_t = 1)]
    pipeline: usize,
    /// Measured requests of a run.
    #[arg(long, default_value_t = 200_000)]
    requests: u64,
    /// Requests before the measurement starts.
    #[arg(long, default_value_t = 10_000)]
    warmup: u64,
    /// Distinct tokens.
    #[arg(long, default_value_t = 100_000)]
    tokens: usize,
    /// Share of the tokens with a tampered signature, 0.0 to 1.0.
    #[arg(long, default_value_t = 0.0)]
    bad: f64,
    /// Seconds the tokens live.
    #[arg(long, default_value_t = 3600)]
    ttl: u64,
    /// Give up when nothing arrives for this many seconds.
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    timeout: f64,
}

#[derive(Args)]
struct KeyArguments {
    /// Ed25519 private key, PKCS#8 PEM, that the server trusts.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Mint with a fresh key instead, write its JWKS here ("-": standard output) and wait for Enter while the server
    /// under test is configured with it.
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    write_jwks: Option<PathBuf>,
    /// `kid` of the tokens.
    #[arg(long, default_value = "load-1")]
    kid: String,
    /// `iss` of the tokens.
    #[arg(long, default_value = "https://issuer.bench.test")]
    issuer: String,
    /// `aud` of the tokens.
    #[arg(long, default_value = "https://api.bench.test")]
    audience: String,
    /// `alg` of the tokens: Ed25519 (RFC 9864), or EdDSA for servers that know only the older name.
    #[arg(long, default_value = "Ed25519")]
    alg: Algorithm,
}

#[derive(Args)]
struct OutputArguments {
    /// One JSON object instead of the table.
    #[arg(long)]
    json: bool,
    /// Draw the run: a self-contained .svg, or .html with the figures.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let clean = match arguments.command {
        Some(Command::Compare(compare)) => run_compare(&compare),
        Some(Command::Jwks(key)) => print_jwks(&key),
        None => run_load(&arguments.run),
    };
    match clean {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("edgate-load: {error}");
            ExitCode::from(2)
        }
    }
}

fn run_load(arguments: &RunArguments) -> Result<bool, String> {
    let url = arguments.url.as_deref().ok_or("give --url, or a subcommand; see --help")?;
    let target = Target { receipts: arguments.receipts, ..Target::parse(url).map_err(|e| e.to_string())? };
    let minter = arguments.key.minter()?;
    let pace = match arguments.rate {
        Some(rate) if rate.is_finite() && rate > 0.0 => Pace::Rate(rate),
        Some(rate) => return Err(format!("--rate {rate}: give requests per second, above 0")),
        None => Pace::Closed,
    };
    let mut plan = Plan { pace, server_pid: arguments.server_pid, ..arguments.load.plan()? };
    if let Some(length) = arguments.duration {
        plan.bound = Bound::Duration(seconds("--duration", length)?);
    }
    let tokens = arguments.load.tokens()?;
    eprintln!("minting {} tokens …", tokens.count);
    let pool = Pool::mint(&target, &minter, &tokens);
    if let Some(path) = &arguments.key.write_jwks {
        hand_over_jwks(path, &minter)?;
    }
    if let Some(cpu) = arguments.cpu {
        pin_to_cpu(cpu).map_err(|e| e.to_string())?;
    }
    let outcome = client::run(&plan, &target, &pool).map_err(|e| e.to_string())?;
    let pace = arguments.rate.map_or_else(|| "closed loop".to_owned(), |rate| format!("{rate} requests/s"));
    let summary = Summary::new(&target.authority, &outcome);
    let subtitle = format!("{} · {pace}", describe(&arguments.load));
    arguments.output.report(
        &format!("Load on {}", target.path),
        &subtitle,
        std::slice::from_ref(&summary),
    )?;
    if arguments.output.json {
        println!("{}", serde_json::to_string_pretty(&summary).map_err(|e| e.to_string())?);
    } else {
        print!("{summary}");
    }
    Ok(summary.is_clean())
}

fn run_compare(arguments: &CompareArguments) -> Result<bool, String> {
    // `EdDSA` for both: jsonwebtoken refuses the newer name.
    let minter = Minter::new(fresh_key()?, Algorithm::EdDsa, "load-1", ISSUER, AUDIENCE);
    if arguments.rounds == 0 {
        return Err("--rounds 0: nothing to compare".to_owned());
    }
    let comparison = Comparison {
        peer: sibling(arguments.peer.as_deref(), "peer-axum")?,
        edgate: sibling(arguments.edgate.as_deref(), "edgate")?,
        edgate_verify: arguments.edgate_verify.clone(),
        path: arguments.path.clone(),
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        rounds: arguments.rounds,
        plan: arguments.load.plan()?,
        tokens: arguments.load.tokens()?,
        server_cpu: arguments.server_cpu,
        client_cpu: arguments.client_cpu,
        scratch: arguments.scratch.clone().unwrap_or_else(std::env::temp_dir),
    };
    eprintln!("minting {} tokens …", comparison.tokens.count);
    let compared = comparison.run(&minter, |summary| eprint!("{summary}")).map_err(|e| e.to_string())?;
    let title = format!("Edgate and axum + jsonwebtoken, {}", arguments.path);
    arguments.output.report(
        &title,
        &format!("{} · closed loop", describe(&arguments.load)),
        &compared.typical(),
    )?;
    if arguments.output.json {
        println!("{}", serde_json::to_string_pretty(&compared).map_err(|e| e.to_string())?);
    } else {
        print!("\n{compared}");
    }
    Ok(compared.is_clean())
}

fn print_jwks(key: &KeyArguments) -> Result<bool, String> {
    if key.key.is_none() {
        return Err("jwks needs --key; a run with a fresh key prints its own with --write-jwks".to_owned());
    }
    println!("{}", key.minter()?.jwks());
    Ok(true)
}

impl KeyArguments {
    fn minter(&self) -> Result<Minter, String> {
        let signing_key = match (&self.key, &self.write_jwks) {
            (Some(path), _) => load_signing_key(path)?,
            (None, Some(_)) => fresh_key()?,
            (None, None) => return Err("give --key, or --write-jwks to mint with a fresh key".to_owned()),
        };
        Ok(Minter::new(signing_key, self.alg, &self.kid, &self.issuer, &self.audience))
    }
}

impl LoadArguments {
    fn plan(&self) -> Result<Plan, String> {
        if self.connections == 0 || self.pipeline == 0 || self.requests == 0 {
            return Err("--connections, --pipeline and --requests start at 1".to_owned());
        }
        Ok(Plan {
            connections: self.connections,
            pipeline: self.pipeline,
            pace: Pace::Closed,
            bound: Bound::Requests(self.requests),
            warmup: self.warmup,
            server_pid: None,
            answer_timeout: seconds("--timeout", self.timeout)?,
        })
    }

    fn tokens(&self) -> Result<Tokens, String> {
        if self.tokens == 0 || !(0.0..=1.0).contains(&self.bad) {
            return Err("--tokens starts at 1, and --bad lies between 0.0 and 1.0".to_owned());
        }
        let since_1970 =
            SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| format!("the clock: {e}"))?;
        // No `seed` from the command line: two runs must not present the same `jti` to one server.
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|e| format!("no randomness: {e}"))?;
        Ok(Tokens {
            count: self.tokens,
            bad_share: self.bad,
            issued_at: since_1970.as_secs(),
            lifetime: self.ttl,
            seed: u64::from_le_bytes(seed),
        })
    }
}

impl OutputArguments {
    fn report(&self, title: &str, subtitle: &str, runs: &[Summary]) -> Result<(), String> {
        let Some(path) = &self.report else { return Ok(()) };
        Report { title, subtitle, runs }.write(path).map_err(|e| e.to_string())?;
        eprintln!("drew {}", path.display());
        Ok(())
    }
}

/// `iss` and `aud` of a comparison, in which both servers are configured by this program.
const ISSUER: &str = "https://issuer.bench.test";
const AUDIENCE: &str = "https://api.bench.test";

fn fresh_key() -> Result<SigningKey, String> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| format!("no randomness: {e}"))?;
    Ok(SigningKey::from_bytes(&seed))
}

fn hand_over_jwks(path: &Path, minter: &Minter) -> Result<(), String> {
    let jwks = minter.jwks();
    let written =
        if path == Path::new("-") { writeln!(std::io::stdout(), "{jwks}") } else { fs::write(path, &jwks) };
    written.map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    eprintln!("start the server with this key set, then press Enter");
    std::io::stdin()
        .read_line(&mut String::new())
        .map(drop)
        .map_err(|e| format!("cannot wait for Enter: {e}"))
}

/// `given`, or the program `name` in the folder of this one, where cargo puts both.
fn sibling(given: Option<&Path>, name: &str) -> Result<PathBuf, String> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let own = std::env::current_exe().map_err(|e| format!("cannot tell where this program is: {e}"))?;
    let path = own.with_file_name(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("{} is not there: build it with `cargo build --release --workspace`", path.display()))
    }
}

fn seconds(option: &str, value: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(value)
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| format!("{option} {value}: give seconds, above 0"))
}

fn describe(load: &LoadArguments) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, name)| name);
    let pipeline =
        if load.pipeline > 1 { format!(", {} in flight each", load.pipeline) } else { String::new() };
    let bad = if load.bad > 0.0 { format!(", {} % tampered with", load.bad * 100.0) } else { String::new() };
    let (connections, tokens) = (load.connections, grouped(load.tokens as f64));
    format!(
        "{cpu} · HTTP/1.1 keep-alive, {connections} connections{pipeline} · {tokens} distinct tokens{bad}"
    )
}
