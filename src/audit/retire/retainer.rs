//! Retention of a running log: the turns of [`Retirement`] with its records and its checkpoints.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Means, Order, RetireError, Retirement, Turn};
use crate::audit::{
    appender::{Ack, Appender},
    archive::ARCHIVE_LOCK,
    error::AuditError,
    event::{Event, RetireEvent},
    folder::Folder,
    hold::Holds,
    real::{Lock, RealMedium, SinkKind},
    status::Progress,
};

/// Retires segments of one running log. Blocks, and belongs to a thread that nobody waits for.
pub struct Retainer {
    pub(in crate::audit) folder: Arc<Folder>,
    pub(in crate::audit) dir: PathBuf,
    pub(in crate::audit) progress: Arc<Progress>,
    pub(in crate::audit) appender: Appender,
    pub(in crate::audit) retirement: Retirement,
}

impl Retainer {
    /// Reads what the log says about holds and retirements, which at first takes as long as reading all of it: nobody has to wait
    /// for that.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn catch_up(&mut self) -> Result<(), RetireError> {
        let read = self.retirement.catch_up(&self.folder);
        read.map_err(|source| RetireError::Io { what: "read the log", source })
    }

    /// Retires a few of the segments that are due, with archives in `place`. Whoever places holds must not do so meanwhile.
    ///
    /// # Errors
    /// [`RetireError`]: then nothing more is removed, and the next turn goes on where this one stopped.
    pub fn turn(&mut self, place: &Path, order: &Order<'_>) -> Result<Turn, RetireError> {
        if !place.is_dir() {
            return Err(RetireError::NoPlace { path: place.to_owned() });
        }
        let _alone = Lock::take_named(&self.dir, ARCHIVE_LOCK)?;
        let _lock = Lock::take_named(place, ARCHIVE_LOCK)?;
        let holds = Holds::load(&self.dir).map_err(crate::audit::hold::HoldError::File)?;
        let Self { folder, progress, appender, retirement, .. } = self;
        let mut means = Means {
            folder,
            place: &RealMedium::new(place, SinkKind::Pwrite),
            holds: &holds,
            signed_size: progress.status(None).signed_size,
            record: &mut |events| record(appender, progress, events),
        };
        retirement.turn(&mut means, order)
    }
}

/// Puts the events on record and waits until a signed checkpoint covers them.
fn record(
    appender: &mut Appender,
    progress: &Progress,
    events: &[RetireEvent<'_>],
) -> Result<(), AuditError> {
    let mut last = None;
    for event in events {
        last = Some(appender.append(&Event::Retire(*event), Ack::Durable)?);
    }
    appender.submit();
    let Some(last) = last else { return Ok(()) };
    appender.wait(last, Ack::Durable, SIGNED_WAIT)?;
    let size = progress.durable_to_be_signed();
    let deadline = Instant::now() + SIGNED_WAIT;
    while progress.status(None).signed_size < size {
        if let Some(failure) = appender.failure() {
            return Err(AuditError::Refused(failure));
        }
        if Instant::now() >= deadline {
            return Err(AuditError::DeadlinePassed);
        }
        // The sealer signs on its own cadence and rings for nobody.
        std::thread::sleep(SIGNED_LOOK);
    }
    Ok(())
}

/// The longest a checkpoint is waited for. After that the segments stay, and the next turn removes them.
const SIGNED_WAIT: Duration = Duration::from_secs(60);

/// How often it is looked for.
const SIGNED_LOOK: Duration = Duration::from_millis(20);
