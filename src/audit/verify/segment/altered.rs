//! Records in their place whose body is not what the header commits to: altered, or erased, which the join judges.

use sha2::{Digest as _, Sha256};

use super::{Class, Depth, Ending, FoundErased, Scanner};
use crate::audit::{
    erased::Erasure,
    record::{Hash, Header, stored_len},
    walk::{Flaw, Record, is_partly_erased, or_partly_erased, read_record_to},
    writer::Head,
};

impl Scanner {
    /// Whether bodies of this segment can have been erased: a log never erases in the segment it wrote last.
    pub(super) fn may_be_erased(&self) -> bool {
        !matches!(self.ending, Ending::Last)
    }

    /// A record in its place whose header reads well, but whose body, checksum or padding does not fit.
    pub(super) fn pass_altered_record(&mut self, bytes: &[u8], flaw: Flaw, header: &Header, hash: Hash) {
        let next = self.offset + stored_len(header.body_len as usize);
        // The successor tells which side lies: if it continues this header, the header is as it was.
        let continued = linked(bytes, next).is_some_and(|next| next.prev_hash == hash);
        let class = match flaw {
            Flaw::Digest | Flaw::Erased | Flaw::Padding if continued => Class::AlteredBody,
            Flaw::Padding => Class::AlteredBody,
            _ => Class::AlteredHeader,
        };
        self.good_link(header.seq);
        if continued && self.may_be_erased() && is_partly_erased(bytes, self.offset) {
            self.note_erased(header, true);
        } else {
            self.report(class, self.offset, header.seq, 1, &flaw.to_string());
        }
        self.lenient = !continued;
        self.scan.end = Some(Head { size: header.seq + 1, hash });
        self.grow(&hash, header.seq);
        self.scan.records += 1;
        self.offset = next.min(bytes.len());
    }

    /// Who may have had a body erased is for the join to find.
    pub(super) fn note_erased(&mut self, header: &Header, partly: bool) {
        let Header { seq, body_digest, .. } = *header;
        self.scan.erased.push(FoundErased { seq, offset: self.offset as u64, body_digest, partly });
    }

    /// Remembers an ERASE. Its word makes zeros lawful, so a checksum does not stand for its body.
    pub(super) fn note_erase(&mut self, record: &Record<'_>, seq: u64) {
        if <[u8; 32]>::from(Sha256::digest(record.body)) != record.header.body_digest {
            self.report(Class::AlteredBody, self.offset, seq, 1, &Flaw::Digest.to_string());
        }
        self.scan.orders.extend(Erasure::read(record).map(|erasure| (self.offset as u64, erasure)));
    }
}

/// The header of the record at `offset`, if that is one, erased or not.
pub(super) fn linked(bytes: &[u8], offset: usize) -> Option<Header> {
    let found = read_record_to(bytes, offset, Depth::Headers);
    or_partly_erased(found, bytes, offset).ok().map(|record| record.header)
}
