//! CRC-32C of the records of a walk, three at a time where the CPU has an instruction for it.
//!
//! The instruction takes eight bytes a cycle but each waits three cycles for the one before, so one record alone leaves two
//! thirds of them unused. Elsewhere the `crc32c` crate does the work, one record after the other.

#[cfg(target_arch = "x86_64")]
mod sse42;
#[cfg(not(target_arch = "x86_64"))]
#[path = "checksums/none.rs"]
mod sse42;

use super::record::{HEADER_BYTES, checksum};
use sse42::Sse42;

/// What [`checksum`] is made of: a header and the body behind it.
type Parts<'a> = (&'a [u8; HEADER_BYTES], &'a [u8]);

/// Records whose checksums are made side by side.
const ABREAST: usize = 3;

/// The checksums of records, in their order. Keeps its memory from group to group.
pub(super) struct Checksums {
    cpu: Option<Sse42>,
    made: Vec<u32>,
}

impl Checksums {
    /// For the CPU at hand.
    pub(super) fn new() -> Self {
        Self { cpu: Sse42::detect(), made: Vec::new() }
    }

    /// Forgets the checksums so far and makes those of `records`.
    pub(super) fn of<'a>(&mut self, mut records: impl Iterator<Item = Parts<'a>>) {
        self.made.clear();
        while let Some(first) = records.next() {
            let (second, third) = (records.next(), records.next());
            match (self.cpu, second, third) {
                (Some(cpu), Some(second), Some(third)) => {
                    self.made.extend(cpu.checksums([first, second, third]));
                }
                _ => {
                    let group = [Some(first), second, third];
                    self.made.extend(group.iter().flatten().map(|(header, body)| checksum(header, body)));
                }
            }
        }
    }

    /// What [`Self::of`] made.
    pub(super) fn made(&self) -> &[u32] {
        &self.made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that repeat nowhere.
    fn noise(seed: u64, bytes: usize) -> Vec<u8> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        };
        std::iter::repeat_with(next).take(bytes).collect()
    }

    #[test]
    fn checksums_are_those_of_each_record_alone() {
        // Bodies around every multiple of what is taken at once, in groups of equal and of very different lengths.
        let lengths = (0..40).chain([95, 96, 97, 4096, 0, 7, 65_536, 1, 8, 200, 201]);
        let records: Vec<([u8; HEADER_BYTES], Vec<u8>)> = lengths
            .enumerate()
            .map(|(n, bytes)| {
                let header = noise(n as u64, HEADER_BYTES).try_into().unwrap();
                (header, noise(1000 + n as u64, bytes))
            })
            .collect();
        for cpu in [None, Sse42::detect()] {
            let mut checksums = Checksums { cpu, made: Vec::new() };
            for first in 0..records.len() {
                checksums.of(records[first..].iter().map(|(header, body)| (header, &body[..])));
                let alone: Vec<u32> =
                    records[first..].iter().map(|(header, body)| checksum(header, body)).collect();
                assert_eq!(checksums.made(), alone);
            }
        }
    }
}
