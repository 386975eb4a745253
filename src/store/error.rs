//! Why the state database cannot be used.

use std::io;
use std::path::PathBuf;

/// Why the state database could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system refused an operation on the file.
    #[error("cannot {action} state database {path}: {source}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// The file or its folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The schema could not be brought up to date.
    #[error("cannot bring the schema of state database {path} up to date: {source}")]
    Migrate {
        /// The file.
        path: PathBuf,
        /// What went wrong; a version missing means a newer edgate wrote the file.
        source: sqlx::migrate::MigrateError,
    },
    /// The file does not exist.
    #[error(
        "state database {path} does not exist; it is not created by a plain start, since a mistyped path would forget \
         every revocation: correct the path, or let `edgate init CONFIG` create an empty one"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The path names something other than a plain file.
    #[error("state database {path} is not a regular file; name the file itself, not a link or folder")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Others than the owner may read or change the file.
    #[error(
        "state database {path} has mode {mode:04o}, but it must be closed to group and others: chmod 600 {path}"
    )]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Permission bits found.
        mode: u32,
    },
    /// A statement failed.
    #[error("cannot {action} in the state database: {source}")]
    Statement {
        /// What was attempted.
        action: &'static str,
        /// The database's answer. It names no values.
        source: sqlx::Error,
    },
}

impl StoreError {
    /// For `map_err` after a statement.
    pub(super) fn statement(action: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Statement { action, source }
    }
}
