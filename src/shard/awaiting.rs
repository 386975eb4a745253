//! Answers that wait for their records to be safe, and what becomes of those whose records are not.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::audit::{Ack, Appender};
use crate::metrics::{ShardMetrics, bump};
use crate::wire;

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
    /// Where its reply has a receipt, which leaves only with a record that is acknowledged.
    pub(super) receipt: Option<Range<usize>>,
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
            self.close_front(recorded, unrecorded, turn);
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
            self.close_front(false, unrecorded, turn);
        }
        if let Some((core_seq, waited)) = last {
            appender.report_stalled(core_seq, self.ack, waited);
        }
    }

    fn close_front(&mut self, recorded: bool, unrecorded: bool, turn: &Turn) {
        if let Some(answer) = self.answers.pop_front() {
            if let (false, Some(room)) = (recorded, answer.receipt) {
                answer.outbox.with_bytes(|out| wire::withhold_receipt(&mut out[room]));
            }
            answer.outbox.release(recorded || unrecorded);
            turn.close(answer.questions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::future::Future as _;

    use crate::audit::{Event, Opened, Settings, StopEvent, open};
    use crate::shard::outbox::{Owed, Release};
    use crate::wire::Connection;

    /// What leaves of an answer with a receipt, to an operator who wants answers given although they are not recorded.
    fn given(acknowledged: bool) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { create: true, ..Settings::new(dir.path(), "test.example/log") };
        let Opened { mut appenders, log, .. } = open(&settings, 1).unwrap();
        let stop = Event::Stop(StopEvent { reason: "test" });
        let id = appenders[0].append(&stop, Ack::Durable).unwrap();
        appenders[0].wait(id, Ack::Durable, Duration::from_secs(60)).unwrap();

        let (turn, metrics, outbox) = (Turn::new(), ShardMetrics::default(), Rc::<Outbox>::default());
        outbox.with_bytes(|out| out.extend_from_slice(br#"{"receipt":"abcdef"}"#));
        outbox.expect(Owed::Verify(Connection::KeepAlive));
        let mut queue = Queue::new(Ack::Durable);
        queue.push(Awaiting {
            core_seq: if acknowledged { id.core_seq } else { u64::MAX },
            questions: 0,
            arrived: Instant::now(),
            recorded: Instant::now(),
            outbox: Rc::clone(&outbox),
            receipt: Some(11..19),
        });
        queue.release(&appenders[0], true, &turn, &metrics);
        queue.give_up(&appenders[0], Duration::ZERO, true, &turn, &metrics);
        let released = std::pin::pin!(outbox.released())
            .poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        assert_eq!(released, std::task::Poll::Ready(Release::Recorded));
        log.close(Duration::from_secs(60)).unwrap();
        outbox.take(Vec::new())
    }

    #[test]
    fn an_answer_that_is_given_unrecorded_promises_no_record() {
        assert_eq!(given(true), br#"{"receipt":"abcdef"}"#);
        assert_eq!(given(false), br#"{"receipt":null    }"#);
    }
}
