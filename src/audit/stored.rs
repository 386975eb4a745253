//! A segment's bytes, whatever form they are stored in: the segment itself, or its archive in its place.

use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt as _, path::Path};

use super::{
    archive::{Archive, Damage},
    disk::Listed,
    folder::{SegmentFile, archive_index, archive_name, segment_index, segment_name},
    real::list,
    record::{HEADER_BYTES, Header},
    schema::Kind,
    walk::{Record, Records},
};

/// One segment, opened for reading.
#[derive(Debug)]
pub(super) enum Stored {
    Segment(File),
    Archive(Archive),
}

impl Stored {
    /// Opens segment `index` of the log in `dir`: the segment if it is there, else its archive.
    pub(super) fn open(dir: &Path, index: u64) -> io::Result<Self> {
        let open = |name: String| match File::open(dir.join(name)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        // An archive that takes the segment's place is there before the segment goes.
        if let Some(file) = open(segment_name(index))? {
            return Ok(Self::Segment(file));
        }
        match open(archive_name(index))? {
            Some(file) => Archive::open(file, index).map(Self::Archive),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Bytes of the segment.
    pub(super) fn len(&self) -> io::Result<u64> {
        match self {
            Self::Segment(file) => Ok(file.metadata()?.len()),
            Self::Archive(archive) => Ok(archive.len()),
        }
    }

    /// Fills `buffer` from `offset` on, as far as the segment goes.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut len = 0;
        while len < buffer.len() {
            let at = offset + len as u64;
            let read = match self {
                Self::Segment(file) => file.read_at(&mut buffer[len..], at),
                Self::Archive(archive) => archive.read_at(&mut buffer[len..], at),
            };
            match read {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(len)
    }

    /// The first `bytes` bytes, or as many as there are.
    pub(super) fn start(&self, bytes: usize) -> io::Result<Vec<u8>> {
        let mut start = vec![0; bytes];
        let len = self.read_at(&mut start, 0)?;
        start.truncate(len);
        Ok(start)
    }

    /// The header of the first record, if it can be read.
    pub(super) fn first_header(&self) -> io::Result<Option<Header>> {
        let start = self.start(HEADER_BYTES)?;
        Ok(start.first_chunk().and_then(|header| Header::parse(header).ok()))
    }

    /// All of it.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        self.start(usize::try_from(self.len()?).map_err(io::Error::other)?)
    }

    /// What of an archive could not be restored when it was read; it read as bytes that are no record.
    pub(super) fn damage(&self) -> Option<Damage> {
        match self {
            Self::Segment(_) => None,
            Self::Archive(archive) => archive.damage(),
        }
    }
}

/// The segments of a folder and, for a verification, of another where what was retired is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segments<'a> {
    pub(super) dir: &'a Path,
    pub(super) elsewhere: Option<&'a Path>,
}

impl<'a> Segments<'a> {
    /// Those of this folder alone.
    pub(super) const fn of(dir: &'a Path) -> Self {
        Self { dir, elsewhere: None }
    }

    /// All of them, ascending by index.
    pub(super) fn list(&self) -> io::Result<Vec<SegmentFile>> {
        let mut found = BTreeMap::new();
        for dir in self.elsewhere.into_iter().chain([self.dir]) {
            found.extend(list_segments(dir)?.into_iter().map(|file| (file.index, file)));
        }
        Ok(found.into_values().collect())
    }

    pub(super) fn open(&self, index: u64) -> io::Result<Stored> {
        match (Stored::open(self.dir, index), self.elsewhere) {
            (Err(error), Some(dir)) if error.kind() == io::ErrorKind::NotFound => Stored::open(dir, index),
            (opened, _) => opened,
        }
    }

    /// The number of a segment's first record; `None` if it cannot be read, as where nothing was written yet.
    pub(super) fn first_seq(&self, index: u64) -> io::Result<Option<u64>> {
        Ok(self.open(index)?.first_header()?.map(|header| header.seq))
    }

    /// How many of `files` begin at or before record `seq`. Segments made ahead begin nowhere, and stand last.
    pub(super) fn begun_by(&self, files: &[SegmentFile], seq: u64) -> io::Result<usize> {
        let (mut low, mut high) = (0, files.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.first_seq(files[middle].index)? {
                Some(first) if first <= seq => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// The last thing that `find` finds in a record of this kind before record `upto`. `files` are looked through from their
    /// end, and no further than one that has it.
    pub(super) fn last_of<T>(
        &self,
        files: &[SegmentFile],
        upto: u64,
        kind: Kind,
        find: impl Fn(&Record<'_>) -> Option<T>,
    ) -> io::Result<Option<T>> {
        for file in files.iter().rev() {
            let stored = self.open(file.index)?;
            if stored.first_header()?.is_none_or(|first| first.seq >= upto) {
                continue;
            }
            let segment = stored.read()?;
            let records = Records::of(&segment).take_while(|record| record.header.seq < upto);
            let records: Vec<_> = records.filter(|record| record.kind() == Some(kind)).collect();
            if let Some(found) = records.iter().rev().find_map(&find) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// Lists the segments of a folder without needing its lock.
pub(super) fn list_segments(folder: &Path) -> io::Result<Vec<SegmentFile>> {
    list(folder).map(segments_of)
}

/// The segments among listed files, ascending by index. Where a segment and its archive are both there, an archiving was
/// interrupted, and the segment counts.
pub(super) fn segments_of(listed: Vec<Listed>) -> Vec<SegmentFile> {
    let mut segments: BTreeMap<u64, SegmentFile> = BTreeMap::new();
    for Listed { name, bytes, read_only } in listed {
        if let Some(index) = segment_index(&name) {
            segments.insert(index, SegmentFile { index, bytes, finished: read_only });
        } else if let Some(index) = archive_index(&name) {
            segments.entry(index).or_insert(SegmentFile { index, bytes, finished: true });
        }
    }
    segments.into_values().collect()
}
