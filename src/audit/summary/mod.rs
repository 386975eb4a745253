//! Figures of a log for people: what was decided when, what was refused most, how the checkpoints came, what was done to keys
//! and by whom. One pass, in memory that no log outgrows: every list and every set of names has a limit, and what is
//! beyond it is counted.

mod timeline;
mod top;

use std::{collections::BTreeMap, path::Path};

use serde::Serialize;

use super::{
    cbor::Value,
    error::AuditError,
    record::Hash,
    schema::{self, Body, Kind, Shape},
    tail::{Entry, Tail, decision_name},
};
pub use timeline::Timeline;
pub use top::Top;

/// Which records are counted, by the time they were recorded, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Span {
    /// At or after this time.
    pub from_ns: Option<u64>,
    /// Before this time.
    pub to_ns: Option<u64>,
}

/// The figures.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// Records counted.
    pub records: u64,
    /// Records whose body could not be read: erased ones, for example. Of these only kind and time are counted.
    pub without_body: u64,
    /// Numbers of the first and the last record counted.
    pub seqs: Option<(u64, u64)>,
    /// When the first and the last of them were recorded, as the clock was.
    pub times_ns: Option<(u64, u64)>,
    /// By kind.
    pub kinds: BTreeMap<String, u64>,
    /// Decisions, by outcome.
    pub decisions: BTreeMap<&'static str, u64>,
    /// The same over time.
    pub timeline: Timeline,
    /// Refusals by the issuer whose tokens they were, as far as one was found.
    pub refused_issuers: Top,
    /// Refusals by the key's name that the token claimed.
    pub refused_kids: Top,
    /// Refusals by tenant.
    pub refused_tenants: Top,
    /// How the checkpoints came.
    pub checkpoints: Checkpoints,
    /// Anchors, by kind.
    pub anchors: BTreeMap<String, u64>,
    /// Starts and stops.
    pub runs: Marks,
    /// Recoveries, gaps, disk states, clock jumps, unsigned stretches: what an operator answers for.
    pub incidents: Marks,
    /// Changes of keys and settings.
    pub changes: Marks,
    /// What operators and auditors did.
    pub actions: Marks,
}

/// How the checkpoints came.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Checkpoints {
    /// CHECKPOINT records.
    pub count: u64,
    /// Time between two of them while the node ran, in all.
    pub total_ns: u64,
    /// So many such times.
    pub intervals: u64,
    /// The longest of them.
    pub longest_ns: u64,
    /// When that began.
    pub longest_from_ns: u64,
    /// The most records that one checkpoint was behind when it was recorded.
    pub records_behind_max: u64,
}

/// Records that are shown one by one; the latest, if there are many.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Marks {
    /// All there were.
    pub count: u64,
    /// The latest of them.
    pub latest: std::collections::VecDeque<Mark>,
}

/// One of them.
#[derive(Debug, Clone, Serialize)]
pub struct Mark {
    /// Its number.
    pub seq: u64,
    /// When.
    pub wall_ns: u64,
    /// Its kind.
    pub kind: String,
    /// Its fields. Holds what others chose: to be escaped wherever it is shown.
    pub text: String,
}

/// Records up to which the figures go, and the event hash of the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Records read, of whatever time.
    pub size: u64,
    /// Event hash of the last; `None` for none.
    pub head: Option<Hash>,
    /// Whether each continued the one before.
    pub linked: bool,
}

/// Counts the records of the log in `dir` that `span` names, among its first `size`; passes over damage. `progress` gets the
/// records read. Blocks.
///
/// # Errors
/// When the folder holds no log or cannot be read.
pub fn summarise(
    dir: &Path,
    size: u64,
    span: Span,
    progress: &mut dyn FnMut(u64),
) -> Result<(Summary, Counted), AuditError> {
    let mut tail = Tail::first(dir)?;
    let mut summary = Summary::default();
    let mut counted = Counted { size: 0, head: None, linked: true };
    let mut last_checkpoint = None;
    while counted.size < size
        && let Some(entry) = tail.next().map_err(|error| AuditError::io("read", dir, error))?
    {
        counted.linked &= entry.header.seq == counted.size
            && counted.head.is_none_or(|head| head == entry.header.prev_hash);
        (counted.size, counted.head) = (entry.header.seq.saturating_add(1), Some(entry.hash));
        if counted.size.is_multiple_of(PROGRESS_RECORDS) {
            progress(counted.size);
        }
        let at = entry.header.wall_ns;
        if span.from_ns.is_none_or(|from| at >= from) && span.to_ns.is_none_or(|to| at < to) {
            summary.add(&entry, &mut last_checkpoint);
        }
    }
    summary.timeline.finish();
    summary.refused_issuers.finish();
    summary.refused_kids.finish();
    summary.refused_tenants.finish();
    Ok((summary, counted))
}

impl Summary {
    /// Decisions counted.
    #[must_use]
    pub fn decided(&self) -> u64 {
        self.decisions.values().sum()
    }

    fn add(&mut self, entry: &Entry, last_checkpoint: &mut Option<u64>) {
        let (seq, at) = (entry.header.seq, entry.header.wall_ns);
        self.records += 1;
        self.seqs = Some((self.seqs.map_or(seq, |(first, _)| first), seq));
        self.times_ns = Some((self.times_ns.map_or(at, |(first, _)| first), at));
        let kind = entry.kind();
        match self.kinds.get_mut(&*kind) {
            Some(count) => *count += 1,
            None => drop(self.kinds.insert(kind.into_owned(), 1)),
        }
        let body = entry.read_body();
        self.without_body += u64::from(entry.erased.is_some() || body.is_err());
        let Some(kind) = Kind::from_code(entry.header.kind) else { return };
        match (&body, kind) {
            (Ok(body), Kind::Decision) => self.decide(at, body, &[]),
            (Ok(body), Kind::DecisionBatch) => self.decide_many(at, body),
            (Ok(body), Kind::Checkpoint) => self.checkpoints.add(seq, at, body, last_checkpoint),
            (Ok(body), Kind::Anchor) => {
                let kind = schema::text(body, ANCHOR_KIND).unwrap_or_default().to_owned();
                *self.anchors.entry(kind).or_default() += 1;
            }
            _ => {}
        }
        match kind {
            // Between a stop and the next start nobody owes a checkpoint.
            Kind::Start => {
                *last_checkpoint = None;
                self.runs.add(entry);
            }
            Kind::Stop => self.runs.add(entry),
            Kind::Recovery | Kind::Gap | Kind::DiskState | Kind::ClockJump | Kind::Heartbeat => {
                self.incidents.add(entry);
            }
            Kind::KeyChange | Kind::KeyRotate | Kind::ConfigChange => self.changes.add(entry),
            Kind::Admin | Kind::Erase | Kind::Export | Kind::Retire | Kind::Revoke | Kind::VerifyRun => {
                self.actions.add(entry);
            }
            _ => {}
        }
    }

    /// Counts a decision, whose fields are its own or those of the call it was part of.
    fn decide(
        &mut self,
        at: u64,
        own: &[(&'static schema::Field, Value<'_>)],
        call: &[(&'static schema::Field, Value<'_>)],
    ) {
        let find =
            |name: &str| own.iter().chain(call).find(|(field, _)| field.name == name).map(|(_, value)| value);
        let Some(decision) = find("decision").and_then(|value| decision_name("decision", value)) else {
            return;
        };
        *self.decisions.entry(decision).or_default() += 1;
        self.timeline.add(at, decision);
        if decision == ACCEPTED {
            return;
        }
        let text = |name| match find(name) {
            Some(Value::Text(text)) => Some(*text),
            _ => None,
        };
        for (name, top) in [
            ("issuer", &mut self.refused_issuers),
            ("kid", &mut self.refused_kids),
            ("tenant", &mut self.refused_tenants),
        ] {
            top.add(text(name).unwrap_or(NOBODY));
        }
    }

    fn decide_many(&mut self, at: u64, body: &Body<'_>) {
        for (field, value) in body {
            let (Shape::Items(fields), Value::Array(items)) = (field.shape, value) else { continue };
            for item in items {
                let Value::Map(entries) = item else { continue };
                let mut own = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    own.extend(
                        fields.iter().find(|field| field.key == *key).map(|field| (field, value.clone())),
                    );
                }
                self.decide(at, &own, body);
            }
        }
    }
}

impl Checkpoints {
    fn add(&mut self, seq: u64, at: u64, body: &Body<'_>, last: &mut Option<u64>) {
        self.count += 1;
        let behind = seq.saturating_sub(schema::uint(body, CHECKPOINT_SIZE).unwrap_or(seq));
        self.records_behind_max = self.records_behind_max.max(behind);
        if let Some(before) = last.replace(at) {
            let interval = at.saturating_sub(before);
            self.intervals += 1;
            self.total_ns = self.total_ns.saturating_add(interval);
            if interval > self.longest_ns {
                (self.longest_ns, self.longest_from_ns) = (interval, before);
            }
        }
    }
}

impl Marks {
    fn add(&mut self, entry: &Entry) {
        self.count += 1;
        if self.latest.len() == MARKS_MAX {
            self.latest.pop_front();
        }
        self.latest.push_back(Mark {
            seq: entry.header.seq,
            wall_ns: entry.header.wall_ns,
            kind: entry.kind().into_owned(),
            text: entry.fields_text(),
        });
    }
}

/// The outcome that is no refusal.
pub const ACCEPTED: &str = crate::decision::Decision::Accepted.name();

/// What stands for a name that a record does not have.
pub const NOBODY: &str = "(none)";

/// Marks kept of a sort: a page for each.
const MARKS_MAX: usize = 40;

/// How often progress is told.
const PROGRESS_RECORDS: u64 = 4096;

/// Fields of ANCHOR and CHECKPOINT.
const ANCHOR_KIND: u64 = 3;
const CHECKPOINT_SIZE: u64 = 1;

#[cfg(test)]
mod tests;
