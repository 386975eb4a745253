//! A key ceremony at SoftHSM tokens, and what is made of its transcript.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

#[path = "support/softhsm.rs"]
mod softhsm;
#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use softhsm::make_token;
use support::{EDGATE, have};

const PIN: &str = "4711-edgate";

const SCRIPT: &str = r#"
title = "Keys of 2026"
token = "edgate"
signer = "edgate/audit-checkpoint/2026"

[[steps]]
do = "doctor"
accept = ["context"]

[[steps]]
do = "keygen"
purpose = "audit-checkpoint"
name = "2026"

[[steps]]
do = "keygen"
purpose = "wrapping"
name = "2026"

[[steps]]
do = "confirm"
text = "both have seen the public key"

[[steps]]
do = "expect"
key = "edgate/audit-checkpoint/2026"
attributes = { extractable = false, sensitive = true, never_extractable = true }

[[steps]]
do = "selftest"
key = "edgate/audit-checkpoint/2026"
"#;

struct Stage {
    dir: tempfile::TempDir,
}

impl Stage {
    /// `None` where SoftHSM is not installed, which is said.
    fn new() -> Option<Self> {
        if !have("softhsm2-util") {
            return None;
        }
        let stage = Self { dir: tempfile::tempdir().unwrap() };
        let token = make_token(stage.dir.path(), PIN);
        fs::write(stage.path("pin"), PIN).unwrap();
        fs::set_permissions(stage.path("pin"), fs::Permissions::from_mode(0o600)).unwrap();
        let credentials = format!(
            "module = {:?}\ntoken = \"{token}\"\npin_source = \"file:{}\"\n",
            edgate_hsm::installed_softhsm().unwrap(),
            stage.path("pin").display()
        );
        fs::write(stage.path("credentials.toml"), credentials).unwrap();
        Some(stage)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("SOFTHSM2_CONF", self.path("softhsm2.conf"));
        command
    }

    fn ceremony(&self, script: &str, transcript: &str, more: &[&str], typed: &str) -> Output {
        fs::write(self.path("script.toml"), script).unwrap();
        let mut child = self
            .command(EDGATE)
            .args(["hsm", "ceremony"])
            .arg(self.path("script.toml"))
            .arg("--credentials")
            .arg(self.path("credentials.toml"))
            .arg("--transcript")
            .arg(self.path(transcript))
            .arg("--state")
            .arg(self.dir.path())
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One that refuses at once does not read.
        let _ = child.stdin.take().unwrap().write_all(typed.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn refused(&self, script: &str, more: &[&str], why: &str) {
        let output = self.ceremony(script, "refused.jsonl", more, "yes\n");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(why), "{said}");
        assert!(!self.path("refused.jsonl").exists());
    }

    fn lines(&self, transcript: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(transcript)).unwrap();
        assert!(!text.contains(PIN) && !text.contains("pin_source") && !text.contains("file:"), "{text}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn verify(file: &Path, public_key: &str) -> (Option<i32>, String) {
    let output = Command::new(EDGATE)
        .args(["hsm", "verify-transcript", "--public-key", public_key])
        .arg(file)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// Hides what is another one each time: keys, times and serials.
fn mask(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let differs =
                    ["at", "token", "uri", "public_key", "public_key_sha256", "thumbprint", "signature"];
                if differs.contains(&name.as_str()) && !member.is_null() {
                    *member = Value::from("masked");
                } else {
                    mask(member);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        _ => {}
    }
}

#[test]
fn a_ceremony_run_twice_gives_the_same_transcript_but_for_keys_times_and_serials() {
    let (Some(one), Some(other)) = (Stage::new(), Stage::new()) else { return };
    let transcripts: Vec<String> = [&one, &other]
        .into_iter()
        .map(|stage| {
            let output = stage.ceremony(SCRIPT, "done.jsonl", &["--dry-run"], "yes\n");
            assert!(output.status.success(), "{output:?}");
            let mut lines = stage.lines("done.jsonl");
            let key = lines.last().unwrap()["public_key"].as_str().unwrap().to_owned();
            let (code, said) = verify(&stage.path("done.jsonl"), &key);
            assert!(code == Some(0) && said.contains("DRY RUN of 6 steps"), "{said}");
            assert_eq!(lines[2]["detail"]["attributes"]["extractable"], false);
            lines.iter_mut().for_each(mask);
            lines.iter().map(|line| format!("{line}\n")).collect()
        })
        .collect();
    assert_eq!(transcripts[0], transcripts[1]);
}

#[test]
fn an_altered_cut_or_foreign_transcript_proves_nothing() {
    let Some(stage) = Stage::new() else { return };
    let output = stage.ceremony(SCRIPT, "done.jsonl", &[], "yes\n");
    assert!(output.status.success(), "{output:?}");
    let key = stage.lines("done.jsonl").last().unwrap()["public_key"].as_str().unwrap().to_owned();
    let text = fs::read_to_string(stage.path("done.jsonl")).unwrap();
    let whole_lines = text.trim_end().rfind('\n').unwrap() + 1;
    let cases = [
        (text.replacen("Keys of 2026", "Keys of 2025", 1), &*key, "it was altered"),
        (text[..whole_lines].to_owned(), &*key, "broken off, or the file cut, at step 6"),
        (text[..text.len() - 30].to_owned(), &*key, "its last line is cut"),
        (text.clone(), &"11".repeat(32), "signed by another key"),
        (text.replacen("\"end\":6", "\"end\":5", 1), &*key, "not as many as it says"),
        (text.replacen("\"end\":6", "\"end\":6,\"note\":\"approved\"", 1), &*key, "its last line says more"),
    ];
    let of_script = |name: &str| {
        let (file, script) = (stage.path("done.jsonl"), stage.path(name));
        let arguments = ["hsm", "verify-transcript", "--public-key", &key, "--script"];
        let output = Command::new(EDGATE).args(arguments).arg(script).arg(file).output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (code, said) = of_script("script.toml");
    assert!(code == Some(0) && said.contains("of the script given, 6 steps"), "{said}");
    fs::write(stage.path("other.toml"), SCRIPT.replace("both have", "one has")).unwrap();
    let (code, said) = of_script("other.toml");
    assert!(code == Some(1) && said.contains("it is of another script"), "{said}");
    for (altered, key, why) in cases {
        fs::write(stage.path("altered.jsonl"), altered).unwrap();
        let (code, said) = verify(&stage.path("altered.jsonl"), key);
        assert!(code == Some(1) && said.contains(why), "{why}: {said}");
    }
}

#[test]
fn a_key_that_can_be_backed_up_is_made_by_a_script_that_says_so() {
    let Some(stage) = Stage::new() else { return };
    let script =
        SCRIPT.replacen("\"audit-checkpoint\"", "\"audit-checkpoint\"\nwrappable = true", 1).replace(
            "extractable = false, sensitive = true, never_extractable = true",
            "wrap_with_trusted = true",
        );
    let output = stage.ceremony(&script, "done.jsonl", &["--dry-run"], "yes\n");
    assert!(output.status.success(), "{output:?}");
    let lines = stage.lines("done.jsonl");
    assert_eq!(lines[2]["do"], "keygen edgate/audit-checkpoint/2026, wrappable");
    assert_eq!(lines[2]["detail"]["attributes"]["extractable"], true);
}

#[test]
fn the_script_that_is_shipped_can_be_rehearsed() {
    let Some(stage) = Stage::new() else { return };
    let script = include_str!("../packaging/ceremony.toml");
    let output = stage.ceremony(script, "done.jsonl", &["--dry-run"], "yes\n");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is() {
    let Some(stage) = Stage::new() else { return };
    stage.refused(&SCRIPT.replace("\"selftest\"", "\"shred\""), &[], "unknown variant `shred`");
    stage.refused(&SCRIPT.replace("\"wrapping\"", "\"wraping\""), &[], "unknown purpose");
    stage.refused(&SCRIPT.replace("token = \"edgate\"", "token = \"other\""), &[], "is for token \"other\"");
    let missing = SCRIPT.replace("signer = \"edgate/audit-checkpoint/2026\"", "signer = \"nobody\"");
    stage.refused(&missing, &[], "key nobody is neither in the token nor made");
    let typo = SCRIPT.replace("sensitive = true, never", "sensetive = true, never");
    stage.refused(&typo, &[], "unknown attribute \"sensetive\"");
    let wrapping = SCRIPT.replace(
        "\"selftest\"\nkey = \"edgate/audit-checkpoint/2026\"",
        "\"selftest\"\nkey = \"edgate/wrapping/2026\"",
    );
    stage.refused(&wrapping, &[], "edgate/wrapping/2026 is no Ed25519 key");
    stage.refused(SCRIPT, &["--yes"], "--yes is refused for a real run");
    stage.refused(&SCRIPT.replace("\"wrapping\"", "\"backup\""), &[], "the security officer's to make");
    let stays = SCRIPT.replace("\"wrapping\"", "\"wrapping\"\nwrappable = true");
    stage.refused(&stays, &[], "wrappable is for keys that sign");

    let allowed = format!("allow_yes = true\n{SCRIPT}");
    let output = stage.ceremony(&allowed, "done.jsonl", &["--yes"], "");
    assert!(output.status.success(), "{output:?}");
    // Neither its keys nor its transcript are replaced.
    let before = fs::read(stage.path("done.jsonl")).unwrap();
    stage.refused(SCRIPT, &[], "exists already and is never overwritten");
    let output = stage.ceremony(SCRIPT, "done.jsonl", &[], "yes\n");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(fs::read(stage.path("done.jsonl")).unwrap(), before);
}

#[test]
fn a_ceremony_that_is_broken_off_says_where_and_is_not_signed() {
    let Some(stage) = Stage::new() else { return };
    let output = stage.ceremony(SCRIPT, "broken.jsonl", &[], "no\n");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(70), "{said}");
    assert!(said.contains("it was not confirmed. 3 of 6 steps were done"), "{said}");
    let lines = stage.lines("broken.jsonl");
    assert_eq!(lines.last().unwrap()["result"], "failed");
    let (code, said) = verify(&stage.path("broken.jsonl"), &"11".repeat(32));
    assert!(code == Some(1) && said.contains("at step 4, which failed"), "{said}");
}
