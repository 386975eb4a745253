//! A signing key in a file: for first boot, development and tests.
//!
//! The file is PKCS#8 PEM (RFC 8410, RFC 7468), so `openssl pkey -in FILE` reads it, preceded by one line that says
//! what the key is for:
//!
//! ```text
//! Edgate-Key-Purpose: token-signing
//! -----BEGIN PRIVATE KEY-----
//! ...
//! ```
//!
//! It must be a regular file of the user this process runs as, mode 0600 or 0400. All checks are made on the open
//! descriptor, so nothing can be swapped between check and use.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ed25519::pkcs8::spki::der::pem::LineEnding;
use ed25519::pkcs8::{DecodePrivateKey, EncodePrivateKey, KeypairBytes};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::{HsmError, Purpose};

/// A key file is about 180 bytes; anything far larger is another file.
const KEY_FILE_BYTES_MAX: u64 = 4096;

const PURPOSE_LABEL: &str = "Edgate-Key-Purpose:";

/// An Ed25519 private key held in memory, loaded from a file. Wiped when dropped.
pub struct SoftwareKey {
    path: PathBuf,
    purpose: Purpose,
    signing_key: SigningKey,
}

impl SoftwareKey {
    /// Makes a new key and stores it at `path`, durably, mode 0600. Blocks.
    ///
    /// The key appears under its name complete or not at all: it is written under another name first, so a crash
    /// leaves at most an unused `.NAME.XXXXXXXX.new` behind.
    ///
    /// # Errors
    /// [`HsmError::Exists`] rather than overwriting anything; otherwise what the system refused.
    pub fn create(path: &Path, purpose: Purpose) -> Result<Self, HsmError> {
        Self::create_named(purpose, |_| path.to_owned())
    }

    /// As [`Self::create`], at a path that follows from the public key.
    ///
    /// # Errors
    /// As of [`Self::create`].
    pub fn create_named(purpose: Purpose, path: impl FnOnce(&[u8; 32]) -> PathBuf) -> Result<Self, HsmError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice()).map_err(|source| HsmError::Entropy { purpose, source })?;
        let signing_key = SigningKey::from_bytes(&seed);
        let path = &path(&signing_key.verifying_key().to_bytes());
        // Without the public key (PKCS#8 v1): OpenSSL before 3.x does not read the v2 form.
        let pem = KeypairBytes { secret_key: *seed, public_key: None }.to_pkcs8_pem(LineEnding::LF).map_err(
            |_| HsmError::Malformed { path: path.to_owned(), problem: "the new key cannot be encoded" },
        )?;
        let text = Zeroizing::new(format!("{PURPOSE_LABEL} {purpose}\n{}", pem.as_str()));

        store_new(path, text.as_bytes(), purpose)?;
        Ok(Self { path: path.to_owned(), purpose, signing_key })
    }

    /// Destroys the key at `path`, durably: overwritten, for what that is worth on the disk at hand, and removed. Blocks. A
    /// file that is gone is no error.
    ///
    /// # Errors
    /// [`HsmError::Malformed`] if the file holds another key than the one with this public half; what [`Self::load`] refuses;
    /// what the system refused.
    pub fn destroy(path: &Path, purpose: Purpose, public_key: &[u8; 32]) -> Result<(), HsmError> {
        let key = match Self::load(path, purpose) {
            Err(HsmError::Missing { .. }) => return Ok(()),
            loaded => loaded?,
        };
        if key.verifying_key().as_bytes() != public_key {
            return Err(malformed(
                path,
                "it holds another key than the one to be destroyed; it was left as it is",
            ));
        }
        drop(key);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let overwrite = || -> io::Result<()> {
            // A file that may only be read (0400) is ours all the same.
            rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR)?;
            let mut file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
            let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
            file.write_all(&vec![0; length])?;
            file.sync_all()
        };
        overwrite().map_err(file_error("overwrite key file", path))?;
        std::fs::remove_file(path).map_err(file_error("remove key file", path))?;
        let folder = folder_of(path);
        let sync_folder = || File::open(&folder)?.sync_all();
        sync_folder().map_err(file_error("sync folder", &folder))
    }

    /// Loads the key at `path`, which must be for `purpose`. Blocks.
    ///
    /// # Errors
    /// The first of: missing, not a regular file (symbolic links are not followed), another owner, mode wider than
    /// 0600, not a key file, another purpose.
    pub fn load(path: &Path, purpose: Purpose) -> Result<Self, HsmError> {
        let file = open_existing(path)?;
        check_metadata(path, &file)?;
        let mut text = Zeroizing::new(String::with_capacity(512));
        (&file).take(KEY_FILE_BYTES_MAX).read_to_string(&mut text).map_err(|source| match source.kind() {
            io::ErrorKind::InvalidData => malformed(path, "it is not text; expected PKCS#8 PEM"),
            _ => file_error("read key file", path)(source),
        })?;
        let found = purpose_of(path, &text)?;
        if found != purpose {
            return Err(HsmError::Purpose { path: path.to_owned(), found, wanted: purpose });
        }
        let pem = text.find("-----BEGIN").map_or("", |start| &text[start..]);
        let signing_key = SigningKey::from_pkcs8_pem(pem)
            .map_err(|_| malformed(path, "it holds no Ed25519 private key in PKCS#8 PEM (RFC 8410)"))?;
        Ok(Self { path: path.to_owned(), purpose, signing_key })
    }

    /// The file this key came from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says the key is for.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    pub(crate) fn verifying_key(&self) -> VerifyingKey {
        self.signing_key.verifying_key()
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing_key.sign(message).to_bytes()
    }
}

impl fmt::Debug for SoftwareKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftwareKey")
            .field("path", &self.path)
            .field("purpose", &self.purpose)
            .finish_non_exhaustive()
    }
}

/// Writes a new file, mode 0600, whole and durable or not at all; one that is there is never overwritten.
pub(crate) fn store_new(path: &Path, bytes: &[u8], purpose: Purpose) -> Result<(), HsmError> {
    let (folder, draft) = draft_path(path, purpose)?;
    write_draft(&draft, bytes)?;
    let renamed = rustix::fs::renameat_with(CWD, &draft, CWD, path, RenameFlags::NOREPLACE);
    if let Err(errno) = renamed {
        // Best effort: a draft that stays is unused and private.
        let _ = std::fs::remove_file(&draft);
        return Err(match errno {
            Errno::EXIST => HsmError::Exists { path: path.to_owned() },
            _ => file_error("create", path)(errno.into()),
        });
    }
    let sync_folder = || File::open(&folder)?.sync_all();
    sync_folder().map_err(file_error("sync folder", &folder))
}

fn open_existing(path: &Path) -> Result<File, HsmError> {
    // NONBLOCK so that a FIFO in the file's place cannot hang the start.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::fs::open(path, flags, Mode::empty()).map(File::from).map_err(|errno| match errno {
        Errno::NOENT => HsmError::Missing { path: path.to_owned() },
        Errno::LOOP => HsmError::NotAFile { path: path.to_owned(), found: "a symbolic link" },
        _ => file_error("open key file", path)(errno.into()),
    })
}

fn check_metadata(path: &Path, file: &File) -> Result<(), HsmError> {
    let metadata = file.metadata().map_err(file_error("inspect key file", path))?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "a folder" } else { "a device, socket or pipe" };
        return Err(HsmError::NotAFile { path: path.to_owned(), found });
    }
    let ours = rustix::process::geteuid().as_raw();
    if metadata.uid() != ours {
        return Err(HsmError::Owner { path: path.to_owned(), owner: metadata.uid(), ours });
    }
    let mode = metadata.mode() & 0o7777;
    if mode != 0o600 && mode != 0o400 {
        return Err(HsmError::Permissions { path: path.to_owned(), mode });
    }
    if metadata.len() > KEY_FILE_BYTES_MAX {
        return Err(malformed(path, "it is longer than 4096 bytes"));
    }
    Ok(())
}

fn purpose_of(path: &Path, text: &str) -> Result<Purpose, HsmError> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(PURPOSE_LABEL));
    let (Some(name), None) = (lines.next(), lines.next()) else {
        return Err(malformed(
            path,
            "it does not say once what it is for; put a line `Edgate-Key-Purpose: token-signing` (or \
             `audit-checkpoint`) above the PEM block",
        ));
    };
    Purpose::from_name(name.trim()).ok_or_else(|| {
        malformed(path, "its purpose is unknown; expected `token-signing` or `audit-checkpoint`")
    })
}

/// The folder of `path` and a fresh name in it.
fn draft_path(path: &Path, purpose: Purpose) -> Result<(PathBuf, PathBuf), HsmError> {
    let name = path
        .file_name()
        .ok_or_else(|| HsmError::NotAFile { path: path.to_owned(), found: "a folder" })?
        .to_string_lossy();
    let folder = folder_of(path);
    let tag = getrandom::u32().map_err(|source| HsmError::Entropy { purpose, source })?;
    let draft = folder.join(format!(".{name}.{tag:08x}.new"));
    Ok((folder, draft))
}

/// The folder that `path` is in.
pub(crate) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn write_draft(draft: &Path, bytes: &[u8]) -> Result<(), HsmError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let write = || -> io::Result<()> {
        let mut file = File::from(rustix::fs::open(draft, flags, Mode::RUSR | Mode::WUSR)?);
        // The umask can only have taken bits away; say 0600 whatever it is.
        rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(file_error("write", draft))
}

fn file_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> HsmError + 'a {
    move |source| HsmError::File { action, path: path.to_owned(), source }
}

fn malformed(path: &Path, problem: &'static str) -> HsmError {
    HsmError::Malformed { path: path.to_owned(), problem }
}

#[cfg(test)]
mod tests;
