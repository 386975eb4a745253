//! One of several keys signs, each in a token of its own.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::route::{Message, Route};
use crate::{HsmError, KeyPurpose, Signed, Signer};

/// A handle to several keys for the purpose `P`, any of which signs. Cheap to clone; shared by threads.
///
/// No key leaves its token for it, not even to be copied; the price is that verifiers must know every key.
pub struct AnySigner<P: KeyPurpose> {
    route: Arc<Route>,
    public_keys: Arc<[P::PublicKey]>,
}

impl<P: KeyPurpose> AnySigner<P> {
    /// A signer by whichever of these keys; `None` if there is none, or if one of them is not in a token.
    #[must_use]
    pub fn of(signers: &[&Signer<P>]) -> Option<Self> {
        let routes: Vec<Arc<Route>> = signers.iter().map(|signer| signer.route()).collect::<Option<_>>()?;
        let public_keys = signers.iter().map(|signer| signer.public_key()).collect();
        Some(Self { route: Route::joined(&routes)?, public_keys })
    }

    /// Every key that may sign, in the order in which they were given, those of drained members included.
    #[must_use]
    pub fn public_keys(&self) -> &[P::PublicKey] {
        &self.public_keys
    }

    /// Signs what `message` makes for the key that signs, and says which that was. Blocks until `deadline` at the latest.
    ///
    /// `message` is asked anew for each member that is tried, so it can name the key, as a JWS does. It must give the same
    /// for the same key, be short and not block.
    ///
    /// # Errors
    /// As [`Signer::sign`](crate::Signer::sign).
    pub fn sign(
        &self,
        message: impl Fn(&P::PublicKey) -> Vec<u8> + Send + 'static,
        deadline: Instant,
    ) -> Result<Signed, HsmError> {
        self.route.sign(by_key::<P>(message), P::PURPOSE, deadline)
    }

    /// As [`Self::sign`], without blocking: `complete` is called as for [`Signer::submit`](crate::Signer::submit).
    ///
    /// # Errors
    /// What can be said at once; `complete` is then not called.
    pub fn submit(
        &self,
        message: impl Fn(&P::PublicKey) -> Vec<u8> + Send + 'static,
        deadline: Instant,
        complete: impl FnOnce(Result<Signed, HsmError>) + Send + 'static,
    ) -> Result<(), HsmError> {
        self.route.submit(by_key::<P>(message), P::PURPOSE, deadline, complete)
    }
}

/// A seat has a key that its purpose takes, so each is converted; `None` would leave nothing to sign.
fn by_key<P: KeyPurpose>(message: impl Fn(&P::PublicKey) -> Vec<u8> + Send + 'static) -> Message {
    Message::ByKey(Box::new(move |key| P::PublicKey::try_from(*key).ok().map(|key| message(&key))))
}

impl<P: KeyPurpose> Clone for AnySigner<P> {
    fn clone(&self) -> Self {
        Self { route: Arc::clone(&self.route), public_keys: Arc::clone(&self.public_keys) }
    }
}

impl<P: KeyPurpose> fmt::Debug for AnySigner<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnySigner")
            .field("purpose", &P::PURPOSE)
            .field("keys", &self.public_keys.len())
            .finish_non_exhaustive()
    }
}
