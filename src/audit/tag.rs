//! Keyed tags: how subjects, token ids and client addresses are stored.
//!
//! A tag is `HMAC-SHA-256(key, field ‖ value)` cut to 16 bytes. Whoever holds the key can look a value up; nobody
//! else can tell whose record it is, nor try values. The field byte keeps a subject and an equal jti apart.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Sha256, block_api::compress256};
use zeroize::Zeroizing;

use super::{
    error::AuditError,
    record::{INITIAL_STATE, state_bytes},
};

/// Bytes of a stored tag.
pub const TAG_BYTES: usize = 16;

/// A stored tag.
pub type Tag = [u8; TAG_BYTES];

/// What a tagged value is; part of the MAC input, so never renumber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum TagField {
    /// `sub`.
    Subject = 1,
    /// `jti`.
    Jti = 2,
    /// A client address: 4 or 16 octets.
    Client = 3,
    /// A session.
    Session = 4,
}

/// The key of all tags of one epoch.
#[derive(Clone)]
pub struct TagKey {
    keyed: Hmac<Sha256>,
    // SHA-256 after the inner and the outer key block (RFC 2104), so that a short value costs two compressions and
    // nothing else: a decision has three tags, and through the crate's buffers they cost five times its body hash.
    inner: [u32; 8],
    outer: [u32; 8],
}

impl TagKey {
    /// A key from its 32 bytes.
    #[must_use]
    pub fn new(bytes: &[u8; TAG_KEY_BYTES]) -> Self {
        let block = |pad: u8| {
            let mut block = [pad; 64];
            block.iter_mut().zip(bytes).for_each(|(byte, key)| *byte ^= key);
            let mut state = INITIAL_STATE;
            compress256(&mut state, &[block]);
            state
        };
        Self {
            keyed: Hmac::new_from_slice(bytes).expect("HMAC takes keys of any length"),
            inner: block(0x36),
            outer: block(0x5C),
        }
    }

    /// The tag of `value`.
    #[must_use]
    pub fn tag(&self, field: TagField, value: &[u8]) -> Tag {
        if value.len() <= SHORT_BYTES_MAX {
            self.short_tag(field, value)
        } else {
            self.long_tag(field, value)
        }
    }

    /// Values that fit one block with the field byte and the padding (FIPS 180-4 §5.1.1).
    fn short_tag(&self, field: TagField, value: &[u8]) -> Tag {
        let mut block = [0; 64];
        block[0] = field as u8;
        block[1..=value.len()].copy_from_slice(value);
        block[value.len() + 1] = 0x80;
        block[56..].copy_from_slice(&(8 * (64 + 1 + value.len() as u64)).to_be_bytes());
        let mut state = self.inner;
        compress256(&mut state, &[block]);
        let mut block = [0; 64];
        block[..32].copy_from_slice(&state_bytes(&state));
        block[32] = 0x80;
        block[56..].copy_from_slice(&(8 * (64 + 32u64)).to_be_bytes());
        let mut state = self.outer;
        compress256(&mut state, &[block]);
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&state_bytes(&state)[..TAG_BYTES]);
        tag
    }

    fn long_tag(&self, field: TagField, value: &[u8]) -> Tag {
        let mut mac = self.keyed.clone();
        mac.update(&[field as u8]);
        mac.update(value);
        let full = mac.finalize().into_bytes();
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&full[..TAG_BYTES]);
        tag
    }

    /// Reads the key file of a log folder.
    ///
    /// # Errors
    /// When it is missing, of the wrong length, or readable by others than its owner.
    pub fn load(path: &Path) -> Result<Self, AuditError> {
        let io = |source| AuditError::io("read the tag key", path, source);
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path).map_err(io)?;
        let mode = file.metadata().map_err(io)?.mode();
        if mode & 0o077 != 0 {
            return Err(AuditError::KeyFileLax { path: path.to_owned(), mode: mode & 0o7777 });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(TAG_KEY_BYTES + 1));
        file.take(TAG_KEY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
        let key: &[u8; TAG_KEY_BYTES] = bytes
            .as_slice()
            .try_into()
            .map_err(|_| io(io::Error::new(io::ErrorKind::InvalidData, "not 32 bytes")))?;
        Ok(Self::new(key))
    }

    /// Makes a random key file, mode 0600, durable before it returns.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub(super) fn create(path: &Path) -> Result<Self, AuditError> {
        let io = |source| AuditError::io("create the tag key", path, source);
        let mut bytes = Zeroizing::new([0; TAG_KEY_BYTES]);
        getrandom::fill(bytes.as_mut()).map_err(|error| io(io::Error::other(error)))?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
        file.write_all(bytes.as_ref()).and_then(|()| file.sync_all()).map_err(io)?;
        if let Some(folder) = path.parent() {
            fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
        }
        Ok(Self::new(&bytes))
    }
}

/// The longest value of one block: 64 bytes less field, padding bit and length.
const SHORT_BYTES_MAX: usize = 54;

/// Bytes of a tag key.
pub const TAG_KEY_BYTES: usize = 32;

impl fmt::Debug for TagKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TagKey(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_depend_on_key_field_and_value() {
        let key = TagKey::new(&[7; 32]);
        let tag = key.tag(TagField::Subject, b"alice");
        assert_eq!(tag, key.tag(TagField::Subject, b"alice"));
        assert_ne!(tag, key.tag(TagField::Jti, b"alice"));
        assert_ne!(tag, key.tag(TagField::Subject, b"bob"));
        assert_ne!(tag, TagKey::new(&[8; 32]).tag(TagField::Subject, b"alice"));
    }

    #[test]
    fn short_values_are_tagged_as_long_ones() {
        let key = TagKey::new(&[0xA5; 32]);
        let value = [7; SHORT_BYTES_MAX];
        for len in 0..=SHORT_BYTES_MAX {
            let value = &value[..len];
            assert_eq!(
                key.short_tag(TagField::Jti, value),
                key.long_tag(TagField::Jti, value),
                "{len} bytes"
            );
        }
    }

    #[test]
    fn lax_key_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tag.key");
        let tag = TagKey::create(&path).unwrap().tag(TagField::Jti, b"x");
        assert_eq!(TagKey::load(&path).unwrap().tag(TagField::Jti, b"x"), tag);
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        assert!(matches!(TagKey::load(&path), Err(AuditError::KeyFileLax { mode: 0o640, .. })));
    }
}
