//! A batch while it is being filled: records laid out whole, but for what is hashed.
//!
//! Tags and body digests of different records do not depend on one another, so room is left for them, and those of many
//! records are computed together (`sha256`): first the tags, then the digests of the bodies that hold them.

use std::sync::Arc;

use super::{
    record::{BODY_BYTES_MAX, BODY_DIGEST, HEADER_BYTES, Header, stored_body_len, stored_len},
    sha256::Hasher,
    tag::{OpenTags, TagKey},
    writer::{Stamp, lay_header},
};

/// Records of one appender, back to back, all of them waiting for the sequencer's fields.
pub(super) struct Draft {
    bytes: Vec<u8>,
    // Where the records start that still have open places, and how many they are.
    open_from: usize,
    open: usize,
    tags: OpenTags,
    hasher: Hasher,
}

impl Draft {
    pub(super) fn new(key: Arc<TagKey>) -> Self {
        Self { bytes: Vec::new(), open_from: 0, open: 0, tags: OpenTags::new(key), hasher: Hasher::new() }
    }

    /// Makes the tags of what follows with this key; nothing may be open.
    pub(super) fn use_key(&mut self, key: Arc<TagKey>) {
        self.tags.use_key(key);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Lays out a record whose body `encode` writes, and yields the bytes it takes.
    ///
    /// # Errors
    /// The length of the body, if it is too long. Nothing was added then.
    pub(super) fn push(
        &mut self,
        encode: impl FnOnce(&mut Vec<u8>, &mut OpenTags),
        stamp: &Stamp,
    ) -> Result<usize, usize> {
        let start = self.bytes.len();
        let tags = self.tags.waiting();
        self.bytes.resize(start + HEADER_BYTES, 0);
        encode(&mut self.bytes, &mut self.tags);
        let len = self.bytes.len() - start - HEADER_BYTES;
        if len > BODY_BYTES_MAX {
            self.bytes.truncate(start);
            self.tags.truncate(tags);
            return Err(len);
        }
        lay_header(&mut self.bytes, start, stamp, &[0; 32]);
        self.open += 1;
        if self.open == OPEN_MAX {
            self.finish();
        }
        Ok(stored_len(len))
    }

    /// Computes what is open, and gives the records away; `spare` takes their place.
    pub(super) fn take(&mut self, spare: Vec<u8>) -> Vec<u8> {
        self.finish();
        self.open_from = spare.len();
        std::mem::replace(&mut self.bytes, spare)
    }

    /// The headers of all records laid out so far, hashed; the sequencer's fields are still empty.
    pub(super) fn headers(&mut self) -> impl Iterator<Item = Header> {
        self.finish();
        let mut at = 0;
        std::iter::from_fn(move || {
            let header = Header::parse(self.bytes[at..].first_chunk()?).expect("a header was laid out");
            at += stored_len(header.body_len as usize);
            Some(header)
        })
    }

    fn finish(&mut self) {
        self.tags.fill(&mut self.bytes);
        self.hasher.clear();
        let records = &mut self.bytes[self.open_from..];
        let mut at = 0;
        while let Some(header) = records[at..].first_chunk() {
            let len = stored_body_len(header);
            self.hasher.push(&records[at + HEADER_BYTES..][..len]);
            at += stored_len(len);
        }
        let mut at = 0;
        for digest in self.hasher.finish() {
            let record = &mut records[at..];
            let len = stored_body_len(record.first_chunk().expect("a header was laid out"));
            record[BODY_DIGEST].copy_from_slice(digest);
            at += stored_len(len);
        }
        self.open_from = self.bytes.len();
        self.open = 0;
    }
}

/// Records that may be open. More would fill the lanes no better, and what they take stays in the first-level cache.
const OPEN_MAX: usize = 64;

#[cfg(test)]
#[path = "draft_tests.rs"]
mod tests;
