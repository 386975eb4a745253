//! Where a token's PIN comes from.
//!
//! Never from configuration, arguments or the environment: those are read by too many. The source is read anew for
//! each login and nothing is kept.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

/// A PIN of 255 bytes is the longest any token we know takes; a longer file is not a PIN.
pub const PIN_BYTES_MAX: usize = 255;

/// Where a PIN is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinSource {
    /// A systemd credential of this name (`LoadCredentialEncrypted=`), in the folder the caller names.
    Credential(String),
    /// A descriptor that the parent process left open. A pipe serves one login only.
    Descriptor(u32),
    /// A file, by absolute path.
    File(PathBuf),
    /// An operator supplies it at run time.
    Operator,
}

/// Why a PIN cannot be read. Never holds any part of it.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// It is no PIN.
    #[error("PIN from {origin}: {problem}")]
    Content {
        /// Where it came from.
        origin: PinSource,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// It cannot be opened or read.
    #[error("cannot read the PIN from {origin}: {source}")]
    File {
        /// Where it should come from.
        origin: PinSource,
        /// The system's answer.
        source: io::Error,
    },
    /// It is not a plain file.
    #[error("PIN from {origin}: it is {found}, not a regular file; name the file itself")]
    NotAFile {
        /// Where it should come from.
        origin: PinSource,
        /// What is there.
        found: &'static str,
    },
    /// No folder of credentials.
    #[error(
        "PIN from {origin}: no credentials were passed; set LoadCredentialEncrypted={name}:/PATH in the unit"
    )]
    NoCredentials {
        /// Where it should come from.
        origin: PinSource,
        /// The credential.
        name: String,
    },
    /// An operator has to supply it.
    #[error("the token waits for an operator to unlock it")]
    Operator,
    /// It belongs to somebody else.
    #[error("PIN from {origin}: the file belongs to user id {owner}; it must belong to {ours} or to root")]
    Owner {
        /// Where it should come from.
        origin: PinSource,
        /// User id that owns it.
        owner: u32,
        /// Effective user id of this process.
        ours: u32,
    },
    /// Others may read it.
    #[error(
        "PIN from {origin}: mode {mode:04o} lets others read it; chmod 400 the file, then change the PIN"
    )]
    Permissions {
        /// Where it should come from.
        origin: PinSource,
        /// Permission bits found.
        mode: u32,
    },
}

impl PinSource {
    /// Reads the text of `pin-source`: `credential:NAME` (or `NAME`), `file:/PATH` (or `/PATH`), `fd:NUMBER`,
    /// `operator:`. The `|COMMAND` of RFC 7512 §2.4 is not read: a URI must not be able to run programs.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "operator:" {
            return Some(Self::Operator);
        }
        if let Some(number) = text.strip_prefix("fd:") {
            let plain = number.bytes().all(|byte| byte.is_ascii_digit()) && !number.starts_with('0');
            // 0, 1 and 2 are the terminal's or the journal's.
            return number.parse().ok().filter(|number| plain && *number > 2).map(Self::Descriptor);
        }
        if let Some(path) = text.strip_prefix("file:") {
            return path.starts_with('/').then(|| Self::File(PathBuf::from(path)));
        }
        if text.starts_with('/') {
            return Some(Self::File(PathBuf::from(text)));
        }
        let name = text.strip_prefix("credential:").unwrap_or(text);
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        (plain && !name.is_empty() && !name.starts_with('.')).then(|| Self::Credential(name.to_owned()))
    }

    /// Reads the PIN. `credentials` is `$CREDENTIALS_DIRECTORY` of systemd. Blocks.
    ///
    /// # Errors
    /// What is wrong with the source, and what to do about it.
    pub fn read(&self, credentials: Option<&Path>) -> Result<Zeroizing<String>, PinError> {
        let file_error = |source: io::Error| PinError::File { origin: self.clone(), source };
        match self {
            Self::Operator => Err(PinError::Operator),
            Self::Credential(name) => {
                let folder = credentials
                    .ok_or_else(|| PinError::NoCredentials { origin: self.clone(), name: name.clone() })?;
                let file = self.open(&folder.join(name))?;
                // The folder is systemd's. For a service with User= it may show the ACL's mask as group bits.
                self.check(&file, 0o040)?;
                self.take(&file)
            }
            Self::File(path) => {
                let file = self.open(path)?;
                self.check(&file, 0)?;
                self.take(&file)
            }
            Self::Descriptor(number) => {
                let file = File::open(format!("/proc/self/fd/{number}")).map_err(file_error)?;
                self.take(&file)
            }
        }
    }

    fn open(&self, path: &Path) -> Result<File, PinError> {
        // NONBLOCK so that a FIFO in the file's place cannot hang the login.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        rustix::fs::open(path, flags, Mode::empty()).map(File::from).map_err(|errno| match errno {
            Errno::LOOP => PinError::NotAFile { origin: self.clone(), found: "a symbolic link" },
            _ => PinError::File { origin: self.clone(), source: errno.into() },
        })
    }

    /// Checks the open descriptor, so that nothing can be swapped between check and use.
    fn check(&self, file: &File, group_bits: u32) -> Result<(), PinError> {
        let metadata = file.metadata().map_err(|source| PinError::File { origin: self.clone(), source })?;
        if !metadata.is_file() {
            let found = if metadata.is_dir() { "a folder" } else { "a device, socket or pipe" };
            return Err(PinError::NotAFile { origin: self.clone(), found });
        }
        let ours = rustix::process::geteuid().as_raw();
        let owner = metadata.uid();
        if owner != ours && owner != 0 {
            return Err(PinError::Owner { origin: self.clone(), owner, ours });
        }
        let mode = metadata.mode() & 0o7777;
        if mode & !(0o600 | group_bits) != 0 {
            return Err(PinError::Permissions { origin: self.clone(), mode });
        }
        Ok(())
    }

    /// The content without one line end.
    fn take(&self, file: &File) -> Result<Zeroizing<String>, PinError> {
        let content = |problem| PinError::Content { origin: self.clone(), problem };
        // Room for all that is read, so that growing leaves no copy behind.
        let limit = PIN_BYTES_MAX + 3;
        let mut bytes = Zeroizing::new(Vec::with_capacity(limit * 2));
        file.take(limit as u64)
            .read_to_end(&mut bytes)
            .map_err(|source| PinError::File { origin: self.clone(), source })?;
        let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let pin = std::str::from_utf8(line).map_err(|_| content("it is not UTF-8"))?;
        match pin.len() {
            0 => Err(content("it is empty")),
            1..=PIN_BYTES_MAX if pin.chars().any(char::is_control) => {
                Err(content("it holds control characters; one line is expected"))
            }
            1..=PIN_BYTES_MAX => Ok(Zeroizing::new(pin.to_owned())),
            _ => Err(content("it is longer than 255 bytes")),
        }
    }
}

impl fmt::Display for PinSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credential(name) => write!(f, "credential:{name}"),
            Self::Descriptor(number) => write!(f, "fd:{number}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Operator => f.write_str("operator:"),
        }
    }
}

#[cfg(test)]
mod tests;
