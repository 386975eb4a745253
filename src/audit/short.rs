//! Bytes of a few words' length, copied and compared in place: a call of the system's `memcpy` or `bcmp` for each name in a
//! record takes longer than the bytes do.
//!
//! Each length is covered by pieces of one size, the last of which may overlap the one before.

/// Adds `bytes` to `out`.
#[inline]
pub(super) fn append(out: &mut Vec<u8>, bytes: &[u8]) {
    let end = out.len() + bytes.len();
    match bytes.len() {
        0..4 => bytes.iter().for_each(|byte| out.push(*byte)),
        4..8 => append_pieces::<4>(out, bytes, end),
        8..16 => append_pieces::<8>(out, bytes, end),
        16..=LEN_MAX => append_pieces::<16>(out, bytes, end),
        _ => out.extend_from_slice(bytes),
    }
}

#[inline]
fn append_pieces<const N: usize>(out: &mut Vec<u8>, bytes: &[u8], end: usize) {
    let (pieces, rest) = bytes.as_chunks::<N>();
    pieces.iter().for_each(|piece| out.extend_from_slice(piece));
    if let (false, Some(last)) = (rest.is_empty(), bytes.last_chunk::<N>()) {
        out.truncate(end - N);
        out.extend_from_slice(last);
    }
}

/// Copies `from` to `to`.
///
/// # Panics
/// When their lengths differ.
#[inline]
pub(super) fn copy(to: &mut [u8], from: &[u8]) {
    assert_eq!(to.len(), from.len(), "a copy has the length of what is copied");
    match from.len() {
        0..4 => to.iter_mut().zip(from).for_each(|(to, from)| *to = *from),
        4..8 => copy_pieces::<4>(to, from),
        8..16 => copy_pieces::<8>(to, from),
        16..=LEN_MAX => copy_pieces::<16>(to, from),
        _ => to.copy_from_slice(from),
    }
}

#[inline]
fn copy_pieces<const N: usize>(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.as_chunks_mut::<N>().0.iter_mut().zip(from.as_chunks::<N>().0) {
        *to = *from;
    }
    if let (Some(to), Some(from)) = (to.last_chunk_mut::<N>(), from.last_chunk::<N>()) {
        *to = *from;
    }
}

/// Whether the two hold the same bytes.
#[inline]
pub(super) fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len()
        && match a.len() {
            0..4 => a.iter().zip(b).all(|(a, b)| a == b),
            4..8 => equal_pieces::<4>(a, b),
            8..16 => equal_pieces::<8>(a, b),
            16..=LEN_MAX => equal_pieces::<16>(a, b),
            _ => a == b,
        }
}

#[inline]
fn equal_pieces<const N: usize>(a: &[u8], b: &[u8]) -> bool {
    a.as_chunks::<N>().0 == b.as_chunks::<N>().0 && a.last_chunk::<N>() == b.last_chunk::<N>()
}

/// Whether every byte is below 128.
#[inline]
pub(super) fn is_ascii(bytes: &[u8]) -> bool {
    match bytes.len() {
        0..4 => bytes.iter().all(u8::is_ascii),
        4..8 => pieces(bytes, |piece| u32::from_le_bytes(*piece) & 0x8080_8080 == 0),
        8..=LEN_MAX => pieces(bytes, |piece| u64::from_le_bytes(*piece) & 0x8080_8080_8080_8080 == 0),
        _ => bytes.is_ascii(),
    }
}

#[inline]
fn pieces<const N: usize>(bytes: &[u8], holds: impl Fn(&[u8; N]) -> bool) -> bool {
    bytes.as_chunks().0.iter().all(&holds) && bytes.last_chunk().is_none_or(holds)
}

/// Longer ones are worth the call.
const LEN_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_copied_and_compared_whole() {
        let bytes: Vec<u8> = (0..=255).collect();
        for len in 0..=bytes.len() {
            let from = &bytes[..len];
            let mut out = b"before".to_vec();
            append(&mut out, from);
            assert_eq!(out, [&b"before"[..], from].concat(), "{len} bytes");
            let mut to = vec![0xEE; len];
            copy(&mut to, from);
            assert_eq!(to, from, "{len} bytes");
            assert!(equal(&to, from));
            for at in 0..len {
                to[at] ^= 1;
                assert!(!equal(&to, from), "byte {at} of {len}");
                to[at] ^= 1;
                to[at] |= 0x80;
                assert!(!is_ascii(&to), "byte {at} of {len}");
                to[at] = from[at];
            }
            assert_eq!(is_ascii(from), len <= 128);
            assert!(!equal(&bytes[..len.saturating_sub(1)], &bytes[..len.max(1)]));
        }
    }
}
