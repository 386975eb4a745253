//! One sealed value, byte by byte (FORMAT.md, "Sealed values").

use std::net::IpAddr;

use super::folder::{KEY_ID_BYTES, KeyId};
use crate::audit::{
    cbor::{self, Value},
    id::RecordId,
    tag::TagField,
};

/// Key id, nonce, ciphertext, tag.
pub(super) struct SealedValue<'a> {
    pub(super) key: KeyId,
    pub(super) nonce: &'a [u8; NONCE_BYTES],
    pub(super) ciphertext: &'a [u8],
    pub(super) tag: &'a [u8; TAG_BYTES],
}

impl<'a> SealedValue<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        if !is_sealed_len(bytes.len()) {
            return None;
        }
        let (key, rest) = bytes.split_first_chunk()?;
        let (nonce, rest) = rest.split_first_chunk()?;
        let (ciphertext, tag) = rest.split_last_chunk()?;
        Some(Self { key: KeyId(*key), nonce, ciphertext, tag })
    }
}

/// Whether a sealed value can have so many bytes.
#[must_use]
pub(in crate::audit) const fn is_sealed_len(len: usize) -> bool {
    len > OVERHEAD_BYTES
        && len - OVERHEAD_BYTES <= CLEAR_BYTES_MAX
        && (len - OVERHEAD_BYTES).is_multiple_of(PAD_BYTES)
}

/// Where a value stands, so that it means nothing elsewhere: the additional data of its encryption.
pub(super) struct Place {
    pub(super) kind: u16,
    /// 0: the record itself; from 1 on its items.
    pub(super) item: u16,
    pub(super) field: u8,
    pub(super) id: RecordId,
}

impl Place {
    pub(super) fn additional_data(&self, key: &KeyId) -> [u8; ADDITIONAL_BYTES] {
        let mut data = [0; ADDITIONAL_BYTES];
        data[..2].copy_from_slice(&self.kind.to_le_bytes());
        data[2..4].copy_from_slice(&self.item.to_le_bytes());
        data[4] = self.field;
        data[5..13].copy_from_slice(&self.id.boot.to_le_bytes());
        data[13..15].copy_from_slice(&self.id.core.to_le_bytes());
        data[15..23].copy_from_slice(&self.id.core_seq.to_le_bytes());
        data[23..].copy_from_slice(&key.0);
        data
    }
}

/// The nonce of an appender's `count`-th value: its core keeps appenders apart that share a key, and a key is of one boot.
pub(super) fn nonce(core: u16, count: u64) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce[..2].copy_from_slice(&core.to_le_bytes());
    nonce[4..].copy_from_slice(&count.to_le_bytes());
    nonce
}

/// What was sealed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clear {
    /// `sub`.
    pub subject: Option<String>,
    /// `jti`.
    pub jti: Option<String>,
    /// The client's address.
    pub client: Option<IpAddr>,
}

impl Clear {
    /// Reads what was encrypted, padding included; `None` for what no node sealed.
    pub(super) fn read(padded: &[u8]) -> Option<Self> {
        let end = padded.iter().rposition(|byte| *byte != 0)?;
        if padded[end] != PAD_FIRST || padded.len() - end > PAD_BYTES {
            return None;
        }
        let Value::Map(entries) = cbor::decode(&padded[..end]).ok()? else { return None };
        let mut clear = Self::default();
        for (key, value) in entries {
            match (key, value) {
                (SUBJECT, Value::Text(text)) => clear.subject = Some(text.to_owned()),
                (JTI, Value::Text(text)) => clear.jti = Some(text.to_owned()),
                (CLIENT, Value::Bytes(octets)) => clear.client = Some(address(octets)?),
                _ => return None,
            }
        }
        Some(clear)
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => Some(<[u8; 4]>::try_from(octets).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(octets).ok()?.into()),
        _ => None,
    }
}

const SUBJECT: u64 = TagField::Subject as u64;
const JTI: u64 = TagField::Jti as u64;
const CLIENT: u64 = TagField::Client as u64;

/// Of AES-GCM (RFC 5116 §5.2).
pub(super) const NONCE_BYTES: usize = 12;
pub(super) const TAG_BYTES: usize = 16;

const ADDITIONAL_BYTES: usize = 23 + KEY_ID_BYTES;

/// What stands around a ciphertext.
pub(super) const OVERHEAD_BYTES: usize = KEY_ID_BYTES + NONCE_BYTES + TAG_BYTES;

/// Lengths are rounded up to this, so that they say little: most subjects take one step, or two with an address.
pub(super) const PAD_BYTES: usize = 32;

/// The first byte of the padding; the others are zeros (ISO/IEC 7816-4).
pub(super) const PAD_FIRST: u8 = 0x80;

/// The longest that is sealed, padding included. What is longer is in no honest token.
pub(super) const CLEAR_BYTES_MAX: usize = 2048;
