//! Wrapping secrets at rest with AES-256-GCM under a key that stays in the token.
//!
//! Wrapped form: `EDW1`, length of the key id (1 byte), key id (`CKA_ID`), IV (12 bytes), ciphertext, tag (16 bytes).
//! The key id and the use are authenticated with it, so what was wrapped for one use does not open for another.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use zeroize::Zeroizing;

use crate::pool::{KeyKind, Output, PinnedKey, Pool, PoolLink, Work};
use crate::{HsmError, Pkcs11Uri, Purpose};

/// Secrets are keys and passwords; whatever is larger should be encrypted under one.
pub const SECRET_BYTES_MAX: usize = 64 << 10;

/// An AES-256 key in a token, for wrapping. Shared by threads; every call may block until its deadline.
#[derive(Clone)]
pub struct WrappingKey {
    pool: PoolLink,
    key: Arc<PinnedKey>,
    id: Vec<u8>,
}

impl Pool {
    /// Opens the wrapping key that `uri` names. Blocks until `deadline`.
    ///
    /// # Errors
    /// What is wrong with the name, the key or the token.
    pub fn wrapping_key(&self, uri: &Pkcs11Uri, deadline: Instant) -> Result<WrappingKey, HsmError> {
        let uri = self.object_uri(uri)?;
        let refuse = |problem| HsmError::KeyAttribute { key: Box::new(uri.clone()), problem };
        let id = match self.run(Work::FindWrapping { uri: uri.clone() }, Purpose::Wrapping, deadline)? {
            Output::Found { label, id, .. } => {
                Purpose::Wrapping.check_label(label.as_deref(), &uri)?;
                id
            }
            _ => Vec::new(),
        };
        if !(1..=255).contains(&id.len()) {
            return Err(refuse("it has no CKA_ID of 1 to 255 bytes, which names it in what it wraps"));
        }
        let exact = Pkcs11Uri { id: Some(id.clone()), ..uri };
        let key = self.adopt(exact, Purpose::Wrapping, KeyKind::Wrapping)?;
        let wrapping_key = WrappingKey { pool: self.link(), key, id };
        let sealed = wrapping_key.seal(b"probe", b"probe", deadline)?;
        wrapping_key.open(b"probe", &sealed, deadline)?;
        Ok(wrapping_key)
    }
}

impl WrappingKey {
    /// Wraps `secret` for `usage`, which must be given again to open it.
    ///
    /// # Errors
    /// As of [`crate::Signer::sign`]; [`HsmError::Unsealed`] for a secret over [`SECRET_BYTES_MAX`].
    pub fn seal(&self, usage: &[u8], secret: &[u8], deadline: Instant) -> Result<Vec<u8>, HsmError> {
        if secret.len() > SECRET_BYTES_MAX {
            return Err(HsmError::Unsealed);
        }
        let work = Work::Seal {
            key: Arc::clone(&self.key),
            data: Zeroizing::new(secret.to_vec()),
            associated: associated(&self.id, usage),
        };
        match self.pool.run(work, Purpose::Wrapping, deadline)? {
            Output::Sealed { iv, data } => {
                let length = u8::try_from(self.id.len()).map_err(|_| HsmError::Unsealed)?;
                Ok([MAGIC, &[length], &self.id, &iv, &data].concat())
            }
            _ => Err(HsmError::Unsealed),
        }
    }

    /// Opens what [`Self::seal`] wrapped for the same `usage`.
    ///
    /// # Errors
    /// [`HsmError::Unsealed`] for anything else, which says nothing about the token.
    pub fn open(
        &self,
        usage: &[u8],
        sealed: &[u8],
        deadline: Instant,
    ) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        let (id, rest) = parse(sealed).ok_or(HsmError::Unsealed)?;
        let (iv, data) = rest.split_first_chunk().ok_or(HsmError::Unsealed)?;
        if id != self.id {
            return Err(HsmError::Unsealed);
        }
        let work = Work::Open {
            key: Arc::clone(&self.key),
            iv: *iv,
            data: data.to_vec(),
            associated: associated(&self.id, usage),
        };
        match self.pool.run(work, Purpose::Wrapping, deadline)? {
            Output::Opened(secret) => Ok(secret),
            _ => Err(HsmError::Unsealed),
        }
    }

    /// `CKA_ID` of this key.
    #[must_use]
    pub fn id(&self) -> &[u8] {
        &self.id
    }
}

/// The id of the key that wrapped `sealed`; `None` if it is not wrapped data.
#[must_use]
pub fn sealed_key_id(sealed: &[u8]) -> Option<&[u8]> {
    parse(sealed).map(|(id, _)| id)
}

/// Key id and the rest, which holds at least IV and tag.
fn parse(sealed: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = sealed.strip_prefix(MAGIC)?.split_first()?;
    let (id, rest) = rest.split_at_checked(usize::from(*length))?;
    (!id.is_empty() && rest.len() >= 12 + 16 && rest.len() <= SECRET_BYTES_MAX + 12 + 16)
        .then_some((id, rest))
}

fn associated(id: &[u8], usage: &[u8]) -> Vec<u8> {
    // Lengths first, so that no two pairs give the same bytes. Ids have at most 255 bytes.
    [b"edgate-wrap-v1\0", &(id.len() as u64).to_le_bytes()[..], id, usage].concat()
}

const MAGIC: &[u8] = b"EDW1";

impl fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrappingKey").field("key", &self.key.uri).finish_non_exhaustive()
    }
}
