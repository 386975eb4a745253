//! Issue and revoke.

use ed25519_dalek::{Signature, VerifyingKey};

use super::*;
use crate::audit::Phase;
use crate::audit::schema::Kind;
use crate::base64url;

const GOOD: &str = r#"{"agent_id":"ag_7","scope":["orders.create","orders.read"],"ttl":60}"#;

/// The payload of `token`, after verifying its signature under the node's key.
fn verified_claims(node: &Node, token: &str) -> serde_json::Value {
    let (signing_input, signature) = token.rsplit_once('.').unwrap();
    let signature = Signature::from_bytes(&base64url::decode_array::<64>(signature.as_bytes()).unwrap());
    let verifying_key = VerifyingKey::from_bytes(&node.public_key).unwrap();
    verifying_key.verify_strict(signing_input.as_bytes(), &signature).unwrap();
    let (_, payload) = signing_input.split_once('.').unwrap();
    let mut buffer = vec![0; payload.len()];
    serde_json::from_slice(base64url::decode(payload.as_bytes(), &mut buffer).unwrap()).unwrap()
}

#[test]
fn an_issued_token_says_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let answer = node.post(
        "/v1/tokens",
        r#"{"agent_id":"ag_7","scope":["orders.create"],"audience":["https://a.test","https://b.test"],
            "task":"buy bread","constraints":{"max_order_usd":200},"own":"alice@example.com",
            "act":{"sub":"ag_1"},"ttl":60}"#,
    );
    assert_eq!(answer.status, 201, "{}", answer.body);
    let issued = answer.json();
    let claims = verified_claims(&node, issued["token"].as_str().unwrap());
    let expected = serde_json::json!({
        "iss": ISSUER, "sub": "ag_7", "aud": ["https://a.test", "https://b.test"],
        "iat": NOW.0, "nbf": NOW.0, "exp": NOW.0 + 60, "jti": issued["id"],
        "scope": ["orders.create"], "task": "buy bread", "cns": {"max_order_usd": 200},
        "own": "alice@example.com", "act": {"sub": "ag_1"},
    });
    assert_eq!(claims, expected);
    assert_eq!(issued["expires_at"], NOW.0 + 60);
    assert_eq!(issued["kid"], crate::keys::thumbprint(&node.public_key));
    node.stop();
}

#[test]
fn defaults_fill_what_a_request_leaves_out_and_no_two_tokens_share_an_id() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let mut ids = std::collections::HashSet::new();
    for _ in 0..20 {
        let issued = node.post("/v1/tokens", r#"{"agent_id":"ag_7","scope":["a"]}"#).json();
        let claims = verified_claims(&node, issued["token"].as_str().unwrap());
        assert_eq!(claims["aud"], "https://api.test");
        assert_eq!(claims["exp"], NOW.0 + 120);
        assert!(ids.insert(issued["id"].as_str().unwrap().to_owned()));
    }
    node.stop();
}

#[test]
fn a_bad_issue_request_is_told_the_member_and_the_rule() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let long = "x".repeat(3000);
    let scopes: Vec<String> = (0..65).map(|i| format!("\"s{i}\"")).collect();
    let cases = [
        ("", "not acceptable JSON: text ends inside a value"),
        ("{", "not acceptable JSON"),
        ("[]", "one JSON object"),
        ("\"x\"", "one JSON object"),
        (r#"{"scope":["a"]}"#, "\"agent_id\" is missing"),
        (r#"{"agent_id":"ag_7"}"#, "\"scope\" is missing"),
        (r#"{"agent_id":7,"scope":["a"]}"#, "\"agent_id\" must be a string"),
        (r#"{"agent_id":"a b","scope":["a"]}"#, "\"agent_id\" \"a b\" must be letters"),
        (r#"{"agent_id":"","scope":["a"]}"#, "\"agent_id\""),
        (r#"{"agent_id":"a","scope":"orders.create"}"#, "\"scope\" must be an array of strings"),
        (r#"{"agent_id":"a","scope":[]}"#, "\"scope\" is empty"),
        (r#"{"agent_id":"a","scope":["a..b"]}"#, "scope \"a..b\" must be dotted names"),
        (r#"{"agent_id":"a","scope":["a b"]}"#, "scope \"a b\""),
        (r#"{"agent_id":"a","scope":["a","a"]}"#, "\"scope\" names \"a\" twice"),
        (r#"{"agent_id":"a","scope":[1]}"#, "each element of \"scope\" must be a string"),
        (&format!(r#"{{"agent_id":"a","scope":[{}]}}"#, scopes.join(",")), "more than 64 elements"),
        (r#"{"agent_id":"a","scope":["a"],"audience":"a b"}"#, "audience \"a b\""),
        (r#"{"agent_id":"a","scope":["a"],"ttl":0}"#, "\"ttl\" is 0 seconds; it must be 1 to 600"),
        (r#"{"agent_id":"a","scope":["a"],"ttl":601}"#, "\"ttl\" is 601 seconds; it must be 1 to 600"),
        (r#"{"agent_id":"a","scope":["a"],"ttl":1.5}"#, "\"ttl\" must be a whole number"),
        (r#"{"agent_id":"a","scope":["a"],"ttl":-1}"#, "\"ttl\" must be a whole number"),
        (r#"{"agent_id":"a","scope":["a"],"ttl":"60"}"#, "\"ttl\" must be a whole number"),
        (r#"{"agent_id":"a","scope":["a"],"constraints":[]}"#, "\"constraints\" must be a JSON object"),
        (r#"{"agent_id":"a","scope":["a"],"constraints":{"x":1,"x":2}}"#, "member name repeated"),
        (r#"{"agent_id":"a","scope":["a"],"act":"b"}"#, "\"act\" must be a JSON object"),
        (
            &format!(r#"{{"agent_id":"a","scope":["a"],"task":"{long}"}}"#),
            "\"task\" is longer than 1024 bytes",
        ),
        (r#"{"agent_id":"a","scope":["a"],"own":"a\u0000b"}"#, "\"own\" contains a control character"),
        (r#"{"agent_id":"a","scope":["a"],"iss":"me"}"#, "unknown member \"iss\"; known are agent_id"),
        (r#"{"agent_id":"a","agent_id":"b","scope":["a"]}"#, "member name repeated"),
        (r#"{"agent_id":"a","scope":["a"]} x"#, "data after the value"),
    ];
    for (body, part) in cases {
        node.post("/v1/tokens", body).expect_error(400, "invalid_request", part);
    }
    node.stop();
    assert_eq!(recorded_actions(dir.path()), [], "what was refused for its form was never an intent");
}

#[test]
fn each_action_leaves_its_intent_and_its_outcome_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let id = node.post("/v1/tokens", GOOD).json()["id"].as_str().unwrap().to_owned();
    assert_eq!(node.post(&format!("/v1/tokens/{id}/revoke"), "").status, 200);
    node.stop();
    let (intent, done) = (Phase::Intent.code(), Phase::Done.code());
    let expected = [(Kind::Issue, intent), (Kind::Issue, done), (Kind::Revoke, intent), (Kind::Revoke, done)];
    assert_eq!(recorded_actions(dir.path()), expected);
}

#[test]
fn many_clients_at_once_are_all_served() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let issued = node.post("/v1/tokens", GOOD);
                    assert_eq!(issued.status, 201, "{}", issued.body);
                    let id = issued.json()["id"].as_str().unwrap().to_owned();
                    assert_eq!(node.status_of(ISSUER, &id, NOW), Status::Clear);
                    assert_eq!(node.post(&format!("/v1/tokens/{id}/revoke"), "").status, 200);
                    assert_eq!(node.status_of(ISSUER, &id, NOW), Status::Revoked);
                }
            });
        }
    });
    node.stop();
}

#[test]
fn a_revoked_token_is_in_the_view_when_the_answer_comes_and_dies_with_the_last_possible_token() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    assert_eq!(node.status_of(ISSUER, "one", NOW), Status::Clear);
    let answer = node.post("/v1/tokens/one/revoke", "");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let revoked = answer.json();
    // A token of ours lives 600 s at most; either clock may be off by the leeway.
    let forget_at = NOW.0 + 600 + 2 * LEEWAY_S;
    assert_eq!(revoked["forget_at"], forget_at);
    assert_eq!(revoked["already_revoked"], false);
    assert_eq!(node.status_of(ISSUER, "one", UnixSeconds(forget_at - 1)), Status::Revoked);
    assert_eq!(node.status_of(ISSUER, "one", UnixSeconds(forget_at)), Status::Clear);
    assert_eq!(node.status_of(PARTNER, "one", NOW), Status::Clear);
    node.stop();
}

#[test]
fn revoking_again_is_harmless_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let body = format!(r#"{{"expires_at":{},"reason":"lost laptop"}}"#, NOW.0 + 100);
    let first = node.post("/v1/tokens/one/revoke", &body).json();
    let second = node.post("/v1/tokens/one/revoke", &body).json();
    assert_eq!((&first["already_revoked"], &second["already_revoked"]), (&false.into(), &true.into()));
    assert_eq!(first["forget_at"], second["forget_at"]);
    assert_eq!(first["revoked_at"], second["revoked_at"]);
    // Without an expiry the latest possible one counts, and replaces the earlier.
    let third = node.post("/v1/tokens/one/revoke", "").json();
    assert_eq!(third["forget_at"], NOW.0 + 600 + 2 * LEEWAY_S);
    assert_eq!(node.status_of(ISSUER, "one", NOW.saturating_add(600)), Status::Revoked);
    node.stop();
}

#[test]
fn another_issuers_token_is_revoked_by_naming_the_issuer() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let body = format!(r#"{{"issuer":"{PARTNER}","tenant":"acme"}}"#);
    let revoked = node.post("/v1/tokens/one/revoke", &body).json();
    assert_eq!(revoked["forget_at"], NOW.0 + PARTNER_LIFETIME_S + 2 * LEEWAY_S);
    assert_eq!(node.status_of(PARTNER, "one", NOW), Status::Revoked);
    assert_eq!(node.status_of(ISSUER, "one", NOW), Status::Clear);
    node.stop();
}

#[test]
fn an_id_with_reserved_characters_is_revoked_by_its_escaped_path() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let revoked = node.post("/v1/tokens/urn%3Aid%2F%C3%A9%20x/revoke", "").json();
    assert_eq!(revoked["id"], "urn:id/é x");
    assert_eq!(node.status_of(ISSUER, "urn:id/é x", NOW), Status::Revoked);
    node.stop();
}

#[test]
fn a_bad_revoke_request_is_told_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let past = format!(r#"{{"expires_at":{}}}"#, NOW.0 - LEEWAY_S);
    let future = format!(r#"{{"expires_at":{}}}"#, NOW.0 + 600 + LEEWAY_S + 1);
    let long = format!(r#"{{"reason":"{}"}}"#, "x".repeat(513));
    let cases = [
        (r#"{"issuer":"https://nobody.test"}"#, "issuer \"https://nobody.test\" is not configured"),
        (r#"{"tenant":"other"}"#, "of tenant \"other\" is not configured"),
        (&past, "is in the past"),
        (&future, "later than any token of this issuer may expire"),
        (&long, "\"reason\" is longer than 512 bytes"),
        (r#"{"jti":"x"}"#, "unknown member \"jti\"; known are kind"),
        (r#"{"expires_at":"soon"}"#, "\"expires_at\" must be a whole number"),
        ("null", "one JSON object"),
    ];
    for (body, part) in cases {
        node.post("/v1/tokens/one/revoke", body).expect_error(400, "invalid_request", part);
    }
    let whole = "/v1/tokens/eyJhbGciOiJFZERTQSJ9.e30.c2ln/revoke";
    node.post(whole, "").expect_error(400, "invalid_request", "this is a whole token");
    let long = format!("/v1/tokens/{}/revoke", "x".repeat(6200));
    node.post(&long, "").expect_error(400, "invalid_request", "must be 1 to 6144 bytes");
    assert_eq!(node.status_of(ISSUER, "one", NOW), Status::Clear);
    node.stop();
}
