//! Start-up and shutdown, in order.
//!
//! Up: settings, state database, keys, policy, audit log (recovered), revocations into the view, sockets, shards,
//! control plane, the START record on disk, "ready". Down: "stopping", shards drained, control plane stopped, the STOP
//! record, the log closed. Every step's failure is its own [`StartError`].

mod anchors;
mod audit_log;
mod control_thread;
mod dev;
mod engine;
mod hsm;
pub mod hsm_agent;
mod hsm_metrics;
mod judge;
mod key_rings;
mod keys;
mod lists;
mod mirroring;
mod observe;
mod progress;
mod release;
mod retention;
mod revocation;
mod sealing;
mod shards;
mod signing_keys;
mod softhsm;
mod start_error;
mod timestamps;
mod tls;
mod transmitters;
mod witnesses;
mod wrapping;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use edgate_hsm::{Group, Purpose, SoftwareKey};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::audit::{self, Ack, Appender, AuditError, Event, Log, StopEvent};
use crate::config::{self, Config, KeyPlace, Listen};
use crate::control;
use crate::decision::UnixSeconds;
use crate::keys::KilledKeys;
use crate::metrics::{Metrics, ShardMetrics};
use crate::mirror::{self, Mirror};
use crate::shard::{self, Policy, Waits};
use crate::status_list::Fetcher;
use crate::store::{OpenMode, Store, StoreError};
use crate::tls::Acceptor;
use crate::verify::{Engine, Verifier};

pub use audit_log::set_aside;
pub(crate) use judge::judge;
pub use keys::open_checkpoint_signer;
pub use release::release_checks;
pub use softhsm::prepare as prepare_softhsm;
pub use start_error::StartError;
pub use wrapping::{LentWrap, open_tag_key_wrap};

use anchors::Anchors;
use audit_log::{audit_settings, halt, on_failure, record_erasures, record_start, report_recovery};
use control_thread::{ControlThread, Ingredients};
use engine::EngineCare;
use keys::NodeKeys;
use observe::{Strictness, cluster_readings, data_readiness, readings};
use retention::RetentionThread;
use revocation::{RegistrarThread, Revoking, open_view};
use shards::spawn_shard;
use signing_keys::StoredKeys;
use timestamps::TimestampThread;
use witnesses::{Couriers, Witnesses};

/// How long start and stop records may take to reach the disk.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);

/// How the daemon is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Everything in one folder, created at the first run.
    Dev {
        /// The folder.
        dir: PathBuf,
    },
    /// As a service: a missing file is an error.
    Service,
}

/// Sends log lines to standard error; journald takes them from there. `EDGATE_LOG` filters them.
pub fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("EDGATE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,sqlx=warn"));
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // A second call changes nothing: tests run several daemons in one process.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal)
        .with_target(false)
        .try_init();
}

/// Checks everything `serve` would check before it opens anything for writing; returns a summary.
///
/// # Errors
/// What `serve` would refuse.
pub fn check(config: &Config) -> Result<String, StartError> {
    let runtime = control_runtime()?;
    let own = NodeKeys::check(config, |place| signing_keys::is_known_place(&runtime, config, place))?;
    let own = shard::OwnKeys { keys: own, ..shard::OwnKeys::default() };
    let policy = Policy::build(config, &own, KilledKeys::default(), 1)?;
    let (issuers, keys) = (policy.profiles.len(), policy.key_set.len());
    transmitters::hearing(config, Verifier::new(Engine::Portable))?;
    lists::sources(config, &Arc::new(ArcSwap::from_pointee(policy)))?;
    if !config.database.is_file() {
        return Err(StoreError::Missing { path: config.database.clone() }.into());
    }
    if !config.audit.dir.is_dir() {
        return Err(AuditError::NotFound { path: config.audit.dir.clone() }.into());
    }
    audit_settings(config, false).check()?;
    tls::check(config)?;
    sealing::of(config)?;
    // Which key the log has makes no difference to what is checked here.
    Witnesses::of(config, [0; 32])?;
    timestamps::check(config)?;
    let listen: Vec<String> = config.server.listen.iter().map(Listen::to_string).collect();
    Ok(format!(
        "ok: {issuers} issuers, {keys} keys, {} shards on {}, control on {}",
        config.server.shards,
        listen.join(", "),
        config.control.listen
    ))
}

/// Creates the signing key, the state database and the audit log, as far as they are missing; returns what it made.
///
/// # Errors
/// What cannot be created; what exists is never touched.
pub fn init(config: &Config) -> Result<Vec<PathBuf>, StartError> {
    let mut created = Vec::new();
    // Keys in a token are made by `edgate hsm keygen` and by nothing else.
    let signing = config.signing.iter().flat_map(|signing| &signing.keys);
    let signing = signing.map(|place| (place, Purpose::TokenSigning));
    for (place, purpose) in signing.chain([(&config.audit.checkpoint_key, Purpose::AuditCheckpoint)]) {
        if let KeyPlace::File(path) = place
            && !path.exists()
        {
            SoftwareKey::create(path, purpose)?;
            created.push(path.clone());
        }
    }
    if !config.database.exists() {
        control_runtime()?.block_on(async {
            Store::open(&config.database, OpenMode::Create).await?.close().await;
            Ok::<_, StoreError>(())
        })?;
        created.push(config.database.clone());
    }
    if !config.audit.dir.exists() {
        let (signer, hsm) = open_checkpoint_signer(config)?;
        let tag_wrap = wrapping::of(config, hsm.as_deref())?;
        let settings = audit::Settings { tag_wrap, ..audit_settings(config, true) };
        let opened = audit::open_signed(&settings, 0, Some(signer))?;
        opened.log.close(RECORD_TIMEOUT)?;
        created.push(config.audit.dir.clone());
    }
    Ok(created)
}

/// Runs the daemon until SIGTERM or SIGINT; with `json`, one line with its addresses is printed once it is ready.
///
/// # Errors
/// [`StartError`] if it does not start or does not end well.
pub fn serve(config: &Config, mode: &Mode, json: bool) -> Result<(), StartError> {
    if let Mode::Dev { dir } = mode {
        dev::make_folder(dir)?;
        init(config)?;
    }
    // Before any thread: handlers are the process's.
    let mut signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|error| StartError::System { what: "handle signals", error })?;
    let daemon = Daemon::start(config)?;
    if json {
        let data: Vec<String> = daemon.listening.iter().map(Listen::to_string).collect();
        println!("{}", serde_json::json!({"ready": true, "data": data, "control": daemon.control_at}));
    } else if let Mode::Dev { dir } = mode {
        dev::greet(&daemon, dir);
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let signal = signals.forever().next().unwrap_or(SIGTERM);
    tracing::info!(signal = signal_hook::low_level::signal_name(signal).unwrap_or("?"), "stopping");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    daemon.stop(signal_hook::low_level::signal_name(signal).unwrap_or("signal"))
}

/// A running daemon.
pub struct Daemon {
    /// Where callers can connect, with the ports the kernel chose.
    pub listening: Vec<Listen>,
    /// Where operators can connect.
    pub control_at: std::net::SocketAddr,
    steering: Arc<shard::Control>,
    // Accepts and shakes hands, where some listener speaks TLS.
    acceptor: Option<Acceptor>,
    shards: Vec<(u16, JoinHandle<std::io::Result<()>>)>,
    registrar: RegistrarThread,
    // Fetches other issuers' status lists, where some have any.
    fetcher: Option<Fetcher>,
    control: ControlThread,
    // Retires old segments, where there is a place for their archives.
    retention: Option<RetentionThread>,
    care: EngineCare,
    couriers: Couriers,
    // Has checkpoints stamped, where an authority is named.
    stamping: Option<TimestampThread>,
    log: Log,
    mirror: Mirror,
    recorder: Appender,
    // Closed last: the log's last checkpoint is signed through it.
    hsm: Option<Arc<Group>>,
}

impl Daemon {
    /// Brings everything up, in order; when it returns, decisions are being made.
    ///
    /// # Errors
    /// The step that failed; whatever was started before it is stopped with the process.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        EngineCare::prepare(config);
        let NodeKeys { hsm, checkpoint } = NodeKeys::open(config)?;
        let runtime = control_runtime()?;
        let store = runtime.block_on(Store::open(&config.database, OpenMode::Existing))?;
        let signing = runtime.block_on(StoredKeys::load(config, &store, hsm.as_ref()))?;
        let policy = Policy::build(config, &signing.published()?, signing.killed(config), 1)?;
        tracing::info!(issuers = policy.profiles.len(), keys = policy.key_set.len(), "policy loaded");
        let view = open_view(config, &store, &runtime)?;

        // One ring for each shard, for the daemon, for the engine's alarms, for anchors, for the mirror's targets, and for the
        // control plane.
        let shards = config.server.shards;
        let mirrored = mirror::targets(&config.audit.mirror);
        let mut witnesses = Witnesses::of(config, checkpoint.verifying_key)?;
        timestamps::check(config)?;
        let tag_wrap = wrapping::of(config, hsm.as_deref())?;
        let settings =
            audit::Settings { sealing: sealing::of(config)?, tag_wrap, ..audit_settings(config, false) };
        let rings = shards + mirrored + 3;
        let opened = audit::open_vouched(&settings, rings, Some(checkpoint), &mut |dir| witnesses.ask(dir))?;
        report_recovery(&opened.recovery);
        if let Some(reason) = opened.log.unmapped_because() {
            tracing::warn!(reason, "audit segments are written with pwrite");
        }
        let audit::Opened { log, mut appenders, recovery } = opened;
        let control_appender = appenders.pop().expect("the last ring is the control plane's");
        let mirror = mirroring::start(config, &log, &mut appenders)?;
        let anchors = Anchors::new(appenders.pop().expect("three more rings were asked for"));
        let couriers = witnesses.start(&log, &anchors)?;
        let stamping = TimestampThread::start(config, &log, anchors)?;
        let care = EngineCare::start(config, appenders.pop().expect("three more rings were asked for"))?;
        let mut recorder = appenders.pop().expect("three more rings were asked for");

        let encrypted = tls::Encrypted::prepare(config, hsm.as_ref())?;
        let bound = shard::bind(&config.server.listen, shards)?;
        let listening = bound.places;
        let driver = shard::choose_driver(config.server.driver)
            .map_err(|error| StartError::Shard { number: 0, error })?;
        let metrics: Vec<Arc<ShardMetrics>> = (0..shards).map(|_| Arc::default()).collect();
        let policy = Arc::new(ArcSwap::from_pointee(policy));
        let strictness = Strictness::of(config);
        let steering = Arc::new(shard::Control::new(
            data_readiness(log.watch(), Arc::clone(&view), strictness, hsm.clone(), couriers.standings()),
            halt,
        ));
        let ack = match config.audit.verify_ack {
            config::VerifyAck::Recorded => Ack::Recorded,
            config::VerifyAck::Durable => Ack::Durable,
        };

        let kernel = care.verifier()?.engine_name();
        record_start(&mut recorder, shards, &format!("{kernel}, {driver}"))?;
        record_erasures(&mut recorder, &recovery)?;
        signing.record(&mut recorder)?;

        let lists = lists::fetch(config, &policy, care.verifier()?)?;
        let announce = control::announce();
        let revoking = Revoking::start(config, &store, &view, &announce, &runtime)?;
        let sharing = revoking.sharing();

        let settings = Arc::new(config.server.clone());
        let mut threads = Vec::with_capacity(usize::from(shards));
        let mut doors = Vec::with_capacity(usize::from(shards));
        let parts = bound.sockets.into_iter().zip(appenders).zip(revoking.inquirers);
        for (number, ((sockets, appender), inquirer)) in (0..shards).zip(parts) {
            let (door, inbox) = crate::tls::inbox();
            doors.push(door);
            let parts = shard::Parts {
                number,
                sockets,
                inbox,
                settings: Arc::clone(&settings),
                policy: Arc::clone(&policy),
                view: Arc::clone(&view),
                appender,
                ack,
                ack_timeout: config.audit.ack_timeout,
                on_failure: on_failure(config),
                lists: lists.as_ref().map(|(cache, _)| Arc::clone(cache)),
                waits: Waits {
                    inquirer: Some(inquirer),
                    lookup_timeout: config.revocation.lookup_timeout,
                    epoch_wait: config.revocation.epoch_wait,
                },
                verifier: care.verifier()?,
                metrics: Arc::clone(&metrics[usize::from(number)]),
                control: Arc::clone(&steering),
            };
            threads.push((number, spawn_shard(parts, driver)?));
        }

        let acceptor = encrypted.as_ref().map(|encrypted| encrypted.accept(bound.tls, doors)).transpose()?;
        let of_redis = sharing.iter().flat_map(|sharing| cluster_readings(&sharing.status));
        let metrics = Metrics::new(
            metrics,
            readings(&log.watch())
                .into_iter()
                .chain(sealing::readings(&log.watch()))
                .chain(witnesses::readings(&couriers.standings()))
                .chain(care.readings())
                .chain(of_redis)
                .chain(encrypted.iter().flat_map(tls::Encrypted::readings))
                .chain(mirror.watch().iter().flat_map(mirroring::readings))
                .collect(),
        );
        let listener = std::net::TcpListener::bind(config.control.listen)
            .map_err(|error| StartError::ControlBind { address: config.control.listen, error })?;
        let control_at = listener.local_addr().map_err(StartError::Control)?;
        let custody = control::Custody::default();
        let retention = RetentionThread::start(config, &log, &custody)?;
        let ingredients = Ingredients {
            config,
            policy: &policy.load(),
            signing: signing.hand_over(config, &policy),
            store,
            judge: judge(Arc::clone(&policy), Arc::clone(&view), care.verifier()?),
            events: transmitters::hearing(config, care.verifier()?)?,
            announce,
            view,
            sharing,
            appender: control_appender,
            metrics,
            log: &log,
            mirror: mirror.watch(),
            retire: retention.as_ref().map(RetentionThread::retire),
            custody,
            couriers: &couriers,
            stamps: stamping.as_ref().map(TimestampThread::standing),
            hsm: hsm.clone(),
            encrypted: encrypted.as_ref(),
        };
        let control = ControlThread::spawn(runtime, listener, ingredients.into_state(), revoking.cluster)?;

        for place in &listening {
            tracing::info!(%place, "listening for load balancers");
        }
        tracing::info!(place = %control_at, "listening for operators");
        tracing::info!(shards, %driver, engine = kernel, "ready");
        let fetcher = lists.map(|(_, fetcher)| fetcher);
        Ok(Self {
            listening,
            control_at,
            steering,
            acceptor,
            shards: threads,
            registrar: revoking.registrar,
            fetcher,
            control,
            retention,
            care,
            couriers,
            stamping,
            log,
            mirror,
            recorder,
            hsm,
        })
    }

    /// Drains the shards, stops the control plane, records the stop and closes the log.
    ///
    /// # Errors
    /// If a shard ended badly or the log could not be closed.
    pub fn stop(mut self, reason: &str) -> Result<(), StartError> {
        drop(self.acceptor.take());
        self.steering.drain();
        shard::unlink(&self.listening);
        let mut failed = None;
        for (number, thread) in self.shards {
            if let Ok(Err(error)) = thread.join() {
                failed = Some(StartError::Shard { number, error });
            }
        }
        self.registrar.stop();
        if let Some(fetcher) = self.fetcher {
            fetcher.stop();
        }
        self.control.stop()?;
        if let Some(retention) = self.retention {
            retention.stop();
        }
        self.care.stop();
        self.couriers.stop();
        if let Some(stamping) = self.stamping {
            stamping.stop();
        }
        let stopped = self.recorder.append(&Event::Stop(StopEvent { reason }), Ack::Durable);
        self.recorder.submit();
        let stopped = stopped.and_then(|id| self.recorder.wait(id, Ack::Durable, RECORD_TIMEOUT));
        self.mirror.stop();
        self.log.close(RECORD_TIMEOUT)?;
        stopped?;
        drop(self.hsm);
        tracing::info!("stopped");
        failed.map_or(Ok(()), Err)
    }
}

fn control_runtime() -> Result<tokio::runtime::Runtime, StartError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("control")
        .build()
        .map_err(|error| StartError::System { what: "start the control runtime", error })
}

fn now() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs())
}
