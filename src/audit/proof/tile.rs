//! The tree as C2SP tlog-tiles: a file for every 256 neighbouring heads of one size.
//!
//! Tiles are made from the log (`export.rs`) and not trusted. A tile is believed only where its head is the hash that
//! the tile above has for it, and so on up to the right edge of the tree, whose tiles together must hash to the signed
//! root. So a tile with a wrong bit is found, by name, before a proof is made of it.

use std::{
    collections::HashMap,
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use super::{error::ProveError, subtrees};
use crate::audit::{
    error::AuditError,
    merkle::{CompactRange, head_of},
    record::Hash,
    sha256::Hasher,
};

/// Hashes in a full tile.
pub(super) const TILE_WIDTH: u64 = 256;

/// Levels of the tree that one level of tiles spans.
pub(super) const TILE_HEIGHT: u32 = 8;

/// Levels of tiles: the largest log has 2^63 records.
pub(super) const TILE_LEVELS: u32 = 8;

/// Which tile: the tile at `level` and `number` of a tree has the heads over 256^`level` leaves each from
/// `number` * 256 on, and there are `width` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    pub(super) level: u32,
    pub(super) number: u64,
    pub(super) width: u64,
}

impl Tile {
    /// The tile of that place in a tree of `size` leaves; its width may be 0.
    pub(super) fn of(level: u32, number: u64, size: u64) -> Self {
        let hashes = size >> (TILE_HEIGHT * level);
        let width = hashes.saturating_sub(number.saturating_mul(TILE_WIDTH)).min(TILE_WIDTH);
        Self { level, number, width }
    }

    /// The last tile of a level in a tree of `size` leaves if it is not full; empty where the level ends with a full one.
    pub(super) fn edge(level: u32, size: u64) -> Self {
        Self::of(level, (size >> (TILE_HEIGHT * level)) / TILE_WIDTH, size)
    }

    /// Where the tile lies: `tile/<L>/<N>`, and `.p/<W>` if it is not full.
    pub(super) fn path(self) -> PathBuf {
        path_of(&self.level.to_string(), self.number, self.width)
    }

    /// Where the records of a tile of level 0 lie.
    pub(super) fn entries_path(self) -> PathBuf {
        path_of("entries", self.number, self.width)
    }
}

/// `tile/<folder>/<N>[.p/<W>]`, with N in groups of three digits, all but the last with an `x` before it.
fn path_of(folder: &str, number: u64, width: u64) -> PathBuf {
    let mut path = format!("{:03}", number % 1000);
    let mut rest = number / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    let suffix = if width == TILE_WIDTH { String::new() } else { format!(".p/{width}") };
    PathBuf::from(format!("tile/{folder}/{path}{suffix}"))
}

/// A tree in tiles, as far as it was read. Every hash it yields is part of the signed tree.
pub(super) struct TileTree {
    folder: PathBuf,
    size: u64,
    tiles: HashMap<(u32, u64), Vec<Hash>>,
    hasher: Hasher,
}

impl TileTree {
    /// Reads the right edge of the tree of `size` leaves and compares its head with the signed one.
    pub(super) fn open(folder: &Path, size: u64, root: &Hash) -> Result<Self, ProveError> {
        let mut tree = Self { folder: folder.to_owned(), size, tiles: HashMap::new(), hasher: Hasher::new() };
        let mut range = CompactRange::new(0);
        for level in (0..TILE_LEVELS).rev() {
            let tile = Tile::edge(level, size);
            if tile.width > 0 {
                let hashes = tree.read(tile)?;
                hashes.iter().for_each(|hash| range.push_subtree(TILE_HEIGHT * level, hash));
                tree.tiles.insert((level, tile.number), hashes);
            }
        }
        if range.root() != Some(*root) {
            return Err(tree.blame_edge());
        }
        Ok(tree)
    }

    /// The hashes of the last tile of a level, where it is not full.
    pub(super) fn edge(&self, level: u32) -> &[Hash] {
        let tile = Tile::edge(level, self.size);
        self.tiles.get(&(level, tile.number)).map_or(&[], |hashes| hashes)
    }

    /// Leaf `index`.
    pub(super) fn leaf(&mut self, index: u64) -> Result<Hash, ProveError> {
        Ok(self.tile(0, index / TILE_WIDTH)?[at(index)])
    }

    /// The head over a run of a path.
    pub(super) fn head(&mut self, run: &Range<u64>) -> Result<Hash, ProveError> {
        let heads: Result<_, _> = subtrees(run).map(|(level, number)| self.node(level, number)).collect();
        Ok(head_of(heads?).expect("a run of a path has leaves"))
    }

    /// The head of a perfect subtree of 2^`level` leaves.
    fn node(&mut self, level: u32, number: u64) -> Result<Hash, ProveError> {
        let (tile_level, above) = (level / TILE_HEIGHT, level % TILE_HEIGHT);
        let first = number << above;
        let tile = self.tile(tile_level, first / TILE_WIDTH)?;
        let row = tile[at(first)..][..1 << above].to_vec();
        Ok(self.head_over(&row))
    }

    fn head_over(&mut self, row: &[Hash]) -> Hash {
        let mut range = CompactRange::new(0);
        range.extend(row, &mut self.hasher);
        range.head().expect("the row is not empty")
    }

    /// A tile that the tile above vouches for.
    fn tile(&mut self, level: u32, number: u64) -> Result<&[Hash], ProveError> {
        // The tiles at the edge were read when the tree was opened, so this one, if it is none of them, is full.
        if !self.tiles.contains_key(&(level, number)) {
            let tile = Tile { level, number, width: TILE_WIDTH };
            let above = Tile::of(level + 1, number / TILE_WIDTH, self.size);
            let expected = self.tile(above.level, above.number)?[at(number)];
            let hashes = self.read(tile)?;
            if self.head_over(&hashes) != expected {
                return Err(self.wrong(tile, format!("its head is not what {} has", above.path().display())));
            }
            self.tiles.insert((level, number), hashes);
        }
        Ok(&self.tiles[&(level, number)])
    }

    /// Reads a tile, or as much as is wanted of the full one that took its place.
    fn read(&self, tile: Tile) -> Result<Vec<Hash>, ProveError> {
        let full = Tile { width: TILE_WIDTH, ..tile };
        let bytes = match fs::read(self.folder.join(tile.path())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && tile != full => {
                fs::read(self.folder.join(full.path()))
            }
            read => read,
        };
        let path = self.folder.join(tile.path());
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(self.wrong(tile, "it is missing".to_owned()));
            }
            Err(error) => return Err(AuditError::io("read", &path, error).into()),
        };
        let (hashes, rest) = bytes.as_chunks::<32>();
        let width = usize::try_from(tile.width).expect("at most 256");
        if !rest.is_empty() || hashes.len() < width || hashes.len() as u64 > TILE_WIDTH {
            return Err(self.wrong(tile, format!("it has {} bytes", bytes.len())));
        }
        Ok(hashes[..width].to_vec())
    }

    /// Which tile is to blame for a right edge that does not hash to the root.
    fn blame_edge(&mut self) -> ProveError {
        for level in 1..TILE_LEVELS {
            let edge = Tile::edge(level, self.size);
            for (number, expected) in (edge.number * TILE_WIDTH..).zip(self.edge(level).to_vec()) {
                let below = Tile { level: level - 1, number, width: TILE_WIDTH };
                match self.read(below) {
                    Err(error) => return error,
                    Ok(hashes) if self.head_over(&hashes) != expected => {
                        let cause =
                            format!("its hash {} is not the head of {}", at(number), below.path().display());
                        return self.wrong(edge, cause);
                    }
                    Ok(_) => {}
                }
            }
        }
        let edge = Tile::edge(0, self.size);
        let cause = "it, or a tile before it, is not of the signed tree, though the tiles fit one another";
        self.wrong(edge, cause.to_owned())
    }

    fn wrong(&self, tile: Tile, cause: String) -> ProveError {
        ProveError::Tile { path: self.folder.join(tile.path()), cause }
    }
}

/// The place of a hash in its tile.
fn at(number: u64) -> usize {
    usize::from(u8::try_from(number % TILE_WIDTH).expect("a remainder of 256"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_named_as_the_standard_names_them() {
        let path = |level, number, width| Tile { level, number, width }.path();
        assert_eq!(path(0, 1_234_067, 256), Path::new("tile/0/x001/x234/067"));
        assert_eq!(path(1, 0, 256), Path::new("tile/1/000"));
        assert_eq!(path(2, 5, 17), Path::new("tile/2/005.p/17"));
        let last = Tile { level: 0, number: 273, width: 112 };
        assert_eq!(last.entries_path(), Path::new("tile/entries/273.p/112"));
    }

    /// The examples of the standard.
    #[test]
    fn partial_tiles_are_those_of_the_standard() {
        let widths = |size| (0..3).map(|level| Tile::edge(level, size).width).collect::<Vec<_>>();
        assert_eq!(widths(70_000), [112, 17, 1]);
        assert_eq!(Tile::edge(0, 70_000).number, 273);
        assert_eq!(widths(256), [0, 1, 0]);
        assert_eq!(Tile::of(0, 0, 256).width, 256);
        assert_eq!(Tile::of(1, 1, 70_000).width, 17);
    }
}
