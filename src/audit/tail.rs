//! Reading a log forward, for people and programs that look on. Checks each record by itself, not the chain: that is
//! what `verify` is for. Never writes, and needs no lock.

use std::{
    borrow::Cow,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Map, Value as Json};

use super::{
    cbor::Value,
    erased::{Erasure, InEffect},
    error::AuditError,
    folder::segment_name,
    hex::hex,
    id::RecordId,
    note::CheckpointKey,
    record::{CORE_SEQUENCER, Hash, Header, stored_len},
    rows,
    schema::{self, Body, BodyError, Class, Kind},
    stored::{Segments, Stored, list_segments},
    walk::{Ahead, Depth, Flaw, SegmentOpen, or_erased},
};
use crate::decision::Decision;

/// A place in a log, and everything after it.
#[derive(Debug)]
pub struct Tail {
    dir: PathBuf,
    segment: u64,
    offset: u64,
    boot: u64,
    // Where the segment before ended, as this one states it.
    stated_end: Option<u64>,
    // Kept open, so that an archive is restored block by block.
    stored: Option<Stored>,
    buffer: Vec<u8>,
    at: usize,
    // Of what is in the buffer.
    ahead: Ahead,
    // Why the record at the current place cannot be read, if something stands there.
    flaw: Option<Flaw>,
    damage: Option<String>,
    // The erasures of what is read, once an erased record is met.
    erasures: Option<Arc<InEffect>>,
    keys: Vec<CheckpointKey>,
}

/// One record, as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The segment it stands in.
    pub segment: u64,
    /// Its header.
    pub header: Header,
    /// Its event hash.
    pub hash: Hash,
    /// Its name.
    pub id: RecordId,
    /// By whom its body was erased, if it was.
    pub erased: Option<Erasure>,
    body: Vec<u8>,
}

impl Tail {
    /// A place before the last `count` records that `wanted` wants, in the log of `dir`.
    ///
    /// # Errors
    /// When the folder holds no log or cannot be read.
    pub fn last(dir: &Path, count: usize, wanted: impl Fn(&Entry) -> bool) -> Result<Self, AuditError> {
        let io = |source| AuditError::io("read", dir, source);
        let segments = list_segments(dir).map_err(io)?;
        let first = segments.first().ok_or_else(|| AuditError::NotFound { path: dir.to_owned() })?;
        // Backwards until enough records are found.
        let mut start = first.index;
        let mut found = 0;
        for segment in segments.iter().rev() {
            let mut tail = Self::at(dir, segment.index);
            while let Some(entry) = tail.next_in_segment().map_err(io)? {
                found += usize::from(wanted(&entry));
            }
            start = segment.index;
            if found >= count {
                break;
            }
        }
        let mut tail = Self::at(dir, start);
        while found > count {
            match tail.next().map_err(io)? {
                Some(entry) => found -= usize::from(wanted(&entry)),
                None => break,
            }
        }
        // Damage before the place where the reader begins is for `verify` to name.
        tail.damage = None;
        Ok(tail)
    }

    /// The beginning of the log in `dir`.
    ///
    /// # Errors
    /// When the folder holds no log or cannot be read.
    pub fn first(dir: &Path) -> Result<Self, AuditError> {
        let segments = list_segments(dir).map_err(|source| AuditError::io("read", dir, source))?;
        let first = segments.first().ok_or_else(|| AuditError::NotFound { path: dir.to_owned() })?;
        Ok(Self::at(dir, first.index))
    }

    /// The place before record `seq`, or before the first that is there behind it; the end of the log if there is none.
    ///
    /// # Errors
    /// When the folder holds no log or cannot be read.
    pub fn from_record(dir: &Path, seq: u64) -> Result<Self, AuditError> {
        let io = |source| AuditError::io("read", dir, source);
        let segments = list_segments(dir).map_err(io)?;
        let mut start = segments.first().ok_or_else(|| AuditError::NotFound { path: dir.to_owned() })?.index;
        for segment in &segments {
            match Segments::of(dir).first_seq(segment.index) {
                Ok(Some(first)) if first <= seq => start = segment.index,
                // Written to later, or removed while we looked.
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Ok(Some(_)) => break,
                Err(error) => return Err(io(error)),
            }
        }
        let mut tail = Self::at(dir, start);
        while let Some(entry) = tail.next().map_err(io)? {
            if entry.header.seq >= seq {
                // It is read again.
                tail.at -= stored_len(entry.header.body_len as usize);
                break;
            }
        }
        Ok(tail)
    }

    fn at(dir: &Path, segment: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            segment,
            offset: 0,
            boot: 0,
            stated_end: None,
            stored: None,
            buffer: Vec::new(),
            at: 0,
            ahead: Ahead::new(Depth::Bodies),
            flaw: None,
            damage: None,
            erasures: None,
            keys: Vec::new(),
        }
    }

    /// Lets an erasure count only where one of these keys signed for it.
    #[must_use]
    pub fn with_keys(self, keys: &[CheckpointKey]) -> Self {
        Self { keys: keys.to_vec(), ..self }
    }

    /// What was passed over or stopped at since the last call: bytes that are no record, and that no later segment
    /// calls torn. At the end of a log that is being written they may be a record half stored this very moment.
    pub fn damage(&mut self) -> Option<String> {
        let here = self.flaw.map(|flaw| self.place(flaw));
        self.damage.take().or(here)
    }

    fn place(&self, flaw: Flaw) -> String {
        let offset = self.offset + self.at as u64;
        format!("segment {}, offset {offset}: {flaw}", segment_name(self.segment))
    }

    /// The next record; `None` when there is none yet.
    ///
    /// # Errors
    /// When the folder cannot be read. A record that is damaged ends its segment here, as `None` or with the first
    /// record of the next one, and [`Self::damage`] tells; `verify` says all that is wrong.
    #[expect(clippy::should_implement_trait, reason = "`None` is not the end: more may come")]
    pub fn next(&mut self) -> io::Result<Option<Entry>> {
        if let Some(entry) = self.next_in_segment()? {
            return Ok(Some(entry));
        }
        let mut next = Self::at(&self.dir, self.segment + 1);
        next.keys.clone_from(&self.keys);
        next.erasures.clone_from(&self.erasures);
        match next.next_in_segment() {
            Ok(Some(entry)) => {
                let ended = self.offset + self.at as u64;
                if let Some(flaw) = self.flaw
                    && next.stated_end != Some(ended)
                {
                    next.damage = Some(self.place(flaw));
                }
                *self = next;
                Ok(Some(entry))
            }
            Ok(None) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn next_in_segment(&mut self) -> io::Result<Option<Entry>> {
        let mut record = self.ahead.read(&self.buffer, self.at);
        let mut erased = None;
        if record.is_err() {
            self.fill()?;
            if matches!(self.ahead.read(&self.buffer, 0), Err(Flaw::Erased)) {
                erased = self.erasure()?;
            }
            record = self.ahead.read(&self.buffer, 0);
            if erased.is_some() {
                record = or_erased(record, &self.buffer, 0);
            }
        }
        let record = match record {
            Ok(record) => record,
            // Not yet written, half copied this very moment, or damaged.
            Err(flaw) => {
                let end = self.buffer.is_empty() || flaw == Flaw::Unwritten;
                self.flaw = (!end).then_some(flaw);
                return Ok(None);
            }
        };
        self.flaw = None;
        if let Some(open) = SegmentOpen::read(&record) {
            self.boot = open.boot;
            self.stated_end = open.prev.map(|prev| prev.end);
        }
        let header = record.header;
        let entry = Entry {
            segment: self.segment,
            header,
            hash: record.hash,
            id: RecordId { boot: self.boot, core: header.core, core_seq: header.core_seq },
            erased,
            body: record.body.to_vec(),
        };
        self.at += stored_len(header.body_len as usize);
        Ok(Some(entry))
    }

    /// The erasure of the record at the current place, if one is in effect.
    fn erasure(&mut self) -> io::Result<Option<Erasure>> {
        let Some(Ok(header)) = self.buffer.first_chunk().map(Header::parse) else { return Ok(None) };
        let known = |found: &InEffect| found.of(header.seq, &header.body_digest).cloned();
        // What was erased since the erasures were read is looked for anew.
        if let Some(erasure) = self.erasures.as_deref().and_then(known) {
            return Ok(Some(erasure));
        }
        let found = Arc::new(InEffect::read(&self.dir, self.segment, None, &self.keys)?);
        self.erasures = Some(Arc::clone(&found));
        Ok(known(&found))
    }

    /// Reads on from the current place.
    fn fill(&mut self) -> io::Result<()> {
        self.offset += self.at as u64;
        self.at = 0;
        self.ahead.forget();
        let stored = match &self.stored {
            Some(stored) => stored,
            None => self.stored.insert(Stored::open(&self.dir, self.segment)?),
        };
        self.buffer.resize(READ_BYTES, 0);
        let len = stored.read_at(&mut self.buffer, self.offset)?;
        self.buffer.truncate(len);
        Ok(())
    }
}

impl Entry {
    /// The kind's name, or its number.
    #[must_use]
    pub fn kind(&self) -> Cow<'static, str> {
        Kind::from_code(self.header.kind)
            .map_or_else(|| self.header.kind.to_string().into(), |kind| kind.name().into())
    }

    /// One line for a person: time, number, kind, fields. Text from outside is escaped.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut line = format!(
            "{} {:>8} {} {}",
            time(self.header.wall_ns),
            self.header.seq,
            self.kind(),
            self.fields_text()
        );
        if self.header.core != CORE_SEQUENCER {
            line.push_str(&format!(" id={}", self.id));
        }
        line
    }

    /// The fields of its body, for a person.
    pub(super) fn fields_text(&self) -> String {
        if self.erased.is_some() {
            let by =
                self.erased.iter().map(|erasure| format!("[erased by {}]", erasure.authority.escape_debug()));
            return by.collect::<Vec<_>>().join(" ");
        }
        let body = match self.read_body() {
            Ok(body) => body,
            Err(error) => return format!("[{error}]"),
        };
        let shown = body.iter().map(|(field, value)| {
            let shown = match (field.class, value) {
                (Class::Sealed, Value::Bytes(bytes)) => format!("[{} bytes]", bytes.len()),
                _ => decision_name(field.name, value).map_or_else(|| plain(value), str::to_owned),
            };
            format!("{}={shown}", field.name)
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    /// The whole record as a JSON object, on one line.
    #[must_use]
    pub fn json(&self) -> String {
        let mut out = Vec::new();
        rows::Rows::default().write_json(&mut out, self, &self.read_body());
        String::from_utf8(out).expect("JSON is text")
    }

    /// Its body, read under the schema its header names; of an erased record none of its fields.
    pub(super) fn read_body(&self) -> Result<Body<'_>, BodyError> {
        if self.erased.is_some() {
            return Ok(Body::new());
        }
        schema::read_body(self.header.kind, self.header.schema, &self.body)
    }
}

/// The fields of a record's body, by name.
pub(super) fn body_json(header: &Header, body: &[u8]) -> Result<Map<String, Json>, BodyError> {
    let mut out = Vec::new();
    rows::write_body(&mut out, &schema::read_body(header.kind, header.schema, body)?);
    Ok(serde_json::from_slice(&out).expect("an object of these names is JSON"))
}

/// Decisions are stored as numbers and shown by name.
pub(super) fn decision_name(field: &str, value: &Value<'_>) -> Option<&'static str> {
    match value {
        Value::Uint(code) if field == "decision" => {
            u16::try_from(*code).ok().and_then(Decision::from_code).map(Decision::name)
        }
        _ => None,
    }
}

/// RFC 3339 with microseconds; the number itself where it is no time.
pub(super) fn time(wall_ns: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(wall_ns))
        .map_or_else(|_| wall_ns.to_string(), |time| format!("{time:.6}"))
}

fn plain(value: &Value<'_>) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(",")),
        Value::Bool(value) => value.to_string(),
        Value::Bytes(bytes) if bytes.len() > 32 => format!("{}…({} bytes)", hex(&bytes[..8]), bytes.len()),
        Value::Bytes(bytes) => hex(bytes),
        Value::Map(entries) => {
            let shown = entries.iter().map(|(key, value)| format!("{key}:{}", plain(value)));
            format!("{{{}}}", shown.collect::<Vec<_>>().join(","))
        }
        Value::Text(text) => format!("{text:?}"),
        Value::Uint(number) => number.to_string(),
    }
}

/// Bytes read at a time: room for two of the longest records.
const READ_BYTES: usize = 256 * 1024;
