//! The shard's turn: every question that arrived in one turn of the event loop is decided together.
//!
//! Connections ask while they run; the turn is one task that the first question wakes, so it runs after all the
//! connections that had bytes. No timer delays a lone question. The order within a turn is the order of asking, so a
//! connection's answers come in the order of its requests.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::ops::{ControlFlow, Range};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant, SystemTime};

use smallvec::SmallVec;

use crate::audit::{Ack, Appender, BatchEvent, DecisionEvent, Event, OnFailure};
use crate::decision::{Decision, Rejection, UnixSeconds};
use crate::keys::RegisteredKey;
use crate::metrics::{ShardMetrics, bump};
use crate::revocation::View;
use crate::token::{self, Demand};
use crate::verify::{Item, Verdict, Verifier};
use crate::wire::{self, Connection, Identity, Place};

use super::Policy;
use super::bulk::Bulk;
use super::clock::TICK;
use super::outbox::Outbox;
use super::request::{self, Admitted, Moment, Settled};

/// The most questions decided together; more that arrive in a turn follow in a second batch.
const BATCH_LEN_MAX: usize = 1024;

/// The most questions a shard holds undecided. One turn of a shard decides what its connections can ask in one read
/// each; beyond this the shard is overloaded and says so.
const QUESTIONS_MAX: usize = 16 * 1024;

/// One question, as a connection asks it.
pub(super) struct Question<'a> {
    /// The token, or why there is none.
    pub(super) token: Result<&'a [u8], Rejection>,
    /// The audience the caller demands.
    pub(super) audience: Option<&'a str>,
    /// The scopes the caller demands, separated by spaces.
    pub(super) scopes: &'a str,
    /// How the answer is written.
    pub(super) form: Form,
    /// Who called.
    pub(super) peer: Option<IpAddr>,
    /// When the request's bytes arrived.
    pub(super) arrived: Instant,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// As a forward-authentication answer.
    Forward(Connection),
    /// As one result of a verify call.
    Verify(Place),
}

impl Form {
    /// The surface's stable number in records: 1 forward authentication for nginx, 2 the verify call.
    const fn surface(self) -> u8 {
        match self {
            Self::Forward(_) => 1,
            Self::Verify(_) => 2,
        }
    }
}

/// A question kept until the turn: its text lies in the arena.
struct Job {
    token: Result<Range<usize>, Rejection>,
    audience: Option<Range<usize>>,
    scopes: Range<usize>,
    form: Form,
    peer: Option<IpAddr>,
    arrived: Instant,
    outbox: Rc<Outbox>,
}

/// Questions asked since the last turn.
#[derive(Default)]
struct Asked {
    arena: Vec<u8>,
    jobs: Vec<Job>,
}

/// An answer that waits for its record.
struct Awaiting {
    core_seq: u64,
    // How many tokens it decides.
    questions: usize,
    arrived: Instant,
    // When its record was handed to the log: what came before was the shard's own time, not the log's.
    recorded: Instant,
    outbox: Rc<Outbox>,
}

/// The questions of one shard, and what it needs to decide them.
pub(super) struct Turn {
    asked: RefCell<Asked>,
    waker: RefCell<Option<Waker>>,
    open: Cell<usize>,
}

impl Turn {
    pub(super) fn new() -> Self {
        Self { asked: RefCell::default(), waker: RefCell::default(), open: Cell::new(0) }
    }

    /// Takes a question; its answer will be released to `outbox`.
    pub(super) fn ask(&self, question: &Question<'_>, outbox: &Rc<Outbox>) {
        let mut asked = self.asked.borrow_mut();
        let Asked { arena, jobs } = &mut *asked;
        let mut keep = |text: &[u8]| {
            let start = arena.len();
            arena.extend_from_slice(text);
            start..arena.len()
        };
        // Held back at the door: an overloaded shard does not copy the token.
        let token =
            if self.open.get() >= QUESTIONS_MAX { Err(Rejection::Overloaded) } else { question.token };
        let job = Job {
            token: token.map(&mut keep),
            audience: question.audience.map(|audience| keep(audience.as_bytes())),
            scopes: keep(question.scopes.as_bytes()),
            form: question.form,
            peer: question.peer,
            arrived: question.arrived,
            outbox: Rc::clone(outbox),
        };
        jobs.push(job);
        self.open.set(self.open.get() + 1);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Lets the deciding task look whether an answer has waited too long for its record.
    pub(super) fn tick(&self) {
        if self.open.get() > 0
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// These questions were answered and released.
    fn close(&self, questions: usize) {
        self.open.set(self.open.get() - questions);
    }
}

/// How decisions are recorded, and what becomes of those that cannot be.
pub(super) struct Recording {
    pub(super) appender: Appender,
    pub(super) ack: Ack,
    pub(super) ack_timeout: Duration,
    pub(super) on_failure: OnFailure,
}

/// Decides what was asked. Owned by the shard's deciding task, polled whenever questions or acknowledgements arrived.
pub(super) struct Decider {
    verifier: Verifier,
    appender: Appender,
    ack: Ack,
    ack_timeout: Duration,
    on_failure: OnFailure,
    view: Arc<View>,
    metrics: Arc<ShardMetrics>,
    scratch: token::Scratch,
    verdicts: Vec<Verdict>,
    // The questions' memory while they are decided; swapped with the turn's.
    spare: Asked,
    awaiting: VecDeque<Awaiting>,
    decision_id: String,
    bulk: Bulk,
}

impl Decider {
    pub(super) fn new(
        verifier: Verifier,
        recording: Recording,
        view: Arc<View>,
        metrics: Arc<ShardMetrics>,
    ) -> Self {
        let Recording { appender, ack, ack_timeout, on_failure } = recording;
        Self {
            verifier,
            appender,
            ack,
            ack_timeout,
            on_failure,
            view,
            metrics,
            scratch: token::Scratch::default(),
            verdicts: Vec::new(),
            spare: Asked::default(),
            awaiting: VecDeque::new(),
            decision_id: String::new(),
            bulk: Bulk::default(),
        }
    }

    /// Decides what was asked, releases what is recorded, and arranges to be woken for more.
    ///
    /// `Break` says that the log has failed for good and the operator wants the daemon to stop then.
    pub(super) fn poll(&mut self, turn: &Turn, policy: &Policy, cx: &Context<'_>) -> ControlFlow<()> {
        *turn.waker.borrow_mut() = Some(cx.waker().clone());
        if !turn.asked.borrow().jobs.is_empty() {
            std::mem::swap(&mut *turn.asked.borrow_mut(), &mut self.spare);
            let mut asked = std::mem::take(&mut self.spare);
            for jobs in asked.jobs.chunks(BATCH_LEN_MAX) {
                self.decide(jobs, &asked.arena, turn, policy);
                // Once per batch: a turn of many batches does not fill the ring before the sequencer sees the first.
                self.appender.submit();
            }
            asked.jobs.clear();
            asked.arena.clear();
            self.spare = asked;
        }
        // Registered before the acknowledgements are read: one that comes in between is not missed.
        self.appender.register(cx.waker());
        self.release(turn);
        self.give_up(turn);
        let halts = self.on_failure == OnFailure::Halt
            && self.appender.failure().is_some_and(|failure| failure.kind.is_permanent());
        if halts { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// The life of a batch: admit, verify, settle, record, reply.
    fn decide(&mut self, jobs: &[Job], arena: &[u8], turn: &Turn, policy: &Policy) {
        // Read once per batch and passed down.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = UnixSeconds(now.as_secs());
        self.metrics.batched(jobs.len());

        let admitted: Vec<Result<Admitted<'_, '_>, Rejection>> = jobs
            .iter()
            .map(|job| {
                let text = &arena[job.token.clone()?];
                request::admit(text, policy, &mut self.scratch)
            })
            .collect();

        let items: Vec<Item<'_>> = admitted.iter().flatten().flat_map(Admitted::items).collect();
        self.verifier.verify(&items, &mut self.verdicts);
        // Read once per batch: settling and recording one takes far less than the log may.
        let recorded_at = Instant::now();
        let mut verdicts = self.verdicts.drain(..);
        let moment = Moment { policy, view: &self.view, now, stale: false };

        for (job, admitted) in jobs.iter().zip(admitted) {
            let text = |range: &Range<usize>| std::str::from_utf8(&arena[range.clone()]).unwrap_or_default();
            let scopes: SmallVec<[&str; 16]> =
                text(&job.scopes).split(' ').filter(|name| !name.is_empty()).collect();
            let demand = Demand { audience: job.audience.as_ref().map(text), scopes: &scopes };
            let settled = match admitted {
                Ok(admitted) => request::settle(admitted, &mut verdicts, &moment, &demand, &mut self.scratch),
                Err(rejection) => Settled::not_admitted(rejection),
            };

            let event = decision_event(job, &settled, policy, self.view.epoch());
            // The id is known before the record is made, so that a call's first results can carry it.
            let decision_id = self.appender.peek_id();
            self.decision_id.clear();
            // Writing to a String cannot fail.
            let _ = write!(self.decision_id, "{decision_id}");
            self.metrics.decided(settled.decision);
            reply(job, &settled, now, text(&job.scopes), &self.decision_id);

            let (recorded, questions) = match job.form {
                Form::Verify(place) if place.many => {
                    if place.first {
                        self.bulk.clear();
                    }
                    self.bulk.push(&settled);
                    if !place.last {
                        continue;
                    }
                    let frame = batch_event(&event);
                    let record = |event: &Event<'_>| self.appender.append(event, self.ack);
                    (self.bulk.record(&frame, policy, record), self.bulk.len())
                }
                Form::Verify(_) | Form::Forward(_) => {
                    (self.appender.append(&Event::Decision(event), self.ack), 1)
                }
            };
            let (arrived, outbox) = (job.arrived, Rc::clone(&job.outbox));
            match recorded {
                Ok(id) => {
                    debug_assert_eq!(id, decision_id, "the log names a record as it said it would");
                    self.awaiting.push_back(Awaiting {
                        core_seq: id.core_seq,
                        questions,
                        arrived,
                        recorded: recorded_at,
                        outbox,
                    });
                }
                Err(_) => {
                    // Not recorded, so not given, unless the operator wants it given and counted.
                    outbox.release(self.on_failure == OnFailure::AllowWithGap);
                    turn.close(questions);
                }
            }
        }
        assert!(verdicts.next().is_none(), "every verdict belongs to one admitted token");
    }

    /// Releases the answers whose records are acknowledged; all of them once the log has failed.
    fn release(&mut self, turn: &Turn) {
        let failed = self.appender.failure().is_some();
        let acknowledged = self.appender.acknowledged(self.ack);
        while let Some(answer) = self.awaiting.front() {
            let recorded = answer.core_seq <= acknowledged;
            if !recorded && !failed {
                break;
            }
            self.metrics.answered(answer.arrived.elapsed());
            answer.outbox.release(recorded || self.on_failure == OnFailure::AllowWithGap);
            turn.close(answer.questions);
            self.awaiting.pop_front();
        }
    }

    /// Takes back the answers whose records the log would hold longer than it may, and says that it stalls. Their
    /// records may still be acknowledged later, which then concerns nobody: what is recorded includes what is
    /// delivered. The log's time counts from the record: a shard that is merely busy does not shut the log's gate.
    fn give_up(&mut self, turn: &Turn) {
        let mut last = None;
        while let Some(answer) = self.awaiting.front() {
            let waited = answer.recorded.elapsed();
            // Looked at once a tick: what would be late at the next one is late now.
            if waited + TICK <= self.ack_timeout {
                break;
            }
            last = Some((answer.core_seq, waited));
            bump(&self.metrics.unacknowledged);
            answer.outbox.release(self.on_failure == OnFailure::AllowWithGap);
            turn.close(answer.questions);
            self.awaiting.pop_front();
        }
        if let Some((core_seq, waited)) = last {
            self.appender.report_stalled(core_seq, self.ack, waited);
        }
    }
}

/// What goes into the record of a call about many tokens, besides its items.
fn batch_event<'a>(last: &DecisionEvent<'a>) -> BatchEvent<'a> {
    BatchEvent {
        surface: last.surface,
        tenant: "",
        caller: last.caller,
        client: last.client,
        policy_epoch: last.policy_epoch,
        revocation_epoch: last.revocation_epoch,
        latency_us: last.latency_us,
        items: &[],
    }
}

/// What goes into the record of one decision.
fn decision_event<'a>(
    job: &Job,
    settled: &'a Settled<'_, 'a>,
    policy: &Policy,
    revocation_epoch: u64,
) -> DecisionEvent<'a> {
    let claims = settled.claims.as_ref();
    DecisionEvent {
        surface: job.form.surface(),
        decision: settled.decision,
        issuer: settled.profile.map_or("", |profile| &profile.name),
        kid: settled.key.map_or("", RegisteredKey::kid),
        tenant: settled.profile.map_or("", |profile| &profile.tenant),
        caller: "",
        subject: claims.and_then(|claims| claims.sub),
        jti: claims.and_then(|claims| claims.jti).map(|jti| jti.0),
        client: job.peer,
        policy_epoch: policy.epoch,
        revocation_epoch,
        latency_us: u32::try_from(job.arrived.elapsed().as_micros()).unwrap_or(u32::MAX),
        expires: claims.and_then(|claims| claims.exp),
    }
}

/// Leaves the answer in the connection's outbox; it is sent once it is released.
fn reply(job: &Job, settled: &Settled<'_, '_>, now: UnixSeconds, scopes: &str, decision_id: &str) {
    let outcome = match (settled.decision, &settled.claims, settled.profile) {
        (Decision::Accepted, Some(claims), Some(profile)) => {
            let expires = claims.exp.unwrap_or(now);
            Ok(Identity {
                subject: claims.sub.unwrap_or(""),
                issuer: claims.iss.unwrap_or(""),
                tenant: &profile.tenant,
                token_id: claims.jti.map_or("", |jti| jti.0),
                owner: claims.own.unwrap_or(""),
                task: claims.task.unwrap_or(""),
                scopes: &claims.scope,
                expires_at: expires.0,
                remaining_ttl: expires.since(now),
                claims_json: claims.json.as_bytes(),
            })
        }
        (Decision::Rejected(rejection), ..) => Err(rejection),
        (Decision::Accepted, ..) => unreachable!("only a token with claims and a profile is accepted"),
    };
    match job.form {
        Form::Forward(connection) => job.outbox.with_bytes(|out| {
            wire::write_forward_reply(out, &outcome, scopes, decision_id, connection);
        }),
        Form::Verify(place) => job.outbox.with_buffers(|out, body| {
            wire::AnswerWriter::new(out, body).write(&outcome, decision_id, place);
        }),
    }
}
