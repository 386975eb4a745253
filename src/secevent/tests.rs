//! Tokens of a transmitter, good and bad, read without a server.

use ed25519_dalek::{Signer as _, SigningKey};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::base64url;
use crate::decision::UnixSeconds;
use crate::keys::PublishedKey;
use crate::verify::{Engine, Verifier, VerifyingKey};

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
const CREDENTIAL: &str = "https://schemas.openid.net/secevent/caep/event-type/credential-change";
const DISABLED: &str = "https://schemas.openid.net/secevent/risc/event-type/account-disabled";
const ENABLED: &str = "https://schemas.openid.net/secevent/risc/event-type/account-enabled";
const PURGED: &str = "https://schemas.openid.net/secevent/risc/event-type/account-purged";

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn receiver() -> Receiver {
    let published = |kid: &str, seed| PublishedKey {
        kid: kid.to_owned(),
        verifying_key: VerifyingKey::register(key(seed).verifying_key().as_bytes()).unwrap(),
    };
    let transmitter = |name: &str| Transmitter {
        name: name.to_owned(),
        issuer: format!("https://{name}.test"),
        audience: "https://edgate.test/events".to_owned(),
        speaks_of: "https://tokens.test".to_owned(),
    };
    // Both have a key named `shared`; it is the same key, which some providers do for all their tenants.
    let all = vec![
        (transmitter("idp"), vec![published("idp-1", 1), published("shared", 3)]),
        (transmitter("hr"), vec![published("hr-1", 2), published("shared", 3)]),
    ];
    Receiver::new(all, Verifier::new(Engine::Portable)).unwrap()
}

fn header() -> Value {
    json!({"typ": "secevent+jwt", "alg": "Ed25519", "kid": "idp-1"})
}

fn claims(subject: &Value, events: &Value) -> Value {
    json!({
        "iss": "https://idp.test", "aud": "https://edgate.test/events", "iat": NOW.0, "jti": "set-1",
        "sub_id": subject, "events": events,
    })
}

fn user() -> Value {
    json!({"format": "iss_sub", "iss": "https://tokens.test", "sub": "alice"})
}

fn sign(seed: u8, header: &Value, claims: &Value) -> String {
    let part = |value: &Value| base64url::encode(value.to_string().as_bytes());
    let input = format!("{}.{}", part(header), part(claims));
    format!("{input}.{}", base64url::encode(&key(seed).sign(input.as_bytes()).to_bytes()))
}

fn read(claims: &Value) -> Result<Received, SetError> {
    receiver().read(sign(1, &header(), claims).as_bytes(), NOW)
}

fn statements(subject: &Value, events: &Value) -> Vec<Statement> {
    read(&claims(subject, events)).unwrap().statements
}

fn statement(event: &'static str, target: Target, effect: Effect, at: u64) -> Statement {
    Statement { event, target, effect, at: UnixSeconds(at) }
}

#[test]
fn each_event_says_what_its_definition_says() {
    let alice = || Target::Subject("alice".into());
    let at = NOW.0 - 7;
    let change = |kind: &str| json!({CREDENTIAL: {"credential_type": "password", "change_type": kind, "event_timestamp": at}});
    let cases = [
        (
            json!({REVOKED: {"event_timestamp": at, "initiating_entity": "policy"}}),
            "session-revoked",
            Effect::Ended,
        ),
        (change("revoke"), "credential-change", Effect::Ended),
        (change("update"), "credential-change", Effect::Ended),
        (change("delete"), "credential-change", Effect::Ended),
        (
            json!({DISABLED: {"reason": "hijacking", "event_timestamp": at}}),
            "account-disabled",
            Effect::Disabled,
        ),
        (json!({PURGED: {"event_timestamp": at}}), "account-purged", Effect::Disabled),
        (json!({ENABLED: {"event_timestamp": at}}), "account-enabled", Effect::Enabled),
    ];
    for (events, event, effect) in cases {
        assert_eq!(statements(&user(), &events), [statement(event, alice(), effect, at)]);
    }
    assert_eq!(statements(&user(), &change("create")), [], "a new credential ends nothing");
}

#[test]
fn a_subject_is_found_by_each_format_that_tokens_can_be_found_by() {
    let session = json!({"format": "opaque", "id": "s-1"});
    let device = json!({"format": "opaque", "id": "d-1"});
    let cases = [
        (user(), Target::Subject("alice".into())),
        (json!({"format": "opaque", "id": "bob"}), Target::Subject("bob".into())),
        (
            json!({"format": "jwt_id", "iss": "https://tokens.test", "jti": "t-1"}),
            Target::Token("t-1".into()),
        ),
        (json!({"format": "complex", "session": session}), Target::Session("s-1".into())),
        (json!({"format": "complex", "user": user(), "session": session}), Target::Session("s-1".into())),
        (
            json!({"format": "complex", "user": user(), "session": session, "device": device}),
            Target::Session("s-1".into()),
        ),
        (json!({"format": "complex", "user": user(), "tenant": device}), Target::Subject("alice".into())),
    ];
    for (subject, target) in cases {
        let found = statements(&subject, &json!({REVOKED: {}}));
        assert_eq!(found, [statement("session-revoked", target, Effect::Ended, NOW.0)], "{subject}");
    }
    // An account is its user's, whatever session the subject has as well.
    let both = json!({"format": "complex", "user": user(), "session": session});
    let found = statements(&both, &json!({DISABLED: {}}));
    assert_eq!(found[0].target, Target::Subject("alice".into()));
}

#[test]
fn the_time_is_the_events_own_or_toe_or_iat() {
    let mut with_toe = claims(&user(), &json!({REVOKED: {}, DISABLED: {"event_timestamp": 5.25}}));
    with_toe["toe"] = json!(NOW.0 - 100);
    let found = read(&with_toe).unwrap().statements;
    let times: Vec<(&str, u64)> = found.iter().map(|one| (one.event, one.at.0)).collect();
    assert!(times.contains(&("session-revoked", NOW.0 - 100)), "{times:?}");
    assert!(times.contains(&("account-disabled", 6)), "a fraction counts up: {times:?}");
    // Clocks differ.
    let ahead = json!({REVOKED: {"event_timestamp": NOW.0 + LEEWAY_S}});
    assert_eq!(statements(&user(), &ahead)[0].at.0, NOW.0 + LEEWAY_S);
}

#[test]
fn what_is_not_known_is_ignored_and_named() {
    let other = "https://schemas.openid.net/secevent/ssf/event-type/verification";
    let long = format!("https://{}", "x".repeat(200));
    // Not even its subject has to be one of ours, or there.
    let mut only_unknown =
        claims(&json!({"format": "email", "email": "a@b"}), &json!({other: {"state": "x"}}));
    let received = read(&only_unknown).unwrap();
    assert_eq!((received.statements.len(), received.ignored), (0, vec![other.to_owned()]));
    only_unknown.as_object_mut().unwrap().remove("sub_id");
    assert!(read(&only_unknown).is_ok());
    let received = read(&claims(&user(), &json!({long: {}, REVOKED: {}}))).unwrap();
    assert_eq!(received.statements.len(), 1);
    assert_eq!(received.ignored[0].len(), 80, "shortened");
}

#[test]
fn the_key_decides_who_speaks() {
    let mut receiver = receiver();
    let good = claims(&user(), &json!({REVOKED: {}}));
    let with = |name: &str, value: Value| {
        let mut header = header();
        header[name] = value;
        header
    };
    let hr = {
        let mut claims = good.clone();
        claims["iss"] = json!("https://hr.test");
        claims
    };
    let text = sign(3, &with("kid", json!("shared")), &hr);
    assert_eq!(
        receiver.read(text.as_bytes(), NOW).unwrap().transmitter,
        1,
        "of two with the key the named one"
    );
    let cases = [
        (sign(1, &header(), &good), Ok(0)),
        (sign(1, &with("alg", json!("EdDSA")), &good), Ok(0)),
        (sign(1, &with("typ", json!("application/secevent+jwt")), &good), Ok(0)),
        (sign(9, &header(), &good), Err("authentication_failed")),
        (sign(1, &header(), &hr), Err("invalid_issuer")),
        (sign(2, &with("kid", json!("hr-1")), &good), Err("invalid_issuer")),
        (sign(1, &with("kid", json!("nobody")), &good), Err("invalid_key")),
        (sign(1, &with("typ", json!("JWT")), &good), Err("invalid_request")),
        (sign(1, &with("typ", json!("at+jwt")), &good), Err("invalid_request")),
        (sign(1, &with("typ", Value::Null), &good), Err("invalid_request")),
        (sign(1, &with("alg", json!("none")), &good), Err("invalid_request")),
        (sign(1, &with("alg", json!("ES256")), &good), Err("invalid_request")),
        (sign(1, &with("jwk", json!({})), &good), Err("invalid_request")),
        (sign(1, &with("crit", json!(["exp"])), &good), Err("invalid_request")),
        (format!("{}.", sign(1, &header(), &good)), Err("invalid_request")),
        (sign(1, &header(), &good).replace('.', ""), Err("invalid_request")),
        (format!("{}x", sign(1, &header(), &good)), Err("invalid_request")),
        ("x".repeat(10_000), Err("invalid_request")),
        (String::new(), Err("invalid_request")),
    ];
    for (text, expected) in cases {
        let found = receiver.read(text.as_bytes(), NOW);
        let found = found.as_ref().map(|received| received.transmitter).map_err(SetError::code);
        assert_eq!(found, expected, "{}", text.chars().take(200).collect::<String>());
    }
}

#[test]
fn a_bad_claim_refuses_the_whole_token() {
    let good = claims(&user(), &json!({REVOKED: {}}));
    let cases: [(&str, Value, &str, &str); 30] = [
        ("aud", json!("https://other.test"), "invalid_audience", "aud"),
        ("aud", json!([]), "invalid_audience", "aud"),
        ("aud", Value::Null, "invalid_request", "aud"),
        ("iss", json!("https://nobody.test"), "invalid_issuer", "iss"),
        ("jti", json!(""), "invalid_request", "jti is missing"),
        ("jti", json!("x".repeat(257)), "invalid_request", "too long"),
        ("jti", json!(7), "invalid_request", "jti"),
        ("iat", json!(NOW.0 + LEEWAY_S + 1), "invalid_request", "in the future"),
        ("iat", json!(NOW.0 - AGE_S_MAX), "invalid_request", "more than 7 days ago"),
        ("iat", json!("now"), "invalid_request", "iat"),
        ("exp", json!(NOW.0 - LEEWAY_S), "invalid_request", "exp has passed"),
        ("nbf", json!(NOW.0 + LEEWAY_S + 1), "invalid_request", "nbf"),
        ("toe", json!("then"), "invalid_request", "toe"),
        ("sub_id", json!("alice"), "invalid_request", "sub_id"),
        ("sub_id", json!({"format": "email", "email": "a@b.test"}), "invalid_request", "format"),
        ("sub_id", json!({"format": "opaque"}), "invalid_request", "\"id\" is missing"),
        ("sub_id", json!({"format": "opaque", "id": ""}), "invalid_request", "\"id\" is empty"),
        (
            "sub_id",
            json!({"format": "opaque", "id": "a", "device": "b"}),
            "invalid_request",
            "members besides",
        ),
        ("sub_id", json!({"id": "a"}), "invalid_request", "\"format\" is missing"),
        (
            "sub_id",
            json!({"format": "iss_sub", "iss": "https://idp.test", "sub": "a"}),
            "access_denied",
            "issuer",
        ),
        ("sub_id", json!({"format": "complex"}), "invalid_request", "a user or a session"),
        (
            "sub_id",
            json!({"format": "complex", "user": user(), "device": {"format": "opaque", "id": "d"}}),
            "invalid_request",
            "told apart by device",
        ),
        (
            "sub_id",
            json!({"format": "complex", "user": {"format": "complex"}}),
            "invalid_request",
            "a user or",
        ),
        ("events", json!({}), "invalid_request", "is empty"),
        ("events", json!([]), "invalid_request", "must be an object"),
        ("events", json!({REVOKED: []}), "invalid_request", "payload must be an object"),
        ("events", json!({REVOKED: {"event_timestamp": "x"}}), "invalid_request", "event_timestamp"),
        ("events", json!({REVOKED: {"event_timestamp": NOW.0 * 1000}}), "invalid_request", "in seconds"),
        ("events", json!({CREDENTIAL: {"change_type": "revoke"}}), "invalid_request", "credential_type"),
        (
            "events",
            json!({REVOKED: {}, CREDENTIAL: {"credential_type": "pin", "change_type": "eaten"}}),
            "invalid_request",
            "create, revoke, update or delete",
        ),
    ];
    for (claim, value, code, part) in cases {
        let mut bad = good.clone();
        bad[claim] = value;
        let error = read(&bad).unwrap_err();
        assert_eq!(error.code(), code, "{bad}: {error}");
        assert!(error.to_string().contains(part), "{bad}: {error}");
    }
    for claim in ["aud", "iat", "jti", "events", "sub_id", "iss"] {
        let mut bad = good.clone();
        bad.as_object_mut().unwrap().remove(claim);
        assert!(read(&bad).is_err(), "{claim}");
    }
    let both = claims(&user(), &json!({ENABLED: {}, DISABLED: {}}));
    assert!(read(&both).unwrap_err().to_string().contains("at once"));
    let many: serde_json::Map<String, Value> = (0..17).map(|i| (format!("urn:{i}"), json!({}))).collect();
    assert!(read(&claims(&user(), &many.into())).unwrap_err().to_string().contains("more than 16"));
    let no_user = json!({"format": "complex", "session": {"format": "opaque", "id": "s"}});
    let error = read(&claims(&no_user, &json!({DISABLED: {}}))).unwrap_err().to_string();
    assert!(error.contains("account-disabled") && error.contains("must be a user"), "{error}");
}

#[test]
fn a_name_that_stands_twice_is_refused() {
    let text = r#"{"iss":"https://idp.test","aud":"https://edgate.test/events","iat":1800000000,"jti":"a",
        "sub_id":{"format":"opaque","id":"a","id":"b"},"events":{"URI":{}}}"#;
    let text = text.replace("URI", REVOKED);
    let part = |bytes: &[u8]| base64url::encode(bytes);
    let input = format!("{}.{}", part(header().to_string().as_bytes()), part(text.as_bytes()));
    let signed = format!("{input}.{}", part(&key(1).sign(input.as_bytes()).to_bytes()));
    let error = receiver().read(signed.as_bytes(), NOW).unwrap_err();
    assert!(error.to_string().contains("member name repeated"), "{error}");
}

proptest! {
    /// One changed byte anywhere is never accepted, whatever it does to the token.
    #[test]
    fn a_changed_byte_is_not_accepted(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let good = sign(1, &header(), &claims(&user(), &json!({REVOKED: {}})));
        let mut bytes = good.clone().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        prop_assert_eq!(receiver().read(&bytes, NOW).is_ok(), bytes == good.as_bytes());
    }

    /// Any object may be signed by a transmitter: it is judged, and nothing panics.
    #[test]
    fn any_signed_text_is_judged(text in ".{0,200}") {
        let part = |bytes: &[u8]| base64url::encode(bytes);
        let input = format!("{}.{}", part(header().to_string().as_bytes()), part(text.as_bytes()));
        let signed = format!("{input}.{}", part(&key(1).sign(input.as_bytes()).to_bytes()));
        prop_assert!(receiver().read(signed.as_bytes(), NOW).is_err());
    }
}
