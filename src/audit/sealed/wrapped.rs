//! A wrapped data key: to whom, of which log, tenant and day, and the key inside nested HPKE (RFC 9180, base mode).
//!
//! Layer 0, the innermost, is sealed to the first opener, the last layer to the last one. Each is DHKEM(X25519, HKDF-SHA256),
//! HKDF-SHA256, AES-256-GCM; `info` is everything the file says before its last line, and the layer's number is
//! the additional data.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hpke::{
    Deserializable as _, OpModeR, OpModeS, Serializable as _, aead::AesGcm256, kdf::HkdfSha256,
    kem::X25519HkdfSha256, single_shot_open, single_shot_seal,
};
use jiff::civil::Date;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{
    OPENERS_MAX,
    folder::{KEY_ID_BYTES, KeyId},
    opener::{OpenerKey, OpenerSecret},
    parse_day,
};
use crate::audit::hex::{hex, unhex_exact};

/// A key of AES-256.
pub(super) type DataKeyBytes = Zeroizing<[u8; 32]>;

/// Whose values a key is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyOf {
    pub(super) origin: String,
    pub(super) log_id: [u8; 16],
    pub(super) boot: u64,
    pub(super) tenant: String,
    pub(super) day: Date,
}

/// A data key that only all of its openers together can unwrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey {
    pub(super) of: KeyOf,
    pub(super) openers: Vec<OpenerKey>,
    // The last layer: encapsulated key and ciphertext.
    wrapped: Vec<u8>,
}

/// Why a key was not unwrapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum UnwrapError {
    /// The private key of this opener is not among those given.
    Missing(OpenerKey),
    /// It does not open under that opener's key: another file, or altered.
    Altered(OpenerKey),
}

impl WrappedKey {
    /// Wraps a key to all openers; `None` where one of them is no key that anything can be sealed to.
    pub(super) fn wrap(of: KeyOf, openers: &[OpenerKey], key: &DataKeyBytes) -> Option<Self> {
        let mut whole = Self { of, openers: openers.to_vec(), wrapped: Vec::new() };
        let info = whole.head();
        let mut inner = Zeroizing::new(key.to_vec());
        for (layer, opener) in openers.iter().enumerate() {
            let (mode, public) = (OpModeS::Base, opener.public());
            let (encapped, sealed) = single_shot_seal::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
                &mode,
                &public,
                info.as_bytes(),
                &inner,
                &number(layer),
            )
            .ok()?;
            inner = Zeroizing::new([encapped.to_bytes().as_slice(), &sealed].concat());
        }
        whole.wrapped = inner.to_vec();
        Some(whole)
    }

    /// Unwraps the key with the private keys of all openers, given in any order.
    pub(super) fn unwrap(&self, secrets: &[OpenerSecret]) -> Result<DataKeyBytes, UnwrapError> {
        let of = |opener: &OpenerKey| secrets.iter().find(|secret| secret.public() == *opener);
        // Before anything is opened: who holds some of the keys learns nothing from the others' layers.
        if let Some(missing) = self.openers.iter().find(|opener| of(opener).is_none()) {
            return Err(UnwrapError::Missing(*missing));
        }
        let info = self.head();
        let mut inner = Zeroizing::new(self.wrapped.clone());
        for (layer, opener) in self.openers.iter().enumerate().rev() {
            let altered = || UnwrapError::Altered(*opener);
            let secret = of(opener).ok_or(UnwrapError::Missing(*opener))?;
            let (encapped, sealed) = inner.split_at_checked(ENCAPPED_BYTES).ok_or_else(altered)?;
            let encapped =
                <X25519HkdfSha256 as hpke::Kem>::EncappedKey::from_bytes(encapped).map_err(|_| altered())?;
            let opened = single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
                &OpModeR::Base,
                &secret.private,
                &encapped,
                info.as_bytes(),
                sealed,
                &number(layer),
            );
            inner = Zeroizing::new(opened.map_err(|_| altered())?);
        }
        let mut key = Zeroizing::new([0; 32]);
        let bytes = inner.as_slice();
        if bytes.len() != key.len() {
            return Err(UnwrapError::Altered(self.openers[0]));
        }
        key.copy_from_slice(bytes);
        Ok(key)
    }

    /// Reads the content of a key's file, strictly: it has one spelling.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.len() > FILE_BYTES_MAX {
            return Err("longer than a key's file");
        }
        let text = std::str::from_utf8(bytes).map_err(|_| "not text")?;
        let key = Self::read(text).ok_or("not the lines of a sealed key's file")?;
        if key.to_text() != text {
            return Err("not the one spelling of a sealed key's file");
        }
        Ok(key)
    }

    fn read(text: &str) -> Option<Self> {
        let mut lines = text.split_terminator('\n').peekable();
        let mut line = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        if line("edgate")? != "sealed key v1" {
            return None;
        }
        let origin = line("origin")?.to_owned();
        let log_id = unhex_exact(line("log")?)?;
        let tenant = line("tenant").filter(|tenant| is_tenant(tenant))?.to_owned();
        let day = parse_day(line("day")?)?;
        let boot = u64::from_be_bytes(unhex_exact(line("boot")?)?);
        let of = KeyOf { origin, log_id, boot, tenant, day };
        let mut openers = Vec::new();
        while let Some(opener) = lines.peek()?.strip_prefix("opener ") {
            openers.push(OpenerKey::from_text(opener).filter(|key| !openers.contains(key))?);
            lines.next();
        }
        let wrapped = BASE64_STANDARD.decode(lines.next()?.strip_prefix("key ")?).ok()?;
        let fits =
            (1..=OPENERS_MAX).contains(&openers.len()) && wrapped.len() == 32 + LAYER_BYTES * openers.len();
        (fits && lines.next().is_none()).then_some(Self { of, openers, wrapped })
    }

    /// The content of its file.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{}key {}\n", self.head(), BASE64_STANDARD.encode(&self.wrapped))
    }

    /// What every layer is bound to.
    fn head(&self) -> String {
        let KeyOf { origin, log_id, boot, tenant, day } = &self.of;
        let mut text = format!(
            "edgate sealed key v1\norigin {origin}\nlog {}\ntenant {tenant}\nday {day}\nboot {boot:016x}\n",
            hex(log_id)
        );
        for opener in &self.openers {
            text.push_str(&format!("opener {}\n", opener.to_text()));
        }
        text
    }

    /// The name that records call it by: the first bytes of its file's SHA-256, so that no other file can stand for it.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let digest = Sha256::digest(self.to_text());
        KeyId(digest[..KEY_ID_BYTES].try_into().expect("a digest is longer than an id"))
    }

    /// Whose values are sealed under it; empty: no tenant's.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.of.tenant
    }

    /// On which day (UTC).
    #[must_use]
    pub fn day(&self) -> Date {
        self.of.day
    }

    /// Who must open it together.
    #[must_use]
    pub fn openers(&self) -> &[OpenerKey] {
        &self.openers
    }
}

fn number(layer: usize) -> [u8; 1] {
    [u8::try_from(layer).expect("few openers")]
}

/// Whether a tenant's name can stand in a line.
pub(super) fn is_tenant(name: &str) -> bool {
    name.len() <= TENANT_BYTES_MAX && !name.contains(char::is_control)
}

/// As `config` has it.
const TENANT_BYTES_MAX: usize = 255;

/// Bytes of an encapsulated key, and what a layer adds: that and a tag (RFC 9180 §7).
const ENCAPPED_BYTES: usize = 32;
const LAYER_BYTES: usize = ENCAPPED_BYTES + 16;

/// Far more than eight openers take.
pub(super) const FILE_BYTES_MAX: usize = 4096;
