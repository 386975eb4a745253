//! Receipts: what a caller keeps of an answer, and what it shows about the log afterwards.

use std::fs;

use edgate::audit::proof::Expected;
use edgate::audit::receipt::Receipt;
use edgate::audit::{CheckpointKey, RecordId};
use serde_json::{Value, json};

use crate::support::{Edgate, edgate, until};

fn key(node: &Edgate) -> CheckpointKey {
    CheckpointKey::from_text(&fs::read_to_string(node.audit_dir().join("checkpoint.key")).unwrap()).unwrap()
}

fn open(node: &Edgate, answer: &Value) -> Receipt {
    let keys = [key(node)];
    let id: RecordId = answer["decision_id"].as_str().unwrap().parse().unwrap();
    let expected = Expected { keys: &keys, origin: Some("test.example/log"), id: Some(id) };
    Receipt::open(answer["receipt"].as_str().unwrap_or_else(|| panic!("{answer}")), &expected).unwrap()
}

/// A node that gives receipts, once it has a key for them.
fn node(audit: &str) -> Edgate {
    let node = Edgate::start_with("shards = 1", &format!("receipts = true\n{audit}"));
    let ask = json!({"token": node.issuer.token("first"), "receipt": true});
    until("a key of receipts", || node.verify(&ask).json()["receipt"].is_string());
    node
}

#[test]
fn an_answer_carries_a_receipt_that_the_log_keeps_and_a_cut_log_does_not() {
    for audit in ["", "verify_ack = \"durable\""] {
        let mut node = node(audit);
        let token = node.issuer.token("j-1");
        let good = node.verify(&json!({"token": token, "receipt": true}));
        let bad = node.verify(&json!({"token": "x.y.z", "receipt": true}));
        let many = node.verify(&json!({"tokens": [token, "x", token], "claims": true, "receipt": true}));
        assert_eq!(
            (good.json()["valid"].as_bool(), bad.json()["valid"].as_bool()),
            (Some(true), Some(false))
        );
        assert_eq!(many.json()["results"].as_array().unwrap().len(), 3);
        // Those who do not ask see no difference.
        assert!(node.verify(&json!({"token": token})).json().get("receipt").is_none());
        let receipts = [&good, &bad, &many].map(|answer| open(&node, &answer.json()));
        // What is promised is durable when it is promised, whatever others wait for.
        node.kill();
        let dir = node.audit_dir();
        for receipt in &receipts {
            receipt.find_in(&dir, None).unwrap().expect("the record is in the log");
        }

        // A stranger with the answer, the key and a copy of the log.
        let (dir, key) = (dir.to_str().unwrap(), key(&node).to_text());
        let check = |more: &[&str]| {
            let arguments = [&["audit", "verify-receipt", "-", "--json", "--key", &key], more].concat();
            edgate(&arguments, many.body.as_bytes())
        };
        let kept = check(&["--dir", dir]);
        assert_eq!(kept.status.code(), Some(0), "{kept:?}");
        let said: Value = serde_json::from_slice(&kept.stdout).unwrap();
        assert_eq!((said["kind"].as_str(), said["seq"].is_u64()), (Some("decision_batch"), true), "{said}");
        assert_eq!(check(&["--id", good.json()["decision_id"].as_str().unwrap()]).status.code(), Some(27));
        assert_eq!(check(&["--origin", "other.example/log"]).status.code(), Some(11));

        // The insider's copy ends before the promised record, and is whole in itself.
        let last = receipts.iter().map(|receipt| receipt.id.core_seq).min().unwrap();
        let cut = node.dir.path().join("cut");
        fs::create_dir(&cut).unwrap();
        // The first segment is of `edgate init`.
        fs::copy(node.audit_dir().join("0000000001.seg"), cut.join("0000000001.seg")).unwrap();
        let bytes = fs::read(node.audit_dir().join("0000000002.seg")).unwrap();
        fs::write(cut.join("0000000002.seg"), &bytes[..begin_of(&bytes, last)]).unwrap();
        let convicted = check(&["--dir", cut.to_str().unwrap()]);
        assert_ne!(convicted.status.code(), Some(0), "{convicted:?}");
        assert_eq!(receipts[2].find_in(&cut, None).unwrap().unwrap_err().class.name(), "rollback");
    }
}

/// Where the record of the first shard with this number begins.
fn begin_of(segment: &[u8], core_seq: u64) -> usize {
    use edgate::audit::record::{Header, stored_len};
    let mut at = 0;
    loop {
        let header = Header::parse(segment[at..].first_chunk().unwrap()).unwrap();
        if (header.core, header.core_seq) == (0, core_seq) {
            return at;
        }
        at += stored_len(header.body_len as usize);
    }
}

#[test]
fn receipt_and_proof_are_about_the_same_record() {
    let mut node = node("");
    let first = node.verify(&json!({"token": node.issuer.token("a"), "receipt": true}));
    let second = node.verify(&json!({"token": node.issuer.token("b"), "receipt": true}));
    assert!(node.terminate().success());
    let dir = node.audit_dir();
    let id = first.json()["decision_id"].as_str().unwrap().to_owned();
    let proof = edgate(&["audit", "prove", &id, "--dir", dir.to_str().unwrap()], b"");
    assert!(proof.status.success(), "{proof:?}");
    let (file, key) = (node.dir.path().join("proof"), key(&node).to_text());
    fs::write(&file, &proof.stdout).unwrap();
    let check = |answer: &str| {
        let path = file.to_str().unwrap();
        edgate(&["audit", "verify-receipt", "-", "--key", &key, "--proof", path], answer.as_bytes())
    };
    let kept = check(&first.body);
    assert_eq!(kept.status.code(), Some(0), "{kept:?}");
    assert!(
        String::from_utf8_lossy(&kept.stdout).contains("kept    the proof shows it as record"),
        "{kept:?}"
    );
    assert_eq!(check(&second.body).status.code(), Some(27));
    assert_eq!(check("{}").status.code(), Some(2));
}

#[test]
fn a_node_without_receipts_says_null() {
    let node = Edgate::start();
    let token = node.issuer.token("j");
    for ask in [json!({"token": token, "receipt": true}), json!({"tokens": [token], "receipt": true})] {
        let answer = node.verify(&ask);
        assert_eq!((answer.status, &answer.json()["receipt"]), (200, &Value::Null), "{}", answer.body);
    }
    assert_eq!(node.verify(&json!({"token": token, "receipt": "yes"})).status, 400);
}
