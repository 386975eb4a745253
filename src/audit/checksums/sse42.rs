//! CRC-32C with the instruction of SSE4.2, three records at once.
//!
//! `unsafe` is confined to one call into the function compiled for the CPU feature that [`Sse42`] proves.

use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u32, _mm_crc32_u64};

use super::{ABREAST, Parts};
use crate::audit::record::HASHED_BYTES;

/// Proof that this CPU has the instruction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sse42(());

impl Sse42 {
    /// Asks the CPU.
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("sse4.2").then_some(Self(()))
    }

    /// The checksum of each record, as [`crate::audit::record::checksum`] has it.
    #[expect(unsafe_code, reason = "calls a function compiled for a detected CPU feature")]
    pub(super) fn checksums(self, records: [Parts<'_>; ABREAST]) -> [u32; ABREAST] {
        // SAFETY: the feature `checksums` is compiled for is the one whose detection made `self`.
        unsafe { checksums(records) }
    }
}

#[target_feature(enable = "sse4.2")]
fn checksums(records: [Parts<'_>; ABREAST]) -> [u32; ABREAST] {
    let headers = records.map(|(header, _)| header[..HASHED_BYTES].as_chunks::<8>());
    let bodies = records.map(|(_, body)| body.as_chunks::<8>());
    let mut crcs = [u64::from(u32::MAX); ABREAST];
    abreast(&mut crcs, headers.map(|(words, _)| words));
    for (crc, (_, last)) in crcs.iter_mut().zip(headers) {
        let last = u32::from_le_bytes(*last.first_chunk().expect("four bytes behind the last eight"));
        *crc = u64::from(_mm_crc32_u32(low(*crc), last));
    }
    let shared = bodies.iter().map(|(words, _)| words.len()).min().unwrap_or(0);
    abreast(&mut crcs, bodies.map(|(words, _)| &words[..shared]));
    let mut sums = [0; ABREAST];
    for ((sum, mut crc), (words, bytes)) in sums.iter_mut().zip(crcs).zip(bodies) {
        for word in &words[shared..] {
            crc = _mm_crc32_u64(crc, u64::from_le_bytes(*word));
        }
        *sum = !bytes.iter().fold(low(crc), |crc, byte| _mm_crc32_u8(crc, *byte));
    }
    sums
}

/// Goes on with as many words of each as the shortest has.
#[inline]
#[target_feature(enable = "sse4.2")]
fn abreast(crcs: &mut [u64; ABREAST], [a, b, c]: [&[[u8; 8]]; ABREAST]) {
    let [mut crc_a, mut crc_b, mut crc_c] = *crcs;
    for ((a, b), c) in a.iter().zip(b).zip(c) {
        crc_a = _mm_crc32_u64(crc_a, u64::from_le_bytes(*a));
        crc_b = _mm_crc32_u64(crc_b, u64::from_le_bytes(*b));
        crc_c = _mm_crc32_u64(crc_c, u64::from_le_bytes(*c));
    }
    *crcs = [crc_a, crc_b, crc_c];
}

/// The instruction leaves the upper half zero.
const fn low(crc: u64) -> u32 {
    let [a, b, c, d, ..] = crc.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

const _: () = assert!(HASHED_BYTES % 8 == 4, "the hashed part of a header ends with four bytes");
