//! Keys that an operator killed: whoever publishes them, and whoever says that they sign, they verify nothing.

use crate::keys::IssuerIndex;

/// The names of killed keys, of each issuer. Immutable, part of the snapshot that shards look keys up in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KilledKeys {
    // Sorted: the names may be an attacker's, and are looked up for as little as others.
    kids: Vec<(IssuerIndex, String)>,
}

impl KilledKeys {
    /// Whether this key of this issuer was killed.
    #[must_use]
    pub fn contains(&self, issuer: IssuerIndex, kid: &str) -> bool {
        self.kids.binary_search_by(|(of, name)| (*of, name.as_str()).cmp(&(issuer, kid))).is_ok()
    }
}

impl FromIterator<(IssuerIndex, String)> for KilledKeys {
    fn from_iter<I: IntoIterator<Item = (IssuerIndex, String)>>(killed: I) -> Self {
        let mut kids: Vec<_> = killed.into_iter().collect();
        kids.sort_unstable();
        kids.dedup();
        Self { kids }
    }
}
