//! `kill -9` under load: whatever a client was told is in the log.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use support::{Connection, Edgate};

/// Rounds; a longer run sets `EDGATE_CRASH_ROUNDS`.
fn rounds() -> usize {
    std::env::var("EDGATE_CRASH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(100)
}

/// Answers to wait for before the kill of one round.
const ANSWERS_PER_ROUND: usize = 200;

#[test]
fn every_answered_decision_is_in_the_log_after_kill_9() {
    let mut edgate = Edgate::start();
    let mut acknowledged: HashSet<String> = HashSet::new();
    for round in 0..rounds() {
        let answered = AtomicUsize::new(0);
        let token = edgate.issuer.token(&format!("r{round}"));
        let (address, token) = (edgate.data, token.as_str());
        let heard: Vec<Vec<String>> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|_| {
                    let answered = &answered;
                    scope.spawn(move || {
                        let mut ids = Vec::new();
                        let mut connection = Connection::open(address);
                        loop {
                            connection.send(
                                format!("GET /auth/nginx HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n\r\n")
                                    .as_bytes(),
                            );
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
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        acknowledged.extend(heard.into_iter().flatten());
        edgate.restart();
    }
    edgate.kill();

    let dir = edgate.audit_dir();
    let verified = support::edgate(&["audit", "verify", "--dir", dir.to_str().unwrap(), "--json"], b"");
    assert_eq!(verified.status.code(), Some(0), "{}", String::from_utf8_lossy(&verified.stdout));
    let recorded = support::decision_ids(&dir);
    let missing: Vec<&String> = acknowledged.iter().filter(|id| !recorded.contains(*id)).take(5).collect();
    assert!(missing.is_empty(), "{} answered, not in the log: {missing:?}", acknowledged.len());
}
