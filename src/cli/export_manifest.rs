//! The manifest of an export: what was exported, from what, and how it is checked.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{EXIT_FAILURE, EXIT_INPUT, EXIT_NO, complain, print_line};
use crate::audit::export::{Counts, ExportError, Exported, Filter, Format};
use crate::audit::schema::Kind;
use crate::audit::{Hash, hex, unhex};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// RFC 4180, with a header line.
    Csv,
    /// One JSON object per line.
    Jsonl,
}

impl Form {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Jsonl => "jsonl",
        }
    }

    pub(super) const fn format(self) -> Format {
        match self {
            Self::Csv => Format::Csv,
            Self::Jsonl => Format::JsonLines,
        }
    }
}

/// Why an export was not made, or does not hold.
pub(super) enum Problem {
    /// What was given cannot be used.
    Input(String),
    /// The export is not what its manifest says: the class, and what differs.
    Differs(&'static str, String),
    /// The disk or the node.
    Failure(String),
}

impl From<ExportError> for Problem {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Audit(error) => Self::Input(error.to_string()),
            ExportError::Write(_) => Self::Failure(error.to_string()),
            ExportError::Broken { .. } | ExportError::Short { .. } => {
                Self::Differs("broken-log", error.to_string())
            }
        }
    }
}

impl Problem {
    pub(super) fn tell(&self, json: bool) -> u8 {
        let (code, class, text) = match self {
            Self::Input(text) => (EXIT_INPUT, "input", text),
            Self::Differs(class, text) => (EXIT_NO, *class, text),
            Self::Failure(text) => (EXIT_FAILURE, "failure", text),
        };
        if json {
            print_line(json!({"valid": false, "class": class, "detail": text}));
        } else {
            complain(format_args!("{class}: {text}"));
        }
        code
    }
}

pub(super) fn manifest(form: Form, filter: &Filter, exported: &Exported, note: Option<&str>) -> Value {
    let Exported { rows, bytes, digest, origin, size, head, tree: _, counts, tag_epochs: _ } = exported;
    json!({
        "edgate_export": MANIFEST_VERSION,
        "format": form.name(),
        "rows": rows,
        "bytes": bytes,
        "sha256": hex(digest),
        "filter": filter_json(filter),
        "log": {"origin": origin, "size": size, "head": hex(head), "root": hex(&exported.root())},
        "counts": counts_json(counts),
        "checkpoint": note,
        "record": null,
        "proof": null,
    })
}

/// The manifest as its file has it.
pub(super) fn manifest_text(manifest: &Value) -> String {
    format!("{manifest:#}\n")
}

/// SHA-256 of the manifest before the node's answer is in it: what the EXPORT record holds.
pub(super) fn manifest_digest(manifest: &Value) -> Hash {
    let mut before = manifest.clone();
    (before["record"], before["proof"]) = (Value::Null, Value::Null);
    Sha256::digest(manifest_text(&before)).into()
}

pub(super) fn counts_json(counts: &Counts) -> Value {
    json!({"records": counts.records, "kinds": counts.kinds, "decisions": counts.decisions, "redacted": counts.redacted})
}

pub(super) fn filter_json(filter: &Filter) -> Value {
    let Filter { kinds, from_ns, to_ns, tenant, issuer, kid, decision, tags } = filter;
    let mut object = serde_json::Map::new();
    if !kinds.is_empty() {
        object.insert("kinds".to_owned(), kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().into());
    }
    for (name, value) in [("from_ns", from_ns), ("to_ns", to_ns)] {
        value.map(|value| object.insert(name.to_owned(), value.into()));
    }
    for (name, value) in [("tenant", tenant), ("issuer", issuer), ("kid", kid), ("decision", decision)] {
        value.as_ref().map(|value| object.insert(name.to_owned(), value.as_str().into()));
    }
    if !tags.is_empty() {
        object.insert("tags".to_owned(), tags.iter().map(|tag| hex(tag)).collect::<Vec<_>>().into());
    }
    object.into()
}

/// What [`filter_json`] wrote; `None` for anything else.
pub(super) fn read_filter(value: &Value) -> Option<Filter> {
    let object = value.as_object()?;
    let mut filter = Filter::default();
    for (name, value) in object {
        let text = || value.as_str().map(str::to_owned);
        match name.as_str() {
            "kinds" => {
                let kind = |value: &Value| parse_kind(value.as_str()?).ok();
                filter.kinds = value.as_array()?.iter().map(kind).collect::<Option<_>>()?;
            }
            "from_ns" => filter.from_ns = Some(value.as_u64()?),
            "to_ns" => filter.to_ns = Some(value.as_u64()?),
            "tenant" => filter.tenant = Some(text()?),
            "issuer" => filter.issuer = Some(text()?),
            "kid" => filter.kid = Some(text()?),
            "decision" => filter.decision = Some(text()?),
            "tags" => {
                let tag = |value: &Value| unhex(value.as_str()?)?.try_into().ok();
                filter.tags = value.as_array()?.iter().map(tag).collect::<Option<_>>()?;
            }
            _ => return None,
        }
    }
    Some(filter)
}

pub(super) fn parse_kind(text: &str) -> Result<Kind, String> {
    let names = || Kind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
    Kind::ALL.iter().copied().find(|kind| kind.name() == text).ok_or_else(|| format!("there are {}", names()))
}

pub(super) fn manifest_path(out: &Path) -> PathBuf {
    out.with_added_extension("manifest.json")
}

/// The form of a manifest.
pub(super) const MANIFEST_VERSION: u64 = 2;
