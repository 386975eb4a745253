//! The thread `audit-witness`, one per witness: takes each published checkpoint there, and says how that goes.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::client::{Anchored, Submitted, Submitter};
use crate::audit::merkle::CompactRange;
use crate::audit::{Conviction, Published, Subscription, Taken};

/// The first pause after a witness gave no answer; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How long one wait for a checkpoint takes.
const TAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// How a witness and this log get on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Records of the last checkpoint it cosigned.
    pub size: u64,
    /// When, by the witness's clock, in seconds since 1970; 0: never.
    pub time: u64,
    /// Why there was no answer to the last one, if so.
    pub problem: Option<String>,
    /// Checkpoints it cosigned since the start.
    pub cosigned: u64,
    /// Submissions that failed since the start.
    pub failed: u64,
    /// How often it had forgotten what it had cosigned.
    pub forgot: u64,
}

/// Reads a [`Standing`]. Cheap to clone.
#[derive(Clone)]
pub struct StandingReader {
    name: Arc<str>,
    standing: Arc<Mutex<Standing>>,
}

impl StandingReader {
    /// The witness's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is now.
    #[must_use]
    pub fn read(&self) -> Standing {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Standing)) {
        change(&mut self.standing.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Called with each checkpoint that was cosigned, once it is kept.
pub type OnAnchored = Box<dyn FnMut(&Anchored) + Send>;

/// The running thread.
pub struct Courier {
    subscription: Subscription,
    thread: JoinHandle<()>,
    standing: StandingReader,
}

impl Courier {
    /// Starts it: what is published at `subscription` goes through `submitter`; a rollback goes to `conviction`.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(
        submitter: Submitter,
        subscription: Subscription,
        conviction: Conviction,
        on_anchored: OnAnchored,
    ) -> std::io::Result<Self> {
        let kept = submitter.kept();
        let standing = Standing {
            size: kept.map_or(0, |(checkpoint, _)| checkpoint.size),
            time: kept.map_or(0, |(_, cosigned)| cosigned.time),
            ..Standing::default()
        };
        let name = submitter.witness().key.name.as_str().into();
        let standing = StandingReader { name, standing: Arc::new(Mutex::new(standing)) };
        let run = Run {
            submitter,
            subscription: subscription.clone(),
            conviction,
            on_anchored,
            standing: standing.clone(),
        };
        let thread = std::thread::Builder::new().name("audit-witness".to_owned()).spawn(move || run.run())?;
        Ok(Self { subscription, thread, standing })
    }

    /// How it goes.
    #[must_use]
    pub fn standing(&self) -> StandingReader {
        self.standing.clone()
    }

    /// Tells it to stop.
    pub fn close(&self) {
        self.subscription.close();
    }

    /// Stops it, after the exchange under way.
    pub fn stop(self) {
        self.subscription.close();
        // It ends by returning; a panic aborts the process.
        let _ = self.thread.join();
    }
}

struct Run {
    submitter: Submitter,
    subscription: Subscription,
    conviction: Conviction,
    on_anchored: OnAnchored,
    standing: StandingReader,
}

impl Run {
    fn run(mut self) {
        // The records since the last checkpoint that was cosigned, as far as they came by.
        let mut since: Option<CompactRange> = None;
        let mut waiting: Option<String> = None;
        let mut pause = PAUSE_MIN;
        loop {
            // While one waits for its second try a newer one may take its place, and then waits in its stead.
            let timeout = if waiting.is_some() { Duration::ZERO } else { TAKE_TIMEOUT };
            match self.subscription.take(timeout) {
                Taken::Closed => return,
                Taken::Nothing => {}
                Taken::Published(Published { note, since: more }) => {
                    since = Some(more.after(since.take()));
                    waiting = Some(note);
                }
            }
            let Some(note) = &waiting else { continue };
            match self.submitter.submit(note, since.as_ref()) {
                Submitted::Cosigned(anchored) => {
                    (since, waiting, pause) = (None, None, PAUSE_MIN);
                    self.anchored(&anchored);
                }
                Submitted::Away(cause) => {
                    self.away(cause);
                    if self.subscription.pause(pause) {
                        return;
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Submitted::RolledBack(cause) => {
                    tracing::error!(cause, "ROLLBACK: the log is shut for good");
                    self.standing.change(|standing| standing.problem = Some(format!("ROLLBACK: {cause}")));
                    if let Err(error) = self.conviction.roll_back(&cause) {
                        tracing::error!(%error, "the next start has to be told again");
                    }
                    return;
                }
            }
        }
    }

    fn anchored(&mut self, anchored: &Anchored) {
        let Anchored { checkpoint, cosigned, forgot, .. } = anchored;
        let witness = self.standing.name();
        if self.standing.read().problem.is_some() {
            tracing::info!(witness, size = checkpoint.size, "the witness cosigns again");
        }
        if let Some(size) = forgot {
            tracing::error!(
                witness,
                size,
                "the witness had forgotten a checkpoint that it had cosigned: it was rolled back itself"
            );
        }
        self.standing.change(|standing| {
            standing.size = checkpoint.size;
            standing.time = cosigned.time;
            standing.problem = None;
            standing.cosigned += 1;
            standing.forgot += u64::from(forgot.is_some());
        });
        (self.on_anchored)(anchored);
    }

    fn away(&self, cause: String) {
        if self.standing.read().problem.as_ref() != Some(&cause) {
            tracing::warn!(witness = self.standing.name(), cause, "no word from the witness");
        }
        self.standing.change(|standing| {
            standing.problem = Some(cause);
            standing.failed += 1;
        });
    }
}
