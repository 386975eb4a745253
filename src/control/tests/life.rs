//! Start, restart, stop, and what is observed meanwhile.

use std::sync::mpsc;

use super::*;
use crate::audit::Phase;

#[test]
fn revocations_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    for i in 0..30 {
        assert_eq!(node.post(&format!("/v1/tokens/token-{i}/revoke"), "").status, 200);
    }
    let public_key = node.public_key;
    node.stop();

    let node = Node::start(dir.path());
    assert_eq!(node.get("/livez").status, 200);
    assert_eq!(node.public_key, public_key, "the second start uses the key of the first");
    for i in 0..30 {
        assert_eq!(node.status_of(ISSUER, &format!("token-{i}"), NOW), Status::Revoked);
    }
    assert_eq!(node.post("/v1/tokens/token-3/revoke", "").json()["already_revoked"], true);
    node.stop();
}

#[test]
fn an_action_under_way_is_finished_when_its_client_hangs_up_and_the_node_stops() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    for i in 0..20 {
        let mut stream = TcpStream::connect(node.address).unwrap();
        let request = format!(
            "POST /v1/tokens/gone-{i}/revoke HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        drop(stream);
    }
    assert_eq!(node.post("/v1/tokens/last/revoke", "").status, 200);
    let view = Arc::clone(&node.view);
    let store_path = node.store_path.clone();
    node.stop();

    // Whatever was begun was finished: in the database and in the view, or in neither.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut stored = Vec::new();
    runtime.block_on(async {
        let store = Store::open(&store_path, OpenMode::Existing).await.unwrap();
        let take = |batch: &[crate::store::StoredChange], _| {
            stored.extend(batch.iter().map(|row| row.name.clone()));
        };
        store.load_changes(NOW, take).await.unwrap();
    });
    for i in 0..20 {
        let jti = format!("gone-{i}");
        let in_view = status_of(&view, ISSUER, &jti, NOW) == Status::Revoked;
        assert_eq!(stored.contains(&jti), in_view, "{jti}");
    }
    let actions = recorded_actions(dir.path());
    let count = |phase: Phase| actions.iter().filter(|(_, found)| *found == phase.code()).count();
    assert_eq!(count(Phase::Intent), stored.len());
    assert_eq!(count(Phase::Done), stored.len());
}

#[test]
fn the_chain_is_verified_on_request_one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (release, held) = mpsc::channel::<()>();
    let (entered, entering) = mpsc::channel();
    let held = std::sync::Mutex::new(held);
    let node = Node::start_with(dir.path(), move |state| {
        state.verify_chain = Arc::new(move || {
            entered.send(()).unwrap();
            held.lock().unwrap().recv().unwrap();
            let first = ChainBreak {
                seq: 5,
                segment: 1,
                offset: 4096,
                class: "hash_mismatch".into(),
                detail: "body digest differs".into(),
            };
            Ok(ChainReport { records: 5, head: "00".repeat(32), first_break: Some(first) })
        });
    });
    std::thread::scope(|scope| {
        let first = scope.spawn(|| node.get("/v1/audit/verify-chain"));
        entering.recv().unwrap();
        let second = node.get("/v1/audit/verify-chain");
        second.expect_error(503, "overloaded", "another verification");
        assert!(second.head.contains("retry-after: 1"), "{}", second.head);
        assert_eq!(node.post("/v1/tokens/one/revoke", "").status, 200, "the rest goes on meanwhile");
        release.send(()).unwrap();
        let first = first.join().unwrap();
        assert_eq!(first.status, 200);
        let json = first.json();
        assert_eq!((&json["valid"], &json["first_break"]["seq"]), (&false.into(), &5.into()));
    });
    node.stop();
}

#[test]
fn an_unreadable_log_is_a_named_503() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), |state| {
        state.verify_chain = Arc::new(|| Err("disk on fire at /secret/path".into()));
    });
    let answer = node.get("/v1/audit/verify-chain");
    answer.expect_error(503, "audit_unavailable", "cannot be read now");
    assert!(!answer.body.contains("secret"));
    node.stop();
}

#[test]
fn metrics_hold_what_others_write_and_what_is_counted_here() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    node.post("/v1/tokens", r#"{"agent_id":"a","scope":["a"]}"#);
    node.post("/v1/tokens/one/revoke", "");
    node.get("/absent");
    let answer = node.get("/metrics");
    assert!(
        answer.head.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{}",
        answer.head
    );
    for line in [
        "other 1",
        "edgate_tokens_issued_total 1",
        "edgate_tokens_revoked_total 1",
        "edgate_control_requests_refused_total 1",
        "edgate_revocation_entries 1",
        "edgate_revocation_epoch 1",
    ] {
        assert!(answer.body.lines().any(|found| found == line), "{line} is missing in\n{}", answer.body);
    }
    node.stop();
}

#[test]
fn readiness_names_each_dependency() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), |state| {
        state.readiness = Arc::new(|| {
            vec![Dependency { name: "shards", ready: false, detail: "shard 3 is starting".into() }]
        });
    });
    let answer = node.get("/readyz");
    assert_eq!(answer.status, 503);
    let json = answer.json();
    assert_eq!(json["ready"], false);
    let named: Vec<(&str, bool)> = json["dependencies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|dependency| (dependency["name"].as_str().unwrap(), dependency["ready"].as_bool().unwrap()))
        .collect();
    assert_eq!(named, [("shards", false), ("store", true), ("audit", true)]);
    assert_eq!(node.get("/livez").status, 200);
    node.stop();
}

#[test]
fn without_the_audit_log_nothing_is_issued_or_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path());
    assert_eq!(node.get("/livez").status, 200);
    node.log.take().unwrap().close(Duration::from_secs(10)).unwrap();
    let issue = node.post("/v1/tokens", r#"{"agent_id":"a","scope":["a"]}"#);
    issue.expect_error(503, "audit_unavailable", "no token was issued");
    assert!(issue.head.contains("retry-after: 1"));
    node.post("/v1/tokens/one/revoke", "").expect_error(503, "audit_unavailable", "nothing was changed");
    assert_eq!(node.status_of(ISSUER, "one", NOW), Status::Clear);
    assert_eq!(node.get("/readyz").status, 503);
    node.stop.take().unwrap().send(()).unwrap();
    node.thread.take().unwrap().join().unwrap().unwrap();
}

#[test]
fn a_node_without_a_signing_key_issues_nothing_and_revokes_by_issuer() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), |state| (state.issuing, state.keys.own) = (None, None));
    let issue = node.post("/v1/tokens", r#"{"agent_id":"a","scope":["a"]}"#);
    issue.expect_error(404, "not_found", "this node only verifies");
    let revoke = node.post("/v1/tokens/one/revoke", "");
    revoke.expect_error(400, "invalid_request", "say whose it is with \"issuer\"");
    assert_eq!(node.post("/v1/tokens/one/revoke", &format!(r#"{{"issuer":"{PARTNER}"}}"#)).status, 200);
    assert_eq!(node.status_of(PARTNER, "one", NOW), Status::Revoked);
    node.stop();
}
