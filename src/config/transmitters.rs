//! The `[[revocation.transmitters]]` tables: who may push Security Event Tokens, and about whose tokens.

use std::collections::HashSet;
use std::path::PathBuf;

use serde::Deserialize;

use super::file::{not_empty, wrong};
use super::{ConfigError, Issuer, KeySource};

/// The most transmitters: one per issuer is usual.
const TRANSMITTERS_MAX: usize = 1024;

/// Who may push Security Event Tokens (RFC 8417, RFC 8935).
#[derive(Debug, Clone)]
pub struct Transmitter {
    /// Its name in records and logs: `revocation.transmitters.name`.
    pub name: String,
    /// The exact `iss` of its tokens: `revocation.transmitters.issuer`.
    pub issuer: String,
    /// What its tokens must name in `aud`: `revocation.transmitters.audience`.
    pub audience: String,
    /// Where its keys come from; never this node's signing key.
    pub keys: KeySource,
    /// The name of the issuer whose tokens it may speak of, one of [`Config::issuers`](super::Config::issuers):
    /// `revocation.transmitters.for_issuer`.
    pub for_issuer: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TransmitterTable {
    name: String,
    issuer: String,
    audience: String,
    jwks: Option<String>,
    jwks_file: Option<PathBuf>,
    for_issuer: String,
}

pub(super) fn check_transmitters(tables: Vec<TransmitterTable>) -> Result<Vec<Transmitter>, ConfigError> {
    if tables.len() > TRANSMITTERS_MAX {
        let (found, fix) = (format!("{} entries", tables.len()), format!("keep {TRANSMITTERS_MAX}"));
        return Err(wrong("revocation.transmitters", found, "too many", fix));
    }
    let (mut names, mut issuers) = (HashSet::new(), HashSet::new());
    let mut checked = Vec::with_capacity(tables.len());
    for table in tables {
        let transmitter = table.check()?;
        let Transmitter { name, issuer, .. } = &transmitter;
        if !names.insert(name.clone()) {
            let fix = "give each transmitter its own name";
            return Err(wrong("revocation.transmitters.name", name, "used twice", fix));
        }
        // Which of two would be meant could not be told.
        if !issuers.insert(issuer.clone()) {
            let key = format!("revocation.transmitters.{name}.issuer");
            return Err(wrong(key, issuer, "two transmitters have this iss", "merge them into one"));
        }
        checked.push(transmitter);
    }
    Ok(checked)
}

/// Whether every transmitter speaks of an issuer that there is.
pub(super) fn check_issuers_exist(
    transmitters: &[Transmitter],
    issuers: &[Issuer],
) -> Result<(), ConfigError> {
    let unknown = |transmitter: &&Transmitter| !issuers.iter().any(|one| one.name == transmitter.for_issuer);
    transmitters.iter().find(unknown).map_or(Ok(()), |Transmitter { name, for_issuer, .. }| {
        let key = format!("revocation.transmitters.{name}.for_issuer");
        Err(wrong(key, format!("{for_issuer:?}"), "no [[issuers]] entry has this name", "name one of them"))
    })
}

impl TransmitterTable {
    fn check(self) -> Result<Transmitter, ConfigError> {
        not_empty("revocation.transmitters.name", &self.name)?;
        let key = |field: &str| format!("revocation.transmitters.{}.{field}", self.name);
        not_empty(&key("issuer"), &self.issuer)?;
        not_empty(&key("audience"), &self.audience)?;
        let keys = match (self.jwks, self.jwks_file) {
            (Some(jwks), None) => KeySource::Inline(jwks),
            (None, Some(path)) => KeySource::File(path),
            _ => {
                let problem = "exactly one of jwks_file and jwks must be given";
                return Err(wrong(key("jwks_file"), "…", problem, "keep one of them"));
            }
        };
        Ok(Transmitter {
            name: self.name,
            issuer: self.issuer,
            audience: self.audience,
            keys,
            for_issuer: self.for_issuer,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = \"idp\"\nissuer = \"https://idp\"\naudience = \"https://edgate\"\njwks = \"{}\"\n\
                        for_issuer = \"own\"\n";

    #[derive(Deserialize)]
    struct Tables {
        transmitters: Vec<TransmitterTable>,
    }

    fn check(text: &str) -> Result<Vec<Transmitter>, String> {
        let tables: Tables = toml::from_str(text).map_err(|error| error.to_string())?;
        check_transmitters(tables.transmitters).map_err(|error| error.to_string())
    }

    #[test]
    fn a_transmitter_is_read() {
        let all = check(&format!("[[transmitters]]\n{GOOD}")).unwrap();
        assert_eq!((all[0].name.as_str(), all[0].for_issuer.as_str()), ("idp", "own"));
        assert!(matches!(&all[0].keys, KeySource::Inline(text) if text == "{}"));
    }

    #[test]
    fn errors_name_the_key_and_the_fix() {
        let cases = [
            ("name = \"idp\"", "name = \"\"", "revocation.transmitters.name", "name it"),
            ("https://edgate", "", "revocation.transmitters.idp.audience", "name it"),
            ("jwks = \"{}\"", "", "revocation.transmitters.idp.jwks_file", "exactly one"),
            ("jwks = \"{}\"", "jwks = \"{}\"\njwks_file = \"/x\"", ".idp.jwks_file", "keep one"),
            ("jwks = \"{}\"", "keys = \"signing_key\"", "unknown field `keys`", "expected one of"),
            ("for_issuer = \"own\"", "", "missing field `for_issuer`", ""),
        ];
        for (from, to, key, fix) in cases {
            let text = format!("[[transmitters]]\n{}", GOOD.replacen(from, to, 1));
            let error = check(&text).unwrap_err();
            assert!(error.contains(key) && error.contains(fix), "{to}: {error}");
        }
        let (one, two) = (GOOD, GOOD.replace("\"idp\"", "\"idp2\""));
        let error = check(&format!("[[transmitters]]\n{one}[[transmitters]]\n{one}")).unwrap_err();
        assert!(error.contains("used twice"), "{error}");
        let error = check(&format!("[[transmitters]]\n{one}[[transmitters]]\n{two}")).unwrap_err();
        assert!(error.contains("two transmitters have this iss"), "{error}");
    }

    #[test]
    fn the_issuer_spoken_of_must_be_there() {
        let all = check(&format!("[[transmitters]]\n{GOOD}")).unwrap();
        let error = check_issuers_exist(&all, &[]).unwrap_err().to_string();
        assert!(error.contains("revocation.transmitters.idp.for_issuer = \"own\""), "{error}");
    }
}
