//! Power cuts under the real log, its memory map and a real file system. Everything the file system sends to its disk
//! is written down; then the disk is put together again as a power cut may have left it, with any part of what had not
//! been flushed, the file system and the log recover, and what had been acknowledged must be there.
//!
//! `EDGATE_POWER_CUTS` sets how many cuts are tried (default 12 per file system), `EDGATE_POWER_SEED` which; needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod device;
#[path = "../support/disk.rs"]
mod disk;
mod failing;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use device::{Device, Entry, write_image};
use disk::{FileSystem, Mounted, refused};
use edgate::audit::{
    Ack, Event, Opened, Settings, SinkKind, StopEvent, Tail, open,
    verify::{Options, verify_dir},
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// What a disk writes as one.
const SECTOR: usize = 512;

const MEGABYTES: u64 = 32;

/// Events of the recorded run.
const EVENTS: u64 = 400;

fn settings(dir: &Path, sink: SinkKind) -> Settings {
    Settings {
        segment_bytes: 256 << 10,
        flush_interval: Duration::from_millis(2),
        sink: Some(sink),
        create: true,
        watermarks: edgate::audit::Watermarks { full_bytes: 0, ..Default::default() },
        ..Settings::new(dir, "test.example/power")
    }
}

/// A run as the disk saw it.
struct Story {
    kind: FileSystem,
    sink: SinkKind,
    /// The disk before the log was opened.
    before: Vec<u8>,
    entries: Vec<Entry>,
    /// At how many entries how many events had been acknowledged as durable.
    acknowledged: Vec<(usize, u64)>,
}

impl Story {
    /// Nothing recorded: for its judgement alone.
    fn of(kind: FileSystem, sink: SinkKind) -> Self {
        Self { kind, sink, before: Vec::new(), entries: Vec::new(), acknowledged: Vec::new() }
    }

    /// Runs a log on a device that remembers.
    fn record(kind: FileSystem, sink: SinkKind) -> Option<Self> {
        let running = Running::new(kind)?;
        let (device, at) = (&running.device, running.path());
        let dir = at.join("audit");
        fs::create_dir(&dir).unwrap();
        fs::File::open(&dir).unwrap().sync_all().unwrap();
        fs::File::open(&at).unwrap().sync_all().unwrap();
        let before = device.forget();
        let mut acknowledged = vec![(0, 0)];
        let mut events = 0;
        // Opened, left without closing, opened again, closed: recovery and close are part of the story.
        for life in 0..2 {
            let Opened { mut appenders, log, .. } = open(&settings(&dir, sink), 1).unwrap();
            while events < (life + 1) * EVENTS / 2 {
                let mut last = None;
                for _ in 0..=events % 7 {
                    // Long enough that a commit covers several pages, now and then.
                    let reason =
                        format!("{events:06}{}", "x".repeat(usize::try_from(events * 97 % 2000).unwrap()));
                    let event = Event::Stop(StopEvent { reason: &reason });
                    last = Some(appenders[0].append(&event, Ack::Durable).unwrap());
                    events += 1;
                }
                appenders[0].wait(last.unwrap(), Ack::Durable, PATIENCE).unwrap();
                acknowledged.push((device.len(), events));
            }
            if life == 1 {
                log.close(PATIENCE).unwrap();
            }
        }
        let entries = device.entries();
        drop(running);
        Some(Self { kind, sink, before, entries, acknowledged })
    }

    /// What had been acknowledged when the disk had been told `at` things.
    fn promised(&self, at: usize) -> u64 {
        self.acknowledged
            .iter()
            .take_while(|(entries, _)| *entries <= at)
            .last()
            .map_or(0, |(_, events)| *events)
    }

    /// The disk when the power goes at `at`: everything before the last flush, and of the rest what `keep` says.
    /// With `lying`, the disk had ignored its last flushes.
    fn cut(&self, at: usize, lying: usize, mut keep: impl FnMut(usize) -> Keep) -> Vec<u8> {
        let mut content = self.before.clone();
        let flushes: Vec<usize> =
            (0..at).filter(|entry| matches!(self.entries[*entry], Entry::Flush)).collect();
        let stable = flushes.iter().rev().nth(lying).copied().unwrap_or(0);
        let mut pending = 0;
        for (number, entry) in self.entries[..at].iter().enumerate() {
            let Entry::Write { offset, bytes } = entry else { continue };
            let kept = if number < stable {
                Keep::All
            } else {
                pending += 1;
                keep(pending - 1)
            };
            match kept {
                Keep::All => content[*offset..*offset + bytes.len()].copy_from_slice(bytes),
                Keep::Nothing => {}
                Keep::Sectors(mut random) => {
                    for (sector, part) in bytes.chunks(SECTOR).enumerate() {
                        if random.below(2) == 0 {
                            let start = *offset + sector * SECTOR;
                            content[start..start + part.len()].copy_from_slice(part);
                        }
                    }
                }
            }
        }
        content
    }

    /// Writes that were not flushed at `at`.
    fn pending(&self, at: usize) -> usize {
        self.entries[..at].iter().rev().take_while(|entry| matches!(entry, Entry::Write { .. })).count()
    }

    /// Holds a disk against what the world had been told. Returns how many torn tails recovery set aside.
    fn judge(&self, content: &[u8], promised: u64) -> Result<usize, String> {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        write_image(&image, content);
        let Some(mounted) = Mounted::image(self.kind, &image) else {
            return Err("the file system cannot be mounted".into());
        };
        let dir = mounted.path().join("audit");
        let recovery = match open(&settings(&dir, self.sink), 1) {
            Ok(Opened { log, recovery, .. }) => {
                log.close(PATIENCE).map_err(|error| error.to_string())?;
                recovery
            }
            Err(error) => return Err(format!("the log refuses to be opened: {error}")),
        };
        for torn in &recovery.torn {
            let kept =
                fs::read(dir.join("quarantine").join(&torn.file)).map_err(|error| error.to_string())?;
            if kept.len() < usize::try_from(torn.bytes).unwrap() {
                return Err(format!("{} torn bytes were not kept", torn.bytes));
            }
        }
        let options = Options { allow_unsigned: true, ..Options::default() };
        let report = verify_dir(&dir, &options, &mut |_| {}).map_err(|error| error.to_string())?;
        if !report.breaks.is_empty() {
            return Err(format!("the log does not verify: {:?}", report.breaks));
        }
        let mut tail = Tail::last(&dir, usize::MAX, |_| true).map_err(|error| error.to_string())?;
        let mut stored = 0;
        while let Some(entry) = tail.next().map_err(|error| error.to_string())? {
            let body = serde_json::from_str::<serde_json::Value>(&entry.json()).unwrap()["body"].clone();
            let Some(reason) = body["reason"].as_str().filter(|_| entry.kind() == "stop") else { continue };
            let expected = format!("{stored:06}");
            if !reason.starts_with(&expected) {
                return Err(format!("event {stored} is not the one that was appended"));
            }
            stored += 1;
        }
        if stored < promised {
            return Err(format!("{stored} events are stored, {promised} were acknowledged as durable"));
        }
        Ok(recovery.torn.len())
    }
}

enum Keep {
    All,
    Nothing,
    /// Each sector or not.
    Sectors(Random),
}

/// A file system on a device that remembers.
struct Running {
    device: Device,
    folder: TempDir,
}

impl Running {
    fn new(kind: FileSystem) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        if !kind.format(&image, MEGABYTES) {
            return refused(&format!("make an {} image", kind.name()));
        }
        let Some(device) = Device::new(fs::read(&image).unwrap()) else {
            return refused("serve a block device through /dev/fuse");
        };
        fs::create_dir(folder.path().join("mnt")).unwrap();
        let running = Self { device, folder };
        let mount = Command::new("mount")
            .arg("-t")
            .arg(kind.name())
            .args([&running.device.path(), &running.path()])
            .output();
        if !mount.is_ok_and(|output| output.status.success()) {
            return refused(&format!("mount {}", kind.name()));
        }
        Some(running)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).output();
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn cut_again_and_again(kind: FileSystem, sink: SinkKind) {
    let Some(story) = Story::record(kind, sink) else { return };
    let seed = number("EDGATE_POWER_SEED", 1);
    println!("EDGATE_POWER_SEED={seed}");
    let mut random = Random(seed);
    let cuts = number("EDGATE_POWER_CUTS", 12);
    let (mut tried, mut torn_tails) = (0, 0);
    for cut in 0..cuts {
        // Every part of the run gets its share of the cuts.
        let (from, to) =
            (story.entries.len() as u64 * cut / cuts, story.entries.len() as u64 * (cut + 1) / cuts);
        let at =
            usize::try_from(from + 1 + random.below((to - from).max(1))).unwrap().min(story.entries.len());
        let pending = story.pending(at);
        let subsets: Vec<u64> = if pending <= SMALL {
            (0..1 << pending).collect()
        } else {
            // Nothing, everything, and some of the rest.
            [0, u64::MAX].into_iter().chain((0..2).map(|_| random.next())).collect()
        };
        for subset in subsets {
            let torn = pending > 0 && random.below(3) == 0;
            let sectors = random.next();
            let content = story.cut(at, 0, |write| match subset >> (write % 64) & 1 {
                1 if torn => Keep::Sectors(Random(sectors ^ write as u64)),
                1 => Keep::All,
                _ => Keep::Nothing,
            });
            tried += 1;
            torn_tails += story.judge(&content, story.promised(at)).unwrap_or_else(|error| {
                panic!(
                    "{kind:?}, {sink:?}, EDGATE_POWER_SEED={seed}, cut at {at} of {}, {pending} writes not flushed, \
                     subset {subset:x}, torn {torn}: {error}",
                    story.entries.len()
                )
            });
        }
    }
    println!(
        "{kind:?} {sink:?}: {} writes and flushes, {cuts} cuts, {tried} disks, {torn_tails} torn tails, all acknowledged \
         events on each disk",
        story.entries.len()
    );
}

/// Up to so many writes every subset is tried.
const SMALL: usize = 2;

#[test]
fn a_power_cut_on_ext4_keeps_every_durable_event() {
    cut_again_and_again(FileSystem::Ext4, SinkKind::Map);
}

#[test]
fn a_power_cut_on_xfs_keeps_every_durable_event() {
    cut_again_and_again(FileSystem::Xfs, SinkKind::Map);
}

#[test]
fn a_power_cut_without_a_map_keeps_every_durable_event() {
    cut_again_and_again(FileSystem::Ext4, SinkKind::Pwrite);
}

/// What the others show is worth something only if a disk that lies is found out.
#[test]
fn a_disk_that_ignores_flushes_is_found_out() {
    let Some(story) = Story::record(FileSystem::Ext4, SinkKind::Map) else { return };
    let caught = (1..=story.entries.len()).rev().step_by(story.entries.len() / 12).find_map(|at| {
        let content = story.cut(at, 6, |_| Keep::Nothing);
        story.judge(&content, story.promised(at)).err()
    });
    let caught = caught.expect("six flushes were ignored, and nothing was missing");
    assert!(caught.contains("acknowledged") || caught.contains("refuses"), "{caught}");
}
