//! The schema registry: every kind of record, every field of its body, and what class of data the field is.
//!
//! Numbers here are in stored records: never change or reuse one. A body that does not fit its schema exactly is
//! refused by [`read_body`]; nothing is ignored.

mod check;

use super::cbor::{self, CborError, Value};

pub use check::check_body;

/// Declares the kinds once: variant, number, name, fields.
macro_rules! kinds {
    ($($(#[doc = $meaning:literal])+ $variant:ident = $code:literal, $name:literal, $fields:expr;)+) => {
        /// What a record stands for. Codes and names are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[doc = $meaning])+ $variant,)+
        }

        impl Kind {
            /// Every kind, in the order of the codes.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The number in the header; also the number of the kind's first schema.
            #[must_use]
            pub const fn code(self) -> u16 {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The stable name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The kind of a number in a header.
            #[must_use]
            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }

            /// The fields of the kind's body, ascending by key.
            #[must_use]
            pub const fn fields(self) -> &'static [Field] {
                match self { $(Self::$variant => { const FIELDS: &[Field] = $fields; FIELDS })+ }
            }
        }
    };
}

/// Who may see a field, and what an erasure must reach (FORMAT.md, "Field classes"). A fourth class, `never`, has no
/// fields: token bytes and signature bytes are in no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// In clear.
    Public,
    /// A keyed tag of a value that is stored nowhere.
    Tag,
    /// Encrypted under a key that can be destroyed: see `sealed/`.
    Sealed,
}

/// The shape of a field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A boolean.
    Bool,
    /// Bytes; a length if it is fixed.
    Bytes(Option<usize>),
    /// An array of maps with these fields.
    Items(&'static [Field]),
    /// Text.
    Text,
    /// An array of texts.
    Texts,
    /// An unsigned integer.
    Uint,
}

/// One field of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// The integer key.
    pub key: u64,
    /// The name in renderings and exports.
    pub name: &'static str,
    /// The shape of the value.
    pub shape: Shape,
    /// What class of data it is.
    pub class: Class,
    /// Whether it must be there.
    pub required: bool,
}

const fn must(key: u64, name: &'static str, shape: Shape) -> Field {
    Field { key, name, shape, class: Class::Public, required: true }
}

const fn may(key: u64, name: &'static str, shape: Shape) -> Field {
    Field { key, name, shape, class: Class::Public, required: false }
}

const fn tag(key: u64, name: &'static str) -> Field {
    Field { key, name, shape: Shape::Bytes(Some(super::tag::TAG_BYTES)), class: Class::Tag, required: false }
}

/// The keys of what is sealed in a record or an item, and of why it is not.
pub(super) const SEALED: u8 = 15;
pub(super) const UNSEALED: u8 = 16;

const fn sealed() -> Field {
    let key = SEALED as u64;
    Field { key, name: "sealed", shape: Shape::Bytes(None), class: Class::Sealed, required: false }
}

const fn unsealed() -> Field {
    may(UNSEALED as u64, "unsealed", Shape::Text)
}

const DIGEST: Shape = Shape::Bytes(Some(32));

kinds! {
    /// The first record of a segment.
    SegmentOpen = 1, "segment_open", &[
        must(1, "origin", Shape::Text),
        must(2, "log_id", Shape::Bytes(Some(16))),
        must(3, "segment", Shape::Uint),
        must(4, "boot", Shape::Uint),
        must(5, "sink", Shape::Text),
        must(6, "writer", Shape::Text),
        may(7, "prev_end", Shape::Uint),
        may(8, "tail_bytes", Shape::Uint),
        may(9, "tail_digest", DIGEST),
        must(10, "tag_epoch", Shape::Uint),
        must(11, "emergency", Shape::Bool),
    ];
    /// Written before each flush; says what was known to be flushed when it was written.
    Commit = 2, "commit", &[
        must(1, "commit", Shape::Uint),
        must(2, "first_seq", Shape::Uint),
        must(3, "durable_size", Shape::Uint),
        must(4, "bytes", Shape::Uint),
    ];
    /// The last record of a full or closed segment.
    SegmentSeal = 3, "segment_seal", &[
        must(1, "segment", Shape::Uint),
        must(2, "first_seq", Shape::Uint),
        must(3, "records", Shape::Uint),
        must(4, "first_wall_ns", Shape::Uint),
        must(5, "last_wall_ns", Shape::Uint),
        must(6, "bytes", Shape::Uint),
    ];
    /// A signed statement of the log's state.
    Checkpoint = 4, "checkpoint", &[
        must(1, "size", Shape::Uint),
        must(2, "root", DIGEST),
        must(3, "note", Shape::Text),
        must(4, "frontier", Shape::Bytes(None)),
    ];
    /// Something outside vouched for a checkpoint (evidence room).
    Anchor = 5, "anchor", &[
        must(1, "size", Shape::Uint),
        must(2, "root", DIGEST),
        must(3, "kind", Shape::Text),
        must(4, "proof", Shape::Bytes(None)),
    ];
    /// What recovery found and set aside.
    Recovery = 6, "recovery", &[
        must(1, "segment", Shape::Uint),
        must(2, "offset", Shape::Uint),
        must(3, "size", Shape::Uint),
        must(4, "discarded_bytes", Shape::Uint),
        must(5, "discarded_digest", DIGEST),
        must(6, "cause", Shape::Text),
        must(7, "quarantined", Shape::Texts),
        may(8, "authority", Shape::Text),
    ];
    /// Events of one core were lost before they reached the sequencer.
    Gap = 7, "gap", &[
        must(1, "first_core_seq", Shape::Uint),
        must(2, "events", Shape::Uint),
        must(3, "duration_ms", Shape::Uint),
        must(4, "cause", Shape::Text),
    ];
    /// The disk crossed a watermark.
    DiskState = 8, "disk_state", &[
        must(1, "state", Shape::Text),
        must(2, "free_bytes", Shape::Uint),
        may(3, "seconds_to_full", Shape::Uint),
    ];
    /// The wall clock moved against the monotonic clock.
    ClockJump = 9, "clock_jump", &[
        must(1, "expected_wall_ns", Shape::Uint),
        must(2, "found_wall_ns", Shape::Uint),
    ];
    /// A segment is about to be removed under a retention rule (evidence room).
    Retire = 10, "retire", &[
        must(1, "segment", Shape::Uint),
        must(2, "first_seq", Shape::Uint),
        must(3, "records", Shape::Uint),
        must(4, "authority", Shape::Text),
        must(5, "reason", Shape::Text),
        must(6, "last_hash", DIGEST),
        must(7, "frontier", Shape::Bytes(None)),
        must(8, "archive", DIGEST),
        must(9, "first_wall_ns", Shape::Uint),
        must(10, "last_wall_ns", Shape::Uint),
    ];
    /// A body is dropped by an authority.
    Erase = 11, "erase", &[
        must(1, "seq", Shape::Uint),
        must(2, "body_digest", DIGEST),
        must(3, "authority", Shape::Text),
        must(4, "reason", Shape::Text),
    ];
    /// A key took another's place.
    KeyRotate = 12, "key_rotate", CHANGE;
    /// Nothing else happened, or nothing could be signed.
    Heartbeat = 13, "heartbeat", &[
        must(1, "unsigned_ms", Shape::Uint),
        may(2, "failure", Shape::Text),
    ];
    /// Records left the log in a file.
    Export = 14, "export", &[
        must(1, "actor", Shape::Text),
        must(2, "filter", Shape::Text),
        must(3, "rows", Shape::Uint),
        must(4, "digest", DIGEST),
    ];
    /// Someone verified the log.
    VerifyRun = 15, "verify_run", &[
        must(1, "actor", Shape::Text),
        must(2, "mode", Shape::Text),
        must(3, "from_seq", Shape::Uint),
        must(4, "records", Shape::Uint),
        must(5, "breaks", Shape::Uint),
        may(6, "first_class", Shape::Text),
    ];
    /// The log was closed in order: after it, no torn tail is an excuse.
    CleanClose = 16, "clean_close", &[must(1, "events", Shape::Uint)];
    /// One token was decided.
    Decision = 32, "decision", &[
        must(1, "surface", Shape::Uint),
        must(2, "decision", Shape::Uint),
        may(3, "issuer", Shape::Text),
        may(4, "kid", Shape::Text),
        may(5, "tenant", Shape::Text),
        tag(6, "subject"),
        tag(7, "jti"),
        tag(8, "client"),
        must(9, "revocation_epoch", Shape::Uint),
        must(10, "latency_us", Shape::Uint),
        may(11, "expires", Shape::Uint),
        may(12, "caller", Shape::Text),
        may(14, "stale", Shape::Bool),
        sealed(),
        unsealed(),
    ];
    /// One call decided many tokens.
    DecisionBatch = 33, "decision_batch", &[
        must(1, "surface", Shape::Uint),
        may(5, "tenant", Shape::Text),
        tag(8, "client"),
        must(9, "revocation_epoch", Shape::Uint),
        must(10, "latency_us", Shape::Uint),
        may(12, "caller", Shape::Text),
        must(13, "items", Shape::Items(BATCH_ITEM)),
        sealed(),
        unsealed(),
    ];
    /// A token was issued (or is about to be, or was not).
    Issue = 34, "issue", &[
        must(1, "phase", Shape::Uint),
        must(2, "actor", Shape::Text),
        must(3, "issuer", Shape::Text),
        must(4, "kid", Shape::Text),
        may(5, "tenant", Shape::Text),
        tag(6, "subject"),
        tag(7, "jti"),
        must(8, "issued_at", Shape::Uint),
        must(9, "expires", Shape::Uint),
        must(10, "scope", Shape::Texts),
        may(11, "intent", Shape::Text),
        may(12, "failure", Shape::Text),
        sealed(),
        unsealed(),
    ];
    /// Something was revoked.
    Revoke = 35, "revoke", &[
        must(1, "phase", Shape::Uint),
        must(2, "actor", Shape::Text),
        may(3, "issuer", Shape::Text),
        must(4, "target_kind", Shape::Text),
        may(5, "tenant", Shape::Text),
        tag(6, "target_tag"),
        may(7, "target", Shape::Text),
        may(8, "reason", Shape::Text),
        may(9, "until", Shape::Uint),
        may(10, "revocation_epoch", Shape::Uint),
        may(11, "intent", Shape::Text),
        may(12, "failure", Shape::Text),
        may(13, "action", Shape::Text),
        may(14, "issued_until", Shape::Uint),
    ];
    /// The daemon started.
    Start = 36, "start", &[
        must(1, "version", Shape::Text),
        may(2, "config_digest", DIGEST),
        must(3, "shards", Shape::Uint),
        may(4, "detail", Shape::Text),
    ];
    /// The daemon stops.
    Stop = 37, "stop", &[must(1, "reason", Shape::Text)];
    /// A setting took another value.
    ConfigChange = 38, "config_change", CHANGE;
    /// A key changed its state.
    KeyChange = 39, "key_change", CHANGE;
    /// An operator's action that has no kind of its own.
    Admin = 40, "admin", &[
        must(1, "phase", Shape::Uint),
        must(2, "actor", Shape::Text),
        must(3, "action", Shape::Text),
        may(4, "target", Shape::Text),
        may(5, "detail", Shape::Text),
        may(11, "intent", Shape::Text),
    ];
}

const BATCH_ITEM: &[Field] = &[
    must(2, "decision", Shape::Uint),
    may(3, "issuer", Shape::Text),
    may(4, "kid", Shape::Text),
    tag(6, "subject"),
    tag(7, "jti"),
    may(11, "expires", Shape::Uint),
    may(14, "stale", Shape::Bool),
    sealed(),
    unsealed(),
];

const CHANGE: &[Field] = &[
    must(1, "phase", Shape::Uint),
    must(2, "actor", Shape::Text),
    must(3, "what", Shape::Text),
    must(4, "before", Shape::Text),
    must(5, "after", Shape::Text),
    may(11, "intent", Shape::Text),
];

impl Kind {
    /// Whether records of this kind carry [`super::record::FLAG_CRITICAL`]: rare, and wanted most when space is short.
    #[must_use]
    pub const fn is_critical(self) -> bool {
        !matches!(self, Self::Decision | Self::DecisionBatch)
    }

    /// Whether the body may be dropped by an authority: bodies that can hold personal data. What operators did stays.
    #[must_use]
    pub const fn is_redactable(self) -> bool {
        matches!(self, Self::Decision | Self::DecisionBatch | Self::Issue | Self::Revoke)
    }
}

/// A decoded body: the fields present, with their values, in the order of their keys.
pub type Body<'a> = Vec<(&'static Field, Value<'a>)>;

/// Why a body does not fit its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not deterministic CBOR.
    #[error("body is not deterministic CBOR: {0}")]
    Cbor(#[from] CborError),
    /// A required field is absent.
    #[error("field {0} is missing")]
    FieldMissing(&'static str),
    /// A key the schema does not have.
    #[error("field {0} is unknown")]
    FieldUnknown(u64),
    /// The body is not a map.
    #[error("body is not a map")]
    NotAMap,
    /// The header names a schema that its kind does not have.
    #[error("schema {0} is unknown")]
    SchemaUnknown(u16),
    /// A value of another shape.
    #[error("field {0} has the wrong shape")]
    WrongShape(&'static str),
}

/// Reads a body strictly under the schema its header names.
///
/// # Errors
/// The first way in which the body does not fit; what is no deterministic CBOR at all comes first.
pub fn read_body(kind: u16, schema: u16, body: &[u8]) -> Result<Body<'_>, BodyError> {
    check::read_fields(kind, schema, body).map_err(|error| match error {
        BodyError::SchemaUnknown(_) => error,
        _ => cbor::decode(body).map_or_else(BodyError::Cbor, |_| error),
    })
}

/// The fields of a kind's body. Today each kind has one schema, of the same number.
fn fields_of(kind: u16, schema: u16) -> Result<&'static [Field], BodyError> {
    let kind = Kind::from_code(kind).filter(|kind| kind.code() == schema);
    kind.map(Kind::fields).ok_or(BodyError::SchemaUnknown(schema))
}

/// The number of field `key`; `None` when absent or not a number.
#[must_use]
pub fn uint(body: &Body<'_>, key: u64) -> Option<u64> {
    body.iter().find_map(|(field, value)| match value {
        Value::Uint(value) if field.key == key => Some(*value),
        _ => None,
    })
}

/// The text of field `key`; `None` when absent or not text.
#[must_use]
pub fn text<'a>(body: &Body<'a>, key: u64) -> Option<&'a str> {
    body.iter().find_map(|(field, value)| match value {
        Value::Text(value) if field.key == key => Some(*value),
        _ => None,
    })
}

/// The bytes of field `key`; `None` when absent or not bytes.
#[must_use]
pub fn bytes<'a>(body: &Body<'a>, key: u64) -> Option<&'a [u8]> {
    body.iter().find_map(|(field, value)| match value {
        Value::Bytes(value) if field.key == key => Some(*value),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_fields_are_distinct_and_ascending() {
        for (i, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(Kind::from_code(kind.code()), Some(*kind));
            assert!(
                Kind::ALL[..i].iter().all(|other| other.code() < kind.code() && other.name() != kind.name())
            );
            assert!(kind.fields().windows(2).all(|pair| pair[0].key < pair[1].key), "{}", kind.name());
            assert!(kind.fields().iter().all(|field| field.key <= 23), "keys are one byte");
        }
    }

    #[test]
    fn bodies_that_do_not_fit_their_schema_are_refused() {
        let stop = Kind::Stop.code();
        assert!(read_body(stop, stop, &[0xA1, 1, 0x61, b'x']).is_ok());
        assert_eq!(read_body(stop, stop, &[0xA0]), Err(BodyError::FieldMissing("reason")));
        assert_eq!(read_body(stop, stop, &[0xA1, 1, 0]), Err(BodyError::WrongShape("reason")));
        assert_eq!(read_body(stop, stop, &[0xA2, 1, 0x61, b'x', 2, 0]), Err(BodyError::FieldUnknown(2)));
        assert_eq!(read_body(stop, stop, &[0x00]), Err(BodyError::NotAMap));
        assert_eq!(read_body(stop, 99, &[0xA0]), Err(BodyError::SchemaUnknown(99)));
        assert_eq!(read_body(99, 99, &[0xA0]), Err(BodyError::SchemaUnknown(99)));
    }
}
