//! Other issuers' status lists: which are fetched, and by whose keys they are believed.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{StartError, now};
use crate::config::Config;
use crate::keys::IssuerIndex;
use crate::shard::Policy;
use crate::status_list::{self, Cache, Fetcher, Source};
use crate::verify::Verifier;

/// The issuers whose tokens have places in lists, with the keys that the policy has for them.
///
/// # Errors
/// [`StartError::StatusList`] names the issuer whose lists lie nowhere that may be fetched from.
pub(super) fn sources(config: &Config, policy: &Arc<ArcSwap<Policy>>) -> Result<Vec<Source>, StartError> {
    let mut sources = Vec::new();
    for (index, issuer) in (0..).map(IssuerIndex).zip(&config.issuers) {
        let Some(prefix) = &issuer.status_list_prefix else { continue };
        if !status_list::is_usable_prefix(prefix) {
            let problem = format!(
                "{prefix:?} is no place for lists; write https://HOST/FOLDER/, file:///FOLDER/, or http:// for this machine"
            );
            return Err(StartError::StatusList { name: issuer.name.clone(), problem });
        }
        let policy = Arc::clone(policy);
        sources.push(Source {
            issuer: index,
            name: issuer.name.clone(),
            iss: issuer.issuer.clone(),
            prefix: prefix.clone(),
            // A rotated or killed key counts from the next list on.
            keys: Arc::new(move || policy.load().keys_of(index)),
        });
    }
    Ok(sources)
}

/// Starts fetching, where an issuer's tokens have places in lists.
///
/// # Errors
/// As [`sources`]; [`StartError::System`] if a thread cannot be had.
pub(super) fn fetch(
    config: &Config,
    policy: &Arc<ArcSwap<Policy>>,
    verifier: Verifier,
) -> Result<Option<(Arc<Cache>, Fetcher)>, StartError> {
    let sources = sources(config, policy)?;
    if sources.is_empty() {
        return Ok(None);
    }
    let (cache, places) = status_list::places();
    let fetcher = Fetcher::start(sources, places, verifier, now)
        .map_err(|error| StartError::System { what: "start fetching status lists", error })?;
    Ok(Some((Arc::new(cache), fetcher)))
}
