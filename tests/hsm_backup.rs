//! Keys backed up and restored by the built program, at SoftHSM tokens.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

#[path = "support/softhsm.rs"]
mod softhsm;
#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ed25519_dalek::{Signer as _, SigningKey};
use edgate::audit::hex;
use edgate::keys::thumbprint;
use edgate_hsm::BACKUP_PREFIX;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use softhsm::make_token;
use support::{EDGATE, have};

const PIN: &str = "4711-edgate";
/// What `make_token` gives the officer.
const OFFICER_PIN: &str = "12345678";

struct Stage {
    dir: tempfile::TempDir,
    token: String,
    module: PathBuf,
}

impl Stage {
    /// `None` where SoftHSM is not installed, which is said.
    fn new() -> Option<Self> {
        if !have("softhsm2-util") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let token = make_token(dir.path(), PIN);
        for (name, pin) in [("pin", PIN), ("officer-pin", OFFICER_PIN)] {
            fs::write(dir.path().join(name), pin).unwrap();
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        Some(Self { dir, token, module: edgate_hsm::installed_softhsm().unwrap() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The token, or the key in it with this label.
    fn uri(&self, label: Option<&str>) -> String {
        let key = label.map(|label| format!(";object={}", label.replace('/', "%2F"))).unwrap_or_default();
        format!("{}{key}?pin-source=file:{}", self.token, self.path("pin").display())
    }

    fn edgate(&self, what: &str, uri: &str, more: &[&str]) -> Output {
        let output = Command::new(EDGATE)
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
            .args(["hsm", what, uri, "--module"])
            .arg(&self.module)
            .arg("--state")
            .arg(self.dir.path())
            .args(more)
            .output()
            .unwrap();
        let said = said(&output);
        assert!(!said.contains(PIN) && !said.contains(OFFICER_PIN), "{said}");
        output
    }

    /// What a command that succeeds says, as JSON.
    fn answer(&self, what: &str, uri: &str, more: &[&str]) -> Value {
        let output = self.edgate(what, uri, &[more, &["--json"]].concat());
        assert!(output.status.success(), "{what} {more:?}: {}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn refused(&self, what: &str, uri: &str, more: &[&str], code: i32, why: &str) {
        let output = self.edgate(what, uri, more);
        assert!(output.status.code() == Some(code) && said(&output).contains(why), "{}", said(&output));
    }

    fn make_backup_key(&self) -> Value {
        let source = format!("file:{}", self.path("officer-pin").display());
        let arguments = ["--purpose", "backup", "--name", "1", "--so-pin-source", &source];
        self.answer("keygen", &self.token, &arguments)
    }

    fn make_tls_key(&self) -> Value {
        self.answer("keygen", &self.uri(None), &["--purpose", "tls-server", "--name", "1", "--wrappable"])
    }

    /// The file with the backup of the TLS key.
    fn backup(&self) -> (String, Value) {
        let file = self.path("tls.backup").display().to_string();
        let arguments = ["--backup-key", "edgate/backup/1", "--out", &file];
        let answer = self.answer("backup", &self.uri(Some(TLS_KEY)), &arguments);
        (file, answer)
    }

    /// Another device with the same store: what a vendor's clone makes.
    fn clone_token(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let copied = Command::new("cp").arg("-a").arg(self.path(".")).arg(dir.path()).status().unwrap();
        assert!(copied.success());
        let conf = fs::read_to_string(self.path("softhsm2.conf")).unwrap();
        let here = |path: &Path| path.join("tokens").display().to_string();
        fs::write(dir.path().join("softhsm2.conf"), conf.replace(&here(self.dir.path()), &here(dir.path())))
            .unwrap();
        Self { dir, token: self.token.clone(), module: self.module.clone() }
    }
}

const TLS_KEY: &str = "edgate/tls-server/1";

fn said(output: &Output) -> String {
    [&*String::from_utf8_lossy(&output.stdout), &*String::from_utf8_lossy(&output.stderr)].concat()
}

fn verify(file: &Path, more: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(EDGATE).args(["hsm", "verify-backup"]).arg(file).args(more).output().unwrap();
    (output.status.code(), said(&output))
}

#[test]
fn a_key_is_backed_up_and_restored_into_a_token_that_lost_it() {
    let Some(stage) = Stage::new() else { return };
    let backup_key = stage.make_backup_key();
    assert_eq!(
        (&backup_key["purpose"], &backup_key["refused"]),
        (&json!("backup"), &json!(["CKA_PRIVATE=true"]))
    );
    let lost = stage.clone_token();
    let key = stage.make_tls_key();
    assert_eq!(key["refused"], json!([]));
    let (file, made) = stage.backup();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!((&made["public_key"], &made["algorithm"]), (&key["public_key"], &json!("p256")));
    assert_eq!(made["sha256"], hex(&Sha256::digest(fs::read(&file).unwrap())));

    // Nothing is written over, and nothing is put beside what is there.
    let before = fs::read(&file).unwrap();
    let again = ["--backup-key", "edgate/backup/1", "--out", &*file];
    stage.refused(
        "backup",
        &stage.uri(Some(TLS_KEY)),
        &again,
        78,
        "it exists already and is never overwritten",
    );
    assert_eq!(fs::read(&file).unwrap(), before);
    stage.refused("restore", &stage.uri(None), &[&file], 78, "the token has an object of that label");

    let public_key = key["public_key"].as_str().unwrap();
    let restored = lost.answer("restore", &lost.uri(None), &[&file, "--public-key", public_key]);
    assert_eq!((&restored["public_key"], &restored["refused"]), (&key["public_key"], &json!([])));
    assert_eq!(restored["uri"], key["uri"]);
    let signs = lost.answer("selftest", &lost.uri(Some(TLS_KEY)), &[]);
    assert_eq!(signs["public_key"], key["public_key"]);
    let text = said(&lost.edgate("list", &lost.uri(None), &[]));
    assert_eq!(text.lines().filter(|line| line.contains("edgate%2Ftls-server%2F1")).count(), 2, "{text}");
}

#[test]
fn a_backup_is_checked_offline() {
    let Some(stage) = Stage::new() else { return };
    stage.make_backup_key();
    let key = stage.make_tls_key();
    let (file, made) = stage.backup();
    let (file, public_key) = (Path::new(&file), key["public_key"].as_str().unwrap());
    let (code, said) = verify(file, &["--public-key", public_key, "--json"]);
    assert_eq!((code, serde_json::from_str::<Value>(&said).unwrap()), (Some(0), made));
    let (code, said) = verify(file, &[]);
    assert!(code == Some(0) && said.contains("give --public-key to know"), "{said}");
    let other = hex(&SigningKey::from_bytes(&[1; 32]).verifying_key().to_bytes());
    let (code, said) = verify(file, &["--public-key", &other]);
    assert!(code == Some(1) && said.contains("a backup of another key"), "{said}");
    stage.refused(
        "restore",
        &stage.uri(None),
        &[file.to_str().unwrap(), "--public-key", &other],
        2,
        "a backup of another key",
    );
    assert_eq!(verify(file, &["--public-key", "xx"]).0, Some(2));
    assert_eq!(verify(&stage.path("none"), &[]).0, Some(2));

    let text = fs::read_to_string(file).unwrap();
    let altered = stage.path("altered");
    for (bytes, why) in [
        (text.replacen("tls-server/1", "tls-server/2", 1).into_bytes(), "it was altered"),
        (text.as_bytes()[..text.len() - 20].to_vec(), "it was cut"),
        (b"-----BEGIN PRIVATE KEY-----\n".to_vec(), "it is no backup of a key"),
        (vec![b'e'; 1 << 20], "which no backup is"),
    ] {
        fs::write(&altered, bytes).unwrap();
        let (code, said) = verify(&altered, &[]);
        assert!(code == Some(1) && said.contains(why), "{why}: {said}");
        stage.refused("restore", &stage.uri(None), &[altered.to_str().unwrap()], 78, why);
    }
}

#[test]
fn what_cannot_be_done_is_said_and_leaves_no_file() {
    let Some(stage) = Stage::new() else { return };
    stage.make_backup_key();
    let token_key = ["--purpose", "token-signing", "--name", "1"];
    stage.answer("keygen", &stage.uri(None), &[&token_key[..], &["--wrappable"]].concat());
    let file = stage.path("refused.backup");
    let arguments = ["--backup-key", "edgate/backup/1", "--out", file.to_str().unwrap()];
    let uri = stage.uri(Some("edgate/token-signing/1"));
    stage.refused("backup", &uri, &arguments, 78, "the token does not wrap ed25519 keys");
    stage.make_tls_key();
    let arguments = ["--backup-key", "edgate/backup/2", "--out", file.to_str().unwrap()];
    stage.refused("backup", &stage.uri(Some(TLS_KEY)), &arguments, 78, "0 keys match");
    assert!(!file.exists());

    let backup_key = ["--purpose", "backup", "--name", "2"];
    stage.refused("keygen", &stage.uri(None), &backup_key, 2, "--so-pin-source");
    let pin = [&backup_key[..], &["--so-pin-source", "12345678x"]].concat();
    stage.refused("keygen", &stage.uri(None), &pin, 2, "never the PIN itself");
    let source = format!("file:{}", stage.path("officer-pin").display());
    let other = ["--purpose", "token-signing", "--name", "2", "--so-pin-source", &source];
    stage.refused("keygen", &stage.uri(None), &other, 2, "--so-pin-source is for --purpose backup");
    let stays = ["--purpose", "wrapping", "--name", "1", "--wrappable"];
    stage.refused("keygen", &stage.uri(None), &stays, 2, "--wrappable is for keys that sign");
}

/// A backup of an Ed25519 key, which SoftHSM 2.6 does not make.
fn ed25519_backup(key: &SigningKey) -> String {
    let public_key = hex(&key.verifying_key().to_bytes());
    let body = format!(
        "edgate hsm backup 1\ntoken pkcs11:token=edgate;serial=0123456789abcdef\npurpose token-signing\nlabel \
         edgate/token-signing/2026\nid 07\npublic-key ed25519 {public_key}\nmechanism CKM_AES_KEY_WRAP_PAD\nbackup-key \
         edgate/backup/1\nbackup-key-check -\nwrapped 00\n"
    );
    let signature = key.sign(&[BACKUP_PREFIX, body.as_bytes()].concat());
    format!("{body}signature {}\n", hex(&signature.to_bytes()))
}

#[test]
fn a_key_is_confirmed_by_its_own_backup_alone() {
    let dir = tempfile::tempdir().unwrap();
    let key = SigningKey::from_bytes(&[7; 32]);
    let (kid, file) = (thumbprint(&key.verifying_key().to_bytes()), dir.path().join("key.backup"));
    let text = ed25519_backup(&key);
    fs::write(&file, &text).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let control = format!("http://{}", listener.local_addr().unwrap());
    let confirm = |kid: &str| {
        let mut command = Command::new(EDGATE);
        command.args([
            "keys",
            "backed-up",
            &format!("--control={control}"),
            "--authority=ops",
            "--reason=safe 4",
        ]);
        command.arg(format!("--backup={}", file.display())).args(["--", kid]);
        command
    };
    // What the node is asked for.
    let asked = std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(digits) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = digits.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            stream
                .write_all(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{\"id\":\"1\"}",
                )
                .unwrap();
            serde_json::from_slice::<Value>(&body).unwrap()
        });
        let output = confirm(&kid).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        asked.join().unwrap()
    });
    let reason = format!("safe 4 (backup with SHA-256 {})", hex(&Sha256::digest(&text)));
    assert_eq!(asked, json!({"authority": "ops", "reason": reason}));
    drop(listener);

    // Refused before any node is asked.
    let other = thumbprint(&SigningKey::from_bytes(&[8; 32]).verifying_key().to_bytes());
    let output = confirm(&other).output().unwrap();
    assert!(
        output.status.code() == Some(1) && said(&output).contains("a backup of another key"),
        "{}",
        said(&output)
    );
    fs::write(&file, text.replacen("wrapped 00", "wrapped 01", 1)).unwrap();
    let output = confirm(&kid).output().unwrap();
    assert!(output.status.code() == Some(1) && said(&output).contains("it was altered"), "{}", said(&output));
}
