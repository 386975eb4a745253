//! Which place in a status list each issued token has.

use sqlx::Row;

use super::seconds::{seconds, time};
use super::{Store, StoreError};
use crate::decision::UnixSeconds;

/// Places tried at random before a list counts as full: with three quarters taken, one in a hundred million tokens finds
/// none.
const TRIES: usize = 64;

/// Rows read at once while a list is made.
const LIST_ROWS: i64 = 20_000;

/// A list of this node.
#[derive(Debug, Clone)]
pub struct StatusListPlace<'a> {
    /// The tenant of the tokens in it.
    pub tenant: &'a str,
    /// Its uri.
    pub uri: &'a str,
    /// How many places it has.
    pub capacity: u32,
}

/// A token that has or gets a place: what revocation goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedToken {
    /// Its `iss`.
    pub issuer: String,
    /// The key it is signed with.
    pub kid: String,
    /// The key that delegated to that one, if it is a delegated one.
    pub certified_by: Option<String>,
    /// Its own name.
    pub jti: String,
    /// Its `sub`.
    pub subject: String,
    /// Its `iat`.
    pub issued_at: UnixSeconds,
    /// From when on it is refused as expired.
    pub forget_at: UnixSeconds,
}

impl Store {
    /// Gives each of `tokens` a place of its own in `list`, durably, all or none; `None` where the list is full.
    ///
    /// Places are random, so that a token's place says nothing about when it was issued (§12.2 of the draft: herd privacy).
    ///
    /// # Errors
    /// What SQLite said; no place was given then.
    pub async fn assign_status_indexes(
        &self,
        list: &StatusListPlace<'_>,
        tokens: &[ListedToken],
    ) -> Result<Option<Vec<u32>>, StoreError> {
        let error = || StoreError::statement("give tokens places in a status list");
        let mut transaction = self.pool.begin().await.map_err(error())?;
        let mut places = Vec::with_capacity(tokens.len());
        for token in tokens {
            let mut given = None;
            for _ in 0..TRIES {
                // The remainder favours low places by less than one in four thousand million: nobody could tell.
                let random = getrandom::u64().map_err(|error| sqlx::Error::Io(std::io::Error::other(error)));
                let index = random.map_err(error())? % u64::from(list.capacity.max(1));
                let inserted = sqlx::query(
                    "INSERT INTO status_indexes \
                     (tenant, uri, idx, issuer, kid, jti, subject, issued_at, forget_at, certified_by) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING",
                )
                .bind(list.tenant)
                .bind(list.uri)
                .bind(index.cast_signed())
                .bind(&token.issuer)
                .bind(&token.kid)
                .bind(&token.jti)
                .bind(&token.subject)
                .bind(seconds(token.issued_at))
                .bind(seconds(token.forget_at))
                .bind(&token.certified_by)
                .execute(&mut *transaction)
                .await
                .map_err(error())?;
                if inserted.rows_affected() == 1 {
                    given = u32::try_from(index).ok();
                    break;
                }
            }
            let Some(given) = given else { return Ok(None) };
            places.push(given);
        }
        transaction.commit().await.map_err(error())?;
        Ok(Some(places))
    }

    /// Notes which key signed the tokens in these places, durably, all or none.
    ///
    /// # Errors
    /// What SQLite said; nothing was noted then.
    pub async fn name_status_keys(
        &self,
        list: &StatusListPlace<'_>,
        signed: &[(u32, &str)],
    ) -> Result<(), StoreError> {
        let error = || StoreError::statement("note which key signed a token of a status list");
        let mut transaction = self.pool.begin().await.map_err(error())?;
        for (index, kid) in signed {
            sqlx::query(
                "UPDATE status_indexes SET kid = $4 WHERE tenant = $1 AND uri = $2 AND idx = $3 AND kid <> $4",
            )
            .bind(list.tenant)
            .bind(list.uri)
            .bind(i64::from(*index))
            .bind(*kid)
            .execute(&mut *transaction)
            .await
            .map_err(error())?;
        }
        transaction.commit().await.map_err(error())
    }

    /// Hands every token of `list` that is not refused as expired at `now` to `take`, with its place, in their order.
    ///
    /// # Errors
    /// What SQLite said; `take` has seen a part then.
    pub async fn load_status_indexes(
        &self,
        list: &StatusListPlace<'_>,
        now: UnixSeconds,
        mut take: impl FnMut(u32, &ListedToken),
    ) -> Result<(), StoreError> {
        let error = || StoreError::statement("read a status list");
        let mut after = -1_i64;
        loop {
            let rows = sqlx::query(
                "SELECT * FROM status_indexes WHERE tenant = $1 AND uri = $2 AND idx > $3 AND forget_at > $4 \
                 ORDER BY idx LIMIT $5",
            )
            .bind(list.tenant)
            .bind(list.uri)
            .bind(after)
            .bind(seconds(now))
            .bind(LIST_ROWS)
            .fetch_all(&self.pool)
            .await
            .map_err(error())?;
            for row in &rows {
                after = row.try_get("idx").map_err(error())?;
                let text = |column: &str| row.try_get::<String, _>(column).map_err(error());
                let time = |column: &str| time(row, column).map_err(error());
                let token = ListedToken {
                    issuer: text("issuer")?,
                    kid: text("kid")?,
                    certified_by: row.try_get("certified_by").map_err(error())?,
                    jti: text("jti")?,
                    subject: text("subject")?,
                    issued_at: time("issued_at")?,
                    forget_at: time("forget_at")?,
                };
                take(u32::try_from(after).unwrap_or(u32::MAX), &token);
            }
            if rows.is_empty() {
                return Ok(());
            }
        }
    }

    /// Frees the places of tokens that have been refused as expired since before `horizon`; returns how many.
    ///
    /// # Errors
    /// What SQLite said; some are free then, which is harmless.
    pub async fn purge_status_indexes(&self, horizon: UnixSeconds) -> Result<u64, StoreError> {
        let delete = "DELETE FROM status_indexes WHERE (tenant, uri, idx) IN \
             (SELECT tenant, uri, idx FROM status_indexes WHERE forget_at < $1 LIMIT $2)";
        self.purge(delete, horizon, "free places in status lists").await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::store::OpenMode;

    const LIST: StatusListPlace<'static> =
        StatusListPlace { tenant: "acme", uri: "https://i.example/lists/1", capacity: 64 };

    fn token(jti: usize, forget_at: u64) -> ListedToken {
        ListedToken {
            issuer: "https://i.example".into(),
            kid: "k".into(),
            certified_by: (jti % 2 == 1).then(|| "c".into()),
            jti: format!("t-{jti}"),
            subject: "s".into(),
            issued_at: UnixSeconds(1),
            forget_at: UnixSeconds(forget_at),
        }
    }

    #[tokio::test]
    async fn no_two_tokens_share_a_place_until_one_is_free_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.db"), OpenMode::Create).await.unwrap();
        let mut taken = BTreeSet::new();
        for i in 0..32 {
            let tokens = [token(2 * i, 100), token(2 * i + 1, 200)];
            let Some(places) = store.assign_status_indexes(&LIST, &tokens).await.unwrap() else { break };
            for place in places {
                assert!(place < LIST.capacity && taken.insert(place), "{place}");
            }
        }
        assert!(taken.len() >= 48, "three quarters are found as a rule: {}", taken.len());
        let other = StatusListPlace { uri: "https://i.example/lists/2", ..LIST };
        assert!(store.assign_status_indexes(&other, &[token(0, 100)]).await.unwrap().is_some());

        let mut listed = BTreeSet::new();
        store
            .load_status_indexes(&LIST, UnixSeconds(99), |index, _| {
                assert!(listed.insert(index));
            })
            .await
            .unwrap();
        assert_eq!(listed, taken);
        let mut living = 0;
        store
            .load_status_indexes(&LIST, UnixSeconds(100), |_, token| {
                assert_eq!(token.forget_at, UnixSeconds(200));
                living += 1;
            })
            .await
            .unwrap();
        assert_eq!(living, taken.len() / 2);
        assert_eq!(store.purge_status_indexes(UnixSeconds(101)).await.unwrap(), taken.len() as u64 / 2 + 1);
    }

    #[tokio::test]
    async fn a_full_list_gives_nothing_and_keeps_nothing_of_the_call() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.db"), OpenMode::Create).await.unwrap();
        let small = StatusListPlace { capacity: 2, ..LIST };
        let three = [token(1, 100), token(2, 100), token(3, 100)];
        assert_eq!(store.assign_status_indexes(&small, &three).await.unwrap(), None);
        assert!(store.assign_status_indexes(&small, &three[..2]).await.unwrap().is_some());
        assert_eq!(store.assign_status_indexes(&small, &three[2..]).await.unwrap(), None);
    }
}
