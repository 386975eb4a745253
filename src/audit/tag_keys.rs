//! The keys of the tags: one file per epoch in the log's folder.
//!
//! Epoch 1 is `tag.key`, epoch N is `tag.key.N`. A file is made whole, once, and never written again. What is left of a key
//! that was destroyed is `tag.key.N.destroyed`, with the id of the record that says so: a key that is missing without it
//! was lost.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::{
    error::AuditError,
    tag::{Tag, TagField, TagKey},
};

/// The keys of all epochs of a log.
#[derive(Debug)]
pub struct TagKeys {
    epochs: BTreeMap<u64, EpochKey>,
}

/// What there is of one epoch's key.
#[derive(Debug)]
pub enum EpochKey {
    /// It was destroyed; the id of the record that says so.
    Destroyed(String),
    /// Its file is there.
    Kept(TagKey),
}

impl TagKeys {
    /// Reads the key files of the log in `dir`.
    ///
    /// # Errors
    /// When one of them cannot be read, is no key, or may be read by others than its owner.
    pub fn load(dir: &Path) -> Result<Self, AuditError> {
        let io = |source| AuditError::io("list the tag keys of", dir, source);
        let mut epochs = BTreeMap::new();
        for entry in fs::read_dir(dir).map_err(io)? {
            let path = entry.map_err(io)?.path();
            match path.file_name().and_then(|name| name.to_str()).and_then(parse_name) {
                Some((epoch, true)) => {
                    let record = fs::read_to_string(&path).map_err(|source| {
                        AuditError::io("read what became of a tag key from", &path, source)
                    })?;
                    epochs.insert(epoch, EpochKey::Destroyed(record.trim_end().to_owned()));
                }
                Some((epoch, false)) => {
                    let key = TagKey::load(&path)?;
                    // Where both are there, the destruction was interrupted, and stands.
                    epochs.entry(epoch).or_insert(EpochKey::Kept(key));
                }
                None => {}
            }
        }
        Ok(Self { epochs })
    }

    /// The epochs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &EpochKey)> {
        self.epochs.iter().map(|(epoch, key)| (*epoch, key))
    }

    /// What there is of this epoch's key; `None` if nothing.
    #[must_use]
    pub fn of(&self, epoch: u64) -> Option<&EpochKey> {
        self.epochs.get(&epoch)
    }

    /// The tag of `value` in each epoch whose key is there.
    #[must_use]
    pub fn tags(&self, field: TagField, value: &[u8]) -> Vec<Tag> {
        let kept = |key: &EpochKey| match key {
            EpochKey::Kept(key) => Some(key.tag(field, value)),
            EpochKey::Destroyed(_) => None,
        };
        self.epochs.values().filter_map(kept).collect()
    }
}

/// The key file of an epoch.
pub(super) fn key_path(dir: &Path, epoch: u64) -> PathBuf {
    match epoch {
        FIRST_EPOCH => dir.join(TAG_KEY),
        _ => dir.join(format!("{TAG_KEY}.{epoch}")),
    }
}

/// The epoch that a file's name stands for, and whether the file says that the key was destroyed.
fn parse_name(name: &str) -> Option<(u64, bool)> {
    let rest = name.strip_prefix(TAG_KEY)?;
    let (rest, destroyed) = match rest.strip_suffix(DESTROYED) {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    let epoch = match rest.strip_prefix('.') {
        None if rest.is_empty() => FIRST_EPOCH,
        None => return None,
        Some(digits) => {
            digits.parse().ok().filter(|epoch: &u64| *epoch > FIRST_EPOCH && epoch.to_string() == digits)?
        }
    };
    Some((epoch, destroyed))
}

/// The epoch a log begins with.
pub(super) const FIRST_EPOCH: u64 = 1;

/// The key file of the first epoch, and what the names of the others begin with.
const TAG_KEY: &str = "tag.key";

/// What is added to the name of a key file that is no more.
const DESTROYED: &str = ".destroyed";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_epoch_has_one_name() {
        for (name, epoch) in [
            ("tag.key", Some((1, false))),
            ("tag.key.2", Some((2, false))),
            ("tag.key.12", Some((12, false))),
            ("tag.key.destroyed", Some((1, true))),
            ("tag.key.2.destroyed", Some((2, true))),
            ("tag.key.1", None),
            ("tag.key.02", None),
            ("tag.key.+2", None),
            ("tag.key.", None),
            ("tag.key2", None),
            ("tag.key.2.tmp", None),
        ] {
            assert_eq!(parse_name(name), epoch, "{name}");
            if let Some((epoch, false)) = epoch {
                assert_eq!(key_path(Path::new(""), epoch), Path::new(name));
            }
        }
    }

    #[test]
    fn a_value_has_a_tag_in_each_epoch_whose_key_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        for epoch in 1..=3 {
            TagKey::create(&key_path(dir, epoch)).unwrap();
        }
        let keys = TagKeys::load(dir).unwrap();
        let tags = keys.tags(TagField::Subject, b"alice");
        assert_eq!(tags.len(), 3);
        assert!(tags[0] != tags[1] && tags[1] != tags[2] && tags[0] != tags[2]);
        fs::write(dir.join("tag.key.2.destroyed"), "00-0-1\n").unwrap();
        let keys = TagKeys::load(dir).unwrap();
        assert_eq!(keys.tags(TagField::Subject, b"alice"), [tags[0], tags[2]]);
        assert!(matches!(keys.of(2), Some(EpochKey::Destroyed(record)) if record == "00-0-1"));
        assert!(keys.of(4).is_none());
        // Whatever the file is, it is not passed over.
        fs::write(key_path(dir, 3), "short").unwrap();
        assert!(TagKeys::load(dir).is_err());
    }
}
