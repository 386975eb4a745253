//! What lies below a file system, as far as the kernel says: the device, how it is mounted, what is written to it.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// A block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The kernel's name of it.
    pub name: String,
    /// Whether it says that it has a cache which a power cut empties, if it says anything.
    pub volatile_cache: Option<bool>,
}

/// What lies below the file system of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    /// The device, where there is one.
    pub device: Option<Device>,
    /// The option of its mount that keeps flushes from the device, if there is one.
    pub unflushed_by: Option<&'static str>,
    /// Whether this is known to be a virtual machine, whose disk is what the hypervisor makes of it.
    pub is_virtual: bool,
}

impl Below {
    /// Looks below `folder`. What cannot be read is not known.
    pub(super) fn of(folder: &Path) -> (Self, Counters) {
        let number = fs::metadata(folder).map(|metadata| metadata.dev());
        let number =
            number.map(|number| format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number)));
        let number = number.unwrap_or_default();
        let at = fs::canonicalize(Path::new("/sys/dev/block").join(&number)).ok();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let below = Self {
            device: at.as_deref().and_then(device_at),
            unflushed_by: unflushed_by(&mounts, &number),
            is_virtual: processor.split_whitespace().any(|flag| flag == "hypervisor"),
        };
        (below, Counters { device: at.map(|at| at.join("stat")) })
    }
}

fn device_at(at: &Path) -> Option<Device> {
    let name = at.file_name()?.to_str()?.to_owned();
    // A partition has the queue of its disk.
    let disk = if at.join("partition").exists() { at.parent()? } else { at };
    let cache = fs::read_to_string(disk.join("queue/write_cache")).ok();
    let volatile_cache = cache.as_deref().map(str::trim).and_then(|cache| match cache {
        "write back" => Some(true),
        "write through" => Some(false),
        _ => None,
    });
    Some(Device { name, volatile_cache })
}

/// The option in `mounts` (proc(5), mountinfo) by which the file system of device `number` sends no flush.
fn unflushed_by(mounts: &str, number: &str) -> Option<&'static str> {
    let mut lines = mounts.lines().map(str::split_whitespace);
    let options = lines.find(|words| words.clone().nth(2) == Some(number))?;
    let mut options = options.flat_map(|words| words.split(','));
    options.find_map(|option| UNFLUSHED.iter().find(|one| **one == option).copied())
}

/// Options that leave flushes out, of ext4, btrfs and overlay.
const UNFLUSHED: &[&str] = &["nobarrier", "barrier=0", "volatile"];

/// Counts of bytes written.
pub(super) struct Counters {
    // The statistics of the device.
    device: Option<PathBuf>,
}

/// What the counters say.
pub(super) struct Counted {
    pub(super) by_process: Option<u64>,
    pub(super) to_device: Option<u64>,
}

impl Counters {
    pub(super) fn read(&self) -> Counted {
        let own = fs::read_to_string("/proc/self/io").ok();
        let device = self.device.as_ref().and_then(|path| fs::read_to_string(path).ok());
        Counted {
            by_process: own.as_deref().and_then(write_bytes),
            to_device: device.as_deref().and_then(written_sectors).map(|sectors| sectors * SECTOR_BYTES),
        }
    }
}

/// proc(5): what this process caused to be sent to the storage layer.
fn write_bytes(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
}

/// Documentation/block/stat.rst: the seventh number counts sectors.
fn written_sectors(stat: &str) -> Option<u64> {
    stat.split_whitespace().nth(6)?.parse().ok()
}

/// A sector in those statistics, whatever the device's own are.
const SECTOR_BYTES: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_that_sends_no_flush_is_found_by_its_device() {
        let mounts = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
                      28 1 254:1 / /a rw,noatime shared:1 - ext4 /dev/vdb rw,nobarrier,data=ordered\n\
                      29 1 0:40 / /b rw - overlay overlay rw,lowerdir=/nobarrier,upperdir=/u,workdir=/w,volatile\n";
        assert_eq!(unflushed_by(mounts, "254:0"), None);
        assert_eq!(unflushed_by(mounts, "254:1"), Some("nobarrier"));
        assert_eq!(unflushed_by(mounts, "0:40"), Some("volatile"));
        assert_eq!(unflushed_by(mounts, "9:9"), None);
        assert_eq!(unflushed_by("", ""), None);
    }

    #[test]
    fn the_kernels_counters_are_read_and_nonsense_is_none() {
        assert_eq!(write_bytes("rchar: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 0\n"), Some(4096));
        assert_eq!(write_bytes("cancelled_write_bytes: 0\n"), None);
        assert_eq!(written_sectors(" 1 2 3 4 5 6 7 8 9"), Some(7));
        assert_eq!(written_sectors("1 2 3"), None);
    }
}
