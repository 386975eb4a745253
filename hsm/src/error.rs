//! Why a key cannot be used.

use std::io;
use std::path::PathBuf;

use crate::Purpose;

/// Why a key could not be created, loaded or used. Messages name the file, what was found and what to do; they never
/// hold key material.
#[derive(Debug, thiserror::Error)]
pub enum HsmError {
    /// The caller's deadline passed before the key was used.
    #[error("no signature by the {purpose} key: the deadline passed before its turn came")]
    DeadlinePassed {
        /// What the key is for.
        purpose: Purpose,
    },
    /// The operating system gave no random bytes.
    #[error("cannot make a {purpose} key: no random bytes from the system: {source}")]
    Entropy {
        /// What the key was to be for.
        purpose: Purpose,
        /// The system's answer.
        source: getrandom::Error,
    },
    /// A key file to be created is already there.
    #[error("cannot create key file {path}: it exists already and is never overwritten; move it away first")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The system refused a file operation.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was attempted: `open`, `read`, `write`, `sync`, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file is not a key file of ours.
    #[error("key file {path} is not usable: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: &'static str,
    },
    /// The file does not exist.
    #[error(
        "key file {path} does not exist; keys are only created on request (`edgate init CONFIG` makes one)"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The path names something other than a plain file.
    #[error("key file {path} is {found}, not a regular file; name the file itself")]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What is there instead.
        found: &'static str,
    },
    /// The file belongs to somebody else.
    #[error(
        "key file {path} belongs to user id {owner}, but this process runs as {ours}: chown {ours} {path}"
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// User id that owns it.
        owner: u32,
        /// Effective user id of this process.
        ours: u32,
    },
    /// Others than the owner may use the file.
    #[error(
        "key file {path} has mode {mode:04o}, but a private key must be 0600 or 0400: chmod 600 {path} \
         (if others could read it, replace the key)"
    )]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Permission bits found.
        mode: u32,
    },
    /// The key was made for something else.
    #[error("key file {path} is a {found} key and may not be used for {wanted}")]
    Purpose {
        /// The file.
        path: PathBuf,
        /// What the file says.
        found: Purpose,
        /// What the caller wants.
        wanted: Purpose,
    },
    /// The signature made does not verify under the pinned public key; it was discarded.
    #[error(
        "the {purpose} key made a signature that does not verify under its public key; nothing was released"
    )]
    SignatureFault {
        /// What the key is for.
        purpose: Purpose,
    },
}
