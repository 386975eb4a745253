//! Reading every entry that Redis holds, and finding those it lacks.

use redis::Value;

use super::codec;
use super::error::ClusterError;
use super::link::{Link, bytes, text};
use super::shared::Shared;
use crate::decision::UnixSeconds;
use crate::revocation::{Effect, Switch, TargetKind};
use crate::store::StoredChange;

/// Hands every revocation that Redis holds to `take`, some at a time. What is written meanwhile may or may not be among
/// them: it is in the stream.
pub(super) fn entries(
    shared: &Shared,
    link: &mut Link,
    mut take: impl FnMut(Vec<StoredChange>) -> Result<(), ClusterError>,
) -> Result<(), ClusterError> {
    const ACTION: &str = "list what is revoked";
    let keys = &shared.keys;
    for (command, key) in [("HSCAN", &keys.switches), ("ZSCAN", &keys.marks), ("ZSCAN", &keys.tokens)] {
        let mut cursor = "0".to_owned();
        loop {
            if shared.stop.is_set() {
                return Err(ClusterError::Stopped);
            }
            let request = redis::cmd(command).arg(key).arg(&cursor).arg("COUNT").arg(PAGE_LEN).clone();
            let answer = link.ask(ACTION, &request)?;
            let (next, page) = parse_page(shared, &answer).ok_or_else(|| link.unexpected(ACTION))?;
            take(page)?;
            if next == "0" {
                break;
            }
            cursor = next;
        }
    }
    Ok(())
}

/// The cursor and the changes in an answer of HSCAN or ZSCAN. An entry that cannot be read makes the whole page unreadable:
/// it may be a revocation.
fn parse_page(shared: &Shared, answer: &Value) -> Option<(String, Vec<StoredChange>)> {
    let Value::Array(parts) = answer else { return None };
    let [cursor, Value::Array(members)] = parts.as_slice() else { return None };
    let pairs = members.chunks(2);
    let changes = pairs.map(|pair| match pair {
        [member, value] => parse_entry(bytes(member)?, bytes(value)?, (shared.now)(), shared.mark_life_s),
        _ => None,
    });
    Some((text(cursor)?.to_owned(), changes.collect::<Option<_>>()?))
}

/// The change an entry stands for. When and why it was made only the stream says, for a while.
fn parse_entry(member: &[u8], value: &[u8], now: UnixSeconds, mark_life_s: u64) -> Option<StoredChange> {
    let (kind, tenant, issuer, name) = codec::parse_identity(member)?;
    let never = UnixSeconds(u64::MAX);
    let (effect, epoch, forget_at) = match codec::parse_score(value) {
        Some(second) if kind == TargetKind::Token => (Effect::RefusedUntil(second), 0, second),
        Some(second) => (Effect::IssuedUntil(second), 0, second.saturating_add(mark_life_s)),
        None => {
            let (state, epoch) = codec::parse_switch(value)?;
            (Effect::Switched(state), epoch, never)
        }
    };
    let change = StoredChange {
        kind,
        tenant: tenant.to_owned(),
        issuer: issuer.to_owned(),
        name: name.to_owned(),
        effect,
        forget_at,
        changed_at: now,
        reason: String::new(),
        actor: ACTOR.to_owned(),
        epoch,
    };
    change.change()?;
    Some(change)
}

/// Those of `changes` that Redis does not hold, or holds in an older form.
pub(super) fn lacking(
    shared: &Shared,
    link: &mut Link,
    changes: &[StoredChange],
) -> Result<Vec<StoredChange>, ClusterError> {
    const ACTION: &str = "compare what is revoked";
    let keys = &shared.keys;
    let mut asked: [(&str, &str, Vec<&StoredChange>); 3] = [
        ("ZMSCORE", &keys.tokens, Vec::new()),
        ("ZMSCORE", &keys.marks, Vec::new()),
        ("HMGET", &keys.switches, Vec::new()),
    ];
    // What no reader would take is not given either: another program wrote it.
    for change in changes.iter().filter(|change| change.change().is_some()) {
        asked[match change.effect {
            Effect::RefusedUntil(_) => 0,
            Effect::IssuedUntil(_) => 1,
            Effect::Switched(_) => 2,
        }]
        .2
        .push(change);
    }
    let mut pipeline = redis::pipe();
    for (command, key, some) in asked.iter().filter(|(.., some)| !some.is_empty()) {
        pipeline.cmd(command).arg(key);
        for change in some {
            let member = codec::identity(change.kind, &change.tenant, &change.issuer, &change.name);
            pipeline.arg(member.ok_or_else(|| link.unexpected(ACTION))?);
        }
    }
    if pipeline.is_empty() {
        return Ok(Vec::new());
    }
    let mut answers = link.ask_all(ACTION, &pipeline)?.into_iter();
    let mut lacking = Vec::new();
    for (.., some) in asked.iter().filter(|(.., some)| !some.is_empty()) {
        let values = match answers.next() {
            Some(Value::Array(values)) if values.len() == some.len() => values,
            _ => return Err(link.unexpected(ACTION)),
        };
        lacking.extend(
            some.iter()
                .zip(&values)
                .filter(|(change, value)| lacks(change, value))
                .map(|(c, _)| StoredChange::clone(c)),
        );
    }
    Ok(lacking)
}

/// Whether what Redis holds of a target is less than this change. What cannot be read counts as nothing.
fn lacks(change: &StoredChange, value: &Value) -> bool {
    let held = bytes(value);
    match change.effect {
        Effect::RefusedUntil(second) | Effect::IssuedUntil(second) => {
            // As Redis would hold it: late seconds become "never".
            let wanted = codec::parse_score(codec::score(second).as_bytes());
            held.and_then(codec::parse_score) < wanted
        }
        Effect::Switched(state) => match held.and_then(codec::parse_switch) {
            None => true,
            Some((Switch::Revoked, _)) => false,
            Some((_, epoch)) => state == Switch::Revoked || epoch < change.epoch,
        },
    }
}

/// Entries asked for at once.
const PAGE_LEN: usize = 1000;

/// Who made a change that is known from its entry alone.
const ACTOR: &str = "redis";

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: TargetKind, effect: Effect, epoch: u64) -> StoredChange {
        let member = codec::identity(kind, "t", "i", "n").unwrap();
        let value = match effect {
            Effect::IssuedUntil(second) | Effect::RefusedUntil(second) => codec::score(second),
            Effect::Switched(state) => format!("{epoch} {}", state.name()),
        };
        parse_entry(&member, value.as_bytes(), UnixSeconds(5), 100).unwrap()
    }

    #[test]
    fn an_entry_alone_says_what_it_is_and_until_when() {
        let token = change(TargetKind::Token, Effect::RefusedUntil(UnixSeconds(7)), 0);
        assert_eq!((token.effect, token.forget_at.0), (Effect::RefusedUntil(UnixSeconds(7)), 7));
        let mark = change(TargetKind::Session, Effect::IssuedUntil(UnixSeconds(7)), 0);
        assert_eq!((mark.effect, mark.forget_at.0), (Effect::IssuedUntil(UnixSeconds(7)), 107));
        let switch = change(TargetKind::Kid, Effect::Switched(Switch::Disabled), 3);
        assert_eq!((switch.epoch, switch.forget_at.0), (3, u64::MAX));
    }

    #[test]
    fn entries_that_do_not_fit_are_not_read() {
        let member = |kind| codec::identity(kind, "t", "i", "n").unwrap();
        let read = |member: &[u8], value: &[u8]| parse_entry(member, value, UnixSeconds(5), 100);
        assert_eq!(read(&member(TargetKind::Kid), b"7"), None);
        assert_eq!(read(&member(TargetKind::Token), b"7 disabled"), None);
        assert_eq!(read(b"junk", b"7"), None);
        assert_eq!(read(&member(TargetKind::Token), b"soon"), None);
    }

    #[test]
    fn less_than_what_is_known_is_lacking() {
        let held = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let token = change(TargetKind::Token, Effect::RefusedUntil(UnixSeconds(7)), 0);
        assert!(lacks(&token, &Value::Nil) && lacks(&token, &held("6")) && lacks(&token, &held("junk")));
        assert!(!lacks(&token, &held("7")) && !lacks(&token, &held("inf")));
        let never = change(TargetKind::Token, Effect::RefusedUntil(UnixSeconds(u64::MAX)), 0);
        assert!(!lacks(&never, &held("inf")) && lacks(&never, &held("7")));
        let disabled = change(TargetKind::Kid, Effect::Switched(Switch::Disabled), 5);
        assert!(lacks(&disabled, &Value::Nil) && lacks(&disabled, &held("4 enabled")));
        assert!(!lacks(&disabled, &held("5 disabled")) && !lacks(&disabled, &held("6 enabled")));
        assert!(!lacks(&disabled, &held("1 revoked")));
        let revoked = change(TargetKind::Kid, Effect::Switched(Switch::Revoked), 5);
        assert!(lacks(&revoked, &held("9 enabled")) && !lacks(&revoked, &held("1 revoked")));
    }
}
