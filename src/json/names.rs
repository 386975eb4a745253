//! Whether the members of an object have distinct names.

use std::cmp::Ordering;

/// Up to this many names in one object are compared pairwise, more are sorted first.
const PAIRWISE_NAMES_MAX: usize = 32;

/// A member name, with its length and first seven bytes in one word so that unequal names differ at a glance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name<'a> {
    tag: u64,
    name: &'a str,
}

impl<'a> Name<'a> {
    /// Composed of overlapping loads: copying byte by byte and loading the word again stalls the processor.
    pub(super) fn new(name: &'a str) -> Self {
        let bytes = name.as_bytes();
        let head = match (bytes, bytes.first_chunk::<8>(), bytes.first_chunk::<4>(), bytes.last_chunk::<4>())
        {
            (_, Some(word), ..) => u64::from_le_bytes(*word) & (u64::MAX >> 8),
            (_, None, Some(first), Some(last)) => {
                let shift = 8 * (bytes.len() - 4);
                u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << shift
            }
            ([a, b, c], ..) => u64::from_le_bytes([*a, *b, *c, 0, 0, 0, 0, 0]),
            ([a, b], ..) => u64::from_le_bytes([*a, *b, 0, 0, 0, 0, 0, 0]),
            ([a], ..) => u64::from(*a),
            _ => 0,
        };
        // Longer names than 255 bytes share a length byte; they are compared in full like all beyond seven.
        let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
        Self { tag: head | u64::from(length) << 56, name }
    }

    fn is(&self, other: &Self) -> bool {
        self.tag == other.tag && self.name == other.name
    }

    fn order(&self, other: &Self) -> Ordering {
        self.tag.cmp(&other.tag).then_with(|| self.name.cmp(other.name))
    }
}

/// Whether two of `names` are equal; sorts them where there are many, so hostile input costs n log n.
pub(super) fn repeats(names: &mut [Name<'_>]) -> bool {
    if names.len() <= PAIRWISE_NAMES_MAX {
        names.iter().enumerate().any(|(i, name)| names[..i].iter().any(|earlier| earlier.is(name)))
    } else {
        names.sort_unstable_by(Name::order);
        names.windows(2).any(|pair| pair[0].is(&pair[1]))
    }
}
