//! Legal holds and retirement, ordered from a running node.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Edgate, edgate, lines, until};

/// Fills the log's first segments: many decisions in one record.
fn fill(node: &Edgate, segments: usize) {
    let token = node.issuer.token("one-of-many");
    let body = json!({"tokens": vec![token; 256]});
    until("some segments to be finished", || {
        assert_eq!(node.verify(&body).status, 200);
        finished(&node.audit_dir()) >= segments
    });
}

fn finished(dir: &Path) -> usize {
    use std::os::unix::fs::PermissionsExt as _;
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "seg"))
        .filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o200 == 0))
        .count()
}

fn says(output: &std::process::Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn a_hold_keeps_segments_and_after_its_release_they_are_retired_on_record() {
    let kept = tempfile::tempdir().unwrap();
    let destination = kept.path().to_str().unwrap();
    let audit = format!("[audit.retention]\ndestination = {destination:?}\n");
    let mut node = Edgate::start_with("shards = 1", &audit);
    fill(&node, 3);
    let (dir, control) = (node.audit_dir(), format!("http://{}", node.control));
    let ask = |arguments: &[&str]| {
        let words = ["--authority", "counsel", "--reason", "case 7", "--control", &control, "--json"];
        edgate(&[&["audit"], arguments, &words[..]].concat(), b"")
    };
    let retire = || ask(&["retire", "--before", "2100-01-01T00:00:00Z"]);

    let held = ask(&["hold", "case-7", "--from", "2020-01-01T00:00:00Z"]);
    assert!(held.status.success(), "{held:?}");
    let refused = retire();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = says(&refused);
    assert_eq!((&said["retired"], &said["kept"]["segment"]), (&json!([]), &json!(1)), "{said}");
    assert!(said["kept"]["why"].to_string().contains("case-7"), "{said}");
    // Who asked, and what came of it, is on record.
    let acts = edgate(&["audit", "tail", "--json", "--kind", "admin", "--dir", dir.to_str().unwrap()], b"");
    let acts = lines(&acts);
    let outcome = &acts.last().unwrap()["body"];
    assert_eq!(
        (&outcome["action"], &outcome["actor"]),
        (&json!("audit-retire"), &json!("control:127.0.0.1"))
    );
    let detail = outcome["detail"].as_str().unwrap();
    assert!(detail.contains("segment 1 stays") && detail.contains("case-7"), "{outcome}");
    assert_eq!(acts[acts.len() - 2]["body"]["target"], outcome["target"]);
    // The same once more is the same; another of its name is refused.
    assert!(ask(&["hold", "case-7", "--from", "2020-01-01T00:00:00Z"]).status.success());
    assert_eq!(ask(&["hold", "case-7", "--from", "2021-01-01T00:00:00Z"]).status.code(), Some(2));
    assert_eq!(ask(&["release", "case-8"]).status.code(), Some(2));

    // A file that another hand emptied is noticed: the log remembers.
    let file = dir.join("holds");
    let holds = fs::read(&file).unwrap();
    fs::write(&file, "").unwrap();
    let refused = retire();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("does not have it"), "{refused:?}");
    fs::write(&file, holds).unwrap();

    assert!(ask(&["release", "case-7"]).status.success());
    // The record of the newest checkpoint may still be on its way.
    let mut retired = 0;
    until("the segments to be retired", || {
        let done = says(&retire());
        retired += done["retired"].as_array().unwrap().len();
        retired >= 2
    });
    assert!(!dir.join("0000000001.seg").exists() && kept.path().join("0000000001.arc").exists());
    let dir_text = dir.to_str().unwrap();
    let verified = edgate(&["audit", "verify", "--json", "--unrecorded", "--dir", dir_text], b"");
    let report = says(&verified);
    assert_eq!(report["valid"], true, "{report}");
    let notices = report["notices"].as_array().unwrap();
    let notice = notices.iter().find(|notice| notice["class"] == "retired").unwrap();
    assert!(notice["detail"].as_str().unwrap().contains("by counsel: case 7"), "{notice}");
    let online: Value = node.control_get("/v1/audit/verify-chain").json();
    assert_eq!(online["first_break"], Value::Null, "{online}");

    assert!(node.terminate().success());
    let whole = ["audit", "verify", "--json", "--unrecorded", "--dir", dir_text, "--archives", destination];
    let report = says(&edgate(&whole, b""));
    assert_eq!(report["valid"], true, "{report}");
    assert_eq!(report["records"], report["size"], "all of them: {report}");
    node.restart();
    node.terminate();
}

#[test]
fn the_policy_retires_by_itself_and_a_node_without_a_place_for_archives_refuses() {
    let kept = tempfile::tempdir().unwrap();
    let destination = kept.path().to_str().unwrap();
    let mut node = Edgate::start();
    fill(&node, 3);
    let control = format!("http://{}", node.control);
    let order = ["audit", "retire", "--before", "2100-01-01T00:00:00Z", "--authority", "a", "--reason", "b"];
    let refused = edgate(&[&order[..], &["--control", &control]].concat(), b"");
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("audit.retention.destination"), "{refused:?}");
    assert!(node.terminate().success());

    let config = fs::read_to_string(node.dir.path().join("edgate.toml")).unwrap();
    let policy = format!("segment_mib = 1\n[audit.retention]\nhot_days = 0\ndestination = {destination:?}\n");
    fs::write(node.dir.path().join("edgate.toml"), config.replacen("segment_mib = 1\n", &policy, 1)).unwrap();
    node.restart();
    until("the first segment to be retired", || !node.audit_dir().join("0000000001.seg").exists());
    assert!(kept.path().join("0000000001.arc").exists());
    assert!(node.terminate().success());
}
