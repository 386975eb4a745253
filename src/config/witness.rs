//! `[[audit.witness]]`: who cosigns this log's checkpoints, and what depends on it.

use std::time::Duration;

use serde::Deserialize;

use super::ConfigError;
use super::file::{in_range, not_empty, wrong};
use super::url;

/// The most witnesses: each has a thread.
const WITNESSES_MAX: usize = 16;

/// A witness of this log.
#[derive(Debug, Clone)]
pub struct Witness {
    /// Its verifier key, as text: `audit.witness.key`. What it says is checked where it is used.
    pub key: String,
    /// Its submission prefix: `audit.witness.url`.
    pub url: String,
    /// How long one exchange may take: `audit.witness.timeout_ms`.
    pub timeout: Duration,
}

/// Whether a start goes on when no witness can be asked about the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnWitnessAway {
    /// It does not: the log may be an older one.
    Refuse,
    /// It does, and says so.
    Serve,
}

/// When an operator's action is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminAck {
    /// Once its record is on the disk.
    Durable,
    /// Once a witness has cosigned a checkpoint over its record.
    Witnessed,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WitnessTable {
    key: String,
    url: String,
    #[serde(default = "timeout_ms")]
    timeout_ms: u64,
}

fn timeout_ms() -> u64 {
    5_000
}

pub(super) fn on_witness_away() -> OnWitnessAway {
    OnWitnessAway::Refuse
}

pub(super) fn admin_ack() -> AdminAck {
    AdminAck::Durable
}

pub(super) fn admin_ack_timeout_ms() -> u64 {
    5_000
}

pub(super) fn check_witnesses(tables: Vec<WitnessTable>, ack: AdminAck) -> Result<Vec<Witness>, ConfigError> {
    if tables.is_empty() && ack == AdminAck::Witnessed {
        return Err(wrong(
            "audit.admin_ack",
            "\"witnessed\"",
            "there is no witness, so no action would ever be answered",
            "add a table [[audit.witness]], or say \"durable\"",
        ));
    }
    if tables.len() > WITNESSES_MAX {
        let fix = format!("name at most {WITNESSES_MAX}");
        return Err(wrong("audit.witness", tables.len(), "too many witnesses", fix));
    }
    let mut witnesses: Vec<Witness> = Vec::with_capacity(tables.len());
    for (i, WitnessTable { key, url, timeout_ms }) in tables.into_iter().enumerate() {
        let at = |member: &str| format!("audit.witness[{i}].{member}");
        not_empty(&at("key"), &key)?;
        if witnesses.iter().any(|other| other.key == key) {
            return Err(wrong(at("key"), key, "two witnesses have this key", "name each once"));
        }
        if !is_usable_url(&url) {
            return Err(wrong(
                at("url"),
                format!("{url:?}"),
                "not a place to send checkpoints to: whoever can answer in the witness's place can stop this node",
                "write https://HOST/PREFIX, or http:// to a loopback address",
            ));
        }
        let timeout = in_range(&at("timeout_ms"), timeout_ms, 100, 60_000).map(Duration::from_millis)?;
        witnesses.push(Witness { key, url, timeout });
    }
    Ok(witnesses)
}

/// Over https, or over http to this machine.
fn is_usable_url(url: &str) -> bool {
    url::parts(url, "?").is_some_and(|(secure, host)| {
        let name = host.rsplit_once(':').map_or(host, |(name, port)| {
            if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
        });
        secure || matches!(name, "127.0.0.1" | "[::1]" | "localhost")
    })
}
