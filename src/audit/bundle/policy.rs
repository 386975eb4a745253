//! What the maker of a bundle says about keys, in the form of a tlog policy: `log VKEY`, `witness NAME VKEY`,
//! `quorum none`, a line each. It helps a reader to ask for the right keys; it vouches for nothing.

use crate::audit::note::CheckpointKey;

/// The keys a maker claims.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Policy {
    /// Keys the log's checkpoints are signed with.
    pub(super) logs: Vec<CheckpointKey>,
}

impl Policy {
    pub(super) fn to_text(&self) -> String {
        let logs: String = self.logs.iter().map(|key| format!("log {}\n", key.to_text())).collect();
        logs + QUORUM
    }

    /// Reads the one form it has; `None` for any other.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let lines = text.strip_suffix(QUORUM)?;
        let logs = lines.lines().map(|line| CheckpointKey::from_text(line.strip_prefix("log ")?).ok());
        let policy = Self { logs: logs.collect::<Option<_>>()? };
        (policy.to_text() == text).then_some(policy)
    }
}

/// No signature beyond the log's is demanded by the maker; a checker demands what it wants.
const QUORUM: &str = "quorum none\n";
