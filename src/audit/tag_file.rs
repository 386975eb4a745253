//! The file of one tag key: its 32 bytes, or these wrapped under a key that somebody else holds.
//!
//! A wrapped file is [`MAGIC`], the length of the wrapping key's id (1 byte), the id, and what [`TagKeyWrap::wrap`] gave for the key and
//! [`usage`]. The id is there so that a file is opened with its own key or refused by name, never tried with another.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use zeroize::Zeroizing;

use super::{
    error::AuditError,
    hex::hex,
    real::sync_folder,
    tag::{TAG_KEY_BYTES, TagKey},
};

/// Who wraps tag keys and opens them again. Every call may block for as long as that takes; what goes wrong is said in words.
pub trait TagKeyWrap: fmt::Debug + Send + Sync {
    /// The ids of the keys, each of 1 to 255 bytes: first the one that wraps, then those that only open.
    fn ids(&self) -> Vec<Vec<u8>>;

    /// Wraps `secret` under the first key, for this `usage` alone.
    ///
    /// # Errors
    /// Why it cannot be done now.
    fn wrap(&self, usage: &[u8], secret: &[u8]) -> Result<Vec<u8>, String>;

    /// Opens what was wrapped under the key `id`, one of [`Self::ids`], for the same `usage`.
    ///
    /// # Errors
    /// Why it cannot be done now, or that it was altered.
    fn open(&self, id: &[u8], usage: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotOpened>;
}

/// Why what was wrapped is not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotOpened {
    /// It is not what was wrapped, or not for this usage: it never opens.
    Altered,
    /// It cannot be tried now.
    Unavailable(String),
}

/// How a file stood before [`rewrap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Wrapped under the key that wraps now; nothing was done.
    Current,
    /// Not wrapped.
    Plain,
    /// Wrapped under another key.
    Previous,
}

/// Reads the key of `epoch`.
///
/// # Errors
/// When the file is missing, of the wrong form, or readable by others than its owner; [`AuditError::TagKeyUnderOther`] where it is
/// wrapped under a key that `wrap` does not have.
pub(super) fn read(path: &Path, epoch: u64, wrap: Option<&dyn TagKeyWrap>) -> Result<TagKey, AuditError> {
    let stored = stored(path)?;
    Ok(TagKey::new(&*open(path, epoch, &stored, wrap)?))
}

/// What is in the file, if only its owner may read it.
pub(super) fn stored(path: &Path) -> Result<Zeroizing<Vec<u8>>, AuditError> {
    let io = |source| AuditError::io("read the tag key", path, source);
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path).map_err(io)?;
    let mode = file.metadata().map_err(io)?.mode();
    if mode & 0o077 != 0 {
        return Err(AuditError::KeyFileLax { path: path.to_owned(), mode: mode & 0o7777 });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX + 1));
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// The key in what [`stored`] read.
///
/// # Errors
/// As [`read`].
pub(super) fn open(
    path: &Path,
    epoch: u64,
    stored: &[u8],
    wrap: Option<&dyn TagKeyWrap>,
) -> Result<Zeroizing<[u8; TAG_KEY_BYTES]>, AuditError> {
    let malformed = || {
        let source = io::Error::new(io::ErrorKind::InvalidData, "neither 32 bytes nor wrapped ones");
        AuditError::io("read the tag key", path, source)
    };
    // A wrapped file that was cut to 32 bytes is no plain one.
    if let (Ok(key), false) = (<&[u8; TAG_KEY_BYTES]>::try_from(stored), stored.starts_with(MAGIC)) {
        return Ok(Zeroizing::new(*key));
    }
    let (id, wrapped) = parse(stored).ok_or_else(malformed)?;
    let wrap = wrap
        .filter(|wrap| wrap.ids().iter().any(|known| known == id))
        .ok_or_else(|| AuditError::TagKeyUnderOther { path: path.to_owned(), id: hex(id) })?;
    let opened = wrap.open(id, &usage(epoch), wrapped).map_err(|why| match why {
        NotOpened::Altered => AuditError::TagKeyAltered { path: path.to_owned() },
        NotOpened::Unavailable(cause) => {
            AuditError::TagKeyWrap { what: "open", path: path.to_owned(), cause }
        }
    })?;
    let key = opened.as_slice().try_into().map_err(|_| malformed())?;
    Ok(Zeroizing::new(key))
}

/// Whether this may be a key: not what is left of one that was being overwritten.
pub(super) fn is_whole(stored: &[u8]) -> bool {
    stored.len() == TAG_KEY_BYTES || parse(stored).is_some()
}

/// Makes a random key file, mode 0600, whole and durable before it has its name; wrapped where there is a `wrap`.
///
/// # Errors
/// When the file exists or cannot be written, or the key not be wrapped.
pub(super) fn create(path: &Path, epoch: u64, wrap: Option<&dyn TagKeyWrap>) -> Result<TagKey, AuditError> {
    let io = |source| AuditError::io("create the tag key", path, source);
    let mut key = Zeroizing::new([0; TAG_KEY_BYTES]);
    getrandom::fill(key.as_mut()).map_err(|error| io(io::Error::other(error)))?;
    let contents = match wrap {
        None => Zeroizing::new(key.to_vec()),
        Some(wrap) => Zeroizing::new(wrapped(path, epoch, &key, wrap)?),
    };
    let draft = path.with_added_extension(DRAFT);
    write_draft(&draft, &contents).map_err(io)?;
    // Unlike a rename this never takes another file's place.
    fs::hard_link(&draft, path).and_then(|()| fs::remove_file(&draft)).map_err(io)?;
    sync_folder(folder_of(path)).map_err(io)?;
    Ok(TagKey::new(&key))
}

/// Wraps what is in the file under the key that wraps now, unless it is; how it was. A crash leaves the file as it was or as it is to be,
/// and at most a draft, which the next call makes anew; what was wrapped is opened again before it takes the file's place.
///
/// # Errors
/// As [`read`] and [`create`]; the file is then as it was, unless it was replaced and the disk then did not say that this lasts.
pub(super) fn rewrap(path: &Path, epoch: u64, wrap: &dyn TagKeyWrap) -> Result<Found, AuditError> {
    let io = |source| AuditError::io("replace the tag key", path, source);
    let old = stored(path)?;
    let key = open(path, epoch, &old, Some(wrap))?;
    let found = match parse(&old) {
        Some((id, _)) if wrap.ids().first().is_some_and(|current| current == id) => {
            return Ok(Found::Current);
        }
        Some(_) => Found::Previous,
        None => Found::Plain,
    };
    let contents = wrapped(path, epoch, &key, wrap)?;
    // A token that lies would have cost the key.
    if open(path, epoch, &contents, Some(wrap))? != key {
        let cause = "what was wrapped opens as something else".to_owned();
        return Err(AuditError::TagKeyWrap { what: "wrap", path: path.to_owned(), cause });
    }
    // Held open over the rename: its bytes are overwritten then, for what that is worth on the disk at hand.
    let before = (found == Found::Plain)
        .then(|| OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path))
        .transpose()
        .map_err(io)?;
    let draft = path.with_added_extension(DRAFT);
    if let Err(error) = write_draft(&draft, &contents).and_then(|()| fs::rename(&draft, path)) {
        // What is left of it would outlive the key.
        let _ = fs::remove_file(&draft);
        return Err(io(error));
    }
    sync_folder(folder_of(path)).map_err(io)?;
    if let Some(mut before) = before {
        before.write_all(&[0; TAG_KEY_BYTES]).and_then(|()| before.sync_all()).map_err(io)?;
    }
    Ok(found)
}

/// The file of a wrapped key.
fn wrapped(
    path: &Path,
    epoch: u64,
    key: &[u8; TAG_KEY_BYTES],
    wrap: &dyn TagKeyWrap,
) -> Result<Vec<u8>, AuditError> {
    let refuse = |cause| AuditError::TagKeyWrap { what: "wrap", path: path.to_owned(), cause };
    let id = wrap.ids().into_iter().next().unwrap_or_default();
    let length = u8::try_from(id.len()).ok().filter(|length| *length > 0);
    let length = length.ok_or_else(|| refuse("its id is not of 1 to 255 bytes".to_owned()))?;
    let wrapped = wrap.wrap(&usage(epoch), key).map_err(refuse)?;
    Ok([MAGIC, &[length], &id, &wrapped].concat())
}

/// Id of the wrapping key, and what it wrapped.
fn parse(stored: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = stored.strip_prefix(MAGIC)?.split_first()?;
    let (id, wrapped) = rest.split_at_checked(usize::from(*length))?;
    let bounded = !id.is_empty() && !wrapped.is_empty() && stored.len() <= FILE_BYTES_MAX;
    bounded.then_some((id, wrapped))
}

/// What a wrapped key is for: one epoch's key does not open as another's.
fn usage(epoch: u64) -> Vec<u8> {
    [b"edgate audit tag key\0", &epoch.to_le_bytes()[..]].concat()
}

fn write_draft(draft: &Path, contents: &[u8]) -> io::Result<()> {
    // What an interrupted call left: no key, or the same file as one, so it is not written to.
    match fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
    file.write_all(contents)?;
    file.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What the name of a key file that is being written ends in.
pub(super) const DRAFT: &str = "new";

/// Begins a wrapped key. A random one begins so once in 2^200.
const MAGIC: &[u8] = b"edgate wrapped tag key 1\n";

/// The longest file: a wrapped key with an id of 255 bytes, twice, and room for the wrapping.
const FILE_BYTES_MAX: usize = 1024;

#[cfg(test)]
#[path = "tag_file_tests.rs"]
mod tests;
