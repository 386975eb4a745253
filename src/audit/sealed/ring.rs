//! The keys of a day, and sealing with them on the shard: nothing here blocks, or touches the disk.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use aes_gcm::{Aes256Gcm, KeyInit as _, aead::AeadInOut as _};
use arc_swap::{ArcSwapOption, Guard};
use jiff::civil::Date;

use super::{
    folder::KeyId,
    value::{CLEAR_BYTES_MAX, OVERHEAD_BYTES, PAD_BYTES, PAD_FIRST, Place, nonce},
    wrapped::DataKeyBytes,
};
use crate::audit::{body::Body, id::RecordId, schema::Kind, tag::TagField};

/// What appenders seal with. Written by the maker, read by appenders.
#[derive(Default)]
pub(in crate::audit) struct KeysInUse {
    // `None`: nothing is sealed.
    ring: ArcSwapOption<SealRing>,
    // Records with a value that could not be sealed.
    unsealed: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl KeysInUse {
    /// Held for as long as one event is encoded, so that keys are forgotten with their day however idle a shard is.
    pub(in crate::audit) fn load(&self) -> Guard<Option<Arc<SealRing>>> {
        self.ring.load()
    }

    pub(super) fn use_ring(&self, ring: SealRing) {
        self.ring.store(Some(Arc::new(ring)));
    }

    pub(in crate::audit) fn count_unsealed(&self) {
        self.unsealed.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::audit) fn unsealed(&self) -> u64 {
        self.unsealed.load(Ordering::Relaxed)
    }

    pub(super) fn tell(&self, failure: Option<String>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    pub(in crate::audit) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The keys of a day. Wiped when the last appender lets go of them.
pub(in crate::audit) struct SealRing {
    fields: Vec<TagField>,
    pub(super) day: Date,
    keys: HashMap<String, DataKey>,
}

struct DataKey {
    id: KeyId,
    // Its crate wipes the key schedule.
    cipher: Aes256Gcm,
}

impl SealRing {
    /// A ring without keys: nothing is sealed, and records say so.
    pub(super) fn new(fields: &[TagField], day: Date) -> Self {
        Self { fields: fields.to_vec(), day, keys: HashMap::new() }
    }

    pub(super) fn add(&mut self, tenant: &str, id: KeyId, key: &DataKeyBytes) {
        let cipher = Aes256Gcm::new((&**key).into());
        self.keys.insert(tenant.to_owned(), DataKey { id, cipher });
    }
}

/// What may be sealed together.
#[derive(Clone, Copy, Default)]
pub(in crate::audit) struct Values<'a> {
    pub(in crate::audit) subject: Option<&'a str>,
    pub(in crate::audit) jti: Option<&'a str>,
    pub(in crate::audit) client: Option<IpAddr>,
}

/// Seals the values of one record.
pub(in crate::audit) struct Seals<'a> {
    ring: Option<&'a SealRing>,
    kind: Kind,
    id: RecordId,
    // Values of this appender in this boot, of this record included.
    count: u64,
    missed: bool,
}

/// A value that has a key and a length.
pub(in crate::audit) struct Planned<'r> {
    key: &'r DataKey,
    clear_bytes: usize,
}

impl Planned<'_> {
    /// Bytes of the value.
    pub(in crate::audit) fn bytes(&self) -> usize {
        OVERHEAD_BYTES + padded(self.clear_bytes)
    }
}

impl<'a> Seals<'a> {
    /// For a record of this kind, by an appender that has sealed `count` values. Without a ring nothing is sealed.
    pub(in crate::audit) fn new(ring: Option<&'a SealRing>, kind: Kind, count: u64) -> Self {
        Self { ring, kind, id: RecordId { boot: 0, core: 0, core_seq: 0 }, count, missed: false }
    }

    /// Nothing is sealed.
    pub(in crate::audit) fn none() -> Self {
        Self::new(None, Kind::Stop, 0)
    }

    /// The record's name, once it is known.
    pub(in crate::audit) fn name(&mut self, id: RecordId) {
        self.id = id;
    }

    /// Values sealed so far: nonces go on behind them.
    pub(in crate::audit) fn count(&self) -> u64 {
        self.count
    }

    /// Whether a value was left out.
    pub(in crate::audit) fn missed(&self) -> bool {
        self.missed
    }

    /// How these values are sealed, in at most `room` bytes; `None` if there is nothing to seal, an error if there is and it
    /// cannot be.
    pub(in crate::audit) fn plan(
        &mut self,
        tenant: &str,
        values: &mut Values<'_>,
        room: usize,
    ) -> Option<Result<Planned<'a>, &'static str>> {
        let ring = self.ring?;
        values.keep(&ring.fields);
        if values.subject.is_none() && values.jti.is_none() && values.client.is_none() {
            return None;
        }
        let planned = match ring.keys.get(tenant) {
            None => Err(NO_KEY),
            Some(key) => match (Planned { key, clear_bytes: values.encoded_len() }) {
                planned if padded(planned.clear_bytes) > CLEAR_BYTES_MAX => Err(TOO_LONG),
                planned if planned.bytes() > room => Err(NO_ROOM),
                planned => Ok(planned),
            },
        };
        self.missed |= planned.is_err();
        Some(planned)
    }

    /// Appends the sealed values to `out`. They stand there in clear only between two lines of this function.
    pub(in crate::audit) fn seal(
        &mut self,
        planned: &Planned<'_>,
        values: &Values<'_>,
        field: u8,
        item: u16,
        out: &mut Vec<u8>,
    ) {
        let DataKey { id, cipher } = planned.key;
        self.count += 1;
        let nonce = nonce(self.id.core, self.count);
        // No copy of what follows is left behind by a buffer that grows.
        out.reserve(planned.bytes());
        out.extend_from_slice(&id.0);
        out.extend_from_slice(&nonce);
        let start = out.len();
        values.encode(out);
        assert_eq!(out.len() - start, planned.clear_bytes, "values have the length they were planned with");
        out.push(PAD_FIRST);
        out.resize(start + padded(planned.clear_bytes), 0);
        let place = Place { kind: self.kind.code(), item, field, id: self.id };
        let tag = cipher
            .encrypt_inout_detached(&nonce.into(), &place.additional_data(id), (&mut out[start..]).into())
            .expect("AES-GCM takes 64 GiB");
        out.extend_from_slice(&tag);
    }
}

impl Values<'_> {
    fn keep(&mut self, fields: &[TagField]) {
        self.subject = self.subject.filter(|_| fields.contains(&TagField::Subject));
        self.jti = self.jti.filter(|_| fields.contains(&TagField::Jti));
        self.client = self.client.filter(|_| fields.contains(&TagField::Client));
    }

    fn encoded_len(&self) -> usize {
        let client = self.client.map(|client| if client.is_ipv4() { 4 } else { 16 });
        let lengths = [self.subject.map(str::len), self.jti.map(str::len), client];
        // A map's head; for each value its key, its head and its bytes.
        1 + lengths.into_iter().flatten().map(|len| 1 + head_len(len) + len).sum::<usize>()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut map = Body::begin(out);
        if let Some(subject) = self.subject {
            map.text_whole(TagField::Subject as u8, subject);
        }
        if let Some(jti) = self.jti {
            map.text_whole(TagField::Jti as u8, jti);
        }
        match self.client {
            None => {}
            Some(IpAddr::V4(address)) => map.bytes(TagField::Client as u8, &address.octets()),
            Some(IpAddr::V6(address)) => map.bytes(TagField::Client as u8, &address.octets()),
        }
        map.end();
    }
}

/// Bytes of the head of a string (RFC 8949 §3); longer ones are not sealed.
const fn head_len(len: usize) -> usize {
    match len {
        0..24 => 1,
        24..0x100 => 2,
        0x100..0x1_0000 => 3,
        _ => 5,
    }
}

/// With the padding, of which there is at least a byte.
const fn padded(clear_bytes: usize) -> usize {
    (clear_bytes / PAD_BYTES + 1) * PAD_BYTES
}

/// Why a value is not there: what a record says.
const NO_KEY: &str = "no_key";
const NO_ROOM: &str = "no_room";
const TOO_LONG: &str = "too_long";
