//! Eight 64-bit lanes: conversions between the vector type and plain words.

use std::arch::x86_64::*;

/// Eight unsigned 64-bit numbers, one per item.
pub(super) type Lanes = __m512i;

/// The same word in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn splat(word: u64) -> Lanes {
    _mm512_set1_epi64(word.cast_signed())
}

/// The lanes as words, lane 0 first.
#[inline]
#[expect(unsafe_code, reason = "reinterprets a vector as the words it is made of")]
pub(super) fn to_words(lanes: Lanes) -> [u64; 8] {
    // SAFETY: both types are 64 bytes of plain integers without padding or invalid values; x86 is little-endian, so
    // lane 0 is word 0.
    unsafe { std::mem::transmute::<Lanes, [u64; 8]>(lanes) }
}

/// The words as lanes, word 0 in lane 0.
#[inline]
#[expect(unsafe_code, reason = "reinterprets words as the vector they make up")]
pub(super) fn from_words(words: [u64; 8]) -> Lanes {
    // SAFETY: as in `to_words`; every bit pattern is a value of both types.
    unsafe { std::mem::transmute::<[u64; 8], Lanes>(words) }
}

/// 32 bytes as a vector.
#[inline]
#[expect(unsafe_code, reason = "reinterprets bytes as the vector they make up")]
pub(super) const fn load_256(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: both types are 32 bytes of plain integers; the transmute copies, so alignment does not matter.
    unsafe { std::mem::transmute::<[u8; 32], __m256i>(*bytes) }
}

/// Four words of each of eight rows: vector i holds word i of every row, row j in lane j.
///
/// Two rows share a register from the load on, so that only 8 of the 12 steps need the shuffle port.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transposed(rows: [&__m256i; 8]) -> [Lanes; 4] {
    let r02 = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(*rows[0]), *rows[2]);
    let r13 = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(*rows[1]), *rows[3]);
    let r46 = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(*rows[4]), *rows[6]);
    let r57 = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(*rows[5]), *rows[7]);
    // 128-bit quarters: words 0 of rows 0 1 | words 2 of rows 0 1 | words 0 of rows 2 3 | words 2 of rows 2 3.
    let (even_low, even_high) = (_mm512_unpacklo_epi64(r02, r13), _mm512_unpacklo_epi64(r46, r57));
    let (odd_low, odd_high) = (_mm512_unpackhi_epi64(r02, r13), _mm512_unpackhi_epi64(r46, r57));
    [
        _mm512_shuffle_i64x2::<0b10_00_10_00>(even_low, even_high),
        _mm512_shuffle_i64x2::<0b10_00_10_00>(odd_low, odd_high),
        _mm512_shuffle_i64x2::<0b11_01_11_01>(even_low, even_high),
        _mm512_shuffle_i64x2::<0b11_01_11_01>(odd_low, odd_high),
    ]
}

/// Asks for the two cache lines `entry` lies in.
#[inline]
#[expect(unsafe_code, reason = "the intrinsic takes a raw pointer")]
pub(super) fn prefetch<T>(entry: &T) {
    let first = std::ptr::from_ref(entry).cast::<i8>();
    // SAFETY: SSE is part of every x86-64 CPU; a prefetch reads nothing the program can observe and faults on no address;
    // both pointers are derived from a live reference, the second to its last byte.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(first);
        _mm_prefetch::<_MM_HINT_T0>(first.add(size_of::<T>() - 1));
    }
}
