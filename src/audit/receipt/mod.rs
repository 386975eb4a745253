//! Receipts: with an answer, the node's signed promise that the record of that answer is in its log.
//!
//! A receipt names the record and the digest of its body, and is given out only once that record is flushed. Whoever
//! keeps one can show later that a log without the record was cut or rewritten, and that a proof (`proof`) is about the
//! decision they were told of. It needs no log and no node to be checked, only the log's verifying key.
//!
//! The checkpoint key, which may live in an HSM that signs a few times a second, certifies a key in memory that signs
//! receipts, for an hour (`key.rs`). That key signs once for all receipts of a batch: the head of a small tree whose
//! leaves are the records (`sign.rs`). `check.rs` is the other side. FORMAT.md has the bytes.

mod check;
mod key;
mod sign;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use super::{id::RecordId, merkle::node_hash, proof::ProofClass, record::Hash};

pub(super) use key::{ReceiptKey, Renewal};
pub use sign::{ReceiptBatch, SignedReceipts};

/// A receipt as read: nothing in it is checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The record that is promised.
    pub id: RecordId,
    /// Its kind.
    pub kind: u16,
    /// The digest of its body.
    pub body_digest: Hash,
    /// When the receipt was signed, in seconds since 1970, by the node's clock.
    pub signed_at: u64,
    /// The log's name.
    pub origin: String,
    certified: Certified,
    index: u16,
    path: Vec<Hash>,
    signature: [u8; 64],
}

/// A key of receipts, as certified.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Certified {
    verifying_key: [u8; 32],
    not_before: u64,
    not_after: u64,
    certificate: [u8; 64],
}

/// What is promised about one record: its leaf in the tree of the batch.
struct Promise {
    id: RecordId,
    kind: u16,
    body_digest: Hash,
}

impl Promise {
    fn leaf(&self) -> Hash {
        Sha256::new()
            .chain_update([0])
            .chain_update(self.id.boot.to_le_bytes())
            .chain_update(self.id.core.to_le_bytes())
            .chain_update(self.kind.to_le_bytes())
            .chain_update(self.id.core_seq.to_le_bytes())
            .chain_update(self.body_digest)
            .finalize()
            .into()
    }
}

/// What a receipt consists of besides its path, wherever it lies.
struct Parts<'a> {
    promise: &'a Promise,
    signed_at: u64,
    origin: &'a str,
    certified: &'a Certified,
    signature: &'a [u8; 64],
    index: u16,
}

impl Parts<'_> {
    /// Appends the receipt to `out`.
    fn write(&self, path: impl ExactSizeIterator<Item = Hash>, out: &mut Vec<u8>) {
        let Promise { id, kind, body_digest } = self.promise;
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&id.boot.to_le_bytes());
        out.extend_from_slice(&id.core.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&id.core_seq.to_le_bytes());
        out.extend_from_slice(body_digest);
        out.extend_from_slice(&self.signed_at.to_le_bytes());
        out.extend_from_slice(&self.certified.not_before.to_le_bytes());
        out.extend_from_slice(&self.certified.not_after.to_le_bytes());
        out.extend_from_slice(&self.certified.verifying_key);
        out.extend_from_slice(&self.certified.certificate);
        out.extend_from_slice(self.signature);
        out.extend_from_slice(&self.index.to_le_bytes());
        out.push(u8::try_from(path.len()).expect("at most DEPTH_MAX"));
        out.push(u8::try_from(self.origin.len()).expect("an origin is short"));
        out.extend_from_slice(self.origin.as_bytes());
        path.for_each(|hash| out.extend_from_slice(&hash));
    }
}

/// What the checkpoint key signs about a key of receipts. Its second line is no number, so it is never a checkpoint.
fn certificate_text(origin: &str, boot: u64, key: &Certified) -> String {
    let hex = super::hex(&key.verifying_key);
    format!(
        "edgate receipt key v1\norigin {origin}\nboot {boot:016x}\nkey {hex}\nfrom {} until {}\n",
        key.not_before, key.not_after
    )
}

/// What a key of receipts signs: the head of a tree of `2^depth` leaves.
fn batch_text(origin: &str, signed_at: u64, depth: usize, root: &Hash) -> String {
    let hex = super::hex(root);
    format!("edgate receipts v1\norigin {origin}\nat {signed_at}\ndepth {depth}\nroot {hex}\n")
}

/// The head of the batch's tree, from one leaf and its path.
fn root_of(leaf: Hash, index: u16, path: &[Hash]) -> Hash {
    path.iter().enumerate().fold(leaf, |head, (level, sibling)| match index >> level & 1 {
        0 => node_hash(&head, sibling),
        _ => node_hash(sibling, &head),
    })
}

impl Receipt {
    /// Reads the text form. Nothing is checked but the form; [`Self::open`] checks it all.
    ///
    /// # Errors
    /// [`ProofClass::Malformed`] or [`ProofClass::CutShort`], and what was expected.
    pub fn parse(text: &str) -> Result<Self, (ProofClass, &'static str)> {
        let malformed = |what| (ProofClass::Malformed, what);
        let text = text.trim_end();
        if text.len() > RECEIPT_CHARS_MAX {
            return Err(malformed("longer than any receipt"));
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| malformed("not base64url without padding"))?;
        let mut rest = bytes.as_slice();
        if take::<4>(&mut rest)? != MAGIC {
            return Err(malformed("not a receipt of version 1"));
        }
        let (boot, core) = (u64::from_le_bytes(take(&mut rest)?), u16::from_le_bytes(take(&mut rest)?));
        let kind = u16::from_le_bytes(take(&mut rest)?);
        let core_seq = u64::from_le_bytes(take(&mut rest)?);
        let body_digest = take(&mut rest)?;
        let signed_at = u64::from_le_bytes(take(&mut rest)?);
        let not_before = u64::from_le_bytes(take(&mut rest)?);
        let not_after = u64::from_le_bytes(take(&mut rest)?);
        let certified = Certified {
            not_before,
            not_after,
            verifying_key: take(&mut rest)?,
            certificate: take(&mut rest)?,
        };
        let signature = take(&mut rest)?;
        let index = u16::from_le_bytes(take(&mut rest)?);
        let [depth, origin_len] = take(&mut rest)?;
        if usize::from(depth) > DEPTH_MAX || usize::from(index) >> depth != 0 {
            return Err(malformed("a place outside of its tree"));
        }
        let origin = rest.split_off(..usize::from(origin_len)).ok_or(CUT_SHORT)?;
        let origin = std::str::from_utf8(origin).map_err(|_| malformed("a name that is not UTF-8"))?;
        // It becomes a line of what was signed.
        if origin.is_empty() || origin.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(malformed("a name that no log has"));
        }
        let path = (0..depth).map(|_| take(&mut rest)).collect::<Result<_, _>>()?;
        if !rest.is_empty() {
            return Err(malformed("something behind the receipt"));
        }
        Ok(Self {
            id: RecordId { boot, core, core_seq },
            kind,
            body_digest,
            signed_at,
            origin: origin.to_owned(),
            certified,
            index,
            path,
            signature,
        })
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes_len(self.origin.len(), self.path.len()));
        let parts = Parts {
            promise: &Promise { id: self.id, kind: self.kind, body_digest: self.body_digest },
            signed_at: self.signed_at,
            origin: &self.origin,
            certified: &self.certified,
            signature: &self.signature,
            index: self.index,
        };
        parts.write(self.path.iter().copied(), &mut out);
        out
    }

    /// The text form: base64url without padding.
    #[must_use]
    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.to_bytes())
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], (ProofClass, &'static str)> {
    let (taken, left) = rest.split_first_chunk().ok_or(CUT_SHORT)?;
    *rest = left;
    Ok(*taken)
}

/// Bytes of a receipt.
const fn bytes_len(origin_len: usize, depth: usize) -> usize {
    FIXED_BYTES + origin_len + 32 * depth
}

const CUT_SHORT: (ProofClass, &str) = (ProofClass::CutShort, "the receipt ends too early");

/// `EDR` and the version.
const MAGIC: [u8; 4] = *b"EDR\x01";

/// Bytes before the name and the path.
const FIXED_BYTES: usize = 4 + 8 + 2 + 2 + 8 + 32 + 3 * 8 + 32 + 64 + 64 + 2 + 1 + 1;

/// A batch of the shard has at most so many questions, 2 to the power of this.
const DEPTH_MAX: usize = 10;

/// The longest receipt, as text.
pub const RECEIPT_CHARS_MAX: usize = bytes_len(u8::MAX as usize, DEPTH_MAX).div_ceil(3) * 4;

#[cfg(test)]
mod tests;
