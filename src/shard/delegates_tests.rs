//! What a delegated key may sign, and which delegations are believed.

use std::time::Instant;

use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};

use super::*;
use crate::base64url;
use crate::decision::{Decision, Rejection};
use crate::keys::{KeySet, KilledKeys, PublishedKey};
use crate::revocation::{Change, Effect, Freshness, Switch, TargetKind, View};
use crate::shard::{Moment, admit_all, settle};
use crate::token::{AlgorithmSet, DELEGATION_LIFE_S_MAX, Demand, Profile, ProfileKind, assemble};
use crate::verify::Engine;

const NOW: u64 = 1_800_000_000;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn kid(key: &SigningKey) -> String {
    thumbprint(key.verifying_key().as_bytes())
}

/// Two issuers with a key each: seeds 1 and 2.
fn policy() -> Policy {
    let published = |seed| {
        let public_key = key(seed).verifying_key().to_bytes();
        let verifying_key = VerifyingKey::register(&public_key).unwrap();
        vec![PublishedKey { kid: thumbprint(&public_key), verifying_key }]
    };
    let profile = |name: &str| {
        let issuer = format!("https://{name}");
        Profile::new(ProfileKind::Jwt, name.into(), "tenant".into(), issuer, vec!["a".into()])
    };
    let keys = vec![(IssuerIndex(0), published(1)), (IssuerIndex(1), published(2))];
    Policy::plain(KeySet::new(keys).unwrap(), vec![profile("one"), profile("two")])
}

fn signed(signer: &SigningKey, header: &Value, claims: &Value) -> String {
    let part = |value: &Value| base64url::encode(value.to_string().as_bytes());
    let input = format!("{}.{}", part(header), part(claims));
    let signature = signer.sign(input.as_bytes()).to_bytes();
    assemble(input, &signature)
}

/// What seed 1 says of seed 9, with this put in the place of what is right.
fn delegation(header: &Value, claims: &Value, signer: &SigningKey) -> String {
    let x = base64url::encode(key(9).verifying_key().as_bytes());
    let mut right = [
        json!({"alg": "Ed25519", "typ": token::DELEGATION_TYP, "kid": kid(&key(1))}),
        json!({"iss": "https://one", "iat": NOW - 600, "exp": NOW + 3000,
               "cnf": {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": x}}}),
    ];
    for (right, put) in right.iter_mut().zip([header, claims]) {
        for (name, value) in put.as_object().unwrap() {
            right[name] = value.clone();
        }
        right.as_object_mut().unwrap().retain(|_, value| *value != json!("absent"));
    }
    signed(signer, &right[0], &right[1])
}

fn good() -> String {
    delegation(&json!({}), &json!({}), &key(1))
}

/// A token by seed 9 with this delegation, with this put in the place of what is right.
fn token(delegation: &str, header: &Value, claims: &Value, signer: &SigningKey) -> String {
    let mut right = [
        json!({"alg": "Ed25519", "kid": kid(&key(9)), token::DELEGATION_MEMBER: delegation}),
        json!({"iss": "https://one", "sub": "s", "aud": "a", "iat": NOW - 5, "exp": NOW + 60, "jti": "j"}),
    ];
    for (right, put) in right.iter_mut().zip([header, claims]) {
        for (name, value) in put.as_object().unwrap() {
            right[name] = value.clone();
        }
        right.as_object_mut().unwrap().retain(|_, value| *value != json!("absent"));
    }
    signed(signer, &right[0], &right[1])
}

/// One shard's tools.
struct Shard {
    policy: Policy,
    view: View,
    delegates: Delegates,
    verifier: Verifier,
}

impl Shard {
    fn new() -> Self {
        Self {
            policy: policy(),
            view: View::new(&[0; 16], 0, Freshness::authoritative(Instant::now())),
            delegates: Delegates::default(),
            verifier: Verifier::new(Engine::Auto),
        }
    }

    /// Decides these tokens as one batch.
    fn decide(&mut self, tokens: &[&str]) -> Vec<(Decision, String)> {
        let (mut scratch, mut verdicts) = (token::Scratch::default(), Vec::new());
        let Self { policy, view, delegates, verifier } = self;
        let texts = tokens.iter().map(|token| Ok(token.as_bytes()));
        let admitted = admit_all(texts, policy, delegates, verifier, &mut verdicts, &mut scratch);
        let items: Vec<Item<'_>> = admitted.iter().flatten().flat_map(|one| one.items()).collect();
        verifier.verify(&items, &mut verdicts);
        let mut verdicts = verdicts.drain(..);
        let (look, realms) = (view.look(), policy.realms(view));
        let moment =
            Moment { policy, look: &look, realms: &realms, now: UnixSeconds(NOW), stale: false, lists: None };
        let demand = Demand::default();
        let decided = admitted.into_iter().map(|admitted| match admitted {
            Err(rejection) => (rejection.into(), String::new()),
            Ok(admitted) => {
                let settled = settle(admitted, &mut verdicts, &moment, &demand, &mut scratch);
                (settled.decision, settled.kid().to_owned())
            }
        });
        decided.collect()
    }

    fn decide_one(&mut self, token: &str) -> Decision {
        self.decide(&[token])[0].0
    }
}

const INVALID: Decision = Decision::Rejected(Rejection::DelegationInvalid);

#[test]
fn a_token_of_a_delegated_key_passes_by_the_issuers_key_alone() {
    let mut shard = Shard::new();
    let token = token(&good(), &json!({}), &json!({}), &key(9));
    let expected = (Decision::Accepted, kid(&key(9)));
    assert_eq!(shard.decide(&[&token]), std::slice::from_ref(&expected));
    assert_eq!(shard.delegates.count, 1);
    // Known by now, many at once, and beside tokens of the issuer's own key.
    let own = signed(
        &key(1),
        &json!({"alg": "Ed25519", "kid": kid(&key(1))}),
        &json!({"iss": "https://one", "sub": "s", "aud": "a", "iat": NOW, "exp": NOW + 60, "jti": "k"}),
    );
    let decided = shard.decide(&[&token, &own, &token, &own, &token]);
    assert_eq!(decided.iter().filter(|one| **one == expected).count(), 3);
    assert_eq!(decided[1], (Decision::Accepted, kid(&key(1))));
    assert_eq!(shard.delegates.count, 1);
}

#[test]
fn each_rule_of_a_delegation_is_needed() {
    let x = |seed: u8| base64url::encode(key(seed).verifying_key().as_bytes());
    let cnf = |jwk: Value| json!({"cnf": {"jwk": jwk}});
    let mut identity = [0; 32];
    identity[0] = 1;
    let nested = good();
    let (h, c) = (json!({}), json!({}));
    for (name, delegation) in [
        ("not one", "delegation".to_owned()),
        ("empty", String::new()),
        ("padded", good() + "="),
        ("a token of the same key", signed(&key(1), &json!({"alg": "Ed25519", "kid": kid(&key(1))}), &c)),
        ("another typ", delegation(&json!({"typ": "att+jwt"}), &c, &key(1))),
        ("no typ", delegation(&json!({"typ": "absent"}), &c, &key(1))),
        ("no kid", delegation(&json!({"kid": "absent"}), &c, &key(1))),
        ("an unknown kid", delegation(&json!({"kid": "nobody"}), &c, &key(1))),
        ("crit", delegation(&json!({"crit": ["exp"]}), &c, &key(1))),
        ("HS256", delegation(&json!({"alg": "HS256"}), &c, &key(1))),
        ("a chain", delegation(&json!({token::DELEGATION_MEMBER: nested}), &c, &key(1))),
        ("its own key", delegation(&json!({"kid": kid(&key(9))}), &c, &key(9))),
        ("not signed by whom it names", delegation(&h, &c, &key(9))),
        ("by another issuer", delegation(&json!({"kid": kid(&key(2))}), &c, &key(2))),
        ("for another issuer", delegation(&h, &json!({"iss": "https://two"}), &key(1))),
        ("no iss", delegation(&h, &json!({"iss": "absent"}), &key(1))),
        ("no iat", delegation(&h, &json!({"iat": "absent"}), &key(1))),
        ("no exp", delegation(&h, &json!({"exp": "absent"}), &key(1))),
        ("exp as a text", delegation(&h, &json!({"exp": (NOW + 60).to_string()}), &key(1))),
        ("too long", delegation(&h, &json!({"exp": NOW - 600 + DELEGATION_LIFE_S_MAX + 1}), &key(1))),
        ("backwards", delegation(&h, &json!({"exp": NOW - 601}), &key(1))),
        ("a restriction that is not known", delegation(&h, &json!({"aud": "a"}), &key(1))),
        ("another that is not known", delegation(&h, &json!({"only": ["orders"]}), &key(1))),
        ("no cnf", delegation(&h, &json!({"cnf": "absent"}), &key(1))),
        ("cnf of nothing", delegation(&h, &json!({"cnf": {}}), &key(1))),
        ("cnf as a text", delegation(&h, &json!({"cnf": "key"}), &key(1))),
        ("two ways in cnf", delegation(&h, &json!({"cnf": {"jwk": {}, "kid": "k"}}), &key(1))),
        (
            "another key type",
            delegation(&h, &cnf(json!({"kty": "EC", "crv": "Ed25519", "x": x(9)})), &key(1)),
        ),
        ("another curve", delegation(&h, &cnf(json!({"kty": "OKP", "crv": "X25519", "x": x(9)})), &key(1))),
        ("no curve", delegation(&h, &cnf(json!({"kty": "OKP", "x": x(9)})), &key(1))),
        (
            "a member more",
            delegation(&h, &cnf(json!({"kty": "OKP", "crv": "Ed25519", "x": x(9), "d": "AA"})), &key(1)),
        ),
        ("another key", delegation(&h, &cnf(json!({"kty": "OKP", "crv": "Ed25519", "x": x(8)})), &key(1))),
        (
            "a key of small order",
            delegation(
                &h,
                &cnf(json!({"kty": "OKP", "crv": "Ed25519", "x": base64url::encode(&identity)})),
                &key(1),
            ),
        ),
    ] {
        let mut shard = Shard::new();
        let token = token(&delegation, &json!({}), &json!({}), &key(9));
        // Whether or not the same key has a good one.
        assert_eq!(shard.decide_one(&token), INVALID, "{name}");
        let fine = self::token(&good(), &json!({}), &json!({}), &key(9));
        let both = shard.decide(&[&fine, &token, &fine]);
        assert_eq!(
            both.iter().map(|one| one.0).collect::<Vec<_>>(),
            [Decision::Accepted, INVALID, Decision::Accepted]
        );
    }
}

#[test]
fn a_token_keeps_to_its_delegation() {
    let (h, c) = (json!({}), json!({}));
    let with = |claims: Value| token(&good(), &json!({}), &claims, &key(9));
    for (name, token, expected) in [
        ("as old as it", with(json!({"iat": NOW - 600})), Decision::Accepted),
        ("older", with(json!({"iat": NOW - 601})), INVALID),
        ("of no age", with(json!({"iat": "absent"})), INVALID),
        ("valid as long", with(json!({"exp": NOW + 3000})), Decision::Accepted),
        ("longer", with(json!({"exp": NOW + 3001})), INVALID),
        ("longer, though out of scope", with(json!({"exp": NOW + 3001, "scope": "none"})), INVALID),
        ("expired", with(json!({"exp": NOW - 31})), Rejection::Expired.into()),
        ("another issuer's", with(json!({"iss": "https://two"})), Rejection::IssuerMismatch.into()),
        ("another key's", token(&good(), &h, &c, &key(8)), Rejection::SignatureMismatch.into()),
        ("the certifier's", token(&good(), &h, &c, &key(1)), Rejection::SignatureMismatch.into()),
        ("of another name", token(&good(), &json!({"kid": kid(&key(1))}), &c, &key(9)), INVALID),
        ("of no name", token(&good(), &json!({"kid": "absent"}), &c, &key(9)), INVALID),
        (
            "without it",
            token(&good(), &json!({token::DELEGATION_MEMBER: "absent"}), &c, &key(9)),
            Rejection::KeyUnknown.into(),
        ),
        ("with a number for it", token(&good(), &json!({token::DELEGATION_MEMBER: 1}), &c, &key(9)), INVALID),
        ("of a type that its issuer has not", token(&good(), &json!({"typ": "other"}), &c, &key(9)), {
            Rejection::TypeNotAllowed.into()
        }),
    ] {
        assert_eq!(Shard::new().decide_one(&token), expected, "{name}");
    }
}

#[test]
fn a_delegation_is_no_token() {
    let policy = policy();
    let mut shard = Shard::new();
    let delegation = good();
    assert_eq!(shard.decide_one(&delegation), Rejection::TypeNotAllowed.into());
    assert!(policy.key_set.candidates(Some(&kid(&key(9)))).is_empty());
}

#[test]
fn either_key_can_be_revoked_killed_or_taken_away() {
    let token = token(&good(), &json!({}), &json!({}), &key(9));
    for seed in [1, 9] {
        let mut shard = Shard::new();
        assert_eq!(shard.decide_one(&token), Decision::Accepted);
        for (switch, decision) in [
            (Switch::Disabled, Rejection::Disabled),
            (Switch::Enabled, Rejection::Unavailable),
            (Switch::Revoked, Rejection::Revoked),
        ] {
            let (name, epoch) = (kid(&key(seed)), shard.view.epoch() + 1);
            let effect = Effect::Switched(switch);
            let change = Change::new(TargetKind::Kid, "tenant", "https://one", &name, effect, epoch).unwrap();
            shard.view.apply([change], epoch, UnixSeconds(NOW));
            let expected = if switch == Switch::Enabled { Decision::Accepted } else { decision.into() };
            assert_eq!(shard.decide_one(&token), expected, "seed {seed}, {switch:?}");
        }
        let mut shard = Shard::new();
        assert_eq!(shard.decide_one(&token), Decision::Accepted);
        // What was learnt under the policy before is worth nothing.
        shard.policy.epoch = 1;
        shard.policy.killed = KilledKeys::from_iter([(IssuerIndex(0), kid(&key(seed)))]);
        if seed == 1 {
            shard.policy.key_set = KeySet::default();
        }
        assert_eq!(shard.decide_one(&token), INVALID, "seed {seed}");
        assert!(shard.delegates.kept.is_empty());
    }
}

#[test]
fn what_is_kept_is_bounded_and_a_batch_is_decided_whole() {
    let tokens: Vec<String> = (0..KEPT_MAX as u64 + 1)
        .map(|i| {
            let delegation = delegation(&json!({}), &json!({"exp": NOW + 100 + i}), &key(1));
            token(&delegation, &json!({}), &json!({}), &key(9))
        })
        .collect();
    let all: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let mut shard = Shard::new();
    // Another issuer's stays: it is not the one that has the most.
    let other = delegation(&json!({"kid": kid(&key(2))}), &json!({"iss": "https://two"}), &key(2));
    let other = token(&other, &json!({}), &json!({"iss": "https://two"}), &key(9));
    assert_eq!(shard.decide_one(&other), Decision::Accepted);
    assert!(shard.decide(&all[1..KEPT_MAX]).iter().all(|one| one.0 == Decision::Accepted));
    assert_eq!(shard.delegates.count, KEPT_MAX);
    assert_eq!((shard.decide_one(all[KEPT_MAX]), shard.delegates.count), (Decision::Accepted, 2));
    assert_eq!((shard.decide_one(all[0]), shard.delegates.count), (Decision::Accepted, 3));
    assert!(shard.decide(&all).iter().all(|one| one.0 == Decision::Accepted));
    assert_eq!(shard.decide_one(&other), Decision::Accepted);
}

#[test]
fn what_nobody_signed_puts_nothing_out() {
    let mut shard = Shard::new();
    let fine = token(&good(), &json!({}), &json!({}), &key(9));
    assert_eq!(shard.decide_one(&fine), Decision::Accepted);
    let garbage: Vec<String> = (0..KEPT_MAX as u64)
        .map(|i| {
            let delegation = delegation(&json!({}), &json!({"exp": NOW + 100 + i}), &key(7));
            token(&delegation, &json!({}), &json!({}), &key(9))
        })
        .collect();
    let garbage: Vec<&str> = garbage.iter().map(String::as_str).collect();
    assert!(shard.decide(&garbage).iter().all(|one| one.0 == INVALID));
    assert_eq!(shard.delegates.count, 1);
    assert_eq!(shard.decide_one(&fine), Decision::Accepted);
}

#[test]
fn another_policy_keeps_what_holds_under_it_as_well() {
    let mut shard = Shard::new();
    let token = token(&good(), &json!({}), &json!({}), &key(9));
    assert_eq!(shard.decide_one(&token), Decision::Accepted);
    let public_key = key(9).verifying_key().to_bytes();
    let held = VerifyingKey::register(&public_key).unwrap();
    shard.policy.epoch = 1;
    shard.delegates.begin(&shard.policy);
    assert_eq!((shard.delegates.count, shard.decide_one(&token)), (1, Decision::Accepted));
    drop(held);
    // Another key of the certifier's name is another certifier.
    let imposter = PublishedKey {
        kid: kid(&key(1)),
        verifying_key: VerifyingKey::register(key(5).verifying_key().as_bytes()).unwrap(),
    };
    shard.policy.epoch = 2;
    shard.policy.key_set = KeySet::new(vec![(IssuerIndex(0), vec![imposter])]).unwrap();
    assert_eq!((shard.decide_one(&token), shard.delegates.count), (INVALID, 0));
}

#[test]
fn issuers_that_have_one_key_each_have_their_tokens() {
    let mut shard = Shard::new();
    let public_key = key(1).verifying_key().to_bytes();
    let verifying_key = VerifyingKey::register(&public_key).unwrap();
    let shared = || vec![PublishedKey { kid: thumbprint(&public_key), verifying_key: verifying_key.clone() }];
    shard.policy.key_set = KeySet::new(vec![(IssuerIndex(0), shared()), (IssuerIndex(1), shared())]).unwrap();
    for (iss, other) in [("https://one", "https://two"), ("https://two", "https://one")] {
        let header = json!({"alg": "Ed25519", "kid": kid(&key(1))});
        let claims = json!({"iss": iss, "sub": "s", "aud": "a", "iat": NOW, "exp": NOW + 60, "jti": "k"});
        assert_eq!(shard.decide_one(&signed(&key(1), &header, &claims)), Decision::Accepted, "{iss}");
        let delegation = delegation(&json!({}), &json!({"iss": iss}), &key(1));
        let claims = json!({"iss": iss});
        assert_eq!(shard.decide_one(&token(&delegation, &json!({}), &claims, &key(9))), Decision::Accepted);
        let claims = json!({"iss": other});
        let crossed = shard.decide_one(&token(&delegation, &json!({}), &claims, &key(9)));
        assert_eq!(crossed, Rejection::IssuerMismatch.into(), "{iss} delegated, and not {other}");
    }
}

#[test]
fn a_delegation_is_signed_as_the_issuers_tokens_are() {
    let mut shard = Shard::new();
    let eddsa = delegation(&json!({"alg": "EdDSA"}), &json!({}), &key(1));
    let token = token(&eddsa, &json!({}), &json!({}), &key(9));
    assert_eq!(shard.decide_one(&token), Decision::Accepted);
    let mut shard = Shard::new();
    shard.policy.profiles[0].algorithms = AlgorithmSet::ED25519;
    assert_eq!(shard.decide_one(&token), INVALID);
}

#[test]
fn a_token_that_waited_is_held_against_the_policy_of_then() {
    let mut shard = Shard::new();
    shard.policy.rules[0].allow_list = true;
    let text = token(&good(), &json!({}), &json!({}), &key(9));
    let (mut scratch, mut verdicts) = (token::Scratch::default(), Vec::new());
    let Shard { policy, view, delegates, verifier } = &mut shard;
    let one = std::iter::once(Ok(text.as_bytes()));
    let mut admitted = admit_all(one, policy, delegates, verifier, &mut verdicts, &mut scratch);
    let admitted = admitted.pop().unwrap().unwrap();
    let items: Vec<Item<'_>> = admitted.items().collect();
    verifier.verify(&items, &mut verdicts);
    let (look, realms) = (view.look(), policy.realms(view));
    let (now, stale) = (UnixSeconds(NOW), false);
    let moment = Moment { policy, look: &look, realms: &realms, now, stale, lists: None };
    let mut given = verdicts.drain(..);
    let settled = settle(admitted, &mut given, &moment, &Demand::default(), &mut scratch);
    let (inquiry, proof) = settled.inquiry().unwrap();
    let (of_token, certifier) = (kid(&key(9)), kid(&key(1)));
    assert_eq!(inquiry.identity().kid, of_token);
    assert_eq!(inquiry.identity().certified_by, Some(certifier.as_str()), "either is asked about");
    drop(given);
    // The same policy: nothing to verify again. Another one, under which it is dead: the proof is worth nothing.
    let again = crate::shard::admit(text.as_bytes(), policy, delegates, &mut scratch).unwrap();
    assert_eq!(again.proven(Some(proof), policy).items().count(), 0);
    shard.policy.epoch = 1;
    shard.policy.killed = KilledKeys::from_iter([(IssuerIndex(0), of_token)]);
    assert_eq!(shard.decide_one(&text), INVALID);
}

#[test]
fn header_and_jwks_spell_it_alike() {
    assert_eq!(token::DELEGATION_MEMBER, crate::keys::jwks::DELEGATION_MEMBER);
}

#[test]
fn a_key_that_could_not_be_registered_is_verified_all_the_same() {
    let mut shard = Shard::new();
    let token = token(&good(), &json!({}), &json!({}), &key(9));
    assert_eq!(shard.decide_one(&token), Decision::Accepted);
    for kept in shard.delegates.kept.values_mut().flatten() {
        Arc::get_mut(&mut kept.1).unwrap().registered = None;
    }
    let forged = self::token(&good(), &json!({}), &json!({}), &key(8));
    assert_eq!(shard.decide_one(&token), Decision::Accepted, "as a raw key");
    assert_eq!(shard.decide_one(&forged), Rejection::SignatureMismatch.into());
    shard.delegates.raw = true;
    assert_eq!(shard.decide_one(&token), Decision::Accepted);
    assert!(
        shard
            .delegates
            .kept
            .values()
            .flatten()
            .all(|kept| kept.1.registered.is_some() && !shard.delegates.raw)
    );
}
