//! The mirror: what the audit log holds, sent on to a SIEM (syslog) and into a Redis stream as it becomes durable.
//!
//! A mirror is a reader of the log's files and nothing else: the shards and the log do not know of it, wait for nothing of
//! it, and lose nothing by its loss. Each target has a thread of its own (`mirror-syslog`, `mirror-redis`), which blocks.
//! What a target has is kept in a small file beside the log, and what it may lack is sent again: at least once, in order.
//! Where the log no longer has what a target lacks, that is stated in the mirror, in the log and to the operator.
//!
//! - `follower.rs`: from the log to one target; `target.rs`: what the targets have in common.
//! - `syslog.rs`: RFC 5424 over TLS (RFC 5425), TCP (RFC 6587 §3.4.1), UDP (RFC 5426) or a Unix socket.
//! - The Redis stream is [`crate::cluster::AuditStream`].

mod follower;
mod place;
mod status;
mod syslog;
mod target;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, bounded};

pub use status::{MirrorStatus, TargetName};

use crate::audit::{Appender, LogWatch};
use crate::cluster::AuditStream;
use crate::config;
use follower::Follower;
use status::Board;
use target::Target;

/// What a mirror works with.
pub struct Ingredients<'a> {
    /// Where it sends to.
    pub config: &'a config::Mirror,
    /// The log's folder.
    pub dir: PathBuf,
    /// The log's name.
    pub origin: String,
    /// Says how far the log is durable.
    pub log: LogWatch,
    /// A way into the log for each target, to state a gap.
    pub appenders: Vec<Appender>,
}

/// The running threads.
pub struct Mirror {
    // Dropped to stop them.
    stop: Sender<()>,
    threads: Vec<JoinHandle<()>>,
    boards: Vec<Arc<Board>>,
}

/// How many targets there are, and so how many appenders [`start`] needs.
#[must_use]
pub fn targets(config: &config::Mirror) -> u16 {
    u16::from(config.syslog.is_some()) + u16::from(config.redis.is_some())
}

/// Starts a thread for each target. Nothing is waited for: a target that is not there is lag.
///
/// # Errors
/// If a thread cannot be had.
pub fn start(ingredients: Ingredients<'_>) -> std::io::Result<Mirror> {
    let Ingredients { config, dir, origin, log, appenders } = ingredients;
    let (stop, stopped) = bounded(0);
    let mut mirror = Mirror { stop, threads: Vec::new(), boards: Vec::new() };
    let syslog = config.syslog.clone().map(Target::syslog);
    let redis = config.redis.clone().map(|redis| Target::Redis(Box::new(AuditStream::new(redis, &origin))));
    for (target, appender) in syslog.into_iter().chain(redis).zip(appenders) {
        let board = Arc::new(Board::new(target.name()));
        mirror.boards.push(Arc::clone(&board));
        let name = format!("mirror-{}", target.name().text());
        let (dir, log) = (dir.clone(), log.clone());
        let follower = Follower::new(dir, &origin, log, target, board, appender, stopped.clone());
        mirror.threads.push(std::thread::Builder::new().name(name).spawn(move || follower.run())?);
    }
    Ok(mirror)
}

impl Mirror {
    /// How each target is, now and later.
    #[must_use]
    pub fn watch(&self) -> Vec<MirrorWatch> {
        self.boards.iter().map(|board| MirrorWatch(Arc::clone(board))).collect()
    }

    /// Stops the threads. One that is held up by its target is left behind after a while: it only reads.
    pub fn stop(self) {
        drop(self.stop);
        let deadline = Instant::now() + STOP_TIMEOUT;
        for thread in self.threads {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() && thread.join().is_err() {
                tracing::error!("a thread of the audit mirror panicked");
            }
        }
    }
}

/// Sees how a target is. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MirrorWatch(Arc<Board>);

impl MirrorWatch {
    /// A look at it.
    #[must_use]
    pub fn status(&self) -> MirrorStatus {
        self.0.status()
    }
}

/// How long a stop waits for the threads.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
