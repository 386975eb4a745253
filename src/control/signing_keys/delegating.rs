//! Delegated issuing: a key in this process's memory signs tokens because the Active key, in the token, says so for an hour at most.
//! Off unless it is configured.
//!
//! Made ahead of time, published like every other key before it signs, on record with the delegation's end, and never used once the
//! key that made it a delegated one is not the Active one any more. Where none may sign, the Active key itself does.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgate_hsm::HsmError;

use super::held::{ChangeError, Keys};
use super::keeper::ACTOR;
use super::signers::{ActiveKey, SignedInput};
use super::steps::{Order, on_record, unusable};
use crate::control::actions::blocking;
use crate::control::error::{ApiError, ErrorKind};
use crate::control::state::Shared;
use crate::control::tag_keys::destruction as change_of_key;
use crate::decision::UnixSeconds;
use crate::keys::delegated::DelegatedKey;
use crate::keys::thumbprint;
use crate::token::{self, Delegation};

/// The longest that a delegation tries for room in a queue, and then for its signature: operators' commands wait meanwhile.
const PATIENCE_MAX: Duration = Duration::from_secs(5);

/// How long a delegation waits for room in the queue of the key that signs it, at a time.
const QUEUE_PAUSE: Duration = Duration::from_millis(5);

/// Whether another delegated key is to be made now.
pub(super) fn is_due(keys: &Keys) -> bool {
    let Some(active) = keys.active() else { return false };
    keys.delegations(|delegations| delegations.is_wanted(&active.kids(), (keys.now)()))
}

/// Makes a delegated key, has the Active key sign its delegation, and publishes it.
pub(super) async fn delegate(shared: &Arc<Shared>) -> Result<(), ApiError> {
    let (keys, own) = (&shared.keys, shared.keys.own()?);
    let rules = keys.delegations(|delegations| delegations.rules().copied());
    let (Some(active), Some(rules), Some(issuing)) = (keys.active(), rules, &shared.issuing) else {
        return Ok(());
    };
    let make = Arc::clone(&own.places.make_in_memory);
    let signer = blocking(move || make()).await?;
    let signer = signer.map_err(|problem| unusable("make a key in memory", &problem))?;
    let public_key = signer.public_key();
    let kid = thumbprint(&public_key);
    let issued_at = UnixSeconds((keys.now)().0 / 1000);
    let expires_at = issued_at.saturating_add(rules.life_s);
    let says =
        Delegation { issuer: shared.issuers[issuing.own].issuer.clone(), issued_at, expires_at, public_key };
    let what = format!("signing.delegated_key {kid}");
    let after = format!("signs for {} until {}", active.kids().join(" or "), expires_at.0);
    let order = Order { actor: ACTOR, what: &what, before: "none", after: &after, event: change_of_key };
    let effect = async {
        let headers: Vec<String> =
            active.keys().iter().map(|key| Delegation::header_part(&key.kid)).collect();
        let payload = [says.payload_part()];
        let patience = issuing.sign_timeout.min(PATIENCE_MAX);
        let sign = || active.sign_all(&headers, &payload, patience);
        let mut signed = patiently(sign, patience)
            .await
            .map_err(|error| unusable("have a delegation signed", &error.to_string()))?;
        let SignedInput { key, input, signature } = signed.remove(0);
        let delegation = token::assemble(input, &signature);
        let certified_by = active.keys()[key].kid.clone();
        let key = DelegatedKey {
            kid: kid.clone(),
            public_key,
            certified_by: certified_by.clone(),
            delegation: delegation.clone(),
            issued_at,
            expires_at,
            published: (keys.now)(),
            held: true,
        };
        // In the database before anybody sees it, so that a start lists it as well.
        let ended = UnixSeconds(issued_at.0.saturating_sub(shared.issuers[issuing.own].leeway_s));
        shared.store.store_delegation(&own.tenant, &key, ended).await.map_err(|error| {
            tracing::error!(%error, "cannot store a delegation");
            let description = "the state database takes no writes now; no key was delegated to";
            ApiError::new(ErrorKind::StoreUnavailable, description)
        })?;
        let certified_by = Some(certified_by);
        keys.delegate(
            key,
            ActiveKey { kid: kid.clone(), delegation: Some(delegation), certified_by, signer },
        )?;
        Ok(())
    };
    let (id, ()) = on_record(shared, &order, |()| what.clone(), effect).await?;
    id?;
    tracing::info!(kid, after, "a key in memory was delegated to");
    Ok(())
}

/// Tries again for a while where the queue is full: what would end the overload must not lose to it.
async fn patiently<T, F: Future<Output = Result<T, HsmError>>>(
    sign: impl Fn() -> F,
    patience: Duration,
) -> Result<T, HsmError> {
    let until = Instant::now() + patience;
    loop {
        match sign().await {
            Err(HsmError::Overloaded { .. }) if Instant::now() < until => {
                tokio::time::sleep(QUEUE_PAUSE).await;
            }
            signed => return signed,
        }
    }
}

/// The Active key changed while its delegation was made.
pub(super) fn no_longer_active(kid: &str) -> ChangeError {
    ChangeError::Unpublished(format!("{kid} is not the active key any more, and its delegation is of no use"))
}
