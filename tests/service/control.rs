//! Issue, revoke, look: the control listener and what the data listener makes of it.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{Edgate, Issuer, edgate, until, until_signed};

fn issue(edgate: &Edgate) -> Value {
    let asked = json!({"agent_id": "a-1", "scope": ["orders.create"], "ttl": 120});
    let response = edgate.post(edgate.control, "/v1/tokens", &asked);
    assert_eq!(response.status, 201, "{}", response.body);
    response.json()
}

#[test]
fn an_issued_token_passes_until_it_is_revoked() {
    let edgate = Edgate::start_with("shards = 2", "");
    let issued = issue(&edgate);
    let (token, id) = (issued["token"].as_str().unwrap(), issued["id"].as_str().unwrap());
    let answer = edgate.verify(&json!({"token": token})).json();
    assert_eq!((&answer["valid"], &answer["agent"]), (&json!(true), &json!("a-1")));
    assert!((115..=120).contains(&answer["remaining_ttl"].as_u64().unwrap()));

    let revoked = edgate.post(edgate.control, &format!("/v1/tokens/{id}/revoke"), &json!({"reason": "test"}));
    assert_eq!(revoked.status, 200, "{}", revoked.body);
    // From the moment the call answered, on every connection and so on every shard.
    for _ in 0..20 {
        assert_eq!(edgate.forward(token).status, 401);
    }
    assert_eq!(edgate.refused("revoked"), 20.0);
    let again = edgate.post(edgate.control, &format!("/v1/tokens/{id}/revoke"), &json!({}));
    assert_eq!((again.status, &again.json()["already_revoked"]), (200, &json!(true)));
}

#[test]
fn a_revocation_survives_a_kill() {
    let mut edgate = Edgate::start();
    let token = edgate.issuer.token("gone");
    let path = "/v1/tokens/gone/revoke";
    let revoked = edgate.post(edgate.control, path, &json!({"issuer": crate::support::ISSUER}));
    assert_eq!(revoked.status, 200, "{}", revoked.body);
    edgate.kill();
    edgate.restart();
    assert_eq!(edgate.forward(&token).status, 401);
    assert_eq!(edgate.refused("revoked"), 1.0);
    assert_eq!(edgate.forward(&edgate.issuer.token("other")).status, 200);
}

#[test]
fn the_chain_verifies_while_the_daemon_runs() {
    let edgate = Edgate::start();
    for i in 0..50 {
        edgate.forward(&edgate.issuer.token(&format!("t{i}")));
    }
    let response = edgate.control_get("/v1/audit/verify-chain");
    assert_eq!(response.status, 200, "{}", response.body);
    let report = response.json();
    assert!(report["records"].as_u64().unwrap() > 50, "{report}");
    assert_eq!(report["valid"], true, "{report}");
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let edgate = Edgate::start();
    edgate.forward(&edgate.issuer.token("a"));
    edgate.forward("junk");
    let text = edgate.control_get("/metrics").body;
    for line in [
        "edgate_decisions_total{decision=\"accepted\",reason=\"accepted\"} 1",
        "edgate_decisions_total{decision=\"rejected\",reason=\"token_malformed\"} 1",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    assert!(text.trim_end().ends_with("# EOF"));
}

#[test]
fn the_command_line_verifies_what_the_server_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let issuer = Issuer::new(3);
    let jwks = dir.path().join("jwks.json");
    std::fs::write(&jwks, issuer.jwks().to_string()).unwrap();
    let jwks = jwks.to_str().unwrap();
    let flags = [
        "token",
        "verify",
        "--jwks",
        jwks,
        "--issuer",
        crate::support::ISSUER,
        "--audience",
        "orders",
        "--profile",
        "att+jwt",
    ];
    let good = issuer.token("a");
    let mut expired = Issuer::claims("b");
    expired["exp"] = json!(1);
    expired["iat"] = json!(0);
    expired["nbf"] = json!(0);
    let lines = [
        json!({"token": good}).to_string(),
        json!({"token": issuer.sign(&expired)}).to_string(),
        "not json".to_owned(),
        json!({"token": "a.b"}).to_string(),
    ]
    .join("\n");
    let output = edgate(&[&flags[..], &["--json", "--jsonl", "-"]].concat(), lines.as_bytes());
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let results = crate::support::lines(&output);
    let reasons: Vec<&str> = results.iter().map(|result| result["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["accepted", "expired", "line_not_json", "token_malformed"]);
    assert_eq!(results[0]["claims"]["jti"], "a");
    assert_eq!(results[0]["kid"], issuer.kid.as_str());
    assert!(results[1]["claims"].is_null());

    assert_eq!(edgate(&[&flags[..], &[good.as_str()]].concat(), b"").status.code(), Some(0));
    assert_eq!(edgate(&[&flags[..], &["--now", "1", good.as_str()]].concat(), b"").status.code(), Some(1));
    let missing = [&flags[..2], &["--jwks", "/nowhere"], &flags[4..], &[good.as_str()]].concat();
    assert_eq!(edgate(&missing, b"").status.code(), Some(2));
}

#[test]
fn raw_signatures_are_verified_line_by_line() {
    use ed25519_dalek::Signer;
    let key = ed25519_dalek::SigningKey::from_bytes(&[9; 32]);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (public_key, message) = (hex(key.verifying_key().as_bytes()), hex(b"hello"));
    let signature = hex(&key.sign(b"hello").to_bytes());
    let lines = [
        json!({"public_key": public_key, "message": message, "signature": signature}).to_string(),
        json!({"public_key": public_key, "message": "00", "signature": signature}).to_string(),
        json!({"public_key": "00", "message": message, "signature": signature}).to_string(),
        json!({"public_key": public_key, "message": message, "signature": "zz"}).to_string(),
        json!({"public_key": public_key, "message": message}).to_string(),
        "{".to_owned(),
    ]
    .join("\n");
    let output = edgate(&["signature", "verify", "--json"], lines.as_bytes());
    assert_eq!(output.status.code(), Some(1));
    let reasons: Vec<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["reason"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        reasons,
        ["accepted", "signature_mismatch", "key_malformed", "not_hex", "member_missing", "line_not_json"]
    );
    assert_eq!(
        edgate(&["signature", "verify"], lines.lines().next().unwrap().as_bytes()).status.code(),
        Some(0)
    );
    assert_eq!(edgate(&["signature", "verify", "/nowhere"], b"").status.code(), Some(2));
}

#[test]
fn inspect_shows_a_token_and_says_that_it_is_not_verified() {
    let token = Issuer::new(3).token("a");
    let output = edgate(&["token", "inspect", "--json", &token], b"");
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&shown["verified"], &shown["payload"]["jti"]), (&json!(false), &json!("a")));
    let human = edgate(&["token", "inspect", &token], b"");
    assert!(String::from_utf8(human.stdout).unwrap().starts_with("NOT VERIFIED"));
    assert_eq!(edgate(&["token", "inspect", "x"], b"").status.code(), Some(2));
}

#[test]
fn an_export_is_on_record_or_is_not_made() {
    let mut edgate = Edgate::start();
    for i in 0..20 {
        edgate.forward(&edgate.issuer.token(&format!("t{i}")));
        edgate.forward("junk");
    }
    until_signed(&edgate.audit_dir(), 42);
    let dir = edgate.audit_dir();
    let dir = dir.to_str().unwrap();
    let (out, manifest) = (edgate.dir.path().join("o.csv"), edgate.dir.path().join("o.csv.manifest.json"));
    let control = format!("http://{}", edgate.control);
    let export = || {
        let out = out.to_str().unwrap();
        let what = ["audit", "export", "--decision", "token_malformed", "--format", "csv", "--json"];
        crate::support::edgate(
            &[&what[..], &["--dir", dir, "--out", out, "--control", &control]].concat(),
            b"",
        )
    };
    let made = export();
    assert!(made.status.success(), "{made:?}");
    let said: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!((&said["rows"], &said["counts"]["decisions"]["accepted"]), (&json!(20), &json!(20)));

    // The log says what left it.
    let tail = crate::support::edgate(&["audit", "tail", "--kind", "export", "--json", "--dir", dir], b"");
    let record: Value = serde_json::from_slice(&tail.stdout).unwrap();
    assert_eq!(record["id"], said["record"]);
    let mut manifest_before = said;
    (manifest_before["record"], manifest_before["proof"]) = (Value::Null, Value::Null);
    let digest = edgate::audit::hex(&Sha256::digest(format!("{manifest_before:#}\n")));
    assert_eq!((&record["body"]["rows"], &record["body"]["digest"]), (&json!(20), &json!(digest)));
    assert_eq!(record["body"]["filter"], r#"{"decision":"token_malformed"}"#);

    let bad = json!({"filter": "{}", "rows": 1, "sha256": "00"});
    assert_eq!(edgate.post(edgate.control, "/v1/audit/exports", &bad).status, 400);
    std::fs::remove_file(&out).unwrap();
    std::fs::remove_file(&manifest).unwrap();
    edgate.kill();
    assert_eq!(export().status.code(), Some(69), "nobody to record it");
    assert!(!out.exists() && !manifest.exists() && !edgate.dir.path().join("o.csv.partial").exists());
}

#[test]
fn a_drill_on_the_log_of_a_running_node_is_on_record_with_its_digest() {
    let mut edgate = Edgate::start();
    for n in 0..20 {
        edgate.forward(&edgate.issuer.token(&format!("t{n}")));
    }
    let dir = edgate.audit_dir();
    let dir = dir.to_str().unwrap();
    let control = format!("http://{}", edgate.control);
    let drill =
        || crate::support::edgate(&["audit", "drill", "--json", "--dir", dir, "--control", &control], b"");
    let said = |output: &std::process::Output| serde_json::from_slice::<Value>(&output.stdout).unwrap();
    until("enough of the log to be signed", || {
        let verified =
            crate::support::edgate(&["audit", "verify", "--json", "--unrecorded", "--dir", dir], b"");
        said(&verified)["signed_size"].as_u64() > Some(20)
    });
    let drilled = drill();
    assert_eq!(drilled.status.code(), Some(0), "{drilled:?}");
    let report = said(&drilled);
    let tail = crate::support::edgate(&["audit", "tail", "--kind", "admin", "--json", "--dir", dir], b"");
    let text = String::from_utf8(tail.stdout).unwrap();
    let record: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&record["id"], &record["body"]["action"]), (&report["record"], &json!("audit.drill")));
    assert_eq!(record["body"]["target"], report["sha256"]);
    assert!(record["body"]["detail"].as_str().unwrap().contains("cases caught"), "{record}");

    // The node believes no report of another kind, another log, or without a digest.
    let good =
        json!({"origin": "test.example/log", "report": "drill", "summary": "s", "sha256": "ab".repeat(32)});
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        edgate.post(edgate.control, "/v1/audit/reports", &body).status
    };
    assert_eq!(with("summary", json!("s")), 200);
    assert_eq!(with("origin", json!("other.example/log")), 409);
    assert_eq!(with("dir", json!("/")), 409);
    assert_eq!(with("report", json!("weather")), 400);
    assert_eq!(with("sha256", json!("AB".repeat(32))), 400);
    edgate.kill();
    let alone = drill();
    assert_eq!((alone.status.code(), &said(&alone)["record"]), (Some(0), &Value::Null), "{alone:?}");
}

#[test]
fn what_the_doctor_says_of_a_running_nodes_disk_is_on_record() {
    let mut edgate = Edgate::start();
    edgate.forward(&edgate.issuer.token("t"));
    let dir = edgate.audit_dir();
    until("a checkpoint", || dir.join("checkpoint").exists());
    let config = edgate.dir.path().join("at.toml");
    let text = std::fs::read_to_string(edgate.dir.path().join("edgate.toml")).unwrap();
    let at = format!("[control]\nlisten = \"{}\"", edgate.control);
    std::fs::write(&config, text.replace("[control]\nlisten = \"127.0.0.1:0\"", &at)).unwrap();
    let doctor = || {
        let config = config.to_str().unwrap();
        let output = crate::support::edgate(&["audit", "doctor", "--json", "--config", config], b"");
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        // Whether this machine's disk is fit is not what is asked here.
        let code = if said["fit"] == true { 0 } else { 1 };
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        said
    };
    let said = doctor();
    assert_eq!(said["folder"], json!(dir.canonicalize().unwrap()));
    assert_eq!(said["measured"]["signature"]["count"], 50, "{said}");
    let dir = dir.to_str().unwrap();
    let tail = crate::support::edgate(&["audit", "tail", "--kind", "admin", "--json", "--dir", dir], b"");
    let text = String::from_utf8(tail.stdout).unwrap();
    let record: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&record["id"], &record["body"]["action"]), (&said["record"], &json!("audit.doctor")));
    assert_eq!((&record["body"]["target"], &record["body"]["detail"]), (&said["sha256"], &said["sentence"]));
    edgate.kill();
    assert_eq!(doctor()["record"], Value::Null);
}

#[test]
fn a_verification_of_the_nodes_log_is_on_record_and_ends_as_it_would_without_a_node() {
    let mut edgate = Edgate::start();
    edgate.forward(&edgate.issuer.token("t"));
    let (dir, state) = (edgate.audit_dir(), edgate.dir.path().join("state"));
    let (dir, state) = (dir.to_str().unwrap(), state.to_str().unwrap());
    let config = edgate.dir.path().join("at.toml");
    let address =
        |text: String| text.replace("listen = \"127.0.0.1:0\"", &format!("listen = \"{}\"", edgate.control));
    std::fs::write(&config, address(std::fs::read_to_string(edgate.dir.path().join("edgate.toml")).unwrap()))
        .unwrap();
    let verify = |more: &[&str]| {
        crate::support::edgate(&[&["audit", "verify", "--json", "--dir", dir], more].concat(), b"")
    };
    let report = |output: &std::process::Output| serde_json::from_slice::<Value>(&output.stdout).unwrap();
    let control = format!("http://{}", edgate.control);
    until("a checkpoint", || report(&verify(&["--unrecorded"]))["signed_size"].as_u64() > Some(0));
    let runs = || {
        let tail =
            crate::support::edgate(&["audit", "tail", "--kind", "verify_run", "--json", "--dir", dir], b"");
        let text = String::from_utf8(tail.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    assert!(runs().is_empty(), "these were asked not to be on record");

    for (mode, more) in [
        ("full", &["--control", &control][..]),
        ("quick", &["--quick", "--config", config.to_str().unwrap()]),
        ("range", &["--range", "2..4", "--control", &control]),
        ("full", &["--state", state, "--control", &control]),
        ("full", &["--state", state, "--control", &control]),
    ] {
        let verified = verify(more);
        let said = report(&verified);
        assert_eq!((verified.status.code(), &said["valid"]), (Some(0), &json!(true)), "{verified:?}");
        let last = runs().pop().unwrap();
        assert_eq!((&last["id"], &last["body"]["mode"]), (&said["record"], &json!(mode)), "{last}");
        assert_eq!(last["body"]["records"], said["records"]);
        assert_eq!(last["body"]["breaks"], 0);
    }
    assert_eq!(runs().len(), 5);
    assert_eq!(runs()[2]["body"]["from_seq"], 2);

    // The node believes no mode, class or log that there is not.
    let run = json!({"origin": "test.example/log", "mode": "full", "from": 0, "records": 1, "breaks": 0});
    let with = |name: &str, value: Value| {
        let mut run = run.clone();
        run[name] = value;
        edgate.post(edgate.control, "/v1/audit/verify-runs", &run).status
    };
    assert_eq!(with("dir", json!(dir)), 200);
    assert_eq!(with("dir", json!("/")), 409);
    assert_eq!(with("origin", json!("other.example/log")), 409);
    assert_eq!(with("mode", json!("deep")), 400);
    assert_eq!(with("breaks", json!(1)), 400);
    assert_eq!(with("first_class", json!("deleted")), 400);
    assert_eq!(with("first_class", json!("whatever")), 400);
    assert_eq!(with("what", json!(1)), 400);

    // Damage is on record too, and the exit code is its own.
    let broken = verify(&["--key", "/dev/null", "--control", &control]);
    assert_eq!(broken.status.code(), Some(12), "{broken:?}");
    assert_eq!(runs().pop().unwrap()["body"]["first_class"], "unsigned");
    edgate.kill();
    let alone = verify(&["--control", &control]);
    let said = String::from_utf8_lossy(&alone.stderr);
    assert!(said.contains("not on record") && said.contains("nothing listens"), "{said}");
    assert_eq!((alone.status.code(), &report(&alone)["record"]), (Some(0), &Value::Null));
}
