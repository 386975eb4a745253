//! Sealed values: who it was, for those alone who were named before it happened, and for none of them alone.
//!
//! Records hold keyed tags of subjects, token ids and addresses, which nobody can read backwards. Where the settings ask for it
//! they also hold the values, encrypted under a key of one tenant, one day (UTC) and one boot. Such a key is random, stands on the
//! disk only wrapped to all openers, one inside the other (RFC 9180), and is forgotten with its day: a node seals and
//! never opens. With the wrapped key goes what was sealed under it; every proof stays, since what is hashed is ciphertext.
//!
//! - `value.rs`: one sealed value, byte by byte. `ring.rs`: the keys in use, and sealing with them.
//! - `maker.rs`: makes them, on a thread of its own, ahead of midnight.
//! - `wrapped.rs`: a wrapped key. `opener.rs`: the keys it is wrapped to. `folder.rs`: the files it lies in.
//! - `open.rs`: reads the values of one record. `destroy.rs`: makes them unreadable.

mod destroy;
mod folder;
mod maker;
mod open;
mod opener;
mod ring;
mod value;
mod wrapped;

use jiff::{Timestamp, civil::Date, tz::TimeZone};

pub use destroy::SealedKeys;
pub use folder::{KeyId, KeyState};
pub use open::{OpenError, OpenedValues, SealedRecord};
pub use opener::{OpenerKey, OpenerSecret};
pub use value::Clear;
pub use wrapped::WrappedKey;

pub(super) use destroy::resume_destroying;
pub(super) use folder::copy;
pub(super) use maker::KeyMaker;
pub(super) use ring::{KeysInUse, Seals, Values};
pub(super) use value::is_sealed_len;

use super::{error::AuditError, tag::TagField};

/// What is sealed, and for whom.
#[derive(Debug, Clone)]
pub struct Sealing {
    /// Which values: of subject, jti, client.
    pub fields: Vec<TagField>,
    /// Who may open them, together.
    pub openers: Vec<OpenerKey>,
    /// Whose values: a tenant that is not among these has none sealed. What is of no tenant always is.
    pub tenants: Vec<String>,
}

impl Sealing {
    /// Checks what can be checked without touching the disk.
    ///
    /// # Errors
    /// [`AuditError::Settings`], saying what is wrong.
    pub fn check(&self) -> Result<(), AuditError> {
        let refuse = |message: String| Err(AuditError::Settings(message));
        let sealable = [TagField::Subject, TagField::Jti, TagField::Client];
        if self.fields.is_empty() || self.fields.iter().any(|field| !sealable.contains(field)) {
            return refuse("audit.sealed.fields names what is sealed, of subject, jti and client".to_owned());
        }
        if self.openers.is_empty() || self.openers.len() > OPENERS_MAX {
            return refuse(format!("audit.sealed.openers names 1 to {OPENERS_MAX} keys"));
        }
        if let Some((at, twice)) =
            self.openers.iter().enumerate().find(|(at, key)| self.openers[..*at].contains(key))
        {
            return refuse(format!("audit.sealed.openers[{at}] is there already: {}", twice.to_text()));
        }
        match self.tenants.iter().find(|tenant| !wrapped::is_tenant(tenant)) {
            Some(tenant) => refuse(format!("tenant {tenant:?} cannot stand in a line of a key's file")),
            None => Ok(()),
        }
    }
}

/// The most openers of one key: all of them are needed each time.
pub(super) const OPENERS_MAX: usize = 8;

/// The day (UTC) of a second since 1970.
fn day_of(second: u64) -> Date {
    let at = i64::try_from(second).ok().and_then(|second| Timestamp::from_second(second).ok());
    at.unwrap_or(Timestamp::MAX).to_zoned(TimeZone::UTC).date()
}

/// The day of a text in its one spelling, YYYY-MM-DD.
#[must_use]
pub fn parse_day(text: &str) -> Option<Date> {
    text.parse().ok().filter(|day: &Date| day.to_string() == text)
}

/// The first second of a day since 1970.
fn second_of(day: Date) -> u64 {
    let midnight = day.to_zoned(TimeZone::UTC).map(|midnight| midnight.timestamp().as_second());
    midnight.ok().and_then(|second| u64::try_from(second).ok()).unwrap_or(0)
}

#[cfg(test)]
mod example;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use example::example;
