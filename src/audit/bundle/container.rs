//! What a bundle is kept in: a tar archive of one fixed form, or a folder.
//!
//! Every byte of the archive follows from names and contents, so that two archives of one bundle are equal and nothing
//! can hide in one. Nothing is unpacked: members are read where they lie.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::{
    MEMBERS_MAX,
    fault::{BundleClass, CheckError},
    manifest::Member,
};
use crate::audit::{proof::ProofClass, real::sync_folder};

/// The member that lists the others; the last one in an archive.
pub(super) const MANIFEST: &str = "manifest.json";

/// A bundle that is being written, beside where it will be. Dropped before it is published, nothing of it stays.
pub(super) struct Writer {
    target: Target,
    partial: PathBuf,
    published: bool,
}

enum Target {
    Tar { file: File, end: u64 },
    Folder,
}

impl Writer {
    /// Begins a bundle that will be at `out`: an archive if its name ends with `.tar`, else a folder.
    pub(super) fn create(out: &Path) -> io::Result<Self> {
        let partial = out.with_added_extension("partial");
        let target = if out.extension().is_some_and(|extension| extension == "tar") {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
            Target::Tar { file, end: 0 }
        } else {
            fs::create_dir(&partial)?;
            Target::Folder
        };
        Ok(Self { target, partial, published: false })
    }

    /// Where it is until it is published.
    pub(super) fn path(&self) -> &Path {
        &self.partial
    }

    /// Adds a member.
    pub(super) fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<Member> {
        match &mut self.target {
            Target::Tar { file, end } => *end = put_at(file, *end, name, bytes)?,
            Target::Folder => {
                let path = self.partial.join(name);
                fs::create_dir_all(path.parent().expect("members lie in the bundle"))?;
                write_file(&path, bytes)?;
            }
        }
        let digest = Sha256::digest(bytes).into();
        Ok(Member { name: name.to_owned(), bytes: bytes.len() as u64, digest })
    }

    /// Writes the manifest, and the archive's end; once more replaces it.
    pub(super) fn put_manifest(&mut self, text: &str) -> io::Result<()> {
        match &mut self.target {
            Target::Tar { file, end } => {
                let behind = put_at(file, *end, MANIFEST, text.as_bytes())?;
                file.set_len(behind)?;
                file.write_all_at(&[0; 2 * BLOCK_BYTES], behind)?;
                file.sync_all()
            }
            Target::Folder => {
                write_file(&self.partial.join(MANIFEST), text.as_bytes())?;
                for entry in fs::read_dir(&self.partial)? {
                    let entry = entry?;
                    if entry.file_type()?.is_dir() {
                        sync_folder(&entry.path())?;
                    }
                }
                sync_folder(&self.partial)
            }
        }
    }

    /// Gives it its name.
    pub(super) fn publish(mut self, out: &Path) -> io::Result<()> {
        fs::rename(&self.partial, out)?;
        self.published = true;
        let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
        sync_folder(folder.unwrap_or(Path::new(".")))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.published {
            let _ = match self.target {
                Target::Tar { .. } => fs::remove_file(&self.partial),
                Target::Folder => fs::remove_dir_all(&self.partial),
            };
        }
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all_at(bytes, 0)?;
    file.sync_all()
}

/// Writes one member of an archive; returns where the next one begins.
fn put_at(file: &File, at: u64, name: &str, bytes: &[u8]) -> io::Result<u64> {
    let content = at + BLOCK_BYTES as u64;
    let end = content + bytes.len() as u64;
    file.write_all_at(header(name, bytes.len() as u64)?.as_bytes(), at)?;
    file.write_all_at(bytes, content)?;
    let next = end.next_multiple_of(BLOCK_BYTES as u64);
    let padding = usize::try_from(next - end).expect("less than a block");
    file.write_all_at(&[0; BLOCK_BYTES][..padding], end)?;
    Ok(next)
}

/// The header of a member: of nobody, of no time, readable by all.
fn header(name: &str, bytes: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(EntryType::Regular);
    header.set_size(bytes);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header)
}

/// A bundle that is being read.
pub(super) struct Container {
    path: PathBuf,
    // The archive; none for a folder.
    archive: Option<File>,
    // Offset in the archive, and length.
    members: BTreeMap<String, (u64, u64)>,
}

impl Container {
    /// Looks at what is in a bundle, without reading it.
    pub(super) fn open(path: &Path) -> Result<Self, CheckError> {
        let failed = |source| CheckError::io("read", path, source);
        let kind = fs::metadata(path).map_err(failed)?;
        let mut container = Self { path: path.to_owned(), archive: None, members: BTreeMap::new() };
        if kind.is_dir() {
            container.list_folder("")?;
        } else if kind.is_file() {
            let file = File::open(path).map_err(failed)?;
            container.list_archive(&file, kind.len())?;
            container.archive = Some(file);
        } else {
            return Err(malformed("", "neither a file nor a folder"));
        }
        Ok(container)
    }

    /// The names of its members, and their lengths.
    pub(super) fn members(&self) -> impl Iterator<Item = (&str, u64)> {
        self.members.iter().map(|(name, (_, bytes))| (name.as_str(), *bytes))
    }

    /// Reads a member whole.
    pub(super) fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, CheckError> {
        let Some((offset, bytes)) = self.members.get(name).copied() else {
            return Err(BundleClass::MemberMissing.at(name, "it is not there"));
        };
        if bytes > bytes_max {
            return Err(malformed(name, format!("{bytes} bytes, where at most {bytes_max} belong")));
        }
        let failed = |source| CheckError::io("read", &self.path, source);
        let length = usize::try_from(bytes).map_err(|_| malformed(name, "too long for this machine"))?;
        match &self.archive {
            Some(file) => {
                let mut content = vec![0; length];
                file.read_exact_at(&mut content, offset).map_err(failed)?;
                Ok(content)
            }
            None => {
                let path = self.path.join(name);
                let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path);
                let mut content = Vec::with_capacity(length);
                file.and_then(|file| file.take(bytes).read_to_end(&mut content)).map_err(failed)?;
                Ok(content)
            }
        }
    }

    fn add(&mut self, name: &str, offset: u64, bytes: u64) -> Result<(), CheckError> {
        if self.members.len() == MEMBERS_MAX {
            return Err(malformed("", format!("more than {MEMBERS_MAX} members")));
        }
        match self.members.insert(name.to_owned(), (offset, bytes)) {
            None => Ok(()),
            Some(_) => Err(malformed(name, "it is there twice")),
        }
    }

    /// Lists an archive, and holds all of it but the contents to the one form it may have.
    fn list_archive(&mut self, file: &File, length: u64) -> Result<(), CheckError> {
        let cut =
            |what: &str| BundleClass::Proof(ProofClass::CutShort).at("", format!("the archive ends {what}"));
        let block = BLOCK_BYTES as u64;
        let mut at = 0;
        let mut last = String::new();
        loop {
            let mut bytes = [0; BLOCK_BYTES];
            if length - at < block {
                return Err(cut(&format!("behind member {last:?}")));
            }
            file.read_exact_at(&mut bytes, at)
                .map_err(|source| CheckError::io("read", &self.path, source))?;
            if bytes == [0; BLOCK_BYTES] {
                break;
            }
            let found = Header::from_byte_slice(&bytes);
            let name = found.path_bytes();
            let name = std::str::from_utf8(&name).map_err(|_| malformed("", "a name is no text"))?;
            let expected = found.size().and_then(|size| Ok((size, header(name, size)?)));
            let (size, expected) = expected.map_err(|_| not_ours(name))?;
            if expected.as_bytes() != &bytes {
                return Err(not_ours(name));
            }
            let content = at + block;
            let next = size.checked_next_multiple_of(block).and_then(|size| content.checked_add(size));
            let next =
                next.filter(|next| *next <= length).ok_or_else(|| cut(&format!("in member {name:?}")))?;
            let mut padding = vec![0; usize::try_from(next - content - size).expect("less than a block")];
            file.read_exact_at(&mut padding, content + size)
                .map_err(|source| CheckError::io("read", &self.path, source))?;
            if padding.iter().any(|byte| *byte != 0) {
                return Err(malformed(name, "bytes that are not zero stand behind it"));
            }
            self.add(name, content, size)?;
            name.clone_into(&mut last);
            at = next;
        }
        let mut end = vec![0; BLOCK_BYTES];
        match length - at {
            behind if behind < 2 * block => return Err(cut("before its last block")),
            behind if behind > 2 * block => return Err(malformed("", "bytes follow the end of the archive")),
            _ => {}
        }
        file.read_exact_at(&mut end, at + block)
            .map_err(|source| CheckError::io("read", &self.path, source))?;
        if end.iter().any(|byte| *byte != 0) {
            return Err(malformed("", "the last block of the archive is not empty"));
        }
        Ok(())
    }

    /// Lists a folder, and those in it one deep: members are nowhere else.
    fn list_folder(&mut self, below: &str) -> Result<(), CheckError> {
        let folder = self.path.join(below);
        let failed = |source| CheckError::io("list", &folder, source);
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().into_string().map_err(|_| malformed("", "a name is no text"))?;
            let name = format!("{below}{name}");
            // Of the entry itself: a link is none of these.
            let kind = entry.metadata().map_err(failed)?;
            if kind.is_file() {
                self.add(&name, 0, kind.len())?;
            } else if kind.is_dir() && below.is_empty() {
                self.list_folder(&format!("{name}/"))?;
            } else {
                return Err(malformed(&name, "no plain file"));
            }
        }
        Ok(())
    }
}

fn malformed(member: &str, detail: impl std::fmt::Display) -> CheckError {
    BundleClass::Proof(ProofClass::Malformed).at(member, detail)
}

fn not_ours(name: &str) -> CheckError {
    malformed(
        name,
        "its header is not as `edgate audit bundle` writes it; unpack the archive and give the folder",
    )
}

/// The unit of a tar archive.
const BLOCK_BYTES: usize = 512;
