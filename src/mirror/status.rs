//! How a target is: what operators and metrics see.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Which target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetName {
    /// A syslog receiver.
    Syslog,
    /// A Redis stream.
    Redis,
}

impl TargetName {
    /// The word in file names, thread names and records.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Syslog => "syslog",
            Self::Redis => "redis",
        }
    }
}

/// A look at a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorStatus {
    /// Which one.
    pub target: TargetName,
    /// Whether there is a connection.
    pub connected: bool,
    /// Records sent since the start; those sent again count again.
    pub sent: u64,
    /// Durable records that the target was not sent yet.
    pub lag: u64,
    /// Times that a connection was lost or not had.
    pub failures: u64,
    /// Records that could not be sent, because the log no longer had them.
    pub missing: u64,
    /// What is wrong now, if something is.
    pub error: Option<String>,
}

/// Written by a target's thread, read by whoever looks.
#[derive(Debug)]
pub(super) struct Board {
    target: TargetName,
    connected: AtomicBool,
    sent: AtomicU64,
    lag: AtomicU64,
    failures: AtomicU64,
    missing: AtomicU64,
    error: Mutex<Option<String>>,
}

impl Board {
    pub(super) fn new(target: TargetName) -> Self {
        let zero = || AtomicU64::new(0);
        let (connected, error) = (AtomicBool::new(false), Mutex::new(None));
        Self { target, connected, sent: zero(), lag: zero(), failures: zero(), missing: zero(), error }
    }

    pub(super) fn connected(&self) {
        self.connected.store(true, Ordering::Relaxed);
        let error = self.error.lock().unwrap_or_else(PoisonError::into_inner).take();
        if error.is_some() {
            tracing::info!(target = self.target.text(), "the audit mirror is connected again");
        }
    }

    /// Said once for each thing that is wrong, not at each try.
    pub(super) fn failed(&self, error: String) {
        self.connected.store(false, Ordering::Relaxed);
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut known = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref() != Some(&error) {
            tracing::warn!(target = self.target.text(), %error, "the audit mirror falls behind; the log does not wait for it");
            *known = Some(error);
        }
    }

    pub(super) fn sent(&self, records: u64) {
        self.sent.fetch_add(records, Ordering::Relaxed);
    }

    pub(super) fn lag(&self, records: u64) {
        self.lag.store(records, Ordering::Relaxed);
    }

    pub(super) fn missing(&self, records: u64) {
        self.missing.fetch_add(records, Ordering::Relaxed);
    }

    pub(super) fn status(&self) -> MirrorStatus {
        MirrorStatus {
            target: self.target,
            connected: self.connected.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            lag: self.lag.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            missing: self.missing.load(Ordering::Relaxed),
            error: self.error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
