//! `GET /v1/status-lists/{id}`, and the places of issued tokens.

use std::sync::atomic::{AtomicU64, Ordering};

use ed25519_dalek::{Signature, VerifyingKey as DalekKey};
use serde_json::Value;

use super::*;
use crate::status_list::{Bits, Document, Status as Mark};

const URI: &str = "https://edgate.test/v1/status-lists/own-1";
const PATH: &str = "/v1/status-lists/own-1";

fn publish(state: &mut State) {
    let list = StatusListPolicy { uri: URI.to_owned(), capacity: 1000 };
    state.issuing.as_mut().unwrap().status_list = Some(list);
}

fn decoded(part: &str) -> Vec<u8> {
    let mut buffer = vec![0; part.len()];
    base64url::decode(part.as_bytes(), &mut buffer).unwrap().to_vec()
}

/// Issues a token to `agent`; its id and its place.
fn issue(node: &Node, agent: &str) -> (String, u64) {
    let issued = node.post("/v1/tokens", &format!(r#"{{"agent_id":"{agent}","scope":["a"]}}"#)).json();
    let token = issued["token"].as_str().unwrap_or_else(|| panic!("{issued}"));
    let claims: Value = serde_json::from_slice(&decoded(token.split('.').nth(1).unwrap())).unwrap();
    let place = &claims["status"]["status_list"];
    assert_eq!(place["uri"], URI);
    (issued["id"].as_str().unwrap().to_owned(), place["idx"].as_u64().unwrap())
}

/// The list, its signature verified.
fn fetch(node: &Node) -> Document {
    let answer = node.get(PATH);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.head.contains("content-type: application/statuslist+jwt"), "{}", answer.head);
    let (input, signature) = answer.body.rsplit_once('.').unwrap();
    let signature = Signature::from_bytes(&base64url::decode_array::<64>(signature.as_bytes()).unwrap());
    let key = DalekKey::from_bytes(&node.public_key).unwrap();
    key.verify_strict(input.as_bytes(), &signature).unwrap();
    let (header, payload) = input.split_once('.').unwrap();
    let header: Value = serde_json::from_slice(&decoded(header)).unwrap();
    let kid = crate::keys::thumbprint(&node.public_key);
    assert_eq!(header, serde_json::json!({"alg": "Ed25519", "typ": "statuslist+jwt", "kid": kid}));
    Document::read(&decoded(payload)).unwrap()
}

/// The list in which `index` is marked so; it is made at most once a second.
fn wait_for(node: &Node, index: u64, mark: Mark) -> Document {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let document = fetch(node);
        if document.list.status(index) == Ok(mark) {
            return document;
        }
        assert!(Instant::now() < deadline, "{index} does not become {mark:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_list_says_of_each_token_what_the_view_says() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), publish);
    let (revoked, at) = issue(&node, "ag_1");
    let (_, of_subject) = issue(&node, "ag_2");
    let (_, of_disabled) = issue(&node, "ag_3");
    let (_, good) = issue(&node, "ag_4");
    let document = fetch(&node);
    assert_eq!((document.uri.as_str(), document.issuer.as_deref()), (URI, Some(ISSUER)));
    assert_eq!((document.issued_at, document.expires_at), (NOW, Some(UnixSeconds(NOW.0 + 600))));
    assert_eq!((document.ttl_s, document.list.bits(), document.list.len()), (Some(30), Bits::Two, 1000));
    assert!((0..1000).all(|index| document.list.status(index) == Ok(Mark::VALID)));

    assert_eq!(node.post(&format!("/v1/tokens/{revoked}/revoke"), "").status, 200);
    for (name, action) in [("ag_2", "revoke"), ("ag_3", "disable")] {
        let body = format!(r#"{{"kind":"subject","name":"{name}","action":"{action}"}}"#);
        assert_eq!(node.post("/v1/revocations", &body).status, 200);
    }
    wait_for(&node, at, Mark::INVALID);
    wait_for(&node, of_subject, Mark::INVALID);
    let document = wait_for(&node, of_disabled, Mark::SUSPENDED);
    let others = (0..1000).filter(|index| ![at, of_subject, of_disabled].contains(index));
    for index in others.chain([good]) {
        assert_eq!(document.list.status(index), Ok(Mark::VALID), "{index}");
    }
    // One that is issued to who is disabled already is in the next list as well.
    let (_, late) = issue(&node, "ag_3");
    wait_for(&node, late, Mark::SUSPENDED);
    let enable = r#"{"kind":"subject","name":"ag_3","action":"enable"}"#;
    assert_eq!(node.post("/v1/revocations", enable).status, 200);
    wait_for(&node, of_disabled, Mark::VALID);
    node.stop();

    let node = Node::start_with(dir.path(), publish);
    wait_for(&node, at, Mark::INVALID);
    node.stop();
}

#[test]
fn a_list_is_cached_and_made_once_for_many() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), publish);
    let first = node.get(PATH);
    assert!(first.head.contains("cache-control: public, max-age=30\r\n"), "{}", first.head);
    assert_eq!(first.head.matches("cache-control").count(), 1, "{}", first.head);
    let etag = first.head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    assert_eq!(node.get(PATH).body, first.body);
    // The header was lower-cased when it was read, so it is taken from the body's digest again.
    let digest = <sha2::Sha256 as sha2::Digest>::digest(first.body.as_bytes());
    let exact = format!("\"{}\"", base64url::encode(&digest[..16]));
    assert_eq!(exact.to_ascii_lowercase(), etag);
    let ask = |value: &str| {
        node.send(&format!(
            "GET {PATH} HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: {value}\r\nConnection: close\r\n\r\n"
        ))
    };
    for known in [exact.clone(), format!("\"x\", W/{exact}"), "*".to_owned()] {
        let answer = ask(&known);
        assert_eq!((answer.status, answer.body.as_str()), (304, ""), "{known}");
    }
    assert_eq!(ask("\"x\"").status, 200);
    node.stop();
}

/// The time of the next test, which moves it.
static MOVING: AtomicU64 = AtomicU64::new(NOW.0);

#[test]
fn an_old_list_is_made_anew_and_a_dead_one_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, given) = std::sync::mpsc::channel();
    let node = Node::start_with(dir.path(), move |state| {
        publish(state);
        state.now = || UnixSeconds(MOVING.load(Ordering::SeqCst));
        sender.send(state.store.clone()).unwrap();
    });
    let store = given.recv().unwrap();
    assert_eq!(fetch(&node).issued_at, NOW);
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(fetch(&node).issued_at, NOW, "nothing has changed");
    MOVING.store(NOW.0 + 15, Ordering::SeqCst);
    assert_eq!(fetch(&node).issued_at.0, NOW.0 + 15, "half of its time is over");

    // The database is gone: the last one stays as long as it is valid.
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(store.close());
    std::thread::sleep(Duration::from_millis(1100));
    MOVING.store(NOW.0 + 15 + 599, Ordering::SeqCst);
    assert_eq!(fetch(&node).issued_at.0, NOW.0 + 15);
    MOVING.store(NOW.0 + 15 + 600, Ordering::SeqCst);
    node.get(PATH).expect_error(503, "store_unavailable", "cannot be read now");
    node.stop();
}

#[test]
fn a_full_list_issues_nothing_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), |state| {
        let list = StatusListPolicy { uri: URI.to_owned(), capacity: 1 };
        state.issuing.as_mut().unwrap().status_list = Some(list);
    });
    issue(&node, "ag_1");
    let body = r#"{"agent_id":"ag_1","scope":["a"]}"#;
    node.post("/v1/tokens", body).expect_error(503, "overloaded", "no place left");
    node.stop();
    let issues = recorded_actions(dir.path());
    assert_eq!(issues.len(), 2, "the refused one was never intended: {issues:?}");
}

#[test]
fn without_a_list_nothing_is_published_and_tokens_have_no_status() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    node.get(PATH).expect_error(404, "not_found", "signing.status_list_uri");
    let issued = node.post("/v1/tokens", r#"{"agent_id":"a","scope":["a"]}"#).json();
    let payload = decoded(issued["token"].as_str().unwrap().split('.').nth(1).unwrap());
    assert!(!String::from_utf8(payload).unwrap().contains("status"));
    node.stop();
    let node = Node::start_with(dir.path(), publish);
    node.get("/v1/status-lists/other").expect_error(404, "not_found", "this node has \"own-1\"");
    node.stop();
}
