//! The socket between agent and client: where it lies, who may have it, and who is at its other end.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::AgentAddress;
use crate::HsmError;

/// A process at the other end of a socket, as the kernel knew it when it connected or listened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) uid: u32,
    pub(super) pid: u32,
}

impl Peer {
    /// Both ends must be in one PID namespace, or the other's below ours: elsewhere the kernel has no number for the process, and
    /// rustix 1.1 no value for that.
    pub(super) fn of(stream: &impl AsFd) -> io::Result<Self> {
        let credentials = sockopt::socket_peercred(stream)?;
        let pid = u32::try_from(credentials.pid.as_raw_nonzero().get()).unwrap_or(0);
        Ok(Self { uid: credentials.uid.as_raw(), pid })
    }
}

pub(super) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A listening socket, which is nobody else's until this is dropped.
pub(super) struct Listening {
    pub(super) listener: UnixListener,
    path: PathBuf,
    // Locked for as long as this lives; the kernel gives it up with the process.
    _lock: File,
}

impl Listening {
    /// Listens at `path`, for this user alone or, `shared`, for the socket's group too. A socket that a process left behind is
    /// replaced.
    pub(super) fn bind(path: &Path, shared: bool) -> Result<Self, HsmError> {
        let failed =
            |action| move |source: io::Error| HsmError::File { action, path: path.to_owned(), source };
        if !path.is_absolute() {
            return Err(failed("listen at")(io::Error::new(
                io::ErrorKind::InvalidInput,
                "give its absolute path, such as /run/edgate-hsm/agent.sock",
            )));
        }
        let folder = path.parent().unwrap_or(Path::new("/"));
        match std::fs::DirBuilder::new().mode(0o750).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(HsmError::File { action: "create", path: folder.to_owned(), source: error });
            }
            _ => {}
        }
        // Without it two agents that start together could each take the other's socket for one left behind.
        let lock_path = path.with_added_extension("lock");
        let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::CLOEXEC).bits()).unwrap_or(0);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags)
            .open(&lock_path)
            .map_err(|source| HsmError::File { action: "open", path: lock_path, source })?;
        // It may be one that ends soon, so that trying again helps.
        let taken = || {
            let problem =
                "another process listens there; stop it, or give this agent another socket".to_owned();
            HsmError::Agent { socket: path.to_owned(), problem }
        };
        lock.try_lock().map_err(|_| taken())?;
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                let problem = "something that is no socket lies there; move it away";
                return Err(failed("listen at")(io::Error::new(io::ErrorKind::AlreadyExists, problem)));
            }
            Ok(_) if UnixStream::connect(path).is_ok() => return Err(taken()),
            Ok(_) => std::fs::remove_file(path).map_err(failed("remove"))?,
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(failed("listen at"))?;
        let mode = if shared { 0o660 } else { 0o600 };
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, permissions).map_err(failed("set the mode of"))?;
        Ok(Self { listener, path: path.to_owned(), _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Left behind it is replaced by the next.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Connects to the agent and looks who it is. Blocks only as long as the system takes.
pub(super) fn connect(address: &AgentAddress) -> Result<UnixStream, HsmError> {
    let socket = &address.socket;
    let failed = |problem: String| HsmError::Agent { socket: socket.clone(), problem };
    let stream = open(socket).map_err(|error| {
        failed(match error {
            Errno::NOENT => "there is no such socket; is the agent running?".to_owned(),
            Errno::CONNREFUSED => "nobody listens there; is the agent running?".to_owned(),
            Errno::ACCESS => {
                format!(
                    "{error}; is user id {} named at agent.allow_uids, and in the group of the socket and of its folder?",
                    own_uid()
                )
            }
            // A stopped process takes no more connections than its queue holds.
            Errno::AGAIN => "it takes no connections".to_owned(),
            error => error.to_string(),
        })
    })?;
    let peer = Peer::of(&stream).map_err(|error| failed(format!("cannot see who it is: {error}")))?;
    if is_expected(address, peer.uid) {
        return Ok(stream);
    }
    let problem = match address.uid {
        Some(uid) => format!("it runs as user id {}, and agent_uid is {uid}", peer.uid),
        None => format!(
            "it runs as user id {}, which is neither ours, nor root, nor the owner of a folder of the socket that nobody else \
             may write; name it at agent_uid if it is the agent's",
            peer.uid
        ),
    };
    Err(HsmError::AgentRefused { socket: socket.clone(), problem })
}

fn open(socket: &Path) -> Result<UnixStream, Errno> {
    // The standard library's would wait while the agent's queue of connections is full.
    let descriptor = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::net::connect(&descriptor, &SocketAddrUnix::new(socket)?)?;
    rustix::io::ioctl_fionbio(&descriptor, false)?;
    Ok(UnixStream::from(descriptor))
}

fn is_expected(address: &AgentAddress, uid: u32) -> bool {
    if let Some(expected) = address.uid {
        return uid == expected;
    }
    if uid == 0 || uid == own_uid() {
        return true;
    }
    // Whoever owns the folder, and alone may write there, is who put the socket there.
    let folder = address.socket.parent().and_then(|folder| folder.metadata().ok());
    folder.is_some_and(|folder| folder.uid() == uid && folder.mode() & 0o022 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub").join("agent.sock");
        let first = Listening::bind(&path, false).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        let second = Listening::bind(&path, false).err().unwrap().to_string();
        assert!(second.contains("another process listens there"), "{second}");
        drop(first);
        assert!(!path.exists());
        // As a killed process leaves it: the file, and nobody who listens.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Listening::bind(&path, true).unwrap());
        // One that is not an agent's.
        let other = UnixListener::bind(&path).unwrap();
        assert!(Listening::bind(&path, true).is_err());
        drop(other);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "kept").unwrap();
        let third = Listening::bind(&path, true).err().unwrap().to_string();
        assert!(third.contains("no socket"), "{third}");
        assert_eq!(std::fs::read(&path).unwrap(), b"kept");
        assert!(Listening::bind(Path::new("agent.sock"), true).is_err());
    }

    #[test]
    fn an_agent_of_another_user_is_refused_unless_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let listening = Listening::bind(&socket, false).unwrap();
        let at = |uid| AgentAddress { socket: socket.clone(), uid };
        connect(&at(None)).unwrap();
        connect(&at(Some(own_uid()))).unwrap();
        let refused = connect(&at(Some(own_uid() + 1))).unwrap_err();
        assert!(matches!(&refused, HsmError::AgentRefused { .. }), "{refused}");
        assert!(refused.to_string().contains("agent_uid"), "{refused}");
        drop(listening);
        let gone = connect(&at(None)).unwrap_err();
        assert!(matches!(&gone, HsmError::Agent { .. }), "{gone}");
        assert!(gone.to_string().contains("is the agent running?"), "{gone}");
        // Another user's is that of the folder's owner, unless others may write there.
        let owner = folder.path().metadata().unwrap().uid();
        assert!(is_expected(&at(None), owner));
        let stranger = AgentAddress { socket: folder.path().join("x"), uid: None };
        assert!(!is_expected(&stranger, owner.wrapping_add(7)));
    }
}
