//! The verification engine as the daemon keeps it: tables within their budget, and the shadow's alarm.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{RecvTimeoutError, Sender, bounded};

use super::StartError;
use crate::audit::{Ack, AdminEvent, Appender, Event, Phase, hex};
use crate::config::{self, Config};
use crate::metrics::Reading;
use crate::verify::{Disagreement, Engine, Shadow, Tables, Verifier};

/// How often the tables go to the keys used most.
const REBALANCE_INTERVAL: Duration = Duration::from_secs(1);

/// The engine's own threads.
pub(super) struct EngineCare {
    engine: Engine,
    shadow: Option<Arc<Shadow>>,
    stop: Sender<()>,
    rebalancing: JoinHandle<()>,
}

impl EngineCare {
    /// Applies the settings to the process's tables. Before any key is registered.
    pub(super) fn prepare(config: &Config) {
        let tables = Tables::of_process();
        tables.set_budget_bytes(config.verify.table_budget_bytes);
        tables.set_engine(engine(config));
    }

    /// Starts the shadow, if a share of verdicts is to be checked, and the care for the tables. `appender` records
    /// what the shadow finds.
    pub(super) fn start(config: &Config, appender: Appender) -> Result<Self, StartError> {
        let failed = |error| StartError::System { what: "start the engine's threads", error };
        let shadow = if config.verify.shadow_rate > 0.0 {
            let appender = Mutex::new(appender);
            let alarm = move |found: &Disagreement| raise_alarm(&appender, found);
            let shadow =
                Shadow::start(config.verify.shadow_rate, Tables::of_process(), alarm).map_err(failed)?;
            Some(Arc::new(shadow))
        } else {
            None
        };
        let (stop, stopped) = bounded(0);
        let rebalancing = std::thread::Builder::new()
            .name("verify-tables".to_owned())
            .spawn(move || {
                while stopped.recv_timeout(REBALANCE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    Tables::of_process().rebalance();
                }
            })
            .map_err(failed)?;
        Ok(Self { engine: engine(config), shadow, stop, rebalancing })
    }

    /// A verifier for one shard.
    pub(super) fn verifier(&self) -> Result<Verifier, StartError> {
        match &self.shadow {
            Some(shadow) => Verifier::with_shadow(self.engine, shadow)
                .map_err(|error| StartError::System { what: "get random bytes", error }),
            None => Ok(Verifier::new(self.engine)),
        }
    }

    /// What the shadow has to say, for metrics.
    #[expect(clippy::cast_precision_loss, reason = "a counter may be rounded above 2^53")]
    pub(super) fn readings(&self) -> Vec<Reading> {
        let Some(shadow) = &self.shadow else { return Vec::new() };
        let reading = |name, help, read: fn(&Shadow) -> u64| {
            let shadow = Arc::clone(shadow);
            Reading { name, help, counter: true, read: Box::new(move || read(&shadow) as f64) }
        };
        vec![
            reading("shadow_checked", "Verdicts made again by other code", Shadow::checked),
            reading("shadow_dropped", "Samples the shadow had no time for", Shadow::dropped),
            reading(
                "shadow_disagreements",
                "Verdicts other code contradicts: an alarm",
                Shadow::disagreements,
            ),
        ]
    }

    pub(super) fn stop(self) {
        drop(self.stop);
        // It ends at once: nothing in it can fail.
        let _ = self.rebalancing.join();
    }
}

pub(super) fn engine(config: &Config) -> Engine {
    match config.verify.engine {
        config::Engine::Auto => Engine::Auto,
        config::Engine::Portable => Engine::Portable,
    }
}

fn raise_alarm(appender: &Mutex<Appender>, found: &Disagreement) {
    let Disagreement { engine, accepted, key } = found;
    let verdict = if *accepted { "accepted" } else { "refused" };
    tracing::error!(engine, verdict, key = %hex(key), "other code contradicts a verdict: the portable engine takes over");
    let detail = format!("{engine} {verdict} a signature of {}; ed25519-dalek did the opposite", hex(key));
    let event = Event::Admin(AdminEvent {
        phase: Phase::Done,
        actor: "edgate",
        action: "verify.shadow_disagreement",
        target: engine,
        detail: &detail,
        intent: None,
    });
    let mut appender = appender.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = appender.append(&event, Ack::Durable) {
        tracing::error!(%error, "cannot record the disagreement");
    }
    appender.submit();
}
