//! Whether a copy of the log that somebody else keeps, such as a SIEM's, is whole: from its lines and a key alone.
//!
//! A copied record states its number, its hash and the hash before it, and the header that they are made of. Records
//! with their links make a chain; checkpoints among them, with the tree that they state, tie the chain to a signature. A
//! copy may begin anywhere and end anywhere; it may have no hole. Records may stand in any order, and more than once.

use std::collections::BTreeMap;

use super::{
    copy_line::{CopiedCheckpoint, CopyLine, Row},
    merkle::{CompactRange, GrowingRange},
    note::{Checkpoint, CheckpointKey},
    record::Hash,
    verify::Class,
};

/// What a copy turned out to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyReport {
    /// The log's name, as its checkpoints say it; empty where none was believed.
    pub origin: String,
    /// Distinct records.
    pub records: u64,
    /// Number of the first of them.
    pub first: u64,
    /// Number of the last of them.
    pub last: u64,
    /// Records that stand there again, the same.
    pub repeated: u64,
    /// Records without a header: what they state beside number and hashes is bound to nothing.
    pub without_header: u64,
    /// Lines that are no record.
    pub other_lines: u64,
    /// Checkpoints whose signature and tree were checked.
    pub checkpoints: u64,
    /// The records that are proven: from this number on.
    pub proven_from: u64,
    /// The records that are proven: before this number. Equal to `proven_from` where none is.
    pub proven_to: u64,
    /// Everything that is wrong. Empty means that the copy is whole and signed.
    pub breaks: Vec<CopyBreak>,
}

/// One place where a copy is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyBreak {
    /// What kind of break, in the words of `audit verify`.
    pub class: Class,
    /// First record concerned.
    pub seq: u64,
    /// Records concerned.
    pub records: u64,
    /// In words.
    pub detail: String,
}

/// Gathers a copy, line by line. Holds about 80 bytes for each record.
#[derive(Debug)]
pub struct Copy {
    keys: Vec<CheckpointKey>,
    rows: Vec<Row>,
    checkpoints: BTreeMap<u64, (Checkpoint, Option<CompactRange>)>,
    stated: Vec<(u64, u64, String)>,
    report: CopyReport,
}

impl Copy {
    /// An empty copy, whose checkpoints must be signed by one of `keys`.
    #[must_use]
    pub fn new(keys: Vec<CheckpointKey>) -> Self {
        let (rows, stated, report) = (Vec::new(), Vec::new(), CopyReport::default());
        Self { keys, rows, checkpoints: BTreeMap::new(), stated, report }
    }

    /// Adds a line: a syslog message or a JSON object, as it was exported.
    pub fn line(&mut self, line: &[u8]) {
        match CopyLine::parse(line) {
            CopyLine::Other => self.report.other_lines += 1,
            CopyLine::Gap { from, to, cause } => self.stated.push((from, to, cause)),
            CopyLine::Broken { seq, problem } => self.broken(Class::AlteredHeader, seq, 1, problem),
            CopyLine::Record { row, checkpoint } => {
                self.report.without_header += u64::from(!row.bound);
                if let Some(checkpoint) = checkpoint {
                    self.checkpoint(row.seq, &checkpoint);
                }
                self.rows.push(row);
            }
        }
    }

    /// Checks what was gathered.
    #[must_use]
    pub fn finish(mut self) -> CopyReport {
        self.rows.sort_by_key(|row| row.seq);
        let before = self.rows.len();
        self.rows.dedup();
        self.report.repeated = (before - self.rows.len()) as u64;
        self.report.records = self.rows.len() as u64;
        self.report.first = self.rows.first().map_or(0, |row| row.seq);
        self.report.last = self.rows.last().map_or(0, |row| row.seq);
        self.walk();
        let report = &mut self.report;
        report.breaks.sort_by_key(|one| one.seq);
        if report.records == 0 || (report.checkpoints == 0 && report.breaks.is_empty()) {
            let detail = if report.records == 0 {
                "there is no record of an audit log in it"
            } else {
                "no checkpoint in it, of this key, could be compared with its records"
            };
            let (seq, records) = (report.first, report.records);
            report.breaks.push(CopyBreak { class: Class::Unsigned, seq, records, detail: detail.to_owned() });
        }
        self.report
    }

    fn checkpoint(&mut self, seq: u64, copied: &CopiedCheckpoint) {
        let checkpoint = match Checkpoint::open(&copied.note, &self.keys) {
            Ok(checkpoint) => checkpoint,
            Err(error) => return self.broken(error.into(), seq, 1, format!("its checkpoint: {error}")),
        };
        if self.report.origin.is_empty() {
            self.report.origin.clone_from(&checkpoint.origin);
        } else if self.report.origin != checkpoint.origin {
            let detail =
                format!("its checkpoint is of {}, others are of {}", checkpoint.origin, self.report.origin);
            return self.broken(Class::WrongOrigin, seq, 1, detail);
        }
        let tree =
            copied.frontier.as_ref().and_then(|bytes| CompactRange::from_bytes(checkpoint.size, bytes));
        // A tree that is not the signed one says nothing.
        let tree = tree.filter(|tree| tree.root() == Some(checkpoint.root));
        match self.checkpoints.get(&checkpoint.size) {
            Some((known, _)) if known.root != checkpoint.root => {
                let detail = format!(
                    "two checkpoints of {} records are signed, with different roots",
                    checkpoint.size
                );
                self.broken(Class::Rewritten, seq, 1, detail);
            }
            _ => {
                self.checkpoints.insert(checkpoint.size, (checkpoint, tree));
            }
        }
    }

    /// One pass in the order of the numbers: holes, links, and the tree wherever it is known.
    fn walk(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        let checkpoints = std::mem::take(&mut self.checkpoints);
        let mut walk = Walk { tree: GrowingRange::new(), begun: 0, known_from: 0, linked_from: 0 };
        let mut before: Option<&Row> = None;
        for row in &rows {
            match before {
                Some(before) if before.seq == row.seq => {
                    let detail = "two different records of this number".to_owned();
                    self.broken(Class::AlteredHeader, row.seq, 1, detail);
                    continue;
                }
                Some(before) if before.seq + 1 == row.seq => {
                    if before.event_hash != row.prev_hash {
                        let detail = "it does not continue the record before it".to_owned();
                        self.broken(Class::AlteredHeader, row.seq, 1, detail);
                        walk.linked_from = row.seq;
                    }
                }
                _ => {
                    if let Some(before) = before {
                        self.hole(before.seq + 1, row.seq);
                    }
                    walk.begin(row.seq);
                }
            }
            if !row.bound {
                // What comes before is not tied to this one.
                walk.linked_from = row.seq;
            }
            self.compare(&mut walk, row.seq, &checkpoints);
            walk.tree.push(&row.event_hash);
            before = Some(row);
        }
        if let Some(last) = before {
            self.compare(&mut walk, last.seq + 1, &checkpoints);
        }
    }

    /// Compares the tree over the records before `size` with the checkpoint of that size, if there is one; where the tree is not
    /// known, as in a copy that does not begin with the log, the one that the checkpoint states is continued.
    fn compare(
        &mut self,
        walk: &mut Walk,
        size: u64,
        checkpoints: &BTreeMap<u64, (Checkpoint, Option<CompactRange>)>,
    ) {
        let Some((checkpoint, stated)) = checkpoints.get(&size).filter(|_| size > walk.begun) else { return };
        let Some(range) = walk.tree.range() else {
            walk.tree.set(stated.clone());
            walk.known_from = size;
            return;
        };
        if range.root() != Some(checkpoint.root) {
            let from = walk.known_from.max(self.report.proven_to.max(walk.begun));
            let detail =
                format!("they are not the records that the checkpoint of {size} records was signed for");
            self.broken(Class::Rewritten, from, size.saturating_sub(from), detail);
            walk.tree.set(stated.clone());
            walk.known_from = size;
            return;
        }
        if size == walk.known_from {
            return;
        }
        self.report.checkpoints += 1;
        // The tree proves what it was made of, and a proven record the ones that it continues.
        let from = walk.known_from.min(walk.linked_from).max(walk.begun);
        if self.report.proven_from == self.report.proven_to || from > self.report.proven_to {
            self.report.proven_from = from;
        }
        self.report.proven_to = size;
    }

    fn hole(&mut self, from: u64, to: u64) {
        let stated = self.stated.iter().find(|(first, end, _)| *first <= from && *end >= to);
        let detail = match stated {
            Some((_, _, cause)) => format!("missing, as the mirror said: {cause}"),
            None => "missing, and nothing says why".to_owned(),
        };
        self.broken(Class::Deleted, from, to - from, detail);
    }

    fn broken(&mut self, class: Class, seq: u64, records: u64, detail: String) {
        self.report.breaks.push(CopyBreak { class, seq, records, detail });
    }
}

/// The state of the pass.
struct Walk {
    tree: GrowingRange,
    // First record of the run without a hole.
    begun: u64,
    // The tree is made of records from here on; before that it is as a checkpoint stated it.
    known_from: u64,
    // First record of those that continue one another, each with its header.
    linked_from: u64,
}

impl Walk {
    fn begin(&mut self, seq: u64) {
        (self.begun, self.known_from, self.linked_from) = (seq, seq, seq);
        self.tree.set((seq == 0).then(|| CompactRange::new(0)));
    }
}

impl CopyReport {
    /// 0 for a whole copy, else the code of the first break's class.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.breaks.first().map_or(0, |first| first.class.exit_code())
    }
}

/// The hash that a record must have.
pub(super) fn event_hash_of(hashed: &[u8; super::record::HASHED_BYTES]) -> Hash {
    let mut header = [0; super::record::HEADER_BYTES];
    header[..hashed.len()].copy_from_slice(hashed);
    super::record::event_hash(&header)
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
