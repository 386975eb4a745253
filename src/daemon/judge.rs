//! The data plane's judgement, lent to the control plane: the same `admit`, verification and `settle`.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::control::{Judge, Judged, JudgedToken};
use crate::decision::UnixSeconds;
use crate::revocation::View;
use crate::shard::{self, Delegates, IssuerRealms, Moment, Policy, Settled};
use crate::token::{self, Demand};
use crate::verify::{Item, Verdict, Verifier};

/// What one judgement after the other is made with.
struct Tools {
    verifier: Verifier,
    delegates: Delegates,
    scratch: token::Scratch,
    verdicts: Vec<Verdict>,
    realms: IssuerRealms,
}

/// Judges by the policy of the moment and by `view`. One token at a time: it takes tens of microseconds.
pub(crate) fn judge(policy: Arc<ArcSwap<Policy>>, view: Arc<View>, verifier: Verifier) -> Judge {
    let tools = Mutex::new(Tools {
        verifier,
        delegates: Delegates::default(),
        scratch: token::Scratch::default(),
        verdicts: Vec::new(),
        realms: IssuerRealms::default(),
    });
    Arc::new(move |text, now| {
        let mut tools = tools.lock().unwrap_or_else(PoisonError::into_inner);
        tools.judge(text, &policy.load(), &view, now)
    })
}

impl Tools {
    fn judge(&mut self, text: &[u8], policy: &Policy, view: &View, now: UnixSeconds) -> Judged {
        let Self { verifier, delegates, scratch, verdicts, .. } = self;
        let one = std::iter::once(Ok(text));
        let admitted = shard::admit_all(one, policy, delegates, verifier, verdicts, scratch).pop();
        let admitted = match admitted.expect("one text, one answer") {
            Ok(admitted) => admitted,
            Err(rejection) => return Judged { decision: rejection.into(), token: None },
        };
        let items: Vec<Item<'_>> = admitted.items().collect();
        self.verifier.verify(&items, &mut self.verdicts);
        let (look, realms) = (view.look(), self.realms.of(policy, view));
        let moment = Moment { policy, look: &look, realms: &realms, now, stale: false, lists: None };
        let (mut verdicts, demand) = (self.verdicts.drain(..), Demand::default());
        let settled = shard::settle(admitted, &mut verdicts, &moment, &demand, &mut self.scratch);
        Judged { decision: settled.decision, token: named(&settled) }
    }
}

/// Whose token it is. Claims are there only if the signature was verified; `iss` must still be that of the key's issuer.
fn named(settled: &Settled<'_, '_>) -> Option<JudgedToken> {
    let (profile, claims) = (settled.profile?, settled.claims.as_ref()?);
    (claims.iss == Some(profile.issuer.as_str())).then_some(JudgedToken {
        tenant: profile.tenant.clone(),
        issuer: profile.issuer.clone(),
        jti: claims.jti.map(|jti| jti.0.to_owned()),
        refused_from: claims.exp?.saturating_add(profile.leeway_s),
    })
}
