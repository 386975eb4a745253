//! The built daemon under strace: each system call that touches the disk fails once, or is the last thing the process
//! does. Whatever happens, the daemon answers or ends, the next start succeeds, the log verifies, and everything that a
//! client was told is in it.
//!
//! `EDGATE_STRACE=all` tries every call there is instead of a few of each kind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use edgate::audit::Tail;
use serde_json::json;
use support::{Connection, EDGATE, Issuer, PATIENCE, decision_ids, write_config};
use tempfile::TempDir;

/// The calls by which the daemon writes, names, maps and makes durable.
const CALLS: &[&str] = &[
    "fallocate",
    "fchmod",
    "fdatasync",
    "flock",
    "fsync",
    "ftruncate",
    "getdents64",
    "mkdir",
    "mmap",
    "openat",
    "pread64",
    "pwrite64",
    "rename",
    "statfs",
    "unlink",
    "write",
];

const FAULTS: &[&str] = &["error=EIO", "error=ENOSPC", "signal=KILL"];

/// Instances of each call that are tried, unless all are.
const INSTANCES: usize = 2;

/// A segment is zeroed page by page; one page in so many stands for all of them.
const ZEROING_STEP: usize = 61;

/// Requests of one run.
const REQUESTS: usize = 12;

fn strace_works() -> bool {
    let works = support::have("strace")
        && Command::new("strace")
            .args(["-o", "/dev/null", "true"])
            .status()
            .is_ok_and(|status| status.success());
    if !works {
        eprintln!("SKIPPED: strace may not trace here");
    }
    works
}

/// A folder with a log, and what the world was told about it.
struct Node {
    dir: TempDir,
    issuer: Issuer,
    told: HashSet<String>,
    issued: usize,
}

/// A daemon under strace.
struct Traced {
    child: Child,
    /// Data and control listener, if it came that far.
    listening: Option<(SocketAddr, SocketAddr)>,
}

impl Node {
    fn new(server: &str, audit: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let issuer = Issuer::new(1);
        write_config(dir.path(), &issuer, server, audit);
        let output = Command::new(EDGATE).arg("init").arg(dir.path().join("edgate.toml")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { dir, issuer, told: HashSet::new(), issued: 0 }
    }

    /// Starts the daemon, under strace where there is something to do for it.
    fn start(&self, strace: &[String]) -> Traced {
        let mut command = Command::new(if strace.is_empty() { EDGATE } else { "strace" });
        if !strace.is_empty() {
            // -D: our child is the daemon, strace stands beside it. Not --seccomp-bpf: with it signals are not injected.
            command.args(["-D", "-f", "-q"]).args(strace).arg(EDGATE);
        }
        let (child, listening) = support::serve(command, self.dir.path());
        Traced { child, listening }
    }

    /// Asks for decisions and issues a token, and remembers what was said. Only a decision or a refusal by name will do.
    fn use_it(&mut self, (data, control): (SocketAddr, SocketAddr)) -> Result<(), String> {
        for number in 0..REQUESTS {
            let token = self.issuer.token(&format!("t{number}"));
            let request =
                format!("GET /auth/nginx HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n\r\n");
            match ask(data, &request)? {
                Some((200, id)) => {
                    self.told.insert(id.ok_or("an answer without a decision id")?);
                }
                Some((503, _)) | None => {}
                Some((status, _)) => return Err(format!("a good token was answered with {status}")),
            }
            if number == REQUESTS / 2 {
                let request = support::post_request("/v1/tokens", &json!({"agent_id": "a", "scope": ["b"]}));
                match ask(control, &request)? {
                    Some((200 | 201, _)) => self.issued += 1,
                    Some((500 | 503, _)) | None => {}
                    Some((status, _)) => return Err(format!("issuing was answered with {status}")),
                }
            }
        }
        Ok(())
    }

    /// The next start, without a fault: succeeds, decides, stops in order; the log verifies and holds all that was told.
    fn check(&mut self) -> Result<(), String> {
        let mut daemon = self.start(&[]);
        let Some(listening) = daemon.listening else {
            daemon.end()?;
            return Err(format!("the next start fails: {}", self.said()));
        };
        let before = self.told.len();
        self.use_it(listening)?;
        if self.told.len() != before + REQUESTS {
            return Err("the next start does not decide".into());
        }
        daemon.terminate();
        let status = daemon.end()?;
        if status.code() != Some(0) {
            return Err(format!("the next stop: {status}"));
        }
        let dir = self.dir.path().join("audit");
        let verified = support::edgate(&["audit", "verify", "--dir", dir.to_str().unwrap(), "--json"], b"");
        if verified.status.code() != Some(0) {
            return Err(format!("the log does not verify: {}", String::from_utf8_lossy(&verified.stdout)));
        }
        let recorded = decision_ids(&dir);
        let missing = self.told.iter().filter(|id| !recorded.contains(*id)).count();
        if missing > 0 {
            return Err(format!("{missing} of {} answered decisions are not in the log", self.told.len()));
        }
        let issues = issues_done(&dir);
        if issues < self.issued {
            return Err(format!("{issues} issued tokens are in the log, {} were handed out", self.issued));
        }
        Ok(())
    }

    fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default()
    }
}

impl Traced {
    fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // It may be gone.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }

    /// Waits for the end. A daemon that does not end is the one thing that is never right.
    fn end(&mut self) -> Result<ExitStatus, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Ok(status);
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                return Err("the daemon does not end".into());
            }
            // A child has no joint with a deadline.
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request on a new connection: the status and the decision's id; `None` if nobody answers.
fn ask(address: SocketAddr, request: &str) -> Result<Option<(u16, Option<String>)>, String> {
    let Some(mut connection) = Connection::try_open(address) else { return Ok(None) };
    let asked = Instant::now();
    connection.send(request.as_bytes());
    let response = connection.receive();
    if asked.elapsed() >= PATIENCE {
        return Err("a request hangs".into());
    }
    Ok(response.map(|response| (response.status, response.header("x-auth-decision-id").map(str::to_owned))))
}

/// Records that say that a token was issued.
fn issues_done(dir: &Path) -> usize {
    const DONE: u64 = 1;
    let mut tail = Tail::last(dir, usize::MAX, |_| true).unwrap();
    std::iter::from_fn(|| tail.next().unwrap())
        .filter(|entry| {
            entry.kind() == "issue"
                && serde_json::from_str::<serde_json::Value>(&entry.json()).unwrap()["body"]["phase"] == DONE
        })
        .count()
}

/// What strace is to look at: the call, and for `write` only the files beside the log. Threads also wake each other by
/// `write`, on descriptors that cannot fail.
fn scope(dir: &Path, calls: &[&str]) -> Vec<String> {
    let mut arguments = vec!["-e".to_owned(), format!("trace={}", calls.join(","))];
    if calls.contains(&"write") {
        for name in ["checkpoint.new", "checkpoint.tree.new", "checkpoint.key.new"] {
            arguments.extend(["-P".to_owned(), dir.join("audit").join(name).display().to_string()]);
        }
    }
    arguments
}

/// How often any one thread makes each call in a run without faults. strace counts per thread.
fn instances(node: &mut Node) -> BTreeMap<&'static str, usize> {
    let mut most = BTreeMap::new();
    let (written, others): (Vec<&str>, Vec<&str>) = CALLS.iter().partition(|call| **call == "write");
    for calls in [written, others] {
        let trace = node.dir.path().join("trace");
        let mut arguments = vec!["-o".to_owned(), trace.display().to_string()];
        arguments.extend(scope(node.dir.path(), &calls));
        let mut daemon = node.start(&arguments);
        node.use_it(daemon.listening.expect("it starts")).unwrap();
        daemon.terminate();
        assert_eq!(daemon.end().unwrap().code(), Some(0));
        let mut counts: BTreeMap<(&str, String), usize> = BTreeMap::new();
        for line in fs::read_to_string(trace).unwrap().lines() {
            let Some((thread, rest)) = line.split_once(' ') else { continue };
            let name = rest.trim_start().split('(').next().unwrap_or("");
            if let Some(call) = CALLS.iter().find(|call| **call == name) {
                *counts.entry((call, thread.to_owned())).or_default() += 1;
            }
        }
        for ((call, _), count) in counts {
            let entry = most.entry(call).or_default();
            *entry = count.max(*entry);
        }
    }
    most
}

/// Which instances of a call are tried.
fn chosen(call: &str, count: usize) -> Vec<usize> {
    let all = std::env::var("EDGATE_STRACE").is_ok_and(|value| value == "all");
    if !all {
        // The last ones: the first belong to the loader.
        return (0..INSTANCES).map(|part| count - count * part / INSTANCES).filter(|at| *at > 0).collect();
    }
    let step = if call == "pwrite64" { ZEROING_STEP } else { 1 };
    (1..=count).step_by(step).collect()
}

#[test]
fn every_call_that_fails_or_never_returns_leaves_a_log_that_holds_what_was_told() {
    if !strace_works() {
        return;
    }
    let started = Instant::now();
    let mut node = Node::new("shards = 1", "");
    let counts = instances(&mut node);
    assert!(counts["fdatasync"] > 2 && counts["fsync"] > 5 && counts["rename"] > 0, "{counts:?}");
    let (mut tried, mut not_started, mut missed) = (0, 0, 0);
    for (call, count) in &counts {
        for fault in FAULTS {
            let mut node = Node::new("shards = 1", "");
            for at in chosen(call, *count) {
                let injection = format!("inject={call}:{fault}:when={at}");
                let Outcome { fired, started } = trial(&mut node, call, &injection)
                    .unwrap_or_else(|error| panic!("{injection}: {error}\n{}", node_said(&node)));
                not_started += usize::from(!started);
                missed += usize::from(!fired);
                tried += 1;
            }
        }
    }
    println!(
        "{tried} faults, {missed} never met, {not_started} of them kept the daemon from starting; {:?}; calls per thread: {counts:?}",
        started.elapsed()
    );
    // Runs differ by some calls; most of what is counted is met.
    assert!(missed * 4 < tried, "{missed} of {tried} faults were never met");
}

fn node_said(node: &Node) -> String {
    let said = node.said();
    said.lines().rev().take(12).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
}

struct Outcome {
    /// The call was made so often.
    fired: bool,
    started: bool,
}

/// One run with a fault, and the run after it.
fn trial(node: &mut Node, call: &str, injection: &str) -> Result<Outcome, String> {
    let trace = node.dir.path().join("trace");
    let mut arguments =
        vec!["-o".to_owned(), trace.display().to_string(), "-e".to_owned(), injection.to_owned()];
    arguments.extend(scope(node.dir.path(), &[call]));
    let mut daemon = node.start(&arguments);
    if let Some(listening) = daemon.listening {
        node.use_it(listening)?;
        daemon.terminate();
    }
    let status = daemon.end()?;
    let killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGKILL);
    let fired = killed || fs::read_to_string(&trace).unwrap().contains("(INJECTED)");
    node.check()?;
    Ok(Outcome { fired, started: daemon.listening.is_some() })
}

/// Asks on one connection until it is closed, and says what was answered.
fn ask_on(node: &Node, data: SocketAddr, requests: usize) -> Vec<(u16, Option<String>)> {
    let mut connection = Connection::open(data);
    let token = node.issuer.token("t");
    let request = format!("GET /auth/nginx HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n\r\n");
    let mut answers = Vec::new();
    while answers.len() < requests {
        connection.send(request.as_bytes());
        let Some(response) = connection.receive() else { break };
        answers.push((response.status, response.header("x-auth-decision-id").map(str::to_owned)));
    }
    answers
}

#[test]
fn a_decision_whose_reply_is_never_sent_is_in_the_log() {
    if !strace_works() {
        return;
    }
    for verify_ack in ["recorded", "durable"] {
        for at in 1..=3 {
            // With epoll a reply is a system call, and its shard makes no other of that name.
            let mut node =
                Node::new("shards = 1\ndriver = \"epoll\"", &format!("verify_ack = {verify_ack:?}"));
            let injection = format!("inject=sendto:signal=KILL:when={at}");
            let mut daemon =
                node.start(&["-o", "/dev/null", "-e", "trace=sendto", "-e", &injection].map(str::to_owned));
            let (data, _) = daemon.listening.unwrap();
            let answers = ask_on(&node, data, 10);
            assert_eq!(
                answers.len(),
                at - 1,
                "{verify_ack}: the process dies before reply {at}: {answers:?}"
            );
            daemon.end().unwrap();
            let recorded = decision_ids(&node.dir.path().join("audit"));
            assert!(answers.iter().all(|(_, id)| id.as_ref().is_some_and(|id| recorded.contains(id))));
            assert_eq!(recorded.len(), at, "what was not delivered was recorded all the same");
            node.told.extend(answers.into_iter().filter_map(|(_, id)| id));
            node.check().unwrap();
        }
    }
}

#[test]
fn a_flush_that_fails_once_is_never_followed_by_an_answer() {
    if !strace_works() {
        return;
    }
    for fault in ["error=EIO", "error=ENOSPC"] {
        for at in 1..=3 {
            let mut node = Node::new("shards = 1", "verify_ack = \"durable\"");
            // Of each thread's calls; the flusher makes one per commit.
            let injection = format!("inject=fdatasync:{fault}:when={at}");
            let mut daemon = node
                .start(&["-o", "/dev/null", "-e", "trace=fdatasync", "-e", &injection].map(str::to_owned));
            let Some((data, _)) = daemon.listening else {
                // The flush of the start itself.
                daemon.end().unwrap();
                node.check().unwrap();
                continue;
            };
            let answers = ask_on(&node, data, 30);
            let given = answers.iter().take_while(|(status, _)| *status == 200).count();
            assert!(given < answers.len(), "{injection}: the flusher fails: {answers:?}");
            assert!(
                answers[given..].iter().all(|(status, _)| *status == 503),
                "{injection}: the disk works again, and the page cache may lie: {answers:?}"
            );
            node.told
                .extend(answers.into_iter().filter(|(status, _)| *status == 200).filter_map(|(_, id)| id));
            daemon.terminate();
            daemon.end().unwrap();
            node.check().unwrap();
        }
    }
}
