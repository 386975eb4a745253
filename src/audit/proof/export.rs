//! Writing the tree of a log as tiles, and its records' headers as entry bundles, so that a standard tlog tool can read
//! them and a proof needs no reading of the log.
//!
//! The folder's `checkpoint` is written last: what it covers is whole, and whatever lies beyond it is of an interrupted
//! run, is compared with what would be written, and replaced where it differs.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    error::{ProveError, read_checkpoint, same_log_continued},
    leaves::each_record,
    tile::{TILE_HEIGHT, TILE_LEVELS, TILE_WIDTH, Tile, TileTree},
};
use crate::audit::{
    error::AuditError,
    merkle::CompactRange,
    note::{Checkpoint, CheckpointKey},
    real::replace_file,
    real::{Lock, sync_folder},
    record::{HASHED_BYTES, Hash},
    sealer::CHECKPOINT_FILE,
    sha256::Hasher,
    stored::list_segments,
    verify::VerifyProgress,
    walk::Record,
};

/// What an export did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// The log's name.
    pub origin: String,
    /// Records the tiles covered before.
    pub before: u64,
    /// Records they cover now: those of the log's latest checkpoint.
    pub size: u64,
    /// Files written: tiles and entry bundles.
    pub files: u64,
}

/// Brings the tiles in `out` up to the latest checkpoint of the log in `dir`, which one of `keys` must have signed.
///
/// Repeatable, and continues from what is there; one run at a time, and a run that is interrupted leaves the checkpoint before, whole.
///
/// # Errors
/// When the records do not hash to the checkpoint, or it does not continue the one in `out`; then that one stays.
pub fn export_tiles(
    dir: &Path,
    out: &Path,
    keys: &[CheckpointKey],
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<Exported, ProveError> {
    let (target, note) = read_checkpoint(&dir.join(CHECKPOINT_FILE), keys)?;
    if !out.exists() {
        fs::create_dir(out).map_err(|error| AuditError::io("create", out, error))?;
    }
    // A log's folder has a checkpoint too, and what goes wrong with tiles is mended by removing their folder.
    if !list_segments(out).map_err(|error| AuditError::io("list", out, error))?.is_empty() {
        return Err(ProveError::HoldsALog { path: out.to_owned() });
    }
    let _lock = Lock::take(out)?;
    let path = out.join(CHECKPOINT_FILE);
    let done = match read_checkpoint(&path, keys) {
        Ok((done, _)) => {
            same_log_continued(&path, &done, &target)?;
            Some(done)
        }
        Err(ProveError::NoCheckpoint { .. }) => None,
        Err(error) => return Err(error),
    };
    let before = done.as_ref().map_or(0, |done| done.size);
    let mut exported = Exported { origin: target.origin.clone(), before, size: target.size, files: 0 };
    let mut writer = TileWriter::resume(out, done.as_ref())?;
    if done.is_some() && before == target.size {
        return Ok(exported);
    }
    let start = writer.levels[0].number * TILE_WIDTH;
    each_record(dir, start, target.size, progress, |record| {
        if record.header.seq >= start { writer.add(record) } else { Ok(()) }
    })?;
    exported.files = writer.finish(dir, &target, &note, before)?;
    Ok(exported)
}

/// The tiles that are not full yet, one per level.
struct TileWriter {
    out: PathBuf,
    levels: Vec<Level>,
    // The entry bundle that belongs to the tile of level 0.
    bundle: Vec<u8>,
    // Leaves of the tile of level 0 that an earlier run wrote.
    known: Vec<Hash>,
    hasher: Hasher,
    // Whose names are not durable yet.
    folders: BTreeSet<PathBuf>,
    files: u64,
}

struct Level {
    number: u64,
    hashes: Vec<Hash>,
}

impl TileWriter {
    /// Continues with the first tile of level 0 that is not full.
    fn resume(out: &Path, done: Option<&Checkpoint>) -> Result<Self, ProveError> {
        let size = done.map_or(0, |done| done.size);
        let tree = done.map(|done| TileTree::open(out, done.size, &done.root)).transpose()?;
        let edge = |level| tree.as_ref().map_or(&[][..], |tree| tree.edge(level));
        let levels = (0..TILE_LEVELS).map(|level| Level {
            number: Tile::edge(level, size).number,
            hashes: if level == 0 { Vec::new() } else { edge(level).to_vec() },
        });
        Ok(Self {
            out: out.to_owned(),
            levels: levels.collect(),
            bundle: Vec::new(),
            known: edge(0).to_vec(),
            hasher: Hasher::new(),
            folders: BTreeSet::new(),
            files: 0,
        })
    }

    fn add(&mut self, record: &Record<'_>) -> Result<(), ProveError> {
        let seq = record.header.seq;
        let leaves = &mut self.levels[0].hashes;
        if self.known.get(leaves.len()).is_some_and(|known| *known != record.hash) {
            return Err(ProveError::Rollback(format!(
                "record {seq} is not the one that was exported before"
            )));
        }
        leaves.push(record.hash);
        self.bundle.extend_from_slice(&ENTRY_BYTES.to_be_bytes());
        self.bundle.extend_from_slice(&record.header.to_bytes()[..HASHED_BYTES]);
        if leaves.len() as u64 == TILE_WIDTH {
            self.known.clear();
            self.put_bundle()?;
            self.bundle.clear();
            self.close_full()?;
        }
        Ok(())
    }

    /// Writes the tile of level 0, which is full, and those above that its head fills.
    fn close_full(&mut self) -> Result<(), ProveError> {
        for level in 0.. {
            self.put_tile(level)?;
            let full = &mut self.levels[level];
            let mut range = CompactRange::new(0);
            range.extend(&full.hashes, &mut self.hasher);
            full.number += 1;
            full.hashes.clear();
            let above = &mut self.levels[level + 1].hashes;
            above.push(range.head().expect("a full tile has hashes"));
            if (above.len() as u64) < TILE_WIDTH {
                break;
            }
        }
        Ok(())
    }

    /// Writes the tiles that are not full, and, once they hash to it, the checkpoint.
    fn finish(mut self, dir: &Path, target: &Checkpoint, note: &str, before: u64) -> Result<u64, ProveError> {
        let mut range = CompactRange::new(0);
        for level in (0..TILE_LEVELS).rev() {
            let hashes = &self.levels[level as usize].hashes;
            hashes.iter().for_each(|hash| range.push_subtree(TILE_HEIGHT * level, hash));
        }
        if (range.end(), range.root()) != (target.size, Some(target.root)) {
            return Err(ProveError::Unvouched { dir: dir.to_owned(), size: target.size });
        }
        for level in 0..self.levels.len() {
            if !self.levels[level].hashes.is_empty() {
                self.put_tile(level)?;
            }
        }
        if !self.bundle.is_empty() {
            self.put_bundle()?;
        }
        let out = &self.out;
        let failed = |what| move |source: io::Error| AuditError::io(what, out, source);
        self.folders.iter().try_for_each(|folder| sync_folder(folder)).map_err(failed("sync a folder of"))?;
        replace_file(out, CHECKPOINT_FILE, note.as_bytes()).map_err(failed("write the checkpoint of"))?;
        self.remove_outgrown(before, target.size).map_err(failed("remove an outgrown tile of"))?;
        Ok(self.files)
    }

    /// Removes the partial tiles of the checkpoint before whose full tiles are there now.
    fn remove_outgrown(&self, before: u64, size: u64) -> io::Result<()> {
        for level in 0..TILE_LEVELS {
            let old = Tile::edge(level, before);
            if old.width == 0 || Tile::of(level, old.number, size).width < TILE_WIDTH {
                continue;
            }
            let entries = (level == 0).then(|| old.entries_path());
            for path in [Some(old.path()), entries].into_iter().flatten() {
                let folder = self.out.join(path);
                match fs::remove_dir_all(folder.parent().expect("partial tiles lie in a folder of their own"))
                {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn put_tile(&mut self, level: usize) -> Result<(), ProveError> {
        let Level { number, hashes } = &self.levels[level];
        let level = u32::try_from(level).expect("eight levels");
        let tile = Tile { level, number: *number, width: hashes.len() as u64 };
        let bytes = hashes.concat();
        self.put(&tile.path(), &bytes)
    }

    fn put_bundle(&mut self) -> Result<(), ProveError> {
        let Level { number, hashes } = &self.levels[0];
        let tile = Tile { level: 0, number: *number, width: hashes.len() as u64 };
        let bundle = std::mem::take(&mut self.bundle);
        let put = self.put(&tile.entries_path(), &bundle);
        self.bundle = bundle;
        put
    }

    /// Writes a file whole, unless it is there with this content. Its name is durable once `folders` are.
    fn put(&mut self, path: &Path, bytes: &[u8]) -> Result<(), ProveError> {
        let path = self.out.join(path);
        let folder = path.parent().expect("tiles lie in folders").to_owned();
        let write = || -> io::Result<bool> {
            if fs::read(&path).is_ok_and(|stored| stored == bytes) {
                return Ok(false);
            }
            fs::create_dir_all(&folder)?;
            let draft = path.with_added_extension("new");
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&draft)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            Ok(true)
        };
        let written = write().map_err(|error| AuditError::io("write", &path, error))?;
        self.files += u64::from(written);
        // An interrupted run may have left a file whose name is not durable.
        let ours = folder.ancestors().take_while(|folder| folder.starts_with(&self.out));
        self.folders.extend(ours.map(Path::to_owned));
        Ok(())
    }
}

/// The length before each entry of a bundle.
const ENTRY_BYTES: u16 = 116;
const _: () = assert!(ENTRY_BYTES as usize == HASHED_BYTES, "an entry is what the event hash covers");
