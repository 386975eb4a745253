//! The chain and the segment it grows in, as one synchronous machine: no threads, no waiting, no clocks but the one
//! it is given. The sequencer drives it in the daemon; the crash tests drive it step by step.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::{
    body::Body,
    clock::{Clock, Reading},
    disk::{MediumFile, Sink},
    error::{AuditFailure, FailureKind},
    folder::Prepared,
    record::{self, CORE_SEQUENCER, FLAG_CRITICAL, HEADER_BYTES, Hash, Header, Link},
    schema::Kind,
    sha256::FirstBlocks,
    walk::{PrevEnd, genesis_hash},
};

/// Who this log is and which opening of it this is.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) origin: String,
    pub(super) log_id: [u8; 16],
    pub(super) boot: u64,
    /// Program and version.
    pub(super) writer: &'static str,
    /// Epoch of the key that the tags of the segment being written are made with.
    pub(super) tag_epoch: u64,
}

/// Where the chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Records in the log; the next one gets this as its `seq`.
    pub(super) size: u64,
    /// Event hash of the last record.
    pub(super) hash: Hash,
}

/// The one writer of a log.
pub(super) struct Writer {
    identity: Identity,
    clock: Clock,
    head: Head,
    active: Active,
    // Segments that were sealed but whose last flush has not come back.
    rolled: Vec<Rolled>,
    core_seq: u64,
    commits: u64,
    // First record and bytes of the commit being collected.
    commit_first: u64,
    commit_bytes: u64,
    // Every record below this is known to be durable.
    durable_size: u64,
    last_reading: Reading,
    bytes: u64,
    firsts: FirstBlocks,
    scratch: Vec<u8>,
}

struct Active {
    index: u64,
    bytes: u64,
    offset: u64,
    first_seq: u64,
    first_wall_ns: u64,
    emergency: bool,
    sink: Box<dyn Sink>,
    file: Arc<dyn MediumFile>,
}

/// A sealed segment on its way to being finished.
pub(super) struct Rolled {
    pub(super) index: u64,
    /// Bytes in use; the file is cut to them.
    pub(super) bytes: u64,
    file: Arc<dyn MediumFile>,
    // Unmapped only once the flush is done, by whoever finishes the segment.
    _sink: Box<dyn Sink>,
}

/// A flush to be done: everything up to `head` is durable when all files are flushed.
pub(super) struct FlushJob {
    pub(super) head: Head,
    files: Vec<Arc<dyn MediumFile>>,
    /// Segments that can be finished afterwards.
    pub(super) rolled: Vec<Rolled>,
}

impl FlushJob {
    pub(super) fn run(&self) -> std::io::Result<()> {
        // Older segments first: a record may be durable only if all before it are.
        self.files.iter().try_for_each(|file| file.sync_data())
    }
}

/// How far an append came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Appended {
    /// Bytes of the batch that are in the log; less than all when another segment is needed.
    pub(super) bytes: usize,
    /// Records of the batch that are in the log.
    pub(super) records: u64,
    /// `core_seq` of the last of them, if any.
    pub(super) core_seq: Option<u64>,
}

impl Writer {
    /// Begins to write into `prepared`, behind `head`.
    pub(super) fn begin(
        identity: Identity,
        clock: Clock,
        head: Head,
        prev: Option<PrevEnd>,
        prepared: Prepared,
    ) -> Result<Self, AuditFailure> {
        let last_reading = clock.read();
        let mut writer = Self {
            identity,
            clock,
            head,
            active: Active::new(prepared, head.size, last_reading.wall_ns),
            rolled: Vec::new(),
            core_seq: 0,
            commits: 0,
            commit_first: head.size,
            commit_bytes: 0,
            durable_size: head.size,
            last_reading,
            bytes: 0,
            firsts: FirstBlocks::new(),
            scratch: Vec::with_capacity(4096),
        };
        writer.open_segment(prev)?;
        Ok(writer)
    }

    /// Where the chain of this log starts.
    pub(super) fn genesis(&self) -> Head {
        Head { size: 0, hash: genesis_hash(&self.identity.origin, &self.identity.log_id) }
    }

    pub(super) fn head(&self) -> Head {
        self.head
    }

    pub(super) fn sink_name(&self) -> &'static str {
        self.active.sink.name()
    }

    /// Bytes written since the log was opened.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn segment(&self) -> u64 {
        self.active.index
    }

    pub(super) fn log_id(&self) -> [u8; 16] {
        self.identity.log_id
    }

    pub(super) fn boot(&self) -> u64 {
        self.identity.boot
    }

    pub(super) fn commits(&self) -> u64 {
        self.commits
    }

    pub(super) fn tag_epoch(&self) -> u64 {
        self.identity.tag_epoch
    }

    pub(super) fn in_emergency(&self) -> bool {
        self.active.emergency
    }

    /// Whether `bytes` more fit the active segment, with the records that end it.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.active.offset + bytes as u64 + RESERVED_BYTES <= self.active.bytes
    }

    /// Takes records laid out by an appender (`header ‖ body ‖ padding`, back to back), completing them in place.
    pub(super) fn append(&mut self, batch: &mut [u8]) -> Result<Appended, AuditFailure> {
        let reading = self.read_clock()?;
        let mut appended = Appended { bytes: 0, records: 0, core_seq: None };
        while let Some(core_seq) = self.link_some(batch, &mut appended, reading) {
            appended.core_seq = Some(core_seq);
        }
        if appended.bytes > 0 {
            self.store(&batch[..appended.bytes])?;
        }
        Ok(appended)
    }

    /// Completes the next records of `batch`, as many as are begun together and as there is room for; `core_seq` of the last.
    fn link_some(&mut self, batch: &mut [u8], appended: &mut Appended, reading: Reading) -> Option<u64> {
        let (mut end, mut seq) = (appended.bytes, self.head.size);
        while end < batch.len() && seq < self.head.size + TOGETHER {
            let stored = record::stored_len(body_len(&batch[end..]));
            if !self.has_room(end + stored) {
                break;
            }
            let link = Link { seq, wall_ns: reading.wall_ns, mono_ns: reading.mono_ns };
            self.firsts.push_with(|block| record::begin(&mut batch[end..], link, block));
            (end, seq) = (end + stored, seq + 1);
        }
        let mut core_seq = None;
        for state in self.firsts.take() {
            let record = &mut batch[appended.bytes..];
            let unpadded = HEADER_BYTES + body_len(record);
            self.head.hash = record::end(&mut record[..unpadded], state, &self.head.hash);
            core_seq = Some(u64::from_le_bytes(record[40..48].try_into().expect("eight bytes")));
            appended.bytes += record::stored_len(unpadded - HEADER_BYTES);
        }
        appended.records += seq - self.head.size;
        self.head.size = seq;
        core_seq
    }

    /// Appends a record of the sequencer's own; the caller has checked that there is room.
    pub(super) fn append_own(
        &mut self,
        kind: Kind,
        fill: impl FnOnce(&mut Body<'_>),
    ) -> Result<(), AuditFailure> {
        let reading = self.clock.read();
        self.append_own_at(reading, kind, fill)
    }

    fn append_own_at(
        &mut self,
        reading: Reading,
        kind: Kind,
        fill: impl FnOnce(&mut Body<'_>),
    ) -> Result<(), AuditFailure> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.resize(HEADER_BYTES, 0);
        let mut body = Body::begin(&mut scratch);
        fill(&mut body);
        body.end();
        self.core_seq += 1;
        let (flags, core, core_seq) = (FLAG_CRITICAL, CORE_SEQUENCER, self.core_seq);
        finish_record(&mut scratch, 0, &Stamp { kind, flags, core, core_seq, epoch: 0 });
        let unpadded = HEADER_BYTES + body_len(&scratch);
        let link = Link { seq: self.head.size, wall_ns: reading.wall_ns, mono_ns: reading.mono_ns };
        self.head.hash = record::chain(&mut scratch[..unpadded], link, &self.head.hash);
        self.head.size += 1;
        let stored = self.store(&scratch);
        self.scratch = scratch;
        stored
    }

    /// Seals the active segment and goes on in `prepared`, with tags of this epoch.
    pub(super) fn roll(&mut self, prepared: Prepared, tag_epoch: u64) -> Result<(), AuditFailure> {
        self.seal()?;
        let wall_ns = self.clock.read().wall_ns;
        let next = Active::new(prepared, self.head.size, wall_ns);
        let full = std::mem::replace(&mut self.active, next);
        let prev = PrevEnd { end: full.offset, tail_bytes: 0, tail_digest: [0; 32] };
        self.rolled.push(Rolled { index: full.index, bytes: full.offset, file: full.file, _sink: full.sink });
        self.identity.tag_epoch = tag_epoch;
        self.open_segment(Some(prev))
    }

    /// Ends a commit with its COMMIT record and says what must be flushed.
    pub(super) fn begin_commit(&mut self) -> Result<FlushJob, AuditFailure> {
        self.append_commit()?;
        Ok(self.flush_job())
    }

    fn append_commit(&mut self) -> Result<(), AuditFailure> {
        self.commits += 1;
        let (commit, first_seq, durable_size, bytes) =
            (self.commits, self.commit_first, self.durable_size, self.commit_bytes);
        self.append_own(Kind::Commit, |body| {
            body.uint(1, commit);
            body.uint(2, first_seq);
            body.uint(3, durable_size);
            body.uint(4, bytes);
        })
    }

    /// Takes note that a job's flush succeeded.
    pub(super) fn end_commit(&mut self, size: u64) {
        assert!(size >= self.durable_size && size <= self.head.size, "flushes come back in order");
        self.durable_size = size;
    }

    /// Writes the last records of this log: CLEAN_CLOSE, COMMIT, SEAL. Nothing is appended afterwards.
    pub(super) fn close(&mut self, events: u64) -> Result<FlushJob, AuditFailure> {
        self.append_own(Kind::CleanClose, |body| body.uint(1, events))?;
        self.append_commit()?;
        self.seal()?;
        Ok(self.flush_job())
    }

    /// The index and length in use of the active segment.
    pub(super) fn position(&self) -> (u64, u64) {
        (self.active.index, self.active.offset)
    }

    fn flush_job(&mut self) -> FlushJob {
        self.commit_first = self.head.size;
        self.commit_bytes = 0;
        let rolled = std::mem::take(&mut self.rolled);
        let files =
            rolled.iter().map(|rolled| &rolled.file).chain([&self.active.file]).map(Arc::clone).collect();
        FlushJob { head: self.head, files, rolled }
    }

    fn seal(&mut self) -> Result<(), AuditFailure> {
        let reading = self.clock.read();
        let (segment, first_seq, first_wall_ns) =
            (self.active.index, self.active.first_seq, self.active.first_wall_ns);
        // `records` counts the SEAL itself; `bytes` is where it starts, since its own length depends on the number.
        let (records, bytes) = (self.head.size + 1 - first_seq, self.active.offset);
        self.append_own_at(reading, Kind::SegmentSeal, |body| {
            body.uint(1, segment);
            body.uint(2, first_seq);
            body.uint(3, records);
            body.uint(4, first_wall_ns);
            body.uint(5, reading.wall_ns);
            body.uint(6, bytes);
        })
    }

    fn open_segment(&mut self, prev: Option<PrevEnd>) -> Result<(), AuditFailure> {
        let Identity { origin, log_id, boot, writer, tag_epoch } = self.identity.clone();
        let (segment, sink, emergency) = (self.active.index, self.active.sink.name(), self.active.emergency);
        self.append_own(Kind::SegmentOpen, |body| {
            body.text(1, &origin);
            body.bytes(2, &log_id);
            body.uint(3, segment);
            body.uint(4, boot);
            body.text(5, sink);
            body.text(6, writer);
            if let Some(prev) = prev {
                body.uint(7, prev.end);
                if prev.tail_bytes > 0 {
                    body.uint(8, prev.tail_bytes);
                    body.bytes(9, &prev.tail_digest);
                }
            }
            body.uint(10, tag_epoch);
            body.boolean(11, emergency);
        })
    }

    /// Reads the clocks and records a jump of the wall clock against the monotonic one.
    fn read_clock(&mut self) -> Result<Reading, AuditFailure> {
        let reading = self.clock.read();
        let elapsed = reading.mono_ns.saturating_sub(self.last_reading.mono_ns);
        let expected = self.last_reading.wall_ns.saturating_add(elapsed);
        if expected.abs_diff(reading.wall_ns) >= CLOCK_JUMP_NS && self.has_room(OWN_BYTES_MAX) {
            self.append_own_at(reading, Kind::ClockJump, |body| {
                body.uint(1, expected);
                body.uint(2, reading.wall_ns);
            })?;
        }
        self.last_reading = reading;
        Ok(reading)
    }

    fn store(&mut self, bytes: &[u8]) -> Result<(), AuditFailure> {
        self.active.sink.write(self.active.offset, bytes).map_err(|error| {
            let index = self.active.index;
            let kind = match error.raw_os_error() {
                Some(libc::EFAULT) => FailureKind::MapLost,
                _ => FailureKind::WriteFailed,
            };
            AuditFailure::new(kind, format_args!("cannot write segment {index}: {error}"))
        })?;
        self.active.offset += bytes.len() as u64;
        self.commit_bytes += bytes.len() as u64;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

impl Active {
    fn new(prepared: Prepared, first_seq: u64, first_wall_ns: u64) -> Self {
        let Prepared { index, bytes, sink, file, emergency } = prepared;
        Self { index, bytes, offset: 0, first_seq, first_wall_ns, emergency, sink, file }
    }
}

/// The length that a record laid out by us states for its body.
fn body_len(record: &[u8]) -> usize {
    record::stored_body_len(record.first_chunk().expect("a record starts with a header"))
}

/// What whoever lays a record out knows of it, besides its body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    pub(super) kind: Kind,
    pub(super) flags: u16,
    pub(super) core: u16,
    pub(super) core_seq: u64,
    pub(super) epoch: u32,
}

/// Completes the record that starts at `start` of `out`: header fields an appender knows, digest, padding.
pub(super) fn finish_record(out: &mut Vec<u8>, start: usize, stamp: &Stamp) {
    let digest = Sha256::digest(&out[start + HEADER_BYTES..]).into();
    lay_header(out, start, stamp, &digest);
}

/// As [`finish_record`], with a digest that is known, or will be.
pub(super) fn lay_header(out: &mut Vec<u8>, start: usize, stamp: &Stamp, body_digest: &Hash) {
    let Stamp { kind, flags, core, core_seq, epoch } = *stamp;
    let header = Header {
        body_len: u32::try_from(out.len() - start - HEADER_BYTES).expect("body length was checked"),
        seq: 0,
        wall_ns: 0,
        mono_ns: 0,
        kind: kind.code(),
        flags,
        core,
        schema: kind.code(),
        core_seq,
        body_digest: *body_digest,
        prev_hash: [0; 32],
        epoch,
    };
    header.write(out[start..].first_chunk_mut().expect("room for the header was left"));
    out.resize(start + record::stored_len(header.body_len as usize), 0);
}

/// Records begun together: their headers stay in the first-level cache until they are completed.
const TOGETHER: u64 = 64;

/// Room kept at the end of a segment for COMMIT, CLEAN_CLOSE and SEAL, each of at most 216 bytes.
pub(super) const RESERVED_BYTES: u64 = 1024;

/// The longest record of the sequencer's own other than RECOVERY.
pub(super) const OWN_BYTES_MAX: usize = 512;

/// A step of the wall clock worth a record: NTP slews stay far below.
const CLOCK_JUMP_NS: u64 = 1_000_000_000;

/// The writer named in SEGMENT_OPEN records.
pub(super) const WRITER: &str = concat!("edgate ", env!("CARGO_PKG_VERSION"));
