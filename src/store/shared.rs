//! What other nodes do not know, or have lost.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::changes::stored;
use super::seconds::{seconds, time};
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

    /// The latest changes in force at `now` that Redis once had, the latest first, at most `count_max`.
    ///
    /// # Errors
    /// What SQLite said.
    pub async fn latest_changes(
        &self,
        now: UnixSeconds,
        count_max: usize,
    ) -> Result<Vec<StoredChange>, StoreError> {
        let error = || StoreError::statement("find the latest revocations");
        // Along an index, from its end.
        let rows = sqlx::query(
            "SELECT * FROM changes WHERE published = 1 AND forget_at > $1 ORDER BY epoch DESC LIMIT $2",
        )
        .bind(seconds(now))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revocation::{Effect, TargetKind};
    use crate::store::{Listed, OpenMode};

    fn change(name: &str, epoch: u64) -> StoredChange {
        StoredChange {
            kind: TargetKind::Token,
            tenant: "t".to_owned(),
            issuer: "i".to_owned(),
            name: name.to_owned(),
            effect: Effect::RefusedUntil(UnixSeconds(900)),
            forget_at: UnixSeconds(900),
            changed_at: UnixSeconds(100 + epoch),
            reason: String::new(),
            actor: "a".to_owned(),
            epoch,
        }
    }

    async fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.db"), OpenMode::Create).await.unwrap();
        (dir, store)
    }

    #[tokio::test]
    async fn what_was_made_here_is_unpublished_until_redis_has_it() {
        let (_dir, store) = store().await;
        let (first, _) = store.record_changes(&[change("a", 0)], 0).await.unwrap();
        store.record_changes(&[change("b", 0)], 0).await.unwrap();
        store.merge_changes(&[change("c", 9)]).await.unwrap();
        let names = |changes: Vec<StoredChange>| -> Vec<String> {
            changes.into_iter().map(|change| change.name).collect()
        };
        assert_eq!(names(store.unpublished_changes(UnixSeconds(99), 9).await.unwrap()), [""; 0]);
        assert_eq!(names(store.unpublished_changes(UnixSeconds(100), 9).await.unwrap()), ["a", "b"]);
        store.mark_published(first, 20).await.unwrap();
        let left = store.unpublished_changes(UnixSeconds(100), 9).await.unwrap();
        assert_eq!(names(left.clone()), ["b"]);
        // Taken back as what Redis has, it counts as published.
        store.merge_changes(&left).await.unwrap();
        assert_eq!(names(store.unpublished_changes(UnixSeconds(100), 9).await.unwrap()), [""; 0]);
        assert_eq!(names(store.latest_changes(UnixSeconds(0), 2).await.unwrap()), ["a", "c"]);
        assert_eq!(names(store.latest_changes(UnixSeconds(900), 2).await.unwrap()), [""; 0]);
    }

    #[tokio::test]
    async fn the_allow_list_is_read_page_by_page_without_what_has_expired() {
        let (_dir, store) = store().await;
        let names: Vec<String> = (0..LISTED_ROWS + 3).map(|i| i.to_string()).collect();
        let listed: Vec<Listed<'_>> = names
            .iter()
            .map(|jti| Listed { tenant: "t", issuer: "i", jti, expires_at: UnixSeconds(900) })
            .collect();
        store.list_tokens(&listed).await.unwrap();
        let mut seen = 0;
        store.load_listed(UnixSeconds(899), |page| seen += page.len()).await.unwrap();
        assert_eq!(seen, names.len());
        store.load_listed(UnixSeconds(900), |_| panic!("all have expired")).await.unwrap();
    }
}
