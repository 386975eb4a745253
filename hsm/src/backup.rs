//! The backup of a signing key, wrapped by its token: what is in the file, and what it proves.
//!
//! A file has one form: lines of ASCII, each ended by a line feed, in this order. Numbers are hexadecimal, in small letters.
//!
//! ```text
//! edgate hsm backup 1
//! token pkcs11:token=edgate;serial=0123456789abcdef    where the key was
//! purpose token-signing
//! label edgate/token-signing/2026                      CKA_LABEL
//! id 00112233445566778899aabbccddeeff                  CKA_ID
//! public-key ed25519 …                                 32 bytes, or p256 and 65 (PublicKey::as_bytes)
//! mechanism CKM_AES_KEY_WRAP_PAD                       of C_WrapKey
//! backup-key edgate/backup/2026                        CKA_LABEL of the key that it is wrapped under
//! backup-key-check e6add4                              CKA_CHECK_VALUE of that key, or -
//! wrapped …                                            what C_WrapKey answered
//! signature …                                          by the key itself, of PREFIX and all bytes before this line
//! ```
//!
//! The signature shows that whoever made the file could sign with the key that the file says it is of, and that nothing in it was
//! changed. That what is wrapped is this very key only a token can show: a restored key has to sign before it stays
//! ([`Backup::shows_key`]).

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::admin::KeyName;
use crate::hex::{Hex, unhex, unhex_exact};
use crate::release::ReleaseChecks;
use crate::uri::URI_BYTES_MAX;
use crate::{Algorithm, HsmError, Pkcs11Uri, PublicKey, Purpose, UriRules};

/// Begins what is signed of a backup: neither a token's signing input nor a checkpoint has a NUL.
pub const BACKUP_PREFIX: &[u8] = b"edgate-hsm backup\0";

/// Longest file: its longest lines are the token's name and what is wrapped.
pub const BACKUP_BYTES_MAX: usize = URI_BYTES_MAX + 2 * WRAPPED_BYTES_MAX + 2048;

/// Longest wrapped key. A P-256 key in PKCS#8 takes 150 bytes; some vendors add attributes.
pub const WRAPPED_BYTES_MAX: usize = 4096;

/// Longest `CKA_ID`; keygen makes them of 16 bytes.
const ID_BYTES_MAX: usize = 255;

const HEADER: &str = "edgate hsm backup 1";

/// How the token wrapped the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrapMechanism {
    /// `CKM_AES_KEY_WRAP`: RFC 3394, for what is a multiple of eight bytes long, as an Ed25519 key in PKCS#8 is.
    AesKeyWrap,
    /// `CKM_AES_KEY_WRAP_PAD`: RFC 5649 in PKCS#11 2.40 and SoftHSM, RFC 3394 with PKCS#7 padding since 3.0. One token means one
    /// of them, and says so by unwrapping what it wrapped.
    AesKeyWrapPad,
}

/// What a backup says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupContents {
    /// The token that the key was in.
    pub token: Pkcs11Uri,
    /// What the key is for.
    pub purpose: Purpose,
    /// `CKA_LABEL`: `edgate/PURPOSE/NAME`.
    pub label: String,
    /// `CKA_ID`: 1 to 255 bytes.
    pub id: Vec<u8>,
    /// Its public half.
    pub public_key: PublicKey,
    /// How it is wrapped.
    pub mechanism: WrapMechanism,
    /// Label of the key that it is wrapped under: `edgate/backup/NAME`.
    pub backup_key: String,
    /// That key's `CKA_CHECK_VALUE`, where its token shows one.
    pub check: Option<[u8; 3]>,
    /// The wrapped key: at most [`WRAPPED_BYTES_MAX`].
    pub wrapped: Vec<u8>,
}

/// A backup that carries a good signature by the key it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    contents: BackupContents,
    signature: [u8; 64],
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// Its signature is another one's, or of something else.
    #[error("it was altered: its signature does not verify under the public key in it")]
    Altered,
    /// It ends early.
    #[error("it was cut: it ends before its last line does")]
    Cut,
    /// A line is not as it has to be.
    #[error("its line `{field}` is missing or malformed: it was altered, or made by hand")]
    Field {
        /// The word that the line begins with.
        field: &'static str,
    },
    /// It begins otherwise.
    #[error("it does not begin with `edgate hsm backup 1`: it is no backup of a key, or of another version")]
    Foreign,
    /// It is too long.
    #[error("it is longer than {BACKUP_BYTES_MAX} bytes, which no backup is")]
    TooLong,
}

impl WrapMechanism {
    /// The mechanisms, the one that takes keys of any length first.
    pub(crate) const ALL: [Self; 2] = [Self::AesKeyWrapPad, Self::AesKeyWrap];

    /// Its name in PKCS#11.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AesKeyWrap => "CKM_AES_KEY_WRAP",
            Self::AesKeyWrapPad => "CKM_AES_KEY_WRAP_PAD",
        }
    }
}

impl Backup {
    /// Reads what [`Self::to_text`] gives, and nothing else.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, BackupError> {
        if bytes.len() > BACKUP_BYTES_MAX {
            return Err(BackupError::TooLong);
        }
        let start = bytes.len().min(HEADER.len());
        if bytes[..start] != HEADER.as_bytes()[..start] {
            return Err(BackupError::Foreign);
        }
        let Some(text) = str::from_utf8(bytes).ok().and_then(|text| text.strip_suffix('\n')) else {
            return Err(BackupError::Cut);
        };
        let mut lines = Lines(text.split('\n'));
        if lines.0.next() != Some(HEADER) {
            return Err(BackupError::Foreign);
        }
        let contents = BackupContents {
            token: lines.read("token", token)?,
            purpose: lines.read("purpose", Purpose::from_name)?,
            label: lines.read("label", |text| Some(text.to_owned()))?,
            id: lines.read("id", |text| unhex(text, ID_BYTES_MAX))?,
            public_key: lines.read("public-key", public_key)?,
            mechanism: lines.read("mechanism", |text| {
                WrapMechanism::ALL.into_iter().find(|mechanism| mechanism.name() == text)
            })?,
            backup_key: lines.read("backup-key", |text| Some(text.to_owned()))?,
            check: lines.read("backup-key-check", check)?,
            wrapped: lines.read("wrapped", |text| unhex(text, WRAPPED_BYTES_MAX))?,
        };
        let signature = lines.read("signature", unhex_exact)?;
        if lines.0.next().is_some() {
            return Err(BackupError::Field { field: "signature" });
        }
        Self::signed(contents, signature)
    }

    /// `contents`, with a signature of [`BackupContents::message`].
    ///
    /// # Errors
    /// [`BackupError::Altered`] if the signature is none of the key; [`BackupError::Field`] for a name that no file may have.
    pub(crate) fn signed(contents: BackupContents, signature: [u8; 64]) -> Result<Self, BackupError> {
        let named = KeyName::from_label(&contents.label);
        if named.is_none_or(|name| name.purpose() != contents.purpose) {
            return Err(BackupError::Field { field: "label" });
        }
        if !contents.purpose.algorithms().contains(&contents.public_key.algorithm()) {
            return Err(BackupError::Field { field: "public-key" });
        }
        if KeyName::from_label(&contents.backup_key).is_none_or(|name| name.purpose() != Purpose::Backup) {
            return Err(BackupError::Field { field: "backup-key" });
        }
        match verifies(contents.public_key, &contents.message(), &signature) {
            true => Ok(Self { contents, signature }),
            false => Err(BackupError::Altered),
        }
    }

    /// Reads the file at `path`. Blocks.
    ///
    /// # Errors
    /// [`HsmError::File`] if it cannot be read, [`HsmError::Backup`] for what is wrong with it.
    pub fn load(path: &Path) -> Result<Self, HsmError> {
        let failed = |source: io::Error| HsmError::File { action: "read", path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(BACKUP_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        Self::parse(&bytes).map_err(|problem| HsmError::Backup { path: path.to_owned(), problem })
    }

    /// Writes a new file at `path`, mode 0600, whole and durable or not at all. Blocks.
    ///
    /// # Errors
    /// [`HsmError::Exists`] rather than overwriting anything; otherwise what the system refused.
    pub fn store(&self, path: &Path) -> Result<(), HsmError> {
        crate::software::store_new(path, self.to_text().as_bytes(), self.contents.purpose)
    }

    /// The file.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{}signature {}\n", self.contents, Hex(&self.signature))
    }

    /// What it says.
    #[must_use]
    pub fn contents(&self) -> &BackupContents {
        &self.contents
    }

    /// Whether a key is the one of this backup, by its signatures of a fresh `challenge` and of the backup's own message; if not,
    /// the rule that it breaks. The second of an Ed25519 key is the one in the file, bit by bit: RFC 8032 §5.1.6 leaves nothing
    /// to chance, and a key that verifies but signs otherwise is not what was wrapped.
    ///
    /// # Errors
    /// The rule.
    pub(crate) fn shows_key(
        &self,
        challenge: &[u8],
        of_challenge: &[u8; 64],
        of_backup: &[u8; 64],
    ) -> Result<(), &'static str> {
        let key = self.contents.public_key;
        if !verifies(key, challenge, of_challenge) || !verifies(key, &self.contents.message(), of_backup) {
            return Err(RULE_SAME_KEY);
        }
        match key.algorithm() {
            Algorithm::Ed25519 if *of_backup != self.signature => Err(RULE_DETERMINISTIC),
            Algorithm::Ed25519 | Algorithm::P256 => Ok(()),
        }
    }
}

/// Why a key that was unwrapped is not taken.
pub(crate) const RULE_SAME_KEY: &str = "the restored key is not the key of the backup: what it signs does not verify under the backup's public key";
/// As above, for an Ed25519 key.
pub(crate) const RULE_DETERMINISTIC: &str = "the restored key is not the key of the backup: it signs the backup otherwise than the signature in it \
     (Ed25519 is deterministic, RFC 8032 §5.1.6)";

impl BackupContents {
    /// What the key signs.
    pub(crate) fn message(&self) -> Vec<u8> {
        [BACKUP_PREFIX, self.to_string().as_bytes()].concat()
    }
}

/// The lines before the signature.
impl fmt::Display for BackupContents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}\ntoken {}\npurpose {}\nlabel {}", self.token, self.purpose, self.label)?;
        let (algorithm, public_key) = (self.public_key.algorithm().name(), self.public_key.as_bytes());
        writeln!(f, "id {}\npublic-key {algorithm} {}", Hex(&self.id), Hex(public_key))?;
        writeln!(f, "mechanism {}\nbackup-key {}", self.mechanism.name(), self.backup_key)?;
        match &self.check {
            Some(check) => writeln!(f, "backup-key-check {}", Hex(check))?,
            None => writeln!(f, "backup-key-check -")?,
        }
        writeln!(f, "wrapped {}", Hex(&self.wrapped))
    }
}

fn verifies(key: PublicKey, message: &[u8], signature: &[u8; 64]) -> bool {
    ReleaseChecks::strict().pin(key).is_some_and(|key| key.verifies(message, signature))
}

/// The lines that are left.
struct Lines<'a>(std::str::Split<'a, char>);

impl Lines<'_> {
    /// The value of the next line, which must be `field`.
    fn read<T>(
        &mut self,
        field: &'static str,
        value: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, BackupError> {
        let line = self.0.next().ok_or(BackupError::Cut)?;
        line.strip_prefix(field)
            .and_then(|rest| value(rest.strip_prefix(' ')?))
            .ok_or(BackupError::Field { field })
    }
}

/// A token's name, in the form that it is written in.
fn token(text: &str) -> Option<Pkcs11Uri> {
    let uri = Pkcs11Uri::parse(text, UriRules::Production).ok()?;
    (uri.to_string() == text && uri == uri.token_only() && uri.require_token().is_ok()).then_some(uri)
}

fn public_key(text: &str) -> Option<PublicKey> {
    let (algorithm, digits) = text.split_once(' ')?;
    PublicKey::from_bytes(&unhex(digits, 65)?).filter(|key| key.algorithm().name() == algorithm)
}

fn check(text: &str) -> Option<Option<[u8; 3]>> {
    if text == "-" {
        return Some(None);
    }
    unhex_exact(text).map(Some)
}

#[cfg(test)]
mod tests;
