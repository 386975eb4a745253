//! Opening the sealed values of one record, with the private keys of all openers: offline, from the log's files.

use std::{io, path::Path};

use aes_gcm::{Aes256Gcm, KeyInit as _, aead::AeadInOut as _};
use zeroize::Zeroizing;

use super::{
    folder::{self, KeyId, KeyState},
    opener::{OpenerKey, OpenerSecret},
    value::{Clear, Place, SealedValue},
    wrapped::{UnwrapError, WrappedKey},
};
use crate::audit::{
    cbor::Value,
    error::AuditError,
    id::RecordId,
    proof::{ProveError, find_record},
    schema::{self, Field, Kind, Shape},
    stored::{Segments, Stored},
    walk::{SegmentOpen, read_record},
};

/// Why nothing was opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The value, or the key's file, is not what a node made: altered, or moved from somewhere else.
    #[error("{what} does not open: it was altered, or belongs elsewhere")]
    Altered {
        /// Which.
        what: String,
    },
    /// The key was destroyed, and the log says so.
    #[error("redacted, authorised: the key {key} was destroyed (record {record})")]
    Destroyed {
        /// The key.
        key: KeyId,
        /// The record that says so.
        record: String,
    },
    /// The record's body was erased.
    #[error("record {0} was erased: its body is gone")]
    Erased(RecordId),
    /// The record cannot be found or read.
    #[error(transparent)]
    Find(#[from] ProveError),
    /// A key's file cannot be used.
    #[error("sealed key {key}: {source}")]
    KeyFile {
        /// The key.
        key: KeyId,
        /// What is wrong.
        source: io::Error,
    },
    /// The key is of another log, boot or tenant than the record.
    #[error("sealed key {key} is of another {what} than the record")]
    KeyOfAnother {
        /// The key.
        key: KeyId,
        /// Of another what.
        what: &'static str,
    },
    /// The key's file is missing, and nothing says that it was destroyed.
    #[error("LOST: the file of the sealed key {key} is missing, and no record says that it was destroyed")]
    Lost {
        /// The key.
        key: KeyId,
    },
    /// Nothing is sealed in this record.
    #[error("nothing is sealed in record {id}{}", why.as_deref().map(|why| format!(": it says {why}")).unwrap_or_default())]
    NothingSealed {
        /// The record.
        id: RecordId,
        /// What the record says about it.
        why: Option<String>,
    },
    /// An opener's key was not given.
    #[error("all openers are needed, and the key of {} is not among those given", missing.to_text())]
    OpenerMissing {
        /// Whose.
        missing: OpenerKey,
    },
}

/// A record with sealed values, and the keys that they are sealed under.
#[derive(Debug)]
pub struct SealedRecord {
    id: RecordId,
    kind: Kind,
    sealed: Vec<Sealed>,
}

#[derive(Debug)]
struct Sealed {
    item: u16,
    field: u8,
    bytes: Vec<u8>,
    key: WrappedKey,
}

/// What one place of a record held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedValues {
    /// 0: the record itself; from 1 on its items, as they stand in it.
    pub item: u16,
    /// Whose they are.
    pub tenant: String,
    /// The day of the key.
    pub day: String,
    /// The key.
    pub key: KeyId,
    /// The values.
    pub clear: Clear,
}

impl SealedRecord {
    /// Finds a record in the log in `dir`, and its keys in the log's folder `keys`: another one for segments that were brought
    /// back from archives.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is decrypted here.
    pub fn find(dir: &Path, keys: &Path, id: RecordId) -> Result<Self, OpenError> {
        let found = find_record(Segments::of(dir), id)?;
        let body = found.body.as_deref().ok_or(OpenError::Erased(id))?;
        let unreadable = |cause: String| {
            OpenError::Find(ProveError::Stored { segment: found.segment, offset: found.offset, cause })
        };
        let header = &found.header;
        let fields = schema::read_body(header.kind, header.schema, body)
            .map_err(|error| unreadable(error.to_string()))?;
        let kind = Kind::from_code(header.kind).expect("a body was read under it");
        let io = |source| ProveError::Audit(AuditError::io("read a segment of", dir, source));
        let start =
            Stored::open(dir, found.segment).and_then(|stored| stored.start(OPEN_BYTES)).map_err(io)?;
        let log = read_record(&start, 0).ok().and_then(|record| SegmentOpen::read(&record));
        let log = log.ok_or_else(|| unreadable("its segment does not say whose it is".to_owned()))?;
        let tenant =
            if kind == Kind::DecisionBatch { None } else { Some(schema::text(&fields, 5).unwrap_or("")) };

        let mut places = Vec::new();
        for (field, value) in &fields {
            gather(0, field, value, &mut places);
            if let (Shape::Items(of_item), Value::Array(items)) = (field.shape, value) {
                for (number, item) in (1u16..).zip(items) {
                    let Value::Map(entries) = item else { continue };
                    for (key, value) in entries {
                        let field = of_item.iter().find(|field| field.key == *key);
                        field.into_iter().for_each(|field| gather(number, field, value, &mut places));
                    }
                }
            }
        }
        if places.is_empty() {
            let why = schema::text(&fields, u64::from(schema::UNSEALED)).map(str::to_owned);
            return Err(OpenError::NothingSealed { id, why });
        }
        let mut sealed = Vec::new();
        for (item, field, bytes) in places {
            let id = SealedValue::parse(bytes).expect("its length was checked with the schema").key;
            let key = match folder::find(keys, id).map_err(|source| OpenError::KeyFile { key: id, source })? {
                KeyState::Kept(key) => *key,
                KeyState::Destroyed(record) => return Err(OpenError::Destroyed { key: id, record }),
                KeyState::Lost => return Err(OpenError::Lost { key: id }),
            };
            let another = |what| Err(OpenError::KeyOfAnother { key: id, what });
            if key.of.origin != log.origin || key.of.log_id != log.log_id {
                return another("log");
            }
            if key.of.boot != log.boot {
                return another("boot");
            }
            if tenant.is_some_and(|tenant| tenant != key.tenant()) {
                return another("tenant");
            }
            sealed.push(Sealed { item, field, bytes: bytes.to_vec(), key });
        }
        Ok(Self { id, kind, sealed })
    }

    /// Everybody whose private key is needed.
    #[must_use]
    pub fn openers(&self) -> Vec<OpenerKey> {
        let mut openers: Vec<_> =
            self.sealed.iter().flat_map(|sealed| sealed.key.openers().iter().copied()).collect();
        openers.sort_unstable();
        openers.dedup();
        openers
    }

    /// The kind of the record.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Opens all of them.
    ///
    /// # Errors
    /// [`OpenError::OpenerMissing`] before anything is decrypted, [`OpenError::Altered`].
    pub fn open(&self, secrets: &[OpenerSecret]) -> Result<Vec<OpenedValues>, OpenError> {
        self.check_openers(secrets)?;
        self.sealed.iter().map(|sealed| self.open_one(sealed, secrets)).collect()
    }

    /// Whether the private keys of all openers are given.
    ///
    /// # Errors
    /// [`OpenError::OpenerMissing`].
    pub fn check_openers(&self, secrets: &[OpenerSecret]) -> Result<(), OpenError> {
        let given: Vec<_> = secrets.iter().map(OpenerSecret::public).collect();
        match self.openers().into_iter().find(|opener| !given.contains(opener)) {
            Some(missing) => Err(OpenError::OpenerMissing { missing }),
            None => Ok(()),
        }
    }

    fn open_one(&self, sealed: &Sealed, secrets: &[OpenerSecret]) -> Result<OpenedValues, OpenError> {
        let Sealed { item, field, bytes, key } = sealed;
        let id = key.id();
        let data_key = key.unwrap(secrets).map_err(|error| match error {
            UnwrapError::Missing(missing) => OpenError::OpenerMissing { missing },
            UnwrapError::Altered(_) => OpenError::Altered { what: format!("the sealed key {id}") },
        })?;
        let altered = || OpenError::Altered { what: format!("a sealed value of record {}", self.id) };
        let value = SealedValue::parse(bytes).ok_or_else(altered)?;
        let place = Place { kind: self.kind.code(), item: *item, field: *field, id: self.id };
        let mut clear = Zeroizing::new(value.ciphertext.to_vec());
        Aes256Gcm::new((&*data_key).into())
            .decrypt_inout_detached(
                value.nonce.into(),
                &place.additional_data(&id),
                clear.as_mut_slice().into(),
                value.tag.into(),
            )
            .map_err(|_| altered())?;
        let clear = Clear::read(&clear).ok_or_else(altered)?;
        Ok(OpenedValues {
            item: *item,
            tenant: key.tenant().to_owned(),
            day: key.day().to_string(),
            key: id,
            clear,
        })
    }
}

fn gather<'a>(item: u16, field: &Field, value: &Value<'a>, places: &mut Vec<(u16, u8, &'a [u8])>) {
    if let (schema::Class::Sealed, Value::Bytes(bytes)) = (field.class, value) {
        places.push((item, u8::try_from(field.key).expect("keys are one byte"), bytes));
    }
}

/// More than a SEGMENT_OPEN record takes.
const OPEN_BYTES: usize = 4096;
