//! `POST /oauth/revoke`.

use serde_json::json;

use super::*;
use crate::audit::schema::Kind;

const FORM: &str = "application/x-www-form-urlencoded";

fn partner_header() -> serde_json::Value {
    json!({"alg": "Ed25519", "typ": "att+jwt", "kid": "partner-key"})
}

/// Claims of a good token of the partner.
fn partner_claims(jti: &str) -> serde_json::Value {
    json!({
        "iss": PARTNER, "sub": "ag_7", "aud": "https://api.test", "iat": NOW.0, "nbf": NOW.0, "exp": NOW.0 + 60,
        "jti": jti, "scope": ["a"], "task": "", "cns": {}, "own": "",
    })
}

fn partner_token(jti: &str, change: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut claims = partner_claims(jti);
    change(&mut claims);
    signed(&partner_key(), &partner_header(), &claims)
}

fn revoke(node: &Node, token: &str) -> Answer {
    node.post_as("/oauth/revoke", FORM, &format!("token={token}&token_type_hint=access_token"))
}

#[test]
fn who_holds_a_token_can_revoke_it_once_or_many_times() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let issued = node.post("/v1/tokens", r#"{"agent_id":"ag_7","scope":["a"],"ttl":60}"#).json();
    let (token, id) = (issued["token"].as_str().unwrap(), issued["id"].as_str().unwrap());
    for _ in 0..2 {
        let answer = revoke(&node, token);
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{}", answer.head);
        assert_eq!(node.status_of(ISSUER, id, NOW), Status::Revoked);
    }
    let listed = node.get("/v1/revocations?limit=10").json();
    assert_eq!(listed["revocations"].as_array().unwrap().len(), 1);
    assert_eq!(listed["revocations"][0]["forget_at"], NOW.0 + 60 + LEEWAY_S);

    // One that may not pass yet is revoked before it does; another issuer's as well as ours.
    let later = partner_token("later", |claims| claims["nbf"] = json!(NOW.0 + LEEWAY_S + 9));
    assert_eq!(revoke(&node, &later).status, 200);
    assert_eq!(node.status_of(PARTNER, "later", NOW), Status::Revoked);
    node.stop();
    let revokes = recorded_actions(dir.path()).iter().filter(|(kind, _)| *kind == Kind::Revoke).count();
    assert_eq!(revokes, 6, "each time an intent and an outcome");
}

#[test]
fn what_cannot_pass_anyway_is_answered_alike_and_revokes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let stranger = SigningKey::from_bytes(&[8; 32]);
    let mut flipped = partner_token("victim", |_| {});
    let last = if flipped.pop() == Some('A') { 'Q' } else { 'A' };
    flipped.push(last);
    let header = |name: &str, value: &str| {
        let mut header = partner_header();
        header[name] = json!(value);
        signed(&partner_key(), &header, &partner_claims("victim"))
    };
    let cases = [
        ("forged", signed(&stranger, &partner_header(), &partner_claims("victim"))),
        ("altered", flipped),
        ("unknown kid", header("kid", "nobody")),
        ("wrong typ", header("typ", "secevent+jwt")),
        ("alg none", header("alg", "none")),
        ("no token at all", "refresh-7".to_owned()),
        ("too long", "x".repeat(9000)),
        ("another issuer", partner_token("victim", |claims| claims["iss"] = json!(ISSUER))),
        ("expired", partner_token("victim", |claims| claims["exp"] = json!(NOW.0 - LEEWAY_S))),
        ("another audience", partner_token("victim", |claims| claims["aud"] = json!("https://other.test"))),
        ("claim of a wrong type", partner_token("victim", |claims| claims["sub"] = json!(7))),
    ];
    for (what, token) in cases {
        let answer = revoke(&node, &token);
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{what}");
    }
    for issuer in [PARTNER, ISSUER] {
        assert_eq!(node.status_of(issuer, "victim", NOW), Status::Clear);
    }
    node.stop();
    assert_eq!(recorded_actions(dir.path()), [], "nothing was intended");
}

#[test]
fn a_bad_form_is_told_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    for (body, part) in [
        ("", "\"token\" is missing"),
        ("token=", "\"token\" is missing"),
        ("token_type_hint=access_token", "\"token\" is missing"),
        ("token=a&token=b", "\"token\" was sent more than once"),
        ("token=a&token_type_hint=x&token_type_hint=y", "\"token_type_hint\" was sent more than once"),
    ] {
        node.post_as("/oauth/revoke", FORM, body).expect_error(400, "invalid_request", part);
    }
    for kind in ["application/json", "text/plain", "multipart/form-data; boundary=x", ""] {
        let answer = node.post_as("/oauth/revoke", kind, "token=a");
        answer.expect_error(415, "unsupported_media_type", "send application/x-www-form-urlencoded");
    }
    let long = format!("token={}", "x".repeat(270_000));
    node.post_as("/oauth/revoke", FORM, &long).expect_error(413, "request_too_large", "262144");
    assert_eq!(
        node.post_as("/oauth/revoke", &format!("{FORM}; charset=utf-8"), "token=a&x=1&x=2").status,
        200
    );
    node.stop();
}

#[test]
fn a_token_without_an_id_is_no_token_to_revoke() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), |state| {
        let mut profiles = state.issuers.clone();
        profiles[0].required = ProfileKind::Jwt.required();
        let own = state.keys.own.as_ref().unwrap().signers[0].1.public_key();
        state.judge = judge(&profiles, &own, &state.view);
    });
    let token = partner_token("", |claims| drop(claims.as_object_mut().unwrap().remove("jti")));
    revoke(&node, &token).expect_error(400, "unsupported_token_type", "revoke its subject");
    node.stop();
}

#[test]
fn a_page_of_another_site_cannot_send_the_form() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let token = partner_token("one", |_| {});
    let body = format!("token={token}");
    let send = |header: &str| {
        node.send(&format!(
            "POST /oauth/revoke HTTP/1.1\r\nHost: localhost\r\n{header}\r\nContent-Type: {FORM}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ))
    };
    for header in [
        "Origin: https://evil.example",
        "Origin: null",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
        "Origin: http://localhost\r\nSec-Fetch-Site: cross-site",
    ] {
        send(header).expect_error(403, "foreign_origin", "is another site");
    }
    assert_eq!(node.status_of(PARTNER, "one", NOW), Status::Clear);
    assert_eq!(send("Sec-Fetch-Site: same-origin").status, 200);
    assert_eq!(node.status_of(PARTNER, "one", NOW), Status::Revoked);
    node.stop();
}

#[test]
fn what_could_not_be_stored_is_not_confirmed() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), |state| {
        // As if the disk were gone: nothing can be stored any more.
        let store = state.store.clone();
        tokio::spawn(async move { store.close().await });
    });
    let token = partner_token("one", |_| {});
    let answer = revoke(&node, &token);
    answer.expect_error(503, "store_unavailable", "nothing was changed");
    assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
    assert_eq!(node.status_of(PARTNER, "one", NOW), Status::Clear);
    node.stop();
}
