//! Fixed-base combs: scalar multiplication of registered keys and of B without a doubling.
//!
//! A scalar is cut into `windows` windows of w bits and a top window. Window i with value u stands for the odd digit
//! `2u - (2^w - 1)` of `P_i = 2^(wi) · H`, where H is half of the point (the group's order is odd): the digit's sign is one bit,
//! its 2^(w-1) sizes need no zero, and no carry runs between windows. The digits sum to twice the scalar less a constant, and the
//! entries of the top window, unsigned and complete, contain it: `(2u + 1) · P_top - H`.

use std::arch::x86_64::__m256i;
use std::array;

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
const IDENTITY: Entry = {
    let mut half = [0xff; 32]; // (p + 1)/2 = 2^254 - 9
    half[0] = 0xf7;
    half[31] = 0x3f;
    Entry([load_256(&half), load_256(&half), load_256(&[0; 32])])
};

/// The multiples of one point.
pub(in super::super) struct Comb {
    window_bits: usize,
    windows: usize,
    // The identity, the top window, then the others from the lowest.
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

/// Where an entry is and whether it is to be subtracted: bit 0 the sign, bit 1 which of the lane's two combs, then the
/// index. 0 is the identity of the first comb.
#[derive(Clone, Copy)]
struct Place(u32);

/// The entries each lane adds, step by step, and the combs they are in.
struct Plan<'a> {
    combs: [[&'a [Entry]; 2]; 8],
    places: [[Place; 8]; STEPS_MAX],
    steps: usize,
}

/// Enough for windows of 4 bits of a key and of 9 of B, and for looking ahead.
const STEPS_MAX: usize = 104;
/// Steps between asking for an entry and adding it: an addition takes about as long as the third-level cache.
const STEPS_AHEAD: usize = 2;

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
        let mut entries = Vec::with_capacity(1 + top_entries + (windows << (window_bits - 1)));
        entries.push(IDENTITY);
        progression(&[base.plus(&minus_half)], &[base], top_entries, &mut entries);
        for eight in bases.chunks(8) {
            progression(eight, eight, 1 << (window_bits - 1), &mut entries);
        }
        debug_assert_eq!(size_of_val(&*entries), Self::bytes(bits, window_bits));
        Self { window_bits, windows, entries: entries.into_boxed_slice(), top_entries }
    }

    /// Bytes of a comb, by its digits.
    pub(super) const fn bytes(bits: usize, window_bits: usize) -> usize {
        let windows = (bits - 1) / window_bits;
        (1 + (1 << (bits - windows * window_bits)) + (windows << (window_bits - 1))) * size_of::<Entry>()
    }

    /// Adds `[s]P` to each lane of `sum`, for the scalar of each lane.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
    pub(super) fn add_multiples(&self, sum: &mut Sum, scalars: &[Scalar; 8]) {
        let mut plan = Plan::new();
        for (lane, scalar) in scalars.iter().enumerate() {
            plan.combs[lane][0] = &self.entries;
            self.for_each_place(scalar, |i, place| plan.places[i][lane] = place);
        }
        plan.steps = 1 + self.windows;
        plan.add_steps(sum, 0);
    }

    /// Tells the place of each entry of `[scalar]P`: the top window's, then from the lowest window on.
    #[inline]
    fn for_each_place(&self, scalar: &Scalar, mut tell: impl FnMut(usize, Place)) {
        let top = scalar.bits(self.windows * self.window_bits) & (self.top_entries - 1);
        tell(0, Place::new(1 + top, false));
        let sizes = 1 << (self.window_bits - 1);
        let mut first = 1 + self.top_entries;
        for window in 0..self.windows {
            let value = scalar.bits(window * self.window_bits);
            // The window's top bit is the sign; below zero the sizes run backwards.
            let negative = value & sizes == 0;
            let size = (value ^ usize::from(negative).wrapping_neg()) & (sizes - 1);
            tell(1 + window, Place::new(first + size, negative));
            first += sizes;
        }
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

impl Place {
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "combs have below 2^20 entries")]
    fn new(index: usize, negative: bool) -> Self {
        Self((index as u32) << 2 | u32::from(negative))
    }

    #[inline]
    fn in_second_comb(self) -> Self {
        Self(self.0 | 2)
    }
}

impl<'a> Plan<'a> {
    /// Nothing but identities.
    fn new() -> Self {
        Self { combs: [[&[]; 2]; 8], places: [[Place(0); 8]; STEPS_MAX], steps: 0 }
    }

    /// The sums of up to eight walks; see [`sum_walks`].
    fn of_walks(walks: &[Walk<'a>]) -> Self {
        let lanes_each = lanes_each(walks.len());
        let mut plan = Self::new();
        for lane in 0..8 {
            // Lanes beyond the last walk add identities; nobody reads them.
            let walk = walks.get(lane / lanes_each).unwrap_or(&walks[0]);
            plan.combs[lane] = [&walk.base.entries, &walk.point.entries];
        }
        for (walk, lane) in walks.iter().zip((0..8).step_by(lanes_each)) {
            let Walk { base, s, point, k } = walk;
            base.for_each_place(s, |i, place| plan.places[i / lanes_each][lane + i % lanes_each] = place);
            let after_base = 1 + base.windows;
            point.for_each_place(k, |i, place| {
                let i = after_base + i;
                plan.places[i / lanes_each][lane + i % lanes_each] = place.in_second_comb();
            });
            plan.steps = plan.steps.max((after_base + 1 + point.windows).div_ceil(lanes_each));
        }
        debug_assert!(plan.steps + STEPS_AHEAD <= STEPS_MAX);
        plan
    }

    #[inline]
    fn entry(&self, step: usize, lane: usize) -> &'a Entry {
        let place = self.places[step][lane].0;
        &self.combs[lane][(place >> 1 & 1) as usize][(place >> 2) as usize]
    }

    /// The eight points of a step.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    fn load(&self, step: usize) -> Niels {
        let mut rows = [[&IDENTITY.0[0]; 8]; 3];
        let mut negative = 0;
        for lane in 0..8 {
            let entry = self.entry(step, lane);
            let sign = self.places[step][lane].0 & 1;
            // Negating a point swaps y - x with y + x and negates xy.
            rows[0][lane] = &entry.0[sign as usize];
            rows[1][lane] = &entry.0[(sign ^ 1) as usize];
            rows[2][lane] = &entry.0[2];
            negative |= sign << lane;
        }
        let [y_minus_x, y_plus_x, dxy] = rows;
        Niels {
            y_minus_x: Fe::from_words(&transposed(y_minus_x)),
            y_plus_x: Fe::from_words(&transposed(y_plus_x)),
            dxy: Fe::from_words(&transposed(dxy)).negated_where(negative as u8),
        }
    }

    #[inline]
    fn prefetch(&self, step: usize) {
        for lane in 0..8 {
            prefetch(self.entry(step, lane));
        }
    }

    /// Adds the steps from `first` on to `sum`.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    fn add_steps(&self, sum: &mut Sum, first: usize) {
        for step in first..self.steps {
            self.prefetch(step + STEPS_AHEAD);
            sum.add_affine(&self.load(step));
        }
    }
}

/// The sums of up to eight walks, walk i in lane `i · lanes_each`.
///
/// With four walks or fewer each gets 2, 4 or 8 lanes, which take turns at its entries and are summed at the end: a lone
/// signature takes a sixth of the time of eight.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
pub(super) fn sum_walks(walks: &[Walk<'_>]) -> Sum {
    let plan = Plan::of_walks(walks);
    plan.prefetch(0);
    plan.prefetch(1);
    let mut sum = Sum::from_niels(&plan.load(0));
    plan.add_steps(&mut sum, 1);
    let lanes_each = lanes_each(walks.len());
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
    .map(|element| element.canonical_words().map(to_words));
    array::from_fn(|i| elements[i % 3].map(|words| words[i / 3]))
}
