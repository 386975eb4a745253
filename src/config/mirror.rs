//! The `[audit.mirror]` table: where the log is mirrored to, if anywhere.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::ConfigError;
use super::file::{in_range, wrong};
use super::revocation::{Redis, RedisTable};

/// Where the audit log is mirrored to.
#[derive(Debug, Clone, Default)]
pub struct Mirror {
    /// A syslog receiver: `audit.mirror.syslog`.
    pub syslog: Option<Syslog>,
    /// The Redis with the stream: `audit.mirror.redis`.
    pub redis: Option<Redis>,
}

/// A syslog receiver.
#[derive(Debug, Clone)]
pub struct Syslog {
    /// Where it is: `audit.mirror.syslog.url`.
    pub receiver: Receiver,
    /// The authorities that may sign its certificate, instead of the system's: `audit.mirror.syslog.ca_file`.
    pub ca_file: Option<PathBuf>,
    /// What we show it: `audit.mirror.syslog.certificate_file` and `audit.mirror.syslog.key_file`.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// How long connecting, or one write, may take: `audit.mirror.syslog.timeout_ms`.
    pub timeout: Duration,
}

/// Where a syslog receiver is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receiver {
    /// TCP without encryption: for a relay on this machine or in a tunnel.
    Tcp(HostPort),
    /// TLS, RFC 5425.
    Tls(HostPort),
    /// UDP: what is lost is lost.
    Udp(HostPort),
    /// A Unix datagram socket, such as `/dev/log`.
    Unix(PathBuf),
}

/// A host, by name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The host; an IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}:{}", self.host, self.port)
    }
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(at) => write!(f, "tcp://{at}"),
            Self::Tls(at) => write!(f, "tls://{at}"),
            Self::Udp(at) => write!(f, "udp://{at}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MirrorTable {
    syslog: Option<SyslogTable>,
    redis: Option<RedisTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SyslogTable {
    url: String,
    ca_file: Option<PathBuf>,
    certificate_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    #[serde(default = "timeout_ms")]
    timeout_ms: u64,
}

const fn timeout_ms() -> u64 {
    5000
}

impl MirrorTable {
    pub(super) fn check(self) -> Result<Mirror, ConfigError> {
        Ok(Mirror {
            syslog: self.syslog.map(SyslogTable::check).transpose()?,
            redis: self.redis.map(|redis| redis.check("audit.mirror.redis")).transpose()?,
        })
    }
}

impl SyslogTable {
    fn check(self) -> Result<Syslog, ConfigError> {
        let key = |name: &str| format!("audit.mirror.syslog.{name}");
        let receiver = receiver(&self.url).ok_or_else(|| {
            wrong(
                key("url"),
                format!("{:?}", self.url),
                "not a place where syslog is received",
                "write tls://HOST:PORT, tcp://HOST:PORT, udp://HOST:PORT or unix:/PATH",
            )
        })?;
        let certificate = match (self.certificate_file, self.key_file) {
            (None, None) => None,
            (Some(certificate), Some(private)) => Some((certificate, private)),
            _ => {
                return Err(wrong(
                    key("certificate_file"),
                    "…",
                    "a certificate and its key belong together",
                    "give certificate_file and key_file, or neither",
                ));
            }
        };
        if !matches!(receiver, Receiver::Tls(_)) && (self.ca_file.is_some() || certificate.is_some()) {
            return Err(wrong(
                key("url"),
                format!("\"{receiver}\""),
                "certificates are for TLS, which this is not",
                "write tls://HOST:PORT, or leave the files out",
            ));
        }
        let timeout =
            in_range(&key("timeout_ms"), self.timeout_ms, 100, 60_000).map(Duration::from_millis)?;
        Ok(Syslog { receiver, ca_file: self.ca_file, certificate, timeout })
    }
}

fn receiver(url: &str) -> Option<Receiver> {
    if let Some(path) = url.strip_prefix("unix:") {
        return (path.starts_with('/') && path.len() < 108).then(|| Receiver::Unix(PathBuf::from(path)));
    }
    let (scheme, at) = url.split_once("://")?;
    let (host, port) = at.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if host.is_empty() || !host.chars().all(plain) {
        return None;
    }
    let at = HostPort { host: host.to_owned(), port: port.parse().ok().filter(|port| *port > 0)? };
    match scheme {
        "tcp" => Some(Receiver::Tcp(at)),
        "tls" => Some(Receiver::Tls(at)),
        "udp" => Some(Receiver::Udp(at)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Mirror, String> {
        let table: MirrorTable = toml::from_str(text).map_err(|error| error.to_string())?;
        table.check().map_err(|error| error.to_string())
    }

    #[test]
    fn a_receiver_is_read_or_refused_with_its_key() {
        let receiver =
            |url: &str| check(&format!("[syslog]\nurl = {url:?}")).map(|one| one.syslog.unwrap().receiver);
        let at = |host: &str, port| HostPort { host: host.to_owned(), port };
        assert_eq!(receiver("tls://siem.example.com:6514"), Ok(Receiver::Tls(at("siem.example.com", 6514))));
        assert_eq!(receiver("tcp://[::1]:601").unwrap().to_string(), "tcp://[::1]:601");
        assert_eq!(receiver("udp://10.0.0.1:514"), Ok(Receiver::Udp(at("10.0.0.1", 514))));
        assert_eq!(receiver("unix:/dev/log"), Ok(Receiver::Unix("/dev/log".into())));
        for url in [
            "siem:514",
            "tls://siem",
            "tls://:1",
            "tls://siem:0",
            "http://siem:1",
            "unix:dev/log",
            "tcp://u@h:1",
        ] {
            let error = receiver(url).unwrap_err();
            assert!(error.contains("audit.mirror.syslog.url"), "{url}: {error}");
        }
        let both = "[syslog]\nurl = \"tls://a:1\"\ncertificate_file = \"/c\"";
        assert!(check(both).unwrap_err().contains("belong together"));
        let plain = "[syslog]\nurl = \"tcp://a:1\"\nca_file = \"/c\"";
        assert!(check(plain).unwrap_err().contains("which this is not"));
        let redis = check("[redis]\nurl = \"http://a\"").unwrap_err();
        assert!(redis.contains("audit.mirror.redis.url"), "{redis}");
    }
}
