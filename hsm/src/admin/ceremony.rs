//! What a ceremony asks of a token besides making keys: their attributes as read back, and a signature over all of it.

use std::collections::BTreeMap;

use cryptoki::object::{Attribute, AttributeType, ObjectClass};

use super::Admin;
use crate::pkcs11::CallError;
use crate::{HsmError, Pkcs11Uri};

/// Begins what is signed of a transcript: neither a token's signing input nor a checkpoint has a NUL.
pub const TRANSCRIPT_PREFIX: &[u8] = b"edgate-hsm ceremony\0";

/// What [`Admin::attributes`] can tell of a key.
pub const ATTRIBUTE_NAMES: [&str; 14] = [
    "always_sensitive",
    "copyable",
    "decrypt",
    "extractable",
    "local",
    "modifiable",
    "never_extractable",
    "private",
    "sensitive",
    "sign",
    "trusted",
    "unwrap",
    "wrap",
    "wrap_with_trusted",
];

impl Admin {
    /// The attributes of the private or secret key that `key` names, as the token answers them now. What it does not
    /// answer is left out.
    ///
    /// # Errors
    /// [`HsmError::Object`] unless exactly one key matches; otherwise what the module answered.
    pub fn attributes(&self, key: &Pkcs11Uri) -> Result<BTreeMap<&'static str, bool>, HsmError> {
        key.require_object()?;
        let _inside = self.enter()?;
        let mut found = Vec::new();
        for class in [ObjectClass::PRIVATE_KEY, ObjectClass::SECRET_KEY] {
            let mut template = vec![Attribute::Class(class), Attribute::Token(true)];
            template.extend(key.id.clone().map(Attribute::Id));
            template.extend(key.object.as_ref().map(|label| Attribute::Label(label.clone().into_bytes())));
            found.extend(self.session.find_objects(&template).map_err(CallError::from)?);
        }
        let [handle] = found[..] else {
            return Err(HsmError::Object { wanted: Box::new(key.clone()), matches: found.len() });
        };
        let asked = [
            AttributeType::AlwaysSensitive,
            AttributeType::Copyable,
            AttributeType::Decrypt,
            AttributeType::Extractable,
            AttributeType::Local,
            AttributeType::Modifiable,
            AttributeType::NeverExtractable,
            AttributeType::Private,
            AttributeType::Sensitive,
            AttributeType::Sign,
            AttributeType::Trusted,
            AttributeType::Unwrap,
            AttributeType::Wrap,
            AttributeType::WrapWithTrusted,
        ];
        let answered = self.session.get_attributes(handle, &asked).map_err(CallError::from)?;
        Ok(answered.iter().filter_map(named).collect())
    }

    /// Signs a transcript with `key`; the public key and the signature, over [`TRANSCRIPT_PREFIX`] and the text.
    ///
    /// # Errors
    /// What is wrong with the key, or [`HsmError::SignatureFault`].
    pub fn sign_transcript(&self, key: &Pkcs11Uri, text: &[u8]) -> Result<([u8; 32], [u8; 64]), HsmError> {
        self.sign_ed25519(key, &[TRANSCRIPT_PREFIX, text].concat())
    }
}

fn named(attribute: &Attribute) -> Option<(&'static str, bool)> {
    match attribute {
        Attribute::AlwaysSensitive(value) => Some(("always_sensitive", *value)),
        Attribute::Copyable(value) => Some(("copyable", *value)),
        Attribute::Decrypt(value) => Some(("decrypt", *value)),
        Attribute::Extractable(value) => Some(("extractable", *value)),
        Attribute::Local(value) => Some(("local", *value)),
        Attribute::Modifiable(value) => Some(("modifiable", *value)),
        Attribute::NeverExtractable(value) => Some(("never_extractable", *value)),
        Attribute::Private(value) => Some(("private", *value)),
        Attribute::Sensitive(value) => Some(("sensitive", *value)),
        Attribute::Sign(value) => Some(("sign", *value)),
        Attribute::Trusted(value) => Some(("trusted", *value)),
        Attribute::Unwrap(value) => Some(("unwrap", *value)),
        Attribute::Wrap(value) => Some(("wrap", *value)),
        Attribute::WrapWithTrusted(value) => Some(("wrap_with_trusted", *value)),
        // Not asked for.
        _ => None,
    }
}
