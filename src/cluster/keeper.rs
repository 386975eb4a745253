//! Keeping both sides whole: the state database has what other nodes published, and Redis has what the state database
//! remembers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use redis::Value;
use tokio::runtime::Handle;

use super::codec;
use super::connect::{self, Backoff};
use super::error::ClusterError;
use super::link::Link;
use super::scan;
use super::script::{self, Encoded, Epochs};
use super::shared::{Shared, Source};
use super::status::Work;
use crate::decision::UnixSeconds;
use crate::revocation::TargetKind;
use crate::store::{Store, StoredChange};

/// The follower's way to the keeper. Nothing here waits.
pub(super) struct Tasks {
    changes: Sender<Vec<StoredChange>>,
    wishes: Arc<Wishes>,
}

// Written by the follower, taken by the keeper; the latest wish is the one that counts.
#[derive(Default)]
struct Wishes {
    reconcile: Mutex<Option<Source>>,
    store_all: AtomicBool,
    // Changes found no room in the queue.
    missed: AtomicBool,
}

/// The thread `redis-keep`.
pub(super) struct Keeper {
    changes: Receiver<Vec<StoredChange>>,
    wishes: Arc<Wishes>,
    store: Store,
    runtime: Handle,
    link: Option<Link>,
    backoff: Backoff,
    // Taken from the queue and not stored yet.
    pending: Vec<StoredChange>,
}

pub(super) fn keeper(store: Store, runtime: Handle) -> (Tasks, Keeper) {
    let (sender, changes) = bounded(BATCHES_MAX);
    let wishes = Arc::new(Wishes::default());
    let tasks = Tasks { changes: sender, wishes: Arc::clone(&wishes) };
    let keeper =
        Keeper { changes, wishes, store, runtime, link: None, backoff: Backoff::new(), pending: Vec::new() };
    (tasks, keeper)
}

impl Tasks {
    /// Has changes stored that are in the view already.
    pub(super) fn store(&self, changes: Vec<StoredChange>) {
        match self.changes.try_send(changes) {
            Ok(()) => {}
            // The state database is behind. It will be filled from the entries once it has caught up.
            Err(TrySendError::Full(_)) => self.wishes.missed.store(true, Ordering::Release),
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    /// Whether some changes were not stored, and all others are: time to store everything anew.
    pub(super) fn missed(&self) -> bool {
        self.changes.is_empty() && self.wishes.missed.swap(false, Ordering::AcqRel)
    }

    /// Has every entry that Redis holds stored.
    pub(super) fn store_all(&self) {
        self.wishes.store_all.store(true, Ordering::Release);
    }

    /// Has Redis given what it lacks, and believed afterwards.
    pub(super) fn reconcile(&self, source: Source) {
        *self.wishes.reconcile.lock().unwrap_or_else(PoisonError::into_inner) = Some(source);
    }
}

impl Keeper {
    /// Works until told to stop.
    pub(super) fn run(mut self, shared: &Shared) {
        let mut republish_at = Instant::now();
        let mut purge_at = Instant::now();
        while !shared.stop.is_set() {
            self.store_waiting(shared, TICK);
            if self.backoff.left(Instant::now()) > Duration::ZERO {
                continue;
            }
            let now = Instant::now();
            let wish = self.reconcile_wish().take();
            let done = if let Some(source) = wish {
                let done = self.reconcile(shared, &source);
                if done.is_err() {
                    self.wish_again(source);
                }
                done
            } else if self.wishes.store_all.swap(false, Ordering::AcqRel) {
                let done = self.store_all(shared);
                self.wishes.store_all.fetch_or(done.is_err(), Ordering::AcqRel);
                done
            } else if now >= republish_at {
                republish_at = now + REPUBLISH_INTERVAL;
                self.republish(shared)
            } else if now >= purge_at {
                purge_at = now + PURGE_INTERVAL;
                self.purge(shared)
            } else {
                Ok(())
            };
            match done {
                Ok(()) => {
                    self.backoff.succeeded();
                    shared.board.succeed(Work::Keep);
                }
                Err(ClusterError::Stopped) => break,
                Err(error) => {
                    if !error.spares_connection() {
                        self.link = None;
                    }
                    self.backoff.failed(Instant::now());
                    if shared.board.fail(Work::Keep, &error) {
                        tracing::warn!(%error, "cannot give Redis what it lacks; trying again");
                    }
                }
            }
        }
        // What is in the view should be on disk too, if the disk takes it at once.
        self.store_waiting(shared, Duration::ZERO);
    }

    /// Stores what waits; waits for it at most so long. On failure it is kept and tried again.
    fn store_waiting(&mut self, shared: &Shared, at_most: Duration) {
        if self.pending.is_empty() {
            match self.changes.recv_timeout(at_most) {
                Ok(changes) => self.pending = changes,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
        while self.pending.len() < TRANSACTION_LEN {
            match self.changes.try_recv() {
                Ok(changes) => self.pending.extend(changes),
                Err(_) => break,
            }
        }
        while !self.pending.is_empty() {
            // Not between two changes of one epoch: whoever is told one of them and comes back would never hear of the other.
            let last = self.pending[self.pending.len().min(TRANSACTION_LEN) - 1].epoch;
            let rest =
                self.pending.iter().skip(TRANSACTION_LEN).take_while(|change| change.epoch == last).count();
            let count = self.pending.len().min(TRANSACTION_LEN) + rest;
            match self.runtime.block_on(self.store.merge_changes(&self.pending[..count])) {
                Ok(()) => {
                    (shared.heard)(&self.pending[..count]);
                    self.pending.drain(..count);
                }
                Err(error) => {
                    let unsaved = self.pending.len() as u64;
                    shared.board.note(|status| status.unsaved = unsaved);
                    tracing::warn!(%error, unsaved, "cannot store other nodes' revocations; trying again");
                    shared.stop.wait(STORE_RETRY);
                    return;
                }
            }
        }
        shared.board.note(|status| status.unsaved = 0);
    }

    /// Gives Redis what this node remembers and it lacks.
    fn reconcile(&mut self, shared: &Shared, source: &Source) -> Result<(), ClusterError> {
        if !self.reach(shared, source)? {
            // The follower will meet the new server too, and wish for it.
            return Ok(());
        }
        let Some(link) = &mut self.link else { return Ok(()) };
        // The latest first: what Redis lost a moment ago other nodes may never have seen, and they wait for it for a while.
        let latest = self.runtime.block_on(self.store.latest_changes((shared.now)(), LATEST_LEN));
        let latest = latest.unwrap_or_default();
        let mut failed = None;
        let mut given = 0;
        for some in latest.chunks(COMPARE_LEN) {
            given += give(shared, link, some)?;
        }
        let load = self.store.load_changes((shared.now)(), |page, _| {
            for some in page.chunks(COMPARE_LEN) {
                if failed.is_none() {
                    match give(shared, link, some) {
                        Ok(count) => given += count,
                        Err(error) => failed = Some(error),
                    }
                }
            }
        });
        let loaded = self.runtime.block_on(load);
        let mut listed_given = 0;
        let load = self.store.load_listed((shared.now)(), |page| {
            for some in page.chunks(COMPARE_LEN) {
                if failed.is_none() {
                    match give_listed(shared, link, some) {
                        Ok(count) => listed_given += count,
                        Err(error) => failed = Some(error),
                    }
                }
            }
        });
        let loaded = loaded.map(drop).and(self.runtime.block_on(load));
        if let Some(error) = failed {
            return Err(error);
        }
        if let Err(error) = loaded {
            tracing::error!(%error, "cannot read what Redis may lack; trying again");
            self.backoff.failed(Instant::now());
            self.wish_again(source.clone());
            return Ok(());
        }
        if given + listed_given > 0 {
            tracing::warn!(given, listed_given, "Redis lacked what this node remembers; it has that again");
        }
        shared.trust.set(Some(source.clone()));
        Ok(())
    }

    /// Stores every entry that Redis holds. What is known already costs a look-up.
    fn store_all(&mut self, shared: &Shared) -> Result<(), ClusterError> {
        self.connected(shared)?;
        let Some(mut link) = self.link.take() else { return Ok(()) };
        let done = scan::entries(shared, &mut link, |page| {
            // News waits no longer than one page.
            self.store_waiting(shared, Duration::ZERO);
            for some in page.chunks(TRANSACTION_LEN) {
                while let Err(error) = self.runtime.block_on(self.store.merge_changes(some)) {
                    tracing::warn!(%error, "cannot store other nodes' revocations; trying again");
                    if shared.stop.wait(STORE_RETRY) {
                        return Err(ClusterError::Stopped);
                    }
                }
            }
            Ok(())
        });
        self.link = Some(link);
        done
    }

    /// Publishes what was decided here while Redis was away.
    fn republish(&mut self, shared: &Shared) -> Result<(), ClusterError> {
        // What was decided this very moment is being published by the one who decided it.
        let until = UnixSeconds((shared.now)().0.saturating_sub(REPUBLISH_AFTER_S));
        let unpublished = self.store.unpublished_changes(until, COMPARE_LEN);
        let changes = match self.runtime.block_on(unpublished) {
            Ok(changes) => changes,
            Err(error) => {
                tracing::warn!(%error, "cannot read what is not published yet; trying again");
                return Ok(());
            }
        };
        if changes.is_empty() {
            return Ok(());
        }
        let link = self.connected(shared)?;
        for some in changes.chunks(GIVE_LEN) {
            let encoded = Encoded::new(some, Epochs::Own)?;
            let known = shared.view.epoch();
            script::publish(link, &shared.keys, shared.redis.stream_len_max, known, &[&encoded])?;
            link.wait_for_replicas(shared.redis.min_replicas)?;
        }
        // Taken back as what Redis has: published now.
        if let Err(error) = self.runtime.block_on(self.store.merge_changes(&changes)) {
            tracing::warn!(%error, "cannot note that revocations were published; publishing them again");
        }
        shared.board.note(|status| status.republished += changes.len() as u64);
        Ok(())
    }

    /// Removes what has been over for a day: by then no node's clock takes it for valid.
    fn purge(&mut self, shared: &Shared) -> Result<(), ClusterError> {
        let keys = &shared.keys;
        let now = (shared.now)();
        let mark_delay = PURGE_DELAY_S.saturating_add(shared.mark_life_s);
        let link = self.connected(shared)?;
        for (key, delay_s) in [
            (&keys.tokens, PURGE_DELAY_S),
            (&keys.listed, PURGE_DELAY_S),
            (&keys.used, PURGE_DELAY_S),
            (&keys.marks, mark_delay),
        ] {
            for _ in 0..PURGE_STEPS_MAX {
                if script::purge(link, key, now, delay_s, PURGE_LEN)? < PURGE_LEN {
                    break;
                }
                if shared.stop.is_set() {
                    return Err(ClusterError::Stopped);
                }
            }
        }
        Ok(())
    }

    /// Connects to the server that holds this data; `false` where another one is there by now.
    fn reach(&mut self, shared: &Shared, source: &Source) -> Result<bool, ClusterError> {
        if self.link.as_ref().is_some_and(|link| link.origin() != source.origin) {
            self.link = None;
        }
        Ok(self.connected(shared)?.origin() == source.origin)
    }

    fn connected(&mut self, shared: &Shared) -> Result<&mut Link, ClusterError> {
        match &mut self.link {
            Some(link) => Ok(link),
            none => Ok(none.insert(connect::primary(&shared.redis, shared.votes.as_ref())?)),
        }
    }

    fn reconcile_wish(&self) -> MutexGuard<'_, Option<Source>> {
        self.wishes.reconcile.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unless the follower has wished for something newer meanwhile.
    fn wish_again(&self, source: Source) {
        self.reconcile_wish().get_or_insert(source);
    }
}

/// Publishes those of `changes` that Redis lacks; says how many.
fn give(shared: &Shared, link: &mut Link, changes: &[StoredChange]) -> Result<usize, ClusterError> {
    if shared.stop.is_set() {
        return Err(ClusterError::Stopped);
    }
    let lacking = scan::lacking(shared, link, changes)?;
    for some in lacking.chunks(GIVE_LEN) {
        let encoded = Encoded::new(some, Epochs::Own)?;
        let known = shared.view.epoch();
        script::publish(link, &shared.keys, shared.redis.stream_len_max, known, &[&encoded])?;
        shared.board.note(|status| status.republished += some.len() as u64);
    }
    Ok(lacking.len())
}

/// Puts those tokens on the allow list that Redis lacks there; says how many.
fn give_listed(
    shared: &Shared,
    link: &mut Link,
    listed: &[(String, String, String, UnixSeconds)],
) -> Result<usize, ClusterError> {
    const ACTION: &str = "compare the allow list";
    if shared.stop.is_set() {
        return Err(ClusterError::Stopped);
    }
    let mut members = Vec::with_capacity(listed.len());
    for (tenant, issuer, jti, until) in listed {
        let member = codec::identity(TargetKind::Token, tenant, issuer, jti);
        members.push((member.ok_or_else(|| link.unexpected(ACTION))?, codec::score(*until)));
    }
    let mut command = redis::cmd("ZMSCORE");
    command.arg(&shared.keys.listed);
    for (member, _) in &members {
        command.arg(member);
    }
    let held = match link.ask(ACTION, &command)? {
        Value::Array(held) if held.len() == members.len() => held,
        _ => return Err(link.unexpected(ACTION)),
    };
    let lacking: Vec<_> = members.iter().zip(&held).filter(|(_, held)| **held == Value::Nil).collect();
    if !lacking.is_empty() {
        let tokens = lacking.iter().map(|((member, score), _)| (score, member));
        script::list(link, &shared.keys, tokens)?;
    }
    Ok(lacking.len())
}

/// Batches of news that may wait for the state database.
const BATCHES_MAX: usize = 1024;

/// Changes stored in one transaction, so that the control plane never waits long behind it.
const TRANSACTION_LEN: usize = 500;

/// Changes compared with Redis at once, and given to it at once.
const COMPARE_LEN: usize = 1000;
const GIVE_LEN: usize = 250;

/// How many of the latest changes are given first.
const LATEST_LEN: usize = 5000;

/// How long the keeper waits for news before it looks at what else is to do.
const TICK: Duration = Duration::from_millis(50);

/// How long after a failure of the state database it is tried again.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// How often it looks for what was decided here and not published, and how old that must be.
const REPUBLISH_INTERVAL: Duration = Duration::from_secs(2);
const REPUBLISH_AFTER_S: u64 = 2;

/// How often it removes what is over, how much at once, and how often at most in one go.
const PURGE_INTERVAL: Duration = Duration::from_secs(60);
const PURGE_LEN: usize = 1000;
const PURGE_STEPS_MAX: usize = 100;

/// How long something stays after it is over, in seconds: as in the state database.
const PURGE_DELAY_S: u64 = 86_400;
