//! Where there is no such instruction: nothing is ever detected.

use super::{ABREAST, Parts};

#[derive(Clone, Copy, Debug)]
pub(super) enum Sse42 {}

impl Sse42 {
    pub(super) fn detect() -> Option<Self> {
        None
    }

    pub(super) fn checksums(self, _: [Parts<'_>; ABREAST]) -> [u32; ABREAST] {
        match self {}
    }
}
