//! Records as a file for somebody else: which ones, what they were taken from, and the counts that show that none is
//! missing.
//!
//! An export is made from whole, linked records only, in one pass over all of them: what was filtered out is counted
//! too, and the tree of everything that was read is compared with a signed checkpoint by the caller.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::Path,
};

use sha2::{Digest as _, Sha256};

use super::{
    cbor::Value,
    error::AuditError,
    merkle::{CompactRange, GrowingRange},
    note::CheckpointKey,
    record::{Hash, stored_len},
    recover::FIRST_SEGMENT,
    retire::find_retired,
    rows,
    schema::{self, Body, Kind, Shape},
    stored::{Segments, list_segments},
    tag::Tag,
    tail::{Entry, Tail, decision_name},
};

/// The form of an export's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// RFC 4180, with a header line. Text that a spreadsheet would take for a formula has an apostrophe in front.
    Csv,
    /// One JSON object per line, as `edgate audit tail --json` shows records.
    JsonLines,
    /// Lines for a person, as `edgate audit tail` shows records.
    Text,
}

/// The log to take records from.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Its folder.
    pub dir: &'a Path,
    /// Keys that may have signed for an erasure; none to let every erasure count that is said to be signed.
    pub keys: &'a [CheckpointKey],
    /// Records to read; all there are without it.
    pub size: Option<u64>,
}

/// Which records become rows: those of which all that is named here holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Kinds, any of them; empty: all.
    pub kinds: Vec<Kind>,
    /// Recorded at or after this time, in nanoseconds since 1970.
    pub from_ns: Option<u64>,
    /// Recorded before this time.
    pub to_ns: Option<u64>,
    /// Of this tenant.
    pub tenant: Option<String>,
    /// Of this issuer, by the name the configuration gives it.
    pub issuer: Option<String>,
    /// Signed with the key of this name.
    pub kid: Option<String>,
    /// With this decision: `accepted`, or the reason of a refusal.
    pub decision: Option<String>,
    /// With any of these tags, in whatever field; empty: whatever it is tagged with. The tags of one value differ by epoch.
    pub tags: Vec<Tag>,
}

/// What an export was made of, and from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Rows written.
    pub rows: u64,
    /// Bytes written.
    pub bytes: u64,
    /// SHA-256 of them.
    pub digest: Hash,
    /// The log's name, as its segments state it.
    pub origin: String,
    /// Records read: all from the first to this number, whatever the filter.
    pub size: u64,
    /// Event hash of the last of them.
    pub head: Hash,
    /// The tree over them.
    pub tree: CompactRange,
    /// What there was in the time asked for, whatever else was asked.
    pub counts: Counts,
    /// Epochs of the tag key, of the records in that time.
    pub tag_epochs: BTreeSet<u64>,
}

impl Exported {
    /// Root of the tree over what was read.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.tree.root().expect("the tree starts at record 0")
    }
}

/// Records of a stretch of time. Sub-decisions of one call count one by one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// All records.
    pub records: u64,
    /// By kind.
    pub kinds: BTreeMap<String, u64>,
    /// Decisions, by outcome.
    pub decisions: BTreeMap<&'static str, u64>,
    /// Records whose body was erased: they count above, but of them no filter finds more than their kind.
    pub redacted: u64,
}

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The log cannot be read.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The log is not what it must be.
    #[error(
        "the log is broken at record {seq}: {cause}; nothing was exported, `edgate audit verify` says more"
    )]
    Broken {
        /// Where.
        seq: u64,
        /// What is wrong.
        cause: String,
    },
    /// It ends before the size asked for.
    #[error(
        "the log ends before record {wanted}: it has {size}; nothing was exported, `edgate audit verify` says more"
    )]
    Short {
        /// Records there are.
        size: u64,
        /// Records there should be.
        wanted: u64,
    },
    /// The file cannot be written.
    #[error("cannot write the export: {0}")]
    Write(io::Error),
}

/// Writes the records of a log that `filter` names to `out`. `progress` gets the bytes read and how many there are. Blocks.
///
/// # Errors
/// [`ExportError`]: what was written until then is no export.
pub fn export(
    source: &Source<'_>,
    filter: &Filter,
    format: Format,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Exported, ExportError> {
    let Source { dir, keys, size } = *source;
    let listed = list_segments(dir).map_err(|error| AuditError::io("list the segments of", dir, error))?;
    let total = listed.iter().map(|segment| segment.bytes).sum();
    let mut tail = Tail::first(dir)?.with_keys(keys);
    let mut tree = GrowingRange::new();
    tree.set(Some(CompactRange::new(0)));
    let mut pass = Pass {
        sink: Sink { out, digest: Sha256::new(), buffer: Vec::with_capacity(2 * WRITE_BYTES), bytes: 0 },
        writer: rows::Rows::default(),
        rows: 0,
        origin: None,
        next: 0,
        head: None,
        tree,
        counts: Counts::default(),
        tag_epoch: 0,
        tag_epochs: BTreeSet::new(),
    };
    if let Some(first) = listed.first().filter(|first| first.index > FIRST_SEGMENT) {
        let segments = Segments::of(dir);
        let retired = find_retired(segments, &listed, first.index - 1)
            .map_err(|error| AuditError::io("read a segment of", dir, error))?;
        let cause = "segments before it are not there, and no RETIRE record says so";
        let retired = retired.ok_or_else(|| ExportError::Broken { seq: 0, cause: cause.to_owned() })?;
        // Whether this is so, the comparison with the checkpoint says, to whose tree it belongs.
        (pass.next, pass.head) = (retired.size, Some(retired.hash));
        pass.tree.set(Some(retired.tree));
    }
    if format == Format::Csv {
        rows::write_csv_header(&mut pass.sink.buffer);
    }
    let mut read = 0;
    while size.is_none_or(|size| pass.next < size) {
        let entry = tail.next().map_err(|error| AuditError::io("read", dir, error))?;
        if let Some(cause) = tail.damage() {
            return Err(ExportError::Broken { seq: pass.next, cause });
        }
        let Some(entry) = entry else { break };
        read += stored_len(entry.header.body_len as usize) as u64;
        if entry.header.seq.is_multiple_of(PROGRESS_RECORDS) {
            progress(read, total);
        }
        pass.take(&entry, filter, format)?;
    }
    if let Some(wanted) = size.filter(|wanted| *wanted > pass.next) {
        return Err(ExportError::Short { size: pass.next, wanted });
    }
    pass.finish()
}

/// One pass over a log.
struct Pass<'a> {
    sink: Sink<'a>,
    writer: rows::Rows,
    rows: u64,
    origin: Option<String>,
    // Number the next record must have, and the hash of the one before.
    next: u64,
    head: Option<Hash>,
    tree: GrowingRange,
    counts: Counts,
    // Of the segment that is being read.
    tag_epoch: u64,
    tag_epochs: BTreeSet<u64>,
}

impl Pass<'_> {
    fn take(&mut self, entry: &Entry, filter: &Filter, format: Format) -> Result<(), ExportError> {
        let header = &entry.header;
        let broken = |cause: &str| ExportError::Broken { seq: header.seq, cause: cause.to_owned() };
        if header.seq != self.next {
            return Err(ExportError::Broken {
                seq: self.next,
                cause: format!("record {} stands in its place", header.seq),
            });
        }
        if self.head.is_some_and(|head| head != header.prev_hash) {
            return Err(broken("it does not continue the record before it"));
        }
        self.next += 1;
        self.head = Some(entry.hash);
        self.tree.push(&entry.hash);
        let body = entry.read_body();
        if let Ok(body) = &body
            && Kind::from_code(header.kind) == Some(Kind::SegmentOpen)
        {
            self.origin = self.origin.take().or_else(|| schema::text(body, ORIGIN).map(str::to_owned));
            self.tag_epoch = schema::uint(body, TAG_EPOCH).unwrap_or(self.tag_epoch);
        }
        if !filter.is_in_time(entry) {
            return Ok(());
        }
        let body = body.map_err(|error| broken(&error.to_string()))?;
        if !self.tag_epochs.contains(&self.tag_epoch) {
            self.tag_epochs.insert(self.tag_epoch);
        }
        self.counts.add(entry, &body);
        if !filter.wants(entry, &body) {
            return Ok(());
        }
        self.rows += 1;
        write_row(&mut self.writer, &mut self.sink.buffer, format, entry, body);
        self.sink.write_if_full()
    }

    fn finish(mut self) -> Result<Exported, ExportError> {
        self.sink.write()?;
        let Some(head) = self.head else {
            return Err(ExportError::Short { size: 0, wanted: 1 });
        };
        let tree = self.tree.range().filter(|tree| tree.begin() == 0).cloned();
        Ok(Exported {
            rows: self.rows,
            bytes: self.sink.bytes,
            digest: self.sink.digest.finalize().into(),
            origin: self.origin.unwrap_or_default(),
            size: self.next,
            head,
            tree: tree.expect("the tree starts at record 0"),
            counts: self.counts,
            tag_epochs: self.tag_epochs,
        })
    }
}

/// Appends one row, with its line end.
pub(super) fn write_row(
    writer: &mut rows::Rows,
    out: &mut Vec<u8>,
    format: Format,
    entry: &Entry,
    body: Body<'_>,
) {
    match format {
        Format::Csv => return writer.write_csv(out, entry, &body),
        Format::JsonLines => writer.write_json(out, entry, &Ok(body)),
        Format::Text => out.extend_from_slice(entry.to_text().as_bytes()),
    }
    out.push(b'\n');
}

/// Where the rows go, hashed on their way.
struct Sink<'a> {
    out: &'a mut dyn Write,
    digest: Sha256,
    buffer: Vec<u8>,
    bytes: u64,
}

impl Sink<'_> {
    fn write_if_full(&mut self) -> Result<(), ExportError> {
        if self.buffer.len() < WRITE_BYTES { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> Result<(), ExportError> {
        self.digest.update(&self.buffer);
        self.out.write_all(&self.buffer).map_err(ExportError::Write)?;
        self.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl Counts {
    fn add(&mut self, entry: &Entry, body: &Body<'_>) {
        self.records += 1;
        self.redacted += u64::from(entry.erased.is_some());
        let kind = entry.kind();
        match self.kinds.get_mut(&*kind) {
            Some(count) => *count += 1,
            None => drop(self.kinds.insert(kind.into_owned(), 1)),
        }
        let mut decided = |name, value| {
            if let Some(decision) = decision_name(name, value) {
                *self.decisions.entry(decision).or_default() += 1;
            }
        };
        let fields = item_fields(body);
        for (field, value) in body {
            decided(field.name, value);
            for (key, value) in maps(field, value).flatten() {
                if let Some(field) = fields.iter().find(|field| field.key == *key) {
                    decided(field.name, value);
                }
            }
        }
    }
}

impl Filter {
    /// Whether nothing is asked but kinds and time, so that the counts alone say how many rows there are.
    #[must_use]
    pub fn is_by_kind_alone(&self) -> bool {
        let Self { kinds: _, from_ns: _, to_ns: _, tenant, issuer, kid, decision, tags } = self;
        tenant.is_none() && issuer.is_none() && kid.is_none() && decision.is_none() && tags.is_empty()
    }

    /// Whether it was recorded in the time asked for.
    pub(super) fn is_in_time(&self, entry: &Entry) -> bool {
        let at = entry.header.wall_ns;
        self.from_ns.is_none_or(|from| at >= from) && self.to_ns.is_none_or(|to| at < to)
    }

    /// Whether it is of a kind asked for.
    pub(super) fn is_of_kind(&self, entry: &Entry) -> bool {
        self.kinds.is_empty()
            || Kind::from_code(entry.header.kind).is_some_and(|kind| self.kinds.contains(&kind))
    }

    /// Of a body that was erased nothing is known, so only kinds and time find its record.
    pub(super) fn wants(&self, entry: &Entry, body: &Body<'_>) -> bool {
        self.is_of_kind(entry) && (self.is_by_kind_alone() || self.wants_body(body))
    }

    /// A call about many tokens is wanted if one of its decisions is.
    fn wants_body(&self, body: &Body<'_>) -> bool {
        let items: Vec<&Vec<(u64, Value<'_>)>> =
            body.iter().flat_map(|(field, value)| maps(field, value)).collect();
        let own = |name: &str| body.iter().find(|(field, _)| field.name == name).map(|(_, value)| value);
        if items.is_empty() {
            return self.wants_fields(own);
        }
        let fields = item_fields(body);
        items.iter().any(|item| {
            self.wants_fields(|name| {
                let key = fields.iter().find(|field| field.name == name).map(|field| field.key);
                item.iter().find(|(at, _)| Some(*at) == key).map(|(_, value)| value).or_else(|| own(name))
            })
        })
    }

    fn wants_fields<'v>(&self, field: impl Fn(&str) -> Option<&'v Value<'v>>) -> bool {
        let is = |name: &str, wanted: &Option<String>| {
            wanted.as_deref().is_none_or(|wanted| match field(name) {
                Some(Value::Text(text)) => *text == wanted,
                Some(value) => decision_name(name, value) == Some(wanted),
                None => false,
            })
        };
        let tagged = |name: &&str| matches!(field(name), Some(Value::Bytes(tag)) if self.tags.iter().any(|wanted| wanted == tag));
        (self.tags.is_empty() || TAGS.iter().any(tagged))
            && is("tenant", &self.tenant)
            && is("issuer", &self.issuer)
            && is("kid", &self.kid)
            && is("decision", &self.decision)
    }
}

/// The items of a call about many tokens, each with its fields by key.
fn maps<'b>(field: &schema::Field, value: &'b Value<'b>) -> impl Iterator<Item = &'b Vec<(u64, Value<'b>)>> {
    let items: &[Value<'_>] = match (field.shape, value) {
        (Shape::Items(_), Value::Array(items)) => items,
        _ => &[],
    };
    items.iter().filter_map(|item| if let Value::Map(entries) = item { Some(entries) } else { None })
}

fn item_fields(body: &Body<'_>) -> &'static [schema::Field] {
    let of = |field: &schema::Field| if let Shape::Items(fields) = field.shape { Some(fields) } else { None };
    body.iter().find_map(|(field, _)| of(field)).unwrap_or_default()
}

/// The field of SEGMENT_OPEN with the log's name.
const ORIGIN: u64 = 1;

/// The field of SEGMENT_OPEN with the epoch of the tags.
const TAG_EPOCH: u64 = 10;

/// The fields of the class *tag*. What a tag is of is part of it, so that no field has another's by chance.
const TAGS: [&str; 4] = ["subject", "jti", "client", "target_tag"];

/// Bytes gathered before they are hashed and written.
const WRITE_BYTES: usize = 64 * 1024;

/// How often progress is told.
const PROGRESS_RECORDS: u64 = 4096;

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
