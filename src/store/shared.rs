//! What other nodes do not know, or have lost.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::changes::{seconds, stored, time};
use super::{Store, StoreError, StoredChange};
use crate::decision::UnixSeconds;

impl Store {
    /// Changes made here until `until` that Redis is not known to have, the oldest first, at most `count_max`.
    ///
    /// # Errors
    /// What SQLite said.
    pub async fn unpublished_changes(
        &self,
        until: UnixSeconds,
        count_max: usize,
    ) -> Result<Vec<StoredChange>, StoreError> {
        let error = || StoreError::statement("find revocations that are not published");
        let rows = sqlx::query(
            "SELECT * FROM changes WHERE published = 0 AND changed_at <= $1 \
             ORDER BY epoch, tenant, kind, issuer, name LIMIT $2",
        )
        .bind(seconds(until))
        .bind(i64::try_from(count_max).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await
        .map_err(error())?;
        rows.iter().map(stored).collect::<Result<_, _>>().map_err(error())
    }

    /// Hands the identities on this node's allow lists that are in force at `now` to `take`, in batches: tenant, issuer,
    /// `jti`, and the second from which each is refused as expired.
    ///
    /// # Errors
    /// What SQLite said; `take` has seen a part then.
    pub async fn load_listed(
        &self,
        now: UnixSeconds,
        mut take: impl FnMut(&[(String, String, String, UnixSeconds)]),
    ) -> Result<(), StoreError> {
        let error = || StoreError::statement("load the allow lists");
        // Every key is greater: tenants are never empty.
        let mut after = (String::new(), String::new(), String::new(), UnixSeconds(0));
        loop {
            let rows = sqlx::query(
                "SELECT tenant, issuer, jti, expires_at FROM nonces WHERE state = 'listed' AND expires_at > $1 \
                 AND (tenant, issuer, jti) > ($2, $3, $4) ORDER BY tenant, issuer, jti LIMIT $5",
            )
            .bind(seconds(now))
            .bind(&after.0)
            .bind(&after.1)
            .bind(&after.2)
            .bind(LISTED_ROWS)
            .fetch_all(&self.pool)
            .await
            .map_err(error())?;
            let read = |row: &SqliteRow| {
                let time = time(row, "expires_at")?;
                Ok((row.try_get("tenant")?, row.try_get("issuer")?, row.try_get("jti")?, time))
            };
            let batch = rows.iter().map(read).collect::<Result<Vec<_>, _>>().map_err(error())?;
            let Some(last) = batch.last() else { return Ok(()) };
            take(&batch);
            after.clone_from(last);
        }
    }
}

/// Rows of the allow lists read at once.
const LISTED_ROWS: i64 = 5000;
