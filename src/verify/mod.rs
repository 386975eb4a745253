//! Ed25519 verification: a batch of (verifying key, message, signature) in, one verdict per item out.
//!
//! Pure: nothing in this room does I/O or knows what a token is. It may use [`crate::decision`] and nothing else of
//! ours. `A`, `R`, `S`, `k`, `B` and `L` keep the letters of RFC 8032 in this room only.
//!
//! # The rule
//!
//! There is one predicate, [`AcceptanceRule::Exact`], and every path obeys it for every input: one item or many, a
//! registered key or a raw one, lanes or portable, table present or evicted.
//!
//! * **Key** (at registration, or per item for a raw key): 32 bytes, canonical encoding (`y < p`, no `-0`), on the
//!   curve, not of small order, and in the prime-order subgroup (`[L]A = O`).
//! * **Signature**: 64 bytes `R ‖ S`, `S < L`, and R none of the eight canonical small-order encodings.
//! * `k = SHA-512(R ‖ A ‖ M) mod L` over the received bytes; accept iff `encode([S]B − [k]A)` equals the 32 received
//!   bytes of R.
//!
//! It is a subset of what every standard library accepts (RFC 8032 with either equation, FIPS 186-5, OpenSSL, Go,
//! WebCrypto, `ed25519-dalek` strict or not, ZIP-215), so nobody downstream ever contradicts an accepted token. The oracle
//! of the tests is `registry_ok(A) && ed25519_dalek verify_strict`.
//!
//! # Why not a batch equation
//!
//! A batch here is lanes, never a random linear combination: that answers one bit for all items, so one forged token
//! makes the batch be checked again one by one, and without the cofactor its verdict can differ from the single one
//! (`ed25519_dalek::verify_batch` accepts pairs of forgeries whose torsion cancels). Here a bad item costs what a good
//! one costs and changes no neighbour.
//!
//! # Edge cases
//!
//! | input | verdict | why |
//! | --- | --- | --- |
//! | key not 32 bytes | `KeyMalformed` | |
//! | key with `y >= p`, or `x = 0` and the sign bit set | `KeyNotCanonical` | libraries disagree on both |
//! | key of order 1, 2, 4 or 8 | `KeySmallOrder` | one signature would verify for many messages |
//! | key with no x for its y | `KeyNotOnCurve` | |
//! | key plus a torsion point | `KeyMixedOrder` | cofactored and cofactorless verdicts differ |
//! | signature not 64 bytes | `SignatureMalformed` | |
//! | `S >= L` | `ScalarOutOfRange` | malleability (RFC 8032 §5.1.7) |
//! | R a canonical encoding of a small-order point | `SmallOrderR` | `S = k·a`: it reveals the private key |
//! | R not canonical, not on the curve, or plus a torsion point | `SignatureMismatch` | the byte comparison catches it |
//! | any other difference | `SignatureMismatch` | |
//!
//! When several hold the first of this table is the verdict: a key is judged before its signature.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod encoding;
mod engine;
mod inverse;
mod key;
mod portable;
mod shadow;
mod tables;
mod verdict;

use std::io;

use self::engine::Arithmetic;
pub use self::engine::Engine;
pub use self::key::{KeyRejection, VerifyingKey};
pub use self::shadow::{Disagreement, Shadow};
pub use self::tables::{Tables, TablesUse};
pub use self::verdict::{SignatureRejection, SignatureVerified, Verdict};

/// Which signatures are accepted; there is one rule, and it has a name so that records and documents can cite it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptanceRule {
    /// Strict inputs and the cofactorless equation decided by comparing bytes (see the module's documentation).
    Exact,
}

impl AcceptanceRule {
    /// The rule of this build.
    pub const CURRENT: Self = Self::Exact;

    /// `exact`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
        }
    }
}

/// The verifying key of one item.
#[derive(Debug, Clone, Copy)]
pub enum ItemKey<'a> {
    /// Checked at registration, with its table: the fast path.
    Registered(&'a VerifyingKey),
    /// Raw bytes from outside; every registry check is made for this item.
    Unregistered(&'a [u8]),
}

/// One signature to verify. Everything is borrowed; the lengths of raw keys and signatures are checked, not assumed.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    /// Who is said to have signed.
    pub key: ItemKey<'a>,
    /// The signed bytes (for a JWS, the signing input as received).
    pub message: &'a [u8],
    /// `R ‖ S`, 64 bytes if well formed.
    pub signature: &'a [u8],
}

impl<'a> ItemKey<'a> {
    /// The encoding, of any length if it is raw.
    fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Registered(key) => key.as_bytes(),
            Self::Unregistered(bytes) => bytes,
        }
    }
}

/// Verifies batches. One per shard: it owns the scratch memory, so that in steady state no item allocates.
pub struct Verifier {
    scratch: Scratch,
    sampler: Option<shadow::Sampler>,
}

/// The arithmetic in use and its memory.
enum Scratch {
    #[cfg(target_arch = "x86_64")]
    Lanes(Box<avx512::Scratch>),
    Portable(portable::Scratch),
}

impl Verifier {
    /// A verifier on the wished engine; the first one of a process builds the table of B (some milliseconds).
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self { scratch: Scratch::new(Arithmetic::of(engine)), sampler: None }
    }

    /// A verifier of whose verdicts `shadow` checks a sample.
    ///
    /// # Errors
    /// If the operating system gives no random numbers to sample by.
    pub fn with_shadow(engine: Engine, shadow: &Shadow) -> io::Result<Self> {
        Ok(Self { sampler: Some(shadow.sampler()?), ..Self::new(engine) })
    }

    /// Replaces the content of `verdicts` by one verdict per item, in the order of `items`.
    ///
    /// Any number of items is fine, none included; multiples of eight are the most efficient.
    pub fn verify(&mut self, items: &[Item<'_>], verdicts: &mut Vec<Verdict>) {
        if self.sampler.as_ref().is_some_and(shadow::Sampler::lanes_distrusted) {
            self.scratch.leave_lanes();
        }
        verdicts.clear();
        match &mut self.scratch {
            #[cfg(target_arch = "x86_64")]
            Scratch::Lanes(scratch) => scratch.verify(items, verdicts),
            Scratch::Portable(scratch) => scratch.verify(items, verdicts),
        }
        assert_eq!(items.len(), verdicts.len(), "one verdict per item");
        let engine_name = self.engine_name();
        if let Some(sampler) = &mut self.sampler {
            sampler.sample(items, verdicts, engine_name);
        }
    }

    /// The name of the arithmetic in use, for logs and metrics: `avx512-ifma` or `portable`.
    #[must_use]
    pub fn engine_name(&self) -> &'static str {
        match self.scratch {
            #[cfg(target_arch = "x86_64")]
            Scratch::Lanes(_) => "avx512-ifma",
            Scratch::Portable(_) => "portable",
        }
    }
}

impl Scratch {
    fn new(arithmetic: Arithmetic) -> Self {
        match arithmetic {
            #[cfg(target_arch = "x86_64")]
            Arithmetic::Lanes(cpu) => Self::Lanes(Box::new(avx512::Scratch::new(cpu))),
            Arithmetic::Portable => Self::Portable(portable::Scratch::new()),
        }
    }

    fn leave_lanes(&mut self) {
        if !matches!(self, Self::Portable(_)) {
            *self = Self::Portable(portable::Scratch::new());
        }
    }
}

#[cfg(test)]
mod tests;
