//! Two tokens of one SoftHSM with the same keys behind one daemon, while one of them is away, hangs or has another key.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{EncodePrivateKey as _, KeypairBytes};

use super::softhsm::{add_token, util};
use super::support::{PATIENCE, until};
use super::{Daemon, PIN, Stage, verify_log};

pub(super) const SIGNING: &str = "edgate/token-signing/1";
const CHECKPOINT: &str = "edgate/audit-checkpoint/1";

/// How long until a token of a shared module is found again: it is looked for anew every half a minute at first.
pub(super) const REJOINING: Duration = Duration::from_secs(90);

pub(super) struct Pair {
    pub(super) stage: Stage,
    pub(super) second: String,
    keys: [SigningKey; 2],
}

impl Pair {
    /// Two tokens, `edgate` and `second`, with the same two keys.
    fn new(faults: bool) -> Option<Self> {
        Self::with_keys(faults, [1, 1])
    }

    /// Two tokens with the signing keys of these seeds, and the same checkpoint key.
    pub(super) fn with_keys(faults: bool, signing: [u8; 2]) -> Option<Self> {
        let stage = Stage::new(faults)?;
        stage.faults("");
        let second = add_token(stage.dir.path(), "second", PIN);
        let keys = [1, 2].map(|seed| SigningKey::from_bytes(&[seed; 32]));
        let pair = Self { stage, second, keys };
        for (token, seed) in ["edgate", "second"].into_iter().zip(signing) {
            pair.import(token, &SigningKey::from_bytes(&[seed; 32]), SIGNING, "A1");
            pair.import(token, &pair.keys[1], CHECKPOINT, "A2");
        }
        Some(pair)
    }

    /// As an operator who has a backup does.
    pub(super) fn import(&self, token: &str, key: &SigningKey, label: &str, id: &str) {
        let file = self.stage.path("key.pem");
        // The first version of PKCS#8: OpenSSL 3.0 does not read the second, which has the public key.
        let private = KeypairBytes { secret_key: key.to_bytes(), public_key: None };
        fs::write(&file, private.to_pkcs8_pem(LineEnding::LF).unwrap()).unwrap();
        let file = file.to_str().unwrap();
        let dir = self.stage.dir.path();
        util(dir, &["--import", file, "--token", token, "--label", label, "--id", id, "--pin", PIN]);
    }

    /// `change` sees the configuration with its two members.
    pub(super) fn configure(&self, hsm: &str, change: impl FnOnce(String) -> String) -> PathBuf {
        let public = |key: &SigningKey| edgate::audit::hex(&key.verifying_key().to_bytes());
        self.stage.write_config(&public(&self.keys[0]), &public(&self.keys[1]), hsm, "");
        let config = self.stage.path("edgate.toml");
        let text = fs::read_to_string(&config).unwrap();
        let (before, rest) = text.split_once("module = ").unwrap();
        let (_, rest) = rest.split_once("pin_source = ").unwrap();
        let (_, rest) = rest.split_once('\n').unwrap();
        let member = |token: &str| {
            let (module, pin) = (self.stage.module.display(), self.stage.path("pin").display().to_string());
            format!("[[hsm.member]]\nmodule = \"{module}\"\ntoken = {token:?}\npin_source = \"file:{pin}\"\n")
        };
        let members = [&self.stage.token, &self.second].map(|token| member(token)).concat();
        fs::write(&config, change(format!("{before}{rest}\n{members}"))).unwrap();
        config
    }

    pub(super) fn start(&self) -> Daemon<'_> {
        let config = self.stage.path("edgate.toml");
        let output = self.stage.edgate(&["init", config.to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
        self.stage.start()
    }

    pub(super) fn folder_of_second(&self) -> PathBuf {
        let (_, serial) = self.second.rsplit_once('=').unwrap();
        let mut folders = fs::read_dir(self.stage.path("tokens")).unwrap().map(|entry| entry.unwrap().path());
        folders
            .find(|path| path.file_name().unwrap().to_str().unwrap().replace('-', "").ends_with(serial))
            .unwrap()
    }
}

/// A number of the token `second`.
pub(super) fn of_second(daemon: &Daemon<'_>, name: &str) -> u64 {
    let text = daemon.get(daemon.control, "/metrics", "").body;
    let begins = format!("edgate_hsm_member_{name}{{token=\"second\",serial=");
    let line = text.lines().find(|line| line.starts_with(&begins)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn assert_issues(daemon: &Daemon<'_>) {
    let answer = daemon.issue();
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(daemon.verify(answer.json()["token"].as_str().unwrap()), 200);
}

#[test]
fn issuing_goes_on_while_one_of_two_tokens_is_away_and_it_rejoins_by_itself() {
    let Some(pair) = Pair::new(false) else { return };
    pair.configure("", |text| text);
    let daemon = pair.start();
    until("both", || daemon.get(daemon.control, "/readyz", "").body.contains("2 of 2 tokens sign"));
    let before = of_second(&daemon, "signed_total");
    until("the second's share", || {
        assert_issues(&daemon);
        of_second(&daemon, "signed_total") > before + 5
    });
    let (home, away) = (pair.folder_of_second(), pair.stage.path("away"));
    fs::rename(&home, &away).unwrap();
    until("the loss", || {
        assert_issues(&daemon);
        of_second(&daemon, "up") == 0
    });
    let ready = daemon.get(daemon.control, "/readyz", "");
    assert!(ready.status == 200 && ready.body.contains("1 of 2 tokens sign"), "{}", ready.body);
    assert!(ready.body.contains("token=second"), "which is said: {}", ready.body);
    assert!((daemon.metric("hsm_ready") - 1.0).abs() < 0.5);
    fs::rename(&away, &home).unwrap();
    let deadline = Instant::now() + REJOINING;
    while of_second(&daemon, "up") == 0 {
        assert_issues(&daemon);
        assert!(Instant::now() < deadline, "it does not rejoin");
    }
    let before = of_second(&daemon, "signed_total");
    until("the second's share", || {
        assert_issues(&daemon);
        of_second(&daemon, "signed_total") > before + 5
    });
    daemon.terminate();
    let report = verify_log(&pair.stage.path("audit"));
    assert!(report["signed_size"] == report["size"], "{report}");
}

#[test]
fn a_token_that_hangs_costs_one_request_a_moment() {
    let Some(pair) = Pair::new(true) else { return };
    pair.configure("hang_limit_ms = 1000", |text| text);
    let daemon = pair.start();
    assert_issues(&daemon);
    pair.stage.faults("C_Sign hang token=second\n");
    let until_stuck = Instant::now() + PATIENCE;
    while of_second(&daemon, "up") == 1 {
        assert_issues(&daemon);
        assert!(Instant::now() < until_stuck, "nobody notices");
    }
    assert!(of_second(&daemon, "failed_over_total") >= 1);
    let ready = daemon.get(daemon.data, "/readyz", "").body;
    assert!(ready.contains("hsm: ok, 1 of 2 tokens sign; pkcs11:token=second"), "{ready}");
    pair.stage.faults("");
    until("the second", || of_second(&daemon, "up") == 1);
    assert_issues(&daemon);
}

#[test]
fn a_member_with_another_key_ends_the_start_and_the_rule_is_named() {
    let Some(mut pair) = Pair::new(false) else { return };
    pair.second = add_token(pair.stage.dir.path(), "third", PIN);
    pair.import("third", &SigningKey::from_bytes(&[9; 32]), SIGNING, "A1");
    pair.import("third", &pair.keys[1], CHECKPOINT, "A2");
    let config = pair.configure("", |text| text);
    let config = config.to_str().unwrap();
    assert!(pair.stage.edgate(&["init", config]).status.success());
    let output = pair.stage.edgate(&["serve", "--config", config]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("token=third") && said.contains("must be the one pinned for it"), "{said}");
}

#[test]
fn members_that_cannot_be_a_group_are_refused_by_their_key() {
    type Change<'a> = &'a dyn Fn(String) -> String;
    let Some(pair) = Pair::new(false) else { return };
    let refused = |hsm: &str, change: &dyn Fn(String) -> String| {
        let config = pair.configure(hsm, change);
        let output = pair.stage.edgate(&["check-config", config.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{said}");
        said
    };
    let (first, second) = (&pair.stage.token, &pair.second);
    let cases: [(&str, Change<'_>, &str); 7] = [
        ("member_timeout_ms = 1", &|text| text, "hsm.member_timeout_ms"),
        ("", &|text| text.replace("[hsm]\n", &format!("[hsm]\ntoken = {first:?}\n")), "either in [hsm]"),
        ("", &|text| text.replace(second, first), "named twice"),
        ("", &|text| text + "weight = 0\n", "from 1 to 100"),
        ("", &|text| text.replace("[[hsm.member]]\n", "[[hsm.member]]\ndraining = true\n"), "must sign"),
        ("", &|text| text.replace(second, "pkcs11:token=second"), "hsm.member[1].token"),
        (
            "",
            &|text| {
                let elsewhere = first.replace("token=edgate", "token=elsewhere");
                text.replace("pkcs11:object=edgate%2Ftoken", &format!("{elsewhere};object=edgate%2Ftoken"))
            },
            "no [[hsm.member]]",
        ),
    ];
    for (hsm, change, named) in cases {
        let said = refused(hsm, change);
        assert!(said.contains(named), "{named}: {said}");
    }
    let config = pair.configure("member_timeout_ms = 200", |text| text + "weight = 3\ndraining = true\n");
    for command in ["init", "check-config"] {
        let output = pair.stage.edgate(&[command, config.to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
    }
}
