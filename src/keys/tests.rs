use serde_json::{Value, json};

use super::jwks::{JWKS_BYTES_MAX, Jwks, JwksError, KEYS_PER_SET_MAX, SkipReason, SkippedKey};
use super::*;
use crate::base64url;
use crate::verify::{KeyRejection, VerifyingKey};

/// RFC 8037 A.2.
const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

fn public_key() -> [u8; 32] {
    base64url::decode_array(X.as_bytes()).unwrap()
}

fn key(kid: &str) -> PublishedKey {
    PublishedKey { kid: kid.to_owned(), verifying_key: VerifyingKey::register(&public_key()).unwrap() }
}

fn parse(keys: &Value) -> Result<Jwks, JwksError> {
    jwks::parse(json!({ "keys": keys }).to_string().as_bytes())
}

/// The reason for which the RFC 8037 key is passed over once `members` replace or join its own.
fn skip_reason(members: &Value) -> Option<SkipReason> {
    let mut jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": X});
    for (name, value) in members.as_object().unwrap() {
        jwk[name] = value.clone();
    }
    let set = parse(&json!([jwk])).unwrap();
    assert_eq!(set.keys.len() + set.skipped.len(), 1);
    set.skipped.first().map(|skipped| skipped.reason)
}

#[test]
fn a_key_is_taken_only_for_ed25519_signatures() {
    for members in [
        json!({}),
        json!({"alg": "Ed25519"}),
        json!({"alg": "EdDSA", "use": "sig"}),
        json!({"key_ops": ["verify"]}),
        json!({"key_ops": ["sign", "verify"], "x5t": "ignored", "unknown": {"a": 1}}),
    ] {
        assert_eq!(skip_reason(&members), None, "{members}");
    }
    let point = |bytes: [u8; 32]| json!({"x": base64url::encode(&bytes)});
    let mut identity = [0; 32];
    identity[0] = 1;
    for (members, reason) in [
        (json!({"kty": "RSA"}), SkipReason::OtherType),
        (json!({"kty": "okp"}), SkipReason::OtherType),
        (json!({"kty": 1}), SkipReason::OtherType),
        (json!({"crv": "Ed448"}), SkipReason::OtherType),
        (json!({"crv": "X25519"}), SkipReason::OtherType),
        (json!({"d": "anything"}), SkipReason::PrivateKey),
        (json!({"d": null}), SkipReason::PrivateKey),
        (json!({"kty": "RSA", "d": "anything"}), SkipReason::PrivateKey),
        (json!({"use": "enc"}), SkipReason::UseNotSig),
        (json!({"use": ["sig"]}), SkipReason::UseNotSig),
        (json!({"use": ""}), SkipReason::UseNotSig),
        (json!({"key_ops": []}), SkipReason::KeyOpsWithoutVerify),
        (json!({"key_ops": ["sign"]}), SkipReason::KeyOpsWithoutVerify),
        (json!({"key_ops": "verify"}), SkipReason::KeyOpsMalformed),
        (json!({"key_ops": ["verify", 1]}), SkipReason::KeyOpsMalformed),
        (json!({"key_ops": ["verify", "verify"]}), SkipReason::KeyOpsMalformed),
        (json!({"alg": "ES256"}), SkipReason::AlgMismatch),
        (json!({"alg": "ed25519"}), SkipReason::AlgMismatch),
        (json!({"alg": null}), SkipReason::AlgMismatch),
        (json!({"kid": ""}), SkipReason::KidMalformed),
        (json!({"kid": 7}), SkipReason::KidMalformed),
        (json!({"kid": "k".repeat(KID_BYTES_MAX + 1)}), SkipReason::KidMalformed),
        (json!({"x": 7}), SkipReason::XMalformed),
        (json!({"x": &X[..42]}), SkipReason::XMalformed),
        (json!({"x": format!("{X}=")}), SkipReason::XMalformed),
        // The last character with another of its two unused bits set.
        (json!({"x": format!("{}p", &X[..42])}), SkipReason::XMalformed),
        (json!({"x": X.replace('_', "/")}), SkipReason::XMalformed),
        (point(identity), SkipReason::Point(KeyRejection::SmallOrder)),
        (point([0xff; 32]), SkipReason::Point(KeyRejection::NotCanonical)),
    ] {
        assert_eq!(skip_reason(&members), Some(reason), "{members}");
    }
}

#[test]
fn a_set_that_does_not_mean_one_thing_is_refused_whole() {
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": X});
    let oct = json!({"kty": "oct", "kid": "s", "k": "AAAA"});
    let repeated = |kid: &str| JwksError::KidRepeated { kid: kid.to_owned() };
    assert_eq!(parse(&json!([jwk, oct])).unwrap_err(), JwksError::MixedSymmetry);
    assert_eq!(parse(&json!([jwk, jwk])).unwrap_err(), repeated("k"));
    assert_eq!(parse(&json!([jwk, {"kty": "RSA", "kid": "k"}])).unwrap_err(), repeated("k"));
    // The name given to a nameless key counts like one it gave itself.
    let named = json!({"kty": "OKP", "crv": "Ed25519", "kid": thumbprint(&public_key()), "x": X});
    let nameless = json!({"kty": "OKP", "crv": "Ed25519", "x": X});
    assert_eq!(parse(&json!([named, nameless])).unwrap_err(), repeated(&thumbprint(&public_key())));
    for text in ["{}", r#"{"keys":{}}"#, r#"{"keys":null}"#, r#"{"Keys":[]}"#] {
        assert_eq!(jwks::parse(text.as_bytes()).unwrap_err(), JwksError::KeysMissing, "{text}");
    }
    for text in
        ["", "[]", r#"{"keys":[1]}"#, r#"{"keys":[],"keys":[]}"#, r#"{"keys":[{"kid":"a","kid":"b"}]}"#]
    {
        assert!(matches!(jwks::parse(text.as_bytes()), Err(JwksError::Json(_))), "{text}");
    }
    assert!(parse(&json!([oct])).unwrap().keys.is_empty());
    assert!(parse(&json!([])).unwrap().keys.is_empty());
}

#[test]
fn a_set_is_limited_in_bytes_and_keys() {
    let keys =
        |count: usize| (0..count).map(|i| json!({"kty": "RSA", "kid": i.to_string()})).collect::<Value>();
    assert_eq!(parse(&keys(KEYS_PER_SET_MAX)).unwrap().skipped.len(), KEYS_PER_SET_MAX);
    assert_eq!(parse(&keys(KEYS_PER_SET_MAX + 1)).unwrap_err(), JwksError::TooManyKeys);
    let padded = |bytes: usize| r#"{"keys":[]}"#.to_owned() + &" ".repeat(bytes - 11);
    assert!(jwks::parse(padded(JWKS_BYTES_MAX).as_bytes()).is_ok());
    assert_eq!(jwks::parse(padded(JWKS_BYTES_MAX + 1).as_bytes()).unwrap_err(), JwksError::TooLong);
}

#[test]
fn what_is_rendered_is_read_back() {
    let x = public_key();
    let jwk = |kid, delegation| jwks::JwkOf { kid, public_key: &x, delegation };
    let text =
        jwks::render([jwk("first", None), jwk("s\"econd", None), jwk("third", Some("a.b.c"))]).unwrap();
    let set = jwks::parse(text.as_bytes()).unwrap();
    // What says that it signs comes with its tokens.
    let delegated = SkippedKey { index: 2, kid: Some("third".into()), reason: SkipReason::Delegated };
    assert_eq!(set.skipped, [delegated]);
    assert_eq!(set.keys.iter().map(|key| key.kid.as_str()).collect::<Vec<_>>(), ["first", "s\"econd"]);
    assert!(set.keys.iter().all(|key| *key.verifying_key.as_bytes() == x));
}

#[test]
fn lookup_is_by_exact_kid_across_issuers() {
    let set = KeySet::new(vec![
        (IssuerIndex(0), vec![key("b"), key("shared"), key("")]),
        (IssuerIndex(1), vec![key("shared"), key("a"), key("shared2")]),
    ])
    .unwrap();
    let issuers = |kid| set.candidates(Some(kid)).iter().map(|key| key.issuer().0).collect::<Vec<_>>();
    assert_eq!(issuers("shared"), [0, 1]);
    assert_eq!(issuers("a"), [1]);
    assert_eq!(issuers(""), [0]);
    for unknown in ["A", "share", "shared ", "shared\0", "zz", "../b", "b' OR '1'='1"] {
        assert_eq!(issuers(unknown), [0_u16; 0], "{unknown}");
    }
    assert!(set.candidates(None).is_empty());
    assert_eq!(set.len(), 6);
}

#[test]
fn a_token_without_kid_gets_the_only_key() {
    let set = |keys| KeySet::new(vec![(IssuerIndex(0), keys)]).unwrap();
    assert_eq!(set(vec![key("one")]).candidates(None).len(), 1);
    assert_eq!(set(vec![key("one"), key("two")]).candidates(None).len(), 0);
    assert_eq!(set(vec![]).candidates(None).len(), 0);
}

#[test]
fn ambiguous_and_unbounded_lookups_are_refused_at_construction() {
    let one_each =
        |count: usize| (0..).take(count).map(|i| (IssuerIndex(i), vec![key("k")])).collect::<Vec<_>>();
    assert!(KeySet::new(one_each(KID_CANDIDATES_MAX)).is_ok());
    let error = KeySet::new(one_each(KID_CANDIDATES_MAX + 1)).unwrap_err();
    assert!(error.to_string().contains("#0, #1, #2, #3, #4"), "{error}");
    let twice = KeySet::new(vec![(IssuerIndex(3), vec![key("k"), key("j"), key("k")])]).unwrap_err();
    assert_eq!(twice, KeySetError::KidRepeated { kid: "k".into(), issuer: IssuerIndex(3) });
    let long = KeySet::new(vec![(IssuerIndex(3), vec![key(&"k".repeat(KID_BYTES_MAX + 1))])]).unwrap_err();
    assert_eq!(long, KeySetError::KidTooLong { issuer: IssuerIndex(3) });
}

#[test]
fn a_key_may_be_named_as_long_as_a_token_can_say() {
    assert_eq!(KID_BYTES_MAX, crate::token::KID_BYTES_MAX);
}
