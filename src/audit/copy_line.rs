//! One line of a copy: a syslog message with our structured data, or a JSON object with the same names, or one of
//! either inside the other, as SIEMs store them.

use std::borrow::Cow;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value as Json;

use super::{
    copy::event_hash_of,
    flat::CHECKPOINT,
    hex::{hex, unhex},
    record::{HASHED_BYTES, HEADER_BYTES, Hash, Header},
    schema::Kind,
    tail::time,
};

/// What our structured data is called (RFC 5424 §6.3.2). The number is the one that RFC 5612 keeps for examples: we have none.
pub const SD_ID: &str = "edgate@32473";

/// The kind of the line with which a mirror states what it could not copy.
pub const GAP_KIND: &str = "mirror_gap";

/// What a line turned out to be.
pub(super) enum CopyLine {
    /// A record, as far as that shows in the line itself.
    Record { row: Row, checkpoint: Option<CopiedCheckpoint> },
    /// The mirror states that it could not copy these records.
    Gap { from: u64, to: u64, cause: String },
    /// It calls itself a record and is none.
    Broken { seq: u64, problem: String },
    /// Something else.
    Other,
}

/// A record's place in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) seq: u64,
    pub(super) event_hash: Hash,
    pub(super) prev_hash: Hash,
    /// Whether the header stood there, and says the same.
    pub(super) bound: bool,
}

/// A signed checkpoint, and the tree that it is the root of.
pub(super) struct CopiedCheckpoint {
    pub(super) note: String,
    pub(super) frontier: Option<Vec<u8>>,
}

impl CopyLine {
    pub(super) fn parse(line: &[u8]) -> Self {
        let text = String::from_utf8_lossy(line);
        let text = text.trim();
        let fields = match text.strip_prefix('{').and_then(|_| serde_json::from_str(text).ok()) {
            Some(Json::Object(object)) => Fields::of_json(object),
            _ => Fields::of_syslog(text),
        };
        fields.map_or(Self::Other, |fields| fields.line())
    }
}

/// The names and texts of a line.
enum Fields<'a> {
    Json(serde_json::Map<String, Json>),
    Syslog(Vec<(&'a str, String)>),
}

impl<'a> Fields<'a> {
    /// Ours if it has our names, or a text member with our syslog message.
    fn of_json(object: serde_json::Map<String, Json>) -> Option<Fields<'static>> {
        if object.contains_key("event_hash") || object.get("kind").is_some_and(|kind| kind == GAP_KIND) {
            return Some(Fields::Json(object));
        }
        object.values().filter_map(Json::as_str).find_map(|text| {
            Fields::of_syslog(text).map(|fields| match fields {
                Fields::Syslog(pairs) => {
                    let owned = pairs.into_iter().map(|(name, text)| (name.to_owned(), Json::from(text)));
                    Fields::Json(owned.collect())
                }
                Fields::Json(object) => Fields::Json(object),
            })
        })
    }

    fn of_syslog(text: &'a str) -> Option<Self> {
        let (_, mut rest) = text.split_once(&format!("[{SD_ID} "))?;
        let mut pairs = Vec::new();
        loop {
            let (name, value) = rest.split_once("=\"")?;
            // A quote, backslash or bracket inside has a backslash in front (RFC 5424 §6.3.3).
            let mut unescaped = String::new();
            let mut end = None;
            let mut characters = value.char_indices();
            while let Some((at, character)) = characters.next() {
                match character {
                    '"' => {
                        end = Some(at + 1);
                        break;
                    }
                    '\\' => match characters.next() {
                        Some((_, escaped @ ('"' | '\\' | ']'))) => unescaped.push(escaped),
                        Some((_, other)) => unescaped.extend(['\\', other]),
                        None => return None,
                    },
                    character => unescaped.push(character),
                }
            }
            pairs.push((name.trim_start(), unescaped));
            rest = &value[end?..];
            if rest.starts_with(']') {
                return Some(Self::Syslog(pairs));
            }
        }
    }

    fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        match self {
            Self::Json(object) => match object.get(name)? {
                Json::String(text) => Some(text.into()),
                Json::Number(number) => Some(number.to_string().into()),
                _ => None,
            },
            Self::Syslog(pairs) => {
                pairs.iter().find(|(own, _)| *own == name).map(|(_, text)| text.as_str().into())
            }
        }
    }

    /// A text of the body, where exports keep it.
    fn body_text(&self, name: &str) -> Option<Cow<'_, str>> {
        match self {
            Self::Json(object) => object.get("body")?.get(name)?.as_str().map(Cow::from),
            Self::Syslog(_) => None,
        }
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    fn hash(&self, name: &str) -> Option<Hash> {
        unhex(&self.text(name)?)?.try_into().ok()
    }

    fn line(&self) -> CopyLine {
        if self.text("kind").as_deref() == Some(GAP_KIND) {
            let cause = self.text("cause").unwrap_or_default().into_owned();
            return match (self.number("from"), self.number("to")) {
                (Some(from), Some(to)) if from < to => CopyLine::Gap { from, to, cause },
                _ => CopyLine::Other,
            };
        }
        let Some(seq) = self.number("seq") else { return CopyLine::Other };
        match self.row(seq) {
            Ok(row) => CopyLine::Record { row, checkpoint: self.checkpoint() },
            Err(problem) => CopyLine::Broken { seq, problem },
        }
    }

    fn row(&self, seq: u64) -> Result<Row, String> {
        let (Some(event_hash), Some(prev_hash)) = (self.hash("event_hash"), self.hash("prev_hash")) else {
            return Err("event_hash or prev_hash is missing or no hash".to_owned());
        };
        let mut row = Row { seq, event_hash, prev_hash, bound: false };
        let Some(header) = self.text("header") else { return Ok(row) };
        let hashed: Option<[u8; HASHED_BYTES]> =
            BASE64_STANDARD.decode(&*header).ok().and_then(|bytes| bytes.try_into().ok());
        let hashed = hashed.ok_or("its header is not 116 bytes in base64")?;
        if event_hash_of(&hashed) != event_hash {
            return Err(format!("its header hashes to {}", hex(&event_hash_of(&hashed))));
        }
        let mut bytes = [0; HEADER_BYTES];
        bytes[..HASHED_BYTES].copy_from_slice(&hashed);
        let header = Header::parse(&bytes).map_err(|error| format!("its header: {error}"))?;
        let kind = Kind::from_code(header.kind)
            .map_or_else(|| header.kind.to_string(), |kind| kind.name().to_owned());
        let differs = |name: &str, own: &str| self.text(name).is_none_or(|text| text != own);
        for (what, differs) in [
            ("number", header.seq != seq),
            ("hash before it", header.prev_hash != prev_hash),
            ("kind", differs("kind", &kind)),
            ("time", differs("time", &time(header.wall_ns))),
        ] {
            if differs {
                return Err(format!("its header states another {what}"));
            }
        }
        row.bound = true;
        Ok(row)
    }

    fn checkpoint(&self) -> Option<CopiedCheckpoint> {
        if self.text("kind").as_deref() != Some(Kind::Checkpoint.name()) {
            return None;
        }
        let encoded = self.text(CHECKPOINT).and_then(|text| BASE64_STANDARD.decode(&*text).ok());
        let note = encoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let note = note.or_else(|| self.body_text("note").map(Cow::into_owned)).unwrap_or_default();
        let frontier = self.text("frontier").or_else(|| self.body_text("frontier"));
        Some(CopiedCheckpoint { note, frontier: frontier.and_then(|text| unhex(&text)) })
    }
}
