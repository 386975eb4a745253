//! Keys that sign because a key of their issuer says so, as the tokens themselves bring them.
//!
//! A delegation is verified once, like a token, and kept; under another policy it is held against that. A token that comes with one that
//! is kept costs a comparison of texts. What is kept is bounded, and nothing is kept that no configured issuer signed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::decision::UnixSeconds;
use crate::keys::{IssuerIndex, KID_CANDIDATES_MAX, RegisteredKey, thumbprint};
use crate::token::{self, Delegation, VerifiedJws};
use crate::verify::{Item, ItemKey, Verdict, Verifier, VerifyingKey};

use super::Policy;

/// From how many delegations on those of one issuer are let go, to be verified once more when they come again. An issuer has two at a time,
/// and a few more after restarts.
const KEPT_MAX: usize = 1024;

/// A delegated key.
#[derive(Debug)]
pub(super) struct Delegate {
    kid: String,
    public_key: [u8; 32],
    // None while the registry was not free: it is verified as a raw key meanwhile, by the same rule.
    registered: Option<VerifyingKey>,
    issuer: IssuerIndex,
    certified_by: String,
    // The public half of that key, as it was when it signed.
    certifier: [u8; 32],
    issued_at: UnixSeconds,
    expires_at: UnixSeconds,
}

/// The delegated keys that one caller has met under one policy.
#[derive(Debug, Default)]
pub struct Delegates {
    policy_epoch: Option<u32>,
    // By the name of the key. Rarely more than one of a key: it was delegated to once.
    kept: HashMap<String, Vec<Kept>>,
    count: usize,
    // Whether some are not registered yet.
    raw: bool,
}

/// A delegation's text, and what it says.
type Kept = (String, Arc<Delegate>);

impl Delegate {
    /// Its name.
    pub(super) fn kid(&self) -> &str {
        &self.kid
    }

    /// The name of the key that says that it signs.
    pub(super) fn certified_by(&self) -> &str {
        &self.certified_by
    }

    /// The key to verify with.
    pub(super) fn item_key(&self) -> ItemKey<'_> {
        self.registered.as_ref().map_or(ItemKey::Unregistered(&self.public_key), ItemKey::Registered)
    }

    /// Whether its time is that of a token (D5): no token of it is older than it is, or outlives it. A token that does not say
    /// when it was issued might be.
    pub(super) fn covers(&self, issued_at: Option<UnixSeconds>, expires_at: Option<UnixSeconds>) -> bool {
        issued_at.is_some_and(|issued_at| issued_at >= self.issued_at)
            && expires_at.is_some_and(|expires_at| expires_at <= self.expires_at)
    }

    /// The issuer's key that says that this one signs, which is one of `policy`.
    pub(super) fn certifier<'p>(&self, policy: &'p Policy) -> Option<&'p RegisteredKey> {
        let named = policy.key_set.candidates(Some(&self.certified_by));
        named.iter().find(|key| key.issuer() == self.issuer)
    }
}

impl Delegates {
    /// The key of this name that the delegation `text` speaks of; `None`: it is not known.
    pub(super) fn find(&self, policy: &Policy, kid: &str, text: &str) -> Option<&Arc<Delegate>> {
        if self.policy_epoch != Some(policy.epoch) {
            return None;
        }
        let found = self.kept.get(kid)?.iter().find(|(known, _)| known == text);
        found.map(|(_, delegate)| delegate)
    }

    /// Verifies these delegations, in one batch, and keeps those that are good.
    pub(super) fn learn(
        &mut self,
        texts: &HashSet<String>,
        policy: &Policy,
        verifier: &mut Verifier,
        verdicts: &mut Vec<Verdict>,
        scratch: &mut token::Scratch,
    ) {
        let parsed: Vec<_> = texts
            .iter()
            .filter_map(|text| Some((text, Delegation::parse(text, scratch).ok()?)))
            .map(|(text, unverified)| {
                let candidates = policy.key_set.candidates(Some(&unverified.kid));
                (text, unverified, candidates)
            })
            .collect();
        let items: Vec<Item<'_>> = parsed
            .iter()
            .flat_map(|(_, unverified, candidates)| candidates.iter().map(move |key| (&unverified.jws, key)))
            .map(|(jws, key)| Item {
                key: ItemKey::Registered(key.verifying_key()),
                message: jws.signing_input(),
                signature: jws.signature(),
            })
            .collect();
        verifier.verify(&items, verdicts);
        let mut verdicts = verdicts.drain(..);
        let mut good = Vec::new();
        for (text, unverified, candidates) in parsed {
            let mut says = None;
            // Several issuers may have one key under one name: it speaks for the one that it names.
            let mut signed_by = SmallVec::<[&RegisteredKey; KID_CANDIDATES_MAX]>::new();
            for (key, verdict) in candidates.iter().zip(verdicts.by_ref()) {
                if let Verdict::Accepted(proof) = verdict {
                    signed_by.push(key);
                    says = Some(VerifiedJws::new(unverified.jws.clone(), proof));
                }
            }
            let Some(Ok(says)) = says.map(|jws| Delegation::read(&jws, scratch)) else { continue };
            let of_issuer = |key: &&&RegisteredKey| policy.profile(key).issuer == says.issuer;
            let key = signed_by.iter().find(of_issuer);
            let key = key.filter(|key| policy.profile(key).algorithms.contains(unverified.algorithm));
            if let Some(delegate) = key.and_then(|key| Delegate::new(&says, key, policy)) {
                good.push((text, delegate));
            }
        }
        assert!(verdicts.next().is_none(), "every verdict belongs to one delegation");
        // Nothing that nobody signed puts anything out.
        while self.count + good.len() > KEPT_MAX && self.count > 0 {
            self.forget_most();
        }
        for (text, delegate) in good {
            self.keep(text, delegate);
        }
    }

    /// Before a batch: keeps what holds under this policy too, with its tables, and registers those keys for which the registry was not
    /// free before.
    pub(super) fn begin(&mut self, policy: &Policy) {
        if self.policy_epoch != Some(policy.epoch) {
            self.policy_epoch = Some(policy.epoch);
            self.retain(|delegate| delegate.holds(policy));
        }
        if std::mem::take(&mut self.raw) {
            self.register();
        }
    }

    /// Lets go of all of the issuer that has the most: others pay nothing for it.
    fn forget_most(&mut self) {
        let mut counts = HashMap::<IssuerIndex, usize>::new();
        for (_, delegate) in self.kept.values().flatten() {
            *counts.entry(delegate.issuer).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(issuer, count)| (*count, *issuer));
        self.retain(|delegate| most.is_none_or(|(issuer, _)| delegate.issuer != issuer));
    }

    fn retain(&mut self, stays: impl Fn(&Delegate) -> bool) {
        self.kept.retain(|_, of_key| {
            of_key.retain(|(_, delegate)| stays(delegate));
            !of_key.is_empty()
        });
        self.count = self.kept.values().map(Vec::len).sum();
    }

    fn keep(&mut self, text: &str, delegate: Delegate) {
        let of_key = self.kept.entry(delegate.kid.clone()).or_default();
        if of_key.iter().all(|(known, _)| known != text) {
            self.raw |= delegate.registered.is_none();
            self.count += 1;
            of_key.push((text.to_owned(), Arc::new(delegate)));
        }
    }

    fn register(&mut self) {
        for (_, delegate) in self.kept.values_mut().flatten() {
            if delegate.registered.is_none() {
                // Its point was checked when it was met; what is in the way is another thread, for a moment.
                let registered = VerifyingKey::try_register(&delegate.public_key).ok().flatten();
                match Arc::get_mut(delegate) {
                    Some(delegate) if registered.is_some() => delegate.registered = registered,
                    _ => self.raw = true,
                }
            }
        }
    }
}

impl Delegate {
    /// The key that `says` speaks of, which `key` of its issuer signed; `None` for one that must not sign (D4, a killed one).
    fn new(says: &Delegation, key: &RegisteredKey, policy: &Policy) -> Option<Self> {
        let kid = thumbprint(&says.public_key);
        if policy.killed.contains(key.issuer(), &kid) {
            return None;
        }
        let registered = VerifyingKey::try_register(&says.public_key).ok()?;
        if registered.is_none() {
            VerifyingKey::check(&says.public_key).ok()?;
        }
        Some(Self {
            registered,
            kid,
            public_key: says.public_key,
            issuer: key.issuer(),
            certified_by: key.kid().to_owned(),
            certifier: *key.verifying_key().as_bytes(),
            issued_at: says.issued_at,
            expires_at: says.expires_at,
        })
    }

    /// Whether it is as good under this policy, which is another than it was met under. Issuers and their names are those of the start.
    fn holds(&self, policy: &Policy) -> bool {
        let same =
            self.certifier(policy).is_some_and(|key| *key.verifying_key().as_bytes() == self.certifier);
        same && !policy.killed.contains(self.issuer, &self.kid)
    }
}

#[cfg(test)]
#[path = "delegates_tests.rs"]
mod tests;
