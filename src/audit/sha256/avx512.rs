//! SHA-256 of sixteen messages at once, one per 32-bit lane (FIPS 180-4 §6.2), on AVX-512.
//!
//! Lanes may have different numbers of blocks: a lane that is done keeps its state while the others go on.
//!
//! `unsafe` is confined to this file: calls into functions compiled for the CPU features that [`Avx512`] proves, and vectors
//! read as the bytes they are made of.

use std::arch::x86_64::*;
use std::array;

use super::{Block, Hash, INITIAL_STATE, LANES};

/// Proof that this CPU runs the lane kernels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512(());

/// Sixteen unsigned 32-bit numbers, one per message.
type Lanes = __m512i;

impl Avx512 {
    /// Asks the CPU (and the operating system, through XCR0).
    pub(super) fn detect() -> Option<Self> {
        // What the kernels are compiled for (the last two), and what the compiler takes `avx512f` to include: a hypervisor
        // may show a CPU that has one without the other.
        let detected = is_x86_feature_detected!("sse3")
            && is_x86_feature_detected!("ssse3")
            && is_x86_feature_detected!("sse4.1")
            && is_x86_feature_detected!("sse4.2")
            && is_x86_feature_detected!("avx")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw");
        detected.then_some(Self(()))
    }

    /// The SHA-256 states after the blocks of sixteen messages, as bytes; a lane without a block yields a value without meaning.
    #[expect(unsafe_code, reason = "calls a function compiled for detected CPU features")]
    pub(super) fn hashes(self, messages: &[&[Block]; LANES]) -> [Hash; LANES] {
        // SAFETY: the features `hashes` is compiled for are the ones whose detection made `self`.
        unsafe { hashes(messages) }
    }

    /// HMAC-SHA-256 of sixteen messages of one padded block each, under the states after the key's two blocks (RFC 2104).
    #[expect(unsafe_code, reason = "calls a function compiled for detected CPU features")]
    pub(super) fn macs(self, inner: &[u32; 8], outer: &[u32; 8], blocks: &[&Block; LANES]) -> [Hash; LANES] {
        // SAFETY: the features `macs` is compiled for are the ones whose detection made `self`.
        unsafe { macs(inner, outer, blocks) }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn hashes(messages: &[&[Block]; LANES]) -> [Hash; LANES] {
    let longest = messages.iter().map(|message| message.len()).max().unwrap_or(0);
    let mut state = splat_each(&INITIAL_STATE);
    for at in 0..longest {
        let mut active = 0_u16;
        let blocks: [&Block; LANES] = array::from_fn(|lane| {
            let block = messages[lane].get(at);
            active |= u16::from(block.is_some()) << lane;
            block.unwrap_or(&[0; 64])
        });
        let next = compressed(&state, message_words(&blocks));
        for (word, next) in state.iter_mut().zip(next) {
            *word = _mm512_mask_mov_epi32(*word, active, next);
        }
    }
    bytes_of(&state)
}

#[target_feature(enable = "avx512f,avx512bw")]
fn macs(inner: &[u32; 8], outer: &[u32; 8], blocks: &[&Block; LANES]) -> [Hash; LANES] {
    let [w0, w1, w2, w3, w4, w5, w6, w7] = compressed(&splat_each(inner), message_words(blocks));
    // The inner hash and its padding behind one block of key: 96 bytes.
    let (one, zero, bits) = (splat(0x8000_0000), splat(0), splat(8 * 96));
    let second = [w0, w1, w2, w3, w4, w5, w6, w7, one, zero, zero, zero, zero, zero, zero, bits];
    bytes_of(&compressed(&splat_each(outer), second))
}

/// The sixteen big-endian words of each lane's block, word i of each in vector i.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn message_words(blocks: &[&Block; LANES]) -> [Lanes; 16] {
    let mut words = [splat(0); 16];
    for (word, block) in words.iter_mut().zip(blocks) {
        *word = swapped_bytes(load(block));
    }
    transposed(&words)
}

/// Each lane's eight words, big-endian.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn bytes_of(state: &[Lanes; 8]) -> [Hash; LANES] {
    let mut words = [splat(0); 16];
    for (word, state) in words.iter_mut().zip(state) {
        *word = swapped_bytes(*state);
    }
    let mut hashes = [[0; 32]; LANES];
    for (hash, row) in hashes.iter_mut().zip(transposed(&words)) {
        *hash = first_half(row);
    }
    hashes
}

/// The same words in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn splat_each(words: &[u32; 8]) -> [Lanes; 8] {
    let mut lanes = [splat(0); 8];
    for (lane, word) in lanes.iter_mut().zip(words) {
        *lane = splat(*word);
    }
    lanes
}

/// The state after one block.
#[inline]
#[target_feature(enable = "avx512f")]
fn compressed(state: &[Lanes; 8], mut w: [Lanes; 16]) -> [Lanes; 8] {
    let mut v = *state;
    let [first, rest @ ..] = &ROUND;
    sixteen::<false>(&mut v, &mut w, first);
    for constants in rest {
        sixteen::<true>(&mut v, &mut w, constants);
    }
    for (v, before) in v.iter_mut().zip(state) {
        *v = add(*v, *before);
    }
    v
}

/// Sixteen rounds; `w` is replaced by its continuation as they go, except before the first ones. Written out, because
/// vectors stay in registers only where every index is a constant, and the compiler does not unroll this loop.
#[inline]
#[target_feature(enable = "avx512f")]
fn sixteen<const SCHEDULE: bool>(v: &mut [Lanes; 8], w: &mut [Lanes; 16], constants: &[u32; 16]) {
    round::<0, SCHEDULE>(v, w, constants);
    round::<1, SCHEDULE>(v, w, constants);
    round::<2, SCHEDULE>(v, w, constants);
    round::<3, SCHEDULE>(v, w, constants);
    round::<4, SCHEDULE>(v, w, constants);
    round::<5, SCHEDULE>(v, w, constants);
    round::<6, SCHEDULE>(v, w, constants);
    round::<7, SCHEDULE>(v, w, constants);
    round::<8, SCHEDULE>(v, w, constants);
    round::<9, SCHEDULE>(v, w, constants);
    round::<10, SCHEDULE>(v, w, constants);
    round::<11, SCHEDULE>(v, w, constants);
    round::<12, SCHEDULE>(v, w, constants);
    round::<13, SCHEDULE>(v, w, constants);
    round::<14, SCHEDULE>(v, w, constants);
    round::<15, SCHEDULE>(v, w, constants);
}

/// Round `I` of sixteen. The working variables a to h stay where they are; their names move on by one place a round.
#[inline]
#[target_feature(enable = "avx512f")]
fn round<const I: usize, const SCHEDULE: bool>(
    v: &mut [Lanes; 8],
    w: &mut [Lanes; 16],
    constants: &[u32; 16],
) {
    if SCHEDULE {
        let sum = add(add(w[I], small_sigma_0(w[(I + 1) % 16])), w[(I + 9) % 16]);
        w[I] = add(sum, small_sigma_1(w[(I + 14) % 16]));
    }
    let at = |variable: usize| (variable + 16 - I) % 8;
    let (a, b, c, d) = (v[at(0)], v[at(1)], v[at(2)], v[at(3)]);
    let (e, f, g, h) = (v[at(4)], v[at(5)], v[at(6)], v[at(7)]);
    let t1 = add(add(h, add(w[I], splat(constants[I]))), add(big_sigma_1(e), choose(e, f, g)));
    let t2 = add(big_sigma_0(a), majority(a, b, c));
    v[at(3)] = add(d, t1);
    v[at(7)] = add(t1, t2);
}

/// Rows become columns: word i of row j goes to word j of row i.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(rows: &[Lanes; 16]) -> [Lanes; 16] {
    // Words of two rows side by side, then of four: quarter q of `fours[4 * i + k]` is word 4q + k of rows 4i to 4i + 3.
    let mut fours = [splat(0); 16];
    for (fours, [r0, r1, r2, r3]) in fours.as_chunks_mut::<4>().0.iter_mut().zip(rows.as_chunks::<4>().0) {
        let (low01, high01) = (_mm512_unpacklo_epi32(*r0, *r1), _mm512_unpackhi_epi32(*r0, *r1));
        let (low23, high23) = (_mm512_unpacklo_epi32(*r2, *r3), _mm512_unpackhi_epi32(*r2, *r3));
        *fours = [
            _mm512_unpacklo_epi64(low01, low23),
            _mm512_unpackhi_epi64(low01, low23),
            _mm512_unpacklo_epi64(high01, high23),
            _mm512_unpackhi_epi64(high01, high23),
        ];
    }
    let mut columns = [splat(0); 16];
    for k in 0..4 {
        let (q0, q1, q2, q3) = (fours[k], fours[4 + k], fours[8 + k], fours[12 + k]);
        let (even_low, even_high) =
            (_mm512_shuffle_i32x4::<0b10_00_10_00>(q0, q1), _mm512_shuffle_i32x4::<0b10_00_10_00>(q2, q3));
        let (odd_low, odd_high) =
            (_mm512_shuffle_i32x4::<0b11_01_11_01>(q0, q1), _mm512_shuffle_i32x4::<0b11_01_11_01>(q2, q3));
        columns[k] = _mm512_shuffle_i32x4::<0b10_00_10_00>(even_low, even_high);
        columns[4 + k] = _mm512_shuffle_i32x4::<0b10_00_10_00>(odd_low, odd_high);
        columns[8 + k] = _mm512_shuffle_i32x4::<0b11_01_11_01>(even_low, even_high);
        columns[12 + k] = _mm512_shuffle_i32x4::<0b11_01_11_01>(odd_low, odd_high);
    }
    columns
}

/// The same word in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn splat(word: u32) -> Lanes {
    _mm512_set1_epi32(word.cast_signed())
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add(a: Lanes, b: Lanes) -> Lanes {
    _mm512_add_epi32(a, b)
}

/// `a ^ b ^ c`.
#[inline]
#[target_feature(enable = "avx512f")]
fn xor(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
    _mm512_ternarylogic_epi32::<0x96>(a, b, c)
}

/// b where a is set, else c.
#[inline]
#[target_feature(enable = "avx512f")]
fn choose(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
    _mm512_ternarylogic_epi32::<0xca>(a, b, c)
}

/// What at least two of the three have.
#[inline]
#[target_feature(enable = "avx512f")]
fn majority(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
    _mm512_ternarylogic_epi32::<0xe8>(a, b, c)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn big_sigma_0(x: Lanes) -> Lanes {
    xor(_mm512_ror_epi32::<2>(x), _mm512_ror_epi32::<13>(x), _mm512_ror_epi32::<22>(x))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn big_sigma_1(x: Lanes) -> Lanes {
    xor(_mm512_ror_epi32::<6>(x), _mm512_ror_epi32::<11>(x), _mm512_ror_epi32::<25>(x))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn small_sigma_0(x: Lanes) -> Lanes {
    xor(_mm512_ror_epi32::<7>(x), _mm512_ror_epi32::<18>(x), _mm512_srli_epi32::<3>(x))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn small_sigma_1(x: Lanes) -> Lanes {
    xor(_mm512_ror_epi32::<17>(x), _mm512_ror_epi32::<19>(x), _mm512_srli_epi32::<10>(x))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn swapped_bytes(x: Lanes) -> Lanes {
    // Indices count within each 16 bytes.
    let order = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(order))
}

/// A block as a vector.
#[inline]
#[expect(unsafe_code, reason = "reinterprets bytes as the vector they make up")]
const fn load(block: &Block) -> Lanes {
    // SAFETY: both types are 64 bytes of plain integers; the transmute copies, so alignment does not matter.
    unsafe { std::mem::transmute::<Block, Lanes>(*block) }
}

/// The first 32 bytes of a vector.
#[inline]
#[target_feature(enable = "avx512f")]
#[expect(unsafe_code, reason = "reinterprets a vector as the bytes it is made of")]
fn first_half(row: Lanes) -> Hash {
    // SAFETY: both types are 32 bytes of plain integers without padding or invalid values.
    unsafe { std::mem::transmute::<__m256i, Hash>(_mm512_castsi512_si256(row)) }
}

/// FIPS 180-4 §4.2.2.
const ROUND: [[u32; 16]; 4] = [
    [
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    ],
    [
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    ],
    [
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    ],
    [
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
    ],
];
