//! The archive form of a finished segment: the same records in a fraction of the bytes, from which the segment's bytes
//! come back exactly (FORMAT.md, "Archive").
//!
//! - [`pack`]: a segment's bytes as an archive. Refuses what is not whole.
//! - [`Archive`]: reads the segment's bytes out of an archive at any place, a block at a time. What cannot be restored reads
//!   as bytes that are no record, so that whoever reads segments meets damage where it lies.
//! - `store.rs`: archives as files, compared before anything is removed.
//! - `column.rs`, `block.rs`: how a block is laid out.

mod block;
mod column;
mod read;
mod store;

use sha2::{Digest as _, Sha256};

use block::Raw;
pub(super) use read::{Archive, Damage};
pub(super) use store::{ARCHIVE_LOCK, LoadError, Loaded, StoreError, archivable};
pub use store::{ArchiveError, Archived, archive};

use super::{
    record::{
        BODY_BYTES_MAX, FLAG_REDACTABLE, HEADER_BYTES, Hash, Header, checksum, event_hash, stored_checksum,
        stored_len,
    },
    settings::SEGMENT_BYTES_MAX,
};

/// Why bytes are no archive, or no block of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unreadable(pub(super) &'static str);

/// Why a segment is not archived.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PackError {
    /// Its records do not fill it up to where it ended.
    #[error("its records end at offset {found}, not at {expected}: it is not whole")]
    NotWhole {
        /// Where the last record that continues the chain ends.
        found: u64,
        /// Where the next segment says that it ended.
        expected: u64,
    },
    /// It is longer than any segment.
    #[error("it has {0} bytes, more than any segment")]
    TooLong(u64),
}

/// What the records of a segment say together, as whoever packs them learns on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first_seq: u64,
    pub(super) records: u64,
    /// Event hash of the record before the first.
    pub(super) prev_hash: Hash,
    /// Event hash of the last.
    pub(super) last_hash: Hash,
    /// The lowest and the highest wall clock of a record.
    pub(super) first_wall_ns: u64,
    pub(super) last_wall_ns: u64,
}

/// The archive of segment `index`, whose file holds `segment` and whose records end at `end`, as the next segment says.
///
/// # Errors
/// [`PackError`]: what is not whole stays what it is.
pub(super) fn pack(index: u64, segment: &[u8], end: u64) -> Result<Vec<u8>, PackError> {
    let mut packer = Packer { blocks: Vec::new(), count: 0, offset: 0 };
    let mut records = Vec::new();
    let (mut block_start, mut offset) = (0, 0);
    let mut block_prev = [0; 32];
    each_raw(segment, end, &mut |raw, _, next| {
        if records.is_empty() {
            block_prev = raw.header.prev_hash;
        }
        records.push(raw);
        offset = next;
        if offset - block_start >= BLOCK_BYTES {
            packer.records(&records, offset - block_start, &block_prev);
            records.clear();
            block_start = offset;
        }
    })?;
    if !records.is_empty() {
        packer.records(&records, offset - block_start, &block_prev);
    }
    let tail = &segment[offset..];
    let tail = &tail[..tail.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)];
    tail.chunks(BLOCK_BYTES).for_each(|bytes| packer.raw(bytes));
    Ok(packer.finish(index, segment.len() as u64))
}

/// What the records of a segment say together, without packing them; `leaf` gets each event hash.
///
/// # Errors
/// As [`pack`].
pub(super) fn measure(segment: &[u8], end: u64, leaf: &mut dyn FnMut(&Hash)) -> Result<Span, PackError> {
    each_raw(segment, end, &mut |_, hash, _| leaf(hash))
}

/// Hands over each record with its event hash and the offset behind it; the records have to fill the segment up to `end`.
fn each_raw<'a>(
    segment: &'a [u8],
    end: u64,
    take: &mut dyn FnMut(Raw<'a>, &Hash, usize),
) -> Result<Span, PackError> {
    if segment.len() as u64 > SEGMENT_BYTES_MAX {
        return Err(PackError::TooLong(segment.len() as u64));
    }
    let mut offset = 0;
    let mut span: Option<Span> = None;
    while let Some(raw) = read_raw(&segment[offset..]) {
        let Header { seq, prev_hash, wall_ns, .. } = raw.header;
        let continues =
            span.is_none_or(|span| seq == span.first_seq + span.records && prev_hash == span.last_hash);
        if !continues {
            break;
        }
        let header_bytes = segment[offset..].first_chunk().expect("a record starts with a header");
        let hash = event_hash(header_bytes);
        let grown = span.get_or_insert(Span {
            first_seq: seq,
            records: 0,
            prev_hash,
            last_hash: hash,
            first_wall_ns: wall_ns,
            last_wall_ns: wall_ns,
        });
        grown.records += 1;
        grown.last_hash = hash;
        grown.first_wall_ns = grown.first_wall_ns.min(wall_ns);
        grown.last_wall_ns = grown.last_wall_ns.max(wall_ns);
        offset += stored_len(raw.body.len());
        take(raw, &hash, offset);
    }
    let whole = span.filter(|_| offset as u64 == end);
    whole.ok_or(PackError::NotWhole { found: offset as u64, expected: end })
}

/// The record at the start of `bytes`, if one stands there that is whole in itself, or was erased.
fn read_raw(bytes: &[u8]) -> Option<Raw<'_>> {
    let (header_bytes, behind) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let crc = stored_checksum(header_bytes);
    let header = Header::parse(header_bytes).ok()?;
    let body_len = header.body_len as usize;
    let body = behind.get(..body_len)?;
    let padding = behind.get(body_len..stored_len(body_len) - HEADER_BYTES)?;
    if padding.iter().any(|byte| *byte != 0) {
        return None;
    }
    let digest_fits = header.body_digest == <Hash>::from(Sha256::digest(body));
    let checksum_fits = crc == checksum(header_bytes, body);
    let erased = header.flags & FLAG_REDACTABLE != 0 && crc == 0 && body.iter().all(|byte| *byte == 0);
    let whole = (digest_fits && checksum_fits) || erased;
    whole.then_some(Raw { header, checksum: crc, body, digest_fits, checksum_fits })
}

/// Blocks on their way into a file.
struct Packer {
    blocks: Vec<u8>,
    count: u32,
    // Bytes of the segment that are in the blocks.
    offset: u64,
}

impl Packer {
    fn records(&mut self, records: &[Raw<'_>], len: usize, prev_hash: &Hash) {
        let first_seq = records.first().map_or(0, |raw| raw.header.seq);
        self.put(&block::encode(records), records.len(), len, first_seq, prev_hash);
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.put(bytes, 0, bytes.len(), 0, &[0; 32]);
    }

    fn put(&mut self, content: &[u8], records: usize, len: usize, first_seq: u64, prev_hash: &Hash) {
        let packed = zstd::bulk::compress(content, LEVEL).expect("there is room for what was compressed");
        let number = |number: usize| u32::try_from(number).expect("blocks are small");
        let header = BlockHeader {
            packed_len: number(packed.len()),
            content_len: number(content.len()),
            len: number(len),
            records: number(records),
            offset: self.offset,
            first_seq,
            prev_hash: *prev_hash,
            digest: Sha256::digest(&packed).into(),
        };
        self.blocks.extend_from_slice(&header.to_bytes());
        self.blocks.extend_from_slice(&packed);
        self.count += 1;
        self.offset += len as u64;
    }

    fn finish(self, index: u64, len: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(FILE_HEADER_BYTES + self.blocks.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&index.to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.blocks);
        out
    }
}

/// What stands before a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BlockHeader {
    // Bytes of the compressed content that follow.
    packed_len: u32,
    // Bytes of the content.
    content_len: u32,
    // Bytes of the segment that the block restores.
    len: u32,
    // Records in it; 0 where its content is the segment's bytes themselves.
    records: u32,
    // Where in the segment it stands.
    offset: u64,
    first_seq: u64,
    prev_hash: Hash,
    // SHA-256 of the compressed content.
    digest: Hash,
}

impl BlockHeader {
    fn to_bytes(self) -> [u8; BLOCK_HEADER_BYTES] {
        let mut bytes = [0; BLOCK_HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.packed_len.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.content_len.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.records.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_seq.to_le_bytes());
        bytes[32..64].copy_from_slice(&self.prev_hash);
        bytes[64..].copy_from_slice(&self.digest);
        bytes
    }

    fn parse(bytes: &[u8; BLOCK_HEADER_BYTES]) -> Result<Self, Unreadable> {
        fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
            bytes[at..at + N].try_into().expect("inside the header")
        }
        let number = |at| u32::from_le_bytes(field(bytes, at));
        let header = Self {
            packed_len: number(0),
            content_len: number(4),
            len: number(8),
            records: number(12),
            offset: u64::from_le_bytes(field(bytes, 16)),
            first_seq: u64::from_le_bytes(field(bytes, 24)),
            prev_hash: field(bytes, 32),
            digest: field(bytes, 64),
        };
        if header.len == 0 || header.len as usize > BLOCK_BYTES_MAX {
            return Err(Unreadable("a block restores more than a block may"));
        }
        if header.content_len as usize > CONTENT_BYTES_MAX || header.packed_len as usize > PACKED_BYTES_MAX {
            return Err(Unreadable("a block is longer than a block may be"));
        }
        Ok(header)
    }
}

/// The first bytes of an archive: its name and its version.
const MAGIC: [u8; 8] = *b"EDGARC\0\x01";

const FILE_HEADER_BYTES: usize = 32;

const BLOCK_HEADER_BYTES: usize = 96;

/// A block ends with the record that fills it so far: enough for the compressor to see what repeats, little enough to be
/// restored for one record.
const BLOCK_BYTES: usize = 4 << 20;

/// What a block can restore: it ends behind a record.
const BLOCK_BYTES_MAX: usize = BLOCK_BYTES + stored_len(BODY_BYTES_MAX);

/// What the content of a block may take before it is compressed. A number takes eight bytes for the two of its entry at
/// worst.
const CONTENT_BYTES_MAX: usize = 8 * BLOCK_BYTES_MAX;

/// What the content of a block may take afterwards.
const PACKED_BYTES_MAX: usize = CONTENT_BYTES_MAX + (1 << 20);

/// How hard the compressor tries; `bench/README.md` says what other levels give.
const LEVEL: i32 = 9;

#[cfg(test)]
mod tests;
