//! The `[revocation]` table: how fresh the view must be, and where nodes share what is revoked.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::ConfigError;
use super::file::{in_range, not_empty, wrong};
use super::transmitters::{Transmitter, TransmitterTable, check_transmitters};

/// Revocation.
#[derive(Debug, Clone)]
pub struct Revocation {
    /// How old the view may be before `on_stale` applies; 0: it always does: `revocation.max_staleness_ms`.
    pub staleness_max: Duration,
    /// How long a decision waits for an answer that the view cannot give: `revocation.lookup_timeout_ms`.
    pub lookup_timeout: Duration,
    /// How long a request waits for the epoch it demands: `revocation.epoch_wait_ms`.
    pub epoch_wait: Duration,
    /// How long a proxy may keep a verdict at most, in seconds; 0: not at all: `revocation.cache_s`.
    pub cache_s: u64,
    /// Where nodes share what is revoked.
    pub redis: Option<Redis>,
    /// Who may push Security Event Tokens: `revocation.transmitters`.
    pub transmitters: Vec<Transmitter>,
}

/// The Redis that nodes share.
#[derive(Debug, Clone)]
pub struct Redis {
    /// How it is reached.
    pub servers: RedisServers,
    /// The ACL user: `revocation.redis.username`.
    pub username: Option<String>,
    /// Where the user's password comes from: `revocation.redis.password_source`.
    pub password: Option<SecretSource>,
    /// Where systemd put this unit's credentials: `$CREDENTIALS_DIRECTORY`.
    pub credentials: Option<PathBuf>,
    /// The authorities that may sign the servers' certificates, instead of the system's: `revocation.redis.ca_file`.
    pub ca_file: Option<PathBuf>,
    /// What our keys begin with: `revocation.redis.namespace`. Nodes that share it share what is revoked.
    pub namespace: String,
    /// Replicas that must have a revocation before it is answered: `revocation.redis.min_replicas`.
    pub min_replicas: u32,
    /// How long connecting, or one command, may take: `revocation.redis.timeout_ms`.
    pub timeout: Duration,
    /// Events kept in the stream, about: `revocation.redis.stream_len_max`.
    pub stream_len_max: u32,
}

/// How Redis is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisServers {
    /// Any of a cluster's nodes, as URLs: `revocation.redis.cluster`.
    Cluster(Vec<String>),
    /// The primary that Sentinels name: `revocation.redis.sentinels` and `revocation.redis.primary`.
    Sentinel {
        /// The Sentinels, as URLs.
        sentinels: Vec<String>,
        /// The name they know the primary by.
        primary: String,
    },
    /// One server, as a URL: `revocation.redis.url`.
    Single(String),
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A systemd credential of this name.
    Credential(String),
    /// A file closed to group and others.
    File(PathBuf),
}

/// What becomes of an issuer's tokens while the view is older than it may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStale {
    /// They are refused with 503.
    #[default]
    Deny,
    /// Redis is asked about each of them, in one batch per turn.
    Lookup,
    /// They are judged by the view as it is, which the record says.
    Serve,
}

/// What revocation asks of one issuer's tokens, besides that the view does not know them as revoked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RevocationRules {
    /// What becomes of its tokens while the view is older than it may be: `issuers.on_stale`.
    pub on_stale: OnStale,
    /// Whether a token must be on the allow list, onto which issuing puts it: `issuers.allow_list`.
    pub allow_list: bool,
    /// Whether a token may be used once: `issuers.single_use`.
    pub single_use: bool,
    /// Whether its tokens' places in its status lists are looked at: `issuers.status_list_prefix` is given.
    pub status_list: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RevocationTable {
    max_staleness_ms: u64,
    lookup_timeout_ms: u64,
    epoch_wait_ms: u64,
    cache_s: u64,
    redis: Option<RedisTable>,
    transmitters: Vec<TransmitterTable>,
}

impl Default for RevocationTable {
    fn default() -> Self {
        Self {
            max_staleness_ms: 1000,
            lookup_timeout_ms: 100,
            epoch_wait_ms: 250,
            cache_s: 0,
            redis: None,
            transmitters: Vec::new(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RedisTable {
    url: Option<String>,
    sentinels: Option<Vec<String>>,
    primary: Option<String>,
    cluster: Option<Vec<String>>,
    username: Option<String>,
    password_source: Option<String>,
    ca_file: Option<PathBuf>,
    #[serde(default = "namespace")]
    namespace: String,
    #[serde(default)]
    min_replicas: u32,
    #[serde(default = "timeout_ms")]
    timeout_ms: u64,
    #[serde(default = "stream_len_max")]
    stream_len_max: u32,
}

fn namespace() -> String {
    "edgate".to_owned()
}

const fn timeout_ms() -> u64 {
    500
}

const fn stream_len_max() -> u32 {
    100_000
}

impl RevocationTable {
    pub(super) fn check(self) -> Result<Revocation, ConfigError> {
        let millis = |name: &str, value, least, most| {
            in_range(&format!("revocation.{name}"), value, least, most).map(Duration::from_millis)
        };
        Ok(Revocation {
            staleness_max: millis("max_staleness_ms", self.max_staleness_ms, 0, 86_400_000)?,
            lookup_timeout: millis("lookup_timeout_ms", self.lookup_timeout_ms, 5, 10_000)?,
            epoch_wait: millis("epoch_wait_ms", self.epoch_wait_ms, 0, 10_000)?,
            cache_s: in_range("revocation.cache_s", self.cache_s, 0, 300)?,
            redis: self.redis.map(|redis| redis.check("revocation.redis")).transpose()?,
            transmitters: check_transmitters(self.transmitters)?,
        })
    }
}

impl RedisTable {
    /// `table` is what errors call it.
    pub(super) fn check(self, table: &str) -> Result<Redis, ConfigError> {
        let key = |name: &str| format!("{table}.{name}");
        let servers = match (self.url, self.sentinels, self.primary, self.cluster) {
            (Some(url), None, None, None) => RedisServers::Single(server(&key("url"), url)?),
            (None, Some(sentinels), Some(primary), None) => {
                not_empty(&key("primary"), &primary)?;
                RedisServers::Sentinel { sentinels: several(&key("sentinels"), sentinels)?, primary }
            }
            (None, None, None, Some(cluster)) => RedisServers::Cluster(several(&key("cluster"), cluster)?),
            _ => {
                return Err(wrong(
                    key("url"),
                    "…",
                    "exactly one of url, sentinels with primary, and cluster must be given",
                    "keep one of them",
                ));
            }
        };
        let password = self
            .password_source
            .as_deref()
            .map(|text| secret_source(&key("password_source"), text))
            .transpose()?;
        if self.username.is_some() && password.is_none() {
            let fix = "add password_source = \"credential:NAME\" or \"file:/PATH\"";
            return Err(wrong(key("username"), "…", "a user without a password", fix));
        }
        // One slot of a cluster holds all our keys: braces are ours to put around it.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        if self.namespace.is_empty() || self.namespace.len() > 64 || !self.namespace.chars().all(plain) {
            return Err(wrong(
                key("namespace"),
                format!("{:?}", self.namespace),
                "not 1 to 64 letters, digits, '-', '_', '.' or ':'",
                "write a name such as \"edgate\"",
            ));
        }
        in_range(&key("min_replicas"), u64::from(self.min_replicas), 0, 100)?;
        in_range(&key("stream_len_max"), u64::from(self.stream_len_max), 1000, 100_000_000)?;
        Ok(Redis {
            servers,
            username: self.username,
            password,
            credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            ca_file: self.ca_file,
            namespace: self.namespace,
            min_replicas: self.min_replicas,
            timeout: in_range(&key("timeout_ms"), self.timeout_ms, 10, 60_000).map(Duration::from_millis)?,
            stream_len_max: self.stream_len_max,
        })
    }
}

fn several(key: &str, urls: Vec<String>) -> Result<Vec<String>, ConfigError> {
    if urls.is_empty() || urls.len() > SERVERS_MAX {
        let fix = format!("name 1 to {SERVERS_MAX}");
        return Err(wrong(key, format!("{} entries", urls.len()), "not a usable number of servers", fix));
    }
    urls.into_iter().enumerate().map(|(i, url)| server(&format!("{key}[{i}]"), url)).collect()
}

/// A server's URL without a secret: those come from `password_source`.
fn server(key: &str, url: String) -> Result<String, ConfigError> {
    let known = ["redis://", "rediss://", "unix:///", "redis+unix:///"];
    let Some(rest) = known.iter().find_map(|scheme| url.strip_prefix(scheme)) else {
        return Err(wrong(
            key,
            "(not shown)",
            "not a Redis URL",
            "write redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH",
        ));
    };
    if rest.contains('@') || rest.contains("pass=") {
        return Err(wrong(
            key,
            "(not shown)",
            "holds a user or a password",
            "give username and password_source instead",
        ));
    }
    Ok(url)
}

fn secret_source(key: &str, text: &str) -> Result<SecretSource, ConfigError> {
    match text.split_once(':') {
        Some(("credential", name)) if !name.is_empty() && !name.contains('/') && name != ".." => {
            Ok(SecretSource::Credential(name.to_owned()))
        }
        Some(("file", path)) if path.starts_with('/') => Ok(SecretSource::File(PathBuf::from(path))),
        _ => Err(wrong(
            key,
            "(not shown)",
            "not a place where a password may come from",
            "write \"credential:NAME\" or \"file:/PATH\"; never the password itself",
        )),
    }
}

/// The most servers that are named; a cluster tells the rest itself.
const SERVERS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Revocation, String> {
        let table: RevocationTable = toml::from_str(text).map_err(|error| error.to_string())?;
        table.check().map_err(|error| error.to_string())
    }

    #[test]
    fn one_way_to_redis_is_chosen() {
        let redis = |text: &str| check(&format!("[redis]\n{text}")).map(|table| table.redis.unwrap().servers);
        let single = "unix:///run/redis.sock".to_owned();
        assert_eq!(redis("url = \"unix:///run/redis.sock\""), Ok(RedisServers::Single(single)));
        let sentinels = vec!["redis://a:1".to_owned(), "redis://b:2".to_owned()];
        let primary = "mine".to_owned();
        assert_eq!(
            redis("sentinels = [\"redis://a:1\", \"redis://b:2\"]\nprimary = \"mine\""),
            Ok(RedisServers::Sentinel { sentinels, primary })
        );
        let cluster = RedisServers::Cluster(vec!["rediss://a:1".to_owned()]);
        assert_eq!(redis("cluster = [\"rediss://a:1\"]"), Ok(cluster));
        for (text, problem) in [
            ("", "exactly one of"),
            ("sentinels = [\"redis://a:1\"]", "exactly one of"),
            ("url = \"redis://a\"\ncluster = [\"redis://b\"]", "exactly one of"),
            ("cluster = []", "number of servers"),
            ("url = \"http://a\"", "not a Redis URL"),
            ("url = \"redis://a:1\"\nnamespace = \"{a}\"", "namespace"),
            ("url = \"redis://a:1\"\nusername = \"edgate\"", "without a password"),
            ("url = \"redis://a:1\"\npassword = \"x\"", "unknown field"),
        ] {
            let error = redis(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn a_secret_in_the_configuration_is_refused_and_not_repeated() {
        for text in [
            "url = \"redis://:hunter2@a:1\"",
            "url = \"unix:///run/redis.sock?pass=hunter2\"",
            "url = \"redis://a:1\"\npassword_source = \"hunter2\"",
        ] {
            let error = check(&format!("[redis]\n{text}")).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
            assert!(error.contains("password"), "{error}");
        }
    }
}
