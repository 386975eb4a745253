//! Answers that wait for their records to be safe, and what becomes of those whose records are not.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::audit::{Ack, Appender};
use crate::metrics::{ShardMetrics, bump};

use super::clock::TICK;
use super::outbox::Outbox;
use super::turn::Turn;

/// An answer that waits for its record.
pub(super) struct Awaiting {
    pub(super) core_seq: u64,
    /// How many tokens it decides.
    pub(super) questions: usize,
    pub(super) arrived: Instant,
    /// When its record was handed to the log: what came before was the shard's own time, not the log's.
    pub(super) recorded: Instant,
    pub(super) outbox: Rc<Outbox>,
}

/// Answers that wait for the same kind of acknowledgement, in the order of their records.
pub(super) struct Queue {
    ack: Ack,
    answers: VecDeque<Awaiting>,
}

impl Queue {
    pub(super) const fn new(ack: Ack) -> Self {
        Self { ack, answers: VecDeque::new() }
    }

    pub(super) const fn ack(&self) -> Ack {
        self.ack
    }

    pub(super) fn push(&mut self, answer: Awaiting) {
        self.answers.push_back(answer);
    }

    /// Releases the answers whose records are acknowledged; all of them once the log has failed, and then only for
    /// `unrecorded` with what they say.
    pub(super) fn release(
        &mut self,
        appender: &Appender,
        unrecorded: bool,
        turn: &Turn,
        metrics: &ShardMetrics,
    ) {
        let failed = appender.failure().is_some();
        let acknowledged = appender.acknowledged(self.ack);
        while let Some(answer) = self.answers.front() {
            let recorded = answer.core_seq <= acknowledged;
            if !recorded && !failed {
                break;
            }
            metrics.answered(answer.arrived.elapsed());
            self.close_front(recorded || unrecorded, turn);
        }
    }

    /// Takes back the answers whose records the log would hold longer than it may, and says that it stalls. Their
    /// records may still be acknowledged later, which then concerns nobody: what is recorded includes what is
    /// delivered. The log's time counts from the record: a shard that is merely busy does not shut the log's gate.
    pub(super) fn give_up(
        &mut self,
        appender: &Appender,
        timeout: Duration,
        unrecorded: bool,
        turn: &Turn,
        metrics: &ShardMetrics,
    ) {
        let mut last = None;
        while let Some(answer) = self.answers.front() {
            let waited = answer.recorded.elapsed();
            // Looked at once a tick: what would be late at the next one is late now.
            if waited + TICK <= timeout {
                break;
            }
            last = Some((answer.core_seq, waited));
            bump(&metrics.unacknowledged);
            self.close_front(unrecorded, turn);
        }
        if let Some((core_seq, waited)) = last {
            appender.report_stalled(core_seq, self.ack, waited);
        }
    }

    fn close_front(&mut self, given: bool, turn: &Turn) {
        if let Some(answer) = self.answers.pop_front() {
            answer.outbox.release(given);
            turn.close(answer.questions);
        }
    }
}
