//! Key files as they are found on disk: good, lax, foreign, broken.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use super::*;

fn created(dir: &tempfile::TempDir) -> (PathBuf, SoftwareKey) {
    let path = dir.path().join("signing-key.pem");
    let key = SoftwareKey::create(&path, Purpose::TokenSigning).unwrap();
    (path, key)
}

fn load_error(path: &Path) -> String {
    SoftwareKey::load(path, Purpose::TokenSigning).unwrap_err().to_string()
}

#[test]
fn a_second_start_finds_the_same_key() {
    let dir = tempfile::tempdir().unwrap();
    let (path, key) = created(&dir);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let loaded = SoftwareKey::load(&path, Purpose::TokenSigning).unwrap();
    assert_eq!(loaded.verifying_key(), key.verifying_key());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left behind");
}

#[test]
fn an_existing_file_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = created(&dir);
    let before = fs::read(&path).unwrap();
    let error = SoftwareKey::create(&path, Purpose::TokenSigning).unwrap_err();
    assert!(matches!(error, HsmError::Exists { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left behind");
}

#[test]
fn a_key_is_stored_where_its_public_half_says() {
    let dir = tempfile::tempdir().unwrap();
    let named = |public_key: &[u8; 32]| dir.path().join(format!("{:02x}.key", public_key[0]));
    let key = SoftwareKey::create_named(Purpose::TokenSigning, named).unwrap();
    assert_eq!(key.path(), named(key.verifying_key().as_bytes()));
    SoftwareKey::load(key.path(), Purpose::TokenSigning).unwrap();
}

#[test]
fn only_the_key_that_is_meant_is_destroyed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, key) = created(&dir);
    let public_key = key.verifying_key().to_bytes();
    let error = SoftwareKey::destroy(&path, Purpose::TokenSigning, &[7; 32]).unwrap_err().to_string();
    assert!(error.contains("another key than the one to be destroyed"), "{error}");
    assert!(SoftwareKey::destroy(&path, Purpose::AuditCheckpoint, &public_key).is_err());
    assert!(path.exists());
    // What a hard link still shows is zeros.
    let link = dir.path().join("link");
    fs::hard_link(&path, &link).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
    SoftwareKey::destroy(&path, Purpose::TokenSigning, &public_key).unwrap();
    assert!(!path.exists() && fs::read(&link).unwrap().iter().all(|byte| *byte == 0));
    SoftwareKey::destroy(&path, Purpose::TokenSigning, &public_key).unwrap();
}

#[test]
fn a_missing_file_is_an_error_and_is_not_created() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("absent.pem");
    let message = load_error(&path);
    assert!(message.contains("absent.pem does not exist"), "{message}");
    assert!(!path.exists());
}

#[test]
fn every_mode_but_0600_and_0400_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = created(&dir);
    for mode in [0o640, 0o604, 0o660, 0o644, 0o777, 0o700, 0o500, 0o4600, 0o620, 0o602, 0o610, 0o601] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let message = load_error(&path);
        assert!(message.contains(&format!("has mode {mode:04o}")), "{message}");
        assert!(message.contains(&format!("chmod 600 {}", path.display())), "{message}");
    }
    for mode in [0o600, 0o400] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        SoftwareKey::load(&path, Purpose::TokenSigning).unwrap();
    }
}

#[test]
fn a_symbolic_link_is_refused_even_to_a_good_key() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = created(&dir);
    let link = dir.path().join("link.pem");
    symlink(&path, &link).unwrap();
    let message = load_error(&link);
    assert!(message.contains("is a symbolic link, not a regular file"), "{message}");
}

#[test]
fn a_folder_and_a_pipe_are_refused_without_hanging() {
    let dir = tempfile::tempdir().unwrap();
    assert!(load_error(dir.path()).contains("is a folder"));
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    assert!(load_error(&pipe).contains("is a device, socket or pipe"));
}

#[test]
fn a_file_of_another_user_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = created(&dir);
    if std::os::unix::fs::chown(&path, Some(65534), None).is_err() {
        println!("SKIPPED: only root can give a file away");
        return;
    }
    let message = load_error(&path);
    assert!(message.contains("belongs to user id 65534"), "{message}");
}

#[test]
fn a_key_for_another_purpose_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = created(&dir);
    let error = SoftwareKey::load(&path, Purpose::AuditCheckpoint).unwrap_err();
    assert!(matches!(error, HsmError::Purpose { .. }), "{error}");
}

#[test]
fn broken_files_are_named_not_parsed_on() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = created(&dir);
    let good = fs::read_to_string(&path).unwrap();
    let cases: [(&str, Vec<u8>, &str); 7] = [
        ("empty", Vec::new(), "does not say once what it is for"),
        ("binary", vec![0xff; 100], "it is not text"),
        ("no purpose", good.replace("Edgate-Key-Purpose", "Comment").into_bytes(), "does not say once"),
        (
            "two purposes",
            format!("{PURPOSE_LABEL} audit-checkpoint\n{good}").into_bytes(),
            "does not say once",
        ),
        ("odd purpose", good.replace("token-signing", "everything").into_bytes(), "its purpose is unknown"),
        ("cut", good.as_bytes()[..good.len() / 2].to_vec(), "no Ed25519 private key"),
        ("long", [good.as_bytes(), &[b'\n'; 5000]].concat(), "longer than 4096 bytes"),
    ];
    for (name, bytes, expected) in cases {
        fs::write(&path, bytes).unwrap();
        let message = load_error(&path);
        assert!(message.contains(expected), "{name}: {message}");
    }
}

#[test]
fn openssl_reads_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let (path, key) = created(&dir);
    let Ok(output) =
        Command::new("openssl").args(["pkey", "-pubout", "-outform", "DER", "-in"]).arg(&path).output()
    else {
        println!("SKIPPED: no openssl command here");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.ends_with(&key.verifying_key().to_bytes()));
}

#[test]
fn debug_output_holds_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let (_, key) = created(&dir);
    let text = format!("{key:?}");
    assert!(text.ends_with("purpose: TokenSigning, .. }"), "{text}");
}
