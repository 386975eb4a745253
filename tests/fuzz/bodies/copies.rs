//! A copy of the log that somebody else keeps: lines of a SIEM, in whatever form it stores them.

use std::sync::OnceLock;

use edgate::audit::record::Hash;
use edgate::audit::{Copy, Entry, GAP_KIND, SD_ID, unhex_exact};
use serde_json::Value;

use super::bundle::{entries, with_sample};
use super::log::{ORIGIN, key};

/// A copy that is called whole is of the log our key signed, has no hole, and what of it is called proven is what the log
/// holds.
pub fn audit_copy(input: &[u8]) {
    let mut copy = Copy::new(vec![key()]);
    input.split(|byte| *byte == b'\n').for_each(|line| copy.line(line));
    let report = copy.finish();
    assert_eq!(report.exit_code() == 0, report.breaks.is_empty());
    if !report.breaks.is_empty() {
        return;
    }
    let known = hashes();
    assert_eq!(report.origin, ORIGIN);
    assert!(report.checkpoints > 0 && report.records > 0, "{report:?}");
    assert_eq!(report.records, report.last - report.first + 1, "{report:?}");
    assert!(report.proven_from < report.proven_to && report.proven_to <= known.len() as u64, "{report:?}");
    for (seq, hash) in input.split(|byte| *byte == b'\n').filter_map(stated) {
        if (report.proven_from..report.proven_to).contains(&seq) {
            let seq = usize::try_from(seq).expect("a small log");
            assert_eq!(hash, known[seq], "record {seq}: {report:?}");
        }
    }
}

/// Number and hash of a line that is a JSON object with them.
fn stated(line: &[u8]) -> Option<(u64, Hash)> {
    let line: Value = serde_json::from_slice(line.trim_ascii()).ok()?;
    if line["kind"] == GAP_KIND {
        return None;
    }
    let seq = line["seq"].as_str()?.parse().ok()?;
    Some((seq, unhex_exact(line["event_hash"].as_str()?)?))
}

/// Event hashes of the sample log.
fn hashes() -> &'static [Hash] {
    static HASHES: OnceLock<Vec<Hash>> = OnceLock::new();
    HASHES.get_or_init(|| with_sample(|dir| entries(dir).map(|entry| entry.hash).collect()))
}

/// Writes the seeds: copies that are whole, as objects and as messages, and one that begins late.
///
/// # Panics
/// When the sample log is none.
pub fn write_copies(to: &std::path::Path) {
    let all: Vec<Entry> = with_sample(|dir| entries(dir).collect());
    let half = &all[all.len() / 2..];
    for (name, lines) in [
        ("objects", all.iter().map(object).collect::<Vec<_>>()),
        ("messages", all.iter().map(message).collect()),
        ("late", half.iter().map(object).collect()),
    ] {
        std::fs::write(to.join(name), lines.join("\n")).expect("the corpus can be written");
    }
}

fn object(entry: &Entry) -> String {
    let pairs = entry.pairs().into_iter().map(|(name, text)| (name.into_owned(), text.into()));
    Value::Object(pairs.collect()).to_string()
}

/// As a mirror sends it (RFC 5424).
fn message(entry: &Entry) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace(']', "\\]");
    let pairs = entry.pairs().into_iter().map(|(name, text)| format!(" {name}=\"{}\"", escaped(&text)));
    format!("<110>1 2026-11-29T00:00:00Z host edgate - - [{SD_ID}{}]", pairs.collect::<String>())
}
