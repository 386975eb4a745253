//! Public keys of either algorithm, as verifiers are told them.

use std::fmt;

use crate::Purpose;
use crate::hex::Hex;

/// A public key, and with it the algorithm of its signatures, which take 64 bytes either way.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum PublicKey {
    /// Ed25519: the encoding of RFC 8032 §5.1.2.
    Ed25519([u8; 32]),
    /// ECDSA on P-256 with SHA-256: the uncompressed point of SEC 1 §2.3.3, which begins with 4.
    P256([u8; 65]),
}

/// What a signature is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Pure Ed25519 (RFC 8032).
    Ed25519,
    /// ECDSA on P-256 with SHA-256 (FIPS 186-5); a signature is r and s, 32 bytes each, big-endian.
    P256,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Ed25519, Self::P256];

    /// The name shown to people and programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::P256 => "p256",
        }
    }
}

impl Purpose {
    /// With which algorithms a key may serve this purpose, the usual one first. Browsers take no Ed25519 certificates;
    /// nothing but TLS asks for anything else.
    #[must_use]
    pub const fn algorithms(self) -> &'static [Algorithm] {
        match self {
            Self::TlsServer => &[Algorithm::P256, Algorithm::Ed25519],
            Self::AuditCheckpoint | Self::TokenSigning | Self::Witness => &[Algorithm::Ed25519],
            Self::Backup | Self::Wrapping => &[],
        }
    }
}

impl PublicKey {
    /// The algorithm of its signatures.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Ed25519(_) => Algorithm::Ed25519,
            Self::P256(_) => Algorithm::P256,
        }
    }

    /// The key as its algorithm encodes it: 32 or 65 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Ed25519(bytes) => bytes,
            Self::P256(point) => point,
        }
    }

    /// Reads [`Self::as_bytes`]; the length says which algorithm it is.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x04, ..] if bytes.len() == 65 => bytes.try_into().ok().map(Self::P256),
            _ => bytes.try_into().ok().map(Self::Ed25519),
        }
    }

    /// The key, if it is one of Ed25519.
    #[must_use]
    pub fn ed25519(self) -> Option<[u8; 32]> {
        self.try_into().ok()
    }

    /// The DER of its SubjectPublicKeyInfo (RFC 8410 §4, RFC 5480 §2).
    #[must_use]
    pub fn to_spki(&self) -> Vec<u8> {
        [self.algorithm().spki_prefix(), self.as_bytes()].concat()
    }

    /// Reads [`Self::to_spki`]; `None` for other algorithms and other encodings.
    #[must_use]
    pub fn from_spki(der: &[u8]) -> Option<Self> {
        Algorithm::ALL.into_iter().find_map(|algorithm| {
            let bytes = der.strip_prefix(algorithm.spki_prefix())?;
            Self::from_bytes(bytes).filter(|key| key.algorithm() == algorithm)
        })
    }
}

impl Algorithm {
    /// A SubjectPublicKeyInfo up to the key.
    const fn spki_prefix(self) -> &'static [u8] {
        match self {
            Self::Ed25519 => &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00],
            Self::P256 => &[
                0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08,
                0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
            ],
        }
    }
}

impl From<[u8; 32]> for PublicKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self::Ed25519(bytes)
    }
}

/// A key of the other algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key is no Ed25519 key")]
pub struct NotEd25519;

impl TryFrom<PublicKey> for [u8; 32] {
    type Error = NotEd25519;

    fn try_from(key: PublicKey) -> Result<Self, NotEd25519> {
        match key {
            PublicKey::Ed25519(bytes) => Ok(bytes),
            PublicKey::P256(_) => Err(NotEd25519),
        }
    }
}

/// [`PublicKey::as_bytes`] in hexadecimal digits.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(self.as_bytes()).fmt(f)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {self}", self.algorithm().name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_spki_is_read_back_and_nothing_else_is_read() {
        let mut point = [7; 65];
        point[0] = 4;
        for key in [PublicKey::Ed25519([7; 32]), PublicKey::P256(point)] {
            let spki = key.to_spki();
            assert_eq!(PublicKey::from_spki(&spki), Some(key));
            assert_eq!(PublicKey::from_bytes(key.as_bytes()), Some(key));
            for end in 0..spki.len() {
                assert_eq!(PublicKey::from_spki(&spki[..end]), None);
            }
            assert_eq!(PublicKey::from_spki(&[&spki[..], &[0]].concat()), None);
        }
        // Compressed points are not in use in certificates.
        assert_eq!(PublicKey::from_bytes(&[2; 33]), None);
        assert_eq!(PublicKey::from_bytes(&[2; 65]), None);
    }
}
