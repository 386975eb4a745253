//! Fixed-base combs: scalar multiplication of registered keys and of B without a doubling.
//!
//! A scalar is cut into `windows` windows of w bits and a top window. Window i with value u stands for the odd digit
//! `2u - (2^w - 1)` of `P_i = 2^(wi) · H`, where H is half of the point (the group's order is odd): the digit's sign is one bit,
//! its 2^(w-1) sizes need no zero, and no carry runs between windows. The digits sum to twice the scalar less a constant, and the
//! entries of the top window, unsigned and complete, contain it: `(2u + 1) · P_top - H`.

use std::arch::x86_64::__m256i;

use super::field::Fe;
use super::finish::invert_each;
use super::lanes::{from_words, load_256, prefetch, to_words, transposed};
use super::point::{FOUR_D, HALF, Niels, Projective, Sum};

/// An affine point: canonical `(y - x)/2`, `(y + x)/2`, `d·x·y`. 96 bytes, in two cache lines.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct Entry([__m256i; 3]);

const _: () = assert!(size_of::<Entry>() == 96);

/// The identity: y = 1, x = 0.
static IDENTITY: Entry = {
    let mut half = [0xff; 32]; // (p + 1)/2 = 2^254 - 9
    half[0] = 0xf7;
    half[31] = 0x3f;
    Entry([load_256(&half), load_256(&half), load_256(&[0; 32])])
};

/// Steps between asking for an entry and adding it: an addition takes about as long as the third-level cache.
const PREFETCH_STEPS: usize = 2;

/// The multiples of one point.
pub(in super::super) struct Comb {
    window_bits: usize,
    windows: usize,
    // The top window, then the others from the lowest.
    entries: Box<[Entry]>,
    top_entries: usize,
}

/// A scalar below 2^256, little-endian, with room to read any window as one word.
#[derive(Clone, Copy)]
pub(super) struct Scalar([u8; 40]);

/// `[s]B + [k]P`, for the combs of B and P.
#[derive(Clone, Copy)]
pub(super) struct Walk<'a> {
    pub(super) base: &'a Comb,
    pub(super) s: Scalar,
    pub(super) point: &'a Comb,
    pub(super) k: Scalar,
}

/// An entry to add, or to subtract.
#[derive(Clone, Copy)]
struct Digit<'a> {
    entry: &'a Entry,
    negative: bool,
}

impl Comb {
    /// The comb of twice the affine point `half` (lane 0), for scalars below 2^`bits`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn new(half: &(Fe, Fe), bits: usize, window_bits: usize) -> Self {
        let windows = (bits - 1) / window_bits;
        let top_entries = 1 << (bits - windows * window_bits);
        let start = Sum::from_affine(&half.0, &half.1);
        let mut base = start;
        let mut bases = Vec::with_capacity(windows);
        for _ in 0..windows {
            bases.push(base);
            for _ in 0..window_bits {
                base = base.doubled();
            }
        }
        let minus_half = start.cached().negated_where(u8::MAX);
        let mut entries = Vec::with_capacity(top_entries + (windows << (window_bits - 1)));
        progression(&[base.plus(&minus_half)], &[base], top_entries, &mut entries);
        for eight in bases.chunks(8) {
            progression(eight, eight, 1 << (window_bits - 1), &mut entries);
        }
        Self { window_bits, windows, entries: entries.into_boxed_slice(), top_entries }
    }

    /// Bytes of a comb, by its digits.
    pub(super) const fn bytes(bits: usize, window_bits: usize) -> usize {
        let windows = (bits - 1) / window_bits;
        ((1 << (bits - windows * window_bits)) + (windows << (window_bits - 1))) * size_of::<Entry>()
    }

    /// `sum + [s]P` in each lane, for the scalar of each lane.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn add_multiples(&self, mut sum: Sum, scalars: &[Scalar; 8]) -> Sum {
        sum = sum.plus_affine(&load(&scalars.each_ref().map(|scalar| self.top_digit(scalar))));
        for window in 0..self.windows {
            sum = sum.plus_affine(&load(&scalars.each_ref().map(|scalar| self.digit(window, scalar))));
        }
        sum
    }

    #[inline]
    fn top_digit(&self, scalar: &Scalar) -> Digit<'_> {
        let value = scalar.bits(self.windows * self.window_bits) & (self.top_entries - 1);
        Digit { entry: &self.entries[value], negative: false }
    }

    #[inline]
    fn digit(&self, window: usize, scalar: &Scalar) -> Digit<'_> {
        let value = scalar.bits(window * self.window_bits);
        let sizes = 1 << (self.window_bits - 1);
        // The window's top bit is the sign; below zero the sizes run backwards.
        let negative = value & sizes == 0;
        let size = if negative { !value } else { value } & (sizes - 1);
        Digit { entry: &self.entries[self.top_entries + window * sizes + size], negative }
    }
}

impl Scalar {
    pub(super) fn new(words: [u64; 4]) -> Self {
        let mut bytes = [0; 40];
        for (eight, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *eight = word.to_le_bytes();
        }
        Self(bytes)
    }

    /// At least 56 bits from bit `from` on; the caller masks what it wants.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "x86-64 only: usize has 64 bits")]
    fn bits(&self, from: usize) -> usize {
        let word = self.0[from / 8..].first_chunk().expect("windows start below bit 256");
        (u64::from_le_bytes(*word) >> (from % 8)) as usize
    }
}

impl<'a> Walk<'a> {
    /// Entries of the whole walk.
    fn len(&self) -> usize {
        2 + self.base.windows + self.point.windows
    }

    /// Entry `i` of the walk, the identity after its end.
    #[inline]
    fn digit(&self, i: usize) -> Digit<'a> {
        match i {
            0 => self.point.top_digit(&self.k),
            1 => self.base.top_digit(&self.s),
            _ if i - 2 < self.base.windows => self.base.digit(i - 2, &self.s),
            _ if i < self.len() => self.point.digit(i - 2 - self.base.windows, &self.k),
            _ => Digit { entry: &IDENTITY, negative: false },
        }
    }
}

/// The sums of up to eight walks, walk i in lane `i · (8 / lanes of a walk)`.
///
/// With four walks or fewer each gets 2, 4 or 8 lanes, which take turns at its entries and are summed at the end: a lone
/// signature takes a seventh of the time of eight.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
pub(super) fn sum_walks(walks: &[Walk<'_>]) -> Sum {
    let lanes_each = lanes_each(walks.len());
    // Lanes beyond the last walk repeat the first; nobody reads them.
    let of_lane: [&Walk<'_>; 8] =
        std::array::from_fn(|lane| walks.get(lane / lanes_each).unwrap_or(&walks[0]));
    let step = |step: usize| {
        let digits: [Digit<'_>; 8] =
            std::array::from_fn(|lane| of_lane[lane].digit(step * lanes_each + lane % lanes_each));
        for digit in &digits {
            prefetch(digit.entry);
        }
        digits
    };
    let steps = walks.iter().map(|walk| walk.len().div_ceil(lanes_each)).max().unwrap_or(0);
    let mut ahead: [_; PREFETCH_STEPS] = std::array::from_fn(|i| step(1 + i));
    let mut sum = Sum::from_niels(&load(&step(0)));
    for i in 1..steps {
        let digits = std::mem::replace(&mut ahead[(i - 1) % PREFETCH_STEPS], step(i + PREFETCH_STEPS));
        sum = sum.plus_affine(&load(&digits));
    }
    let mut stride = 1;
    while stride < lanes_each {
        let other = from_words([0, 1, 2, 3, 4, 5, 6, 7].map(|lane| lane ^ stride as u64));
        sum = sum.plus(&sum.permuted(other).cached());
        stride *= 2;
    }
    sum
}

/// How many lanes each of `walks` walks gets.
pub(super) const fn lanes_each(walks: usize) -> usize {
    match walks {
        0 | 1 => 8,
        2 => 4,
        3 | 4 => 2,
        _ => 1,
    }
}

/// The points of eight digits.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
fn load(digits: &[Digit<'_>; 8]) -> Niels {
    // Negating a point swaps y - x with y + x and negates xy.
    let first = digits.each_ref().map(|digit| digit.entry.0[usize::from(digit.negative)]);
    let second = digits.each_ref().map(|digit| digit.entry.0[usize::from(!digit.negative)]);
    let third = digits.each_ref().map(|digit| digit.entry.0[2]);
    let mut negative = 0;
    for (lane, digit) in digits.iter().enumerate() {
        negative |= u8::from(digit.negative) << lane;
    }
    Niels {
        y_minus_x: Fe::from_words(&transposed(&first)),
        y_plus_x: Fe::from_words(&transposed(&second)),
        dxy: Fe::from_words(&transposed(&third)).negated_where(negative),
    }
}

/// Appends `start + 2j · step` for j from 0 to `count`, for each pair of a start and a step (at most 8, each in lane 0).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
fn progression(starts: &[Sum], steps: &[Sum], count: usize, entries: &mut Vec<Entry>) {
    let mut sum = Sum::gathered(starts);
    let step = Sum::gathered(steps).doubled().cached();
    let mut points: Vec<Projective> = Vec::with_capacity(count);
    for _ in 0..count {
        points.push(sum.projective());
        sum = sum.plus(&step);
    }
    let mut inverses: Vec<Fe> = points.iter().map(|point| point.z).collect();
    invert_each(&mut inverses, &mut Vec::with_capacity(count));
    let rows: Vec<[[u64; 4]; 24]> =
        points.iter().zip(&inverses).map(|(point, inverse)| entry_words(point, inverse)).collect();
    for lane in 0..starts.len() {
        for words in &rows {
            let element = |i: usize| {
                let mut bytes = [0; 32];
                for (eight, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words[3 * lane + i]) {
                    *eight = word.to_le_bytes();
                }
                load_256(&bytes)
            };
            entries.push(Entry([element(0), element(1), element(2)]));
        }
    }
}

/// The three elements of each lane's entry, lane by lane.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
fn entry_words(point: &Projective, inverse_of_z: &Fe) -> [[u64; 4]; 24] {
    let half_inverse = inverse_of_z.mul(&Fe::splat(&HALF));
    let half_x = point.x.mul(&half_inverse);
    let half_y = point.y.mul(&half_inverse);
    let elements = [
        half_y.biased().minus(&half_x.wide()).carried(),
        half_y.wide().plus(&half_x.wide()).carried(),
        half_x.mul(&half_y).mul(&Fe::splat(&FOUR_D)),
    ]
    .map(|element| element.canonical_words().map(|word| to_words(word)));
    std::array::from_fn(|i| elements[i % 3].map(|words| words[i / 3]))
}
