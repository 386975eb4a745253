//! A signing key that lives in memory alone, for as long as the process, or less.

use std::fmt;
use std::io;

use ed25519_dalek::VerifyingKey;
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use memmap2::{Advice, MmapMut};
use sha2::Sha512;
use zeroize::Zeroize;

use crate::release::Pinned;
use crate::{HsmError, Purpose, ReleaseChecks};

/// What is kept: an expanded secret key, which RFC 8032 §5.1.5 (steps 1 and 2) makes by hashing 32 random bytes to 64. Here the 64 are
/// random themselves: nothing is derived anywhere but in the page, and nobody needs the seed.
const EXPANDED_BYTES: usize = 64;

/// An Ed25519 private key that was made here and is nowhere else.
///
/// It lies in a page of its own, which is locked into memory, left out of core dumps, not inherited by child processes, and wiped
/// when the key is dropped. While a signature is made, the key and the nonce are on the stack of the thread: the key and the hash states
/// are wiped after, and the nonce is where `ed25519-dalek` leaves it. No more than that leaves the page.
pub struct MemoryKey {
    page: MmapMut,
    verifying_key: VerifyingKey,
    pub(crate) pinned: Pinned,
    purpose: Purpose,
}

impl MemoryKey {
    /// Makes one, whose signatures pass `checks` before they leave.
    ///
    /// # Errors
    /// [`HsmError::Memory`] if the system does not lock a page for it; [`HsmError::Entropy`]; [`HsmError::SignatureFault`] if `checks`
    /// takes no such key.
    pub fn generate(purpose: Purpose, checks: &ReleaseChecks) -> Result<Self, HsmError> {
        let mut page = locked_page().map_err(|source| HsmError::Memory { purpose, source })?;
        getrandom::fill(&mut page[..EXPANDED_BYTES])
            .map_err(|source| HsmError::Entropy { purpose, source })?;
        let verifying_key = VerifyingKey::from(&expanded(&page));
        let pinned = checks.pin(verifying_key.to_bytes().into());
        let pinned = pinned.ok_or(HsmError::SignatureFault { purpose })?;
        Ok(Self { page, verifying_key, pinned, purpose })
    }

    pub(crate) fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// A signature that was not checked yet.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        raw_sign::<Sha512>(&expanded(&self.page), message, &self.verifying_key).to_bytes()
    }
}

/// Clamped and reduced as in a signature from a seed; wiped when dropped.
fn expanded(page: &MmapMut) -> ExpandedSecretKey {
    ExpandedSecretKey::from_bytes(page[..EXPANDED_BYTES].first_chunk().expect("a page is longer"))
}

fn locked_page() -> io::Result<MmapMut> {
    let page = MmapMut::map_anon(EXPANDED_BYTES)?;
    page.lock()?;
    page.advise(Advice::DontDump)?;
    page.advise(Advice::DontFork)?;
    Ok(page)
}

impl Drop for MemoryKey {
    fn drop(&mut self) {
        self.page.as_mut().zeroize();
    }
}

impl fmt::Debug for MemoryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryKey").field("purpose", &self.purpose).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signature, Signer as _, SigningKey};
    use sha2::Digest as _;

    use super::*;

    fn key() -> MemoryKey {
        MemoryKey::generate(Purpose::TokenSigning, &ReleaseChecks::strict()).unwrap()
    }

    #[test]
    fn its_signatures_are_those_of_rfc_8032() {
        // The page holds what a seed expands to: the same signature as by the seed, bit for bit.
        let mut key = key();
        let seed = [9; 32];
        let reference = SigningKey::from_bytes(&seed);
        key.page[..EXPANDED_BYTES].copy_from_slice(&Sha512::digest(seed));
        key.verifying_key = reference.verifying_key();
        for length in [0, 1, 31, 64, 127, 128, 1500] {
            let message = vec![0x61; length];
            assert_eq!(key.sign(&message), reference.sign(&message).to_bytes(), "{length} bytes");
        }
    }

    #[test]
    fn each_is_another_and_signs_under_its_own_public_key() {
        let (one, other) = (key(), key());
        assert_ne!(one.verifying_key, other.verifying_key);
        let signature = Signature::from_bytes(&one.sign(b"message"));
        one.verifying_key.verify_strict(b"message", &signature).unwrap();
        other.verifying_key.verify_strict(b"message", &signature).unwrap_err();
        assert_eq!(format!("{one:?}"), "MemoryKey { purpose: TokenSigning, .. }");
    }

    #[test]
    fn its_page_is_locked_and_not_dumped() {
        let key = key();
        let address = key.page.as_ptr().addr();
        // Linux: one block of lines per mapping, `address-end` first, `VmFlags` last (proc_pid_smaps(5)).
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        let mut flags = "";
        for line in maps.lines() {
            if let Some((start, end)) = line.split(' ').next().and_then(|range| range.split_once('-')) {
                let bounds = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16));
                if let (Ok(start), Ok(end)) = bounds {
                    inside = (start..end).contains(&address);
                }
            } else if inside && let Some(found) = line.strip_prefix("VmFlags:") {
                flags = found;
            }
        }
        for flag in ["lo", "dd", "dc"] {
            assert!(flags.split_whitespace().any(|found| found == flag), "{flag} is not among {flags}");
        }
    }

    #[test]
    fn a_key_that_the_checks_refuse_is_not_made() {
        let refused = MemoryKey::generate(Purpose::TokenSigning, &ReleaseChecks::new(|_| None));
        assert!(matches!(refused, Err(HsmError::SignatureFault { .. })));
    }
}
