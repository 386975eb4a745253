//! What a key is told not to do, and what becomes of it where a token refuses to be told.

use cryptoki::mechanism::MechanismType;
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;

use crate::pkcs11::{CallError, Class};
use crate::{Algorithm, HsmError};

/// What a token may refuse to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protection {
    AllowedMechanisms,
    Copyable,
    Modifiable,
    Trusted,
    WrapWithTrusted,
}

/// Of a key that never leaves the token. In each of these lists what is most often refused comes last, and is given up first.
pub(super) const STAYS: &[Protection] =
    &[Protection::Modifiable, Protection::Copyable, Protection::AllowedMechanisms];
/// Of a key that leaves it wrapped.
pub(super) const LEAVES_WRAPPED: &[Protection] = &[
    Protection::WrapWithTrusted,
    Protection::Modifiable,
    Protection::Copyable,
    Protection::AllowedMechanisms,
];
/// Of such a key that comes back: of a key that it unwraps SoftHSM sets them one by one, and after CKA_MODIFIABLE=false no more.
pub(super) const COMES_BACK: &[Protection] = &[
    Protection::WrapWithTrusted,
    Protection::AllowedMechanisms,
    Protection::Copyable,
    Protection::Modifiable,
];
/// Of a key that wraps others.
pub(super) const WRAPS: &[Protection] =
    &[Protection::Trusted, Protection::Modifiable, Protection::Copyable, Protection::AllowedMechanisms];

impl Protection {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::AllowedMechanisms => "CKA_ALLOWED_MECHANISMS",
            Self::Copyable => "CKA_COPYABLE=false",
            Self::Modifiable => "CKA_MODIFIABLE=false",
            Self::Trusted => "CKA_TRUSTED=true",
            Self::WrapWithTrusted => "CKA_WRAP_WITH_TRUSTED=true",
        }
    }

    /// `mechanisms` are those that the key is for.
    pub(super) fn attribute(self, mechanisms: &[MechanismType]) -> Attribute {
        match self {
            Self::AllowedMechanisms => Attribute::AllowedMechanisms(mechanisms.to_vec()),
            Self::Copyable => Attribute::Copyable(false),
            Self::Modifiable => Attribute::Modifiable(false),
            Self::Trusted => Attribute::Trusted(true),
            Self::WrapWithTrusted => Attribute::WrapWithTrusted(true),
        }
    }
}

/// Tries `make` with all protections, then with fewer, as tokens refuse some; the object, and what was refused. Never when an
/// object of this `id` is there: then an attempt that was answered with an error made it.
pub(super) fn with_less_protection(
    session: &Session,
    id: &[u8],
    protections: &[Protection],
    make: impl Fn(&[Protection]) -> Result<ObjectHandle, CallError>,
) -> Result<(ObjectHandle, Vec<&'static str>), HsmError> {
    let mut left = protections;
    loop {
        let error = match make(left) {
            Ok(handle) => {
                let refused = protections[left.len()..].iter().map(|protection| protection.name());
                return Ok((handle, refused.collect()));
            }
            Err(error) => error,
        };
        let made = session.find_objects(&[Attribute::Id(id.to_vec())]).map_err(CallError::from)?;
        let retry = matches!(error.class(), Class::Config | Class::Device | Class::Caller);
        match left.split_last() {
            Some((_, fewer)) if retry && made.is_empty() => left = fewer,
            _ => return Err(error.into()),
        }
    }
}

/// The template of a key that is secret, and leaves the token wrapped at most.
pub(super) fn secret(
    names: &[Attribute],
    extractable: bool,
    protections: &[Protection],
    mechanisms: &[MechanismType],
) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(extractable),
    ];
    template.extend_from_slice(names);
    template.extend(protections.iter().map(|protection| protection.attribute(mechanisms)));
    template
}

/// What a private key that signs may do, and what not.
pub(super) const SIGNS: [Attribute; 5] = [
    Attribute::Sign(true),
    Attribute::Decrypt(false),
    Attribute::Unwrap(false),
    Attribute::Derive(false),
    Attribute::SignRecover(false),
];

/// What keys of an algorithm sign with.
pub(super) const fn signs_with(algorithm: Algorithm) -> MechanismType {
    match algorithm {
        Algorithm::Ed25519 => MechanismType::EDDSA,
        Algorithm::P256 => MechanismType::ECDSA,
    }
}
