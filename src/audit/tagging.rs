//! Which key tags are made with, and how another takes its place while the log is written.
//!
//! A new key is durable before it is used. Each appender takes it for its next batch, so that a batch has tags of one epoch, and
//! the sequencer begins a segment for batches of another epoch than the one before: a record's tags are of the epoch that the
//! SEGMENT_OPEN before it states.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    appender::Shared,
    error::AuditError,
    hex::hex,
    hold::Holds,
    id::RecordId,
    tag::TagKey,
    tag_file::{self, TagKeyWrap},
    tag_keys::{self, EpochKey, Rewrapped, TagKeys, key_path},
};

/// The key in use. Read by appenders, changed by [`LogTags`].
pub(super) struct Tagging {
    // Looked at once per batch; the lock is taken when it has changed.
    epoch: AtomicU64,
    key: Mutex<Arc<TagKey>>,
    // Held by who changes keys, which takes as long as the disk does, and the token where keys are wrapped.
    changing: Mutex<()>,
    // Wraps the key files, if they are to be wrapped.
    wrap: Option<Arc<dyn TagKeyWrap>>,
}

impl Tagging {
    pub(super) fn new(epoch: u64, key: TagKey, wrap: Option<Arc<dyn TagKeyWrap>>) -> Self {
        let key = Mutex::new(Arc::new(key));
        Self { epoch: AtomicU64::new(epoch), key, changing: Mutex::default(), wrap }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The key, and its epoch.
    pub(super) fn current(&self) -> (u64, Arc<TagKey>) {
        let key = self.lock();
        // Changed only under the lock.
        (self.epoch(), Arc::clone(&key))
    }

    fn lock(&self) -> MutexGuard<'_, Arc<TagKey>> {
        self.key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Changes the tag keys of a running log. Its calls block on the disk.
#[derive(Clone)]
pub struct LogTags {
    shared: Arc<Shared>,
    dir: PathBuf,
}

impl LogTags {
    pub(super) fn new(shared: Arc<Shared>, dir: PathBuf) -> Self {
        Self { shared, dir }
    }

    /// The epoch of the key in use.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.shared.tagging.epoch()
    }

    /// Makes a key and uses it: the records of each appender's next batch have tags of the epoch returned.
    ///
    /// # Errors
    /// [`AuditError::Refused`] while the log takes nothing from shards: on a full disk there may be no segment to begin.
    /// What the disk says.
    pub fn rotate(&self) -> Result<u64, AuditError> {
        let _one = self.shared.tagging.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = self.shared.failure() {
            return Err(AuditError::Refused(failure));
        }
        let next = self.epoch() + 1;
        // An earlier call may have come as far as this.
        let key = match TagKeys::load(&self.dir, self.wrap())?.newest() {
            Some((epoch, key)) if epoch == next => key.clone(),
            _ => tag_file::create(&key_path(&self.dir, next), next, self.wrap())?,
        };
        let tagging = &self.shared.tagging;
        let mut current = tagging.lock();
        *current = Arc::new(key);
        tagging.epoch.store(next, Ordering::Release);
        Ok(next)
    }

    /// Destroys the key of an epoch that is over: from then on nobody can say whose the tags of that epoch are. `record` is
    /// where the log says so. Also the copies beside logs that were set aside are destroyed.
    ///
    /// # Errors
    /// [`AuditError::TagKeyInUse`], [`AuditError::TagKeyDestroyed`], [`AuditError::TagKeyMissing`], [`AuditError::Held`], and what
    /// the disk says; a destruction that was begun is completed by the next start.
    pub fn destroy(&self, epoch: u64, record: RecordId) -> Result<(), AuditError> {
        let _one = self.shared.tagging.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.may_destroy(epoch)?;
        tag_keys::destroy(&self.dir, epoch, &record.to_string(), self.wrap())
    }

    /// The id of the key that wraps the key files, in hexadecimal; `None` where they are not wrapped.
    #[must_use]
    pub fn wrapping_id(&self) -> Option<String> {
        Some(hex(self.wrap()?.ids().first()?))
    }

    /// Wraps every key file under the key that wraps now, those beside logs that were set aside too; how many there were, by how they
    /// stood. Tags are made meanwhile: what is in memory stays as it is. Repeatable; what is done when it ends early stays done.
    ///
    /// # Errors
    /// [`AuditError::TagKeyWrap`] where nothing wraps them, or a key is not opened or wrapped; [`AuditError::TagKeyUnderOther`]; what
    /// the disk says. The file that it is about is as it was.
    pub fn rewrap(&self) -> Result<Rewrapped, AuditError> {
        let _one = self.shared.tagging.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let wrap = self.wrap().ok_or_else(|| AuditError::TagKeyWrap {
            what: "wrap",
            path: self.dir.clone(),
            cause: "no key is configured that wraps".to_owned(),
        })?;
        tag_keys::rewrap(&self.dir, wrap)
    }

    fn wrap(&self) -> Option<&dyn TagKeyWrap> {
        self.shared.tagging.wrap.as_deref()
    }

    /// Whether there is a key of this epoch that may be destroyed.
    ///
    /// # Errors
    /// As [`Self::destroy`].
    pub fn may_destroy(&self, epoch: u64) -> Result<(), AuditError> {
        if epoch == self.epoch() {
            return Err(AuditError::TagKeyInUse { epoch });
        }
        // A key may be there already that the next rotation takes up.
        if epoch > self.epoch() {
            return Err(AuditError::TagKeyMissing { path: key_path(&self.dir, epoch) });
        }
        // Whatever time it covers: a key is of a whole epoch, and its records may lie in archives, or in logs set aside.
        let hold = Holds::any(&self.dir)
            .map_err(|error| AuditError::io("read the legal holds of", &self.dir, error))?;
        if let Some(hold) = hold {
            return Err(AuditError::Held { name: hold.name });
        }
        match TagKeys::load(&self.dir, self.wrap())?.of(epoch) {
            Some(EpochKey::Kept(_)) => Ok(()),
            // Interrupted: it can be completed.
            Some(EpochKey::Destroyed(_)) if key_path(&self.dir, epoch).exists() => Ok(()),
            Some(EpochKey::Destroyed(record)) => {
                Err(AuditError::TagKeyDestroyed { epoch, record: record.clone() })
            }
            None => Err(AuditError::TagKeyMissing { path: key_path(&self.dir, epoch) }),
        }
    }
}

#[cfg(test)]
#[path = "tagging_tests.rs"]
mod tests;
