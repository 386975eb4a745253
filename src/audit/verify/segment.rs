//! One segment by itself: every record, every break inside it, and what its neighbours need to know.

mod altered;
mod checkpoints;
mod window;

use std::{borrow::Cow, collections::VecDeque};

use super::{Break, Class, Mode, Options, anchors, erasures::FoundErased};
use crate::audit::{
    erased::Erasure,
    folder::SegmentFile,
    merkle::{CompactRange, GrowingRange},
    record::{ALIGNMENT, CORE_SEQUENCER, HEADER_BYTES, Hash, Header, MAGIC, event_hash},
    recover::{TORN_COMMITS_MAX, scan_commits},
    schema::{self, Kind},
    walk::{Depth, Flaw, PrevEnd, Record, SegmentOpen, Walk, or_erased, prev_end, read_record_to},
    writer::Head,
};

use altered::linked;
pub(super) use checkpoints::FoundCheckpoint;
pub(super) use window::Window;

/// What one segment holds.
pub(super) struct Scan {
    pub(super) index: u64,
    pub(super) file_bytes: u64,
    pub(super) finished: bool,
    /// `seq` and `prev_hash` of the first record that could be read.
    pub(super) first: Option<(u64, Hash)>,
    pub(super) open: Option<SegmentOpen>,
    /// Behind the last record.
    pub(super) end: Option<Head>,
    pub(super) ended: PrevEnd,
    pub(super) sealed: bool,
    pub(super) closed: bool,
    pub(super) records: u64,
    pub(super) last_wall_ns: u64,
    /// The highest `durable_size` a COMMIT states.
    pub(super) durable_size: u64,
    /// The tree over the segment's records; `None` when a record is missing.
    pub(super) tree: Option<CompactRange>,
    pub(super) checkpoints: Vec<FoundCheckpoint>,
    /// Trees over the segment's records at its last commits: what a checkpoint in the next segment may refer to.
    pub(super) commit_trees: VecDeque<CompactRange>,
    /// Trees over the segment's records at the sizes that anchors name.
    pub(super) anchor_trees: Vec<CompactRange>,
    pub(super) breaks: Vec<Break>,
    /// Operators' decisions about damage: offset, `seq`, and what was decided.
    pub(super) decisions: Vec<(u64, u64, String)>,
    /// Records whose body is zeros, or partly.
    pub(super) erased: Vec<FoundErased>,
    /// ERASE records, with their offset.
    pub(super) orders: Vec<(u64, Erasure)>,
    /// Why the records end where bytes that are not zero remain.
    pub(super) tail_cause: Option<Flaw>,
    /// The size to stop at was reached: what follows is none of our business.
    pub(super) stopped: bool,
}

struct Scanner {
    ending: Ending,
    depth: Depth,
    offset: usize,
    scan: Scan,
    // The tree over the segment's records; none when a record is missing.
    tree: GrowingRange,
    // Set after known damage: the next link is broken for a reason that was already reported.
    lenient: bool,
    // A link that does not hold and whose guilty side the next link tells.
    pending: Option<Pending>,
    recent: VecDeque<(u64, Hash)>,
    // Records reported as deleted, as (first, behind last, index of the break).
    missing: Vec<(u64, u64, usize)>,
    // The tree and the offset behind it, now and then: where to start for a checkpoint of an older state.
    marks: Vec<(usize, CompactRange)>,
    // Sizes that anchors name, the nearest last.
    anchored: Vec<u64>,
    // The size a checkpoint names that was just read, if the tree of that size is to be recomputed.
    wanted: Option<u64>,
}

#[derive(Clone, Copy)]
struct Pending {
    seq: u64,
    offset: usize,
    before: usize,
}

/// What the segment's surroundings say about its end.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ending {
    /// Nothing is known: the next segment cannot be read.
    Open,
    /// No later segment was written to: what lies behind may have been torn by a crash.
    Last,
    /// The next segment states where this one ended. Its statement is part of the chain.
    Stated(u64),
}

impl Ending {
    /// Reads the statement out of the first bytes of the next segment.
    pub(super) fn stated_by(next_segment: &[u8]) -> Self {
        let open = read_record_to(next_segment, 0, Depth::Bodies).ok();
        let stated = open.and_then(|record| SegmentOpen::read(&record)?.prev);
        stated.map_or(Self::Open, |prev| Self::Stated(prev.end))
    }
}

/// Scans a segment's bytes.
pub(super) fn scan(file: &SegmentFile, bytes: &[u8], options: &Options, ending: Ending) -> Scan {
    let mut scanner = Scanner::new(file, bytes.len(), options, ending);
    scanner.run(bytes, options.upto);
    scanner.scan.ended = prev_end(bytes, scanner.offset);
    scanner.finish()
}

impl Scanner {
    fn new(file: &SegmentFile, bytes: usize, options: &Options, ending: Ending) -> Self {
        let scan = Scan {
            index: file.index,
            file_bytes: bytes as u64,
            finished: file.finished,
            first: None,
            open: None,
            end: None,
            ended: prev_end(&[], 0),
            sealed: false,
            closed: false,
            records: 0,
            last_wall_ns: 0,
            durable_size: 0,
            tree: None,
            checkpoints: Vec::new(),
            commit_trees: VecDeque::with_capacity(RECENT_COMMITS),
            anchor_trees: Vec::new(),
            breaks: Vec::new(),
            decisions: Vec::new(),
            erased: Vec::new(),
            orders: Vec::new(),
            tail_cause: None,
            stopped: false,
        };
        Self {
            ending,
            depth: if options.mode == Mode::Quick { Depth::Headers } else { Depth::Bodies },
            offset: 0,
            scan,
            tree: GrowingRange::new(),
            lenient: false,
            pending: None,
            recent: VecDeque::with_capacity(RECENT_RECORDS),
            missing: Vec::new(),
            marks: Vec::new(),
            anchored: anchors::sizes(options),
            wanted: None,
        }
    }

    fn run(&mut self, bytes: &[u8], upto: Option<u64>) {
        let mut walk = Walk::new(bytes, self.depth);
        let mut last_offset = 0;
        loop {
            if self.at_upto(upto) || self.offset == bytes.len() || self.at_stated_end() {
                break;
            }
            let at = self.offset;
            let found = walk.read(at);
            let found = if self.may_be_erased() { or_erased(found, bytes, at) } else { found };
            let more = match found {
                Ok(record) => {
                    self.place(bytes, &record, last_offset);
                    true
                }
                Err(flaw) => self.pass_damage(bytes, flaw),
            };
            if let Some(size) = self.wanted.take() {
                let tree = self.tree_at(at, size, |range| bytes.get(range).map(Cow::Borrowed));
                self.set_checkpoint_tree(tree);
            }
            if !more {
                break;
            }
            last_offset = at;
        }
        if let Some(pending) = self.pending.take() {
            self.report(
                Class::AlteredHeader,
                pending.before,
                pending.seq - 1,
                1,
                "its successor does not continue it",
            );
        }
    }

    /// What was found, once `ended` is known.
    fn finish(mut self) -> Scan {
        if self.scan.sealed && self.scan.ended.tail_bytes > 0 && !self.scan.stopped {
            let seq = self.scan.end.map_or(0, |end| end.size);
            self.report(Class::Inserted, self.offset, seq, 0, "bytes follow the seal");
        }
        self.scan.tree = self.tree.range().cloned();
        self.scan
    }

    /// Whether the size to stop at is reached.
    fn at_upto(&mut self, upto: Option<u64>) -> bool {
        self.scan.stopped = matches!((upto, self.scan.end), (Some(upto), Some(end)) if end.size >= upto);
        self.scan.stopped
    }

    /// Whether the next segment says that the log leaves this one here. What follows is for the join to compare.
    fn at_stated_end(&self) -> bool {
        matches!(self.ending, Ending::Stated(end) if end == self.offset as u64)
    }

    /// Whether the bytes from here on can be what a crash left: nothing behind them was known to be durable.
    fn may_be_torn(&self, bytes: &[u8]) -> bool {
        let Some(end) = self.scan.end else { return false };
        let (mut commits, mut durable) = (0, self.scan.durable_size);
        scan_commits(bytes, self.offset, &mut commits, &mut durable);
        matches!(self.ending, Ending::Last)
            && !self.scan.closed
            && !self.scan.finished
            && durable <= end.size
            && commits <= TORN_COMMITS_MAX
    }

    /// Finds the place of a record that is whole in itself.
    fn place(&mut self, bytes: &[u8], record: &Record<'_>, before: usize) {
        let header = &record.header;
        let Some(end) = self.scan.end else {
            self.accept(record);
            return;
        };
        if header.seq == end.size {
            if header.prev_hash != end.hash && !self.lenient {
                self.broken_link(header.seq, before);
            } else {
                self.good_link(header.seq);
            }
            self.accept(record);
        } else if next_seq(bytes, record) == Some(end.size + 1) {
            self.report(
                Class::AlteredHeader,
                self.offset,
                end.size,
                1,
                &format!("the record calls itself {}", header.seq),
            );
            self.accept_as(record, end.size);
            self.lenient = true;
        } else if header.seq > end.size {
            let detail = format!("record {} follows record {}", header.seq, end.size.wrapping_sub(1));
            self.missing.push((end.size, header.seq, self.scan.breaks.len()));
            self.report(Class::Deleted, self.offset, end.size, header.seq - end.size, &detail);
            self.tree.set(None);
            self.accept(record);
        } else {
            self.place_earlier(record, end);
        }
    }

    /// A record whose number was already used: repeated, late, or the one that another was put before.
    fn place_earlier(&mut self, record: &Record<'_>, end: Head) {
        let seq = record.header.seq;
        let missing =
            self.missing.iter().find(|(from, to, _)| (*from..*to).contains(&seq)).map(|found| found.2);
        if self.recent.contains(&(seq, record.hash)) {
            self.report(Class::Duplicate, self.offset, seq, 1, "the record is repeated");
        } else if let Some(at) = missing {
            self.scan.breaks[at].class = Class::Reordered;
            self.scan.breaks[at].detail = format!("record {seq} stands behind record {}", end.size - 1);
        } else {
            self.report(Class::Inserted, self.offset, seq, 1, "two different records have this number");
            self.tree.set(None);
            self.accept(record);
            return;
        }
        self.offset = record.next;
    }

    /// Goes on behind bytes that are no whole record; says whether anything follows.
    fn pass_damage(&mut self, bytes: &[u8], flaw: Flaw) -> bool {
        if self.may_be_torn(bytes) {
            self.scan.tail_cause = Some(flaw);
            return false;
        }
        if let Some(header_bytes) = bytes[self.offset..].first_chunk::<HEADER_BYTES>()
            && let Ok(header) = Header::parse(header_bytes)
            && let Some(end) = self.scan.end
            && header.seq == end.size
            && header.prev_hash == end.hash
            && matches!(flaw, Flaw::Digest | Flaw::Checksum | Flaw::Erased | Flaw::Padding)
        {
            self.pass_altered_record(bytes, flaw, &header, event_hash(header_bytes));
            return true;
        }
        let Some((found, record)) = self.resync(bytes) else {
            let rest = &bytes[self.offset..];
            if rest.iter().any(|byte| *byte != 0) {
                self.scan.tail_cause = Some(flaw);
            }
            return false;
        };
        let at = self.offset;
        self.offset = found;
        match self.scan.end {
            Some(end) if record.header.seq <= end.size => {
                let detail = format!("bytes that are no record: {flaw}");
                self.report(Class::Inserted, at, end.size, 0, &detail);
            }
            end => {
                let from = end.map_or(record.header.seq.saturating_sub(1), |end| end.size);
                let records = record.header.seq - from;
                self.report(Class::AlteredHeader, at, from, records, &flaw.to_string());
                self.tree.set(None);
                if let Some(end) = &mut self.scan.end {
                    *end = Head { size: record.header.seq, hash: record.header.prev_hash };
                }
                self.lenient = true;
            }
        }
        true
    }

    /// The next place behind the current one where a whole record starts.
    fn resync<'a>(&self, bytes: &'a [u8]) -> Option<(usize, Record<'a>)> {
        let mut offset = self.offset + ALIGNMENT;
        while let Some(start) = bytes.get(offset..offset + MAGIC.len()) {
            if start == MAGIC
                && let Ok(record) = or_erased(read_record_to(bytes, offset, Depth::Bodies), bytes, offset)
            {
                return Some((offset, record));
            }
            offset += ALIGNMENT;
        }
        None
    }

    fn broken_link(&mut self, seq: u64, before: usize) {
        match self.pending.take() {
            // Both links of the record between are broken: it is the one.
            Some(pending) if pending.seq + 1 == seq => {
                let detail = "neither neighbour fits it";
                self.report(Class::AlteredHeader, pending.offset, pending.seq, 1, detail);
            }
            _ => self.pending = Some(Pending { seq, offset: self.offset, before }),
        }
    }

    fn good_link(&mut self, seq: u64) {
        if let Some(pending) = self.pending.take_if(|pending| pending.seq < seq) {
            // The later record is confirmed by its successor, so the earlier one changed.
            let detail = "its successor does not continue it";
            self.report(Class::AlteredHeader, pending.before, pending.seq - 1, 1, detail);
        }
    }

    fn accept(&mut self, record: &Record<'_>) {
        self.accept_as(record, record.header.seq);
    }

    fn accept_as(&mut self, record: &Record<'_>, seq: u64) {
        let Header { kind, schema, .. } = record.header;
        if record.erased {
            self.note_erased(&record.header, false);
        } else if self.depth == Depth::Bodies
            && let Err(error) = schema::check_body(kind, schema, record.body)
        {
            // Its hashes fit, so it was made like this: by no writer of ours.
            self.report(Class::AlteredBody, self.offset, seq, 1, &error.to_string());
        }
        let first = self.scan.first.is_none();
        if first {
            self.scan.first = Some((seq, record.header.prev_hash));
            self.tree.set(Some(CompactRange::new(seq)));
        }
        self.lenient = false;
        self.scan.end = Some(Head { size: seq.saturating_add(1), hash: record.hash });
        self.scan.records += 1;
        self.scan.last_wall_ns = record.header.wall_ns;
        if !self.tree.is_known() {
            self.marks.clear();
        } else if self.scan.records % MARK_RECORDS == 1 {
            self.marks.extend(self.tree.range().map(|tree| (self.offset, tree.clone())));
        }
        self.grow(&record.hash, seq);
        if self.recent.len() == RECENT_RECORDS {
            self.recent.pop_front();
        }
        self.recent.push_back((seq, record.hash));
        let sealed = std::mem::replace(&mut self.scan.sealed, false);
        if sealed {
            self.report(Class::Inserted, self.offset, seq, 1, "a record follows the seal");
        }
        if let (Some(kind), false) = (record.kind(), record.erased) {
            self.note_kind(kind, record, seq, first);
        }
        self.offset = record.next;
    }

    /// Adds a record to the tree, and keeps the tree where an anchor names its size.
    fn grow(&mut self, hash: &Hash, seq: u64) {
        self.tree.push(hash);
        while self.anchored.last().is_some_and(|size| *size <= seq.saturating_add(1)) {
            if self.anchored.pop() == Some(seq.saturating_add(1)) {
                self.scan.anchor_trees.extend(self.tree.range().cloned());
            }
        }
    }

    /// Remembers what the records of the log itself say.
    fn note_kind(&mut self, kind: Kind, record: &Record<'_>, seq: u64, first: bool) {
        match kind {
            Kind::SegmentOpen => {
                // What it says is said of the segment that it stands at the start of.
                if first && self.offset == 0 {
                    self.scan.open = SegmentOpen::read(record);
                } else {
                    self.report(Class::Inserted, self.offset, seq, 1, "SEGMENT_OPEN inside a segment");
                }
            }
            Kind::Commit if record.header.core == CORE_SEQUENCER => {
                if let Ok(body) = record.read_body() {
                    self.scan.durable_size = self.scan.durable_size.max(schema::uint(&body, 3).unwrap_or(0));
                }
                if let Some(tree) = self.tree.range() {
                    if self.scan.commit_trees.len() == RECENT_COMMITS {
                        self.scan.commit_trees.pop_front();
                    }
                    self.scan.commit_trees.push_back(tree.clone());
                }
            }
            Kind::SegmentSeal => self.scan.sealed = true,
            Kind::CleanClose => self.scan.closed = true,
            Kind::Checkpoint => self.note_checkpoint(record, seq),
            Kind::Erase => self.note_erase(record, seq),
            Kind::Recovery => {
                if let Ok(body) = record.read_body()
                    && let (Some(cause), Some(authority)) = (schema::text(&body, 6), schema::text(&body, 8))
                {
                    let decision = format!("by {authority}: {cause}").escape_debug().to_string();
                    self.scan.decisions.push((self.offset as u64, seq, decision));
                }
            }
            _ => {}
        }
    }

    fn report(&mut self, class: Class, offset: usize, seq: u64, records: u64, detail: &str) {
        self.scan.breaks.push(Break {
            class,
            segment: self.scan.index,
            offset: offset as u64,
            seq,
            records,
            detail: detail.to_owned(),
        });
    }
}

fn next_seq(bytes: &[u8], record: &Record<'_>) -> Option<u64> {
    linked(bytes, record.next).map(|next| next.seq)
}

/// Records remembered to tell a repeated record from a foreign one.
const RECENT_RECORDS: usize = 64;

/// Commits whose tree is remembered: the sealer signs the latest durable commit it sees.
const RECENT_COMMITS: usize = 256;

/// Records between two marks: at most so many are hashed again for a checkpoint of an older state.
const MARK_RECORDS: u64 = 1024;
