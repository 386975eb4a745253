//! Where no lane kernel exists: nothing is ever detected.

use super::{Block, Hash, LANES};

#[derive(Clone, Copy, Debug)]
pub(super) enum Avx512 {}

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        None
    }

    pub(super) fn hashes(self, _: &[&[Block]; LANES]) -> [Hash; LANES] {
        match self {}
    }

    pub(super) fn macs(self, _: &[u32; 8], _: &[u32; 8], _: &[&Block; LANES]) -> [Hash; LANES] {
        match self {}
    }
}
