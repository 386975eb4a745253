//! The scripts that Redis runs for us, and what goes in and out of them.

use redis::{Cmd, Value};

use super::codec;
use super::error::ClusterError;
use super::keys::Keys;
use super::link::{Link, text};
use super::position::EntryId;
use crate::decision::UnixSeconds;
use crate::revocation::Effect;
use crate::store::StoredChange;

/// Changes in one request: one stream entry holds them, and Lua unpacks at most some 8,000 arguments.
pub(super) const REQUEST_CHANGES_MAX: usize = 1000;

/// Whose epoch a switch is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Epochs {
    /// The request's: it is made now.
    New,
    /// The change's: it was made before, and must not undo what was made since.
    Own,
}

/// One request to publish, as arguments of the script.
#[derive(Debug)]
pub(super) struct Encoded {
    arguments: Vec<Vec<u8>>,
    /// Changes in it.
    pub(super) changes: usize,
    /// Bytes in it.
    pub(super) bytes: usize,
}

impl Encoded {
    /// # Errors
    /// [`ClusterError::TooMany`] where there are more changes than [`REQUEST_CHANGES_MAX`], or a name is longer than any
    /// token can hold.
    pub(super) fn new(changes: &[StoredChange], epochs: Epochs) -> Result<Self, ClusterError> {
        let too_many = ClusterError::TooMany { count: changes.len(), most: REQUEST_CHANGES_MAX };
        if changes.len() > REQUEST_CHANGES_MAX {
            return Err(too_many);
        }
        let mut arguments = Vec::with_capacity(1 + 5 * changes.len());
        arguments.push(changes.len().to_string().into_bytes());
        for change in changes {
            let own = match epochs {
                Epochs::New => 0,
                Epochs::Own => change.epoch,
            };
            let (key, value) = match change.effect {
                Effect::RefusedUntil(second) => ("1", codec::score(second)),
                Effect::IssuedUntil(second) => ("2", codec::score(second)),
                Effect::Switched(state) => ("3", state.name().to_owned()),
            };
            let member = codec::identity(change.kind, &change.tenant, &change.issuer, &change.name);
            let entry = codec::change(change, own);
            let (Some(member), Some(entry)) = (member, entry) else { return Err(too_many) };
            arguments.extend([key.into(), member, value.into_bytes(), own.to_string().into_bytes(), entry]);
        }
        let bytes = arguments.iter().map(Vec::len).sum();
        Ok(Self { arguments, changes: changes.len(), bytes })
    }
}

/// What the data set says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Survey {
    pub(super) dataset: String,
    /// The highest epoch; below what was seen before only if something was lost.
    pub(super) epoch: u64,
    /// The stream's last entry.
    pub(super) last: EntryId,
}

/// Publishes requests; each one's epoch, in their order.
pub(super) fn publish(
    link: &mut Link,
    keys: &Keys,
    stream_len_max: u32,
    known_epoch: u64,
    requests: &[&Encoded],
) -> Result<Vec<u64>, ClusterError> {
    const ACTION: &str = "publish";
    let mut command = eval(
        include_str!("publish.lua"),
        &[&keys.dataset, &keys.epoch, &keys.stream, &keys.tokens, &keys.marks, &keys.switches, &keys.since],
    );
    command.arg(dataset_name()).arg(known_epoch).arg(stream_len_max);
    for request in requests {
        command.arg(&request.arguments);
    }
    let Value::Array(answer) = link.ask(ACTION, &command)? else { return Err(link.unexpected(ACTION)) };
    let epochs: Option<Vec<u64>> = answer.iter().skip(1).map(|epoch| text(epoch)?.parse().ok()).collect();
    match epochs {
        Some(epochs) if epochs.len() == requests.len() => Ok(epochs),
        _ => Err(link.unexpected(ACTION)),
    }
}

/// The command that surveys the data set.
pub(super) fn survey_command(keys: &Keys, known_epoch: u64) -> Cmd {
    let script = include_str!("survey.lua");
    let mut command = eval(script, &[&keys.dataset, &keys.epoch, &keys.stream, &keys.since]);
    command.arg(dataset_name()).arg(known_epoch);
    command
}

/// Its answer.
pub(super) fn parse_survey(answer: &Value) -> Option<Survey> {
    let Value::Array(parts) = answer else { return None };
    let [dataset, epoch, last] = parts.as_slice() else { return None };
    Some(Survey {
        dataset: text(dataset)?.to_owned(),
        epoch: text(epoch)?.parse().ok()?,
        last: EntryId::parse(text(last)?)?,
    })
}

/// Puts tokens on the allow list, each with its score; where one is there the later score counts. At least one.
pub(super) fn list<'a>(
    link: &mut Link,
    keys: &Keys,
    tokens: impl Iterator<Item = (&'a String, &'a Vec<u8>)>,
) -> Result<(), ClusterError> {
    let mut command = redis::cmd("ZADD");
    command.arg(&keys.listed).arg("GT");
    for (score, member) in tokens {
        command.arg(score).arg(member);
    }
    link.ask("put tokens on the allow list", &command).map(drop)
}

/// Notes that claims may have been lost until the end of this second, by the server's clock, and whose claims count since.
pub(super) fn note_loss(link: &mut Link, keys: &Keys) -> Result<(), ClusterError> {
    let script =
        "redis.call('SET', KEYS[1], redis.call('TIME')[1] + 1) return redis.call('SET', KEYS[2], ARGV[1])";
    let mut command = eval(script, &[&keys.since, &keys.server]);
    command.arg(link.origin());
    link.ask("note that claims were lost", &command).map(drop)
}

/// Whether this very process has had every claim since the last loss. Another one, restarted from a copy or promoted, may
/// lack the last of them, and nothing in its data would show it; nor does a server that does not say which it is.
pub(super) fn has_every_claim(link: &mut Link, keys: &Keys) -> Result<bool, ClusterError> {
    let mut command = redis::cmd("GET");
    command.arg(&keys.server);
    let known = link.ask("say whose claims count", &command)?;
    let same = matches!(&known, Value::BulkString(name) if *name == link.origin().as_bytes());
    Ok(same && !link.origin().is_empty())
}

/// Uses tokens: whether it was each one's first use. `None`: the data set is another.
pub(super) fn claim(
    link: &mut Link,
    keys: &Keys,
    dataset: &str,
    tokens: &[(Vec<u8>, UnixSeconds)],
) -> Result<Option<Vec<bool>>, ClusterError> {
    const ACTION: &str = "use tokens once";
    let mut command = eval(include_str!("claim.lua"), &[&keys.dataset, &keys.used]);
    command.arg(dataset);
    for (member, until) in tokens {
        command.arg(member).arg(codec::score(*until));
    }
    let answers = match link.ask(ACTION, &command)? {
        Value::Nil => return Ok(None),
        Value::Array(answers) if answers.len() == tokens.len() => answers,
        _ => return Err(link.unexpected(ACTION)),
    };
    Ok(Some(answers.iter().map(|answer| *answer == Value::Int(1)).collect()))
}

/// Removes up to `count` members whose score is below `horizon`, by the node's clock and by the server's; says how many.
pub(super) fn purge(
    link: &mut Link,
    key: &str,
    now: UnixSeconds,
    delay_s: u64,
    count: usize,
) -> Result<usize, ClusterError> {
    const ACTION: &str = "remove expired entries";
    let mut command = eval(include_str!("purge.lua"), &[key]);
    command.arg(now.0).arg(delay_s).arg(count);
    match link.ask(ACTION, &command)? {
        Value::Int(gone) => Ok(usize::try_from(gone).unwrap_or(0)),
        _ => Err(link.unexpected(ACTION)),
    }
}

/// A script with its keys. The text travels each time: a few hundred bytes, and no state on the server to miss.
fn eval(script: &str, keys: &[&str]) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(keys.len()).arg(keys);
    command
}

/// A name for a new data set.
fn dataset_name() -> String {
    // Two data sets of one name would be taken for one; the clock tells apart what a broken generator does not.
    let random = getrandom::u64().unwrap_or(0);
    let clock = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_nanos());
    format!("{random:016x}{clock:x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revocation::{Switch, TargetKind};

    fn change(kind: TargetKind, effect: Effect) -> StoredChange {
        StoredChange {
            kind,
            tenant: "t".to_owned(),
            issuer: "i".to_owned(),
            name: "n".to_owned(),
            effect,
            forget_at: UnixSeconds(9),
            changed_at: UnixSeconds(1),
            reason: String::new(),
            actor: "a".to_owned(),
            epoch: 5,
        }
    }

    #[test]
    fn each_kind_of_change_goes_to_its_key() {
        let changes = [
            change(TargetKind::Token, Effect::RefusedUntil(UnixSeconds(7))),
            change(TargetKind::Subject, Effect::IssuedUntil(UnixSeconds(u64::MAX))),
            change(TargetKind::Kid, Effect::Switched(Switch::Disabled)),
        ];
        let encoded = Encoded::new(&changes, Epochs::Own).unwrap();
        let words: Vec<&[u8]> = encoded.arguments.iter().map(Vec::as_slice).collect();
        assert_eq!(words.len(), 16);
        assert_eq!((words[0], encoded.changes), (&b"3"[..], 3));
        assert_eq!((words[1], words[3], words[4]), (&b"1"[..], &b"7"[..], &b"5"[..]));
        assert_eq!((words[6], words[8]), (&b"2"[..], &b"inf"[..]));
        assert_eq!((words[11], words[13]), (&b"3"[..], &b"disabled"[..]));
        assert_eq!(codec::parse_change(words[15], 1).as_ref(), Some(&changes[2]));
        let new = Encoded::new(&changes, Epochs::New).unwrap();
        assert_eq!(new.arguments[4], b"0");
        assert_eq!(codec::parse_change(&new.arguments[15], 8).unwrap().epoch, 8);
    }

    #[test]
    fn too_much_is_refused_before_it_is_sent() {
        let one = change(TargetKind::Token, Effect::RefusedUntil(UnixSeconds(7)));
        let many = vec![one; REQUEST_CHANGES_MAX + 1];
        assert!(Encoded::new(&many[1..], Epochs::New).is_ok());
        assert!(matches!(Encoded::new(&many, Epochs::New), Err(ClusterError::TooMany { count: 1001, .. })));
    }

    #[test]
    fn new_data_sets_have_new_names() {
        assert_ne!(dataset_name(), dataset_name());
    }
}
