//! The control plane's thread: one tokio runtime, one listener, what it may use.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edgate_hsm::Group;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::keys;
use super::observe::{Strictness, hsm_dependency, revocation_dependency};
use super::timestamps::StampReader;
use super::tls::{self, Encrypted};
use super::witnesses::{self, Couriers};
use super::{StartError, hsm_metrics, mirroring, now};
use crate::audit::verify::{Options, verify_dir};
use crate::audit::{Appender, Log, LogWatch, hex, own_keys};
use crate::cluster::Cluster;
use crate::config::{self, Config};
use crate::control::{
    self, ChainBreak, ChainReport, ControlError, Hearing, IssuePolicy, Issuing, Judge, KeyChange, OwnLog,
    Sharing, State, StatusListPolicy,
};
use crate::metrics::Metrics;
use crate::mirror::MirrorWatch;
use crate::revocation::View;
use crate::shard::Policy;
use crate::store::Store;

/// The running control plane.
pub(super) struct ControlThread {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<(), ControlError>>,
}

impl ControlThread {
    /// `cluster` is stopped once nothing is published any more.
    pub(super) fn spawn(
        runtime: Runtime,
        listener: TcpListener,
        state: State,
        cluster: Option<Cluster>,
    ) -> Result<Self, StartError> {
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                let stopped = async {
                    // A dropped sender stops it as well.
                    let _ = stopped.await;
                };
                runtime.block_on(async {
                    let store = state.store.clone();
                    let served = control::serve(listener, state, stopped).await;
                    // Its threads use this runtime, so it goes on meanwhile.
                    let _ = tokio::task::spawn_blocking(move || cluster.map(Cluster::stop)).await;
                    store.close().await;
                    served
                })
            })
            .map_err(StartError::Control)?;
        Ok(Self { stop, thread })
    }

    pub(super) fn stop(self) -> Result<(), StartError> {
        let _ = self.stop.send(());
        match self.thread.join() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(StartError::Control(std::io::Error::other(error))),
            Err(_) => Err(StartError::Control(std::io::Error::other("its thread panicked"))),
        }
    }
}

/// What the control plane works with.
pub(super) struct Ingredients<'a> {
    pub(super) config: &'a Config,
    pub(super) policy: &'a Policy,
    pub(super) signing: control::SigningKeys,
    pub(super) store: Store,
    pub(super) judge: Judge,
    pub(super) events: Option<Hearing>,
    pub(super) announce: control::Announce,
    pub(super) view: Arc<View>,
    pub(super) sharing: Option<Sharing>,
    pub(super) appender: Appender,
    pub(super) metrics: Metrics,
    pub(super) log: &'a Log,
    pub(super) mirror: Vec<MirrorWatch>,
    pub(super) custody: control::Custody,
    pub(super) retire: Option<control::Retire>,
    pub(super) couriers: &'a Couriers,
    pub(super) stamps: Option<StampReader>,
    pub(super) hsm: Option<Arc<Group>>,
    pub(super) encrypted: Option<&'a Encrypted>,
}

impl Ingredients<'_> {
    pub(super) fn into_state(self) -> State {
        let Self {
            config,
            policy,
            signing: keys,
            store,
            judge,
            events,
            announce,
            view,
            sharing,
            appender,
            metrics,
            log,
            mirror,
            custody,
            retire,
            couriers,
            stamps,
            hsm,
            encrypted,
        } = self;
        let issuing = config.signing.as_ref().map(|signing| Issuing {
            own: signing.issuer,
            allow_list: config.issuers[signing.issuer].revocation.allow_list,
            sign_timeout: signing.sign_timeout,
            policy: IssuePolicy {
                default_audiences: signing.default_audience.iter().cloned().collect(),
                default_ttl_s: signing.default_ttl_s,
                max_ttl_s: config.issuers[signing.issuer].max_lifetime_s,
            },
            status_list: signing
                .status_list
                .clone()
                .map(|config::StatusList { uri, capacity }| StatusListPolicy { uri, capacity }),
        });
        let (dir, watch) = (config.audit.dir.clone(), log.watch());
        let seen = Arc::clone(&view);
        let strictness = Strictness::of(config);
        let standings = couriers.standings();
        let (scraped, asked) = (hsm.clone(), hsm.clone());
        let (stamps_scraped, stamps_asked) = (stamps.clone(), stamps);
        let tls = encrypted.map(|encrypted| encrypted.in_control(config.file.clone(), hsm.clone()));
        let (encrypted_asked, next_key) =
            (tls.clone(), config.file.clone().map(|file| keys::next_checkpoint_key(file, hsm.clone())));
        let unlock = hsm.map(|hsm| -> control::Unlock {
            Arc::new(move |pin| hsm.unlock(pin).map_err(|error| error.to_string()))
        });
        State {
            issuing,
            keys,
            issuers: policy.profiles.clone(),
            store,
            view,
            judge,
            sharing,
            events,
            announce,
            appender,
            tags: log.tags(),
            sealed_keys: log.sealed_keys(),
            witnessing: couriers.witnessing(config, log),
            verify_chain: Arc::new(move || verify_chain(&dir, &watch)),
            custody,
            retire,
            checkpoint_key: next_key.and_then(|next| Some(KeyChange { handovers: log.handovers()?, next })),
            tls,
            own_log: OwnLog { origin: config.audit.origin.clone(), dir: config.audit.dir.clone() },
            eraser: log.eraser(),
            metrics: Arc::new(move |out| {
                out.push_str(metrics.render().trim_end_matches("# EOF\n"));
                if let Some(hsm) = &scraped {
                    hsm_metrics::render(hsm, out);
                }
                if let Some(stamps) = &stamps_scraped {
                    stamps.render(out);
                }
            }),
            unlock,
            // The control plane asks its own appender and store how they are.
            readiness: Arc::new(move || {
                let tokens = asked.iter().map(|hsm| hsm_dependency(hsm));
                let mirrors = mirror.iter().map(mirroring::dependency);
                std::iter::once(revocation_dependency(&seen, strictness))
                    .chain(tokens)
                    .chain(mirrors)
                    .chain(witnesses::dependencies(&standings))
                    .chain(stamps_asked.iter().map(StampReader::dependency))
                    .chain(encrypted_asked.iter().map(tls::dependency))
                    .collect()
            }),
            host_names: config.control.allowed_hosts.iter().map(|name| name.to_ascii_lowercase()).collect(),
            now,
        }
    }
}

/// The longest a verification waits for the flush of what was recorded before it; then it looks at less.
const FLUSH_WAIT: Duration = Duration::from_secs(2);

/// Recomputes what of the running log is on the disk. Blocks for as long as reading it takes.
fn verify_chain(dir: &Path, log: &LogWatch) -> Result<ChainReport, String> {
    // What was recorded before the question is part of the answer: wait for its flush, which is under way.
    let asked_at = log.status().size;
    let deadline = Instant::now() + FLUSH_WAIT;
    while log.status().durable_size < asked_at && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    let keys = own_keys(dir).map_err(|error| error.to_string())?;
    if keys.is_empty() {
        return Err(format!("{} has no checkpoint.key any more: no signature can be checked", dir.display()));
    }
    let options = Options {
        keys,
        upto: Some(log.status().durable_size),
        // The running log's tail is younger than its next checkpoint; its own clock polices that.
        allow_unsigned: true,
        threads: 1,
        ..Options::default()
    };
    let report = verify_dir(dir, &options, &mut |_| {}).map_err(|error| error.to_string())?;
    Ok(ChainReport {
        records: report.records,
        head: report.head.as_ref().map(|hash| hex(hash)).unwrap_or_default(),
        first_break: report.breaks.first().map(|first| ChainBreak {
            seq: first.seq,
            segment: first.segment,
            offset: first.offset,
            class: first.class.name().to_owned(),
            detail: first.detail.clone(),
        }),
    })
}
