//! What a RETIRE record says, and finding it.

use std::io;

use crate::audit::{
    event::RetireEvent,
    folder::SegmentFile,
    merkle::CompactRange,
    record::Hash,
    schema::{self, Kind},
    stored::Segments,
    walk::Record,
};

/// A segment that an authority had removed, and everything before it: what the rest of the log continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::audit) struct Retired {
    pub(in crate::audit) segment: u64,
    /// Records up to its end.
    pub(in crate::audit) size: u64,
    /// Event hash of the last of them.
    pub(in crate::audit) hash: Hash,
    /// The tree over them.
    pub(in crate::audit) tree: CompactRange,
    /// SHA-256 of the archive that is kept elsewhere.
    pub(in crate::audit) archive: Hash,
    /// The wall clocks of its records lie between these.
    pub(in crate::audit) first_wall_ns: u64,
    pub(in crate::audit) last_wall_ns: u64,
    pub(in crate::audit) authority: String,
    pub(in crate::audit) reason: String,
    /// The RETIRE record itself.
    pub(in crate::audit) seq: u64,
}

impl Retired {
    /// What `record` says, if it is a RETIRE record that can be understood.
    pub(in crate::audit) fn read(record: &Record<'_>) -> Option<Self> {
        if record.kind() != Some(Kind::Retire) {
            return None;
        }
        let body = record.read_body().ok()?;
        let uint = |key| schema::uint(&body, key);
        let hash = |key| -> Option<Hash> { schema::bytes(&body, key)?.try_into().ok() };
        let size = uint(2)?.checked_add(uint(3)?)?;
        Some(Self {
            segment: uint(1)?,
            size,
            authority: schema::text(&body, 4)?.to_owned(),
            reason: schema::text(&body, 5)?.to_owned(),
            hash: hash(6)?,
            tree: CompactRange::from_bytes(size, schema::bytes(&body, 7)?)?,
            archive: hash(8)?,
            first_wall_ns: uint(9)?,
            last_wall_ns: uint(10)?,
            seq: record.header.seq,
        })
    }
}

/// The statement that segment `segment` was retired, in the latest of `files` that has one.
pub(in crate::audit) fn find_retired(
    segments: Segments<'_>,
    files: &[SegmentFile],
    segment: u64,
) -> io::Result<Option<Retired>> {
    let of_it = |retired: &Retired| retired.segment == segment;
    segments.last_of(files, u64::MAX, Kind::Retire, |record| Retired::read(record).filter(of_it))
}

/// The body of the event that [`Retired::read`] reads back.
impl RetireEvent<'_> {
    pub(in crate::audit) fn encode(&self, body: &mut crate::audit::body::Body<'_>) {
        body.uint(1, self.segment);
        body.uint(2, self.first_seq);
        body.uint(3, self.records);
        body.text(4, self.authority);
        body.text(5, self.reason);
        body.bytes(6, self.last_hash);
        body.bytes(7, self.frontier);
        body.bytes(8, self.archive);
        body.uint(9, self.first_wall_ns);
        body.uint(10, self.last_wall_ns);
    }
}
