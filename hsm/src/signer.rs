//! The handle through which everything is signed.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use ed25519_dalek::Signature;

use crate::route::{Message, Route};
use crate::{HsmError, KeyPurpose, MemoryKey, PublicKey, Purpose, Signed, SoftwareKey};

/// A handle to one key for the purpose `P`. Cheap to clone; shared by threads.
pub struct Signer<P: KeyPurpose> {
    provider: Arc<Provider>,
    // Pinned when the key was opened. A provider that signs with another key is caught, not believed.
    public_key: P::PublicKey,
}

/// Where the private key lives.
enum Provider {
    Tokens(Arc<Route>),
    Software(Box<SoftwareKey>),
    Memory(Box<MemoryKey>),
}

impl<P: KeyPurpose> Signer<P> {
    /// A signer over a key file.
    ///
    /// # Errors
    /// [`HsmError::Purpose`] if the file was made for something else than `P`.
    pub fn software(key: SoftwareKey) -> Result<Self, HsmError> {
        if key.purpose() != P::PURPOSE {
            return Err(HsmError::Purpose {
                path: key.path().to_owned(),
                found: key.purpose(),
                wanted: P::PURPOSE,
            });
        }
        let public_key = P::PublicKey::try_from(PublicKey::Ed25519(key.verifying_key().to_bytes()));
        let public_key = public_key.map_err(|_| HsmError::Malformed {
            path: key.path().to_owned(),
            problem: "its algorithm is none for its purpose",
        })?;
        Ok(Self { provider: Arc::new(Provider::Software(Box::new(key))), public_key })
    }

    /// A signer over a key in this process's memory.
    ///
    /// # Errors
    /// [`HsmError::SignatureFault`] if the key was made for something else than `P`.
    pub fn in_memory(key: MemoryKey) -> Result<Self, HsmError> {
        let public_key = P::PublicKey::try_from(key.pinned.key());
        match public_key {
            Ok(public_key) if key.purpose() == P::PURPOSE => {
                Ok(Self { provider: Arc::new(Provider::Memory(Box::new(key))), public_key })
            }
            _ => Err(HsmError::SignatureFault { purpose: P::PURPOSE }),
        }
    }

    /// A signer over a key in one or more tokens.
    pub(crate) fn routed(route: Arc<Route>, public_key: P::PublicKey) -> Self {
        Self { provider: Arc::new(Provider::Tokens(route)), public_key }
    }

    /// The way to its members, if it is in tokens.
    pub(crate) fn route(&self) -> Option<Arc<Route>> {
        match &*self.provider {
            Provider::Tokens(route) => Some(Arc::clone(route)),
            Provider::Software(_) | Provider::Memory(_) => None,
        }
    }

    /// What this key may sign.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        P::PURPOSE
    }

    /// The public key: where only Ed25519 serves the purpose, in the encoding of RFC 8032 §5.1.2.
    #[must_use]
    pub fn public_key(&self) -> P::PublicKey {
        self.public_key
    }

    /// Signs `message` with the algorithm of the key ([`Algorithm`](crate::Algorithm)). May block until `deadline`.
    ///
    /// The signature is verified against the pinned public key first: a wrong key, a faulty module or a flipped bit
    /// during signing (which would leak the private key) never leaves this function.
    ///
    /// # Errors
    /// [`HsmError::DeadlinePassed`] without having signed, or without an answer from the token;
    /// [`HsmError::SignatureFault`] after discarding a signature; [`HsmError::Overloaded`] and
    /// [`HsmError::Unavailable`] at once.
    pub fn sign(&self, message: &[u8], deadline: Instant) -> Result<[u8; 64], HsmError> {
        if Instant::now() >= deadline {
            return Err(HsmError::DeadlinePassed { purpose: P::PURPOSE });
        }
        match &*self.provider {
            Provider::Software(key) => release(key, message, key.sign(message)),
            Provider::Memory(key) => Ok(release_all(key, &[message])?[0]),
            // The worker verified it under the same public key before it answered.
            Provider::Tokens(route) => {
                let signed = route.sign(Message::Same(message.to_vec()), P::PURPOSE, deadline);
                signed.map(|signed| signed.signature)
            }
        }
    }

    /// Signs without blocking: `complete` is called exactly once, by `deadline`, with what [`Self::sign`] would have
    /// returned. It runs on a thread of the pool and must be short and not block. A software key signs here and now and
    /// calls it before this returns.
    ///
    /// # Errors
    /// What can be said at once, such as [`HsmError::Overloaded`]; `complete` is then not called.
    pub fn submit(
        &self,
        message: Vec<u8>,
        deadline: Instant,
        complete: impl FnOnce(Result<[u8; 64], HsmError>) + Send + 'static,
    ) -> Result<(), HsmError> {
        match &*self.provider {
            Provider::Software(_) | Provider::Memory(_) => {
                complete(Ok(self.sign(&message, deadline)?));
                Ok(())
            }
            Provider::Tokens(route) => {
                let complete =
                    |outcome: Result<Signed, HsmError>| complete(outcome.map(|signed| signed.signature));
                route.submit(Message::Same(message), P::PURPOSE, deadline, complete)
            }
        }
    }
}

impl<P: KeyPurpose> Signer<P> {
    /// Whether the key is in this process's memory alone, so that it signs at once ([`Self::sign_at_once`]).
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        matches!(&*self.provider, Provider::Memory(_))
    }

    /// Signs all of `messages` here and now, in their order, if the key is in this process's memory: all of them are checked together,
    /// which costs less; no deadline, since nothing is waited for. `None` for another key, which is somewhere that has to be waited for.
    ///
    /// # Errors
    /// [`HsmError::SignatureFault`] after discarding all signatures.
    pub fn sign_at_once(&self, messages: &[&[u8]]) -> Option<Result<Vec<[u8; 64]>, HsmError>> {
        match &*self.provider {
            Provider::Memory(key) => Some(release_all(key, messages)),
            Provider::Software(_) | Provider::Tokens(_) => None,
        }
    }
}

/// The only way out for signatures by a key in memory.
fn release_all(key: &MemoryKey, messages: &[&[u8]]) -> Result<Vec<[u8; 64]>, HsmError> {
    let signatures: Vec<[u8; 64]> = messages.iter().map(|message| key.sign(message)).collect();
    if key.pinned.verifies_all(messages, &signatures) {
        Ok(signatures)
    } else {
        Err(HsmError::SignatureFault { purpose: key.purpose() })
    }
}

/// The only way out for a signature by a file's key.
fn release(key: &SoftwareKey, message: &[u8], signature: [u8; 64]) -> Result<[u8; 64], HsmError> {
    match key.verifying_key().verify_strict(message, &Signature::from_bytes(&signature)) {
        Ok(()) => Ok(signature),
        Err(_) => Err(HsmError::SignatureFault { purpose: key.purpose() }),
    }
}

impl<P: KeyPurpose> Clone for Signer<P> {
    fn clone(&self) -> Self {
        Self { provider: Arc::clone(&self.provider), public_key: self.public_key }
    }
}

impl<P: KeyPurpose> fmt::Debug for Signer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let provider = match &*self.provider {
            Provider::Tokens(_) => "pkcs11",
            Provider::Software(_) => "software",
            Provider::Memory(_) => "memory",
        };
        f.debug_struct("Signer")
            .field("purpose", &P::PURPOSE)
            .field("provider", &provider)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ed25519_dalek::VerifyingKey;

    use super::*;
    use crate::{AuditCheckpoint, TokenSigning};

    fn in_a_minute() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn signer(dir: &tempfile::TempDir) -> Signer<TokenSigning> {
        let path = dir.path().join("signing-key.pem");
        Signer::software(SoftwareKey::create(&path, Purpose::TokenSigning).unwrap()).unwrap()
    }

    #[test]
    fn a_signature_verifies_under_the_public_key() {
        let dir = tempfile::tempdir().unwrap();
        let signer = signer(&dir);
        let signature = signer.sign(b"message", in_a_minute()).unwrap();
        let verifying_key = VerifyingKey::from_bytes(&signer.public_key()).unwrap();
        verifying_key.verify_strict(b"message", &Signature::from_bytes(&signature)).unwrap();
    }

    #[test]
    fn a_corrupted_signature_is_never_released() {
        let dir = tempfile::tempdir().unwrap();
        let good = signer(&dir).sign(b"message", in_a_minute()).unwrap();
        let key = SoftwareKey::load(&dir.path().join("signing-key.pem"), Purpose::TokenSigning).unwrap();
        for byte in 0..64 {
            let mut corrupted = good;
            corrupted[byte] ^= 1;
            assert!(matches!(release(&key, b"message", corrupted), Err(HsmError::SignatureFault { .. })));
        }
        assert!(matches!(release(&key, b"other", good), Err(HsmError::SignatureFault { .. })));
    }

    #[test]
    fn nothing_is_signed_after_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let outcome = signer(&dir).sign(b"message", Instant::now());
        assert!(matches!(outcome, Err(HsmError::DeadlinePassed { .. })));
    }

    #[test]
    fn a_token_key_cannot_become_a_checkpoint_signer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("signing-key.pem");
        let key = SoftwareKey::create(&path, Purpose::TokenSigning).unwrap();
        let message = Signer::<AuditCheckpoint>::software(key).unwrap_err().to_string();
        assert!(message.contains("token-signing key and may not be used for audit-checkpoint"), "{message}");
    }

    #[test]
    fn debug_output_holds_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("{:?}", signer(&dir));
        assert_eq!(text, "Signer { purpose: TokenSigning, provider: \"software\", .. }");
    }
}
