//! The snapshot that shards look keys up in.

use std::fmt;

use crate::keys::{KID_BYTES_MAX, KID_CANDIDATES_MAX};
use crate::verify::VerifyingKey;

/// An issuer, as its place in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IssuerIndex(pub u16);

/// One key of an issuer, checked and ready to verify with.
#[derive(Debug, Clone)]
pub struct PublishedKey {
    /// Its name; an opaque string (K1).
    pub kid: String,
    /// The key.
    pub verifying_key: VerifyingKey,
}

/// A key in a [`KeySet`] and whose it is.
#[derive(Debug, Clone)]
pub struct RegisteredKey {
    issuer: IssuerIndex,
    key: PublishedKey,
}

/// All keys of all issuers: immutable, replaced whole.
///
/// A table sorted by `kid`: lookup compares at most log2 n names and allocates nothing, and no choice of names by an
/// attacker makes it slower, as it could in a hash table.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    by_kid: Vec<RegisteredKey>,
}

impl KeySet {
    /// Puts the keys of all issuers together.
    ///
    /// # Errors
    /// [`KeySetError`] if a lookup would be ambiguous or unbounded.
    pub fn new(issuers: Vec<(IssuerIndex, Vec<PublishedKey>)>) -> Result<Self, KeySetError> {
        let mut by_kid: Vec<RegisteredKey> = issuers
            .into_iter()
            .flat_map(|(issuer, keys)| keys.into_iter().map(move |key| RegisteredKey { issuer, key }))
            .collect();
        by_kid.sort_by(|a, b| (a.kid(), a.issuer).cmp(&(b.kid(), b.issuer)));
        for same in by_kid.chunk_by(|a, b| a.kid() == b.kid()) {
            let kid = || same[0].kid().to_owned();
            if same[0].kid().len() > KID_BYTES_MAX {
                return Err(KeySetError::KidTooLong { issuer: same[0].issuer });
            }
            if let Some(twice) = same.windows(2).find(|pair| pair[0].issuer == pair[1].issuer) {
                return Err(KeySetError::KidRepeated { kid: kid(), issuer: twice[0].issuer });
            }
            if same.len() > KID_CANDIDATES_MAX {
                let issuers = same.iter().map(RegisteredKey::issuer).collect();
                return Err(KeySetError::KidShared { kid: kid(), issuers });
            }
        }
        Ok(Self { by_kid })
    }

    /// The keys that a token with this `kid` may have been signed with: at most [`KID_CANDIDATES_MAX`], none if the
    /// name is unknown. Without `kid`, the only key there is, if there is only one (K2).
    #[must_use]
    pub fn candidates(&self, kid: Option<&str>) -> &[RegisteredKey] {
        let Some(kid) = kid else {
            return if self.by_kid.len() == 1 { &self.by_kid } else { &[] };
        };
        let first = self.by_kid.partition_point(|registered| registered.kid() < kid);
        let rest = &self.by_kid[first..];
        let count = rest.iter().take_while(|registered| registered.kid() == kid).count();
        &rest[..count]
    }

    /// Every key, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = &RegisteredKey> {
        self.by_kid.iter()
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_kid.len()
    }

    /// Whether there is no key at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_kid.is_empty()
    }
}

impl RegisteredKey {
    /// Whose key it is; a token it verifies must have this issuer's `iss`.
    #[must_use]
    pub fn issuer(&self) -> IssuerIndex {
        self.issuer
    }

    /// Its name.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.key.kid
    }

    /// The key to verify with.
    #[must_use]
    pub fn verifying_key(&self) -> &VerifyingKey {
        &self.key.verifying_key
    }
}

/// Why keys cannot be looked up together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// An issuer has two keys of one name.
    #[error("issuer {issuer} has two keys named {kid:?}")]
    KidRepeated {
        /// The name.
        kid: String,
        /// The issuer.
        issuer: IssuerIndex,
    },
    /// Too many issuers use one name.
    #[error(
        "more than {KID_CANDIDATES_MAX} issuers have a key named {kid:?}: {}; let some publish thumbprints as kid",
        Listed(issuers)
    )]
    KidShared {
        /// The name.
        kid: String,
        /// The issuers.
        issuers: Vec<IssuerIndex>,
    },
    /// No token can name the key.
    #[error("issuer {issuer} has a key with a name longer than {KID_BYTES_MAX} bytes")]
    KidTooLong {
        /// The issuer.
        issuer: IssuerIndex,
    },
}

impl fmt::Display for IssuerIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

struct Listed<'a>(&'a [IssuerIndex]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, issuer) in self.0.iter().enumerate() {
            write!(f, "{}{issuer}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}
