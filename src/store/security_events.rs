//! Which Security Event Tokens were accepted.

use super::seconds::seconds;
use super::{Store, StoreError};
use crate::decision::UnixSeconds;

/// An accepted event token, by its identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// The tenant of the issuer it speaks of.
    pub tenant: String,
    /// Its transmitter's `iss`.
    pub transmitter: String,
    /// Its own name.
    pub jti: String,
    /// The user it disabled or enabled, and when that happened.
    pub switched: Option<(String, UnixSeconds)>,
    /// From when on it would be refused as too old.
    pub forget_at: UnixSeconds,
}

impl Store {
    /// Whether this event was accepted before.
    ///
    /// # Errors
    /// What SQLite said.
    pub async fn knows_event(&self, event: &StoredEvent) -> Result<bool, StoreError> {
        let found: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM security_events WHERE tenant = $1 AND transmitter = $2 AND jti = $3",
        )
        .bind(&event.tenant)
        .bind(&event.transmitter)
        .bind(&event.jti)
        .fetch_one(&self.pool)
        .await
        .map_err(StoreError::statement("look an event up"))?;
        Ok(found > 0)
    }

    /// Whether the same transmitter was heard of the same user with something that happened later.
    ///
    /// # Errors
    /// What SQLite said.
    pub async fn is_outdated(&self, event: &StoredEvent) -> Result<bool, StoreError> {
        let Some((subject, at)) = &event.switched else { return Ok(false) };
        let found: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM security_events WHERE tenant = $1 AND transmitter = $2 AND subject = $3 \
             AND switched_at > $4",
        )
        .bind(&event.tenant)
        .bind(&event.transmitter)
        .bind(subject)
        .bind(seconds(*at))
        .fetch_one(&self.pool)
        .await
        .map_err(StoreError::statement("look for later events"))?;
        Ok(found > 0)
    }

    /// Whether somebody else, such as another node, switched this user after that happened, while nobody here heard of it:
    /// an event that is old enough to be a repetition must not let a user pass whom others have shut out since.
    ///
    /// # Errors
    /// What SQLite said.
    pub async fn is_overtaken(&self, event: &StoredEvent, issuer: &str) -> Result<bool, StoreError> {
        let Some((subject, at)) = &event.switched else { return Ok(false) };
        let found: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM changes WHERE tenant = $1 AND kind = 'subject' AND issuer = $2 AND name = $3 \
             AND switched = 1 AND changed_at > $4 AND NOT EXISTS \
             (SELECT 1 FROM security_events WHERE tenant = $1 AND transmitter = $5 AND subject = $3)",
        )
        .bind(&event.tenant)
        .bind(issuer)
        .bind(subject)
        .bind(seconds(*at))
        .bind(&event.transmitter)
        .fetch_one(&self.pool)
        .await
        .map_err(StoreError::statement("look for later changes"))?;
        Ok(found > 0)
    }

    /// Remembers an accepted event durably; again is harmless.
    ///
    /// # Errors
    /// What SQLite said.
    pub async fn remember_event(&self, event: &StoredEvent) -> Result<(), StoreError> {
        let (subject, at) = event.switched.as_ref().map_or(("", UnixSeconds(0)), |(name, at)| (name, *at));
        sqlx::query(
            "INSERT INTO security_events (tenant, transmitter, jti, subject, switched_at, forget_at) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
        )
        .bind(&event.tenant)
        .bind(&event.transmitter)
        .bind(&event.jti)
        .bind(subject)
        .bind(seconds(at))
        .bind(seconds(event.forget_at))
        .execute(&self.pool)
        .await
        .map_err(StoreError::statement("remember an event"))?;
        Ok(())
    }

    /// Forgets events that would be refused as too old since before `horizon`.
    ///
    /// # Errors
    /// What SQLite said.
    pub async fn purge_events(&self, horizon: UnixSeconds) -> Result<u64, StoreError> {
        let delete = "DELETE FROM security_events WHERE (tenant, transmitter, jti) IN \
             (SELECT tenant, transmitter, jti FROM security_events WHERE forget_at < $1 LIMIT $2)";
        self.purge(delete, horizon, "purge events").await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::OpenMode;

    fn event(jti: &str, switched: Option<(&str, u64)>) -> StoredEvent {
        StoredEvent {
            tenant: "acme".into(),
            transmitter: "https://idp.example".into(),
            jti: jti.into(),
            switched: switched.map(|(name, at)| (name.to_owned(), UnixSeconds(at))),
            forget_at: UnixSeconds(1000),
        }
    }

    #[tokio::test]
    async fn a_user_whom_another_node_shut_out_since_is_not_let_in_by_an_older_event() {
        use crate::revocation::{Effect, Switch, TargetKind};
        use crate::store::StoredChange;
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.db"), OpenMode::Create).await.unwrap();
        let disabled = StoredChange {
            kind: TargetKind::Subject,
            tenant: "acme".into(),
            issuer: "iss".into(),
            name: "alice".into(),
            effect: Effect::Switched(Switch::Disabled),
            forget_at: UnixSeconds(u64::MAX),
            changed_at: UnixSeconds(500),
            reason: String::new(),
            actor: String::new(),
            epoch: 9,
        };
        store.merge_changes(&[disabled]).await.unwrap();
        let at = |second| event("x", Some(("alice", second)));
        assert!(store.is_overtaken(&at(499), "iss").await.unwrap());
        assert!(!store.is_overtaken(&at(500), "iss").await.unwrap());
        assert!(!store.is_overtaken(&at(499), "other").await.unwrap());
        // What this node heard itself is put in order by when it happened.
        store.remember_event(&event("y", Some(("alice", 400)))).await.unwrap();
        assert!(!store.is_overtaken(&at(499), "iss").await.unwrap());
    }

    #[tokio::test]
    async fn an_event_is_known_by_its_transmitter_and_name_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.db"), OpenMode::Create).await.unwrap();
        let one = event("one", None);
        assert!(!store.knows_event(&one).await.unwrap());
        store.remember_event(&one).await.unwrap();
        store.remember_event(&one).await.unwrap();
        assert!(store.knows_event(&one).await.unwrap());
        let other = StoredEvent { transmitter: "https://other.example".into(), ..one.clone() };
        assert!(!store.knows_event(&other).await.unwrap());
        assert_eq!(store.purge_events(UnixSeconds(1000)).await.unwrap(), 0);
        assert_eq!(store.purge_events(UnixSeconds(1001)).await.unwrap(), 1);
        assert!(!store.knows_event(&one).await.unwrap());
    }

    #[tokio::test]
    async fn what_happened_before_something_heard_already_is_outdated() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.db"), OpenMode::Create).await.unwrap();
        store.remember_event(&event("one", Some(("alice", 100)))).await.unwrap();
        for (switched, outdated) in [
            (Some(("alice", 99)), true),
            (Some(("alice", 100)), false),
            (Some(("alice", 101)), false),
            (Some(("bob", 1)), false),
            (None, false),
        ] {
            assert_eq!(store.is_outdated(&event("two", switched)).await.unwrap(), outdated, "{switched:?}");
        }
    }
}
