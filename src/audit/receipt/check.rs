//! Checking receipts: alone, and against what somebody says is the log.

use std::path::Path;

use super::{Promise, Receipt, batch_text, certificate_text, key::LIFE_S, root_of};
use crate::audit::{
    error::AuditError,
    folder::SegmentFile,
    note::is_signed,
    proof::{Expected, ProofClass, ProveError, ProvenRecord, Refusal, find_record, retired_before},
    record::Header,
    retire::Retired,
    stored::Segments,
};

impl Receipt {
    /// Reads a receipt and checks everything that can be checked without the log: who certified its key, that it was
    /// signed within that key's life, and that it is what that key signed.
    ///
    /// # Errors
    /// [`Refusal`] with its class.
    pub fn open(text: &str, expected: &Expected<'_>) -> Result<Self, Refusal> {
        let refuse = |class, detail: String| Err(Refusal { class, detail });
        let receipt =
            Self::parse(text).map_err(|(class, what)| Refusal { class, detail: what.to_owned() })?;
        let (origin, certified) = (&receipt.origin, &receipt.certified);
        if let Some(wanted) = expected.origin
            && wanted != origin
        {
            return refuse(ProofClass::WrongOrigin, format!("it is of {origin}, not of {wanted}"));
        }
        let mut named = expected.keys.iter().filter(|key| key.name == *origin).peekable();
        if named.peek().is_none() {
            return refuse(ProofClass::WrongKey, format!("no key of {origin} was given"));
        }
        let text = certificate_text(origin, receipt.id.boot, certified);
        if !named.any(|key| is_signed(&key.verifying_key, text.as_bytes(), &certified.certificate)) {
            let detail = "the key that signed it is not certified by a key that was given".to_owned();
            return refuse(ProofClass::BadSignature, detail);
        }
        if certified.not_after.saturating_sub(certified.not_before) > LIFE_S
            || !certified.covers(receipt.signed_at)
        {
            let detail = "it was signed outside of the life of its key".to_owned();
            return refuse(ProofClass::BadSignature, detail);
        }
        let Self { id, kind, body_digest, .. } = receipt;
        let root = root_of(Promise { id, kind, body_digest }.leaf(), receipt.index, &receipt.path);
        let text = batch_text(origin, receipt.signed_at, receipt.path.len(), &root);
        if !is_signed(&certified.verifying_key, text.as_bytes(), &receipt.signature) {
            return refuse(ProofClass::BadSignature, "it is not what its key signed".to_owned());
        }
        if let Some(id) = expected.id
            && id != receipt.id
        {
            let detail = format!("it is about {}, not about {id}", receipt.id);
            return refuse(ProofClass::WrongRecord, detail);
        }
        Ok(receipt)
    }

    /// Whether a proof is about the record that was promised.
    ///
    /// # Errors
    /// [`ProofClass::WrongRecord`] when it is about another one, [`ProofClass::Rollback`] when it is about one of that
    /// number with other content: the log that proved it is not the one that promised.
    pub fn agrees_with(&self, proven: &ProvenRecord) -> Result<(), Refusal> {
        self.compare(&proven.header)
    }

    /// Looks the record up in the log in `dir`, which was verified by the caller, with the archives in `archives` if
    /// they are given. Answers its `seq`.
    ///
    /// # Errors
    /// [`ProofClass::Rollback`] when it is not there, or is another: the log was cut or rewritten, or the copy is older
    /// than the receipt. [`ProofClass::Unchecked`] when it may be among the records that were retired. Else why the log
    /// cannot be read.
    pub fn find_in(&self, dir: &Path, archives: Option<&Path>) -> Result<Result<u64, Refusal>, ProveError> {
        let log = Segments { dir, elsewhere: archives };
        let header = match find_record(log, self.id) {
            Ok(found) => found.header,
            Err(ProveError::UnknownRecord { .. }) => {
                let retired = retired_before(log, &list(log)?)?;
                if let Some(retired) = retired.filter(|retired| self.may_be_among(retired)) {
                    let detail = format!(
                        "cannot tell: the first {} records were retired, and {} may be one of them; their archives show it (--archives)",
                        retired.size, self.id
                    );
                    return Ok(Err(Refusal { class: ProofClass::Unchecked, detail }));
                }
                let detail = format!(
                    "the log has no record {}, which it promised: it was cut or rewritten, or this copy was made before",
                    self.id
                );
                return Ok(Err(Refusal { class: ProofClass::Rollback, detail }));
            }
            Err(error) => return Err(error),
        };
        Ok(self.compare(&header).map(|()| header.seq))
    }

    /// Whether the record may be one that was retired: none of those is younger than the last of them, and a record is
    /// promised soon after it was made.
    fn may_be_among(&self, retired: &Retired) -> bool {
        self.signed_at <= retired.last_wall_ns / 1_000_000_000 + LIFE_S
    }

    fn compare(&self, header: &Header) -> Result<(), Refusal> {
        if (header.core, header.core_seq) != (self.id.core, self.id.core_seq) {
            let detail = format!("that is record …-{:x}-{:x}, not {}", header.core, header.core_seq, self.id);
            return Err(Refusal { class: ProofClass::WrongRecord, detail });
        }
        if (header.kind, header.body_digest) != (self.kind, self.body_digest) {
            let detail = format!("record {} is not the one that was promised", self.id);
            return Err(Refusal { class: ProofClass::Rollback, detail });
        }
        Ok(())
    }
}

fn list(log: Segments<'_>) -> Result<Vec<SegmentFile>, AuditError> {
    log.list().map_err(|source| AuditError::io("list the segments of", log.dir, source))
}
