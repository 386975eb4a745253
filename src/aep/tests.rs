//! The protocol's known answers, ECMAScript's order and numbers, and whatever is done to a bundle.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use proptest::prelude::*;
use serde_json::json;
use sha2::Sha256;

use super::canonical::{canonical_without, number_text};
use super::*;

/// The secret of the protocol's known answers.
const SECRET: &[u8] = b"shared-secret-123";

fn of(json: &serde_json::Value) -> Value {
    parse(json.to_string().as_bytes()).unwrap()
}

fn hmac(text: &str) -> String {
    let keyed = Hmac::<Sha256>::new_from_slice(SECRET).unwrap();
    BASE64_STANDARD.encode(keyed.chain_update(text).finalize().into_bytes())
}

/// The protocol's bundle with known answers (its repository: tests/fixtures/audit/kat-bundle.json, MIT).
fn known_bundle() -> serde_json::Value {
    json!({
        "aep_audit_version": "0.1.0",
        "manifest": {
            "aep_audit_version": "0.1.0",
            "scope": {"session_id": "ses_kat", "trace_id": "trc_kat"},
            "tenant_id": "kat-tenant",
            "event_count": 2,
            "time_range": {"first": "2026-01-01T00:00:00Z", "last": "2026-01-01T00:01:00Z"},
            "content_digest": "3de94f67e3ff35fc9b3e31c2e5efc1932f9e950cc6be0813eed571271ad6f6d5",
            "content_digest_alg": "sha256",
            "exported_at": "2026-01-01T00:00:00.000Z",
            "per_event_signatures": {"present": 0, "total": 2}
        },
        "events": [
            {
                "specversion": "0.2.0", "id": "evt_kat_1", "time": "2026-01-01T00:00:00Z", "source": "agent://kat",
                "type": "task.created", "session_id": "ses_kat", "trace_id": "trc_kat", "agent_role": "orchestrator",
                "payload": {"n": 1, "msg": "hello", "nested": {"b": 2, "a": 1}}
            },
            {
                "specversion": "0.2.0", "id": "evt_kat_2", "time": "2026-01-01T00:01:00Z", "source": "agent://kat",
                "type": "policy.blocked", "session_id": "ses_kat", "trace_id": "trc_kat",
                "payload": {"policy": "pii_guard", "blocked": true, "items": ["x", "y"]}
            }
        ],
        "signature": {"alg": "hmac-sha256", "value": "D6IW2aVORoxIZWy+LiWUrZ08QKLkzFo9uTEySZlcWVA="}
    })
}

#[test]
fn the_protocols_bundle_verifies_and_the_same_one_is_made() {
    let known = known_bundle();
    let found = verify(known.to_string().as_bytes(), SECRET);
    assert!(found.valid && found.content_digest_match && found.manifest_signature_valid, "{found:?}");
    assert_eq!(found.per_event[1].id.as_deref(), Some("evt_kat_2"));
    assert_eq!(found.not_checked.len(), 1, "{found:?}");
    let Some(Value::Array(events)) = of(&known).member("events").cloned() else { panic!() };
    let scope = Scope {
        session_id: Some("ses_kat".into()),
        trace_id: Some("trc_kat".into()),
        tenant_id: Some("kat-tenant".into()),
    };
    let made = make(events, &scope, DigestAlgorithm::Sha256, "2026-01-01T00:00:00.000Z", SECRET);
    assert_eq!(canonical(&made), canonical(&of(&known)));
}

#[test]
fn the_protocols_events_have_the_signatures_that_its_libraries_make() {
    let event = json!({
        "specversion": "0.2.0", "id": "evt_fixedtest0001", "time": "2026-06-05T12:00:00.000Z",
        "source": "agent://node-parity", "type": "task.created", "session_id": "ses_parity01", "trace_id": "trc_parity0001",
        "agent_role": "orchestrator", "payload": {"framework": "node", "nested": {"b": 2, "a": 1}},
        "signature": {"alg": "hmac-sha256", "value": "left out"}
    });
    let expected = "M3OGzpZ4+SX0MStNZ0wJtb+TV+h/xcy9yPIRC0VaoJQ=";
    assert_eq!(hmac(&canonical_without(&of(&event), "signature")), expected);
    // Markup, line separators, control characters and a pair of surrogates.
    let special = json!({
        "specversion": "0.2.0", "id": "evt_special01", "time": "2026-06-05T12:00:00.000Z", "source": "agent://x",
        "type": "task.created", "session_id": "ses_s", "trace_id": "trc_s", "subject": "a<b>&c\u{2028}d\u{2029}e",
        "payload": {
            "html": "1<2 && 3>2", "k&v": "x", "sep": "p\u{2028}q\u{2029}r", "ctrl": "tab\tnl\nx\u{8}\u{c}\u{1}y",
            "uni": "\u{3bb}\u{2192}\u{1f600}"
        }
    });
    assert_eq!(hmac(&canonical(&of(&special))), "tVtj/rav+ocjUpP6SssCMc9k0phC0FUd62YJZFiSizc=");
}

#[test]
fn numbers_are_written_as_ecmascript_writes_them() {
    for (number, text) in [
        (0.0, "0"),
        (-0.0, "0"),
        (2.0, "2"),
        (100.0, "100"),
        (-0.5, "-0.5"),
        (0.1, "0.1"),
        (98.6, "98.6"),
        (2.5e-3, "0.0025"),
        (123456.789, "123456.789"),
        (1e-7, "1e-7"),
        (1e-6, "0.000001"),
        (1.5e-10, "1.5e-10"),
        (1.23e-8, "1.23e-8"),
        (1e21, "1e+21"),
        (1e22, "1e+22"),
        (1e20, "100000000000000000000"),
        (5e-324, "5e-324"),
        (f64::MAX, "1.7976931348623157e+308"),
        (9_007_199_254_740_992.0, "9007199254740992"),
    ] {
        assert_eq!(number_text(number), text);
    }
}

#[test]
fn members_stand_in_ecmascripts_order() {
    let value = parse("{\"b\":1,\"10\":2,\"2\":3,\"01\":4,\"4294967295\":5,\"\u{1f600}\":6,\"\u{fb33}\":7,\"\":8,\"__proto__\":9}".as_bytes());
    // Indexes by number; then by UTF-16 units, where the half of a pair comes before U+FB33.
    let expected = "{\"2\":3,\"10\":2,\"\":8,\"01\":4,\"4294967295\":5,\"__proto__\":9,\"b\":1,\"\u{1f600}\":6,\"\u{fb33}\":7}";
    assert_eq!(canonical(&value.unwrap()), expected);
}

#[test]
fn what_two_readers_read_differently_is_refused_by_name() {
    let deep = "[".repeat(100) + &"]".repeat(100);
    for (text, problem) in [
        (r#"{"a":1,"a":2}"#, "repeated"),
        (r#"{"a":1,"\u0061":2}"#, "repeated"),
        (r#"["\ud800"]"#, "surrogate"),
        (&deep, "nested"),
        ("[9007199254740993]", "is 9007199254740992"),
        ("[1000000000000000000000]", "is 1e+21"),
        ("[-0]", "is 0"),
        ("[1e400]", "too large"),
        ("[1e-400]", "is 0"),
        ("[01]", ""),
        ("{} {}", ""),
        ("\u{feff}{}", ""),
        ("", ""),
    ] {
        let error = parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.to_lowercase().contains(problem), "{text}: {error}");
        let found = verify(text.as_bytes(), SECRET);
        assert!(!found.valid && !found.errors.is_empty(), "{text}");
    }
    // These are what JSON.stringify writes.
    for text in ["[12345678901234567000]", "[100000000000000000000]", "[1e+21]", "[5e-324]", "[0]", "[-1]"] {
        assert_eq!(canonical(&parse(text.as_bytes()).unwrap()), text);
    }
}

#[test]
fn whatever_is_changed_is_seen_or_said_to_be_unchecked() {
    type Change = fn(&mut serde_json::Value);
    let changes: [(Change, &str); 18] = [
        (|one| one["events"][0]["payload"]["nested"]["a"] = 2.into(), "content_digest"),
        (|one| one["events"][0]["payload"]["more"] = 2.into(), "content_digest"),
        (|one| one["events"].as_array_mut().unwrap().reverse(), "content_digest"),
        (|one| drop(one["events"].as_array_mut().unwrap().pop()), "event_count"),
        (|one| one["events"] = "none".into(), "no array"),
        (|one| one["events"][1] = 7.into(), "not an object"),
        (|one| one["manifest"]["tenant_id"] = "other".into(), "signature does not verify"),
        (|one| one["manifest"]["scope"]["more"] = "other".into(), "signature does not verify"),
        (|one| one["manifest"]["content_digest_alg"] = "md5".into(), "neither"),
        (|one| one["manifest"]["content_digest_alg"] = "sha512".into(), "content_digest"),
        (|one| drop(one["manifest"].as_object_mut().unwrap().remove("event_count")), "event_count"),
        (|one| one["manifest"]["time_range"]["last"] = "2027-01-01T00:00:00Z".into(), "time_range"),
        (|one| one["manifest"]["aep_audit_version"] = "0.0.1".into(), "version"),
        (|one| one["aep_audit_version"] = "0.0.9".into(), "version"),
        (|one| one["signature"]["alg"] = "none".into(), "alg"),
        (|one| one["signature"]["value"] = "AAAA".into(), "does not verify"),
        (|one| drop(one.as_object_mut().unwrap().remove("signature")), "no object \"signature\""),
        (|one| one["events"][0]["signature"] = json!({"value": "x"}), "per_event_signatures"),
    ];
    for (number, (change, problem)) in changes.into_iter().enumerate() {
        let mut bundle = known_bundle();
        change(&mut bundle);
        let found = verify(bundle.to_string().as_bytes(), SECRET);
        assert!(!found.valid, "{number}");
        assert!(found.errors.iter().any(|error| error.contains(problem)), "{number}: {found:?}");
    }
    assert!(!verify(known_bundle().to_string().as_bytes(), b"another").valid);
    assert!(!verify(known_bundle().to_string().as_bytes(), b"").valid);
    // Nothing covers these, in the protocol's verifier neither; ours says so.
    for (name, change) in [
        ("note", (|one| one["note"] = "approved".into()) as Change),
        ("canon", |one| one["signature"]["canon"] = "v9".into()),
    ] {
        let mut bundle = known_bundle();
        change(&mut bundle);
        let found = verify(bundle.to_string().as_bytes(), SECRET);
        assert!(found.valid && found.not_checked[0].contains(name), "{found:?}");
    }
}

#[test]
fn a_bundle_may_be_digested_with_sha512_and_be_empty_of_scope() {
    let events =
        vec![of(&json!({"id": "1", "time": "b", "signature": {}})), of(&json!({"id": "2", "time": "a"}))];
    let made = make(events, &Scope::default(), DigestAlgorithm::Sha512, "2026-01-01T00:00:00.000Z", b"s");
    let found = verify(canonical(&made).as_bytes(), b"s");
    assert!(found.valid, "{found:?}");
    assert_eq!(
        made.member("manifest").and_then(|one| one.member("content_digest")?.text()).unwrap().len(),
        128
    );
    assert!(
        found.per_event[0].signature_present
            && found.not_checked.iter().any(|what| what.contains("emitters"))
    );
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<f64>()
            .prop_filter("JSON has finite numbers", |number| number.is_finite())
            .prop_map(Value::Number),
        (-9_007_199_254_740_991i64..=9_007_199_254_740_991).prop_map(|number| {
            #[expect(clippy::cast_precision_loss, reason = "in the range that doubles hold")]
            Value::Number(number as f64)
        }),
        any::<String>().prop_map(Value::Text),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let name = prop_oneof![any::<String>(), (0u32..2000).prop_map(|index| index.to_string())];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            proptest::collection::hash_map(name, inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// The same value, with the members of each object the other way round.
fn turned(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(turned).collect()),
        Value::Object(members) => {
            Value::Object(members.into_iter().rev().map(|(name, member)| (name, turned(member))).collect())
        }
        other => other,
    }
}

proptest! {
    /// The canonical form is JSON, of the same value, and its own canonical form, whatever the order of members was.
    #[test]
    fn the_canonical_form_says_the_same_and_is_its_own(value in values()) {
        let text = canonical(&value);
        let again = parse(text.as_bytes()).unwrap();
        prop_assert_eq!(&canonical(&again), &text);
        prop_assert_eq!(canonical(&turned(again)), text);
    }

    /// The number's text is the shortest that comes back.
    #[test]
    fn a_numbers_text_comes_back(bits in any::<u64>()) {
        let number = f64::from_bits(bits);
        prop_assume!(number.is_finite());
        let text = number_text(number);
        prop_assert_eq!(text.parse::<f64>().unwrap(), number);
        let digits = |text: &str| text.split('e').next().unwrap().chars().filter(char::is_ascii_digit).collect::<String>();
        let trimmed = digits(&text).trim_matches('0').len();
        let debug = format!("{number:e}");
        prop_assert_eq!(trimmed, digits(&debug).trim_matches('0').len(), "{} {}", text, debug);
    }
}
