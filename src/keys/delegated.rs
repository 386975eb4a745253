//! Delegated keys of this node: which there are, which of them signs what, and when the next one is needed. Pure, as `life` is.
//!
//! A delegated key lives in memory alone and signs because an Active key says so, in a delegation of an hour at most. It has no
//! states: it signs from `propagation_ms` after it was published until its delegation has too little time left for a token, and it is
//! in the JWKS until its delegation ends, when nothing that it signed can be valid. It signs for as long only as the key that made it
//! one is the Active one. After a start the private halves of those before are gone; the delegations are remembered, for the JWKS.

use crate::decision::UnixSeconds;
use crate::keys::life::UnixMillis;

/// Most delegated keys in the JWKS at once. A start makes another; a node that is started over and over makes no more than this.
pub const DELEGATED_MAX: usize = 16;

/// A delegated key. Its private half is not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelegatedKey {
    /// Its RFC 7638 thumbprint.
    pub kid: String,
    /// Its public half.
    pub public_key: [u8; 32],
    /// The key that signed its delegation.
    pub certified_by: String,
    /// The text of its delegation, which every token that it signs carries.
    pub delegation: String,
    /// `iat` of its delegation: no token that it signs is older.
    pub issued_at: UnixSeconds,
    /// `exp` of its delegation: no token that it signs outlives it.
    pub expires_at: UnixSeconds,
    /// When it was in the JWKS that is served.
    pub published: UnixMillis,
    /// Whether this process has its private half.
    pub held: bool,
}

impl DelegatedKey {
    fn leaves_at(&self, leeway_s: u64) -> UnixMillis {
        UnixMillis(self.expires_at.saturating_add(leeway_s).0.saturating_mul(1000))
    }
}

/// What the configuration asks of delegated keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DelegationRules {
    /// How long a delegation lasts: `signing.delegation_s`.
    pub life_s: u64,
    /// From publication to the first signature, at least: as for every other key.
    pub propagation_ms: u64,
    /// The life of an ordinary token: a key with less time left is being replaced.
    pub token_life_s: u64,
}

impl DelegationRules {
    /// How long one key signs ordinary tokens, in seconds.
    fn signs_s(&self) -> u64 {
        let waits_s = self.propagation_ms.div_ceil(1000).saturating_add(self.token_life_s);
        self.life_s.saturating_sub(waits_s)
    }

    /// How much sooner than it would have to be another one is made: making it takes time, and may fail for a while.
    fn ahead_ms(&self) -> u64 {
        self.signs_s().saturating_mul(1000) / AHEAD
    }
}

/// The part of the time in which one key signs by which the next is made ahead.
const AHEAD: u64 = 4;

/// The delegated keys of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegations {
    // In the order in which they were made.
    keys: Vec<DelegatedKey>,
    // `None` where none are made any more, though there may be some from before.
    rules: Option<DelegationRules>,
    // By how much the clocks of verifiers may differ from this one, in seconds: a delegation leaves the JWKS so much later.
    leeway_s: u64,
}

impl Delegations {
    /// Those that were remembered. `leeway_s` is how much later than it ends a delegation leaves the JWKS, in seconds.
    #[must_use]
    pub fn new(keys: Vec<DelegatedKey>, rules: Option<DelegationRules>, leeway_s: u64) -> Self {
        Self { keys, rules, leeway_s }
    }

    /// Every delegated key that is in the JWKS.
    #[must_use]
    pub fn keys(&self) -> &[DelegatedKey] {
        &self.keys
    }

    /// What the configuration asks of them; `None`: that none be made.
    #[must_use]
    pub fn rules(&self) -> Option<&DelegationRules> {
        self.rules.as_ref()
    }

    /// The key of this name.
    #[must_use]
    pub fn key(&self, kid: &str) -> Option<&DelegatedKey> {
        self.keys.iter().find(|key| key.kid == kid)
    }

    /// When this key may sign.
    #[must_use]
    pub fn ready_at(&self, key: &DelegatedKey) -> UnixMillis {
        key.published.saturating_add(self.rules.map_or(u64::MAX, |rules| rules.propagation_ms))
    }

    /// The key that signs a token that is valid until `expires_at`, while those in `active` are the Active keys; the one made last.
    /// `None`: an Active key itself.
    #[must_use]
    pub fn signing(
        &self,
        active: &[&str],
        expires_at: UnixSeconds,
        now: UnixMillis,
    ) -> Option<&DelegatedKey> {
        let signs = |key: &&DelegatedKey| {
            key.held
                && active.contains(&key.certified_by.as_str())
                && self.ready_at(key) <= now
                && key.issued_at.0 <= now.0 / 1000
                && expires_at <= key.expires_at
        };
        self.keys.iter().rev().find(signs)
    }

    /// Whether another one is to be made now, while those in `active` are the Active keys, any of which may delegate.
    #[must_use]
    pub fn is_wanted(&self, active: &[&str], now: UnixMillis) -> bool {
        self.keys.len() < DELEGATED_MAX && self.wanted_at(active, now).is_some_and(|at| at <= now)
    }

    /// When another one is to be made, so that it can sign when the last one has too little time left.
    fn wanted_at(&self, active: &[&str], now: UnixMillis) -> Option<UnixMillis> {
        let rules = self.rules.filter(|_| !active.is_empty())?;
        let last_sign = |key: &DelegatedKey| {
            UnixMillis(key.expires_at.0.saturating_sub(rules.token_life_s).saturating_mul(1000))
        };
        // One from a time to come, by a clock that was set back since, covers nothing.
        let ours = |key: &&DelegatedKey| {
            key.held && active.contains(&key.certified_by.as_str()) && key.issued_at.0 <= now.0 / 1000
        };
        let covered = self.keys.iter().filter(ours).map(last_sign).max().unwrap_or_default();
        Some(covered.saturating_sub(rules.propagation_ms.saturating_add(rules.ahead_ms())))
    }

    /// When something will be due next; not before `now`.
    #[must_use]
    pub fn next_at(&self, active: &[&str], now: UnixMillis) -> Option<UnixMillis> {
        let ends = self.keys.iter().map(|key| self.ends_at(key));
        let has_room = self.keys.len() < DELEGATED_MAX;
        let wanted = if has_room { self.wanted_at(active, now) } else { None };
        ends.chain(wanted).map(|at| at.max(now)).min()
    }

    /// Puts in a key that was made just now.
    pub fn push(&mut self, key: DelegatedKey) {
        self.keys.push(key);
    }

    /// Takes out the keys whose delegation is over, and says whether there were any.
    pub fn forget_ended(&mut self, now: UnixMillis) -> bool {
        let (before, leeway_s) = (self.keys.len(), self.leeway_s);
        self.keys.retain(|key| key.leaves_at(leeway_s) > now);
        self.keys.len() < before
    }

    /// Takes out this key, and those that it made delegated ones, and says whether there were any: what they signed is refused.
    pub fn kill(&mut self, kid: &str) -> bool {
        let before = self.keys.len();
        self.keys.retain(|key| key.kid != kid && key.certified_by != kid);
        self.keys.len() < before
    }

    /// The private halves of those that other keys than `active` delegated to are gone: they never sign again, even where such a key does.
    pub fn let_go(&mut self, active: &[&str]) {
        for key in &mut self.keys {
            key.held &= active.contains(&key.certified_by.as_str());
        }
    }

    /// When this key leaves the JWKS.
    #[must_use]
    pub fn ends_at(&self, key: &DelegatedKey) -> UnixMillis {
        key.leaves_at(self.leeway_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: DelegationRules = DelegationRules { life_s: 100, propagation_ms: 10_000, token_life_s: 20 };

    fn of(keys: Vec<DelegatedKey>) -> Delegations {
        Delegations::new(keys, Some(RULES), 5)
    }

    fn key(kid: &str, certified_by: &str, made_s: u64) -> DelegatedKey {
        DelegatedKey {
            kid: kid.into(),
            public_key: [1; 32],
            certified_by: certified_by.into(),
            delegation: format!("of {kid}"),
            issued_at: UnixSeconds(made_s),
            expires_at: UnixSeconds(made_s + 100),
            published: UnixMillis(made_s * 1000),
            held: true,
        }
    }

    fn at(seconds: u64) -> UnixMillis {
        UnixMillis(seconds * 1000)
    }

    fn signing<'a>(keys: &'a Delegations, active: &str, life_s: u64, now: u64) -> Option<&'a str> {
        keys.signing(&[active], UnixSeconds(now + life_s), at(now)).map(|key| key.kid.as_str())
    }

    #[test]
    fn a_key_signs_once_it_has_propagated_and_nothing_that_outlives_its_delegation() {
        let keys = of(vec![key("d", "a", 1000)]);
        assert_eq!(signing(&keys, "a", 20, 1009), None, "not everybody has the JWKS");
        assert_eq!(signing(&keys, "a", 20, 1010), Some("d"));
        assert_eq!(signing(&keys, "a", 90, 1010), Some("d"));
        assert_eq!(signing(&keys, "a", 91, 1010), None, "the token itself signs what lives longer");
        assert_eq!(signing(&keys, "a", 20, 1081), None);
        assert_eq!(signing(&keys, "b", 20, 1010), None, "another key is the Active one");
        let past = of(vec![DelegatedKey { held: false, ..key("d", "a", 1000) }]);
        assert_eq!(signing(&past, "a", 20, 1010), None, "its private half went with the process");
        assert_eq!(signing(&Delegations::new(vec![key("d", "a", 1000)], None, 5), "a", 20, 1050), None);
    }

    #[test]
    fn the_next_one_is_ready_when_the_last_has_no_time_left_for_a_token() {
        let mut keys = of(Vec::new());
        assert!(keys.is_wanted(&["a"], at(1000)), "the first");
        keys.push(key("d", "a", 1000));
        // It signs ordinary tokens from 1010 to 1080; a quarter of that, and the propagation, is ahead.
        assert_eq!(RULES.signs_s(), 70);
        assert!(!keys.is_wanted(&["a"], UnixMillis(1_052_499)));
        assert_eq!(keys.next_at(&["a"], at(1001)), Some(UnixMillis(1_052_500)));
        assert!(keys.is_wanted(&["a"], UnixMillis(1_052_500)));
        // Made in vain for fifteen seconds, and there is no gap.
        keys.push(key("e", "a", 1068));
        assert!(!keys.is_wanted(&["a"], at(1068)));
        assert_eq!(signing(&keys, "a", 20, 1077), Some("d"));
        assert_eq!(signing(&keys, "a", 20, 1078), Some("e"));
        // A clock that was set back: what is of a time to come neither signs nor covers.
        assert!(keys.is_wanted(&["a"], at(900)) && signing(&keys, "a", 20, 900).is_none());
        assert!(keys.is_wanted(&["b"], at(1075)), "another Active key makes its own");
        assert!(!Delegations::new(Vec::new(), None, 5).is_wanted(&["a"], at(1000)));
    }

    #[test]
    fn a_key_leaves_the_jwks_with_its_delegation_and_at_once_when_it_or_its_certifier_is_killed() {
        let mut keys = of(vec![key("d", "a", 1000), key("e", "a", 1070)]);
        assert!(!keys.forget_ended(at(1104)));
        assert_eq!(keys.next_at(&[], at(1101)), Some(at(1105)), "the leeway later");
        assert!(keys.forget_ended(at(1105)));
        assert_eq!(keys.keys(), [key("e", "a", 1070)]);
        keys.push(key("f", "a", 1100));
        assert!(!keys.kill("other"));
        assert!(keys.kill("e") && keys.key("e").is_none());
        assert!(keys.kill("a") && keys.keys().is_empty());
    }

    #[test]
    fn a_key_that_was_let_go_never_signs_again_and_another_is_wanted() {
        let mut keys = of(vec![key("d", "a", 1000)]);
        keys.let_go(&["b", "a"]);
        assert_eq!(signing(&keys, "a", 20, 1010), Some("d"));
        keys.let_go(&[]);
        assert_eq!(signing(&keys, "a", 20, 1010), None);
        assert!(keys.is_wanted(&["a"], at(1010)) && keys.key("d").is_some(), "it is listed all the same");
    }

    #[test]
    fn a_node_that_starts_over_and_over_makes_no_more_than_there_is_room_for() {
        let past = |i: usize| DelegatedKey { held: false, ..key(&format!("d{i}"), "a", 1000) };
        let keys = of((0..DELEGATED_MAX).map(past).collect());
        assert!(!keys.is_wanted(&["a"], at(1050)));
        assert_eq!(keys.next_at(&["a"], at(1050)), Some(at(1105)), "once those are over");
    }
}
