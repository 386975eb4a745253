//! Which arithmetic verifies: chosen at run time.

use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::Scalar;

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::key::Table;
use super::portable;

/// Which arithmetic verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// The fastest this CPU has, chosen at run time.
    Auto,
    /// `curve25519-dalek`, on any CPU.
    Portable,
}

/// An engine as this CPU runs it now.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arithmetic {
    #[cfg(target_arch = "x86_64")]
    Lanes(avx512::Avx512),
    Portable,
}

impl Arithmetic {
    pub(super) fn of(engine: Engine) -> Self {
        match engine {
            #[cfg(target_arch = "x86_64")]
            Engine::Auto => avx512::Avx512::detect().map_or(Self::Portable, Self::Lanes),
            #[cfg(not(target_arch = "x86_64"))]
            Engine::Auto => Self::Portable,
            Engine::Portable => Self::Portable,
        }
    }

    /// The multiples of `point`, which is of order L.
    pub(super) fn table(self, point: &EdwardsPoint) -> Table {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Lanes(cpu) => Table::Lanes(cpu.key_comb(&half(point))),
            Self::Portable => Table::Portable(portable::Comb::of_key(point)),
        }
    }

    /// Memory of one such table.
    pub(super) const fn table_bytes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Lanes(_) => avx512::KEY_COMB_BYTES,
            Self::Portable => portable::KEY_COMB_BYTES,
        }
    }

    pub(super) const fn reads(self, table: &Table) -> bool {
        match (self, table) {
            #[cfg(target_arch = "x86_64")]
            (Self::Lanes(_), Table::Lanes(_)) => true,
            (Self::Portable, Table::Portable(_)) => true,
            #[cfg(target_arch = "x86_64")]
            (Self::Lanes(_), Table::Portable(_)) | (Self::Portable, Table::Lanes(_)) => false,
        }
    }
}

/// The encoding of the point whose double is `point`, of order L.
#[cfg(target_arch = "x86_64")]
pub(super) fn half(point: &EdwardsPoint) -> [u8; 32] {
    (point * Scalar::from(2_u8).invert()).compress().0
}
