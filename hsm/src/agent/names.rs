//! Fields that name things: purposes, algorithms, keys.

use std::sync::Arc;

use super::frame::NamedKey;
use super::wire::{Decoder, Encoder, FrameError};
use crate::pool::{KeyKind, PinnedKey};
use crate::{Algorithm, KeyName, Pkcs11Uri, PublicKey, Purpose, UriRules};

pub(super) fn put_purpose(fields: &mut Encoder, purpose: Purpose) {
    fields.u8(match purpose {
        Purpose::AuditCheckpoint => 0,
        Purpose::TlsServer => 1,
        Purpose::TokenSigning => 2,
        Purpose::Witness => 3,
        Purpose::Wrapping => 4,
        Purpose::Backup => 5,
    });
}

pub(super) fn purpose(fields: &mut Decoder<'_>) -> Result<Purpose, FrameError> {
    match fields.u8()? {
        0 => Ok(Purpose::AuditCheckpoint),
        1 => Ok(Purpose::TlsServer),
        2 => Ok(Purpose::TokenSigning),
        3 => Ok(Purpose::Witness),
        4 => Ok(Purpose::Wrapping),
        5 => Ok(Purpose::Backup),
        _ => Err(FrameError::Unknown("purpose")),
    }
}

/// A URI, which names nothing but a token and an object in it.
pub(super) fn uri(fields: &mut Decoder<'_>) -> Result<Pkcs11Uri, FrameError> {
    parse_uri(fields.text("URI")?)
}

pub(super) fn parse_uri(text: &str) -> Result<Pkcs11Uri, FrameError> {
    match Pkcs11Uri::parse(text, UriRules::Production) {
        Ok(uri) if uri.pin_source.is_none() && uri.module_path.is_none() => Ok(uri),
        _ => Err(FrameError::Text("URI")),
    }
}

pub(super) fn put_algorithm(fields: &mut Encoder, algorithm: Algorithm) {
    fields.u8(match algorithm {
        Algorithm::Ed25519 => 0,
        Algorithm::P256 => 1,
    });
}

pub(super) fn algorithm(fields: &mut Decoder<'_>) -> Result<Algorithm, FrameError> {
    match fields.u8()? {
        0 => Ok(Algorithm::Ed25519),
        1 => Ok(Algorithm::P256),
        _ => Err(FrameError::Unknown("algorithm")),
    }
}

pub(super) fn put_public_key(fields: &mut Encoder, key: &PublicKey) {
    put_algorithm(fields, key.algorithm());
    fields.raw(key.as_bytes());
}

pub(super) fn public_key(fields: &mut Decoder<'_>) -> Result<PublicKey, FrameError> {
    let bytes = match algorithm(fields)? {
        Algorithm::Ed25519 => fields.raw(32)?,
        Algorithm::P256 => fields.raw(65)?,
    };
    PublicKey::from_bytes(bytes).ok_or(FrameError::Text("public key"))
}

pub(super) fn key_name(fields: &mut Decoder<'_>) -> Result<KeyName, FrameError> {
    let purpose = purpose(fields)?;
    let algorithm = fields.option(algorithm)?;
    let wrappable = fields.option(|_| Ok(()))?.is_some();
    let name = KeyName::new(purpose, fields.text("key name")?);
    let name = match algorithm {
        Some(algorithm) => name.and_then(|name| name.with_algorithm(algorithm)),
        None => name.filter(|name| name.algorithm().is_none()),
    };
    let name = if wrappable { name.and_then(KeyName::wrappable) } else { name };
    name.ok_or(FrameError::Text("key name"))
}

pub(super) fn put_key(fields: &mut Encoder, key: &Arc<PinnedKey>) {
    fields.text(&key.uri.to_string());
    let public_key = match &key.kind {
        KeyKind::Signing(pinned) => Some(pinned.key()),
        KeyKind::Wrapping => None,
    };
    fields.option(public_key.as_ref(), put_public_key);
}

pub(super) fn named_key(fields: &mut Decoder<'_>) -> Result<NamedKey, FrameError> {
    Ok(NamedKey { uri: fields.text("URI")?.to_owned(), public_key: fields.option(public_key)? })
}
