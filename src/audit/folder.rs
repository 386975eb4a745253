//! The log folder on a real file system: names, preparation, reading around the page cache, quarantine.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::fs::{FallocateFlags, FlockOperation};

use super::{
    disk::{Disk, Flush, Prepared, SegmentFile, Sink},
    error::AuditError,
    map::MapSink,
};

/// How segments are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SinkKind {
    /// Stores into a shared map.
    Map,
    /// `pwrite`, where a map is not safe.
    Pwrite,
}

/// A log folder on disk.
pub(super) struct Folder {
    path: PathBuf,
    sink: SinkKind,
    // The inode of each segment we prepared, to notice that its name leads elsewhere.
    prepared: Mutex<Vec<(u64, Arc<File>)>>,
}

impl Folder {
    pub(super) fn new(path: &Path, sink: SinkKind) -> Self {
        Self { path: path.to_owned(), sink, prepared: Mutex::new(Vec::new()) }
    }

    fn segment_path(&self, index: u64) -> PathBuf {
        self.path.join(segment_name(index))
    }

    fn quarantine_path(&self, name: &str) -> io::Result<PathBuf> {
        let folder = self.path.join(QUARANTINE);
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => sync_folder(&self.path)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Ok(folder.join(name))
    }

    /// Creates and fills the file of a segment, but not its name's durability.
    fn fill(&self, path: &Path, bytes: u64) -> io::Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        // The raw call: glibc's emulation writes single bytes where the file system cannot allocate.
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        // One page per write: a large write makes large folios, and then every small store through the map costs a
        // 2 MiB write to the device (reference/audit.md §2a).
        let zeros = [0; PAGE_BYTES];
        let mut offset = 0;
        while offset < bytes {
            let len = usize::try_from(bytes - offset).map_or(PAGE_BYTES, |left| left.min(PAGE_BYTES));
            file.write_all_at(&zeros[..len], offset)?;
            offset += len as u64;
        }
        file.sync_all()?;
        Ok(file)
    }
}

impl Disk for Folder {
    fn segments(&self) -> io::Result<Vec<SegmentFile>> {
        list_segments(&self.path)
    }

    fn prepare(&self, index: u64, bytes: u64) -> io::Result<Prepared> {
        let path = self.segment_path(index);
        let made = self.fill(&path, bytes).and_then(|file| {
            sync_folder(&self.path)?;
            let file = Arc::new(file);
            let sink: Box<dyn Sink> = match self.sink {
                SinkKind::Map => {
                    Box::new(MapSink::new(&file, usize::try_from(bytes).map_err(io::Error::other)?)?)
                }
                SinkKind::Pwrite => Box::new(PwriteSink { file: Arc::clone(&file) }),
            };
            Ok((file, sink))
        });
        match made {
            Ok((file, sink)) => {
                let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
                prepared.push((index, Arc::clone(&file)));
                Ok(Prepared { index, bytes, sink, flush: Arc::new(FileFlush { file }) })
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
            Err(error) => {
                // A half-made segment holds nothing but zeros; the space may be what is missing.
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    fn read(&self, index: u64) -> io::Result<Vec<u8>> {
        read_stored(&self.segment_path(index))
    }

    fn remove(&self, index: u64) -> io::Result<()> {
        fs::remove_file(self.segment_path(index))?;
        sync_folder(&self.path)
    }

    fn finish(&self, index: u64, bytes: Option<u64>) -> io::Result<()> {
        let path = self.segment_path(index);
        if fs::symlink_metadata(&path)?.mode() & 0o222 != 0 {
            let file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(&path)?;
            if let Some(bytes) = bytes {
                file.set_len(bytes)?;
            }
            file.set_permissions(fs::Permissions::from_mode(0o400))?;
            file.sync_all()?;
        }
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).retain(|(other, _)| *other != index);
        Ok(())
    }

    fn quarantine_bytes(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.quarantine_path(name)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        sync_folder(&self.path.join(QUARANTINE))
    }

    fn quarantine_segment(&self, index: u64, name: &str) -> io::Result<()> {
        fs::rename(self.segment_path(index), self.quarantine_path(name)?)?;
        sync_folder(&self.path.join(QUARANTINE))?;
        sync_folder(&self.path)
    }

    fn check_identity(&self, index: u64) -> io::Result<()> {
        let ours = {
            let prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
            prepared.iter().find(|(other, _)| *other == index).map(|(_, file)| Arc::clone(file))
        };
        let Some(ours) = ours else { return Ok(()) };
        let named = fs::symlink_metadata(self.segment_path(index))?;
        let ours = ours.metadata()?;
        let changed = if (named.dev(), named.ino()) != (ours.dev(), ours.ino()) {
            "its name leads to another file"
        } else if named.mode() & 0o7777 != 0o600 {
            "its mode was changed"
        } else {
            return Ok(());
        };
        Err(io::Error::other(changed))
    }
}

/// `pwrite` behind the same face as the map.
struct PwriteSink {
    file: Arc<File>,
}

impl Sink for PwriteSink {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn name(&self) -> &'static str {
        "pwrite"
    }
}

struct FileFlush {
    file: Arc<File>,
}

impl Flush for FileFlush {
    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// The exclusive lock of a log folder, held as long as this lives.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock. Retries for a moment: io_uring may keep a killed process's files open a little longer.
    pub(super) fn take(folder: &Path) -> Result<Self, AuditError> {
        let path = folder.join(LOCK);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|error| AuditError::io("open the lock", &path, error))?;
        for _ in 0..LOCK_TRIES {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
                Err(error) => return Err(AuditError::io("lock", &path, error.into())),
            }
        }
        Err(AuditError::Locked { path: folder.to_owned() })
    }
}

/// Lists the segments of a folder without needing its lock.
pub(super) fn list_segments(folder: &Path) -> io::Result<Vec<SegmentFile>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Some(index) = entry.file_name().to_str().and_then(segment_index) else { continue };
        let metadata = entry.metadata()?;
        if !metadata.is_file() {
            let message = format!("{} is not a regular file", segment_name(index));
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        segments.push(SegmentFile { index, bytes: metadata.len(), finished: metadata.mode() & 0o222 == 0 });
    }
    segments.sort_unstable_by_key(|segment| segment.index);
    Ok(segments)
}

/// The file name of a segment.
pub(super) fn segment_name(index: u64) -> String {
    format!("{index:010}.seg")
}

fn segment_index(name: &str) -> Option<u64> {
    let index = name.strip_suffix(".seg")?.parse().ok()?;
    (segment_name(index) == name).then_some(index)
}

/// Reads a file from the medium: first whatever is still only in the page cache is written out, then the bytes are
/// read with `O_DIRECT`. After a failed flush the cache may hold pages that the disk does not, marked clean.
fn read_stored(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    file.sync_all()?;
    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_DIRECT).open(path);
    if let Ok(bytes) = direct.and_then(|direct| read_direct(&direct, len)) {
        return Ok(bytes);
    }
    // No direct reads on this file system: ask the cache to forget instead.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    let mut bytes = Vec::with_capacity(len);
    file.take(len as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads `len` bytes in aligned pieces, as `O_DIRECT` demands of offset, length and memory.
fn read_direct(file: &File, len: usize) -> io::Result<Vec<u8>> {
    let mut room = vec![0; DIRECT_BYTES + PAGE_BYTES];
    let start = room.as_ptr().align_offset(PAGE_BYTES);
    let piece = &mut room[start..start + DIRECT_BYTES];
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let read = file.read_at(piece, bytes.len() as u64)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&piece[..read.min(len - bytes.len())]);
        if bytes.len() < len && !read.is_multiple_of(PAGE_BYTES) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(bytes)
}

pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The lock file's name.
const LOCK: &str = "LOCK";

/// Where damaged bytes are kept.
pub(super) const QUARANTINE: &str = "quarantine";

/// Size of a page and of the writes that zero a segment.
const PAGE_BYTES: usize = 4096;

/// Bytes of one direct read.
const DIRECT_BYTES: usize = 1 << 20;

/// Half a second in all.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
