//! A built node and its witness: each checkpoint is cosigned, and a log that is not the one that was cosigned is never
//! gone on with.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

#[path = "support/witness.rs"]
mod witness;

use std::fs;
use std::path::{Path, PathBuf};

use edgate::audit::CheckpointKey;
use serde_json::json;
use support::{Edgate, edgate, until};
use witness::{Wire, Witness, WitnessFolder};

/// A node, its witness, and the wire between them.
struct Pair {
    node: Edgate,
    folder: WitnessFolder,
    witness: Option<Witness>,
    wire: Wire,
    log: CheckpointKey,
}

impl Pair {
    /// Both run; `audit` are further settings.
    fn new(audit: &str) -> Self {
        let mut node = Edgate::start();
        // A log that never had a checkpoint cannot be asked about.
        until("it has a checkpoint", || node.audit_dir().join("checkpoint").exists());
        node.kill();
        let log = fs::read_to_string(node.audit_dir().join("checkpoint.key")).unwrap();
        let log = CheckpointKey::from_text(&log).unwrap();
        let folder = WitnessFolder::new();
        let witness = folder.start(&log, "127.0.0.1:0", &[]);
        let wire = Wire::to(witness.at);
        let (at, key) = (wire.at, folder.key.to_text());
        node.configure(|text| {
            let table = format!(
                "{audit}\n[[audit.witness]]\nkey = {key:?}\nurl = \"http://{at}\"\ntimeout_ms = 2000\n[signing]"
            );
            text.replace("[signing]", &table)
        });
        node.restart();
        Self { node, folder, witness: Some(witness), wire, log }
    }

    fn stop_witness(&mut self) -> String {
        self.witness.take().unwrap().at.to_string()
    }

    fn start_witness(&mut self, at: &str) {
        self.witness = Some(self.folder.start(&self.log, at, &[]));
    }

    /// Makes the log longer, and waits until the witness has cosigned that.
    fn anchored(&self) -> u64 {
        let before = self.node.metric("audit_records");
        self.node.forward("nonsense");
        until("the witness cosigns what was added", || self.node.metric("audit_witnessed_records") > before);
        fs::read_dir(self.node.audit_dir())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "anchor"))
            .count() as u64
    }

    /// Ends the node; its log's folder, and an older image of it. The witness has cosigned both.
    fn outgrown(&mut self) -> (PathBuf, PathBuf) {
        let (audit, image) = (self.node.audit_dir(), self.node.audit_dir().with_file_name("image"));
        self.anchored();
        self.node.kill();
        copy(&audit, &image);
        self.node.restart();
        self.anchored();
        self.node.kill();
        (audit, image)
    }

    fn witness_state(&self) -> (u16, String) {
        let ready = self.node.control_get("/readyz");
        let answer = ready.json();
        let all = answer["dependencies"].as_array().unwrap().clone();
        let own = all.iter().find(|one| one["name"] == "witness").unwrap();
        (ready.status, own["detail"].as_str().unwrap().to_owned())
    }
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Fault 18: yesterday's disk image, with everything in it, is refused; and stays refused when nobody can be asked.
#[test]
fn a_node_restored_from_yesterdays_image_is_refused_as_rolled_back() {
    let mut pair = Pair::new("");
    assert_eq!(pair.anchored(), 1, "one witness, one anchor");
    let (status, detail) = pair.witness_state();
    assert_eq!(status, 200, "{detail}");
    assert!(detail.starts_with("w.example: ") && detail.contains(" records cosigned "), "{detail}");
    assert!(pair.node.metric("audit_anchor_age_seconds") >= 0.0);

    let (audit, image) = (pair.node.audit_dir(), pair.node.audit_dir().with_file_name("image"));
    pair.node.kill();
    copy(&audit, &image);
    pair.node.restart();
    pair.anchored();
    let anchor = fs::read_dir(&audit)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "anchor"))
        .unwrap();
    let kept = audit.with_file_name("kept");
    fs::copy(&anchor, &kept).unwrap();
    pair.node.kill();
    // The anchors are on record, and the log continues what was cosigned.
    let tail = edgate(&["audit", "tail", "--dir", audit.to_str().unwrap(), "--kind", "anchor"], b"");
    assert!(String::from_utf8_lossy(&tail.stdout).contains("witness"), "{tail:?}");
    let verify = |dir: &Path| {
        let (dir, kept, key) = (dir.to_str().unwrap(), kept.to_str().unwrap(), pair.folder.key.to_text());
        edgate(&["audit", "verify", "--dir", dir, "--anchor", kept, "--witness", &key], b"")
    };
    let verified = verify(&audit);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");

    copy(&image, &audit);
    assert_eq!(verify(&audit).status.code(), Some(25));
    let before = fs::read_dir(&audit).unwrap().count();
    let (code, said) = pair.node.refuses_to_start();
    assert_eq!(code, Some(70), "{said}");
    assert!(said.contains("was rolled back: witness w.example has cosigned"), "{said}");
    let after = fs::read_dir(&audit).unwrap().count();
    assert_eq!(after, before + 1, "nothing is written but the mark");
    // Whoever can be asked: it stays refused.
    pair.stop_witness();
    let (_, said) = pair.node.refuses_to_start();
    assert!(said.contains("was rolled back: witness w.example"), "{said}");
    // An operator decides, under another name.
    pair.node.configure(|text| text.replace("test.example/log", "test.example/log/2"));
    let config = audit.with_file_name("edgate.toml");
    let decided = edgate(
        &["audit", "set-aside", config.to_str().unwrap(), "--authority", "me", "--reason", "restored"],
        b"",
    );
    assert_eq!(decided.status.code(), Some(0), "{decided:?}");
    assert!(String::from_utf8_lossy(&decided.stdout).contains("rolled back"), "{decided:?}");
}

/// An old image without what would show its age, and nobody to ask: refused, and convicted once there is.
#[test]
fn a_node_whose_checkpoint_was_taken_away_is_asked_about_all_the_same() {
    let mut pair = Pair::new("");
    let (audit, image) = pair.outgrown();
    copy(&image, &audit);
    for entry in fs::read_dir(&audit).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("checkpoint") || name.ends_with(".anchor") {
            fs::remove_file(path).unwrap();
        }
    }
    let at = pair.stop_witness();
    let (code, said) = pair.node.refuses_to_start();
    assert_eq!(code, Some(70), "{said}");
    assert!(said.contains("no word from witness w.example"), "{said}");
    pair.start_witness(&at);
    let (code, said) = pair.node.refuses_to_start();
    assert_eq!(code, Some(70), "{said}");
    assert!(said.contains("was rolled back: witness w.example has cosigned"), "{said}");
}

/// A kept anchor alone convicts: the segments are yesterday's, the anchors today's.
#[test]
fn a_start_holds_the_log_against_the_anchors_beside_it() {
    let mut pair = Pair::new("on_witness_away = \"serve\"");
    let (audit, image) = pair.outgrown();
    pair.stop_witness();
    for entry in fs::read_dir(&audit).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "anchor") {
            fs::copy(&path, image.join(path.file_name().unwrap())).unwrap();
        }
    }
    copy(&image, &audit);
    let (_, said) = pair.node.refuses_to_start();
    assert!(said.contains("was rolled back: ") && said.contains(".anchor says"), "{said}");
    // Without the segments' newest it is gone for good; an anchor that is no checkpoint is not passed over either.
    fs::write(audit.join("mine.anchor"), "no checkpoint").unwrap();
    let (_, said) = pair.node.refuses_to_start();
    assert!(said.contains(".anchor"), "{said}");
}

/// Fault 29: down for a day is down from one checkpoint to another.
#[test]
fn without_its_witness_a_node_serves_on_and_starts_only_if_told_to() {
    let mut pair = Pair::new("");
    pair.anchored();
    let at = pair.stop_witness();
    pair.node.forward("nonsense");
    until("the node sees that the witness is away", || pair.witness_state().0 == 503);
    assert_eq!(pair.node.get("/readyz", "").status, 200, "verification does not depend on it");
    assert!(pair.node.get("/readyz", "").body.contains("witness: failed, w.example: "));
    assert!(pair.node.metric("audit_witnesses_away") > 0.0);
    pair.start_witness(&at);
    until("the witness cosigns again", || pair.witness_state().0 == 200);
    pair.anchored();

    let at = pair.stop_witness();
    pair.node.kill();
    let (code, said) = pair.node.refuses_to_start();
    assert_eq!(code, Some(70), "{said}");
    assert!(said.contains("no word from witness w.example") && said.contains("on_witness_away"), "{said}");
    pair.node.configure(|text| {
        text.replace("[[audit.witness]]", "on_witness_away = \"serve\"\n[[audit.witness]]")
    });
    pair.node.restart();
    assert_eq!(pair.node.forward("nonsense").status, 401);
    until("it is said that nobody was asked", || pair.witness_state().0 == 503);
    pair.start_witness(&at);
    pair.anchored();
}

/// Fault 29: the witness has it, the log does not know, and asks again: also after a crash in between.
#[test]
fn an_answer_that_was_lost_is_asked_for_again() {
    let mut pair = Pair::new("");
    pair.anchored();
    for crash in [false, true] {
        pair.wire.set_mute(true);
        pair.node.forward("nonsense");
        until("an answer is lost", || pair.witness_state().0 == 503);
        if crash {
            pair.node.kill();
        }
        pair.wire.set_mute(false);
        if crash {
            pair.node.restart();
        }
        pair.anchored();
        assert_eq!(pair.node.metric("audit_witness_forgot_total"), 0.0);
    }
}

/// Fault 29: a witness that was rolled back itself is told apart from a log that was.
#[test]
fn a_witness_that_forgot_what_it_cosigned_is_named_and_taught_again() {
    let mut pair = Pair::new("");
    pair.anchored();
    let image = pair.node.audit_dir().with_file_name("memory");
    copy(&pair.folder.memory(), &image);
    pair.anchored();
    let at = pair.stop_witness();
    copy(&image, &pair.folder.memory());
    pair.start_witness(&at);
    pair.anchored();
    until("it is said that the witness forgot", || pair.node.metric("audit_witness_forgot_total") >= 1.0);
    assert!(pair.witness_state().1.contains("had forgotten"), "{}", pair.witness_state().1);
    assert!(pair.node.said().contains("it was rolled back itself"));
}

/// Fault 29: two logs of one name race; the one that the witness does not know is shut while it runs, for good.
#[test]
fn a_clone_that_the_witness_has_not_seen_is_shut_while_it_runs() {
    let mut pair = Pair::new("on_witness_away = \"serve\"\non_failure = \"allow_with_gap\"");
    let (audit, clone) = pair.outgrown();
    // The clone starts while the witness cannot be asked, and goes its own way.
    copy(&clone, &audit);
    pair.wire.set_mute(true);
    pair.node.restart();
    assert_eq!(pair.node.forward("nonsense").status, 401);
    pair.wire.set_mute(false);
    until("the witness shuts it", || pair.node.forward("nonsense").status == 503);
    until("it says why", || pair.node.get("/readyz", "").body.contains("rolled_back"));
    // Shut first, written down behind that.
    until("it is on the disk", || audit.join("ROLLBACK").exists());
    pair.node.kill();
    pair.stop_witness();
    let (_, said) = pair.node.refuses_to_start();
    assert!(said.contains("was rolled back: "), "{said}");
}

#[test]
fn an_action_is_answered_once_a_witness_has_it_or_not_at_all() {
    let mut pair = Pair::new("admin_ack = \"witnessed\"\nadmin_ack_timeout_ms = 20000");
    let revoke = |node: &Edgate, jti: &str| {
        let until = support::now() + 600;
        let body = json!({"issuer": support::ISSUER, "reason": "test", "expires_at": until});
        node.post(node.control, &format!("/v1/tokens/{jti}/revoke"), &body)
    };
    let answer = revoke(&pair.node, "one");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let issued = pair.node.post(
        pair.node.control,
        "/v1/tokens",
        &json!({"agent_id": "a", "task": "t", "scope": ["orders.read"]}),
    );
    assert_eq!(issued.status, 201, "{}", issued.body);
    let witnessed = pair.node.metric("audit_witnessed_records");
    assert!(witnessed > 0.0, "{witnessed}");
    pair.stop_witness();
    pair.node.kill();
    pair.node.configure(|text| {
        text.replace("ack_timeout_ms = 20000", "ack_timeout_ms = 300\non_witness_away = \"serve\"")
    });
    pair.node.restart();
    let refused = revoke(&pair.node, "two");
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert_eq!(refused.json()["error"], "witness_unavailable", "{}", refused.body);

    // Nothing is begun that is not witnessed: the key stays the one it is, and a hold stays in force.
    let asked = |path: &str, body: &serde_json::Value| {
        let answer = pair.node.post(pair.node.control, path, body);
        (answer.status, answer.json()["error"].as_str().map(str::to_owned))
    };
    let words = json!({"authority": "ticket 7", "reason": "test"});
    let hold = json!({"name": "h", "from_ns": 0, "authority": "ticket 7", "reason": "test"});
    let unwitnessed = (503, Some("witness_unavailable".to_owned()));
    assert_eq!(asked("/v1/audit/tag-keys", &json!({})), unwitnessed);
    assert!(!pair.node.audit_dir().join("tag.key.2").exists());
    assert_eq!(asked("/v1/audit/holds", &hold), unwitnessed);
    assert_eq!(asked("/v1/audit/holds/h/release", &words), unwitnessed);
    let holds = fs::read_to_string(pair.node.audit_dir().join("holds")).unwrap();
    assert!(holds.contains("ticket 7"), "{holds}");
}
