//! Finding the key that a URI names, and what it must be.

use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::CallError;
use crate::{HsmError, Pkcs11Uri};

/// What is allowed of a key that we would rather not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct KeyRules {
    /// Use a private key that can be read out of the token.
    pub(crate) allow_extractable: bool,
}

/// A signing key and its public half.
#[derive(Debug, Clone)]
pub(crate) struct SigningKeyFound {
    pub(crate) private: ObjectHandle,
    /// `None` if the token shows no public key object.
    pub(crate) public_key: Option<[u8; 32]>,
    pub(crate) label: Option<String>,
}

/// The one object of `class` that `wanted` names by id, label or both.
///
/// # Errors
/// [`HsmError::Object`] for none or several.
pub(crate) fn find_one(
    session: &Session,
    wanted: &Pkcs11Uri,
    class: ObjectClass,
    key_type: KeyType,
) -> Result<ObjectHandle, HsmError> {
    let mut found = find_all(session, wanted, class, key_type)?;
    match (found.pop(), found.len()) {
        (Some(handle), 0) => Ok(handle),
        (last, more) => Err(HsmError::Object {
            wanted: Box::new(wanted.clone()),
            matches: more + usize::from(last.is_some()),
        }),
    }
}

/// Every object of `class` that `wanted` names by id, label or both.
pub(crate) fn find_all(
    session: &Session,
    wanted: &Pkcs11Uri,
    class: ObjectClass,
    key_type: KeyType,
) -> Result<Vec<ObjectHandle>, CallError> {
    let mut template = vec![Attribute::Class(class), Attribute::KeyType(key_type), Attribute::Token(true)];
    template.extend(wanted.id.clone().map(Attribute::Id));
    template.extend(wanted.object.as_ref().map(|label| Attribute::Label(label.clone().into_bytes())));
    Ok(session.find_objects(&template)?)
}

/// The Ed25519 key pair that `wanted` names.
///
/// # Errors
/// [`HsmError::Object`] unless exactly one private key matches, [`HsmError::KeyAttribute`] for a key that may not or
/// should not sign for us.
pub(crate) fn find_signing_key(
    session: &Session,
    wanted: &Pkcs11Uri,
    rules: KeyRules,
) -> Result<SigningKeyFound, HsmError> {
    let private = find_one(session, wanted, ObjectClass::PRIVATE_KEY, KeyType::EC_EDWARDS)?;
    let refuse = |problem| HsmError::KeyAttribute { key: Box::new(wanted.clone()), problem };
    let asked = [
        AttributeType::Sign,
        AttributeType::Extractable,
        AttributeType::Sensitive,
        AttributeType::AlwaysAuthenticate,
        AttributeType::EcParams,
        AttributeType::Label,
    ];
    let mut seen = Seen::default();
    for attribute in session.get_attributes(private, &asked).map_err(CallError::from)? {
        seen.note(attribute);
    }
    // An attribute that is not answered counts as the worse answer, but for the curve: some tokens only show it on
    // the public key.
    if seen.sign != Some(true) {
        return Err(refuse("CKA_SIGN is not set: it may not sign"));
    }
    if seen.always_authenticate == Some(true) {
        return Err(refuse(
            "CKA_ALWAYS_AUTHENTICATE is set: it wants the PIN for each signature; generate one without",
        ));
    }
    if !rules.allow_extractable && (seen.extractable != Some(false) || seen.sensitive != Some(true)) {
        return Err(refuse(
            "it can be read out of the token (CKA_EXTRACTABLE or not CKA_SENSITIVE); generate it in the token with \
             `edgate hsm keygen`, or allow this one by name",
        ));
    }
    if seen.params.as_deref().is_some_and(|params| !params.is_empty() && !is_edwards25519(params)) {
        return Err(refuse("it is not on edwards25519"));
    }
    let public_key = find_public_key(session, wanted)?;
    Ok(SigningKeyFound { private, public_key, label: seen.label })
}

/// The public key beside the private one. A missing public object is no error: the key may be pinned by the caller.
fn find_public_key(session: &Session, wanted: &Pkcs11Uri) -> Result<Option<[u8; 32]>, HsmError> {
    let refuse = |problem| HsmError::KeyAttribute { key: Box::new(wanted.clone()), problem };
    let found = find_all(session, wanted, ObjectClass::PUBLIC_KEY, KeyType::EC_EDWARDS)?;
    let handle = match found[..] {
        [] => return Ok(None),
        [handle] => handle,
        _ => return Err(HsmError::Object { wanted: Box::new(wanted.clone()), matches: found.len() }),
    };
    let asked = [AttributeType::PublicKeyInfo, AttributeType::EcPoint, AttributeType::EcParams];
    let mut seen = Seen::default();
    for attribute in session.get_attributes(handle, &asked).map_err(CallError::from)? {
        seen.note(attribute);
    }
    if seen.params.as_deref().is_some_and(|params| !params.is_empty() && !is_edwards25519(params)) {
        return Err(refuse("its public key is not on edwards25519"));
    }
    let from_info = seen.info.as_deref().and_then(|info| info.strip_prefix(SPKI_PREFIX)).and_then(array);
    let public_key = from_info
        .or_else(|| seen.point.as_deref().and_then(edwards_point))
        .ok_or_else(|| refuse("its public key (CKA_EC_POINT) is in no encoding that we know"))?;
    Ok(Some(public_key))
}

/// Reads `CKA_EC_POINT` of an Ed25519 key, of which there are three encodings in use: 32 raw bytes (PKCS#11 3.1), a DER
/// OCTET STRING of them (2.40, SoftHSM), a DER BIT STRING of them (some drafts).
#[must_use]
pub fn edwards_point(point: &[u8]) -> Option<[u8; 32]> {
    match point {
        [0x04, 0x20, raw @ ..] | [0x03, 0x21, 0x00, raw @ ..] if raw.len() == 32 => array(raw),
        raw => array(raw),
    }
}

/// Reads `CKA_EC_PARAMS`: the OBJECT IDENTIFIER of RFC 8410 or the name of the curve as a PrintableString.
#[must_use]
pub fn is_edwards25519(params: &[u8]) -> bool {
    params == EC_PARAMS_OID || params == EC_PARAMS_NAME
}

/// `id-Ed25519`, 1.3.101.112.
pub(crate) const EC_PARAMS_OID: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
/// PrintableString "edwards25519".
pub(crate) const EC_PARAMS_NAME: &[u8] = b"\x13\x0cedwards25519";
/// SubjectPublicKeyInfo of RFC 8410 §4, up to the key.
const SPKI_PREFIX: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

fn array(bytes: &[u8]) -> Option<[u8; 32]> {
    bytes.try_into().ok()
}

/// The attributes that a token answered; the library leaves out those it did not.
#[derive(Default)]
struct Seen {
    sign: Option<bool>,
    extractable: Option<bool>,
    sensitive: Option<bool>,
    always_authenticate: Option<bool>,
    params: Option<Vec<u8>>,
    point: Option<Vec<u8>>,
    info: Option<Vec<u8>>,
    label: Option<String>,
}

impl Seen {
    fn note(&mut self, attribute: Attribute) {
        match attribute {
            Attribute::Sign(value) => self.sign = Some(value),
            Attribute::Extractable(value) => self.extractable = Some(value),
            Attribute::Sensitive(value) => self.sensitive = Some(value),
            Attribute::AlwaysAuthenticate(value) => self.always_authenticate = Some(value),
            Attribute::EcParams(value) => self.params = Some(value),
            Attribute::EcPoint(value) => self.point = Some(value),
            Attribute::PublicKeyInfo(value) => self.info = Some(value),
            Attribute::Label(value) => self.label = String::from_utf8(value).ok(),
            // Not asked for.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_of_a_point_is_read_and_no_other() {
        let raw = [7; 32];
        let octets = [&[0x04, 0x20][..], &raw].concat();
        let bits = [&[0x03, 0x21, 0x00][..], &raw].concat();
        for encoding in [&raw[..], &octets, &bits] {
            assert_eq!(edwards_point(encoding), Some(raw));
        }
        for wrong in [&raw[..31], &octets[..33], &octets[1..], &[0x04; 65], &[]] {
            assert_eq!(edwards_point(wrong), None);
        }
    }

    #[test]
    fn both_names_of_the_curve_are_read_and_no_other() {
        assert!(is_edwards25519(EC_PARAMS_OID) && is_edwards25519(EC_PARAMS_NAME));
        // Ed448, P-256.
        assert!(!is_edwards25519(&[0x06, 0x03, 0x2b, 0x65, 0x71]));
        assert!(!is_edwards25519(&[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]));
    }
}
