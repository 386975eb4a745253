//! `[audit.timestamp]`: who states when this log's checkpoints were there (RFC 3161).

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::ConfigError;
use super::file::{in_range, wrong};
use super::url;

/// A timestamp authority, and how often it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timestamp {
    /// Where it answers: `audit.timestamp.url`.
    pub url: String,
    /// Certificates of those whose timestamps are believed: `audit.timestamp.ca_file`. Read where it is used.
    pub ca_file: PathBuf,
    /// What they revoked: `audit.timestamp.crl_file`.
    pub crl_file: Option<PathBuf>,
    /// The policy it is asked for, as a dotted number: `audit.timestamp.policy`.
    pub policy: Option<String>,
    /// How often the latest checkpoint is stamped: `audit.timestamp.interval_s`.
    pub interval: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TimestampTable {
    url: String,
    ca_file: PathBuf,
    crl_file: Option<PathBuf>,
    policy: Option<String>,
    #[serde(default = "interval_s")]
    interval_s: u64,
}

fn interval_s() -> u64 {
    3600
}

/// Authorities serve many, and a token states whole seconds.
const INTERVAL_S_MIN: u64 = 60;

/// A week.
const INTERVAL_S_MAX: u64 = 7 * 86_400;

/// The longest policy.
const POLICY_BYTES_MAX: usize = 128;

impl TimestampTable {
    pub(super) fn check(self) -> Result<Timestamp, ConfigError> {
        let Self { url, ca_file, crl_file, policy, interval_s } = self;
        if url::parts(&url, "").is_none() {
            return Err(wrong(
                "audit.timestamp.url",
                format!("{url:?}"),
                "not a place to ask a timestamp authority at",
                "write https://HOST/PATH, or http://: what it answers is signed",
            ));
        }
        if let Some(policy) = policy.as_ref().filter(|policy| !is_dotted_number(policy)) {
            return Err(wrong(
                "audit.timestamp.policy",
                format!("{policy:?}"),
                "not an object identifier",
                "write it as numbers and dots, such as \"1.3.6.1.4.1.99999.1\", or leave it out",
            ));
        }
        let interval = in_range("audit.timestamp.interval_s", interval_s, INTERVAL_S_MIN, INTERVAL_S_MAX)?;
        Ok(Timestamp { url, ca_file, crl_file, policy, interval: Duration::from_secs(interval) })
    }
}

/// X.660: the first number is 0 to 2, the second below 40 unless the first is 2; none has zeros in front.
fn is_dotted_number(text: &str) -> bool {
    let numbers: Option<Vec<u64>> = text
        .split('.')
        .map(|digits| digits.parse().ok().filter(|number: &u64| number.to_string() == digits))
        .collect();
    let fits = numbers.is_some_and(|numbers| match numbers.as_slice() {
        [first, second, ..] => *first <= 2 && (*first == 2 || *second < 40),
        _ => false,
    });
    fits && text.len() <= POLICY_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Timestamp, String> {
        let table: TimestampTable = toml::from_str(text).map_err(|error| error.to_string())?;
        table.check().map_err(|error| error.to_string())
    }

    #[test]
    fn an_authority_is_named_with_its_certificates_or_refused_by_the_key_that_is_wrong() {
        let least = read("url = \"https://tsa.example/tsr\"\nca_file = \"/tsa.pem\"").unwrap();
        assert_eq!((least.interval, least.policy), (Duration::from_secs(3600), None));
        let more =
            "url = \"http://127.0.0.1:80/?a\"\nca_file = \"/a\"\npolicy = \"2.999.1\"\ninterval_s = 60";
        assert_eq!(read(more).unwrap().interval, Duration::from_secs(60));
        for (line, word) in [
            ("ca_file = \"/a\"", "url"),
            ("url = \"https://a\"", "ca_file"),
            ("url = \"ftp://a\"\nca_file = \"/a\"", "audit.timestamp.url"),
            ("url = \"https:///a\"\nca_file = \"/a\"", "audit.timestamp.url"),
            ("url = \"https://:1/a\"\nca_file = \"/a\"", "audit.timestamp.url"),
            ("url = \"https://me:secret@a\"\nca_file = \"/a\"", "audit.timestamp.url"),
            ("url = \"https://a b\"\nca_file = \"/a\"", "audit.timestamp.url"),
            ("url = \"https://a\"\nca_file = \"/a\"\ninterval_s = 59", "audit.timestamp.interval_s"),
            ("url = \"https://a\"\nca_file = \"/a\"\ninterval_s = 604801", "audit.timestamp.interval_s"),
            ("url = \"https://a\"\nca_file = \"/a\"\npolicy = \"tsa\"", "audit.timestamp.policy"),
            ("url = \"https://a\"\nca_file = \"/a\"\npolicy = \"1.02.3\"", "audit.timestamp.policy"),
            ("url = \"https://a\"\nca_file = \"/a\"\npolicy = \"1.40\"", "audit.timestamp.policy"),
            ("url = \"https://a\"\nca_file = \"/a\"\npolicy = \"1\"", "audit.timestamp.policy"),
            ("url = \"https://a\"\nca_file = \"/a\"\nevery = 60", "every"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(word), "{line}: {error}");
        }
    }
}
