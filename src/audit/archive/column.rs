//! Values of one kind, back to back: numbers as planes of bytes, strings with a table of the distinct ones where they
//! repeat (FORMAT.md, "Archive").

use std::collections::HashMap;

use super::Unreadable;

/// Writes numbers: how many bytes the largest takes, then the lowest byte of each, the next byte of each, and so on.
pub(super) fn put_numbers(out: &mut Vec<u8>, numbers: &[u64]) {
    let largest = numbers.iter().copied().max().unwrap_or(0);
    let planes = 8 - largest.leading_zeros() / 8;
    out.push(u8::try_from(planes).expect("at most 8"));
    for plane in 0..planes {
        out.extend(numbers.iter().map(|number| number.to_le_bytes()[plane as usize]));
    }
}

/// Writes strings of one length, which the reader knows.
pub(super) fn put_fixed(out: &mut Vec<u8>, strings: &[&[u8]]) {
    match table(strings) {
        Some((distinct, places)) => {
            put_count(out, distinct.len());
            distinct.iter().for_each(|string| out.extend_from_slice(string));
            put_numbers(out, &places);
        }
        None => {
            put_count(out, 0);
            strings.iter().for_each(|string| out.extend_from_slice(string));
        }
    }
}

/// Writes strings of any lengths.
pub(super) fn put_strings(out: &mut Vec<u8>, strings: &[&[u8]]) {
    let table = table(strings);
    let kept = table.as_ref().map_or(strings, |(distinct, _)| distinct);
    put_count(out, table.as_ref().map_or(0, |(distinct, _)| distinct.len()));
    put_numbers(out, &kept.iter().map(|string| string.len() as u64).collect::<Vec<_>>());
    kept.iter().for_each(|string| out.extend_from_slice(string));
    if let Some((_, places)) = &table {
        put_numbers(out, places);
    }
}

/// A small difference in either direction as a small number.
pub(super) const fn zigzag(difference: u64) -> u64 {
    difference << 1 ^ if difference >> 63 == 1 { u64::MAX } else { 0 }
}

/// What [`zigzag`] was made of.
pub(super) const fn unzigzag(number: u64) -> u64 {
    number >> 1 ^ if number & 1 == 1 { u64::MAX } else { 0 }
}

/// The distinct strings in the order of their first appearance, and the place of each string among them, where that is
/// shorter.
fn table<'a>(strings: &[&'a [u8]]) -> Option<(Vec<&'a [u8]>, Vec<u64>)> {
    let mut distinct = Vec::new();
    let mut known: HashMap<&[u8], u64> = HashMap::new();
    let mut places = Vec::with_capacity(strings.len());
    for &string in strings {
        let place = *known.entry(string).or_insert_with(|| {
            distinct.push(string);
            distinct.len() as u64 - 1
        });
        places.push(place);
        if distinct.len() * REPEATS_MIN > strings.len() && distinct.len() > 1 {
            return None;
        }
    }
    (!distinct.is_empty()).then_some((distinct, places))
}

/// A table pays where each string appears so often.
const REPEATS_MIN: usize = 4;

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("fewer strings than bytes in a block");
    out.extend_from_slice(&count.to_le_bytes());
}

/// Takes columns off the front of a block's content. Every length is checked against what is left before it is used.
pub(super) struct Columns<'a>(pub(super) &'a [u8]);

impl<'a> Columns<'a> {
    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Unreadable> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Unreadable("a column is cut"))?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Unreadable> {
        Ok(self.bytes(1)?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, Unreadable> {
        self.bytes(2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    /// `count` numbers. The caller bounds `count`.
    pub(super) fn numbers(&mut self, count: usize) -> Result<Vec<u64>, Unreadable> {
        let planes = usize::from(self.byte()?);
        if planes > 8 {
            return Err(Unreadable("a number has more than eight bytes"));
        }
        let mut numbers = vec![0; count];
        for plane in 0..planes {
            for (number, byte) in numbers.iter_mut().zip(self.bytes(count)?) {
                *number |= u64::from(*byte) << (8 * plane);
            }
        }
        Ok(numbers)
    }

    /// `count` strings of `len` bytes.
    pub(super) fn fixed(&mut self, count: usize, len: usize) -> Result<Vec<&'a [u8]>, Unreadable> {
        let distinct = self.count()?;
        if distinct > count {
            return Err(Unreadable("a table has more strings than are used"));
        }
        let kept = if distinct == 0 { count } else { distinct };
        let strings = (0..kept).map(|_| self.bytes(len)).collect::<Result<Vec<_>, _>>()?;
        if distinct == 0 { Ok(strings) } else { self.placed(&strings, count) }
    }

    /// `count` strings of any lengths.
    pub(super) fn strings(&mut self, count: usize) -> Result<Vec<&'a [u8]>, Unreadable> {
        let distinct = self.count()?;
        if distinct > count {
            return Err(Unreadable("a table has more strings than are used"));
        }
        let lengths = self.numbers(if distinct == 0 { count } else { distinct })?;
        let strings = lengths
            .into_iter()
            .map(|len| self.bytes(usize::try_from(len).map_err(|_| Unreadable("a column is cut"))?))
            .collect::<Result<Vec<_>, _>>()?;
        if distinct == 0 { Ok(strings) } else { self.placed(&strings, count) }
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<(), Unreadable> {
        if self.0.is_empty() { Ok(()) } else { Err(Unreadable("bytes follow the last column")) }
    }

    fn placed(&mut self, strings: &[&'a [u8]], count: usize) -> Result<Vec<&'a [u8]>, Unreadable> {
        let places = self.numbers(count)?;
        let at = |place: u64| usize::try_from(place).ok().and_then(|place| strings.get(place).copied());
        places.into_iter().map(|place| at(place).ok_or(Unreadable("a place beyond the table"))).collect()
    }

    fn count(&mut self) -> Result<usize, Unreadable> {
        let bytes = self.bytes(4)?.try_into().expect("four bytes");
        Ok(u32::from_le_bytes(bytes) as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_put_is_taken(
            numbers in prop::collection::vec(any::<u64>().prop_flat_map(|n| (0..64u32).prop_map(move |s| n >> s)), 0..50),
            strings in prop::collection::vec(prop::collection::vec(0u8..3, 0..3), 0..60),
            fixed in prop::collection::vec(prop::array::uniform4(0u8..2), 0..60),
        ) {
            let strings: Vec<&[u8]> = strings.iter().map(Vec::as_slice).collect();
            let fixed: Vec<&[u8]> = fixed.iter().map(|bytes| bytes.as_slice()).collect();
            let mut out = Vec::new();
            put_numbers(&mut out, &numbers);
            put_strings(&mut out, &strings);
            put_fixed(&mut out, &fixed);
            let mut columns = Columns(&out);
            prop_assert_eq!(columns.numbers(numbers.len()).unwrap(), numbers);
            prop_assert_eq!(columns.strings(strings.len()).unwrap(), strings);
            prop_assert_eq!(columns.fixed(fixed.len(), 4).unwrap(), fixed);
            prop_assert!(columns.end().is_ok());
        }

        #[test]
        fn foreign_columns_are_refused_and_take_no_memory(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Columns(&bytes).numbers(1000);
            let _ = Columns(&bytes).strings(1000);
            let _ = Columns(&bytes).fixed(1000, 16);
        }

        #[test]
        fn a_difference_in_either_direction_comes_back(n in any::<u64>()) {
            prop_assert_eq!(unzigzag(zigzag(n)), n);
        }
    }

    #[test]
    fn small_differences_are_small_numbers() {
        assert_eq!([0, 1, u64::MAX, 2].map(zigzag), [0, 2, 1, 4]);
    }
}
