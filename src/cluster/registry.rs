//! Asking Redis about single tokens: one pipeline for a whole batch, and one script where tokens are used once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Pipeline, Value};
use smallvec::SmallVec;

use super::codec;
use super::connect::{self, Backoff};
use super::error::ClusterError;
use super::link::{Link, bytes, text};
use super::script;
use super::shared::{Shared, Source};
use super::status::Work;
use crate::decision::UnixSeconds;
use crate::revocation::{Answer, Identity, Inquiry, Registry, Status, Switch, TargetKind};

/// Answers from Redis itself; on the registrar's thread. Whatever cannot be had in time is [`Answer::Unknown`].
pub struct RedisRegistry {
    shared: Arc<Shared>,
    link: Option<Link>,
    backoff: Backoff,
}

impl RedisRegistry {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, link: None, backoff: Backoff::new() }
    }

    fn try_answer(&mut self, inquiries: &[Inquiry]) -> Result<Vec<Answer>, ClusterError> {
        let link = match &mut self.link {
            Some(link) => link,
            none => none.insert(connect::primary(&self.shared.redis, self.shared.votes.as_ref())?),
        };
        answer(&self.shared, link, inquiries)
    }
}

impl Registry for RedisRegistry {
    /// Waits for at most one search for the primary, and for two answers or, where tokens are used, for three, each as long
    /// as `revocation.redis.timeout_ms` (waiting for replicas twice that); a broken connection is replaced at the next batch.
    fn answer(&mut self, inquiries: &[Inquiry]) -> Vec<Answer> {
        let unknown = || vec![Answer::Unknown; inquiries.len()];
        if self.link.is_none() && self.backoff.left(Instant::now()) > Duration::ZERO {
            return unknown();
        }
        match self.try_answer(inquiries) {
            Ok(answers) => {
                self.backoff.succeeded();
                self.shared.board.succeed(Work::Ask);
                answers
            }
            Err(error) => {
                if !error.spares_connection() {
                    self.link = None;
                    self.backoff.failed(Instant::now());
                }
                if self.shared.board.fail(Work::Ask, &error) {
                    tracing::warn!(%error, "Redis could not be asked about tokens");
                }
                unknown()
            }
        }
    }
}

impl fmt::Debug for RedisRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisRegistry").field("connected", &self.link.is_some()).finish_non_exhaustive()
    }
}

fn answer(shared: &Shared, link: &mut Link, inquiries: &[Inquiry]) -> Result<Vec<Answer>, ClusterError> {
    const ACTION: &str = "look tokens up";
    let question = Question::new(inquiries).ok_or_else(|| link.unexpected(ACTION))?;
    let answers = link.ask_all(ACTION, &question.pipeline(shared))?;
    let found = question.parse(&answers).ok_or_else(|| link.unexpected(ACTION))?;
    let source = Source { origin: link.origin().to_owned(), dataset: found.dataset };
    if !shared.trust.trusts(&source) {
        return Ok(vec![Answer::Unknown; inquiries.len()]);
    }
    shared.check_named(link)?;
    let now = (shared.now)();
    let identities: Vec<Identity<'_>> = inquiries.iter().map(Inquiry::identity).collect();
    let known = shared.view.check_all(&identities, now);
    let judge = |((inquiry, facts), known): ((&Inquiry, &Facts), Status)| {
        // What this node knows holds, whatever Redis lacks, and such a token is not used up.
        match known {
            Status::Revoked => Answer::Revoked,
            Status::Disabled => Answer::Disabled,
            Status::Clear => facts.judge(inquiry),
        }
    };
    let mut answers: Vec<Answer> = inquiries.iter().zip(&found.facts).zip(known).map(judge).collect();

    let mut claims = Vec::new();
    let mut claimants = Vec::new();
    for (i, inquiry) in inquiries.iter().enumerate() {
        if !inquiry.asked.unused || answers[i] != Answer::Clear {
            continue;
        }
        let issued_at = inquiry.identity().issued_at.unwrap_or(UnixSeconds(0));
        match (token_member(inquiry), found.since) {
            // Its first use may have been forgotten.
            (_, None) => answers[i] = Answer::Unknown,
            (_, Some(since)) if issued_at < since.saturating_add(shared.leeway_s) => {
                answers[i] = Answer::Unknown;
            }
            // Without a name nobody can tell whether it was used.
            (None, _) => answers[i] = Answer::Unknown,
            (Some(member), Some(_)) => {
                claims.push((member, inquiry.until));
                claimants.push(i);
            }
        }
    }
    if !claims.is_empty() {
        match script::claim(link, &shared.keys, &source.dataset, &claims)? {
            None => claimants.iter().for_each(|i| answers[*i] = Answer::Unknown),
            Some(firsts) => {
                // A claim that a failover may forget does not count; the token is used all the same.
                let kept = match link.wait_for_replicas(shared.redis.min_replicas) {
                    Err(ClusterError::NotReplicated { .. }) => false,
                    waited => waited.map(|()| true)?,
                };
                for (i, first) in claimants.into_iter().zip(firsts) {
                    answers[i] = match (first, kept) {
                        (true, true) => Answer::Clear,
                        (true, false) => Answer::Unknown,
                        (false, _) => Answer::Replayed,
                    };
                }
            }
        }
    }
    Ok(answers)
}

fn token_member(inquiry: &Inquiry) -> Option<Vec<u8>> {
    let Identity { tenant, issuer, jti, .. } = inquiry.identity();
    codec::identity(TargetKind::Token, tenant, issuer, jti?)
}

/// Everything a batch needs to know, key by key. Each list may be empty; then its command is not sent.
#[derive(Default)]
struct Question {
    tokens: Vec<Vec<u8>>,
    marks: Vec<Vec<u8>>,
    switches: Vec<Vec<u8>>,
    listed: Vec<Vec<u8>>,
    // For each inquiry, where its answers lie.
    places: Vec<Places>,
}

#[derive(Default)]
struct Places {
    token: Option<usize>,
    marks: SmallVec<[usize; 2]>,
    switches: SmallVec<[usize; 4]>,
    listed: Option<usize>,
}

struct Found {
    dataset: String,
    // The second since which no claim was lost; nothing where Redis does not say.
    since: Option<UnixSeconds>,
    facts: Vec<Facts>,
}

/// What Redis knows about one token.
#[derive(Debug, Default, PartialEq, Eq)]
struct Facts {
    token: bool,
    mark: Option<UnixSeconds>,
    strictest: Option<Switch>,
    listed: bool,
}

impl Question {
    fn new(inquiries: &[Inquiry]) -> Option<Self> {
        let mut question = Self::default();
        // Most tokens of a batch share these: each is asked about once.
        let mut of_keys: HashMap<(&str, &str, &str), [usize; 3]> = HashMap::new();
        let mut of_subjects: HashMap<(&str, &str, &str), (usize, usize)> = HashMap::new();
        for inquiry in inquiries {
            let asked = inquiry.asked;
            let Identity { tenant, issuer, kid, certified_by, jti, subject, session, .. } =
                inquiry.identity();
            let mut places = Places::default();
            let member = |kind, issuer, name| codec::identity(kind, tenant, issuer, name);
            if asked.revoked {
                if jti.is_some() {
                    places.token = Some(push(&mut question.tokens, token_member(inquiry)?));
                }
                if let Some(session) = session {
                    let session = member(TargetKind::Session, issuer, session)?;
                    places.marks.push(push(&mut question.marks, session));
                }
                // A delegated key and the one that says that it signs: either can be switched off.
                for kid in std::iter::once(kid).chain(certified_by) {
                    let of_key = match of_keys.entry((tenant, issuer, kid)) {
                        Entry::Occupied(known) => *known.get(),
                        Entry::Vacant(new) => {
                            let tenant = member(TargetKind::Tenant, "", "")?;
                            let issuer_member = member(TargetKind::Issuer, issuer, "")?;
                            let kid = member(TargetKind::Kid, issuer, kid)?;
                            let switches = [tenant, issuer_member, kid];
                            *new.insert(switches.map(|one| push(&mut question.switches, one)))
                        }
                    };
                    places.switches.extend(of_key);
                }
                if let Some(subject) = subject {
                    // A subject has a watermark and a switch.
                    let (mark, switch) = match of_subjects.entry((tenant, issuer, subject)) {
                        Entry::Occupied(known) => *known.get(),
                        Entry::Vacant(new) => {
                            let subject = member(TargetKind::Subject, issuer, subject)?;
                            let mark = push(&mut question.marks, subject.clone());
                            *new.insert((mark, push(&mut question.switches, subject)))
                        }
                    };
                    places.marks.push(mark);
                    places.switches.push(switch);
                }
            }
            if asked.listed && jti.is_some() {
                places.listed = Some(push(&mut question.listed, token_member(inquiry)?));
            }
            question.places.push(places);
        }
        Some(question)
    }

    fn pipeline(&self, shared: &Shared) -> Pipeline {
        let mut pipeline = redis::pipe();
        pipeline.cmd("GET").arg(&shared.keys.dataset);
        pipeline.cmd("GET").arg(&shared.keys.since);
        for (command, key, members) in [
            ("ZMSCORE", &shared.keys.tokens, &self.tokens),
            ("ZMSCORE", &shared.keys.marks, &self.marks),
            ("HMGET", &shared.keys.switches, &self.switches),
            ("ZMSCORE", &shared.keys.listed, &self.listed),
        ] {
            if !members.is_empty() {
                pipeline.cmd(command).arg(key).arg(members);
            }
        }
        // Once more: what was flushed between the first question and the last reads like data that has nothing.
        pipeline.cmd("GET").arg(&shared.keys.dataset);
        pipeline
    }

    fn parse(&self, answers: &[Value]) -> Option<Found> {
        let mut answers = answers.iter();
        // No name, no data: nothing to believe.
        let dataset = match answers.next()? {
            Value::Nil => String::new(),
            name => text(name)?.to_owned(),
        };
        let since = match answers.next()? {
            Value::Nil => None,
            second => Some(codec::parse_score(bytes(second)?)?),
        };
        let mut next = |members: &[Vec<u8>]| -> Option<&[Value]> {
            if members.is_empty() {
                return Some(&[]);
            }
            match answers.next()? {
                Value::Array(values) if values.len() == members.len() => Some(values),
                _ => None,
            }
        };
        let (tokens, marks) = (next(&self.tokens)?, next(&self.marks)?);
        let (switches, listed) = (next(&self.switches)?, next(&self.listed)?);
        let dataset = match answers.next()? {
            Value::Nil => String::new(),
            name if text(name)? == dataset => dataset,
            _ => String::new(),
        };
        let facts = |places: &Places| {
            let mut facts = Facts {
                token: places.token.is_some_and(|i| tokens[i] != Value::Nil),
                listed: places.listed.is_some_and(|i| listed[i] != Value::Nil),
                ..Facts::default()
            };
            for value in places.marks.iter().map(|i| &marks[*i]).filter(|value| **value != Value::Nil) {
                facts.mark = facts.mark.max(Some(codec::parse_score(bytes(value)?)?));
            }
            for value in places.switches.iter().map(|i| &switches[*i]).filter(|value| **value != Value::Nil) {
                let (state, _) = codec::parse_switch(bytes(value)?)?;
                facts.strictest = match (facts.strictest, state) {
                    (Some(Switch::Revoked), _) | (_, Switch::Revoked) => Some(Switch::Revoked),
                    (Some(Switch::Disabled), _) | (_, Switch::Disabled) => Some(Switch::Disabled),
                    _ => None,
                };
            }
            Some(facts)
        };
        let facts = self.places.iter().map(facts).collect::<Option<_>>()?;
        Some(Found { dataset, since, facts })
    }
}

impl Facts {
    /// All but the first use. An entry for a token counts also when it is over: so is the token.
    fn judge(&self, inquiry: &Inquiry) -> Answer {
        if inquiry.asked.revoked {
            let issued_at = inquiry.identity().issued_at.unwrap_or(UnixSeconds(0));
            let marked = self.mark.is_some_and(|mark| issued_at <= mark);
            match self.strictest {
                Some(Switch::Revoked) => return Answer::Revoked,
                _ if self.token || marked => return Answer::Revoked,
                Some(Switch::Disabled) => return Answer::Disabled,
                Some(Switch::Enabled) | None => {}
            }
        }
        if inquiry.asked.listed && !self.listed { Answer::NotListed } else { Answer::Clear }
    }
}

fn push(list: &mut Vec<Vec<u8>>, member: Vec<u8>) -> usize {
    list.push(member);
    list.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revocation::Asked;

    fn inquiry(asked: Asked) -> Inquiry {
        let identity = Identity {
            tenant: "t",
            issuer: "i",
            kid: "k",
            certified_by: None,
            jti: Some("j"),
            subject: Some("s"),
            session: None,
            issued_at: Some(UnixSeconds(100)),
        };
        Inquiry::new(&identity, UnixSeconds(900), asked)
    }

    fn words(values: &[Option<&str>]) -> Value {
        let word =
            |one: &Option<&str>| one.map_or(Value::Nil, |text| Value::BulkString(text.as_bytes().to_vec()));
        Value::Array(values.iter().map(word).collect())
    }

    fn word(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn what_is_found_is_judged_like_the_view_judges() {
        let asked = Asked { revoked: true, ..Asked::default() };
        let one = inquiry(asked);
        let question = Question::new(std::slice::from_ref(&one)).unwrap();
        let judge = |token: Option<&str>, mark: Option<&str>, switches: [Option<&str>; 4]| {
            let answers =
                [word("d"), word("1"), words(&[token]), words(&[mark]), words(&switches), word("d")];
            question.parse(&answers).map(|found| found.facts[0].judge(&one))
        };
        let none = [None; 4];
        assert_eq!(judge(None, None, none), Some(Answer::Clear));
        assert_eq!(judge(Some("5"), None, none), Some(Answer::Revoked));
        assert_eq!(judge(None, Some("99"), none), Some(Answer::Clear));
        assert_eq!(judge(None, Some("100"), none), Some(Answer::Revoked));
        let disabled = [None, Some("7 enabled"), Some("7 disabled"), None];
        assert_eq!(judge(None, None, disabled), Some(Answer::Disabled));
        assert_eq!(judge(Some("5"), None, disabled), Some(Answer::Revoked));
        let revoked = [Some("7 revoked"), Some("9 disabled"), None, None];
        assert_eq!(judge(None, None, revoked), Some(Answer::Revoked));
        // What cannot be read is no answer.
        assert_eq!(judge(None, Some("x"), none), None);
        assert_eq!(judge(None, None, [Some("x"), None, None, None]), None);
    }

    #[test]
    fn of_a_delegated_key_the_one_that_delegated_counts_as_well() {
        let asked = Asked { revoked: true, ..Asked::default() };
        let plain = inquiry(asked);
        let one =
            Inquiry::new(&Identity { certified_by: Some("c"), ..plain.identity() }, UnixSeconds(900), asked);
        let question = Question::new(std::slice::from_ref(&one)).unwrap();
        let certifier = codec::identity(TargetKind::Kid, "t", "i", "c").unwrap();
        let place = question.switches.iter().position(|member| *member == certifier).unwrap();
        for (found, expected) in [
            (None, Answer::Clear),
            (Some("7 enabled"), Answer::Clear),
            (Some("7 disabled"), Answer::Disabled),
            (Some("7 revoked"), Answer::Revoked),
        ] {
            let mut switches = vec![None; question.switches.len()];
            switches[place] = found;
            let answers = [word("d"), word("1"), words(&[None]), words(&[None]), words(&switches), word("d")];
            let judged = question.parse(&answers).map(|found| found.facts[0].judge(&one));
            assert_eq!(judged, Some(expected), "{found:?}");
        }
    }

    #[test]
    fn an_answer_of_another_shape_is_no_answer() {
        let one = inquiry(Asked { listed: true, ..Asked::default() });
        let question = Question::new(std::slice::from_ref(&one)).unwrap();
        let judge = |answers: &[Value]| question.parse(answers).map(|found| found.facts[0].judge(&one));
        assert_eq!(judge(&[word("d"), word("1"), words(&[Some("9")]), word("d")]), Some(Answer::Clear));
        assert_eq!(judge(&[word("d"), word("1"), words(&[None]), word("d")]), Some(Answer::NotListed));
        assert_eq!(judge(&[word("d"), word("1"), words(&[]), word("d")]), None);
        assert_eq!(
            judge(&[word("d"), word("1"), words(&[None])]),
            None,
            "the name comes once more at the end"
        );
        assert_eq!(judge(&[word("d"), word("1")]), None);
        assert_eq!(judge(&[]), None);
    }
}
