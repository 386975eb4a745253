//! Archives as files: written, read back from the medium, restored and compared before anyone relies on them.

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{Archive, Span, measure, pack};
use crate::audit::{
    disk::Medium,
    error::AuditError,
    folder::{Folder, SegmentFile, archive_draft, archive_name, segment_name},
    real::{Lock, RealMedium, SinkKind},
    record::Hash,
    stored::Stored,
    walk::{SegmentOpen, read_record},
};

/// A segment whose archive is durable, and was read back and compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    /// The segment.
    pub segment: u64,
    /// Records in it.
    pub records: u64,
    /// Bytes of the segment.
    pub segment_bytes: u64,
    /// Bytes of its archive.
    pub archive_bytes: u64,
    /// SHA-256 of the archive.
    pub digest: Hash,
}

/// Why a segment was not archived. What it was stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The folder cannot be used.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// What was read back is not what was written.
    #[error("the archive of segment {segment}, read back, does not restore the segment; nothing was removed")]
    Differs {
        /// The segment.
        segment: u64,
    },
    /// Only what nobody will write to can be archived.
    #[error("segment {segment} is not finished, or is the latest that is: it stays as it is")]
    NotFinished {
        /// The segment.
        segment: u64,
    },
    /// The segment is not whole.
    #[error("segment {segment} is not archived: {cause}; `edgate audit verify` says more")]
    NotWhole {
        /// The segment.
        segment: u64,
        /// What is wrong with it.
        cause: String,
    },
    /// An archive of another segment of that number is where this one should go.
    #[error("{} is the archive of other records; name another folder", path.display())]
    OtherArchive {
        /// The archive.
        path: PathBuf,
    },
}

/// A segment on its way: its bytes, and what its records say together.
pub(in crate::audit) struct Loaded {
    pub(in crate::audit) index: u64,
    // Where its records end.
    end: u64,
    bytes: Vec<u8>,
    pub(in crate::audit) span: Span,
}

impl Loaded {
    /// Reads segment `index`, whose successor is there, and whether it is whole. `leaf` gets each event hash.
    pub(in crate::audit) fn read(
        folder: &Folder,
        index: u64,
        leaf: &mut dyn FnMut(&Hash),
    ) -> Result<Self, LoadError> {
        let bytes = folder.read(index).map_err(LoadError::Io)?;
        let next = folder.read(index + 1).map_err(LoadError::Io)?;
        let not_whole = |cause: &str| LoadError::NotWhole(cause.to_owned());
        let begin = read_record(&next, 0).ok();
        let stated = begin.as_ref().and_then(|record| SegmentOpen::read(record)?.prev);
        let (Some(begin), Some(stated)) = (begin, stated) else {
            return Err(not_whole("the segment behind it does not say how it ended"));
        };
        let span =
            measure(&bytes, stated.end, leaf).map_err(|error| LoadError::NotWhole(error.to_string()))?;
        if (begin.header.seq, begin.header.prev_hash) != (span.first_seq + span.records, span.last_hash) {
            return Err(not_whole("the segment behind it does not continue it"));
        }
        Ok(Self { index, end: stated.end, bytes, span })
    }

    /// Puts zeros over ranges of it, as an erasure does to a segment.
    ///
    /// # Errors
    /// When one of them is not inside.
    pub(in crate::audit) fn erase(&mut self, ranges: &[Range<u64>]) -> io::Result<()> {
        for range in ranges {
            let place = |at| usize::try_from(at).map_err(io::Error::other);
            let body = self.bytes.get_mut(place(range.start)?..place(range.end)?);
            body.ok_or(io::ErrorKind::UnexpectedEof)?.fill(0);
        }
        Ok(())
    }

    /// Makes the archive durable in `place`, and reads it back.
    pub(in crate::audit) fn store(&self, place: &dyn Medium) -> Result<Archived, StoreError> {
        let name = archive_name(self.index);
        match place.read(&name) {
            Ok(there) if self.is_restored_by(&there)? => return Ok(self.archived(&there)),
            Ok(there) => {
                if !self.is_older_form(there)? {
                    return Err(StoreError::OtherArchive(name));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let packed = pack(self.index, &self.bytes, self.end).map_err(io::Error::other)?;
        let draft = archive_draft(self.index);
        match place.remove(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let file = place.create(&draft)?;
        file.write_at(&packed, 0)?;
        file.sync()?;
        place.finish(&draft, None)?;
        place.rename(&draft, &name)?;
        place.sync_names("")?;
        let back = place.read(&name)?;
        if back != packed || !self.is_restored_by(&back)? {
            return Err(StoreError::Differs);
        }
        Ok(self.archived(&back))
    }

    /// Whether an archive restores exactly this segment.
    fn is_restored_by(&self, archive: &[u8]) -> io::Result<bool> {
        let stored = Stored::Archive(Archive::from_bytes(archive.to_vec(), self.index)?);
        if stored.len()? != self.bytes.len() as u64 {
            return Ok(false);
        }
        let mut piece = vec![0; COMPARED_BYTES];
        for (at, expected) in self.bytes.chunks(COMPARED_BYTES).enumerate() {
            let read = stored.read_at(&mut piece[..expected.len()], (at * COMPARED_BYTES) as u64)?;
            if piece[..read] != *expected {
                return Ok(false);
            }
        }
        Ok(stored.damage().is_none())
    }

    /// Whether an archive holds the same records, as they were before some of their bodies were erased.
    fn is_older_form(&self, archive: Vec<u8>) -> io::Result<bool> {
        let stored = Stored::Archive(Archive::from_bytes(archive, self.index)?);
        let bytes = stored.read()?;
        let same = |span: Span| (span.records, span.last_hash) == (self.span.records, self.span.last_hash);
        Ok(stored.damage().is_none() && measure(&bytes, self.end, &mut |_| {}).is_ok_and(same))
    }

    fn archived(&self, archive: &[u8]) -> Archived {
        Archived {
            segment: self.index,
            records: self.span.records,
            segment_bytes: self.bytes.len() as u64,
            archive_bytes: archive.len() as u64,
            digest: Sha256::digest(archive).into(),
        }
    }
}

/// Why a segment cannot be packed.
#[derive(Debug, thiserror::Error)]
pub(in crate::audit) enum LoadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is not archived: {0}")]
    NotWhole(String),
}

/// Why an archive is not where it should be.
#[derive(Debug, thiserror::Error)]
pub(in crate::audit) enum StoreError {
    #[error("what was read back does not restore the segment")]
    Differs,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0} is the archive of other records")]
    OtherArchive(String),
}

/// Segments that nobody writes to any more, but for the latest: with it a start goes on.
pub(in crate::audit) fn archivable(files: &[SegmentFile]) -> &[SegmentFile] {
    let last = files.iter().rposition(|file| file.finished).unwrap_or(0);
    &files[..last]
}

/// Archives finished segments of the log in `dir`, all of them or those named, into `out`, or into the log's folder in the
/// place of the segments. `done` hears of each.
///
/// A segment is removed when its archive is durable, was read back, and restored to the same bytes. Interrupted, each segment
/// is there in one of its forms or in both, and another run goes on. Safe while the log is written to: what a node erases or
/// retires meanwhile waits for its end, or this for that.
///
/// # Errors
/// [`ArchiveError`] of the first segment that is not archived; those before it are.
pub fn archive(
    dir: &Path,
    out: Option<&Path>,
    only: &[u64],
    done: &mut dyn FnMut(&Archived),
) -> Result<(), ArchiveError> {
    let place = out.unwrap_or(dir);
    let _alone = match Lock::take_named(dir, ARCHIVE_LOCK) {
        // Then nobody changes anything there.
        Err(AuditError::Io { source, .. }) if source.kind() == io::ErrorKind::ReadOnlyFilesystem => None,
        taken => Some(taken?),
    };
    let elsewhere = place.canonicalize().ok() != dir.canonicalize().ok();
    let _lock = elsewhere.then(|| Lock::take_named(place, ARCHIVE_LOCK)).transpose()?;
    let folder = Folder::new(Box::new(RealMedium::new(dir, SinkKind::Pwrite)));
    let medium = RealMedium::new(place, SinkKind::Pwrite);
    let files = folder.segments().map_err(|error| AuditError::io("list the segments of", dir, error))?;
    if files.is_empty() {
        return Err(AuditError::NotFound { path: dir.to_owned() }.into());
    }
    let finished = archivable(&files);
    if let Some(segment) = only.iter().find(|index| finished.iter().all(|file| file.index != **index)) {
        return Err(ArchiveError::NotFinished { segment: *segment });
    }
    for SegmentFile { index: segment, .. } in finished {
        let segment = *segment;
        let is_archive = !dir.join(segment_name(segment)).exists();
        if !(only.is_empty() || only.contains(&segment)) || (out.is_none() && is_archive) {
            continue;
        }
        let loaded = Loaded::read(&folder, segment, &mut |_| {}).map_err(|error| match error {
            LoadError::Io(error) => AuditError::io("read a segment of", dir, error).into(),
            LoadError::NotWhole(cause) => ArchiveError::NotWhole { segment, cause },
        })?;
        let archived = loaded.store(&medium).map_err(|error| match error {
            StoreError::Differs => ArchiveError::Differs { segment },
            StoreError::Io(error) => AuditError::io("write an archive to", place, error).into(),
            StoreError::OtherArchive(name) => ArchiveError::OtherArchive { path: place.join(name) },
        })?;
        if out.is_none() {
            folder
                .remove(segment)
                .map_err(|error| AuditError::io("remove an archived segment of", dir, error))?;
        }
        done(&archived);
    }
    Ok(())
}

/// Bytes compared at a time.
const COMPARED_BYTES: usize = 1 << 20;

/// Held while archives are written to a folder; in a log's folder, by whoever changes or removes segments that are finished.
pub(in crate::audit) const ARCHIVE_LOCK: &str = "ARCHIVE.LOCK";
