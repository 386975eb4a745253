//! The password, read where it lies each time a connection is made, so that it can be changed there.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

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
    let file = File::open(path).map_err(text)?;
    let mode = file.metadata().map_err(text)?.mode() & 0o7777;
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
}
