//! A log that neither acknowledges nor fails: a disk whose flushes hang.
//!
//! `strace` holds every `fdatasync` of the daemon back, so that the real binary meets a disk that does not answer.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::support::{Connection, Edgate, have, post_request, until};

/// Every flush takes this long while a [`Hold`] lasts.
const DELAY_US: u64 = 1_500_000;

/// Holds flushes back until dropped.
struct Hold(Child);

impl Hold {
    fn on(edgate: &Edgate) -> Self {
        let mut strace = Command::new("strace")
            .args(["-f", "-e", "trace=fdatasync", "-e", &format!("inject=fdatasync:delay_enter={DELAY_US}")])
            .args(["-o", "/dev/null", "-p", &edgate.pid().to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(strace.stderr.take().unwrap()).lines();
        let attached = lines.find(|line| line.as_ref().unwrap().contains("attached"));
        assert!(attached.is_some(), "strace may trace the daemon (ptrace is allowed)");
        std::thread::spawn(move || lines.for_each(drop));
        Self(strace)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // SIGTERM lets strace detach; SIGKILL would take the daemon with it.
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

#[test]
fn a_disk_that_hangs_denies_by_name_and_service_resumes_without_a_restart() {
    if !have("strace") {
        return;
    }
    for audit in ["verify_ack = \"durable\"", "verify_ack = \"recorded\"\nunflushed_age_max_ms = 200"] {
        let edgate = Edgate::start_with("shards = 1", audit);
        let token = edgate.issuer.token("a");
        assert_eq!(edgate.forward(&token).status, 200, "{audit}");
        let hold = Hold::on(&edgate);
        // An answer is never owed for longer than its time: each request here returns, with one or the other.
        until("the denial", || {
            let status = edgate.forward(&token).status;
            assert!(status == 200 || status == 503, "{audit}: {status}");
            status == 503
        });
        let answer = edgate.verify(&json!({"token": token}));
        if answer.status == 503 {
            assert_eq!(answer.json()["error"], "temporarily_unavailable", "{audit}");
        }
        until("the name of the failure", || {
            let ready = edgate.get("/readyz", "");
            ready.status == 503 && ready.body.contains("audit: failed, stalled: ") || {
                edgate.forward(&token);
                false
            }
        });
        drop(hold);
        until("the recovery", || edgate.forward(&token).status == 200);
        until("readiness", || edgate.get("/readyz", "").status == 200);
        if audit.contains("durable") {
            assert!(edgate.metric("audit_unacknowledged_total") >= 1.0);
        }
        // What was refused meanwhile is counted in the log, and the log is whole.
        let dir = edgate.audit_dir();
        let mut edgate = edgate;
        assert_eq!(edgate.terminate().code(), Some(0), "{}", edgate.said());
        let verified =
            crate::support::edgate(&["audit", "verify", "--json", "--dir", dir.to_str().unwrap()], b"");
        assert_eq!(verified.status.code(), Some(0), "{}", String::from_utf8_lossy(&verified.stdout));
        let gaps = crate::support::edgate(
            &["audit", "tail", "--json", "-n", "100000", "--kind", "gap", "--dir", dir.to_str().unwrap()],
            b"",
        );
        assert!(String::from_utf8_lossy(&gaps.stdout).contains("\"stalled\""), "{audit}: {gaps:?}");
    }
}

#[test]
fn a_busy_shard_is_not_taken_for_a_log_that_hangs() {
    const CALLERS: usize = 48;
    const TOKENS_PER_CALL: usize = 256;
    let edgate = Edgate::start_with("shards = 1", "ack_timeout_ms = 200");
    let tokens: Vec<_> =
        (0..TOKENS_PER_CALL).map(|number| edgate.issuer.token(&number.to_string())).collect();
    let request = post_request("/v1/tokens/verify", &json!({ "tokens": tokens }));
    // All are asked before the first is read: the shard owes far more than it decides in the log's time.
    let mut callers: Vec<_> = (0..CALLERS).map(|_| Connection::open(edgate.data)).collect();
    for caller in &mut callers {
        caller.send(request.as_bytes());
    }
    for caller in &mut callers {
        let answer = caller.receive().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        let results = answer.json()["results"].as_array().unwrap().clone();
        assert_eq!(results.len(), TOKENS_PER_CALL);
        assert!(results.iter().all(|result| result["valid"] == true), "{}", answer.body);
    }
    assert!(edgate.metric("audit_unacknowledged_total") < 1.0);
    assert_eq!(edgate.get("/readyz", "").status, 200);
}
