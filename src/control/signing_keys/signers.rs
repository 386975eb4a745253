//! What signs: one key, or several that sign for one another, each in a token of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use edgate_hsm::{AnySigner, HsmError, Signed, Signer, TokenSigning};
use tokio::sync::oneshot;

use crate::token::SignedBy;

/// The most signatures by a key in memory that are made on the control plane's own thread, at some tens of microseconds each.
const INLINE_MAX: usize = 4;

/// A key that signs: an Active one, or one that such a key delegated to.
pub(in crate::control) struct ActiveKey {
    /// Its name in tokens and records.
    pub(in crate::control) kid: String,
    /// The text of its delegation, if it is a delegated one.
    pub(super) delegation: Option<String>,
    /// The key that delegated to it, if it is one.
    pub(in crate::control) certified_by: Option<String>,
    /// What signs.
    pub(super) signer: Signer<TokenSigning>,
}

impl ActiveKey {
    /// An Active key.
    pub(super) fn own(kid: String, signer: Signer<TokenSigning>) -> Self {
        Self { kid, delegation: None, certified_by: None, signer }
    }

    /// What the header of a token says of it.
    pub(in crate::control) fn signed_by(&self) -> SignedBy<'_> {
        SignedBy { kid: &self.kid, delegation: self.delegation.as_deref() }
    }
}

/// The keys of which any may sign, at least one.
pub(in crate::control) struct Signers {
    // Those that sign: all, or those that can take turns.
    keys: Vec<Arc<ActiveKey>>,
    // Those as well that cannot.
    all: Vec<Arc<ActiveKey>>,
    // Where there are several: the way to whichever can.
    any: Option<AnySigner<TokenSigning>>,
}

/// What one key signed.
pub(in crate::control) struct SignedInput {
    /// The key, by its place among the signers.
    pub(in crate::control) key: usize,
    /// `header.payload`.
    pub(in crate::control) input: String,
    /// Its signature, checked.
    pub(in crate::control) signature: [u8; 64],
}

impl Signers {
    /// These keys; `None` if there is none. Keys in tokens sign for one another; one in a file beside them, which stays from before, does not.
    pub(super) fn of(all: Vec<Arc<ActiveKey>>) -> Option<Self> {
        let any_of = |keys: &[Arc<ActiveKey>]| {
            AnySigner::of(&keys.iter().map(|key| &key.signer).collect::<Vec<&Signer<TokenSigning>>>())
        };
        let is_in_token = |key: &&Arc<ActiveKey>| any_of(std::slice::from_ref(*key)).is_some();
        let mut keys: Vec<Arc<ActiveKey>> = all.iter().filter(is_in_token).cloned().collect();
        if keys.is_empty() {
            keys.extend(all.first().cloned());
        }
        if keys.len() < all.len() {
            let kids: Vec<&str> = keys.iter().map(|key| key.kid.as_str()).collect();
            tracing::warn!(
                ?kids,
                "these keys sign; another active one is in a file, and signs nothing beside them"
            );
        }
        let any = if keys.len() > 1 { any_of(&keys) } else { None };
        (!keys.is_empty()).then_some(Self { keys, all, any })
    }

    /// This one key.
    pub(super) fn one(key: ActiveKey) -> Self {
        let keys = vec![Arc::new(key)];
        Self { all: keys.clone(), keys, any: None }
    }

    /// The keys that sign.
    pub(in crate::control) fn keys(&self) -> &[Arc<ActiveKey>] {
        &self.keys
    }

    /// Their names.
    pub(in crate::control) fn kids(&self) -> Vec<&str> {
        self.keys.iter().map(|key| key.kid.as_str()).collect()
    }

    /// The key of this name, whether it signs or not.
    pub(super) fn key(&self, kid: &str) -> Option<&Arc<ActiveKey>> {
        self.all.iter().find(|key| key.kid == kid)
    }

    /// Whether they were made of these.
    pub(super) fn are(&self, keys: &[Arc<ActiveKey>]) -> bool {
        let mut both = self.all.iter().zip(keys);
        self.all.len() == keys.len() && both.all(|(one, other)| Arc::ptr_eq(one, other))
    }

    /// Whether they are keys in memory, which others delegated to.
    pub(in crate::control) fn are_delegated(&self) -> bool {
        self.keys[0].certified_by.is_some()
    }

    /// Has every payload signed in time, behind the header that names the key that signs it; all of them or none. `headers` has one for each
    /// of the keys. Never blocks: a key in a token answers from a thread of its pool. Many by a key in memory are made on a thread that
    /// may take its time.
    pub(in crate::control) async fn sign_all(
        &self,
        headers: &[String],
        payloads: &[String],
        patience: Duration,
    ) -> Result<Vec<SignedInput>, HsmError> {
        debug_assert_eq!(headers.len(), self.keys().len(), "a header for each key");
        let input = |key: usize, payload: &String| format!("{}.{payload}", headers[key]);
        if let Some(any) = &self.any {
            return self.sign_by_any(any, headers, payloads, patience).await;
        }
        let signer = &self.keys[0].signer;
        let inputs: Vec<String> = payloads.iter().map(|payload| input(0, payload)).collect();
        let signatures = if signer.is_in_memory() {
            sign_in_memory(signer, &inputs).await?
        } else {
            sign_in_turn(signer, &inputs, Instant::now() + patience).await?
        };
        let signed = inputs.into_iter().zip(signatures);
        Ok(signed.map(|(input, signature)| SignedInput { key: 0, input, signature }).collect())
    }

    async fn sign_by_any(
        &self,
        any: &AnySigner<TokenSigning>,
        headers: &[String],
        payloads: &[String],
        patience: Duration,
    ) -> Result<Vec<SignedInput>, HsmError> {
        let deadline = Instant::now() + patience;
        let by_key: Arc<[([u8; 32], String)]> = self
            .keys
            .iter()
            .zip(headers)
            .map(|(key, header)| (key.signer.public_key(), header.clone()))
            .collect();
        let mut answers = Vec::with_capacity(payloads.len());
        for payload in payloads {
            let (answer, answered) = oneshot::channel();
            let (headers, signed) = (Arc::clone(&by_key), payload.clone());
            let message = move |public_key: &[u8; 32]| {
                let named = headers.iter().find(|(key, _)| key == public_key);
                // The route has the seats of these keys and no others.
                named.map(|(_, header)| format!("{header}.{signed}").into_bytes()).unwrap_or_default()
            };
            any.submit(message, deadline, move |signed| drop(answer.send(signed)))?;
            answers.push(answered);
        }
        let mut all = Vec::with_capacity(answers.len());
        for (answered, payload) in answers.into_iter().zip(payloads) {
            let Signed { public_key, signature } = answered.await.unwrap_or(Err(HsmError::Stopped))?;
            let key = by_key.iter().position(|(key, _)| Some(*key) == public_key.ed25519());
            let key = key.ok_or(HsmError::Stopped)?;
            all.push(SignedInput { key, input: format!("{}.{payload}", by_key[key].1), signature });
        }
        Ok(all)
    }
}

async fn sign_in_memory(signer: &Signer<TokenSigning>, inputs: &[String]) -> Result<Vec<[u8; 64]>, HsmError> {
    let (signer, owned) = (signer.clone(), inputs.to_vec());
    let many = inputs.len() > INLINE_MAX;
    let sign = move || {
        let messages: Vec<&[u8]> = owned.iter().map(String::as_bytes).collect();
        signer.sign_at_once(&messages).unwrap_or(Err(HsmError::Stopped))
    };
    // Many would hold up whatever else this thread does, such as a kill.
    if many { tokio::task::spawn_blocking(sign).await.unwrap_or(Err(HsmError::Stopped)) } else { sign() }
}

async fn sign_in_turn(
    signer: &Signer<TokenSigning>,
    inputs: &[String],
    deadline: Instant,
) -> Result<Vec<[u8; 64]>, HsmError> {
    let mut answers = Vec::with_capacity(inputs.len());
    for input in inputs {
        let (answer, answered) = oneshot::channel();
        signer.submit(input.clone().into_bytes(), deadline, move |signature| drop(answer.send(signature)))?;
        answers.push(answered);
    }
    let mut signatures = Vec::with_capacity(answers.len());
    for answered in answers {
        // The pool answers exactly once; one that is dropped instead is a pool that was closed.
        signatures.push(answered.await.unwrap_or(Err(HsmError::Stopped))?);
    }
    Ok(signatures)
}
