//! From what was measured to what it means: pure, so that every drive there may be can be tried.

use std::{fmt, time::Duration};

use super::{
    Measured, Promise,
    clock::Clocks,
    flushes::{Flushes, Latency, PAYLOAD_BYTES, Written},
    room::Room,
    sentence,
    signing::Signing,
};
use crate::audit::{
    file_system::{FileSystem, KeptBy},
    keeper::DiskState,
    real::SinkKind,
};

/// How one examination ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// A fact to know; no judgement.
    Note,
    /// No place for a log.
    Fail,
}

impl Verdict {
    /// The word in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Note => "note",
            Self::Fail => "fail",
        }
    }
}

/// One examination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was examined: stable words.
    pub subject: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What was seen.
    pub detail: String,
}

/// What the examination of a folder showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// All examinations, in order.
    pub findings: Vec<Finding>,
    /// What is guaranteed there, and under which assumption.
    pub sentence: String,
}

impl Diagnosis {
    /// Whether nothing forbids a log there.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.findings.iter().all(|finding| finding.verdict != Verdict::Fail)
    }
}

/// What all of it means.
#[must_use]
pub fn judge(measured: &Measured, promise: &Promise) -> Diagnosis {
    let mut findings = vec![file_system(&measured.file_system), writing(&measured.file_system)];
    findings.push(device(measured));
    findings.extend(flushes(measured, promise));
    findings.push(written(&measured.flushes.written));
    findings.push(room(&measured.room, promise));
    findings.push(signing(&measured.signing, promise));
    findings.push(clock(&measured.clocks));
    Diagnosis { findings, sentence: sentence::of(measured, promise) }
}

fn finding(subject: &'static str, verdict: Verdict, detail: impl Into<String>) -> Finding {
    Finding { subject, verdict, detail: detail.into() }
}

fn file_system(found: &FileSystem) -> Finding {
    let name = found.name;
    let (verdict, detail) = match found.kept_by {
        KeptBy::Disk => (Verdict::Pass, format!("{name}: a flush goes to the disk")),
        KeptBy::Memory => (Verdict::Fail, format!("{name} is not durable: it is memory")),
        KeptBy::Network => {
            let what =
                "a network file system: another machine decides what a flush means, and who has a lock";
            (Verdict::Fail, format!("{name} is {what}"))
        }
        KeptBy::Program => (Verdict::Fail, format!("{name}: a program decides what a flush means")),
        KeptBy::Below => {
            (Verdict::Note, format!("{name}: the file systems below it decide what a flush means"))
        }
        KeptBy::Unknown => {
            (Verdict::Fail, format!("type {:#x} is not known here: nothing can be said of it", found.magic))
        }
    };
    finding("file system", verdict, detail)
}

fn writing(found: &FileSystem) -> Finding {
    let (verdict, detail) = match (found.sink, found.shares_blocks) {
        (SinkKind::Map, _) => (Verdict::Pass, "segments are mapped; copies share no blocks".to_owned()),
        (SinkKind::Pwrite, true) if found.is_pwrite_for_its_copies() => (
            Verdict::Note,
            "segments are written with pwrite: a copy may share their blocks (reflink), and then a store into a \
             map needs space"
                .to_owned(),
        ),
        (SinkKind::Pwrite, _) => {
            (Verdict::Note, format!("segments are written with pwrite: no map was tried on {}", found.name))
        }
    };
    finding("segments", verdict, detail)
}

fn device(measured: &Measured) -> Finding {
    let below = &measured.below;
    if let Some(option) = below.unflushed_by {
        let detail = format!("mounted with {option}: no flush reaches the disk");
        return finding("device", Verdict::Fail, detail);
    }
    let Some(device) = &below.device else {
        return finding("device", Verdict::Note, "there is none that the kernel names");
    };
    let cache = match device.volatile_cache {
        Some(true) => "it says that it has a volatile cache, and is sent flushes",
        Some(false) => "it says that it has no volatile cache, and is sent no flush",
        None => "it does not say whether its cache is volatile",
    };
    let host = if below.is_virtual {
        "; this is a virtual machine: its disk is what the hypervisor makes of it"
    } else {
        ""
    };
    finding("device", Verdict::Note, format!("{}: {cache}{host}", device.name))
}

fn flushes(measured: &Measured, promise: &Promise) -> Vec<Finding> {
    let Flushes { appended, overwritten, direct, committed, .. } = &measured.flushes;
    let timed = |subject, what: &str, times: &Latency| {
        let (verdict, why) = match implausible(measured, times) {
            true => (Verdict::Fail, IMPLAUSIBLE),
            false => (Verdict::Pass, ""),
        };
        finding(subject, verdict, format!("{what}: {}{why}", shown(times)))
    };
    let mut commit = timed("commit", "as the log commits", committed);
    let limit = promise.ack_timeout;
    if commit.verdict == Verdict::Pass && committed.worst > limit {
        let (verdict, which) = match committed.median > limit {
            true => (Verdict::Fail, "answers"),
            false => (Verdict::Note, "some answers"),
        };
        commit.verdict = verdict;
        commit
            .detail
            .push_str(&format!("; {which} that wait for it are taken back after {} ms", limit.as_millis()));
    }
    let direct = match direct {
        Err(cause) => finding("o_dsync", Verdict::Note, format!("cannot be tried here: {cause}")),
        Ok(times) if is_from_a_cache(measured) => {
            let factor = ratio(overwritten.median, times.median);
            let detail = format!(
                "4 KiB with O_DIRECT and O_DSYNC: {}; {factor:.0} times as fast as fdatasync, which promises the \
                 same{IMPLAUSIBLE}",
                shown(times)
            );
            finding("o_dsync", Verdict::Fail, detail)
        }
        Ok(times) => timed("o_dsync", "4 KiB with O_DIRECT and O_DSYNC", times),
    };
    vec![
        timed("append", "4 KiB at a file's end, and fdatasync", appended),
        timed("overwrite", "4 KiB over prepared zeros, and fdatasync", overwritten),
        direct,
        commit,
    ]
}

/// Whether no disk can have stored anything in so little time.
pub(super) fn implausible(measured: &Measured, times: &Latency) -> bool {
    // What is memory anyway has been called so, and persistent memory is as fast as that.
    let disk = matches!(measured.file_system.kept_by, KeptBy::Disk | KeptBy::Below);
    let device = measured.below.device.as_ref();
    let persistent_memory = device.is_some_and(|device| device.name.starts_with("pmem"));
    disk && !persistent_memory && times.median < FLUSH_MIN
}

/// Whether `O_DSYNC` is answered out of a cache that `fdatasync` empties: one promise, two times that cannot both hold.
pub(super) fn is_from_a_cache(measured: &Measured) -> bool {
    let Flushes { overwritten, direct, .. } = &measured.flushes;
    let Ok(direct) = direct else { return false };
    direct.median < CELL_MIN && ratio(overwritten.median, direct.median) >= FACTOR_MAX
}

fn ratio(slow: Duration, fast: Duration) -> f64 {
    slow.as_secs_f64() / fast.as_secs_f64().max(1e-9)
}

/// Said of a flush that no disk can have done.
const IMPLAUSIBLE: &str = "; implausibly fast: the drive or the hypervisor acknowledges before it stores";

/// No block device stores 4 KiB in less. The fastest that was ever sold (Optane P5800X) states 5 us for a write, to which
/// the kernel's way to a device and back adds some more; a write that is followed by a flush is two of them.
pub(super) const FLUSH_MIN: Duration = Duration::from_micros(5);

/// No cell of a flash drive is programmed in less: tens of microseconds for the fastest (SLC), hundreds for others. What
/// is answered sooner lies in the drive's memory, which is fine if that is kept alive: then a flush is as fast.
const CELL_MIN: Duration = Duration::from_micros(30);

/// How much faster a promise may be kept one way than the other. The drives that were compared stay below 5; one, of
/// which it is suspected that it lies, has 33.
const FACTOR_MAX: f64 = 10.0;

fn written(written: &Written) -> Finding {
    let subject = "written";
    let per = |bytes: u64| bytes / written.commits.max(1);
    let payload = PAYLOAD_BYTES;
    let device = written
        .to_device
        .map(per)
        .map(|bytes| format!("{bytes} bytes a commit on the device, others' writes included"));
    let Some(own) = written.by_process.map(per) else {
        let cannot = "what a commit causes to be written cannot be read (/proc/self/io)";
        let detail = device.map_or_else(|| cannot.to_owned(), |device| format!("{cannot}; {device}"));
        return finding(subject, Verdict::Note, detail);
    };
    let device = device.map(|device| format!("; {device}")).unwrap_or_default();
    let shown = format!("{own} bytes for a commit of {payload}{device}");
    if own > FOLIO_BYTES {
        let why =
            "pages are written in large pieces (folios), which wears the disk and makes each flush slow";
        finding(subject, Verdict::Fail, format!("{shown}: {why}"))
    } else if own > 3 * payload + 8192 {
        finding(subject, Verdict::Note, format!("{shown}: more than three times as much and two pages"))
    } else {
        finding(subject, Verdict::Pass, shown)
    }
}

/// Sixteen pages for one record are no accident of a journal any more.
const FOLIO_BYTES: u64 = 64 << 10;

fn room(room: &Room, promise: &Promise) -> Finding {
    let marks = &promise.watermarks;
    let Room { free, rate } = room;
    let to_full = rate.and_then(|rate| rate.time_for(*free));
    let state = DiskState::of(*free, to_full.map(|time| time.as_secs()), marks);
    let verdict = match state {
        DiskState::Ample => Verdict::Pass,
        DiskState::Low => Verdict::Note,
        DiskState::Scarce | DiskState::Full => Verdict::Fail,
    };
    let name = state.name();
    let mut detail = format!("{} free, which is {name}", bytes_shown(*free));
    match rate {
        None => detail.push_str("; no log is here for long enough to say for how long"),
        Some(rate) => {
            let until = |mark: u64| match rate.time_for(free.saturating_sub(mark)) {
                None => "never".to_owned(),
                Some(time) => span_shown(time),
            };
            detail.push_str(&format!(
                "; at {} a second, the rate of the last {}, low in {}, scarce in {}, full in {}",
                bytes_shown(rate.per_second()),
                span_shown(rate.over),
                until(marks.low_bytes),
                until(marks.scarce_bytes),
                until(marks.full_bytes),
            ));
        }
    }
    finding("room", verdict, detail)
}

fn signing(signing: &Signing, promise: &Promise) -> Finding {
    let subject = "signing";
    match signing {
        Signing::NotMeasured => {
            finding(subject, Verdict::Note, "not measured: --config FILE says which key signs checkpoints")
        }
        Signing::Fails(cause) => {
            finding(subject, Verdict::Fail, format!("checkpoints cannot be signed: {cause}"))
        }
        Signing::Signs(times) => {
            let interval = promise.checkpoint_interval;
            let rate = 1.0 / times.median.as_secs_f64().max(1e-9);
            let shown = format!("{rate:.0} signatures a second; {}", shown(times));
            if times.median > interval {
                let seconds = interval.as_secs_f64();
                finding(
                    subject,
                    Verdict::Fail,
                    format!("{shown}: too slow for a checkpoint every {seconds} s"),
                )
            } else if times.worst > interval {
                finding(subject, Verdict::Note, format!("{shown}: some checkpoints come late"))
            } else {
                finding(subject, Verdict::Pass, shown)
            }
        }
    }
}

fn clock(clocks: &Clocks) -> Finding {
    let subject = "clock";
    let by = match clocks.synchronised {
        Some(true) => "systemd-timesyncd has set it",
        Some(false) => "systemd-timesyncd has not set it yet",
        None => "whether something sets it cannot be read here",
    };
    if clocks.wall_s < UNSET_S {
        return finding(subject, Verdict::Fail, format!("the wall clock is not set; {by}"));
    }
    let (verdict, step) = if clocks.step > STEP_MAX {
        (Verdict::Note, format!("the wall clock moved by {} ms while this ran", clocks.step.as_millis()))
    } else {
        (Verdict::Pass, "the wall clock did not jump while this ran".to_owned())
    };
    let verdict = if clocks.synchronised == Some(false) { Verdict::Note } else { verdict };
    finding(subject, verdict, format!("{step}; {by}"))
}

/// Before 2026 this program was not there.
const UNSET_S: u64 = 1_767_225_600;

/// More than two clocks drift apart in seconds.
const STEP_MAX: Duration = Duration::from_millis(50);

pub(super) fn shown(times: &Latency) -> String {
    let Latency { median, worst, count } = times;
    format!("median {}, worst {} of {count}", micros(*median), micros(*worst))
}

/// With a tenth of a microsecond below ten.
pub(super) fn micros(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    if micros < 10.0 { format!("{micros:.1} us") } else { format!("{micros:.0} us") }
}

fn span_shown(time: Duration) -> String {
    let hours = time.as_secs_f64() / 3600.0;
    match time.as_secs() {
        ..3_600 => format!("{} min", time.as_secs() / 60),
        3_600..=345_600 => format!("{hours:.1} h"),
        345_601..=315_360_000 => format!("{:.0} days", hours / 24.0),
        _ => "over ten years".to_owned(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn bytes_shown(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} bytes") } else { format!("{value:.1} {}", units[unit]) }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<4}  {:<11}  {}", self.verdict.name(), self.subject, self.detail)
    }
}
