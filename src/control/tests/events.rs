//! `POST /events/set`.

use serde_json::{Value, json};

use super::*;
use crate::audit::schema::Kind;
use crate::secevent::{Receiver, Transmitter};

const REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
const DISABLED: &str = "https://schemas.openid.net/secevent/risc/event-type/account-disabled";
const ENABLED: &str = "https://schemas.openid.net/secevent/risc/event-type/account-enabled";
const IDP: &str = "https://idp.test";
const MEDIA_TYPE: &str = "application/secevent+jwt";

fn idp_key() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}

/// The partner's transmitter is heard.
fn hear(state: &mut State) {
    let published = PublishedKey {
        kid: "idp-key".to_owned(),
        verifying_key: VerifyingKey::register(idp_key().verifying_key().as_bytes()).unwrap(),
    };
    let transmitter = Transmitter {
        name: "idp".to_owned(),
        issuer: IDP.to_owned(),
        audience: ISSUER.to_owned(),
        speaks_of: PARTNER.to_owned(),
    };
    let receiver =
        Receiver::new(vec![(transmitter, vec![published])], Verifier::new(Engine::Portable)).unwrap();
    state.events = Some(Hearing { receiver, issuers: vec![0] });
}

fn set(jti: &str, subject: &Value, events: &Value) -> String {
    let header = json!({"alg": "Ed25519", "typ": "secevent+jwt", "kid": "idp-key"});
    let claims =
        json!({"iss": IDP, "aud": ISSUER, "iat": NOW.0, "jti": jti, "sub_id": subject, "events": events});
    signed(&idp_key(), &header, &claims)
}

fn user(name: &str) -> Value {
    json!({"format": "iss_sub", "iss": PARTNER, "sub": name})
}

fn push(node: &Node, token: &str) -> Answer {
    node.post_as("/events/set", MEDIA_TYPE, token)
}

fn accept(node: &Node, jti: &str, subject: &Value, events: &Value) {
    let answer = push(node, &set(jti, subject, events));
    assert_eq!((answer.status, answer.body.as_str()), (202, ""), "{}", answer.body);
}

/// How a token of `subject` in `session`, issued at `issued_at`, stands.
fn standing(node: &Node, subject: &str, session: &str, issued_at: u64) -> Status {
    let identity = Identity {
        tenant: "acme",
        issuer: PARTNER,
        kid: "partner-key",
        certified_by: None,
        jti: Some("any"),
        subject: Some(subject),
        session: Some(session),
        issued_at: Some(UnixSeconds(issued_at)),
    };
    node.view.check(&identity, NOW)
}

#[test]
fn a_revoked_session_ends_what_was_issued_in_it_until_then() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), hear);
    let session =
        json!({"format": "complex", "user": user("alice"), "session": {"format": "opaque", "id": "s-1"}});
    accept(&node, "one", &session, &json!({REVOKED: {"event_timestamp": NOW.0 - 10}}));
    assert_eq!(standing(&node, "alice", "s-1", NOW.0 - 10), Status::Revoked);
    assert_eq!(standing(&node, "alice", "s-1", NOW.0 - 9), Status::Clear, "issued afterwards");
    assert_eq!(standing(&node, "alice", "s-2", NOW.0 - 10), Status::Clear, "another session");

    accept(&node, "two", &user("bob"), &json!({REVOKED: {}}));
    assert_eq!(standing(&node, "bob", "s-3", NOW.0), Status::Revoked);
    let token = json!({"format": "jwt_id", "iss": PARTNER, "jti": "t-1"});
    accept(&node, "three", &token, &json!({REVOKED: {}}));
    assert_eq!(node.status_of(PARTNER, "t-1", NOW), Status::Revoked);

    let listed = node.get("/v1/revocations").json();
    assert_eq!(listed["revocations"].as_array().unwrap().len(), 3);
    assert_eq!(listed["revocations"][0]["actor"], "set:idp");
    assert_eq!(listed["revocations"][0]["reason"], "session-revoked, SET three");
    node.stop();
    let revokes = recorded_actions(dir.path()).iter().filter(|(kind, _)| *kind == Kind::Revoke).count();
    assert_eq!(revokes, 6, "each with its intent and its outcome");
}

#[test]
fn a_repeated_event_is_accepted_without_a_second_effect_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), hear);
    accept(&node, "one", &user("alice"), &json!({DISABLED: {}}));
    assert_eq!(standing(&node, "alice", "", NOW.0), Status::Disabled);
    let enable = r#"{"kind":"subject","name":"alice","action":"enable","issuer":"https://partner.test"}"#;
    assert_eq!(node.post("/v1/revocations", enable).status, 200);
    accept(&node, "one", &user("alice"), &json!({DISABLED: {}}));
    assert_eq!(standing(&node, "alice", "", NOW.0), Status::Clear, "what was said once counts once");
    node.stop();

    let node = Node::start_with(dir.path(), hear);
    accept(&node, "one", &user("alice"), &json!({DISABLED: {}}));
    assert_eq!(standing(&node, "alice", "", NOW.0), Status::Clear);
    node.stop();
}

#[test]
fn an_event_that_was_overtaken_does_not_switch_back() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), hear);
    accept(&node, "later", &user("alice"), &json!({ENABLED: {"event_timestamp": NOW.0}}));
    accept(&node, "earlier", &user("alice"), &json!({DISABLED: {"event_timestamp": NOW.0 - 5}}));
    assert_eq!(standing(&node, "alice", "", NOW.0), Status::Clear);
    accept(&node, "latest", &user("alice"), &json!({DISABLED: {"event_timestamp": NOW.0 + 1}}));
    assert_eq!(standing(&node, "alice", "", NOW.0), Status::Disabled);
    node.stop();
}

#[test]
fn an_event_about_what_has_expired_is_acknowledged_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), hear);
    let long_ago = json!({REVOKED: {"event_timestamp": NOW.0 - PARTNER_LIFETIME_S - LEEWAY_S}});
    accept(&node, "one", &user("alice"), &long_ago);
    accept(&node, "two", &user("alice"), &json!({"urn:something-else": {}}));
    node.stop();
    assert_eq!(recorded_actions(dir.path()), []);
}

#[test]
fn a_bad_event_is_refused_whole_in_the_words_of_rfc_8935() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), hear);
    let header = json!({"alg": "Ed25519", "typ": "secevent+jwt", "kid": "idp-key"});
    let good = json!({
        "iss": IDP, "aud": ISSUER, "iat": NOW.0, "jti": "bad", "sub_id": user("alice"), "events": {REVOKED: {}},
    });
    let with = |claim: &str, value: Value| {
        let mut claims = good.clone();
        claims[claim] = value;
        signed(&idp_key(), &header, &claims)
    };
    let header_with = |name: &str, value: &str| {
        let mut header = header.clone();
        header[name] = json!(value);
        signed(&idp_key(), &header, &good)
    };
    let half = json!({REVOKED: {}, DISABLED: {"event_timestamp": NOW.0 + 3600}});
    let cases = [
        ("not a token".to_owned(), "invalid_request", "not a signed JWT"),
        (String::new(), "invalid_request", "not a signed JWT"),
        (signed(&partner_key(), &header, &good), "authentication_failed", "signature"),
        (header_with("typ", "JWT"), "invalid_request", "typ is not secevent+jwt"),
        (header_with("kid", "partner-key"), "invalid_key", "kid"),
        (with("iss", json!(PARTNER)), "invalid_issuer", "iss"),
        (with("aud", json!("https://other.test")), "invalid_audience", "aud"),
        (with("iat", json!(NOW.0 + 3600)), "invalid_request", "in the future"),
        (with("sub_id", json!({"format": "iss_sub", "iss": ISSUER, "sub": "a"})), "access_denied", "issuer"),
        (with("events", half), "invalid_request", "account-disabled"),
    ];
    for (token, code, part) in cases {
        let answer = push(&node, &token);
        let json = answer.json();
        assert_eq!((answer.status, json["err"].as_str().unwrap()), (400, code), "{json}");
        assert!(json["description"].as_str().unwrap().contains(part), "{json}");
    }
    let answer = node.post_as("/events/set", "application/json", &with("jti", json!("x")));
    assert_eq!((answer.status, answer.json()["err"].as_str().unwrap()), (400, "invalid_request"));
    let large = push(&node, &"x".repeat(270_000));
    large.expect_error(413, "request_too_large", "262144");
    for name in ["alice", "a"] {
        assert_eq!(standing(&node, name, "", NOW.0), Status::Clear);
    }
    node.stop();
    assert_eq!(recorded_actions(dir.path()), [], "nothing was intended");
}

#[test]
fn what_could_not_be_stored_is_not_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with(dir.path(), |state| {
        hear(state);
        let store = state.store.clone();
        tokio::spawn(async move { store.close().await });
    });
    let answer = push(&node, &set("one", &user("alice"), &json!({REVOKED: {}})));
    answer.expect_error(503, "store_unavailable", "send the event again");
    assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
    node.stop();
}

#[test]
fn without_transmitters_nobody_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let answer = push(&node, &set("one", &user("alice"), &json!({REVOKED: {}})));
    answer.expect_error(404, "not_found", "revocation.transmitters");
    node.stop();
}
