//! Delegated issuing on the real daemon: a key in memory signs, because the key of the configuration says so.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, VerifyingKey};
use edgate::status_list::{Document, Status};
use serde_json::{Value, json};

use crate::signing_keys::{WORDS, done, edit, issued, records};
use crate::support::{Edgate, Response, edgate, until};

/// A JWKS that is kept for a second, a delegation of two minutes, and tokens of twenty seconds.
const SIGNING: &str = "delegation_s = 120\ndefault_ttl_s = 20\n";

fn start() -> Edgate {
    Edgate::start_edited(|text| edit(&text, SIGNING, ""))
}

/// A token that a delegated key signed, and that key's name; `active` is the key that it is not.
fn delegated(node: &Edgate, active: &str) -> (String, String) {
    until("a delegated key to sign", || issued(node).1 != active);
    issued(node)
}

/// The one key that the configuration names.
fn active(node: &Edgate) -> String {
    let listed = node.control_get("/v1/keys").json();
    let keys = listed["keys"].as_array().unwrap();
    keys.iter().find(|key| key["state"] == "active").unwrap()["kid"].as_str().unwrap().to_owned()
}

fn issue_for(node: &Edgate, ttl: u64) -> Response {
    node.post(
        node.control,
        "/v1/tokens",
        &json!({"agent_id": "agent-1", "scope": ["orders.read"], "ttl": ttl}),
    )
}

/// The JWKS, by name.
fn jwks(node: &Edgate) -> BTreeMap<String, Value> {
    let jwks = node.get("/.well-known/jwks.json", "").json();
    let keys = jwks["keys"].as_array().unwrap().iter();
    keys.map(|key| (key["kid"].as_str().unwrap().to_owned(), key.clone())).collect()
}

fn header(token: &str) -> Value {
    let header = token.split('.').next().unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap()
}

/// Verifies as a stranger does, by `kid` and the JWKS alone.
fn passes_elsewhere(token: &str, jwks: &BTreeMap<String, Value>) -> bool {
    let Some(key) = jwks.get(header(token)["kid"].as_str().unwrap()) else { return false };
    let x = URL_SAFE_NO_PAD.decode(key["x"].as_str().unwrap()).unwrap();
    let key = VerifyingKey::from_bytes(&x.try_into().unwrap()).unwrap();
    let (input, signature) = token.rsplit_once('.').unwrap();
    let signature = Signature::from_slice(&URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
    key.verify_strict(input.as_bytes(), &signature).is_ok()
}

#[test]
fn a_key_in_memory_signs_once_it_was_published_and_its_tokens_bring_its_delegation() {
    let mut node = start();
    let a = active(&node);
    let (token, d) = delegated(&node, &a);
    let listed = node.control_get("/v1/keys").json();
    let told = &listed["delegated"][0];
    assert_eq!((told["kid"].as_str(), told["certified_by"].as_str()), (Some(&*d), Some(&*a)), "{listed}");
    let time = |name: &str| told[name].as_u64().unwrap();
    assert!(time("ready_ms") >= time("published_ms") + 1_000, "everybody has it first: {told}");
    assert!(time("ends_ms") <= time("published_ms") + 120_000, "{told}");
    assert!((node.metric("delegated_key_signs") - 1.0).abs() < 0.5);

    // For our verifiers: the token brings it. For others: the JWKS lists it.
    let head = header(&token);
    assert_eq!(head["kid"].as_str(), Some(&*d));
    let published = jwks(&node);
    assert_eq!(published.keys().collect::<Vec<_>>().len(), 2);
    assert_eq!(published[&d]["edgate_delegation"], head["edgate_delegation"]);
    assert!(published[&a].get("edgate_delegation").is_none());
    assert!(passes_elsewhere(&token, &published));
    assert_eq!(node.forward(&token).status, 200);

    // What would outlive the delegation is signed by the key itself.
    let long = issue_for(&node, 3_000).json();
    assert_eq!(long["kid"].as_str(), Some(&*a), "{long}");
    assert_eq!(node.forward(long["token"].as_str().unwrap()).status, 200);
    // A call for many has one key.
    let many = json!({"tokens": [{"agent_id": "b", "scope": ["x"], "ttl": 5}, {"agent_id": "c", "scope": ["x"], "ttl": 3_000}]});
    let many = node.post(node.control, "/v1/tokens", &many).json();
    assert!(many["tokens"].as_array().unwrap().iter().all(|one| one["kid"] == *a), "{many}");

    let said = edgate(&["keys", "list", "--control", &format!("http://{}", node.control)], b"");
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(
        said.contains(&format!("{d}  delegated  20")) && said.contains(&format!("; by {a}; signs from 20")),
        "{said}"
    );

    // Another verifier of ours needs the one key alone, and takes the JWKS as it is, too.
    let set = json!({"keys": published.values().collect::<Vec<_>>()});
    let alone = json!({"keys": [published[&a]]});
    let issued_by_d = |set: &Value| {
        let file = node.dir.path().join("set.json");
        std::fs::write(&file, set.to_string()).unwrap();
        let verify = [
            "token",
            "verify",
            "--json",
            "--issuer",
            "https://own.test",
            "--audience",
            "orders",
            "--profile",
        ];
        let output = edgate(
            &[&verify[..], &["att+jwt", "--jwks", file.to_str().unwrap(), &token]].concat(),
            token.as_bytes(),
        );
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    };
    for set in [&alone, &set] {
        let told = issued_by_d(set);
        assert_eq!((told["valid"].as_bool(), told["kid"].as_str()), (Some(true), Some(&*d)), "{told}");
    }
    let told = issued_by_d(&json!({"keys": [node.issuer.jwk()]}));
    assert_eq!(told["reason"], "delegation_invalid");

    assert_eq!(node.terminate().code(), Some(0));
    let records = records(&node, "key_change");
    let told: Vec<_> = records.iter().filter(|one| one.contains("signing.delegated_key")).collect();
    assert_eq!(told.len(), 2, "intent and outcome: {records:?}");
    assert!(told.iter().all(|one| one.contains(&d) && one.contains(&a)), "{told:?}");
}

#[test]
fn another_node_of_ours_needs_the_issuers_key_alone() {
    let node = start();
    let a = active(&node);
    let (token, _) = delegated(&node, &a);
    let keys = json!({"keys": [jwks(&node)[&a]]}).to_string();
    let other = Edgate::start_edited(|text| {
        let own = text.find("[signing]\n").unwrap();
        let rest = text.find("[[issuers]]\nname = \"test\"").unwrap();
        format!(
            "{}[[issuers]]\nname = \"theirs\"\nissuer = \"https://own.test\"\naudiences = [\"orders\"]\n\
             jwks = '{keys}'\n{}",
            &text[..own],
            &text[rest..]
        )
    });
    assert_eq!(other.forward(&token).status, 200);
    let bad = token[..token.len() - 2].to_owned() + if token.ends_with("AA") { "BA" } else { "AA" };
    assert_eq!(other.forward(&bad).status, 401);
    // Known by the delegation that the token brings: killed there by its name and its issuer's.
    let d = header(&token)["kid"].as_str().unwrap().to_owned();
    let kill = [&["kill", &d, "--issuer", "theirs"], &WORDS[..]].concat();
    done(&other, &kill);
    assert_eq!(other.forward(&token).status, 401);
    assert!((other.refused("delegation_invalid") - 1.0).abs() < 0.5);
    assert_eq!(node.forward(&token).status, 200, "each node kills for itself");
}

#[test]
fn a_killed_delegated_key_is_refused_at_once_and_another_takes_its_place() {
    let mut node = start();
    let a = active(&node);
    let (token, d) = delegated(&node, &a);
    done(&node, &[&["kill", &d], &WORDS[..]].concat());
    assert_eq!(node.forward(&token).status, 401);
    assert!((node.refused("delegation_invalid") - 1.0).abs() < 0.5);
    assert!(!jwks(&node).contains_key(&d));
    // Meanwhile the key itself signs; then the next.
    let (direct, kid) = issued(&node);
    assert_eq!((kid, node.forward(&direct).status), (a.clone(), 200));
    let (again, e) = delegated(&node, &a);
    assert_ne!(e, d);
    assert_eq!(node.forward(&again).status, 200);
    node.kill();
    node.restart();
    assert_eq!((node.forward(&token).status, node.forward(&again).status), (401, 200), "for good");
    let published = jwks(&node);
    assert!(!published.contains_key(&d) && published.contains_key(&e), "{published:?}");
}

#[test]
fn with_a_killed_or_disabled_key_go_those_that_it_delegated_to() {
    let node = start();
    let a = active(&node);
    let (token, d) = delegated(&node, &a);
    // Disabled: nothing is signed any more, what was signed passes.
    done(&node, &[&["disable", &a], &WORDS[..]].concat());
    assert_eq!((issue_for(&node, 5).status, node.forward(&token).status), (503, 200));
    assert!(passes_elsewhere(&token, &jwks(&node)));
    done(&node, &["activate", &a]);
    let (direct, kid) = issued(&node);
    assert_eq!((kid, node.forward(&direct).status), (a.clone(), 200), "the private half is gone");
    let (again, e) = delegated(&node, &a);
    assert_ne!(e, d);
    // Killed: all of it is refused.
    done(&node, &[&["kill", &a], &WORDS[..]].concat());
    for token in [&token, &direct, &again] {
        assert_eq!(node.forward(token).status, 401);
    }
    assert_eq!((issue_for(&node, 5).status, jwks(&node).len()), (503, 0));
}

#[test]
fn a_rotation_and_a_restart_end_no_token_and_begin_another_delegation() {
    let mut node = start();
    let a = active(&node);
    let (first, d) = delegated(&node, &a);
    node.kill();
    node.restart();
    // The process is another, its memory too; the delegation is listed as long as it lasts.
    assert_eq!(node.forward(&first).status, 200);
    assert!(passes_elsewhere(&first, &jwks(&node)));
    let (direct, kid) = issued(&node);
    assert_eq!((kid, node.forward(&direct).status), (a.clone(), 200));
    let (second, e) = delegated(&node, &a);
    assert_ne!(e, d);

    let b = done(&node, &["rotate"])["key"]["kid"].as_str().unwrap().to_owned();
    until("the rotation", || active(&node) == b);
    let (after, kid) = issued(&node);
    assert_eq!(kid, b, "the one that delegated is not the active one any more");
    let (third, f) = delegated(&node, &b);
    assert!(f != e && f != b);
    for token in [&first, &second, &after, &third] {
        assert_eq!(node.forward(token).status, 200);
        assert!(passes_elsewhere(token, &jwks(&node)));
    }
    let told = node.control_get("/v1/keys").json();
    let of = |kid: &str| {
        told["delegated"].as_array().unwrap().iter().find(|one| one["kid"] == *kid).unwrap().clone()
    };
    assert!(of(&e).get("ready_ms").is_none() && of(&f)["certified_by"] == *b, "{told}");
}

#[test]
fn switching_either_key_off_refuses_the_token() {
    let node = start();
    let a = active(&node);
    let (token, d) = delegated(&node, &a);
    for kid in [&d, &a] {
        let change = |action: &str| {
            let of = "https://own.test";
            node.revoke(
                &json!({"kind": "kid", "name": kid, "issuer": of, "action": action, "reason": "a test"}),
            )
        };
        change("disable");
        assert_eq!(node.forward(&token).status, 401);
        assert!((node.refused("disabled") - if kid == &d { 1.0 } else { 2.0 }).abs() < 0.5);
        change("enable");
        assert_eq!(node.forward(&token).status, 200);
    }
}

#[test]
fn the_next_delegated_key_is_ready_before_the_last_one_ends() {
    let node = Edgate::start_edited(|text| edit(&text, "delegation_s = 20\ndefault_ttl_s = 2\n", ""));
    let a = active(&node);
    let (_, d) = delegated(&node, &a);
    let mut all = vec![d];
    until("the third delegated key", || {
        let (token, kid) = issued(&node);
        assert_ne!(kid, a, "there is no gap between one and the next");
        assert_eq!(node.forward(&token).status, 200);
        if all.last() != Some(&kid) {
            all.push(kid);
        }
        all.len() == 3
    });
    let published = jwks(&node);
    assert!(all[1..].iter().all(|kid| published.contains_key(kid)), "{published:?}");
}

#[test]
fn a_token_that_does_not_fit_beside_a_delegation_is_signed_by_the_key_itself() {
    let node = start();
    let a = active(&node);
    let (_, d) = delegated(&node, &a);
    let mut signed_by = Vec::new();
    for count in (20..64).step_by(2) {
        let scopes: Vec<String> = (0..count).map(|i| format!("{i:02}{}", "s".repeat(118))).collect();
        let answer = node.post(node.control, "/v1/tokens", &json!({"agent_id": "agent-1", "scope": scopes}));
        if answer.status == 400 {
            assert!(answer.body.contains("longer than"), "{answer:?}");
            break;
        }
        let answer = answer.json();
        assert_eq!(node.forward(answer["token"].as_str().unwrap()).status, 200, "{count} scopes");
        signed_by.push(answer["kid"].as_str().unwrap().to_owned());
    }
    let first_direct = signed_by.iter().position(|kid| *kid == a).unwrap();
    assert!(first_direct > 0 && signed_by[..first_direct].iter().all(|kid| *kid == d), "{signed_by:?}");
    assert!(signed_by[first_direct..].iter().all(|kid| *kid == a), "{signed_by:?}");
}

#[test]
fn the_status_list_marks_what_either_key_signed_also_once_both_are_dead() {
    let uri = "status_list_uri = \"https://own.test/v1/status-lists/1\"\n";
    let node = Edgate::start_edited(|text| edit(&text, &format!("{SIGNING}{uri}"), ""));
    let a = active(&node);
    let (token, d) = delegated(&node, &a);
    let claims: Value = {
        let payload = token.split('.').nth(1).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
    };
    let place = claims["status"]["status_list"]["idx"].as_u64().unwrap();
    let mark = || {
        let list = node.control_get("/v1/status-lists/1");
        assert_eq!(list.status, 200, "{list:?}");
        let payload = URL_SAFE_NO_PAD.decode(list.body.split('.').nth(1).unwrap()).unwrap();
        Document::read(&payload).unwrap().list.status(place).unwrap()
    };
    assert_eq!(mark(), Status::VALID);
    // Somebody must be there to sign the list.
    let b = done(&node, &["rotate"])["key"]["kid"].as_str().unwrap().to_owned();
    until("the rotation", || active(&node) == b);
    for kid in [&a, &d] {
        done(&node, &[&["kill", kid, "--issuer", "own"], &WORDS[..]].concat());
    }
    node.revoke(&json!({
        "kind": "kid", "name": a, "issuer": "https://own.test", "action": "revoke", "reason": "it leaked"
    }));
    until("the mark", || mark() == Status::INVALID);
}

#[test]
fn a_delegation_that_cannot_serve_is_refused_by_the_configuration() {
    for (signing, part) in [
        ("delegation_s = 3601\n", "signing.delegation_s"),
        ("delegation_s = 0\n", "signing.delegation_s"),
        ("delegation_s = 100\ndefault_ttl_s = 100\n", "that leaves 0 s"),
        ("delegation_s = 1800\npropagation_s = 1700\n", "choose a longer one"),
        ("delegation_s = 600\nrotate_every_s = 300\n", "signing.rotate_every_s"),
    ] {
        let mut node = start();
        assert_eq!(node.terminate().code(), Some(0));
        node.configure(|text| text.replace(SIGNING, signing));
        let (code, said) = node.refuses_to_start();
        assert!(code == Some(78) && said.contains(part), "{signing}: {code:?}, {said}");
    }
}
