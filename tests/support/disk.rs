//! File systems in a file, mounted for as long as a test needs them. Mounting needs root and loop devices.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of this")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// What a test formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    Ext4,
    /// As `mkfs.xfs` makes it today: copies may share blocks.
    Xfs,
    XfsWithoutReflink,
}

impl FileSystem {
    /// Makes an image of so many megabytes.
    pub fn format(self, image: &Path, megabytes: u64) -> bool {
        fs::File::create(image).unwrap().set_len(megabytes << 20).unwrap();
        let image = image.to_str().unwrap();
        match self {
            Self::Ext4 => run("mkfs.ext4", &["-q", "-m", "0", "-E", "nodiscard", image]),
            // Below 300 MB it wants to be asked twice.
            Self::Xfs => run("mkfs.xfs", &["-q", "-K", "--unsupported", image]),
            Self::XfsWithoutReflink => {
                run("mkfs.xfs", &["-q", "-K", "-m", "reflink=0", "--unsupported", image])
            }
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs | Self::XfsWithoutReflink => "xfs",
        }
    }
}

/// A file system in a file, mounted for as long as this lives.
pub struct Mounted {
    kind: FileSystem,
    folder: TempDir,
}

impl Mounted {
    /// `None`, said aloud, where this machine does not let us.
    pub fn new(kind: FileSystem, megabytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        let mounted = kind.format(&image, megabytes) && Self::mount(kind, &image, &folder.path().join("mnt"));
        if !mounted {
            return refused(&format!("mount an {} image", kind.name()));
        }
        Some(Self { kind, folder })
    }

    /// Mounts an image that the caller has made.
    pub fn image(kind: FileSystem, image: &Path) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        Self::mount(kind, image, &folder.path().join("mnt")).then_some(Self { kind, folder })
    }

    fn mount(kind: FileSystem, image: &Path, at: &Path) -> bool {
        fs::create_dir_all(at).unwrap();
        run("mount", &["-t", kind.name(), "-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()])
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// Takes every free block.
    pub fn fill(&self) {
        let hog = fs::File::create(self.path().join("hog")).unwrap();
        let mut len = 0;
        // What was removed before is free only once the file system has committed that: look again afterwards.
        for size in [1 << 20, 64 << 10, 4096, 1024, 1024, 1024] {
            while rustix::fs::fallocate(&hog, rustix::fs::FallocateFlags::empty(), len, size).is_ok() {
                len += size;
            }
            let _ = rustix::fs::syncfs(&hog);
        }
    }

    /// Gives them back.
    pub fn relieve(&self) {
        fs::remove_file(self.path().join("hog")).unwrap();
    }

    /// Changes how it is mounted, as `ro` or `rw`.
    pub fn remount(&self, option: &str) -> bool {
        run("mount", &["-o", &format!("remount,{option}"), self.path().to_str().unwrap()])
    }

    /// Takes the mount point away from under those who have files open in it.
    pub fn unmount_lazily(&self) -> bool {
        run("umount", &["-l", self.path().to_str().unwrap()])
    }

    /// Unmounts it and mounts it again, as after a restart of the machine.
    pub fn mounted_again(self) -> Self {
        assert!(run("umount", &[self.path().to_str().unwrap()]), "nothing holds the file system");
        assert!(
            Self::mount(self.kind, &self.folder.path().join("image"), &self.path()),
            "it can be mounted again"
        );
        self
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

/// Whether a command succeeds.
pub fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

/// Says that a test cannot run here; where `EDGATE_MOUNTS` is set it must.
pub fn refused<T>(what: &str) -> Option<T> {
    assert!(
        std::env::var_os("EDGATE_MOUNTS").is_none(),
        "cannot {what}, and EDGATE_MOUNTS says that it works"
    );
    eprintln!("SKIPPED: cannot {what} here (needs root, loop devices, e2fsprogs, xfsprogs)");
    None
}
