//! The sealer: re-reads what was stored, recomputes it, and only then has it signed.
//!
//! It signs durable prefixes that end with a COMMIT record, so that a checkpoint never covers what a power cut may
//! take back. The bytes it hashes are the ones on disk, not the ones the sequencer meant: a bit that flipped between
//! hashing and storing is found here, before a signature makes it permanent (CT log Yeti 2022).

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam::channel::{Receiver, RecvTimeoutError};

use super::{
    appender::{Ack, Appender, Shared},
    clock::Clock,
    erased::InEffect,
    error::{AuditError, AuditFailure, FailureKind},
    hex::{hex, unhex},
    merkle::CompactRange,
    note::{Checkpoint, CheckpointKey},
    outlet::Outlets,
    real::replace_file,
    receipt::Renewal,
    record::{BODY_BYTES_MAX, HEADER_BYTES, Header, MAGIC},
    schema::Kind,
    status::Progress,
    stored::{Stored, list_segments},
    walk::{Flaw, or_erased, or_partly_erased, read_record},
    writer::Head,
};

/// Signs checkpoints: a closure over whatever holds the key, and the key to check it with.
pub struct CheckpointSigner {
    /// The Ed25519 verifying key of the signatures.
    pub verifying_key: [u8; 32],
    /// Signs a message. May block: it runs on the sealer's thread.
    pub sign: Sign,
}

/// Signs one message.
pub type Sign = Box<dyn FnMut(&[u8]) -> Result<[u8; 64], SignError> + Send>;

/// Why a checkpoint could not be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("checkpoint was not signed: {0}")]
pub struct SignError(pub String);

/// When to sign.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cadence {
    pub(super) interval: Duration,
    pub(super) events: u64,
    pub(super) idle: Duration,
    pub(super) unsigned_age_max: Duration,
}

/// The sealer's thread.
pub(super) struct Sealer {
    pub(super) shared: Arc<Shared>,
    pub(super) progress: Arc<Progress>,
    pub(super) appender: Appender,
    pub(super) signer: CheckpointSigner,
    pub(super) key: CheckpointKey,
    pub(super) cadence: Cadence,
    pub(super) follower: Follower,
    /// Where receipts are given: when their next key is due.
    pub(super) receipts: Option<Renewal>,
    // CHECKPOINT records that are not durable yet: place among this thread's records, and the size that is covered.
    pub(super) recording: VecDeque<(u64, u64)>,
    pub(super) outlets: Arc<Outlets>,
    pub(super) stop: Receiver<()>,
}

impl Sealer {
    /// Signs on its cadence until told to stop, and once more when the log was closed in order.
    pub(super) fn run(mut self) {
        let tick = (self.cadence.interval / 4).max(Duration::from_millis(1));
        // Due at once: what the last run left unsigned, and the start itself, do not wait for an interval that a crash
        // may cut short.
        let mut signed_at = Instant::now().checked_sub(self.cadence.idle).unwrap_or_else(Instant::now);
        let mut wait = Duration::from_millis(1);
        let mut unsigned_since: Option<Instant> = None;
        let mut unpublished: Option<u64> = None;
        let mut told_at: Option<Instant> = None;
        loop {
            let durable = self.appender.acknowledged(Ack::Durable);
            while let Some((_, size)) = self.recording.pop_front_if(|(core_seq, _)| *core_seq <= durable) {
                self.progress.publish_vouched(size);
            }
            match self.stop.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => wait = tick,
                Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                    self.finish();
                    return;
                }
            }
            if self.shared.failure().is_some_and(|failure| failure.kind.is_permanent()) {
                continue;
            }
            let turned = self.turn(&mut signed_at, &mut unsigned_since, &mut unpublished);
            match turned.and_then(|()| self.renew_receipt_key()) {
                Ok(()) => {}
                Err(SealError::Stored(failure)) => self.shared.fail(failure),
                Err(SealError::Sign(error)) => {
                    if told_at.is_none_or(|at| at.elapsed() >= self.cadence.idle) {
                        told_at = Some(Instant::now());
                        self.tell_unsigned(unsigned_since, &error.to_string());
                    }
                }
            }
            if let Some(since) = unsigned_since
                && since.elapsed() > self.cadence.unsigned_age_max
            {
                let age = since.elapsed().as_secs();
                self.shared.restrict(AuditFailure::new(
                    FailureKind::Unsigned,
                    format_args!("nothing was signed for {age} s"),
                ));
            }
        }
    }

    /// Signs if it is time. `unpublished` is what `news` was when a checkpoint was recorded whose copy beside the log
    /// could not be written.
    fn turn(
        &mut self,
        signed_at: &mut Instant,
        unsigned_since: &mut Option<Instant>,
        unpublished: &mut Option<u64>,
    ) -> Result<(), SealError> {
        let durable = self.progress.durable();
        self.follower.follow(durable)?;
        if self.follower.news > 0 {
            unsigned_since.get_or_insert_with(Instant::now);
        }
        let since = signed_at.elapsed();
        let due = self.follower.news >= self.cadence.events
            || (self.follower.news > 0 && since >= self.cadence.interval)
            || since >= self.cadence.idle;
        if !due || durable.size == 0 {
            return Ok(());
        }
        let (checkpoint, note) = self.sign()?;
        // The record first: `checkpoint` is a copy for those who do not read the log.
        // Once: a record for each try to write the copy would use up the disk whose lack of room is what fails.
        if *unpublished != Some(self.follower.news) {
            self.record(&checkpoint, &note)?;
            *unpublished = Some(self.follower.news);
        }
        self.publish(&note)?;
        let since = std::mem::replace(&mut self.follower.fresh, CompactRange::new(checkpoint.size));
        self.outlets.publish(&note, &since);
        *unpublished = None;
        self.follower.news = 0;
        *signed_at = Instant::now();
        *unsigned_since = None;
        self.shared.reopen(FailureKind::Unsigned);
        self.progress.publish_signed(checkpoint.size);
        Ok(())
    }

    /// Has the next key of receipts certified, if it is due.
    fn renew_receipt_key(&mut self) -> Result<(), SealError> {
        let Some(renewal) = &mut self.receipts else { return Ok(()) };
        let now = Clock::system().read().wall_ns / 1_000_000_000;
        if let Some(key) = renewal.due(now, &self.key, &mut self.signer.sign).map_err(SealError::Sign)? {
            self.shared.receipt_key.store(Some(Arc::new(key)));
        }
        Ok(())
    }

    fn record(&mut self, checkpoint: &Checkpoint, note: &str) -> Result<(), SealError> {
        let tree = self.follower.tree.to_bytes();
        let appended = self.appender.append_own(Kind::Checkpoint, |body| {
            body.uint(1, checkpoint.size);
            body.bytes(2, &checkpoint.root);
            body.text_whole(3, note);
            body.bytes(4, &tree);
        });
        self.appender.submit();
        let id = appended.map_err(|error| SealError::Sign(SignError(error.to_string())))?;
        self.recording.push_back((id.core_seq, checkpoint.size));
        Ok(())
    }

    /// After an orderly close nothing can be appended, but the whole log, its seal included, can still be signed.
    fn finish(&mut self) {
        if self.progress.closed_at().is_none() {
            return;
        }
        let head = self.progress.durable();
        let signed =
            self.follower.follow(head).and_then(|()| self.sign()).and_then(|(_, note)| self.publish(&note));
        if signed.is_ok() {
            self.progress.publish_signed(head.size);
        }
    }

    fn sign(&mut self) -> Result<(Checkpoint, String), SealError> {
        self.follower.fold();
        let root =
            self.follower.tree.root().ok_or(SealError::Sign(SignError("the tree is incomplete".into())))?;
        let checkpoint = Checkpoint { origin: self.key.name.clone(), size: self.follower.tree.end(), root };
        let signature = (self.signer.sign)(checkpoint.to_text().as_bytes()).map_err(SealError::Sign)?;
        let note = checkpoint.to_note(&self.key, &signature);
        // A signer that answers with another key's signature must not go unnoticed until an audit.
        Checkpoint::open(&note, std::slice::from_ref(&self.key))
            .map_err(|error| SealError::Sign(SignError(format!("the signer's answer: {error}"))))?;
        Ok((checkpoint, note))
    }

    /// Writes the note, and the tree a restart continues from.
    fn publish(&self, note: &str) -> Result<(), SealError> {
        let failed = |error: io::Error| SealError::Sign(SignError(format!("cannot publish: {error}")));
        replace_file(&self.follower.dir, TREE_FILE, self.follower.to_text(note).as_bytes())
            .map_err(failed)?;
        replace_file(&self.follower.dir, CHECKPOINT_FILE, note.as_bytes()).map_err(failed)
    }

    fn tell_unsigned(&mut self, since: Option<Instant>, error: &str) {
        let age = since.map_or(0, |since| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
        // Refused while the log is shut; then there is nothing to be told.
        let _ = self.appender.append_own(Kind::Heartbeat, |body| {
            body.uint(1, age);
            body.text(2, error);
        });
        self.appender.submit();
    }
}

/// What keeps a checkpoint from being made.
#[derive(Debug)]
pub(super) enum SealError {
    /// The signer, or the file beside the log: the next turn tries again.
    Sign(SignError),
    /// The stored bytes are not what was hashed: nothing may be signed any more.
    Stored(AuditFailure),
}

/// Follows the stored bytes of the log, from segment to segment, and keeps the tree over them.
pub(super) struct Follower {
    dir: PathBuf,
    tree: CompactRange,
    // What was read since the tree was looked at, and what since a checkpoint was published: ranges that continue the
    // tree cost nothing more than growing it.
    read: CompactRange,
    fresh: CompactRange,
    head: Head,
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
    /// Starts behind the last published checkpoint if it belongs to this log, else at the very beginning, which
    /// [`Self::begin`] must then state.
    ///
    /// # Errors
    /// [`AuditError::RolledBack`] when the log is shorter than, or differs from, what was signed.
    pub(super) fn resume(dir: &Path, key: &CheckpointKey, size: u64) -> Result<Self, AuditError> {
        let fresh = Self {
            dir: dir.to_owned(),
            tree: CompactRange::new(0),
            read: CompactRange::new(0),
            fresh: CompactRange::new(0),
            head: Head { size: 0, hash: [0; 32] },
            segment: super::recover::FIRST_SEGMENT,
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
            return Ok(fresh);
        };
        let opened = Checkpoint::open(&note, std::slice::from_ref(key));
        let fits = opened.is_ok_and(|checkpoint| {
            (checkpoint.size, Some(checkpoint.root)) == (tree.end(), tree.root())
                && checkpoint.origin == key.name
        });
        if !fits {
            // Another key or a damaged file: it proves nothing, and the tree can be computed again.
            return Ok(fresh);
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

    /// States what the chain of this log begins with: a log that a start has only now begun has no name before.
    pub(super) fn begin(&mut self, genesis: Head) {
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
            let erased = matches!(read_record(&self.buffer, self.at), Err(Flaw::Erased)) && self.is_lawful();
            record = read_record(&self.buffer, self.at);
            if erased {
                record = or_erased(record, &self.buffer, self.at);
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
    fn fold(&mut self) {
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
    fn to_text(&self, note: &str) -> String {
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

/// The latest checkpoint, for readers and for a later look at what had been signed.
pub(super) const CHECKPOINT_FILE: &str = "checkpoint";

/// The tree at that checkpoint, for the next start.
const TREE_FILE: &str = "checkpoint.tree";

/// Bytes read at a time.
const FOLLOW_BYTES: usize = 256 * 1024;
const _: () = assert!(FOLLOW_BYTES > 2 * BODY_BYTES_MAX, "the longest record fits");

#[cfg(test)]
#[path = "sealer_tests.rs"]
mod tests;
