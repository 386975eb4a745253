//! What a start finds in the folder, and what it does about it.
//!
//! Recovery never changes a byte of a segment that became part of the log. It walks everything that is not known to
//! be finished, decides where the chain ends, keeps copies of what lies behind the end, and says so in the next
//! segment, whose SEGMENT_OPEN states how its predecessor ended. So a crash during recovery leaves exactly what it
//! found, and the next start decides the same.

use std::{io, path::Path};

use sha2::{Digest as _, Sha256};

use super::{
    erase::Resumed,
    erased::InEffect,
    error::AuditError,
    folder::{Folder, SegmentFile, segment_name},
    kept::PassedOver,
    record::{ALIGNMENT, CORE_SEQUENCER, Hash, MAGIC},
    schema::{self, Kind},
    tag_keys::key_path,
    walk::{PrevEnd, Record, SegmentOpen, genesis_hash, or_partly_erased, prev_end, read_record},
    writer::Head,
};

/// What a start found and did.
#[derive(Debug, Clone, Default)]
pub struct Recovery {
    /// The folder had no log; one was begun.
    pub created: bool,
    /// Records found.
    pub size: u64,
    /// The log had been closed in order.
    pub clean: bool,
    /// Torn tails set aside, with their place.
    pub torn: Vec<Torn>,
    /// Erasures that were under way when the log stopped.
    pub erasures: Resumed,
    /// Anchors that the log could not be held against.
    pub passed_over: Vec<PassedOver>,
}

/// Bytes behind the last valid record, copied to `quarantine/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// The segment.
    pub segment: u64,
    /// Where the bytes start.
    pub offset: u64,
    /// How many there are.
    pub bytes: u64,
    /// Their SHA-256.
    pub digest: Hash,
    /// What the first of them should have been.
    pub cause: String,
    /// The file in `quarantine/`.
    pub file: String,
}

/// Where to go on.
#[derive(Debug)]
pub(super) struct Resume {
    pub(super) log: Option<(String, [u8; 16])>,
    pub(super) head: Head,
    pub(super) next_index: u64,
    pub(super) prev: Option<PrevEnd>,
    /// The segments that the next SEGMENT_OPEN, once durable, closes for good.
    pub(super) unfinished: Vec<u64>,
    pub(super) report: Recovery,
}

/// What a start has, and the log must fit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'a> {
    pub(super) origin: &'a str,
    /// Of the newest tag key.
    pub(super) tag_epoch: u64,
}

/// Compares the number of good records with what was signed.
pub(super) type Vouch<'a> = &'a mut dyn FnMut(u64) -> Result<(), AuditError>;

/// One segment as read.
struct Loaded {
    file: SegmentFile,
    bytes: Vec<u8>,
}

/// How far the valid chain goes, and how it stops.
struct Walked {
    log: Option<(String, [u8; 16])>,
    // What the last segment states.
    tag_epoch: u64,
    head: Head,
    // Position in `Vec<Loaded>` and offset of the end of the chain; `None` before the first record.
    end: Option<(usize, usize)>,
    durable_size: u64,
    last_kind: Option<Kind>,
    cause: String,
    // Records whose body is zeros: position of the segment, offset, number, digest.
    erased: Vec<(usize, usize, u64, Hash)>,
}

/// Reads the folder, sets torn bytes aside and says where to go on.
///
/// `vouch` is asked before anything is changed: a log that it refuses stays as it was found.
pub(super) fn recover(
    folder: &Folder,
    dir: &Path,
    expected: Expected<'_>,
    vouch: Vouch<'_>,
) -> Result<Resume, AuditError> {
    let io = |what| move |source: io::Error| AuditError::io(what, dir, source);
    let (loaded, walked) = examine(folder, dir, Some(expected))?;
    vouch(walked.head.size)?;
    set_aside(folder, &loaded, walked).map_err(io("set torn bytes aside in"))
}

/// Whether a start would go on with this log; changes nothing. Its name is not asked for.
pub(super) fn would_resume(folder: &Folder, dir: &Path, vouch: Vouch<'_>) -> Result<(), AuditError> {
    let (_, walked) = examine(folder, dir, None)?;
    vouch(walked.head.size)
}

/// Reads what is not known to be finished and judges how it ends.
fn examine(
    folder: &Folder,
    dir: &Path,
    expected: Option<Expected<'_>>,
) -> Result<(Vec<Loaded>, Walked), AuditError> {
    let io = |what| move |source: io::Error| AuditError::io(what, dir, source);
    let files = folder.segments().map_err(io("list the segments of"))?;
    let damaged = |segment, offset, seq, cause: String| AuditError::Damaged {
        dir: dir.to_owned(),
        segment,
        offset,
        seq,
        cause,
    };
    for pair in files.windows(2) {
        if pair[1].index != pair[0].index + 1 {
            return Err(damaged(pair[0].index + 1, 0, 0, "the segment is missing".into()));
        }
    }
    // Everything up to the last finished segment was durable before it was finished; `audit verify` checks it.
    let first = files.iter().rposition(|file| file.finished).unwrap_or(0);
    let loaded = files[first..]
        .iter()
        .map(|file| Ok(Loaded { file: *file, bytes: folder.read(file.index)? }))
        .collect::<Result<Vec<_>, io::Error>>()
        .map_err(io("read a segment of"))?;
    let walked = walk(&loaded);
    if let (Some((found, _)), Some(Expected { origin, .. })) = (&walked.log, expected)
        && found != origin
    {
        return Err(AuditError::OriginMismatch {
            path: dir.to_owned(),
            found: found.clone(),
            expected: origin.to_owned(),
        });
    }
    judge(&loaded, &walked)
        .map_err(|(segment, offset, cause)| damaged(segment, offset, walked.head.size, cause))?;
    if expected.is_some_and(|expected| expected.tag_epoch < walked.tag_epoch) {
        return Err(AuditError::TagKeyMissing { path: key_path(dir, walked.tag_epoch) });
    }
    if let Some((position, offset, seq, _)) = unlawful(&loaded, &walked) {
        let cause = "the body is zeros, and no ERASE that is in effect names it".to_owned();
        return Err(damaged(loaded[position].file.index, offset as u64, seq, cause));
    }
    Ok((loaded, walked))
}

/// The first record whose body nobody had erased. Every segment behind is at hand, and so is its ERASE.
fn unlawful(loaded: &[Loaded], walked: &Walked) -> Option<(usize, usize, u64, Hash)> {
    if walked.erased.is_empty() {
        return None;
    }
    let mut in_effect = InEffect::default();
    loaded.iter().for_each(|segment| in_effect.scan(&segment.bytes, Some(walked.head.size), &[]));
    walked.erased.iter().find(|(.., seq, digest)| in_effect.of(*seq, digest).is_none()).copied()
}

/// Follows the chain as far as it holds.
fn walk(loaded: &[Loaded]) -> Walked {
    let mut walked = Walked {
        log: None,
        tag_epoch: 0,
        head: Head { size: 0, hash: [0; 32] },
        end: None,
        durable_size: 0,
        last_kind: None,
        cause: String::new(),
        erased: Vec::new(),
    };
    for (position, segment) in loaded.iter().enumerate() {
        let mut offset = 0;
        // Only bodies of segments that another written one follows are ever erased; elsewhere zeros are a torn record. Such a
        // one is finished, but for the moment that its mode lets it be overwritten, in which the node may end.
        let followed = loaded.get(position + 1).is_some_and(|next| next.bytes.starts_with(&MAGIC));
        loop {
            let found = match read_record(&segment.bytes, offset) {
                found if segment.file.finished || followed => or_partly_erased(found, &segment.bytes, offset),
                found => found,
            };
            let record = match found {
                Ok(record) => record,
                Err(flaw) => {
                    walked.cause = flaw.to_string();
                    break;
                }
            };
            if let Err(cause) = walked.admit(&record, position, offset, loaded) {
                walked.cause = cause;
                break;
            }
            if record.erased {
                walked.erased.push((position, offset, record.header.seq, record.header.body_digest));
            }
            walked.follow(&record);
            offset = record.next;
            walked.end = Some((position, offset));
        }
        if walked.end.is_none_or(|(at, _)| at != position) {
            // The segment's first record does not continue the chain: nothing after it can.
            break;
        }
    }
    walked
}

impl Walked {
    /// Whether `record`, found at `offset` of segment `position`, is the next one of the chain.
    fn admit(
        &mut self,
        record: &Record<'_>,
        position: usize,
        offset: usize,
        loaded: &[Loaded],
    ) -> Result<(), String> {
        let file = loaded[position].file;
        if offset == 0 {
            let open = SegmentOpen::read(record).ok_or("the segment does not start with SEGMENT_OPEN")?;
            if open.segment != file.index {
                return Err(format!("the segment calls itself {}", open.segment));
            }
            match (&self.log, self.end) {
                (None, _) if open.segment == FIRST_SEGMENT => {
                    self.head = Head { size: 0, hash: genesis_hash(&open.origin, &open.log_id) };
                }
                // The first segment read is trusted to continue the finished ones before it.
                (None, _) => self.head = Head { size: record.header.seq, hash: record.header.prev_hash },
                (Some(log), Some((at, end))) => {
                    if (&open.origin, &open.log_id) != (&log.0, &log.1) {
                        return Err("the segment belongs to another log".into());
                    }
                    let found = prev_end(&loaded[at].bytes, end);
                    let stated = open.prev.ok_or("the segment does not say how the one before it ended")?;
                    let same_tail = stated.tail_bytes == 0 || stated.tail_digest == found.tail_digest;
                    if stated.end != found.end || stated.tail_bytes != found.tail_bytes || !same_tail {
                        return Err("the segment before it ended elsewhere".into());
                    }
                }
                (Some(_), None) => return Err("the segment before it is empty".into()),
            }
            self.tag_epoch = open.tag_epoch;
            self.log.get_or_insert((open.origin, open.log_id));
        } else if self.last_kind == Some(Kind::SegmentSeal) {
            return Err("a record follows the seal".into());
        }
        if record.header.seq != self.head.size {
            return Err(format!("record {} stands where {} belongs", record.header.seq, self.head.size));
        }
        if record.header.prev_hash != self.head.hash {
            return Err(format!("record {} does not continue the chain", record.header.seq));
        }
        Ok(())
    }

    fn follow(&mut self, record: &Record<'_>) {
        self.head = Head { size: record.header.seq + 1, hash: record.hash };
        self.last_kind = record.kind();
        if let Some(durable) = durable_size(record) {
            self.durable_size = self.durable_size.max(durable);
        }
    }
}

/// Tells a torn tail from damage. A crash can only tear what was not known to be durable: at most what the commits
/// in flight covered.
fn judge(loaded: &[Loaded], walked: &Walked) -> Result<(), (u64, u64, String)> {
    let Some(first) = loaded.first() else { return Ok(()) };
    let (position, offset) = walked.end.unwrap_or((0, 0));
    let at = (loaded[position].file.index, offset as u64);
    let refuse = |cause: String| Err((at.0, at.1, cause));
    let mut tail = loaded[position].bytes[offset..].iter();
    let torn_here = tail.any(|byte| *byte != 0);
    let behind = &loaded[position + 1..];
    if first.file.finished && walked.end.is_none() {
        return refuse(format!("a finished segment cannot be read: {}", walked.cause));
    }
    // A finished segment was left in order or has a successor that says how it ended.
    let successor_written = behind.iter().any(|segment| segment.bytes.iter().any(|byte| *byte != 0));
    if loaded[position].file.finished && !successor_written {
        let clean =
            walked.last_kind == Some(Kind::SegmentSeal) && closed_in_order(&loaded[position].bytes, offset);
        if !clean {
            return Err((at.0 + 1, 0, "the segment is missing: its predecessor was finished".into()));
        }
    }
    if torn_here && walked.last_kind == Some(Kind::SegmentSeal) {
        return refuse("bytes follow the seal".into());
    }
    let mut commits = 0;
    let mut durable = walked.durable_size;
    scan_commits(&loaded[position].bytes, offset, &mut commits, &mut durable);
    for segment in behind {
        scan_commits(&segment.bytes, 0, &mut commits, &mut durable);
    }
    if durable > walked.head.size {
        return refuse(format!("{}, but everything below record {durable} was durable", walked.cause));
    }
    if commits > TORN_COMMITS_MAX {
        return refuse(format!("{}, and {commits} commits follow: no crash tears that much", walked.cause));
    }
    Ok(())
}

/// Finds COMMIT records behind the end of the chain, stepping over records that are whole in themselves.
pub(super) fn scan_commits(bytes: &[u8], from: usize, commits: &mut u64, durable: &mut u64) {
    let mut offset = from;
    while offset + MAGIC.len() <= bytes.len() {
        if bytes[offset..offset + MAGIC.len()] != MAGIC {
            offset += ALIGNMENT;
            continue;
        }
        match read_record(bytes, offset) {
            Ok(record) => {
                if let Some(size) = durable_size(&record) {
                    *commits += 1;
                    *durable = (*durable).max(size);
                }
                offset = record.next;
            }
            Err(_) => offset += ALIGNMENT,
        }
    }
}

/// What a COMMIT record knew to be durable.
fn durable_size(record: &Record<'_>) -> Option<u64> {
    if record.kind() != Some(Kind::Commit) || record.header.core != CORE_SEQUENCER {
        return None;
    }
    schema::uint(&record.read_body().ok()?, 3)
}

/// Whether CLEAN_CLOSE stands among the last records before `end`: CLEAN_CLOSE, COMMIT, SEAL.
fn closed_in_order(bytes: &[u8], end: usize) -> bool {
    let mut kinds = [None; 3];
    let mut offset = 0;
    while offset < end {
        let Ok(record) = or_partly_erased(read_record(bytes, offset), bytes, offset) else { return false };
        kinds = [kinds[1], kinds[2], record.kind()];
        offset = record.next;
    }
    kinds == [Some(Kind::CleanClose), Some(Kind::Commit), Some(Kind::SegmentSeal)]
}

/// Copies torn bytes, moves segments that never joined the chain, and removes those that were never written.
fn set_aside(folder: &Folder, loaded: &[Loaded], walked: Walked) -> io::Result<Resume> {
    let mut report = Recovery { size: walked.head.size, ..Recovery::default() };
    let (kept, offset) = match walked.end {
        Some((position, offset)) => (position + 1, offset),
        None => (0, 0),
    };
    // First the whole segments behind the end, the last one first: whatever a crash here leaves has no hole.
    for segment in loaded[kept..].iter().rev() {
        let index = segment.file.index;
        let whole = prev_end(&segment.bytes, 0);
        if whole.tail_bytes == 0 {
            folder.remove(index)?;
            continue;
        }
        let file = quarantine_name(index, 0, &whole.tail_digest);
        folder.quarantine_segment(index, &file)?;
        report.torn.push(torn(index, whole, &walked.cause, file));
    }
    let mut prev = None;
    if let Some(last) = kept.checked_sub(1).map(|position| &loaded[position]) {
        let ended = prev_end(&last.bytes, offset);
        if ended.tail_bytes > 0 {
            let file = quarantine_name(last.file.index, ended.end, &ended.tail_digest);
            let tail =
                &last.bytes[offset..][..usize::try_from(ended.tail_bytes).map_err(io::Error::other)?];
            folder.quarantine_bytes(&file, tail)?;
            report.torn.push(torn(last.file.index, ended, &walked.cause, file));
        }
        report.clean = walked.last_kind == Some(Kind::SegmentSeal) && closed_in_order(&last.bytes, offset);
        prev = Some(ended);
    }
    report.torn.reverse();
    let next_index = match kept.checked_sub(1) {
        Some(position) => loaded[position].file.index + 1,
        None => FIRST_SEGMENT,
    };
    let unfinished = loaded[..kept]
        .iter()
        .filter(|segment| !segment.file.finished)
        .map(|segment| segment.file.index)
        .collect();
    Ok(Resume { log: walked.log, head: walked.head, next_index, prev, unfinished, report })
}

fn torn(segment: u64, ended: PrevEnd, cause: &str, file: String) -> Torn {
    Torn {
        segment,
        offset: ended.end,
        bytes: ended.tail_bytes,
        digest: ended.tail_digest,
        cause: cause.to_owned(),
        file,
    }
}

/// One name per content, so that a repeated recovery repeats itself.
fn quarantine_name(segment: u64, offset: u64, digest: &Hash) -> String {
    let short = digest.first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes));
    format!("{}.at-{offset}.{short:08x}", segment_name(segment))
}

/// Segments are counted from here.
pub(super) const FIRST_SEGMENT: u64 = 1;

/// COMMIT records a crash can leave behind the end of the chain: the one whose flush was under way, and the one
/// whose flush had ended without a later COMMIT to say so.
pub(super) const TORN_COMMITS_MAX: u64 = 2;

/// SHA-256 of nothing, for reports without torn bytes.
pub(super) fn digest_of(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}
