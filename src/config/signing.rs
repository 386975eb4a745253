//! `[signing]`: the keys that this node signs tokens with, and how it issues.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::file::{in_range, wrong};
use super::hsm::{Hsm, key_place};
use super::status_list::check_status_list;
use super::{ConfigError, Issuer, KeyPlace, KeySource, StatusList, defaults};

/// `signing.jwks_max_age_s` where the file does not say; what a node without keys of its own says of its empty JWKS.
pub const JWKS_MAX_AGE_S: u64 = 300;

/// Most keys in the JWKS at once; `keys::life` has the same limit.
pub const KEYS_PUBLISHED_MAX: u64 = 64;

/// Most keys in memory that the JWKS lists at once; `keys::delegated` has the same limit.
pub const DELEGATED_PUBLISHED_MAX: u64 = 16;

/// The longest life of a delegation: an hour, as long as a key that leaked from memory would be believed; `token` has the same limit.
pub const DELEGATION_S_MAX: u64 = 3600;

/// How long a status list that this node signed is valid, in seconds; `control` has the same number.
pub const STATUS_LIST_LIFE_S: u64 = 600;

/// How long a signature by a key in a file may take: it is made at once.
const SIGN_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest a JWKS may be kept by others: a day, as long as a lost key would still be believed there.
const MAX_AGE_S_MAX: u64 = 86_400;

/// The longest wait between publication and first use: a month.
const PROPAGATION_S_MAX: u64 = 30 * 86_400;

/// The longest a key may sign by a schedule: ten years.
const ROTATE_EVERY_S_MAX: u64 = 3_660 * 86_400;

/// The issuing keys and their policy.
#[derive(Debug, Clone)]
pub struct Signing {
    /// The first key: `signing.key_file`, or `signing.key` in the token; or one for each of several tokens: `signing.keys`. Later ones are
    /// made beside them.
    pub keys: Vec<KeyPlace>,
    /// Index of the issuer it signs for, `signing.issuer`, among [`Config::issuers`](super::Config::issuers).
    pub issuer: usize,
    /// The audience of tokens whose request names none: `signing.default_audience`.
    pub default_audience: Option<String>,
    /// The lifetime of tokens whose request names none: `signing.default_ttl_s`.
    pub default_ttl_s: u64,
    /// The list in which issued tokens have a place, if one is published.
    pub status_list: Option<StatusList>,
    /// How long one signature may take: `hsm.sign_timeout_ms`, or five seconds.
    pub sign_timeout: Duration,
    /// How long others may keep the JWKS: `signing.jwks_max_age_s`.
    pub jwks_max_age_s: u64,
    /// How long a key is published before it signs: `signing.propagation_s`. Not below the max-age.
    pub propagation_s: u64,
    /// Whether a key may sign only once an operator has said that it is backed up: `signing.require_backup`.
    pub require_backup: bool,
    /// How long one key signs before the next takes over: `signing.rotate_every_s`. Until somebody rotates if absent.
    pub rotate_every_s: Option<u64>,
    /// How long a delegation to a key in memory lasts, if tokens are signed by such keys: `signing.delegation_s`.
    pub delegation_s: Option<u64>,
    /// How long a key verifies after it stopped signing, at least: the longest life of what it signs, the leeway, the time one
    /// signature may take, and the max-age.
    pub verify_for: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SigningTable {
    key_file: Option<PathBuf>,
    key: Option<String>,
    public_key: Option<String>,
    #[serde(default)]
    keys: Vec<MemberKeyTable>,
    issuer: String,
    default_audience: Option<String>,
    #[serde(default = "defaults::ttl_s")]
    default_ttl_s: u64,
    status_list_uri: Option<String>,
    status_list_capacity: Option<u64>,
    #[serde(default = "jwks_max_age_s")]
    jwks_max_age_s: u64,
    propagation_s: Option<u64>,
    #[serde(default)]
    require_backup: bool,
    rotate_every_s: Option<u64>,
    delegation_s: Option<u64>,
}

/// The key of one of several tokens.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberKeyTable {
    key: String,
    public_key: String,
}

fn jwks_max_age_s() -> u64 {
    JWKS_MAX_AGE_S
}

impl SigningTable {
    pub(super) fn check(self, issuers: &[Issuer], hsm: Option<&Hsm>) -> Result<Signing, ConfigError> {
        let Some(issuer) = issuers.iter().position(|issuer| issuer.name == self.issuer) else {
            return Err(wrong(
                "signing.issuer",
                format!("{:?}", self.issuer),
                "no [[issuers]] entry has this name",
                "name one of them",
            ));
        };
        if !matches!(issuers[issuer].keys, KeySource::SigningKey) {
            return Err(wrong(
                "signing.issuer",
                format!("{:?}", self.issuer),
                "that issuer's keys are not this node's signing key, so its own tokens would be refused",
                "write keys = \"signing_key\" in its entry",
            ));
        }
        in_range("signing.default_ttl_s", self.default_ttl_s, 1, issuers[issuer].max_lifetime_s)?;
        let status_list = check_status_list(self.status_list_uri, self.status_list_capacity)?;
        let sign_timeout = hsm.map_or(SIGN_TIMEOUT, |hsm| hsm.sign_timeout);
        let max_age_s = in_range("signing.jwks_max_age_s", self.jwks_max_age_s, 1, MAX_AGE_S_MAX)?;
        let propagation_s = self.propagation_s.unwrap_or(max_age_s);
        if propagation_s < max_age_s {
            return Err(wrong(
                "signing.propagation_s",
                propagation_s,
                format!(
                    "whoever has a JWKS keeps it for signing.jwks_max_age_s = {max_age_s}, and would refuse good tokens"
                ),
                format!("choose {max_age_s} or more, or leave it out"),
            ));
        }
        in_range("signing.propagation_s", propagation_s, 1, PROPAGATION_S_MAX)?;
        let leeway_s = issuers[issuer].leeway_s;
        check_delegation(self.delegation_s, propagation_s, self.default_ttl_s, leeway_s)?;
        // All that is signed dies within this; a list is signed by the same keys.
        let life_s = match &status_list {
            Some(_) => issuers[issuer].max_lifetime_s.max(STATUS_LIST_LIFE_S),
            None => issuers[issuer].max_lifetime_s,
        };
        let life_s = life_s.max(self.delegation_s.unwrap_or(0));
        let verify_for = Duration::from_secs(life_s + leeway_s + max_age_s) + sign_timeout;
        let alone = self.key_file.is_some() || self.key.is_some() || self.public_key.is_some();
        let keys = if self.keys.is_empty() || alone {
            if !self.keys.is_empty() {
                let problem = "it stands beside signing.key_file, signing.key or signing.public_key";
                return Err(wrong(
                    "signing.keys",
                    "…",
                    problem,
                    "keep one key for all tokens, or one for each",
                ));
            }
            let names = ["signing.key_file", "signing.key", "signing.public_key"];
            vec![key_place(names, self.key_file, self.key, self.public_key, hsm)?]
        } else {
            member_keys(self.keys, hsm)?
        };
        check_schedule(self.rotate_every_s, propagation_s, verify_for, keys.len() as u64)?;
        if let (Some(every_s), Some(delegation_s)) = (self.rotate_every_s, self.delegation_s)
            && every_s < delegation_s
        {
            return Err(wrong(
                "signing.rotate_every_s",
                every_s,
                format!(
                    "a key in memory signs only while the key that delegated to it is the active one, and \
                     signing.delegation_s = {delegation_s}"
                ),
                format!("choose {delegation_s} or more, or a shorter signing.delegation_s"),
            ));
        }
        Ok(Signing {
            keys,
            issuer,
            default_audience: self.default_audience,
            default_ttl_s: self.default_ttl_s,
            status_list,
            sign_timeout,
            jwks_max_age_s: max_age_s,
            propagation_s,
            require_backup: self.require_backup,
            rotate_every_s: self.rotate_every_s,
            delegation_s: self.delegation_s,
            verify_for,
        })
    }
}

/// A delegation lasts long enough for its key to sign after everybody has it, and no longer than verifiers believe.
fn check_delegation(
    life_s: Option<u64>,
    propagation_s: u64,
    token_life_s: u64,
    leeway_s: u64,
) -> Result<(), ConfigError> {
    let Some(life_s) = life_s else { return Ok(()) };
    in_range("signing.delegation_s", life_s, 1, DELEGATION_S_MAX)?;
    // The next one is made once per span in which one signs, and each is listed until it ends.
    let signs_s = life_s.saturating_sub(propagation_s + token_life_s);
    // A quarter of it ahead of time (`keys::delegated`).
    let least_s = ((life_s + leeway_s) * 4).div_ceil((DELEGATED_PUBLISHED_MAX - 3) * 3);
    if signs_s < least_s {
        return Err(wrong(
            "signing.delegation_s",
            life_s,
            format!(
                "its key signs once it was published for signing.propagation_s = {propagation_s}, and until a token of \
                 signing.default_ttl_s = {token_life_s} would outlive it: that leaves {signs_s} s, and {least_s} are needed"
            ),
            "choose a longer one (at most 3600), or a shorter propagation or lifetime",
        ));
    }
    Ok(())
}

/// A key for each of several tokens, none of which has two.
fn member_keys(tables: Vec<MemberKeyTable>, hsm: Option<&Hsm>) -> Result<Vec<KeyPlace>, ConfigError> {
    let mut places = Vec::with_capacity(tables.len());
    let (mut tokens, mut publics) = (Vec::with_capacity(tables.len()), Vec::with_capacity(tables.len()));
    for (index, MemberKeyTable { key, public_key }) in tables.into_iter().enumerate() {
        let names = ["key_file", "key", "public_key"].map(|name| format!("signing.keys[{index}].{name}"));
        let [file, name, public] = names.each_ref().map(String::as_str);
        let place = key_place([file, name, public], None, Some(key.clone()), Some(public_key), hsm)?;
        if let KeyPlace::Token { uri, public_key } = &place {
            if publics.contains(public_key) {
                let problem = "another of signing.keys has the same public key";
                return Err(wrong(public, "…", problem, "give each token a key of its own"));
            }
            publics.push(*public_key);
            let token = (uri.token.clone(), uri.serial.clone());
            if token.0.is_none() {
                let problem = "it names no token, and each of several keys is in one of its own";
                return Err(wrong(
                    name,
                    key,
                    problem,
                    "name the token of one [[hsm.member]], by token and serial",
                ));
            }
            if tokens.contains(&token) {
                let problem = "its token has a key of its own already";
                return Err(wrong(name, key, problem, "name one key for each token"));
            }
            tokens.push(token);
        }
        places.push(place);
    }
    Ok(places)
}

/// A schedule keeps every key published for as long as it verifies, and there are only so many places.
fn check_schedule(
    every_s: Option<u64>,
    propagation_s: u64,
    verify_for: Duration,
    rings: u64,
) -> Result<(), ConfigError> {
    let Some(every_s) = every_s else { return Ok(()) };
    in_range("signing.rotate_every_s", every_s, 1, ROTATE_EVERY_S_MAX)?;
    if every_s < propagation_s {
        return Err(wrong(
            "signing.rotate_every_s",
            every_s,
            format!("the next key has to be published for signing.propagation_s = {propagation_s} first"),
            format!("choose {propagation_s} or more"),
        ));
    }
    // The one that signs and the next one are there as well, and an operator may bring one.
    let share = KEYS_PUBLISHED_MAX / rings;
    let least_s = verify_for.as_secs().div_ceil(share.saturating_sub(4).max(1));
    if every_s < least_s {
        return Err(wrong(
            "signing.rotate_every_s",
            every_s,
            format!(
                "a key verifies for {} s after it stopped, so more than {share} would be published at once",
                verify_for.as_secs()
            ),
            format!("choose {least_s} or more, or a shorter max_lifetime_s for the issuer"),
        ));
    }
    Ok(())
}
