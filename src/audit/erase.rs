//! Erasing bodies, on a running log: which may be erased, and the overwriting, which nothing can undo.
//!
//! The order is the promise (FORMAT.md, "Erased records"): a list of what is about to go, ERASE records, a checkpoint of them
//! in a durable record, and only then zeros. A crash in between leaves bodies too many, never one too few; the next start
//! reads the list and goes on with what an ERASE in effect names.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    archive::ARCHIVE_LOCK,
    erased::InEffect,
    error::AuditError,
    folder::{Erasing, Folder},
    hold::Holds,
    id::RecordId,
    log_watch::LogWatch,
    note::CheckpointKey,
    proof::{ProveError, find_id, find_seq},
    real::Lock,
    record::{HASHED_BYTES, HEADER_BYTES, Hash, Header, stored_len},
    schema::Kind,
    stored::{Segments, Stored},
    walk::{Flaw, SECTOR_BYTES, is_partly_erased, is_redactable, read_record},
};

/// How a record is called that is to be erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordName {
    /// As clients got it.
    Id(RecordId),
    /// Its number in the chain.
    Seq(u64),
}

impl std::str::FromStr for RecordName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = || {
            text.parse().map(Self::Seq).map_err(|_| format!("{text:?} is no id and no number of a record"))
        };
        text.parse().map(Self::Id).or_else(|_| number())
    }
}

impl std::fmt::Display for RecordName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Seq(seq) => seq.fmt(f),
        }
    }
}

/// A record whose body can be erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Erasable {
    /// Its number.
    pub seq: u64,
    /// The digest of its body.
    pub body_digest: Hash,
    segment: u64,
    offset: u64,
    body_len: u32,
}

/// What was asked for, as it stands; and stands so while this lives, for nobody archives or retires segments meanwhile.
#[derive(Debug)]
pub struct Wanted {
    /// What can be erased, each once, ascending.
    pub erasable: Vec<Erasable>,
    /// What was erased before.
    pub erased: Vec<u64>,
    _alone: Lock,
}

/// Why a record is not erased.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// Its segments are changed by somebody else.
    #[error("segments of the log are being archived or retired; try again when that is done")]
    Archiving,
    /// The log cannot be read or written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// It is not what it was.
    #[error("record {seq} is damaged, {cause}: `edgate audit verify` says more")]
    Damaged {
        /// The record.
        seq: u64,
        /// What is wrong.
        cause: String,
    },
    /// Somebody needs it.
    #[error("record {seq} is under the legal hold {hold:?}; release it first")]
    Held {
        /// The record.
        seq: u64,
        /// The hold's name.
        hold: String,
    },
    /// Its segment is being written, or is not signed to its end.
    #[error(
        "record {0} stands in the segment that is being written; it can be erased once the next one has begun, after a restart at the latest"
    )]
    NotFinished(u64),
    /// Its body holds nothing about a person.
    #[error("record {seq} is of kind {kind}; only decision, decision_batch, issue and revoke can be erased")]
    NotRedactable {
        /// The record.
        seq: u64,
        /// What it is.
        kind: String,
    },
    /// The checkpoint did not come in time: the ERASE stands, and nothing was overwritten so far.
    #[error(
        "no checkpoint covers the ERASE records yet; nothing was overwritten so far, and that may still take effect: erase once more when checkpoints are signed again, or the next start does, unless a hold is placed"
    )]
    NotSigned,
    /// There is no such record.
    #[error("the log has no record {0}")]
    Unknown(RecordName),
}

/// Erases bodies of a running log. Cheap to clone; one erasure at a time.
#[derive(Clone)]
pub struct Eraser {
    folder: Arc<Folder>,
    dir: PathBuf,
    watch: LogWatch,
}

impl Eraser {
    pub(super) fn new(folder: Arc<Folder>, dir: PathBuf, watch: LogWatch) -> Self {
        Self { folder, dir, watch }
    }

    /// Finds records, and whether each may be erased. Changes nothing. Blocks.
    ///
    /// # Errors
    /// The first that may not be, by name: then nothing should be erased.
    pub fn find(&self, names: &[RecordName]) -> Result<Wanted, EraseError> {
        let io = |source: io::Error| AuditError::io("read", &self.dir, source);
        let alone = Lock::take_named(&self.dir, ARCHIVE_LOCK).map_err(|error| match error {
            AuditError::Locked { .. } => EraseError::Archiving,
            other => other.into(),
        })?;
        // A file of holds that cannot be read holds everything.
        let holds = Holds::load(&self.dir).map_err(io)?;
        let finished: Vec<u64> = self
            .folder
            .segments()
            .map_err(io)?
            .iter()
            .filter(|file| file.finished)
            .map(|file| file.index)
            .collect();
        let active = self.watch.status().segment;
        let mut wanted = Wanted { erasable: Vec::new(), erased: Vec::new(), _alone: alone };
        let mut in_effect: Option<InEffect> = None;
        for name in names {
            let place = match name {
                RecordName::Seq(seq) => find_seq(Segments::of(&self.dir), *seq).map_err(io)?,
                RecordName::Id(id) => find_id(Segments::of(&self.dir), *id).map_err(|error| match error {
                    ProveError::Audit(error) => error,
                    other => io(io::Error::other(other)),
                })?,
            };
            let (segment, offset) = place.ok_or(EraseError::Unknown(*name))?;
            let stored = self.read(segment, offset).map_err(io)?;
            let (header, state) = stored.ok_or(EraseError::Unknown(*name))?;
            let Header { seq, body_digest, body_len, wall_ns, .. } = header;
            if !is_redactable(&header) {
                let kind = Kind::from_code(header.kind)
                    .map_or_else(|| header.kind.to_string(), |kind| kind.name().into());
                return Err(EraseError::NotRedactable { seq, kind });
            }
            if segment >= active || !finished.contains(&segment) || seq >= self.watch.status().signed_size {
                return Err(EraseError::NotFinished(seq));
            }
            if let Some(hold) = holds.is_held(wall_ns) {
                return Err(EraseError::Held { seq, hold: hold.name.clone() });
            }
            match state {
                Ok(()) => wanted.erasable.push(Erasable { seq, body_digest, segment, offset, body_len }),
                Err(Flaw::Erased) => {
                    let found = match &in_effect {
                        Some(found) => found,
                        // Signatures are not looked at: they may be of the key before this one.
                        None => in_effect.insert(InEffect::read(&self.dir, 0, None, &[]).map_err(io)?),
                    };
                    if found.of(seq, &body_digest).is_none() {
                        let cause = "its body is zeros, and no ERASE that is in effect names it".to_owned();
                        return Err(EraseError::Damaged { seq, cause });
                    }
                    wanted.erased.push(seq);
                }
                Err(flaw) => return Err(EraseError::Damaged { seq, cause: flaw.to_string() }),
            }
        }
        wanted.erasable.sort_unstable_by_key(|record| record.seq);
        wanted.erasable.dedup();
        wanted.erased.sort_unstable();
        wanted.erased.dedup();
        Ok(wanted)
    }

    /// The header at a place, and whether the record is whole, or was when an overwriting was interrupted.
    fn read(&self, segment: u64, offset: u64) -> io::Result<Option<(Header, Result<(), Flaw>)>> {
        let stored = Stored::open(&self.dir, segment)?;
        // From the start of the sector on, so that sectors are where they are in the file.
        let from = offset - offset % SECTOR_BYTES as u64;
        let at = usize::try_from(offset - from).map_err(io::Error::other)?;
        let read = |len: usize| -> io::Result<Vec<u8>> {
            let mut bytes = vec![0; at + len];
            let len = stored.read_at(&mut bytes, from)?;
            bytes.truncate(len);
            Ok(bytes)
        };
        let head = read(HEADER_BYTES)?;
        let header = head.get(at..).and_then(<[u8]>::first_chunk).map(Header::parse);
        let Some(Ok(header)) = header else { return Ok(None) };
        let bytes = read(stored_len(header.body_len as usize))?;
        let state = match read_record(&bytes, at) {
            Ok(_) => Ok(()),
            Err(Flaw::Erased) => Err(Flaw::Erased),
            Err(_) if is_partly_erased(&bytes, at) => Ok(()),
            Err(flaw) => Err(flaw),
        };
        Ok(Some((header, state)))
    }

    /// Says, durably, which records are about to be erased. Comes before their ERASE records. Blocks.
    ///
    /// # Errors
    /// What the system refuses; then nothing may be erased.
    pub fn announce(&self, wanted: &Wanted) -> Result<(), EraseError> {
        let from = self.watch.status().segment;
        let io = |source| AuditError::io("list what is erased in", &self.dir, source);
        let mut list = self.folder.erasing().map_err(io)?;
        for Erasable { seq, body_digest, segment, .. } in &wanted.erasable {
            // An earlier order may be in effect already: this one must not hide it.
            let earlier = list.iter().position(|line| line.seq == *seq).map(|at| list.swap_remove(at).from);
            let from = earlier.map_or(from, |earlier| earlier.min(from));
            list.push(Erasing { segment: *segment, seq: *seq, body_digest: *body_digest, from });
        }
        Ok(self.folder.set_erasing(&list).map_err(io)?)
    }

    /// Waits until the ERASE records of what is wanted, which are durable, are in effect, and overwrites the bodies. Blocks, at
    /// most for `patience` before anything is overwritten.
    ///
    /// # Errors
    /// [`EraseError::NotSigned`], or what the system refuses: then a start goes on where this stopped.
    pub fn overwrite(&self, wanted: &Wanted, patience: Duration) -> Result<(), EraseError> {
        let records = &wanted.erasable;
        // Everything durable by now is at least every ERASE.
        let ordered = self.watch.durable_to_be_signed();
        let deadline = Instant::now() + patience;
        while self.watch.vouched_size() < ordered {
            if Instant::now() >= deadline
                || self.watch.status().failure.is_some_and(|failure| failure.kind.is_permanent())
            {
                return Err(EraseError::NotSigned);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        let io = |what| move |source| AuditError::io(what, &self.dir, source);
        overwrite(&self.folder, records).map_err(io("overwrite bodies in"))?;
        let mut list = self.folder.erasing().map_err(io("list what is erased in"))?;
        list.retain(|line| records.iter().all(|record| record.seq != line.seq));
        Ok(self.folder.set_erasing(&list).map_err(io("list what is erased in"))?)
    }
}

/// Overwrites the bodies of records with zeros, segment by segment; durable before this returns.
fn overwrite(folder: &Folder, records: &[Erasable]) -> io::Result<()> {
    for records in records.chunk_by(|a, b| a.segment == b.segment) {
        let ranges: Vec<_> = records
            .iter()
            .map(|record| {
                let body = record.offset + HEADER_BYTES as u64;
                record.offset + HASHED_BYTES as u64..body + u64::from(record.body_len)
            })
            .collect();
        folder.overwrite(records[0].segment, &ranges)?;
    }
    Ok(())
}

/// What a start did about erasures that were under way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resumed {
    /// Records that are erased now.
    pub erased: Vec<u64>,
    /// Records that keep their body: their ERASE is not in effect and never will be.
    pub kept: Vec<u64>,
    /// Records that keep their body for now, and why: a later start looks again.
    pub waiting: Vec<(u64, Waiting)>,
    /// Records whose segment is not there any more.
    pub gone: Vec<u64>,
}

/// Why an erasure that was under way is not gone on with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Waiting {
    /// Segments are being archived.
    #[error("segments of the log are being archived")]
    Archiving,
    /// The record cannot be found where it was.
    #[error("the record is damaged, or is not where it was")]
    Damaged,
    /// A hold was placed since.
    #[error("the legal hold {0:?} covers it")]
    Held(String),
    /// The holds cannot be read, so everything counts as held.
    #[error("the legal holds cannot be read")]
    Holds,
    /// The checkpoint that would make the ERASE count is signed by a key that is not known here.
    #[error("its ERASE is under a checkpoint of an unknown key; erase the record once more")]
    UnknownKey,
}

/// Goes on with the erasures that the list in the folder names, as far as an ERASE in effect does too and no hold was placed
/// since. `keys` are all of the log's. Repeatable: a crash here leaves what was found, or less to do.
pub(super) fn resume(folder: &Folder, dir: &Path, keys: &[CheckpointKey]) -> io::Result<Resumed> {
    let list = folder.erasing()?;
    if list.is_empty() {
        return Ok(Resumed::default());
    }
    let _alone = match Lock::take_named(dir, ARCHIVE_LOCK) {
        Ok(lock) => lock,
        Err(AuditError::Locked { .. }) => {
            let waiting = list.iter().map(|line| (line.seq, Waiting::Archiving)).collect();
            return Ok(Resumed { waiting, ..Resumed::default() });
        }
        Err(error) => return Err(io::Error::other(error)),
    };
    resume_erasures(folder, Holds::load(dir).ok().as_ref(), keys)
}

/// As [`resume`], with the holds, if they can be read; signatures are held against `keys`.
fn resume_erasures(folder: &Folder, holds: Option<&Holds>, keys: &[CheckpointKey]) -> io::Result<Resumed> {
    let mut lines = folder.erasing()?;
    let mut resumed = Resumed::default();
    let Some(from) = lines.iter().map(|line| line.from).min() else { return Ok(resumed) };
    let (mut in_effect, mut under_any_key) = (InEffect::default(), InEffect::default());
    for file in folder.segments()?.iter().filter(|file| file.index >= from) {
        let bytes = folder.read(file.index)?;
        in_effect.scan(&bytes, None, keys);
        under_any_key.scan(&bytes, None, &[]);
    }
    lines.sort_unstable_by_key(|line| (line.segment, line.seq));
    let mut left = Vec::new();
    for lines in lines.chunk_by(|a, b| a.segment == b.segment) {
        let segment = lines[0].segment;
        let bytes = match folder.read(segment) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                resumed.gone.extend(lines.iter().map(|line| line.seq));
                continue;
            }
            read => read?,
        };
        let found = places(segment, &bytes, lines);
        let mut records = Vec::new();
        for line in lines {
            let Erasing { seq, body_digest, .. } = *line;
            let waits = if in_effect.of(seq, &body_digest).is_some() {
                match (found.get(&seq), holds) {
                    (None, _) => Some(Waiting::Damaged),
                    (Some(_), None) => Some(Waiting::Holds),
                    (Some((record, wall_ns)), Some(holds)) => match holds.is_held(*wall_ns) {
                        Some(hold) => Some(Waiting::Held(hold.name.clone())),
                        None => {
                            records.push(*record);
                            None
                        }
                    },
                }
            } else if under_any_key.of(seq, &body_digest).is_some() {
                Some(Waiting::UnknownKey)
            } else {
                // Without a record, the line is none of ours.
                resumed.kept.extend(found.contains_key(&seq).then_some(seq));
                None
            };
            if let Some(why) = waits {
                left.push(*line);
                resumed.waiting.push((seq, why));
            }
        }
        overwrite(folder, &records)?;
        resumed.erased.extend(records.iter().map(|record| record.seq));
    }
    folder.set_erasing(&left)?;
    Ok(resumed)
}

/// Where the records that `lines` name stand in a segment, and their wall clocks.
fn places(segment: u64, bytes: &[u8], lines: &[Erasing]) -> BTreeMap<u64, (Erasable, u64)> {
    let mut found = BTreeMap::new();
    let mut offset = 0;
    while let Some(header) = bytes.get(offset..).and_then(<[u8]>::first_chunk)
        && let Ok(header) = Header::parse(header)
    {
        let Header { seq, body_digest, body_len, wall_ns, .. } = header;
        let named = lines.iter().any(|line| (line.seq, line.body_digest) == (seq, body_digest));
        if named && is_redactable(&header) {
            let record = Erasable { seq, body_digest, segment, offset: offset as u64, body_len };
            found.insert(seq, (record, wall_ns));
        }
        offset += stored_len(body_len as usize);
    }
    found
}

/// How often the checkpoint is looked for: it comes within a second or so.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests;
