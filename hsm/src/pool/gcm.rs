//! AES-256-GCM (NIST SP 800-38D) in the token.

use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use zeroize::Zeroizing;

use crate::pkcs11::{CallError, Class, KeyRules, find_one};
use crate::{HsmError, Pkcs11Uri};

const TAG_BITS: u64 = 128;

/// The AES-256 key that `wanted` names.
pub(super) fn find_wrapping_key(
    session: &Session,
    wanted: &Pkcs11Uri,
    rules: KeyRules,
) -> Result<ObjectHandle, HsmError> {
    let handle = find_one(session, wanted, ObjectClass::SECRET_KEY, KeyType::AES)?;
    let refuse = |problem| HsmError::KeyAttribute { key: Box::new(wanted.clone()), problem };
    let asked = [
        AttributeType::Encrypt,
        AttributeType::Decrypt,
        AttributeType::Extractable,
        AttributeType::Sensitive,
        AttributeType::ValueLen,
    ];
    let (mut encrypt, mut decrypt, mut unextractable, mut sensitive, mut bytes) =
        (false, false, false, false, 0);
    for attribute in session.get_attributes(handle, &asked).map_err(CallError::from)? {
        match attribute {
            Attribute::Encrypt(value) => encrypt = value,
            Attribute::Decrypt(value) => decrypt = value,
            Attribute::Extractable(value) => unextractable = !value,
            Attribute::Sensitive(value) => sensitive = value,
            Attribute::ValueLen(value) => bytes = *value,
            // Not asked for.
            _ => {}
        }
    }
    if !(encrypt && decrypt) {
        return Err(refuse("it may not both encrypt and decrypt"));
    }
    if bytes != 32 {
        return Err(refuse("it is not 32 bytes long (AES-256)"));
    }
    if !(rules.allow_extractable || unextractable && sensitive) {
        return Err(refuse("it can be read out of the token; generate it with `edgate hsm keygen`"));
    }
    Ok(handle)
}

/// Encrypts under an IV from the token's generator. Some tokens put their own IV in; the one used is given back.
pub(super) fn seal(
    session: &Session,
    key: ObjectHandle,
    data: &[u8],
    associated: &[u8],
) -> Result<([u8; 12], Vec<u8>), CallError> {
    let mut iv = [0; 12];
    session.generate_random_slice(&mut iv)?;
    let parameters = GcmParams::new(&mut iv, associated, TAG_BITS.into())?;
    let mechanism = Mechanism::AesGcm(parameters);
    let sealed = session.encrypt(&mechanism, key, data)?;
    drop(mechanism);
    Ok((iv, sealed))
}

/// Decrypts and authenticates. A tag that does not match is [`HsmError::Unsealed`], never a fault of the device.
pub(super) fn open(
    session: &Session,
    key: ObjectHandle,
    mut iv: [u8; 12],
    data: &[u8],
    associated: &[u8],
) -> Result<Zeroizing<Vec<u8>>, HsmError> {
    let parameters = GcmParams::new(&mut iv, associated, TAG_BITS.into()).map_err(CallError::from)?;
    match session.decrypt(&Mechanism::AesGcm(parameters), key, data) {
        Ok(opened) => Ok(Zeroizing::new(opened)),
        Err(error) => {
            let error = CallError::from(error);
            Err(if error.class() == Class::Rejected { HsmError::Unsealed } else { error.into() })
        }
    }
}
