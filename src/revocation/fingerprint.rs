//! An identity as 128 bits, in two steps: the realm (what kind of thing, tenant and issuer), then the name within it.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

use super::change::TargetKind;

/// The identity of something that can be revoked, inside one view.
///
/// SipHash-1-3 with 128-bit output (Aumasson and Bernstein, 2012) under a key drawn at start and never shown, nor any
/// output of it: whoever chooses a `jti` cannot aim it at another token's fingerprint, and among 10 million entries
/// the chance that an innocent token hits one by accident is below 2^-104.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint {
    pub(super) high: u64,
    pub(super) low: u64,
}

/// Where names of one kind live. Good for the view that made it, and only that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Realm([u8; REALM_BYTES]);

/// The realms of one issuer's tokens in one view, hashed once instead of for each token.
#[derive(Debug, Clone, Copy)]
pub struct Realms {
    pub(super) tenant: Fingerprint,
    pub(super) issuer: Fingerprint,
    pub(super) kid: Realm,
    pub(super) session: Realm,
    pub(super) subject: Realm,
    pub(super) token: Realm,
}

/// Makes fingerprints; one per view.
pub(super) struct Fingerprinter {
    keyed: SipHasher13,
}

impl Fingerprinter {
    pub(super) fn new(seed: &[u8; 16]) -> Self {
        Self { keyed: SipHasher13::new_with_key(seed) }
    }

    pub(super) fn realms(&self, tenant: &str, issuer: &str) -> Realms {
        let realm = |kind| self.realm(kind, tenant, issuer);
        Realms {
            tenant: self.fingerprint(self.realm(TargetKind::Tenant, tenant, ""), ""),
            issuer: self.fingerprint(realm(TargetKind::Issuer), ""),
            kid: realm(TargetKind::Kid),
            session: realm(TargetKind::Session),
            subject: realm(TargetKind::Subject),
            token: realm(TargetKind::Token),
        }
    }

    /// Tenant and issuer each go in behind their length, so `("a", "bc")` and `("ab", "c")` are different realms; the
    /// mark in front keeps a realm's input apart from a fingerprint's, which begins with a realm.
    pub(super) fn realm(&self, kind: TargetKind, tenant: &str, issuer: &str) -> Realm {
        let mut hasher = self.keyed;
        hasher.write(REALM_LABEL);
        hasher.write(&[mark(kind)]);
        for part in [tenant, issuer] {
            hasher.write(&(part.len() as u64).to_le_bytes());
            hasher.write(part.as_bytes());
        }
        Realm(hasher.finish128().as_bytes())
    }

    /// A realm has a fixed length and the name is all that follows, so no two pairs have the same input.
    pub(super) fn fingerprint(&self, realm: Realm, name: &str) -> Fingerprint {
        let hash = if name.len() <= NAME_INLINE_BYTES {
            // One piece is hashed in half the time of two.
            let mut input = [0; REALM_BYTES + NAME_INLINE_BYTES];
            let len = REALM_BYTES + name.len();
            input[..REALM_BYTES].copy_from_slice(&realm.0);
            input[REALM_BYTES..len].copy_from_slice(name.as_bytes());
            self.keyed.hash(&input[..len])
        } else {
            let mut hasher = self.keyed;
            hasher.write(&realm.0);
            hasher.write(name.as_bytes());
            hasher.finish128()
        };
        Fingerprint { high: hash.h1, low: hash.h2 }
    }
}

/// Keeps the kinds apart; in no file, so the numbers may change.
const fn mark(kind: TargetKind) -> u8 {
    match kind {
        TargetKind::Issuer => 1,
        TargetKind::Kid => 2,
        TargetKind::Session => 3,
        TargetKind::Subject => 4,
        TargetKind::Tenant => 5,
        TargetKind::Token => 6,
    }
}

const REALM_BYTES: usize = 16;

/// Keeps a realm's input apart from a fingerprint's, which begins with a realm.
const REALM_LABEL: &[u8] = b"edgate realm v2";

/// A name up to this length is copied next to its realm: UUIDs, ULIDs and hashes in hex all fit.
const NAME_INLINE_BYTES: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_a_boundary_between_parts_changes_the_fingerprint() {
        let fingerprinter = Fingerprinter::new(&[7; 16]);
        let of = |(tenant, issuer, jti)| {
            fingerprinter.fingerprint(fingerprinter.realm(TargetKind::Token, tenant, issuer), jti)
        };
        let spellings =
            [("a", "b", "cd"), ("ab", "", "cd"), ("", "ab", "cd"), ("a", "bc", "d"), ("abcd", "", "")];
        for (i, one) in spellings.iter().enumerate() {
            for other in &spellings[..i] {
                assert_ne!(of(*one), of(*other));
            }
        }
    }

    #[test]
    fn names_on_both_sides_of_the_inline_limit_differ_by_one_byte() {
        let fingerprinter = Fingerprinter::new(&[7; 16]);
        let realm = fingerprinter.realm(TargetKind::Token, "t", "i");
        let mut seen = std::collections::HashSet::new();
        for len in 0..2 * NAME_INLINE_BYTES {
            assert!(seen.insert(fingerprinter.fingerprint(realm, &"x".repeat(len))), "{len}");
        }
        // Both ways of hashing are one function.
        let long = "x".repeat(NAME_INLINE_BYTES);
        let mut hasher = fingerprinter.keyed;
        hasher.write(&realm.0);
        hasher.write(long.as_bytes());
        assert_eq!(fingerprinter.fingerprint(realm, &long).low, hasher.finish128().h2);
    }

    #[test]
    fn a_name_of_one_kind_is_not_a_name_of_another() {
        let fingerprinter = Fingerprinter::new(&[7; 16]);
        let mut seen = std::collections::HashSet::new();
        for kind in TargetKind::ALL {
            let realm = fingerprinter.realm(*kind, "t", "i");
            assert!(seen.insert(fingerprinter.fingerprint(realm, "x")), "{}", kind.name());
        }
    }

    #[test]
    fn another_key_gives_another_fingerprint() {
        let of = |fingerprinter: Fingerprinter| {
            fingerprinter.fingerprint(fingerprinter.realm(TargetKind::Token, "t", "i"), "j")
        };
        assert_ne!(of(Fingerprinter::new(&[1; 16])), of(Fingerprinter::new(&[2; 16])));
    }
}
