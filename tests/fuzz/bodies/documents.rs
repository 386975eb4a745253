//! JSON texts, key sets and the configuration.

use std::path::Path;

use edgate::config::{Config, ConfigError, KeySource, Listen};
use edgate::json::{self, Cause, JsonError, Kind, Reader, Scratch};
use edgate::keys::jwks::{self as key_set, KEYS_PER_SET_MAX};
use edgate::keys::{IssuerIndex, KID_BYTES_MAX, KeySet};
use serde_json::{Map, Value};

/// Both readers, or neither: a text is JSON here exactly if it is for `serde_json`, and means the same, but that names
/// are distinct and nesting is shallower here.
pub fn json(text: &[u8]) {
    let skipped = json::read(text, &mut Scratch::default(), Reader::skip);
    let raw = json::read(text, &mut Scratch::default(), |reader| reader.raw().map(str::to_owned));
    let read = json::read(text, &mut Scratch::default(), value);
    assert_eq!(skipped, read.as_ref().map(drop).map_err(|error| *error), "skipping is as strict as reading");
    match (read, serde_json::from_slice::<Value>(text)) {
        (Ok(ours), Ok(theirs)) => {
            assert!(same(&ours, &theirs), "{ours} / {theirs}");
            let white = [' ', '\t', '\n', '\r'];
            let text = std::str::from_utf8(text).expect("what we accept is UTF-8");
            assert_eq!(raw.as_deref(), Ok(text.trim_matches(white)));
            let written = ours.to_string();
            let again = json::read(written.as_bytes(), &mut Scratch::default(), value);
            assert!(same(&again.expect("a written value is JSON"), &ours), "{written}");
        }
        (Err(error), Err(_)) => assert!(error.offset <= text.len() && raw == Err(error), "{error}"),
        (Ok(_), Err(error)) => panic!("accepted, serde_json refuses: {error}"),
        (Err(error), Ok(_)) => {
            assert!(matches!(error.cause, Cause::DuplicateMember | Cause::DepthExceeded), "{error}");
        }
    }
}

/// The value as `serde_json` would build it, by way of our reader.
fn value(reader: &mut Reader<'_>) -> Result<Value, JsonError> {
    Ok(match reader.kind()? {
        Kind::Array => {
            let mut array = Vec::new();
            reader.array(|reader| {
                array.push(value(reader)?);
                Ok::<_, JsonError>(())
            })?;
            Value::Array(array)
        }
        Kind::Boolean => Value::Bool(reader.boolean()?),
        Kind::Null => {
            reader.null()?;
            Value::Null
        }
        Kind::Number => {
            let number = reader.number()?;
            number.to_u64().map_or_else(|| number.to_f64().into(), Value::from)
        }
        Kind::Object => {
            let mut object = Map::new();
            reader.object(|reader, name| {
                object.insert(name.to_owned(), value(reader)?);
                Ok::<_, JsonError>(())
            })?;
            Value::Object(object)
        }
        Kind::String => Value::String(reader.string()?.to_owned()),
    })
}

/// Equal but for the last bits of doubles, which `serde_json` does not always round to nearest.
fn same(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Number(ours), Value::Number(theirs)) => {
            let (Some(ours), Some(theirs)) = (ours.as_f64(), theirs.as_f64()) else { return false };
            (ours - theirs).abs() <= 1e-12 * ours.abs().max(f64::MIN_POSITIVE)
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| same(ours, theirs))
        }
        (Value::Object(ours), Value::Object(theirs)) => {
            ours.len() == theirs.len()
                && ours.iter().all(|(name, value)| theirs.get(name).is_some_and(|theirs| same(value, theirs)))
        }
        _ => ours == theirs,
    }
}

/// Every key of a set is usable or named with a reason, and the usable ones can be published and read again.
pub fn jwks(text: &[u8]) {
    let set = match key_set::parse(text) {
        Ok(set) => set,
        Err(error) => {
            assert!(error.to_string().len() <= 128 + 6 * text.len(), "{error}");
            return;
        }
    };
    let value: Value = serde_json::from_slice(text).expect("what we accept is JSON");
    let members = value["keys"].as_array().expect("what we accept has keys");
    assert_eq!(set.keys.len() + set.skipped.len(), members.len());
    assert!(members.len() <= KEYS_PER_SET_MAX);
    for skipped in &set.skipped {
        assert!(members[skipped.index].is_object() && !skipped.reason.to_string().is_empty());
    }
    for key in &set.keys {
        assert!((1..=KID_BYTES_MAX).contains(&key.kid.len()));
        let x = edgate::base64url::encode(key.verifying_key.as_bytes());
        let member = members.iter().find(|member| member["x"] == x.as_str()).expect("its x is in the set");
        assert!(member["kty"] == "OKP" && member["crv"] == "Ed25519" && member.get("d").is_none());
    }

    let published: Vec<_> =
        set.keys.iter().map(|key| (key.kid.as_str(), key.verifying_key.as_bytes())).collect();
    let jwk = |(kid, public_key)| key_set::JwkOf { kid, public_key, delegation: None };
    let rendered =
        key_set::render(published.iter().copied().map(jwk)).expect("names and keys can be written");
    let again = key_set::parse(rendered.as_bytes()).expect("a published set is a set");
    let again: Vec<_> =
        again.keys.iter().map(|key| (key.kid.as_str(), key.verifying_key.as_bytes())).collect();
    assert_eq!(published, again);

    let keys =
        KeySet::new(vec![(IssuerIndex(0), set.keys.clone())]).expect("the names of one set are distinct");
    for key in &set.keys {
        let [found] = keys.candidates(Some(&key.kid)) else { panic!("{:?} is not found", key.kid) };
        assert_eq!(found.verifying_key(), &key.verifying_key);
    }
}

/// A configuration that is accepted keeps the promises the daemon builds on.
pub fn config(text: &[u8]) {
    // A file that is not UTF-8 is not read as far as here.
    let Ok(text) = std::str::from_utf8(text) else { return };
    let config = match Config::parse(text, Path::new("fuzz.toml")) {
        Ok(config) => config,
        Err(error) => {
            if let ConfigError::Value { key, problem, fix, .. } = &error {
                assert!(!key.is_empty() && !problem.is_empty() && !fix.is_empty(), "{error}");
            }
            return;
        }
    };
    let server = &config.server;
    assert!(!server.listen.is_empty() && server.shards > 0 && server.connections_max > 0);
    assert!(server.allow_unauthenticated || server.listen.iter().all(Listen::is_local));
    assert!(config.control.listen.ip().is_loopback());
    assert!(!server.header_timeout.is_zero() && !server.idle_timeout.is_zero());
    assert!(config.audit.segment_bytes.is_multiple_of(1 << 20) && !config.audit.flush_interval.is_zero());
    assert!((0.0..=1.0).contains(&config.verify.shadow_rate));
    let origin = edgate::audit::Settings::new(&config.audit.dir, &config.audit.origin);
    assert!(origin.check().is_ok(), "the audit log would refuse the origin {:?}", config.audit.origin);
    assert!(!config.issuers.is_empty());
    for (i, issuer) in config.issuers.iter().enumerate() {
        let earlier = &config.issuers[..i];
        assert!(earlier.iter().all(|other| other.name != issuer.name && other.issuer != issuer.issuer));
        assert!(!issuer.algorithms.is_empty() && !issuer.audiences.is_empty());
        let own = matches!(issuer.keys, KeySource::SigningKey);
        assert!(!own || config.signing.is_some(), "tokens of {} could never be verified", issuer.name);
    }
    if let Some(signing) = &config.signing {
        let issuer = &config.issuers[signing.issuer];
        assert!(matches!(issuer.keys, KeySource::SigningKey));
        assert!((1..=issuer.max_lifetime_s).contains(&signing.default_ttl_s));
    }
}
