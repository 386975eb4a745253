//! Which checkpoint keys a command believes.

use std::path::Path;

use crate::audit::{CheckpointKey, KeyHistory};

/// The keys of the log in `dir` that can be believed by whoever trusts those in the file `key`; without one, those that the log
/// names itself.
pub(super) fn checkpoint_keys(dir: &Path, key: Option<&Path>) -> Result<Vec<CheckpointKey>, String> {
    let beside = KeyHistory::beside(dir).map_err(|error| error.to_string())?;
    let roots = match (key, &beside) {
        (Some(path), _) => keys_in(path)?,
        (None, Some(beside)) => beside.first.clone(),
        (None, None) => return Ok(Vec::new()),
    };
    let path = dir.join("checkpoint.key");
    beside.unwrap_or_default().keys(&roots).map_err(|error| format!("{}: {error}", path.display()))
}

/// The keys in a key file, with those that they named.
pub(super) fn keys_in(path: &Path) -> Result<Vec<CheckpointKey>, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    KeyHistory::parse(&text)
        .and_then(|history| history.keys(&history.first))
        .map_err(|error| format!("{}: {error}", path.display()))
}
