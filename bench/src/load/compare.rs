//! Peer and Edgate in turn, A B A B, under the same load: so that a slow minute of the machine hits both.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use super::LoadError;
use super::client::{self, Plan};
use super::pin_to_cpu;
use super::pool::{Pool, Target, Tokens};
use super::servers::{Server, free_address};
use super::summary::{CpuPerDecision, Summary, grouped, median, time};
use crate::att::Minter;

/// What is compared, and how.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// The peer's binary.
    pub peer: PathBuf,
    /// Edgate's binary.
    pub edgate: PathBuf,
    /// Lines added to Edgate's `[verify]` table, such as `engine = "portable"`.
    pub edgate_verify: Vec<String>,
    /// Path of the requests: `/auth/nginx` or `/v1/tokens/verify`.
    pub path: String,
    /// `iss` and `aud` both servers expect.
    pub issuer: String,
    /// See [`issuer`](Self::issuer).
    pub audience: String,
    /// Runs of each server.
    pub rounds: usize,
    /// Load of one run; the process id is filled in.
    pub plan: Plan,
    /// Tokens of all runs.
    pub tokens: Tokens,
    /// The servers' processor.
    pub server_cpu: usize,
    /// The client's processor.
    pub client_cpu: usize,
    /// Folder for configuration, keys, logs and Edgate's state; a fresh one below it is removed at the end.
    pub scratch: PathBuf,
}

/// All runs of both servers.
#[derive(Debug, Serialize)]
pub struct Compared {
    /// The peer's runs.
    pub peer: Vec<Summary>,
    /// Edgate's runs.
    pub edgate: Vec<Summary>,
    /// Median processor time per decision of the peer, in microseconds.
    pub peer_cpu_us: f64,
    /// The same of Edgate.
    pub edgate_cpu_us: f64,
    /// The first divided by the second: how many times less Edgate needs.
    pub cpu_ratio: f64,
}

impl Comparison {
    /// Runs everything; `on_run` is told each run as it ends.
    ///
    /// # Errors
    /// [`LoadError`]: a server does not start, ends early or cannot be reached.
    pub fn run(&self, minter: &Minter, mut on_run: impl FnMut(&Summary)) -> Result<Compared, LoadError> {
        let file_error = |path: &Path| {
            let path = path.display().to_string();
            move |source| LoadError::File { path, source }
        };
        let folder = tempfile::Builder::new()
            .prefix("edgate-compare-")
            .tempdir_in(&self.scratch)
            .map_err(file_error(&self.scratch))?;
        let jwks = folder.path().join("jwks.json");
        fs::write(&jwks, minter.jwks()).map_err(file_error(&jwks))?;
        // The same requests for both, so they are made once; only the port in `Host` differs from the truth.
        let target = Target::parse(&format!("http://127.0.0.1:1{}", self.path))?;
        let pool = Pool::mint(&target, minter, &self.tokens);

        let (mut peer, mut edgate) = (Vec::new(), Vec::new());
        for round in 1..=self.rounds {
            for contestant in [Contestant::Peer, Contestant::Edgate] {
                let home = folder.path().join(format!("{}-{round}", contestant.name()));
                fs::create_dir(&home).map_err(file_error(&home))?;
                let label = format!("{} {round}/{}", contestant.title(), self.rounds);
                let summary = self.run_one(contestant, &label, &home, &jwks, &target, &pool)?;
                on_run(&summary);
                match contestant {
                    Contestant::Peer => peer.push(summary),
                    Contestant::Edgate => edgate.push(summary),
                }
                fs::remove_dir_all(&home).map_err(file_error(&home))?;
            }
        }
        Ok(Compared::new(peer, edgate))
    }

    fn run_one(
        &self,
        contestant: Contestant,
        label: &str,
        home: &Path,
        jwks: &Path,
        target: &Target,
        pool: &Pool,
    ) -> Result<Summary, LoadError> {
        let free =
            || free_address().map_err(|source| LoadError::File { path: "a free port".to_owned(), source });
        let (address, control) = (free()?, free()?);
        let command = match contestant {
            Contestant::Peer => self.peer_command(address, jwks),
            Contestant::Edgate => self.edgate_command(address, control, home, jwks)?,
        };
        let cpus = (self.server_cpu, self.client_cpu);
        let mut server = Server::start(contestant.name(), command, address, &home.join("output.txt"), cpus)?;
        pin_to_cpu(self.client_cpu)?;
        let plan = Plan { server_pid: Some(server.pid()), ..self.plan.clone() };
        let outcome = client::run(&plan, &Target { address, ..target.clone() }, pool);
        // A server that died explains itself better than the client's broken connections.
        server.check_alive()?;
        let summary = Summary::new(label, &outcome?);
        server.stop()?;
        Ok(summary)
    }

    fn peer_command(&self, address: SocketAddr, jwks: &Path) -> Command {
        let mut command = Command::new(&self.peer);
        command.arg("--listen").arg(address.to_string()).arg("--jwks").arg(jwks);
        command.args(["--issuer", &self.issuer, "--audience", &self.audience]);
        command
    }

    fn edgate_command(
        &self,
        address: SocketAddr,
        control: SocketAddr,
        home: &Path,
        jwks: &Path,
    ) -> Result<Command, LoadError> {
        let config = home.join("edgate.toml");
        fs::write(&config, self.edgate_config(address, control, home, jwks))
            .map_err(|source| LoadError::File { path: config.display().to_string(), source })?;
        let failed = |reason| LoadError::ServerStart { name: Contestant::Edgate.name().to_owned(), reason };
        let mut init = Command::new(&self.edgate);
        let init = init.arg("init").arg(&config);
        let output =
            init.output().map_err(|e| failed(format!("cannot run {}: {e}", self.edgate.display())))?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            return Err(failed(format!("`edgate init` ended with {}: {words}", output.status)));
        }
        let mut command = Command::new(&self.edgate);
        command.args(["serve", "--config"]).arg(&config);
        Ok(command)
    }

    /// Edgate as it ships: audit on, defaults everywhere else; one shard, because it gets one processor.
    fn edgate_config(&self, address: SocketAddr, control: SocketAddr, home: &Path, jwks: &Path) -> String {
        let quote = |path: &Path| format!("{:?}", path.display().to_string());
        format!(
            "[server]\nlisten = [\"{address}\"]\nshards = 1\n\
             [control]\nlisten = \"{control}\"\n\
             [state]\ndatabase = {database}\n\
             [audit]\ndir = {audit}\norigin = \"edgate.bench/log\"\ncheckpoint_key_file = {checkpoint}\n\
             [verify]\n{verify}\n\
             [[issuers]]\nname = \"bench\"\nissuer = {issuer:?}\naudiences = [{audience:?}]\njwks_file = {jwks}\n",
            database = quote(&home.join("state.db")),
            audit = quote(&home.join("audit")),
            checkpoint = quote(&home.join("checkpoint.key")),
            verify = self.edgate_verify.join("\n"),
            issuer = self.issuer,
            audience = self.audience,
            jwks = quote(jwks),
        )
    }
}

impl Compared {
    fn new(peer: Vec<Summary>, edgate: Vec<Summary>) -> Self {
        let cpu = |runs: &[Summary]| median(&costs(runs));
        let (peer_cpu_us, edgate_cpu_us) = (cpu(&peer), cpu(&edgate));
        Self { peer, edgate, peer_cpu_us, edgate_cpu_us, cpu_ratio: peer_cpu_us / edgate_cpu_us }
    }

    /// Whether every answer of every run was right.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.peer.iter().chain(&self.edgate).all(Summary::is_clean)
    }

    /// The run with the median cost of each server, for the picture: peer first.
    #[must_use]
    pub fn typical(&self) -> Vec<Summary> {
        [(&self.peer, "axum + jsonwebtoken"), (&self.edgate, "Edgate")]
            .into_iter()
            .filter_map(|(runs, label)| {
                let mut sorted: Vec<&Summary> = runs.iter().collect();
                sorted.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
                sorted.get(runs.len() / 2).map(|run| Summary { label: label.to_owned(), ..(*run).clone() })
            })
            .collect()
    }
}

impl std::fmt::Display for Compared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{:<22}{:>18}{:>18}{:>14}{:>12}{:>12}",
            "median of the runs", "CPU/decision", "spread", "throughput", "p50", "p99.9"
        )?;
        for (name, runs) in [("axum + jsonwebtoken", &self.peer), ("Edgate", &self.edgate)] {
            let costs = costs(runs);
            let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
            let most = costs.iter().copied().fold(0.0, f64::max);
            let over = |figure: fn(&Summary) -> f64| median(&runs.iter().map(figure).collect::<Vec<_>>());
            writeln!(
                f,
                "{name:<22}{:>18}{:>18}{:>12}/s{:>12}{:>12}",
                time(median(&costs)),
                format!("{least:.2}..{most:.2}"),
                grouped(over(|run| run.throughput)),
                time(over(|run| run.latency_us.p50)),
                time(over(|run| run.latency_us.p99_9)),
            )?;
        }
        writeln!(f, "Edgate needs {:.2} times less processor time per decision", self.cpu_ratio)
    }
}

#[derive(Debug, Clone, Copy)]
enum Contestant {
    Peer,
    Edgate,
}

impl Contestant {
    const fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Edgate => "edgate",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Peer => "axum + jsonwebtoken",
            Self::Edgate => "Edgate",
        }
    }
}

fn cost(run: &Summary) -> f64 {
    run.cpu.as_ref().map_or(f64::NAN, |cpu: &CpuPerDecision| cpu.total_us)
}

fn costs(runs: &[Summary]) -> Vec<f64> {
    runs.iter().map(cost).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::summary::tests::outcome;
    use std::time::Duration;

    fn run(cpu_ms: u64) -> Summary {
        let mut outcome = outcome(1000);
        let cpu = outcome.cpu.as_mut().unwrap();
        cpu.threads = [("shard-0".to_owned(), Duration::from_millis(cpu_ms))].into();
        Summary::new("run", &outcome)
    }

    #[test]
    fn ratio_is_that_of_the_medians() {
        let compared = Compared::new(vec![run(60), run(90), run(61)], vec![run(10), run(11), run(50)]);
        assert_eq!((compared.peer_cpu_us, compared.edgate_cpu_us), (61.0, 11.0));
        assert!((compared.cpu_ratio - 61.0 / 11.0).abs() < 1e-9);
        let typical = compared.typical();
        assert_eq!(typical[0].cpu.as_ref().unwrap().total_us, 61.0);
        assert_eq!(typical[1].label, "Edgate");
        let table = compared.to_string();
        assert!(table.contains("60.00..90.00") && table.contains("5.55 times less"), "{table}");
    }
}
