//! Keyed tags: how subjects, token ids and client addresses are stored.
//!
//! A tag is `HMAC-SHA-256(key, field ‖ value)` cut to 16 bytes. Whoever holds the key can look a value up; nobody
//! else can tell whose record it is, nor try values. The field byte keeps a subject and an equal jti apart.

use std::{fmt, net::IpAddr, sync::Arc};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::{Zeroize as _, Zeroizing};

use super::sha256::{Block, MAC_REST_MAX, Macs};

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

impl TagField {
    /// Every field.
    pub const ALL: [Self; 4] = [Self::Subject, Self::Jti, Self::Client, Self::Session];

    /// The name it is asked for by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::Jti => "jti",
            Self::Client => "client",
            Self::Session => "session",
        }
    }

    /// The field of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.name() == name)
    }

    /// The bytes that are tagged for `text`: an address has two forms, since a listener for both families names clients of
    /// the older one in the form of the newer. `None` for what is no address.
    #[must_use]
    pub fn values(self, text: &str) -> Option<Vec<Zeroizing<Vec<u8>>>> {
        if self != Self::Client {
            return Some(vec![Zeroizing::new(text.as_bytes().to_vec())]);
        }
        Some(match text.parse().ok()? {
            IpAddr::V4(address) => {
                let mapped = address.to_ipv6_mapped().octets();
                vec![Zeroizing::new(address.octets().to_vec()), Zeroizing::new(mapped.to_vec())]
            }
            IpAddr::V6(address) => vec![Zeroizing::new(address.octets().to_vec())],
        })
    }
}

/// The key of all tags of one epoch.
#[derive(Clone)]
pub struct TagKey {
    bytes: Zeroizing<[u8; TAG_KEY_BYTES]>,
    // For values of one block: a decision has three tags, and through the crate's buffers they cost five times its body hash.
    macs: Macs,
}

impl TagKey {
    /// A key from its 32 bytes.
    #[must_use]
    pub fn new(bytes: &[u8; TAG_KEY_BYTES]) -> Self {
        Self { bytes: Zeroizing::new(*bytes), macs: Macs::new(bytes) }
    }

    /// The tag of `value`.
    #[must_use]
    pub fn tag(&self, field: TagField, value: &[u8]) -> Tag {
        if value.len() <= MAC_REST_MAX { self.short_tag(field, value) } else { self.long_tag(field, value) }
    }

    fn short_tag(&self, field: TagField, value: &[u8]) -> Tag {
        let mut block = [0; 64];
        Macs::pad(&mut block, field as u8, value);
        cut(&self.macs.one(&block))
    }

    fn long_tag(&self, field: TagField, value: &[u8]) -> Tag {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(self.bytes.as_ref()).expect("HMAC takes keys of any length");
        mac.update(&[field as u8]);
        mac.update(value);
        cut(&mac.finalize().into_bytes().into())
    }
}

fn cut(mac: &[u8; 32]) -> Tag {
    let (tag, _) = mac.split_first_chunk().expect("a MAC is longer than a tag");
    *tag
}

/// Tags whose places in a batch are still open: they are computed together, each value once.
///
/// Until then the values stand here in clear, as long as a turn of the shard takes; the tokens they come from stand in
/// the buffers of its connections meanwhile. Nothing is kept from one turn to the next: a cache of tags would have to keep
/// who was seen. One turn is enough to compute the address of a proxy, or the subject of a burst, once.
pub(super) struct OpenTags {
    key: Arc<TagKey>,
    // Field, value and padding; zeros from `used` on.
    blocks: Vec<Block>,
    used: usize,
    // Which block's tag goes where.
    places: Vec<Place>,
    // By a hash of the block: 1 + the index of the last one of that hash.
    seen: [u32; SEEN],
    macs: Vec<[u8; 32]>,
}

struct Place {
    block: u32,
    at: usize,
}

impl OpenTags {
    pub(super) fn new(key: Arc<TagKey>) -> Self {
        Self { key, blocks: Vec::new(), used: 0, places: Vec::new(), seen: [0; SEEN], macs: Vec::new() }
    }

    /// Makes the tags of what follows with this key.
    pub(super) fn use_key(&mut self, key: Arc<TagKey>) {
        assert!(self.places.is_empty(), "open tags are of the key they were asked for under");
        self.key = key;
    }

    /// Leaves room for the tag of `value` behind `out`, which [`Self::fill`] will be given.
    pub(super) fn leave(&mut self, field: TagField, value: &[u8], out: &mut Vec<u8>) {
        let at = out.len();
        if value.len() > MAC_REST_MAX {
            // Rare, and of more than one block.
            out.extend_from_slice(&self.key.long_tag(field, value));
            return;
        }
        out.extend_from_slice(&[0; TAG_BYTES]);
        // A token has an id of its own; the rest may have been there before.
        let slot = if field == TagField::Jti { None } else { Some(slot(value)) };
        let seen = slot.and_then(|slot| self.seen[slot].checked_sub(1));
        let block = match seen {
            Some(seen) if Macs::holds(&self.blocks[seen as usize], field as u8, value) => seen,
            _ => {
                let block = u32::try_from(self.used).expect("fewer tags than bytes");
                if self.used == self.blocks.len() {
                    self.blocks.resize((2 * self.used).max(SEEN), [0; 64]);
                }
                Macs::pad(&mut self.blocks[self.used], field as u8, value);
                self.used += 1;
                if let Some(slot) = slot {
                    self.seen[slot] = block + 1;
                }
                block
            }
        };
        self.places.push(Place { block, at });
    }

    /// Tags asked for and not yet computed.
    pub(super) fn waiting(&self) -> usize {
        self.places.len()
    }

    /// Forgets the places behind the first `len`.
    pub(super) fn truncate(&mut self, len: usize) {
        self.places.truncate(len);
    }

    /// Writes every open tag to its place in `out`, and wipes the values.
    pub(super) fn fill(&mut self, out: &mut [u8]) {
        self.macs.clear();
        let blocks = &mut self.blocks[..self.used];
        self.key.macs.each(blocks, &mut self.macs);
        for Place { block, at } in self.places.drain(..) {
            out[at..at + TAG_BYTES].copy_from_slice(&cut(&self.macs[block as usize]));
        }
        blocks.fill([0; 64]);
        self.used = 0;
        self.seen = [0; SEEN];
    }
}

impl Drop for OpenTags {
    fn drop(&mut self) {
        self.blocks.zeroize();
    }
}

/// A place in `seen`: from the value's length, its first and its last bytes. Values that differ elsewhere share a place, and
/// whoever finds such gains nothing but the price of a tag.
fn slot(value: &[u8]) -> usize {
    let (first, last) = match (value.first_chunk::<8>(), value.last_chunk::<8>()) {
        (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
        _ => (value.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)), 0),
    };
    let mixed = (first.rotate_left(20) ^ last.wrapping_add(value.len() as u64)).wrapping_mul(MULTIPLIER);
    (mixed >> 57) as usize
}

/// Values that are remembered within a turn: as many as seven bits say.
const SEEN: usize = 1 << 7;

/// 2^64 divided by the golden ratio: spreads over the high bits what differs in the low ones (Knuth, TAOCP 6.4).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

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
        let value = [7; MAC_REST_MAX];
        for len in 0..=MAC_REST_MAX {
            let value = &value[..len];
            assert_eq!(
                key.short_tag(TagField::Jti, value),
                key.long_tag(TagField::Jti, value),
                "{len} bytes"
            );
        }
    }
}
