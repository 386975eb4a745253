//! The keys of those who may open: X25519, the private half in the form that OpenSSL writes (RFC 8410).

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hpke::{Deserializable as _, Kem as _, Serializable as _, kem::X25519HkdfSha256};
use zeroize::Zeroizing;

use crate::audit::{error::AuditError, real::sync_folder};

pub(super) type Private = <X25519HkdfSha256 as hpke::Kem>::PrivateKey;
pub(super) type Public = <X25519HkdfSha256 as hpke::Kem>::PublicKey;

/// What an opener's values are wrapped to. Its text is `x25519:` and 32 bytes in base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenerKey([u8; 32]);

impl OpenerKey {
    /// The key of a text in its one spelling.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?;
        bytes.try_into().ok().map(Self).filter(|key| key.to_text() == text)
    }

    /// Its text, which [`Self::from_text`] reads.
    #[must_use]
    pub fn to_text(self) -> String {
        format!("{PREFIX}{}", BASE64_STANDARD.encode(self.0))
    }

    pub(super) fn public(self) -> Public {
        Public::from_bytes(&self.0).expect("32 bytes are a key of X25519")
    }
}

impl fmt::Debug for OpenerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

/// An opener's private key. Wiped when dropped.
pub struct OpenerSecret {
    pub(super) private: Private,
    public: OpenerKey,
}

impl OpenerSecret {
    /// Makes a key and stores it in a file of mode 0600 that does not exist yet.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn create(path: &Path) -> Result<Self, AuditError> {
        let io = |source| AuditError::io("create the opener's key", path, source);
        let secret = Self::random();
        let mut der = Zeroizing::new(PKCS8_HEAD.to_vec());
        let bytes: Zeroizing<[u8; 32]> = Zeroizing::new(secret.private.to_bytes().into());
        der.extend_from_slice(&*bytes);
        // 48 bytes are one line.
        let pem =
            Zeroizing::new(format!("{BEGIN}\n{}\n{END}\n", *Zeroizing::new(BASE64_STANDARD.encode(&*der))));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
        file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync_folder(folder).map_err(io)?;
        Ok(secret)
    }

    /// Reads a private key's file: PKCS#8 in PEM, such as `openssl genpkey -algorithm X25519` writes.
    ///
    /// # Errors
    /// When it is missing, is something else, or may be read by others than its owner.
    pub fn load(path: &Path) -> Result<Self, AuditError> {
        let io = |source| AuditError::io("read the opener's key", path, source);
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path).map_err(io)?;
        let mode = file.metadata().map_err(io)?.mode();
        if mode & 0o077 != 0 {
            return Err(AuditError::KeyFileLax { path: path.to_owned(), mode: mode & 0o7777 });
        }
        let text = read_text(file).map_err(io)?;
        Self::from_pem(&text).ok_or_else(|| {
            let cause = "no X25519 private key in PKCS#8 PEM (RFC 8410)";
            io(io::Error::new(io::ErrorKind::InvalidData, cause))
        })
    }

    pub(super) fn random() -> Self {
        let (private, _) = X25519HkdfSha256::gen_keypair();
        Self::new(private)
    }

    fn from_pem(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once(BEGIN)?;
        let (line, _) = rest.split_once(END)?;
        let der = Zeroizing::new(BASE64_STANDARD.decode(line.trim()).ok()?);
        let bytes = der.strip_prefix(PKCS8_HEAD)?;
        Private::from_bytes(bytes).ok().map(Self::new)
    }

    fn new(private: Private) -> Self {
        let public = OpenerKey(X25519HkdfSha256::sk_to_pk(&private).to_bytes().into());
        Self { private, public }
    }

    /// The key that values are wrapped to.
    #[must_use]
    pub fn public(&self) -> OpenerKey {
        self.public
    }
}

impl fmt::Debug for OpenerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenerSecret(redacted, of {:?})", self.public)
    }
}

/// Reads an opener's key: the text itself, or a file with that line.
///
/// # Errors
/// Why it is no key.
pub(super) fn public_from(place: &str) -> Result<OpenerKey, String> {
    if place.starts_with(PREFIX) {
        return OpenerKey::from_text(place).ok_or_else(|| format!("{place}: no 32 bytes in base64"));
    }
    let text = fs::read_to_string(place).map_err(|error| format!("cannot read {place}: {error}"))?;
    OpenerKey::from_text(text.trim()).ok_or_else(|| format!("{place} does not hold one line {PREFIX}…"))
}

fn read_text(file: File) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(512));
    file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

impl std::str::FromStr for OpenerKey {
    type Err = String;

    /// The text itself, or the path of a file with that line.
    fn from_str(place: &str) -> Result<Self, String> {
        public_from(place)
    }
}

/// What the text of a public key begins with.
const PREFIX: &str = "x25519:";

/// PrivateKeyInfo of X25519 up to the key itself (RFC 8410 §7).
const PKCS8_HEAD: &[u8] = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x6e\x04\x22\x04\x20";

const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

/// A key file has about 120 bytes.
const KEY_FILE_BYTES_MAX: u64 = 4096;
