//! Inputs the benches share: keys, signed messages and tokens from a fixed seed, equal on every machine and run.

use std::net::Ipv4Addr;

use ed25519_dalek::{Signer, SigningKey};
use edgate::audit::DecisionEvent;
use edgate::decision::{Decision, UnixSeconds};
use edgate::token::AgentTask;

use crate::att::{Algorithm, Grant, Minter};

/// Bytes of a message in the signature benches: what a small token's signing input takes.
pub const MESSAGE_BYTES: usize = 300;

/// `kid` of the tokens made here.
pub const KID: &str = "bench-2025";

/// `iss` of the tokens made here.
pub const ISSUER: &str = "https://issuer.bench.test";

/// `aud` of the tokens made here.
pub const AUDIENCE: &str = "https://api.bench.test";

/// A time at which every token made here is valid, in seconds since 1970 (2025-09-13T12:26:40Z).
pub const NOW: u64 = 1_757_766_400;

/// How long the tokens made here live, in seconds: a century, because a peer in the benches asks the real clock.
pub const LIFETIME: u64 = 100 * 365 * 86_400;

/// Ordinary claims of an Agent Task Token; whoever mints one says of whom, for whom and until when.
pub const AGENT_TASK: AgentTask<'static> = AgentTask {
    iss: ISSUER,
    sub: "agent",
    aud: &[AUDIENCE],
    iat: UnixSeconds(NOW),
    nbf: UnixSeconds(NOW),
    exp: UnixSeconds(NOW + LIFETIME),
    jti: "1",
    scope: &["mail.read", "calendar.read"],
    task: "weekly-report",
    cns: r#"{"max_calls":20,"region":"eu"}"#,
    own: "ann@example.com",
    act: None,
    status: None,
};

/// A signature with everything needed to check it.
#[derive(Debug, Clone)]
pub struct SignedMessage {
    /// Public key, as encoded in RFC 8032 §5.1.2.
    pub verifying_key: [u8; 32],
    /// What was signed.
    pub message: Vec<u8>,
    /// R and S, as encoded in RFC 8032 §5.1.6.
    pub signature: [u8; 64],
}

/// A decision as a shard records it, with every field that is usual.
#[must_use]
pub fn decision() -> DecisionEvent<'static> {
    DecisionEvent {
        surface: 1,
        decision: Decision::Accepted,
        issuer: "agents",
        kid: "2026-01",
        tenant: "acme",
        caller: "",
        subject: Some("agent-0000-1111"),
        jti: Some("5b3c7c1e-0d7a-4a53"),
        client: Some(Ipv4Addr::new(10, 1, 2, 3).into()),
        policy_epoch: 7,
        revocation_epoch: 1234,
        latency_us: 57,
        expires: Some(UnixSeconds(1_900_000_000)),
        stale: false,
    }
}

/// The `index`-th signing key.
#[must_use]
pub fn signing_key(index: u64) -> SigningKey {
    let mut seed = [0; 32];
    Random::new(0x6b65_7900 ^ index).fill(&mut seed);
    SigningKey::from_bytes(&seed)
}

/// The `index`-th message of [`MESSAGE_BYTES`] printable bytes.
#[must_use]
pub fn message(index: u64) -> Vec<u8> {
    let mut bytes = vec![0; MESSAGE_BYTES];
    Random::new(0x6d73_6700 ^ index).fill(&mut bytes);
    for byte in &mut bytes {
        *byte = b'0' + (*byte & 0x3f);
    }
    bytes
}

/// `count` different messages, signed in turn by `keys` different keys.
///
/// # Panics
/// `keys` is 0.
#[must_use]
pub fn signed_messages(count: usize, keys: usize) -> Vec<SignedMessage> {
    assert!(keys > 0, "a message needs a key");
    let signing_keys: Vec<SigningKey> = (0..keys as u64).map(signing_key).collect();
    (0..count)
        .map(|i| {
            let signing_key = &signing_keys[i % keys];
            let message = message(i as u64);
            SignedMessage {
                verifying_key: signing_key.verifying_key().to_bytes(),
                signature: signing_key.sign(&message).to_bytes(),
                message,
            }
        })
        .collect()
}

/// The minter of [`tokens`]: key 0, [`KID`], [`ISSUER`], [`AUDIENCE`].
#[must_use]
pub fn minter(algorithm: Algorithm) -> Minter {
    Minter::new(signing_key(0), algorithm, KID, ISSUER, AUDIENCE)
}

/// `count` different tokens, valid at [`NOW`].
#[must_use]
pub fn tokens(count: usize, algorithm: Algorithm) -> Vec<String> {
    let minter = minter(algorithm);
    (0..count as u64)
        .map(|number| {
            let token_id = format!("bench-token-{number:012}");
            minter.mint(&Grant { issued_at: NOW, expires_at: NOW + LIFETIME, token_id: &token_id, number })
        })
        .collect()
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, fast, the same everywhere; not for secrets.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator whose whole sequence follows from `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0.0..1.0`.
    pub fn next_unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_the_same_on_every_call_and_differ_from_each_other() {
        assert_eq!(tokens(3, Algorithm::Ed25519), tokens(3, Algorithm::Ed25519));
        assert_ne!(tokens(2, Algorithm::Ed25519)[0], tokens(2, Algorithm::Ed25519)[1]);
        assert_ne!(signing_key(0).to_bytes(), signing_key(1).to_bytes());
        assert_eq!(message(4), message(4));
        assert_ne!(message(4), message(5));
    }

    #[test]
    fn signed_messages_verify_under_their_keys() {
        let signed = signed_messages(5, 2);
        assert_eq!(signed[0].verifying_key, signed[2].verifying_key);
        for item in &signed {
            let key = ed25519_dalek::VerifyingKey::from_bytes(&item.verifying_key).unwrap();
            key.verify_strict(&item.message, &item.signature.into()).unwrap();
        }
    }

    #[test]
    fn random_follows_the_published_sequence() {
        // The first outputs of SplitMix64 for seed 0, as in the reference implementation's tests.
        let mut random = Random::new(0);
        assert_eq!(random.next_u64(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(random.next_u64(), 0x6e78_9e6a_a1b9_65f4);
    }
}
