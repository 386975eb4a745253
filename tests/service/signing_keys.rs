//! The life of a signing key on the real daemon: made, published, active, trusted, retired, destroyed; disabled and killed.

use std::collections::BTreeSet;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::{EDGATE, Edgate, Issuer, Response, edgate, now, until};

/// What an operator must say.
pub(crate) const WORDS: [&str; 4] = ["--authority", "ticket 7", "--reason", "a test"];

/// A daemon whose JWKS is kept for a second; `signing` are further lines of that table, `own` of the issuer's.
fn start(signing: &str, own: &str) -> Edgate {
    Edgate::start_edited(|text| edit(&text, signing, own))
}

pub(crate) fn edit(text: &str, signing: &str, own: &str) -> String {
    let text =
        text.replacen("issuer = \"own\"\n", &format!("issuer = \"own\"\njwks_max_age_s = 1\n{signing}"), 1);
    text.replacen("keys = \"signing_key\"\n", &format!("keys = \"signing_key\"\n{own}"), 1)
}

fn command(node: &Edgate, arguments: &[&str]) -> Output {
    let url = format!("http://{}", node.control);
    edgate(&[&["keys"], arguments, &["--json", "--control", &url]].concat(), b"")
}

pub(crate) fn done(node: &Edgate, arguments: &[&str]) -> Value {
    let output = command(node, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The refusal must name its rule.
fn refused(node: &Edgate, arguments: &[&str], rule: &str) {
    let output = command(node, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
    assert!(said.contains(&format!(": {rule}: ")), "{arguments:?}: {said}");
}

fn issue(node: &Edgate) -> Response {
    node.post(node.control, "/v1/tokens", &json!({"agent_id": "agent-1", "scope": ["orders.read"]}))
}

/// A token, and the key that signed it.
pub(crate) fn issued(node: &Edgate) -> (String, String) {
    let answer = issue(node);
    assert_eq!(answer.status, 201, "{answer:?}");
    let answer = answer.json();
    (answer["token"].as_str().unwrap().to_owned(), answer["kid"].as_str().unwrap().to_owned())
}

/// The state of each key.
pub(crate) fn states(node: &Edgate) -> Vec<(String, String)> {
    let listed = node.control_get("/v1/keys").json();
    let text = |key: &Value, name: &str| key[name].as_str().unwrap().to_owned();
    listed["keys"].as_array().unwrap().iter().map(|key| (text(key, "kid"), text(key, "state"))).collect()
}

fn state(node: &Edgate, kid: &str) -> String {
    states(node).into_iter().find(|(name, _)| name == kid).unwrap().1
}

/// The keys in the JWKS on the data listener.
fn published(node: &Edgate) -> BTreeSet<String> {
    let jwks = node.get("/.well-known/jwks.json", "");
    assert_eq!(jwks.header("cache-control"), Some("public, max-age=1"));
    let jwks = jwks.json();
    let keys = jwks["keys"].as_array().unwrap();
    keys.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

fn set(kids: &[&str]) -> BTreeSet<String> {
    kids.iter().map(|kid| (*kid).to_owned()).collect()
}

/// Rotates and waits until the next key signs; its name.
fn rotate(node: &Edgate, before: &str) -> String {
    let next = done(node, &["rotate"])["key"]["kid"].as_str().unwrap().to_owned();
    assert_ne!(next, before);
    until("the rotation", || issued(node).1 == next);
    next
}

#[test]
fn a_rotation_needs_no_restart_and_old_tokens_pass() {
    let mut node = start("", "");
    let (old, a) = issued(&node);
    assert_eq!((state(&node, &a), published(&node)), ("active".into(), set(&[&a])));

    let made = done(&node, &["rotate"]);
    let b = made["key"]["kid"].as_str().unwrap().to_owned();
    assert_eq!((made["key"]["state"].as_str(), made["key"]["wanted"].as_bool()), (Some("draft"), Some(true)));
    assert_eq!(published(&node), set(&[&a, &b]), "it is published before it signs");
    refused(&node, &["activate", &b], "propagation");
    // Asking again changes nothing.
    assert_eq!(done(&node, &["rotate"])["key"]["kid"].as_str(), Some(&*b));
    until("the rotation", || issued(&node).1 == b);
    let listed = node.control_get("/v1/keys").json();
    let keys = listed["keys"].as_array().unwrap();
    let times = keys.iter().find(|key| key["kid"] == *b).unwrap();
    let (from, to) = (times["published_ms"].as_u64().unwrap(), times["activated_ms"].as_u64().unwrap());
    assert!(to >= from + 1_000, "{times}");

    let (new, _) = issued(&node);
    for token in [&old, &new] {
        assert_eq!(node.forward(token).status, 200);
    }
    assert_eq!((state(&node, &a), state(&node, &b)), ("trusted".into(), "active".into()));
    assert_eq!(published(&node), set(&[&a, &b]));
    refused(&node, &["retire", &a], "outstanding");
    refused(&node, &["retire", &b], "last_active");
    refused(&node, &["retire", "nobody"], "unknown_key");
    refused(&node, &[&["destroy", &a], &WORDS[..]].concat(), "wrong_state");
    assert!((node.metric("signing_keys{state=\"trusted\"}") - 1.0).abs() < 0.5);
    let metrics = node.control_get("/metrics").body;
    assert!(
        metrics.contains("edgate_signing_key_age_seconds ") && metrics.contains("next_change_seconds "),
        "{metrics}"
    );
    assert!(!metrics.contains(&b), "no names of keys in metrics");
    let jwks = done(&node, &["export-jwks"]);
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 2);

    node.kill();
    node.restart();
    assert_eq!((state(&node, &a), state(&node, &b)), ("trusted".into(), "active".into()));
    assert_eq!((node.forward(&old).status, node.forward(&new).status), (200, 200));
    assert_eq!((issued(&node).1, published(&node)), (b.clone(), set(&[&a, &b])));
    let output = edgate(&["keys", "list", "--control", &format!("http://{}", node.control)], b"");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains(&format!("{b}  active")) && said.contains("; verifies until 20"), "{said}");
    assert_eq!(node.terminate().code(), Some(0));
    let rotations = records(&node, "key_rotate");
    assert_eq!(rotations.len(), 2, "intent and outcome: {rotations:?}");
    assert!(rotations.iter().all(|record| record.contains(&a) && record.contains(&b)), "{rotations:?}");
    assert!(records(&node, "key_change").len() >= 3, "adopted, and a draft: intent and outcome");
}

/// The records of a kind, as text.
pub(crate) fn records(node: &Edgate, kind: &str) -> Vec<String> {
    let dir = node.audit_dir();
    let tail = ["audit", "tail", "--json", "-n", "1000", "--kind", kind, "--dir", dir.to_str().unwrap()];
    let output = edgate(&tail, b"");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_key_retires_when_nothing_it_signed_can_be_valid_and_is_then_destroyed() {
    let mut node = start("default_ttl_s = 1\n", "max_lifetime_s = 1\nleeway_s = 0\n");
    let (_, a) = issued(&node);
    let b = rotate(&node, &a);
    refused(&node, &["retire", &a], "outstanding");
    until("the retirement", || state(&node, &a) == "retired");
    assert_eq!(published(&node), set(&[&b]));
    let listed = node.control_get("/v1/keys").json();
    let keys = listed["keys"].as_array().unwrap();
    let a_now = keys.iter().find(|key| key["kid"] == *a).unwrap();
    let time = |name: &str| a_now[name].as_u64().unwrap();
    // A second of life, one of the JWKS, five of a signature.
    assert!(time("retired_ms") >= time("stopped_ms") + 7_000, "{a_now}");

    let (configured, made) = (node.dir.path().join("signing.key"), a_now["place"].as_str().unwrap());
    assert_eq!(configured.to_str(), Some(made));
    assert!(configured.exists());
    done(&node, &[&["destroy", &a], &WORDS[..]].concat());
    assert!(!configured.exists());
    assert_eq!(state(&node, &a), "destroyed");
    assert_eq!(node.terminate().code(), Some(0));

    // The configuration still names it, and the state database says why it is gone.
    let config = node.dir.path().join("edgate.toml");
    let checked = edgate(&["check-config", config.to_str().unwrap()], b"");
    assert!(checked.status.success(), "{checked:?}");
    node.restart();
    assert_eq!((state(&node, &a), issued(&node).1), ("destroyed".into(), b));
    let mode = {
        use std::os::unix::fs::PermissionsExt as _;
        let place = node.control_get("/v1/keys").json()["keys"][1]["place"].as_str().unwrap().to_owned();
        std::fs::metadata(place).unwrap().permissions().mode() & 0o7777
    };
    assert_eq!(mode, 0o600);
}

#[test]
fn a_killed_key_is_refused_at_once_and_for_good() {
    let mut node = start("", "");
    let (own, a) = issued(&node);
    let others = node.issuer.token("x");
    assert_eq!((node.forward(&own).status, node.forward(&others).status), (200, 200));

    done(&node, &[&["kill", &a], &WORDS[..]].concat());
    assert_eq!(node.forward(&own).status, 401, "with the next turn");
    assert!((node.refused("key_unknown") - 1.0).abs() < 0.5);
    let refusal = issue(&node);
    assert_eq!(
        (refusal.status, refusal.json()["error"].as_str()),
        (503, Some("signing_unavailable")),
        "{refusal:?}"
    );
    assert_eq!((state(&node, &a), published(&node)), ("retired".into(), set(&[])));
    assert_eq!(node.forward(&others).status, 200, "the others' keys go on");

    let named = node.issuer.kid.clone();
    done(&node, &[&["kill", &named], &WORDS[..]].concat());
    assert_eq!(node.forward(&others).status, 401);
    let output = command(&node, &[&["kill", "nobody"], &WORDS[..]].concat());
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    // Once more is no error, and on record too.
    done(&node, &[&["kill", &named], &WORDS[..]].concat());
    // Before its issuer publishes it here.
    done(&node, &[&["kill", "nobody", "--issuer", "test"], &WORDS[..]].concat());

    node.kill();
    node.restart();
    assert_eq!((node.forward(&own).status, node.forward(&others).status), (401, 401));
    assert_eq!(issue(&node).status, 503);
    rotate_from_nothing(&node, &a);
    let listed = node.control_get("/v1/keys").json();
    assert_eq!(listed["killed"].as_array().unwrap().len(), 3, "{listed}");
    assert_eq!(node.terminate().code(), Some(0));
    assert_eq!(records(&node, "key_change").iter().filter(|one| one.contains("killed")).count(), 4);
}

fn rotate_from_nothing(node: &Edgate, before: &str) {
    let next = done(node, &["rotate"])["key"]["kid"].as_str().unwrap().to_owned();
    assert_ne!(next, before);
    until("a key that signs", || issue(node).status == 201);
    assert_eq!(issued(node).1, next);
}

#[test]
fn a_name_that_several_issuers_use_is_killed_by_issuer() {
    let mut namesake = Issuer::new(2);
    namesake.kid = "test-1".to_owned();
    let jwks = namesake.jwks();
    let node = Edgate::start_more(&format!(
        "[[issuers]]\nname = \"other\"\nissuer = \"https://other.test\"\naudiences = [\"orders\"]\njwks = '{jwks}'\n"
    ));
    let token = node.issuer.token("x");
    let mut claims = Issuer::claims("y");
    claims["iss"] = json!("https://other.test");
    let other = namesake.sign(&claims);
    assert_eq!((node.forward(&token).status, node.forward(&other).status), (200, 200));
    let kid = node.issuer.kid.clone();
    let output = command(&node, &[&["kill", &kid], &WORDS[..]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("test, other"), "{said}");
    done(&node, &[&["kill", &kid, "--issuer", "https://other.test"], &WORDS[..]].concat());
    assert_eq!((node.forward(&token).status, node.forward(&other).status), (200, 401));
}

#[test]
fn a_disabled_key_issues_nothing_and_what_it_signed_passes() {
    let mut node = start("", "");
    let (token, a) = issued(&node);
    let output = command(&node, &["disable", &a]);
    assert_eq!(output.status.code(), Some(2), "whoever disables says why: {output:?}");
    done(&node, &[&["disable", &a], &WORDS[..]].concat());
    assert_eq!((issue(&node).status, node.forward(&token).status), (503, 200));
    node.kill();
    node.restart();
    assert_eq!(
        (issue(&node).status, node.forward(&token).status),
        (503, 200),
        "a restart brings it not back"
    );
    // It was a mistake: the key is in every JWKS still, so nobody waits.
    done(&node, &["activate", &a]);
    assert_eq!(issued(&node).1, a);
    done(&node, &[&["disable", &a], &WORDS[..]].concat());
    rotate_from_nothing(&node, &a);
    assert_eq!(node.forward(&token).status, 200);
}

#[test]
fn another_key_in_the_place_of_the_active_one_signs_nothing_under_its_name() {
    let mut node = start("", "");
    let (token, a) = issued(&node);
    assert_eq!(node.terminate().code(), Some(0));
    let (file, kept) = (node.dir.path().join("signing.key"), node.dir.path().join("kept"));
    std::fs::rename(&file, &kept).unwrap();
    let config = node.dir.path().join("edgate.toml");
    assert!(edgate(&["init", config.to_str().unwrap()], b"").status.success());
    node.restart();
    assert_eq!((issue(&node).status, node.forward(&token).status), (503, 200));
    assert!(node.said().contains("it holds another key than the one that was known to be there"));
    assert_eq!(node.terminate().code(), Some(0));
    // The key is put elsewhere, and the configuration says where.
    std::fs::rename(&kept, node.dir.path().join("moved.key")).unwrap();
    node.configure(|text| text.replace("signing.key", "moved.key"));
    node.restart();
    let (again, kid) = issued(&node);
    assert_eq!((kid, node.forward(&again).status, node.forward(&token).status), (a, 200, 200));
}

#[test]
fn a_key_that_nobody_has_is_killed_once_with_a_new_policy() {
    let node = start("", "");
    let policies = |node: &Edgate| node.said().matches("policy with other keys").count();
    let before = policies(&node);
    let issuer = ["--issuer", crate::support::ISSUER];
    done(&node, &[&["kill", "nobody-has-it"], &issuer[..], &WORDS[..]].concat());
    // A token might bring a delegation of it.
    assert_eq!(policies(&node), before + 1);
    done(&node, &[&["kill", "nobody-has-it"], &issuer[..], &WORDS[..]].concat());
    assert_eq!(policies(&node), before + 1, "it was dead already");
    done(&node, &[&["kill", &node.issuer.kid.clone()], &issuer[..], &WORDS[..]].concat());
    assert_eq!(policies(&node), before + 2);
}

#[test]
fn a_lost_key_stops_issuing_alone_until_somebody_rotates() {
    let mut node = start("", "");
    let (token, a) = issued(&node);
    assert_eq!(node.terminate().code(), Some(0));
    std::fs::remove_file(node.dir.path().join("signing.key")).unwrap();
    node.restart();
    assert_eq!((issue(&node).status, node.forward(&token).status), (503, 200));
    assert!(node.said().contains("the active signing key cannot be used"), "{}", node.said());
    rotate_from_nothing(&node, &a);
    assert_eq!((state(&node, &a), node.forward(&token).status), ("trusted".into(), 200));
}

#[test]
fn a_key_that_must_be_backed_up_waits_for_an_operator_to_say_so() {
    let node = start("require_backup = true\n", "");
    let (_, a) = issued(&node);
    let made = done(&node, &["rotate"]);
    let b = made["key"]["kid"].as_str().unwrap();
    assert_eq!(made["key"]["waits_for"], "backup");
    let ready = made["key"]["ready_ms"].as_u64().unwrap();
    until("the propagation", || now() * 1_000 > ready);
    refused(&node, &["activate", b], "require_backup");
    assert_eq!(issued(&node).1, a);
    done(&node, &[&["backed-up", b], &WORDS[..]].concat());
    until("the rotation", || issued(&node).1 == b);
}

#[test]
fn a_key_that_is_brought_becomes_a_draft() {
    let mut node = start("", "");
    let (_, a) = issued(&node);
    assert_eq!(node.terminate().code(), Some(0));
    node.configure(|text| text.replace("signing.key", "brought.key"));
    let config = node.dir.path().join("edgate.toml");
    let made = std::process::Command::new(EDGATE).arg("init").arg(config).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    node.restart();
    assert_eq!(issued(&node).1, a, "the table rules");
    let b = states(&node).into_iter().find(|(_, state)| state == "draft").unwrap().0;
    assert_eq!(published(&node), set(&[&a, &b]));
    // It waits for an operator, and is published first.
    until("the activation", || command(&node, &["activate", &b]).status.success());
    assert_eq!(issued(&node).1, b);
}
