//! The thread that retires old segments of the audit log: by the policy of the settings, and when an operator orders it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use super::StartError;
use crate::audit::Log;
use crate::audit::retire::{Kept, Order, Retainer, Turn};
use crate::config::Config;
use crate::control::{Custody, Retire, RetireOrder};

/// The thread, and the way to it.
pub(super) struct RetentionThread {
    asks: SyncSender<Ask>,
    thread: JoinHandle<()>,
}

enum Ask {
    Retire(RetireOrder, SyncSender<Result<Turn, String>>),
    Stop,
}

struct Keeping {
    retainer: Retainer,
    place: PathBuf,
    hot: Option<Duration>,
    custody: Custody,
}

impl RetentionThread {
    /// Starts it, where the settings say where archives go.
    pub(super) fn start(config: &Config, log: &Log, custody: &Custody) -> Result<Option<Self>, StartError> {
        let retention = &config.audit.retention;
        let (Some(place), Some(retainer)) = (retention.destination.clone(), log.retainer()) else {
            return Ok(None);
        };
        let keeping = Keeping { retainer, place, hot: retention.hot, custody: Arc::clone(custody) };
        let (asks, asked) = sync_channel(ASKS_MAX);
        let thread = std::thread::Builder::new()
            .name("audit-retain".to_owned())
            .spawn(move || keeping.run(&asked))
            .map_err(|error| StartError::System { what: "start the thread of retention", error })?;
        Ok(Some(Self { asks, thread }))
    }

    /// Orders a turn and waits for it.
    pub(super) fn retire(&self) -> Retire {
        let asks = self.asks.clone();
        Arc::new(move |order| {
            let (answer, answered) = sync_channel(1);
            asks.try_send(Ask::Retire(order, answer))
                .map_err(|_| "retention is busy; ask again in a minute".to_owned())?;
            answered.recv().unwrap_or_else(|_| Err("the node is stopping".to_owned()))
        })
    }

    /// Ends it after the turn that is under way.
    pub(super) fn stop(self) {
        let _ = self.asks.send(Ask::Stop);
        let _ = self.thread.join();
    }
}

impl Keeping {
    fn run(mut self, asks: &Receiver<Ask>) {
        // Whatever else runs on this machine comes first. Refused, it runs as any other thread.
        let _ = rustix::process::nice(NICE);
        let mut wait = Duration::ZERO;
        loop {
            match asks.recv_timeout(wait) {
                Ok(Ask::Retire(order, answer)) => {
                    let done = self.turn(order.before_ns, &order.authority, &order.reason);
                    // Whoever asked may be gone.
                    let _ = answer.send(done);
                }
                Ok(Ask::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => wait = self.follow_policy(),
            }
        }
    }

    /// Does one turn of what the settings ask for; returns when to look again.
    fn follow_policy(&mut self) -> Duration {
        let Some(hot) = self.hot else { return LOOK_INTERVAL };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let before = u64::try_from(now.saturating_sub(hot).as_nanos()).unwrap_or(0);
        let reason = format!("older than {} days", hot.as_secs() / 86_400);
        match self.turn(before, "audit.retention", &reason) {
            Ok(turn) if turn.more => Duration::ZERO,
            // As long as the first checkpoint after a start takes.
            Ok(Turn { kept: Some((_, Kept::Unsigned)), .. }) => UNSIGNED_INTERVAL,
            Ok(turn) => {
                if let Some((segment, why)) = turn.kept {
                    tracing::info!(segment, %why, "an old audit segment stays");
                }
                LOOK_INTERVAL
            }
            Err(problem) => {
                tracing::error!(problem, "old audit segments stay");
                RETRY_INTERVAL
            }
        }
    }

    fn turn(&mut self, before_ns: u64, authority: &str, reason: &str) -> Result<Turn, String> {
        // Holds wait for the turn, not for this; what cannot be read now, the turn reads again, and says so.
        let _ = self.retainer.catch_up();
        let _custody = self.custody.blocking_lock();
        let turn = self
            .retainer
            .turn(&self.place, &Order { before_ns, authority, reason })
            .map_err(|error| error.to_string())?;
        for one in &turn.retired {
            tracing::info!(
                segment = one.segment,
                records = one.records,
                authority,
                reason,
                "audit segment retired"
            );
        }
        Ok(turn)
    }
}

/// Orders that may wait.
const ASKS_MAX: usize = 4;

/// How often the policy is followed: segments are as old as hours, not as seconds.
const LOOK_INTERVAL: Duration = Duration::from_secs(3600);

/// How soon it looks again for a checkpoint.
const UNSIGNED_INTERVAL: Duration = Duration::from_secs(2);

/// How soon it is tried again after a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(300);

/// The lowest priority there is.
const NICE: i32 = 19;
