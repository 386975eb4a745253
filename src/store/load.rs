//! Reading everything that is revoked, page by page: millions of rows, never all of them in memory.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::changes::{effect, kind, stored};
use super::seconds::seconds;
use super::{Store, StoreError, StoredChange};
use crate::decision::UnixSeconds;
use crate::revocation::Change;

/// How far the load at start has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress {
    /// Rows read so far.
    pub loaded: u64,
    /// Rows there were when the load began.
    pub total: u64,
}

impl Store {
    /// Hands every change in force at `now` to `take`, in batches, in the order in which they lie on disk.
    ///
    /// Changes recorded meanwhile may or may not be among them; whoever records one applies it too.
    ///
    /// # Errors
    /// What SQLite said; `take` has seen a part then.
    pub async fn load_changes(
        &self,
        now: UnixSeconds,
        mut take: impl FnMut(&[StoredChange], LoadProgress),
    ) -> Result<u64, StoreError> {
        self.load(PAGE_WHOLE, now, |rows, progress| {
            take(&rows.iter().map(stored).collect::<Result<Vec<_>, _>>()?, progress);
            Ok(())
        })
        .await
    }

    /// As [`Store::load_changes`], but only what a view needs: half the columns, and no copies of them. Rows whose parts
    /// do not go together, which only another program writes, are left out.
    ///
    /// # Errors
    /// What SQLite said; `take` has seen a part then.
    pub async fn load_view(
        &self,
        now: UnixSeconds,
        mut take: impl FnMut(&[Change<'_>], LoadProgress),
    ) -> Result<u64, StoreError> {
        self.load(PAGE_FOR_VIEW, now, |rows, progress| {
            let changes: Result<Vec<_>, _> = rows.iter().filter_map(|row| change(row).transpose()).collect();
            take(&changes?, progress);
            Ok(())
        })
        .await
    }

    async fn load(
        &self,
        page: &'static str,
        now: UnixSeconds,
        mut take: impl FnMut(&[SqliteRow], LoadProgress) -> Result<(), sqlx::Error>,
    ) -> Result<u64, StoreError> {
        let error = || StoreError::statement("load revocations");
        let total = self.change_count(now).await?;
        let mut progress = LoadProgress { loaded: 0, total };
        let mut after = i64::MIN;
        loop {
            let rows = sqlx::query(page)
                .bind(after)
                .bind(seconds(now))
                .bind(LOAD_ROWS)
                .fetch_all(&self.pool)
                .await
                .map_err(error())?;
            let Some(last) = rows.last() else { return Ok(progress.loaded) };
            after = last.try_get("rowid").map_err(error())?;
            progress.loaded += rows.len() as u64;
            take(&rows, progress).map_err(error())?;
        }
    }
}

/// A row of [`PAGE_FOR_VIEW`].
fn change(row: &SqliteRow) -> Result<Option<Change<'_>>, sqlx::Error> {
    let (second, epoch): (i64, i64) = (row.try_get(5)?, row.try_get(6)?);
    let effect = effect(row.try_get(4)?, UnixSeconds(second.cast_unsigned()))?;
    let (tenant, kind, issuer, name) =
        (row.try_get(0)?, kind(row.try_get(1)?)?, row.try_get(2)?, row.try_get(3)?);
    Ok(Change::new(kind, tenant, issuer, name, effect, epoch.cast_unsigned()))
}

macro_rules! page {
    ($columns:literal) => {
        // Along the rows themselves: an index would be a way to each of them, one by one, through all of the file.
        concat!(
            "SELECT ",
            $columns,
            ", rowid FROM changes NOT INDEXED WHERE rowid > $1 AND forget_at > $2 ORDER BY rowid LIMIT $3"
        )
    };
}

const PAGE_WHOLE: &str = page!("*");
const PAGE_FOR_VIEW: &str = page!("tenant, kind, issuer, name, effect, second, epoch");

/// Rows read at once.
pub(super) const LOAD_ROWS: i64 = 20_000;
