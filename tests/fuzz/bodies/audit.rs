//! The audit log's small formats: bodies, headers, tree heads, notes, names of records.

use ed25519_dalek::{Signer as _, SigningKey};
use edgate::audit::cbor::{self, Value};
use edgate::audit::merkle::CompactRange;
use edgate::audit::note::Checkpoint;
use edgate::audit::record::{self, BODY_BYTES_MAX, HASHED_BYTES, HEADER_BYTES, Header, Link};
use edgate::audit::schema::{self, Kind};
use edgate::audit::sealed::WrappedKey;
use edgate::audit::{CheckpointKey, RECORD_ID_TEXT_MAX, RecordId};
use minicbor::Encoder;
use sha2::{Digest as _, Sha256};

/// One spelling for each body: what is read, encoded again, gives the same bytes, and another library reads it too.
///
/// The first byte chooses the kind of record.
pub fn audit_body(input: &[u8]) {
    let [kind, body @ ..] = input else { return };
    let kind = Kind::ALL[usize::from(*kind) % Kind::ALL.len()];
    let read = schema::read_body(kind.code(), kind.code(), body);
    let checked = schema::check_body(kind.code(), kind.code(), body);
    assert_eq!(checked.is_ok(), read.is_ok(), "{checked:?}, {read:?}");
    let value = match cbor::decode(body) {
        Ok(value) => value,
        Err(error) => {
            assert_eq!(read, Err(error.into()));
            return;
        }
    };
    let mut again = Vec::with_capacity(body.len());
    encode(&value, &mut again);
    assert_eq!(again, body, "a second spelling was accepted");
    let mut decoder = minicbor::Decoder::new(body);
    decoder.skip().expect("another library reads it");
    assert_eq!(decoder.position(), body.len());

    let Ok(fields) = read else { return };
    let Value::Map(entries) = &value else { panic!("a body that is no map was accepted") };
    let keys = fields.iter().map(|(field, value)| (field.key, value));
    assert!(keys.eq(entries.iter().map(|(key, value)| (*key, value))), "a field was lost");
    let there = |wanted: u64| entries.iter().any(|(key, _)| *key == wanted);
    assert!(kind.fields().iter().all(|field| !field.required || there(field.key)), "a field is missing");
}

/// The file of a wrapped key has one spelling, and its name is of that spelling.
pub fn audit_sealed_key(input: &[u8]) {
    let Ok(key) = WrappedKey::parse(input) else { return };
    assert_eq!(key.to_text().as_bytes(), input, "a second spelling was accepted");
    let digest = Sha256::digest(input);
    assert!(edgate::audit::hex(&digest).starts_with(&key.id().to_string()));
    assert!((1..=8).contains(&key.openers().len()) && !key.tenant().contains(char::is_control));
}

fn encode(value: &Value<'_>, out: &mut Vec<u8>) {
    let mut encoder = Encoder::new(&mut *out);
    let written = match value {
        Value::Array(values) => {
            let written = encoder.array(values.len() as u64).map(drop);
            values.iter().for_each(|value| encode(value, out));
            written
        }
        Value::Bool(value) => encoder.bool(*value).map(drop),
        Value::Bytes(bytes) => encoder.bytes(bytes).map(drop),
        Value::Map(entries) => {
            let written = encoder.map(entries.len() as u64).map(drop);
            for (key, value) in entries {
                encode(&Value::Uint(*key), out);
                encode(value, out);
            }
            written
        }
        Value::Text(text) => encoder.str(text).map(drop),
        Value::Uint(number) => encoder.u64(*number).map(drop),
    };
    written.expect("a vector takes every write");
}

/// A header that is read is the one that would be written, and no changed byte of a chained record goes unseen.
///
/// What follows the header is its body.
pub fn audit_record(input: &[u8]) {
    let Some((bytes, body)) = input.split_first_chunk::<HEADER_BYTES>() else { return };
    let Ok(header) = Header::parse(bytes) else { return };
    assert!(header.body_len as usize <= BODY_BYTES_MAX);
    let written = header.to_bytes();
    assert_eq!(written[..HASHED_BYTES], bytes[..HASHED_BYTES]);
    assert_eq!(record::event_hash(&written), record::event_hash(bytes));
    assert!(record::stored_len(header.body_len as usize).is_multiple_of(record::ALIGNMENT));

    let mut stored = input.to_vec();
    let link = Link { seq: header.seq, wall_ns: header.wall_ns, mono_ns: header.mono_ns };
    let hash = record::chain(&mut stored, link, &header.prev_hash);
    let chained: &[u8; HEADER_BYTES] = stored.first_chunk().expect("a record starts with a header");
    assert_eq!(Header::parse(chained), Ok(header));
    assert_eq!(hash, record::event_hash(bytes), "chaining a record to where it stands changes nothing");
    assert_eq!(record::stored_checksum(chained), record::checksum(chained, body));
    // Which byte is changed is up to the input.
    let at = body.first().map_or(0, |byte| usize::from(*byte)) % HASHED_BYTES;
    let mut changed = *chained;
    changed[at] ^= 1 << (at % 8);
    assert_ne!(record::event_hash(&changed), hash, "byte {at}");
    assert_ne!(record::checksum(&changed, body), record::stored_checksum(&changed), "byte {at}");
}

/// A name of a record has one spelling.
pub fn record_id(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(id) = text.parse::<RecordId>() {
        assert_eq!(id.to_string(), text);
        assert!(text.len() <= RECORD_ID_TEXT_MAX);
    }
    if let Some((numbers, _)) = input.split_first_chunk::<18>() {
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| numbers[at + i]));
        let core = u16::from_le_bytes([numbers[16], numbers[17]]);
        let id = RecordId { boot: number(0), core, core_seq: number(8) };
        assert_eq!(id.to_string().parse(), Ok(id));
    }
}

/// Nothing but what our key signed opens, and a key that is read is the one that would be written.
pub fn audit_note(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(key) = CheckpointKey::from_text(text) {
        assert_eq!(key.to_text(), text.trim_end());
        let name = &key.name;
        assert!(!name.is_empty() && !name.contains('+') && !name.contains(char::is_whitespace), "{name:?}");
    }

    let signing_key = SigningKey::from_bytes(&[7; 32]);
    let key = CheckpointKey::new("fuzz.example/log", signing_key.verifying_key().to_bytes());
    let keys = std::slice::from_ref(&key);
    if let Ok(read) = Checkpoint::read_unverified(text) {
        assert!(text.starts_with(&read.to_text()), "the text that is signed is not what was read");
        let signature = signing_key.sign(read.to_text().as_bytes()).to_bytes();
        let note = read.to_note(&key, &signature);
        assert_eq!(Checkpoint::open(&note, keys).as_ref(), Ok(&read));
        let mut forged = signature;
        forged[usize::from(input[0]) % 64] ^= 1;
        assert!(Checkpoint::open(&read.to_note(&key, &forged), keys).is_err(), "a forged note opened");
    }
    // The only note our key ever signed in the open: the corpus has it, and its mutations must all fail.
    if let Ok(opened) = Checkpoint::open(text, keys) {
        assert_eq!((opened.origin.as_str(), opened.size, opened.root), ("fuzz.example/log", 42, [9; 32]));
    }
}

/// A stored tree is read only if it has the hashes its size asks for, and grows like any other.
///
/// Eight bytes of size, then the hashes.
pub fn audit_tree(input: &[u8]) {
    let Some((size, hashes)) = input.split_first_chunk::<8>() else { return };
    let size = u64::from_le_bytes(*size);
    let Some(mut tree) = CompactRange::from_bytes(size, hashes) else {
        assert_ne!(hashes.len(), 32 * size.count_ones() as usize);
        return;
    };
    assert_eq!((tree.end(), tree.to_bytes()), (size, hashes.to_vec()));
    assert!(tree.root().is_some() && tree.merge(&CompactRange::new(size)));
    // No log has so many records.
    if size > u64::MAX / 2 {
        return;
    }
    let mut part = CompactRange::new(size);
    let mut one_by_one = tree.clone();
    for leaf in input.chunks(16) {
        let mut hash = [0; 32];
        hash[..leaf.len()].copy_from_slice(leaf);
        part.push(&hash);
        one_by_one.push(&hash);
    }
    assert!(tree.merge(&part) && tree == one_by_one);
    assert_eq!(CompactRange::from_bytes(tree.end(), &tree.to_bytes()), Some(tree));
}
