//! Which checkpoint keys a command believes.

use std::path::Path;

use super::complain;
use crate::audit::note::Checkpoint;
use crate::audit::{CheckpointKey, KeyHistory, KeyHistoryError};

/// Keys of a log, and what they signed when one gave way to the next.
pub(super) struct Believed {
    pub(super) keys: Vec<CheckpointKey>,
    pub(super) handovers: Vec<Checkpoint>,
}

/// The keys of the log in `dir` that can be believed by whoever trusts those in the file `key`; without one, those that the log
/// names itself.
pub(super) fn believed(dir: &Path, key: Option<&Path>) -> Result<Believed, String> {
    let Some(key) = key else {
        let beside = KeyHistory::beside(dir).map_err(|error| error.to_string())?.unwrap_or_default();
        return bound(&beside, &beside.first).map_err(|error| error.to_string());
    };
    Ok(extended(dir, keys_in(key)?))
}

/// As [`believed`], the keys alone.
pub(super) fn checkpoint_keys(dir: &Path, key: Option<&Path>) -> Result<Vec<CheckpointKey>, String> {
    believed(dir, key).map(|believed| believed.keys)
}

/// Those keys, and those that they named beside the log in `dir`. What stands there is not trusted: what cannot be believed of it is
/// said, and left out.
pub(super) fn extended(dir: &Path, keys: Vec<CheckpointKey>) -> Believed {
    let beside = KeyHistory::beside(dir).map(Option::unwrap_or_default).map_err(|error| error.to_string());
    beside.and_then(|beside| bound(&beside, &keys).map_err(|error| error.to_string())).unwrap_or_else(
        |problem| {
            complain(format_args!("the keys beside the log are left out: {problem}"));
            Believed { keys, handovers: Vec::new() }
        },
    )
}

fn bound(history: &KeyHistory, roots: &[CheckpointKey]) -> Result<Believed, KeyHistoryError> {
    let keys = history.keys(roots)?;
    Ok(Believed { handovers: history.signed_by(&keys), keys })
}

/// The keys in a key file, with those that they named.
pub(super) fn keys_in(path: &Path) -> Result<Vec<CheckpointKey>, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    KeyHistory::parse(&text)
        .and_then(|history| history.keys(&history.first))
        .map_err(|error| format!("{}: {error}", path.display()))
}
