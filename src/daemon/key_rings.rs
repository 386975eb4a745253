//! Which ring each stored signing key belongs to: that of the place that is configured for it. A token may have left the configuration, and
//! its key is stored still.

use crate::keys::life::{KeyState, SigningKey, UnixMillis};

/// The stored keys, ring by ring.
pub(super) struct Sorted {
    pub(super) rings: Vec<Stored>,
    /// Keys that sign no more, or never will, since their place is not configured any more: their names, states, and places.
    pub(super) stopped: Vec<Stopped>,
}

/// A key whose place left the configuration.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stopped {
    pub(super) kid: String,
    pub(super) from: KeyState,
    pub(super) to: KeyState,
    pub(super) place: String,
}

/// The stored keys of one ring.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) keys: Vec<SigningKey>,
    /// Whether one of them is in the configured place.
    pub(super) has_own: bool,
}

/// Sorts `keys` into `rings` rings; `ring_of` says which one a key belongs to, if it belongs to one.
///
/// A key of no configured place is looked after in the first ring until nothing that it signed can be valid. Where it is Active it signs on
/// only as long as no other does, so that changing from one arrangement to another leaves nobody without. A Draft among
/// them is given up beside others: it signed nothing, and what it waits for will not come.
pub(super) fn sort(
    keys: Vec<SigningKey>,
    rings: usize,
    now: UnixMillis,
    ring_of: impl Fn(&SigningKey) -> Option<usize>,
) -> Sorted {
    let mut sorted: Vec<Stored> = (0..rings).map(|_| Stored::default()).collect();
    let mut strays = Vec::new();
    for key in keys {
        match ring_of(&key) {
            Some(ring) => {
                sorted[ring].has_own = true;
                sorted[ring].keys.push(key);
            }
            None => strays.push(key),
        }
    }
    let mut stopped = Vec::new();
    let signs = sorted.iter().flat_map(|ring| &ring.keys).any(|key| key.state == KeyState::Active);
    for mut stray in strays {
        let from = stray.state;
        match from {
            // Since when is not known, and the ring takes its own time.
            KeyState::Active if signs => (stray.state, stray.retire_not_before) = (KeyState::Trusted, None),
            KeyState::Draft if rings > 1 || signs => {
                (stray.state, stray.retired, stray.wanted) = (KeyState::Retired, Some(now), false);
            }
            _ => {}
        }
        if stray.state != from {
            let (kid, place) = (stray.kid.clone(), stray.place.clone());
            stopped.push(Stopped { kid, from, to: stray.state, place });
        }
        sorted[0].keys.push(stray);
    }
    Sorted { rings: sorted, stopped }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::life::NewKey;

    fn key(kid: &str, place: &str, state: KeyState) -> SigningKey {
        let new = NewKey { kid: kid.into(), public_key: [1; 32], place: place.into(), wanted: false };
        SigningKey { state, activated: Some(UnixMillis(1)), ..SigningKey::unused(new) }
    }

    fn ring_of(key: &SigningKey) -> Option<usize> {
        ["a", "b"].iter().position(|token| key.place.starts_with(token))
    }

    fn kids(sorted: &Sorted) -> Vec<Vec<&str>> {
        sorted.rings.iter().map(|ring| ring.keys.iter().map(|key| key.kid.as_str()).collect()).collect()
    }

    #[test]
    fn each_key_is_of_the_ring_of_its_token() {
        let keys = vec![
            key("1", "b/1", KeyState::Active),
            key("2", "a/2", KeyState::Trusted),
            key("3", "a/3", KeyState::Active),
        ];
        let sorted = sort(keys, 2, UnixMillis(9), ring_of);
        assert_eq!(kids(&sorted), [vec!["2", "3"], vec!["1"]]);
        assert!(sorted.rings.iter().all(|ring| ring.has_own) && sorted.stopped.is_empty());
    }

    #[test]
    fn a_key_whose_token_is_gone_signs_no_more_beside_others_and_verifies_on() {
        use KeyState::{Active, Draft, Retired, Trusted};
        let keys = vec![key("1", "c/1", Active), key("2", "a/2", Active)];
        let more = vec![key("3", "c/3", Draft), key("4", "c/4", Trusted)];
        let sorted = sort([keys, more].concat(), 2, UnixMillis(9), ring_of);
        assert_eq!(kids(&sorted), [vec!["2", "1", "3", "4"], vec![]]);
        let stopped = |kid: &str, from, to| Stopped { kid: kid.into(), from, to, place: format!("c/{kid}") };
        assert_eq!(sorted.stopped, [stopped("1", Active, Trusted), stopped("3", Draft, Retired)]);
        let states: Vec<KeyState> = sorted.rings[0].keys.iter().map(|key| key.state).collect();
        assert_eq!(states, [Active, Trusted, Retired, Trusted]);
        assert_eq!(sorted.rings[0].keys[2].retired, Some(UnixMillis(9)));
        assert!(!sorted.rings[1].has_own);
    }

    #[test]
    fn a_key_whose_token_is_gone_does_not_sign_for_one_that_was_disabled() {
        // Whichever ring the one that signs is in.
        let keys = vec![
            key("1", "c/1", KeyState::Active),
            key("2", "a/2", KeyState::Trusted),
            key("3", "b/3", KeyState::Active),
        ];
        let sorted = sort(keys, 2, UnixMillis(9), ring_of);
        assert_eq!(sorted.rings[0].keys[1].state, KeyState::Trusted);
        assert_eq!(sorted.stopped.len(), 1);
    }

    #[test]
    fn a_key_from_before_the_arrangement_signs_until_another_does() {
        let keys = vec![key("1", "everywhere", KeyState::Active), key("2", "b/2", KeyState::Draft)];
        let sorted = sort(keys, 2, UnixMillis(9), ring_of);
        assert_eq!((kids(&sorted), sorted.stopped.len()), (vec![vec!["1"], vec!["2"]], 0));
        assert_eq!(sorted.rings[0].keys[0].state, KeyState::Active);
        assert!(!sorted.rings[0].has_own && sorted.rings[1].has_own);
    }
}
