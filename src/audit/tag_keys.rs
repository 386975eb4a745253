//! The keys of the tags: one file per epoch in the log's folder.
//!
//! Epoch 1 is `tag.key`, epoch N is `tag.key.N`. A file is made whole, once, and never written again. What is left of a key
//! that was destroyed is `tag.key.N.destroyed`, with the id of the record that says so: a key that is missing without it
//! was lost.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{
    error::AuditError,
    real::replace_file,
    real::sync_folder,
    succeed::set_aside,
    tag::{Tag, TagField, TagKey},
    tag_file::{self, Found, TagKeyWrap},
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
    /// Reads the key files of the log in `dir`; `wrap` opens those that are wrapped.
    ///
    /// # Errors
    /// When one of them cannot be read, is no key, or may be read by others than its owner; [`AuditError::TagKeyUnderOther`] where it
    /// is wrapped under a key that `wrap` does not have.
    pub fn load(dir: &Path, wrap: Option<&dyn TagKeyWrap>) -> Result<Self, AuditError> {
        let io = |source| AuditError::io("list the tag keys of", dir, source);
        let (mut epochs, mut files) = (BTreeMap::new(), Vec::new());
        for entry in fs::read_dir(dir).map_err(io)? {
            let path = entry.map_err(io)?.path();
            match path.file_name().and_then(|name| name.to_str()).and_then(parse_name) {
                Some((epoch, true)) => {
                    let record = fs::read_to_string(&path).map_err(|source| {
                        AuditError::io("read what became of a tag key from", &path, source)
                    })?;
                    epochs.insert(epoch, EpochKey::Destroyed(record.trim_end().to_owned()));
                }
                Some((epoch, false)) => files.push((epoch, path)),
                None => {}
            }
        }
        for (epoch, path) in files {
            // Where both are there, the destruction was interrupted, and stands; of the key there may be a half.
            if let Entry::Vacant(place) = epochs.entry(epoch) {
                place.insert(EpochKey::Kept(tag_file::read(&path, epoch, wrap)?));
            }
        }
        Ok(Self { epochs })
    }

    /// The keys of a log that is being opened; a new one gets its first. Completes the destruction of keys that was
    /// interrupted.
    pub(super) fn open(dir: &Path, new: bool, wrap: Option<&dyn TagKeyWrap>) -> Result<Self, AuditError> {
        let keys = Self::load(dir, wrap)?;
        for epoch in keys.epochs.keys() {
            discard_draft(&key_path(dir, *epoch))
                .map_err(|source| AuditError::io("remove a draft of a tag key in", dir, source))?;
        }
        for (epoch, key) in &keys.epochs {
            if let EpochKey::Destroyed(record) = key {
                destroy(dir, *epoch, record, wrap)?;
            }
        }
        if new && keys.epochs.is_empty() {
            tag_file::create(&key_path(dir, FIRST_EPOCH), FIRST_EPOCH, wrap)?;
            return Self::load(dir, wrap);
        }
        Ok(keys)
    }

    /// The latest epoch whose key is there.
    pub(super) fn newest(&self) -> Option<(u64, &TagKey)> {
        self.epochs.iter().rev().find_map(|(epoch, key)| match key {
            EpochKey::Kept(key) => Some((*epoch, key)),
            EpochKey::Destroyed(_) => None,
        })
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

/// Copies the keys of a log, and what says that some were destroyed, to the folder of its successor; durable before this
/// returns.
pub(super) fn copy(dir: &Path, successor: &Path) -> Result<(), AuditError> {
    let io = |source| AuditError::io("copy the tag keys of", dir, source);
    for entry in fs::read_dir(dir).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        if name.to_str().and_then(parse_name).is_some() {
            // With its mode.
            fs::copy(dir.join(&name), successor.join(&name)).map_err(io)?;
            File::open(successor.join(&name)).and_then(|copy| copy.sync_all()).map_err(io)?;
        }
    }
    sync_folder(successor).map_err(io)
}

/// Destroys an epoch's key, here and beside the logs of this folder that were set aside. Repeatable. All that can fail for want of
/// a key that opens comes before anything is said or done; then what says that it is destroyed is durable first, and the own key, by
/// which the copies are known, goes last.
pub(super) fn destroy(
    dir: &Path,
    epoch: u64,
    record: &str,
    wrap: Option<&dyn TagKeyWrap>,
) -> Result<(), AuditError> {
    let path = key_path(dir, epoch);
    let io = |source| AuditError::io("destroy the tag key", &path, source);
    let Some(stored) = read_if_there(&path).map_err(io)? else {
        mark(dir, epoch, record).map_err(io)?;
        return discard_draft(&path).map_err(io);
    };
    let mut copies = Vec::new();
    // Where it is overwritten in part, the copies are gone.
    if tag_file::is_whole(&stored) {
        let key = tag_file::open(&path, epoch, &stored, wrap)?;
        for aside in set_aside(dir).map_err(io)? {
            let copy = key_path(&aside, epoch);
            let Some(stored) = read_if_there(&copy).map_err(io)? else { continue };
            // Wrapped at another time, the same key is other bytes. What opens for nobody is no copy; what might open is not passed over.
            match tag_file::open(&copy, epoch, &stored, wrap) {
                Ok(opened) if opened == key => copies.push((aside, copy, stored.len())),
                Ok(_) | Err(AuditError::TagKeyAltered { .. } | AuditError::Io { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    mark(dir, epoch, record).map_err(io)?;
    for (aside, copy, length) in copies {
        mark(&aside, epoch, record).map_err(io)?;
        overwrite(&copy, length).map_err(io)?;
        discard_draft(&copy).map_err(io)?;
    }
    discard_draft(&path).map_err(io)?;
    overwrite(&path, stored.len()).map_err(io)
}

fn read_if_there(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    match fs::read(path) {
        Ok(stored) => Ok(Some(Zeroizing::new(stored))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Does away with what an interrupted call left beside a key: a draft that may hold the key, too.
fn discard_draft(path: &Path) -> io::Result<()> {
    let draft = path.with_added_extension(tag_file::DRAFT);
    match fs::symlink_metadata(&draft) {
        // The key itself, under a second name: only the name goes.
        Ok(metadata) if metadata.nlink() > 1 => fs::remove_file(&draft),
        Ok(metadata) => overwrite(&draft, usize::try_from(metadata.len()).unwrap_or(0)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// How many files there are, by how they stood before [`rewrap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rewrapped {
    /// Wrapped under the current key already.
    pub current: usize,
    /// Not wrapped before.
    pub plain: usize,
    /// Wrapped under the previous key before.
    pub previous: usize,
}

/// Wraps every key of the log under the key that wraps now, here and beside the logs of this folder that were set aside. Repeatable,
/// file by file: whatever is done when it ends early stays done.
///
/// # Errors
/// The first file that cannot be opened, wrapped or replaced; it is as it was.
pub(super) fn rewrap(dir: &Path, wrap: &dyn TagKeyWrap) -> Result<Rewrapped, AuditError> {
    let io = |source| AuditError::io("list the tag keys of", dir, source);
    let mut done = Rewrapped::default();
    let mut folders = vec![dir.to_owned()];
    folders.extend(set_aside(dir).map_err(io)?);
    for folder in folders {
        for entry in fs::read_dir(&folder).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            let Some((epoch, false)) = name.to_str().and_then(parse_name) else { continue };
            let path = folder.join(&name);
            // A destruction that was interrupted: it is completed, for the key that opens this file may go next.
            if let Some(record) = read_if_there(&path.with_added_extension(&DESTROYED[1..])).map_err(io)? {
                match folder == dir {
                    true => destroy(dir, epoch, String::from_utf8_lossy(&record).trim_end(), Some(wrap))?,
                    false => overwrite(&path, tag_file::stored(&path)?.len()).map_err(io)?,
                }
                continue;
            }
            match tag_file::rewrap(&path, epoch, wrap)? {
                Found::Current => done.current += 1,
                Found::Plain => done.plain += 1,
                Found::Previous => done.previous += 1,
            }
        }
    }
    Ok(done)
}

/// Leaves word that this key was destroyed.
fn mark(dir: &Path, epoch: u64, record: &str) -> io::Result<()> {
    let path = key_path(dir, epoch).with_added_extension(&DESTROYED[1..]);
    if path.exists() {
        return Ok(());
    }
    replace_file(
        dir,
        &path.file_name().unwrap_or_default().to_string_lossy(),
        format!("{record}\n").as_bytes(),
    )
}

/// Overwrites a file, for what that is worth on the disk at hand, and removes it.
pub(super) fn overwrite(path: &Path, bytes: usize) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    file.write_all(&vec![0; bytes]).and_then(|()| file.sync_all())?;
    fs::remove_file(path)?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
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
    fn a_destroyed_key_is_gone_here_and_beside_logs_that_were_set_aside() {
        let parent = tempfile::tempdir().unwrap();
        let [dir, aside, other] =
            ["log", "log.damaged-1", "log.damaged-2"].map(|name| parent.path().join(name));
        for folder in [&dir, &aside, &other] {
            fs::create_dir(folder).unwrap();
        }
        for epoch in 1..=2 {
            tag_file::create(&key_path(&dir, epoch), epoch, None).unwrap();
        }
        copy(&dir, &aside).unwrap();
        tag_file::create(&key_path(&other, 1), 1, None).unwrap();
        let key = fs::read(key_path(&dir, 1)).unwrap();

        destroy(&dir, 1, "00-0-7", None).unwrap();
        for folder in [&dir, &aside] {
            assert!(!key_path(folder, 1).exists() && key_path(folder, 2).exists());
            let keys = TagKeys::load(folder, None).unwrap();
            assert!(matches!(keys.of(1), Some(EpochKey::Destroyed(record)) if record == "00-0-7"));
            assert_eq!(keys.newest().unwrap().0, 2);
        }
        // Another log's key of that number is another key.
        assert!(matches!(TagKeys::load(&other, None).unwrap().of(1), Some(EpochKey::Kept(_))));

        // Interrupted when only word of it was left: the next start goes on.
        fs::write(key_path(&dir, 1), &key).unwrap();
        fs::set_permissions(key_path(&dir, 1), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        assert!(TagKeys::open(&dir, false, None).unwrap().newest().is_some());
        assert!(!key_path(&dir, 1).exists());
    }

    #[test]
    fn a_value_has_a_tag_in_each_epoch_whose_key_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        for epoch in 1..=3 {
            tag_file::create(&key_path(dir, epoch), epoch, None).unwrap();
        }
        let keys = TagKeys::load(dir, None).unwrap();
        let tags = keys.tags(TagField::Subject, b"alice");
        assert_eq!(tags.len(), 3);
        assert!(tags[0] != tags[1] && tags[1] != tags[2] && tags[0] != tags[2]);
        fs::write(dir.join("tag.key.2.destroyed"), "00-0-1\n").unwrap();
        let keys = TagKeys::load(dir, None).unwrap();
        assert_eq!(keys.tags(TagField::Subject, b"alice"), [tags[0], tags[2]]);
        assert!(matches!(keys.of(2), Some(EpochKey::Destroyed(record)) if record == "00-0-1"));
        assert!(keys.of(4).is_none());
        // A key that is there is never written over, and whatever the file is, it is not passed over.
        assert!(tag_file::create(&key_path(dir, 3), 3, None).is_err());
        fs::write(key_path(dir, 3), "short").unwrap();
        assert!(TagKeys::load(dir, None).is_err());
    }
}
