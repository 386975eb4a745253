//! Deadlines of connections: one coarse clock per shard instead of a timer per read.
//!
//! A connection says how long it may wait; the shard's tick looks over all of them and wakes the late ones, which
//! then drop the read they are waiting for. Precision is one tick; the cost per request is one store.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// How often deadlines are looked at.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// The clock of one shard and the connections it watches.
pub(super) struct Clock {
    started: Instant,
    connections: RefCell<Vec<Option<Rc<Deadline>>>>,
    free: RefCell<Vec<usize>>,
}

/// The deadline of one connection.
pub(super) struct Deadline {
    // Milliseconds since the clock started; u64::MAX while nothing is awaited.
    at_ms: Cell<u64>,
    // Whether the connection waits between requests: then a drain ends it at once.
    idle: Cell<bool>,
    expired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    index: usize,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), connections: RefCell::default(), free: RefCell::default() }
    }

    /// How many connections are watched.
    pub(super) fn connections(&self) -> usize {
        self.connections.borrow().len() - self.free.borrow().len()
    }

    pub(super) fn watch(&self) -> Rc<Deadline> {
        let mut connections = self.connections.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or(connections.len());
        let deadline = Rc::new(Deadline {
            at_ms: Cell::new(u64::MAX),
            idle: Cell::new(false),
            expired: Cell::new(false),
            waker: RefCell::default(),
            index,
        });
        if index == connections.len() {
            connections.push(Some(Rc::clone(&deadline)));
        } else {
            connections[index] = Some(Rc::clone(&deadline));
        }
        deadline
    }

    pub(super) fn forget(&self, deadline: &Deadline) {
        self.connections.borrow_mut()[deadline.index] = None;
        self.free.borrow_mut().push(deadline.index);
    }

    /// Wakes every connection whose deadline has passed; with `draining` also every idle one.
    pub(super) fn tick(&self, draining: bool) {
        let now = self.now_ms();
        for deadline in self.connections.borrow().iter().flatten() {
            if now >= deadline.at_ms.get() || (draining && deadline.idle.get()) {
                deadline.expired.set(true);
                if let Some(waker) = deadline.waker.borrow_mut().take() {
                    waker.wake();
                }
            }
        }
    }

    /// Lets `deadline` expire after `wait`.
    pub(super) fn set(&self, deadline: &Deadline, wait: Duration, idle: bool) {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        deadline.at_ms.set(self.now_ms().saturating_add(wait_ms));
        deadline.idle.set(idle);
        deadline.expired.set(false);
    }

    /// Stops `deadline`: nothing is awaited from the peer.
    pub(super) fn clear(deadline: &Deadline) {
        deadline.at_ms.set(u64::MAX);
        deadline.idle.set(false);
        // A tick that came after the bytes did, and before their task ran, must not end what they began.
        deadline.expired.set(false);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Deadline {
    /// Waits for `future`, or for the deadline: then `None`, and `future` is dropped by the caller's scope.
    pub(super) async fn within<F: Future>(&self, future: F) -> Option<F::Output> {
        let future = std::pin::pin!(future);
        Within { deadline: self, future }.await
    }
}

struct Within<'a, F> {
    deadline: &'a Deadline,
    future: Pin<&'a mut F>,
}

impl<F: Future> Future for Within<'_, F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        if self.deadline.expired.get() {
            return Poll::Ready(None);
        }
        let mut waker = self.deadline.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}
