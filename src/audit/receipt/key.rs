//! The key that signs receipts: made here, certified by the checkpoint key, forgotten after an hour.

use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

use super::{Certified, certificate_text};
use crate::audit::{
    note::{CheckpointKey, is_signed},
    sealer::{Sign, SignError},
};

/// A key of receipts, with what the checkpoint key signed about it. Its secret half is wiped when it is dropped.
pub(in crate::audit) struct ReceiptKey {
    signing: SigningKey,
    pub(super) origin: String,
    pub(super) certified: Certified,
}

impl ReceiptKey {
    /// Makes a key and has it certified for the log called like `key`, from `now` on.
    ///
    /// # Errors
    /// When there are no random bytes, the checkpoint key does not sign, or signs something else.
    fn certify(key: &CheckpointKey, boot: u64, now: u64, sign: &mut Sign) -> Result<Self, SignError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).map_err(|error| SignError(error.to_string()))?;
        let signing = SigningKey::from_bytes(&seed);
        let mut certified = Certified {
            verifying_key: signing.verifying_key().to_bytes(),
            not_before: now,
            not_after: now + LIFE_S,
            certificate: [0; 64],
        };
        let text = certificate_text(&key.name, boot, &certified);
        certified.certificate = sign(text.as_bytes())?;
        if !is_signed(&key.verifying_key, text.as_bytes(), &certified.certificate) {
            return Err(SignError("the signer's answer about a key of receipts does not verify".into()));
        }
        Ok(Self { signing, origin: key.name.clone(), certified })
    }

    /// Whether the certificate covers this second.
    pub(super) fn covers(&self, now: u64) -> bool {
        self.certified.covers(now)
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing.sign(message).to_bytes()
    }
}

impl Certified {
    pub(super) fn covers(&self, now: u64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

/// When the next key is due; what the sealer keeps.
pub(in crate::audit) struct Renewal {
    boot: u64,
    // The half of the current key's life: from here on, and before it began, another is due.
    fresh: std::ops::Range<u64>,
}

impl Renewal {
    pub(in crate::audit) const fn new(boot: u64) -> Self {
        Self { boot, fresh: 0..0 }
    }

    /// A new key, if one is due at `now`: also when the clock went back behind the current one.
    ///
    /// # Errors
    /// As the signer says; the current key is good for half of its life still.
    pub(in crate::audit) fn due(
        &mut self,
        now: u64,
        key: &CheckpointKey,
        sign: &mut Sign,
    ) -> Result<Option<ReceiptKey>, SignError> {
        if self.fresh.contains(&now) {
            return Ok(None);
        }
        let made = ReceiptKey::certify(key, self.boot, now, sign)?;
        self.fresh = now..now + LIFE_S / 2;
        Ok(Some(made))
    }
}

/// How long a key of receipts may sign, in seconds.
pub(super) const LIFE_S: u64 = 3600;
