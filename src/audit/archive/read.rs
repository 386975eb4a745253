//! Reading a segment out of its archive.

use std::{cell::RefCell, fs::File, io, os::unix::fs::FileExt as _};

use sha2::{Digest as _, Sha256};

use super::{
    BLOCK_BYTES, BLOCK_HEADER_BYTES, BlockHeader, FILE_HEADER_BYTES, MAGIC, SEGMENT_BYTES_MAX, Unreadable,
    block,
};
use crate::audit::record::Hash;

/// Where an archive's bytes lie.
#[derive(Debug)]
enum Bytes {
    File(File),
    Memory(Vec<u8>),
}

/// An archive, opened. Holds one restored block at a time.
#[derive(Debug)]
pub(in crate::audit) struct Archive {
    bytes: Bytes,
    len: u64,
    blocks: Vec<Place>,
    restored: RefCell<Option<(usize, Vec<u8>)>>,
    damage: RefCell<Option<Damage>>,
}

/// What of an archive cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::audit) struct Damage {
    /// From where on in the segment.
    pub(in crate::audit) offset: u64,
    pub(in crate::audit) cause: String,
}

/// A block, and where its compressed content lies in the archive. `None` of a header: what stands there is no block.
#[derive(Debug)]
struct Place {
    offset: u64,
    len: u64,
    block: Option<(BlockHeader, u64)>,
}

impl Archive {
    /// Opens the archive of segment `index` that `file` holds.
    ///
    /// # Errors
    /// When the file cannot be read. An archive that is damaged is opened, and reads as such.
    pub(in crate::audit) fn open(file: File, index: u64) -> io::Result<Self> {
        Self::of(Bytes::File(file), index)
    }

    /// As [`Self::open`], of bytes at hand.
    pub(in crate::audit) fn from_bytes(bytes: Vec<u8>, index: u64) -> io::Result<Self> {
        Self::of(Bytes::Memory(bytes), index)
    }

    fn of(bytes: Bytes, index: u64) -> io::Result<Self> {
        let mut archive = Self {
            bytes,
            len: 0,
            blocks: Vec::new(),
            restored: RefCell::default(),
            damage: RefCell::default(),
        };
        let found = archive.list(index)?;
        if let Err(Unreadable(cause)) = found {
            let from = archive.blocks.last().map_or(0, |last| last.offset + last.len);
            archive.len = archive.len.max(from + UNREADABLE.len() as u64);
            for offset in (from..archive.len).step_by(BLOCK_BYTES) {
                let len = (archive.len - offset).min(BLOCK_BYTES as u64);
                archive.blocks.push(Place { offset, len, block: None });
            }
            archive.note(from, cause);
        }
        Ok(archive)
    }

    /// Bytes of the segment.
    pub(in crate::audit) const fn len(&self) -> u64 {
        self.len
    }

    /// The first damage met so far.
    pub(in crate::audit) fn damage(&self) -> Option<Damage> {
        self.damage.borrow().clone()
    }

    /// Reads bytes of the segment; fewer than asked for at the end of a block, none at the end of the segment.
    pub(in crate::audit) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let behind = self.blocks.partition_point(|place| place.offset + place.len <= offset);
        let Some(place) = self.blocks.get(behind) else {
            // Nothing but zeros, which are not kept.
            let left = usize::try_from(self.len.saturating_sub(offset)).map_err(io::Error::other)?;
            let read = left.min(buffer.len());
            buffer[..read].fill(0);
            return Ok(read);
        };
        let mut restored = self.restored.borrow_mut();
        if restored.as_ref().is_none_or(|(number, _)| *number != behind) {
            *restored = None;
            *restored = Some((behind, self.restore(place)?));
        }
        let bytes = restored.as_ref().map_or(&[][..], |(_, bytes)| bytes);
        let from = usize::try_from(offset - place.offset).map_err(io::Error::other)?;
        let read = (bytes.len() - from).min(buffer.len());
        buffer[..read].copy_from_slice(&bytes[from..from + read]);
        Ok(read)
    }

    /// Finds the blocks; those before the first that is none are kept.
    fn list(&mut self, index: u64) -> io::Result<Result<(), Unreadable>> {
        let size = self.size()?;
        let mut header = [0; FILE_HEADER_BYTES];
        if !self.read_exact(&mut header, 0)? || header[..8] != MAGIC {
            return Ok(Err(Unreadable("this is no archive, or one of a later version")));
        }
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let len = number(16);
        if number(8) != index {
            return Ok(Err(Unreadable("this is the archive of another segment")));
        }
        if len > SEGMENT_BYTES_MAX || header[28..] != [0; 4] {
            return Ok(Err(Unreadable("the header of the archive is damaged")));
        }
        self.len = len;
        let count = u32::from_le_bytes(header[24..28].try_into().expect("four bytes"));
        let (mut at, mut offset) = (FILE_HEADER_BYTES as u64, 0);
        for _ in 0..count {
            let mut bytes = [0; BLOCK_HEADER_BYTES];
            if !self.read_exact(&mut bytes, at)? {
                return Ok(Err(Unreadable("the archive is cut")));
            }
            let block = match BlockHeader::parse(&bytes) {
                Ok(block) => block,
                Err(unreadable) => return Ok(Err(unreadable)),
            };
            at += BLOCK_HEADER_BYTES as u64;
            if block.offset != offset || offset + u64::from(block.len) > len {
                return Ok(Err(Unreadable("a block is not where it belongs")));
            }
            self.blocks.push(Place { offset, len: block.len.into(), block: Some((block, at)) });
            offset += u64::from(block.len);
            at += u64::from(block.packed_len);
        }
        Ok(if at == size { Ok(()) } else { Err(Unreadable("the archive does not end with its last block")) })
    }

    fn restore(&self, place: &Place) -> io::Result<Vec<u8>> {
        let garbage = || {
            let len = usize::try_from(place.len).map_err(io::Error::other)?;
            Ok(UNREADABLE.iter().copied().cycle().take(len).collect())
        };
        let Some((block, at)) = &place.block else { return garbage() };
        let mut packed = vec![0; block.packed_len as usize];
        let restored = if self.read_exact(&mut packed, *at)? { unpack(block, &packed) } else { Err(CUT) };
        restored.or_else(|Unreadable(cause)| {
            self.note(place.offset, cause);
            garbage()
        })
    }

    fn note(&self, offset: u64, cause: &str) {
        let mut damage = self.damage.borrow_mut();
        if damage.as_ref().is_none_or(|known| offset < known.offset) {
            *damage = Some(Damage { offset, cause: format!("the archive cannot be restored here: {cause}") });
        }
    }

    fn size(&self) -> io::Result<u64> {
        match &self.bytes {
            Bytes::File(file) => Ok(file.metadata()?.len()),
            Bytes::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }

    /// Whether the archive has that many bytes there.
    fn read_exact(&self, buffer: &mut [u8], at: u64) -> io::Result<bool> {
        match &self.bytes {
            Bytes::File(file) => match file.read_exact_at(buffer, at) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
                Err(error) => Err(error),
            },
            Bytes::Memory(bytes) => {
                let at = usize::try_from(at).map_err(io::Error::other)?;
                let found = bytes.get(at..).and_then(|bytes| bytes.get(..buffer.len()));
                Ok(found.is_some_and(|found| {
                    buffer.copy_from_slice(found);
                    true
                }))
            }
        }
    }
}

/// The bytes of the segment that a block stands for.
fn unpack(block: &BlockHeader, packed: &[u8]) -> Result<Vec<u8>, Unreadable> {
    if <Hash>::from(Sha256::digest(packed)) != block.digest {
        return Err(Unreadable("a block does not match its digest"));
    }
    let (len, content_len) = (block.len as usize, block.content_len as usize);
    // No more is made than the header, which was checked, allows for.
    let content = zstd::bulk::decompress(packed, content_len)
        .ok()
        .filter(|content| content.len() == content_len)
        .ok_or(Unreadable("a block cannot be decompressed"))?;
    match block.records {
        0 if content_len == len => Ok(content),
        0 => Err(Unreadable("a block has another length than it says")),
        records => block::decode(&content, records as usize, len, block.first_seq, &block.prev_hash),
    }
}

const CUT: Unreadable = Unreadable("the archive is cut");

/// What reads where nothing can be restored: no record starts with it, and no zeros.
const UNREADABLE: [u8; 8] = [0xFF; 8];
