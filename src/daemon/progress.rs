//! Progress of the load at start, which takes seconds with millions of revocations.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::store::LoadProgress;

/// A bar on a terminal, a line now and then in a journal.
pub(super) struct Loading {
    bar: ProgressBar,
    terminal: bool,
    began: Instant,
    told: std::cell::Cell<Instant>,
}

impl Loading {
    pub(super) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        if let Ok(style) =
            ProgressStyle::with_template("loading revocations {bar:30} {human_pos}/{human_len} {eta}")
        {
            bar.set_style(style);
        }
        let began = Instant::now();
        Self { bar, terminal, began, told: std::cell::Cell::new(began) }
    }

    pub(super) fn show(&self, progress: LoadProgress) {
        // A load that is over at once is not worth a word.
        if self.began.elapsed() < QUIET {
            return;
        }
        if self.terminal {
            self.bar.set_length(progress.total);
            self.bar.set_position(progress.loaded);
        } else if self.told.get().elapsed() >= PAUSE {
            self.told.set(Instant::now());
            tracing::info!(loaded = progress.loaded, total = progress.total, "loading revocations");
        }
    }

    pub(super) fn done(&self) {
        self.bar.finish_and_clear();
    }
}

/// How long a load may take before it is spoken of.
const QUIET: Duration = Duration::from_millis(500);

/// Time between lines in a journal.
const PAUSE: Duration = Duration::from_secs(2);
