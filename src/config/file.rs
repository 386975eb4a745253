//! The configuration as written: one struct per table, unknown keys are errors.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::defaults;
use super::hsm::{Hsm, HsmTable, key_place};
use super::issuers::{IssuerTable, check_issuers};
use super::mirror::MirrorTable;
use super::retention::RetentionTable;
use super::revocation::RevocationTable;
use super::sealed::SealedTable;
use super::signing::SigningTable;
use super::timestamp::TimestampTable;
use super::tls::TlsTable;
use super::transmitters::check_issuers_exist;
use super::witness::{self, WitnessTable, check_witnesses};
use super::{
    AdminAck, Audit, Config, ConfigError, Control, Driver, Engine, KeySource, Listen, OnAuditFailure,
    OnStale, OnWitnessAway, Server, Verify, VerifyAck,
};

/// The longest name of a log; `audit` has the same limit.
const ORIGIN_BYTES_MAX: usize = 128;

/// The most shards: more cores than any machine this was tried on, and what a core id in a record must hold.
const SHARDS_MAX: u16 = 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    server: ServerTable,
    #[serde(default)]
    control: ControlTable,
    state: StateTable,
    audit: AuditTable,
    #[serde(default)]
    verify: VerifyTable,
    #[serde(default)]
    revocation: RevocationTable,
    hsm: Option<HsmTable>,
    signing: Option<SigningTable>,
    #[serde(default)]
    issuers: Vec<IssuerTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerTable {
    listen: Vec<String>,
    shards: Option<u16>,
    #[serde(default = "defaults::driver")]
    driver: Driver,
    #[serde(default)]
    allow_unauthenticated: bool,
    #[serde(default = "defaults::header_timeout_ms")]
    header_timeout_ms: u64,
    #[serde(default = "defaults::idle_timeout_ms")]
    idle_timeout_ms: u64,
    #[serde(default = "defaults::body_bytes_max")]
    body_bytes_max: usize,
    #[serde(default = "defaults::connections_max")]
    connections_max: usize,
    #[serde(default = "defaults::drain_timeout_ms")]
    drain_timeout_ms: u64,
    tls: Option<TlsTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ControlTable {
    #[serde(default = "defaults::control_listen")]
    listen: String,
    #[serde(default)]
    allowed_hosts: Vec<String>,
}

impl Default for ControlTable {
    fn default() -> Self {
        Self { listen: defaults::control_listen(), allowed_hosts: Vec::new() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StateTable {
    database: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditTable {
    dir: PathBuf,
    origin: String,
    checkpoint_key_file: Option<PathBuf>,
    checkpoint_key: Option<String>,
    checkpoint_public_key: Option<String>,
    #[serde(default = "defaults::segment_mib")]
    segment_mib: u64,
    #[serde(default = "defaults::flush_interval_ms")]
    flush_interval_ms: u64,
    #[serde(default = "defaults::unflushed_age_max_ms")]
    unflushed_age_max_ms: u64,
    #[serde(default = "defaults::ack_timeout_ms")]
    ack_timeout_ms: u64,
    #[serde(default = "defaults::unsigned_age_max_s")]
    unsigned_age_max_s: u64,
    #[serde(default = "defaults::verify_ack")]
    verify_ack: VerifyAck,
    #[serde(default = "defaults::on_failure")]
    on_failure: OnAuditFailure,
    #[serde(default)]
    retention: RetentionTable,
    #[serde(default)]
    witness: Vec<WitnessTable>,
    #[serde(default = "witness::on_witness_away")]
    on_witness_away: OnWitnessAway,
    #[serde(default = "witness::admin_ack")]
    admin_ack: AdminAck,
    #[serde(default = "witness::admin_ack_timeout_ms")]
    admin_ack_timeout_ms: u64,
    #[serde(default)]
    receipts: bool,
    mirror: Option<MirrorTable>,
    timestamp: Option<TimestampTable>,
    sealed: Option<SealedTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct VerifyTable {
    engine: Engine,
    table_budget_mib: usize,
    shadow_rate: f64,
}

impl Default for VerifyTable {
    fn default() -> Self {
        Self { engine: Engine::Auto, table_budget_mib: 64, shadow_rate: 0.0 }
    }
}

pub(super) fn wrong(
    key: impl Into<String>,
    value: impl std::fmt::Display,
    problem: impl Into<String>,
    fix: impl Into<String>,
) -> ConfigError {
    ConfigError::Value { key: key.into(), value: value.to_string(), problem: problem.into(), fix: fix.into() }
}

pub(super) fn in_range(key: &str, value: u64, least: u64, most: u64) -> Result<u64, ConfigError> {
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(wrong(key, value, "out of range", format!("choose {least} to {most}")))
    }
}

pub(super) fn not_empty(key: &str, value: &str) -> Result<(), ConfigError> {
    if value.is_empty() || value.len() > 255 || value.chars().any(char::is_control) {
        return Err(wrong(
            key,
            format!("{value:?}"),
            "empty, over 255 bytes or with control characters",
            "name it",
        ));
    }
    Ok(())
}

impl File {
    pub(super) fn check(self) -> Result<Config, ConfigError> {
        let issuers = check_issuers(self.issuers)?;
        let hsm = self.hsm.map(HsmTable::check).transpose()?;
        let signing = self.signing.map(|table| table.check(&issuers, hsm.as_ref())).transpose()?;
        if signing.is_none()
            && let Some(issuer) = issuers.iter().find(|issuer| matches!(issuer.keys, KeySource::SigningKey))
        {
            return Err(wrong(
                format!("issuers.{}.keys", issuer.name),
                "\"signing_key\"",
                "there is no [signing] table",
                "add one, or give the issuer jwks_file or jwks",
            ));
        }
        let revocation = self.revocation.check()?;
        if revocation.redis.is_some()
            && revocation.staleness_max.is_zero()
            && let Some(issuer) = issuers.iter().find(|one| one.revocation.on_stale == OnStale::Deny)
        {
            return Err(wrong(
                "revocation.max_staleness_ms",
                "0",
                format!("no token of issuers.{} would ever pass: its on_stale is \"deny\"", issuer.name),
                "give that issuer on_stale = \"lookup\", or a number of milliseconds here",
            ));
        }
        check_issuers_exist(&revocation.transmitters, &issuers)?;
        Ok(Config {
            file: None,
            server: self.server.check(hsm.as_ref())?,
            control: self.control.check()?,
            audit: self.audit.check(hsm.as_ref())?,
            revocation,
            hsm,
            database: self.state.database,
            verify: self.verify.check()?,
            signing,
            issuers,
        })
    }
}

impl ServerTable {
    fn check(self, hsm: Option<&Hsm>) -> Result<Server, ConfigError> {
        if self.listen.is_empty() {
            return Err(wrong("server.listen", "[]", "nowhere to listen", "add \"127.0.0.1:8180\""));
        }
        let mut listen = Vec::with_capacity(self.listen.len());
        for (i, text) in self.listen.iter().enumerate() {
            let key = format!("server.listen[{i}]");
            let place = parse_listen(&key, text)?;
            if !place.is_local() && !self.allow_unauthenticated {
                return Err(wrong(
                    key,
                    format!("{text:?}"),
                    "callers are not authenticated yet, so only loopback addresses and Unix sockets are open",
                    "use 127.0.0.1 or unix:/path, or say server.allow_unauthenticated = true and keep the port \
                     reachable by your proxies only",
                ));
            }
            listen.push(place);
        }
        for (i, place) in listen.iter().enumerate() {
            if let Some(other) = listen[..i].iter().find(|other| other.is_same(place)) {
                return Err(wrong(
                    format!("server.listen[{i}]"),
                    place,
                    format!("{other} is the same place"),
                    "keep one of them, or give them ports of their own",
                ));
            }
        }
        let tls = self.tls.map(|table| table.check(hsm)).transpose()?;
        let wants_tls = |place: &Listen| matches!(place, Listen::Tls(_));
        match (listen.iter().find(|place| wants_tls(place)), &tls) {
            (Some(place), None) => {
                return Err(wrong(
                    "server.listen",
                    place,
                    "there is no [server.tls] table",
                    "add one with certificate_file, and key_file or key",
                ));
            }
            (None, Some(_)) => {
                return Err(wrong(
                    "server.tls",
                    "…",
                    "no place in server.listen is for TLS",
                    "write one as \"tls:ADDRESS:PORT\", or take the table out",
                ));
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
        let cores =
            std::thread::available_parallelism().map_or(1, |n| u16::try_from(n.get()).unwrap_or(u16::MAX));
        let shards = self.shards.unwrap_or(cores.min(SHARDS_MAX));
        in_range("server.shards", u64::from(shards), 1, u64::from(SHARDS_MAX))?;
        in_range("server.body_bytes_max", self.body_bytes_max as u64, 1024, 64 << 20)?;
        in_range("server.connections_max", self.connections_max as u64, 1, 1 << 20)?;
        Ok(Server {
            listen,
            shards,
            driver: self.driver,
            allow_unauthenticated: self.allow_unauthenticated,
            header_timeout: millis("server.header_timeout_ms", self.header_timeout_ms, 100, 600_000)?,
            idle_timeout: millis("server.idle_timeout_ms", self.idle_timeout_ms, 100, 86_400_000)?,
            body_bytes_max: self.body_bytes_max,
            connections_max: self.connections_max,
            drain_timeout: millis("server.drain_timeout_ms", self.drain_timeout_ms, 0, 600_000)?,
            tls,
        })
    }
}

fn millis(key: &str, value: u64, least: u64, most: u64) -> Result<Duration, ConfigError> {
    in_range(key, value, least, most).map(Duration::from_millis)
}

fn parse_listen(key: &str, text: &str) -> Result<Listen, ConfigError> {
    match text.strip_prefix("unix:") {
        Some(path) if path.starts_with('/') && path.len() < 108 => Ok(Listen::Unix(PathBuf::from(path))),
        Some(_) => Err(wrong(
            key,
            format!("{text:?}"),
            "not an absolute path of under 108 bytes",
            "write unix:/run/edgate/…",
        )),
        None => {
            let (address, place): (_, fn(SocketAddr) -> Listen) = match text.strip_prefix("tls:") {
                Some(address) => (address, Listen::Tls),
                None => (text, Listen::Tcp),
            };
            address.parse().map(place).map_err(|_| {
                wrong(
                    key,
                    format!("{text:?}"),
                    "not an IP address and port",
                    "write \"127.0.0.1:8180\", \"tls:127.0.0.1:8443\" or \"unix:/path\"",
                )
            })
        }
    }
}

impl ControlTable {
    fn check(self) -> Result<Control, ConfigError> {
        let listen: SocketAddr = self.listen.parse().map_err(|_| {
            wrong(
                "control.listen",
                format!("{:?}", self.listen),
                "not an IP address and port",
                "write \"127.0.0.1:8181\"",
            )
        })?;
        if !listen.ip().is_loopback() {
            return Err(wrong(
                "control.listen",
                listen,
                "operators are not authenticated yet, so the control listener is open to this machine only",
                "use 127.0.0.1 and reach it through ssh",
            ));
        }
        Ok(Control { listen, allowed_hosts: self.allowed_hosts })
    }
}

impl AuditTable {
    fn check(self, hsm: Option<&Hsm>) -> Result<Audit, ConfigError> {
        not_empty("audit.origin", &self.origin)?;
        if self.origin.len() > ORIGIN_BYTES_MAX {
            let fix = format!("use at most {ORIGIN_BYTES_MAX} bytes");
            return Err(wrong(
                "audit.origin",
                format!("{:?}", self.origin),
                "too long for a log's name",
                fix,
            ));
        }
        if self.origin.contains(|c: char| c.is_whitespace() || c == '+') {
            return Err(wrong(
                "audit.origin",
                format!("{:?}", self.origin),
                "white space and + cannot stand in a log's name (C2SP signed-note)",
                "write it like a URL without a scheme: \"example.com/edgate/node-1\"",
            ));
        }
        Ok(Audit {
            dir: self.dir,
            origin: self.origin,
            checkpoint_key: key_place(
                ["audit.checkpoint_key_file", "audit.checkpoint_key", "audit.checkpoint_public_key"],
                self.checkpoint_key_file,
                self.checkpoint_key,
                self.checkpoint_public_key,
                hsm,
            )?,
            segment_bytes: in_range("audit.segment_mib", self.segment_mib, 1, 4096)? << 20,
            flush_interval: millis("audit.flush_interval_ms", self.flush_interval_ms, 1, 10_000)?,
            unflushed_age_max: millis("audit.unflushed_age_max_ms", self.unflushed_age_max_ms, 100, 60_000)?,
            ack_timeout: millis("audit.ack_timeout_ms", self.ack_timeout_ms, 200, 60_000)?,
            unsigned_age_max: in_range("audit.unsigned_age_max_s", self.unsigned_age_max_s, 1, 7 * 86_400)
                .map(Duration::from_secs)?,
            verify_ack: self.verify_ack,
            on_failure: self.on_failure,
            retention: self.retention.check()?,
            witnesses: check_witnesses(self.witness, self.admin_ack)?,
            timestamp: self.timestamp.map(TimestampTable::check).transpose()?,
            on_witness_away: self.on_witness_away,
            admin_ack: self.admin_ack,
            admin_ack_timeout: millis("audit.admin_ack_timeout_ms", self.admin_ack_timeout_ms, 100, 60_000)?,
            receipts: self.receipts,
            mirror: self.mirror.map(MirrorTable::check).transpose()?.unwrap_or_default(),
            sealed: self.sealed.map(SealedTable::check).transpose()?,
        })
    }
}

impl VerifyTable {
    fn check(self) -> Result<Verify, ConfigError> {
        if !(0.0..=1.0).contains(&self.shadow_rate) {
            return Err(wrong("verify.shadow_rate", self.shadow_rate, "not a share", "choose 0.0 to 1.0"));
        }
        let mib = in_range("verify.table_budget_mib", self.table_budget_mib as u64, 0, 65_536)?;
        Ok(Verify {
            engine: self.engine,
            table_budget_bytes: usize::try_from(mib << 20).expect("64 GiB fit a 64-bit usize"),
            shadow_rate: self.shadow_rate,
        })
    }
}
