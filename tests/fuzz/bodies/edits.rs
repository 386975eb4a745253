//! What somebody with access to the disk can do to a log: a script of small steps, so that a fuzzer's bytes reach
//! further than the first checksum.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use edgate::audit::record::{self, HEADER_BYTES, Hash, Header, Link};
use sha2::{Digest as _, Sha256};

/// The files of a log's folder.
#[derive(Clone)]
pub struct Image {
    pub files: BTreeMap<String, Vec<u8>>,
    /// A checksum or a hash was made to fit, as a program would; without that, every change is seen.
    pub forged: bool,
}

/// Bytes of one step: what is done, to which file, record and offset, with which byte, how often.
const STEP_BYTES: usize = 8;

/// Steps of one script. More hide from each other.
const STEPS_MAX: usize = 8;

/// Where a segment may be moved: its neighbours and the ends of what an index can be.
const INDICES: [u64; 9] = [0, 1, 2, 3, 4, 99, 9_999_999_999, u64::MAX - 1, u64::MAX];

/// Header fields worth forging, all eight bytes of them (`audit/record.rs`).
const FIELDS: [usize; 6] = [4, 8, 16, 32, 40, 112];

impl Image {
    pub fn new(files: &[(&str, &[u8])]) -> Self {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        Self { files, forged: false }
    }

    /// The segments, in order.
    pub fn segments(&self) -> impl Iterator<Item = (&String, &Vec<u8>)> {
        self.files.iter().filter(|(name, _)| is_segment(name))
    }

    /// Every record that can be walked to, in order.
    pub fn records(&self) -> Vec<&[u8]> {
        self.segments().flat_map(|(_, bytes)| split(bytes)).collect()
    }

    /// Writes the folder as it would stand on a disk; `open` names the segment that was not finished.
    pub fn write(&self, dir: &Path, open: Option<&str>) {
        for (name, bytes) in &self.files {
            fs::write(dir.join(name), bytes).expect("the folder takes files");
            let mode = if name.ends_with(".seg") && open != Some(name) { 0o400 } else { 0o600 };
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).expect("our own file");
        }
    }

    pub fn edit(&mut self, script: &[u8]) {
        for step in script.chunks_exact(STEP_BYTES).take(STEPS_MAX) {
            self.step(step);
        }
    }

    fn step(&mut self, step: &[u8]) {
        let [action, which, at, low, high, value, count, more] = *step else { return };
        let (offset, count) =
            (usize::from(low) | usize::from(high) << 8, usize::from(count) * (1 + usize::from(more % 16)));
        let Some(name) = self.files.keys().nth(usize::from(which) % self.files.len().max(1)).cloned() else {
            return;
        };
        let bytes = self.files.entry(name.clone()).or_default();
        let offsets = records_of(bytes);
        let records = offsets.len() - 1;
        let record = usize::from(at) % records.max(1);
        // In a segment an offset counts from a record, so that it means the same in another log.
        let place = if records == 0 {
            offset
        } else {
            offsets[record] + offset % (offsets[record + 1] - offsets[record])
        };
        let place = place % (bytes.len() + 1);
        let end = (place + count).min(bytes.len());
        match action % 17 {
            0 if place < bytes.len() => bytes[place] ^= value.max(1),
            1 => bytes[place..end].fill(value),
            2 => drop(bytes.splice(place..place, std::iter::repeat_n(value, count))),
            3 => drop(bytes.drain(place..end)),
            4 => bytes.truncate(place),
            5 => bytes.extend(std::iter::repeat_n(0, 8 * count)),
            6 if records > 0 => drop(bytes.drain(offsets[record]..offsets[record + 1])),
            7 if records > 0 => {
                let copy = bytes[offsets[record]..offsets[record + 1]].to_vec();
                let to = offsets[offset % (records + 1)];
                bytes.splice(to..to, copy);
            }
            8 if records > 1 => {
                let (first, rest) = (offsets[record], bytes.split_off(offsets[record]));
                let (one, two) = rest.split_at(offsets[record + 1] - first);
                bytes.extend_from_slice(two);
                let to = offsets[offset % (record + 1)];
                bytes.splice(to..to, one.iter().copied());
            }
            9 if records > 0 => {
                let field = offsets[record] + FIELDS[offset % FIELDS.len()];
                bytes[field..field + 8].fill(value);
                self.forged = true;
                seal(&mut bytes[offsets[record]..], None);
            }
            10 | 11 => self.rewrite(&name, record),
            12 => {
                let moved = self.files.remove(&name).unwrap_or_default();
                self.files.insert(segment_name(INDICES[offset % INDICES.len()]), moved);
            }
            13 => {
                let copy = bytes.clone();
                self.files.insert(segment_name(INDICES[offset % INDICES.len()]), copy);
            }
            14 => drop(self.files.remove(&name)),
            15 if records > 0 => {
                // A body of the attacker's choice under a header that fits it.
                let body = offsets[record] + HEADER_BYTES;
                let body_end = offsets[record + 1];
                if body + offset % (body_end - body + 1) < body_end {
                    bytes[body + offset % (body_end - body + 1)] = value;
                }
                self.forged = true;
                seal(&mut bytes[offsets[record]..], None);
            }
            // As an erasure leaves a record, or one that was interrupted at a sector.
            16 if records > 0 => {
                let (from, end) = (offsets[record] + record::HASHED_BYTES, offsets[record + 1]);
                let sector = end - end % 512;
                match value % 3 {
                    1 if sector > from => bytes[from..sector].fill(0),
                    2 if sector > from => bytes[sector..end].fill(0),
                    _ => bytes[from..end].fill(0),
                }
            }
            _ => {}
        }
    }

    /// Chains everything from this record on anew, through all segments, as somebody without the key can.
    fn rewrite(&mut self, from_name: &str, from: usize) {
        let mut prev: Option<Hash> = None;
        for (name, bytes) in self.files.iter_mut().filter(|(name, _)| is_segment(name)) {
            if name.as_str() < from_name {
                continue;
            }
            let offsets = records_of(bytes);
            let first = if name == from_name { from } else { 0 };
            for at in offsets.iter().take(offsets.len() - 1).skip(first) {
                prev = seal(&mut bytes[*at..], prev);
                self.forged = true;
            }
        }
    }
}

/// Makes digest, link and checksum of the record at the start of `bytes` fit, and returns its hash.
fn seal(bytes: &mut [u8], prev: Option<Hash>) -> Option<Hash> {
    let header = Header::parse(bytes.first_chunk()?).ok()?;
    let record = bytes.get_mut(..HEADER_BYTES + header.body_len as usize)?;
    let digest = Sha256::digest(&record[HEADER_BYTES..]);
    record[48..80].copy_from_slice(&digest);
    let link = Link { seq: header.seq, wall_ns: header.wall_ns, mono_ns: header.mono_ns };
    Some(record::chain(record, link, &prev.unwrap_or(header.prev_hash)))
}

/// The records of a segment.
pub fn split(bytes: &[u8]) -> Vec<&[u8]> {
    records_of(bytes).windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

/// Where the records of a segment start, and where the last one ends; only the end if there is none.
pub fn records_of(bytes: &[u8]) -> Vec<usize> {
    let mut offsets = vec![0];
    let mut at = 0;
    while let Some(Ok(header)) = bytes.get(at..).and_then(<[u8]>::first_chunk).map(Header::parse) {
        at += record::stored_len(header.body_len as usize);
        if at > bytes.len() {
            break;
        }
        offsets.push(at);
    }
    offsets
}

/// Ten digits, not all of them zero; other names are no segment's.
fn is_segment(name: &str) -> bool {
    name.len() == 14 && name.ends_with(".seg") && name != "0000000000.seg"
}

pub fn segment_name(index: u64) -> String {
    format!("{index:010}.seg")
}
