//! Which file system a folder lies on: how segments may be written there, and who answers for what is flushed.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

use super::real::SinkKind;

/// The file system of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    /// Its name; `unknown` if it is none of those that were looked at.
    pub name: &'static str,
    /// `f_type` of statfs(2).
    pub magic: i64,
    /// Who keeps what is flushed.
    pub kept_by: KeptBy,
    /// How segments are written there.
    pub sink: SinkKind,
    /// Whether a copy of a file may share its blocks.
    pub shares_blocks: bool,
}

/// Who keeps what was flushed to a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptBy {
    /// A disk, which is sent the flush.
    Disk,
    /// Nobody: it is memory.
    Memory,
    /// Another machine, which decides what a flush means.
    Network,
    /// A program.
    Program,
    /// The file systems below it.
    Below,
    /// Who knows.
    Unknown,
}

impl FileSystem {
    /// Looks at `folder`. Two unnamed files are made there and gone again.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn of(folder: &Path) -> io::Result<Self> {
        // Widths differ between architectures; the numbers are those of statfs(2).
        #[allow(clippy::useless_conversion, reason = "the field is not an i64 everywhere")]
        let magic = i64::from(rustix::fs::statfs(folder)?.f_type);
        let known = FILE_SYSTEMS.iter().find(|(number, ..)| *number == magic);
        let (_, name, kept_by, sink) = *known.unwrap_or(&(0, "unknown", KeptBy::Unknown, SinkKind::Pwrite));
        let shares_blocks = shares_blocks(folder);
        let sink = if shares_blocks { SinkKind::Pwrite } else { sink };
        Ok(Self { name, magic, kept_by, sink, shares_blocks })
    }

    /// Whether segments would be mapped if copies did not share blocks.
    #[must_use]
    pub fn is_pwrite_for_its_copies(&self) -> bool {
        let known = FILE_SYSTEMS.iter().find(|(number, ..)| *number == self.magic);
        self.shares_blocks && known.is_some_and(|(.., sink)| *sink == SinkKind::Map)
    }
}

/// Whether a copy of a file may share its blocks, as XFS can with `reflink=1`, its default: then a snapshot of the
/// active segment makes a store into zeroed, allocated pages need space after all. Tried rather than asked for; if it
/// cannot be tried, it may be so.
fn shares_blocks(folder: &Path) -> bool {
    let unnamed = || -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(folder)
    };
    let (Ok(source), Ok(copy)) = (unnamed(), unnamed()) else { return true };
    if source.write_all_at(&[0; BLOCK_BYTES], 0).is_err() {
        return true;
    }
    !matches!(
        rustix::fs::ioctl_ficlone(&copy, &source),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOTTY)
    )
}

/// What is shared: at least a block of any of these.
const BLOCK_BYTES: usize = 4096;

/// `f_type` of statfs(2), the name, who keeps what is flushed, and whether segments may be mapped for writing, unless
/// copies share blocks there. A map is used only where its failure modes were measured.
const FILE_SYSTEMS: &[(i64, &str, KeptBy, SinkKind)] = &[
    (0xEF53, "ext4", KeptBy::Disk, SinkKind::Map),
    (0x5846_5342, "xfs", KeptBy::Disk, SinkKind::Map),
    (0x9123_683E, "btrfs", KeptBy::Disk, SinkKind::Pwrite),
    (0x2FC1_2FC1, "zfs", KeptBy::Disk, SinkKind::Pwrite),
    (0xF2F5_2010, "f2fs", KeptBy::Disk, SinkKind::Pwrite),
    (0x794C_7630, "overlay", KeptBy::Below, SinkKind::Pwrite),
    (0x6573_5546, "fuse", KeptBy::Program, SinkKind::Pwrite),
    (0x6969, "nfs", KeptBy::Network, SinkKind::Pwrite),
    (0xFF53_4D42, "cifs", KeptBy::Network, SinkKind::Pwrite),
    (0xFE53_4D42, "smb", KeptBy::Network, SinkKind::Pwrite),
    (0x00C3_6400, "ceph", KeptBy::Network, SinkKind::Pwrite),
    (0x0102_1997, "9p", KeptBy::Network, SinkKind::Pwrite),
    (0x0102_1994, "tmpfs", KeptBy::Memory, SinkKind::Pwrite),
    (0x8584_58F6, "ramfs", KeptBy::Memory, SinkKind::Pwrite),
];
