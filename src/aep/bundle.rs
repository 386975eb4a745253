//! Making a bundle.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256, Sha512};

use super::canonical::{Value, canonical, canonical_without};

/// The version of bundles that is made and understood.
pub const BUNDLE_VERSION: &str = "0.1.0";

/// The only algorithm of manifests.
pub(super) const SIGNATURE_ALGORITHM: &str = "hmac-sha256";

/// How the events are digested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DigestAlgorithm {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl DigestAlgorithm {
    /// The name in manifests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::Sha256, Self::Sha512].into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// The digest of the events, as lower-case hexadecimal text.
    pub(super) fn of_events(self, events: &[Value]) -> String {
        let lines: Vec<String> = events.iter().map(|event| canonical_without(event, "signature")).collect();
        let lines = lines.join("\n");
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256 => hex(&Sha256::digest(lines)),
            Self::Sha512 => hex(&Sha512::digest(lines)),
        }
    }
}

/// What a bundle is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// The session, if it is one.
    pub session_id: Option<String>,
    /// The trace, if it is one.
    pub trace_id: Option<String>,
    /// The tenant, if it is one.
    pub tenant_id: Option<String>,
}

/// The bundle of these events, signed with `secret`. `exported_at` is a time in UTC with milliseconds.
#[must_use]
pub fn make(
    events: Vec<Value>,
    scope: &Scope,
    algorithm: DigestAlgorithm,
    exported_at: &str,
    secret: &[u8],
) -> Value {
    let of =
        |name: &str, text: &Option<String>| text.clone().map(|text| (name.to_owned(), Value::Text(text)));
    let named = [of("session_id", &scope.session_id), of("trace_id", &scope.trace_id)];
    let manifest = object([
        ("aep_audit_version", BUNDLE_VERSION.into()),
        ("scope", Value::Object(named.into_iter().flatten().collect())),
        ("tenant_id", scope.tenant_id.clone().map_or(Value::Null, Value::Text)),
        ("event_count", count(events.len())),
        ("time_range", time_range(&events)),
        ("content_digest", algorithm.of_events(&events).into()),
        ("content_digest_alg", algorithm.name().into()),
        ("exported_at", exported_at.into()),
        ("per_event_signatures", signature_counts(&events)),
    ]);
    let signed = BASE64_STANDARD.encode(mac(&manifest, secret).finalize().into_bytes());
    object([
        ("aep_audit_version", BUNDLE_VERSION.into()),
        ("manifest", manifest),
        ("events", Value::Array(events)),
        ("signature", object([("alg", SIGNATURE_ALGORITHM.into()), ("value", signed.into())])),
    ])
}

/// The MAC over a manifest; ready to be made, or compared in constant time.
pub(super) fn mac(manifest: &Value, secret: &[u8]) -> Hmac<Sha256> {
    let keyed = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    keyed.chain_update(canonical(manifest))
}

/// The first and the last time that an event states, as texts are ordered.
pub(super) fn time_range(events: &[Value]) -> Value {
    let times = || events.iter().filter_map(|event| event.member("time")?.text());
    // By UTF-16 code units, as ECMAScript compares; for times that is the order of their bytes.
    let or_null = |time: Option<&str>| time.map_or(Value::Null, Value::from);
    object([("first", or_null(times().min())), ("last", or_null(times().max()))])
}

/// How many events carry a signature of their own.
pub(super) fn signature_counts(events: &[Value]) -> Value {
    let present = events.iter().filter(|event| has_signature(event)).count();
    object([("present", count(present)), ("total", count(events.len()))])
}

pub(super) fn has_signature(event: &Value) -> bool {
    matches!(event.member("signature"), Some(Value::Object(_) | Value::Array(_)))
}

fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

#[expect(clippy::cast_precision_loss, reason = "counts of events in a file")]
fn count(count: usize) -> Value {
    Value::Number(count as f64)
}
