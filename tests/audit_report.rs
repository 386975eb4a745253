//! `edgate audit report`: the figures of a log as a page, with names in it that want to be something else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use edgate::audit::{Ack, DecisionEvent, Event, Settings, StopEvent, open_signed};
use edgate::decision::{Decision, Rejection};
use serde_json::Value;
use sha2::Digest as _;

#[path = "support/logs.rs"]
#[allow(dead_code, reason = "shared with the tests of other commands")]
mod logs;

use logs::{ORIGIN, change, json, signer};

const PATIENCE: Duration = Duration::from_secs(30);

fn audit(arguments: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_edgate"))
        .arg("audit")
        .args(arguments)
        .arg("--dir")
        .arg(dir)
        .output()
        .unwrap()
}

fn sha256(text: &str) -> String {
    sha2::Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A log of decisions, some of which claim names that want to be something else.
fn decide(dir: &Path, kids: &[&str], decisions: usize) {
    let settings = Settings { segment_bytes: 160 * 1024, create: true, ..Settings::new(dir, ORIGIN) };
    let mut opened = open_signed(&settings, 1, Some(signer())).unwrap();
    let mut last = None;
    for n in 0..decisions {
        let refused = n % 3 == 0;
        let decision = if !refused {
            Decision::Accepted
        } else if n % 2 == 0 {
            Decision::Rejected(Rejection::Expired)
        } else {
            Decision::from_name("revoked").unwrap()
        };
        let event = DecisionEvent {
            surface: 1,
            decision,
            issuer: "https://issuer.example",
            kid: kids[n % kids.len()],
            tenant: "acme",
            caller: "",
            subject: None,
            jti: None,
            client: None,
            policy_epoch: 1,
            revocation_epoch: 1,
            latency_us: 7,
            expires: None,
            stale: false,
        };
        last = Some(opened.appenders[0].append(&Event::Decision(event), Ack::Durable).unwrap());
        opened.appenders[0].submit();
    }
    opened.appenders[0].wait(last.unwrap(), Ack::Durable, PATIENCE).unwrap();
    let hostile = Event::Stop(StopEvent { reason: HOSTILE });
    let id = opened.appenders[0].append(&hostile, Ack::Durable).unwrap();
    opened.appenders[0].wait(id, Ack::Durable, PATIENCE).unwrap();
    opened.log.close(PATIENCE).unwrap();
}

const HOSTILE: &str = "</td></svg><script>alert(1)</script><img src=https://evil.example/ onerror=\"x\">";

#[test]
fn a_report_shows_the_figures_and_the_verdict_and_nothing_that_was_chosen_by_others_leaves_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    fs::create_dir(&log).unwrap();
    decide(&log, &["2026", HOSTILE, "'\"&<kid>"], 600);
    let page = folder.path().join("report.html");
    let report = |more: &[&str]| {
        audit(&[&["report", "--unrecorded", "--html", page.to_str().unwrap()], more].concat(), &log)
    };
    let made = report(&["--json"]);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let said = json(&made);
    let figures = &said["figures"];
    assert_eq!(figures["decisions"]["accepted"], 400, "{said}");
    assert_eq!(figures["decisions"]["revoked"].as_u64(), Some(100));
    assert_eq!(figures["refused_issuers"]["names"][0], serde_json::json!(["https://issuer.example", 200]));
    let slots = figures["timeline"]["slots"].as_array().unwrap();
    let counted: u64 =
        slots.iter().flat_map(|slot| slot.as_object().unwrap().values()).filter_map(Value::as_u64).sum();
    assert_eq!(counted, 600);
    assert_eq!((&said["verification"]["valid"], &figures["runs"]["count"]), (&true.into(), &1.into()));

    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains("The log is whole.") && html.contains("Refusals over time, by reason"));
    // The figures' digest is printed, and is that of what --json prints.
    assert!(html.contains(&sha256(&String::from_utf8(made.stdout).unwrap())));
    // No tag but ours, no attribute but ours, nothing from elsewhere.
    for forbidden in ["<script", "<img", "onerror=\"", "<kid>", "src=\"", "href=", "url(", "@import"] {
        assert!(!html.contains(forbidden), "{forbidden}");
    }
    assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
    assert_eq!(html.matches("<td").count(), html.matches("</td>").count());
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));

    // A page is not written over; a time without records is a page too; of a broken log the page says so.
    assert_eq!(report(&[]).status.code(), Some(2));
    fs::remove_file(&page).unwrap();
    let nothing = report(&["--json", "--from", "2020-01-01T00:00:00Z", "--to", "2020-01-02T00:00:00Z"]);
    assert_eq!(json(&nothing)["figures"]["records"], 0);
    assert!(fs::read_to_string(&page).unwrap().contains("no records in that time"));
    fs::remove_file(&page).unwrap();
    change(&log.join("0000000001.seg"), |bytes| bytes[5000] ^= 1);
    let broken = report(&[]);
    assert_eq!(broken.status.code(), Some(1), "{broken:?}");
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains("THE LOG IS BROKEN.") && html.contains("<li>altered-"), "{html}");
}
