//! The 128-byte record header: layout, hash rule, and the checks a reader makes (FORMAT.md, "Record").

use std::ops::Range;

use super::sha256::{Block, continued, first_state, hash_blocks};

/// A SHA-256 value: the hash of an event, a body digest, a tree node.
pub type Hash = [u8; 32];

/// Bytes of a record before its body.
pub const HEADER_BYTES: usize = 128;

/// Bytes of the header that the event hash covers; the rest is checksum and zeros.
pub const HASHED_BYTES: usize = 116;

/// Where the header holds the digest of the body.
pub(super) const BODY_DIGEST: Range<usize> = 48..80;

/// Where the header holds the event hash of the record before.
const PREV_HASH: Range<usize> = 80..112;

/// Bytes of the header in the first of the two blocks that are hashed; the block begins with the byte 0x00.
const FIRST_BYTES: usize = 63;

/// `EDG` and the format version. A record that was never written starts with four zeros instead.
pub const MAGIC: [u8; 4] = *b"EDG\x01";

/// The longest body. Checked before the length is used.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// Records start at multiples of this, so that a reader can find the next one behind damaged bytes.
pub const ALIGNMENT: usize = 8;

/// The highest `seq`: at ten million records a second, 29,000 years. Beyond it a header is forged, and counting on from
/// it would overflow.
pub const SEQ_MAX: u64 = i64::MAX as u64;

/// Flag: the record stands for something an operator must be able to see even when the disk is full.
pub const FLAG_CRITICAL: u16 = 1 << 0;

/// Flag: the body may be dropped later by an authorised ERASE record.
pub const FLAG_REDACTABLE: u16 = 1 << 1;

/// The core number of records the sequencer writes itself.
pub const CORE_SEQUENCER: u16 = u16::MAX;

/// One decoded record header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the body that follows, at most [`BODY_BYTES_MAX`].
    pub body_len: u32,
    /// Position in the chain, from 0, without gaps.
    pub seq: u64,
    /// Wall clock, nanoseconds since 1970, when the sequencer took the record. Informative: `seq` is the order.
    pub wall_ns: u64,
    /// Monotonic clock, nanoseconds since the log was opened.
    pub mono_ns: u64,
    /// What happened: [`super::schema::Kind`] as its number.
    pub kind: u16,
    /// [`FLAG_CRITICAL`], [`FLAG_REDACTABLE`].
    pub flags: u16,
    /// Which appender the record came through; [`CORE_SEQUENCER`] for the sequencer's own.
    pub core: u16,
    /// How to read the body: [`super::schema::Schema::id`].
    pub schema: u16,
    /// Position among the records of this core since the log was opened, from 1. A hole is a lost event.
    pub core_seq: u64,
    /// SHA-256 of the stored body bytes.
    pub body_digest: Hash,
    /// Event hash of record `seq - 1`; for record 0 the log's genesis hash.
    pub prev_hash: Hash,
    /// The policy epoch in force (0 where it does not apply).
    pub epoch: u32,
}

/// Why 128 bytes are not a record header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The length is above [`BODY_BYTES_MAX`].
    #[error("body length {0} is above the limit")]
    BodyTooLong(u32),
    /// The magic is neither zero nor ours.
    #[error("no record starts here")]
    NotARecord,
    /// The reserved bytes are not zero.
    #[error("reserved bytes are not zero")]
    ReservedNotZero,
    /// The position is above [`SEQ_MAX`].
    #[error("record number {0} is above the limit")]
    SeqTooLarge(u64),
    /// Zeros: nothing was written here.
    #[error("nothing was written here")]
    Unwritten,
    /// A later version of the format.
    #[error("format version {0} is not understood")]
    VersionUnknown(u8),
}

/// Bytes a record takes in a segment: header, body, and zeros up to [`ALIGNMENT`].
#[must_use]
pub const fn stored_len(body_len: usize) -> usize {
    (HEADER_BYTES + body_len).next_multiple_of(ALIGNMENT)
}

impl Header {
    /// Reads a header, checking magic, version, length limit and reserved bytes, but neither hash nor checksum.
    ///
    /// # Errors
    /// The first reason why these bytes are not a header.
    #[inline]
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, HeaderError> {
        let magic: [u8; 4] = field(bytes, 0);
        if magic == [0; 4] {
            return Err(HeaderError::Unwritten);
        }
        if magic[..3] != MAGIC[..3] {
            return Err(HeaderError::NotARecord);
        }
        if magic[3] != MAGIC[3] {
            return Err(HeaderError::VersionUnknown(magic[3]));
        }
        let body_len = u32::from_le_bytes(field(bytes, 4));
        if body_len as usize > BODY_BYTES_MAX {
            return Err(HeaderError::BodyTooLong(body_len));
        }
        if field::<8>(bytes, 120) != [0; 8] {
            return Err(HeaderError::ReservedNotZero);
        }
        let seq = u64::from_le_bytes(field(bytes, 8));
        if seq > SEQ_MAX {
            return Err(HeaderError::SeqTooLarge(seq));
        }
        Ok(Self {
            body_len,
            seq,
            wall_ns: u64::from_le_bytes(field(bytes, 16)),
            mono_ns: u64::from_le_bytes(field(bytes, 24)),
            kind: u16::from_le_bytes(field(bytes, 32)),
            flags: u16::from_le_bytes(field(bytes, 34)),
            core: u16::from_le_bytes(field(bytes, 36)),
            schema: u16::from_le_bytes(field(bytes, 38)),
            core_seq: u64::from_le_bytes(field(bytes, 40)),
            body_digest: field(bytes, 48),
            prev_hash: field(bytes, 80),
            epoch: u32::from_le_bytes(field(bytes, 112)),
        })
    }

    /// Writes the header without its checksum, which [`chain`] adds once the sequencer's fields are known.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        self.write(&mut bytes);
        bytes
    }

    /// As [`Self::to_bytes`], to its place: every byte is written.
    pub(super) fn write(&self, bytes: &mut [u8; HEADER_BYTES]) {
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.seq.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.wall_ns.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.mono_ns.to_le_bytes());
        bytes[32..34].copy_from_slice(&self.kind.to_le_bytes());
        bytes[34..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..38].copy_from_slice(&self.core.to_le_bytes());
        bytes[38..40].copy_from_slice(&self.schema.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.core_seq.to_le_bytes());
        bytes[BODY_DIGEST].copy_from_slice(&self.body_digest);
        bytes[PREV_HASH].copy_from_slice(&self.prev_hash);
        bytes[112..116].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[116..].fill(0);
    }
}

/// Where in the chain a record stands; what only the sequencer knows.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// Position in the chain.
    pub seq: u64,
    /// Wall clock in nanoseconds.
    pub wall_ns: u64,
    /// Monotonic clock in nanoseconds.
    pub mono_ns: u64,
}

/// Completes a stored record (`header ‖ body`, without padding) in place and returns its event hash.
///
/// # Panics
/// When `record` is shorter than a header.
pub fn chain(record: &mut [u8], link: Link, prev_hash: &Hash) -> Hash {
    let mut block = [0; 64];
    begin(record, link, &mut block);
    end(record, &first_state(&block), prev_hash)
}

/// Begins to complete a record: enters its link and lays out, over zeros, the first of the two blocks that its event hash is made
/// of. The record before has no part in it, so those of many records can be compressed together.
///
/// # Panics
/// As [`chain`].
pub(super) fn begin(record: &mut [u8], link: Link, block: &mut Block) {
    let header = record.first_chunk_mut::<HEADER_BYTES>().expect("a record starts with a header");
    lay_first(block, header);
    // Into both: read back from the header right after it was entered there, the link would have to be waited for.
    for (at, number) in [(8, link.seq), (16, link.wall_ns), (24, link.mono_ns)] {
        let bytes = number.to_le_bytes();
        header[at..at + 8].copy_from_slice(&bytes);
        block[1 + at..1 + at + 8].copy_from_slice(&bytes);
    }
}

/// Completes a record that [`begin`] began, `state` being the one after its first block; returns its event hash.
///
/// # Panics
/// As [`chain`].
pub(super) fn end(record: &mut [u8], state: &Hash, prev_hash: &Hash) -> Hash {
    let (header, body) =
        record.split_first_chunk_mut::<HEADER_BYTES>().expect("a record starts with a header");
    let mut block = [0; 64];
    lay_second(&mut block, header, prev_hash);
    let hash = continued(state, std::slice::from_ref(&block));
    header[PREV_HASH].copy_from_slice(prev_hash);
    let crc = checksum(header, body);
    header[116..120].copy_from_slice(&crc.to_le_bytes());
    hash
}

/// `SHA-256(0x00 ‖ header[0..116))`: the link of the chain and the RFC 6962 leaf hash of the record.
#[must_use]
pub fn event_hash(header: &[u8; HEADER_BYTES]) -> Hash {
    let mut blocks = [[0; 64]; 2];
    lay_first(&mut blocks[0], header);
    lay_second(&mut blocks[1], header, &field(header, PREV_HASH.start));
    hash_blocks(&blocks)
}

// 117 bytes and the padding of FIPS 180-4 §5.1.1 are exactly two blocks, so the blocks are laid out directly, over zeros.

fn lay_first(block: &mut Block, header: &[u8; HEADER_BYTES]) {
    block[1..].copy_from_slice(&header[..FIRST_BYTES]);
}

/// `prev_hash` is what the header holds, or will.
fn lay_second(block: &mut Block, header: &[u8; HEADER_BYTES], prev_hash: &Hash) {
    let at = |place: usize| place - FIRST_BYTES;
    block[..at(PREV_HASH.start)].copy_from_slice(&header[FIRST_BYTES..PREV_HASH.start]);
    block[at(PREV_HASH.start)..at(PREV_HASH.end)].copy_from_slice(prev_hash);
    block[at(PREV_HASH.end)..at(HASHED_BYTES)].copy_from_slice(&header[PREV_HASH.end..HASHED_BYTES]);
    block[at(HASHED_BYTES)] = 0x80;
    block[56..].copy_from_slice(&(8 * (HASHED_BYTES as u64 + 1)).to_be_bytes());
}

/// CRC-32C of `header[0..116) ‖ body`: a quick test for torn records, never a proof of validity.
#[must_use]
pub fn checksum(header: &[u8; HEADER_BYTES], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..HASHED_BYTES]), body)
}

/// The checksum a header carries.
#[must_use]
pub fn stored_checksum(header: &[u8; HEADER_BYTES]) -> u32 {
    u32::from_le_bytes(field(header, 116))
}

/// The length a header states for its body; not checked.
pub(super) fn stored_body_len(header: &[u8; HEADER_BYTES]) -> usize {
    u32::from_le_bytes(field(header, 4)) as usize
}

fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

const _: () = assert!(HASHED_BYTES + 1 + 1 + 8 <= 128, "the hashed bytes fit two SHA-256 blocks");
const _: () = assert!(PREV_HASH.start >= FIRST_BYTES, "the first block does not depend on the record before");
const _: () = assert!(HEADER_BYTES.is_multiple_of(ALIGNMENT));

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn sample() -> Header {
        Header {
            body_len: 5,
            seq: 7,
            wall_ns: 1,
            mono_ns: 2,
            kind: 32,
            flags: FLAG_REDACTABLE,
            core: 3,
            schema: 32,
            core_seq: 11,
            body_digest: [0xAA; 32],
            prev_hash: [0xBB; 32],
            epoch: 9,
        }
    }

    #[test]
    fn header_round_trips() {
        assert_eq!(Header::parse(&sample().to_bytes()), Ok(sample()));
    }

    #[test]
    fn event_hash_is_sha256_of_a_zero_byte_and_the_first_116_bytes() {
        let header = sample().to_bytes();
        let expected = Sha256::new().chain_update([0]).chain_update(&header[..116]).finalize();
        assert_eq!(event_hash(&header)[..], expected[..]);
    }

    #[test]
    fn every_header_byte_is_checked_by_hash_checksum_or_rule() {
        let mut record = sample().to_bytes().to_vec();
        record.extend_from_slice(b"hello");
        let hash = chain(&mut record, Link { seq: 7, wall_ns: 1, mono_ns: 2 }, &[0xBB; 32]);
        for at in 0..HEADER_BYTES {
            let mut changed: [u8; HEADER_BYTES] = record[..HEADER_BYTES].try_into().unwrap();
            changed[at] ^= 1;
            let caught = Header::parse(&changed).is_err()
                || event_hash(&changed) != hash
                || stored_checksum(&changed) != checksum(&changed, b"hello");
            assert!(caught, "a changed byte {at} goes unseen");
        }
    }

    #[test]
    fn foreign_bytes_are_not_headers() {
        let mut bytes = sample().to_bytes();
        bytes[3] = 2;
        assert_eq!(Header::parse(&bytes), Err(HeaderError::VersionUnknown(2)));
        bytes[0] = b'X';
        assert_eq!(Header::parse(&bytes), Err(HeaderError::NotARecord));
        assert_eq!(Header::parse(&[0; 128]), Err(HeaderError::Unwritten));
        let mut bytes = sample().to_bytes();
        bytes[4..8].copy_from_slice(&65_537u32.to_le_bytes());
        assert_eq!(Header::parse(&bytes), Err(HeaderError::BodyTooLong(65537)));
        let forged = Header { seq: SEQ_MAX + 1, ..sample() };
        assert_eq!(Header::parse(&forged.to_bytes()), Err(HeaderError::SeqTooLarge(SEQ_MAX + 1)));
        let mut bytes = sample().to_bytes();
        bytes[127] = 1;
        assert_eq!(Header::parse(&bytes), Err(HeaderError::ReservedNotZero));
    }
}
