//! One piece of work on its way through the pool, and its answer, given exactly once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use zeroize::Zeroizing;

use super::once::Once;
use crate::release::Pinned;
use crate::{Algorithm, HsmError, KeyName, Pkcs11Uri, PublicKey, Purpose};

/// A key in the token with what is known of it outside.
#[derive(Debug)]
pub(crate) struct PinnedKey {
    /// Distinguishes keys in the workers' handle caches.
    pub(super) number: u64,
    pub(crate) uri: Pkcs11Uri,
    pub(crate) purpose: Purpose,
    pub(crate) kind: KeyKind,
    // Nanoseconds since the pool's origin of the last good use; 0 if never. Written by workers, read by the keeper.
    pub(crate) last_good: AtomicU64,
    // Set by the keeper while this key, but not every key, is unusable.
    fault: Mutex<Option<Arc<HsmError>>>,
}

#[derive(Debug)]
pub(crate) enum KeyKind {
    /// Every signature is verified under this key before it leaves.
    Signing(Box<Pinned>),
    /// AES-256.
    Wrapping,
}

/// What is to be done in the token.
pub(crate) enum Work {
    /// Destroy the signing key that `uri` names, which must have this public key.
    Destroy { uri: Pkcs11Uri, public_key: PublicKey },
    /// Find the signing key that `uri` names, of one of the algorithms, and read its public key.
    FindSigning { uri: Pkcs11Uri, allowed: &'static [Algorithm] },
    /// Find the AES key that `uri` names.
    FindWrapping { uri: Pkcs11Uri },
    /// Generate a signing key.
    Make { name: KeyName },
    /// Decrypt and authenticate `data`, which is ciphertext and tag.
    Open { key: Arc<PinnedKey>, iv: [u8; 12], data: Vec<u8>, associated: Vec<u8> },
    /// Encrypt `data` under a fresh IV.
    Seal { key: Arc<PinnedKey>, data: Zeroizing<Vec<u8>>, associated: Vec<u8> },
    /// Sign `message` with the algorithm of the key.
    Sign { key: Arc<PinnedKey>, message: Vec<u8> },
}

impl Work {
    /// The key it needs, unless it looks for one.
    pub(crate) fn key(&self) -> Option<&Arc<PinnedKey>> {
        match self {
            Self::Open { key, .. } | Self::Seal { key, .. } | Self::Sign { key, .. } => Some(key),
            Self::Destroy { .. }
            | Self::FindSigning { .. }
            | Self::FindWrapping { .. }
            | Self::Make { .. } => None,
        }
    }
}

/// What came out.
pub(crate) enum Output {
    Destroyed,
    Found { public_key: Option<PublicKey>, label: Option<String>, id: Vec<u8> },
    Made { uri: Pkcs11Uri },
    Opened(Zeroizing<Vec<u8>>),
    Sealed { iv: [u8; 12], data: Vec<u8> },
    Signature([u8; 64]),
}

pub(crate) type Completion = Box<dyn FnOnce(Result<Output, HsmError>) + Send>;

/// A job, shared by whoever may answer it: the worker, or the watch at the deadline.
pub(crate) struct Ticket {
    pub(crate) work: Work,
    pub(crate) purpose: Purpose,
    pub(crate) queued: Instant,
    pub(crate) deadline: Instant,
    pub(crate) number: u64,
    answer: Once<Completion>,
}

impl Ticket {
    pub(super) fn new(
        work: Work,
        purpose: Purpose,
        deadline: Instant,
        number: u64,
        answer: Completion,
    ) -> Self {
        Self { work, purpose, queued: Instant::now(), deadline, number, answer: Once::new(answer) }
    }

    /// Answers the job unless somebody has. The completion runs on this thread.
    pub(super) fn settle(&self, outcome: Result<Output, HsmError>) -> bool {
        match self.answer.take() {
            Some(answer) => {
                answer(outcome);
                true
            }
            None => false,
        }
    }

    /// Whether it is answered: nobody waits any more.
    pub(crate) fn is_settled(&self) -> bool {
        self.answer.is_taken()
    }
}

impl PinnedKey {
    pub(crate) fn new(uri: Pkcs11Uri, purpose: Purpose, kind: KeyKind) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self { number, uri, purpose, kind, last_good: AtomicU64::new(0), fault: Mutex::default() }
    }

    /// Whether this key can be used if its token can.
    pub(crate) fn is_usable(&self) -> bool {
        self.fault().is_none()
    }

    /// Why this key cannot be used although its token can.
    pub(crate) fn fault(&self) -> Option<Arc<HsmError>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_fault(&self, fault: Option<Arc<HsmError>>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }
}
