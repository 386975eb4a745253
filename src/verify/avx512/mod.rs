//! The lane engine: eight signatures per vector on AVX-512 IFMA, one verdict each.
//!
//! Every item rides one 64-bit lane through the same instructions: hash, reduction modulo L, comb or doublings, encoding,
//! comparison. Nothing is shared between lanes but the one inversion of the batch, whose operands cannot be 0, so a bad item
//! neither slows nor changes its neighbours. Lanes without an item repeat another item and are masked; a lane becomes
//! an acceptance only in [`Scratch::settle`], for an item whose every check passed.
//!
//! `unsafe` is confined to this file (calls into functions compiled for the CPU features that [`Avx512`] proves) and to
//! `lanes.rs` (reinterpreting vectors as words, prefetching).

mod cold;
mod comb;
mod field;
mod finish;
mod lanes;
mod point;
mod scalar;
mod sha512;

use std::array;
use std::sync::OnceLock;

use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;

use self::comb::Walk;
use self::field::Fe;
use self::lanes::{Lanes, from_words, to_words};
use self::point::Projective;
use super::key::{Table, TableGuard};
use super::verdict::{SignatureRejection, Verdict};
use super::{Item, ItemKey, VerifyingKey, encoding, engine, portable};

pub(super) use self::comb::Comb;

/// Proof that this CPU runs the lane kernels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512(());

/// Digits of a registered key's comb: 36 windows of 64 entries, 216 KiB. Measured (`bench/README.md`): 6 bits cost 8 % more
/// time, 8 bits save 5 % while the second-level cache holds the keys in use, which are two.
const KEY_WINDOW_BITS: usize = 7;
/// Digits of B's comb: 25 windows of 512 entries, 1.2 MiB, one table for the process.
const BASE_WINDOW_BITS: usize = 10;
/// S is below L.
const BASE_BITS: usize = 253;

impl Avx512 {
    /// Asks the CPU (and the operating system, through XCR0).
    pub(super) fn detect() -> Option<Self> {
        let detected = |feature: &str| match feature {
            "avx2" => is_x86_feature_detected!("avx2"),
            "f16c" => is_x86_feature_detected!("f16c"),
            "fma" => is_x86_feature_detected!("fma"),
            "sse3" => is_x86_feature_detected!("sse3"),
            "ssse3" => is_x86_feature_detected!("ssse3"),
            "sse4.1" => is_x86_feature_detected!("sse4.1"),
            "sse4.2" => is_x86_feature_detected!("sse4.2"),
            "avx" => is_x86_feature_detected!("avx"),
            "avx512f" => is_x86_feature_detected!("avx512f"),
            "avx512bw" => is_x86_feature_detected!("avx512bw"),
            "avx512dq" => is_x86_feature_detected!("avx512dq"),
            "avx512ifma" => is_x86_feature_detected!("avx512ifma"),
            "avx512vbmi2" => is_x86_feature_detected!("avx512vbmi2"),
            _ => false,
        };
        Self::suffices(detected).then_some(Self(()))
    }

    /// Whether a CPU with these features runs the kernels.
    pub(super) fn suffices(has: impl Fn(&str) -> bool) -> bool {
        Self::FEATURES.into_iter().all(has)
    }

    /// What the kernels are compiled for (the last five), and what the compiler takes `avx512f` to include: a hypervisor
    /// may show a CPU that has one without the other.
    pub(super) const FEATURES: [&str; 13] = [
        "sse3",
        "ssse3",
        "sse4.1",
        "sse4.2",
        "avx",
        "avx2",
        "f16c",
        "fma",
        "avx512f",
        "avx512bw",
        "avx512dq",
        "avx512ifma",
        "avx512vbmi2",
    ];

    /// The comb of the point of which `half` encodes the half.
    ///
    /// # Panics
    /// If `half` does not encode a point of the curve.
    pub(super) fn key_comb(self, half: &[u8; 32]) -> Comb {
        self.comb(half, scalar::CHALLENGE_BITS, KEY_WINDOW_BITS)
    }

    /// The comb of B, built at its first use.
    fn base_comb(self) -> &'static Comb {
        static COMB: OnceLock<Comb> = OnceLock::new();
        COMB.get_or_init(|| self.comb(&engine::half(&ED25519_BASEPOINT_POINT), BASE_BITS, BASE_WINDOW_BITS))
    }

    #[expect(unsafe_code, reason = "calls a function compiled for detected CPU features")]
    fn comb(self, half: &[u8; 32], bits: usize, window_bits: usize) -> Comb {
        // SAFETY: the features `new_comb` is compiled for are the ones whose detection made `self`.
        unsafe { new_comb(half, bits, window_bits) }
    }
}

/// Bytes of a registered key's comb.
pub(super) const KEY_COMB_BYTES: usize = Comb::bytes(scalar::CHALLENGE_BITS, KEY_WINDOW_BITS);

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
fn new_comb(half: &[u8; 32], bits: usize, window_bits: usize) -> Comb {
    let words = encoding::words(half).map(|word| from_words([word; 8]));
    let (x, y, on_curve) = cold::decode(&words);
    assert_eq!(on_curve, u8::MAX, "half of a point of the curve is one");
    Comb::new(&(x, y), bits, window_bits)
}

/// Memory of one verifier, reused from batch to batch.
pub(super) struct Scratch {
    cpu: Avx512,
    base: &'static Comb,
    pending: Vec<Pending>,
    // Tables of this batch's keys, kept alive until it is settled.
    tables: Vec<Taken>,
    // Indices into `pending`, by number of blocks while hashing, then by path.
    order: Vec<u32>,
    padded: Vec<u8>,
    portable: portable::Scratch,
    // The item of the batch that the portable path is faster for.
    alone: Option<usize>,
    groups: Vec<Group>,
    points: Vec<Projective>,
    inverses: Vec<Fe>,
    products: Vec<Fe>,
}

/// The table of a key of the batch.
struct Taken {
    table: TableGuard,
    // The first of the key's items, and how many there are so far.
    item: usize,
    uses: u64,
}

/// An item that passed the checks on bytes (or whose key must be judged although its signature did not).
struct Pending {
    item: usize,
    // Index into `tables`; none for the cold path.
    table: Option<usize>,
    blocks: usize,
    r: [u64; 4],
    s: [u64; 4],
    k: [u64; 4],
    // What is wrong with the signature if the key is good; none if only the equation can tell.
    rejection: Option<SignatureRejection>,
}

/// Up to eight pending items that share vectors.
struct Group {
    // The first item's position in `order`, how many follow, and how many lanes each has.
    first: usize,
    len: usize,
    lanes_each: usize,
    r: [Lanes; 4],
    on_curve: u8,
    prime_order: u8,
}

/// Messages of more blocks than this are hashed alone: their padded copies would not fit the first-level cache.
const LANE_BLOCKS_MAX: usize = 32;

impl Scratch {
    pub(super) fn new(cpu: Avx512) -> Self {
        Self {
            cpu,
            base: cpu.base_comb(),
            pending: Vec::new(),
            tables: Vec::new(),
            order: Vec::new(),
            padded: Vec::new(),
            portable: portable::Scratch::new(),
            alone: None,
            groups: Vec::new(),
            points: Vec::new(),
            inverses: Vec::new(),
            products: Vec::new(),
        }
    }

    /// Appends one verdict per item.
    #[expect(unsafe_code, reason = "calls a function compiled for detected CPU features")]
    pub(super) fn verify(&mut self, items: &[Item<'_>], verdicts: &mut Vec<Verdict>) {
        let Avx512(()) = self.cpu;
        self.admit(items, verdicts);
        // SAFETY: the features it is compiled for are the ones whose detection made `self.cpu`.
        unsafe { self.verify_admitted(items, verdicts) }
        if let Some(item) = self.alone.take() {
            verdicts[item] = self.portable.verify_one(&items[item]);
        }
        for Taken { item, uses, .. } in self.tables.drain(..) {
            if let ItemKey::Registered(key) = items[item].key {
                key.count_uses(uses);
            }
        }
    }

    /// Makes every check that needs no arithmetic, and gives every item the rejection it keeps unless settled otherwise.
    fn admit(&mut self, items: &[Item<'_>], verdicts: &mut Vec<Verdict>) {
        self.pending.clear();
        for (index, item) in items.iter().enumerate() {
            let rejection = match self.admit_one(index, item) {
                Ok(()) => SignatureRejection::SignatureMismatch,
                Err(rejection) => rejection,
            };
            verdicts.push(Verdict::Rejected(rejection));
        }
    }

    fn admit_one(&mut self, index: usize, item: &Item<'_>) -> Result<(), SignatureRejection> {
        let table = match item.key {
            ItemKey::Registered(key) => {
                // Most batches have few keys: look at the latest tables before asking for another reference.
                let recent = self.tables.len().saturating_sub(8);
                let known = self.tables[recent..].iter().position(|taken| taken.table.is_of(key));
                match known {
                    Some(position) => {
                        self.tables[recent + position].uses += 1;
                        Some(recent + position)
                    }
                    None => self.take_table(index, key),
                }
            }
            ItemKey::Unregistered(bytes) => {
                encoding::check_key(bytes)?;
                None
            }
        };
        let (r, s, rejection) = match (encoding::split(item.signature), item.key) {
            (Ok((r, s)), _) => (encoding::words(r), encoding::words(s), None),
            (Err(rejection), ItemKey::Registered(_)) => return Err(rejection),
            // The key is judged first, and that takes arithmetic.
            (Err(rejection), ItemKey::Unregistered(_)) => ([0; 4], [0; 4], Some(rejection)),
        };
        let blocks = sha512::blocks(64 + item.message.len());
        self.pending.push(Pending { item: index, table, blocks, r, s, k: [0; 4], rejection });
        Ok(())
    }

    /// Keeps the table of `key` until the batch is settled; none if it has none for lanes.
    fn take_table(&mut self, item: usize, key: &VerifyingKey) -> Option<usize> {
        let Some(table) = key.table().filter(|table| matches!(table.get(), Table::Lanes(_))) else {
            key.count_uses(1);
            return None;
        };
        // Uses are added to the key's count once per batch: shards share it.
        self.tables.push(Taken { table, item, uses: 1 });
        Some(self.tables.len() - 1)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
    fn verify_admitted(&mut self, items: &[Item<'_>], verdicts: &mut [Verdict]) {
        self.hash(items);
        self.groups.clear();
        self.points.clear();
        self.sum_registered();
        self.sum_cold(items);
        self.inverses.clear();
        self.inverses.extend(self.points.iter().map(|point| point.z));
        finish::invert_each(&mut self.inverses, &mut self.products);
        for group in 0..self.groups.len() {
            self.settle(group, verdicts);
        }
    }

    /// Sets k of every pending item, eight at a time, those with the same number of blocks together.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
    fn hash(&mut self, items: &[Item<'_>]) {
        let Self { pending, order, padded, .. } = self;
        order.clear();
        for (index, item) in (0..).zip(pending.iter_mut()) {
            if item.blocks <= LANE_BLOCKS_MAX && item.rejection.is_none() {
                order.push(index);
            } else if item.rejection.is_none() {
                let Item { key, message, signature } = items[item.item];
                let (r, _) = signature.split_first_chunk().expect("64 bytes, or it had a rejection");
                let key = key.bytes().try_into().expect("32 bytes, or it was refused on admission");
                item.k = encoding::words(portable::challenge(r, key, message).as_bytes());
            }
        }
        order.sort_unstable_by_key(|index| pending[*index as usize].blocks);
        for eight in order.chunks(8) {
            let lengths: [usize; 8] = array::from_fn(|lane| {
                eight.get(lane).map_or(0, |index| pending[*index as usize].blocks * sha512::BLOCK_BYTES)
            });
            padded.resize(lengths.iter().sum::<usize>().max(padded.len()), 0);
            let mut rest = padded.as_mut_slice();
            let mut messages: [&[u8]; 8] = [&[]; 8];
            for (lane, index) in eight.iter().enumerate() {
                let Item { key, message, signature } = items[pending[*index as usize].item];
                let (message_padded, after) = rest.split_at_mut(lengths[lane]);
                sha512::pad(message_padded, [&signature[..32], key.bytes(), message]);
                messages[lane] = message_padded;
                rest = after;
            }
            let k = scalar::reduce(&sha512::hash(&messages)).map(to_words);
            for (lane, index) in eight.iter().enumerate() {
                pending[*index as usize].k = k.map(|words| words[lane]);
            }
        }
    }

    /// `[S]B - [k]A` of every item whose key has a table.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
    fn sum_registered(&mut self) {
        self.order.clear();
        for (index, item) in (0..).zip(&self.pending) {
            if item.table.is_some() {
                self.order.push(index);
            }
        }
        let mut first = 0;
        while first < self.order.len() {
            let len = (self.order.len() - first).min(8);
            let walk = |position: usize| {
                let item = &self.pending[self.order[first + position] as usize];
                let table = item.table.map(|table| self.tables[table].table.get());
                let Some(Table::Lanes(point)) = table else {
                    unreachable!("admitted with a table for lanes")
                };
                Walk { s: item.s, point, k: item.k }
            };
            // Positions after the last repeat the first; `sum_walks` does not look at them.
            let walks: [Walk<'_>; 8] = array::from_fn(|i| walk(if i < len { i } else { 0 }));
            self.points.push(comb::sum_walks(self.base, &walks[..len]).projective());
            self.push_group(first, len, comb::lanes_each(len), u8::MAX, u8::MAX);
            first += len;
        }
    }

    /// `[S]B - [k]A` of every other item, after the checks of its key. Two of them are faster in lanes than one by one; a
    /// single one is not (66 against 53 µs) and goes the portable path.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
    fn sum_cold(&mut self, items: &[Item<'_>]) {
        let mut first = self.order.len();
        for (index, item) in (0..).zip(&self.pending) {
            if item.table.is_none() {
                self.order.push(index);
            }
        }
        if let [alone] = &self.order[first..] {
            self.alone = Some(self.pending[*alone as usize].item);
            return;
        }
        while first < self.order.len() {
            let len = (self.order.len() - first).min(8);
            let of_lane =
                |lane: usize| &self.pending[self.order[first + if lane < len { lane } else { 0 }] as usize];
            let lanes: [&Pending; 8] = array::from_fn(of_lane);
            let transposed = |words: &dyn Fn(&Pending) -> [u64; 4]| {
                let lanes = lanes.map(words);
                [0, 1, 2, 3].map(|word| from_words(lanes.map(|lane| lane[word])))
            };
            let keys = transposed(&|item| {
                let key = items[item.item].key.bytes();
                encoding::words(key.try_into().expect("32 bytes, or it was refused on admission"))
            });
            let cold = cold::sum(self.base, &keys, &transposed(&|item| item.k), &transposed(&|item| item.s));
            self.points.push(cold.sum.projective());
            self.push_group(first, len, 1, cold.on_curve, cold.prime_order);
            first += len;
        }
    }

    #[target_feature(enable = "avx512f")]
    fn push_group(&mut self, first: usize, len: usize, lanes_each: usize, on_curve: u8, prime_order: u8) {
        let r: [[u64; 4]; 8] = array::from_fn(|lane| {
            let position = (lane / lanes_each).min(len - 1);
            self.pending[self.order[first + position] as usize].r
        });
        let r = [0, 1, 2, 3].map(|word| from_words(r.map(|r| r[word])));
        self.groups.push(Group { first, len, lanes_each, r, on_curve, prime_order });
    }

    /// Turns the lanes of a group into verdicts: the only place that accepts.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512ifma,avx512vbmi2")]
    fn settle(&self, group: usize, verdicts: &mut [Verdict]) {
        let (point, inverse) = (&self.points[group], &self.inverses[group]);
        let group = &self.groups[group];
        let equal = finish::encodes_to(point, inverse, &group.r);
        // Only the group's items are looked at: a lane without one cannot be accepted.
        for position in 0..group.len {
            let item = &self.pending[self.order[group.first + position] as usize];
            let holds = |lanes: u8| lanes >> (position * group.lanes_each) & 1 == 1;
            verdicts[item.item] = if !holds(group.on_curve) {
                Verdict::Rejected(SignatureRejection::KeyNotOnCurve)
            } else if !holds(group.prime_order) {
                Verdict::Rejected(SignatureRejection::KeyMixedOrder)
            } else if let Some(rejection) = item.rejection {
                Verdict::Rejected(rejection)
            } else if holds(equal) {
                Verdict::accepted()
            } else {
                Verdict::Rejected(SignatureRejection::SignatureMismatch)
            };
        }
    }
}

#[cfg(test)]
mod tests;
