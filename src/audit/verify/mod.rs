//! Verification: recompute everything from the stored bytes and name every break.
//!
//! Needs no running log, no HSM, and never writes. Segments are checked in parallel, each by itself
//! (`segment.rs`); then they are joined in order (`join.rs`): links between segments, tree heads, signatures.

mod anchors;
mod buffer;
mod erasures;
mod join;
mod part;
mod segment;
mod trusted;

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::Path,
    sync::{Condvar, Mutex, PoisonError},
};

pub use anchors::{Anchor, AnchorVerdict};
use buffer::{SegmentBuffer, read_segment};
use erasures::look_at;
use join::Join;
pub(super) use part::verify_part;
use segment::{Ending, Scan, Window, scan};
pub use trusted::Trusted;

use super::{
    cosignature::WitnessKey,
    error::AuditError,
    folder::{SegmentFile, segment_name},
    note::CheckpointKey,
    real::list_segments,
    record::{HEADER_BYTES, Hash, Header},
    recover::FIRST_SEGMENT,
    sealer::CHECKPOINT_FILE,
    walk::{Depth, Walk, or_partly_erased},
};

/// How to verify.
#[derive(Debug, Clone)]
pub struct Options {
    /// The name the log must have; `None` accepts the one it states.
    pub origin: Option<String>,
    /// What to recompute.
    pub mode: Mode,
    /// Keys that may have signed checkpoints. Empty: signatures cannot be checked, which is reported as
    /// [`Class::Unsigned`] unless `allow_unsigned`.
    pub keys: Vec<CheckpointKey>,
    /// Whether a log without any checkpoint, or without keys to check them, may pass.
    pub allow_unsigned: bool,
    /// The oldest an unsigned tail may be, in nanoseconds before `now_ns`.
    pub unsigned_age_ns_max: u64,
    /// The wall clock, for the age of the unsigned tail; 0 to measure it against the log's last record.
    pub now_ns: u64,
    /// Records from here on are not looked at: the size of a running log.
    pub upto: Option<u64>,
    /// Continue behind this state, which an earlier run established.
    pub since: Option<Trusted>,
    /// Checkpoints kept elsewhere, each of which the log must continue.
    pub anchors: Vec<Anchor>,
    /// Witnesses whose cosignatures count. With any, each anchor needs the cosignature of one of them.
    pub witnesses: Vec<WitnessKey>,
    /// Threads to use; 0 for one per core.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            origin: None,
            mode: Mode::Full,
            keys: Vec::new(),
            allow_unsigned: false,
            unsigned_age_ns_max: u64::MAX,
            now_ns: 0,
            upto: None,
            since: None,
            anchors: Vec::new(),
            witnesses: Vec::new(),
            threads: 0,
        }
    }
}

impl Options {
    /// The first record that is looked at, as far as it was said.
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        match (self.mode, &self.since) {
            (Mode::Range { from, .. }, _) => from,
            (Mode::Full | Mode::Quick, Some(since)) => since.size,
            (Mode::Full | Mode::Quick, None) => 0,
        }
    }
}

/// What is recomputed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Headers, links, checksums, bodies, tree heads, signatures.
    Full,
    /// As full, but bodies are not hashed: their checksums stand for them.
    Quick,
    /// As full, for the segments that hold these records; tree heads are not recomputed.
    Range {
        /// First record wanted.
        from: u64,
        /// First record no longer wanted.
        to: u64,
    },
}

impl Mode {
    /// The stable names.
    pub const NAMES: [&str; 3] = ["full", "quick", "range"];

    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Quick => "quick",
            Self::Range { .. } => "range",
        }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The log's name; empty when no segment could be read.
    pub origin: String,
    /// Segments looked at.
    pub segments: u64,
    /// Records whose hash was recomputed.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Records in the log.
    pub size: u64,
    /// Event hash of the last record.
    pub head: Option<Hash>,
    /// Tree head over all records, where it was recomputed.
    pub root: Option<Hash>,
    /// Checkpoints whose signature and tree head were checked.
    pub checkpoints: u64,
    /// Records the latest of them covers.
    pub signed_size: u64,
    /// What became of each of [`Options::anchors`], in their order.
    pub anchors: Vec<AnchorVerdict>,
    /// Records whose body an authority had dropped, by an ERASE that is in effect.
    pub redacted: u64,
    /// Every break, in the order of the log. Empty means the log is whole.
    pub breaks: Vec<Break>,
    /// What is worth knowing and no break.
    pub notices: Vec<Break>,
    /// Where a later verification may start.
    pub trusted: Option<Trusted>,
}

impl Report {
    /// 0 for a whole log, else the code of the first break's class.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.breaks.first().map_or(0, |first| first.class.exit_code())
    }
}

/// One place where the log is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Break {
    /// What kind of break.
    pub class: Class,
    /// The segment.
    pub segment: u64,
    /// Byte offset in the segment.
    pub offset: u64,
    /// First record concerned.
    pub seq: u64,
    /// Records concerned; 0 where none is.
    pub records: u64,
    /// What was found and what was expected, in words.
    pub detail: String,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { class, segment, offset, seq, records, detail } = self;
        write!(f, "{class} at record {seq}")?;
        if *records > 1 {
            write!(f, " and {} more", records - 1)?;
        }
        if *segment == 0 {
            // About the log as a whole.
            return write!(f, ": {detail}");
        }
        write!(f, " (segment {}, offset {offset}): {detail}", segment_name(*segment))
    }
}

/// Declares the classes once: variant, name, exit code, meaning.
macro_rules! classes {
    ($($(#[doc = $meaning:literal])+ $variant:ident = $name:literal, $code:literal;)+) => {
        /// The kinds of breaks. Names and exit codes are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Class {
            $($(#[doc = $meaning])+ $variant,)+
        }

        impl Class {
            /// Every class.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What `edgate audit verify` exits with when this is the first break. 2 means it could not run.
            #[must_use]
            pub const fn exit_code(self) -> u8 {
                match self { $(Self::$variant => $code,)+ }
            }
        }
    };
}

classes! {
    /// A stored body, or the bytes behind it, are not what the header commits to.
    AlteredBody = "altered-body", 1;
    /// A header is not what its neighbour commits to, or what stands there is no record.
    AlteredHeader = "altered-header", 1;
    /// Records are missing between two that are there.
    Deleted = "deleted", 3;
    /// A record stands where another belongs.
    Inserted = "inserted", 4;
    /// Records stand in another order.
    Reordered = "reordered", 5;
    /// A record is repeated.
    Duplicate = "duplicate", 6;
    /// A segment is missing.
    MissingSegment = "missing-segment", 7;
    /// Bytes of a crash behind the last record: never acknowledged. A notice, until recovery has dealt with them.
    TornUnacknowledged = "torn-unacknowledged", 8;
    /// A signature does not verify, or is missing.
    BadSignature = "bad-signature", 9;
    /// A checkpoint is signed by a key that is not ours.
    WrongKey = "wrong-key", 10;
    /// A segment or checkpoint belongs to another log.
    WrongOrigin = "wrong-origin", 11;
    /// Nothing is signed, or the tail is unsigned for longer than allowed.
    Unsigned = "unsigned", 12;
    /// A segment that should end with a seal does not.
    Unsealed = "unsealed", 13;
    /// The records do not hash to what was signed: the log was rewritten.
    Rewritten = "rewritten", 14;
    /// The log is shorter than what was signed.
    Truncated = "truncated", 15;
    /// An operator set a damaged log aside, and this one is its successor. A notice: this log is whole.
    SetAside = "set-aside", 16;
    /// An anchor could not be compared with the log.
    Unchecked = "unchecked", 17;
    /// An anchor is no checkpoint.
    Malformed = "malformed", 23;
    /// The log is shorter than, or another than, what an anchor says of it.
    Rollback = "rollback", 25;
    /// An ERASE names a record that it cannot erase, or another digest than that record's.
    BadErase = "bad-erase", 19;
    /// An ERASE whose record still has its body, or had no effect. A notice: nothing is lost that should be there.
    ErasePending = "erase-pending", 29;
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How far a verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Bytes checked.
    pub bytes: u64,
    /// Bytes there are.
    pub bytes_total: u64,
}

/// Verifies the log in `dir`, calling `progress` after each segment.
///
/// # Errors
/// Only when the folder cannot be read or holds no log; breaks are in the report.
pub fn verify_dir(
    dir: &Path,
    options: &Options,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<Report, AuditError> {
    let note = || published_note(dir).map_err(|error| AuditError::io("read the checkpoint of", dir, error));
    let before = note()?;
    let (report, unexplained) = verify_once(dir, options, progress)?;
    // A running log may have erased a body behind us, and said so in a part that we had read already; before it did it
    // published a checkpoint. Then its word stands there now.
    if unexplained && options.upto.is_none() && note()? != before {
        return verify_once(dir, options, progress).map(|(report, _)| report);
    }
    Ok(report)
}

fn verify_once(
    dir: &Path,
    options: &Options,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<(Report, bool), AuditError> {
    let io = |what| move |source: io::Error| AuditError::io(what, dir, source);
    let mut files = list_segments(dir).map_err(io("list the segments of"))?;
    if files.is_empty() {
        return Err(AuditError::NotFound { path: dir.to_owned() });
    }
    let listed = files.clone();
    let (mut cut_before, mut other_before) = (None, None);
    if let Some(trusted) = &options.since {
        // What was verified is not read again, but it must still be there.
        let before = trusted.segment.saturating_sub(1);
        if before >= FIRST_SEGMENT && files.iter().all(|file| file.index != before) {
            cut_before = Some(before);
        }
        files.retain(|file| file.index >= trusted.segment);
        // A segment that follows says what it continues. Where none does, the last one verified is looked at again.
        if files.is_empty() && cut_before.is_none() && before >= FIRST_SEGMENT {
            let same = ends_as(dir, before, trusted).map_err(io("read a segment of"))?;
            other_before = (!same).then_some(before);
        }
    }
    if let Mode::Range { from, to } = options.mode {
        let first_seqs = files
            .iter()
            .map(|file| first_seq(dir, file.index))
            .collect::<io::Result<Vec<_>>>()
            .map_err(io("read a segment of"))?;
        // A segment holds wanted records if it starts before `to` and the next one starts behind `from`.
        let written = first_seqs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        let wanted = |at: usize| {
            at < written
                && first_seqs[at].is_none_or(|first| first < to)
                && first_seqs.get(at + 1).copied().flatten().is_none_or(|next| next > from)
        };
        files = (0..files.len()).filter(|at| wanted(*at)).map(|at| files[at]).collect();
    }
    let bytes_total = files.iter().map(|file| file.bytes).sum();
    let published = published_note(dir).map_err(io("read the checkpoint of"))?;
    // The scans keep the tree also where the published checkpoint names its size, whatever record stands there now.
    let published_at = published.iter().map(|note| Anchor { name: String::new(), note: note.clone() });
    let scanned =
        Options { anchors: options.anchors.iter().cloned().chain(published_at).collect(), ..options.clone() };
    let mut join = Join::new(options, &files, published);
    if let Some(segment) = cut_before {
        join.missing_before(segment);
    }
    if let Some(segment) = other_before {
        join.other_before(segment);
    }
    let mut bytes = 0;
    let mut look = |files: &[SegmentFile], join: &mut Join<'_>| {
        scan_in_order(dir, &scanned, (files, &listed), |scan| {
            bytes += scan.file_bytes;
            join.add(scan);
            progress(VerifyProgress { bytes, bytes_total });
        })
        .map_err(io("read a segment of"))
    };
    look(&files, &mut join)?;
    if let (Mode::Range { .. }, Some(last)) = (options.mode, files.last()) {
        // What explains an erased body stands behind it.
        let behind = listed.iter().skip_while(|file| file.index <= last.index);
        for file in behind {
            if !join.erasures.is_unexplained() {
                break;
            }
            look(std::slice::from_ref(file), &mut join)?;
        }
    }
    let looked = look_at(dir, &join.erasures.wanted()).map_err(io("read a segment of"))?;
    Ok(join.finish(&looked))
}

/// The note that was published beside the log, if there is one. Bytes that are no text are none of ours either; they
/// stay visible as such, so that the note does not verify rather than seem absent.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn published_note(dir: &Path) -> io::Result<Option<String>> {
    note_in(&dir.join(CHECKPOINT_FILE))
}

/// The note in this file, as [`published_note`].
pub(super) fn note_in(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Scans segments on several threads and hands the results over in order. At most a few segments are ahead of the
/// join, so that memory stays bounded. `listed` are all there are.
fn scan_in_order(
    dir: &Path,
    options: &Options,
    (files, listed): (&[SegmentFile], &[SegmentFile]),
    mut take: impl FnMut(Scan),
) -> io::Result<()> {
    struct Work {
        next: usize,
        joined: usize,
        done: Vec<Option<io::Result<Scan>>>,
    }
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
    .min(files.len());
    let work = Mutex::new(Work { next: 0, joined: 0, done: files.iter().map(|_| None).collect() });
    let changed = Condvar::new();
    let lock = || work.lock().unwrap_or_else(PoisonError::into_inner);
    let worker = || {
        let mut window = Window::new(WINDOW_BYTES);
        let mut buffer = SegmentBuffer::default();
        loop {
            let at = {
                let mut work = lock();
                while work.next < files.len() && work.next >= work.joined + threads * AHEAD {
                    work = changed.wait(work).unwrap_or_else(PoisonError::into_inner);
                }
                if work.next >= files.len() {
                    return;
                }
                work.next += 1;
                work.next - 1
            };
            let ending = || match listed.iter().find(|next| next.index > files[at].index) {
                Some(next) => ending_before(dir, next.index),
                None => Ok(Ending::Last),
            };
            let scanned = scan_file(dir, &files[at], options, ending, &mut window, &mut buffer);
            lock().done[at] = Some(scanned);
            changed.notify_all();
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(worker);
        }
        for at in 0..files.len() {
            let scanned = {
                let mut work = lock();
                loop {
                    if let Some(scanned) = work.done[at].take() {
                        work.joined = at + 1;
                        if scanned.is_err() {
                            work.next = files.len();
                        }
                        break scanned;
                    }
                    work = changed.wait(work).unwrap_or_else(PoisonError::into_inner);
                }
            };
            changed.notify_all();
            take(scanned?);
        }
        Ok(())
    })
}

/// Scans a segment through `window`, or, where something is wrong, all of it in `buffer`.
fn scan_file(
    dir: &Path,
    file: &SegmentFile,
    options: &Options,
    ending: impl Fn() -> io::Result<Ending>,
    window: &mut Window,
    buffer: &mut SegmentBuffer,
) -> io::Result<Scan> {
    let opened = File::open(dir.join(segment_name(file.index)))?;
    if let Some(scan) = window.scan(file, &opened, options, &ending)? {
        return Ok(scan);
    }
    read_segment(dir, file.index, buffer)?;
    let ending = ending()?;
    Ok(scan(file, buffer.bytes(), options, ending))
}

/// Whether the last record of a segment is still the one that was verified.
fn ends_as(dir: &Path, index: u64, trusted: &Trusted) -> io::Result<bool> {
    let mut buffer = SegmentBuffer::default();
    read_segment(dir, index, &mut buffer)?;
    let mut walk = Walk::new(buffer.bytes(), Depth::Bodies);
    let (mut offset, mut last) = (0, None);
    while let Ok(record) = or_partly_erased(walk.read(offset), buffer.bytes(), offset) {
        offset = record.next;
        last = Some((record.header.seq + 1, record.hash));
    }
    Ok(last == Some((trusted.size, trusted.hash)))
}

/// How a segment ended, as the next one says.
fn ending_before(dir: &Path, next: u64) -> io::Result<Ending> {
    let mut start = Vec::with_capacity(OPEN_BYTES);
    File::open(dir.join(segment_name(next)))?.take(OPEN_BYTES as u64).read_to_end(&mut start)?;
    if start.iter().all(|byte| *byte == 0) {
        // Made ahead and not yet written to; those after it are no further.
        return Ok(Ending::Last);
    }
    Ok(Ending::stated_by(&start))
}

/// The `seq` of a segment's first record, if it can be read.
pub(super) fn first_seq(dir: &Path, index: u64) -> io::Result<Option<u64>> {
    Ok(first_header(dir, index)?.map(|header| header.seq))
}

/// The header of a segment's first record, if it can be read.
pub(super) fn first_header(dir: &Path, index: u64) -> io::Result<Option<Header>> {
    let mut header = [0; HEADER_BYTES];
    let mut file = File::open(dir.join(segment_name(index)))?;
    match file.read_exact(&mut header) {
        Ok(()) => Ok(Header::parse(&header).ok()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// More than a SEGMENT_OPEN record takes.
const OPEN_BYTES: usize = 4096;

/// The part of a segment that is looked at together: it stays in the second-level cache with what is made of it.
const WINDOW_BYTES: usize = 512 << 10;

/// Segments scanned ahead of the join, per thread.
const AHEAD: usize = 2;

#[cfg(test)]
mod anchor_tests;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod tests;
