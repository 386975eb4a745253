//! Checkpoints: a C2SP tlog-checkpoint (origin, size, root) in a C2SP signed-note.
//!
//! Signatures are Ed25519 (signature type 0x01). Types 0x02 (ECDSA P-256) and 0x06 (ML-DSA-44) are kept free.

use std::ops::RangeInclusive;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest as _, Sha256};

use super::record::Hash;

/// What a checkpoint says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// Records in the log.
    pub size: u64,
    /// RFC 6962 tree head over their event hashes.
    pub root: Hash,
}

/// A key that checkpoints may be signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointKey {
    /// The key's name: by convention the log's origin.
    pub name: String,
    /// 32 bytes of an Ed25519 verifying key.
    pub verifying_key: [u8; 32],
    /// The sizes of the log that it may sign checkpoints of: all, or those between two handovers
    /// ([`KeyHistory`](super::KeyHistory)).
    pub sizes: RangeInclusive<u64>,
}

/// Why a note is not a checkpoint signed by a key we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// A signature of one of our keys does not verify.
    #[error("signature does not verify")]
    BadSignature,
    /// Not a checkpoint, or not in the one form it has.
    #[error("note is malformed")]
    Malformed,
    /// A key signed it that was not the log's when the log had this size.
    #[error("signed by a key of the log that it had before or after, not at this size")]
    OutOfTurn,
    /// No signature line.
    #[error("signature is missing")]
    Unsigned,
    /// No signature by a key we know.
    #[error("no signature by a known key")]
    WrongKey,
}

impl Checkpoint {
    /// The text that is signed: three lines (tlog-checkpoint).
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// The signed note (signed-note: text, empty line, signature lines).
    #[must_use]
    pub fn to_note(&self, key: &CheckpointKey, signature: &[u8; 64]) -> String {
        format!("{}\n{}", self.to_text(), key.signature_line(signature))
    }

    /// Reads a note and checks that a key of `keys` signed it. Signatures of other keys say nothing (C2SP signed-note).
    ///
    /// # Errors
    /// [`NoteError`]; a note is never accepted without a signature.
    pub fn open(note: &str, keys: &[CheckpointKey]) -> Result<Self, NoteError> {
        let note = UnverifiedNote::parse(note)?;
        note.verify(keys)?;
        Ok(note.checkpoint)
    }

    /// Whose signatures stand below a note, by name and key id; none of them is checked. Nobody's for what is no note.
    #[must_use]
    pub fn signers(note: &str) -> Vec<(String, [u8; 4])> {
        let signatures = UnverifiedNote::parse(note).map(|note| note.signatures).unwrap_or_default();
        signatures.into_iter().map(|one| (one.name, one.id)).collect()
    }

    /// Reads a note without checking its signatures.
    ///
    /// # Errors
    /// [`NoteError::Malformed`].
    pub fn read_unverified(note: &str) -> Result<Self, NoteError> {
        UnverifiedNote::parse(note).map(|note| note.checkpoint)
    }
}

/// A note as read: what it says, and who it says signed that. None of it is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnverifiedNote {
    checkpoint: Checkpoint,
    pub(super) signatures: Vec<NoteSignature>,
}

/// A signature line: of another key it may be of any kind and length, such as a witness's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NoteSignature {
    /// The key's name.
    pub(super) name: String,
    /// The key's id.
    pub(super) id: [u8; 4],
    pub(super) signature: Vec<u8>,
}

impl UnverifiedNote {
    /// Reads a note.
    ///
    /// # Errors
    /// [`NoteError::Malformed`].
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        let (text, signatures) = note.split_once("\n\n").ok_or(NoteError::Malformed)?;
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root), None) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(NoteError::Malformed);
        };
        let checkpoint = Checkpoint {
            origin: origin.to_owned(),
            size: size.parse().map_err(|_| NoteError::Malformed)?,
            root: STANDARD
                .decode(root)
                .ok()
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or(NoteError::Malformed)?,
        };
        // One spelling: what we would have written is what stands there.
        if checkpoint.to_text().strip_suffix('\n') != Some(text) {
            return Err(NoteError::Malformed);
        }
        let signatures = signatures.strip_suffix('\n').unwrap_or(signatures);
        let signatures = signatures
            .split('\n')
            .filter(|line| !line.is_empty())
            .map(|line| NoteSignature::parse(line).ok_or(NoteError::Malformed))
            .collect::<Result<_, _>>()?;
        Ok(Self { checkpoint, signatures })
    }

    /// What it says.
    #[must_use]
    pub const fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Checks that a key of `keys` signed it; yields the note with that signature alone.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn verify(&self, keys: &[CheckpointKey]) -> Result<String, NoteError> {
        let text = self.checkpoint.to_text();
        if self.signatures.is_empty() {
            return Err(NoteError::Unsigned);
        }
        for NoteSignature { name, id, signature } in &self.signatures {
            let Some(key) = keys.iter().find(|key| key.name == *name && key.id() == *id) else { continue };
            if !key.sizes.contains(&self.checkpoint.size) {
                return Err(NoteError::OutOfTurn);
            }
            let signature: &[u8; 64] =
                signature.as_slice().try_into().map_err(|_| NoteError::BadSignature)?;
            return if is_signed(&key.verifying_key, text.as_bytes(), signature) {
                Ok(self.checkpoint.to_note(key, signature))
            } else {
                Err(NoteError::BadSignature)
            };
        }
        Err(NoteError::WrongKey)
    }
}

impl NoteSignature {
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (name, encoded) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
        let bytes = STANDARD.decode(encoded).ok()?;
        let (id, signature) = bytes.split_first_chunk::<4>()?;
        let (name, signature) = (name.to_owned(), signature.to_vec());
        (!name.is_empty() && !signature.is_empty()).then_some(Self { name, id: *id, signature })
    }
}

impl CheckpointKey {
    /// A key that may sign checkpoints of every size.
    #[must_use]
    pub fn new(name: impl Into<String>, verifying_key: [u8; 32]) -> Self {
        Self { name: name.into(), verifying_key, sizes: 0..=u64::MAX }
    }

    /// The key id of signed-note: `SHA-256(name ‖ 0x0A ‖ 0x01 ‖ key)[..4]`.
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        key_id(&self.name, ED25519, &self.verifying_key)
    }

    /// Whether both are one key, whatever sizes they may sign.
    pub(super) fn is(&self, other: &Self) -> bool {
        (&self.name, &self.verifying_key) == (&other.name, &other.verifying_key)
    }

    /// A signature line of a note.
    pub(super) fn signature_line(&self, signature: &[u8; 64]) -> String {
        format!("\u{2014} {} {}\n", self.name, STANDARD.encode([&self.id()[..], signature].concat()))
    }

    /// The verifier key as one line of text (signed-note "vkey"): `name+id+base64(0x01 ‖ key)`.
    #[must_use]
    pub fn to_text(&self) -> String {
        key_text(&self.name, ED25519, &self.verifying_key)
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// [`NoteError::Malformed`], also when the id does not belong to the key.
    pub fn from_text(text: &str) -> Result<Self, NoteError> {
        let (name, verifying_key) = key_from_text(text, ED25519)?;
        Ok(Self::new(name, verifying_key))
    }
}

/// Whether `signature` is one of `message` by this key, strictly (RFC 8032 with no key of small order).
pub(super) fn is_signed(verifying_key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(verifying_key)
        .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
}

/// The key id of signed-note, for a key that signs as `kind` says.
pub(super) fn key_id(name: &str, kind: u8, key: &[u8; 32]) -> [u8; 4] {
    let hash = Sha256::new().chain_update(name).chain_update([b'\n', kind]).chain_update(key).finalize();
    [hash[0], hash[1], hash[2], hash[3]]
}

/// A verifier key as text.
pub(super) fn key_text(name: &str, kind: u8, key: &[u8; 32]) -> String {
    let id = u32::from_be_bytes(key_id(name, kind, key));
    format!("{name}+{id:08x}+{}", STANDARD.encode([&[kind], &key[..]].concat()))
}

/// Reads a verifier key of this kind: its name and the key.
pub(super) fn key_from_text(text: &str, kind: u8) -> Result<(String, [u8; 32]), NoteError> {
    let text = text.trim_end();
    let mut parts = text.splitn(3, '+');
    let (Some(name), Some(_id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(NoteError::Malformed);
    };
    let bytes = STANDARD.decode(key).map_err(|_| NoteError::Malformed)?;
    let key: [u8; 32] = match bytes.split_first() {
        Some((found, key)) if *found == kind => key.try_into().map_err(|_| NoteError::Malformed)?,
        _ => return Err(NoteError::Malformed),
    };
    // signed-note: names are not empty and have neither spaces nor a plus.
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(NoteError::Malformed);
    }
    if key_text(name, kind, &key) == text { Ok((name.to_owned(), key)) } else { Err(NoteError::Malformed) }
}

/// signed-note's type of Ed25519 keys and signatures.
const ED25519: u8 = 0x01;

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    fn signed() -> (Checkpoint, CheckpointKey, String) {
        let signing = SigningKey::from_bytes(&[7; 32]);
        let key = CheckpointKey::new("test.example/log", signing.verifying_key().to_bytes());
        let checkpoint = Checkpoint { origin: key.name.clone(), size: 42, root: [9; 32] };
        let note = checkpoint.to_note(&key, &signing.sign(checkpoint.to_text().as_bytes()).to_bytes());
        (checkpoint, key, note)
    }

    #[test]
    fn a_signed_note_opens_with_its_key_only() {
        let (checkpoint, key, note) = signed();
        assert_eq!(Checkpoint::open(&note, std::slice::from_ref(&key)), Ok(checkpoint));
        assert_eq!(Checkpoint::open(&note, &[]), Err(NoteError::WrongKey));
        let mut other = key.clone();
        other.verifying_key[0] ^= 1;
        assert_eq!(Checkpoint::open(&note, &[other]), Err(NoteError::WrongKey));
        assert_eq!(CheckpointKey::from_text(&key.to_text()), Ok(key));
    }

    /// Found by the fuzz body `audit_note`: names that no note can carry made keys, which then matched nothing.
    #[test]
    fn a_key_needs_a_name_that_a_note_can_carry() {
        for name in ["", "a b", "a\u{a0}b", "a\tb", "a\nb", "a+b"] {
            let text = CheckpointKey::new(name, [1; 32]).to_text();
            assert_eq!(CheckpointKey::from_text(&text), Err(NoteError::Malformed), "{name:?}");
        }
    }

    #[test]
    fn every_changed_byte_of_a_note_is_caught() {
        let (_, key, note) = signed();
        for at in 0..note.len() {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            assert!(Checkpoint::open(&changed, std::slice::from_ref(&key)).is_err(), "byte {at}: {changed}");
        }
    }

    #[test]
    fn signatures_of_other_keys_and_kinds_are_passed_over_and_stand_for_nothing() {
        let (checkpoint, key, note) = signed();
        // A witness's: a key id, eight bytes of time, a signature.
        let other = |bytes: usize| format!("\u{2014} witness.example {}\n", STANDARD.encode(vec![4; bytes]));
        let (text, ours) = note.split_once("\n\n").unwrap();
        for line in [other(76), other(5), other(2424)] {
            for note in [format!("{note}{line}"), format!("{text}\n\n{line}{ours}")] {
                assert_eq!(Checkpoint::open(&note, std::slice::from_ref(&key)), Ok(checkpoint.clone()));
            }
            let alone = format!("{text}\n\n{line}");
            assert_eq!(Checkpoint::open(&alone, std::slice::from_ref(&key)), Err(NoteError::WrongKey));
        }
        assert_eq!(
            Checkpoint::open(&format!("{note}{}", other(4)), std::slice::from_ref(&key)),
            Err(NoteError::Malformed)
        );
        // Ours, of another length.
        let short = key.id().into_iter().chain([1; 20]).collect::<Vec<u8>>();
        let line = format!("\u{2014} {} {}\n", key.name, STANDARD.encode(short));
        let cut = format!("{text}\n\n{line}");
        assert_eq!(Checkpoint::open(&cut, &[key]), Err(NoteError::BadSignature));
    }

    #[test]
    fn a_note_without_a_signature_is_a_failure() {
        let (checkpoint, key, _) = signed();
        assert_eq!(
            Checkpoint::open(&format!("{}\n", checkpoint.to_text()), &[key]),
            Err(NoteError::Unsigned)
        );
    }
}
