//! Proofs as files: C2SP tlog-proof for one record, and for two states of the log the body of tlog-witness'
//! add-checkpoint. Everything is in the file; checking needs it and a verifier key.
//!
//! There is one spelling of each proof, and no byte of it is free: whatever differs is refused, with its class.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use super::{is_consistent, root_of_inclusion};
use crate::audit::{
    classes::classes,
    hex::hex,
    id::RecordId,
    note::{Checkpoint, CheckpointKey, NoteError, UnverifiedNote},
    record::{BODY_BYTES_MAX, HASHED_BYTES, HEADER_BYTES, Hash, Header, event_hash},
    schema::{self, Kind},
    tail::{body_json, time},
};

/// A proof that one record is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InclusionProof {
    /// The record's `seq`.
    pub index: u64,
    /// The heads of its path, from its sibling up.
    pub path: Vec<Hash>,
    /// The record's event hash.
    pub hash: Hash,
    /// What that hash covers: the first 116 bytes of the record's header.
    pub entry: [u8; HASHED_BYTES],
    /// The record's body, if it is shown.
    pub body: Option<Vec<u8>>,
    /// The checkpoint, as signed.
    pub note: String,
}

/// A proof that one signed state of a log continues another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistencyProof {
    /// Records the older checkpoint covers.
    pub old_size: u64,
    /// The heads of the path.
    pub path: Vec<Hash>,
    /// The newer checkpoint, as signed.
    pub note: String,
}

/// What whoever checks a proof brings along.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// Keys that may have signed the checkpoint.
    pub keys: &'a [CheckpointKey],
    /// The log's name; `None`: the name of the key.
    pub origin: Option<&'a str>,
    /// The record it must be about. Its boot is not part of a record's header and cannot be compared.
    pub id: Option<RecordId>,
}

/// What an inclusion proof established.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenRecord {
    /// The state of the log that it is in.
    pub checkpoint: Checkpoint,
    /// The record's event hash.
    pub hash: Hash,
    /// The record's header.
    pub header: Header,
    /// The record's body, if it was shown.
    pub body: Option<Vec<u8>>,
    /// The checkpoint as it was signed.
    pub note: String,
}

/// What a consistency proof established.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenGrowth {
    /// The older state.
    pub old: Checkpoint,
    /// The newer one, which continues it.
    pub new: Checkpoint,
    /// The newer one as it was signed.
    pub note: String,
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{class}: {detail}")]
pub struct Refusal {
    /// What kind of reason.
    pub class: ProofClass,
    /// What was found and what was expected, in words.
    pub detail: String,
}

classes! {
    /// The kinds of reasons. Names and exit codes are stable; what `edgate audit verify` has too has its code there.
    pub enum ProofClass {
        /// The body is not the one that the record commits to.
        AlteredBody = "altered-body", 1;
        /// The record does not hash to what the proof says of it.
        AlteredRecord = "altered-record", 20;
        /// The signature does not verify.
        BadSignature = "bad-signature", 9;
        /// The file ends too early.
        CutShort = "cut-short", 21;
        /// The newer checkpoint does not continue the older one, or a hash of the proof was altered.
        Inconsistent = "inconsistent", 22;
        /// Not a proof, or not in the one form it has.
        Malformed = "malformed", 23;
        /// The path does not lead to the signed tree head: a hash was altered, or the record is not in the log.
        NotIncluded = "not-included", 24;
        /// What was signed before is gone from the log, or is another.
        Rollback = "rollback", 25;
        /// It cannot be told: what would show it was retired and is not at hand.
        Unchecked = "unchecked", 17;
        /// The checkpoint has no signature.
        Unsigned = "unsigned", 12;
        /// The index is not that of the record, or the old size not that of the older checkpoint.
        WrongIndex = "wrong-index", 26;
        /// The checkpoint is not signed by a key that was given.
        WrongKey = "wrong-key", 10;
        /// The checkpoint is of another log.
        WrongOrigin = "wrong-origin", 11;
        /// The proof is about another record than the one asked for.
        WrongRecord = "wrong-record", 27;
    }
}

impl ProofClass {
    pub(in crate::audit) fn refuse(self, detail: impl fmt::Display) -> Refusal {
        Refusal { class: self, detail: detail.to_string() }
    }
}

impl InclusionProof {
    /// The file (C2SP tlog-proof). `extra` holds event hash, entry and, if shown, body, back to back.
    #[must_use]
    pub fn to_text(&self) -> String {
        let extra = [&self.hash[..], &self.entry, self.body.as_deref().unwrap_or_default()].concat();
        let mut text = format!("{TITLE}{EXTRA}{}\n{INDEX}{}\n", STANDARD.encode(extra), self.index);
        push_path(&mut text, &self.path);
        text.push_str(&self.note);
        text
    }

    /// Reads a file. Nothing it says is checked but its form: [`verify_inclusion`] is what checks.
    ///
    /// # Errors
    /// [`ProofClass::CutShort`] or [`ProofClass::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let text = text_of(bytes, TITLE)?;
        let (lines, note) = parts(&text[TITLE.len()..])?;
        let mut lines = lines.split('\n');
        let malformed = |what| move || ProofClass::Malformed.refuse(what);
        let extra = lines.next().and_then(|line| STANDARD.decode(line.strip_prefix(EXTRA)?).ok());
        let extra = extra.ok_or_else(malformed("no record in the line `extra`"))?;
        let (hash, rest) = extra.split_first_chunk().ok_or_else(malformed("the record is too short"))?;
        let (entry, body) = rest.split_first_chunk().ok_or_else(malformed("the record is too short"))?;
        let index = lines.next().and_then(|line| number(line.strip_prefix(INDEX)?));
        Ok(Self {
            index: index.ok_or_else(malformed("no number in the line `index`"))?,
            path: hashes(lines)?,
            hash: *hash,
            entry: *entry,
            body: (!body.is_empty()).then(|| body.to_vec()),
            note: note.to_owned(),
        })
    }
}

impl ConsistencyProof {
    /// The file: old size, path and newer checkpoint, as a witness is asked (C2SP tlog-witness, add-checkpoint).
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("{OLD}{}\n", self.old_size);
        push_path(&mut text, &self.path);
        text.push_str(&self.note);
        text
    }

    /// Reads a file, as [`InclusionProof::parse`].
    ///
    /// # Errors
    /// [`ProofClass::CutShort`] or [`ProofClass::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let text = text_of(bytes, OLD)?;
        let (lines, note) = parts(text)?;
        let mut lines = lines.split('\n');
        let old_size = lines.next().and_then(|line| number(line.strip_prefix(OLD)?));
        let old_size = old_size.ok_or_else(|| ProofClass::Malformed.refuse("no number in the line `old`"))?;
        Ok(Self { old_size, path: hashes(lines)?, note: note.to_owned() })
    }
}

impl ProvenRecord {
    /// What the header says, and the body if it was shown.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let header = &self.header;
        let kind = Kind::from_code(header.kind);
        let body = self.body.as_ref().map(|body| body_json(header, body).unwrap_or_default());
        serde_json::json!({
            "seq": header.seq,
            "time": time(header.wall_ns),
            "wall_ns": header.wall_ns,
            "mono_ns": header.mono_ns,
            "kind": kind.map_or_else(|| header.kind.to_string(), |kind| kind.name().to_owned()),
            "core": header.core,
            "core_seq": header.core_seq,
            "epoch": header.epoch,
            "event_hash": hex(&self.hash),
            "prev_hash": hex(&header.prev_hash),
            "body_digest": hex(&header.body_digest),
            "body": body,
        })
    }
}

/// Checks a proof file for one record.
///
/// # Errors
/// The first reason why it proves nothing.
pub fn verify_inclusion(file: &[u8], expected: &Expected<'_>) -> Result<ProvenRecord, Refusal> {
    let proof = InclusionProof::parse(file)?;
    let checkpoint = open_note(&proof.note, expected)?;
    let mut header = [0; HEADER_BYTES];
    header[..HASHED_BYTES].copy_from_slice(&proof.entry);
    let hash = event_hash(&header);
    if hash != proof.hash {
        return Err(ProofClass::AlteredRecord.refuse("the record does not hash to the event hash beside it"));
    }
    let header = Header::parse(&header).map_err(|error| ProofClass::AlteredRecord.refuse(error))?;
    if header.seq != proof.index {
        let detail = format!("the proof is for index {}, the record is number {}", proof.index, header.seq);
        return Err(ProofClass::WrongIndex.refuse(detail));
    }
    if proof.index >= checkpoint.size {
        let detail = format!("record {} is beyond the checkpoint of {}", proof.index, checkpoint.size);
        return Err(ProofClass::WrongIndex.refuse(detail));
    }
    if let Some(body) = &proof.body
        && (body.len() != header.body_len as usize || Sha256::digest(body)[..] != header.body_digest)
    {
        return Err(ProofClass::AlteredBody.refuse("the body does not match the record's digest of it"));
    }
    if let Some(body) = &proof.body {
        schema::check_body(header.kind, header.schema, body)
            .map_err(|error| ProofClass::AlteredBody.refuse(error))?;
    }
    if root_of_inclusion(&hash, proof.index, checkpoint.size, &proof.path) != Some(checkpoint.root) {
        let detail = format!("the path does not lead to the tree head signed at size {}", checkpoint.size);
        return Err(ProofClass::NotIncluded.refuse(detail));
    }
    if let Some(id) = expected.id
        && (id.core, id.core_seq) != (header.core, header.core_seq)
    {
        let (core, core_seq) = (header.core, header.core_seq);
        return Err(ProofClass::WrongRecord.refuse(format!("it is for id …-{core:x}-{core_seq:x}, not {id}")));
    }
    Ok(ProvenRecord { checkpoint, hash, header, body: proof.body, note: proof.note })
}

/// Checks a proof file for two states of a log, of which `old_note` is the older; returns both.
///
/// # Errors
/// The first reason why it proves nothing; [`ProofClass::Rollback`] where the older checkpoint covers more records, or
/// as many and other ones.
pub fn verify_consistency(
    file: &[u8],
    old_note: &[u8],
    expected: &Expected<'_>,
) -> Result<ProvenGrowth, Refusal> {
    let in_old = |refusal: Refusal| refusal.class.refuse(format!("the older checkpoint: {}", refusal.detail));
    let old = std::str::from_utf8(old_note)
        .map_err(|_| ProofClass::Malformed.refuse("it is not text"))
        .and_then(|note| open_note(note, expected))
        .map_err(in_old)?;
    let proof = ConsistencyProof::parse(file)?;
    let new = open_note(&proof.note, expected)?;
    if old.origin != new.origin {
        let detail = format!("the checkpoints are of {:?} and of {:?}", old.origin, new.origin);
        return Err(ProofClass::WrongOrigin.refuse(detail));
    }
    if old.size > new.size {
        let detail = format!("{} records were signed, the newer checkpoint has {}", old.size, new.size);
        return Err(ProofClass::Rollback.refuse(detail));
    }
    if old.size == new.size && old.root != new.root {
        let detail = format!("two tree heads of {} records were signed", old.size);
        return Err(ProofClass::Rollback.refuse(detail));
    }
    if proof.old_size != old.size {
        let detail =
            format!("the proof begins at {} records, the older checkpoint has {}", proof.old_size, old.size);
        return Err(ProofClass::WrongIndex.refuse(detail));
    }
    if !is_consistent(old.size, new.size, &old.root, &new.root, &proof.path) {
        let detail = format!("the path does not lead from {} records to {}", old.size, new.size);
        return Err(ProofClass::Inconsistent.refuse(detail));
    }
    Ok(ProvenGrowth { old, new, note: proof.note })
}

/// Reads a checkpoint and checks whose it is and who signed it.
pub(in crate::audit) fn open_note(note: &str, expected: &Expected<'_>) -> Result<Checkpoint, Refusal> {
    let Some((_, signatures)) = note.split_once("\n\n") else {
        return Err(match note.lines().count() {
            3 => ProofClass::Unsigned.refuse("the checkpoint has no signature"),
            _ => ProofClass::CutShort.refuse("the checkpoint is not whole"),
        });
    };
    if !note.ends_with('\n') {
        return Err(ProofClass::CutShort.refuse("the last line has no end"));
    }
    if signatures.lines().any(str::is_empty) {
        return Err(ProofClass::Malformed.refuse("an empty line stands among the signatures"));
    }
    let refused = |error: NoteError| ProofClass::from(error).refuse(format!("checkpoint: {error}"));
    let note = UnverifiedNote::parse(note).map_err(refused)?;
    let origin = &note.checkpoint().origin;
    let known = match expected.origin {
        Some(expected) => origin.as_str() == expected,
        None => expected.keys.iter().any(|key| key.name == *origin),
    };
    if !known {
        let named: Vec<_> = expected.keys.iter().map(|key| key.name.as_str()).collect();
        let wanted = expected.origin.map_or_else(|| named.join(", "), str::to_owned);
        return Err(
            ProofClass::WrongOrigin.refuse(format!("the checkpoint is of {origin:?}, not of {wanted}"))
        );
    }
    let keys: Vec<_> = expected
        .keys
        .iter()
        .filter(|key| expected.origin.is_some() || key.name == *origin)
        .cloned()
        .collect();
    note.verify(&keys).map_err(refused)?;
    Ok(note.checkpoint().clone())
}

/// The text of a proof that begins with `title`.
fn text_of<'a>(bytes: &'a [u8], title: &str) -> Result<&'a str, Refusal> {
    if bytes.len() > PROOF_BYTES_MAX {
        return Err(ProofClass::Malformed.refuse(format!("longer than any proof: {PROOF_BYTES_MAX} bytes")));
    }
    let text =
        std::str::from_utf8(bytes).map_err(|_| ProofClass::Malformed.refuse("the file is not text"))?;
    if text.len() < title.len() && title.starts_with(text) {
        return Err(ProofClass::CutShort.refuse("the file ends in its first line"));
    }
    if !text.starts_with(title) {
        return Err(
            ProofClass::Malformed.refuse(format!("the file does not begin with `{}`", title.trim_end()))
        );
    }
    Ok(text)
}

/// The lines of a proof, and its checkpoint.
fn parts(text: &str) -> Result<(&str, &str), Refusal> {
    text.split_once("\n\n").ok_or_else(|| ProofClass::CutShort.refuse("the checkpoint is missing"))
}

fn push_path(text: &mut String, path: &[Hash]) {
    for hash in path {
        text.push_str(&STANDARD.encode(hash));
        text.push('\n');
    }
    text.push('\n');
}

fn hashes<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Hash>, Refusal> {
    lines
        .map(|line| {
            let hash = STANDARD.decode(line).ok().and_then(|bytes| bytes.try_into().ok());
            hash.ok_or_else(|| ProofClass::Malformed.refuse("a line of the path is not a hash"))
        })
        .collect()
}

/// A number in its one spelling.
fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}

/// The longest file: the longest body, and what stands around it.
pub const PROOF_BYTES_MAX: usize = BODY_BYTES_MAX / 3 * 4 + 8 * 1024;

const TITLE: &str = "c2sp.org/tlog-proof@v1\n";
const EXTRA: &str = "extra ";
const INDEX: &str = "index ";
const OLD: &str = "old ";
