//! The `[[issuers]]` tables.

use std::collections::HashSet;
use std::path::PathBuf;

use serde::Deserialize;

use super::file::{in_range, not_empty, wrong};
use super::{ConfigError, Issuer, KeySource, OnStale, RevocationRules, TokenProfile, defaults};

/// The claims that can be required; `token` has the same list (`the_claims_that_can_be_required_are_known`).
const CLAIMS: &[&str] = &[
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "scope",
    "client_id",
    "sid",
    "nonce",
    "act",
    "task",
    "cns",
    "own",
];

/// The most issuers: far more than a platform trusts, far fewer than their 16-bit index could count.
const ISSUERS_MAX: usize = 4096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IssuerTable {
    name: String,
    #[serde(default = "defaults::tenant")]
    tenant: String,
    issuer: String,
    #[serde(default = "defaults::algorithms")]
    algorithms: Vec<String>,
    keys: Option<String>,
    jwks: Option<String>,
    jwks_file: Option<PathBuf>,
    audiences: Vec<String>,
    #[serde(default = "defaults::leeway_s")]
    leeway_s: u64,
    #[serde(default = "defaults::max_lifetime_s")]
    max_lifetime_s: u64,
    #[serde(default = "defaults::profile")]
    profile: TokenProfile,
    required_claims: Option<Vec<String>>,
    types: Option<Vec<String>>,
    #[serde(default)]
    padded: bool,
    #[serde(default)]
    on_stale: OnStale,
    #[serde(default)]
    allow_list: bool,
    #[serde(default)]
    single_use: bool,
    status_list_prefix: Option<String>,
}

pub(super) fn check_issuers(tables: Vec<IssuerTable>) -> Result<Vec<Issuer>, ConfigError> {
    if tables.is_empty() {
        return Err(wrong("issuers", "[]", "no token could ever be accepted", "add an [[issuers]] entry"));
    }
    if tables.len() > ISSUERS_MAX {
        return Err(wrong(
            "issuers",
            format!("{} entries", tables.len()),
            "too many",
            format!("keep {ISSUERS_MAX}"),
        ));
    }
    let (mut names, mut issuers) = (HashSet::new(), HashSet::new());
    let mut checked = Vec::with_capacity(tables.len());
    for table in tables {
        let issuer = table.check()?;
        if !names.insert(issuer.name.clone()) {
            return Err(wrong("issuers.name", &issuer.name, "used twice", "give each issuer its own name"));
        }
        if !issuers.insert(issuer.issuer.clone()) {
            let key = format!("issuers.{}.issuer", issuer.name);
            return Err(wrong(key, &issuer.issuer, "two entries have this iss", "merge them into one"));
        }
        checked.push(issuer);
    }
    Ok(checked)
}

impl IssuerTable {
    fn check(self) -> Result<Issuer, ConfigError> {
        not_empty("issuers.name", &self.name)?;
        let key = |field: &str| format!("issuers.{}.{field}", self.name);
        not_empty(&key("tenant"), &self.tenant)?;
        not_empty(&key("issuer"), &self.issuer)?;
        let keys = match (self.keys.as_deref(), self.jwks, self.jwks_file) {
            (Some("signing_key"), None, None) => KeySource::SigningKey,
            (None, Some(jwks), None) => KeySource::Inline(jwks),
            (None, None, Some(path)) => KeySource::File(path),
            (Some(other), None, None) => {
                return Err(wrong(
                    key("keys"),
                    format!("{other:?}"),
                    "unknown",
                    "write keys = \"signing_key\"",
                ));
            }
            _ => {
                let problem = "exactly one of jwks_file, jwks and keys = \"signing_key\" must be given";
                return Err(wrong(key("jwks_file"), "…", problem, "keep one of them"));
            }
        };
        if let Some(other) = self.algorithms.iter().find(|alg| !matches!(alg.as_str(), "Ed25519" | "EdDSA")) {
            let fix = "choose from \"Ed25519\" (RFC 9864) and \"EdDSA\" (its older name)";
            return Err(wrong(
                key("algorithms"),
                format!("{other:?}"),
                "not an algorithm verified here",
                fix,
            ));
        }
        if self.algorithms.is_empty() {
            return Err(wrong(
                key("algorithms"),
                "[]",
                "no token could be accepted",
                "write [\"Ed25519\", \"EdDSA\"]",
            ));
        }
        if self.audiences.is_empty() {
            let fix = "name the audiences its tokens are meant for";
            return Err(wrong(key("audiences"), "[]", "no token could be accepted", fix));
        }
        if let Some(name) =
            self.required_claims.iter().flatten().find(|name| !CLAIMS.contains(&name.as_str()))
        {
            let problem = "not a claim that can be required";
            let fix = format!("choose from {}", CLAIMS.join(", "));
            return Err(wrong(key("required_claims"), format!("{name:?}"), problem, fix));
        }
        in_range(&key("leeway_s"), self.leeway_s, 0, 300)?;
        in_range(&key("max_lifetime_s"), self.max_lifetime_s, 1, 366 * 86_400)?;
        Ok(Issuer {
            tenant: self.tenant,
            issuer: self.issuer,
            algorithms: self.algorithms,
            keys,
            audiences: self.audiences,
            leeway_s: self.leeway_s,
            max_lifetime_s: self.max_lifetime_s,
            profile: self.profile,
            required_claims: self.required_claims,
            types: self.types,
            padded: self.padded,
            revocation: RevocationRules {
                on_stale: self.on_stale,
                allow_list: self.allow_list,
                single_use: self.single_use,
                status_list: self.status_list_prefix.is_some(),
            },
            status_list_prefix: self.status_list_prefix,
            name: self.name,
        })
    }
}
