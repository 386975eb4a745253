//! Other issuers' status lists: which are fetched, and by whose keys they are believed.

use std::sync::Arc;

use super::transmitters::published;
use super::{StartError, now};
use crate::config::{Config, KeySource};
use crate::keys::{IssuerIndex, PublishedKey};
use crate::status_list::{self, Cache, Fetcher, Source};
use crate::verify::Verifier;

/// Starts fetching, where an issuer's tokens have places in lists.
///
/// # Errors
/// [`StartError::StatusList`] names the issuer whose keys cannot be used; [`StartError::System`] if a thread cannot be had.
pub(super) fn fetch(
    config: &Config,
    own: Option<&PublishedKey>,
    verifier: Verifier,
) -> Result<Option<(Arc<Cache>, Fetcher)>, StartError> {
    let mut sources = Vec::new();
    for (index, issuer) in (0..).map(IssuerIndex).zip(&config.issuers) {
        let Some(prefix) = &issuer.status_list_prefix else { continue };
        if !status_list::is_usable_prefix(prefix) {
            let problem = format!(
                "{prefix:?} is no place for lists; write https://HOST/FOLDER/, file:///FOLDER/, or http:// for this machine"
            );
            return Err(StartError::StatusList { name: issuer.name.clone(), problem });
        }
        let keys = match &issuer.keys {
            KeySource::SigningKey => own.cloned().into_iter().collect(),
            source => published(source)
                .map_err(|problem| StartError::StatusList { name: issuer.name.clone(), problem })?,
        };
        sources.push(Source {
            issuer: index,
            name: issuer.name.clone(),
            iss: issuer.issuer.clone(),
            prefix: prefix.clone(),
            keys,
        });
    }
    if sources.is_empty() {
        return Ok(None);
    }
    let (cache, places) = status_list::places();
    let fetcher = Fetcher::start(sources, places, verifier, now)
        .map_err(|error| StartError::System { what: "start fetching status lists", error })?;
    Ok(Some((Arc::new(cache), fetcher)))
}
