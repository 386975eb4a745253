//! The life of a token, in steps: [`admit`] before the signature, [`read`] after it, [`look_up`], [`Read::settle`].
//!
//! They are read top to bottom. Between the first two the batch is verified; nothing of the payload is looked at before its
//! signature is. Between the others a batch is looked up. The command line runs these same functions.

use std::collections::HashSet;
use std::slice;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::decision::{Decision, Rejection, UnixSeconds};
use crate::json;
use crate::keys::RegisteredKey;
use crate::revocation::{Answer, Asked, BATCH_LEN, Batch, Identity, Inquiry, Look, Realms, Status};
use crate::status_list::{self, Reference, Standing};
use crate::token::{self, Claims, CompactJws, Demand, Padding, Profile, VerifiedJws};
use crate::verify::{Item, ItemKey, SignatureVerified, Verdict, Verifier};

use super::Policy;
use super::delegates::{Delegate, Delegates};
use crate::config::OnStale;

/// What a batch is decided by.
#[derive(Clone, Copy)]
pub struct Moment<'p, 'v> {
    /// The issuers, their keys and rules.
    pub policy: &'p Policy,
    /// What is revoked, as far as this node knows.
    pub look: &'v Look<'v>,
    /// The issuers' realms in the view looked at: [`Policy::realms`].
    pub realms: &'v [Realms],
    /// The time.
    pub now: UnixSeconds,
    /// Whether the view is older than it may be.
    pub stale: bool,
    /// What other issuers' status lists say; `None` where no issuer has any.
    pub lists: Option<&'v status_list::Cache>,
}

/// A token that may be verified: well formed, and with at least one key that could have signed it.
#[derive(Debug)]
pub struct Admitted<'a, 'p> {
    jws: CompactJws<'a>,
    /// Keys with the token's `kid`. Usually one; several issuers may use the same `kid`, and `iss` cannot be read yet.
    candidates: &'p [RegisteredKey],
    // The key that signed, where it is not one of those but the one candidate says that it signs.
    delegate: Option<Arc<Delegate>>,
    // Where the signature was verified in an earlier turn.
    proof: Option<Proof>,
}

/// Why a token is not admitted, or not yet.
#[derive(Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// It is refused.
    Rejected(Rejection),
    /// It comes with this delegation, which was not looked at yet or is no good.
    Delegation(String),
}

/// That a token's signature was verified under a policy, by which of its candidate keys. Kept while the token waits.
#[derive(Debug)]
pub(super) struct Proof {
    policy_epoch: u32,
    candidate: usize,
    verified: SignatureVerified,
}

/// A decided token.
#[derive(Debug)]
pub struct Settled<'s, 'p> {
    /// The decision.
    pub decision: Decision,
    /// Whose key verified the signature, or could have: for the record.
    pub key: Option<&'p RegisteredKey>,
    // The key that did, where it is not that one but that one says that it signs.
    delegate: Option<Arc<Delegate>>,
    /// The rules the token was held to.
    pub profile: Option<&'p Profile>,
    /// What the token says, once its signature is verified.
    pub claims: Option<Claims<'s>>,
    /// What must be asked of the registry before an acceptance may be given; see [`Settled::answered`].
    pub asked: Asked,
    /// Whether it was accepted by a view older than it may be, as its issuer's rules allow.
    pub stale: bool,
    // That its signature was verified.
    proof: Option<Proof>,
}

/// A verified token, held to everything but revocation.
#[derive(Debug)]
pub struct Read<'s, 'p>(Settled<'s, 'p>);

/// First step, for a batch: from bytes to what must be verified. A text that is an error already stays one, in its place.
///
/// Delegations that `delegates` does not know are verified on the way; `verdicts` is memory for that.
pub fn admit_all<'a, 'p>(
    texts: impl Iterator<Item = Result<&'a [u8], Rejection>>,
    policy: &'p Policy,
    delegates: &mut Delegates,
    verifier: &mut Verifier,
    verdicts: &mut Vec<Verdict>,
    scratch: &mut token::Scratch,
) -> Vec<Result<Admitted<'a, 'p>, Rejection>> {
    delegates.begin(policy);
    let mut unknown: Vec<(usize, &[u8])> = Vec::new();
    let mut delegations: HashSet<String> = HashSet::new();
    let mut admitted: Vec<Result<Admitted<'a, 'p>, Rejection>> = texts
        .enumerate()
        .map(|(place, text)| {
            let text = text?;
            admit(text, policy, delegates, scratch).map_err(|refused| match refused {
                NotAdmitted::Rejected(rejection) => rejection,
                NotAdmitted::Delegation(delegation) => {
                    unknown.push((place, text));
                    delegations.insert(delegation);
                    Rejection::DelegationInvalid
                }
            })
        })
        .collect();
    if !unknown.is_empty() {
        delegates.learn(&delegations, policy, verifier, verdicts, scratch);
        for (place, text) in unknown {
            admitted[place] = admit(text, policy, delegates, scratch).map_err(NotAdmitted::into_rejection);
        }
    }
    admitted
}

/// First step, for one token, with the delegations that are known.
///
/// # Errors
/// The first rule of form, header or key that is broken (F, H, K), or a delegation that is not known.
pub fn admit<'a, 'p>(
    text: &'a [u8],
    policy: &'p Policy,
    delegates: &Delegates,
    scratch: &mut token::Scratch,
) -> Result<Admitted<'a, 'p>, NotAdmitted> {
    let (jws, header) = token::parse(text, Padding::Tolerated, scratch)
        .map_err(|error| NotAdmitted::Rejected(error.rejection()))?;

    let (candidates, delegate) = match header.delegation {
        None => (policy.key_set.candidates(header.kid), None),
        Some(delegation) => {
            let known = header.kid.and_then(|kid| delegates.find(policy, kid, delegation));
            let certified = known.and_then(|delegate| Some((delegate.certifier(policy)?, delegate)));
            let Some((certifier, delegate)) = certified else {
                return Err(NotAdmitted::Delegation(delegation.to_owned()));
            };
            (slice::from_ref(certifier), Some(Arc::clone(delegate)))
        }
    };
    if candidates.is_empty() {
        return Err(NotAdmitted::Rejected(Rejection::KeyUnknown));
    }
    // The header must suit every issuer the key may belong to; usually that is one.
    for key in candidates {
        policy.profile(key).check_header(&header).map_err(NotAdmitted::Rejected)?;
    }
    Ok(Admitted { jws, candidates, delegate, proof: None })
}

impl NotAdmitted {
    /// The outcome word, once a delegation that is not known is known to be no good.
    #[must_use]
    pub fn into_rejection(self) -> Rejection {
        match self {
            Self::Rejected(rejection) => rejection,
            Self::Delegation(_) => Rejection::DelegationInvalid,
        }
    }
}

impl<'a> Admitted<'a, '_> {
    /// Spares this token another verification. `proof` must be of the same text; under another policy it is worth nothing.
    pub(super) fn proven(self, proof: Option<Proof>, policy: &Policy) -> Self {
        Self { proof: proof.filter(|proof| proof.policy_epoch == policy.epoch), ..self }
    }

    /// What to verify: one item per candidate key, in their order; nothing where that was done.
    pub fn items(&self) -> impl Iterator<Item = Item<'_>> {
        let candidates = if self.proof.is_some() { &[] } else { self.candidates };
        let delegated = self.delegate.as_deref().map(Delegate::item_key);
        candidates.iter().map(move |key| Item {
            key: delegated.unwrap_or(ItemKey::Registered(key.verifying_key())),
            message: self.jws.signing_input(),
            signature: self.jws.signature(),
        })
    }
}

/// Second step: from verdicts to what the token says, held to everything but revocation.
///
/// `verdicts` yields those of [`Admitted::items`], and exactly those are taken from it.
pub fn read<'s, 'p>(
    admitted: Admitted<'_, 'p>,
    verdicts: &mut impl Iterator<Item = Verdict>,
    moment: &Moment<'p, '_>,
    demand: &Demand<'_>,
    scratch: &'s mut token::Scratch,
) -> Read<'s, 'p> {
    let Moment { policy, now, .. } = *moment;
    let Admitted { jws, candidates, delegate, proof } = admitted;
    let mut accepted: SmallVec<[(usize, SignatureVerified); 1]> =
        proof.map(|proof| (proof.candidate, proof.verified)).into_iter().collect();
    let mut refused = Rejection::KeyUnknown;
    if accepted.is_empty() {
        for (candidate, verdict) in (0..candidates.len()).zip(verdicts.by_ref()) {
            match verdict {
                Verdict::Accepted(verified) => accepted.push((candidate, verified)),
                Verdict::Rejected(rejection) => refused = rejection.into(),
            }
        }
    }
    let not_admitted = Settled::not_admitted(refused);
    let Some((candidate, verified)) = accepted.pop() else {
        let key = candidates.first();
        let profile = key.map(|key| policy.profile(key));
        return Read(Settled { key, delegate, profile, ..not_admitted });
    };
    let jws = VerifiedJws::new(jws, verified);
    let claims = jws.claims(scratch);
    // Several issuers may have one key under one name: then it is the issuer's that the token names.
    let iss = claims.as_ref().ok().and_then(|claims| claims.iss);
    let is_of = |candidate: usize| iss == Some(policy.profile(&candidates[candidate]).issuer.as_str());
    let others = accepted.iter().map(|(other, _)| *other);
    let candidate = others.filter(|_| !is_of(candidate)).find(|other| is_of(*other)).unwrap_or(candidate);
    let key = &candidates[candidate];
    let profile = policy.profile(key);
    let proof = Some(Proof { policy_epoch: policy.epoch, candidate, verified: jws.into_proof() });
    let so_far = |decision, claims, delegate| {
        let (key, profile) = (Some(key), Some(profile));
        Read(Settled { decision, key, delegate, profile, claims, proof, ..not_admitted })
    };
    let claims = match claims {
        Ok(claims) => claims,
        Err(error) => return so_far(error.rejection().into(), None, delegate),
    };
    // The key's issuer must be the one the token names: this is where (issuer, kid) is matched whole.
    let covered = delegate.as_ref().is_none_or(|delegate| delegate.covers(claims.iat, claims.exp));
    match profile.check_claims(&claims, now, demand) {
        Ok(()) | Err(Rejection::ScopeMissing) if !covered => {
            so_far(Rejection::DelegationInvalid.into(), Some(claims), delegate)
        }
        Ok(()) => so_far(Decision::Accepted, Some(claims), delegate),
        Err(rejection) => so_far(rejection.into(), Some(claims), delegate),
    }
}

/// What is revoked of these tokens, of [`BATCH_LEN`] at most; nothing in the place of one that is refused already.
#[must_use]
pub fn look_up(tokens: &[Read<'_, '_>], moment: &Moment<'_, '_>) -> Batch<Status> {
    let mut asked = [None; BATCH_LEN];
    for (place, Read(settled)) in asked.iter_mut().zip(tokens) {
        if settled.decision == Decision::Accepted {
            *place = settled.issuer_and_identity().map(|(index, identity)| (&moment.realms[index], identity));
        }
    }
    moment.look.check(&asked, moment.now)
}

/// Reads, looks up and settles one token: for whoever has no batch.
pub fn settle<'s, 'p>(
    admitted: Admitted<'_, 'p>,
    verdicts: &mut impl Iterator<Item = Verdict>,
    moment: &Moment<'p, '_>,
    demand: &Demand<'_>,
    scratch: &'s mut token::Scratch,
) -> Settled<'s, 'p> {
    let token = read(admitted, verdicts, moment, demand, scratch);
    let status = look_up(slice::from_ref(&token), moment)[0];
    token.settle(status, moment)
}

impl<'s, 'p> Read<'s, 'p> {
    /// A token that was not admitted.
    #[must_use]
    pub fn not_admitted(rejection: Rejection) -> Self {
        Self(Settled::not_admitted(rejection))
    }

    /// Last step: the decision. `status` is what [`look_up`] says about the token.
    #[must_use]
    pub fn settle(self, status: Option<Status>, moment: &Moment<'p, '_>) -> Settled<'s, 'p> {
        let Self(settled) = self;
        let Moment { policy, now, stale, .. } = *moment;
        let (Decision::Accepted, Some(key), Some(claims)) = (settled.decision, settled.key, &settled.claims)
        else {
            return settled;
        };
        let rules = policy.rules(key);
        let asked = Asked {
            revoked: stale && rules.on_stale == OnStale::Lookup,
            listed: rules.allow_list,
            unused: rules.single_use,
        };
        let refusal = match status {
            None => Some(Rejection::RevocationUnknown),
            Some(Status::Revoked) => Some(Rejection::Revoked),
            Some(Status::Disabled) => Some(Rejection::Disabled),
            Some(Status::Clear) => None,
        };
        // A token without a name cannot be revoked by name; whether it needs one is the profile's to say.
        let refusal = refusal
            .or_else(
                || {
                    if rules.status_list { check_status_list(key, claims, moment, now).err() } else { None }
                },
            )
            .or((stale && rules.on_stale == OnStale::Deny).then_some(Rejection::RevocationUnknown))
            // Lists of names say nothing about a token without one.
            .or(((asked.listed || asked.unused) && claims.jti.is_none()).then_some(Rejection::ClaimMissing));
        match refusal {
            Some(rejection) => Settled { decision: rejection.into(), ..settled },
            None => Settled { asked, stale: stale && !asked.revoked, ..settled },
        }
    }
}

/// Looks the token up in its issuer's status list, where it names a place in one (draft-ietf-oauth-status-list §8.3).
fn check_status_list(
    key: &RegisteredKey,
    claims: &Claims<'_>,
    moment: &Moment<'_, '_>,
    now: UnixSeconds,
) -> Result<(), Rejection> {
    let mut scratch = json::Scratch::default();
    let Some(reference) =
        Reference::read(claims.json, &mut scratch).map_err(|_| Rejection::ClaimsMalformed)?
    else {
        return Ok(());
    };
    let lists = moment.lists.ok_or(Rejection::RevocationUnknown)?;
    match lists.standing(key.issuer(), &reference, now) {
        Standing::Valid => Ok(()),
        Standing::Invalid => Err(Rejection::Revoked),
        Standing::Suspended => Err(Rejection::Disabled),
        Standing::OutOfRange => Err(Rejection::ClaimsMalformed),
        Standing::Unknown => Err(Rejection::RevocationUnknown),
    }
}

fn identity<'a>(
    key: &'a RegisteredKey,
    delegate: Option<&'a Delegate>,
    profile: &'a Profile,
    claims: &'a Claims<'_>,
) -> Identity<'a> {
    Identity {
        tenant: &profile.tenant,
        issuer: &profile.issuer,
        kid: delegate.map_or(key.kid(), Delegate::kid),
        certified_by: delegate.map(Delegate::certified_by),
        jti: claims.jti.map(|jti| jti.0),
        subject: claims.sub,
        session: claims.sid,
        issued_at: claims.iat,
    }
}

impl Settled<'_, '_> {
    /// A token that was not admitted.
    #[must_use]
    pub fn not_admitted(rejection: Rejection) -> Self {
        let asked = Asked::default();
        Self {
            decision: rejection.into(),
            key: None,
            delegate: None,
            profile: None,
            claims: None,
            asked,
            stale: false,
            proof: None,
        }
    }

    /// The name of the key that verified the signature, or could have, for the record; empty where no key could.
    #[must_use]
    pub fn kid(&self) -> &str {
        match &self.delegate {
            Some(delegate) => delegate.kid(),
            None => self.key.map_or("", RegisteredKey::kid),
        }
    }

    /// Which of the policy's issuers it is of, and what it can be revoked by. None where its claims were not read.
    fn issuer_and_identity(&self) -> Option<(usize, Identity<'_>)> {
        let (key, profile, claims) = (self.key?, self.profile?, self.claims.as_ref()?);
        Some((usize::from(key.issuer().0), identity(key, self.delegate.as_deref(), profile, claims)))
    }

    /// What must be asked before this acceptance may be given, and what need not be done again then.
    pub(super) fn inquiry(self) -> Option<(Inquiry, Proof)> {
        if !self.asked.is_any() {
            return None;
        }
        let (key, profile, claims) = (self.key?, self.profile?, self.claims?);
        let until = claims.exp.unwrap_or(UnixSeconds(u64::MAX)).saturating_add(profile.leeway_s);
        let identity = identity(key, self.delegate.as_deref(), profile, &claims);
        Some((Inquiry::new(&identity, until, self.asked), self.proof?))
    }

    /// The decision once what was asked is answered; `None`: nobody answered.
    #[must_use]
    pub fn answered(self, answer: Option<Answer>) -> Self {
        // A refusal stands: it was found after the question went out.
        if self.decision != Decision::Accepted {
            return self;
        }
        let decision = match answer {
            None if !self.asked.is_any() => Decision::Accepted,
            Some(Answer::Clear) => Decision::Accepted,
            None | Some(Answer::Unknown) => Rejection::RevocationUnknown.into(),
            Some(Answer::Revoked) => Rejection::Revoked.into(),
            Some(Answer::Disabled) => Rejection::Disabled.into(),
            Some(Answer::NotListed) => Rejection::NotListed.into(),
            Some(Answer::Replayed) => Rejection::Replayed.into(),
        };
        Self { decision, ..self }
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
