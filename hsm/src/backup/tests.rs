use ed25519_dalek::{Signer as _, SigningKey};

use super::*;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn contents(public_key: [u8; 32]) -> BackupContents {
    let token = "pkcs11:token=edgate;serial=0123456789abcdef";
    BackupContents {
        token: Pkcs11Uri::parse(token, UriRules::Production).unwrap(),
        purpose: Purpose::TokenSigning,
        label: "edgate/token-signing/2026".to_owned(),
        id: vec![7; 16],
        public_key: PublicKey::Ed25519(public_key),
        mechanism: WrapMechanism::AesKeyWrapPad,
        backup_key: "edgate/backup/2026".to_owned(),
        check: Some([0xe6, 0xad, 0xd4]),
        wrapped: vec![9; 56],
    }
}

fn backup(seed: u8) -> Backup {
    let key = key(seed);
    let contents = contents(key.verifying_key().to_bytes());
    let signature = key.sign(&contents.message()).to_bytes();
    Backup::signed(contents, signature).unwrap()
}

#[test]
fn a_backup_is_read_back_as_it_was_written() {
    let written = backup(1);
    assert_eq!(Backup::parse(written.to_text().as_bytes()).unwrap(), written);
    let mut contents = contents(key(1).verifying_key().to_bytes());
    contents.check = None;
    let signature = key(1).sign(&contents.message()).to_bytes();
    let unchecked = Backup::signed(contents, signature).unwrap();
    assert_eq!(Backup::parse(unchecked.to_text().as_bytes()).unwrap(), unchecked);
}

#[test]
fn a_backup_with_any_byte_changed_cut_or_added_is_refused() {
    let text = backup(1).to_text().into_bytes();
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut altered = text.clone();
            altered[at] ^= 1 << bit;
            assert!(Backup::parse(&altered).is_err(), "byte {at}, bit {bit}");
        }
        let cut = Backup::parse(&text[..at]).unwrap_err();
        assert!(matches!(cut, BackupError::Cut | BackupError::Field { .. }), "{at}: {cut}");
        let mut longer = text.clone();
        longer.insert(at, b'\n');
        assert!(Backup::parse(&longer).is_err(), "a line feed at {at}");
    }
    assert!(Backup::parse(&[&text[..], b"\n"].concat()).is_err());
    assert!(Backup::parse(&[&text[..], &text[..]].concat()).is_err());
    assert_eq!(Backup::parse(&vec![b'e'; BACKUP_BYTES_MAX + 1]), Err(BackupError::TooLong));
}

#[test]
fn what_is_wrong_with_a_file_is_named() {
    let text = backup(1).to_text();
    let refused = |from: &str, to: &str| Backup::parse(text.replacen(from, to, 1).as_bytes()).unwrap_err();
    assert_eq!(refused("backup 1", "backup 2"), BackupError::Foreign);
    assert_eq!(refused("edgate hsm backup 1", "-----BEGIN PRIVATE KEY-----"), BackupError::Foreign);
    assert_eq!(refused("wrapped 09", "wrapped 08"), BackupError::Altered);
    assert_eq!(refused("id 07", "id 0z"), BackupError::Field { field: "id" });
    assert_eq!(refused("e6add4", "E6ADD4"), BackupError::Field { field: "backup-key-check" });
    assert_eq!(refused("AES_KEY_WRAP_PAD", "AES_CBC"), BackupError::Field { field: "mechanism" });
    assert_eq!(refused("ed25519", "p256"), BackupError::Field { field: "public-key" });
    assert_eq!(
        refused("label edgate/token-signing", "label edgate/witness"),
        BackupError::Field { field: "label" }
    );
    assert_eq!(refused("edgate/backup/", "edgate/wrapping/"), BackupError::Field { field: "backup-key" });
    assert_eq!(refused(";serial=0123456789abcdef", ""), BackupError::Field { field: "token" });
    let order = text.replacen("purpose token-signing\n", "", 1);
    assert_eq!(Backup::parse(order.as_bytes()), Err(BackupError::Field { field: "purpose" }));
    assert_eq!(Backup::parse(&text.as_bytes()[..text.len() - 1]), Err(BackupError::Cut));
    let lines: Vec<&str> = text.lines().collect();
    let short = lines[..6].join("\n") + "\n";
    assert_eq!(Backup::parse(short.as_bytes()), Err(BackupError::Cut));
    // Every value is bounded before anything is made of it.
    let long = format!("wrapped {}", "09".repeat(WRAPPED_BYTES_MAX + 1));
    let field = text.lines().find(|line| line.starts_with("wrapped")).unwrap();
    assert_eq!(refused(field, &long), BackupError::Field { field: "wrapped" });
}

#[test]
fn a_public_key_that_does_not_serve_the_purpose_is_refused() {
    let mut point = [7; 65];
    point[0] = 4;
    let contents = BackupContents { public_key: PublicKey::P256(point), ..contents([0; 32]) };
    let refused = Backup::signed(contents, [0; 64]).unwrap_err();
    assert_eq!(refused, BackupError::Field { field: "public-key" });
}

#[test]
fn only_the_key_of_the_backup_shows_itself() {
    let (backup, challenge) = (backup(1), b"challenge");
    let sign = |seed: u8, message: &[u8]| key(seed).sign(message).to_bytes();
    let message = backup.contents().message();
    assert_eq!(backup.shows_key(challenge, &sign(1, challenge), &sign(1, &message)), Ok(()));
    assert_eq!(backup.shows_key(challenge, &sign(2, challenge), &sign(2, &message)), Err(RULE_SAME_KEY));
    assert_eq!(backup.shows_key(challenge, &sign(1, b"another"), &sign(1, &message)), Err(RULE_SAME_KEY));
    assert_eq!(backup.shows_key(challenge, &sign(1, challenge), &sign(2, &message)), Err(RULE_SAME_KEY));
    // The scalar alone is not the key: with another prefix for its nonces it verifies, and signs otherwise.
    let other = otherwise(&key(1), &message);
    assert_eq!(backup.shows_key(challenge, &sign(1, challenge), &other), Err(RULE_DETERMINISTIC));
}

/// A good signature by `key` with a nonce that RFC 8032 would not have taken.
fn otherwise(key: &SigningKey, message: &[u8]) -> [u8; 64] {
    use curve25519_dalek::scalar::Scalar;
    use sha2::{Digest as _, Sha512};
    let nonce = Scalar::from_bytes_mod_order([3; 32]);
    let point = curve25519_dalek::EdwardsPoint::mul_base(&nonce).compress();
    let hashed = [point.as_bytes(), key.verifying_key().as_bytes(), message].concat();
    let challenge = Scalar::from_bytes_mod_order_wide(&Sha512::digest(hashed).into());
    let signed = nonce + challenge * key.to_scalar();
    [point.to_bytes(), signed.to_bytes()].concat().try_into().unwrap()
}

#[test]
fn a_file_is_written_once_and_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.backup");
    backup(1).store(&path).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(Backup::load(&path).unwrap(), backup(1));
    assert!(matches!(backup(2).store(&path), Err(HsmError::Exists { .. })));
    assert_eq!(Backup::load(&path).unwrap(), backup(1));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
    std::fs::write(&path, "secret").unwrap();
    let refused = Backup::load(&path).unwrap_err();
    assert!(matches!(refused, HsmError::Backup { problem: BackupError::Foreign, .. }), "{refused}");
    assert!(matches!(Backup::load(folder.path()), Err(HsmError::File { .. })));
}
