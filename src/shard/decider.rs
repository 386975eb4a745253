//! Decides what was asked in a turn: admit, verify, settle, record, reply; and releases answers once they are recorded.

use std::ops::{ControlFlow, Range};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant, SystemTime};

use smallvec::SmallVec;

use crate::audit::{Ack, Appender, AuditFailure, BatchEvent, DecisionEvent, Event, FailureKind, OnFailure};
use crate::decision::{Decision, Rejection, UnixSeconds};
use crate::metrics::ShardMetrics;
use crate::revocation::{Answer, BATCH_LEN, Inquiry, Look, Realms, View};
use crate::status_list;
use crate::token::{self, Demand};
use crate::verify::{Item, Verdict, Verifier};
use crate::wire::{self, Identity, Terms};

use super::awaiting::{Awaiting, Queue};
use super::bulk::Bulk;
use super::delegates::Delegates;
use super::held::{AskedUnder, Due, Held, Replied, Waits};
use super::receipts::Receipts;
use super::request::{self, Admitted, Moment, Proof, Read, Settled};
use super::turn::{Asked, Form, Job, Turn};
use super::{IssuerRealms, Policy};

/// The most questions decided together; more that arrive in a turn follow in a second batch.
const BATCH_LEN_MAX: usize = 1024;

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
    delegates: Delegates,
    appender: Appender,
    ack_timeout: Duration,
    on_failure: OnFailure,
    view: Arc<View>,
    realms: IssuerRealms,
    lists: Option<Arc<status_list::Cache>>,
    metrics: Arc<ShardMetrics>,
    // One for each token of a group that is settled together.
    scratches: [token::Scratch; BATCH_LEN],
    verdicts: Vec<Verdict>,
    // The questions' memory while they are decided; swapped with the turn's.
    spare: Asked,
    held: Held,
    awaiting: Queue,
    // Answers with receipts: what is promised must be durable.
    promised: Queue,
    bulk: Bulk,
}

impl Decider {
    pub(super) fn new(
        verifier: Verifier,
        recording: Recording,
        waits: Waits,
        view: Arc<View>,
        lists: Option<Arc<status_list::Cache>>,
        metrics: Arc<ShardMetrics>,
    ) -> Self {
        let Recording { appender, ack, ack_timeout, on_failure } = recording;
        Self {
            verifier,
            delegates: Delegates::default(),
            appender,
            ack_timeout,
            on_failure,
            held: Held::new(waits, Arc::clone(&view)),
            view,
            realms: IssuerRealms::default(),
            lists,
            metrics,
            scratches: std::array::from_fn(|_| token::Scratch::default()),
            verdicts: Vec::new(),
            spare: Asked::default(),
            awaiting: Queue::new(ack),
            promised: Queue::new(Ack::Durable),
            bulk: Bulk::default(),
        }
    }

    /// Decides what was asked, releases what is recorded, and arranges to be woken for more.
    ///
    /// `Break` says that the log has failed for good and the operator wants the daemon to stop then.
    pub(super) fn poll(&mut self, turn: &Turn, policy: &Policy, cx: &Context<'_>) -> ControlFlow<()> {
        *turn.waker.borrow_mut() = Some(cx.waker().clone());
        let (view, realms, lists) =
            (Arc::clone(&self.view), self.realms.of(policy, &self.view), self.lists.clone());
        if !turn.asked.borrow().jobs.is_empty() {
            std::mem::swap(&mut *turn.asked.borrow_mut(), &mut self.spare);
            let asked = std::mem::take(&mut self.spare);
            let asked = self.held.for_epoch(asked, cx.waker());
            let mut asked =
                self.decide_fresh(asked, turn, &moment(policy, &view.look(), &realms, lists.as_deref()));
            asked.jobs.clear();
            asked.arena.clear();
            asked.came_from.clear();
            self.spare = asked;
        }
        loop {
            self.held.look(cx.waker());
            match self.held.due() {
                None => break,
                Some(Due::Fresh(asked)) => {
                    drop(self.decide_fresh(
                        asked,
                        turn,
                        &moment(policy, &view.look(), &realms, lists.as_deref()),
                    ));
                }
                Some(Due::Answered(asked, replied, under)) => {
                    let look = view.look();
                    let moment =
                        Moment { stale: under.stale, ..moment(policy, &look, &realms, lists.as_deref()) };
                    // Answers under other rules are answers to other questions; other keys change no question.
                    let replied = if under.rules_epoch == policy.rules_epoch { replied } else { Vec::new() };
                    self.decide_all(&asked, replied, &moment, turn);
                }
            }
        }
        // Registered before the acknowledgements are read: one that comes in between is not missed.
        self.appender.register(cx.waker());
        // What an operator wants given and counted although it is not recorded.
        let unrecorded = self.gives_unrecorded();
        for queue in [&mut self.awaiting, &mut self.promised] {
            queue.release(&self.appender, unrecorded, turn, &self.metrics);
            queue.give_up(&self.appender, self.ack_timeout, unrecorded, turn, &self.metrics);
        }
        let halts = self.on_failure == OnFailure::Halt
            && self.appender.failure().is_some_and(|failure| failure.kind.is_permanent());
        if halts { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Whether a decision that is not recorded is given all the same. Not beside a log that was rolled back: no count of
    /// them would ever be believed.
    fn gives_unrecorded(&self) -> bool {
        let rolled_back = |failure: AuditFailure| failure.kind == FailureKind::RolledBack;
        self.on_failure == OnFailure::AllowWithGap && !self.appender.failure().is_some_and(rolled_back)
    }

    /// Decides what needs no asking, after asking about the rest; returns the memory of what was decided.
    fn decide_fresh(&mut self, mut asked: Asked, turn: &Turn, moment: &Moment<'_, '_>) -> Asked {
        if moment.policy.may_ask(moment.stale) {
            let mut inquiries = Vec::with_capacity(asked.jobs.len());
            for jobs in asked.jobs.chunks(BATCH_LEN_MAX) {
                self.inquire(jobs, &asked.arena, moment, &mut inquiries);
            }
            let under = AskedUnder { rules_epoch: moment.policy.rules_epoch, stale: moment.stale };
            asked = self.held.for_registry(asked, inquiries, under);
        }
        self.decide_all(&asked, Vec::new(), moment, turn);
        asked
    }

    /// Finds out which of these tokens would be accepted if the registry agrees. Nothing is recorded or answered: they are
    /// read once more when the answers are there, which costs less than keeping all of their claims.
    fn inquire(
        &mut self,
        jobs: &[Job],
        arena: &[u8],
        moment: &Moment<'_, '_>,
        inquiries: &mut Vec<Option<(Inquiry, Proof)>>,
    ) {
        let mut admitted = self.admit_and_verify(jobs, arena, &mut [], moment.policy).into_iter();
        let mut verdicts = self.verdicts.drain(..);
        for jobs in jobs.chunks(BATCH_LEN) {
            let settled = settle(jobs, arena, &mut admitted, &mut verdicts, moment, &mut self.scratches);
            inquiries.extend(settled.into_iter().map(Settled::inquiry));
        }
    }

    /// Decides all of `asked`. `replied` has a place for each question about which the registry was asked, or none at all.
    fn decide_all(
        &mut self,
        asked: &Asked,
        replied: Vec<Option<Replied>>,
        moment: &Moment<'_, '_>,
        turn: &Turn,
    ) {
        let mut replied = replied.into_iter();
        for jobs in asked.jobs.chunks(BATCH_LEN_MAX) {
            let replied = replied.by_ref().take(jobs.len());
            let (answers, mut proofs): (Vec<_>, Vec<_>) = replied
                .map(|one| one.map_or((None, None), |Replied { answer, proof }| (answer, Some(proof))))
                .unzip();
            self.decide(jobs, &asked.arena, &answers, &mut proofs, moment, turn);
            // Once per batch: a turn of many batches does not fill the ring before the sequencer sees the first.
            self.appender.submit();
        }
    }

    fn admit_and_verify<'a, 'p>(
        &mut self,
        jobs: &[Job],
        arena: &'a [u8],
        proofs: &mut [Option<Proof>],
        policy: &'p Policy,
    ) -> Vec<Result<Admitted<'a, 'p>, Rejection>> {
        let texts = jobs.iter().map(|job| Ok(&arena[job.token.clone()?]));
        let Self { delegates, verifier, verdicts, scratches, .. } = self;
        let admitted = request::admit_all(texts, policy, delegates, verifier, verdicts, &mut scratches[0]);
        let mut proofs = proofs.iter_mut();
        let admitted: Vec<Result<Admitted<'_, '_>, Rejection>> = admitted
            .into_iter()
            .map(|admitted| {
                let proof = proofs.next().and_then(Option::take);
                admitted.map(|admitted| admitted.proven(proof, policy))
            })
            .collect();
        let items: Vec<Item<'_>> = admitted.iter().flatten().flat_map(Admitted::items).collect();
        self.verifier.verify(&items, &mut self.verdicts);
        admitted
    }

    /// The life of a batch: admit, verify, settle, record, reply.
    fn decide(
        &mut self,
        jobs: &[Job],
        arena: &[u8],
        answers: &[Option<Answer>],
        proofs: &mut [Option<Proof>],
        moment: &Moment<'_, '_>,
        turn: &Turn,
    ) {
        let Moment { policy, now, .. } = *moment;
        let revocation_epoch = moment.look.epoch();
        self.metrics.batched(jobs.len());
        let unrecorded = self.gives_unrecorded();
        let mut receipts = Receipts::begin(jobs, &self.appender, now);
        let mut admitted = self.admit_and_verify(jobs, arena, proofs, policy).into_iter();
        // Read once per batch: settling and recording one takes far less than the log may.
        let recorded_at = Instant::now();
        let mut verdicts = self.verdicts.drain(..);

        let mut answers = answers.iter().copied();
        for jobs in jobs.chunks(BATCH_LEN) {
            let group = settle(jobs, arena, &mut admitted, &mut verdicts, moment, &mut self.scratches);
            for (job, settled) in jobs.iter().zip(group) {
                let settled = settled.answered(answers.next().flatten());

                let event = decision_event(job, &settled, policy, revocation_epoch);
                // The id is known before the record is made, so that a call's first results can carry it.
                let decision_id = self.appender.peek_id();
                self.metrics.decided(settled.decision);
                let terms = terms(job, &settled, policy, now, revocation_epoch);
                let room = reply(
                    job,
                    &settled,
                    now,
                    scopes_of(job, arena),
                    &decision_id.to_text(),
                    terms,
                    receipts.text_len(),
                );
                let queue = if room.is_some() { &mut self.promised } else { &mut self.awaiting };

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
                        let record = |event: &Event<'_>| self.appender.append(event, queue.ack());
                        (self.bulk.record(&frame, policy, record), self.bulk.len())
                    }
                    Form::Verify(_) | Form::Forward(_) => {
                        (self.appender.append(&Event::Decision(event), queue.ack()), 1)
                    }
                };
                let (arrived, outbox) = (job.arrived, Rc::clone(&job.outbox));
                match recorded {
                    Ok(id) => {
                        debug_assert_eq!(id, decision_id, "the log names a record as it said it would");
                        receipts.ask(id, &outbox, room.clone());
                        queue.push(Awaiting {
                            core_seq: id.core_seq,
                            questions,
                            arrived,
                            recorded: recorded_at,
                            outbox,
                            receipt: room,
                        });
                    }
                    Err(_) => {
                        // Not recorded, so not given, unless the operator wants it given and counted.
                        outbox.release(unrecorded);
                        turn.close(questions);
                    }
                }
            }
        }
        assert!(verdicts.next().is_none(), "every verdict belongs to one admitted token");
        receipts.write(&mut self.appender);
    }
}

/// What this batch is decided by: the clocks are read here, once, and passed down.
fn moment<'p, 'v>(
    policy: &'p Policy,
    look: &'v Look<'v>,
    realms: &'v [Realms],
    lists: Option<&'v status_list::Cache>,
) -> Moment<'p, 'v> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let stale = look.age(Instant::now()) > policy.staleness_max;
    Moment { policy, look, realms, now: UnixSeconds(now.as_secs()), stale, lists }
}

/// Settles a group of jobs, as many as are looked up together.
fn settle<'a, 's, 'p>(
    jobs: &[Job],
    arena: &[u8],
    admitted: &mut impl Iterator<Item = Result<Admitted<'a, 'p>, Rejection>>,
    verdicts: &mut impl Iterator<Item = Verdict>,
    moment: &Moment<'p, '_>,
    scratches: &'s mut [token::Scratch; BATCH_LEN],
) -> SmallVec<[Settled<'s, 'p>; BATCH_LEN]> {
    let tokens: SmallVec<[Read<'_, '_>; BATCH_LEN]> = jobs
        .iter()
        .zip(admitted)
        .zip(scratches)
        .map(|((job, admitted), scratch)| {
            let admitted = match admitted {
                Ok(admitted) => admitted,
                Err(rejection) => return Read::not_admitted(rejection),
            };
            let scopes: SmallVec<[&str; 16]> =
                scopes_of(job, arena).split(' ').filter(|name| !name.is_empty()).collect();
            let audience = job.audience.as_ref().map(|range| text(arena, range));
            let demand = Demand { audience, scopes: &scopes };
            request::read(admitted, verdicts, moment, &demand, scratch)
        })
        .collect();
    let statuses = request::look_up(&tokens, moment);
    tokens.into_iter().zip(statuses).map(|(token, status)| token.settle(status, moment)).collect()
}

fn scopes_of<'a>(job: &Job, arena: &'a [u8]) -> &'a str {
    text(arena, &job.scopes)
}

fn text<'a>(arena: &'a [u8], range: &Range<usize>) -> &'a str {
    std::str::from_utf8(&arena[range.clone()]).unwrap_or_default()
}

/// How long the answer holds, where proxies may keep answers, and the epoch, where it is wanted.
///
/// What a registry had to be asked about holds once; what a stale view said does not hold at all.
fn terms(job: &Job, settled: &Settled<'_, '_>, policy: &Policy, now: UnixSeconds, epoch: u64) -> Terms {
    let max_age_s = (policy.cache_s > 0).then(|| {
        let exp = settled.claims.as_ref().and_then(|claims| claims.exp);
        let lasts = settled.decision == Decision::Accepted && !settled.stale && !settled.asked.is_any();
        let left = exp.map_or(0, |exp| exp.since(now));
        if lasts { left.min(policy.cache_s) } else { 0 }
    });
    Terms { epoch: job.min_epoch.map(|_| epoch), max_age_s }
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
        kid: settled.kid(),
        tenant: settled.profile.map_or("", |profile| &profile.tenant),
        caller: "",
        subject: claims.and_then(|claims| claims.sub),
        jti: claims.and_then(|claims| claims.jti).map(|jti| jti.0),
        client: job.peer,
        policy_epoch: policy.epoch,
        revocation_epoch,
        latency_us: u32::try_from(job.arrived.elapsed().as_micros()).unwrap_or(u32::MAX),
        expires: claims.and_then(|claims| claims.exp),
        stale: settled.stale,
    }
}

/// Leaves the answer in the connection's outbox; it is sent once it is released. Answers where its receipt goes, if it
/// asked for one.
fn reply(
    job: &Job,
    settled: &Settled<'_, '_>,
    now: UnixSeconds,
    scopes: &str,
    decision_id: &str,
    terms: Terms,
    receipt_len: Option<usize>,
) -> Option<Range<usize>> {
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
            wire::write_forward_reply(out, &outcome, scopes, decision_id, terms, connection);
            None
        }),
        Form::Verify(place) => job.outbox.with_buffers(|out, body| {
            wire::AnswerWriter::new(out, body).write(&outcome, decision_id, terms, place, receipt_len)
        }),
    }
}
