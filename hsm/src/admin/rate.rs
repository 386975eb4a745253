//! How fast a token signs: bare, and through the pool.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};

use super::Admin;
use crate::pkcs11::{CallError, KeyRules, find_signing_key};
use crate::{Algorithm, HsmError, KeyPurpose, Pkcs11Uri, Signer};

/// Time per signature by the two ways of making one.
#[derive(Debug, Clone, Copy)]
pub struct SignPaths {
    /// `C_SignInit` and `C_Sign` with a buffer: what the pool does.
    pub two_calls: Duration,
    /// `cryptoki`'s `Session::sign`, which asks for the length in between; `None` where the token refuses that.
    pub three_calls: Option<Duration>,
}

impl Admin {
    /// Signatures per second of `threads` threads that do nothing but call the module, each in its own session, for
    /// `lasting`: the ceiling for any pool.
    ///
    /// # Errors
    /// What the module answered.
    pub fn raw_rate(&self, key: &Pkcs11Uri, threads: usize, lasting: Duration) -> Result<f64, HsmError> {
        let inside = self.enter()?;
        let context = self.module.context(&inside);
        let raw = self.module.raw(&inside);
        let sessions = (0..threads)
            .map(|_| {
                let session = context.open_ro_session(self.token.slot).map_err(CallError::from)?;
                let found = find_signing_key(&session, key, &Algorithm::ALL, KeyRules::any())?;
                Ok((session, found))
            })
            .collect::<Result<Vec<_>, HsmError>>()?;
        let (stop, start) = (AtomicBool::new(false), Barrier::new(threads + 1));
        std::thread::scope(|scope| {
            let running: Vec<_> = sessions
                .into_iter()
                .map(|(session, found)| {
                    let (stop, start) = (&stop, &start);
                    scope.spawn(move || -> Result<u64, CallError> {
                        start.wait();
                        let mut count = 0_u64;
                        while !stop.load(Ordering::Relaxed) {
                            raw.sign(&session, found.algorithm, found.private, &count.to_le_bytes())?;
                            count += 1;
                        }
                        Ok(count)
                    })
                })
                .collect();
            start.wait();
            let started = Instant::now();
            std::thread::sleep(lasting);
            stop.store(true, Ordering::Relaxed);
            let elapsed = started.elapsed();
            let mut total = 0;
            for thread in running {
                total += thread.join().map_err(|_| HsmError::Stopped)??;
            }
            Ok(per_second(total, elapsed))
        })
    }

    /// Times the two ways to sign with Ed25519, in turn, `rounds` signatures each.
    ///
    /// # Errors
    /// What the module answered.
    pub fn sign_paths(&self, key: &Pkcs11Uri, rounds: u32) -> Result<SignPaths, HsmError> {
        let inside = self.enter()?;
        let context = self.module.context(&inside);
        let raw = self.module.raw(&inside);
        let session = context.open_ro_session(self.token.slot).map_err(CallError::from)?;
        let only = [Algorithm::Ed25519];
        let found = find_signing_key(&session, key, &only, KeyRules::any())?;
        let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
        let (mut two, mut three, mut refused) = (Duration::ZERO, Duration::ZERO, false);
        for round in 0..rounds {
            let message = round.to_le_bytes();
            let started = Instant::now();
            raw.sign(&session, found.algorithm, found.private, &message)?;
            two += started.elapsed();
            if !refused {
                let started = Instant::now();
                refused = session.sign(&mechanism, found.private, &message).is_err();
                three += started.elapsed();
            }
        }
        let three_calls = (!refused).then(|| three / rounds.max(1));
        Ok(SignPaths { two_calls: two / rounds.max(1), three_calls })
    }
}

/// Callers that keep a pool busy for its rate to be measured.
#[derive(Debug, Clone, Copy)]
pub struct Callers {
    /// How many there are, each waiting for what it asked for before it asks for more.
    pub count: usize,
    /// Signatures that each asks for at a time, as a call for so many tokens does; at least 1.
    pub together: usize,
}

/// Signatures per second through a signer with `callers`, for `lasting`.
///
/// # Errors
/// The first signature that failed.
pub fn pooled_rate<P: KeyPurpose>(
    signer: &Signer<P>,
    callers: Callers,
    lasting: Duration,
) -> Result<f64, HsmError> {
    let (done, outcomes) = mpsc::channel();
    let number = AtomicU64::new(0);
    let ask = || {
        let left = Arc::new(AtomicUsize::new(callers.together));
        for _ in 0..callers.together {
            let (done, left) = (done.clone(), Arc::clone(&left));
            let message = number.fetch_add(1, Ordering::Relaxed).to_le_bytes().to_vec();
            let complete = move |outcome: Result<_, HsmError>| {
                let last = left.fetch_sub(1, Ordering::AcqRel) == 1;
                // The receiver lives until all are answered, or one has failed.
                if last || outcome.is_err() {
                    drop(done.send(outcome.map(drop)));
                }
            };
            signer.submit(message, Instant::now() + PATIENCE, complete)?;
        }
        Ok::<_, HsmError>(())
    };
    let started = Instant::now();
    for _ in 0..callers.count {
        ask()?;
    }
    let (mut open, mut count, mut end) = (callers.count, 0_u64, None);
    while open > 0 {
        outcomes.recv().map_err(|_| HsmError::Stopped)??;
        open -= 1;
        if started.elapsed() < lasting {
            count += callers.together as u64;
            ask()?;
            open += 1;
        } else if end.is_none() {
            end = Some(started.elapsed());
        }
    }
    Ok(per_second(count, end.unwrap_or(lasting)))
}

/// How long a signature may take when only the rate is looked at.
const PATIENCE: Duration = Duration::from_secs(30);

#[expect(clippy::cast_precision_loss, reason = "a rate for people; counts stay far below 2^52")]
fn per_second(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}
