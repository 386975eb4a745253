//! Numbers as SQLite keeps them: signed, so that what is beyond its end stops there.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::decision::UnixSeconds;

/// A time as stored.
pub(super) fn seconds(time: UnixSeconds) -> i64 {
    stored_number(time.0)
}

/// A number as stored.
pub(super) fn stored_number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The time in a column. "Never" is stored as the end of the type.
pub(super) fn time(row: &SqliteRow, column: &str) -> Result<UnixSeconds, sqlx::Error> {
    let seconds: i64 = row.try_get(column)?;
    Ok(if seconds == i64::MAX {
        UnixSeconds(u64::MAX)
    } else {
        UnixSeconds(u64::try_from(seconds).unwrap_or(0))
    })
}
