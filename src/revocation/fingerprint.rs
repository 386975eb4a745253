//! A token's identity as 128 bits.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};

/// The identity of a token inside one view.
///
/// SipHash-2-4 with 128-bit output under a key drawn at start (Aumasson and Bernstein, 2012): whoever chooses a `jti`
/// cannot aim it at another token's fingerprint, and among 10 million entries the chance that an innocent token hits
/// one by accident is below 2^-104.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint {
    /// Never below [`Fingerprint::HIGH_MIN`], so that the smaller values can mark slots.
    pub(super) high: u64,
    pub(super) low: u64,
}

impl Fingerprint {
    pub(super) const HIGH_MIN: u64 = 2;
}

/// Makes fingerprints; one per view.
pub(super) struct Fingerprinter {
    keyed: SipHasher24,
}

impl Fingerprinter {
    pub(super) fn new(seed: &[u8; 16]) -> Self {
        Self { keyed: SipHasher24::new_with_key(seed) }
    }

    /// Each part goes in behind its length, so `("a", "bc")` and `("ab", "c")` are different identities.
    pub(super) fn fingerprint(&self, tenant: &str, issuer: &str, jti: &str) -> Fingerprint {
        let mut hasher = self.keyed;
        for part in [tenant, issuer, jti] {
            hasher.write(&(part.len() as u64).to_le_bytes());
            hasher.write(part.as_bytes());
        }
        let hash = hasher.finish128();
        Fingerprint { high: hash.h1.max(Fingerprint::HIGH_MIN), low: hash.h2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_a_boundary_between_parts_changes_the_fingerprint() {
        let fingerprinter = Fingerprinter::new(&[7; 16]);
        let spellings =
            [("a", "b", "cd"), ("ab", "", "cd"), ("", "ab", "cd"), ("a", "bc", "d"), ("abcd", "", "")];
        for (i, (tenant, issuer, jti)) in spellings.iter().enumerate() {
            for (tenant_2, issuer_2, jti_2) in &spellings[..i] {
                let one = fingerprinter.fingerprint(tenant, issuer, jti);
                assert_ne!(one, fingerprinter.fingerprint(tenant_2, issuer_2, jti_2));
            }
        }
    }

    #[test]
    fn another_key_gives_another_fingerprint() {
        let one = Fingerprinter::new(&[1; 16]).fingerprint("t", "i", "j");
        assert_ne!(one, Fingerprinter::new(&[2; 16]).fingerprint("t", "i", "j"));
    }
}
