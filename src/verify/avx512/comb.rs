//! Fixed-base combs: scalar multiplication of registered keys and of B without a doubling.
//!
//! A scalar is cut into `windows` windows of w bits and a top window. Window i with value u stands for the odd digit
//! `2u - (2^w - 1)` of `P_i = 2^(wi) · H`, where H is half of the point (the group's order is odd): the digit's sign is one bit,
//! its 2^(w-1) sizes need no zero, and no carry runs between windows. The digits sum to twice the scalar less a constant, and the
//! entries of the top window, unsigned and complete, contain it: `(2u + 1) · P_top - H`.

use std::arch::x86_64::*;
use std::array;

use super::field::Fe;
use super::finish::invert_each;
use super::lanes::{Lanes, from_words, load_256, prefetch, splat, to_words, transposed};
use super::point::{FOUR_D, HALF, Niels, Projective, Sum};

/// An affine point: canonical `(y - x)/2`, `(y + x)/2`, `d·x·y`. 96 bytes, in two cache lines.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct Entry([__m256i; 3]);

const _: () = assert!(size_of::<Entry>() == 96);

/// The identity: y = 1, x = 0.
static IDENTITY: &Entry = &{
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

/// A scalar below 2^256 in each lane, little-endian words.
pub(super) type Scalars = [Lanes; 4];

/// `[s]B + [k]P`, for the comb of P.
#[derive(Clone, Copy)]
pub(super) struct Walk<'a> {
    pub(super) s: [u64; 4],
    pub(super) point: &'a Comb,
    pub(super) k: [u64; 4],
}

/// The entries each lane adds, step by step, and the combs they are in.
struct Plan<'a> {
    combs: [[&'a [Entry]; 2]; 8],
    // Where an entry is: bit 0 says whether it is subtracted, bit 1 which of the lane's two combs it is in, the rest is the
    // index. 0 is the identity of the first comb.
    places: [[u64; 8]; STEPS_MAX],
    steps: usize,
}

/// Enough for windows of 4 bits of a key and of 9 of B, and for looking ahead.
const STEPS_MAX: usize = 104;
/// Steps between asking for an entry and adding it: an addition takes about as long as the third-level cache.
const STEPS_AHEAD: usize = 4;

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
                base.double();
            }
        }
        let minus_half = start.cached().negated_where(u8::MAX);
        let mut entries = Vec::with_capacity(1 + top_entries + (windows << (window_bits - 1)));
        entries.push(*IDENTITY);
        let mut lowest = base;
        lowest.add(&minus_half);
        progression(&[lowest], &[base], top_entries, &mut entries);
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
    pub(super) fn add_multiples(&self, sum: &mut Sum, scalars: &Scalars) {
        let mut plan = Plan::new([[&self.entries, &self.entries]; 8]);
        plan.push_multiples(self, scalars, 0);
        plan.add_steps(sum, 0);
    }
}

impl<'a> Plan<'a> {
    /// No steps yet; beyond the last step there are identities.
    fn new(combs: [[&'a [Entry]; 2]; 8]) -> Self {
        Self { combs, places: [[0; 8]; STEPS_MAX], steps: 0 }
    }

    /// Appends the entries of `[scalar]P`, one per step: the top window's, then from the lowest window on. `comb` is the
    /// lanes' first (0) or second (1), or one of the same shape.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    fn push_multiples(&mut self, comb: &Comb, scalars: &Scalars, which: u64) {
        // The value of the window that starts at a bit, with higher bits above it.
        let window_at = |bit: usize| {
            let next = scalars.get(bit / 64 + 1).copied().unwrap_or(_mm512_setzero_si512());
            _mm512_shrdv_epi64(scalars[bit / 64], next, splat((bit % 64) as u64))
        };
        let top_mask = splat(comb.top_entries as u64 - 1);
        let top = _mm512_and_si512(window_at(comb.windows * comb.window_bits), top_mask);
        let mut push = |index: Lanes, negative: __mmask8| {
            let flags = _mm512_mask_add_epi64(splat(which << 1), negative, splat(which << 1), splat(1));
            self.places[self.steps] = to_words(_mm512_or_si512(_mm512_slli_epi64::<2>(index), flags));
            self.steps += 1;
        };
        push(_mm512_add_epi64(top, splat(1)), 0);
        let sizes = 1 << (comb.window_bits - 1);
        let size_mask = splat(sizes - 1);
        let mut first = 1 + comb.top_entries as u64;
        for window in 0..comb.windows {
            let value = window_at(window * comb.window_bits);
            // The window's top bit is the sign; below zero the sizes run backwards.
            let negative = _mm512_testn_epi64_mask(value, splat(sizes));
            let size = _mm512_mask_xor_epi64(value, negative, value, splat(u64::MAX));
            push(_mm512_add_epi64(_mm512_and_si512(size, size_mask), splat(first)), negative);
            first += sizes;
        }
    }

    /// Deals the steps of lanes 0, 1, … to `lanes_each` lanes each, in turn.
    fn spread(&mut self, lanes_each: usize) {
        let steps = self.steps.div_ceil(lanes_each);
        for step in 0..steps {
            // Each place is read before its row is written: rows only move towards the front.
            let row = array::from_fn(|lane| {
                let from = step * lanes_each + lane % lanes_each;
                if from < self.steps { self.places[from][lane / lanes_each] } else { 0 }
            });
            self.places[step] = row;
        }
        for row in &mut self.places[steps..self.steps] {
            *row = [0; 8];
        }
        self.steps = steps;
    }

    /// The entries of a step, on their way to the cache.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "x86-64 only: usize has 64 bits")]
    fn entries(&self, step: usize) -> [&'a Entry; 8] {
        let mut entries = [IDENTITY; 8];
        for ((entry, place), combs) in entries.iter_mut().zip(&self.places[step]).zip(&self.combs) {
            let place = *place as usize;
            *entry = &combs[place >> 1 & 1][place >> 2];
            prefetch(*entry);
        }
        entries
    }

    /// The eight points of a step, from its entries.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    fn points(&self, step: usize, entries: &[&'a Entry; 8]) -> Niels {
        let mut rows = [[&IDENTITY.0[0]; 8]; 3];
        let [y_minus_x, y_plus_x, dxy] = &mut rows;
        let mut negative = 0;
        for (lane, (place, Entry(elements))) in self.places[step].iter().zip(entries).enumerate() {
            let is_negative = place & 1 == 1;
            // Negating a point swaps y - x with y + x and negates xy.
            y_minus_x[lane] = &elements[usize::from(is_negative)];
            y_plus_x[lane] = &elements[usize::from(!is_negative)];
            dxy[lane] = &elements[2];
            negative |= u8::from(is_negative) << lane;
        }
        let [y_minus_x, y_plus_x, dxy] = rows;
        Niels {
            y_minus_x: Fe::from_words(&transposed(y_minus_x)),
            y_plus_x: Fe::from_words(&transposed(y_plus_x)),
            dxy: Fe::from_words(&transposed(dxy)).negated_where(negative),
        }
    }

    /// Adds the steps from `first` on to `sum`.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma,avx512vbmi2")]
    fn add_steps(&self, sum: &mut Sum, first: usize) {
        let mut ahead: [_; STEPS_AHEAD] = array::from_fn(|i| self.entries(first + i));
        for step in first..self.steps {
            let place = (step - first) % STEPS_AHEAD;
            let points = self.points(step, &ahead[place]);
            ahead[place] = self.entries(step + STEPS_AHEAD);
            sum.add_affine(&points);
        }
    }
}

/// `[s]B + [k]P` of up to eight walks, walk i in lane `i · lanes_each`; `base` is the comb of B.
///
/// With four walks or fewer each gets 2, 4 or 8 lanes, which take turns at its entries and are summed at the end: a lone
/// signature takes less than a third of the time of eight.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
pub(super) fn sum_walks(base: &Comb, walks: &[Walk<'_>]) -> Sum {
    let lanes_each = lanes_each(walks.len());
    // Lanes beyond the last walk repeat the first; nobody reads them.
    let of_lane = |lane: usize| walks.get(lane).unwrap_or(&walks[0]);
    let scalars = |scalar: &dyn Fn(&Walk<'_>) -> [u64; 4]| {
        let of_lane: [[u64; 4]; 8] = array::from_fn(|lane| scalar(of_lane(lane)));
        [0, 1, 2, 3].map(|word| from_words(of_lane.map(|words| words[word])))
    };
    let (s, k) = (scalars(&|walk| walk.s), scalars(&|walk| walk.k));
    let mut plan =
        Plan::new(array::from_fn(|lane| [&*base.entries, &*of_lane(lane / lanes_each).point.entries]));
    plan.push_multiples(base, &s, 0);
    // All keys' combs have one shape.
    plan.push_multiples(walks[0].point, &k, 1);
    if lanes_each > 1 {
        plan.spread(lanes_each);
    }
    let mut sum = Sum::from_niels(&plan.points(0, &plan.entries(0)));
    plan.add_steps(&mut sum, 1);
    let mut stride = 1;
    while stride < lanes_each {
        let other = from_words([0, 1, 2, 3, 4, 5, 6, 7].map(|lane| lane ^ stride as u64));
        sum.add(&sum.permuted(other).cached());
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
    let mut step = Sum::gathered(steps);
    step.double();
    let step = step.cached();
    let mut points: Vec<Projective> = Vec::with_capacity(count);
    for _ in 0..count {
        points.push(sum.projective());
        sum.add(&step);
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
