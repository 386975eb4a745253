//! `--anchor` and `--witness`: checkpoints kept elsewhere, and whose cosignatures count.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use crate::audit::verify::{Anchor, AnchorVerdict};
use crate::audit::{WitnessKey, hex};

use super::print_line;

#[derive(Debug, Args)]
pub(super) struct AnchorArguments {
    /// A checkpoint of this log that was kept elsewhere, with or without cosignatures; may be repeated. A log that does not
    /// continue it was rolled back or rewritten.
    #[arg(long, value_name = "FILE", conflicts_with = "range")]
    anchor: Vec<PathBuf>,
    /// A witness whose cosignature counts: its verifier key, or a file of such lines; may be repeated. Each anchor then
    /// needs the cosignature of one of them.
    #[arg(long, value_name = "VKEY", requires = "anchor")]
    witness: Vec<String>,
}

/// The longest checkpoint: sixteen cosignatures of any kind, and then some.
const ANCHOR_BYTES_MAX: u64 = 128 * 1024;

impl AnchorArguments {
    pub(super) fn anchors(&self) -> Result<Vec<Anchor>, String> {
        self.anchor.iter().map(|path| read_anchor(path)).collect()
    }

    pub(super) fn witnesses(&self) -> Result<Vec<WitnessKey>, String> {
        let keys: Result<Vec<_>, _> = self.witness.iter().map(|text| witness_keys(text)).collect();
        Ok(keys?.concat())
    }
}

fn read_anchor(path: &Path) -> Result<Anchor, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(ANCHOR_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if bytes.len() as u64 > ANCHOR_BYTES_MAX {
        return Err(format!("{} is longer than any checkpoint: {ANCHOR_BYTES_MAX} bytes", path.display()));
    }
    // What is no text is no checkpoint: verification says so.
    let note = String::from_utf8_lossy(&bytes).into_owned();
    Ok(Anchor { name: path.display().to_string(), note })
}

/// The keys in an argument that is a witness's verifier key, or names a file of them.
pub(super) fn witness_keys(argument: &str) -> Result<Vec<WitnessKey>, String> {
    if let Ok(key) = WitnessKey::from_text(argument) {
        return Ok(vec![key]);
    }
    let text = std::fs::read_to_string(argument)
        .map_err(|error| format!("{argument}: no witness's verifier key, and no file of them: {error}"))?;
    let lines = text.lines().filter(|line| !line.is_empty());
    let keys: Vec<_> = lines
        .map(|line| {
            WitnessKey::from_text(line).map_err(|_| format!("{argument}: not a witness's key: {line}"))
        })
        .collect::<Result<_, _>>()?;
    if keys.is_empty() { Err(format!("{argument} holds no key")) } else { Ok(keys) }
}

/// What became of the anchors, for programs.
pub(super) fn anchors_json(verdicts: &[AnchorVerdict]) -> Value {
    let one = |verdict: &AnchorVerdict| {
        let checkpoint = verdict.checkpoint.as_ref();
        let cosigned: Vec<_> = verdict
            .cosigned
            .iter()
            .map(|cosigned| json!({"witness": cosigned.witness, "time": cosigned.time}))
            .collect();
        json!({
            "name": verdict.name,
            "size": checkpoint.map(|checkpoint| checkpoint.size),
            "root": checkpoint.map(|checkpoint| hex(&checkpoint.root)),
            "cosigned": cosigned,
            "valid": verdict.failed.is_none(),
            "class": verdict.failed.map(|(class, _)| class.name()),
            "detail": verdict.detail,
        })
    };
    verdicts.iter().map(one).collect()
}

/// The same for a person.
pub(super) fn print_anchors(verdicts: &[AnchorVerdict]) {
    for AnchorVerdict { name, checkpoint, cosigned, failed, detail } in verdicts {
        let size = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.size);
        match failed {
            Some((class, _)) => print_line(format_args!("anchor  {name}: {class}: {detail}")),
            None if cosigned.is_empty() => {
                print_line(format_args!("anchor  {name}: the log continues it, from {size} records"));
            }
            None => {
                let by: Vec<_> = cosigned
                    .iter()
                    .map(|cosigned| {
                        let seconds = i64::try_from(cosigned.time).unwrap_or(i64::MAX);
                        let time = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
                        format!("{} at {time}", cosigned.witness.escape_debug())
                    })
                    .collect();
                let by = by.join(", ");
                print_line(format_args!(
                    "anchor  {name}: the log continues it, from {size} records, cosigned by {by}"
                ));
            }
        }
    }
}
