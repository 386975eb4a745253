//! What is refused as a whole: disabled or revoked subjects, keys, issuers, tenants. Few, so copied on change.

use std::collections::HashMap;

use super::change::Switch;
use super::fingerprint::Fingerprint;

/// An immutable set of switches; a change makes another.
#[derive(Debug, Clone, Default)]
pub(super) struct Switches {
    // Those switched on again stay, with their epoch: an older change that arrives late must not undo them.
    states: HashMap<Fingerprint, (Switch, u64)>,
    // How many of them refuse.
    refusing: usize,
}

impl Switches {
    /// Whether nothing is refused: the usual case, which needs no fingerprint.
    pub(super) fn is_quiet(&self) -> bool {
        self.refusing == 0
    }

    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    pub(super) fn lookup(&self, fingerprint: Fingerprint) -> Switch {
        self.states.get(&fingerprint).map_or(Switch::Enabled, |(state, _)| *state)
    }

    /// Takes a change, unless it is older than what is known. What is revoked stays revoked.
    pub(super) fn set(&mut self, fingerprint: Fingerprint, state: Switch, epoch: u64) {
        let known = self.states.entry(fingerprint).or_insert((Switch::Enabled, 0));
        let refused = known.0 != Switch::Enabled;
        let newer = epoch >= known.1;
        if known.0 != Switch::Revoked && (newer || state == Switch::Revoked) {
            known.0 = state;
        }
        known.1 = known.1.max(epoch);
        match (refused, known.0 != Switch::Enabled) {
            (false, true) => self.refusing += 1,
            (true, false) => self.refusing -= 1,
            _ => {}
        }
    }
}
