//! What every shard decides by: an immutable snapshot, swapped whole.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::audit::hex;
use crate::config::{self, JWKS_MAX_AGE_S, KeySource, OnStale, RevocationRules};
use crate::etag;
use crate::keys::delegated::DelegatedKey;
use crate::keys::jwks::{self, JwkOf, Jwks, JwksError};
use crate::keys::{IssuerIndex, KeySet, KeySetError, KilledKeys, PublishedKey, RegisteredKey};
use crate::revocation::{Realms, View};
use crate::token::{Algorithm, AlgorithmSet, ClaimName, Profile, ProfileKind, TypeSet};

/// The issuers, their keys and rules. Shards share it read-only.
#[derive(Debug)]
pub struct Policy {
    /// The keys of every issuer.
    pub key_set: KeySet,
    /// The rules, one per issuer; [`IssuerIndex`] counts them.
    pub profiles: Vec<Profile>,
    /// What revocation asks of each issuer's tokens, in the order of the profiles.
    pub rules: Vec<RevocationRules>,
    /// How old the revocation view may be.
    pub staleness_max: Duration,
    /// How long a proxy may keep an acceptance at most, in seconds; 0: nothing is said about that.
    pub cache_s: u64,
    /// Which snapshot this is: written into each record.
    pub epoch: u32,
    /// Since which snapshot the rules are these; keys may have changed since.
    pub rules_epoch: u32,
    /// The JWKS this node publishes: its own keys.
    pub published: Published,
    /// The keys that verify nothing, whoever publishes them or says that they sign.
    pub killed: KilledKeys,
    // The issuers whose keys these are.
    own_issuers: Vec<IssuerIndex>,
    // Whether the registry may have to be asked: always, and while the view is older than it may be.
    asks: bool,
    asks_when_stale: bool,
}

/// The realms of the issuers of one policy in one view, made again when the policy changes.
#[derive(Debug, Default)]
pub struct IssuerRealms {
    epoch: Option<u32>,
    realms: Arc<[Realms]>,
}

impl IssuerRealms {
    /// Those of `policy` in `view`, which must always be the same view.
    pub fn of(&mut self, policy: &Policy, view: &View) -> Arc<[Realms]> {
        if self.epoch != Some(policy.epoch) {
            self.realms = policy.realms(view).into();
            self.epoch = Some(policy.epoch);
        }
        Arc::clone(&self.realms)
    }
}

/// A document ready to be served.
#[derive(Debug, Default)]
pub struct Published {
    /// The JWKS.
    pub body: String,
    /// `ETag` and `Cache-Control`, as header lines.
    pub headers: String,
    etag: String,
    max_age_s: u64,
}

/// This node's own keys that are published.
#[derive(Debug, Default, Clone)]
pub struct OwnKeys {
    /// Those that verify.
    pub keys: Vec<PublishedKey>,
    /// Those in memory, which are listed for others; here tokens bring what makes them keys.
    pub delegated: Vec<DelegatedKey>,
}

/// Why a policy cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A key file cannot be read.
    #[error("{owner}.jwks_file: cannot read {}: {error}", path.display())]
    Unreadable {
        /// Whose they are, as the configuration has it: `issuers.NAME`.
        owner: String,
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Keys are not a usable JWKS.
    #[error("{owner}: {error}")]
    Jwks {
        /// Whose they are, as the configuration has it: `issuers.NAME`.
        owner: String,
        /// What is wrong.
        error: JwksError,
    },
    /// There is no usable key.
    #[error("{owner}: no usable Ed25519 key in its JWKS{skipped}; add one with kty OKP and crv Ed25519")]
    NoKey {
        /// Whose they are, as the configuration has it: `issuers.NAME`.
        owner: String,
        /// What was skipped and why, after a semicolon; empty if nothing was.
        skipped: String,
    },
    /// The keys of all issuers do not fit together.
    #[error("issuers: {0}")]
    KeySet(#[from] KeySetError),
}

impl Policy {
    /// Builds the snapshot from the configuration.
    ///
    /// # Errors
    /// [`PolicyError`] names the issuer and what is wrong.
    pub fn build(
        config: &config::Config,
        own: &OwnKeys,
        killed: KilledKeys,
        epoch: u32,
    ) -> Result<Self, PolicyError> {
        let mut key_lists = Vec::with_capacity(config.issuers.len());
        let mut profiles = Vec::with_capacity(config.issuers.len());
        let mut own_issuers = Vec::new();
        for (i, issuer) in config.issuers.iter().enumerate() {
            let index =
                IssuerIndex(u16::try_from(i).expect("issuers are limited by the configuration's size"));
            let owner = format!("issuers.{}", issuer.name);
            let keys = published_keys(&owner, &issuer.keys, &own.keys)?;
            key_lists
                .push((index, keys.into_iter().filter(|key| !killed.contains(index, &key.kid)).collect()));
            profiles.push(profile(issuer));
            if matches!(issuer.keys, KeySource::SigningKey) {
                own_issuers.push(index);
            }
        }
        let rules: Vec<RevocationRules> = config.issuers.iter().map(|issuer| issuer.revocation).collect();
        let max_age_s = config.signing.as_ref().map_or(JWKS_MAX_AGE_S, |signing| signing.jwks_max_age_s);
        let published = Published::new(own, max_age_s);
        let (staleness_max, cache_s) = (config.revocation.staleness_max, config.revocation.cache_s);
        Ok(Self {
            key_set: KeySet::new(key_lists)?,
            profiles,
            asks: rules.iter().any(|rules| rules.allow_list || rules.single_use),
            asks_when_stale: rules.iter().any(|rules| rules.on_stale == OnStale::Lookup),
            rules,
            staleness_max,
            cache_s,
            epoch,
            rules_epoch: epoch,
            published,
            killed,
            own_issuers,
        })
    }

    /// The next snapshot: other keys of this node, and without keys that were killed since. Nothing is read again, and keys
    /// that stay keep their tables.
    ///
    /// # Errors
    /// [`PolicyError::KeySet`].
    pub fn with_keys(&self, own: &OwnKeys, killed: KilledKeys) -> Result<Self, PolicyError> {
        let others = self.key_set.iter().filter(|key| !self.own_issuers.contains(&key.issuer()));
        let others = others.map(|key| {
            let (kid, verifying_key) = (key.kid().to_owned(), key.verifying_key().clone());
            (key.issuer(), PublishedKey { kid, verifying_key })
        });
        let ours =
            self.own_issuers.iter().flat_map(|issuer| own.keys.iter().map(|key| (*issuer, key.clone())));
        let living = others.chain(ours).filter(|(issuer, key)| !killed.contains(*issuer, &key.kid));
        Ok(Self {
            key_set: KeySet::new(living.map(|(issuer, key)| (issuer, vec![key])).collect())?,
            profiles: self.profiles.clone(),
            rules: self.rules.clone(),
            published: Published::new(own, self.published.max_age_s),
            killed,
            own_issuers: self.own_issuers.clone(),
            epoch: self.epoch + 1,
            ..*self
        })
    }

    /// The keys of one issuer, ready to verify with.
    #[must_use]
    pub fn keys_of(&self, issuer: IssuerIndex) -> Vec<PublishedKey> {
        let own = self.key_set.iter().filter(|key| key.issuer() == issuer);
        own.map(|key| PublishedKey { kid: key.kid().to_owned(), verifying_key: key.verifying_key().clone() })
            .collect()
    }

    /// Whether the registry may have to be asked about a token; `stale`: whether the view is older than it may be.
    #[must_use]
    pub fn may_ask(&self, stale: bool) -> bool {
        self.asks || (stale && self.asks_when_stale)
    }

    /// Each issuer's realms in `view`, in the order of the profiles. Made once per policy and view.
    #[must_use]
    pub fn realms(&self, view: &View) -> Vec<Realms> {
        self.profiles.iter().map(|profile| view.realms(&profile.tenant, &profile.issuer)).collect()
    }

    /// What revocation asks of the tokens of the issuer that `key` belongs to.
    #[must_use]
    pub fn rules(&self, key: &RegisteredKey) -> RevocationRules {
        self.rules[usize::from(key.issuer().0)]
    }

    /// A policy of issuers whose tokens are judged by the view alone: for the command line, benches and tests.
    #[must_use]
    pub fn plain(key_set: KeySet, profiles: Vec<Profile>) -> Self {
        Self {
            key_set,
            rules: vec![RevocationRules::default(); profiles.len()],
            profiles,
            staleness_max: Duration::MAX,
            cache_s: 0,
            epoch: 0,
            rules_epoch: 0,
            published: Published::default(),
            killed: KilledKeys::default(),
            own_issuers: Vec::new(),
            asks: false,
            asks_when_stale: false,
        }
    }

    /// The rules of the issuer that `key` belongs to.
    #[must_use]
    pub fn profile(&self, key: &RegisteredKey) -> &Profile {
        &self.profiles[usize::from(key.issuer().0)]
    }
}

/// The keys of `source`; `own` are this node's signing keys that are published. `owner` is whom errors name.
///
/// # Errors
/// [`PolicyError`]: the file or the document cannot be used, or has no key that can.
pub fn published_keys(
    owner: &str,
    source: &KeySource,
    own: &[PublishedKey],
) -> Result<Vec<PublishedKey>, PolicyError> {
    let owner = || owner.to_owned();
    let text = match source {
        // A configuration that names the signing key without having one does not get here.
        KeySource::SigningKey => return Ok(own.to_vec()),
        KeySource::Inline(text) => text.clone().into_bytes(),
        KeySource::File(path) => std::fs::read(path).map_err(|error| PolicyError::Unreadable {
            owner: owner(),
            path: path.clone(),
            error,
        })?,
    };
    let Jwks { keys, skipped } =
        jwks::parse(&text).map_err(|error| PolicyError::Jwks { owner: owner(), error })?;
    if keys.is_empty() {
        let skipped = skipped
            .iter()
            .map(|key| {
                format!("; key {} ({}): {}", key.index, key.kid.as_deref().unwrap_or("no kid"), key.reason)
            })
            .collect();
        return Err(PolicyError::NoKey { owner: owner(), skipped });
    }
    Ok(keys)
}

fn profile(issuer: &config::Issuer) -> Profile {
    let kind = match issuer.profile {
        config::TokenProfile::Jwt => ProfileKind::Jwt,
        config::TokenProfile::AccessToken => ProfileKind::AccessToken,
        config::TokenProfile::AgentTask => ProfileKind::AgentTask,
    };
    let mut profile = Profile::new(
        kind,
        issuer.name.clone(),
        issuer.tenant.clone(),
        issuer.issuer.clone(),
        issuer.audiences.clone(),
    );
    profile.algorithms =
        issuer.algorithms.iter().filter_map(|name| Algorithm::from_name(name)).collect::<AlgorithmSet>();
    profile.leeway_s = issuer.leeway_s;
    profile.max_lifetime_s = Some(issuer.max_lifetime_s);
    profile.padded = issuer.padded;
    if let Some(types) = &issuer.types {
        let named = types.iter().filter(|name| !name.is_empty()).cloned();
        profile.types = TypeSet::listed(named, types.iter().any(String::is_empty));
    }
    if let Some(claims) = &issuer.required_claims {
        profile.required = claims.iter().filter_map(|name| name.parse::<ClaimName>().ok()).collect();
    }
    profile
}

impl Published {
    fn new(own: &OwnKeys, max_age_s: u64) -> Self {
        let keys = own.keys.iter().map(|key| JwkOf {
            kid: &key.kid,
            public_key: key.verifying_key.as_bytes(),
            delegation: None,
        });
        let delegated = own.delegated.iter().map(|key| JwkOf {
            kid: &key.kid,
            public_key: &key.public_key,
            delegation: Some(&key.delegation),
        });
        let body = jwks::render(keys.chain(delegated)).expect("names and keys are texts");
        let etag = format!("\"{}\"", digest(&body));
        let headers = format!("ETag: {etag}\r\nCache-Control: public, max-age={max_age_s}\r\n");
        Self { body, headers, etag, max_age_s }
    }

    /// Whether an `If-None-Match` value names this document (RFC 9110 §13.1.2).
    #[must_use]
    pub fn matches(&self, if_none_match: &[u8]) -> bool {
        etag::names(if_none_match, &self.etag)
    }
}

/// The first 16 bytes of SHA-256, in hexadecimal: enough to name a document.
fn digest(text: &str) -> String {
    use sha2::Digest;
    hex(&sha2::Sha256::digest(text.as_bytes())[..16])
}
