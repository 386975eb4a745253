//! A block device that remembers: a file system of one file, spoken over `/dev/fuse`, with a loop device on top.
//!
//! A flush of the loop device is an `fsync` of the file below it, so that the order of writes and flushes a file system
//! sends to its disk is known exactly, as with dm-log-writes. Of what was written and not flushed, a power cut may
//! keep any part. The protocol is the kernel's (include/uapi/linux/fuse.h, version 7.31), one request at a time.

#![allow(unreachable_pub, reason = "a module of a test program")]

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    thread::JoinHandle,
};

use tempfile::TempDir;

/// What the device was told, in order.
#[derive(Clone)]
pub enum Entry {
    Write { offset: usize, bytes: Vec<u8> },
    Flush,
}

/// The device while it is in use.
pub struct Device {
    journal: Arc<Mutex<Journal>>,
    loop_device: Option<String>,
    server: Option<JoinHandle<()>>,
    folder: TempDir,
}

/// The content, and how it came about.
pub struct Journal {
    /// What a machine that is not cut off sees.
    pub content: Vec<u8>,
    pub entries: Vec<Entry>,
    /// Writes fail, and change nothing.
    refuses: bool,
}

impl Device {
    /// A device with this content; `None` where this machine does not let us have one.
    pub fn new(content: Vec<u8>) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("device");
        File::create(&file).unwrap();
        let fuse = OpenOptions::new().read(true).write(true).open("/dev/fuse").ok()?;
        // The file system's root is the file. mount(8) finds the connection on its standard input.
        let mounted = Command::new("mount")
            .args(["-i", "-t", "fuse", "-o", "fd=0,rootmode=100000,user_id=0,group_id=0,allow_other"])
            .args(["edgate-test".as_ref(), file.as_os_str()])
            .stdin(Stdio::from(fuse.try_clone().unwrap()))
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            return None;
        }
        let journal = Arc::new(Mutex::new(Journal { content, entries: Vec::new(), refuses: false }));
        let served = Arc::clone(&journal);
        let server = std::thread::spawn(move || serve(fuse, &served));
        let mut device = Self { journal, loop_device: None, server: Some(server), folder };
        let attached = Command::new("losetup").args(["-f", "--show"]).arg(&file).output().ok()?;
        let name = String::from_utf8(attached.stdout).unwrap().trim().to_owned();
        device.loop_device = attached.status.success().then_some(name);
        device.loop_device.is_some().then_some(device)
    }

    /// The block device.
    pub fn path(&self) -> PathBuf {
        self.loop_device.as_deref().expect("a device that was returned is attached").into()
    }

    /// Lets writes fail, or no longer.
    pub fn refuse_writes(&self, refuses: bool) {
        self.journal.lock().unwrap().refuses = refuses;
    }

    /// A disk that answers nothing until what is returned is dropped.
    pub fn hold(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap()
    }

    /// What is on the disk now.
    pub fn content(&self) -> Vec<u8> {
        self.journal.lock().unwrap().content.clone()
    }

    /// How many writes and flushes there were.
    pub fn len(&self) -> usize {
        self.journal.lock().unwrap().entries.len()
    }

    /// Forgets the past: what is there now was there at the beginning.
    pub fn forget(&self) -> Vec<u8> {
        let mut journal = self.journal.lock().unwrap();
        journal.entries.clear();
        journal.content.clone()
    }

    /// Everything since then.
    pub fn entries(&self) -> Vec<Entry> {
        self.journal.lock().unwrap().entries.clone()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(device) = &self.loop_device {
            let _ = Command::new("losetup").arg("-d").arg(device).output();
        }
        let _ = Command::new("umount").arg("-l").arg(self.folder.path().join("device")).output();
        if !std::thread::panicking()
            && let Some(server) = self.server.take()
        {
            // The loop device lets go of the file a moment after it is told to.
            let _ = server.join();
        }
    }
}

/// Answers the kernel until the file system is unmounted.
fn serve(mut fuse: File, journal: &Mutex<Journal>) {
    let mut request = vec![0; REQUEST_BYTES_MAX];
    loop {
        match fuse.read(&mut request) {
            Ok(len) if len >= IN_HEADER_BYTES => {
                let reply = answer(&request[..len], journal);
                if let Some(reply) = reply {
                    // A request that was interrupted meanwhile takes no answer.
                    let _ = fuse.write_all(&reply);
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            // ENODEV: unmounted.
            _ => return,
        }
    }
}

fn answer(request: &[u8], journal: &Mutex<Journal>) -> Option<Vec<u8>> {
    let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
    let long = |at: usize| u64::from_le_bytes(request[at..at + 8].try_into().unwrap());
    let (opcode, unique) = (word(4), long(8));
    let body = IN_HEADER_BYTES;
    let mut out = Vec::new();
    let mut error = 0;
    match opcode {
        INIT => {
            for value in [7, 31, 0, BIG_WRITES | MAX_PAGES] {
                out.extend_from_slice(&u32::to_le_bytes(value));
            }
            out.extend_from_slice(&16_u16.to_le_bytes());
            out.extend_from_slice(&12_u16.to_le_bytes());
            out.extend_from_slice(&WRITE_BYTES_MAX.to_le_bytes());
            out.extend_from_slice(&1_u32.to_le_bytes());
            out.extend_from_slice(&32_u16.to_le_bytes());
            out.resize(64, 0);
        }
        GETATTR | SETATTR => {
            let size = journal.lock().unwrap().content.len() as u64;
            out.extend_from_slice(&3600_u64.to_le_bytes());
            out.extend_from_slice(&0_u64.to_le_bytes());
            for value in [1, size, size / 512, 0, 0, 0] {
                out.extend_from_slice(&value.to_le_bytes());
            }
            for value in [0, 0, 0, 0o100_600, 1, 0, 0, 0, 4096, 0_u32] {
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
        OPEN => out.resize(16, 0),
        READ => {
            let (offset, len) = (usize::try_from(long(body + 8)).unwrap(), word(body + 16) as usize);
            let content = &journal.lock().unwrap().content;
            let end = (offset + len).min(content.len());
            out.extend_from_slice(&content[offset.min(end)..end]);
        }
        WRITE => {
            let (offset, len) = (usize::try_from(long(body + 8)).unwrap(), word(body + 16));
            let bytes = request[body + 40..body + 40 + len as usize].to_vec();
            let mut journal = journal.lock().unwrap();
            if journal.refuses {
                error = -libc::EIO;
            } else {
                journal.content[offset..offset + bytes.len()].copy_from_slice(&bytes);
                journal.entries.push(Entry::Write { offset, bytes });
                out.extend_from_slice(&len.to_le_bytes());
                out.extend_from_slice(&0_u32.to_le_bytes());
            }
        }
        FSYNC => journal.lock().unwrap().entries.push(Entry::Flush),
        FLUSH | RELEASE | DESTROY => {}
        FORGET | BATCH_FORGET | INTERRUPT => return None,
        _ => error = -libc::ENOSYS,
    }
    let len = u32::try_from(OUT_HEADER_BYTES + out.len()).unwrap();
    let mut reply = len.to_le_bytes().to_vec();
    reply.extend_from_slice(&error.to_le_bytes());
    reply.extend_from_slice(&unique.to_le_bytes());
    reply.extend_from_slice(&out);
    Some(reply)
}

/// Writes an image without the blocks that are zero.
pub fn write_image(path: &Path, content: &[u8]) {
    use std::os::unix::fs::FileExt as _;
    let file = File::create(path).unwrap();
    file.set_len(content.len() as u64).unwrap();
    for (at, block) in content.chunks(4096).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, at as u64 * 4096).unwrap();
        }
    }
}

// The requests a loop device makes, and what may be left unanswered.
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const DESTROY: u32 = 38;
const BATCH_FORGET: u32 = 42;

const BIG_WRITES: u32 = 1 << 5;
const MAX_PAGES: u32 = 1 << 22;
const IN_HEADER_BYTES: usize = 40;
const OUT_HEADER_BYTES: usize = 16;
const WRITE_BYTES_MAX: u32 = 128 << 10;
const REQUEST_BYTES_MAX: usize = (WRITE_BYTES_MAX as usize) + (64 << 10);
