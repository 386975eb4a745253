//! An export held to the log it was made from, row by row: where bodies were erased since, the rows that show them are known by
//! everything else in them.

use std::io::{self, BufRead};

use serde_json::{Map, Value as Json};

use super::{
    error::AuditError,
    export::{ExportError, Filter, Format, Source, write_row},
    id::RecordId,
    proof::{ProvenRecord, find_record},
    record::{Hash, Header},
    rows,
    schema::{self, Kind},
    stored::Segments,
    tail::Tail,
};

/// What the comparison finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// Rows with a body that was erased after the export was made.
    pub erased_since: u64,
    /// The first record whose row is missing, is another, or does not belong there.
    pub differs_at: Option<u64>,
}

/// Compares the rows of an export, as `rows` reads them, with the log, which was found to be the signed one.
///
/// # Errors
/// [`ExportError`]; rows that cannot be read are a difference.
pub fn compare(
    source: &Source<'_>,
    filter: &Filter,
    format: Format,
    rows: &mut dyn BufRead,
) -> Result<Compared, ExportError> {
    let Source { dir, keys, size } = *source;
    let mut tail = Tail::first(dir)?.with_keys(keys);
    let (mut writer, mut expected) = (rows::Rows::default(), Vec::new());
    let mut row = Row::default();
    if format == Format::Csv {
        row.read(rows, format).map_err(ExportError::Write)?;
        rows::write_csv_header(&mut expected);
        if row.bytes != expected {
            return Ok(Compared { erased_since: 0, differs_at: Some(0) });
        }
    }
    row.read(rows, format).map_err(ExportError::Write)?;
    let (mut erased_since, mut next) = (0, 0);
    while size.is_none_or(|size| next < size) {
        let entry = tail.next().map_err(|error| AuditError::io("read", dir, error))?;
        let Some(entry) = entry else { break };
        let seq = entry.header.seq;
        next = seq + 1;
        let body = entry.read_body();
        let body = body.map_err(|error| ExportError::Broken { seq, cause: error.to_string() })?;
        if !filter.is_in_time(&entry) || !filter.is_of_kind(&entry) {
            continue;
        }
        let wanted = filter.wants(&entry, &body);
        expected.clear();
        write_row(&mut writer, &mut expected, format, &entry, body);
        if wanted && row.bytes == expected {
            row.read(rows, format).map_err(ExportError::Write)?;
        } else if entry.erased.is_some() && row.shows(&expected, format) {
            erased_since += 1;
            row.read(rows, format).map_err(ExportError::Write)?;
        } else if wanted {
            return Ok(Compared { erased_since, differs_at: Some(seq) });
        }
    }
    let differs_at = (!row.bytes.is_empty()).then_some(next);
    Ok(Compared { erased_since, differs_at })
}

/// The digest that the EXPORT record of this id states; `None` if there is no such record.
#[must_use]
pub fn recorded_digest(source: &Source<'_>, id: RecordId) -> Option<Hash> {
    let found = find_record(Segments::of(source.dir), id).ok()?;
    digest_of(&found.header, &found.body?)
}

/// The digest that a proven EXPORT record states; `None` if it is another, or its body is not shown.
#[must_use]
pub fn exported_digest(proven: &ProvenRecord) -> Option<Hash> {
    digest_of(&proven.header, proven.body.as_ref()?)
}

fn digest_of(header: &Header, body: &[u8]) -> Option<Hash> {
    if Kind::from_code(header.kind) != Some(Kind::Export) {
        return None;
    }
    let body = schema::read_body(header.kind, header.schema, body).ok()?;
    schema::bytes(&body, EXPORT_DIGEST)?.try_into().ok()
}

/// The field of EXPORT with the digest.
const EXPORT_DIGEST: u64 = 4;

/// One row of a file.
#[derive(Default)]
struct Row {
    bytes: Vec<u8>,
}

impl Row {
    /// Reads the next one; nothing is left behind the last.
    fn read(&mut self, rows: &mut dyn BufRead, format: Format) -> io::Result<()> {
        self.bytes.clear();
        loop {
            let from = self.bytes.len();
            if rows.read_until(b'\n', &mut self.bytes)? == 0 {
                return Ok(());
            }
            let quotes = self.bytes.iter().filter(|byte| **byte == b'"').count();
            // In CSV a line end inside quotes is part of a cell.
            if format != Format::Csv || quotes % 2 == 0 || self.bytes.len() == from {
                return Ok(());
            }
        }
    }

    /// Whether it is the row of the record that `erased` is a row of, with its body.
    fn shows(&self, erased: &[u8], format: Format) -> bool {
        match format {
            Format::Csv => {
                let (ours, theirs) = (cells(&self.bytes), cells(erased));
                ours.len() == theirs.len()
                    && rows::CSV_COLUMNS
                        .iter()
                        .zip(ours.iter().zip(&theirs))
                        .all(|(column, (a, b))| rows::CSV_OF_BODY.contains(column) || a == b)
            }
            Format::JsonLines => {
                let of_header = |row: &[u8]| -> Option<Map<String, Json>> {
                    let mut row: Map<String, Json> = serde_json::from_slice(row).ok()?;
                    row.retain(|name, _| name != "body" && name != "redacted");
                    Some(row)
                };
                of_header(&self.bytes).is_some_and(|ours| Some(ours) == of_header(erased))
            }
            Format::Text => false,
        }
    }
}

/// The cells of a row of CSV, as they stand.
fn cells(row: &[u8]) -> Vec<&[u8]> {
    let mut quoted = false;
    row.split(|byte| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    })
    .collect()
}
