//! The most frequent names, in bounded memory: whoever makes tokens chooses a `kid`, and may choose another each time.

use std::collections::HashMap;

use serde::Serialize;

/// Names and how often each was counted, the most frequent first.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Top {
    /// The most frequent. Where names were let go, these are what they were counted since, at least.
    pub names: Vec<(String, u64)>,
    /// Counts of all other names.
    pub others: u64,
    /// Whether some names were let go while counting, so that counts may be too low.
    pub is_lower_bound: bool,
    #[serde(skip)]
    counts: HashMap<String, u64>,
}

impl Top {
    pub(super) fn add(&mut self, name: &str) {
        if let Some(count) = self.counts.get_mut(name) {
            *count += 1;
            return;
        }
        if self.counts.len() == NAMES_MAX {
            self.let_go();
        }
        self.counts.insert(name.to_owned(), 1);
    }

    /// Makes room: the rarer half is counted together.
    fn let_go(&mut self) {
        let kept = sorted(&mut self.counts);
        self.is_lower_bound = true;
        self.others += kept[NAMES_MAX / 2..].iter().map(|(_, count)| count).sum::<u64>();
        self.counts = kept.into_iter().take(NAMES_MAX / 2).collect();
    }

    pub(super) fn finish(&mut self) {
        let mut names = sorted(&mut self.counts);
        self.others += names.iter().skip(NAMES_SHOWN).map(|(_, count)| count).sum::<u64>();
        names.truncate(NAMES_SHOWN);
        self.names = names;
    }
}

/// Takes them out, the most frequent first, by name where that is equal.
fn sorted(counts: &mut HashMap<String, u64>) -> Vec<(String, u64)> {
    let mut names: Vec<_> = std::mem::take(counts).into_iter().collect();
    names.sort_by(|(a, m), (b, n)| n.cmp(m).then_with(|| a.cmp(b)));
    names
}

/// Names counted apart at a time.
pub(super) const NAMES_MAX: usize = 4096;

/// Names in the result.
pub(super) const NAMES_SHOWN: usize = 10;
