//! Which erasures are in effect: ERASE records, and the CHECKPOINT records that make them count (FORMAT.md, "Erased
//! records"). An ERASE that a crash left unsigned never counts, so nobody erases by adding bytes to a log's tail.

use std::{collections::HashMap, io, path::Path};

use super::{
    note::{Checkpoint, CheckpointKey},
    record::{HEADER_BYTES, Hash, Header, stored_len},
    schema::{self, Kind},
    stored::{Stored, list_segments},
    walk::{Record, SegmentOpen, read_record},
};

/// What an ERASE record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure {
    /// The ERASE's own number.
    pub at: u64,
    /// The record whose body goes.
    pub seq: u64,
    /// The digest of that body.
    pub body_digest: Hash,
    /// Who ordered it.
    pub authority: String,
    /// Why.
    pub reason: String,
}

impl Erasure {
    pub(super) fn read(record: &Record<'_>) -> Option<Self> {
        if record.kind() != Some(Kind::Erase) {
            return None;
        }
        let body = record.read_body().ok()?;
        Some(Self {
            at: record.header.seq,
            seq: schema::uint(&body, 1)?,
            body_digest: schema::bytes(&body, 2)?.try_into().ok()?,
            authority: schema::text(&body, 3)?.to_owned(),
            reason: schema::text(&body, 4)?.to_owned(),
        })
    }
}

/// The erasures of a log, fed in its order.
#[derive(Debug, Default)]
pub(super) struct InEffect {
    boot: Option<u64>,
    // Of this boot, and not under a checkpoint of it.
    waiting: Vec<Erasure>,
    by_record: HashMap<(u64, Hash), Erasure>,
}

impl InEffect {
    /// A segment begins. With another boot, or none that can be read, what waits never takes effect.
    pub(super) fn open(&mut self, boot: Option<u64>) {
        if boot.is_none() || boot != self.boot {
            self.waiting.clear();
        }
        self.boot = boot;
    }

    pub(super) fn order(&mut self, erasure: Erasure) {
        self.waiting.push(erasure);
    }

    /// A CHECKPOINT record, number `seq`, is signed for the first `size` records.
    pub(super) fn checkpoint(&mut self, seq: u64, size: u64) {
        for erasure in self.waiting.extract_if(.., |erasure| erasure.at < size.min(seq)) {
            self.by_record.entry((erasure.seq, erasure.body_digest)).or_insert(erasure);
        }
    }

    /// The first erasure in effect of record `seq`, whose header has this digest.
    pub(super) fn of(&self, seq: u64, body_digest: &Hash) -> Option<&Erasure> {
        self.by_record.get(&(seq, *body_digest))
    }

    /// Whether nothing can come of this ERASE any more.
    pub(super) fn is_void(&self, at: u64, seq: u64, body_digest: &Hash) -> bool {
        self.of(seq, body_digest).is_none() && self.waiting.iter().all(|waiting| waiting.at != at)
    }

    /// Reads the records of the log in `dir` from segment `from` on and below `upto`. Links are for others to check, as are
    /// signatures where no key is given.
    pub(super) fn read(dir: &Path, from: u64, upto: Option<u64>, keys: &[CheckpointKey]) -> io::Result<Self> {
        let mut found = Self::default();
        for file in list_segments(dir)?.into_iter().filter(|file| file.index >= from) {
            found.scan(&Stored::open(dir, file.index)?.read()?, upto, keys);
        }
        Ok(found)
    }

    /// Reads the records of one segment.
    pub(super) fn scan(&mut self, segment: &[u8], upto: Option<u64>, keys: &[CheckpointKey]) {
        let mut offset = 0;
        let mut origin = None;
        while let Some(header) = segment.get(offset..).and_then(<[u8]>::first_chunk::<HEADER_BYTES>)
            && let Ok(header) = Header::parse(header)
            && upto.is_none_or(|upto| header.seq < upto)
        {
            match Kind::from_code(header.kind) {
                Some(Kind::SegmentOpen) => {
                    let open = read_record(segment, offset).ok().and_then(|open| SegmentOpen::read(&open));
                    self.open(open.as_ref().map(|open| open.boot));
                    origin = open.map(|open| open.origin);
                }
                Some(Kind::Erase) => {
                    let read = read_record(segment, offset).ok();
                    read.and_then(|record| Erasure::read(&record))
                        .into_iter()
                        .for_each(|one| self.order(one));
                }
                Some(Kind::Checkpoint) => {
                    if let Some(size) = read_record(segment, offset)
                        .ok()
                        .and_then(|record| signed_size(&record, origin.as_deref(), keys))
                    {
                        self.checkpoint(header.seq, size);
                    }
                }
                _ => {}
            }
            offset += stored_len(header.body_len as usize);
        }
    }
}

/// The size that the note in a CHECKPOINT record is signed for.
fn signed_size(record: &Record<'_>, origin: Option<&str>, keys: &[CheckpointKey]) -> Option<u64> {
    let body = record.read_body().ok()?;
    let note = schema::text(&body, 3)?;
    let signed =
        if keys.is_empty() { Checkpoint::read_unverified(note) } else { Checkpoint::open(note, keys) };
    signed.ok().filter(|signed| Some(signed.origin.as_str()) == origin).map(|signed| signed.size)
}
