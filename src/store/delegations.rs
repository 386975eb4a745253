//! The delegations of this node's keys in memory, which the JWKS lists until they end, whatever becomes of the process.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::seconds::stored_number;
use super::signing_keys::millis;
use super::{Store, StoreError};
use crate::base64url;
use crate::decision::UnixSeconds;
use crate::keys::delegated::DelegatedKey;

const ADOPT_DELEGATIONS: &str = "UPDATE OR IGNORE delegations SET tenant = $1 WHERE NOT EXISTS \
     (SELECT 1 FROM delegations WHERE tenant = $1)";

impl Store {
    /// The delegated keys of a tenant whose delegations had not ended at `ended`, the oldest first; no private half is held. A node has those of
    /// one tenant: if they are another's, that one was renamed.
    ///
    /// # Errors
    /// What SQLite said, or a row that only another program writes.
    pub async fn load_delegations(
        &self,
        tenant: &str,
        ended: UnixSeconds,
    ) -> Result<Vec<DelegatedKey>, StoreError> {
        let error = || StoreError::statement("read the delegations");
        self.adopt(ADOPT_DELEGATIONS, tenant).await.map_err(error())?;
        let rows = sqlx::query(
            "SELECT * FROM delegations WHERE tenant = $1 AND expires_at > $2 ORDER BY published, kid",
        )
        .bind(tenant)
        .bind(stored_number(ended.0))
        .fetch_all(&self.pool)
        .await
        .map_err(error())?;
        rows.iter().map(delegated_key).collect::<Result<_, _>>().map_err(error())
    }

    /// Remembers a delegated key, and forgets those whose delegations had ended at `ended`.
    ///
    /// # Errors
    /// What SQLite said; nothing was stored then.
    pub async fn store_delegation(
        &self,
        tenant: &str,
        key: &DelegatedKey,
        ended: UnixSeconds,
    ) -> Result<(), StoreError> {
        let error = || StoreError::statement("store a delegation");
        let mut transaction = self.pool.begin().await.map_err(error())?;
        sqlx::query("DELETE FROM delegations WHERE expires_at <= $1")
            .bind(stored_number(ended.0))
            .execute(&mut *transaction)
            .await
            .map_err(error())?;
        sqlx::query(
            "INSERT INTO delegations \
             (tenant, kid, public_key, certified_by, delegation, issued_at, expires_at, published) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(tenant)
        .bind(&key.kid)
        .bind(base64url::encode(&key.public_key))
        .bind(&key.certified_by)
        .bind(&key.delegation)
        .bind(stored_number(key.issued_at.0))
        .bind(stored_number(key.expires_at.0))
        .bind(stored_number(key.published.0))
        .execute(&mut *transaction)
        .await
        .map_err(error())?;
        transaction.commit().await.map_err(error())
    }
}

fn delegated_key(row: &SqliteRow) -> Result<DelegatedKey, sqlx::Error> {
    let public_key: String = row.try_get("public_key")?;
    let public_key = base64url::decode_array(public_key.as_bytes())
        .map_err(|_| sqlx::Error::Decode("public_key of a delegation".into()))?;
    let seconds = |column| Ok::<_, sqlx::Error>(UnixSeconds(millis(row.try_get(column)?).0));
    Ok(DelegatedKey {
        kid: row.try_get("kid")?,
        public_key,
        certified_by: row.try_get("certified_by")?,
        delegation: row.try_get("delegation")?,
        issued_at: seconds("issued_at")?,
        expires_at: seconds("expires_at")?,
        published: millis(row.try_get("published")?),
        held: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::life::UnixMillis;
    use crate::store::OpenMode;

    fn key(kid: &str, made: u64) -> DelegatedKey {
        DelegatedKey {
            kid: kid.into(),
            public_key: [7; 32],
            certified_by: "a".into(),
            delegation: format!("of {kid}"),
            issued_at: UnixSeconds(made),
            expires_at: UnixSeconds(made + 100),
            published: UnixMillis(made * 1000 + 1),
            held: true,
        }
    }

    #[tokio::test]
    async fn a_delegation_outlives_the_process_and_its_private_half_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let store = Store::open(&path, OpenMode::Create).await.unwrap();
        store.store_delegation("acme", &key("d", 1000), UnixSeconds(1000)).await.unwrap();
        store.store_delegation("acme", &key("e", 1050), UnixSeconds(1050)).await.unwrap();
        store.close().await;
        let store = Store::open(&path, OpenMode::Existing).await.unwrap();
        let past = |kid: &str, made| DelegatedKey { held: false, ..key(kid, made) };
        let both = [past("d", 1000), past("e", 1050)];
        assert_eq!(store.load_delegations("acme", UnixSeconds(1099)).await.unwrap(), both);
        assert_eq!(store.load_delegations("acme", UnixSeconds(1100)).await.unwrap(), both[1..]);
        // The tenant was renamed.
        assert_eq!(store.load_delegations("other", UnixSeconds(1099)).await.unwrap(), both);
        // What is over goes with the next.
        store.store_delegation("other", &key("f", 1120), UnixSeconds(1120)).await.unwrap();
        assert_eq!(
            store.load_delegations("other", UnixSeconds(1000)).await.unwrap(),
            [past("e", 1050), past("f", 1120)]
        );
    }
}
