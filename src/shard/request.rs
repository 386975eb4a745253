//! The life of a token, in two halves: [`admit`] before the signature, [`settle`] after it.
//!
//! Both are read top to bottom. Between them the batch is verified; nothing of the payload is looked at before its
//! signature is. The command line runs these same functions.

use crate::decision::{Decision, Rejection, UnixSeconds};
use crate::keys::RegisteredKey;
use crate::revocation::{Status, View};
use crate::token::{self, Claims, CompactJws, Demand, Padding, Profile, VerifiedJws};
use crate::verify::{Item, ItemKey, Verdict};

use super::Policy;

/// A token that may be verified: well formed, and with at least one key that could have signed it.
#[derive(Debug)]
pub struct Admitted<'a, 'p> {
    jws: CompactJws<'a>,
    /// Keys with the token's `kid`. Usually one; several issuers may use the same `kid`, and `iss` cannot be read yet.
    candidates: &'p [RegisteredKey],
}

/// A decided token.
#[derive(Debug)]
pub struct Settled<'s, 'p> {
    /// The decision.
    pub decision: Decision,
    /// Whose key verified the signature, or could have: for the record.
    pub key: Option<&'p RegisteredKey>,
    /// The rules the token was held to.
    pub profile: Option<&'p Profile>,
    /// What the token says, once its signature is verified.
    pub claims: Option<Claims<'s>>,
}

/// First half: from bytes to what must be verified.
///
/// # Errors
/// The first rule of form, header or key that is broken (F, H, K).
pub fn admit<'a, 'p>(
    text: &'a [u8],
    policy: &'p Policy,
    scratch: &mut token::Scratch,
) -> Result<Admitted<'a, 'p>, Rejection> {
    let (jws, header) =
        token::parse(text, Padding::Tolerated, scratch).map_err(token::ParseError::rejection)?;

    let candidates = policy.key_set.candidates(header.kid);
    if candidates.is_empty() {
        return Err(Rejection::KeyUnknown);
    }
    // The header must suit every issuer the key may belong to; usually that is one.
    for key in candidates {
        policy.profile(key).check_header(&header)?;
    }
    Ok(Admitted { jws, candidates })
}

impl<'a> Admitted<'a, '_> {
    /// What to verify: one item per candidate key, in their order.
    pub fn items(&self) -> impl Iterator<Item = Item<'_>> {
        self.candidates.iter().map(|key| Item {
            key: ItemKey::Registered(key.verifying_key()),
            message: self.jws.signing_input(),
            signature: self.jws.signature(),
        })
    }
}

/// Second half: from verdicts to the decision.
///
/// `verdicts` yields those of [`Admitted::items`], and exactly those are taken from it.
pub fn settle<'s, 'p>(
    admitted: Admitted<'_, 'p>,
    verdicts: &mut impl Iterator<Item = Verdict>,
    policy: &'p Policy,
    view: &View,
    now: UnixSeconds,
    demand: &Demand<'_>,
    scratch: &'s mut token::Scratch,
) -> Settled<'s, 'p> {
    let Admitted { jws, candidates } = admitted;
    let mut proof = None;
    let mut refused = Rejection::KeyUnknown;
    for (key, verdict) in candidates.iter().zip(verdicts.by_ref()) {
        match verdict {
            Verdict::Accepted(verified) => proof = Some((key, verified)),
            Verdict::Rejected(rejection) => refused = rejection.into(),
        }
    }
    let Some((key, verified)) = proof else {
        let key = candidates.first();
        let profile = key.map(|key| policy.profile(key));
        return Settled { decision: refused.into(), key, profile, claims: None };
    };
    let profile = policy.profile(key);
    let settled = |decision, claims| Settled { decision, key: Some(key), profile: Some(profile), claims };

    let claims = match VerifiedJws::new(jws, verified).claims(scratch) {
        Ok(claims) => claims,
        Err(error) => return settled(error.rejection().into(), None),
    };
    // The key's issuer must be the one the token names: this is where (issuer, kid) is matched whole.
    if let Err(rejection) = profile.check_claims(&claims, now, demand) {
        return settled(rejection.into(), Some(claims));
    }
    // A token without a name cannot be revoked by name; whether it needs one is the profile's to say.
    if let (Some(jti), Some(issuer)) = (claims.jti, claims.iss)
        && view.check(&profile.tenant, issuer, jti.0, now) == Status::Revoked
    {
        return settled(Rejection::Revoked.into(), Some(claims));
    }
    settled(Decision::Accepted, Some(claims))
}

impl Settled<'_, '_> {
    /// A token that was not admitted.
    #[must_use]
    pub fn not_admitted(rejection: Rejection) -> Self {
        Self { decision: rejection.into(), key: None, profile: None, claims: None }
    }
}
