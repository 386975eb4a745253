//! Questions that cannot be decided in their turn: they wait for a revocation epoch, or for the registry's answer.
//!
//! What waits is a connection, since its answers keep their order: with a question that must wait, every question of the
//! same connection waits, and nobody else's. Each wait has a deadline, after which the question is decided by what is
//! known: that it cannot be told.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::decision::Rejection;
use crate::revocation::{Answer, Inquirer, Inquiry, View};

use super::outbox::Outbox;
use super::request::Proof;
use super::turn::{Asked, Job};

/// How questions may wait.
pub struct Waits {
    /// The way to the registry; `None` where nothing is ever asked.
    pub inquirer: Option<Inquirer>,
    /// How long a question waits for the registry.
    pub lookup_timeout: Duration,
    /// How long a question waits for its epoch.
    pub epoch_wait: Duration,
}

/// The questions that wait.
pub(super) struct Held {
    waits: Waits,
    view: Arc<View>,
    groups: VecDeque<Group>,
}

/// Questions that wait for the same thing.
struct Group {
    asked: Asked,
    cause: Cause,
    until: Instant,
}

enum Cause {
    /// The highest epoch that one of them demands.
    Epoch(u64),
    /// The answers to what was asked about them.
    Registry {
        ticket: Option<u64>,
        // For each inquiry, whose question it is, and what need not be verified again.
        asking: Vec<(usize, Proof)>,
        answers: Option<Vec<Answer>>,
        terms: AskedUnder,
    },
}

/// What was true when the registry was asked: the answers say nothing about other rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AskedUnder {
    /// The rules of the policy.
    pub(super) rules_epoch: u32,
    /// Whether the view was older than it may be.
    pub(super) stale: bool,
}

/// A question about which the registry was asked.
pub(super) struct Replied {
    /// What it said; `None`: nothing in time.
    pub(super) answer: Option<Answer>,
    /// That the signature was verified before.
    pub(super) proof: Proof,
}

/// Questions that wait no longer.
pub(super) enum Due {
    /// To be decided like new ones.
    Fresh(Asked),
    /// To be decided with these, one place for each question.
    Answered(Asked, Vec<Option<Replied>>, AskedUnder),
}

impl Held {
    pub(super) fn new(waits: Waits, view: Arc<View>) -> Self {
        Self { waits, view, groups: VecDeque::new() }
    }

    /// Holds back the connections with a question that demands an epoch to come; returns the others.
    pub(super) fn for_epoch(&mut self, asked: Asked, waker: &Waker) -> Asked {
        let demanded = |asked: &Asked| asked.jobs.iter().filter_map(|job| job.min_epoch).max();
        if demanded(&asked).is_none_or(|epoch| epoch <= self.view.epoch()) {
            return asked;
        }
        self.view.wake_after_next(waker);
        let epoch = self.view.epoch();
        let (held, rest) = asked.split(|_, job| job.min_epoch.is_some_and(|demanded| demanded > epoch));
        if let Some(demanded) = demanded(&held) {
            let waiting: usize = self.groups.iter().map(|group| group.asked.jobs.len()).sum();
            // Beyond the limit nobody waits: such a question is told at once what it would be told at the end.
            let wait =
                if waiting + held.jobs.len() > HELD_MAX { Duration::ZERO } else { self.waits.epoch_wait };
            let until = Instant::now() + wait;
            self.groups.push_back(Group { asked: held, cause: Cause::Epoch(demanded), until });
        }
        rest
    }

    /// Holds back the connections with a question about which the registry must be asked, and asks; returns the others.
    pub(super) fn for_registry(
        &mut self,
        asked: Asked,
        mut inquiries: Vec<Option<(Inquiry, Proof)>>,
        terms: AskedUnder,
    ) -> Asked {
        if inquiries.iter().all(Option::is_none) {
            return asked;
        }
        // Questions of one connection that need no asking are held as well, so places must be counted anew.
        let (held, rest) = asked.split(|index, _| inquiries[index].is_some());
        let taken = held.came_from.iter().enumerate().filter_map(|(place, index)| {
            let (inquiry, proof) = inquiries[*index].take()?;
            Some((inquiry, (place, proof)))
        });
        let (inquiries, asking): (Vec<Inquiry>, Vec<_>) = taken.unzip();
        let ticket = self.waits.inquirer.as_mut().and_then(|inquirer| inquirer.ask(inquiries));
        let until = Instant::now() + self.waits.lookup_timeout;
        let cause = Cause::Registry { ticket, asking, answers: None, terms };
        self.groups.push_back(Group { asked: held, cause, until });
        rest
    }

    /// Takes the answers that have come. Register first, then look.
    pub(super) fn look(&mut self, waker: &Waker) {
        if self.groups.is_empty() {
            return;
        }
        if self.groups.iter().any(|group| matches!(group.cause, Cause::Epoch(_))) {
            self.view.wake_after_next(waker);
        }
        let Some(inquirer) = &self.waits.inquirer else { return };
        inquirer.register(waker);
        while let Some(come) = inquirer.answers() {
            for group in &mut self.groups {
                if let Cause::Registry { ticket, answers, .. } = &mut group.cause
                    && *ticket == Some(come.ticket)
                {
                    *answers = Some(come.answers);
                    break;
                }
            }
        }
    }

    /// The next questions that wait no longer.
    pub(super) fn due(&mut self) -> Option<Due> {
        let (epoch, now) = (self.view.epoch(), Instant::now());
        let is_due = |group: &Group| {
            now >= group.until
                || match &group.cause {
                    Cause::Epoch(demanded) => *demanded <= epoch,
                    // Not even asked: nothing will come.
                    Cause::Registry { ticket, answers, .. } => ticket.is_none() || answers.is_some(),
                }
        };
        let index = self.groups.iter().position(is_due)?;
        let Group { mut asked, cause, .. } = self.groups.remove(index)?;
        Some(match cause {
            Cause::Epoch(_) => {
                for job in &mut asked.jobs {
                    if job.min_epoch.is_some_and(|demanded| demanded > epoch) {
                        job.token = Err(Rejection::RevocationUnknown);
                    }
                    // It has waited; what it is told is the epoch it was decided under.
                    job.min_epoch = job.min_epoch.map(|_| 0);
                }
                Due::Fresh(asked)
            }
            Cause::Registry { asking, answers, terms, .. } => {
                let mut by_job: Vec<Option<Replied>> = asked.jobs.iter().map(|_| None).collect();
                let mut answers = answers.into_iter().flatten();
                for (place, proof) in asking {
                    by_job[place] = Some(Replied { answer: answers.next(), proof });
                }
                Due::Answered(asked, by_job, terms)
            }
        })
    }
}

/// The most questions of one shard that wait for an epoch: who demands epochs that never come must not use up what a
/// shard may hold undecided.
const HELD_MAX: usize = 4096;

impl Asked {
    /// Takes out the connections with a question that `waits` names, with a copy of their texts; the order of each
    /// connection's questions stays.
    fn split(self, waits: impl Fn(usize, &Job) -> bool) -> (Self, Self) {
        let waiting = self.jobs.iter().enumerate().filter(|(index, job)| waits(*index, job));
        let outboxes: HashSet<*const Outbox> = waiting.map(|(_, job)| Rc::as_ptr(&job.outbox)).collect();
        let Self { arena, jobs, .. } = self;
        let (mut held, mut rest) = (Self::default(), Self::default());
        for (index, mut job) in jobs.into_iter().enumerate() {
            if !outboxes.contains(&Rc::as_ptr(&job.outbox)) {
                rest.came_from.push(index);
                rest.jobs.push(job);
                continue;
            }
            let mut keep = |range: &mut Range<usize>| {
                let start = held.arena.len();
                held.arena.extend_from_slice(&arena[range.clone()]);
                *range = start..held.arena.len();
            };
            if let Ok(token) = &mut job.token {
                keep(token);
            }
            job.audience.as_mut().map(&mut keep);
            keep(&mut job.scopes);
            held.came_from.push(index);
            held.jobs.push(job);
        }
        rest.arena = arena;
        (held, rest)
    }
}
