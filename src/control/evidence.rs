//! The control plane's way into the audit log: append, then wait without blocking until the record is durable.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;

use super::error::{ApiError, ErrorKind};
use super::state::Witnessing;
use crate::audit::{Ack, Appender, AuditError, AuditFailure, Event, RecordId};

/// How long an action waits for its record to be durable. A flush takes milliseconds; a disk that needs longer than
/// this is as good as gone, and the client is told so.
const DURABLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Shared by all handlers. The lock is held for an append, never across an await.
pub(super) struct Evidence {
    appender: Arc<Mutex<Appender>>,
    progress: watch::Receiver<Progress>,
    witnessing: Option<Witnessing>,
}

/// How far the log has come with our records. Written by the pump.
#[derive(Debug, Clone, Default)]
struct Progress {
    durable: u64,
    /// Set once the writer is shut for good.
    failure: Option<AuditFailure>,
}

impl Evidence {
    /// Takes the appender over and starts the pump on the current runtime.
    pub(super) fn start(appender: Appender, witnessing: Option<Witnessing>) -> Self {
        let appender = Arc::new(Mutex::new(appender));
        let (sender, progress) = watch::channel(Progress::default());
        tokio::spawn(pump(Arc::clone(&appender), sender));
        Self { appender, progress, witnessing }
    }

    /// Records `event` and waits until it is durable.
    pub(super) async fn record(&self, event: &Event<'_>) -> Result<RecordId, AuditError> {
        let ids = self.record_all(std::slice::from_ref(event)).await?;
        Ok(ids[0])
    }

    /// As [`Self::conclude`], for one event.
    pub(super) async fn conclude_one(&self, event: &Event<'_>) -> Result<RecordId, AuditError> {
        let ids = self.conclude(std::slice::from_ref(event)).await?;
        Ok(ids[0])
    }

    /// Records `events` in one batch and waits until all of them are durable. Where one is refused, those before it may
    /// be in the log, which the caller must not act on.
    pub(super) async fn record_all(&self, events: &[Event<'_>]) -> Result<Vec<RecordId>, AuditError> {
        let ids = {
            let mut appender = lock(&self.appender);
            let ids = events.iter().map(|event| appender.append(event, Ack::Durable)).collect::<Vec<_>>();
            appender.submit();
            ids.into_iter().collect::<Result<Vec<_>, _>>()?
        };
        let Some(id) = ids.last().copied() else { return Ok(ids) };
        let mut progress = self.progress.clone();
        let durable =
            progress.wait_for(|progress| progress.durable >= id.core_seq || progress.failure.is_some());
        match tokio::time::timeout(DURABLE_TIMEOUT, durable).await {
            Ok(Ok(progress)) if progress.durable >= id.core_seq => Ok(ids),
            Ok(Ok(progress)) => match &progress.failure {
                Some(failure) => Err(AuditError::Refused(failure.clone())),
                None => Err(AuditError::DeadlinePassed),
            },
            // The pump lives as long as the runtime, which is running this.
            Ok(Err(_)) | Err(_) => Err(AuditError::DeadlinePassed),
        }
    }

    /// Records how an action ended, or that one is ordered that cannot be taken back, and waits until that is durable and, where
    /// the settings ask for it, under a checkpoint that a witness cosigned.
    pub(super) async fn conclude(&self, events: &[Event<'_>]) -> Result<Vec<RecordId>, AuditError> {
        let ids = self.record_all(events).await?;
        let Some(witnessing) = &self.witnessing else { return Ok(ids) };
        // All of them are among the durable records.
        let size = (witnessing.durable)();
        let mut witnessed = witnessing.witnessed.clone();
        match tokio::time::timeout(witnessing.timeout, witnessed.wait_for(|known| *known >= size)).await {
            Ok(Ok(_)) => Ok(ids),
            Ok(Err(_)) | Err(_) => Err(AuditError::NotWitnessed { size }),
        }
    }

    /// Why the log takes nothing from the control plane, if so.
    pub(super) fn failure(&self) -> Option<AuditFailure> {
        lock(&self.appender).failure()
    }
}

/// Turns the appender's one waker into progress that any number of handlers can wait for.
async fn pump(appender: Arc<Mutex<Appender>>, sender: watch::Sender<Progress>) {
    poll_fn(|context| {
        if sender.is_closed() {
            return Poll::Ready(());
        }
        let now = {
            let appender = lock(&appender);
            appender.register(context.waker());
            // A restriction that keeps shards out does not concern us; only a writer shut for good ends our waiting.
            let failure = appender.failure().filter(|failure| failure.kind.is_permanent());
            Progress { durable: appender.acknowledged(Ack::Durable), failure }
        };
        sender.send_if_modified(|progress| {
            let modified =
                progress.durable != now.durable || progress.failure.is_some() != now.failure.is_some();
            *progress = now;
            modified
        });
        Poll::Pending
    })
    .await;
}

fn lock(appender: &Mutex<Appender>) -> MutexGuard<'_, Appender> {
    appender.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a client is told. The details are for the operator: in the log, not in the answer.
pub(super) fn unavailable(error: &AuditError, consequence: &str) -> ApiError {
    tracing::error!(%error, consequence, "audit log unavailable to the control plane");
    if let AuditError::NotWitnessed { .. } = error {
        let description = format!("it is on record, and no witness has cosigned that in time; {consequence}");
        return ApiError::new(ErrorKind::WitnessUnavailable, description);
    }
    let cause = match error {
        AuditError::QueueFull => "the audit log's queue is full",
        AuditError::DeadlinePassed => "the audit log did not confirm within 5 seconds",
        _ => "the audit log takes no records",
    };
    ApiError::new(ErrorKind::AuditUnavailable, format!("{cause}; {consequence}"))
}
