//! Two tokens, each with a signing key of its own that never leaves it: any of them signs, and the other one when it cannot.

use std::collections::BTreeSet;
use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use edgate::status_list::{Document, Status};
use serde_json::{Value, json};

use super::Daemon;
use super::groups::{Pair, REJOINING, SIGNING, of_second};
use super::support::{Response, until};

/// The kid of the key of this seed.
fn kid(seed: u8) -> String {
    edgate::keys::thumbprint(SigningKey::from_bytes(&[seed; 32]).verifying_key().as_bytes())
}

/// `signing` are further lines of that table. The key of seed 1 is in `edgate`, that of seed 3 in `second`.
fn pair(signing: &str) -> Option<Pair> {
    let pair = Pair::with_keys(false, [1, 3])?;
    pair.configure("", |text| keys_of_members(&pair, &text, signing, &[1, 3]));
    Some(pair)
}

/// A configuration with a key for each of the first tokens, in the place of one for all.
fn keys_of_members(pair: &Pair, text: &str, signing: &str, seeds: &[u8]) -> String {
    let (before, rest) = text.split_once("[signing]\n").unwrap();
    let (_, rest) = rest.split_once("issuer = \"own\"\n").unwrap();
    let mut keys = String::new();
    for (token, seed) in [&pair.stage.token, &pair.second].into_iter().zip(seeds) {
        let public = SigningKey::from_bytes(&[*seed; 32]).verifying_key().to_bytes();
        let object = SIGNING.replace('/', "%2F");
        keys += &format!(
            "[[signing.keys]]\nkey = \"{token};object={object}\"\npublic_key = \"{}\"\n",
            edgate::audit::hex(&public)
        );
    }
    format!("{before}[signing]\nissuer = \"own\"\njwks_max_age_s = 1\n{signing}{rest}\n{keys}")
}

fn signed_by(answer: &Response) -> String {
    answer.json()["kid"].as_str().unwrap().to_owned()
}

/// Issues until each of these keys has signed; what each signed.
fn issued_by(daemon: &Daemon<'_>, kids: &[&str]) -> Vec<Value> {
    let mut found: Vec<Option<Value>> = vec![None; kids.len()];
    until("a token by each key", || {
        let answer = daemon.issue();
        assert_eq!(answer.status, 201, "{answer:?}");
        let answer = answer.json();
        assert_eq!(daemon.verify(answer["token"].as_str().unwrap()), 200, "{answer}");
        let place = kids.iter().position(|kid| answer["kid"] == **kid);
        let place = place.unwrap_or_else(|| panic!("another key signed: {answer}"));
        found[place] = Some(answer);
        found.iter().all(Option::is_some)
    });
    found.into_iter().flatten().collect()
}

fn published(daemon: &Daemon<'_>) -> BTreeSet<String> {
    let jwks = daemon.get(daemon.data, "/.well-known/jwks.json", "").json();
    let keys = jwks["keys"].as_array().unwrap().iter();
    keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_token_signs_with_its_own_key_and_the_other_when_one_is_away() {
    let Some(pair) = pair("") else { return };
    let (a, b) = (kid(1), kid(3));
    let daemon = pair.start();
    until("both", || daemon.get(daemon.control, "/readyz", "").body.contains("2 of 2 tokens sign"));
    let tokens = issued_by(&daemon, &[&a, &b]);
    assert_eq!(published(&daemon), [a.clone(), b.clone()].into());
    let listed = daemon.get(daemon.control, "/v1/keys", "").json();
    assert!(listed["keys"].as_array().unwrap().iter().all(|key| key["state"] == "active"), "{listed}");
    // Many in one call: each has the name of whichever signed it.
    let many: Vec<Value> =
        (0..32).map(|i| json!({"agent_id": format!("agent-{i}"), "scope": ["orders.read"]})).collect();
    let many = daemon.post("/v1/tokens", &json!({"tokens": many})).json();
    let many = many["tokens"].as_array().unwrap();
    assert!(many.iter().all(|one| daemon.verify(one["token"].as_str().unwrap()) == 200));
    let by: BTreeSet<&str> = many.iter().map(|one| one["kid"].as_str().unwrap()).collect();
    assert_eq!(by, [a.as_str(), b.as_str()].into());

    let (home, away) = (pair.folder_of_second(), pair.stage.path("away"));
    fs::rename(&home, &away).unwrap();
    until("the loss", || {
        assert_eq!(daemon.issue().status, 201);
        of_second(&daemon, "up") == 0
    });
    for _ in 0..20 {
        assert_eq!(signed_by(&daemon.issue()), a);
    }
    // What the lost one signed passes.
    assert!(tokens.iter().all(|one| daemon.verify(one["token"].as_str().unwrap()) == 200));
    fs::rename(&away, &home).unwrap();
    let deadline = std::time::Instant::now() + REJOINING;
    while signed_by(&daemon.issue()) == a {
        assert!(std::time::Instant::now() < deadline, "it does not rejoin");
    }
    daemon.terminate();
    // The last ones, from when the second token was away.
    let tail = ["audit", "tail", "--json", "-n", "1000", "--kind", "issue", "--dir"];
    let dir = pair.stage.path("audit");
    let output = pair.stage.edgate(&[&tail[..], &[dir.to_str().unwrap()]].concat());
    let records = String::from_utf8(output.stdout).unwrap();
    // Which of the two signs is known once it has.
    let both = format!("\"kid\":\"{a} {b}\"");
    for record in records.lines() {
        assert_eq!(record.contains("\"phase\":0"), record.contains(&both), "{record}");
    }
    assert!(records.contains(&format!("\"kid\":\"{a}\"")), "{records}");
}

#[test]
fn each_token_makes_its_own_next_key_and_destroys_its_last() {
    let Some(pair) = pair("") else { return };
    let (a, b) = (kid(1), kid(3));
    let daemon = pair.start();
    issued_by(&daemon, &[&a, &b]);
    let made = daemon.post("/v1/keys/rotate", &json!({}));
    assert_eq!(made.status, 200, "{made:?}");
    let made = made.json();
    let made = [&made["key"], &made["more"][0]["key"]];
    let next = made.map(|key| key["kid"].as_str().unwrap().to_owned());
    let places = made.map(|key| key["place"].as_str().unwrap().to_owned());
    assert!(places[0].contains("token=edgate;") && places[1].contains("token=second;"), "{places:?}");
    assert_eq!(published(&daemon).len(), 4, "they are published before they sign");
    until("the rotation", || {
        let listed = daemon.get(daemon.control, "/v1/keys", "").json();
        let keys = listed["keys"].as_array().unwrap();
        keys.iter()
            .filter(|key| key["state"] == "active")
            .all(|key| next.contains(&key["kid"].as_str().unwrap().to_owned()))
    });
    issued_by(&daemon, &[&next[0], &next[1]]);
    let words = json!({"authority": "ticket 7", "reason": "a test"});
    let kill = json!({"kid": b, "authority": "ticket 7", "reason": "a test"});
    assert_eq!(daemon.post("/v1/keys/kill", &kill).status, 200);
    assert_eq!(daemon.post(&format!("/v1/keys/{b}/destroy"), &words).status, 200);
    issued_by(&daemon, &[&next[0], &next[1]]);
    // One that is disabled leaves the other.
    let disabled = daemon.post(&format!("/v1/keys/{}/disable", next[0]), &words);
    assert_eq!(disabled.status, 200, "{disabled:?}");
    for _ in 0..10 {
        assert_eq!(signed_by(&daemon.issue()), next[1]);
    }
    daemon.terminate();
    // A start finds it so.
    let daemon = pair.stage.start();
    for _ in 0..10 {
        assert_eq!(signed_by(&daemon.issue()), next[1]);
    }
    assert_eq!(daemon.post(&format!("/v1/keys/{}/activate", next[0]), &json!({})).status, 200);
    issued_by(&daemon, &[&next[0], &next[1]]);
}

#[test]
fn a_token_that_is_away_keeps_no_other_from_its_next_key() {
    let Some(pair) = pair("") else { return };
    let (a, b) = (kid(1), kid(3));
    let daemon = pair.start();
    issued_by(&daemon, &[&a, &b]);
    let tokens = pair.stage.path("tokens");
    let home = fs::read_dir(&tokens).unwrap().map(|entry| entry.unwrap().path());
    let home = home.into_iter().find(|path| *path != pair.folder_of_second()).unwrap();
    fs::rename(&home, pair.stage.path("away")).unwrap();
    until("the loss", || (0..10).all(|_| signed_by(&daemon.issue()) == b));
    // The key of the other one leaked: it must be killed and replaced now.
    let words = json!({"kid": b, "authority": "ticket 7", "reason": "a test"});
    assert_eq!(daemon.post("/v1/keys/kill", &words).status, 200);
    assert_eq!(daemon.issue().status, 503);
    let made = daemon.post("/v1/keys/rotate", &json!({"beside": b}));
    assert_eq!(made.status, 200, "{made:?}");
    let next = made.json()["key"]["kid"].as_str().unwrap().to_owned();
    until("the rotation", || daemon.issue().status == 201);
    assert_eq!(signed_by(&daemon.issue()), next);
    // All at once: what can be done is, and what cannot is told with a name to try again by.
    let url = format!("http://{}", daemon.control);
    let output = pair.stage.edgate(&["keys", "rotate", "--json", "--control", &url]);
    assert_eq!(output.status.code(), Some(1), "a part is no success: {output:?}");
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(made["key"]["place"].as_str().unwrap().contains("token=second;"), "{made}");
    assert_eq!(made["failed"][0]["beside"], a, "{made}");
    let unknown = daemon.post("/v1/keys/rotate", &json!({"beside": "nobody"}));
    assert!(unknown.status == 404 && unknown.body.contains("unknown_key"), "{unknown:?}");
    let third = made["key"]["kid"].as_str().unwrap().to_owned();
    until("the next rotation", || signed_by(&daemon.issue()) == third);
}

#[test]
fn a_token_that_joins_later_signs_once_everybody_can_have_its_key() {
    let Some(pair) = Pair::with_keys(false, [1, 3]) else { return };
    let (a, b) = (kid(1), kid(3));
    let config = |seeds: &[u8]| {
        pair.configure("", |text| keys_of_members(&pair, &text, "", seeds));
    };
    config(&[1]);
    let daemon = pair.start();
    assert_eq!(signed_by(&daemon.issue()), a);
    assert_eq!(published(&daemon), [a.clone()].into());
    daemon.terminate();
    config(&[1, 3]);
    let daemon = pair.stage.start();
    assert_eq!(published(&daemon), [a.clone(), b.clone()].into());
    assert_eq!(signed_by(&daemon.issue()), a, "not everybody has the new one");
    issued_by(&daemon, &[&a, &b]);
    let listed = daemon.get(daemon.control, "/v1/keys", "").json();
    let second = listed["keys"].as_array().unwrap().iter().find(|key| key["kid"] == *b).unwrap();
    let time = |name: &str| second[name].as_u64().unwrap();
    assert!(time("activated_ms") >= time("published_ms") + 1_000, "{second}");
}

#[test]
fn a_key_of_every_member_signs_until_those_that_take_its_place_may() {
    // One key in both tokens, as a group has had it; beside it a key for each.
    let Some(pair) = Pair::with_keys(false, [1, 1]) else { return };
    let (all, a, b) = (kid(1), kid(4), kid(5));
    for (token, seed) in [("edgate", 4), ("second", 5)] {
        pair.import(token, &SigningKey::from_bytes(&[seed; 32]), "edgate/token-signing/own", "B1");
    }
    pair.configure("", |text| text.replace("issuer = \"own\"\n", "issuer = \"own\"\njwks_max_age_s = 1\n"));
    let daemon = pair.start();
    let old = daemon.issue().json();
    assert_eq!(old["kid"], all);
    daemon.terminate();
    let own = |text: String| text.replace("token-signing%2F1\"\npublic", "token-signing%2Fown\"\npublic");
    pair.configure("", |text| own(keys_of_members(&pair, &text, "", &[4, 5])));
    let daemon = pair.stage.start();
    assert_eq!(published(&daemon), [all.clone(), a.clone(), b.clone()].into());
    assert_eq!(signed_by(&daemon.issue()), all, "there is no gap");
    until("the others", || signed_by(&daemon.issue()) != all);
    until("both", || {
        let listed = daemon.get(daemon.control, "/v1/keys", "").json();
        listed["keys"].as_array().unwrap().iter().filter(|key| key["state"] == "active").count() == 2
    });
    issued_by(&daemon, &[&a, &b]);
    assert_eq!(daemon.verify(old["token"].as_str().unwrap()), 200);
    daemon.terminate();

    // A token leaves: its key signs no more, and what it signed passes. The other way round as well.
    pair.configure("", |text| own(keys_of_members(&pair, &text, "", &[4])));
    let daemon = pair.stage.start();
    for _ in 0..10 {
        assert_eq!(signed_by(&daemon.issue()), a);
    }
    let listed = daemon.get(daemon.control, "/v1/keys", "").json();
    let state = |kid: &str| {
        let key = listed["keys"].as_array().unwrap().iter().find(|key| key["kid"] == *kid).unwrap();
        key["state"].as_str().unwrap().to_owned()
    };
    assert_eq!((state(&a), state(&b), state(&all)), ("active".into(), "trusted".into(), "trusted".into()));
    assert_eq!(published(&daemon), [all, a, b].into());
    daemon.terminate();
}

#[test]
fn a_key_of_every_member_that_becomes_the_second_ones_signs_on() {
    let Some(pair) = Pair::with_keys(false, [1, 1]) else { return };
    let (all, a) = (kid(1), kid(4));
    pair.import("edgate", &SigningKey::from_bytes(&[4; 32]), "edgate/token-signing/own", "B1");
    pair.configure("", |text| text.replace("issuer = \"own\"\n", "issuer = \"own\"\njwks_max_age_s = 1\n"));
    let daemon = pair.start();
    assert_eq!(signed_by(&daemon.issue()), all);
    daemon.terminate();
    pair.configure("", |text| {
        let text = keys_of_members(&pair, &text, "", &[4, 1]);
        text.replacen("token-signing%2F1\"\npublic", "token-signing%2Fown\"\npublic", 1)
    });
    let daemon = pair.stage.start();
    assert_eq!(signed_by(&daemon.issue()), all, "it is the same key, and was published");
    let listed = daemon.get(daemon.control, "/v1/keys", "").json();
    let keys = listed["keys"].as_array().unwrap();
    let place =
        |kid: &str| keys.iter().find(|key| key["kid"] == *kid).unwrap()["place"].as_str().unwrap().to_owned();
    assert!(keys.len() == 2 && place(&all).contains("token=second;"), "{listed}");
    issued_by(&daemon, &[&a, &all]);
}

#[test]
fn a_wrong_pin_of_one_token_leaves_the_other_to_sign() {
    let Some(pair) = pair("") else { return };
    let a = kid(1);
    let config = pair.stage.path("edgate.toml");
    let text = fs::read_to_string(&config).unwrap();
    let pin = pair.stage.path("other-pin");
    fs::write(&pin, "not the PIN").unwrap();
    fs::set_permissions(&pin, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (before, second) = text.rsplit_once("pin_source = \"file:").unwrap();
    let (_, rest) = second.split_once('"').unwrap();
    fs::write(&config, format!("{before}pin_source = \"file:{}\"{rest}", pin.display())).unwrap();
    let daemon = pair.start();
    for _ in 0..10 {
        assert_eq!(signed_by(&daemon.issue()), a);
    }
    let ready = daemon.get(daemon.control, "/readyz", "").body;
    assert!(ready.contains("1 of 2 tokens sign"), "{ready}");
    daemon.terminate();
}

#[test]
fn a_status_list_marks_the_tokens_of_the_key_that_signed_them() {
    let Some(pair) = pair("status_list_uri = \"https://own.test/v1/status-lists/1\"\n") else { return };
    let (a, b) = (kid(1), kid(3));
    let daemon = pair.start();
    let tokens = issued_by(&daemon, &[&a, &b]);
    let places = tokens.iter().map(|one| {
        let payload = one["token"].as_str().unwrap().split('.').nth(1).unwrap();
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
        claims["status"]["status_list"]["idx"].as_u64().unwrap()
    });
    let places: Vec<u64> = places.collect();
    let marks = || {
        let list = daemon.get(daemon.control, "/v1/status-lists/1", "");
        assert_eq!(list.status, 200, "{list:?}");
        let payload = URL_SAFE_NO_PAD.decode(list.body.split('.').nth(1).unwrap()).unwrap();
        let document = Document::read(&payload).unwrap();
        places.iter().map(|place| document.list.status(*place).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(marks(), [Status::VALID, Status::VALID]);
    let change = json!({"kind": "kid", "name": b, "issuer": "https://own.test", "action": "disable", "reason": "a test"});
    assert_eq!(daemon.post("/v1/revocations", &change).status, 200);
    until("the mark", || marks() == [Status::VALID, Status::SUSPENDED]);
}

#[test]
fn any_of_several_tokens_delegates() {
    let Some(pair) = pair("delegation_s = 60\ndefault_ttl_s = 5\n") else { return };
    let (a, b) = (kid(1), kid(3));
    fs::rename(pair.folder_of_second(), pair.stage.path("away")).unwrap();
    let daemon = pair.start();
    until("a delegated key", || ![&a, &b].contains(&&signed_by(&daemon.issue())));
    let listed = daemon.get(daemon.control, "/v1/keys", "").json();
    assert_eq!(listed["delegated"][0]["certified_by"], a, "the other token is away: {listed}");
    let answer = daemon.issue().json();
    assert_eq!(daemon.verify(answer["token"].as_str().unwrap()), 200);
    // With the key that delegated it ends; the other one's token may be away still.
    let words = json!({"authority": "ticket 7", "reason": "a test"});
    assert_eq!(daemon.post(&format!("/v1/keys/{a}/disable"), &words).status, 200);
    assert_eq!(daemon.issue().status, 503);
}

#[test]
fn keys_that_do_not_go_with_the_tokens_are_refused_by_their_setting() {
    let Some(pair) = Pair::with_keys(false, [1, 3]) else { return };
    let refused = |change: &dyn Fn(String) -> String| {
        let config = pair.configure("", |text| change(keys_of_members(&pair, &text, "", &[1, 3])));
        let output = pair.stage.edgate(&["check-config", config.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{said}");
        said
    };
    let (first, second) = (&pair.stage.token, &pair.second);
    let twice = refused(&|text| text.replacen(&format!("{second};object"), &format!("{first};object"), 1));
    assert!(
        twice.contains("signing.keys[1].key") && twice.contains("has a key of its own already"),
        "{twice}"
    );
    let nameless = refused(&|text| text.replacen(&format!("{first};object"), "pkcs11:object", 1));
    assert!(nameless.contains("signing.keys[0].key") && nameless.contains("names no token"), "{nameless}");
    let both = refused(&|text| text.replacen("[signing]\n", "[signing]\nkey_file = \"/k\"\n", 1));
    assert!(both.contains("signing.keys") && both.contains("stands beside"), "{both}");
    let public = |seed| edgate::audit::hex(&SigningKey::from_bytes(&[seed; 32]).verifying_key().to_bytes());
    let same = refused(&|text| text.replacen(&public(3), &public(1), 1));
    assert!(same.contains("signing.keys[1].public_key") && same.contains("the same public key"), "{same}");
    let elsewhere =
        refused(&|text| text.replacen(&format!("{second};object"), "pkcs11:token=x;serial=1;object", 1));
    assert!(elsewhere.contains("no [[hsm.member]]"), "{elsewhere}");
}
