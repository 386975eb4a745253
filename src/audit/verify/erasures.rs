//! Erased records and ERASE records, as they are found, until both sides of each are known (FORMAT.md, "Erased records").

use std::collections::{BTreeMap, HashMap};

use super::{Break, Class};
use crate::audit::{
    erased::{Erasure, InEffect},
    record::{HEADER_BYTES, Hash, Header, stored_len},
    stored::Segments,
    walk::{Flaw, is_partly_erased, is_redactable, read_record},
};

/// A record whose body is zeros, or partly so; its hash fits the chain.
#[derive(Debug, Clone, Copy)]
pub(super) struct FoundErased {
    pub(super) seq: u64,
    pub(super) offset: u64,
    pub(super) body_digest: Hash,
    pub(super) partly: bool,
}

/// What a look at the record that an ERASE names finds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    segment: u64,
    offset: u64,
    body_digest: Hash,
    redactable: bool,
    body: Stored,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    Whole,
    Erased,
    Partly,
    Altered,
}

/// What is known so far.
#[derive(Default)]
pub(super) struct Erasures {
    pub(super) in_effect: InEffect,
    erased: BTreeMap<u64, (u64, FoundErased)>,
    // Every ERASE, with its segment and offset: its number, the record it names, and the digest.
    orders: Vec<(u64, u64, Ordered)>,
}

#[derive(Clone, Copy)]
struct Ordered {
    at: u64,
    seq: u64,
    body_digest: Hash,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Judged {
    /// Records whose body an authority had dropped.
    pub(super) redacted: u64,
    pub(super) breaks: Vec<Break>,
    pub(super) notices: Vec<Break>,
    /// A body is zeros, and nothing that was read explains it.
    pub(super) unexplained: bool,
}

impl Erasures {
    pub(super) fn add(&mut self, segment: u64, erased: &[FoundErased], orders: Vec<(u64, Erasure)>) {
        self.erased.extend(erased.iter().map(|found| (found.seq, (segment, *found))));
        for (offset, erasure) in orders {
            let Erasure { at, seq, body_digest, .. } = erasure;
            self.orders.push((segment, offset, Ordered { at, seq, body_digest }));
            self.in_effect.order(erasure);
        }
    }

    /// Whether a record's body is zeros and no ERASE in effect was found yet.
    pub(super) fn is_unexplained(&self) -> bool {
        let explained = |found: &FoundErased| self.in_effect.of(found.seq, &found.body_digest).is_some();
        !self.erased.values().all(|(_, found)| explained(found))
    }

    /// The records that ERASEs name and that were not seen to be erased, ascending: they have to be looked at.
    pub(super) fn wanted(&self) -> Vec<u64> {
        let named = self.orders.iter().map(|(_, _, order)| order);
        let mut wanted: Vec<u64> = named
            .filter(|order| order.seq < order.at && !self.erased.contains_key(&order.seq))
            .map(|order| order.seq)
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    /// Judges every erased record and every ERASE. `looked` holds what was wanted, as far as it is there; records below
    /// `since` were verified earlier, and what is wrong with them now is reported by nobody else.
    pub(super) fn judge(self, looked: &HashMap<u64, Target>, since: u64) -> Judged {
        let mut judged = Judged::default();
        let mut lawful: HashMap<(u64, Hash), u64> = HashMap::new();
        let mut seen = std::collections::HashSet::new();
        for (segment, offset, order) in &self.orders {
            let Ordered { at, seq, body_digest } = *order;
            let target = match self.erased.get(&seq) {
                Some((segment, found)) => Some(Target {
                    segment: *segment,
                    offset: found.offset,
                    body_digest: found.body_digest,
                    redactable: true,
                    body: if found.partly { Stored::Partly } else { Stored::Erased },
                }),
                None => looked.get(&seq).copied(),
            };
            let wrong = match &target {
                _ if seq >= at => Some("which is not before it"),
                // Not in the folder: retired, or missing, which others say.
                None => None,
                Some(target) if target.body_digest != body_digest => Some("whose body has another digest"),
                Some(target) if !target.redactable => Some("which is of a kind that is never erased"),
                Some(target) if target.segment == *segment => Some("which stands in the same segment"),
                Some(_) => None,
            };
            if let Some(wrong) = wrong {
                let detail = format!("the ERASE names record {seq}, {wrong}");
                judged.breaks.push(place(Class::BadErase, *segment, *offset, at, 1, detail));
                continue;
            }
            lawful.entry((seq, body_digest)).or_insert(*segment);
            let Some(target) = target else { continue };
            let erasure = self.in_effect.of(seq, &body_digest);
            if !seen.insert(seq) {
                continue;
            }
            let at_target = |class, detail| place(class, target.segment, target.offset, seq, 1, detail);
            match (target.body, erasure) {
                (Stored::Whole, None) if self.in_effect.is_void(at, seq, &body_digest) => {
                    let detail = format!(
                        "the ERASE of record {seq} has no effect: no checkpoint of its boot covers it"
                    );
                    judged.notices.push(place(Class::ErasePending, *segment, *offset, at, 0, detail));
                }
                (Stored::Whole, None) => {}
                (Stored::Whole | Stored::Partly, Some(erasure)) => {
                    let authority = erasure.authority.escape_debug();
                    let detail = format!("ERASE {}, by {authority}: the body is still there", erasure.at);
                    judged.notices.push(Break { records: 0, ..at_target(Class::ErasePending, detail) });
                }
                (Stored::Erased, Some(_)) => judged.redacted += 1,
                // Of what was read here, the records themselves are judged below, or were by the scan.
                (Stored::Erased | Stored::Partly | Stored::Altered, _) if seq < since => {
                    let detail = "its body is not what was verified before, and no ERASE in effect names it"
                        .to_owned();
                    judged.breaks.push(at_target(Class::AlteredBody, detail));
                }
                (Stored::Erased | Stored::Partly | Stored::Altered, _) => {}
            }
        }
        for (seq, (segment, found)) in &self.erased {
            let named = (*seq, found.body_digest);
            let explained = lawful.get(&named).is_some_and(|by| by > segment);
            if explained && self.in_effect.of(*seq, &found.body_digest).is_some() {
                continue;
            }
            judged.unexplained = true;
            let what = if found.partly { "partly zeros" } else { "zeros" };
            let detail = format!("the body is {what}, and no ERASE that is in effect names it");
            judged.breaks.push(place(Class::AlteredBody, *segment, found.offset, *seq, 1, detail));
        }
        judged
    }
}

fn place(class: Class, segment: u64, offset: u64, seq: u64, records: u64, detail: String) -> Break {
    Break { class, segment, offset, seq, records, detail }
}

/// Looks at records, ascending, wherever their segments are; those that are not there are left out.
///
/// # Errors
/// When a segment cannot be read.
pub(super) fn look_at(segments: Segments<'_>, wanted: &[u64]) -> std::io::Result<HashMap<u64, Target>> {
    let mut found = HashMap::new();
    let files = if wanted.is_empty() { Vec::new() } else { segments.list()? };
    let mut left = wanted;
    while let Some(seq) = left.first() {
        let begun = segments.begun_by(&files, *seq)?;
        let next = match files.get(begun) {
            Some(next) => segments.first_seq(next.index)?,
            None => None,
        };
        let (here, behind) = left.split_at(left.partition_point(|seq| next.is_none_or(|next| *seq < next)));
        if let Some(file) = files[..begun].last() {
            found.extend(look_in(file.index, &segments.open(file.index)?.read()?, here));
        }
        left = behind;
    }
    Ok(found)
}

/// As [`look_at`], in a segment at hand.
pub(super) fn look_in(segment: u64, bytes: &[u8], wanted: &[u64]) -> HashMap<u64, Target> {
    let (mut found, mut offset) = (HashMap::new(), 0);
    while let Some(header) = header_at(bytes, offset) {
        if wanted.binary_search(&header.seq).is_ok() {
            found.extend(target(segment, bytes, offset as u64).map(|target| (header.seq, target)));
        }
        offset += stored_len(header.body_len as usize);
    }
    found
}

fn target(segment: u64, bytes: &[u8], offset: u64) -> Option<Target> {
    let at = usize::try_from(offset).ok()?;
    let header = header_at(bytes, at)?;
    let body = match read_record(bytes, at) {
        Ok(_) => Stored::Whole,
        Err(Flaw::Erased) => Stored::Erased,
        Err(_) if is_partly_erased(bytes, at) => Stored::Partly,
        Err(_) => Stored::Altered,
    };
    let redactable = is_redactable(&header);
    Some(Target { segment, offset, body_digest: header.body_digest, redactable, body })
}

fn header_at(bytes: &[u8], offset: usize) -> Option<Header> {
    Header::parse(bytes.get(offset..)?.first_chunk::<HEADER_BYTES>()?).ok()
}
