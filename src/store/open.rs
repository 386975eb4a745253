//! Opening the state database.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::StoreError;

/// The schema's history, oldest first. Never edit one that was released; add another.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "revocations", include_str!("migrations/0001_revocations.sql")),
    (2, "changes", include_str!("migrations/0002_changes.sql")),
    (4, "security events", include_str!("migrations/0004_security_events.sql")),
    (5, "status indexes", include_str!("migrations/0005_status_indexes.sql")),
    (6, "signing keys", include_str!("migrations/0006_signing_keys.sql")),
    (7, "delegations", include_str!("migrations/0007_delegations.sql")),
];

/// How long a write waits for another process that holds the file (a backup, an operator's shell).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a statement waits for its turn on the connection.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// Rows SQLite's thread may have ready before we take them; the load at start is bound by this hand-over.
const ROWS_AHEAD: usize = 4096;

/// What to do when the file is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Create it, mode 0600.
    Create,
    /// Refuse.
    Existing,
}

/// The state database. Cheap to clone. Methods are futures for a tokio runtime; SQLite runs on a thread of its own.
#[derive(Debug, Clone)]
pub struct Store {
    // One connection: SQLite has one writer anyway, and one connection never meets its own locks.
    pub(super) pool: SqlitePool,
}

impl Store {
    /// Opens the database at `path` and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Missing`] where [`OpenMode::Existing`] finds nothing; [`StoreError::Permissions`] if group or
    /// others have any access; otherwise what the system or SQLite refused.
    pub async fn open(path: &Path, mode: OpenMode) -> Result<Self, StoreError> {
        match check_file(path) {
            Err(StoreError::Missing { .. }) if mode == OpenMode::Create => create_file(path)?,
            checked => checked?,
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .row_buffer_size(ROWS_AHEAD)
            .thread_name(|_| "store".to_owned());
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(TURN_TIMEOUT)
            .connect_with(options)
            .await
            .map_err(StoreError::statement("open a connection"))?;
        let migrate_error = |source| StoreError::Migrate { path: path.to_owned(), source };
        migrator().run(&pool).await.map_err(migrate_error)?;
        Ok(Self { pool })
    }

    /// Answers whether the database still answers, for readiness.
    ///
    /// # Errors
    /// What SQLite said.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await.map_err(StoreError::statement("run a query"))?;
        Ok(())
    }

    /// Finishes what is under way and closes the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().map(|(version, name, sql)| {
        Migration::new(*version, (*name).into(), MigrationType::Simple, (*sql).into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// Looks at the file before SQLite does, which would follow links and accept any mode.
fn check_file(path: &Path) -> Result<(), StoreError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(descriptor) => File::from(descriptor),
        Err(Errno::NOENT) => return Err(StoreError::Missing { path: path.to_owned() }),
        Err(Errno::LOOP) => return Err(StoreError::NotAFile { path: path.to_owned() }),
        Err(errno) => return Err(file_error("open", path)(errno.into())),
    };
    let metadata = file.metadata().map_err(file_error("inspect", path))?;
    if !metadata.is_file() {
        return Err(StoreError::NotAFile { path: path.to_owned() });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StoreError::Permissions { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Creates an empty file, which SQLite takes for an empty database. Its companions (`-wal`, `-shm`) inherit the mode.
fn create_file(path: &Path) -> Result<(), StoreError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| file_error("create", path)(errno.into()))?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let sync_folder = || File::open(&folder)?.sync_all();
    sync_folder().map_err(file_error("sync the folder of", path))
}

fn file_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::File { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[tokio::test]
    async fn a_missing_file_is_created_only_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let message = Store::open(&path, OpenMode::Existing).await.unwrap_err().to_string();
        assert!(message.contains("state.db does not exist"), "{message}");
        assert!(message.contains("edgate init"), "{message}");
        assert!(!path.exists());

        Store::open(&path, OpenMode::Create).await.unwrap().close().await;
        Store::open(&path, OpenMode::Create).await.unwrap().close().await;
        Store::open(&path, OpenMode::Existing).await.unwrap().close().await;
    }

    #[tokio::test]
    async fn the_file_and_its_companions_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let store = Store::open(&path, OpenMode::Create).await.unwrap();
        for entry in fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode, 0o600, "{}", entry.path().display());
        }
        store.close().await;
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let message = Store::open(&path, OpenMode::Create).await.unwrap_err().to_string();
        assert!(message.contains("has mode 0640"), "{message}");
        assert!(message.contains(&format!("chmod 600 {}", path.display())), "{message}");
    }

    #[tokio::test]
    async fn a_link_a_folder_and_a_foreign_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link.db");
        symlink(dir.path().join("state.db"), &link).unwrap();
        for path in [link.as_path(), dir.path()] {
            let error = Store::open(path, OpenMode::Create).await.unwrap_err();
            assert!(matches!(error, StoreError::NotAFile { .. }), "{error}");
        }
        let foreign = dir.path().join("foreign.db");
        fs::write(&foreign, [b'x'; 5000]).unwrap();
        fs::set_permissions(&foreign, Permissions::from_mode(0o600)).unwrap();
        let message = Store::open(&foreign, OpenMode::Create).await.unwrap_err().to_string();
        assert!(message.contains("not a database"), "{message}");
    }

    #[tokio::test]
    async fn writes_are_synced_in_wal_mode() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.db"), OpenMode::Create).await.unwrap();
        let journal: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&store.pool).await.unwrap();
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&store.pool).await.unwrap();
        assert_eq!((journal.as_str(), synchronous), ("wal", 2));
    }

    #[tokio::test]
    async fn a_file_of_a_newer_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let store = Store::open(&path, OpenMode::Create).await.unwrap();
        sqlx::query("UPDATE _sqlx_migrations SET version = version + 9000")
            .execute(&store.pool)
            .await
            .unwrap();
        store.close().await;
        let error = Store::open(&path, OpenMode::Existing).await.unwrap_err();
        assert!(matches!(error, StoreError::Migrate { .. }), "{error}");
    }
}
