//! The log's checkpoint key is replaced while tokens are verified.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use edgate::audit::{KeyHistory, own_keys};
use serde_json::{Value, json};

use crate::support::{Edgate, edgate, lines, until};

fn rotate(node: &Edgate) -> std::process::Output {
    let control = format!("http://{}", node.control);
    edgate(&["audit", "rotate-checkpoint-key", "--json", "--control", &control], b"")
}

/// Has the configuration name another key, and makes it.
fn name_next_key(node: &Edgate, name: &str) {
    node.configure(|text| {
        let edit = |line: &str| match line.split_once(" = ") {
            Some(("checkpoint_key_file", _)) => {
                format!("checkpoint_key_file = {:?}", node.dir.path().join(name).display().to_string())
            }
            _ => line.to_owned(),
        };
        text.lines().map(edit).collect::<Vec<_>>().join("\n") + "\n"
    });
    let made = edgate(&["init", node.dir.path().join("edgate.toml").to_str().unwrap()], b"");
    assert!(made.status.success(), "{made:?}");
}

fn verify(node: &Edgate, more: &[&str]) -> std::process::Output {
    let dir = node.audit_dir();
    edgate(&[&["audit", "verify", "--json", "--dir", dir.to_str().unwrap()], more].concat(), b"")
}

#[test]
fn the_checkpoint_key_is_replaced_under_load_and_the_log_verifies_across_it() {
    let mut node = Edgate::start_with("shards = 2", "receipts = true");
    let first = fs::read_to_string(node.audit_dir().join("checkpoint.key")).unwrap();
    let unchanged = rotate(&node);
    assert_eq!(unchanged.status.code(), Some(2), "{unchanged:?}");
    assert!(String::from_utf8_lossy(&unchanged.stderr).contains("still names the log's own checkpoint key"));

    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut accepted = 0;
            while !ended.load(Ordering::Relaxed) {
                let token = node.issuer.token(&format!("j-{accepted}"));
                let answer = node.verify(&json!({"token": token, "receipt": true})).json();
                assert_eq!(answer["valid"], true, "{answer}");
                accepted += 1;
            }
            accepted
        });
        let rotations = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for name in ["second.key", "third.key"] {
                name_next_key(&node, name);
                let rotated = rotate(&node);
                assert!(rotated.status.success(), "{rotated:?}");
                let keys = own_keys(&node.audit_dir()).unwrap();
                let (old, new) = (&keys[keys.len() - 2], &keys[keys.len() - 1]);
                assert_eq!(lines(&rotated)[0]["old"], old.to_text());
                assert_eq!(lines(&rotated)[0]["new"], new.to_text());
                // The next checkpoint is the new key's, and the node verifies what it has.
                let signed = || {
                    let note = fs::read_to_string(node.audit_dir().join("checkpoint")).unwrap();
                    edgate::audit::note::Checkpoint::open(&note, std::slice::from_ref(new)).is_ok()
                };
                until("a checkpoint by the new key", signed);
                let chain = node.control_get("/v1/audit/verify-chain").json();
                assert_eq!(chain["first_break"], Value::Null, "{chain}");
            }
        }));
        ended.store(true, Ordering::Relaxed);
        let accepted = load.join().unwrap();
        rotations.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(accepted > 0);
    });
    assert!(node.terminate().success());

    // With the key that was pinned first; with the last one; with what stands beside the log.
    let pinned = node.dir.path().join("pinned");
    for key in [first, own_keys(&node.audit_dir()).unwrap()[2].to_text()] {
        fs::write(&pinned, key).unwrap();
        let verified = verify(&node, &["--key", pinned.to_str().unwrap()]);
        assert!(verified.status.success(), "{verified:?}");
    }
    assert!(verify(&node, &[]).status.success());
    let dir = node.audit_dir().to_str().unwrap().to_owned();
    let rows = lines(&edgate(&["audit", "tail", "--kind", "key_rotate", "--json", "--dir", &dir], b""));
    let phases: Vec<&Value> = rows.iter().map(|row| &row["body"]["phase"]).collect();
    assert_eq!(phases, [&json!(0), &json!(1), &json!(0), &json!(1)], "before and after, twice");
    assert!(rows.iter().all(|row| row["body"]["what"] == "audit.checkpoint_key"));

    // The key of the configuration is the one that was named last, so it starts; an older one does not.
    node.restart();
    assert!(node.terminate().success());
    name_next_key(&node, "second.key");
    let (code, said) = node.refuses_to_start();
    assert_ne!(code, Some(0));
    assert!(said.contains("did not name the configured one"), "{said}");

    // A key that nobody cross-signed is refused by name, and so is the log that it signed.
    let path = node.audit_dir().join("checkpoint.key");
    let text = fs::read_to_string(&path).unwrap();
    let history = KeyHistory::parse(&text).unwrap();
    let (old, new) = (&history.handovers()[0].new, &history.handovers()[1].new);
    fs::write(&path, text.replace(&new.to_text(), &old.to_text())).unwrap();
    let refused = verify(&node, &[]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("handover 2"), "{refused:?}");
    fs::write(
        &path,
        text.replacen("edgate checkpoint key handover v1", "x", 1).split_once("\nx\n").unwrap().0,
    )
    .unwrap();
    let refused = verify(&node, &[]);
    assert!(!refused.status.success(), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stdout).contains("wrong-key"), "{refused:?}");
}
