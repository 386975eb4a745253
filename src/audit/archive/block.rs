//! Records of one block, transposed: each field beside the same field of the other records, without what follows from the
//! rest (FORMAT.md, "Archive").

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest as _, Sha256};

use super::{
    Unreadable,
    column::{Columns, put_fixed, put_numbers, put_strings, unzigzag, zigzag},
};
use crate::audit::{
    body::{BYTES, EMPTY_MAP, ENTRIES_MAX, KEY_MAX, UINT, head},
    cbor::Reader,
    record::{
        BODY_BYTES_MAX, HASHED_BYTES, HEADER_BYTES, Hash, Header, SEQ_MAX, checksum, event_hash, stored_len,
    },
};

/// A record on its way into a block.
pub(super) struct Raw<'a> {
    pub(super) header: Header,
    pub(super) checksum: u32,
    pub(super) body: &'a [u8],
    /// Whether `body_digest` follows from the body.
    pub(super) digest_fits: bool,
    /// Whether the checksum follows from header and body.
    pub(super) checksum_fits: bool,
}

/// What records of one form have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Layout {
    kind: u16,
    flags: u16,
    core: u16,
    schema: u16,
    // `None` where the body is kept as it is.
    entries: Option<Vec<Entry>>,
}

/// One entry of a body: its key and where its values lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Entry {
    key: u8,
    shape: Shape,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Shape {
    Number,
    /// A byte string of this length.
    Fixed(u16),
    /// Any other item, as it is.
    Item,
}

/// A column of values: kind of record and entry. What keeps whole bodies has the key that no entry has.
type Place = (u16, Entry);

const WHOLE_BODY: Entry = Entry { key: u8::MAX, shape: Shape::Item };

#[derive(Default)]
struct Values<'a> {
    numbers: Vec<u64>,
    strings: Vec<&'a [u8]>,
}

/// The content of a block.
pub(super) fn encode(records: &[Raw<'_>]) -> Vec<u8> {
    let mut layouts: Vec<Layout> = Vec::new();
    let mut known: HashMap<Layout, u64> = HashMap::new();
    let mut values: BTreeMap<Place, Values<'_>> = BTreeMap::new();
    let mut rows = Rows::default();
    let mut cores: HashMap<u16, u64> = HashMap::new();
    let (mut wall, mut mono, mut epoch) = (0u64, 0u64, 0u64);
    for raw in records {
        let Header { kind, flags, core, schema, .. } = raw.header;
        let items = split(raw.body);
        let entries = items.as_ref().map(|items| items.iter().map(|item| item.0).collect());
        let layout = Layout { kind, flags, core, schema, entries };
        let number = *known.entry(layout).or_insert_with_key(|layout| {
            layouts.push(layout.clone());
            layouts.len() as u64 - 1
        });
        rows.layouts.push(number);
        rows.exceptions.push(u64::from(!raw.digest_fits) | u64::from(!raw.checksum_fits) << 1);
        let header = &raw.header;
        let passed = header.wall_ns.wrapping_sub(wall);
        rows.walls.push(zigzag(passed));
        rows.monos.push(zigzag(header.mono_ns.wrapping_sub(mono).wrapping_sub(passed)));
        rows.epochs.push(zigzag(u64::from(header.epoch).wrapping_sub(epoch)));
        let last = cores.insert(core, header.core_seq).unwrap_or(0);
        rows.core_seqs.push(zigzag(header.core_seq.wrapping_sub(last)));
        (wall, mono, epoch) = (header.wall_ns, header.mono_ns, header.epoch.into());
        match items {
            None => values.entry((kind, WHOLE_BODY)).or_default().strings.push(raw.body),
            Some(items) => {
                for (entry, value) in items {
                    let column = values.entry((kind, entry)).or_default();
                    match value {
                        Cell::Number(number) => column.numbers.push(number),
                        Cell::String(string) => column.strings.push(string),
                    }
                }
            }
        }
    }
    let mut out = Vec::new();
    out.extend_from_slice(&u16::try_from(layouts.len()).expect("fewer layouts than records").to_le_bytes());
    layouts.iter().for_each(|layout| layout.put(&mut out));
    rows.put(&mut out);
    for raw in records.iter().filter(|raw| !raw.digest_fits) {
        out.extend_from_slice(&raw.header.body_digest);
    }
    for raw in records.iter().filter(|raw| !raw.checksum_fits) {
        out.extend_from_slice(&raw.checksum.to_le_bytes());
    }
    for ((_, entry), column) in &values {
        match entry.shape {
            Shape::Number => put_numbers(&mut out, &column.numbers),
            Shape::Fixed(_) => put_fixed(&mut out, &column.strings),
            Shape::Item => put_strings(&mut out, &column.strings),
        }
    }
    out
}

/// The records of a block as they stand in the segment, from its content. `len` bounds what is made.
pub(super) fn decode(
    content: &[u8],
    count: usize,
    len: usize,
    first_seq: u64,
    prev_hash: &Hash,
) -> Result<Vec<u8>, Unreadable> {
    // Before anything is made for each of them.
    if count > len / HEADER_BYTES || first_seq > SEQ_MAX - count as u64 {
        return Err(Unreadable("more records than fit"));
    }
    let mut columns = Columns(content);
    let layouts = (0..columns.u16()?).map(|_| Layout::take(&mut columns)).collect::<Result<Vec<_>, _>>()?;
    let rows = Rows::take(&mut columns, count)?;
    let chosen = rows.layouts.iter().map(|number| {
        let layout = usize::try_from(*number).ok().and_then(|number| layouts.get(number));
        layout.ok_or(Unreadable("a layout that is not there"))
    });
    let chosen = chosen.collect::<Result<Vec<&Layout>, _>>()?;
    if rows.exceptions.iter().any(|bits| *bits > 3) {
        return Err(Unreadable("an exception that is none"));
    }
    let with = |bit: u64| rows.exceptions.iter().filter(|bits| *bits & bit != 0).count();
    let mut digests = columns.bytes(32 * with(1))?.as_chunks::<32>().0.iter();
    let mut checksums = columns.bytes(4 * with(2))?.as_chunks::<4>().0.iter();
    let mut values = take_values(&mut columns, &chosen)?;
    columns.end()?;

    let mut out = Vec::with_capacity(len);
    let mut cores: HashMap<u16, u64> = HashMap::new();
    let (mut wall, mut mono, mut epoch) = (0u64, 0u64, 0u64);
    let mut prev_hash = *prev_hash;
    for (at, (layout, seq)) in chosen.iter().zip(first_seq..).enumerate() {
        let start = out.len();
        out.resize(start + HEADER_BYTES, 0);
        layout.join(&mut values, &mut out)?;
        let body_len = out.len() - start - HEADER_BYTES;
        if body_len > BODY_BYTES_MAX || start + stored_len(body_len) > len {
            return Err(Unreadable("a record is longer than what is left"));
        }
        let passed = unzigzag(rows.walls[at]);
        mono = mono.wrapping_add(passed).wrapping_add(unzigzag(rows.monos[at]));
        wall = wall.wrapping_add(passed);
        epoch = epoch.wrapping_add(unzigzag(rows.epochs[at]));
        let core_seq = cores.entry(layout.core).or_default();
        *core_seq = core_seq.wrapping_add(unzigzag(rows.core_seqs[at]));
        let (header, body) = out[start..].split_first_chunk_mut().expect("made above");
        let body_digest = match rows.exceptions[at] & 1 {
            0 => Sha256::digest(&*body).into(),
            _ => *digests.next().expect("counted above"),
        };
        Header {
            body_len: u32::try_from(body_len).expect("checked above"),
            seq,
            wall_ns: wall,
            mono_ns: mono,
            kind: layout.kind,
            flags: layout.flags,
            core: layout.core,
            schema: layout.schema,
            core_seq: *core_seq,
            body_digest,
            prev_hash,
            epoch: u32::try_from(epoch).map_err(|_| Unreadable("an epoch beyond its range"))?,
        }
        .write(header);
        let crc = match rows.exceptions[at] & 2 {
            0 => checksum(header, body).to_le_bytes(),
            _ => *checksums.next().expect("counted above"),
        };
        header[HASHED_BYTES..HASHED_BYTES + 4].copy_from_slice(&crc);
        prev_hash = event_hash(header);
        out.resize(start + stored_len(body_len), 0);
    }
    if out.len() == len { Ok(out) } else { Err(Unreadable("the records end before the block does")) }
}

/// What each record has, in the order of the records.
#[derive(Default)]
struct Rows {
    layouts: Vec<u64>,
    exceptions: Vec<u64>,
    walls: Vec<u64>,
    monos: Vec<u64>,
    core_seqs: Vec<u64>,
    epochs: Vec<u64>,
}

impl Rows {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { layouts, exceptions, walls, monos, core_seqs, epochs } = self;
        for numbers in [layouts, exceptions, walls, monos, core_seqs, epochs] {
            put_numbers(out, numbers);
        }
    }

    fn take(columns: &mut Columns<'_>, count: usize) -> Result<Self, Unreadable> {
        Ok(Self {
            layouts: columns.numbers(count)?,
            exceptions: columns.numbers(count)?,
            walls: columns.numbers(count)?,
            monos: columns.numbers(count)?,
            core_seqs: columns.numbers(count)?,
            epochs: columns.numbers(count)?,
        })
    }
}

/// Values that are handed out one after the other.
enum Column<'a> {
    Numbers(std::vec::IntoIter<u64>),
    Strings(std::vec::IntoIter<&'a [u8]>),
}

fn take_values<'a>(
    columns: &mut Columns<'a>,
    chosen: &[&Layout],
) -> Result<BTreeMap<Place, Column<'a>>, Unreadable> {
    let mut counts: BTreeMap<Place, usize> = BTreeMap::new();
    for layout in chosen {
        for entry in layout.entries.as_deref().unwrap_or(&[WHOLE_BODY]) {
            *counts.entry((layout.kind, *entry)).or_default() += 1;
        }
    }
    counts
        .into_iter()
        .map(|(place, count)| {
            let column = match place.1.shape {
                Shape::Number => Column::Numbers(columns.numbers(count)?.into_iter()),
                Shape::Fixed(len) => Column::Strings(columns.fixed(count, len.into())?.into_iter()),
                Shape::Item => Column::Strings(columns.strings(count)?.into_iter()),
            };
            Ok((place, column))
        })
        .collect()
}

impl Layout {
    fn put(&self, out: &mut Vec<u8>) {
        for number in [self.kind, self.flags, self.core, self.schema] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let Some(entries) = &self.entries else {
            out.push(u8::MAX);
            return;
        };
        out.push(u8::try_from(entries.len()).expect("at most 23"));
        for Entry { key, shape } in entries {
            out.push(*key);
            match shape {
                Shape::Number => out.push(0),
                Shape::Fixed(len) => {
                    out.push(1);
                    out.extend_from_slice(&len.to_le_bytes());
                }
                Shape::Item => out.push(2),
            }
        }
    }

    fn take(columns: &mut Columns<'_>) -> Result<Self, Unreadable> {
        let (kind, flags, core, schema) = (columns.u16()?, columns.u16()?, columns.u16()?, columns.u16()?);
        let count = columns.byte()?;
        if count == u8::MAX {
            return Ok(Self { kind, flags, core, schema, entries: None });
        }
        if count > ENTRIES_MAX {
            return Err(Unreadable("a body with too many entries"));
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(count.into());
        for _ in 0..count {
            let key = columns.byte()?;
            let shape = match columns.byte()? {
                0 => Shape::Number,
                1 => Shape::Fixed(columns.u16()?),
                2 => Shape::Item,
                _ => return Err(Unreadable("an entry of no known shape")),
            };
            if key > KEY_MAX || entries.last().is_some_and(|last| last.key >= key) {
                return Err(Unreadable("keys of a body that do not ascend"));
            }
            entries.push(Entry { key, shape });
        }
        Ok(Self { kind, flags, core, schema, entries: Some(entries) })
    }

    /// Adds the next body of this layout to `out`, or as much of it as shows that it is none.
    fn join(&self, values: &mut BTreeMap<Place, Column<'_>>, out: &mut Vec<u8>) -> Result<(), Unreadable> {
        let most = out.len() + BODY_BYTES_MAX;
        let add = |out: &mut Vec<u8>, string: &[u8]| {
            let fits = out.len() + string.len() <= most;
            fits.then(|| out.extend_from_slice(string)).ok_or(Unreadable("a body is longer than any body"))
        };
        let Some(entries) = &self.entries else {
            if let Some(Column::Strings(strings)) = values.get_mut(&(self.kind, WHOLE_BODY)) {
                add(out, strings.next().expect("counted when taken"))?;
            }
            return Ok(());
        };
        out.push(EMPTY_MAP | u8::try_from(entries.len()).expect("at most 23"));
        for entry in entries {
            out.push(UINT | entry.key);
            match values.get_mut(&(self.kind, *entry)).expect("taken for each entry of each layout") {
                Column::Numbers(numbers) => head(out, UINT, numbers.next().expect("counted when taken")),
                Column::Strings(strings) => {
                    if let Shape::Fixed(len) = entry.shape {
                        head(out, BYTES, len.into());
                    }
                    add(out, strings.next().expect("counted when taken"))?;
                }
            }
        }
        Ok(())
    }
}

/// One value of a body.
enum Cell<'a> {
    Number(u64),
    String(&'a [u8]),
}

/// The entries of a body whose only spelling follows from them; `None` where it has another form.
fn split(body: &[u8]) -> Option<Vec<(Entry, Cell<'_>)>> {
    let (&initial, rest) = body.split_first()?;
    let count = initial.checked_sub(EMPTY_MAP).filter(|count| *count <= ENTRIES_MAX)?;
    let mut reader = Reader::new(rest);
    let mut items: Vec<(Entry, Cell<'_>)> = Vec::with_capacity(count.into());
    for _ in 0..count {
        let key = match reader.major()? {
            0 => u8::try_from(reader.number().ok()?).ok().filter(|key| *key <= KEY_MAX)?,
            _ => return None,
        };
        if items.last().is_some_and(|(last, _)| last.key >= key) {
            return None;
        }
        let (shape, cell) = match reader.major()? {
            0 => (Shape::Number, Cell::Number(reader.number().ok()?)),
            2 => {
                let string = reader.string().ok()?;
                (Shape::Fixed(u16::try_from(string.len()).ok()?), Cell::String(string))
            }
            _ => (Shape::Item, Cell::String(reader.raw_item().ok()?)),
        };
        items.push((Entry { key, shape }, cell));
    }
    reader.end().ok()?;
    Some(items)
}
