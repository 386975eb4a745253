//! What is revoked, on disk.

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Acquire as _, Row};

use super::seconds::{seconds, stored_number, time};
use super::{Store, StoreError};
use crate::decision::UnixSeconds;
use crate::revocation::{Change, Effect, Switch, TargetKind};

/// One change of what is revoked, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredChange {
    /// What kind of thing changed.
    pub kind: TargetKind,
    /// Its tenant.
    pub tenant: String,
    /// Its `iss`; empty for a tenant.
    pub issuer: String,
    /// Its `jti`, `sub`, `sid` or `kid`; empty for an issuer or a tenant.
    pub name: String,
    /// What became of it.
    pub effect: Effect,
    /// From this second on the row says nothing any more.
    pub forget_at: UnixSeconds,
    /// When it was changed.
    pub changed_at: UnixSeconds,
    /// Why, in the words of who did it; may be empty.
    pub reason: String,
    /// Who did it.
    pub actor: String,
    /// The revocation epoch it made.
    pub epoch: u64,
}

/// What recording a change found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Whether it stood already, so that nothing changed but, at most, until when.
    pub already: bool,
    /// What stands now: the first revocation's time, reason and actor.
    pub stands: StoredChange,
}

/// Which changes to list.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    /// Only of this kind.
    pub kind: Option<TargetKind>,
    /// Only of this tenant.
    pub tenant: Option<String>,
    /// Only of this issuer.
    pub issuer: Option<String>,
    /// Only older than this epoch: where the page before ended.
    pub before: Option<u64>,
}

/// A place in the order of changes: by epoch, and within one by what was changed.
#[derive(Debug, Clone, Default)]
pub struct Cursor {
    epoch: u64,
    tenant: String,
    kind: &'static str,
    issuer: String,
    name: String,
    switched: i64,
}

impl Cursor {
    /// Behind everything of `epoch`; with 0, before everything.
    #[must_use]
    pub fn after(epoch: u64) -> Self {
        // Every change of the next epoch is greater: tenants are never empty.
        let epoch = if epoch == 0 { 0 } else { epoch.saturating_add(1) };
        Self { epoch, ..Self::default() }
    }

    /// Behind `change`.
    #[must_use]
    pub fn behind(change: &StoredChange) -> Self {
        Self {
            epoch: change.epoch,
            tenant: change.tenant.clone(),
            kind: change.kind.name(),
            issuer: change.issuer.clone(),
            name: change.name.clone(),
            switched: switched(change.effect),
        }
    }
}

impl StoredChange {
    /// The change, as the view takes it; `None` if the row's parts do not go together, which only another program
    /// writes.
    #[must_use]
    pub fn change(&self) -> Option<Change<'_>> {
        Change::new(self.kind, &self.tenant, &self.issuer, &self.name, self.effect, self.epoch)
    }

    /// What stands once `self`, which is older, and `newer` are both known; their order does not matter but for
    /// switches of one epoch.
    fn merged(&self, newer: &Self) -> Self {
        let replaced = match (self.effect, newer.effect) {
            (Effect::Switched(Switch::Revoked), _) => false,
            (Effect::Switched(old), Effect::Switched(new)) => {
                old != new && (newer.epoch >= self.epoch || new == Switch::Revoked)
            }
            // A watermark that moves is another revocation; a token is revoked once.
            (Effect::IssuedUntil(old), Effect::IssuedUntil(new)) => new > old,
            _ => false,
        };
        let told = if replaced { newer } else { self };
        let effect = match (told.effect, newer.effect) {
            (Effect::RefusedUntil(old), Effect::RefusedUntil(new)) => Effect::RefusedUntil(old.max(new)),
            (effect, _) => effect,
        };
        let forget_at = self.forget_at.max(newer.forget_at);
        Self { effect, forget_at, epoch: self.epoch.max(newer.epoch), ..told.clone() }
    }
}

impl Store {
    /// Records changes durably, all or none, under one new epoch: above every one this node knows, and above `floor`.
    ///
    /// # Errors
    /// What SQLite said; nothing was recorded then.
    pub async fn record_changes(
        &self,
        changes: &[StoredChange],
        floor: u64,
    ) -> Result<(u64, Vec<Recorded>), StoreError> {
        let error = || StoreError::statement("record revocations");
        let mut transaction = self.pool.begin().await.map_err(error())?;
        let epoch: i64 = sqlx::query_scalar(
            "UPDATE revocation_epoch SET epoch = CASE WHEN epoch < $1 THEN $1 ELSE epoch END + 1 RETURNING epoch",
        )
        .bind(stored_number(floor))
        .fetch_one(&mut *transaction)
        .await
        .map_err(error())?;
        let epoch = epoch.cast_unsigned();
        let mut recorded = Vec::with_capacity(changes.len());
        for change in changes {
            let change = StoredChange { epoch, ..change.clone() };
            recorded.push(put(&mut transaction, &change, false).await.map_err(error())?);
        }
        transaction.commit().await.map_err(error())?;
        Ok((epoch, recorded))
    }

    /// Takes changes that other nodes made, with their epochs.
    ///
    /// # Errors
    /// What SQLite said; none was taken then.
    pub async fn merge_changes(&self, changes: &[StoredChange]) -> Result<(), StoreError> {
        let error = || StoreError::statement("store other nodes' revocations");
        let mut transaction = self.pool.begin().await.map_err(error())?;
        for change in changes {
            put(&mut transaction, change, true).await.map_err(error())?;
        }
        let highest = changes.iter().map(|change| change.epoch).max().unwrap_or(0);
        raise_epoch(&mut transaction, highest).await.map_err(error())?;
        transaction.commit().await.map_err(error())
    }

    /// Notes that Redis has what was recorded here under the epoch `local`, and calls it `shared`.
    ///
    /// # Errors
    /// What SQLite said.
    pub async fn mark_published(&self, local: u64, shared: u64) -> Result<(), StoreError> {
        let error = || StoreError::statement("note that revocations were published");
        let mut transaction = self.pool.begin().await.map_err(error())?;
        sqlx::query("UPDATE changes SET published = 1, epoch = $2 WHERE published = 0 AND epoch = $1")
            .bind(stored_number(local))
            .bind(stored_number(shared))
            .execute(&mut *transaction)
            .await
            .map_err(error())?;
        raise_epoch(&mut transaction, shared).await.map_err(error())?;
        transaction.commit().await.map_err(error())
    }

    /// The highest revocation epoch this node gave out or saw.
    ///
    /// # Errors
    /// What SQLite said.
    pub async fn revocation_epoch(&self) -> Result<u64, StoreError> {
        let epoch: i64 = sqlx::query_scalar("SELECT epoch FROM revocation_epoch")
            .fetch_one(&self.pool)
            .await
            .map_err(StoreError::statement("read the revocation epoch"))?;
        Ok(epoch.cast_unsigned())
    }

    /// Number of changes in force at `now`.
    ///
    /// # Errors
    /// What SQLite said.
    pub async fn change_count(&self, now: UnixSeconds) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM changes WHERE forget_at > $1")
            .bind(seconds(now))
            .fetch_one(&self.pool)
            .await
            .map_err(StoreError::statement("count revocations"))?;
        Ok(count.cast_unsigned())
    }

    /// The latest changes first: `count`, and whatever else has the epoch of the last, so that the page after this one, which
    /// begins at an earlier epoch, misses nothing. One call changes 256 things at most under one epoch.
    ///
    /// # Errors
    /// What SQLite said.
    pub async fn list_changes(
        &self,
        filter: &ListFilter,
        now: UnixSeconds,
        count: u32,
    ) -> Result<Vec<StoredChange>, StoreError> {
        let error = || StoreError::statement("list revocations");
        let rows = sqlx::query(
            "WITH wanted AS (SELECT * FROM changes WHERE forget_at > $1 AND ($2 IS NULL OR kind = $2) \
             AND ($3 IS NULL OR tenant = $3) AND ($4 IS NULL OR issuer = $4) AND ($5 IS NULL OR epoch < $5)) \
             SELECT * FROM wanted \
             WHERE epoch >= coalesce((SELECT epoch FROM wanted ORDER BY epoch DESC LIMIT 1 OFFSET $6), 0) \
             ORDER BY epoch DESC, tenant, kind, issuer, name",
        )
        .bind(seconds(now))
        .bind(filter.kind.map(TargetKind::name))
        .bind(&filter.tenant)
        .bind(&filter.issuer)
        .bind(filter.before.map(stored_number))
        .bind(i64::from(count) - 1)
        .fetch_all(&self.pool)
        .await
        .map_err(error())?;
        rows.iter().map(stored).collect::<Result<_, _>>().map_err(error())
    }

    /// What stands and was changed behind `cursor`, the earliest first, at most `count_max`.
    ///
    /// # Errors
    /// What SQLite said.
    pub async fn changes_after(
        &self,
        cursor: &Cursor,
        now: UnixSeconds,
        count_max: u32,
    ) -> Result<Vec<StoredChange>, StoreError> {
        let error = || StoreError::statement("read revocations in their order");
        let rows = sqlx::query(
            "SELECT * FROM changes WHERE (epoch, tenant, kind, issuer, name, switched) > ($1, $2, $3, $4, $5, $6) \
             AND forget_at > $7 ORDER BY epoch, tenant, kind, issuer, name, switched LIMIT $8",
        )
        .bind(stored_number(cursor.epoch))
        .bind(&cursor.tenant)
        .bind(cursor.kind)
        .bind(&cursor.issuer)
        .bind(&cursor.name)
        .bind(cursor.switched)
        .bind(seconds(now))
        .bind(i64::from(count_max))
        .fetch_all(&self.pool)
        .await
        .map_err(error())?;
        rows.iter().map(stored).collect::<Result<_, _>>().map_err(error())
    }

    /// Deletes what said nothing any more before `horizon`; returns how many rows went.
    ///
    /// # Errors
    /// What SQLite said; earlier batches are gone then, which is harmless.
    pub async fn purge_changes(&self, horizon: UnixSeconds) -> Result<u64, StoreError> {
        let delete = "DELETE FROM changes WHERE (tenant, kind, issuer, name, switched) IN \
             (SELECT tenant, kind, issuer, name, switched FROM changes WHERE forget_at < $1 LIMIT $2)";
        self.purge(delete, horizon, "purge revocations").await
    }
}

/// Writes a change beside what is known of its target; `shared`: Redis has it already.
async fn put(
    connection: &mut SqliteConnection,
    change: &StoredChange,
    shared: bool,
) -> Result<Recorded, sqlx::Error> {
    let inserted =
        insert("INSERT INTO changes", "ON CONFLICT DO NOTHING", connection, change, shared).await?;
    if inserted == 1 {
        return Ok(Recorded { already: false, stands: change.clone() });
    }
    let row = sqlx::query(
        "SELECT * FROM changes WHERE tenant = $1 AND kind = $2 AND issuer = $3 AND name = $4 AND switched = $5",
    )
    .bind(&change.tenant)
    .bind(change.kind.name())
    .bind(&change.issuer)
    .bind(&change.name)
    .bind(switched(change.effect))
    .fetch_one(&mut *connection)
    .await?;
    let known = stored(&row)?;
    let was_shared: i64 = row.try_get("published")?;
    let stands = known.merged(change);
    let already = match (known.effect, stands.effect) {
        (Effect::RefusedUntil(_), _) => true,
        (before, after) => before == after,
    };
    // What Redis gave us says nothing about a part that only we know.
    let newest = change.epoch >= stands.epoch || !matches!(change.effect, Effect::Switched(_));
    let shared = shared && (was_shared == 1 || (stands.effect == change.effect && newest));
    // Most of what is read back from Redis is known: then nothing is written.
    if stands == known && shared == (was_shared == 1) {
        return Ok(Recorded { already, stands });
    }
    insert("REPLACE INTO changes", "", connection, &stands, shared).await?;
    Ok(Recorded { already, stands })
}

async fn insert(
    verb: &'static str,
    conflict: &'static str,
    connection: &mut SqliteConnection,
    change: &StoredChange,
    shared: bool,
) -> Result<u64, sqlx::Error> {
    const COLUMNS: &str = "(tenant, kind, issuer, name, switched, effect, second, forget_at, changed_at, reason, actor, \
         epoch, published) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
    let (effect, second) = effect_columns(change.effect);
    let statement = format!("{verb} {COLUMNS} {conflict}");
    // Made of constants above; every value is bound.
    let written = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(&change.tenant)
        .bind(change.kind.name())
        .bind(&change.issuer)
        .bind(&change.name)
        .bind(switched(change.effect))
        .bind(effect)
        .bind(seconds(second))
        .bind(seconds(change.forget_at))
        .bind(seconds(change.changed_at))
        .bind(&change.reason)
        .bind(&change.actor)
        .bind(stored_number(change.epoch))
        .bind(i64::from(shared))
        .execute(connection.acquire().await?)
        .await?;
    Ok(written.rows_affected())
}

async fn raise_epoch(connection: &mut SqliteConnection, epoch: u64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE revocation_epoch SET epoch = $1 WHERE epoch < $1")
        .bind(stored_number(epoch))
        .execute(connection)
        .await
        .map(|_| ())
}

fn effect_columns(effect: Effect) -> (&'static str, UnixSeconds) {
    match effect {
        Effect::IssuedUntil(second) => ("issued_until", second),
        Effect::RefusedUntil(second) => ("refused_until", second),
        Effect::Switched(state) => (state.name(), UnixSeconds(0)),
    }
}

fn switched(effect: Effect) -> i64 {
    i64::from(matches!(effect, Effect::Switched(_)))
}

pub(super) fn stored(row: &SqliteRow) -> Result<StoredChange, sqlx::Error> {
    let epoch: i64 = row.try_get("epoch")?;
    Ok(StoredChange {
        kind: kind(row.try_get("kind")?)?,
        tenant: row.try_get("tenant")?,
        issuer: row.try_get("issuer")?,
        name: row.try_get("name")?,
        effect: effect(row.try_get("effect")?, time(row, "second")?)?,
        forget_at: time(row, "forget_at")?,
        changed_at: time(row, "changed_at")?,
        reason: row.try_get("reason")?,
        actor: row.try_get("actor")?,
        epoch: epoch.cast_unsigned(),
    })
}

pub(super) fn kind(name: &str) -> Result<TargetKind, sqlx::Error> {
    TargetKind::from_name(name).ok_or_else(|| unreadable("kind"))
}

pub(super) fn effect(name: &str, second: UnixSeconds) -> Result<Effect, sqlx::Error> {
    Ok(match name {
        "issued_until" => Effect::IssuedUntil(second),
        "refused_until" => Effect::RefusedUntil(second),
        state => Effect::Switched(Switch::from_name(state).ok_or_else(|| unreadable("effect"))?),
    })
}

fn unreadable(column: &str) -> sqlx::Error {
    let source = "not a value that edgate writes".into();
    sqlx::Error::ColumnDecode { index: column.to_owned(), source }
}

#[cfg(test)]
mod tests;
