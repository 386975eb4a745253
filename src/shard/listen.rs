//! Listening sockets, bound before the shards start so that errors are found at once.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketType, bind as bind_socket, listen, socket, sockopt};

use crate::config::Listen;

/// Connections the kernel queues for one listener before it refuses.
const BACKLOG: i32 = 1024;

/// Who may connect to a Unix socket: the service's user and group. The folder decides who reaches it.
const UNIX_SOCKET_MODE: u32 = 0o660;

/// The listening sockets of one shard.
#[derive(Debug, Default)]
pub struct Sockets {
    /// TCP: each shard has its own, the kernel spreads connections (`SO_REUSEPORT`).
    pub tcp: Vec<TcpListener>,
    /// Unix: all shards accept from the same one.
    pub unix: Vec<UnixListener>,
}

/// Why a place to listen at cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {place}: {error}{hint}")]
pub struct BindError {
    place: String,
    error: std::io::Error,
    hint: &'static str,
}

/// What was bound.
#[derive(Debug)]
pub struct Bound {
    /// What each shard accepts from.
    pub sockets: Vec<Sockets>,
    /// Where connections begin with a TLS handshake, which no shard makes.
    pub tls: Vec<TcpListener>,
    /// The addresses really bound: a port of 0 is chosen by the kernel.
    pub places: Vec<Listen>,
}

/// Binds every place for every shard.
///
/// # Errors
/// [`BindError`] names the place; nothing stays bound.
pub fn bind(places: &[Listen], shards: u16) -> Result<Bound, BindError> {
    let mut sockets: Vec<Sockets> = (0..shards).map(|_| Sockets::default()).collect();
    let mut tls = Vec::new();
    let mut bound = Vec::with_capacity(places.len());
    for place in places {
        let failed =
            |error: std::io::Error| BindError { place: place.to_string(), hint: hint(&error), error };
        match place {
            Listen::Tcp(address) => {
                // SO_REUSEPORT would let a second daemon share the port unseen: a plain bind finds it out first.
                drop(bind_tcp(*address, false).map_err(failed)?);
                let mut address = *address;
                for shard in &mut sockets {
                    let listener = bind_tcp(address, true).map_err(failed)?;
                    address = listener.local_addr().map_err(failed)?;
                    shard.tcp.push(listener);
                }
                bound.push(Listen::Tcp(address));
            }
            Listen::Tls(address) => {
                let listener = bind_tcp(*address, false).map_err(failed)?;
                bound.push(Listen::Tls(listener.local_addr().map_err(failed)?));
                tls.push(listener);
            }
            Listen::Unix(path) => {
                let listener = bind_unix(path).map_err(failed)?;
                for shard in &mut sockets {
                    shard.unix.push(listener.try_clone().map_err(failed)?);
                }
                bound.push(Listen::Unix(path.clone()));
            }
        }
    }
    Ok(Bound { sockets, tls, places: bound })
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "; another process (perhaps another edgate) listens there",
        std::io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE, sockets a writable folder"
        }
        std::io::ErrorKind::NotFound => "; its folder does not exist",
        _ => "",
    }
}

fn bind_tcp(address: SocketAddr, reuse_port: bool) -> std::io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, reuse_port)?;
    bind_socket(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Binds a Unix socket, replacing one that a dead process left behind, and nothing else.
fn bind_unix(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            if UnixStream::connect(path).is_ok() {
                return Err(std::io::ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(path)?;
        }
        Ok(_) => return Err(std::io::Error::other("something that is not a socket is in the way")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(UNIX_SOCKET_MODE))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Removes the Unix sockets that were bound, so that callers fail at once instead of waiting.
pub fn unlink(bound: &[Listen]) {
    for place in bound {
        if let Listen::Unix(path) = place {
            remove(path);
        }
    }
}

fn remove(path: &PathBuf) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "cannot remove the socket");
    }
}
