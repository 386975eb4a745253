//! The logs that a witness knows: C2SP tlog-list, and single verifier keys.

use crate::audit::CheckpointKey;

/// The first line of a list.
const TITLE: &str = "logs/v0";

/// Most logs of one witness: each has a file and a few hundred bytes of memory.
const LOGS_MAX: usize = 100_000;

/// A log whose checkpoints are cosigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownLog {
    /// The first line of its checkpoints.
    pub origin: String,
    /// Its key.
    pub key: CheckpointKey,
    /// How many of its checkpoints may be submitted in a day; `None`: any number.
    pub per_day: Option<u32>,
}

/// Why a list cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct ListError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl KnownLog {
    /// The log of this key, named like it.
    #[must_use]
    pub fn of_key(key: CheckpointKey) -> Self {
        Self { origin: key.name.clone(), key, per_day: None }
    }
}

/// Reads a list: per log the lines `vkey`, `origin` where it is not the key's name, `qpd` and `contact`, in this order.
///
/// # Errors
/// [`ListError`]: the first line that is not as it must be.
pub fn parse_list(text: &str) -> Result<Vec<KnownLog>, ListError> {
    let mut lines = text
        .split('\n')
        .enumerate()
        .map(|(at, line)| (at + 1, line.trim_matches([' ', '\t'])))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .peekable();
    let wrong = |line, problem| Err(ListError { line, problem });
    match lines.next() {
        Some((_, TITLE)) => {}
        other => return wrong(other.map_or(1, |(line, _)| line), "the list does not begin with logs/v0"),
    }
    let mut logs: Vec<KnownLog> = Vec::new();
    while let Some((line, text)) = lines.next() {
        let Some(key) = text.strip_prefix("vkey ") else { return wrong(line, "vkey is what belongs here") };
        let Ok(key) = CheckpointKey::from_text(key) else {
            return wrong(line, "not the verifier key of an Ed25519 log");
        };
        let mut log = KnownLog::of_key(key);
        if let Some((_, text)) = lines.next_if(|(_, text)| text.starts_with("origin ")) {
            text.trim_start_matches("origin ").clone_into(&mut log.origin);
        }
        match lines.next() {
            Some((line, text)) => match text.strip_prefix("qpd ").map(str::parse::<u32>) {
                Some(Ok(per_day)) if per_day > 0 && per_day < 1 << 31 && text == format!("qpd {per_day}") => {
                    log.per_day = Some(per_day);
                }
                _ => return wrong(line, "qpd and a number is what belongs here"),
            },
            None => return wrong(line, "the list ends in the middle of a log"),
        }
        match lines.next() {
            Some((_, text)) if text.starts_with("contact ") => {}
            other => return wrong(other.map_or(line, |(line, _)| line), "contact is what belongs here"),
        }
        // One log has several keys while one gives way to the next; they have its name.
        if logs.iter().any(|other| {
            other.origin == log.origin && (other.key.name != log.key.name || other.key == log.key)
        }) {
            return wrong(line, "two logs have this origin");
        }
        if logs.len() == LOGS_MAX {
            return wrong(line, "more than 100000 logs");
        }
        logs.push(log);
    }
    Ok(logs)
}
