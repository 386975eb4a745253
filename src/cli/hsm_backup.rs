//! `edgate hsm backup`, `restore` and `verify-backup`: one signing key, wrapped by its token, in a file and out of it.

use std::path::{Path, PathBuf};

use clap::Args;
use edgate_hsm::{Backup, HsmError, PublicKey, Purpose};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::hsm::{Failure, TokenArguments};
use super::{EXIT_INPUT, EXIT_NO, EXIT_YES, Output, complain, print_line};
use crate::audit::{hex, unhex};
use crate::keys::thumbprint;

#[derive(Debug, Args)]
pub(super) struct BackupArguments {
    /// The URI names the key, by `object` or `id`.
    #[command(flatten)]
    token: TokenArguments,
    /// Label of the key that wraps it: `edgate/backup/NAME`.
    #[arg(long, value_name = "LABEL")]
    backup_key: String,
    /// The file to write, mode 0600; it must not exist.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct RestoreArguments {
    #[command(flatten)]
    token: TokenArguments,
    /// The backup.
    file: PathBuf,
    /// Label of the backup key in this token, if it is another one than in the file.
    #[arg(long, value_name = "LABEL")]
    backup_key: Option<String>,
    /// Public key in hexadecimal that the backup must be of, known from elsewhere.
    #[arg(long, value_name = "HEX")]
    public_key: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct VerifyBackupArguments {
    /// The backup.
    file: PathBuf,
    /// Public key in hexadecimal that it must be of, known from elsewhere. Without it the file is only whole in itself.
    #[arg(long, value_name = "HEX")]
    public_key: Option<String>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn backup(arguments: &BackupArguments) -> Result<u8, Failure> {
    let named = arguments.token.resolve()?;
    let key = named.key()?;
    if arguments.out.exists() {
        // Before the token is asked for anything.
        return Err(HsmError::Exists { path: arguments.out.clone() }.into());
    }
    let admin = named.admin()?;
    let backup = admin.backup(&key, &arguments.backup_key)?;
    if !admin.is_backup_key_private(&arguments.backup_key)? {
        complain(format_args!(
            "{} is a public object: whoever reaches this token can unwrap with it, without a PIN; take it out of the token once the keys are \
             backed up",
            arguments.backup_key
        ));
    }
    backup.store(&arguments.out)?;
    if arguments.token.output.json {
        print_line(facts(&backup));
    } else {
        describe(&backup);
        print_line(format_args!(
            "written to {}; it was unwrapped again and signed, for this session alone",
            arguments.out.display()
        ));
    }
    Ok(EXIT_YES)
}

pub(super) fn restore(arguments: &RestoreArguments) -> Result<u8, Failure> {
    let pinned = arguments.public_key.as_deref().map(pin).transpose().map_err(Failure::Input)?;
    let backup = Backup::load(&arguments.file)?;
    if let Some(problem) = other(&backup, pinned) {
        return Err(Failure::Input(format!("{}: {problem}; nothing was done", arguments.file.display())));
    }
    let named = arguments.token.resolve()?;
    let key = named.admin()?.restore(&backup, arguments.backup_key.as_deref())?;
    if arguments.token.output.json {
        print_line(json!({
            "uri": key.uri.to_string(),
            "purpose": backup.contents().purpose.name(),
            "public_key": backup.contents().public_key.to_string(),
            "refused": key.refused,
        }));
    } else {
        print_line(&key.uri);
        print_line(format_args!("public key {}, shown by signatures", backup.contents().public_key));
        for refused in key.refused {
            print_line(format_args!("the token does not take {refused}"));
        }
    }
    Ok(EXIT_YES)
}

pub(super) fn verify(arguments: &VerifyBackupArguments) -> u8 {
    let pinned = match arguments.public_key.as_deref().map(pin).transpose() {
        Ok(pinned) => pinned,
        Err(problem) => {
            complain(problem);
            return EXIT_INPUT;
        }
    };
    let backup = match Backup::load(&arguments.file) {
        Ok(backup) => backup,
        Err(error) => {
            complain(&error);
            return if matches!(error, HsmError::Backup { .. }) { EXIT_NO } else { EXIT_INPUT };
        }
    };
    if let Some(problem) = other(&backup, pinned) {
        complain(format_args!("{}: {problem}", arguments.file.display()));
        return EXIT_NO;
    }
    if arguments.output.json {
        print_line(facts(&backup));
    } else {
        describe(&backup);
        print_line(match pinned {
            Some(_) => "signed by the key given",
            None => "signed by the key that it names; give --public-key to know that it is the one you mean",
        });
    }
    EXIT_YES
}

/// The backup in `path` if it is one of the token-signing key `kid`, and the SHA-256 of the file.
pub(super) fn of_signing_key(path: &Path, kid: &str) -> Result<String, String> {
    let backup = Backup::load(path).map_err(|error| error.to_string())?;
    let found = backup.contents().public_key.ed25519().map(|key| thumbprint(&key));
    if backup.contents().purpose != Purpose::TokenSigning || found.as_deref() != Some(kid) {
        let (label, path) = (&backup.contents().label, path.display());
        return Err(format!(
            "{path} is a backup of another key, {label}; no backup of {kid} is confirmed by it"
        ));
    }
    Ok(digest(&backup))
}

fn facts(backup: &Backup) -> Value {
    let contents = backup.contents();
    json!({
        "token": contents.token.to_string(),
        "purpose": contents.purpose.name(),
        "label": contents.label,
        "id": hex(&contents.id),
        "algorithm": contents.public_key.algorithm().name(),
        "public_key": contents.public_key.to_string(),
        "kid": contents.public_key.ed25519().map(|key| thumbprint(&key)),
        "mechanism": contents.mechanism.name(),
        "backup_key": contents.backup_key,
        "backup_key_check": contents.check.map(|check| hex(&check)),
        "sha256": digest(backup),
    })
}

fn describe(backup: &Backup) {
    let contents = backup.contents();
    print_line(format_args!("backup of {} in {}", contents.label, contents.token));
    print_line(format_args!(
        "public key {} ({})",
        contents.public_key,
        contents.public_key.algorithm().name()
    ));
    let check = contents.check.map_or_else(|| "none".to_owned(), |check| hex(&check));
    print_line(format_args!(
        "wrapped under {} (check value {check}) by {}",
        contents.backup_key,
        contents.mechanism.name()
    ));
    print_line(format_args!("SHA-256 {}", digest(backup)));
}

/// Of the file: it has one form.
fn digest(backup: &Backup) -> String {
    hex(&Sha256::digest(backup.to_text()))
}

fn pin(text: &str) -> Result<PublicKey, String> {
    let problem =
        || "--public-key takes the 64 (Ed25519) or 130 (P-256) hex digits of a public key".to_owned();
    unhex(text).and_then(|bytes| PublicKey::from_bytes(&bytes)).ok_or_else(problem)
}

/// What is wrong, if the backup is not of the key that is meant.
fn other(backup: &Backup, pinned: Option<PublicKey>) -> Option<String> {
    let found = backup.contents().public_key;
    pinned.filter(|pinned| *pinned != found).map(|_| format!("it is a backup of another key, {found}"))
}
