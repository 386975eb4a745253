//! Retention: old segments leave the log's folder, in an order that loses nothing at any step.
//!
//! 1. Export before prune: the segment's archive is durable elsewhere, was read back, and restores to the same bytes.
//! 2. Nobody holds a record of it; a signed checkpoint covers it.
//! 3. A RETIRE record says what goes, by whose authority, and what the rest of the log continues. It is durable and under a
//!    signed checkpoint.
//! 4. The file goes, the oldest first.
//!
//! A crash before the third step leaves the log as it was; after it the next run does the fourth. If one step fails, none of
//! those behind it is done.

mod history;
mod retainer;
mod statement;

use std::{collections::BTreeSet, io};

use history::History;
pub use retainer::Retainer;
pub(super) use statement::{Retired, find_retired};

use super::{
    archive::{ArchiveError, Archived, LoadError, Loaded, StoreError, archivable},
    disk::Medium,
    error::AuditError,
    event::RetireEvent,
    folder::{Folder, archive_name},
    hold::{HoldError, Holds},
    merkle::CompactRange,
    record::Hash,
    recover::{FIRST_SEGMENT, digest_of},
};

/// What is to be retired, and who answers for it.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// Segments all of whose records were made before this time, in nanoseconds since 1970.
    pub before_ns: u64,
    /// A person, a ticket, a policy.
    pub authority: &'a str,
    /// Why.
    pub reason: &'a str,
}

/// What one turn of retention came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Turn {
    /// Segments that left the folder, and their archives.
    pub retired: Vec<Archived>,
    /// Whether there may be more to do at once.
    pub more: bool,
    /// The first segment that was old enough and stays, and why.
    pub kept: Option<(u64, Kept)>,
}

/// Why a segment that is old enough stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Kept {
    /// Bodies in it are on the list of what is being erased: they must not leave in its archive.
    #[error(
        "an erasure of bodies in it is not ended: erase them once more, or the next start goes on with it"
    )]
    Erasing,
    /// A hold covers it.
    #[error("it is under the legal hold {0:?}")]
    Held(String),
    /// It has the record of a hold that is in force.
    #[error("it has the record of the legal hold {0:?}")]
    HoldsRecord(String),
    /// No signed checkpoint covers it yet.
    #[error("no signed checkpoint covers it")]
    Unsigned,
}

/// Why nothing more is retired.
#[derive(Debug, thiserror::Error)]
pub enum RetireError {
    /// The archive is not what it must be.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The log cannot be read, or takes no records.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The chain does not continue what was retired before.
    #[error("segment {segment} does not continue what was retired before it: {cause}; nothing was removed")]
    Broken {
        /// The segment.
        segment: u64,
        /// What is wrong.
        cause: String,
    },
    /// The holds cannot be trusted, so everything counts as held.
    #[error("{0}; nothing was removed")]
    Hold(#[from] HoldError),
    /// The folder or the archives' folder refuses.
    #[error("cannot {what}: {source}; nothing more was removed")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// There is no folder for the archives.
    #[error("the folder for archives, {}, is not there; nothing was removed", path.display())]
    NoPlace {
        /// The folder.
        path: std::path::PathBuf,
    },
    /// A segment was retired, and its archive is gone or another one.
    #[error("segment {segment} was retired, but its archive is not what it was; its file stays")]
    LostArchive {
        /// The segment.
        segment: u64,
    },
}

/// What a turn works with.
pub(super) struct Means<'a> {
    pub(super) folder: &'a Folder,
    /// Where archives are kept.
    pub(super) place: &'a dyn Medium,
    /// The holds as the file has them now.
    pub(super) holds: &'a Holds,
    /// How many records a signed checkpoint covers.
    pub(super) signed_size: u64,
    /// Puts RETIRE events on record; returns once a signed checkpoint covers them.
    pub(super) record: &'a mut dyn FnMut(&[RetireEvent<'_>]) -> Result<(), AuditError>,
}

/// Retires segments of one log.
#[derive(Debug, Default)]
pub(super) struct Retirement {
    history: History,
}

impl Retirement {
    /// Retires a few of the segments that are due; repeatable.
    pub(super) fn turn(&mut self, means: &mut Means<'_>, order: &Order<'_>) -> Result<Turn, RetireError> {
        let io = |what| move |source| RetireError::Io { what, source };
        self.history.read(means.folder).map_err(io("read the log"))?;
        // The file may have more than the log says, and never less.
        means.holds.check_against(&self.history.holds)?;
        let erasing = means.folder.erasing().map_err(io("read what is being erased"))?;
        let erasing: BTreeSet<u64> = erasing.iter().map(|line| line.segment).collect();
        self.finish(means, &erasing)?;
        let files = means.folder.segments().map_err(io("list the segments"))?;
        let Some(first) = files.first().map(|file| file.index) else { return Ok(Turn::default()) };
        let mut before = self.before(first)?;
        let mut turn = Turn::default();
        let mut due: Vec<(Archived, Statement)> = Vec::new();
        for file in archivable(&files) {
            if due.len() == SEGMENTS_PER_TURN {
                turn.more = true;
                break;
            }
            let mut tree = before.tree.clone();
            let loaded = load(means.folder, file.index, &mut tree)?;
            let span = loaded.span;
            let continues =
                before.hash.is_none_or(|hash| hash == span.prev_hash) && span.first_seq == before.size;
            if !continues {
                let cause = format!("record {} stands where record {} belongs", span.first_seq, before.size);
                return Err(RetireError::Broken { segment: file.index, cause });
            }
            if span.last_wall_ns >= order.before_ns {
                break;
            }
            let size = span.first_seq + span.records;
            let being_erased = erasing.contains(&file.index).then_some(Kept::Erasing);
            if let Some(kept) = being_erased.or_else(|| self.kept(means, file.index, &loaded, size)) {
                turn.kept = Some((file.index, kept));
                break;
            }
            let archived = store(&loaded, means.place)?;
            before = Before { size, hash: Some(span.last_hash), tree };
            let statement = Statement {
                first_seq: span.first_seq,
                last_hash: span.last_hash,
                frontier: before.tree.to_bytes(),
                first_wall_ns: span.first_wall_ns,
                last_wall_ns: span.last_wall_ns,
            };
            due.push((archived, statement));
        }
        if due.is_empty() {
            return Ok(turn);
        }
        let events: Vec<_> =
            due.iter().map(|(archived, statement)| statement.event(archived, order)).collect();
        (means.record)(&events)?;
        for (archived, _) in due {
            means.folder.remove_stored(archived.segment).map_err(io("remove a retired segment"))?;
            turn.retired.push(archived);
        }
        Ok(turn)
    }

    /// Reads what the log says, so that the turn behind it has little to read.
    pub(super) fn catch_up(&mut self, folder: &Folder) -> io::Result<()> {
        self.history.read(folder)
    }

    /// Removes the files of segments that were retired when something came in between.
    fn finish(&self, means: &Means<'_>, erasing: &BTreeSet<u64>) -> Result<(), RetireError> {
        let io = |what| move |source| RetireError::Io { what, source };
        let files = means.folder.segments().map_err(io("list the segments"))?;
        let pending = files.first().map(|first| self.history.pending(first.index)).unwrap_or_default();
        for Retired { segment, archive, first_wall_ns, last_wall_ns, seq, .. } in pending {
            let files = means.folder.segments().map_err(io("list the segments"))?;
            // Only the oldest: what remains has no hole. And not before a checkpoint covers the record, or if it came under a
            // hold, or bodies in it were to be erased, since.
            let oldest = files.first().is_some_and(|file| file.index == segment);
            let held = means.holds.over(first_wall_ns, last_wall_ns).is_some();
            if !oldest || seq >= means.signed_size || held || erasing.contains(&segment) {
                return Ok(());
            }
            let kept = means.place.read(&archive_name(segment)).map_err(io("read an archive"))?;
            if digest_of(&kept) != archive {
                return Err(RetireError::LostArchive { segment });
            }
            means.folder.remove_stored(segment).map_err(io("remove a retired segment"))?;
        }
        Ok(())
    }

    /// What the first segment that is there continues.
    fn before(&self, first: u64) -> Result<Before, RetireError> {
        if first == FIRST_SEGMENT {
            return Ok(Before { size: 0, hash: None, tree: CompactRange::new(0) });
        }
        let retired = self.history.retired(first - 1).ok_or_else(|| {
            let cause = "the segment before it is missing, and no RETIRE record says so".to_owned();
            RetireError::Broken { segment: first, cause }
        })?;
        Ok(Before { size: retired.size, hash: Some(retired.hash), tree: retired.tree.clone() })
    }

    fn kept(&self, means: &Means<'_>, index: u64, loaded: &Loaded, size: u64) -> Option<Kept> {
        if let Some(hold) = means.holds.over(loaded.span.first_wall_ns, loaded.span.last_wall_ns) {
            return Some(Kept::Held(hold.name.clone()));
        }
        if let Some((name, _)) = self.history.placed.iter().find(|(_, segment)| **segment == index) {
            return Some(Kept::HoldsRecord(name.clone()));
        }
        (size > means.signed_size).then_some(Kept::Unsigned)
    }
}

/// The state of the log before a segment.
struct Before {
    size: u64,
    // `None` before record 0, whose link binds it to the log's name.
    hash: Option<Hash>,
    tree: CompactRange,
}

/// What a RETIRE record says besides who ordered it.
struct Statement {
    first_seq: u64,
    last_hash: Hash,
    frontier: Vec<u8>,
    first_wall_ns: u64,
    last_wall_ns: u64,
}

impl Statement {
    fn event<'a>(&'a self, archived: &'a Archived, order: &Order<'a>) -> RetireEvent<'a> {
        RetireEvent {
            segment: archived.segment,
            first_seq: self.first_seq,
            records: archived.records,
            authority: order.authority,
            reason: order.reason,
            last_hash: &self.last_hash,
            frontier: &self.frontier,
            archive: &archived.digest,
            first_wall_ns: self.first_wall_ns,
            last_wall_ns: self.last_wall_ns,
        }
    }
}

fn load(folder: &Folder, segment: u64, tree: &mut CompactRange) -> Result<Loaded, RetireError> {
    Loaded::read(folder, segment, &mut |leaf| tree.push(leaf)).map_err(|error| match error {
        LoadError::Io(source) => RetireError::Io { what: "read a segment", source },
        LoadError::NotWhole(cause) => ArchiveError::NotWhole { segment, cause }.into(),
    })
}

fn store(loaded: &Loaded, place: &dyn Medium) -> Result<Archived, RetireError> {
    let segment = loaded.index;
    loaded.store(place).map_err(|error| match error {
        StoreError::Differs => ArchiveError::Differs { segment }.into(),
        StoreError::Io(source) => RetireError::Io { what: "write an archive", source },
        StoreError::OtherArchive(name) => ArchiveError::OtherArchive { path: name.into() }.into(),
    })
}

/// Segments that one turn retires: their archives are made one after the other, their records stand together.
const SEGMENTS_PER_TURN: usize = 4;

#[cfg(test)]
mod running_tests;
#[cfg(test)]
mod tests;
