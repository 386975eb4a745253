//! The folder of one case: the copy's files by other names, until the case puts others in their place.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{
    cases::Undone,
    copy::{CopiedSegment, Copy, make_folder, write_segment},
};
use crate::audit::{
    body::Body as Encoder,
    cbor::Value,
    folder::segment_name,
    record::{CORE_SEQUENCER, HASHED_BYTES, Hash, Header, Link, chain, stored_len},
    schema::{Body, Kind},
    sealer::CHECKPOINT_FILE,
    walk::{Depth, Record, Walk, or_erased, read_record},
};

/// Where a case happens. The folder goes with it.
#[derive(Debug)]
pub(super) struct Ground<'a> {
    pub(super) copy: &'a Copy,
    dir: PathBuf,
    case: &'static str,
}

/// A segment's bytes, and where its records are.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) bytes: Vec<u8>,
    /// Where each record starts, and where the last ends.
    pub(super) offsets: Vec<usize>,
}

/// A record of the copy.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) segment: CopiedSegment,
    pub(super) parts: Parts,
    /// Its place among the segment's records.
    pub(super) at: usize,
    pub(super) seq: u64,
}

impl<'a> Ground<'a> {
    /// A copy of the copy: links, where the file system has them, since no case writes into a file.
    pub(super) fn lay(copy: &'a Copy, work: &Path, case: &'static str) -> io::Result<Self> {
        let ground = Self { copy, dir: work.join(case), case };
        make_folder(&ground.dir)?;
        let names = copy.segments.iter().map(|segment| segment_name(segment.index));
        for name in names.chain([CHECKPOINT_FILE.to_owned()]) {
            let (from, to) = (copy.dir.join(&name), ground.dir.join(&name));
            fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop))?;
        }
        Ok(ground)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// One of `count`, by the log and the case: the same for the same log, another for another.
    pub(super) fn pick(&self, what: &str, count: usize) -> usize {
        let digest = Sha256::new()
            .chain_update(self.copy.signed.root)
            .chain_update(self.case)
            .chain_update([0])
            .chain_update(what)
            .finalize();
        let number = digest.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        usize::try_from(number % (count.max(1) as u64)).unwrap_or(0)
    }

    /// A record that `wanted` wants, with a neighbour on both sides, of those whose change no crash explains.
    pub(super) fn record(
        &self,
        needs: &'static str,
        wanted: impl Fn(&Header) -> bool,
    ) -> Result<Place, Undone> {
        let segments = &self.copy.segments;
        let start = self.pick("segment", segments.len());
        for segment in segments.iter().cycle().skip(start).take(segments.len()) {
            let parts = self.segment(segment)?;
            let inner = 1..parts.records().saturating_sub(1);
            let fit: Vec<usize> = inner
                .filter(|at| {
                    let header = parts.header(*at);
                    header.seq < self.copy.durable_size && wanted(&header) && !parts.is_erased(*at)
                })
                .collect();
            if !fit.is_empty() {
                let at = fit[self.pick("record", fit.len())];
                return Ok(Place { segment: *segment, seq: parts.header(at).seq, parts, at });
            }
        }
        Err(Undone::Needs(needs))
    }

    /// A record that a shard or the control plane reported.
    pub(super) fn event(&self) -> Result<Place, Undone> {
        self.record("an event between other records", |header| {
            header.core != CORE_SEQUENCER && header.body_len > 0
        })
    }

    pub(super) fn of_kind(&self, kind: Kind, needs: &'static str) -> Result<Place, Undone> {
        self.record(needs, |header| header.kind == kind.code())
    }

    pub(super) fn segment(&self, segment: &CopiedSegment) -> io::Result<Parts> {
        Ok(Parts::of(fs::read(self.dir.join(segment_name(segment.index)))?))
    }

    pub(super) fn put(&self, segment: &CopiedSegment, bytes: &[u8]) -> io::Result<()> {
        write_segment(&self.dir, segment.index, bytes, segment.finished)
    }

    pub(super) fn remove(&self, segment: &CopiedSegment) -> io::Result<()> {
        fs::remove_file(self.dir.join(segment_name(segment.index)))
    }

    pub(super) fn exchange(&self, one: &CopiedSegment, other: &CopiedSegment) -> io::Result<()> {
        let path = |segment: &CopiedSegment| self.dir.join(segment_name(segment.index));
        let aside = self.dir.join("aside");
        fs::rename(path(one), &aside)?;
        fs::rename(path(other), path(one))?;
        fs::rename(aside, path(other))
    }

    /// Puts another checkpoint beside the log, or none.
    pub(super) fn publish(&self, note: Option<&str>) -> io::Result<()> {
        let path = self.dir.join(CHECKPOINT_FILE);
        fs::remove_file(&path)?;
        note.map_or(Ok(()), |note| fs::write(path, note))
    }
}

impl Drop for Ground<'_> {
    fn drop(&mut self) {
        // The drill's folder goes as a whole in the end; what cannot be removed now goes then.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Parts {
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        let mut offsets = vec![0];
        let mut walk = Walk::new(&bytes, Depth::Bodies);
        let mut at = 0;
        while let Ok(record) = or_erased(walk.read(at), &bytes, at) {
            at = record.next;
            offsets.push(at);
        }
        Self { bytes, offsets }
    }

    pub(super) fn records(&self) -> usize {
        self.offsets.len() - 1
    }

    pub(super) fn stored(&self, at: usize) -> &[u8] {
        &self.bytes[self.offsets[at]..self.offsets[at + 1]]
    }

    /// A record that was found there.
    pub(super) fn read(&self, at: usize) -> Record<'_> {
        let at = self.offsets[at];
        or_erased(read_record(&self.bytes, at), &self.bytes, at).expect("the walk passed this record")
    }

    /// Whether nothing of a record is left but what its hash covers.
    fn is_erased(&self, at: usize) -> bool {
        self.stored(at)[HASHED_BYTES..].iter().all(|byte| *byte == 0)
    }

    pub(super) fn header(&self, at: usize) -> Header {
        let header = self.stored(at).first_chunk().expect("a record starts with a header");
        Header::parse(header).expect("the walk passed this record")
    }

    /// Everything behind the first `records` goes.
    pub(super) fn cut(&mut self, records: usize) {
        self.offsets.truncate(records + 1);
        self.bytes.truncate(self.offsets[records]);
    }

    /// The segment's bytes with other ones in the place of some records.
    pub(super) fn with(&self, records: std::ops::Range<usize>, other: &[u8]) -> Vec<u8> {
        let (start, end) = (self.offsets[records.start], self.offsets[records.end]);
        [&self.bytes[..start], other, &self.bytes[end..]].concat()
    }
}

/// A record out of its chain.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) header: Header,
    pub(super) body: Vec<u8>,
}

impl Piece {
    pub(super) fn of(record: &Record<'_>) -> Self {
        Self { header: record.header, body: record.body.to_vec() }
    }

    pub(super) fn set_body(&mut self, body: Vec<u8>) {
        self.header.body_len = u32::try_from(body.len()).expect("a body is short");
        self.header.body_digest = Sha256::digest(&body).into();
        self.body = body;
    }

    /// Appends the record as it stands in this place of a chain; gives its event hash.
    pub(super) fn store(&self, seq: u64, prev_hash: &Hash, out: &mut Vec<u8>) -> Hash {
        let start = out.len();
        out.extend_from_slice(&self.header.to_bytes());
        out.extend_from_slice(&self.body);
        let link = Link { seq, wall_ns: self.header.wall_ns, mono_ns: self.header.mono_ns };
        let hash = chain(&mut out[start..], link, prev_hash);
        out.resize(start + stored_len(self.body.len()), 0);
        hash
    }

    /// The record as it stands in its own place.
    pub(super) fn stored(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.store(self.header.seq, &self.header.prev_hash, &mut out);
        out
    }
}

/// A body with another value in some fields. `None` if it has fields that no case changes: lists.
pub(super) fn with_fields(body: &Body<'_>, changes: &[(u64, Value<'_>)]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut encoder = Encoder::begin(&mut out);
    for (field, value) in body {
        let changed = changes.iter().find(|(key, _)| *key == field.key).map(|(_, value)| value);
        let key = u8::try_from(field.key).ok()?;
        match changed.unwrap_or(value) {
            Value::Bool(value) => encoder.boolean(key, *value),
            Value::Bytes(value) => encoder.bytes(key, value),
            Value::Text(value) => encoder.text_whole(key, value),
            Value::Uint(value) => encoder.uint(key, *value),
            Value::Array(_) | Value::Map(_) => return None,
        }
    }
    encoder.end();
    Some(out)
}
