//! Where the follower stands in the stream, and whether it can go on from there. Pure.

use std::fmt;

use redis::Value;

use super::codec;
use super::link::{bytes, text};
use super::script::Survey;
use crate::store::StoredChange;

/// The name of a stream entry: they grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EntryId {
    millis: u64,
    sequence: u64,
}

impl EntryId {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (millis, sequence) = text.split_once('-')?;
        Some(Self { millis: millis.parse().ok()?, sequence: sequence.parse().ok()? })
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.millis, self.sequence)
    }
}

/// Where the follower stands: it has everything up to `last` of this data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) dataset: String,
    pub(super) last: EntryId,
    /// The highest epoch seen there.
    pub(super) epoch: u64,
}

/// One stream entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: EntryId,
    /// The entry before it.
    pub(super) previous: EntryId,
    pub(super) epoch: u64,
    pub(super) changes: Vec<StoredChange>,
}

/// Why the follower cannot go on from where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Break {
    /// It stands nowhere yet.
    Start,
    /// The data set has another name: it is empty or new.
    Replaced,
    /// The data set went back in time: an older copy, or a replica that had less.
    WentBack,
    /// Entries it did not read are gone from the stream.
    Trimmed,
    /// The view is whole, but the state database was too slow for what came.
    Unsaved,
}

impl Break {
    /// Whether Redis lost something, and not only this node.
    pub(super) const fn is_loss(self) -> bool {
        matches!(self, Self::WentBack)
    }

    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Start => "this node has just started",
            Self::Replaced => "Redis holds another data set",
            Self::WentBack => "Redis went back to an older state",
            Self::Trimmed => "the stream was trimmed behind this node",
            Self::Unsaved => "the state database fell behind",
        }
    }
}

impl Position {
    /// Whether the data set is one that continues from here.
    pub(super) fn check(&self, survey: &Survey) -> Result<(), Break> {
        if survey.dataset != self.dataset {
            return Err(Break::Replaced);
        }
        if survey.last < self.last || survey.epoch < self.epoch {
            return Err(Break::WentBack);
        }
        Ok(())
    }

    /// Goes on to the next entry, if it is the next.
    pub(super) fn step(&mut self, entry: &Entry) -> Result<(), Break> {
        if entry.previous != self.last {
            // Entries were lost before ours, or removed after it.
            let back = entry.previous < self.last || entry.id <= self.last;
            return Err(if back { Break::WentBack } else { Break::Trimmed });
        }
        self.last = entry.id;
        self.epoch = self.epoch.max(entry.epoch);
        Ok(())
    }
}

/// The entries in an answer to XREAD of one stream; nothing where it ended empty.
pub(super) fn parse_entries(answer: &Value) -> Option<Vec<Entry>> {
    let entries = match answer {
        Value::Nil => return Some(Vec::new()),
        Value::Array(streams) => match streams.as_slice() {
            [Value::Array(stream)] => match stream.as_slice() {
                [_, Value::Array(entries)] => entries,
                _ => return None,
            },
            _ => return None,
        },
        _ => return None,
    };
    entries.iter().map(parse_entry).collect()
}

fn parse_entry(value: &Value) -> Option<Entry> {
    let Value::Array(parts) = value else { return None };
    let [id, Value::Array(fields)] = parts.as_slice() else { return None };
    let [e, epoch, p, previous, changes @ ..] = fields.as_slice() else { return None };
    if text(e)? != "e" || text(p)? != "p" {
        return None;
    }
    let epoch = text(epoch)?.parse().ok()?;
    let pairs = changes.chunks(2);
    let changes = pairs.map(|pair| match pair {
        [name, change] if text(name)? == "c" => codec::parse_change(bytes(change)?, epoch),
        _ => None,
    });
    Some(Entry {
        id: EntryId::parse(text(id)?)?,
        previous: EntryId::parse(text(previous)?)?,
        epoch,
        changes: changes.collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> EntryId {
        EntryId::parse(text).unwrap()
    }

    fn position() -> Position {
        Position { dataset: "d".to_owned(), last: id("5-1"), epoch: 50 }
    }

    fn survey(dataset: &str, epoch: u64, last: &str) -> Survey {
        Survey { dataset: dataset.to_owned(), epoch, last: id(last) }
    }

    fn entry(previous: &str, at: &str) -> Entry {
        Entry { id: id(at), previous: id(previous), epoch: 51, changes: Vec::new() }
    }

    #[test]
    fn a_data_set_that_continues_is_told_from_one_that_does_not() {
        let position = position();
        assert_eq!(position.check(&survey("d", 50, "5-1")), Ok(()));
        assert_eq!(position.check(&survey("d", 70, "9-0")), Ok(()));
        assert_eq!(position.check(&survey("e", 70, "9-0")), Err(Break::Replaced));
        assert_eq!(position.check(&survey("d", 49, "9-0")), Err(Break::WentBack));
        assert_eq!(position.check(&survey("d", 50, "5-0")), Err(Break::WentBack));
        assert_eq!(position.check(&survey("d", 50, "0-0")), Err(Break::WentBack));
    }

    #[test]
    fn an_entry_follows_only_the_one_it_names() {
        let mut position = position();
        assert_eq!(position.step(&entry("5-2", "6-0")), Err(Break::Trimmed));
        assert_eq!(position.step(&entry("5-0", "6-0")), Err(Break::WentBack));
        assert_eq!(position.last, id("5-1"));
        assert_eq!(position.step(&entry("5-1", "6-0")), Ok(()));
        assert_eq!((position.last, position.epoch), (id("6-0"), 51));
        assert_eq!(position.step(&entry("5-1", "6-0")), Err(Break::WentBack));
    }

    #[test]
    fn entries_are_ordered_by_number_not_by_text() {
        assert!(id("10-0") > id("9-9") && id("9-10") > id("9-9"));
        for wrong in ["", "5", "5-", "-5", "a-1", "5-1-1", "18446744073709551616-0"] {
            assert_eq!(EntryId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn answers_of_another_shape_are_refused() {
        let word = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let answer = |fields: Vec<Value>| {
            let entry = Value::Array(vec![word("6-0"), Value::Array(fields)]);
            Value::Array(vec![Value::Array(vec![word("stream"), Value::Array(vec![entry])])])
        };
        let good = vec![word("e"), word("51"), word("p"), word("5-1")];
        assert_eq!(parse_entries(&Value::Nil), Some(Vec::new()));
        assert_eq!(parse_entries(&answer(good.clone())), Some(vec![entry("5-1", "6-0")]));
        let mut odd = good.clone();
        odd.push(word("c"));
        assert_eq!(parse_entries(&answer(odd.clone())), None);
        odd.push(word("not a change"));
        assert_eq!(parse_entries(&answer(odd)), None);
        assert_eq!(parse_entries(&answer(good[..3].to_vec())), None);
        assert_eq!(parse_entries(&answer(vec![])), None);
        assert_eq!(parse_entries(&Value::Int(1)), None);
        assert_eq!(parse_entries(&Value::Array(vec![])), None);
    }
}
