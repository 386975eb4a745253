//! What a signature made in a token must pass before it leaves: this node's own verification engine.
//!
//! A node never hands out a signature that it would itself refuse, and the rule stands in one place, `verify/`.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use edgate_hsm::{ReleaseCheck, ReleaseChecks};

use crate::verify::{Engine, Item, ItemKey, Verdict, Verifier, VerifyingKey};

/// Verifiers kept for the next signature. More threads than these at once make one for the moment.
const IDLE_VERIFIERS_MAX: usize = 16;

/// Checks by the verification engine. The verifiers are shared by all keys.
#[must_use]
pub fn release_checks(engine: Engine) -> ReleaseChecks {
    let idle = Arc::new(ArrayQueue::new(IDLE_VERIFIERS_MAX));
    ReleaseChecks::new(move |public_key| {
        let key = VerifyingKey::register(public_key).ok()?;
        Some(Box::new(EngineCheck { key, engine, idle: Arc::clone(&idle) }))
    })
}

struct EngineCheck {
    key: VerifyingKey,
    engine: Engine,
    idle: Arc<ArrayQueue<(Verifier, Vec<Verdict>)>>,
}

impl ReleaseCheck for EngineCheck {
    fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.verifies_all(&[message], std::slice::from_ref(signature))
    }

    fn verifies_all(&self, messages: &[&[u8]], signatures: &[[u8; 64]]) -> bool {
        if messages.len() != signatures.len() {
            return false;
        }
        let (mut verifier, mut verdicts) =
            self.idle.pop().unwrap_or_else(|| (Verifier::new(self.engine), Vec::new()));
        let key = ItemKey::Registered(&self.key);
        let pairs = messages.iter().zip(signatures);
        let items: Vec<Item<'_>> =
            pairs.map(|(message, signature)| Item { key, message, signature }).collect();
        verifier.verify(&items, &mut verdicts);
        let accepted = verdicts.iter().all(Verdict::is_accepted);
        // A full queue has enough of them.
        let _ = self.idle.push((verifier, verdicts));
        accepted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_decides_what_leaves() {
        use ed25519_dalek::{Signer as _, SigningKey};
        for engine in [Engine::Auto, Engine::Portable] {
            let key = SigningKey::from_bytes(&[7; 32]);
            let verifying_key = VerifyingKey::register(&key.verifying_key().to_bytes()).unwrap();
            let check = EngineCheck { key: verifying_key, engine, idle: Arc::new(ArrayQueue::new(1)) };
            let good = key.sign(b"message").to_bytes();
            assert!(check.verifies(b"message", &good));
            assert!(!check.verifies(b"other", &good));
            for bit in 0..512 {
                let mut flipped = good;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(!check.verifies(b"message", &flipped), "bit {bit}");
                // One bad one among good ones, wherever it lies.
                let mut signatures = [good; 9];
                signatures[bit % 9] = flipped;
                assert!(!check.verifies_all(&[&b"message"[..]; 9], &signatures), "bit {bit}");
            }
            assert!(check.verifies_all(&[&b"message"[..]; 9], &[good; 9]));
            assert!(!check.verifies_all(&[&b"message"[..]; 9], &[good; 8]), "one signature for each message");
            assert_eq!(check.idle.len(), 1, "its verifier waits for the next");
        }
    }
}
