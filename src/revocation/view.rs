//! The local view: what is revoked, readable from every shard.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use crossbeam::queue::ArrayQueue;

use super::PURGE_DELAY_S;
use super::change::{Change, Effect, Switch};
use super::fingerprint::{Fingerprint, Fingerprinter, Realms};
use super::freshness::{AsOf, Freshness};
use super::ledger::{Ledger, LedgerLook};
use super::switches::Switches;
use super::table::{BATCH_LEN, Batch};
use crate::decision::UnixSeconds;

/// What a verified token says about itself, as far as revoking goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity<'a> {
    /// Tenant the issuer belongs to.
    pub tenant: &'a str,
    /// The token's `iss`.
    pub issuer: &'a str,
    /// Name of the key that signed it.
    pub kid: &'a str,
    /// Name of the issuer's key that says that this one signs, where it is a delegated one: both can be revoked.
    pub certified_by: Option<&'a str>,
    /// The token's `jti`. Without one it cannot be revoked by itself.
    pub jti: Option<&'a str>,
    /// The token's `sub`.
    pub subject: Option<&'a str>,
    /// The token's `sid`.
    pub session: Option<&'a str>,
    /// The token's `iat`. Without one it counts as issued before everything.
    pub issued_at: Option<UnixSeconds>,
}

/// What the view says about a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Neither revoked nor disabled.
    Clear,
    /// Its tenant, issuer, key or subject is disabled for the time being; refuse it.
    Disabled,
    /// Revoked; refuse it.
    Revoked,
}

/// Every revocation in force on this node. Shared by `Arc`; see the room's page for its promise.
pub struct View {
    fingerprinter: Fingerprinter,
    // Seconds: until when a token is refused.
    tokens: Ledger,
    // Seconds: until when a subject's or session's tokens were issued that are refused.
    marks: Ledger,
    // Whether there ever was a watermark, so that a check without any costs no fingerprint. Set after it is visible.
    marked: AtomicBool,
    switches: ArcSwap<Switches>,
    // Taken by whoever changes `switches`.
    switching: Mutex<()>,
    // How long the youngest token that a mark refuses can still be valid.
    mark_life_s: u64,
    freshness: Freshness,
    // The highest revocation epoch applied. Written after what it stands for is visible.
    epoch: AtomicU64,
    // Who waits for a higher epoch; emptied by whoever applies one.
    waiting: ArrayQueue<Waker>,
}

/// What is revoked, for a batch of checks: everything applied before the look was taken, and of what is applied later
/// perhaps some. Keep it for a turn of the event loop, not longer: tables that were replaced stay in memory meanwhile.
pub struct Look<'v> {
    fingerprinter: &'v Fingerprinter,
    // None where nothing is switched off, and where there never was a watermark: the usual case costs no fingerprint.
    switches: Option<Guard<Arc<Switches>>>,
    tokens: LedgerLook,
    marks: Option<LedgerLook>,
    epoch: u64,
    as_of: AsOf,
}

impl Look<'_> {
    /// Up to which revocation epoch it sees everything.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How far behind what has been revoked it may be: time since the view was known to hold everything.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        self.as_of.age(now)
    }

    /// Whether these tokens may pass at `now`, as far as this node knows: the statuses of those that are asked about, in
    /// their places. Never waits for anybody, never allocates.
    ///
    /// Each comes with its issuer's realms, from [`View::realms`] of the view looked at. Together they cost a fraction of
    /// what they cost one by one, since their searches wait for memory together.
    #[must_use]
    pub fn check(&self, tokens: &Batch<(&Realms, Identity<'_>)>, now: UnixSeconds) -> Batch<Status> {
        let in_ledger = |ledger: &LedgerLook, of: &dyn Fn(&Realms, &Identity<'_>) -> Option<Fingerprint>| {
            let mut fingerprints = [None; BATCH_LEN];
            for (fingerprint, token) in fingerprints.iter_mut().zip(tokens) {
                *fingerprint = token.as_ref().and_then(|(realms, identity)| of(realms, identity));
            }
            ledger.lookup(&fingerprints)
        };
        let named = |realm, name: Option<&str>| Some(self.fingerprinter.fingerprint(realm, name?));
        let refused = in_ledger(&self.tokens, &|realms, identity| named(realms.token, identity.jti));
        let marked = |of: &dyn Fn(&Realms, &Identity<'_>) -> Option<Fingerprint>| {
            self.marks.as_ref().map_or([None; BATCH_LEN], |marks| in_ledger(marks, of))
        };
        let by_subject = marked(&|realms, identity| named(realms.subject, identity.subject));
        let by_session = marked(&|realms, identity| named(realms.session, identity.session));

        let mut statuses = [None; BATCH_LEN];
        for (place, token) in tokens.iter().enumerate() {
            let Some((realms, identity)) = token else { continue };
            let issued_at = identity.issued_at.unwrap_or(UnixSeconds(0));
            let issued_before = |mark: Option<u32>| mark.is_some_and(|mark| issued_at <= time_of(mark));
            let revoked = refused[place].is_some_and(|second| now < time_of(second))
                || issued_before(by_subject[place])
                || issued_before(by_session[place]);
            statuses[place] = Some(match self.check_switches(realms, identity) {
                Switch::Revoked => Status::Revoked,
                _ if revoked => Status::Revoked,
                Switch::Disabled => Status::Disabled,
                Switch::Enabled => Status::Clear,
            });
        }
        statuses
    }

    /// Whether this one token may pass.
    #[must_use]
    pub fn check_one(&self, realms: &Realms, identity: &Identity<'_>, now: UnixSeconds) -> Status {
        let mut tokens = [None; BATCH_LEN];
        tokens[0] = Some((realms, *identity));
        self.check(&tokens, now)[0].expect("a token that is asked about has a status")
    }

    /// The strictest state of what the token depends on.
    fn check_switches(&self, realms: &Realms, identity: &Identity<'_>) -> Switch {
        let Some(switches) = &self.switches else { return Switch::Enabled };
        let named = |realm, name| self.fingerprinter.fingerprint(realm, name);
        let parts = [
            Some(realms.tenant),
            Some(realms.issuer),
            Some(named(realms.kid, identity.kid)),
            identity.certified_by.map(|kid| named(realms.kid, kid)),
            identity.subject.map(|subject| named(realms.subject, subject)),
        ];
        let mut strictest = Switch::Enabled;
        for fingerprint in parts.into_iter().flatten() {
            match switches.lookup(fingerprint) {
                Switch::Enabled => {}
                Switch::Disabled => strictest = Switch::Disabled,
                Switch::Revoked => return Switch::Revoked,
            }
        }
        strictest
    }
}

impl View {
    /// An empty view.
    ///
    /// Fingerprints are keyed with `seed`: 16 secret random bytes, fresh for each process. `mark_life_s` is how long
    /// after its `iat` any issuer's token may be accepted at most, leeways included: a watermark older than that
    /// refuses nothing that is not refused as expired, and leaves.
    #[must_use]
    pub fn new(seed: &[u8; 16], mark_life_s: u64, freshness: Freshness) -> Self {
        Self {
            fingerprinter: Fingerprinter::new(seed),
            tokens: Ledger::with_capacity(0),
            marks: Ledger::with_capacity(0),
            marked: AtomicBool::new(false),
            switches: ArcSwap::default(),
            switching: Mutex::new(()),
            mark_life_s,
            freshness,
            epoch: AtomicU64::new(0),
            waiting: ArrayQueue::new(WAITING_MAX),
        }
    }

    /// The realms of an issuer's tokens in this view, and in no other.
    #[must_use]
    pub fn realms(&self, tenant: &str, issuer: &str) -> Realms {
        self.fingerprinter.realms(tenant, issuer)
    }

    /// Looks at the view for a batch of checks. Never waits, never allocates.
    #[must_use]
    pub fn look(&self) -> Look<'_> {
        // These two first: what the look tells is not more than what it sees.
        let (epoch, as_of) = (self.epoch(), self.freshness.as_of());
        let switches = self.switches.load();
        Look {
            fingerprinter: &self.fingerprinter,
            switches: (!switches.is_quiet()).then_some(switches),
            tokens: self.tokens.look(),
            marks: self.marked.load(Ordering::Acquire).then(|| self.marks.look()),
            epoch,
            as_of,
        }
    }

    /// Whether this one token may pass at `now`: for whoever has no batch.
    #[must_use]
    pub fn check(&self, identity: &Identity<'_>, now: UnixSeconds) -> Status {
        self.look().check_one(&self.realms(identity.tenant, identity.issuer), identity, now)
    }

    /// The statuses of these tokens, in their order: for whoever asks about many, of any issuers.
    #[must_use]
    pub fn check_all(&self, identities: &[Identity<'_>], now: UnixSeconds) -> Vec<Status> {
        let look = self.look();
        let mut realms = HashMap::new();
        for Identity { tenant, issuer, .. } in identities {
            realms.entry((*tenant, *issuer)).or_insert_with(|| self.realms(tenant, issuer));
        }
        let mut statuses = Vec::with_capacity(identities.len());
        for some in identities.chunks(BATCH_LEN) {
            let mut tokens = [None; BATCH_LEN];
            for (token, identity) in tokens.iter_mut().zip(some) {
                *token = Some((&realms[&(identity.tenant, identity.issuer)], *identity));
            }
            statuses.extend(look.check(&tokens, now).into_iter().flatten());
        }
        statuses
    }

    /// The highest revocation epoch applied. A look taken after it was read sees everything up to it.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Has `waker` woken once, after the next batch that is applied. Register first, then look at [`View::epoch`]. Where
    /// too many wait already nothing happens: who waits must also look now and then.
    pub fn wake_after_next(&self, waker: &Waker) {
        let _ = self.waiting.push(waker.clone());
    }

    /// How far this node may lag behind what has been revoked.
    #[must_use]
    pub fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    /// Tokens and watermarks held, expired ones not yet swept included; and switches.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len() + self.marks.len() + self.switches_len()
    }

    /// Whether the view holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Things that were ever disabled or revoked as a whole.
    #[must_use]
    pub fn switches_len(&self) -> usize {
        self.switches.load().len()
    }

    /// Bytes of memory the tokens and watermarks take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.tokens.bytes() + self.marks.bytes()
    }

    /// Whether entries are on their way from one table to the next, so that both take memory.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.tokens.is_moving() || self.marks.is_moving()
    }

    /// Applies a batch. When it returns, every later look on any thread sees the batch, and the epoch is at least
    /// `epoch`, which is raised last.
    ///
    /// Applying a change again, or changes in another order, is harmless: the later second counts, and of a switch the
    /// higher epoch. `now` only decides which old entries may leave, in small steps: each entry added pays for the sweep,
    /// and for its share of the move to a bigger table. Allocating that table is the one longer step (about 0.1 s at ten
    /// million entries); it blocks writers, never readers.
    pub fn apply<'a>(&self, batch: impl IntoIterator<Item = Change<'a>>, epoch: u64, now: UnixSeconds) {
        let mut marks = Vec::new();
        let mut switched = Vec::new();
        // Changes that come together are mostly of one kind and issuer: their realm is hashed once.
        let mut last = None;
        let tokens = batch.into_iter().filter_map(|change| {
            let place = (change.kind(), change.tenant(), change.issuer());
            let realm = match last {
                Some((known, realm)) if known == place => realm,
                _ => self.fingerprinter.realm(place.0, place.1, place.2),
            };
            last = Some((place, realm));
            let fingerprint = self.fingerprinter.fingerprint(realm, change.name());
            match change.effect() {
                Effect::RefusedUntil(until) => return Some((fingerprint, second_of(until))),
                Effect::IssuedUntil(until) => marks.push((fingerprint, second_of(until))),
                Effect::Switched(state) => switched.push((fingerprint, state, change.epoch())),
            }
            None
        });
        self.tokens.extend(tokens, horizon(now));
        if !marks.is_empty() {
            self.marks.extend(marks.into_iter(), self.marks_horizon(now));
            self.marked.store(true, Ordering::Release);
        }
        if !switched.is_empty() {
            let _turn = self.switching.lock().unwrap_or_else(PoisonError::into_inner);
            let mut switches = Switches::clone(&self.switches.load());
            for (fingerprint, state, epoch) in switched {
                switches.set(fingerprint, state, epoch);
            }
            self.switches.store(Arc::new(switches));
        }
        self.epoch.fetch_max(epoch, Ordering::AcqRel);
        // Who registers again meanwhile is woken by the next batch.
        for _ in 0..self.waiting.len() {
            if let Some(waker) = self.waiting.pop() {
                waker.wake();
            }
        }
    }

    /// Makes room for `tokens` in all, so that filling the view does not grow it step by step.
    pub fn reserve(&self, tokens: usize) {
        self.tokens.reserve(tokens);
    }

    /// Lets entries leave that died long enough before `now`, looking at `slots_max` slots at most.
    pub fn purge(&self, now: UnixSeconds, slots_max: usize) {
        self.tokens.purge(horizon(now), slots_max);
        self.marks.purge(self.marks_horizon(now), slots_max);
    }

    fn marks_horizon(&self, now: UnixSeconds) -> u32 {
        horizon(UnixSeconds(now.0.saturating_sub(self.mark_life_s)))
    }
}

/// Entries of seconds before this one may leave.
fn horizon(now: UnixSeconds) -> u32 {
    u32::try_from(now.0.saturating_sub(PURGE_DELAY_S)).unwrap_or(u32::MAX)
}

/// A stored second. Times beyond the year 2106 become "never over".
fn second_of(time: UnixSeconds) -> u32 {
    u32::try_from(time.0).unwrap_or(SECOND_NEVER)
}

fn time_of(second: u32) -> UnixSeconds {
    if second == SECOND_NEVER { UnixSeconds(u64::MAX) } else { UnixSeconds(u64::from(second)) }
}

const SECOND_NEVER: u32 = u32::MAX;

/// Shards that wait for an epoch, each at most once between two of its turns.
const WAITING_MAX: usize = 4096;
