//! Finding the key that a URI names, and what it must be.

use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::CallError;
use crate::{Algorithm, HsmError, Pkcs11Uri, PublicKey};

/// What is allowed of a key that we would rather not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct KeyRules {
    /// Use a private key that can be read out of the token.
    pub(crate) allow_extractable: bool,
    /// Use a private key that can leave the token wrapped under a trusted key, and in no other way.
    pub(crate) allow_wrapped_export: bool,
}

impl KeyRules {
    /// For whoever does not decide what signs: looks, measures, destroys, backs up.
    pub(crate) const fn any() -> Self {
        Self { allow_extractable: true, allow_wrapped_export: true }
    }
}

/// A signing key and its public half.
#[derive(Debug, Clone)]
pub(crate) struct SigningKeyFound {
    pub(crate) private: ObjectHandle,
    pub(crate) algorithm: Algorithm,
    /// `None` if the token shows no public key object.
    pub(crate) public_key: Option<PublicKey>,
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
    only(&find_all(session, wanted, class, key_type)?, wanted)
}

fn only<T: Copy>(found: &[T], wanted: &Pkcs11Uri) -> Result<T, HsmError> {
    match found {
        [one] => Ok(*one),
        _ => Err(HsmError::Object { wanted: Box::new(wanted.clone()), matches: found.len() }),
    }
}

/// `CKA_KEY_TYPE` of the keys of an algorithm.
pub(crate) const fn key_type(algorithm: Algorithm) -> KeyType {
    match algorithm {
        Algorithm::Ed25519 => KeyType::EC_EDWARDS,
        Algorithm::P256 => KeyType::EC,
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

/// The key pair that `wanted` names, of one of the algorithms in `allowed`.
///
/// # Errors
/// [`HsmError::Object`] unless exactly one private key matches, [`HsmError::KeyAttribute`] for a key that may not or
/// should not sign for us.
pub(crate) fn find_signing_key(
    session: &Session,
    wanted: &Pkcs11Uri,
    allowed: &[Algorithm],
    rules: KeyRules,
) -> Result<SigningKeyFound, HsmError> {
    let mut found = Vec::new();
    for algorithm in allowed {
        let handles = find_all(session, wanted, ObjectClass::PRIVATE_KEY, key_type(*algorithm))?;
        found.extend(handles.into_iter().map(|handle| (handle, *algorithm)));
    }
    let (private, algorithm) = only(&found, wanted)?;
    let refuse = |problem| HsmError::KeyAttribute { key: Box::new(wanted.clone()), problem };
    let asked = [
        AttributeType::Sign,
        AttributeType::Extractable,
        AttributeType::Sensitive,
        AttributeType::AlwaysAuthenticate,
        AttributeType::EcParams,
        AttributeType::Label,
        AttributeType::WrapWithTrusted,
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
    let stays = seen.extractable == Some(false) && seen.sensitive == Some(true);
    let leaves_wrapped = seen.sensitive == Some(true) && seen.wrap_with_trusted == Some(true);
    if !stays && leaves_wrapped && !(rules.allow_wrapped_export || rules.allow_extractable) {
        return Err(refuse(
            "it was made to be backed up: it can leave the token wrapped under a trusted key; set \
             hsm.allow_wrapped_export = true if the service is to use such keys",
        ));
    }
    if !stays && !leaves_wrapped && !rules.allow_extractable {
        return Err(refuse(
            "it can be read out of the token (CKA_EXTRACTABLE or not CKA_SENSITIVE); generate it in the token with \
             `edgate hsm keygen`, or allow this one by name",
        ));
    }
    if seen.is_on_other_curve(algorithm) {
        return Err(refuse("it is not on edwards25519 or P-256, as its type has it"));
    }
    let public_key = find_public_key(session, wanted, algorithm)?;
    Ok(SigningKeyFound { private, algorithm, public_key, label: seen.label })
}

/// The public key beside the private one. A missing public object is no error: the key may be pinned by the caller.
fn find_public_key(
    session: &Session,
    wanted: &Pkcs11Uri,
    algorithm: Algorithm,
) -> Result<Option<PublicKey>, HsmError> {
    let refuse = |problem| HsmError::KeyAttribute { key: Box::new(wanted.clone()), problem };
    let found = find_all(session, wanted, ObjectClass::PUBLIC_KEY, key_type(algorithm))?;
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
    if seen.is_on_other_curve(algorithm) {
        return Err(refuse("its public key is not on edwards25519 or P-256, as its type has it"));
    }
    let from_info =
        seen.info.as_deref().and_then(PublicKey::from_spki).filter(|key| key.algorithm() == algorithm);
    let public_key = from_info
        .or_else(|| seen.point.as_deref().and_then(|point| read_point(algorithm, point)))
        .ok_or_else(|| refuse("its public key (CKA_EC_POINT) is in no encoding that we know"))?;
    Ok(Some(public_key))
}

/// Reads `CKA_EC_POINT`, of which there are three encodings in use: raw (Ed25519 in PKCS#11 3.1), a DER OCTET STRING (2.40,
/// SoftHSM), a DER BIT STRING (some drafts).
pub(crate) fn read_point(algorithm: Algorithm, point: &[u8]) -> Option<PublicKey> {
    let raw = match (algorithm, point) {
        (Algorithm::Ed25519, [0x04, 0x20, raw @ ..] | [0x03, 0x21, 0x00, raw @ ..]) if raw.len() == 32 => raw,
        (Algorithm::P256, [0x04, 0x41, raw @ ..] | [0x03, 0x42, 0x00, raw @ ..]) if raw.len() == 65 => raw,
        (_, raw) => raw,
    };
    PublicKey::from_bytes(raw).filter(|key| key.algorithm() == algorithm)
}

/// Whether `CKA_EC_PARAMS` names the algorithm's curve: by OBJECT IDENTIFIER (RFC 8410, RFC 5480), or edwards25519 by its name
/// as a PrintableString.
fn is_curve(algorithm: Algorithm, params: &[u8]) -> bool {
    match algorithm {
        Algorithm::Ed25519 => params == EC_PARAMS_OID || params == EC_PARAMS_NAME,
        Algorithm::P256 => params == P256_PARAMS_OID,
    }
}

/// `id-Ed25519`, 1.3.101.112.
pub(crate) const EC_PARAMS_OID: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
/// PrintableString "edwards25519".
pub(crate) const EC_PARAMS_NAME: &[u8] = b"\x13\x0cedwards25519";
/// `prime256v1`, 1.2.840.10045.3.1.7.
pub(crate) const P256_PARAMS_OID: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// The attributes that a token answered; the library leaves out those it did not.
#[derive(Default)]
struct Seen {
    sign: Option<bool>,
    extractable: Option<bool>,
    sensitive: Option<bool>,
    always_authenticate: Option<bool>,
    wrap_with_trusted: Option<bool>,
    params: Option<Vec<u8>>,
    point: Option<Vec<u8>>,
    info: Option<Vec<u8>>,
    label: Option<String>,
}

impl Seen {
    /// A token that shows no curve, or an empty one, says nothing.
    fn is_on_other_curve(&self, algorithm: Algorithm) -> bool {
        self.params.as_deref().is_some_and(|params| !params.is_empty() && !is_curve(algorithm, params))
    }

    fn note(&mut self, attribute: Attribute) {
        match attribute {
            Attribute::Sign(value) => self.sign = Some(value),
            Attribute::Extractable(value) => self.extractable = Some(value),
            Attribute::Sensitive(value) => self.sensitive = Some(value),
            Attribute::AlwaysAuthenticate(value) => self.always_authenticate = Some(value),
            Attribute::WrapWithTrusted(value) => self.wrap_with_trusted = Some(value),
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
        let point: [u8; 65] = std::array::from_fn(|index| if index == 0 { 4 } else { 7 });
        for key in [PublicKey::Ed25519([7; 32]), PublicKey::P256(point)] {
            let (algorithm, raw) = (key.algorithm(), key.as_bytes());
            let length = u8::try_from(raw.len()).unwrap();
            let octets = [&[0x04, length][..], raw].concat();
            let bits = [&[0x03, length + 1, 0x00][..], raw].concat();
            for encoding in [raw, &octets, &bits] {
                assert_eq!(read_point(algorithm, encoding), Some(key));
                for other in [Algorithm::Ed25519, Algorithm::P256].iter().filter(|other| **other != algorithm)
                {
                    assert_eq!(read_point(*other, encoding), None);
                }
            }
            for wrong in [&raw[..31], &octets[..octets.len() - 1], &octets[1..], &[0x04; 66], &[]] {
                assert_eq!(read_point(algorithm, wrong), None);
            }
        }
        assert_eq!(read_point(Algorithm::P256, &[0x05; 65]), None, "no compressed point");
    }

    #[test]
    fn every_name_of_the_curve_is_read_and_no_other() {
        let names = [EC_PARAMS_OID, EC_PARAMS_NAME, P256_PARAMS_OID];
        let is = |algorithm| names.map(|params| is_curve(algorithm, params));
        assert_eq!(is(Algorithm::Ed25519), [true, true, false]);
        assert_eq!(is(Algorithm::P256), [false, false, true]);
        // Ed448.
        assert!(!is_curve(Algorithm::Ed25519, &[0x06, 0x03, 0x2b, 0x65, 0x71]));
    }
}
