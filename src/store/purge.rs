//! Letting go of rows that say nothing any more.

use super::seconds::seconds;
use super::{Store, StoreError};
use crate::decision::UnixSeconds;

/// Rows deleted in one transaction, so that a revocation never waits long behind the purge.
const PURGE_ROWS: i64 = 1000;

impl Store {
    /// Runs `delete` until nothing is left to delete; returns how many rows went. It deletes at most `$2` rows of what was
    /// over before `$1`.
    ///
    /// # Errors
    /// What SQLite said when asked to `action`; earlier rows are gone then, which is harmless.
    pub(super) async fn purge(
        &self,
        delete: &'static str,
        horizon: UnixSeconds,
        action: &'static str,
    ) -> Result<u64, StoreError> {
        let mut purged = 0;
        loop {
            let deleted = sqlx::query(delete)
                .bind(seconds(horizon))
                .bind(PURGE_ROWS)
                .execute(&self.pool)
                .await
                .map_err(StoreError::statement(action))?
                .rows_affected();
            purged += deleted;
            if deleted == 0 {
                return Ok(purged);
            }
        }
    }
}
