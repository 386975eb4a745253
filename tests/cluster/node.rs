//! A node as far as revoking goes: a view, a state database, the threads of the cluster room, and the promise.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edgate::cluster::{self, Cluster, ClusterError, ClusterStatus, Ingredients, Publisher, RedisRegistry};
use edgate::config::{Redis, RedisServers};
use edgate::decision::UnixSeconds;
use edgate::revocation::{
    Answer, Asked, Effect, Freshness, Identity, Inquiry, Registry, Status, TargetKind, View,
};
use edgate::store::{Listed, OpenMode, Store, StoredChange};
use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::support;
use crate::until;

/// How old the view may be.
pub(crate) const STALENESS_MAX: Duration = Duration::from_secs(1);

pub(crate) fn now() -> UnixSeconds {
    UnixSeconds(support::now())
}

/// Only whether it is revoked.
pub(crate) const REVOKED: Asked = Asked { revoked: true, listed: false, unused: false };

/// Only whether it is on the allow list.
pub(crate) const LISTED: Asked = Asked { revoked: false, listed: true, unused: false };

/// Only whether it is used for the first time.
pub(crate) const UNUSED: Asked = Asked { revoked: false, listed: false, unused: true };

/// Two nodes that are up to date, and the promise they are held to.
pub(crate) fn pair(redis: &Redis) -> (Node, Node, Promise) {
    let (a, b) = (Node::ready(redis), Node::ready(redis));
    let promise = Promise::watch(&[&a, &b]);
    (a, b, promise)
}

/// Where the test's Redis is, with a short timeout.
pub(crate) fn at(url: &str) -> Redis {
    Redis {
        servers: RedisServers::Single(url.to_owned()),
        username: None,
        password: None,
        credentials: None,
        ca_file: None,
        namespace: "edgate".to_owned(),
        min_replicas: 0,
        timeout: Duration::from_millis(400),
        stream_len_max: 1000,
    }
}

/// A runtime that somebody drives, as the control thread does in the daemon.
struct Driven {
    handle: Handle,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Driven {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || runtime.block_on(async { drop(stopped.await) }));
        Self { handle, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

pub(crate) struct Node {
    // Dropped in this order: the threads need the runtime.
    cluster: Option<Cluster>,
    pub(crate) view: Arc<View>,
    store: Store,
    publisher: Option<Publisher>,
    runtime: Driven,
    redis: Redis,
    clock: fn() -> UnixSeconds,
    dir: TempDir,
}

impl Node {
    pub(crate) fn start(redis: Redis) -> Self {
        Self::start_with_clock(redis, now)
    }

    pub(crate) fn start_with_clock(redis: Redis, clock: fn() -> UnixSeconds) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Driven::new();
        let store = open(&runtime, dir.path());
        let view = new_view();
        let mut node = Self { cluster: None, view, store, publisher: None, runtime, redis, clock, dir };
        node.run();
        node
    }

    /// A node that is up to date.
    pub(crate) fn ready(redis: &Redis) -> Self {
        let node = Self::start(redis.clone());
        node.await_fresh();
        node
    }

    fn run(&mut self) {
        let cluster = cluster::start(Ingredients {
            redis: self.redis.clone(),
            view: Arc::clone(&self.view),
            store: self.store.clone(),
            runtime: self.runtime.handle.clone(),
            now: self.clock,
            mark_life_s: 3600,
            leeway_s: 0,
            heard: Box::new(|_| {}),
        })
        .unwrap();
        self.publisher = Some(cluster.publisher());
        self.cluster = Some(cluster);
    }

    /// Ends the threads, as if the node were stopped; the state database stays.
    pub(crate) fn stop(&mut self) {
        self.cluster.take().unwrap().stop();
    }

    /// Starts again with what the state database remembers.
    pub(crate) fn restart(&mut self) {
        if self.cluster.is_some() {
            self.stop();
        }
        self.runtime.handle.block_on(self.store.close());
        self.store = open(&self.runtime, self.dir.path());
        self.view = new_view();
        let view = Arc::clone(&self.view);
        let load = self.store.load_changes(now(), |some, _| {
            view.apply(some.iter().filter_map(StoredChange::change), 0, now());
        });
        self.runtime.handle.block_on(load).unwrap();
        self.run();
    }

    pub(crate) fn registry(&self) -> RedisRegistry {
        self.cluster.as_ref().unwrap().registry()
    }

    pub(crate) fn status(&self) -> ClusterStatus {
        self.cluster.as_ref().unwrap().status().read()
    }

    pub(crate) fn publisher(&self) -> Publisher {
        self.publisher.clone().unwrap()
    }

    pub(crate) fn is_fresh(&self) -> bool {
        self.view.freshness().age(Instant::now()) <= STALENESS_MAX
    }

    pub(crate) fn await_fresh(&self) {
        until("the view to be fresh", || self.is_fresh());
    }

    /// What the state database remembers.
    pub(crate) fn remembers(&self, jti: &str) -> bool {
        let mut found = false;
        let load = self.store.load_changes(now(), |some, _| {
            found |= some.iter().any(|change| change.name == jti);
        });
        self.runtime.handle.block_on(load).unwrap();
        found
    }

    /// How much the state database remembers.
    pub(crate) fn remembered(&self) -> u64 {
        self.runtime.handle.block_on(self.store.change_count(now())).unwrap()
    }

    /// The control plane's way: durable here, published, in the view, then answered.
    pub(crate) fn revoke(&self, jti: &str) -> Result<u64, ClusterError> {
        self.change(&[token(jti)])
    }

    pub(crate) fn change(&self, changes: &[StoredChange]) -> Result<u64, ClusterError> {
        let handle = &self.runtime.handle;
        let (local, recorded) =
            handle.block_on(self.store.record_changes(changes, self.view.epoch())).unwrap();
        let stands: Vec<StoredChange> = recorded.into_iter().map(|one| one.stands).collect();
        let (answer, answered) = mpsc::channel();
        self.publisher().publish(&stands, local, move |done| answer.send(done).unwrap());
        let epoch = answered.recv_timeout(support::PATIENCE).unwrap()?.epoch;
        handle.block_on(self.store.mark_published(local, epoch)).unwrap();
        self.view.apply(stands.iter().filter_map(StoredChange::change), 0, now());
        Ok(epoch)
    }

    /// The control plane's way with a token it issues: on the list here, then in Redis.
    pub(crate) fn list_locally(&self, listed: &Listed<'_>) {
        self.runtime.handle.block_on(self.store.list_tokens(std::slice::from_ref(listed))).unwrap();
    }

    pub(crate) fn list(&self, listed: &Listed<'_>) -> Result<(), ClusterError> {
        let (answer, answered) = mpsc::channel();
        let listed = std::slice::from_ref(listed);
        self.publisher().list(listed, move |done| answer.send(done).unwrap());
        answered.recv_timeout(support::PATIENCE).unwrap()
    }

    /// As a client does that was told to ask again.
    pub(crate) fn revoke_until_answered(&self, jti: &str) -> u64 {
        let mut epoch = None;
        until("the revocation to be answered", || {
            epoch = self.revoke(jti).ok();
            epoch.is_some()
        });
        epoch.unwrap()
    }
}

fn open(runtime: &Driven, dir: &Path) -> Store {
    runtime.handle.block_on(Store::open(&dir.join("state.db"), OpenMode::Create)).unwrap()
}

fn new_view() -> Arc<View> {
    Arc::new(View::new(&[7; 16], 3600, Freshness::following(Instant::now())))
}

/// A token revoked for ten minutes.
pub(crate) fn token(jti: &str) -> StoredChange {
    StoredChange {
        kind: TargetKind::Token,
        tenant: "t".to_owned(),
        issuer: "i".to_owned(),
        name: jti.to_owned(),
        effect: Effect::RefusedUntil(now().saturating_add(600)),
        forget_at: now().saturating_add(600),
        changed_at: now(),
        reason: "lost".to_owned(),
        actor: "test".to_owned(),
        epoch: 0,
    }
}

pub(crate) fn identity(jti: &str) -> Identity<'_> {
    Identity {
        tenant: "t",
        issuer: "i",
        kid: "k",
        certified_by: None,
        jti: Some(jti),
        subject: Some("s"),
        session: None,
        issued_at: Some(now()),
    }
}

pub(crate) fn status(view: &View, jti: &str) -> Status {
    view.check(&identity(jti), now())
}

pub(crate) fn inquiry(jti: &str, asked: Asked) -> Inquiry {
    Inquiry::new(&identity(jti), now().saturating_add(600), asked)
}

pub(crate) fn ask(registry: &mut impl Registry, jti: &str, asked: Asked) -> Answer {
    registry.answer(&[inquiry(jti, asked)])[0]
}

/// Watches the promise on every node, for as long as it lives: a token whose revocation was answered never passes where
/// the epoch is demanded, and never later than the view may be old.
pub(crate) struct Promise {
    answered: Arc<Mutex<BTreeMap<String, (u64, Instant)>>>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Promise {
    pub(crate) fn watch(nodes: &[&Node]) -> Self {
        let answered = Arc::new(Mutex::new(BTreeMap::<String, (u64, Instant)>::new()));
        let done = Arc::new(AtomicBool::new(false));
        let views: Vec<Arc<View>> = nodes.iter().map(|node| Arc::clone(&node.view)).collect();
        let (promised, over) = (Arc::clone(&answered), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            let mut checks = 0;
            // Once more after the end, where it had no turn before.
            while !over.load(Ordering::SeqCst) || checks == 0 {
                let promised = promised.lock().unwrap().clone();
                for (node, view) in views.iter().enumerate() {
                    for (jti, (epoch, at)) in &promised {
                        // In the order in which a shard looks.
                        let has_epoch = view.epoch() >= *epoch;
                        let asked_at = Instant::now();
                        let age = view.freshness().age(asked_at);
                        let late = age <= STALENESS_MAX && asked_at > *at + STALENESS_MAX;
                        let passes = status(view, jti) == Status::Clear;
                        assert!(!(passes && has_epoch), "{jti} passed on node {node} with epoch {epoch}");
                        assert!(!(passes && late), "{jti} passed on node {node}, {age:?} old");
                        checks += 1;
                    }
                }
                // Only a pace: two cores have more to do.
                std::thread::sleep(Duration::from_millis(1));
            }
            checks
        });
        Self { answered, done, thread: Some(thread) }
    }

    pub(crate) fn hold(&self, jti: &str, epoch: u64) {
        self.answered.lock().unwrap().insert(jti.to_owned(), (epoch, Instant::now()));
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.answered.lock().unwrap().keys().cloned().collect()
    }

    /// Ends the watch, once every node refuses everything that was promised.
    pub(crate) fn kept(mut self, nodes: &[&Node]) {
        let promised = self.names();
        for node in nodes {
            until("every node to refuse what was revoked", || {
                promised.iter().all(|jti| status(&node.view, jti) == Status::Revoked) && node.is_fresh()
            });
            until("every state database to remember it", || promised.iter().all(|jti| node.remembers(jti)));
        }
        self.done.store(true, Ordering::SeqCst);
        assert!(self.thread.take().unwrap().join().unwrap() > 0);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.done.store(true, Ordering::SeqCst);
    }
}
