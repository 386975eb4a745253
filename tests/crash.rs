//! `kill -9` under load: whatever a client was told is in the log.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::{Connection, Edgate};

/// Rounds of each mode; a longer run sets `EDGATE_CRASH_ROUNDS`.
fn rounds() -> usize {
    std::env::var("EDGATE_CRASH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(50)
}

/// Answers to wait for before the kill of one round.
const ANSWERS_PER_ROUND: usize = 200;

/// Connections that ask at the same time.
const CLIENTS: usize = 4;

#[test]
fn every_answered_decision_is_in_the_log_after_kill_9() {
    kill_again_and_again("recorded");
}

#[test]
fn every_answered_decision_is_in_the_log_after_kill_9_where_answers_wait_for_the_disk() {
    kill_again_and_again("durable");
}

fn kill_again_and_again(verify_ack: &str) {
    // A disk that other tests keep busy is slow, and not what this is about.
    let audit = format!("verify_ack = {verify_ack:?}\nack_timeout_ms = 20000\nunflushed_age_max_ms = 20000");
    let mut edgate = Edgate::start_with("shards = 1", &audit);
    let mut acknowledged: HashSet<String> = HashSet::new();
    let mut longest_start = Duration::ZERO;
    for round in 0..rounds() {
        acknowledged.extend(ask_until_killed(&mut edgate, round));
        let started = Instant::now();
        edgate.restart();
        longest_start = longest_start.max(started.elapsed());
    }
    edgate.kill();

    let dir = edgate.audit_dir();
    let verified = support::edgate(&["audit", "verify", "--dir", dir.to_str().unwrap(), "--json"], b"");
    assert_eq!(verified.status.code(), Some(0), "{}", String::from_utf8_lossy(&verified.stdout));
    let recorded = support::decision_ids(&dir);
    let missing: Vec<&String> = acknowledged.iter().filter(|id| !recorded.contains(*id)).take(5).collect();
    assert!(missing.is_empty(), "{} answered, not in the log: {missing:?}", acknowledged.len());
    println!(
        "{verify_ack}: {} rounds, {} decisions answered, {} recorded, longest restart {longest_start:?}",
        rounds(),
        acknowledged.len(),
        recorded.len()
    );
}

/// Asks on some connections at once, kills the daemon in the middle of it, and returns the ids of all answers.
fn ask_until_killed(edgate: &mut Edgate, round: usize) -> Vec<String> {
    let answered = AtomicUsize::new(0);
    let token = edgate.issuer.token(&format!("r{round}"));
    let request = format!("GET /auth/nginx HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n\r\n");
    let address = edgate.data;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut ids = Vec::new();
                    let mut connection = Connection::open(address);
                    loop {
                        connection.send(request.as_bytes());
                        let Some(response) = connection.receive() else { return ids };
                        assert_eq!(response.status, 200);
                        let Some(id) = response.header("x-auth-decision-id") else { return ids };
                        ids.push(id.to_owned());
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        while answered.load(Ordering::Relaxed) < ANSWERS_PER_ROUND {
            std::thread::yield_now();
        }
        edgate.kill();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}
