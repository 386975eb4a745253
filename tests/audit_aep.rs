//! `edgate audit aep-bundle` and `verify-aep-bundle`: decisions as a bundle of the Agent Event Protocol.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use edgate::audit::{Ack, BatchEvent, BatchItem, DecisionEvent, Event, Settings, open_signed};
use edgate::decision::{Decision, Rejection, UnixSeconds};
use serde_json::Value;

#[path = "support/logs.rs"]
#[allow(dead_code, reason = "each test program uses a part of this")]
mod logs;

use logs::{change, json, signer};

const PATIENCE: Duration = Duration::from_secs(30);

fn audit(arguments: &[&str], dir: &Path) -> Output {
    let edgate = env!("CARGO_BIN_EXE_edgate");
    Command::new(edgate).arg("audit").args(arguments).arg("--dir").arg(dir).output().unwrap()
}

/// Decisions of one run: two alone, and one call about two tokens.
fn decide(dir: &Path) {
    let settings = Settings { create: true, ..Settings::new(dir, "test.example/log") };
    let mut opened = open_signed(&settings, 1, Some(signer())).unwrap();
    let appender = &mut opened.appenders[0];
    let one = |decision, kid| DecisionEvent {
        surface: 1,
        decision,
        issuer: "own",
        kid,
        tenant: "acme",
        caller: "",
        subject: Some("someone"),
        jti: Some("t-1"),
        client: None,
        policy_epoch: 1,
        revocation_epoch: 7,
        latency_us: 12,
        expires: Some(UnixSeconds(1_800_000_000)),
        stale: false,
    };
    let item = |decision| BatchItem {
        decision,
        issuer: "own",
        kid: "k",
        tenant: "",
        subject: None,
        jti: None,
        expires: None,
        stale: false,
    };
    let items = [item(Decision::Accepted), item(Decision::Rejected(Rejection::Expired))];
    let batch = BatchEvent {
        surface: 2,
        tenant: "acme",
        caller: "",
        client: None,
        policy_epoch: 1,
        revocation_epoch: 7,
        latency_us: 30,
        items: &items,
    };
    let mut last = None;
    for event in [
        Event::Decision(one(Decision::Accepted, "k")),
        Event::Decision(one(Decision::Rejected(Rejection::Revoked), "\u{1f600}\n\"")),
        Event::DecisionBatch(batch),
    ] {
        last = Some(appender.append(&event, Ack::Durable).unwrap());
        appender.submit();
    }
    appender.wait(last.unwrap(), Ack::Durable, PATIENCE).unwrap();
    opened.log.close(PATIENCE).unwrap();
}

#[test]
fn decisions_leave_as_a_bundle_that_the_protocols_verifier_accepts_and_any_change_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let (log, secret, out) = (file("log"), file("secret"), file("bundle.json"));
    fs::create_dir(&log).unwrap();
    decide(&log);
    fs::write(&secret, "shared-secret-123\n").unwrap();
    let bundle = |more: &[&str]| {
        let arguments = ["aep-bundle", "--json", "--unrecorded", "--secret-file", secret.to_str().unwrap()];
        audit(&[&arguments[..], &["--out", out.to_str().unwrap()], more].concat(), &log)
    };
    let verify = |path: &Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_edgate"))
            .args(["audit", "verify-aep-bundle", "--json", path.to_str().unwrap()])
            .args(["--secret-file", secret.to_str().unwrap()])
            .output()
            .unwrap();
        (output.status.code(), output)
    };
    // A secret that others can read is none.
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let open = bundle(&[]);
    assert_eq!(open.status.code(), Some(2), "{open:?}");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let made = bundle(&["--digest", "sha512"]);
    assert_eq!((made.status.code(), &json(&made)["events"]), (Some(0), &4.into()), "{made:?}");
    let text = fs::read_to_string(&out).unwrap();
    assert!(!text.contains("shared-secret") && !text.contains("someone"), "{text}");
    let (code, output) = verify(&out);
    let said = json(&output);
    assert_eq!(
        (code, &said["valid"], &said["content_digest_match"]),
        (Some(0), &true.into(), &true.into()),
        "{said}"
    );
    assert_eq!(said["per_event"].as_array().unwrap().len(), 4);

    let parsed: Value = serde_json::from_str(&text).unwrap();
    let events = parsed["events"].as_array().unwrap();
    let shown = |at: usize| (&events[at]["type"], &events[at]["payload"]["decision"]);
    assert_eq!(shown(0), (&"tool.result".into(), &"accepted".into()));
    assert_eq!(shown(1), (&"policy.blocked".into(), &"revoked".into()));
    assert_eq!(events[1]["payload"]["kid"], "\u{1f600}\n\"");
    assert_eq!(
        (shown(2).0, shown(3)),
        (&"tool.result".into(), (&"policy.blocked".into(), &"expired".into()))
    );
    assert_eq!(events[2]["trace_id"], events[3]["trace_id"]);
    assert_eq!(parsed["manifest"]["scope"]["session_id"], events[0]["session_id"]);

    for (from, to) in [
        ("\"expired\"", "\"accepted\""),
        ("policy.blocked", "tool.result"),
        ("\"event_count\":4", "\"event_count\":3"),
    ] {
        let altered = file("altered.json");
        fs::write(&altered, text.replacen(from, to, 1)).unwrap();
        let (code, output) = verify(&altered);
        assert_eq!((code, &json(&output)["valid"]), (Some(1), &false.into()), "{from}");
    }
    // What is there stays, and what cannot be bundled is refused.
    assert_eq!(bundle(&[]).status.code(), Some(2));
    fs::remove_file(&out).unwrap();
    assert_eq!(bundle(&["--kind", "stop"]).status.code(), Some(2));
    assert_eq!(bundle(&["--tenant", "nobody"]).status.code(), Some(2));
    change(&log.join("0000000001.seg"), |bytes| bytes[1000] ^= 1);
    assert_eq!(bundle(&[]).status.code(), Some(1));
    assert!(!out.exists());
}
