//! Holding a bundle to its manifest, and saying what nothing holds.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::Mac as _;

use super::bundle::{
    BUNDLE_VERSION, DigestAlgorithm, SIGNATURE_ALGORITHM, has_signature, mac, signature_counts, time_range,
};
use super::canonical::{Value, canonical, parse};

/// What a bundle turned out to be. The first five members are the protocol's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Whether everything that was checked is right.
    pub valid: bool,
    /// What is wrong, in words.
    pub errors: Vec<String>,
    /// Whether the events are those that the manifest was made of.
    pub content_digest_match: bool,
    /// Whether somebody with the secret signed the manifest.
    pub manifest_signature_valid: bool,
    /// Each event.
    pub per_event: Vec<EventReport>,
    /// What stands in the file and was not checked, so that anyone may have written it.
    pub not_checked: Vec<String>,
}

/// An event of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventReport {
    /// Its place.
    pub index: usize,
    /// Its name, if it states one.
    pub id: Option<String>,
    /// Whether it carries a signature of its emitter, which is not checked.
    pub signature_present: bool,
}

/// Checks the text of a bundle with a secret.
#[must_use]
pub fn verify(text: &[u8], secret: &[u8]) -> Verified {
    let mut found = Verified::default();
    match parse(text) {
        Ok(bundle @ Value::Object(_)) => check(&bundle, secret, &mut found),
        Ok(_) => found.errors.push("the bundle is not an object".to_owned()),
        Err(error) => found.errors.push(error.to_string()),
    }
    found.valid = found.errors.is_empty() && found.content_digest_match && found.manifest_signature_valid;
    found
}

fn check(bundle: &Value, secret: &[u8], found: &mut Verified) {
    let events: &[Value] = match bundle.member("events") {
        Some(Value::Array(events)) => events,
        _ => {
            found.errors.push("the bundle has no array \"events\"".to_owned());
            &[]
        }
    };
    for (index, event) in events.iter().enumerate() {
        if !matches!(event, Value::Object(_)) {
            found.errors.push(format!("event {index} is not an object"));
        }
        let id = event.member("id").and_then(Value::text).map(str::to_owned);
        found.per_event.push(EventReport { index, id, signature_present: has_signature(event) });
    }
    match bundle.member("manifest") {
        Some(manifest @ Value::Object(_)) => {
            check_manifest(manifest, events, found);
            check_signature(bundle.member("signature"), manifest, secret, found);
            let version = bundle.member("aep_audit_version");
            if version.is_some() && version != manifest.member("aep_audit_version") {
                let error = "the version beside the manifest is not the one in it".to_owned();
                found.errors.push(error);
            }
        }
        _ => found.errors.push("the bundle has no object \"manifest\"".to_owned()),
    }
    say_what_nothing_covers(bundle, found);
}

fn check_manifest(manifest: &Value, events: &[Value], found: &mut Verified) {
    let mut wrong = |error: String| found.errors.push(error);
    if manifest.member("aep_audit_version").and_then(Value::text) != Some(BUNDLE_VERSION) {
        wrong(format!("the manifest is not of version {BUNDLE_VERSION}"));
    }
    if !manifest.member("event_count").is_some_and(|count| count.is_count(events.len())) {
        wrong(format!("manifest.event_count is not the number of events, {}", events.len()));
    }
    for (name, expected) in
        [("time_range", time_range(events)), ("per_event_signatures", signature_counts(events))]
    {
        if manifest.member(name).map(canonical) != Some(canonical(&expected)) {
            wrong(format!("manifest.{name} is not that of the events, {}", canonical(&expected)));
        }
    }
    let algorithm = manifest.member("content_digest_alg").and_then(Value::text);
    match algorithm.and_then(DigestAlgorithm::from_name) {
        Some(algorithm) => {
            let stated = manifest.member("content_digest").and_then(Value::text);
            let matches = stated == Some(algorithm.of_events(events).as_str());
            found.content_digest_match = matches;
            if !matches {
                wrong("the events are not those that manifest.content_digest was made of".to_owned());
            }
        }
        None => wrong("manifest.content_digest_alg is neither \"sha256\" nor \"sha512\"".to_owned()),
    }
}

fn check_signature(signature: Option<&Value>, manifest: &Value, secret: &[u8], found: &mut Verified) {
    let mut wrong = |error: &str| found.errors.push(error.to_owned());
    let Some(signature @ Value::Object(_)) = signature else {
        return wrong("the bundle has no object \"signature\"");
    };
    if signature.member("alg").and_then(Value::text) != Some(SIGNATURE_ALGORITHM) {
        return wrong("signature.alg is not \"hmac-sha256\"");
    }
    let value =
        signature.member("value").and_then(Value::text).and_then(|text| BASE64_STANDARD.decode(text).ok());
    let Some(value) = value else { return wrong("signature.value is not base64") };
    if secret.is_empty() {
        return wrong("without a secret nothing can be verified");
    }
    // In constant time.
    if mac(manifest, secret).verify_slice(&value).is_ok() {
        found.manifest_signature_valid = true;
    } else {
        wrong(
            "the manifest's signature does not verify: the manifest was changed, or the secret is another one",
        );
    }
}

fn say_what_nothing_covers(bundle: &Value, found: &mut Verified) {
    let mut uncovered = |what: String| found.not_checked.push(what);
    for name in bundle.names().filter(|name| !MEMBERS.contains(name)) {
        uncovered(format!("the member {name:?} of the bundle is covered by no signature"));
    }
    for name in bundle.member("signature").iter().flat_map(|signature| signature.names()) {
        if !SIGNATURE_MEMBERS.contains(&name) {
            uncovered(format!("the member {name:?} of the signature is covered by no signature"));
        }
    }
    let signed = found.per_event.iter().filter(|event| event.signature_present).count();
    if signed > 0 {
        uncovered(format!(
            "{signed} events carry signatures of their emitters, which the digest leaves out; they were not verified"
        ));
    }
    uncovered(
        "what the events say is what whoever has the secret signed: it proves no more than that".to_owned(),
    );
}

const MEMBERS: [&str; 4] = ["aep_audit_version", "manifest", "events", "signature"];
const SIGNATURE_MEMBERS: [&str; 2] = ["alg", "value"];
