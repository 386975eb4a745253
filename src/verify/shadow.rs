//! The shadow check: a sample of verdicts is made again by other code, off the shard.
//!
//! Lane kernels are ours and fast; `ed25519-dalek` is everybody's. A thread verifies a random sample of the items again with
//! `verify_strict` and the registry's checks, which by construction give the same verdict. One disagreement means that one of
//! the two is wrong: the verifiers leave the lane engine for the portable one with their next batch, and the caller is told,
//! once per disagreement, so that it can count, record and raise the alarm.
//!
//! A sampled item is copied, which allocates; at the usual rates that is one item in a thousand. A full queue drops
//! samples, counted, and never makes a shard wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::{io, thread};

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use ed25519_dalek::Signature;

use super::{Item, Tables, Verdict, key};

/// The running check. Dropping it, and every verifier made with it, ends its thread.
pub struct Shadow {
    samples: Sender<Sample>,
    threshold: u64,
    state: Arc<State>,
}

/// A verdict the second opinion does not share. The input itself is not kept: it may be a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disagreement {
    /// The engine that gave the verdict.
    pub engine: &'static str,
    /// Whether it accepted; the other code did the opposite.
    pub accepted: bool,
    /// The verifying key of the item, as it was given (public).
    pub key: Vec<u8>,
}

/// One verifier's end: decides which items are sampled.
pub(super) struct Sampler {
    samples: Sender<Sample>,
    threshold: u64,
    random: u64,
    state: Arc<State>,
}

/// An item and the verdict it got.
struct Sample {
    key: Vec<u8>,
    message: Vec<u8>,
    signature: Vec<u8>,
    accepted: bool,
    engine: &'static str,
}

/// Written by the shadow's thread (and `dropped` by the shards), read by whoever reports.
#[derive(Default)]
struct State {
    checked: AtomicU64,
    dropped: AtomicU64,
    disagreements: AtomicU64,
    lanes_distrusted: AtomicBool,
}

/// Samples waiting for the shadow's thread; at some 90 µs each, a third of a second of its work.
const QUEUED_SAMPLES_MAX: usize = 4096;

impl Shadow {
    /// Starts the check of a share `rate` (0 to 1) of all items of the verifiers made with it. `on_disagreement` runs on the
    /// shadow's thread, after the switch to the portable engine, in which `tables` takes part.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(
        rate: f64,
        tables: &'static Tables,
        on_disagreement: impl Fn(&Disagreement) + Send + 'static,
    ) -> io::Result<Self> {
        let (samples, queue) = bounded(QUEUED_SAMPLES_MAX);
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::Builder::new()
            .name("verify-shadow".into())
            .spawn(move || check(&queue, &shared, tables, &on_disagreement))?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
        let threshold = (rate * 2.0_f64.powi(64)) as u64;
        Ok(Self { samples, threshold, state })
    }

    /// Items checked a second time so far.
    #[must_use]
    pub fn checked(&self) -> u64 {
        self.state.checked.load(Ordering::Relaxed)
    }

    /// Samples dropped because the queue was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.state.dropped.load(Ordering::Relaxed)
    }

    /// Disagreements so far; more than zero is an alarm.
    #[must_use]
    pub fn disagreements(&self) -> u64 {
        self.state.disagreements.load(Ordering::Relaxed)
    }

    pub(super) fn sampler(&self) -> io::Result<Sampler> {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        Ok(Sampler {
            samples: self.samples.clone(),
            threshold: self.threshold,
            random: u64::from_le_bytes(seed) | 1,
            state: Arc::clone(&self.state),
        })
    }
}

impl Sampler {
    /// Sends a random share of a batch to the shadow's thread.
    pub(super) fn sample(&mut self, items: &[Item<'_>], verdicts: &[Verdict], engine: &'static str) {
        if self.threshold == 0 {
            return;
        }
        for (item, verdict) in items.iter().zip(verdicts) {
            if self.next_random() <= self.threshold {
                self.offer(item, verdict.is_accepted(), engine);
            }
        }
    }

    /// Whether the lane engine was caught in an error.
    pub(super) fn lanes_distrusted(&self) -> bool {
        self.state.lanes_distrusted.load(Ordering::Acquire)
    }

    pub(super) fn offer(&self, item: &Item<'_>, accepted: bool, engine: &'static str) {
        let sample = Sample {
            key: item.key.bytes().to_vec(),
            message: item.message.to_vec(),
            signature: item.signature.to_vec(),
            accepted,
            engine,
        };
        match self.samples.try_send(sample) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.state.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Marsaglia's xorshift64*: which items are sampled need not be secret, only spread.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// The shadow's thread.
fn check(queue: &Receiver<Sample>, state: &State, tables: &Tables, on_disagreement: &dyn Fn(&Disagreement)) {
    for Sample { key, message, signature, accepted, engine } in queue {
        let agreed = second_opinion(&key, &message, &signature) == accepted;
        if !agreed {
            // The switch first: what is told must already be so.
            state.lanes_distrusted.store(true, Ordering::Release);
            tables.distrust_lanes();
            state.disagreements.fetch_add(1, Ordering::Relaxed);
            on_disagreement(&Disagreement { engine, accepted, key });
        }
        state.checked.fetch_add(1, Ordering::Release);
    }
}

/// The exact rule by other code than the engines': the registry's checks and `verify_strict`.
fn second_opinion(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let (Ok(key), Ok(signature)) = (<&[u8; 32]>::try_from(key), Signature::from_slice(signature)) else {
        return false;
    };
    key::decode(key).is_ok()
        && ed25519_dalek::VerifyingKey::from_bytes(key)
            .is_ok_and(|verifying_key| verifying_key.verify_strict(message, &signature).is_ok())
}
