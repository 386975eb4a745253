//! What the follower needs of a target, whichever it is.

use crate::audit::{GAP_KIND, Pair, unhex};
use crate::cluster::AuditStream;
use crate::config;
use crate::mirror::place::Place;
use crate::mirror::status::TargetName;
use crate::mirror::syslog::Syslog;

/// What is sent: a record, or the statement that some are missing.
pub(super) struct Line {
    /// Number of the record; of the last that is missing.
    pub(super) seq: u64,
    pub(super) pairs: Vec<Pair>,
}

impl Line {
    /// States that the records `from..to` will not come.
    pub(super) fn gap(from: u64, to: u64, cause: &str) -> Self {
        let pairs = vec![
            ("kind".into(), GAP_KIND.to_owned()),
            ("from".into(), from.to_string()),
            ("to".into(), to.to_string()),
            ("cause".into(), cause.to_owned()),
        ];
        Self { seq: to - 1, pairs }
    }
}

/// Where a mirror sends to.
pub(super) enum Target {
    Syslog(Box<Syslog>),
    Redis(Box<AuditStream>),
}

impl Target {
    pub(super) fn syslog(settings: config::Syslog) -> Self {
        Self::Syslog(Box::new(Syslog::new(settings)))
    }

    pub(super) const fn name(&self) -> TargetName {
        match self {
            Self::Syslog(_) => TargetName::Syslog,
            Self::Redis(_) => TargetName::Redis,
        }
    }

    /// Connects, and says where the target itself stands, if it knows.
    pub(super) fn connect(&mut self) -> Result<Option<Place>, String> {
        match self {
            Self::Syslog(syslog) => syslog.connect().map(|()| None),
            Self::Redis(stream) => {
                let last = stream.connect().map_err(|error| error.to_string())?;
                let Some(last) = last else { return Ok(None) };
                // What is no hash continues nothing.
                let hash =
                    |text: &String| unhex(text).and_then(|hash| hash.try_into().ok()).unwrap_or_default();
                let before = last.event_hash.as_ref().map(hash);
                Ok(Some(Place { next: last.seq + 1, before }))
            }
        }
    }

    /// Hands lines over; how many bytes that were, or an error after which the connection is gone and any number of
    /// them may have arrived.
    pub(super) fn deliver(&mut self, lines: &[Line]) -> Result<usize, String> {
        match self {
            Self::Syslog(syslog) => syslog.deliver(lines),
            Self::Redis(stream) => {
                let entries = lines.iter().map(|line| (line.seq, line.pairs.as_slice()));
                stream.append(entries).map(|()| 0).map_err(|error| error.to_string())
            }
        }
    }

    /// Whether what was delivered is known to have arrived.
    pub(super) fn confirms(&self) -> bool {
        match self {
            Self::Syslog(syslog) => !syslog.is_stream(),
            Self::Redis(_) => true,
        }
    }

    /// Whether the connection is still good, while nothing is sent.
    pub(super) fn check(&mut self) -> Result<(), String> {
        match self {
            Self::Syslog(syslog) => syslog.check(),
            Self::Redis(_) => Ok(()),
        }
    }

    /// Ends the connection; whether everything sent is known to have arrived.
    pub(super) fn close(&mut self) -> bool {
        match self {
            Self::Syslog(syslog) => syslog.close(),
            Self::Redis(_) => true,
        }
    }
}
