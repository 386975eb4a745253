//! This node's signing keys as they stand, and the keys that an operator killed.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{ConnectOptions as _, Row as _};

use super::seconds::stored_number;
use super::{Store, StoreError};
use crate::base64url;
use crate::keys::life::{KeyState, SigningKey, UnixMillis};

/// A key that verifies nothing any more, whoever's it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KilledKey {
    /// The tenant of its issuer.
    pub tenant: String,
    /// The `iss` of its issuer.
    pub issuer: String,
    /// Its name.
    pub kid: String,
    /// When it was killed.
    pub killed_at: UnixMillis,
    /// Who answers for it.
    pub authority: String,
    /// Why.
    pub reason: String,
    /// Who did it.
    pub actor: String,
}

/// Destroyed keys that are still told of: the latest ones.
const DESTROYED_ROWS: i64 = 100;

const ADOPT_SIGNING_KEYS: &str = "UPDATE OR IGNORE signing_keys SET tenant = $1 WHERE NOT EXISTS \
     (SELECT 1 FROM signing_keys WHERE tenant = $1)";

impl Store {
    /// The signing keys of a tenant, those destroyed long ago left out, but for the one of this name or at this place. A node has those
    /// of one tenant: if they are another's, that one was renamed.
    ///
    /// # Errors
    /// What SQLite said, or a row that only another program writes.
    pub async fn load_signing_keys(
        &self,
        tenant: &str,
        kid: Option<&str>,
        place: &str,
    ) -> Result<Vec<SigningKey>, StoreError> {
        let error = || StoreError::statement("read the signing keys");
        self.adopt(ADOPT_SIGNING_KEYS, tenant).await.map_err(error())?;
        let rows = sqlx::query(
            "SELECT * FROM signing_keys WHERE tenant = $1 AND (state <> 'destroyed' OR kid = $3 OR place = $4 OR kid IN \
             (SELECT kid FROM signing_keys WHERE tenant = $1 AND state = 'destroyed' \
              ORDER BY destroyed DESC LIMIT $2)) ORDER BY created, kid",
        )
        .bind(tenant)
        .bind(DESTROYED_ROWS)
        .bind(kid)
        .bind(place)
        .fetch_all(&self.pool)
        .await
        .map_err(error())?;
        rows.iter().map(signing_key).collect::<Result<_, _>>().map_err(error())
    }

    /// Gives this tenant what is stored under another, in a table that holds those of one tenant: that one was renamed.
    pub(super) async fn adopt(&self, statement: &'static str, tenant: &str) -> Result<(), sqlx::Error> {
        sqlx::query(statement).bind(tenant).execute(&self.pool).await.map(drop)
    }

    /// Stores signing keys as they stand now, all of them or none.
    ///
    /// # Errors
    /// What SQLite said; nothing was stored then.
    pub async fn store_signing_keys(&self, tenant: &str, keys: &[SigningKey]) -> Result<(), StoreError> {
        let error = || StoreError::statement("store signing keys");
        let mut transaction = self.pool.begin().await.map_err(error())?;
        for key in keys {
            put(&mut transaction, tenant, key).await.map_err(error())?;
        }
        transaction.commit().await.map_err(error())
    }

    /// Stores that a key is dead, under each issuer that has it, and what that made of this node's own.
    ///
    /// # Errors
    /// What SQLite said; nothing was stored then.
    pub async fn store_killed_key(
        &self,
        killed: &[KilledKey],
        own: Option<(&str, &SigningKey)>,
    ) -> Result<(), StoreError> {
        let error = || StoreError::statement("store that a key was killed");
        let mut transaction = self.pool.begin().await.map_err(error())?;
        for one in killed {
            sqlx::query(
                "INSERT INTO killed_keys (tenant, issuer, kid, killed_at, authority, reason, actor) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
            )
            .bind(&one.tenant)
            .bind(&one.issuer)
            .bind(&one.kid)
            .bind(stored_number(one.killed_at.0))
            .bind(&one.authority)
            .bind(&one.reason)
            .bind(&one.actor)
            .execute(&mut *transaction)
            .await
            .map_err(error())?;
        }
        if let Some((tenant, key)) = own {
            put(&mut transaction, tenant, key).await.map_err(error())?;
        }
        transaction.commit().await.map_err(error())
    }

    /// Whether the database at `path` knows a signing key at this place. Opens it for reading alone, and changes nothing.
    ///
    /// # Errors
    /// What SQLite said; also that of a version without signing keys.
    pub async fn knows_key_place(path: &Path, place: &str) -> Result<bool, StoreError> {
        let error = || StoreError::statement("look for a signing key");
        let options = SqliteConnectOptions::new().filename(path).read_only(true);
        let mut connection = options.connect().await.map_err(error())?;
        let found: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM signing_keys WHERE place = $1")
            .bind(place)
            .fetch_one(&mut connection)
            .await
            .map_err(error())?;
        Ok(found > 0)
    }

    /// Every key that was killed.
    ///
    /// # Errors
    /// What SQLite said.
    pub async fn load_killed_keys(&self) -> Result<Vec<KilledKey>, StoreError> {
        let error = || StoreError::statement("read which keys were killed");
        let rows = sqlx::query("SELECT * FROM killed_keys ORDER BY killed_at, tenant, issuer, kid")
            .fetch_all(&self.pool)
            .await
            .map_err(error())?;
        let killed = |row: &SqliteRow| {
            Ok(KilledKey {
                tenant: row.try_get("tenant")?,
                issuer: row.try_get("issuer")?,
                kid: row.try_get("kid")?,
                killed_at: millis(row.try_get("killed_at")?),
                authority: row.try_get("authority")?,
                reason: row.try_get("reason")?,
                actor: row.try_get("actor")?,
            })
        };
        rows.iter().map(killed).collect::<Result<_, sqlx::Error>>().map_err(error())
    }
}

async fn put(connection: &mut SqliteConnection, tenant: &str, key: &SigningKey) -> Result<(), sqlx::Error> {
    let optional = |time: Option<UnixMillis>| time.map(|time| stored_number(time.0));
    sqlx::query(
        "INSERT INTO signing_keys (tenant, kid, public_key, place, state, created, published, activated, stopped, \
         retire_not_before, retired, destroyed, backed_up, wanted, verify_for) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) \
         ON CONFLICT (tenant, kid) DO UPDATE SET state = excluded.state, place = excluded.place, published = excluded.published, \
         activated = excluded.activated, stopped = excluded.stopped, retire_not_before = excluded.retire_not_before, \
         retired = excluded.retired, destroyed = excluded.destroyed, backed_up = excluded.backed_up, \
         wanted = excluded.wanted, verify_for = excluded.verify_for \
         WHERE signing_keys.state <> 'destroyed'",
    )
    .bind(tenant)
    .bind(&key.kid)
    .bind(base64url::encode(&key.public_key))
    .bind(&key.place)
    .bind(key.state.name())
    .bind(stored_number(key.created.0))
    .bind(optional(key.published))
    .bind(optional(key.activated))
    .bind(optional(key.stopped))
    .bind(optional(key.retire_not_before))
    .bind(optional(key.retired))
    .bind(optional(key.destroyed))
    .bind(optional(key.backed_up))
    .bind(i64::from(key.wanted))
    .bind(stored_number(key.verify_for_ms))
    .execute(connection)
    .await?;
    Ok(())
}

fn signing_key(row: &SqliteRow) -> Result<SigningKey, sqlx::Error> {
    let decode = |column: &str| sqlx::Error::Decode(format!("{column} of a signing key").into());
    let optional = |column: &str| Ok::<_, sqlx::Error>(row.try_get::<Option<i64>, _>(column)?.map(millis));
    let public_key: String = row.try_get("public_key")?;
    let state: String = row.try_get("state")?;
    Ok(SigningKey {
        kid: row.try_get("kid")?,
        public_key: base64url::decode_array(public_key.as_bytes()).map_err(|_| decode("public_key"))?,
        place: row.try_get("place")?,
        state: KeyState::from_name(&state).ok_or_else(|| decode("state"))?,
        created: millis(row.try_get("created")?),
        published: optional("published")?,
        activated: optional("activated")?,
        stopped: optional("stopped")?,
        retire_not_before: optional("retire_not_before")?,
        retired: optional("retired")?,
        destroyed: optional("destroyed")?,
        backed_up: optional("backed_up")?,
        wanted: row.try_get::<i64, _>("wanted")? != 0,
        verify_for_ms: millis(row.try_get("verify_for")?).0,
    })
}

/// A time as it was stored; what is below 1970 no version of ours wrote.
pub(super) fn millis(stored: i64) -> UnixMillis {
    UnixMillis(u64::try_from(stored).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::life::{NewKey, Ring, Rules};
    use crate::store::OpenMode;

    const RULES: Rules = Rules {
        propagation_ms: 300,
        verify_for_ms: 1_000,
        require_backup: false,
        rotate_every_ms: None,
        published_max: 8,
    };

    fn ring() -> Ring {
        let (mut ring, _) = Ring::load(Vec::new(), RULES, |_| false, UnixMillis(0));
        let key = |kid: &str, wanted| NewKey {
            kid: kid.into(),
            public_key: [kid.as_bytes()[0]; 32],
            place: format!("/keys/{kid}"),
            wanted,
        };
        ring.adopt_first(key("a", false), UnixMillis(1));
        ring.create(key("b", true), UnixMillis(2)).unwrap();
        ring
    }

    #[tokio::test]
    async fn every_state_and_time_is_read_back_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let store = Store::open(&path, OpenMode::Create).await.unwrap();
        let mut ring = ring();
        store.store_signing_keys("acme", ring.keys()).await.unwrap();
        ring.publish("b", UnixMillis(3));
        ring.back_up("b", UnixMillis(4)).unwrap();
        ring.activate("b", UnixMillis(400)).unwrap();
        ring.retire("a", UnixMillis(2_000)).unwrap();
        ring.destroy("a", UnixMillis(3_000)).unwrap();
        store.store_signing_keys("acme", ring.keys()).await.unwrap();
        store.close().await;
        let store = Store::open(&path, OpenMode::Existing).await.unwrap();
        assert_eq!(store.load_signing_keys("acme", None, "").await.unwrap(), ring.keys());
        // A destroyed key comes to no other state, whoever writes.
        let revived = SigningKey { state: KeyState::Draft, ..ring.key("a").unwrap().clone() };
        store.store_signing_keys("acme", &[revived]).await.unwrap();
        assert_eq!(store.load_signing_keys("acme", None, "").await.unwrap(), ring.keys());
        // The tenant was renamed: its keys are what they were.
        assert_eq!(store.load_signing_keys("other", None, "").await.unwrap(), ring.keys());
        assert_eq!(store.load_signing_keys("other", None, "").await.unwrap(), ring.keys());
    }

    #[tokio::test]
    async fn a_killed_key_is_remembered_with_what_it_made_of_our_own() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.db"), OpenMode::Create).await.unwrap();
        let mut ring = ring();
        ring.kill("a", UnixMillis(7));
        let killed = |reason: &str| KilledKey {
            tenant: "acme".into(),
            issuer: "https://own.test".into(),
            kid: "a".into(),
            killed_at: UnixMillis(7),
            authority: "ticket 1".into(),
            reason: reason.into(),
            actor: "control".into(),
        };
        let own = ring.key("a").unwrap();
        store.store_killed_key(&[killed("lost")], Some(("acme", own))).await.unwrap();
        store.store_killed_key(&[killed("again")], None).await.unwrap();
        assert_eq!(store.load_killed_keys().await.unwrap(), [killed("lost")], "the first word stands");
        assert_eq!(store.load_signing_keys("acme", None, "").await.unwrap(), std::slice::from_ref(own));
    }

    #[tokio::test]
    async fn a_row_of_another_program_is_an_error_and_not_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.db"), OpenMode::Create).await.unwrap();
        store.store_signing_keys("acme", ring().keys()).await.unwrap();
        sqlx::query("UPDATE signing_keys SET state = 'eternal'").execute(&store.pool).await.unwrap();
        let error = store.load_signing_keys("acme", None, "").await.unwrap_err().to_string();
        assert!(error.contains("read the signing keys"), "{error}");
    }
}
