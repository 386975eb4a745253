//! Bodies dropped by an authority, through the running node alone.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::{Edgate, edgate, lines, until};

fn audit(command: &str, dir: &Path, more: &[&str]) -> Output {
    edgate(&[&["audit", command, "--json", "--dir", dir.to_str().unwrap()], more].concat(), b"")
}

fn report(dir: &Path) -> Value {
    lines(&audit("verify", dir, &[])).pop().unwrap()
}

fn decisions(dir: &Path) -> Vec<Value> {
    lines(&audit("tail", dir, &["--kind", "decision", "-n", "1000"]))
}

/// `edgate audit erase` of these records.
fn erase(node: &Edgate, records: &[&str], more: &[&str], input: &[u8]) -> Output {
    let control = format!("http://{}", node.control);
    let who = ["--authority", "privacy officer", "--reason", "request 7", "--json", "--control", &control];
    edgate(&[&["audit", "erase"], records, &who, more].concat(), input)
}

#[test]
fn an_authority_erases_and_the_log_says_so() {
    let mut node = Edgate::start();
    for i in 0..80 {
        node.forward(&node.issuer.token(&format!("t{i}")));
    }
    let dir = node.audit_dir();
    until("the decisions to be signed", || report(&dir)["signed_size"].as_u64().unwrap_or(0) > 80);
    let before = decisions(&dir);
    let id = |at: usize| before[at]["id"].as_str().unwrap();
    // What stands in the segment that is being written waits for the next one.
    let early = erase(&node, &[id(3)], &[], b"");
    assert_eq!(early.status.code(), Some(2), "{early:?}");
    let said = String::from_utf8(early.stderr).unwrap();
    assert!(
        said.contains("the segment that is being written") && said.contains("nothing was erased"),
        "{said}"
    );
    assert_eq!(node.terminate().code(), Some(0));
    // Nobody else may write into the log.
    let offline = erase(&node, &[id(3)], &[], b"");
    assert_eq!(offline.status.code(), Some(69), "{offline:?}");
    assert!(String::from_utf8(offline.stderr).unwrap().contains("only the running node may write"));
    node.restart();

    let by_number = before[4]["seq"].to_string();
    let first = erase(&node, &[id(3), &by_number, id(3)], &[], b"");
    assert!(first.status.success(), "{first:?}");
    let first = lines(&first).pop().unwrap();
    assert_eq!(first["erased"], json!([before[3]["seq"], before[4]["seq"]]));
    // The rest from a file, in two calls; what is gone already is no mistake.
    let all: String = before[..75].iter().map(|row| format!("{}\n", row["id"].as_str().unwrap())).collect();
    let many = lines(&erase(&node, &[], &["--from", "-"], all.as_bytes()));
    let count = |name: &str| many.iter().map(|answer| answer[name].as_array().unwrap().len()).sum::<usize>();
    assert_eq!((many.len(), count("erased"), count("already_erased")), (2, 73, 2));
    for (records, said) in [
        (vec!["0"], "is of kind segment_open"),
        (vec!["999999999"], "has no record"),
        (vec![id(77), "0"], "nothing was erased"),
    ] {
        let refused = erase(&node, &records, &[], b"");
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(String::from_utf8(refused.stderr).unwrap().contains(said), "{records:?}");
    }
    assert_eq!(erase(&node, &["person"], &[], b"").status.code(), Some(2));
    let nobody = json!({"records": [id(77)], "authority": " ", "reason": "x"});
    assert_eq!(node.post(node.control, "/v1/audit/erasures", &nobody).status, 400);

    until("the outcome to be signed", || report(&dir)["redacted"] == 75);
    let whole = report(&dir);
    assert_eq!(
        (&whole["valid"], &whole["notices"][0]["class"]),
        (&json!(true), &json!("unsealed")),
        "{whole}"
    );
    let chain = node.control_get("/v1/audit/verify-chain").json();
    assert_eq!(chain["valid"], true, "{chain}");
    let after = decisions(&dir);
    for (was, is) in before.iter().zip(&after) {
        let at = was["seq"].as_u64();
        let erased = before[..75].iter().any(|row| row["seq"].as_u64() == at);
        assert_eq!(is["redacted"] == true, erased);
        assert_eq!((&is["event_hash"], &is["id"]), (&was["event_hash"], &was["id"]));
        assert_eq!(is["body"] == was["body"], !erased);
    }
    // Who ordered it, and what came of it.
    let orders = lines(&audit("tail", &dir, &["--kind", "erase", "-n", "1000"]));
    let named: BTreeSet<_> = orders.iter().map(|row| row["body"]["seq"].as_u64().unwrap()).collect();
    assert_eq!((named.len(), &orders[0]["body"]["authority"]), (75, &json!("privacy officer")));
    let acts = lines(&audit("tail", &dir, &["--kind", "admin"]));
    assert_eq!(acts.last().unwrap()["body"]["action"], "audit-erase");
    assert_eq!(first["id"], acts[1]["id"]);
    let person = edgate(&["audit", "verify", "--dir", dir.to_str().unwrap()], b"");
    assert!(String::from_utf8(person.stdout).unwrap().contains("redacted, authorised  75 bodies"));
    let shown =
        edgate(&["audit", "tail", "--kind", "decision", "--dir", dir.to_str().unwrap(), "-n", "79"], b"");
    assert!(String::from_utf8(shown.stdout).unwrap().contains("[erased by privacy officer]"));

    // The next starts do not mind.
    node.kill();
    node.restart();
    assert_eq!(node.terminate().code(), Some(0));
    assert_eq!((&report(&dir)["valid"], &report(&dir)["redacted"]), (&json!(true), &json!(75)));
}

#[test]
fn no_hold_is_placed_and_no_key_destroyed_while_bodies_are_being_erased() {
    let node = Edgate::start();
    for i in 0..20 {
        node.forward(&node.issuer.token(&format!("t{i}")));
    }
    let dir = node.audit_dir();
    // Another epoch begins with another segment; so what stands in the first can be erased.
    assert_eq!(node.post(node.control, "/v1/audit/tag-keys", &json!({})).status, 200);
    node.forward(&node.issuer.token("later"));
    let decided = decisions(&dir);
    let id = decided[3]["id"].clone();
    let order = json!({"records": [id], "authority": "privacy officer", "reason": "request 7"});
    let hold = json!({"name": "case-7", "from_ns": 1, "authority": "counsel", "reason": "case 7"});
    let words = json!({"authority": "privacy officer", "reason": "request 8"});
    let list = dir.join("erasing");
    std::thread::scope(|scope| {
        let erased = scope.spawn(|| {
            until("the erasure to be taken", || {
                node.post(node.control, "/v1/audit/erasures", &order).status == 200
            });
        });
        until("the erasure to begin", || list.exists() || erased.is_finished());
        let destroyed = scope.spawn(|| {
            let answer = node.post(node.control, "/v1/audit/tag-keys/1/destroy", &words).status;
            (answer, list.exists())
        });
        let answer = node.post(node.control, "/v1/audit/holds", &hold);
        assert_eq!((answer.status, list.exists()), (200, false), "the hold is answered behind the erasure");
        let (status, erasing) = destroyed.join().unwrap();
        assert!((status == 200 || status == 400) && !erasing, "{status}, still erasing: {erasing}");
    });
    // From now on everything is held.
    let other = json!({"records": [decided[4]["id"]], "authority": "privacy officer", "reason": "request 9"});
    let refused = node.post(node.control, "/v1/audit/erasures", &other);
    assert_eq!(refused.status, 400);
    assert_eq!(report(&dir)["redacted"], 1);
}
