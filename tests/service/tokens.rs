//! Tokens, good and bad, on both surfaces: the answer the caller gets and the reason that is counted.

use serde_json::{Value, json};

use crate::support::{AUDIENCE, Edgate, Issuer, now};

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = Issuer::claims("j");
    change(&mut claims);
    claims
}

#[test]
fn a_good_token_is_accepted_and_described() {
    let edgate = Edgate::start();
    let token = edgate.issuer.token("j-1");
    let response =
        edgate.verify(&json!({"token": token, "audience": AUDIENCE, "scope": "orders.read", "claims": true}));
    assert_eq!(response.status, 200);
    let answer = response.json();
    assert_eq!(answer["valid"], true, "{answer}");
    assert_eq!(answer["agent"], "agent-7");
    assert_eq!(answer["scope"], json!(["orders.create", "orders.read"]));
    assert_eq!(answer["claims"]["jti"], "j-1");
    let ttl = answer["remaining_ttl"].as_u64().unwrap();
    assert!((590..=600).contains(&ttl), "{ttl}");
    assert!(answer["decision_id"].as_str().unwrap().len() > 16);

    let forward = edgate.forward(&token);
    assert_eq!((forward.status, forward.body.as_str()), (200, ""));
    assert_eq!(forward.header("x-auth-subject"), Some("agent-7"));
    assert_eq!(forward.header("x-auth-tenant"), Some("acme"));
    assert_eq!(forward.header("x-auth-scope"), Some("orders.create orders.read"));
    assert_ne!(forward.header("x-auth-decision-id"), answer["decision_id"].as_str());
}

#[test]
fn every_bad_token_is_refused_for_its_own_reason() {
    let edgate = Edgate::start();
    let issuer = &edgate.issuer;
    let good = issuer.token("j");
    let parts: Vec<&str> = good.split('.').collect();
    let other = Issuer::new(2);
    let swap_first = |text: &str| {
        let first = if text.starts_with('A') { 'B' } else { 'A' };
        format!("{first}{}", &text[1..])
    };
    let cases: Vec<(&str, String)> = vec![
        ("expired", issuer.sign(&with(|c| c["exp"] = json!(now() - 60)))),
        ("not_yet_valid", issuer.sign(&with(|c| c["nbf"] = json!(now() + 300)))),
        ("issued_in_future", issuer.sign(&with(|c| c["iat"] = json!(now() + 300)))),
        ("lifetime_too_long", issuer.sign(&with(|c| c["exp"] = json!(now() + 90_000)))),
        ("audience_mismatch", issuer.sign(&with(|c| c["aud"] = json!(["billing"])))),
        ("issuer_mismatch", issuer.sign(&with(|c| c["iss"] = json!("https://own.test")))),
        ("claim_missing", issuer.sign(&with(|c| drop(c.as_object_mut().unwrap().remove("jti"))))),
        ("claims_malformed", issuer.sign(&with(|c| c["exp"] = json!("soon")))),
        ("key_unknown", other.token("j")),
        ("signature_mismatch", format!("{}.{}.{}", parts[0], parts[1], swap_first(parts[2]))),
        ("signature_mismatch", {
            let forged = Issuer::new(2);
            forged.sign_with(
                &json!({"alg": "Ed25519", "typ": "att+jwt", "kid": issuer.kid}),
                &Issuer::claims("j"),
            )
        }),
        (
            "algorithm_not_allowed",
            issuer.sign_with(&json!({"alg": "none", "typ": "att+jwt"}), &Issuer::claims("j")),
        ),
        (
            "type_not_allowed",
            issuer
                .sign_with(&json!({"alg": "Ed25519", "typ": "JWT", "kid": issuer.kid}), &Issuer::claims("j")),
        ),
        (
            "critical_header",
            issuer.sign_with(
                &json!({"alg": "Ed25519", "typ": "att+jwt", "kid": issuer.kid, "crit": ["x"], "x": 1}),
                &Issuer::claims("j"),
            ),
        ),
        (
            "header_member_forbidden",
            issuer.sign_with(
                &json!({"alg": "Ed25519", "typ": "att+jwt", "kid": issuer.kid, "jwk": other.jwk()}),
                &Issuer::claims("j"),
            ),
        ),
        ("token_malformed", "abc".to_owned()),
        ("token_malformed", format!("{good}=")),
        ("token_too_long", "a".repeat(9000)),
    ];
    for (reason, token) in cases {
        let before = edgate.refused(reason);
        let forward = edgate.forward(&token);
        assert_eq!(forward.status, 401, "{reason}");
        let challenge = forward.header("www-authenticate").unwrap();
        assert!(challenge.contains("error=\"invalid_token\""), "{reason}: {challenge}");
        let answer = edgate.verify(&json!({"token": token}));
        assert_eq!((answer.status, &answer.json()["valid"]), (200, &json!(false)), "{reason}");
        assert_eq!(answer.json()["error"], "invalid_token", "{reason}");
        assert!(answer.json().get("reason").is_none(), "the exact cause stays inside");
        assert_eq!(edgate.refused(reason) - before, 2.0, "{reason} was counted on both surfaces");
    }
    assert_eq!(edgate.forward(&good).status, 200, "and the good one still passes");
}

#[test]
fn a_tampered_payload_is_refused() {
    let edgate = Edgate::start();
    let (good, more) =
        (edgate.issuer.token("j"), edgate.issuer.sign(&with(|c| c["scope"] = json!(["admin"]))));
    let (good, more): (Vec<_>, Vec<_>) = (good.split('.').collect(), more.split('.').collect());
    let forged = format!("{}.{}.{}", good[0], more[1], good[2]);
    assert_eq!(edgate.forward(&forged).status, 401);
    assert_eq!(edgate.refused("signature_mismatch"), 1.0);
}

#[test]
fn a_missing_scope_is_403_and_a_demanded_audience_narrows() {
    let edgate = Edgate::start();
    let token = edgate.issuer.token("j");
    let auth = format!("Authorization: Bearer {token}\r\n");
    assert_eq!(edgate.get("/auth/nginx?scope=orders.read+orders.create", &auth).status, 200);
    let refused = edgate.get("/auth/nginx?scope=orders.delete", &auth);
    assert_eq!(refused.status, 403);
    assert!(refused.header("www-authenticate").unwrap().contains("scope=\"orders.delete\""));
    assert_eq!(edgate.get("/auth/nginx?audience=orders", &auth).status, 200);
    assert_eq!(edgate.get("/auth/nginx?audience=billing", &auth).status, 401);
    assert_eq!(edgate.get("/auth/nginx?leeway=9", &auth).status, 400);
    assert_eq!(
        edgate.verify(&json!({"token": token, "scope": ["nope"]})).json()["error"],
        "insufficient_scope"
    );
}

#[test]
fn a_missing_or_doubled_authorization_is_refused() {
    let edgate = Edgate::start();
    let token = edgate.issuer.token("j");
    let missing = edgate.get("/auth/nginx", "");
    assert_eq!((missing.status, missing.header("www-authenticate")), (401, Some("Bearer realm=\"edgate\"")));
    let doubled = edgate
        .get("/auth/nginx", &format!("Authorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n"));
    assert_eq!(doubled.status, 401);
    assert!(doubled.header("www-authenticate").unwrap().contains("invalid_request"));
    assert_eq!(edgate.get("/auth/nginx", "Authorization: Basic eDp5\r\n").status, 401);
    for reason in ["token_missing", "authorization_repeated", "authorization_malformed"] {
        assert_eq!(edgate.refused(reason), 1.0, "{reason}");
    }
}

#[test]
fn many_tokens_get_one_result_each_in_order() {
    let edgate = Edgate::start();
    let tokens: Vec<String> = (0..200)
        .map(|i| if i % 5 == 0 { "bad".to_owned() } else { edgate.issuer.token(&format!("m{i}")) })
        .collect();
    let answer = edgate.verify(&json!({"tokens": tokens})).json();
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 200);
    for (i, result) in results.iter().enumerate() {
        assert_eq!(result["valid"], json!(i % 5 != 0), "result {i}");
    }
}

#[test]
fn a_call_that_is_not_understood_is_400() {
    let edgate = Edgate::start();
    for body in [
        json!({}),
        json!({"token": 7}),
        json!({"token": "a", "tokens": ["b"]}),
        json!({"token": "a", "x": 1}),
    ] {
        let response = edgate.verify(&body);
        assert_eq!(response.status, 400, "{body}");
        assert_eq!(response.json()["error"], "invalid_request");
    }
    let request = b"POST /v1/tokens/verify HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(crate::support::exchange(edgate.data, request).status, 415);
}

#[test]
fn eddsa_the_older_name_is_accepted_too() {
    let edgate = Edgate::start();
    let header = json!({"alg": "EdDSA", "typ": "application/att+jwt", "kid": edgate.issuer.kid});
    assert_eq!(edgate.forward(&edgate.issuer.sign_with(&header, &Issuer::claims("j"))).status, 200);
}

#[test]
fn the_shadow_makes_every_verdict_again_and_agrees() {
    let edgate = Edgate::start_with("shards = 1", "[verify]\nshadow_rate = 1.0");
    let good = edgate.issuer.token("j");
    let forged = format!("{}A{}", &good[..good.len() - 86], &good[good.len() - 85..]);
    for _ in 0..20 {
        assert_eq!(edgate.forward(&good).status, 200);
        assert_eq!(edgate.forward(&forged).status, 401);
    }
    let until = std::time::Instant::now() + crate::support::PATIENCE;
    while edgate.metric("shadow_checked_total") < 40.0 {
        assert!(
            std::time::Instant::now() < until,
            "the shadow did not check: {}",
            edgate.control_get("/metrics").body
        );
    }
    assert_eq!(edgate.metric("shadow_disagreements_total"), 0.0);
}

#[test]
fn the_portable_engine_decides_the_same() {
    let edgate = Edgate::start_with("shards = 1", "[verify]\nengine = \"portable\"\ntable_budget_mib = 0");
    assert!(edgate.said().contains("portable"), "{}", edgate.said());
    assert_eq!(edgate.forward(&edgate.issuer.token("j")).status, 200);
    assert_eq!(edgate.forward(&Issuer::new(2).token("j")).status, 401);
}
