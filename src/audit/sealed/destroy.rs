//! Destroying the keys of a tenant's day, so that nobody can ever say again who it was.

use std::{io, path::Path, path::PathBuf, sync::Arc, time::SystemTime};

use jiff::civil::Date;

use super::{day_of, folder, folder::Named, second_of};
use crate::audit::{
    appender::Shared, error::AuditError, hold::Holds, id::RecordId, succeed::set_aside, tag_keys::overwrite,
};

/// The sealed keys of a running log. Its calls block on the disk.
#[derive(Clone)]
pub struct SealedKeys {
    shared: Arc<Shared>,
    dir: PathBuf,
}

impl SealedKeys {
    pub(in crate::audit) fn new(shared: Arc<Shared>, dir: PathBuf) -> Self {
        Self { shared, dir }
    }

    /// Whether there are keys of this tenant and day that may be destroyed.
    ///
    /// # Errors
    /// As [`Self::destroy`].
    pub fn may_destroy(&self, tenant: &str, day: Date) -> Result<(), AuditError> {
        self.keys_of(tenant, day).map(drop)
    }

    /// Destroys the keys of a tenant's day; says how many they were. `record` is where the log says so. Copies beside logs that
    /// were set aside are destroyed too.
    ///
    /// # Errors
    /// [`AuditError::SealedKeyInUse`], [`AuditError::SealedKeyMissing`], [`AuditError::Held`], and what the disk says; call it
    /// again then.
    pub fn destroy(&self, tenant: &str, day: Date, record: RecordId) -> Result<usize, AuditError> {
        let keys = self.keys_of(tenant, day)?;
        let io = |source| AuditError::io("destroy a sealed key in", &self.dir, source);
        for key in &keys {
            destroy_one(&self.dir, key, &record.to_string()).map_err(io)?;
        }
        Ok(keys.len())
    }

    fn keys_of(&self, tenant: &str, day: Date) -> Result<Vec<Named>, AuditError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        // Around midnight the keys in use may be of the day before, and those of the next are there already.
        let in_use = self.shared.sealing.load().as_ref().map(|ring| ring.day);
        if day >= day_of(now) || in_use.is_some_and(|in_use| day >= in_use) {
            return Err(AuditError::SealedKeyInUse { day: day.to_string() });
        }
        let holds = Holds::load(&self.dir)
            .map_err(|error| AuditError::io("read the legal holds of", &self.dir, error))?;
        let ns = |second: u64| second.saturating_mul(1_000_000_000);
        let next = second_of(day).saturating_add(24 * 3600);
        // A record of the first moments of a day may be sealed under the key of the day before.
        if let Some(hold) = holds.over(ns(second_of(day)), ns(next + AFTER_MIDNIGHT_S)) {
            return Err(AuditError::Held { name: hold.name.clone() });
        }
        let io = |source| AuditError::io("read the sealed keys of", &self.dir, source);
        let mut keys = Vec::new();
        for named in folder::list(&self.dir).map_err(io)? {
            if named.day == day
                && !named.destroyed
                && folder::read(&self.dir, &named).map_err(io)?.tenant() == tenant
            {
                keys.push(named);
            }
        }
        if keys.is_empty() {
            return Err(AuditError::SealedKeyMissing { tenant: tenant.to_owned(), day: day.to_string() });
        }
        Ok(keys)
    }
}

/// Goes on with destructions that were interrupted.
pub(in crate::audit) fn resume_destroying(dir: &Path) -> Result<(), AuditError> {
    let io = |source| AuditError::io("destroy a sealed key in", dir, source);
    let named = folder::list(dir).map_err(io)?;
    for marker in named.iter().filter(|named| named.destroyed) {
        let key = Named { destroyed: false, ..*marker };
        if named.contains(&key) {
            let record = std::fs::read_to_string(marker.path(dir)).map_err(io)?;
            destroy_one(dir, &key, record.trim_end()).map_err(io)?;
        }
    }
    Ok(())
}

/// Repeatable: what says that it is destroyed is durable first, and the own file goes last.
fn destroy_one(dir: &Path, key: &Named, record: &str) -> io::Result<()> {
    folder::mark(dir, key, record)?;
    for aside in set_aside(dir)? {
        // A file's name is its digest: what has the same name is a copy.
        let copy = key.path(&aside);
        if copy.exists() {
            folder::mark(&aside, key, record)?;
            overwrite_whole(&copy)?;
        }
    }
    overwrite_whole(&key.path(dir))
}

fn overwrite_whole(path: &Path) -> io::Result<()> {
    let bytes = path.metadata()?.len();
    overwrite(path, usize::try_from(bytes).map_err(io::Error::other)?)
}

/// Far longer than an appender keeps using keys after midnight.
const AFTER_MIDNIGHT_S: u64 = 120;
