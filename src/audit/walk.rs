//! Reading one record out of a segment's bytes, with every check that needs no neighbour.

use std::{collections::VecDeque, fmt};

use sha2::{Digest as _, Sha256};

use super::{
    checksums::Checksums,
    record::{self, HEADER_BYTES, Hash, Header, HeaderError},
    schema::{self, Kind},
    sha256::Hasher,
};

/// A record whose checksum and body digest are right. Its place in the chain is for the caller to check.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) header: Header,
    pub(super) body: &'a [u8],
    pub(super) hash: Hash,
    /// Offset of the next record.
    pub(super) next: usize,
    /// The body is zeros, and whether it may be is not checked (FORMAT.md, "Erased records").
    pub(super) erased: bool,
}

/// Why no record can be read at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Flaw {
    /// Header or body run past the end of the bytes.
    #[error("record runs past the end of the segment")]
    Cut,
    /// The body is not the one the header commits to.
    #[error("body does not match its digest")]
    Digest,
    /// All but the hashed part of the header is zeros, as an erasure leaves it.
    #[error("body was overwritten with zeros")]
    Erased,
    /// The bytes are no header.
    #[error("{0}")]
    Header(HeaderError),
    /// Bytes between the body and the next record are not zero.
    #[error("padding is not zero")]
    Padding,
    /// The checksum is wrong while the digest of the body is right: the header differs.
    #[error("checksum of the header does not match")]
    Checksum,
    /// Zeros: the end of what was written.
    #[error("nothing was written here")]
    Unwritten,
}

/// How much of a record is recomputed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Everything but the body digest: the checksum stands for it.
    Headers,
    /// Everything.
    Bodies,
}

/// Reads the record at `offset`, a multiple of the alignment.
pub(super) fn read_record(segment: &[u8], offset: usize) -> Result<Record<'_>, Flaw> {
    read_record_to(segment, offset, Depth::Bodies)
}

/// As [`read_record`], to a stated depth.
pub(super) fn read_record_to(segment: &[u8], offset: usize, depth: Depth) -> Result<Record<'_>, Flaw> {
    let frame = Frame::at(segment, offset)?;
    let digest = (depth == Depth::Bodies).then(|| Sha256::digest(frame.body).into());
    let checksum = || record::checksum(frame.header_bytes, frame.body);
    frame.check(digest.as_ref(), checksum, || record::event_hash(frame.header_bytes))
}

/// Where header, body and padding of a record lie.
struct Frame<'a> {
    header_bytes: &'a [u8; HEADER_BYTES],
    header: Header,
    body: &'a [u8],
    padding: &'a [u8],
    next: usize,
}

impl<'a> Frame<'a> {
    #[inline]
    fn at(segment: &'a [u8], offset: usize) -> Result<Self, Flaw> {
        let rest = segment.get(offset..).ok_or(Flaw::Cut)?;
        let Some((header_bytes, behind)) = rest.split_first_chunk::<HEADER_BYTES>() else {
            return Err(if rest.iter().all(|byte| *byte == 0) { Flaw::Unwritten } else { Flaw::Cut });
        };
        let header = Header::parse(header_bytes).map_err(|error| match error {
            HeaderError::Unwritten => Flaw::Unwritten,
            other => Flaw::Header(other),
        })?;
        let body_len = header.body_len as usize;
        let (body, behind) = behind.split_at_checked(body_len).ok_or(Flaw::Cut)?;
        let stored = record::stored_len(body_len);
        let padding = behind.get(..stored - HEADER_BYTES - body_len).ok_or(Flaw::Cut)?;
        Ok(Self { header_bytes, header, body, padding, next: offset + stored })
    }

    /// `digest` is that of the body, where it is to be compared.
    #[inline]
    fn check(
        &self,
        digest: Option<&Hash>,
        checksum: impl FnOnce() -> u32,
        hash: impl FnOnce() -> Hash,
    ) -> Result<Record<'a>, Flaw> {
        let Self { header_bytes, header, body, padding, next } = *self;
        if self.is_erased() {
            return Err(Flaw::Erased);
        }
        // Of the bytes, not of the fields that were just copied from them: those would have to be waited for.
        if digest.is_some_and(|digest| header_bytes[record::BODY_DIGEST] != *digest) {
            return Err(Flaw::Digest);
        }
        if record::stored_checksum(header_bytes) != checksum() {
            return Err(Flaw::Checksum);
        }
        if padding.iter().any(|byte| *byte != 0) {
            return Err(Flaw::Padding);
        }
        Ok(Record { header, body, hash: hash(), next, erased: false })
    }

    /// The record, without its body.
    fn erased(&self) -> Record<'a> {
        let Self { header_bytes, header, body, next, .. } = *self;
        Record { header, body, hash: record::event_hash(header_bytes), next, erased: true }
    }

    /// A checksum of zeros is asked about first: one record in four billion has it by chance, and no body is all zeros.
    #[inline]
    fn is_erased(&self) -> bool {
        record::stored_checksum(self.header_bytes) == 0
            && is_redactable(&self.header)
            && self.body.iter().chain(self.padding).all(|byte| *byte == 0)
    }
}

/// Whether the body of such a record may be erased.
pub(super) fn is_redactable(header: &Header) -> bool {
    header.flags & record::FLAG_REDACTABLE != 0
        && Kind::from_code(header.kind).is_some_and(Kind::is_redactable)
}

/// As `found`, which is what can be read at `offset`; but a record whose body was erased is one. For readers that know
/// that a later segment was written, and that look for the ERASE or do not depend on it.
pub(super) fn or_erased<'a>(
    found: Result<Record<'a>, Flaw>,
    segment: &'a [u8],
    offset: usize,
) -> Result<Record<'a>, Flaw> {
    match found {
        Err(Flaw::Erased) => Frame::at(segment, offset).map(|frame| frame.erased()),
        other => other,
    }
}

/// As [`or_erased`], and so is one whose body may have been about to be erased when the power went: for the start behind.
pub(super) fn or_partly_erased<'a>(
    found: Result<Record<'a>, Flaw>,
    segment: &'a [u8],
    offset: usize,
) -> Result<Record<'a>, Flaw> {
    match or_erased(found, segment, offset) {
        Err(_) if is_partly_erased(segment, offset) => Frame::at(segment, offset).map(|frame| frame.erased()),
        other => other,
    }
}

/// Whether a power cut while its body was overwritten can have left the record at `offset` so: some of its sectors are
/// zeros, others not yet (FORMAT.md, "Erased records").
pub(super) fn is_partly_erased(segment: &[u8], offset: usize) -> bool {
    let Ok(Frame { header, body, .. }) = Frame::at(segment, offset) else { return false };
    let (mut at, end) = (offset + record::HASHED_BYTES, offset + HEADER_BYTES + body.len());
    let (mut parts, mut zeros) = (0, 0);
    while at < end {
        let next = end.min((at + 1).next_multiple_of(SECTOR_BYTES));
        parts += 1;
        zeros += usize::from(segment[at..next].iter().all(|byte| *byte == 0));
        at = next;
    }
    is_redactable(&header) && parts > 1 && zeros > 0
}

/// What a medium is assumed to write as one (FORMAT.md).
pub(super) const SECTOR_BYTES: usize = 512;

/// Reads the records of one segment, most often one behind the other.
pub(super) struct Walk<'a> {
    segment: &'a [u8],
    ahead: Ahead,
}

impl<'a> Walk<'a> {
    pub(super) fn new(segment: &'a [u8], depth: Depth) -> Self {
        Self { segment, ahead: Ahead::new(depth) }
    }

    /// Reads the record at `offset`, a multiple of the alignment.
    #[inline]
    pub(super) fn read(&mut self, offset: usize) -> Result<Record<'a>, Flaw> {
        self.ahead.read(self.segment, offset)
    }
}

/// The hashes and checksums of records ahead, computed together.
///
/// What it yields at an offset is what [`read_record_to`] yields there: they depend on nothing but the record's bytes.
pub(super) struct Ahead {
    depth: Depth,
    // Where the records start whose hashes the hasher holds: two each, the event's and the body's, or the event's alone.
    offsets: VecDeque<usize>,
    hashed: usize,
    hasher: Hasher,
    checksums: Checksums,
}

impl fmt::Debug for Ahead {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Ahead").field("offsets", &self.offsets).finish_non_exhaustive()
    }
}

impl Ahead {
    pub(super) fn new(depth: Depth) -> Self {
        Self {
            depth,
            offsets: VecDeque::with_capacity(AHEAD_RECORDS),
            hashed: 0,
            hasher: Hasher::new(),
            checksums: Checksums::new(),
        }
    }

    /// What follows is read from other bytes.
    pub(super) fn forget(&mut self) {
        self.offsets.clear();
    }

    /// Reads the record at `offset`, a multiple of the alignment. `segment` is what it was since [`Self::forget`].
    #[inline]
    pub(super) fn read<'a>(&mut self, segment: &'a [u8], offset: usize) -> Result<Record<'a>, Flaw> {
        let frame = Frame::at(segment, offset)?;
        if self.offsets.front() != Some(&offset) {
            self.look(segment, offset);
        }
        self.offsets.pop_front();
        let hashes = self.hasher.hashes();
        let at = self.hashed - self.offsets.len() - 1;
        let checksum = || self.checksums.made()[at];
        match self.depth {
            Depth::Bodies => frame.check(Some(&hashes[2 * at + 1]), checksum, || hashes[2 * at]),
            Depth::Headers => frame.check(None, checksum, || hashes[at]),
        }
    }

    /// Hashes the records from `offset` on, the first of which is there.
    fn look(&mut self, segment: &[u8], offset: usize) {
        self.hasher.clear();
        self.offsets.clear();
        let mut at = offset;
        while self.offsets.len() < AHEAD_RECORDS
            && let Some((header, body)) = like_record(segment, at)
        {
            // As `record::event_hash`.
            self.hasher.push_with(record::HASHED_BYTES + 1, |bytes| {
                bytes[1..].copy_from_slice(&header[..record::HASHED_BYTES]);
            });
            if self.depth == Depth::Bodies {
                self.hasher.push(body);
            }
            self.offsets.push_back(at);
            at += record::stored_len(body.len());
        }
        self.hashed = self.offsets.len();
        self.hasher.finish();
        self.checksums.of(self.offsets.iter().filter_map(|at| like_record(segment, *at)));
    }
}

/// Header and body of what looks like a record; whether it is one, [`Frame::check`] says when it is its turn.
#[inline]
fn like_record(segment: &[u8], offset: usize) -> Option<(&[u8; HEADER_BYTES], &[u8])> {
    let (header, behind) = segment.get(offset..)?.split_first_chunk()?;
    let body = behind.get(..record::stored_body_len(header))?;
    (header[..record::MAGIC.len()] == record::MAGIC && body.len() <= record::BODY_BYTES_MAX)
        .then_some((header, body))
}

/// The records of a segment from its start, as far as they can be read. One whose body was erased, or was about to be, is among
/// them: see [`or_partly_erased`].
pub(super) struct Records<'a> {
    walk: Walk<'a>,
    offset: usize,
    flaw: Option<Flaw>,
}

impl<'a> Records<'a> {
    /// Bodies are not hashed.
    pub(super) fn of(segment: &'a [u8]) -> Self {
        Self { walk: Walk::new(segment, Depth::Headers), offset: 0, flaw: None }
    }

    /// Where the next one stands, or would.
    pub(super) const fn offset(&self) -> usize {
        self.offset
    }

    /// Why no more come, once none does.
    pub(super) const fn flaw(&self) -> Option<Flaw> {
        self.flaw
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        match or_partly_erased(self.walk.read(self.offset), self.walk.segment, self.offset) {
            Ok(record) => {
                self.offset = record.next;
                Some(record)
            }
            Err(flaw) => {
                self.flaw = Some(flaw);
                None
            }
        }
    }
}

/// Records hashed together: enough to fill the lanes with bodies of a few lengths, and what they take stays in the
/// first-level cache.
const AHEAD_RECORDS: usize = 64;

impl<'a> Record<'a> {
    pub(super) fn kind(&self) -> Option<Kind> {
        Kind::from_code(self.header.kind)
    }

    /// The body under its schema.
    pub(super) fn read_body(&self) -> Result<schema::Body<'a>, schema::BodyError> {
        schema::read_body(self.header.kind, self.header.schema, self.body)
    }
}

/// What a SEGMENT_OPEN body says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SegmentOpen {
    pub(super) origin: String,
    pub(super) log_id: [u8; 16],
    pub(super) segment: u64,
    pub(super) boot: u64,
    /// Epoch of the key that the tags in this segment were made with.
    pub(super) tag_epoch: u64,
    /// How the previous segment ended; absent in the first.
    pub(super) prev: Option<PrevEnd>,
}

/// How a segment ended, as its successor states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PrevEnd {
    /// Bytes of valid records.
    pub(super) end: u64,
    /// Bytes after them up to the last one that is not zero: a torn tail, left in place.
    pub(super) tail_bytes: u64,
    /// SHA-256 of the tail; of nothing when there is none.
    pub(super) tail_digest: Hash,
}

impl SegmentOpen {
    pub(super) fn read(record: &Record<'_>) -> Option<Self> {
        if record.kind() != Some(Kind::SegmentOpen) {
            return None;
        }
        let body = record.read_body().ok()?;
        let prev = schema::uint(&body, 7).map(|end| PrevEnd {
            end,
            tail_bytes: schema::uint(&body, 8).unwrap_or(0),
            tail_digest: schema::bytes(&body, 9)
                .and_then(|bytes| bytes.try_into().ok())
                .unwrap_or_else(empty_digest),
        });
        Some(Self {
            origin: schema::text(&body, 1)?.to_owned(),
            log_id: schema::bytes(&body, 2)?.try_into().ok()?,
            segment: schema::uint(&body, 3)?,
            boot: schema::uint(&body, 4)?,
            tag_epoch: schema::uint(&body, 10)?,
            prev,
        })
    }
}

/// Measures what lies behind the valid records of a segment.
pub(super) fn prev_end(segment: &[u8], end: usize) -> PrevEnd {
    let tail = &segment[end..];
    let tail = &tail[..tail.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)];
    PrevEnd { end: end as u64, tail_bytes: tail.len() as u64, tail_digest: Sha256::digest(tail).into() }
}

/// The hash that stands before record 0: it binds the chain to this log's name and to this one log of that name.
pub(super) fn genesis_hash(origin: &str, log_id: &[u8; 16]) -> Hash {
    Sha256::new()
        .chain_update(b"edgate audit log v1\n")
        .chain_update(origin)
        .chain_update(b"\n")
        .chain_update(log_id)
        .finalize()
        .into()
}

fn empty_digest() -> Hash {
    Sha256::digest([]).into()
}
