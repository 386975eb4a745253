//! What is revoked, brought up: the view, where nodes share it the connection to Redis, and the thread that asks about
//! tokens what the view cannot say.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::runtime::{Handle, Runtime};

use super::{StartError, now};
use crate::cluster::{self, Cluster};
use crate::config::Config;
use crate::control::{self, Announce, Sharing};
use crate::revocation::{
    self, Answer, Freshness, Identity, Inquirer, Inquiry, Registrar, Registry, Status, View,
};
use crate::store::Store;

/// The view, filled with what this node knew when it stopped.
///
/// # Errors
/// What the state database said.
pub(super) fn open_view(config: &Config, store: &Store, runtime: &Runtime) -> Result<Arc<View>, StartError> {
    let freshness = match &config.revocation.redis {
        None => Freshness::authoritative(Instant::now()),
        Some(_) => Freshness::following(Instant::now()),
    };
    let view = Arc::new(View::new(&random_seed()?, mark_life_s(config), freshness));
    let loading = crate::daemon::progress::Loading::new();
    runtime.block_on(control::fill_view(store, &view, now(), |done| loading.show(done)))?;
    loading.done();
    Ok(view)
}

/// What runs beside the shards for revocation.
pub(super) struct Revoking {
    pub(super) cluster: Option<Cluster>,
    /// One per shard.
    pub(super) inquirers: Vec<Inquirer>,
    pub(super) registrar: RegistrarThread,
}

impl Revoking {
    /// Starts following Redis, where one is configured, and the registrar.
    ///
    /// # Errors
    /// If a thread cannot be had.
    pub(super) fn start(
        config: &Config,
        store: &Store,
        view: &Arc<View>,
        announce: &Announce,
        runtime: &Runtime,
    ) -> Result<Self, StartError> {
        let announce = announce.clone();
        let handle = runtime.handle().clone();
        let cluster = match &config.revocation.redis {
            None => None,
            Some(redis) => Some(cluster::start(cluster::Ingredients {
                redis: redis.clone(),
                view: Arc::clone(view),
                store: store.clone(),
                runtime: handle.clone(),
                now,
                mark_life_s: mark_life_s(config),
                leeway_s: config.issuers.iter().map(|issuer| issuer.leeway_s).max().unwrap_or(0),
                // Nobody may be listening.
                heard: Box::new(move |changes| drop(announce.send(changes.into()))),
            })?),
        };
        let registry: Box<dyn Registry> = match &cluster {
            Some(cluster) => Box::new(cluster.registry()),
            None => Box::new(LocalRegistry { store: store.clone(), view: Arc::clone(view), runtime: handle }),
        };
        let (registrar, inquirers) = revocation::registry(config.server.shards);
        let registrar = RegistrarThread::spawn(registrar, registry)?;
        Ok(Self { cluster, inquirers, registrar })
    }

    /// What the control plane shares with.
    pub(super) fn sharing(&self) -> Option<Sharing> {
        self.cluster
            .as_ref()
            .map(|cluster| Sharing { publisher: cluster.publisher(), status: cluster.status() })
    }
}

/// How long after its `iat` any issuer's token may pass at most.
fn mark_life_s(config: &Config) -> u64 {
    config.issuers.iter().map(|issuer| issuer.max_lifetime_s + issuer.leeway_s).max().unwrap_or(0)
}

fn random_seed() -> Result<[u8; 16], StartError> {
    let mut seed = [0; 16];
    getrandom::fill(&mut seed).map_err(|error| StartError::System {
        what: "get random bytes",
        error: std::io::Error::other(error),
    })?;
    Ok(seed)
}

/// The registrar's thread.
pub(super) struct RegistrarThread {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl RegistrarThread {
    fn spawn(registrar: Registrar, mut registry: Box<dyn Registry>) -> Result<Self, StartError> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("registrar".to_owned())
            .spawn(move || registrar.run(&mut *registry, &stopping))
            .map_err(|error| StartError::System { what: "start the registrar's thread", error })?;
        Ok(Self { stop, thread })
    }

    /// Ends it, once the shards are gone and while the control plane's runtime still runs.
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Release);
        // A panic aborts the process.
        let _ = self.thread.join();
    }
}

/// The registry of a node on its own: the state database, and the view, which is the truth here.
struct LocalRegistry {
    store: Store,
    view: Arc<View>,
    /// Of the control plane, which drives the database's timers.
    runtime: Handle,
}

impl Registry for LocalRegistry {
    fn answer(&mut self, inquiries: &[Inquiry]) -> Vec<Answer> {
        // Revoked since the shard looked: such a token is not used up.
        let identities: Vec<Identity<'_>> = inquiries.iter().map(Inquiry::identity).collect();
        let standing = self.view.check_all(&identities, now());
        let clear = inquiries.iter().zip(&standing).filter(|(_, status)| **status == Status::Clear);
        let clear: Vec<&Inquiry> = clear.map(|(inquiry, _)| inquiry).collect();
        let mut answered = match self.runtime.block_on(self.store.answer_inquiries(&clear)) {
            Ok(answered) => answered.into_iter(),
            Err(error) => {
                tracing::error!(%error, "cannot tell whether tokens are listed or used; they get 503");
                return vec![Answer::Unknown; inquiries.len()];
            }
        };
        let answer = |status| match status {
            Status::Clear => answered.next().unwrap_or(Answer::Unknown),
            Status::Disabled => Answer::Disabled,
            Status::Revoked => Answer::Revoked,
        };
        standing.into_iter().map(answer).collect()
    }
}
