//! What re-reads the stored bytes for the sealer, and where a start begins to.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{SealError, TREE_FILE};
use crate::audit::{
    erased::InEffect,
    error::{AuditError, AuditFailure, FailureKind},
    hex::{hex, unhex},
    merkle::CompactRange,
    note::{Checkpoint, CheckpointKey},
    record::{BODY_BYTES_MAX, HEADER_BYTES, Header, MAGIC},
    recover::FIRST_SEGMENT,
    retire::{Retired, find_retired},
    schema::Kind,
    stored::{Segments, Stored, list_segments},
    walk::{Flaw, or_erased, or_partly_erased, read_record},
    writer::Head,
};

/// Follows the stored bytes of the log, from segment to segment, and keeps the tree over them.
pub(in crate::audit) struct Follower {
    pub(super) dir: PathBuf,
    pub(super) tree: CompactRange,
    // What was read since the tree was looked at, and what since a checkpoint was published: ranges that continue the
    // tree cost nothing more than growing it.
    read: CompactRange,
    pub(super) fresh: CompactRange,
    pub(super) head: Head,
    // Where the next record stands: `at` bytes behind the start of the buffer, which holds what is at `offset`.
    segment: u64,
    offset: u64,
    at: usize,
    stored: Option<Stored>,
    buffer: Vec<u8>,
    // Records there were at the start, and the erasures among them, once one is met.
    recovered: u64,
    in_effect: Option<InEffect>,
    /// Records that say something, since the last checkpoint.
    pub(super) news: u64,
}

impl Follower {
    /// Starts behind the last published checkpoint if it belongs to this log, else behind the segments that were retired,
    /// else at the very beginning, which [`Self::begin`] must then state.
    ///
    /// # Errors
    /// [`AuditError::RolledBack`] when the log is shorter than, or differs from, what was signed; [`AuditError::Damaged`] when its
    /// first segments are missing and no RETIRE record says why.
    pub(in crate::audit) fn resume(dir: &Path, key: &CheckpointKey, size: u64) -> Result<Self, AuditError> {
        let fresh = Self {
            dir: dir.to_owned(),
            tree: CompactRange::new(0),
            read: CompactRange::new(0),
            fresh: CompactRange::new(0),
            head: Head { size: 0, hash: [0; 32] },
            segment: FIRST_SEGMENT,
            offset: 0,
            at: 0,
            stored: None,
            buffer: Vec::new(),
            recovered: size,
            in_effect: None,
            news: 0,
        };
        let Some((head, tree, note)) =
            fs::read_to_string(dir.join(TREE_FILE)).ok().and_then(|text| parse_tree(&text))
        else {
            return fresh.behind_retired();
        };
        let opened = Checkpoint::open(&note, std::slice::from_ref(key));
        let fits = opened.is_ok_and(|checkpoint| {
            (checkpoint.size, Some(checkpoint.root)) == (tree.end(), tree.root())
                && checkpoint.origin == key.name
        });
        if !fits {
            // Another key or a damaged file: it proves nothing, and the tree can be computed again.
            return fresh.behind_retired();
        }
        let rolled_back = |cause: String| AuditError::RolledBack { path: dir.to_owned(), cause };
        if head.size > size {
            return Err(rolled_back(format!("{} records were signed, {size} are there", head.size)));
        }
        let (read, fresh_range) = (CompactRange::new(tree.end()), CompactRange::new(tree.end()));
        let mut follower = Self { tree, read, fresh: fresh_range, head, ..fresh };
        match follower.seek(head) {
            Ok(()) => Ok(follower),
            Err(error) => {
                Err(rolled_back(format!("record {} is not the signed one: {error}", head.size - 1)))
            }
        }
    }

    /// Where the first segments were retired, what is left is read from behind them on, with the tree that their RETIRE record
    /// states: the chain that is read next has to continue it.
    fn behind_retired(self) -> Result<Self, AuditError> {
        let io = |source| AuditError::io("read a segment of", &self.dir, source);
        let files = list_segments(&self.dir).map_err(io)?;
        let Some(first) = files.first().map(|file| file.index).filter(|index| *index > FIRST_SEGMENT) else {
            return Ok(self);
        };
        let segments = Segments { dir: &self.dir, elsewhere: None };
        let Some(retired) = find_retired(segments, &files, first - 1).map_err(io)? else {
            let cause = "the segment is missing, and no RETIRE record says so".to_owned();
            return Err(AuditError::Damaged { dir: self.dir, segment: first - 1, offset: 0, seq: 0, cause });
        };
        let Retired { size, hash, tree, .. } = retired;
        let (read, fresh) = (CompactRange::new(size), CompactRange::new(size));
        Ok(Self { tree, read, fresh, head: Head { size, hash }, segment: first, ..self })
    }

    /// States what the chain of this log begins with: a log that a start has only now begun has no name before.
    pub(in crate::audit) fn begin(&mut self, genesis: Head) {
        if self.head.size == 0 {
            self.head = genesis;
        }
    }

    /// Finds the place behind record `head.size - 1` and checks that it is the one of that hash.
    fn seek(&mut self, head: Head) -> io::Result<()> {
        let segments = list_segments(&self.dir)?;
        for segment in segments.iter().rev() {
            let stored = Stored::open(&self.dir, segment.index)?;
            let start = stored.start(HEADER_BYTES)?;
            let Some(Ok(first)) = start.first_chunk().map(Header::parse) else { continue };
            if first.seq >= head.size {
                continue;
            }
            let bytes = stored.read()?;
            let mut offset = 0;
            while let Ok(record) = or_partly_erased(read_record(&bytes, offset), &bytes, offset) {
                offset = record.next;
                if record.header.seq + 1 == head.size {
                    if record.hash != head.hash {
                        return Err(io::Error::other("its hash differs"));
                    }
                    (self.segment, self.offset) = (segment.index, offset as u64);
                    return Ok(());
                }
            }
            break;
        }
        Err(io::Error::other("it is missing"))
    }

    /// Reads and recomputes the stored records up to `durable`, which is what the sequencer meant to store.
    pub(super) fn follow(&mut self, durable: Head) -> Result<(), SealError> {
        while self.head.size < durable.size {
            self.next_record()?;
        }
        if self.head.size == durable.size && self.head.hash != durable.hash {
            return Err(self.differs("its hash is not the one that was chained"));
        }
        Ok(())
    }

    fn next_record(&mut self) -> Result<(), SealError> {
        let mut record = read_record(&self.buffer, self.at);
        if record.is_err() {
            // The record may lie behind the buffer, or may have been stored since the buffer was filled.
            self.fill(FOLLOW_BYTES)?;
            record = read_record(&self.buffer, self.at);
            if let Err(Flaw::Erased) = record {
                let lawful = self.is_lawful();
                record = Err(Flaw::Erased);
                if lawful {
                    record = or_erased(record, &self.buffer, self.at);
                }
            }
        }
        let (header, hash, next) = match record {
            Ok(record) => (record.header, record.hash, record.next),
            Err(flaw) => {
                let flaw = flaw.to_string();
                return if self.next_segment() { Ok(()) } else { Err(self.differs(&flaw)) };
            }
        };
        if header.seq != self.head.size || header.prev_hash != self.head.hash {
            return Err(self.differs("it does not continue the chain"));
        }
        self.read.push(&hash);
        self.head = Head { size: header.seq + 1, hash };
        self.at = next;
        let kind = Kind::from_code(header.kind);
        let own = [
            Kind::Anchor,
            Kind::Checkpoint,
            Kind::Commit,
            Kind::SegmentOpen,
            Kind::SegmentSeal,
            Kind::Heartbeat,
        ];
        self.news += u64::from(!kind.is_some_and(|kind| own.contains(&kind)));
        Ok(())
    }

    /// Whether the erased record at hand was erased by an authority. What was stored in this run is read long before it can
    /// be; but where no tree was left, what is read begins with record 0.
    fn is_lawful(&mut self) -> bool {
        let header = self.buffer.get(self.at..).and_then(<[u8]>::first_chunk);
        let Some(header) = header.and_then(|header| Header::parse(header).ok()) else { return false };
        if self.in_effect.is_none() {
            // Signatures are not looked at: they may be of the key before this one.
            self.in_effect = InEffect::read(&self.dir, self.segment, Some(self.recovered), &[]).ok();
        }
        let erasure = self.in_effect.as_ref().and_then(|found| found.of(header.seq, &header.body_digest));
        erasure.is_some()
    }

    /// Makes the tree one over all that was read.
    pub(super) fn fold(&mut self) {
        let read = std::mem::replace(&mut self.read, CompactRange::new(self.head.size));
        let joined = self.tree.merge(&read) && self.fresh.merge(&read);
        assert!(joined, "what is read continues the tree");
    }

    /// Fills the buffer with stored bytes from the next record on.
    fn fill(&mut self, bytes: usize) -> Result<(), SealError> {
        self.offset += self.at as u64;
        self.at = 0;
        let (dir, segment, offset, open) = (&self.dir, self.segment, self.offset, &mut self.stored);
        let mut read = || -> io::Result<Vec<u8>> {
            let stored = match open {
                Some(stored) => stored,
                None => open.insert(Stored::open(dir, segment)?),
            };
            let mut buffer = vec![0; bytes];
            let len = stored.read_at(&mut buffer, offset)?;
            buffer.truncate(len);
            Ok(buffer)
        };
        self.buffer = read().map_err(|error| {
            SealError::Stored(AuditFailure::new(
                FailureKind::StoredDiffers,
                format_args!("cannot re-read segment {}: {error}", self.segment),
            ))
        })?;
        Ok(())
    }

    /// Goes on with the next segment, if there is one and it was written to.
    fn next_segment(&mut self) -> bool {
        let start = Stored::open(&self.dir, self.segment + 1).and_then(|stored| stored.start(MAGIC.len()));
        let written =
            start.is_ok_and(|start| start.len() == MAGIC.len() && start.iter().any(|byte| *byte != 0));
        if written {
            self.segment += 1;
            self.offset = 0;
            self.stored = None;
            self.at = 0;
            self.buffer.clear();
        }
        written
    }

    fn differs(&self, cause: &str) -> SealError {
        SealError::Stored(AuditFailure::new(
            FailureKind::StoredDiffers,
            format_args!(
                "record {} as stored (segment {}, offset {}) is not as hashed: {cause}",
                self.head.size,
                self.segment,
                self.offset + self.at as u64
            ),
        ))
    }

    /// The state a restart continues from: size, head and tree as lines, then the note that vouches for it.
    pub(super) fn to_text(&self, note: &str) -> String {
        format!("{}\n{}\n{}\n\n{note}", self.head.size, hex(&self.head.hash), hex(&self.tree.to_bytes()))
    }
}

fn parse_tree(text: &str) -> Option<(Head, CompactRange, String)> {
    let (state, note) = text.split_once("\n\n")?;
    let mut lines = state.split('\n');
    let size = lines.next()?.parse().ok()?;
    let hash = unhex(lines.next()?)?.try_into().ok()?;
    let tree = CompactRange::from_bytes(size, &unhex(lines.next()?)?)?;
    Some((Head { size, hash }, tree, note.to_owned()))
}

/// Bytes read at a time.
const FOLLOW_BYTES: usize = 256 * 1024;
const _: () = assert!(FOLLOW_BYTES > 2 * BODY_BYTES_MAX, "the longest record fits");
