//! What other nodes do not know yet.

use super::changes::{seconds, stored};
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
}
