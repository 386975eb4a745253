//! Backups of keys in a token, as they come back from wherever they were kept.

use ed25519_dalek::{Signer as _, SigningKey};
use edgate_hsm::{BACKUP_BYTES_MAX, BACKUP_PREFIX, Backup};

/// What is read has one form; also behind a signature that is good, by the key that the corpus is of.
pub fn hsm_backup(input: &[u8]) {
    read(input);
    let end = input.windows(MARK.len()).rposition(|window| window == MARK).unwrap_or(input.len());
    let body = &input[..end];
    let signature = SigningKey::from_bytes(&[7; 32]).sign(&[BACKUP_PREFIX, body].concat()).to_bytes();
    let digits: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
    read(&[body, MARK, digits.as_bytes(), b"\n"].concat());
}

fn read(bytes: &[u8]) {
    match Backup::parse(bytes) {
        Ok(backup) => {
            assert!(bytes.len() <= BACKUP_BYTES_MAX);
            assert_eq!(backup.to_text().as_bytes(), bytes);
            // What nobody signed is no backup.
            let mut altered = bytes.to_vec();
            altered[bytes.len() / 2] ^= 1;
            assert!(Backup::parse(&altered).is_err());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

const MARK: &[u8] = b"signature ";
