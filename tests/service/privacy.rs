//! Personal data in the log: looked up by keyed tags, on record, a limited number of times.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::{Edgate, ISSUER, Issuer, edgate, until};

const ALICE: &str = "alice@example.com";

fn alice(edgate: &Edgate, jti: &str) -> String {
    let mut claims = Issuer::claims(jti);
    claims["sub"] = ALICE.into();
    edgate.issuer.sign(&claims)
}

/// Waits until everything recorded so far is covered by a checkpoint.
fn until_signed(dir: &Path, size: u64) {
    until("the records to be signed", || {
        let verified = edgate(&["audit", "verify", "--json", "--dir", dir.to_str().unwrap()], b"");
        let report: Value = serde_json::from_slice(&verified.stdout).unwrap();
        report["signed_size"].as_u64().unwrap_or(0) >= size
    });
}

/// `edgate audit tag` with the value on standard input.
fn look_up(dir: &Path, control: &str, field: &str, value: &str, more: &[&str]) -> Output {
    let what = ["audit", "tag", field, "-", "--json", "--dir", dir.to_str().unwrap(), "--control", control];
    edgate(&[&what[..], more].concat(), format!("{value}\n").as_bytes())
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn segments_hold(dir: &Path, text: &str) -> bool {
    let segments = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut segments = segments.filter(|path| path.extension().is_some_and(|extension| extension == "seg"));
    segments
        .any(|path| std::fs::read(path).unwrap().windows(text.len()).any(|window| window == text.as_bytes()))
}

#[test]
fn a_look_up_finds_a_persons_records_and_is_on_record_or_is_not_made() {
    let mut node = Edgate::start();
    for i in 0..5 {
        node.forward(&alice(&node, &format!("alice-{i}")));
        node.forward(&node.issuer.token(&format!("other-{i}")));
    }
    node.revoke(&json!({"kind": "subject", "name": ALICE, "issuer": ISSUER}));
    let (dir, control) = (node.audit_dir(), format!("http://{}", node.control));
    until_signed(&dir, 12);

    let found = look_up(&dir, &control, "subject", ALICE, &["--kind", "decision"]);
    assert!(found.status.success(), "{found:?}");
    let mut rows = lines(&found);
    let summary = rows.pop().unwrap();
    assert_eq!((&summary["found"], rows.len()), (&json!(5), 5), "{summary}");
    assert!(
        rows.iter()
            .all(|row| row["kind"] == "decision" && row["body"]["subject"] == rows[0]["body"]["subject"])
    );
    // The revocation of everything of hers, its intent and its outcome, carries the same tag.
    assert_eq!(lines(&look_up(&dir, &control, "subject", ALICE, &[])).last().unwrap()["found"], 7);
    let one = lines(&look_up(&dir, &control, "jti", "other-3", &[]));
    assert_eq!(one.last().unwrap()["found"], 1);
    // A value is looked for in its own field, and in the time asked for.
    assert_eq!(lines(&look_up(&dir, &control, "jti", ALICE, &[])).last().unwrap()["found"], 0);
    let before = look_up(&dir, &control, "subject", ALICE, &["--to", "2020-01-01T00:00:00Z"]);
    assert_eq!(lines(&before).last().unwrap()["found"], 0);
    assert_eq!(look_up(&dir, &control, "client", "not an address", &[]).status.code(), Some(2));
    let client = look_up(&dir, &control, "client", "127.0.0.1", &["--kind", "decision"]);
    assert_eq!(lines(&client).last().unwrap()["found"], 10);

    // The log says what was looked for, by its tag, and by whom; the value is nowhere.
    let tail = edgate(&["audit", "tail", "--kind", "admin", "--json", "--dir", dir.to_str().unwrap()], b"");
    let records = lines(&tail);
    assert_eq!(records[0]["id"], summary["record"]);
    let body = &records[0]["body"];
    assert_eq!((&body["action"], &body["target"]), (&json!("tag_lookup"), &json!("subject")));
    assert_eq!(body["detail"], rows[0]["body"]["subject"]);
    assert!(body["actor"].as_str().unwrap().starts_with("control:127.0.0.1, uid "), "{body}");
    assert!(!segments_hold(&dir, ALICE) && !segments_hold(&dir, "alice-1"));

    node.kill();
    let refused = look_up(&dir, &control, "subject", ALICE, &[]);
    assert_eq!((refused.status.code(), lines(&refused).len()), (Some(69), 0), "nobody to record it");
    let unrecorded = edgate(
        &[
            "audit",
            "tag",
            "subject",
            ALICE,
            "--unrecorded",
            "--kind",
            "decision",
            "--dir",
            dir.to_str().unwrap(),
        ],
        b"",
    );
    let said = String::from_utf8(unrecorded.stdout).unwrap();
    assert!(said.contains("not recorded") && said.contains("found     5 of"), "{said}");
}

#[test]
fn too_many_look_ups_are_refused_until_some_time_has_passed() {
    let node = Edgate::start();
    let body = |tag: &str| json!({"field": "subject", "tags": [tag], "uid": 0});
    let ask = |body: &Value| node.post(node.control, "/v1/audit/lookups", body);
    for bad in [
        body("00"),
        body(&"0G".repeat(16)),
        body(&"AB".repeat(16)),
        json!({"field": "name", "tags": ["00"], "uid": 0}),
    ] {
        assert_eq!(ask(&bad).status, 400);
    }
    let tag = "ab".repeat(16);
    for _ in 0..10 {
        assert_eq!(ask(&body(&tag)).status, 200);
    }
    let refused = ask(&body(&tag));
    assert_eq!((refused.status, &refused.json()["error"]), (429, &json!("too_many_lookups")));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=120).contains(&wait), "{wait}");

    let control = format!("http://{}", node.control);
    let refused = look_up(&node.audit_dir(), &control, "subject", ALICE, &[]);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(69), 0), "{refused:?}");
    let out = node.dir.path().join("alice.jsonl");
    let export =
        ["audit", "export", "--tag", "subject", "--out", out.to_str().unwrap(), "--control", &control];
    let dir = node.audit_dir();
    let refused = edgate(&[&export[..], &["--dir", dir.to_str().unwrap()]].concat(), ALICE.as_bytes());
    assert_eq!(refused.status.code(), Some(69), "an export by a value is a look-up");
    assert!(!out.exists());
}

#[test]
fn what_is_held_about_one_person_is_exported_and_complete() {
    let node = Edgate::start();
    for i in 0..5 {
        node.forward(&alice(&node, &format!("alice-{i}")));
        node.forward(&node.issuer.token(&format!("other-{i}")));
    }
    let (dir, control) = (node.audit_dir(), format!("http://{}", node.control));
    until_signed(&dir, 11);
    let (out, dir) = (node.dir.path().join("alice.jsonl"), dir.to_str().unwrap());
    let out = out.to_str().unwrap();
    let export =
        ["audit", "export", "--tag", "subject", "--out", out, "--control", &control, "--json", "--dir", dir];
    let made = edgate(&export, ALICE.as_bytes());
    assert!(made.status.success(), "{made:?}");
    let manifest: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!((&manifest["rows"], &manifest["not_searched"]["lost"]), (&json!(5), &json!([])));
    assert_eq!(manifest["filter"]["tags"].as_array().unwrap().len(), 1);
    assert!(manifest["lookup"].is_string() && manifest["record"].is_string(), "{manifest}");
    assert!(!made.stdout.windows(ALICE.len()).any(|window| window == ALICE.as_bytes()));
    // Whoever gets it needs no tag key to see that nothing is missing.
    let key = format!("{dir}/checkpoint.key");
    let verified = edgate(&["audit", "verify-export", out, "--key", &key, "--dir", dir], b"");
    assert!(verified.status.success(), "{verified:?}");
}
