//! Several tokens behind one signer.
//!
//! Each member is a session pool of its own, with its own PIN, its own health and its own way back. There are two kinds of
//! key. One that is *replicated* is in every member, and its [`Signer`] is like any other. With a *key per member* no key is
//! ever copied: any of them signs, the signature says which, and verifiers know all of them
//! ([`AnySigner`](crate::AnySigner)).
//!
//! Either way a member signs only when its key is the one pinned for it, shown by the token where it shows it and proven by
//! a verified signature in any case. A member that is away at the start, or goes away, joins again by itself when its
//! keeper has seen both.
//!
//! Members may be tokens of one module. They share its initialisation then: see [`Pool`] and `pkcs11/tenant.rs`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::pool::{PinnedKey, typed};
use crate::route::{Route, Seat, Share};
use crate::{
    HsmError, KeyName, KeyPurpose, Pkcs11Uri, Pool, PoolMetrics, PoolSettings, PublicKey, Signer,
    TokenStanding, WrappingKey,
};

/// Members of a group. More copies of a key than this are a risk, not a reserve.
pub const MEMBERS_MAX: usize = 8;

/// The largest weight.
pub const WEIGHT_MAX: u32 = 100;

/// One member, as it is configured.
#[derive(Debug, Clone)]
pub struct MemberSettings {
    /// Its token, and how it is used.
    pub pool: PoolSettings,
    /// Its share of the work, in proportion to the other members' weights: 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// It stays logged in and tested, and signs nothing for anybody.
    pub draining: bool,
}

/// Tokens that sign for one another.
pub struct Group {
    members: Vec<Member>,
    patience: Duration,
}

struct Member {
    pool: Pool,
    share: Arc<Share>,
    weight: u32,
    draining: bool,
}

/// How a member stands.
#[derive(Debug, Clone)]
pub struct MemberStanding {
    /// Its token.
    pub token: Pkcs11Uri,
    /// Whether it can be used; [`HsmError::MemberRefused`] where it came back with another key.
    pub standing: TokenStanding,
    /// Whether it is kept from signing.
    pub draining: bool,
    /// Its share of the work.
    pub weight: u32,
    /// Times another member was asked, since this one failed or took too long.
    pub failed_over: u64,
    /// What its pool has done so far.
    pub metrics: PoolMetrics,
}

impl MemberStanding {
    /// Whether it waits for an operator.
    #[must_use]
    pub fn needs_operator(&self) -> bool {
        matches!(&self.standing, TokenStanding::Unavailable(cause) if cause.needs_operator())
    }
}

impl Group {
    /// Starts every member's pool at the same time. Blocks until each first login ends, one way or the other.
    ///
    /// `patience` is how long a member may take for one signature, beyond what waits before it, until another is asked.
    ///
    /// A token that is away is no error ([`Pool::start`]), nor is a PIN that one of several tokens refuses.
    ///
    /// # Errors
    /// What configuration or an operator must change, by member.
    pub fn start(members: Vec<MemberSettings>, patience: Duration) -> Result<Self, HsmError> {
        Self::check_rules(&members)?;
        let pools = at_once(&members, |member| Pool::open(member.pool.clone()))?;
        let mut started = Vec::with_capacity(members.len());
        for (member, pool) in members.into_iter().zip(pools) {
            let MemberSettings { weight, draining, .. } = member;
            started.push(Member { pool: pool?, share: Arc::new(Share::new(weight)), weight, draining });
        }
        let fatal: Vec<HsmError> = started.iter().filter_map(|member| member.pool.fatal()).collect();
        let all = fatal.len() == started.len();
        // One PIN refused is one token out of service, to be put right while the others sign.
        match fatal.into_iter().find(|error| all || !error.needs_operator()) {
            Some(error) => Err(error),
            None => Ok(Self { members: started, patience }),
        }
    }

    /// What can be said of the members without calling them.
    ///
    /// # Errors
    /// [`HsmError::MemberRefused`] for the first that breaks a rule.
    pub fn check_rules(members: &[MemberSettings]) -> Result<(), HsmError> {
        let refuse = |member: &MemberSettings, rule| {
            Err(HsmError::MemberRefused { member: Box::new(member.pool.token.token_only()), rule })
        };
        let name =
            |member: &MemberSettings| (member.pool.token.token.clone(), member.pool.token.serial.clone());
        for (index, member) in members.iter().enumerate() {
            if index >= MEMBERS_MAX {
                return refuse(member, "a group has at most 8 members");
            }
            if !(1..=WEIGHT_MAX).contains(&member.weight) {
                return refuse(member, "a weight is a number from 1 to 100");
            }
            if members[..index].iter().any(|other| name(other) == name(member)) {
                return refuse(member, "a token is a member once, and this one is named twice");
            }
        }
        match members {
            [first, ..] if members.iter().all(|member| member.draining) => {
                refuse(first, "somebody must sign, and every member is draining")
            }
            _ => Ok(()),
        }
    }

    /// Opens the signing key that `uri` names, for the purpose `P`. Blocks until `deadline`. A name without a token is that of a key which
    /// is the same in every member; one with a token is a key of that member alone.
    ///
    /// A member that is away is taken in unseen if the key is `pinned`, and shows its key before it signs.
    ///
    /// # Errors
    /// What is wrong with the key in one of the members; [`HsmError::MemberRefused`] for one with another key;
    /// [`HsmError::Token`] for a token that is no member's.
    pub fn signing_key<P: KeyPurpose>(
        &self,
        uri: &Pkcs11Uri,
        pinned: Option<P::PublicKey>,
        deadline: Instant,
    ) -> Result<Signer<P>, HsmError> {
        let members = self.members_of(uri)?;
        let pinned = pinned.map(Into::into);
        if pinned.is_none() && members.len() > 1 {
            return Err(HsmError::Unpinned { key: Box::new(uri.clone()) });
        }
        let keys = at_once(&members, |member| member.open_key::<P>(uri, pinned, deadline))?;
        let (seats, halves) = self.seats(&members, keys)?;
        let public_key = *halves.first().ok_or(HsmError::Stopped)?;
        Ok(Signer::routed(Route::new(seats, self.patience), typed::<P>(public_key, uri)?))
    }

    /// As [`Pool::make_signing_key`], in the token that `home` names; where the group is one token it need name none.
    ///
    /// # Errors
    /// As there; [`HsmError::MemberRefused`] where several would have to: what one makes the others do not have.
    pub fn make_signing_key(
        &self,
        home: &Pkcs11Uri,
        name: KeyName,
        deadline: Instant,
    ) -> Result<Pkcs11Uri, HsmError> {
        let rule = "a key that one member makes is in no other: make it elsewhere and put it into each, or give each member \
                    a key of its own (signing.keys)";
        self.only(home, rule)?.make_signing_key(name, deadline)
    }

    /// As [`Pool::destroy_signing_key`], of a key that is in one member.
    ///
    /// # Errors
    /// As there; [`HsmError::MemberRefused`] where it is in several.
    pub fn destroy_signing_key(
        &self,
        uri: &Pkcs11Uri,
        public_key: [u8; 32],
        deadline: Instant,
    ) -> Result<(), HsmError> {
        self.only(uri, "a key of several members is destroyed in each of them, by whoever put it there")?
            .destroy_signing_key(uri, public_key, deadline)
    }

    /// As [`Pool::wrapping_key`], where the group is one token.
    ///
    /// # Errors
    /// As there; [`HsmError::MemberRefused`] where there are several.
    pub fn wrapping_key(&self, uri: &Pkcs11Uri, deadline: Instant) -> Result<WrappingKey, HsmError> {
        let pool = self.only(
            uri,
            "what one member wrapped no other can open, unless it holds the same key by the same id",
        )?;
        let token = pool.token();
        let here = Pkcs11Uri { token: token.token, serial: token.serial, ..uri.object_only() };
        pool.wrapping_key(&here, deadline)
    }

    /// The members that have the key of this name: the one whose token it names, or all.
    fn members_of(&self, uri: &Pkcs11Uri) -> Result<Vec<&Member>, HsmError> {
        if self.members.len() == 1 || uri.token.is_none() {
            return Ok(self.members.iter().collect());
        }
        let has = |member: &&Member| {
            let token = member.pool.token();
            (&token.token, &token.serial) == (&uri.token, &uri.serial)
        };
        let found: Vec<&Member> = self.members.iter().filter(has).collect();
        if found.is_empty() {
            let present = self.members.iter().map(|member| member.pool.token()).collect();
            return Err(HsmError::Token { wanted: Box::new(uri.token_only()), matches: 0, present });
        }
        Ok(found)
    }

    fn only(&self, uri: &Pkcs11Uri, rule: &'static str) -> Result<&Pool, HsmError> {
        match &self.members_of(uri)?[..] {
            [member] => Ok(&member.pool),
            [member, ..] => Err(HsmError::MemberRefused { member: Box::new(member.pool.token()), rule }),
            [] => Err(HsmError::Stopped),
        }
    }

    /// The seats of those that sign, and the public keys of all of them.
    fn seats(&self, members: &[&Member], keys: Vec<Opened>) -> Result<(Vec<Seat>, Vec<PublicKey>), HsmError> {
        let (mut seats, mut halves) = (Vec::new(), Vec::new());
        for (member, key) in members.iter().zip(keys) {
            let (key, public_half) = key.map_err(|error| self.refused(member, error))?;
            halves.push(public_half);
            if !member.draining {
                let share = Arc::clone(&member.share);
                seats.push(Seat::new(member.pool.link(), key, public_half, share));
            }
        }
        Ok((seats, halves))
    }

    /// Supplies the PIN for one login of the one member that waits for it. Blocks until it is made.
    ///
    /// # Errors
    /// Why the token still cannot be used; [`HsmError::UnlockUnclear`] if the PIN could be several members'.
    pub fn unlock(&self, pin: Zeroizing<String>) -> Result<(), HsmError> {
        let waits = |member: &Member| matches!(member.pool.standing(), TokenStanding::Unavailable(cause) if cause.needs_operator());
        let mut waiting: Vec<&Member> = self.members.iter().filter(|member| waits(member)).collect();
        if self.members.len() == 1 {
            waiting = self.members.iter().collect();
        }
        // Agents are handed their PINs by an operator, and not through here.
        if waiting.iter().any(|member| !member.pool.is_at_agent()) {
            waiting.retain(|member| !member.pool.is_at_agent());
        }
        match waiting[..] {
            [member] => member.pool.unlock(pin),
            [member, ..] if member.pool.is_at_agent() => member.pool.unlock(pin),
            // A PIN is never tried on a token that it may not belong to.
            _ => Err(HsmError::UnlockUnclear { waiting: waiting.len() }),
        }
    }

    /// How the group stands: as the best of the members that may sign. Calls no token.
    #[must_use]
    pub fn standing(&self) -> TokenStanding {
        let signing = self.members.iter().filter(|member| !member.draining);
        let rank = |standing: &TokenStanding| match standing {
            TokenStanding::Ready => 0,
            TokenStanding::Healing => 1,
            TokenStanding::Unavailable(_) => 2,
            TokenStanding::Stuck => 3,
            TokenStanding::Stopped => 4,
        };
        signing.map(|member| self.standing_of(member)).min_by_key(rank).unwrap_or(TokenStanding::Stopped)
    }

    /// How each member stands, in the order of the settings. Calls no token.
    #[must_use]
    pub fn members(&self) -> Vec<MemberStanding> {
        let standing = |member: &Member| MemberStanding {
            token: member.pool.token(),
            standing: self.standing_of(member),
            draining: member.draining,
            weight: member.weight,
            failed_over: member.share.failed_over(),
            metrics: member.pool.metrics(),
        };
        self.members.iter().map(standing).collect()
    }

    /// What all pools together have done so far. Calls no token.
    #[must_use]
    pub fn metrics(&self) -> PoolMetrics {
        let mut sum = PoolMetrics::default();
        self.members.iter().for_each(|member| sum.add(&member.pool.metrics()));
        sum
    }

    /// A member that came back with another key is not back.
    fn standing_of(&self, member: &Member) -> TokenStanding {
        let fault = match member.pool.standing() {
            // One of its keys is not right, which the pool does not hold against the others.
            TokenStanding::Ready => member.pool.key_fault(),
            TokenStanding::Unavailable(cause) => Some(cause),
            other => return other,
        };
        let Some(cause) = fault else { return TokenStanding::Ready };
        TokenStanding::Unavailable(match self.rule_broken(&cause) {
            Some(rule) => Arc::new(HsmError::MemberRefused { member: Box::new(member.pool.token()), rule }),
            None => cause,
        })
    }

    fn refused(&self, member: &Member, error: HsmError) -> HsmError {
        match self.rule_broken(&error) {
            Some(rule) => HsmError::MemberRefused { member: Box::new(member.pool.token()), rule },
            None => error,
        }
    }

    /// A member that is the only one is refused for what it is; in a group the rule is named.
    fn rule_broken(&self, error: &HsmError) -> Option<&'static str> {
        match error.cause() {
            HsmError::KeyMismatch { .. } | HsmError::SignatureFault { .. } if self.members.len() > 1 => {
                Some(KEY_RULE)
            }
            _ => None,
        }
    }
}

/// The rule about keys.
const KEY_RULE: &str = "a member's key must be the one pinned for it, and what it signs must verify under it; its key \
                        is another. Put the pinned key into it, pin the one it has, or take it out of the group";

type Opened = Result<(Arc<PinnedKey>, PublicKey), HsmError>;

impl Member {
    /// The key in this member's token, whichever token `uri` names.
    fn open_key<P: KeyPurpose>(
        &self,
        uri: &Pkcs11Uri,
        pinned: Option<PublicKey>,
        deadline: Instant,
    ) -> Opened {
        let token = self.pool.token();
        let here = Pkcs11Uri { token: token.token, serial: token.serial, ..uri.object_only() };
        self.pool.open_key(&here, P::PURPOSE, pinned, deadline)
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.members.iter().map(|member| &member.pool)).finish()
    }
}

/// Does `work` for each of `items` on a thread of its own: one that hangs keeps no other waiting.
fn at_once<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Result<Vec<R>, HsmError> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = items
            .iter()
            .map(|item| {
                let builder = std::thread::Builder::new().name("hsm-member".to_owned());
                builder.spawn_scoped(scope, move || work(item)).map_err(|source| HsmError::Thread { source })
            })
            .collect();
        threads.into_iter().map(|thread| thread.map(joined)).collect()
    })
}

fn joined<R>(thread: std::thread::ScopedJoinHandle<'_, R>) -> R {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
