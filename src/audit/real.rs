//! The daemon's medium: a folder of a real file system.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    ops::Range,
    os::unix::fs::{
        DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{FallocateFlags, FlockOperation};

use super::{
    disk::{Listed, Medium, MediumFile, Sink},
    error::AuditError,
    file_system::FileSystem,
    folder::{archive_index, segment_index},
    map::MapSink,
};

/// How segments are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkKind {
    /// Stores into a shared map.
    Map,
    /// `pwrite`, where a map is not safe.
    Pwrite,
}

/// A folder of a real file system.
pub(super) struct RealMedium {
    path: PathBuf,
    sink: SinkKind,
}

impl RealMedium {
    pub(super) fn new(path: &Path, sink: SinkKind) -> Self {
        Self { path: path.to_owned(), sink }
    }
}

impl Medium for RealMedium {
    fn list(&self) -> io::Result<Vec<Listed>> {
        list(&self.path)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn MediumFile>> {
        let path = self.path.join(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(SEGMENT_MODE)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)?;
        Ok(Arc::new(RealFile { file, path: self.path.clone(), sink: self.sink }))
    }

    /// First whatever is only in the page cache is written out; then the cache is asked to forget, and the bytes are read
    /// with `O_DIRECT`: after a failed flush the cache may hold pages that the disk does not, marked clean, and whoever
    /// verifies or follows the log later reads through it.
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let path = self.path.join(name);
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path)?;
        file.sync_all()?;
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let direct =
            OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_DIRECT).open(&path);
        if let Ok(bytes) = direct.and_then(|direct| read_direct(&direct, len)) {
            return Ok(bytes);
        }
        // No direct reads on this file system.
        let mut bytes = Vec::with_capacity(len);
        file.take(len as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn finish(&self, name: &str, len: Option<u64>) -> io::Result<()> {
        let path = self.path.join(name);
        if fs::symlink_metadata(&path)?.mode() & 0o222 == 0 {
            return Ok(());
        }
        let file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(&path)?;
        if let Some(len) = len {
            file.set_len(len)?;
        }
        file.set_permissions(fs::Permissions::from_mode(FINISHED_MODE))?;
        file.sync_all()
    }

    /// In place: a copy that takes the name would leave the bytes in blocks that nobody has a name for any more.
    fn overwrite(&self, name: &str, ranges: &[Range<u64>]) -> io::Result<()> {
        let path = self.path.join(name);
        let named = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path)?;
        // The owner needs the mode to open it for writing, and no longer.
        named.set_permissions(fs::Permissions::from_mode(SEGMENT_MODE))?;
        let file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(&path);
        named.set_permissions(fs::Permissions::from_mode(FINISHED_MODE))?;
        let file = file?;
        for range in ranges {
            let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
            file.write_all_at(&vec![0; len], range.start)?;
        }
        file.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn make_folder(&self, name: &str) -> io::Result<()> {
        match fs::DirBuilder::new().mode(0o700).create(self.path.join(name)) {
            Ok(()) => self.sync_names(""),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn sync_names(&self, folder: &str) -> io::Result<()> {
        sync_folder(&self.path.join(folder))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

struct RealFile {
    file: File,
    path: PathBuf,
    sink: SinkKind,
}

impl MediumFile for RealFile {
    /// The raw call: glibc's emulation writes single bytes where the file system cannot allocate.
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sink(self: Arc<Self>, bytes: u64) -> io::Result<Box<dyn Sink>> {
        Ok(match self.sink {
            SinkKind::Map => {
                Box::new(MapSink::new(&self.file, usize::try_from(bytes).map_err(io::Error::other)?)?)
            }
            SinkKind::Pwrite => Box::new(PwriteSink { file: self }),
        })
    }

    fn check_named(&self, name: &str) -> io::Result<()> {
        let ours = self.file.metadata()?;
        let named = fs::symlink_metadata(self.path.join(name))?;
        let changed = if (named.dev(), named.ino()) != (ours.dev(), ours.ino()) {
            "the name leads to another file"
        } else if ours.nlink() != 1 {
            "it has a second name"
        } else if ours.mode() & 0o7777 != SEGMENT_MODE {
            "its mode was changed"
        } else {
            return Ok(());
        };
        Err(io::Error::other(changed))
    }
}

/// `pwrite` behind the same face as the map.
struct PwriteSink {
    file: Arc<RealFile>,
}

impl Sink for PwriteSink {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.file.write_all_at(bytes, offset)
    }

    fn name(&self) -> &'static str {
        "pwrite"
    }
}

/// The exclusive lock of a log folder, held as long as this lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock. Retries for a moment: io_uring may keep a killed process's files open a little longer.
    pub(crate) fn take(folder: &Path) -> Result<Self, AuditError> {
        Self::take_named(folder, LOCK)
    }

    /// Makes the file of a lock without taking it, so that it belongs to the folder's owner, whoever takes it first.
    pub(super) fn prepare(folder: &Path, name: &str) -> Result<File, AuditError> {
        let path = folder.join(name);
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|error| AuditError::io("open the lock", &path, error))
    }

    /// As [`Self::take`], of a lock of another name.
    pub(super) fn take_named(folder: &Path, name: &str) -> Result<Self, AuditError> {
        let file = Self::prepare(folder, name)?;
        for _ in 0..LOCK_TRIES {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
                Err(error) => return Err(AuditError::io("lock", &folder.join(name), error.into())),
            }
        }
        Err(AuditError::Locked { path: folder.to_owned() })
    }
}

/// Which sink a folder's file system allows, and the file system's name. Elsewhere than where a map's failure modes were
/// measured, and where copies share blocks, a full disk would be a signal.
pub fn sink_for(folder: &Path) -> io::Result<(SinkKind, &'static str)> {
    let found = FileSystem::of(folder)?;
    let name = if found.is_pwrite_for_its_copies() { "one that shares blocks" } else { found.name };
    Ok((found.sink, name))
}

/// What `folder` holds. A file that is renamed or removed while this looks is not there: a running log renames what it
/// prepared and publishes.
pub(super) fn list(folder: &Path) -> io::Result<Vec<Listed>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => continue,
            Err(other) => return Err(other),
        };
        if metadata.is_file() {
            files.push(Listed { name, bytes: metadata.len(), read_only: metadata.mode() & 0o222 == 0 });
        } else if segment_index(&name).or_else(|| archive_index(&name)).is_some() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} is not a regular file")));
        }
    }
    Ok(files)
}

/// Reads `len` bytes in aligned pieces, as `O_DIRECT` demands of offset, length and memory.
fn read_direct(file: &File, len: usize) -> io::Result<Vec<u8>> {
    let mut room = vec![0; DIRECT_BYTES + DIRECT_ALIGNMENT];
    let start = room.as_ptr().align_offset(DIRECT_ALIGNMENT);
    let piece = &mut room[start..start + DIRECT_BYTES];
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let read = file.read_at(piece, bytes.len() as u64)?;
        bytes.extend_from_slice(&piece[..read.min(len - bytes.len())]);
        if read == 0 || (bytes.len() < len && !read.is_multiple_of(DIRECT_ALIGNMENT)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(bytes)
}

/// Replaces a file of the folder as one durable step.
///
/// # Errors
/// What the system refuses; the file is then the old one or the new one, whole.
pub fn replace_file(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let draft = dir.join(format!("{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, dir.join(name))?;
    sync_folder(dir)
}

pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The lock file's name.
const LOCK: &str = "LOCK";

/// Mode of a segment that is being written.
const SEGMENT_MODE: u32 = 0o600;

/// Mode of a segment nothing will be added to.
const FINISHED_MODE: u32 = 0o400;

/// Bytes of one direct read, and what its memory is aligned to: no device asks for more than a page.
const DIRECT_BYTES: usize = 1 << 20;
const DIRECT_ALIGNMENT: usize = 4096;

/// Half a second in all.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{
        folder::{archive_name, segment_name},
        stored::list_segments,
    };

    #[test]
    fn the_name_of_a_segment_is_its_index() {
        assert_eq!(segment_index(&segment_name(7)), Some(7));
        for other in ["7.seg", "0000000007", "000000000x.seg", "LOCK"] {
            assert_eq!(segment_index(other), None);
        }
        assert_eq!(archive_index(&archive_name(7)), Some(7));
        assert_eq!((archive_index(&segment_name(7)), segment_index(&archive_name(7))), (None, None));
    }

    #[test]
    fn a_folder_is_listed_while_its_files_come_and_go() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(segment_name(1)), b"ours").unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    // As a checkpoint is published and a segment prepared.
                    fs::write(folder.path().join("new"), b"").unwrap();
                    fs::rename(folder.path().join("new"), folder.path().join("kept")).unwrap();
                }
            });
            let listed = (0..20_000).map(|_| list_segments(folder.path())).find(|listed| {
                listed.as_ref().map_or(true, |segments| segments.iter().map(|one| one.index).ne([1]))
            });
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(listed.is_none(), "{listed:?}");
        });
    }

    #[test]
    fn a_name_that_leads_to_a_copy_of_the_same_mode_or_to_two_files_is_noticed_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let medium = RealMedium::new(folder.path(), SinkKind::Pwrite);
        let (name, aside) = (segment_name(1), folder.path().join("aside"));
        let file = medium.create(&name).unwrap();
        file.write_at(b"ours", 0).unwrap();
        file.check_named(&name).unwrap();

        let path = folder.path().join(&name);
        fs::rename(&path, &aside).unwrap();
        fs::copy(&aside, &path).unwrap();
        let error = file.check_named(&name).unwrap_err().to_string();
        assert_eq!(error, "the name leads to another file");

        fs::rename(&aside, &path).unwrap();
        fs::hard_link(&path, &aside).unwrap();
        assert_eq!(file.check_named(&name).unwrap_err().to_string(), "it has a second name");
    }
}
