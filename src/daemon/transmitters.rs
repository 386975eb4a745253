//! Who may push Security Event Tokens: the transmitters of the configuration, with their keys.

use super::StartError;
use crate::config::Config;
use crate::control::Hearing;
use crate::secevent::{Receiver, Transmitter};
use crate::shard;
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
        let owner = format!("revocation.transmitters.{}", one.name);
        let keys = shard::published_keys(&owner, &one.keys, &[])?;
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
