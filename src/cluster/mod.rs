//! Redis as the truth that nodes share: publish, follow, ask.
//!
//! A revocation is a set of entries and one stream entry, written by one script. Every node follows the stream into its
//! view and its state database, and says how old the view is. What Redis loses (a flush, an older copy, a failover), any
//! node gives back from its state database. Only this room names the `redis` crate. Its threads block; they are
//! `redis-pub` (publishes), `redis-follow` (applies what others published) and `redis-keep` (stores it, gives back what
//! Redis lacks, removes what is over), and one `redis-watch` for each Sentinel. The registrar's thread asks through [`RedisRegistry`].

mod audit_stream;
mod codec;
mod connect;
mod error;
mod follower;
mod keeper;
mod keys;
mod link;
mod position;
mod publisher;
mod registry;
mod scan;
mod script;
mod secret;
mod sentinels;
mod shared;
mod status;

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::Handle;

pub use audit_stream::{AuditStream, LastEntry};
pub use connect::Backoff;
pub use error::ClusterError;
pub use publisher::{Published, Publisher};
pub use registry::RedisRegistry;
pub use status::{ClusterStatus, StatusReader};

use crate::config::{Redis, RedisServers};
use crate::decision::UnixSeconds;
use crate::revocation::View;
use crate::store::{Store, StoredChange};
use keys::Keys;
use sentinels::Votes;
use shared::{Shared, Stop, Trust};
use status::Board;

/// Is told of changes.
pub type Heard = Box<dyn Fn(&[StoredChange]) + Send + Sync>;

/// What the room works with.
pub struct Ingredients {
    /// How Redis is reached.
    pub redis: Redis,
    /// Filled from `store` already; its freshness must be [`following`](crate::revocation::Freshness::following).
    pub view: Arc<View>,
    /// Takes what other nodes publish; gives what Redis lacks.
    pub store: Store,
    /// Runs the store's futures. It must outlive [`Cluster::stop`].
    pub runtime: Handle,
    /// The clock.
    pub now: fn() -> UnixSeconds,
    /// How long after its `iat` any issuer's token may be accepted at most, as the view was told.
    pub mark_life_s: u64,
    /// How far any issuer's clock may be ahead.
    pub leeway_s: u64,
    /// Is told what any node changed, in the order of the epochs, once the view and the state database have it; must not
    /// block.
    pub heard: Heard,
}

/// The running threads. Dropping it stops them.
pub struct Cluster {
    shared: Arc<Shared>,
    publisher: Publisher,
    threads: Vec<JoinHandle<()>>,
}

/// Starts the threads. They connect by themselves, now or when Redis is there; nothing is waited for.
///
/// # Errors
/// [`ClusterError::Thread`] where the system gives no thread.
pub fn start(ingredients: Ingredients) -> Result<Cluster, ClusterError> {
    let Ingredients { redis, view, store, runtime, now, mark_life_s, leeway_s, heard } = ingredients;
    // One provider for TLS, whatever else in the process brings another; a second call changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let keys = Keys::new(&redis.namespace);
    let (sentinels, primary) = match &redis.servers {
        RedisServers::Sentinel { sentinels, primary } => (sentinels.clone(), primary.clone()),
        RedisServers::Cluster(_) | RedisServers::Single(_) => (Vec::new(), String::new()),
    };
    let shared = Arc::new(Shared {
        redis,
        keys,
        view,
        board: Arc::new(Board::default()),
        stop: Stop::default(),
        trust: Trust::default(),
        votes: (!sentinels.is_empty()).then(|| Votes::new(sentinels.len())),
        now,
        mark_life_s,
        leeway_s,
        heard,
    });
    let (publisher, publishing) = publisher::publisher();
    let (tasks, keeping) = keeper::keeper(store, runtime);
    let following = follower::Follower::new(tasks);
    let mut cluster = Cluster { shared, publisher, threads: Vec::new() };
    for (number, sentinel) in sentinels.into_iter().enumerate() {
        let primary = primary.clone();
        let watching = move |shared: &Shared| sentinels::watch(shared, number, &sentinel, &primary);
        cluster.spawn("redis-watch", watching)?;
    }
    cluster.spawn("redis-pub", move |shared| publishing.run(shared))?;
    cluster.spawn("redis-keep", move |shared| keeping.run(shared))?;
    cluster.spawn("redis-follow", move |shared| following.run(shared))?;
    Ok(cluster)
}

impl Cluster {
    /// Publishes what is decided on this node.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    /// Answers what the view cannot; for one registrar's thread.
    #[must_use]
    pub fn registry(&self) -> RedisRegistry {
        RedisRegistry::new(Arc::clone(&self.shared))
    }

    /// Shows how this node and Redis get on.
    #[must_use]
    pub fn status(&self) -> StatusReader {
        StatusReader::new(Arc::clone(&self.shared.board), Arc::clone(&self.shared.view))
    }

    /// Stops the threads and waits for them: at most one timeout of Redis each.
    pub fn stop(mut self) {
        self.halt();
    }

    fn spawn(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&Shared) + Send + 'static,
    ) -> Result<(), ClusterError> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || work(&shared))
            .map_err(|error| ClusterError::Thread { name, cause: error.to_string() })?;
        self.threads.push(thread);
        Ok(())
    }

    fn halt(&mut self) {
        self.shared.stop.set();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the connection to Redis panicked");
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.halt();
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("status", &self.status().read()).finish_non_exhaustive()
    }
}
