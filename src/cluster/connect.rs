//! Finding the primary and connecting to it: one server, Sentinel, or a cluster's node that holds our slot.
//!
//! The crate's own Sentinel and cluster clients are not used: `WAIT` and a blocking `XREAD` belong to one connection,
//! and which one must not be hidden.

use std::path::Path;
use std::time::{Duration, Instant};

use redis::io::tcp::TcpSettings;
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, TlsCertificates, Value};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use zeroize::Zeroizing;

use super::error::ClusterError;
use super::keys::Keys;
use super::link::{Link, described, text};
use super::secret;
use super::sentinels::Votes;
use crate::config::{Redis, RedisServers};

/// A new connection to the primary that serves our keys.
pub(super) fn primary(redis: &Redis, votes: Option<&Votes>) -> Result<Link, ClusterError> {
    let password = secret::password(redis)?;
    let password = password.as_ref();
    let mut link = match &redis.servers {
        RedisServers::Single(url) => open(redis, url, password)?,
        RedisServers::Sentinel { sentinels, primary } => {
            // The first of them may be the one that is cut off from the others.
            let agreed = votes.and_then(|votes| votes.majority(Instant::now()));
            let (sentinel, address) = match (agreed, sentinels.first()) {
                (Some(address), Some(sentinel)) => (sentinel.as_str(), address),
                _ => first_of(sentinels, |sentinel| primary_named_by(redis, sentinel, primary, &mut None))?,
            };
            let mut link = open(redis, &beside(sentinel, &address), password)?;
            link.set_address(address);
            link
        }
        RedisServers::Cluster(nodes) => {
            let key = Keys::new(&redis.namespace).tokens;
            let (node, address) = first_of(nodes, |node| slot_owner(redis, node, &key, password))?;
            open(redis, &beside(node, &address), password)?
        }
    };
    link.check_primary()?;
    Ok(link)
}

/// Host and port.
pub(super) type Address = (String, u16);

/// Asks one after the other until one knows; else what the last one said.
fn first_of<T>(
    urls: &[String],
    ask: impl Fn(&str) -> Result<T, ClusterError>,
) -> Result<(&str, T), ClusterError> {
    let mut last = ClusterError::Stopped;
    for url in urls {
        match ask(url) {
            Ok(answer) => return Ok((url, answer)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The primary's address, as this Sentinel knows it. The connection is kept in `kept`, as long as it is good.
pub(super) fn primary_named_by(
    redis: &Redis,
    sentinel: &str,
    primary: &str,
    kept: &mut Option<Link>,
) -> Result<Address, ClusterError> {
    let action = "name the primary";
    let command = redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(primary).clone();
    let mut link = match kept.take() {
        Some(link) => link,
        None => open(redis, sentinel, None)?,
    };
    let answer = match link.ask(action, &command) {
        // Sentinels have passwords of their own, most have none: ours is sent only where one is asked for.
        Err(ClusterError::Refused { code, .. }) if code == "NOAUTH" && redis.password.is_some() => {
            link = open(redis, sentinel, secret::password(redis)?.as_ref())?;
            link.ask(action, &command)
        }
        answer => answer,
    }?;
    if answer == Value::Nil {
        let cause = "it does not know a primary of the configured name".to_owned();
        return Err(ClusterError::Unreachable { server: link.server().to_owned(), action, cause });
    }
    let Value::Array(parts) = &answer else { return Err(link.unexpected(action)) };
    let address = address(parts.first(), parts.get(1)).ok_or_else(|| link.unexpected(action))?;
    *kept = Some(link);
    Ok(address)
}

/// The address of the cluster's node that holds our slot.
fn slot_owner(
    redis: &Redis,
    node: &str,
    key: &str,
    password: Option<&Zeroizing<String>>,
) -> Result<Address, ClusterError> {
    let action = "say which node holds our keys";
    let mut link = open(redis, node, password)?;
    let slot = link.ask(action, redis::cmd("CLUSTER").arg("KEYSLOT").arg(key))?;
    let slots = link.ask(action, redis::cmd("CLUSTER").arg("SLOTS"))?;
    let (Value::Int(slot), Value::Array(ranges)) = (slot, slots) else { return Err(link.unexpected(action)) };
    let owner = ranges.iter().find_map(|range| match range {
        Value::Array(parts) => match (parts.first()?, parts.get(1)?, parts.get(2)?) {
            (Value::Int(first), Value::Int(last), Value::Array(owner))
                if (*first..=*last).contains(&slot) =>
            {
                Some(owner.clone())
            }
            _ => None,
        },
        _ => None,
    });
    let Some(owner) = owner else {
        let cause = "no node of the cluster holds their slot".to_owned();
        return Err(ClusterError::Unreachable { server: link.server().to_owned(), action, cause });
    };
    // A node that does not know its own address says nothing or "?": it is the one we asked.
    let host = owner.first().and_then(text).filter(|host| !host.is_empty() && *host != "?");
    let port = owner.get(1).and_then(|port| match port {
        Value::Int(port) => u16::try_from(*port).ok(),
        _ => None,
    });
    let host = host.map(str::to_owned).or_else(|| host_of(node));
    host.zip(port).ok_or_else(|| link.unexpected(action))
}

fn host_of(url: &str) -> Option<String> {
    match url.into_connection_info().ok()?.addr() {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => Some(host.clone()),
        _ => None,
    }
}

fn address(host: Option<&Value>, port: Option<&Value>) -> Option<Address> {
    Some((text(host?)?.to_owned(), text(port?)?.parse().ok()?))
}

/// The URL of a server at `address`, reached as the server `beside` is: with TLS or without.
fn beside(beside: &str, (host, port): &Address) -> String {
    let scheme = if beside.starts_with("rediss://") { "rediss" } else { "redis" };
    let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
    format!("{scheme}://{open}{host}{close}:{port}")
}

/// A connection to exactly this server.
fn open(redis: &Redis, url: &str, password: Option<&Zeroizing<String>>) -> Result<Link, ClusterError> {
    let action = "connect";
    let failed = |server: &str, error: &redis::RedisError| described(server, action, redis.timeout, error);
    let info = url.into_connection_info().map_err(|error| failed(url, &error))?;
    let server = info.addr().to_string();
    let mut settings = info.redis_settings().clone().set_skip_set_lib_name();
    if let Some(password) = password {
        // The crate keeps its copy only while it connects, but does not overwrite it.
        settings = settings.set_password(password.as_str());
        if let Some(username) = &redis.username {
            settings = settings.set_username(username);
        }
    }
    let tcp = TcpSettings::default().set_nodelay(true);
    let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
    if let ConnectionAddr::Unix(path) = info.addr() {
        probe(path).map_err(|cause| ClusterError::Unreachable { server: server.clone(), action, cause })?;
    }
    let client = client(redis, info)?.map_err(|error| failed(&server, &error))?;
    let connection =
        client.get_connection_with_timeout(redis.timeout).map_err(|error| failed(&server, &error))?;
    Link::new(connection, server, redis.timeout)
}

fn client(redis: &Redis, info: ConnectionInfo) -> Result<Result<Client, redis::RedisError>, ClusterError> {
    let encrypted = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
    Ok(match (&redis.ca_file, encrypted) {
        (Some(path), true) => {
            let root_cert = std::fs::read(path).map_err(|error| ClusterError::File {
                what: format!("{} with the authorities that sign Redis' certificate", path.display()),
                cause: error.to_string(),
            })?;
            Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert: Some(root_cert) })
        }
        _ => Client::open(info),
    })
}

/// Whether the socket takes connections at once: connecting to a stopped server's full queue has no timeout.
fn probe(path: &Path) -> Result<(), String> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let probed = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .and_then(|socket| rustix::net::connect(socket, &SocketAddrUnix::new(path)?));
    probed.map_err(|errno| match errno {
        rustix::io::Errno::AGAIN => "it accepts no connections".to_owned(),
        errno => std::io::Error::from(errno).to_string(),
    })
}

/// When to try again: sooner after one failure than after many, and not all nodes at once.
#[derive(Debug)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
    not_before: Option<Instant>,
}

impl Backoff {
    pub(super) const fn new() -> Self {
        Self::between(BACKOFF_MIN, BACKOFF_MAX)
    }

    /// Waits so long at first, and so long in the end.
    #[must_use]
    pub const fn between(least: Duration, most: Duration) -> Self {
        Self { least, most, next: least, not_before: None }
    }

    /// How long to wait still.
    #[must_use]
    pub fn left(&self, now: Instant) -> Duration {
        self.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// Waits longer from now on.
    pub fn failed(&mut self, now: Instant) {
        // Between half and the whole of it. Without randomness nodes only come together.
        let share = getrandom::u32().unwrap_or(u32::MAX);
        let half = self.next / 2;
        self.not_before = Some(now + half + half.mul_f64(f64::from(share) / f64::from(u32::MAX)));
        self.next = (self.next * 2).min(self.most);
    }

    /// Begins again.
    pub fn succeeded(&mut self) {
        *self = Self::between(self.least, self.most);
    }
}

const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_grows_to_its_bound_and_begins_again() {
        let now = Instant::now();
        let mut backoff = Backoff::new();
        assert_eq!(backoff.left(now), Duration::ZERO);
        for _ in 0..20 {
            backoff.failed(now);
            assert!(backoff.left(now) >= BACKOFF_MIN / 2 && backoff.left(now) <= BACKOFF_MAX);
        }
        assert!(backoff.left(now) >= BACKOFF_MAX / 2);
        backoff.succeeded();
        assert_eq!(backoff.left(now), Duration::ZERO);
    }

    #[test]
    fn a_named_server_is_reached_like_the_one_that_named_it() {
        let address = ("10.0.0.1".to_owned(), 6379);
        assert_eq!(beside("redis://s:26379", &address), "redis://10.0.0.1:6379");
        assert_eq!(beside("rediss://s:26379", &("fd00::1".to_owned(), 1)), "rediss://[fd00::1]:1");
        assert_eq!(host_of("redis://[fd00::1]:7").as_deref(), Some("fd00::1"));
    }
}
