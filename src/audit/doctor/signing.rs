//! How fast checkpoints can be signed.

use std::time::{Duration, Instant};

use ed25519_dalek::{Signature, VerifyingKey};

use super::flushes::Latency;
use crate::audit::sealer::CheckpointSigner;

/// What the signer did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signing {
    /// Nobody said which key it is.
    NotMeasured,
    /// It signs, and so fast.
    Signs(Latency),
    /// It does not, and why.
    Fails(String),
}

/// Has `signer` sign something that is no checkpoint, and verifies each signature. Blocks.
#[must_use]
pub fn measure_signing(signer: &mut CheckpointSigner) -> Signing {
    let Ok(key) = VerifyingKey::from_bytes(&signer.verifying_key) else {
        return Signing::Fails("its verifying key is none".to_owned());
    };
    let began = Instant::now();
    let mut times = Vec::new();
    for n in 0..SIGNATURES {
        // A checkpoint has no NUL.
        let message = [&b"edgate audit doctor\0"[..], &n.to_le_bytes()].concat();
        let started = Instant::now();
        let signature = match (signer.sign)(&message) {
            Ok(signature) => signature,
            Err(error) => return Signing::Fails(error.0),
        };
        times.push(started.elapsed());
        if key.verify_strict(&message, &Signature::from_bytes(&signature)).is_err() {
            return Signing::Fails("a signature of it does not verify".to_owned());
        }
        if began.elapsed() > TIME_MAX {
            break;
        }
    }
    Signing::Signs(Latency::of(times).expect("it signed once at least"))
}

/// Signatures that are timed.
const SIGNATURES: u32 = 50;

/// How long this may take: a token that signs eight times in a second is known by then.
const TIME_MAX: Duration = Duration::from_secs(3);
