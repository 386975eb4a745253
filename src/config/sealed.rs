//! `[audit.sealed]`: which personal values records hold for named openers.

use serde::Deserialize;

use super::ConfigError;
use super::file::wrong;

/// What is sealed, and who may open it together. What the keys say is checked where they are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Which values: `audit.sealed.fields`.
    pub fields: Vec<SealedField>,
    /// The public keys of all whose private keys it takes, as text or as files: `audit.sealed.openers`.
    pub openers: Vec<String>,
}

/// A value that can be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SealedField {
    /// `sub`.
    Subject,
    /// `jti`.
    Jti,
    /// The client's address.
    Client,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SealedTable {
    fields: Vec<SealedField>,
    openers: Vec<String>,
}

impl SealedTable {
    pub(super) fn check(self) -> Result<Sealed, ConfigError> {
        let Self { fields, openers } = self;
        if fields.is_empty() {
            let (problem, fix) = ("nothing would be sealed", "name some of subject, jti and client");
            return Err(wrong("audit.sealed.fields", "[]", problem, fix));
        }
        if openers.is_empty() {
            let problem = "nobody could ever open what is sealed";
            return Err(wrong(
                "audit.sealed.openers",
                "[]",
                problem,
                "name the public keys of two people or more: `edgate audit sealed keygen` makes them",
            ));
        }
        Ok(Sealed { fields, openers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Sealed, String> {
        let table: SealedTable = toml::from_str(text).map_err(|error| error.to_string())?;
        table.check().map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_sealed_is_said_and_so_is_who_opens_it() {
        let sealed = read("fields = [\"subject\", \"client\"]\nopeners = [\"/a\", \"/b\"]").unwrap();
        assert_eq!(sealed.fields, [SealedField::Subject, SealedField::Client]);
        assert_eq!(sealed.openers, ["/a", "/b"]);
        for (text, word) in [
            ("fields = []\nopeners = [\"/a\"]", "audit.sealed.fields"),
            ("fields = [\"jti\"]\nopeners = []", "audit.sealed.openers"),
            ("fields = [\"token\"]\nopeners = [\"/a\"]", "token"),
            ("fields = [\"jti\"]", "openers"),
            ("fields = [\"jti\"]\nopeners = [\"/a\"]\nkeys = 1", "keys"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
