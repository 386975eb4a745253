//! SHA-512 of eight messages at once, one per lane (FIPS 180-4 §6.4).
//!
//! Lanes may have different numbers of blocks: a lane that is done keeps its state while the others go on.

use std::arch::x86_64::*;

use super::lanes::{Lanes, load_256, splat, transposed};

/// Bytes of a block.
pub(super) const BLOCK_BYTES: usize = 128;

/// The blocks a message of `bytes` takes with its padding: a one bit, zeros, and the length in 128 bits.
pub(super) const fn blocks(bytes: usize) -> usize {
    (bytes + 1 + 16).div_ceil(BLOCK_BYTES)
}

/// Writes the concatenation of `parts` and its padding to `padded`, whose length is that of its [`blocks`].
pub(super) fn pad(padded: &mut [u8], parts: [&[u8]; 3]) {
    let mut at = 0;
    for part in parts {
        padded[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    padded[at] = 0x80;
    padded[at + 1..].fill(0);
    let bits = (at as u128) * 8;
    let length = padded.len() - 16;
    padded[length..].copy_from_slice(&bits.to_be_bytes());
}

/// The hashes of eight padded messages as little-endian words, word i of each in vector i.
///
/// The lengths are multiples of [`BLOCK_BYTES`]; a lane without a block yields a value without meaning.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
pub(super) fn hash(messages: &[&[u8]; 8]) -> [Lanes; 8] {
    let longest = messages.iter().map(|message| message.len() / BLOCK_BYTES).max().unwrap_or(0);
    let mut state = INITIAL.map(|word| splat(word));
    for block in 0..longest {
        let at = block * BLOCK_BYTES;
        let mut active = 0_u8;
        let chunks: [&[u8; BLOCK_BYTES]; 8] = std::array::from_fn(|lane| {
            let chunk = messages[lane].get(at..).and_then(<[u8]>::first_chunk);
            active |= u8::from(chunk.is_some()) << lane;
            chunk.unwrap_or(&[0; BLOCK_BYTES])
        });
        let next = compressed(&state, message_words(&chunks));
        for (word, next) in state.iter_mut().zip(next) {
            *word = _mm512_mask_mov_epi64(*word, active, next);
        }
    }
    state.map(|word| swapped_bytes(word))
}

/// The sixteen big-endian words of each lane's block, word i of each in vector i.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn message_words(chunks: &[&[u8; BLOCK_BYTES]; 8]) -> [Lanes; 16] {
    let mut words = [_mm512_setzero_si512(); 16];
    for (quarter, words) in words.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let rows = chunks.map(|chunk| load_256(&chunk.as_chunks::<32>().0[quarter]));
        *words = transposed(rows.each_ref());
        for word in words {
            *word = swapped_bytes(*word);
        }
    }
    words
}

/// The state after one block.
#[inline]
#[target_feature(enable = "avx512f")]
fn compressed(state: &[Lanes; 8], mut w: [Lanes; 16]) -> [Lanes; 8] {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for (sixteen, constants) in ROUND.as_chunks::<16>().0.iter().enumerate() {
        for (i, constant) in constants.iter().enumerate() {
            if sixteen > 0 {
                let sum = add(add(w[i], small_sigma_0(w[(i + 1) % 16])), w[(i + 9) % 16]);
                w[i] = add(sum, small_sigma_1(w[(i + 14) % 16]));
            }
            let t1 = add(add(h, add(w[i], splat(*constant))), add(big_sigma_1(e), choose(e, f, g)));
            let t2 = add(big_sigma_0(a), majority(a, b, c));
            (h, g, f, e, d, c, b, a) = (g, f, e, add(d, t1), c, b, a, add(t1, t2));
        }
    }
    let [s0, s1, s2, s3, s4, s5, s6, s7] = *state;
    [add(s0, a), add(s1, b), add(s2, c), add(s3, d), add(s4, e), add(s5, f), add(s6, g), add(s7, h)]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add(a: Lanes, b: Lanes) -> Lanes {
    _mm512_add_epi64(a, b)
}

/// `a ^ b ^ c`.
#[inline]
#[target_feature(enable = "avx512f")]
fn xor(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
    _mm512_ternarylogic_epi64::<0x96>(a, b, c)
}

/// b where a is set, else c.
#[inline]
#[target_feature(enable = "avx512f")]
fn choose(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
    _mm512_ternarylogic_epi64::<0xca>(a, b, c)
}

/// What at least two of the three have.
#[inline]
#[target_feature(enable = "avx512f")]
fn majority(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
    _mm512_ternarylogic_epi64::<0xe8>(a, b, c)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn big_sigma_0(x: Lanes) -> Lanes {
    xor(_mm512_ror_epi64::<28>(x), _mm512_ror_epi64::<34>(x), _mm512_ror_epi64::<39>(x))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn big_sigma_1(x: Lanes) -> Lanes {
    xor(_mm512_ror_epi64::<14>(x), _mm512_ror_epi64::<18>(x), _mm512_ror_epi64::<41>(x))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn small_sigma_0(x: Lanes) -> Lanes {
    xor(_mm512_ror_epi64::<1>(x), _mm512_ror_epi64::<8>(x), _mm512_srli_epi64::<7>(x))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn small_sigma_1(x: Lanes) -> Lanes {
    xor(_mm512_ror_epi64::<19>(x), _mm512_ror_epi64::<61>(x), _mm512_srli_epi64::<6>(x))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn swapped_bytes(x: Lanes) -> Lanes {
    // Indices count within each 16 bytes.
    let order = _mm_set_epi64x(0x0809_0a0b_0c0d_0e0f, 0x0001_0203_0405_0607);
    _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(order))
}

/// FIPS 180-4 §5.3.5.
const INITIAL: [u64; 8] = [
    0x6a09_e667_f3bc_c908,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1,
    0x9b05_688c_2b3e_6c1f,
    0x1f83_d9ab_fb41_bd6b,
    0x5be0_cd19_137e_2179,
];

/// FIPS 180-4 §4.2.3.
const ROUND: [u64; 80] = [
    0x428a_2f98_d728_ae22,
    0x7137_4491_23ef_65cd,
    0xb5c0_fbcf_ec4d_3b2f,
    0xe9b5_dba5_8189_dbbc,
    0x3956_c25b_f348_b538,
    0x59f1_11f1_b605_d019,
    0x923f_82a4_af19_4f9b,
    0xab1c_5ed5_da6d_8118,
    0xd807_aa98_a303_0242,
    0x1283_5b01_4570_6fbe,
    0x2431_85be_4ee4_b28c,
    0x550c_7dc3_d5ff_b4e2,
    0x72be_5d74_f27b_896f,
    0x80de_b1fe_3b16_96b1,
    0x9bdc_06a7_25c7_1235,
    0xc19b_f174_cf69_2694,
    0xe49b_69c1_9ef1_4ad2,
    0xefbe_4786_384f_25e3,
    0x0fc1_9dc6_8b8c_d5b5,
    0x240c_a1cc_77ac_9c65,
    0x2de9_2c6f_592b_0275,
    0x4a74_84aa_6ea6_e483,
    0x5cb0_a9dc_bd41_fbd4,
    0x76f9_88da_8311_53b5,
    0x983e_5152_ee66_dfab,
    0xa831_c66d_2db4_3210,
    0xb003_27c8_98fb_213f,
    0xbf59_7fc7_beef_0ee4,
    0xc6e0_0bf3_3da8_8fc2,
    0xd5a7_9147_930a_a725,
    0x06ca_6351_e003_826f,
    0x1429_2967_0a0e_6e70,
    0x27b7_0a85_46d2_2ffc,
    0x2e1b_2138_5c26_c926,
    0x4d2c_6dfc_5ac4_2aed,
    0x5338_0d13_9d95_b3df,
    0x650a_7354_8baf_63de,
    0x766a_0abb_3c77_b2a8,
    0x81c2_c92e_47ed_aee6,
    0x9272_2c85_1482_353b,
    0xa2bf_e8a1_4cf1_0364,
    0xa81a_664b_bc42_3001,
    0xc24b_8b70_d0f8_9791,
    0xc76c_51a3_0654_be30,
    0xd192_e819_d6ef_5218,
    0xd699_0624_5565_a910,
    0xf40e_3585_5771_202a,
    0x106a_a070_32bb_d1b8,
    0x19a4_c116_b8d2_d0c8,
    0x1e37_6c08_5141_ab53,
    0x2748_774c_df8e_eb99,
    0x34b0_bcb5_e19b_48a8,
    0x391c_0cb3_c5c9_5a63,
    0x4ed8_aa4a_e341_8acb,
    0x5b9c_ca4f_7763_e373,
    0x682e_6ff3_d6b2_b8a3,
    0x748f_82ee_5def_b2fc,
    0x78a5_636f_4317_2f60,
    0x84c8_7814_a1f0_ab72,
    0x8cc7_0208_1a64_39ec,
    0x90be_fffa_2363_1e28,
    0xa450_6ceb_de82_bde9,
    0xbef9_a3f7_b2c6_7915,
    0xc671_78f2_e372_532b,
    0xca27_3ece_ea26_619c,
    0xd186_b8c7_21c0_c207,
    0xeada_7dd6_cde0_eb1e,
    0xf57d_4f7f_ee6e_d178,
    0x06f0_67aa_7217_6fba,
    0x0a63_7dc5_a2c8_98a6,
    0x113f_9804_bef9_0dae,
    0x1b71_0b35_131c_471b,
    0x28db_77f5_2304_7d84,
    0x32ca_ab7b_40c7_2493,
    0x3c9e_be0a_15c9_bebc,
    0x431d_67c4_9c10_0d4c,
    0x4cc5_d4be_cb3e_42b6,
    0x597f_299c_fc65_7e2a,
    0x5fcb_6fab_3ad6_faec,
    0x6c44_198c_4a47_5817,
];
