//! Who may push Security Event Tokens: the transmitters of the configuration, with their keys.

use super::StartError;
use crate::config::{Config, KeySource};
use crate::control::Hearing;
use crate::keys::{PublishedKey, jwks};
use crate::secevent::{Receiver, Transmitter};
use crate::verify::Verifier;

/// What the control plane hears events with; none where nobody may push any. Reads the key files.
pub(super) fn hearing(config: &Config, verifier: Verifier) -> Result<Option<Hearing>, StartError> {
    let all = &config.revocation.transmitters;
    if all.is_empty() {
        return Ok(None);
    }
    let (mut transmitters, mut issuers) = (Vec::with_capacity(all.len()), Vec::with_capacity(all.len()));
    for one in all {
        let failed = |problem: String| StartError::Transmitter { name: one.name.clone(), problem };
        let issuer = config.issuers.iter().position(|issuer| issuer.name == one.for_issuer);
        let issuer = issuer.ok_or_else(|| failed(format!("no issuer is named {}", one.for_issuer)))?;
        let keys = published(&one.keys).map_err(failed)?;
        let transmitter = Transmitter {
            name: one.name.clone(),
            issuer: one.issuer.clone(),
            audience: one.audience.clone(),
            speaks_of: config.issuers[issuer].issuer.clone(),
        };
        transmitters.push((transmitter, keys));
        issuers.push(issuer);
    }
    let receiver = Receiver::new(transmitters, verifier).map_err(|error| StartError::Transmitter {
        name: "(all, numbered)".to_owned(),
        problem: error.to_string(),
    })?;
    Ok(Some(Hearing { receiver, issuers }))
}

pub(super) fn published(source: &KeySource) -> Result<Vec<PublishedKey>, String> {
    let text = match source {
        KeySource::Inline(text) => text.clone().into_bytes(),
        KeySource::File(path) => std::fs::read(path)
            .map_err(|error| format!("jwks_file: cannot read {}: {error}", path.display()))?,
        KeySource::SigningKey => return Err("a transmitter does not sign with this node's key".to_owned()),
    };
    let keys = jwks::parse(&text).map_err(|error| error.to_string())?.keys;
    if keys.is_empty() {
        return Err("no usable Ed25519 key in its JWKS; add one with kty OKP and crv Ed25519".to_owned());
    }
    Ok(keys)
}
