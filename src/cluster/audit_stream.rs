//! A Redis stream with the records of one audit log: what the mirror writes to, and asks where it stands.
//!
//! An entry's id is the record's number, `SEQ-1`, so Redis itself refuses to hold a record twice or out of order, and
//! says after a broken connection what it has.

use std::borrow::Cow;

use redis::Value;

use super::connect;
use super::error::ClusterError;
use super::link::{Link, text};
use crate::config::Redis;

/// The stream of one log.
pub struct AuditStream {
    redis: Redis,
    key: String,
    link: Option<Link>,
}

/// The last entry of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastEntry {
    /// The record's number.
    pub seq: u64,
    /// Its event hash, as it stands there; `None` where the entry is the statement of a gap.
    pub event_hash: Option<String>,
}

impl AuditStream {
    /// The stream of the log `origin`. Nothing is connected yet.
    #[must_use]
    pub fn new(redis: Redis, origin: &str) -> Self {
        let key = format!("{{{}}}:audit:{origin}", redis.namespace);
        Self { redis, key, link: None }
    }

    /// Connects anew; the stream's last entry, or `None` where there is no stream.
    ///
    /// # Errors
    /// [`ClusterError`], also for a stream whose last entry is none of ours.
    pub fn connect(&mut self) -> Result<Option<LastEntry>, ClusterError> {
        self.link = None;
        let action = "say what the audit stream ends with";
        let mut link = connect::primary(&self.redis, None)?;
        let command = redis::cmd("XREVRANGE").arg(&self.key).arg("+").arg("-").arg("COUNT").arg(1).clone();
        let answer = link.ask(action, &command)?;
        let Value::Array(entries) = answer else { return Err(link.unexpected(action)) };
        let last = match entries.as_slice() {
            [] => None,
            [entry, ..] => Some(last_entry(entry).ok_or_else(|| link.unexpected(action))?),
        };
        self.link = Some(link);
        Ok(last)
    }

    /// Appends entries, each a record's number with its names and texts, in ascending order. Answers once Redis, and
    /// `min_replicas` replicas, have them.
    ///
    /// # Errors
    /// [`ClusterError`]: some of them may be there, which the next [`Self::connect`] tells.
    pub fn append<'a>(
        &mut self,
        entries: impl Iterator<Item = (u64, &'a [(Cow<'static, str>, String)])>,
    ) -> Result<(), ClusterError> {
        let mut link = self.link.take().ok_or(ClusterError::Stopped)?;
        // One script, so that there is one answer to wait for: of a pipeline each may take the whole time.
        let mut command = redis::cmd("EVAL");
        command.arg(APPEND).arg(1).arg(&self.key).arg(self.redis.stream_len_max);
        for (seq, pairs) in entries {
            command.arg(format!("{seq}-1")).arg(2 * pairs.len());
            for (name, text) in pairs {
                command.arg(name.as_ref()).arg(text);
            }
        }
        link.ask("append to the audit stream", &command)?;
        link.wait_for_replicas(self.redis.min_replicas)?;
        self.link = Some(link);
        Ok(())
    }
}

/// `[id, [name, text, …]]`, as XREVRANGE answers.
fn last_entry(entry: &Value) -> Option<LastEntry> {
    let Value::Array(parts) = entry else { return None };
    let [id, Value::Array(fields)] = parts.as_slice() else { return None };
    let seq = text(id)?.strip_suffix("-1")?.parse().ok()?;
    let (pairs, _) = fields.as_chunks::<2>();
    let hash = pairs.iter().find(|[name, _]| text(name) == Some("event_hash"));
    let event_hash = hash.and_then(|[_, hash]| text(hash)).map(str::to_owned);
    Some(LastEntry { seq, event_hash })
}

/// `ARGV`: the length to keep, then for each entry its id, how many words it has, and the words.
const APPEND: &str = "
local at = 2
while at <= #ARGV do
  local words = tonumber(ARGV[at + 1])
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], ARGV[at], unpack(ARGV, at + 2, at + 1 + words))
  at = at + 2 + words
end
return redis.status_reply('OK')";
