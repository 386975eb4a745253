//! The manifest: a list of what is in a bundle, with sizes and digests. Deterministic JSON of one spelling.
//!
//! It is not signed. What it says about the log is held to the checkpoint; what nobody vouches for (when and by what
//! the bundle was made) is said to be that.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Part, Summary};
use crate::audit::{
    hex::{hex, unhex},
    note::Checkpoint,
    record::Hash,
};

/// What is in a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) summary: Summary,
    /// When it was made, as the maker's clock says.
    pub(super) made_at: String,
    /// What made it.
    pub(super) maker: String,
    /// The EXPORT record that says that it was made.
    pub(super) record: Option<String>,
    /// All members but the manifest, by name.
    pub(super) members: Vec<Member>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) digest: Hash,
}

impl Manifest {
    pub(super) fn to_text(&self) -> String {
        format!("{:#}\n", self.to_json())
    }

    fn to_json(&self) -> Value {
        let Self { summary: Summary { log, part, decisions }, made_at, maker, record, members } = self;
        let part = part.as_ref().map(|Part { records, segments }| {
            json!({
                "from": records.start, "to": records.end, "records": records.end - records.start,
                "first_segment": segments.0, "last_segment": segments.1,
            })
        });
        let member = |one: &Member| json!({"name": one.name, "bytes": one.bytes, "sha256": hex(&one.digest)});
        json!({
            "edgate_bundle": VERSION,
            "log": {"origin": log.origin, "size": log.size, "root": hex(&log.root)},
            "segments": part,
            "decisions": decisions,
            "made_at": made_at,
            "maker": maker,
            "record": record,
            "members": members.iter().map(member).collect::<Vec<_>>(),
        })
    }

    /// Reads the one spelling; `None` for anything else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let text_of = |value: &Value| value.as_str().map(str::to_owned);
        let hash = |value: &Value| unhex(value.as_str()?)?.try_into().ok();
        let log = &value["log"];
        let log = Checkpoint {
            origin: text_of(&log["origin"])?,
            size: log["size"].as_u64()?,
            root: hash(&log["root"])?,
        };
        let part = match &value["segments"] {
            Value::Null => None,
            part => Some(Part {
                records: part["from"].as_u64()?..part["to"].as_u64()?,
                segments: (part["first_segment"].as_u64()?, part["last_segment"].as_u64()?),
            }),
        };
        if part.as_ref().is_some_and(|part| part.records.is_empty()) {
            return None;
        }
        let member = |one: &Value| {
            let (name, bytes, digest) =
                (text_of(&one["name"])?, one["bytes"].as_u64()?, hash(&one["sha256"])?);
            Some(Member { name, bytes, digest })
        };
        let manifest = Self {
            summary: Summary { log, part, decisions: value["decisions"].as_u64()? },
            made_at: text_of(&value["made_at"])?,
            maker: text_of(&value["maker"])?,
            record: text_of(&value["record"]),
            members: value["members"].as_array()?.iter().map(member).collect::<Option<_>>()?,
        };
        let sorted = manifest.members.is_sorted_by(|one, next| one.name < next.name);
        (sorted && manifest.to_text() == text).then_some(manifest)
    }

    /// SHA-256 of the manifest before the log's answer is in it: what an EXPORT record holds of a bundle.
    pub(super) fn digest(&self) -> Hash {
        let unrecorded = Self { record: None, ..self.clone() };
        Sha256::digest(unrecorded.to_text()).into()
    }
}

/// The form of a manifest, and of a bundle.
const VERSION: u64 = 1;

/// A hundred thousand members.
pub(super) const MANIFEST_BYTES_MAX: u64 = 24 << 20;
