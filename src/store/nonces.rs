//! Tokens on allow lists, and tokens that may be used once and were.

use sqlx::sqlite::SqliteConnection;

use super::seconds::seconds;
use super::{Store, StoreError};
use crate::decision::UnixSeconds;
use crate::revocation::{Answer, Identity, Inquiry};

/// A token that may pass where its issuer has an allow list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<'a> {
    /// Tenant the issuer belongs to.
    pub tenant: &'a str,
    /// The token's `iss`.
    pub issuer: &'a str,
    /// The token's `jti`.
    pub jti: &'a str,
    /// From this second on it is refused as expired.
    pub expires_at: UnixSeconds,
}

impl Store {
    /// Puts tokens on their issuers' allow lists, durably, all or none.
    ///
    /// # Errors
    /// What SQLite said; none is on a list then.
    pub async fn list_tokens(&self, tokens: &[Listed<'_>]) -> Result<(), StoreError> {
        let error = || StoreError::statement("put tokens on the allow list");
        let mut transaction = self.pool.begin().await.map_err(error())?;
        for Listed { tenant, issuer, jti, expires_at } in tokens {
            insert(&mut transaction, [tenant, issuer, jti, "listed"], *expires_at).await.map_err(error())?;
        }
        transaction.commit().await.map_err(error())
    }

    /// Answers what is asked about lists and uses; what is used now is durably so when this returns.
    ///
    /// # Errors
    /// What SQLite said; nothing was used then.
    pub async fn answer_inquiries(&self, inquiries: &[&Inquiry]) -> Result<Vec<Answer>, StoreError> {
        let error = || StoreError::statement("look up allow lists and used tokens");
        let mut transaction = self.pool.begin().await.map_err(error())?;
        let mut answers = Vec::with_capacity(inquiries.len());
        for inquiry in inquiries {
            answers.push(answer(&mut transaction, inquiry).await.map_err(error())?);
        }
        transaction.commit().await.map_err(error())?;
        Ok(answers)
    }

    /// Deletes what expired before `horizon`; returns how many rows went.
    ///
    /// # Errors
    /// What SQLite said; earlier batches are gone then, which is harmless.
    pub async fn purge_nonces(&self, horizon: UnixSeconds) -> Result<u64, StoreError> {
        let delete = "DELETE FROM nonces WHERE (tenant, issuer, jti, state) IN \
             (SELECT tenant, issuer, jti, state FROM nonces WHERE expires_at < $1 LIMIT $2)";
        self.purge(delete, horizon, "purge allow lists and used tokens").await
    }
}

async fn answer(connection: &mut SqliteConnection, inquiry: &Inquiry) -> Result<Answer, sqlx::Error> {
    let (Identity { tenant, issuer, jti: Some(jti), .. }, asked) = (inquiry.identity(), inquiry.asked) else {
        return Ok(Answer::Unknown);
    };
    if asked.listed {
        let listed: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM nonces WHERE tenant = $1 AND issuer = $2 AND jti = $3 AND state = 'listed'",
        )
        .bind(tenant)
        .bind(issuer)
        .bind(jti)
        .fetch_one(&mut *connection)
        .await?;
        if listed == 0 {
            return Ok(Answer::NotListed);
        }
    }
    if asked.unused && insert(connection, [tenant, issuer, jti, "used"], inquiry.until).await? == 0 {
        return Ok(Answer::Replayed);
    }
    Ok(Answer::Clear)
}

/// Adds a row; 0 where it was there.
async fn insert(
    connection: &mut SqliteConnection,
    [tenant, issuer, jti, state]: [&str; 4],
    expires_at: UnixSeconds,
) -> Result<u64, sqlx::Error> {
    let written = sqlx::query(
        "INSERT INTO nonces (tenant, issuer, jti, state, expires_at) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (tenant, issuer, jti, state) DO NOTHING",
    )
    .bind(tenant)
    .bind(issuer)
    .bind(jti)
    .bind(state)
    .bind(seconds(expires_at))
    .execute(connection)
    .await?;
    Ok(written.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revocation::Asked;
    use crate::store::OpenMode;

    const UNTIL: UnixSeconds = UnixSeconds(1_800_000_060);

    fn inquiry(jti: &str, listed: bool, unused: bool) -> Inquiry {
        let identity = Identity {
            tenant: "acme",
            issuer: "iss",
            kid: "k",
            certified_by: None,
            jti: Some(jti),
            subject: None,
            session: None,
            issued_at: None,
        };
        Inquiry::new(&identity, UNTIL, Asked { revoked: false, listed, unused })
    }

    #[tokio::test]
    async fn a_token_must_be_listed_and_is_used_once_even_across_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let store = Store::open(&path, OpenMode::Create).await.unwrap();
        let listed = Listed { tenant: "acme", issuer: "iss", jti: "a", expires_at: UNTIL };
        store.list_tokens(&[listed.clone(), listed]).await.unwrap();
        let asked = [
            &inquiry("a", true, true),
            &inquiry("a", true, true),
            &inquiry("a", true, false),
            &inquiry("b", true, true),
            &inquiry("b", false, true),
        ];
        let answers = store.answer_inquiries(&asked).await.unwrap();
        let expected = [Answer::Clear, Answer::Replayed, Answer::Clear, Answer::NotListed, Answer::Clear];
        assert_eq!(answers, expected);
        store.close().await;
        let store = Store::open(&path, OpenMode::Existing).await.unwrap();
        assert_eq!(store.answer_inquiries(&asked[..1]).await.unwrap(), [Answer::Replayed]);
        assert_eq!(store.purge_nonces(UNTIL.saturating_add(1)).await.unwrap(), 3);
        assert_eq!(store.answer_inquiries(&asked[..1]).await.unwrap(), [Answer::NotListed]);
    }
}
