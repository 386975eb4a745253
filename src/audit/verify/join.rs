//! The segments in order: links between them, tree heads, signatures, and how the log ends.

mod outside;

use std::collections::{HashMap, VecDeque};

use super::{
    Break, Class, Mode, Options, Report, Trusted,
    erasures::{Erasures, Target},
    segment::{FoundCheckpoint, Scan},
};
use crate::audit::{
    folder::SegmentFile,
    merkle::CompactRange,
    note::Checkpoint,
    record::Hash,
    recover::FIRST_SEGMENT,
    retire::Retired,
    walk::{PrevEnd, SegmentOpen, genesis_hash},
    writer::Head,
};

/// The state of the join, between two segments.
pub(super) struct Join<'a> {
    options: &'a Options,
    report: Report,
    log: Option<SegmentOpen>,
    // The segment before the next one.
    last: Option<Ended>,
    expected_index: u64,
    // The tree over everything so far; `None` where it cannot be known.
    tree: Option<CompactRange>,
    // The tree before the last segment, and its trees at its last commits: for checkpoints that stand behind a roll.
    previous: Option<(CompactRange, VecDeque<CompactRange>)>,
    // The state before the last segment: where a later verification of a log that still grows starts.
    before_last: Option<Trusted>,
    // The tree heads at the sizes that anchors and the published checkpoint name, as far as they were recomputed.
    anchor_roots: HashMap<u64, Hash>,
    signed_wall_ns: u64,
    last_wall_ns: u64,
    stopped: bool,
    // The latest checkpoint that was published beside the log.
    published: Option<String>,
    pub(super) erasures: Erasures,
    // The statement that everything before the first segment was retired.
    retired: Option<Retired>,
}

/// How a segment ended.
struct Ended {
    index: u64,
    end: Option<Head>,
    ended: PrevEnd,
    sealed: bool,
    closed: bool,
    finished: bool,
    durable_size: u64,
    tail_cause: Option<String>,
}

impl<'a> Join<'a> {
    /// `published` is the checkpoint beside the log, if there is one.
    pub(super) fn new(options: &'a Options, files: &[SegmentFile], published: Option<String>) -> Self {
        let whole = !matches!(options.mode, Mode::Range { .. });
        let (expected_index, tree, last) = match &options.since {
            Some(trusted) => (trusted.segment, Some(trusted.tree.clone()), None),
            None if whole => (FIRST_SEGMENT, Some(CompactRange::new(0)), None),
            None => (files.first().map_or(FIRST_SEGMENT, |file| file.index), None, None),
        };
        Self {
            options,
            report: Report {
                origin: String::new(),
                segments: 0,
                records: 0,
                bytes: 0,
                size: options.since.as_ref().map_or(0, |trusted| trusted.size),
                head: options.since.as_ref().map(|trusted| trusted.hash),
                root: None,
                checkpoints: 0,
                signed_size: 0,
                anchors: Vec::new(),
                redacted: 0,
                breaks: Vec::new(),
                notices: Vec::new(),
                trusted: None,
            },
            log: None,
            last,
            expected_index,
            anchor_roots: tree.iter().filter_map(|tree| Some((tree.end(), tree.root()?))).collect(),
            tree,
            previous: None,
            before_last: options.since.clone(),
            signed_wall_ns: 0,
            last_wall_ns: 0,
            stopped: false,
            published,
            erasures: Erasures::default(),
            retired: None,
        }
    }

    /// Begins behind segments that an authority had removed. The statement is believed for now: it is a record of the log, and
    /// at the end a signed checkpoint has to cover it.
    pub(super) fn begin_behind(&mut self, retired: Retired) {
        self.expected_index = retired.segment + 1;
        self.report.size = retired.size;
        self.report.head = Some(retired.hash);
        self.anchor_roots.extend(retired.tree.root().map(|root| (retired.size, root)));
        self.tree = Some(retired.tree.clone());
        self.retired = Some(retired);
    }

    /// The segment before those looked at is gone, though an earlier verification saw it.
    pub(super) fn missing_before(&mut self, segment: u64) {
        let detail = format!("segment {segment} was verified before and is not there any more");
        self.broken(Class::MissingSegment, segment, 0, self.report.size.saturating_sub(1), 1, detail);
    }

    /// The segment before those looked at does not end as an earlier verification saw it.
    pub(super) fn other_before(&mut self, segment: u64) {
        let seq = self.report.size.saturating_sub(1);
        let detail = format!("record {seq} is not the one that was verified before");
        self.broken(Class::Rewritten, segment, 0, seq, 1, detail);
    }

    /// Adds the next segment.
    pub(super) fn add(&mut self, scan: Scan) {
        if self.stopped {
            return;
        }
        self.report.bytes += scan.file_bytes;
        self.report.records += scan.records;
        let adjacent = scan.index == self.expected_index;
        if !adjacent {
            let (size, first) = (self.report.size, scan.first.map_or(0, |(seq, _)| seq));
            let missing = scan.index - self.expected_index;
            let detail = format!("{missing} segment(s) before segment {} are not there", scan.index);
            let records = first.saturating_sub(size);
            self.broken(Class::MissingSegment, self.expected_index, 0, size, records, detail);
            self.tree = None;
        }
        self.expected_index = scan.index + 1;
        if scan.first.is_none() && scan.ended.tail_bytes == 0 {
            // Made ahead, not yet written: it neither continues nor ends anything.
            return;
        }
        self.report.segments += 1;
        if let (Some(log), Some(hash), Some(tree), true) =
            (&self.log, self.report.head, &self.tree, self.report.breaks.is_empty())
        {
            let (origin, size) = (log.origin.clone(), self.report.size);
            self.before_last = Some(Trusted { origin, segment: scan.index, size, hash, tree: tree.clone() });
        }
        self.check_open(&scan);
        // A first record that could not be read was reported by the scan: its link is part of that break.
        let first_is_damaged = scan.breaks.first().is_some_and(|first| first.offset == 0);
        if adjacent && !first_is_damaged {
            self.check_link(&scan);
        }
        if first_is_damaged {
            self.tree = None;
        }
        let mut scan = scan;
        let breaks = std::mem::take(&mut scan.breaks);
        self.report.breaks.extend(breaks);
        for (offset, seq, decision) in std::mem::take(&mut scan.decisions) {
            self.notice(Class::SetAside, scan.index, offset, seq, decision);
        }
        self.erasures.in_effect.open(scan.open.as_ref().map(|open| open.boot));
        self.erasures.add(scan.index, &scan.erased, std::mem::take(&mut scan.orders));
        self.add_tree(&mut scan);
        self.last_wall_ns = self.last_wall_ns.max(scan.last_wall_ns);
        if let Some(end) = scan.end {
            self.report.size = end.size;
            self.report.head = Some(end.hash);
        }
        self.stopped = scan.stopped;
        self.last = Some(Ended {
            index: scan.index,
            end: scan.end,
            ended: scan.ended,
            sealed: scan.sealed,
            closed: scan.closed,
            finished: scan.finished,
            durable_size: scan.durable_size,
            tail_cause: scan.tail_cause.map(|flaw| flaw.to_string()),
        });
    }

    /// The segment's own statement of what it is.
    fn check_open(&mut self, scan: &Scan) {
        let seq = scan.first.map_or(self.report.size, |(seq, _)| seq);
        let Some(open) = &scan.open else {
            let detail = "the segment does not start with a readable SEGMENT_OPEN".to_owned();
            // The scan has already reported a first record that it could not read.
            if scan.breaks.is_empty() {
                self.broken(Class::AlteredHeader, scan.index, 0, seq, 1, detail);
            }
            return;
        };
        if open.segment != scan.index {
            let detail = format!("the segment calls itself {}", open.segment);
            self.broken(Class::Reordered, scan.index, 0, seq, 1, detail);
        }
        let since = self.options.since.as_ref().map(|since| since.origin.as_str());
        let wanted = self.options.origin.as_deref().or(since);
        if wanted.is_some_and(|origin| origin != open.origin) {
            let detail = format!("the segment belongs to {:?}", open.origin);
            self.broken(Class::WrongOrigin, scan.index, 0, seq, 0, detail);
        }
        match &self.log {
            Some(log) if (&log.origin, &log.log_id) != (&open.origin, &open.log_id) => {
                let detail = format!("the segment belongs to another log, {:?}", open.origin);
                self.broken(Class::WrongOrigin, scan.index, 0, seq, 0, detail);
            }
            Some(_) => {}
            None => {
                self.report.origin.clone_from(&open.origin);
                self.log = Some(open.clone());
            }
        }
    }

    /// Whether the segment continues the one before it.
    fn check_link(&mut self, scan: &Scan) {
        let Some((seq, prev_hash)) = scan.first else { return };
        let before = match (&self.last, &self.options.since, &scan.open) {
            (Some(last), _, _) => last.end,
            (None, _, _) if self.retired.is_some() => {
                self.retired.as_ref().map(|retired| Head { size: retired.size, hash: retired.hash })
            }
            (None, Some(trusted), _) => Some(Head { size: trusted.size, hash: trusted.hash }),
            (None, None, Some(open)) if scan.index == FIRST_SEGMENT => {
                Some(Head { size: 0, hash: genesis_hash(&open.origin, &open.log_id) })
            }
            (None, None, _) => None,
        };
        if let Some(before) = before {
            if seq > before.size {
                let detail = format!("record {seq} follows record {}", before.size.wrapping_sub(1));
                self.broken(Class::Deleted, scan.index, 0, before.size, seq - before.size, detail);
                self.tree = None;
            } else if seq < before.size {
                let detail = format!("record {seq} was already there");
                self.broken(Class::Inserted, scan.index, 0, seq, before.size - seq, detail);
                self.tree = None;
            } else if prev_hash != before.hash {
                let detail = "the next segment does not continue it".to_owned();
                let segment = self.last.as_ref().map_or(scan.index, |last| last.index);
                let offset = self.last.as_ref().map_or(0, |last| last.ended.end);
                self.broken(Class::AlteredHeader, segment, offset, seq.saturating_sub(1), 1, detail);
            }
        }
        self.check_end(scan);
    }

    /// Whether the segment before ended as this one says.
    fn check_end(&mut self, scan: &Scan) {
        let (Some(last), Some(open)) = (&self.last, &scan.open) else { return };
        let seq = last.end.map_or(0, |end| end.size);
        let (index, end) = (last.index, last.ended.end);
        let Some(stated) = open.prev else {
            let detail = "SEGMENT_OPEN does not say how the segment before it ended".to_owned();
            self.broken(Class::AlteredHeader, scan.index, 0, seq, 1, detail);
            return;
        };
        let tail_fits = stated.tail_bytes == last.ended.tail_bytes
            && (stated.tail_bytes == 0 || stated.tail_digest == last.ended.tail_digest);
        if stated.end != last.ended.end || !tail_fits {
            let cause = last.tail_cause.clone().unwrap_or_else(|| "another end".to_owned());
            let detail = format!("the segment ended at offset {}, not at {end}: {cause}", stated.end);
            self.broken(Class::AlteredHeader, index, end, seq, 1, detail);
        } else if stated.tail_bytes > 0 {
            let detail = format!("{} torn bytes were set aside by recovery", stated.tail_bytes);
            self.notice(Class::TornUnacknowledged, index, end, seq, detail);
        }
    }

    /// Adds the segment's leaves to the tree and checks its checkpoints.
    fn add_tree(&mut self, scan: &mut Scan) {
        let before = self.tree.clone();
        for checkpoint in scan.checkpoints.drain(..) {
            let tree = match (&before, &checkpoint.tree) {
                (Some(before), Some(part)) => joined(before, part),
                (Some(before), None) if before.end() == checkpoint.size => Some(before.clone()),
                _ => self.recent_tree(checkpoint.size),
            };
            self.check_checkpoint(&checkpoint, tree.as_ref(), scan.index);
        }
        for part in scan.anchor_trees.drain(..) {
            let tree = before.as_ref().and_then(|before| joined(before, &part));
            self.anchor_roots.extend(tree.and_then(|tree| Some((tree.end(), tree.root()?))));
        }
        self.previous = before.clone().zip(Some(std::mem::take(&mut scan.commit_trees)));
        self.tree = match (before, &scan.tree) {
            (Some(mut tree), Some(part)) => tree.merge(part).then_some(tree),
            _ => None,
        };
    }

    fn check_checkpoint(&mut self, found: &FoundCheckpoint, tree: Option<&CompactRange>, segment: u64) {
        let FoundCheckpoint { seq, offset, size, root, note, wall_ns, frontier, .. } = found;
        let place = (segment, *offset, *seq);
        let signed = if self.options.keys.is_empty() {
            Checkpoint::read_unverified(note)
        } else {
            Checkpoint::open(note, &self.options.keys)
        };
        let signed = match signed {
            Ok(signed) => signed,
            Err(error) => {
                self.broken(error.into(), place.0, place.1, place.2, 1, error.to_string());
                return;
            }
        };
        let origin = self.log.as_ref().map(|log| log.origin.as_str());
        if origin.is_some_and(|origin| origin != signed.origin) {
            let detail = format!("the checkpoint is of {:?}", signed.origin);
            self.broken(Class::WrongOrigin, place.0, place.1, place.2, 1, detail);
            return;
        }
        let stated = frontier.as_ref().and_then(CompactRange::root);
        if (signed.size, &signed.root) != (*size, root) || stated != Some(*root) {
            let detail = "the record and the note it holds differ".to_owned();
            self.broken(Class::AlteredBody, place.0, place.1, place.2, 1, detail);
            return;
        }
        // Without a tree to compare with (a range, or a state too far back) the next checkpoint has to vouch; but what was
        // erased since was signed for.
        let Some(computed) = tree.and_then(CompactRange::root) else {
            self.erasures.in_effect.checkpoint(*seq, *size);
            return;
        };
        if computed != *root {
            if self.report.breaks.iter().all(|earlier| earlier.seq >= *size) {
                let detail = format!("the first {size} records do not hash to the signed tree head");
                self.broken(Class::Rewritten, place.0, place.1, place.2, 1, detail);
            }
            return;
        }
        self.report.checkpoints += 1;
        self.erasures.in_effect.checkpoint(*seq, *size);
        if *size > self.report.signed_size {
            self.report.signed_size = *size;
            self.signed_wall_ns = *wall_ns;
        }
    }

    /// Judges the erasures, and how the log ends. `looked` holds the records that ERASEs name and that were not erased. Says
    /// also whether a body is zeros that nothing explains.
    pub(super) fn finish(mut self, looked: &HashMap<u64, Target>) -> (Report, bool) {
        self.check_last();
        self.check_anchors();
        self.check_handovers();
        self.check_published();
        let since = self.options.since.as_ref().map_or(0, |trusted| trusted.size);
        let judged = std::mem::take(&mut self.erasures).judge(looked, since);
        self.report.redacted = judged.redacted;
        self.report.breaks.extend(judged.breaks);
        self.report.notices.extend(judged.notices);
        self.check_signed();
        self.check_retired();
        let Self { mut report, tree, last, log, before_last, .. } = self;
        report.root = tree.as_ref().and_then(CompactRange::root);
        report.breaks.sort_by_key(|found| (found.seq, found.segment, found.offset));
        if report.breaks.is_empty() {
            report.trusted = match (last, tree, report.head, log) {
                (Some(last), Some(tree), Some(hash), Some(log)) if last.sealed => {
                    let (origin, size) = (log.origin, report.size);
                    Some(Trusted { origin, segment: last.index + 1, size, hash, tree })
                }
                _ => before_last,
            };
        }
        (report, judged.unexplained)
    }

    fn check_last(&mut self) {
        let Some(last) = &self.last else { return };
        if self.stopped || matches!(self.options.mode, Mode::Range { .. }) {
            return;
        }
        let seq = last.end.map_or(0, |end| end.size);
        let (index, end, tail) = (last.index, last.ended.end, last.ended.tail_bytes);
        let cause = last.tail_cause.clone().unwrap_or_default();
        if tail > 0 && !last.sealed {
            if last.closed || last.finished || seq < last.durable_size {
                self.broken(Class::AlteredHeader, index, end, seq, 1, cause);
            } else {
                let detail = format!("{tail} bytes that were never acknowledged: {cause}");
                self.notice(Class::TornUnacknowledged, index, end, seq, detail);
            }
        } else if seq < last.durable_size {
            let detail = format!("everything below record {} was durable", last.durable_size);
            self.broken(Class::Truncated, index, end, seq, last.durable_size - seq, detail);
        } else if !last.sealed {
            if last.finished || last.closed {
                let detail = "the segment was closed, but its seal is missing".to_owned();
                self.broken(Class::Unsealed, index, end, seq, 0, detail);
            } else {
                self.notice(
                    Class::Unsealed,
                    index,
                    end,
                    seq,
                    "the log is open, or was not closed".to_owned(),
                );
            }
        } else if !last.closed {
            let detail =
                format!("segment {} is missing: its predecessor was sealed but not closed", index + 1);
            self.broken(Class::MissingSegment, index + 1, 0, seq, 0, detail);
        }
    }

    /// The tree over all records below `size`, if that is one of the last commits of the segment before.
    fn recent_tree(&self, size: u64) -> Option<CompactRange> {
        let (before, commits) = self.previous.as_ref()?;
        joined(before, commits.iter().find(|part| part.end() == size)?)
    }

    /// Whether what is not there was retired by an authority, on record and under a signature.
    fn check_retired(&mut self) {
        let Some(Retired { segment, size, seq, authority, reason, .. }) = self.retired.take() else { return };
        if seq >= self.report.signed_size && !self.options.allow_unsigned {
            let detail = format!(
                "segments 1 to {segment} are not there, and no checkpoint covers the RETIRE record {seq}"
            );
            self.broken(Class::MissingSegment, segment, 0, 0, size, detail);
            return;
        }
        let words = format!("by {authority}: {reason}").escape_debug().to_string();
        let detail = format!("segments 1 to {segment}, {size} records, {words}");
        self.notice(Class::Retired, segment, 0, seq, detail);
    }

    fn check_signed(&mut self) {
        let (size, signed) = (self.report.size, self.report.signed_size);
        // Behind another break no tree head can be compared, so that nothing more can be said here.
        if matches!(self.options.mode, Mode::Range { .. }) || size == 0 || !self.report.breaks.is_empty() {
            return;
        }
        let segment = self.last.as_ref().map_or(0, |last| last.index);
        if self.options.keys.is_empty() || signed == 0 {
            let detail = if self.options.keys.is_empty() {
                "no key was given to check signatures with".to_owned()
            } else {
                "the log has no checkpoint".to_owned()
            };
            if self.options.allow_unsigned || self.options.since.is_some() {
                self.notice(Class::Unsigned, segment, 0, 0, detail);
            } else {
                self.broken(Class::Unsigned, segment, 0, 0, size, detail);
            }
            return;
        }
        if signed < size {
            let now = if self.options.now_ns == 0 { self.last_wall_ns } else { self.options.now_ns };
            let age = now.saturating_sub(self.signed_wall_ns);
            let detail = format!(
                "the last {} records are unsigned, {} s after the last checkpoint",
                size - signed,
                age / 1_000_000_000
            );
            if age > self.options.unsigned_age_ns_max {
                self.broken(Class::Unsigned, segment, 0, signed, size - signed, detail);
            } else {
                self.notice(Class::Unsigned, segment, 0, signed, detail);
            }
        }
    }

    fn broken(&mut self, class: Class, segment: u64, offset: u64, seq: u64, records: u64, detail: String) {
        self.report.breaks.push(Break { class, segment, offset, seq, records, detail });
    }

    fn notice(&mut self, class: Class, segment: u64, offset: u64, seq: u64, detail: String) {
        self.report.notices.push(Break { class, segment, offset, seq, records: 0, detail });
    }
}

fn joined(before: &CompactRange, part: &CompactRange) -> Option<CompactRange> {
    let mut tree = before.clone();
    tree.merge(part).then_some(tree)
}
