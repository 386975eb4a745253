//! What a witness adds to a checkpoint: a C2SP tlog-cosignature, Ed25519 with a time (signature type 0x04).
//!
//! It states that at that time the checkpoint was the largest consistent one which the witness had seen of this log.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};

use super::note::{Checkpoint, NoteError, NoteSignature, UnverifiedNote, key_from_text, key_id, key_text};

/// A key that a witness cosigns with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessKey {
    /// The witness's name: a URL without its scheme.
    pub name: String,
    /// 32 bytes of an Ed25519 verifying key.
    pub verifying_key: [u8; 32],
}

/// A cosignature that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cosigned {
    /// The witness's name.
    pub witness: String,
    /// The id of the key it cosigned with: of one name a witness may have two, while it changes from one to the other.
    pub key_id: [u8; 4],
    /// When it cosigned, by its own clock: seconds since 1970.
    pub time: u64,
}

impl WitnessKey {
    /// The key id: `SHA-256(name ‖ 0x0A ‖ 0x04 ‖ key)[..4]`.
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        key_id(&self.name, COSIGNATURE, &self.verifying_key)
    }

    /// The verifier key as one line of text: `name+id+base64(0x04 ‖ key)`.
    #[must_use]
    pub fn to_text(&self) -> String {
        key_text(&self.name, COSIGNATURE, &self.verifying_key)
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// [`NoteError::Malformed`], also for a key of another kind: a log's own key is no witness.
    pub fn from_text(text: &str) -> Result<Self, NoteError> {
        let (name, verifying_key) = key_from_text(text, COSIGNATURE)?;
        Ok(Self { name, verifying_key })
    }

    /// What is signed: two lines of its own, then the checkpoint's text.
    #[must_use]
    pub fn message(checkpoint: &Checkpoint, time: u64) -> String {
        format!("cosignature/v1\ntime {time}\n{}", checkpoint.to_text())
    }

    /// The line that is put below the log's own signature.
    #[must_use]
    pub fn line(&self, time: u64, signature: &[u8; 64]) -> String {
        let signed = [&self.id()[..], &time.to_be_bytes(), signature].concat();
        format!("\u{2014} {} {}\n", self.name, STANDARD.encode(signed))
    }

    /// Checks a line as it came from somewhere; `None` if it is of another key.
    ///
    /// # Errors
    /// [`NoteError::BadSignature`] if it is of this key and does not verify.
    pub fn check(&self, checkpoint: &Checkpoint, line: &str) -> Result<Option<Cosigned>, NoteError> {
        let own = NoteSignature::parse(line).filter(|one| one.name == self.name && one.id == self.id());
        own.map(|one| self.check_signature(checkpoint, &one.signature)).transpose()
    }

    fn check_signature(&self, checkpoint: &Checkpoint, signature: &[u8]) -> Result<Cosigned, NoteError> {
        let verified = || {
            let (time, signature) = signature.split_first_chunk::<8>()?;
            let time = Some(u64::from_be_bytes(*time)).filter(|time| *time <= TIME_MAX)?;
            let signature = Signature::from_slice(signature).ok()?;
            let key = VerifyingKey::from_bytes(&self.verifying_key).ok()?;
            key.verify_strict(Self::message(checkpoint, time).as_bytes(), &signature).ok()?;
            Some(Cosigned { witness: self.name.clone(), key_id: self.id(), time })
        };
        verified().ok_or(NoteError::BadSignature)
    }
}

/// The cosignatures of `witnesses` below a checkpoint; those of others say nothing. The log's own signature is not
/// looked at: [`Checkpoint::open`] does that.
///
/// # Errors
/// [`NoteError::BadSignature`] if one of theirs does not verify, [`NoteError::Malformed`] for what is no checkpoint.
pub fn cosignatures(note: &str, witnesses: &[WitnessKey]) -> Result<Vec<Cosigned>, NoteError> {
    let note = UnverifiedNote::parse(note)?;
    let mut found = Vec::new();
    for NoteSignature { name, id, signature } in &note.signatures {
        if let Some(key) = witnesses.iter().find(|key| key.name == *name && key.id() == *id) {
            found.push(key.check_signature(note.checkpoint(), signature)?);
        }
    }
    Ok(found)
}

/// signed-note's type of timestamped Ed25519 cosignatures.
const COSIGNATURE: u8 = 0x04;

/// tlog-cosignature: a time must not exceed this.
const TIME_MAX: u64 = i64::MAX.cast_unsigned();

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;
    use crate::audit::CheckpointKey;

    fn witness(seed: u8) -> (SigningKey, WitnessKey) {
        let signing = SigningKey::from_bytes(&[seed; 32]);
        let key = WitnessKey {
            name: format!("witness.example/w{seed}"),
            verifying_key: signing.verifying_key().to_bytes(),
        };
        (signing, key)
    }

    fn line(seed: u8, checkpoint: &Checkpoint, time: u64) -> String {
        let (signing, key) = witness(seed);
        key.line(time, &signing.sign(WitnessKey::message(checkpoint, time).as_bytes()).to_bytes())
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: "example.com/behind-the-sofa".into(), size: 20_852_163, root: [9; 32] }
    }

    fn note() -> String {
        let log = SigningKey::from_bytes(&[7; 32]);
        let key = CheckpointKey::new(checkpoint().origin, log.verifying_key().to_bytes());
        checkpoint().to_note(&key, &log.sign(checkpoint().to_text().as_bytes()).to_bytes())
    }

    /// The message of the specification's example, and its layout: key id, time in big-endian order, signature.
    #[test]
    fn a_cosignature_is_laid_out_as_specified() {
        let message = WitnessKey::message(&checkpoint(), 1_679_315_147);
        assert!(
            message
                .starts_with("cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\nCQkJ"),
            "{message}"
        );
        let line = line(1, &checkpoint(), 0x6418_50cb);
        let NoteSignature { name, id, signature } = NoteSignature::parse(line.trim_end()).unwrap();
        assert_eq!((name.as_str(), id), ("witness.example/w1", witness(1).1.id()));
        assert_eq!((signature.len(), &signature[..8]), (72, &[0, 0, 0, 0, 0x64, 0x18, 0x50, 0xcb][..]));
    }

    #[test]
    fn only_the_named_witnesses_count_and_theirs_must_verify() {
        let note = note() + &line(1, &checkpoint(), 5) + &line(2, &checkpoint(), 6);
        let (one, two, three) = (witness(1).1, witness(2).1, witness(3).1);
        let names = |keys: &[WitnessKey]| -> Vec<u64> {
            cosignatures(&note, keys).unwrap().iter().map(|found| found.time).collect()
        };
        assert_eq!(names(&[]), [0; 0]);
        assert_eq!(names(std::slice::from_ref(&three)), [0; 0]);
        assert_eq!(names(&[two, one.clone()]), [5, 6]);
        for at in 0..note.len() {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            let found = cosignatures(&changed, std::slice::from_ref(&one));
            let own = note.find("\u{2014} witness.example/w1").unwrap();
            let others = note.find("\u{2014} example.com").unwrap()..own;
            let later = note.find("\u{2014} witness.example/w2").unwrap()..note.len();
            if others.contains(&at) || later.contains(&at) {
                continue;
            }
            assert!(found.is_err() || found == Ok(vec![]), "byte {at}: {changed}");
        }
    }

    #[test]
    fn a_witness_key_is_no_log_key_and_the_other_way_round() {
        let (_, key) = witness(1);
        assert_eq!(WitnessKey::from_text(&key.to_text()), Ok(key.clone()));
        assert_eq!(CheckpointKey::from_text(&key.to_text()), Err(NoteError::Malformed));
        let log = CheckpointKey::new(key.name.clone(), key.verifying_key);
        assert_eq!(WitnessKey::from_text(&log.to_text()), Err(NoteError::Malformed));
        assert_ne!(log.id(), key.id());
    }

    #[test]
    fn a_time_beyond_the_limit_or_another_checkpoint_is_no_cosignature() {
        let (_, key) = witness(1);
        let late = line(1, &checkpoint(), u64::MAX);
        assert_eq!(key.check(&checkpoint(), late.trim_end()), Err(NoteError::BadSignature));
        let good = line(1, &checkpoint(), 7);
        assert_eq!(key.check(&checkpoint(), good.trim_end()).unwrap().unwrap().time, 7);
        let other = Checkpoint { size: 1, ..checkpoint() };
        assert_eq!(key.check(&other, good.trim_end()), Err(NoteError::BadSignature));
        assert_eq!(witness(2).1.check(&checkpoint(), good.trim_end()), Ok(None));
    }
}
