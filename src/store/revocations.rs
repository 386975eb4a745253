//! Revocations on disk.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{Store, StoreError};
use crate::decision::UnixSeconds;

/// Rows read at once while the view is filled.
const LOAD_ROWS: i64 = 20_000;

/// Rows deleted in one transaction, so that a revocation never waits long behind the purge.
const PURGE_ROWS: i64 = 1000;

/// One revoked token, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRevocation {
    /// Tenant the issuer belongs to.
    pub tenant: String,
    /// The token's `iss`.
    pub issuer: String,
    /// The token's `jti`.
    pub jti: String,
    /// From this second on the token is refused as expired anyway.
    pub expires_at: UnixSeconds,
    /// When it was revoked.
    pub revoked_at: UnixSeconds,
    /// Why, in the words of who did it; may be empty.
    pub reason: String,
    /// Who did it.
    pub actor: String,
}

/// What recording a revocation found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// The token had been revoked before: at this second, and until this one.
    Already {
        /// When it was first revoked.
        revoked_at: UnixSeconds,
        /// The later of the stored expiry and the one given now.
        expires_at: UnixSeconds,
    },
    /// It is revoked now.
    New,
}

/// How far the load at start has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress {
    /// Revocations read so far.
    pub loaded: u64,
    /// Revocations there were when the load began.
    pub total: u64,
}

impl Store {
    /// Records a revocation, durably. The first one's time, reason and actor stay; the later expiry counts.
    ///
    /// # Errors
    /// What SQLite said; nothing was recorded then.
    pub async fn revoke(&self, revocation: &StoredRevocation) -> Result<Recorded, StoreError> {
        let error = || StoreError::statement("record a revocation");
        let StoredRevocation { tenant, issuer, jti, expires_at, revoked_at, reason, actor } = revocation;
        let mut transaction = self.pool.begin().await.map_err(error())?;
        let inserted = sqlx::query(
            "INSERT INTO revocations (tenant, issuer, jti, expires_at, revoked_at, reason, actor) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant, issuer, jti) DO NOTHING",
        )
        .bind(tenant)
        .bind(issuer)
        .bind(jti)
        .bind(seconds(*expires_at))
        .bind(seconds(*revoked_at))
        .bind(reason)
        .bind(actor)
        .execute(&mut *transaction)
        .await
        .map_err(error())?;
        let recorded = if inserted.rows_affected() == 1 {
            Recorded::New
        } else {
            let row = sqlx::query(
                "UPDATE revocations SET expires_at = CASE WHEN expires_at < $4 THEN $4 ELSE expires_at END \
                 WHERE tenant = $1 AND issuer = $2 AND jti = $3 RETURNING revoked_at, expires_at",
            )
            .bind(tenant)
            .bind(issuer)
            .bind(jti)
            .bind(seconds(*expires_at))
            .fetch_one(&mut *transaction)
            .await
            .map_err(error())?;
            Recorded::Already {
                revoked_at: time(&row, "revoked_at").map_err(error())?,
                expires_at: time(&row, "expires_at").map_err(error())?,
            }
        };
        transaction.commit().await.map_err(error())?;
        Ok(recorded)
    }

    /// Number of revocations in force at `now`, to size the view before it is filled.
    ///
    /// # Errors
    /// What SQLite said.
    pub async fn revocation_count(&self, now: UnixSeconds) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM revocations WHERE expires_at > $1")
            .bind(seconds(now))
            .fetch_one(&self.pool)
            .await
            .map_err(StoreError::statement("count revocations"))?;
        Ok(count.cast_unsigned())
    }

    /// Hands every revocation in force at `now` to `take`, in batches in the order of the primary key.
    ///
    /// Revocations recorded meanwhile may or may not be among them; whoever records one applies it too.
    ///
    /// # Errors
    /// What SQLite said; `take` has seen a part then.
    pub async fn load_revocations(
        &self,
        now: UnixSeconds,
        mut take: impl FnMut(&[StoredRevocation], LoadProgress),
    ) -> Result<u64, StoreError> {
        let error = || StoreError::statement("load revocations");
        let total = self.revocation_count(now).await?;
        let mut progress = LoadProgress { loaded: 0, total };
        // Every key is greater: names are never empty.
        let mut after = (String::new(), String::new(), String::new());
        loop {
            let rows = sqlx::query(
                "SELECT tenant, issuer, jti, expires_at, revoked_at, reason, actor FROM revocations \
                 WHERE (tenant, issuer, jti) > ($1, $2, $3) AND expires_at > $4 \
                 ORDER BY tenant, issuer, jti LIMIT $5",
            )
            .bind(&after.0)
            .bind(&after.1)
            .bind(&after.2)
            .bind(seconds(now))
            .bind(LOAD_ROWS)
            .fetch_all(&self.pool)
            .await
            .map_err(error())?;
            let batch = rows.iter().map(stored).collect::<Result<Vec<_>, _>>().map_err(error())?;
            let Some(last) = batch.last() else { return Ok(progress.loaded) };
            progress.loaded += batch.len() as u64;
            take(&batch, progress);
            after = (last.tenant.clone(), last.issuer.clone(), last.jti.clone());
        }
    }

    /// Deletes what expired before `horizon`; returns how many rows went.
    ///
    /// # Errors
    /// What SQLite said; earlier batches are gone then, which is harmless.
    pub async fn purge_revocations(&self, horizon: UnixSeconds) -> Result<u64, StoreError> {
        let mut purged = 0;
        loop {
            let deleted = sqlx::query(
                "DELETE FROM revocations WHERE (tenant, issuer, jti) IN \
                 (SELECT tenant, issuer, jti FROM revocations WHERE expires_at < $1 LIMIT $2)",
            )
            .bind(seconds(horizon))
            .bind(PURGE_ROWS)
            .execute(&self.pool)
            .await
            .map_err(StoreError::statement("purge revocations"))?
            .rows_affected();
            purged += deleted;
            if deleted == 0 {
                return Ok(purged);
            }
        }
    }
}

fn stored(row: &SqliteRow) -> Result<StoredRevocation, sqlx::Error> {
    Ok(StoredRevocation {
        tenant: row.try_get("tenant")?,
        issuer: row.try_get("issuer")?,
        jti: row.try_get("jti")?,
        expires_at: time(row, "expires_at")?,
        revoked_at: time(row, "revoked_at")?,
        reason: row.try_get("reason")?,
        actor: row.try_get("actor")?,
    })
}

fn time(row: &SqliteRow, column: &str) -> Result<UnixSeconds, sqlx::Error> {
    let seconds: i64 = row.try_get(column)?;
    Ok(UnixSeconds(u64::try_from(seconds).unwrap_or(0)))
}

/// As stored; times beyond the type's end stop there.
fn seconds(time: UnixSeconds) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::OpenMode;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    async fn store(dir: &tempfile::TempDir) -> Store {
        Store::open(&dir.path().join("state.db"), OpenMode::Create).await.unwrap()
    }

    fn revocation(jti: &str, expires_at: u64) -> StoredRevocation {
        StoredRevocation {
            tenant: "acme".into(),
            issuer: "https://issuer.example".into(),
            jti: jti.into(),
            expires_at: UnixSeconds(expires_at),
            revoked_at: NOW,
            reason: "lost laptop".into(),
            actor: "control:127.0.0.1".into(),
        }
    }

    async fn all(store: &Store, now: UnixSeconds) -> Vec<StoredRevocation> {
        let mut all = Vec::new();
        let loaded = store.load_revocations(now, |batch, _| all.extend_from_slice(batch)).await.unwrap();
        assert_eq!(loaded, all.len() as u64);
        all
    }

    #[tokio::test]
    async fn a_revocation_survives_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let first = store(&dir).await;
        assert_eq!(first.revoke(&revocation("one", NOW.0 + 10)).await.unwrap(), Recorded::New);
        first.close().await;
        assert_eq!(all(&store(&dir).await, NOW).await, [revocation("one", NOW.0 + 10)]);
    }

    #[tokio::test]
    async fn revoking_again_keeps_the_first_story_and_the_later_expiry() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        store.revoke(&revocation("one", NOW.0 + 10)).await.unwrap();
        for (expires_at, expected) in [(NOW.0 + 50, NOW.0 + 50), (NOW.0 + 20, NOW.0 + 50)] {
            let again = StoredRevocation {
                revoked_at: NOW.saturating_add(5),
                reason: "another".into(),
                ..revocation("one", expires_at)
            };
            let recorded = store.revoke(&again).await.unwrap();
            assert_eq!(recorded, Recorded::Already { revoked_at: NOW, expires_at: UnixSeconds(expected) });
        }
        assert_eq!(all(&store, NOW).await, [revocation("one", NOW.0 + 50)]);
    }

    #[tokio::test]
    async fn the_same_jti_of_another_tenant_or_issuer_is_another_row() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        let one = revocation("one", NOW.0 + 10);
        let tenant = StoredRevocation { tenant: "other".into(), ..one.clone() };
        let issuer = StoredRevocation { issuer: "https://other.example".into(), ..one.clone() };
        for row in [&one, &tenant, &issuer] {
            assert_eq!(store.revoke(row).await.unwrap(), Recorded::New);
        }
        assert_eq!(all(&store, NOW).await.len(), 3);
    }

    #[tokio::test]
    async fn the_load_comes_in_batches_with_progress_and_leaves_out_the_expired() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        let rows = LOAD_ROWS + 5;
        sqlx::query(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) \
             INSERT INTO revocations SELECT 'acme', 'iss', 'jti-' || i, $2, 0, '', '' FROM n",
        )
        .bind(rows)
        .bind(seconds(NOW) + 1)
        .execute(&store.pool)
        .await
        .unwrap();
        store.revoke(&revocation("expired", NOW.0)).await.unwrap();

        let mut seen = Vec::new();
        let mut names = std::collections::HashSet::new();
        let take = |batch: &[StoredRevocation], progress: LoadProgress| {
            seen.push((batch.len(), progress));
            names.extend(batch.iter().map(|row| row.jti.clone()));
        };
        assert_eq!(store.load_revocations(NOW, take).await.unwrap(), rows.cast_unsigned());
        assert_eq!(names.len() as u64, rows.cast_unsigned());
        assert!(!names.contains("expired"));
        let total = rows.cast_unsigned();
        assert_eq!(seen.last().unwrap().1, LoadProgress { loaded: total, total });
        assert_eq!(seen.len(), 2);
    }

    #[tokio::test]
    async fn the_purge_takes_what_expired_before_the_horizon_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        store.revoke(&revocation("old", NOW.0 - 1)).await.unwrap();
        store.revoke(&revocation("edge", NOW.0)).await.unwrap();
        store.revoke(&revocation("live", NOW.0 + 1)).await.unwrap();
        assert_eq!(store.purge_revocations(NOW).await.unwrap(), 1);
        let left: Vec<String> = all(&store, UnixSeconds(0)).await.into_iter().map(|row| row.jti).collect();
        assert_eq!(left, ["edge", "live"]);
    }
}
