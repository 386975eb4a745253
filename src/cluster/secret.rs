//! The password, read where it lies each time a connection is made, so that it can be changed there.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::error::ClusterError;
use crate::config::{Redis, SecretSource};

/// The password, or nothing where none is configured.
pub(super) fn password(redis: &Redis) -> Result<Option<Zeroizing<String>>, ClusterError> {
    let (path, closed) = match (&redis.password, &redis.credentials) {
        (None, _) => return Ok(None),
        (Some(SecretSource::File(path)), _) => (path.clone(), true),
        // systemd closes the folder; the files in it may show another mode.
        (Some(SecretSource::Credential(name)), Some(folder)) => (folder.join(name), false),
        (Some(SecretSource::Credential(name)), None) => {
            return Err(ClusterError::File {
                what: format!("the credential {name} with Redis' password"),
                cause: "$CREDENTIALS_DIRECTORY is not set: add LoadCredential= to the unit".to_owned(),
            });
        }
    };
    read(&path, closed).map(Some).map_err(|cause| ClusterError::File {
        what: format!("{} with Redis' password", path.display()),
        cause,
    })
}

fn read(path: &Path, closed: bool) -> Result<Zeroizing<String>, String> {
    let text = |error: std::io::Error| error.to_string();
    // NONBLOCK so that a FIFO in the file's place cannot hang the thread.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::LOOP) => return Err("it is a symbolic link; name the file itself".to_owned()),
        Err(errno) => return Err(text(errno.into())),
    };
    // Of the open descriptor, so that nothing can be swapped between check and use.
    let metadata = file.metadata().map_err(text)?;
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let (owner, ours) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != ours && owner != 0 {
        return Err(format!("it belongs to user id {owner}, but it must belong to {ours} or to root"));
    }
    let mode = metadata.mode() & 0o7777;
    if closed && mode & 0o077 != 0 {
        return Err(format!("it has mode {mode:04o}, but it must be closed to group and others"));
    }
    // Reserved at once, so that no smaller buffer with a part of it is left behind.
    let mut secret = Zeroizing::new(String::with_capacity(SECRET_BYTES_MAX + 1));
    let limit = SECRET_BYTES_MAX as u64 + 1;
    file.take(limit).read_to_string(&mut secret).map_err(text)?;
    if secret.len() > SECRET_BYTES_MAX {
        return Err(format!("it is longer than {SECRET_BYTES_MAX} bytes"));
    }
    let len = secret.trim_end_matches(['\r', '\n']).len();
    secret.truncate(len);
    if secret.is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(secret)
}

/// Longest password.
const SECRET_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_open_file_is_refused_and_a_line_end_is_not_part_of_the_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        fs::write(&path, "hunter2\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let refused = read(&path, true).unwrap_err();
        assert!(refused.contains("0640") && !refused.contains("hunter2"), "{refused}");
        assert_eq!(read(&path, false).unwrap().as_str(), "hunter2");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read(&path, true).unwrap().as_str(), "hunter2");
        fs::write(&path, "\n").unwrap();
        assert!(read(&path, true).unwrap_err().contains("empty"));
    }

    #[test]
    fn what_is_no_plain_file_is_refused_and_hangs_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, link) = (dir.path().join("fifo"), dir.path().join("link"));
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
        std::os::unix::fs::symlink(&fifo, &link).unwrap();
        assert!(read(&fifo, true).unwrap_err().contains("not a regular file"));
        assert!(read(&link, true).unwrap_err().contains("symbolic link"));
        assert!(read(dir.path(), true).unwrap_err().contains("not a regular file"));
    }
}
