//! The keys as they are held in memory, and the one way in which that changes.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use edgate_hsm::{Signer, TokenSigning};
use tokio::sync::Notify;

use super::delegating::no_longer_active;
use super::signers::{ActiveKey, Signers};
use super::{Holders, KeyPlaces, OwnKeys, Publish, SigningKeys};
use crate::control::error::{ApiError, ErrorKind};
use crate::decision::UnixSeconds;
use crate::keys::delegated::{DelegatedKey, Delegations};
use crate::keys::life::{Refusal, Ring, Rings, SigningKey, UnixMillis};
use crate::keys::{IssuerIndex, KilledKeys};
use crate::store::KilledKey;
use crate::token::Profile;

/// How long a command waits for the one before: making a key in a token may take ten seconds.
const TURN_TIMEOUT: Duration = Duration::from_secs(12);

/// This node's keys, shared by the handlers and the keeper.
pub(in crate::control) struct Keys {
    held: Mutex<Held>,
    /// Set under the lock; read by whoever signs.
    active: ArcSwapOption<Signers>,
    /// Held through a command, from the look at the rules to the record of what came of it. Nobody who kills waits for it.
    turn: tokio::sync::Mutex<()>,
    /// Something changed: what is due next may be due sooner.
    pub(super) changed: Notify,
    pub(super) own: Option<Own>,
    pub(super) own_issuers: Vec<usize>,
    pub(super) holders: Holders,
    pub(super) jwks: Arc<dyn Fn() -> String + Send + Sync>,
    pub(super) now: fn() -> UnixMillis,
    publish: Publish,
    // Tenant and `iss` of each configured issuer.
    issuers: Vec<(String, String)>,
}

/// What does not change of this node's own keys.
pub(super) struct Own {
    pub(super) tenant: String,
    pub(super) places: KeyPlaces,
}

/// What changes.
struct Held {
    // `None` on a node that only verifies.
    rings: Option<Rings>,
    delegations: Delegations,
    // What signs, of the delegated keys whose private halves are here.
    delegates: HashMap<String, Arc<Signers>>,
    killed: KilledKids,
    // Keys whose row could not be written when they changed: written with the next that is.
    unsaved: HashSet<String>,
}

/// Of each `iss` the names of the keys that were killed.
type KilledKids = HashMap<String, HashSet<String>>;

/// Why a change did not come about.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChangeError {
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The shards' policy cannot be built.
    #[error("{0}")]
    Unpublished(String),
}

impl Keys {
    pub(in crate::control) fn new(given: SigningKeys, issuers: &[Profile]) -> Self {
        let SigningKeys { own, own_issuers, killed, publish, holders, jwks, now } = given;
        let mut kids = KilledKids::new();
        for one in killed {
            kids.entry(one.issuer).or_default().insert(one.kid);
        }
        let (rings, signers, delegations, own) = match own {
            Some(OwnKeys { tenant, rings, signers, delegations, places }) => {
                (Some(rings), signers, delegations, Some(Own { tenant, places }))
            }
            None => (None, Vec::new(), Delegations::new(Vec::new(), None, 0), None),
        };
        let active = signers.into_iter().map(|(kid, signer)| Arc::new(ActiveKey::own(kid, signer)));
        let active = Signers::of(active.collect()).map(Arc::new);
        Self {
            held: Mutex::new(Held {
                rings,
                delegations,
                delegates: HashMap::new(),
                killed: kids,
                unsaved: HashSet::new(),
            }),
            active: ArcSwapOption::new(active),
            turn: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
            own,
            own_issuers,
            holders,
            jwks,
            now,
            publish,
            issuers: issuers.iter().map(|one| (one.tenant.clone(), one.issuer.clone())).collect(),
        }
    }

    /// What signs now: one value, so that whoever signs names, records and uses the same keys.
    pub(in crate::control) fn active(&self) -> Option<Arc<Signers>> {
        self.active.load_full()
    }

    /// What signs a token that is valid until `expires_at`: a delegated key, or the Active ones themselves.
    pub(in crate::control) fn signing(&self, expires_at: UnixSeconds) -> Option<Arc<Signers>> {
        let active = self.active()?;
        let held = self.lock();
        let chosen = held.delegations.signing(&active.kids(), expires_at, (self.now)());
        let delegate = chosen.and_then(|key| held.delegates.get(&key.kid));
        Some(delegate.map_or(active, Arc::clone))
    }

    /// Looks at the delegated keys.
    pub(in crate::control) fn delegations<T>(&self, look: impl FnOnce(&Delegations) -> T) -> T {
        look(&self.lock().delegations)
    }

    /// Publishes a delegated key, which signs in its time.
    pub(super) fn delegate(&self, key: DelegatedKey, signer: ActiveKey) -> Result<(), ChangeError> {
        let mut held = self.lock();
        let Held { rings, delegations, delegates, killed, .. } = &mut *held;
        let mut active = rings.iter().flat_map(Rings::active);
        let is_active = active.any(|active| active.kid == key.certified_by);
        if !is_active {
            return Err(no_longer_active(&key.certified_by));
        }
        let mut next = delegations.clone();
        // Since when it is served is what counts, and that is not before now.
        next.push(DelegatedKey { published: (self.now)(), ..key });
        drop(active);
        self.publish(rings.as_ref(), &next, killed)?;
        *delegations = next;
        delegates.insert(signer.kid.clone(), Arc::new(Signers::one(signer)));
        drop(held);
        self.changed.notify_one();
        Ok(())
    }

    /// Takes the delegated keys out of the JWKS whose delegations are over.
    pub(super) fn forget_ended_delegations(&self) -> Result<(), ChangeError> {
        let mut held = self.lock();
        let Held { rings, delegations, delegates, killed, .. } = &mut *held;
        let mut next = delegations.clone();
        if next.forget_ended((self.now)()) {
            self.publish(rings.as_ref(), &next, killed)?;
            *delegations = next;
            delegates.retain(|kid, _| delegations.key(kid).is_some());
        }
        Ok(())
    }

    /// Whether this is a key of this node, delegated ones included.
    pub(super) fn is_own(&self, kid: &str) -> bool {
        let held = self.lock();
        held.rings.as_ref().is_some_and(|rings| rings.key(kid).is_ok()) || held.delegations.key(kid).is_some()
    }

    /// Whether what this key signed is still accepted.
    pub(in crate::control) fn verifies(&self, kid: &str) -> bool {
        self.look(|rings| rings.key(kid).is_ok_and(|key| key.state.verifies())).unwrap_or(false)
    }

    /// Looks at this node's own keys, if it has any.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Rings) -> T) -> Option<T> {
        self.lock().rings.as_ref().map(look)
    }

    /// As [`Keys::look`], for a command.
    pub(super) fn own_rings<T>(&self, look: impl FnOnce(&Rings) -> T) -> Result<T, ApiError> {
        self.look(look).ok_or_else(only_verifies)
    }

    /// The ring that has this key, for a command.
    pub(super) fn own_ring<T>(&self, kid: &str, look: impl FnOnce(&Ring) -> T) -> Result<T, ApiError> {
        Ok(self.own_rings(|rings| Ok::<_, Refusal>(look(rings.at(rings.of(kid)?))))??)
    }

    /// One of this node's own keys, as it stands now.
    pub(super) fn key(&self, kid: &str) -> Result<SigningKey, ApiError> {
        Ok(self.own_rings(|rings| rings.key(kid).cloned())??)
    }

    /// What does not change of this node's own keys.
    pub(super) fn own(&self) -> Result<&Own, ApiError> {
        self.own.as_ref().ok_or_else(only_verifies)
    }

    /// Keeps other commands out. At most for a while: the client would not wait any longer either.
    pub(super) async fn turn(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, ApiError> {
        tokio::time::timeout(TURN_TIMEOUT, self.turn.lock()).await.map_err(|_| {
            let description =
                "another change of the signing keys is under way; nothing was changed, try again later";
            ApiError::new(ErrorKind::Overloaded, description)
        })
    }

    /// Changes a ring, and with it what shards verify by and who signs: all of it, before anybody else looks. `signer` is the key
    /// that signs from now on, if the change makes one Active.
    pub(super) fn change<T>(
        &self,
        of: Which<'_>,
        signer: Option<Signer<TokenSigning>>,
        change: impl FnOnce(&mut Ring, UnixMillis) -> Result<T, Refusal>,
    ) -> Result<T, ChangeError> {
        let mut held = self.lock();
        let Held { rings: Some(rings), delegations, delegates, killed, .. } = &mut *held else {
            unreachable!("a command looks first whether there are rings");
        };
        let place = of.place(rings)?;
        let mut next = rings.clone();
        let done = change(next.at_mut(place), (self.now)())?;
        if !rings.verifying().map(|key| &key.kid).eq(next.verifying().map(|key| &key.kid)) {
            self.publish(Some(&next), delegations, killed)?;
        }
        *rings = next;
        let signer = rings.at(place).active().map(|key| key.kid.clone()).zip(signer);
        self.settle(rings, signer);
        let_go(rings, delegations, delegates);
        drop(held);
        self.changed.notify_one();
        Ok(done)
    }

    /// What this key signed is refused from now on, by this node's shards from their next turn on; this node's own key as it was before
    /// and as it is now, if it is one.
    pub(super) fn kill(&self, dead: &[KilledKey]) -> Result<Option<(SigningKey, SigningKey)>, ChangeError> {
        let mut held = self.lock();
        let Held { rings, delegations, delegates, killed, .. } = &mut *held;
        let mut news = false;
        for one in dead {
            news |= killed.entry(one.issuer.clone()).or_default().insert(one.kid.clone());
        }
        let published =
            dead.iter().any(|one| (self.holders)(&one.kid).into_iter().any(|index| self.is_of(index, one)));
        let ours = dead.iter().find(|one| self.own_issuers.iter().any(|own| self.is_of(*own, one)));
        let mut changed = None;
        if let (Some(rings), Some(one)) = (rings.as_mut(), ours) {
            if let Ok(place) = rings.of(&one.kid) {
                let before = rings.key(&one.kid)?.clone();
                rings.at_mut(place).kill(&one.kid, one.killed_at);
                changed = Some((before, rings.key(&one.kid)?.clone()));
                self.settle(rings, None);
            }
            // With a key go those that it delegated to.
            delegations.kill(&one.kid);
            let_go(rings, delegations, delegates);
        }
        // News even where no set has it: it may be a key that tokens bring a delegation of.
        if news || published || changed.is_some() {
            self.publish(rings.as_ref(), delegations, killed)?;
        }
        drop(held);
        self.changed.notify_one();
        Ok(changed)
    }

    /// The configured issuers whose key of this name was killed.
    pub(super) fn killed(&self, kid: &str) -> Vec<usize> {
        let held = self.lock();
        let all = self.issuers.iter().enumerate();
        all.filter(|(_, (_, issuer))| is_killed(&held.killed, issuer, kid)).map(|(index, _)| index).collect()
    }

    /// The records of a killed key, one for each of these issuers.
    pub(super) fn dead(&self, issuers: &[usize], like: &KilledKey) -> Vec<KilledKey> {
        let of = |index: &usize| self.issuers.get(*index);
        let dead = issuers.iter().filter_map(of).map(|(tenant, issuer)| KilledKey {
            tenant: tenant.clone(),
            issuer: issuer.clone(),
            ..like.clone()
        });
        dead.collect()
    }

    fn publish(
        &self,
        rings: Option<&Rings>,
        delegations: &Delegations,
        killed: &KilledKids,
    ) -> Result<(), ChangeError> {
        let ours: Vec<&SigningKey> = rings.iter().flat_map(|rings| rings.verifying()).collect();
        let issuers = (0..).map(IssuerIndex).zip(&self.issuers);
        let dead: KilledKeys = issuers
            .filter_map(|(index, (_, issuer))| Some((index, killed.get(issuer)?)))
            .flat_map(|(index, kids)| kids.iter().map(move |kid| (index, kid.clone())))
            .collect();
        (self.publish)(&ours, delegations.keys(), dead).map_err(ChangeError::Unpublished)
    }

    /// Lets the rings' Active keys sign, and no others. `signer` is one that did not sign before.
    fn settle(&self, rings: &Rings, signer: Option<(String, Signer<TokenSigning>)>) {
        let before = self.active.load();
        let known = |kid: &str| before.as_ref().and_then(|signers| signers.key(kid)).cloned();
        let fresh = signer.map(|(kid, signer)| Arc::new(ActiveKey::own(kid, signer)));
        let active = rings.active().filter_map(|key| match &fresh {
            Some(fresh) if fresh.kid == key.kid => Some(Arc::clone(fresh)),
            _ => known(&key.kid),
        });
        let active: Vec<Arc<ActiveKey>> = active.collect();
        let same = before.as_ref().is_some_and(|signers| signers.are(&active));
        if !same {
            self.active.store(Signers::of(active).map(Arc::new));
        }
    }

    fn is_of(&self, index: usize, key: &KilledKey) -> bool {
        self.issuers.get(index).is_some_and(|(_, issuer)| *issuer == key.issuer)
    }

    /// How these keys stand, and those whose rows could not be written before; none of them is owed then.
    pub(super) fn owed(&self, kids: &[String]) -> Vec<SigningKey> {
        let mut held = self.lock();
        let Held { rings, unsaved, .. } = &mut *held;
        unsaved.extend(kids.iter().cloned());
        let owed = std::mem::take(unsaved);
        let named = rings.iter().flat_map(Rings::keys).filter(|key| owed.contains(&key.kid));
        named.cloned().collect()
    }

    /// The rows of these keys could not be written.
    pub(super) fn owe(&self, rows: &[SigningKey]) {
        self.lock().unsaved.extend(rows.iter().map(|row| row.kid.clone()));
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // Nothing is left half-changed under this lock, whatever a panicking thread did.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets go of the delegated keys that sign no more: of other keys than the Active ones, or not there any more.
fn let_go(rings: &Rings, delegations: &mut Delegations, delegates: &mut HashMap<String, Arc<Signers>>) {
    let active: Vec<&str> = rings.active().map(|key| key.kid.as_str()).collect();
    delegations.let_go(&active);
    delegates.retain(|kid, _| delegations.key(kid).is_some_and(|key| key.held));
}

/// Which ring is meant.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which<'a> {
    /// The one that has this key.
    Of(&'a str),
    /// The one in this place of the configuration.
    At(usize),
}

impl Which<'_> {
    pub(super) fn place(self, rings: &Rings) -> Result<usize, Refusal> {
        match self {
            Self::Of(kid) => rings.of(kid),
            Self::At(place) => Ok(place),
        }
    }
}

fn is_killed(killed: &KilledKids, issuer: &str, kid: &str) -> bool {
    killed.get(issuer).is_some_and(|kids| kids.contains(kid))
}

fn only_verifies() -> ApiError {
    let description = "this node only verifies: it has no [signing] table, so it has no signing keys";
    ApiError::new(ErrorKind::NotFound, description)
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Refused(refusal) => refusal.into(),
            ChangeError::Unpublished(problem) => {
                tracing::error!(problem, "cannot build a policy with other signing keys");
                Self::new(ErrorKind::Conflict, format!("the keys do not go together: {problem}"))
            }
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::Unknown { .. } => ErrorKind::NotFound,
            Refusal::BackUpFirst { .. }
            | Refusal::Full { .. }
            | Refusal::LastActive { .. }
            | Refusal::NotPropagated { .. }
            | Refusal::Outstanding { .. }
            | Refusal::WrongState { .. } => ErrorKind::Conflict,
        };
        Self::new(kind, refusal.to_string())
    }
}
