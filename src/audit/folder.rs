//! The log folder: which files there are, and in which order things become durable. The order is what the crash
//! tests check, on a simulated medium; `real.rs` is the medium of the daemon.

use std::{
    io,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    archive::{Archive, Loaded},
    disk::{Medium, MediumFile, Sink},
    hex::{hex, unhex},
    record::Hash,
    recover::FIRST_SEGMENT,
    stored::{Stored, segments_of},
};

/// A log folder.
pub(super) struct Folder {
    medium: Box<dyn Medium>,
    // The files of the segments we prepared and did not finish, to look after their names.
    prepared: Mutex<Vec<(u64, Arc<dyn MediumFile>)>>,
}

/// One segment as the folder lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentFile {
    pub(super) index: u64,
    pub(super) bytes: u64,
    /// Made read-only: everything in it is durable, and nothing will be added.
    pub(super) finished: bool,
}

/// An empty segment, ready to be written.
pub(super) struct Prepared {
    pub(super) index: u64,
    pub(super) bytes: u64,
    pub(super) sink: Box<dyn Sink>,
    pub(super) file: Arc<dyn MediumFile>,
    /// The small segment that was kept for the time when no other can be made.
    pub(super) emergency: bool,
}

impl Folder {
    pub(super) fn new(medium: Box<dyn Medium>) -> Self {
        Self { medium, prepared: Mutex::new(Vec::new()) }
    }

    /// The segments, ascending by index.
    pub(super) fn segments(&self) -> io::Result<Vec<SegmentFile>> {
        self.medium.list().map(segments_of)
    }

    /// Makes an empty segment whose zeros and name are durable before this returns. Leaves nothing on failure.
    pub(super) fn prepare(&self, index: u64, bytes: u64) -> io::Result<Prepared> {
        let name = segment_name(index);
        let file = self.fill(&name, bytes)?;
        let sink = Arc::clone(&file).sink(bytes)?;
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).push((index, Arc::clone(&file)));
        Ok(Prepared { index, bytes, sink, file, emergency: false })
    }

    /// Makes the emergency segment: an empty segment without a number yet.
    pub(super) fn reserve(&self, bytes: u64) -> io::Result<Reserve> {
        self.release()?;
        Ok(Reserve { file: self.fill(EMERGENCY, bytes)?, bytes })
    }

    /// Removes the emergency segment of a log that is being closed.
    pub(super) fn release(&self) -> io::Result<()> {
        self.remove_if_there(EMERGENCY)
    }

    /// Gives the emergency segment its number. Needs no space: only a name changes.
    pub(super) fn adopt(&self, reserve: Reserve, index: u64) -> io::Result<Prepared> {
        self.medium.rename(EMERGENCY, &segment_name(index))?;
        self.medium.sync_names("")?;
        let Reserve { file, bytes } = reserve;
        let sink = Arc::clone(&file).sink(bytes)?;
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).push((index, Arc::clone(&file)));
        Ok(Prepared { index, bytes, sink, file, emergency: true })
    }

    /// The stored bytes of a segment, out of its archive if that stands in its place.
    pub(super) fn read(&self, index: u64) -> io::Result<Vec<u8>> {
        match self.medium.read(&segment_name(index)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let archive = self.medium.read(&archive_name(index))?;
                Stored::Archive(Archive::from_bytes(archive, index)?).read()
            }
            read => read,
        }
    }

    /// Writes zeros over ranges of a finished segment, in whatever form it is there; durable before this returns. Whoever
    /// archives must not do so meanwhile.
    pub(super) fn overwrite(&self, index: u64, ranges: &[Range<u64>]) -> io::Result<()> {
        match self.medium.overwrite(&segment_name(index), ranges) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut loaded = Loaded::read(self, index, &mut |_| {}).map_err(io::Error::other)?;
                loaded.erase(ranges)?;
                loaded.store(&*self.medium).map_err(io::Error::other)?;
            }
            // What an interrupted archiving left has the same bodies.
            overwritten => {
                overwritten?;
                self.remove_if_there(&archive_name(index))?;
            }
        }
        self.remove_if_there(&archive_draft(index))?;
        self.medium.sync_names("")
    }

    /// The records whose bodies are being overwritten. What is no line of ours names none.
    pub(super) fn erasing(&self) -> io::Result<Vec<Erasing>> {
        match self.medium.read(ERASING) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).lines().filter_map(Erasing::parse).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Replaces that list as one durable step; an empty one is no file.
    pub(super) fn set_erasing(&self, list: &[Erasing]) -> io::Result<()> {
        if list.is_empty() {
            self.remove_if_there(ERASING)?;
        } else {
            self.remove_if_there(ERASING_DRAFT)?;
            let text: String = list.iter().map(Erasing::line).collect();
            let file = self.medium.create(ERASING_DRAFT)?;
            file.write_at(text.as_bytes(), 0)?;
            file.sync()?;
            self.medium.rename(ERASING_DRAFT, ERASING)?;
        }
        self.medium.sync_names("")
    }

    fn remove_if_there(&self, name: &str) -> io::Result<()> {
        match self.medium.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes a segment nothing was ever written to.
    pub(super) fn remove(&self, index: u64) -> io::Result<()> {
        self.forget(index);
        self.medium.remove(&segment_name(index))?;
        self.medium.sync_names("")
    }

    /// Removes a segment in whatever form it is there, durably.
    pub(super) fn remove_stored(&self, index: u64) -> io::Result<()> {
        for name in [archive_name(index), segment_name(index)] {
            match self.medium.remove(&name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.medium.sync_names("")
    }

    /// Finishes the last segment of a closed log, and removes those that were made ahead for nothing: the last one first,
    /// so that a crash in between leaves no hole.
    pub(super) fn tidy(&self, last: u64, bytes: u64) -> io::Result<()> {
        self.finish(last, Some(bytes))?;
        self.release()?;
        let ahead = self.segments()?.into_iter().rev().take_while(|segment| segment.index > last);
        ahead.map(|segment| segment.index).try_for_each(|index| self.remove(index))
    }

    /// Makes a segment read-only for good, cut to `bytes` where given. Repeatable.
    pub(super) fn finish(&self, index: u64, bytes: Option<u64>) -> io::Result<()> {
        self.forget(index);
        self.medium.finish(&segment_name(index), bytes)
    }

    /// Keeps a copy of damaged bytes, durable before this returns. Repeatable: a copy of the same name has the same
    /// content, or is the torn remainder of an earlier try.
    pub(super) fn quarantine_bytes(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.medium.make_folder(QUARANTINE)?;
        let path = format!("{QUARANTINE}/{name}");
        self.remove_if_there(&path)?;
        let file = self.medium.create(&path)?;
        file.write_at(bytes, 0)?;
        file.sync()?;
        self.medium.sync_names(QUARANTINE)
    }

    /// Moves a segment that never became part of the log out of the way, durably.
    pub(super) fn quarantine_segment(&self, index: u64, name: &str) -> io::Result<()> {
        self.medium.make_folder(QUARANTINE)?;
        self.medium.rename(&segment_name(index), &format!("{QUARANTINE}/{name}"))?;
        // The new name first: after a crash in between, the segment has two names rather than none.
        self.medium.sync_names(QUARANTINE)?;
        self.medium.sync_names("")
    }

    /// Whether the names of all segments we write still lead to our files, unchanged from outside.
    pub(super) fn check_named(&self) -> io::Result<()> {
        let ours = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ours.iter().try_for_each(|(index, file)| {
            let name = segment_name(*index);
            file.check_named(&name).map_err(|error| io::Error::other(format!("{name}: {error}")))
        })
    }

    /// Bytes that can still be written.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        self.medium.free_bytes()
    }

    fn forget(&self, index: u64) {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).retain(|(other, _)| *other != index);
    }

    /// Creates a file of zeros; content and name are durable before this returns.
    fn fill(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn MediumFile>> {
        let file = self.medium.create(name)?;
        let filled =
            zero(file.as_ref(), bytes).and_then(|()| file.sync()).and_then(|()| self.medium.sync_names(""));
        match filled {
            Ok(()) => Ok(file),
            Err(error) => {
                // It holds nothing but zeros, and the space may be what is missing.
                let _ = self.medium.remove(name);
                Err(error)
            }
        }
    }
}

/// A record whose body is being overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Erasing {
    /// Its segment.
    pub(super) segment: u64,
    pub(super) seq: u64,
    pub(super) body_digest: Hash,
    /// The segment from which on its ERASE is looked for.
    pub(super) from: u64,
}

impl Erasing {
    fn line(&self) -> String {
        let Self { segment, seq, body_digest, from } = self;
        format!("{segment} {seq} {} {from}\n", hex(body_digest))
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let segment = words.next()?.parse().ok()?;
        let seq = words.next()?.parse().ok()?;
        let body_digest = unhex(words.next()?)?.try_into().ok()?;
        let from = words.next()?.parse().ok()?;
        words.next().is_none().then_some(Self { segment, seq, body_digest, from })
    }
}

/// The emergency segment, waiting for a number.
pub(super) struct Reserve {
    file: Arc<dyn MediumFile>,
    bytes: u64,
}

/// Writes real zeros, one page per write: a large write makes large folios, and then every small store through the
/// map costs a 2 MiB write to the device.
fn zero(file: &dyn MediumFile, bytes: u64) -> io::Result<()> {
    file.allocate(bytes)?;
    let zeros = [0; PAGE_BYTES];
    let mut offset = 0;
    while offset < bytes {
        let len = usize::try_from(bytes - offset).map_or(PAGE_BYTES, |left| left.min(PAGE_BYTES));
        file.write_at(&zeros[..len], offset)?;
        offset += len as u64;
    }
    Ok(())
}

/// The file name of a segment.
pub(super) fn segment_name(index: u64) -> String {
    format!("{index:010}.seg")
}

/// The file name of a segment's archive.
pub(super) fn archive_name(index: u64) -> String {
    format!("{index:010}.arc")
}

/// The file name of an archive that is being written.
pub(super) fn archive_draft(index: u64) -> String {
    format!("{}.new", archive_name(index))
}

/// The index a file name stands for: ten digits, counted from [`FIRST_SEGMENT`]. Other files are none of the log's.
pub(super) fn segment_index(name: &str) -> Option<u64> {
    index_of(name.strip_suffix(".seg")?)
}

/// As [`segment_index`], of an archive.
pub(super) fn archive_index(name: &str) -> Option<u64> {
    index_of(name.strip_suffix(".arc")?)
}

fn index_of(digits: &str) -> Option<u64> {
    let index = digits.parse().ok()?;
    ((FIRST_SEGMENT..=SEGMENT_INDEX_MAX).contains(&index) && format!("{index:010}") == digits)
        .then_some(index)
}

/// What ten digits can name. Counting on from there would sort wrongly, and from larger numbers overflow.
const SEGMENT_INDEX_MAX: u64 = 9_999_999_999;

/// Where damaged bytes are kept.
const QUARANTINE: &str = "quarantine";

/// The emergency segment's name until it is needed.
const EMERGENCY: &str = "emergency";

/// The list of what is being erased, and its next version.
const ERASING: &str = "erasing";
const ERASING_DRAFT: &str = "erasing.new";

/// Size of a page and of the writes that zero a segment.
const PAGE_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::sim::{Crash, Effect, Fail, Sim};

    /// What a power cut leaves right after `act` has returned, for many power cuts.
    fn after(act: impl Fn(&Folder), look: impl Fn(&Sim, &Folder)) {
        for seed in 0..50 {
            let sim = Sim::new(seed);
            act(&Folder::new(Box::new(sim.clone())));
            let left = sim.after(Crash::Power);
            look(&left, &Folder::new(Box::new(left.clone())));
        }
    }

    fn indices(folder: &Folder) -> Vec<u64> {
        folder.segments().unwrap().iter().map(|segment| segment.index).collect()
    }

    #[test]
    fn a_prepared_segment_is_there_with_every_zero() {
        after(
            |folder| drop(folder.prepare(1, 16384).unwrap()),
            |_, left| {
                assert_eq!(indices(left), [1]);
                assert_eq!(left.read(1).unwrap(), vec![0; 16384]);
            },
        );
    }

    #[test]
    fn a_segment_that_could_not_be_made_can_be_made_later() {
        for (at, effect) in (1..7).flat_map(|at| [Effect::Nothing, Effect::All].map(|effect| (at, effect))) {
            let sim = Sim::new(at);
            let folder = Folder::new(Box::new(sim.clone()));
            sim.fail(Fail { at, sticky: false, effect, error: io::ErrorKind::StorageFull });
            // Created, all the same, by a call that says that it failed: then there is a file of that name.
            let created = (at, effect) == (1, Effect::All);
            let made = folder.prepare(1, 8192);
            assert!(made.is_err() == (at < 7), "call {at}");
            assert_eq!(folder.prepare(1, 8192).is_ok(), !created, "call {at}, {effect:?}");
        }
    }

    #[test]
    fn a_segment_that_was_removed_or_finished_stays_so() {
        after(
            |folder| {
                (1..=2).for_each(|index| drop(folder.prepare(index, 8192).unwrap()));
                folder.finish(1, Some(4096)).unwrap();
                folder.remove(2).unwrap();
            },
            |_, left| {
                let expected = SegmentFile { index: 1, bytes: 4096, finished: true };
                assert_eq!(left.segments().unwrap(), [expected]);
            },
        );
    }

    #[test]
    fn the_emergency_segment_keeps_its_number() {
        after(
            |folder| {
                let reserve = folder.reserve(8192).unwrap();
                drop(folder.adopt(reserve, 7).unwrap());
            },
            |_, left| assert_eq!((indices(left), left.read(7).unwrap()), (vec![7], vec![0; 8192])),
        );
    }

    #[test]
    fn what_is_in_quarantine_stays_there_and_nowhere_else() {
        after(
            |folder| {
                folder.prepare(3, 4096).unwrap().sink.write(0, b"a torn segment").unwrap();
                folder.quarantine_segment(3, "segment").unwrap();
                folder.quarantine_bytes("bytes", b"a torn tail").unwrap();
            },
            |left, folder| {
                assert_eq!(indices(folder), [0; 0]);
                assert!(left.keeps(b"a torn tail"));
                assert!(left.read("quarantine/segment").is_ok());
            },
        );
    }
}
