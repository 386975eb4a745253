//! Decisions over time in a bounded number of equal slots: when the last one is passed, each two become one.

use std::collections::BTreeMap;

use serde::Serialize;

/// Decisions by outcome, slot by slot.
#[derive(Debug, Clone, Serialize)]
pub struct Timeline {
    /// When the first slot begins, in nanoseconds since 1970.
    pub start_ns: u64,
    /// How long each is.
    pub step_ns: u64,
    /// Counts by outcome.
    pub slots: Vec<BTreeMap<&'static str, u64>>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { start_ns: 0, step_ns: STEP_NS_MIN, slots: Vec::new() }
    }
}

impl Timeline {
    /// Counts a decision. The clock may have gone back: what is before the first slot is counted in it.
    pub(super) fn add(&mut self, at_ns: u64, decision: &'static str) {
        if self.slots.is_empty() {
            self.start_ns = at_ns - at_ns % STEP_NS_MIN;
        }
        while at_ns.saturating_sub(self.start_ns) / self.step_ns >= SLOTS_MAX {
            self.widen();
        }
        let slot = usize::try_from(at_ns.saturating_sub(self.start_ns) / self.step_ns).expect("few slots");
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, BTreeMap::new);
        }
        *self.slots[slot].entry(decision).or_default() += 1;
    }

    fn widen(&mut self) {
        self.step_ns *= 2;
        let mut slots = std::mem::take(&mut self.slots).into_iter();
        while let Some(mut first) = slots.next() {
            for (decision, count) in slots.next().unwrap_or_default() {
                *first.entry(decision).or_default() += count;
            }
            self.slots.push(first);
        }
    }

    /// A log of a moment has one slot at least.
    pub(super) fn finish(&mut self) {
        if self.slots.is_empty() {
            self.slots.push(BTreeMap::new());
        }
    }
}

/// The shortest slot: a second.
const STEP_NS_MIN: u64 = 1_000_000_000;

/// Slots of a picture: a bar of each is still seen.
pub(super) const SLOTS_MAX: u64 = 96;
