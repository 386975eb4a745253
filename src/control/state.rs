//! What the control plane works with: given by the daemon, shared by its handlers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use zeroize::Zeroizing;

use super::allowance::Allowance;
use super::checkpoint_key::KeyChange;
use super::events::Events;
use super::evidence::Evidence;
use super::feed::{Announce, FEED_CLIENTS_MAX};
use super::issue::IssuePolicy;
use super::lookups::{LOOKUP_INTERVAL, LOOKUPS_AT_ONCE};
use super::retention::{Custody, Retire};
use super::signing_keys::{Keys, SigningKeys};
use super::status_lists::{Published, StatusListPolicy};
use super::tls::Tls;
use super::verify_runs::OwnLog;
use crate::audit::sealed::SealedKeys;
use crate::audit::{Appender, Eraser, LogTags};
use crate::cluster::{Publisher, StatusReader};
use crate::decision::{Decision, UnixSeconds};
use crate::revocation::View;
use crate::secevent::Receiver;
use crate::store::Store;
use crate::token::Profile;

/// Issues and revocations under way at once; each holds a few KiB. More are told to come again.
pub(super) const ACTIONS_MAX: u32 = 256;

/// What the daemon hands to [`serve`](super::serve).
pub struct State {
    /// How this node issues tokens; `None` on a node that only verifies.
    pub issuing: Option<Issuing>,
    /// The keys that it signs with, and those that verify nothing any more.
    pub keys: SigningKeys,
    /// Every configured issuer.
    pub issuers: Vec<Profile>,
    /// Remembers revocations.
    pub store: Store,
    /// What shards check.
    pub view: Arc<View>,
    /// Where nodes share what is revoked; `None` on a node on its own.
    pub sharing: Option<Sharing>,
    /// Judges a token as shards do; takes microseconds.
    pub judge: Judge,
    /// Hears what transmitters push; `None` where there are none.
    pub events: Option<Hearing>,
    /// Where changes are announced, by this plane and by whoever else makes them.
    pub announce: Announce,
    /// The control plane's way into the audit log.
    pub appender: Appender,
    /// Changes the keys of that log's tags.
    pub tags: LogTags,
    /// Destroys the keys of what is sealed in it.
    pub sealed_keys: SealedKeys,
    /// What an action waits for besides the disk; `None`: nothing.
    pub witnessing: Option<Witnessing>,
    /// Verifies the audit log; blocks, on a thread made for it.
    pub verify_chain: Arc<dyn Fn() -> Result<ChainReport, String> + Send + Sync>,
    /// The log behind that way.
    pub own_log: OwnLog,
    /// Erases bodies from the audit log; `None` where nobody signs its checkpoints.
    pub eraser: Option<Eraser>,
    /// Held while a hold is placed, segments are retired, bodies erased or a tag key is destroyed.
    pub custody: Custody,
    /// Retires old segments; `None` on a node that keeps them all.
    pub retire: Option<Retire>,
    /// What replaces the log's checkpoint key; `None` without a configuration file that could name another.
    pub checkpoint_key: Option<KeyChange>,
    /// The certificate of the TLS listeners; `None` where there are none.
    pub tls: Option<Tls>,
    /// Writes the other rooms' metrics in the Prometheus text format, without a closing `# EOF`.
    pub metrics: Arc<dyn Fn(&mut String) + Send + Sync>,
    /// How the other things this node depends on are, besides the audit log and the state database, which are asked
    /// here; must not block.
    pub readiness: Arc<dyn Fn() -> Vec<Dependency> + Send + Sync>,
    /// Names, besides loopback's and the listener's own address, that `Host` may give; without port, lower case.
    pub host_names: Vec<String>,
    /// Hands an operator's PIN to the token that waits for it; blocks. `None` on a node without a token.
    pub unlock: Option<Unlock>,
    /// The time.
    pub now: fn() -> UnixSeconds,
}

/// The word of a witness, which actions wait for.
pub struct Witnessing {
    /// How much of the log is on the disk, and is to be under the next checkpoint.
    pub durable: Box<dyn Fn() -> u64 + Send + Sync>,
    /// How much of it is under a checkpoint that a witness cosigned.
    pub witnessed: watch::Receiver<u64>,
    /// How long an action waits.
    pub timeout: Duration,
}

/// What Security Event Tokens are read with.
pub struct Hearing {
    /// Reads them.
    pub receiver: Receiver,
    /// For each of its transmitters the index, among the configured issuers, of the one it speaks of.
    pub issuers: Vec<usize>,
}

/// Judges the text of a token at a time.
pub type Judge = Arc<dyn Fn(&[u8], UnixSeconds) -> Judged + Send + Sync>;

/// What shards would say of a token.
#[derive(Debug)]
pub struct Judged {
    /// The decision, without any demand of a caller's.
    pub decision: Decision,
    /// Which token it is; only where its signature was verified, by a key of the issuer that it names.
    pub token: Option<JudgedToken>,
}

/// A token whose signature was verified.
#[derive(Debug)]
pub struct JudgedToken {
    /// The tenant of its issuer.
    pub tenant: String,
    /// Its `iss`.
    pub issuer: String,
    /// Its own name.
    pub jti: Option<String>,
    /// From this second on it is refused as expired: its `exp` plus the leeway.
    pub refused_from: UnixSeconds,
}

/// Tries one PIN; the error is in words.
pub type Unlock = Arc<dyn Fn(Zeroizing<String>) -> Result<(), String> + Send + Sync>;

/// How a node shares what is revoked with others.
pub struct Sharing {
    /// Publishes what is decided here.
    pub publisher: Publisher,
    /// How this node and Redis get on.
    pub status: StatusReader,
}

/// How a node issues tokens.
pub struct Issuing {
    /// Which of the configured issuers this node issues as.
    pub own: usize,
    /// Whether its tokens are put on the issuer's allow list.
    pub allow_list: bool,
    /// How long one signature may take, its wait in the queue included.
    pub sign_timeout: Duration,
    /// How it issues.
    pub policy: IssuePolicy,
    /// The list in which each token gets a place, if one is published.
    pub status_list: Option<StatusListPolicy>,
}

/// The outcome of verifying the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChainReport {
    /// Records whose place in the chain was checked.
    pub records: u64,
    /// Hash of the last good record, in hex.
    pub head: String,
    /// Where the chain breaks first, if it does.
    pub first_break: Option<ChainBreak>,
}

/// The first thing wrong in the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChainBreak {
    /// Position in the chain of the first record that cannot be trusted.
    pub seq: u64,
    /// The segment file's number.
    pub segment: u64,
    /// Byte offset in that file.
    pub offset: u64,
    /// The class of damage, a stable word.
    pub class: String,
    /// What was found, in words.
    pub detail: String,
}

/// One thing this node depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Dependency {
    /// Its stable name, such as `audit`.
    pub name: &'static str,
    /// Whether it works.
    pub ready: bool,
    /// What is wrong, or empty.
    pub detail: String,
}

/// [`State`] as the handlers share it.
pub(super) struct Shared {
    pub(super) issuing: Option<Issuing>,
    pub(super) keys: Keys,
    pub(super) issuers: Vec<Profile>,
    pub(super) store: Store,
    pub(super) view: Arc<View>,
    pub(super) judge: Judge,
    pub(super) sharing: Option<Sharing>,
    /// Held while a node on its own changes what stands.
    pub(super) changing: tokio::sync::Mutex<()>,
    pub(super) events: Option<Events>,
    pub(super) announce: Announce,
    /// One permit per client of the feed.
    pub(super) feeds: Arc<Semaphore>,
    /// Becomes true when the node stops: streams would not end by themselves.
    pub(super) stopping: watch::Sender<bool>,
    /// The status list as it was made last.
    pub(super) published: Published,
    pub(super) evidence: Evidence,
    pub(super) tags: LogTags,
    pub(super) sealed_keys: SealedKeys,
    /// Held while a key of the tags is changed.
    pub(super) changing_tag_keys: tokio::sync::Mutex<()>,
    pub(super) verify_chain: Arc<dyn Fn() -> Result<ChainReport, String> + Send + Sync>,
    pub(super) own_log: OwnLog,
    pub(super) eraser: Option<Eraser>,
    pub(super) custody: Custody,
    pub(super) retire: Option<Retire>,
    pub(super) checkpoint_key: Option<KeyChange>,
    pub(super) tls: Option<Tls>,
    pub(super) metrics: Arc<dyn Fn(&mut String) + Send + Sync>,
    pub(super) readiness: Arc<dyn Fn() -> Vec<Dependency> + Send + Sync>,
    pub(super) host_names: Vec<String>,
    pub(super) unlock: Option<Unlock>,
    /// One PIN at a time: each may cost one of few tries.
    pub(super) unlocking: Arc<Semaphore>,
    pub(super) now: fn() -> UnixSeconds,
    /// One permit per action under way; shutdown waits for all of them.
    pub(super) actions: Arc<Semaphore>,
    /// One verification of the chain at a time: it reads the whole log.
    pub(super) verifications: Arc<Semaphore>,
    /// How often records may be looked up by a value.
    pub(super) lookups: Allowance,
    pub(super) counters: Counters,
}

impl Shared {
    /// Must be called inside the runtime that serves.
    pub(super) fn new(state: State) -> Self {
        let State { issuing, issuers, store, view, judge, sharing, appender, .. } = state;
        let known = issuing.as_ref().is_none_or(|issuing| issuing.own < issuers.len());
        assert!(known, "the own issuer is one of the configured ones");
        Self {
            issuing,
            keys: Keys::new(state.keys, &issuers),
            issuers,
            store,
            view,
            judge,
            sharing,
            changing: tokio::sync::Mutex::new(()),
            events: state.events.map(Events::new),
            announce: state.announce,
            feeds: Arc::new(Semaphore::new(FEED_CLIENTS_MAX)),
            published: Published::default(),
            stopping: watch::Sender::new(false),
            evidence: Evidence::start(appender, state.witnessing),
            tags: state.tags,
            sealed_keys: state.sealed_keys,
            changing_tag_keys: tokio::sync::Mutex::new(()),
            verify_chain: state.verify_chain,
            own_log: state.own_log,
            eraser: state.eraser,
            custody: state.custody,
            retire: state.retire,
            checkpoint_key: state.checkpoint_key,
            tls: state.tls,
            metrics: state.metrics,
            readiness: state.readiness,
            host_names: state.host_names,
            unlock: state.unlock,
            unlocking: Arc::new(Semaphore::new(1)),
            now: state.now,
            actions: Arc::new(Semaphore::new(ACTIONS_MAX as usize)),
            verifications: Arc::new(Semaphore::new(1)),
            lookups: Allowance::new(LOOKUPS_AT_ONCE, LOOKUP_INTERVAL),
            counters: Counters::default(),
        }
    }
}

/// What the control plane counts. Written by its thread alone.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) issued: Counter,
    pub(super) revoked: Counter,
    pub(super) refused: Counter,
    pub(super) unavailable: Counter,
}

/// A number that only grows.
#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn increment(&self) {
        self.add(1);
    }

    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
