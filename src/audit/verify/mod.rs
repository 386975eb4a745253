//! Verification: recompute everything from the stored bytes and name every break.
//!
//! Needs no running log, no HSM, and never writes. Segments are checked in parallel, each by itself
//! (`segment.rs`); then they are joined in order (`join.rs`): links between segments, tree heads, signatures.

mod anchors;
mod buffer;
mod erasures;
mod files;
mod join;
mod parallel;
mod part;
mod segment;
mod trusted;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

pub use anchors::{Anchor, AnchorVerdict};
use erasures::look_at;
pub use files::published_note;
use files::{ends_as, retired_before};
pub(super) use files::{first_header, note_in};
use join::Join;
use parallel::scan_in_order;
pub(super) use part::verify_part;
pub use trusted::Trusted;

use super::{
    classes::classes,
    cosignature::WitnessKey,
    error::AuditError,
    folder::{SegmentFile, segment_name},
    note::{Checkpoint, CheckpointKey},
    record::Hash,
    recover::FIRST_SEGMENT,
    stored::Segments,
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
    /// What keys of the log signed when they gave way to the next, each of which the log must continue.
    pub handovers: Vec<Checkpoint>,
    /// Witnesses whose cosignatures count. With any, each anchor needs the cosignature of one of them.
    pub witnesses: Vec<WitnessKey>,
    /// A folder with archives of segments that the log has no longer: with them it is verified from its beginning.
    pub archives: Option<PathBuf>,
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
            handovers: Vec::new(),
            witnesses: Vec::new(),
            archives: None,
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

    /// Whether the log is looked at from its beginning, or from where an earlier verification came.
    const fn is_whole(self) -> bool {
        !matches!(self, Self::Range { .. })
    }

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

classes! {
    /// The kinds of breaks. Names and exit codes are stable.
    pub enum Class {
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
        /// A signature does not verify.
        BadSignature = "bad-signature", 9;
        /// A checkpoint is signed by a key that is not ours.
        WrongKey = "wrong-key", 10;
        /// A segment or checkpoint belongs to another log.
        WrongOrigin = "wrong-origin", 11;
        /// A checkpoint has no signature, nothing is signed, or the tail is unsigned for longer than allowed.
        Unsigned = "unsigned", 12;
        /// A segment that should end with a seal does not.
        Unsealed = "unsealed", 13;
        /// The records do not hash to what was signed: the log was rewritten.
        Rewritten = "rewritten", 14;
        /// The log is shorter than what was signed.
        Truncated = "truncated", 15;
        /// An operator set a damaged log aside, and this one is its successor. A notice: this log is whole.
        SetAside = "set-aside", 16;
        /// An authority had the segments before these removed, on record. A notice: what is left is whole, and continues them.
        Retired = "retired", 18;
        /// An anchor could not be compared with the log.
        Unchecked = "unchecked", 17;
        /// What should be a checkpoint is none.
        Malformed = "malformed", 23;
        /// The log is shorter than, or another than, what an anchor says of it.
        Rollback = "rollback", 25;
        /// An ERASE names a record that it cannot erase, or another digest than that record's.
        BadErase = "bad-erase", 19;
        /// An ERASE whose record still has its body, or had no effect. A notice: nothing is lost that should be there.
        ErasePending = "erase-pending", 29;
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

/// Verifies the log in `dir`, calling `progress` after each segment. Begins again where segments are retired meanwhile.
///
/// # Errors
/// Only when the folder cannot be read or holds no log; breaks are in the report.
pub fn verify_dir(
    dir: &Path,
    options: &Options,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<Report, AuditError> {
    let note = || published_note(dir).map_err(|error| AuditError::io("read the checkpoint of", dir, error));
    let mut begun = 1;
    loop {
        let before = note()?;
        match verify_once(dir, options, progress) {
            Err(AuditError::Io { source, .. })
                if source.kind() == io::ErrorKind::NotFound && begun < BEGUN_MAX => {}
            // A running log may have erased a body behind us, and said so in a part that we had read already; before it did
            // it published a checkpoint. Then its word stands there now.
            Ok((_, true)) if options.upto.is_none() && begun < BEGUN_MAX && note()? != before => {}
            verified => return verified.map(|(report, _)| report),
        }
        begun += 1;
    }
}

/// Verifies the segments that are there now; says too whether a body is zeros that nothing explains.
fn verify_once(
    dir: &Path,
    options: &Options,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<(Report, bool), AuditError> {
    let io = |what| move |source: io::Error| AuditError::io(what, dir, source);
    let segments = Segments { dir, elsewhere: options.archives.as_deref() };
    let mut files = segments.list().map_err(io("list the segments of"))?;
    if files.is_empty() {
        return Err(AuditError::NotFound { path: dir.to_owned() });
    }
    let listed = files.clone();
    let (mut cut_before, mut other_before) = (None, None);
    let retired = retired_before(segments, &files, options).map_err(io("read a segment of"))?;
    if let Some(trusted) = &options.since
        && retired.is_none()
    {
        // What was verified is not read again, but it must still be there.
        let before = trusted.segment.saturating_sub(1);
        if before >= FIRST_SEGMENT && files.iter().all(|file| file.index != before) {
            cut_before = Some(before);
        }
        files.retain(|file| file.index >= trusted.segment);
        // A segment that follows says what it continues. Where none does, the last one verified is looked at again.
        if files.is_empty() && cut_before.is_none() && before >= FIRST_SEGMENT {
            let same = ends_as(segments, before, trusted).map_err(io("read a segment of"))?;
            other_before = (!same).then_some(before);
        }
    }
    if let Mode::Range { from, to } = options.mode {
        let first_seqs = files
            .iter()
            .map(|file| segments.first_seq(file.index))
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
    if let (Some(retired), Some(trusted)) = (&retired, &options.since)
        && trusted.segment == retired.segment + 1
        && (trusted.size, &trusted.hash, &trusted.tree) != (retired.size, &retired.hash, &retired.tree)
    {
        other_before = Some(retired.segment);
    }
    if let Some(retired) = retired {
        join.begin_behind(retired);
    }
    if let Some(segment) = cut_before {
        join.missing_before(segment);
    }
    if let Some(segment) = other_before {
        join.other_before(segment);
    }
    let mut bytes = 0;
    let mut look = |files: &[SegmentFile], join: &mut Join<'_>| {
        let mut stored = files.iter();
        scan_in_order(segments, &scanned, (files, &listed), |scan| {
            bytes += stored.next().map_or(0, |file| file.bytes);
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
    let looked = look_at(segments, &join.erasures.wanted()).map_err(io("read a segment of"))?;
    Ok(join.finish(&looked))
}

/// How often a verification is begun: retention removes segments once in hours.
const BEGUN_MAX: u32 = 3;

#[cfg(test)]
mod anchor_tests;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod tests;
