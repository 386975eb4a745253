//! The shard's turn: every question that arrived in one turn of the event loop is decided together.
//!
//! Connections ask while they run; the turn is one task that the first question wakes, so it runs after all the
//! connections that had bytes. No timer delays a lone question. The order within a turn is the order of asking, so a
//! connection's answers come in the order of its requests.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use crate::decision::Rejection;
use crate::wire::{Connection, Place};

use super::outbox::Outbox;

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
    /// The revocation epoch the caller demands; the answer then tells its own.
    pub(super) min_epoch: Option<u64>,
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
    pub(super) const fn surface(self) -> u8 {
        match self {
            Self::Forward(_) => 1,
            Self::Verify(_) => 2,
        }
    }
}

/// A question kept until the turn: its text lies in the arena.
pub(super) struct Job {
    pub(super) token: Result<Range<usize>, Rejection>,
    pub(super) audience: Option<Range<usize>>,
    pub(super) scopes: Range<usize>,
    pub(super) form: Form,
    pub(super) peer: Option<IpAddr>,
    pub(super) arrived: Instant,
    pub(super) min_epoch: Option<u64>,
    pub(super) outbox: Rc<Outbox>,
}

/// Questions asked since the last turn, or held back from one.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) arena: Vec<u8>,
    pub(super) jobs: Vec<Job>,
    // Of held ones: where each stood before they were.
    pub(super) came_from: Vec<usize>,
}

/// The questions of one shard.
pub(super) struct Turn {
    pub(super) asked: RefCell<Asked>,
    pub(super) waker: RefCell<Option<Waker>>,
    open: Cell<usize>,
}

impl Turn {
    pub(super) fn new() -> Self {
        Self { asked: RefCell::default(), waker: RefCell::default(), open: Cell::new(0) }
    }

    /// Takes a question; its answer will be released to `outbox`.
    pub(super) fn ask(&self, question: &Question<'_>, outbox: &Rc<Outbox>) {
        let mut asked = self.asked.borrow_mut();
        let Asked { arena, jobs, .. } = &mut *asked;
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
            min_epoch: question.min_epoch,
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
    pub(super) fn close(&self, questions: usize) {
        self.open.set(self.open.get() - questions);
    }
}
