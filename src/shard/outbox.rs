//! What a connection is about to send, filled by the shard's turn and released once it is recorded.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::wire::Connection;

/// The replies of one connection that are being made. Shared by its task and the shard's turn, on one thread.
#[derive(Default)]
pub(super) struct Outbox {
    inner: RefCell<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Replies, in the order of the requests.
    bytes: Vec<u8>,
    /// Where the replies that await their records begin; those before may leave whatever happens.
    awaited_from: usize,
    /// The body of the reply being assembled, when several tokens share one.
    body: Vec<u8>,
    /// Records awaited.
    open: usize,
    /// Replies owed for the records that are awaited: what to send instead if they cannot be recorded.
    owed: Vec<Owed>,
    waker: Option<Waker>,
    /// Set when the answers in `bytes` could not be recorded and must not leave.
    unrecorded: bool,
}

/// One reply that is owed, and in which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owed {
    /// A forward-authentication answer.
    Forward(Connection),
    /// An answer to the verify call.
    Verify(Connection),
}

/// How the wait for the answers ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Release {
    /// They are recorded as configured and may leave.
    Recorded,
    /// They could not be recorded and have been taken back; these replies are owed in their place.
    Unrecorded(Vec<Owed>),
}

impl Outbox {
    /// Gives access to the reply bytes outside of a turn.
    pub(super) fn with_bytes<T>(&self, f: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        f(&mut self.inner.borrow_mut().bytes)
    }

    /// Gives access to the reply bytes and to the scratch for a body.
    pub(super) fn with_buffers<T>(&self, f: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>) -> T) -> T {
        let Inner { bytes, body, .. } = &mut *self.inner.borrow_mut();
        f(bytes, body)
    }

    /// Notes that one more record must be released before the owed reply may leave.
    pub(super) fn expect(&self, owed: Owed) {
        let mut inner = self.inner.borrow_mut();
        if inner.owed.is_empty() {
            inner.awaited_from = inner.bytes.len();
        }
        inner.open += 1;
        inner.owed.push(owed);
    }

    /// Whether answers are awaited.
    pub(super) fn is_waiting(&self) -> bool {
        self.inner.borrow().open > 0
    }

    /// One reply was recorded, or failed to be.
    pub(super) fn release(&self, recorded: bool) {
        let mut inner = self.inner.borrow_mut();
        inner.open -= 1;
        inner.unrecorded |= !recorded;
        if inner.open == 0
            && let Some(waker) = inner.waker.take()
        {
            waker.wake();
        }
    }

    /// Waits until every reply has been released.
    pub(super) async fn released(self: &Rc<Self>) -> Release {
        poll_fn(|cx| {
            let mut inner = self.inner.borrow_mut();
            if inner.open > 0 {
                inner.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            if std::mem::take(&mut inner.unrecorded) {
                let from = inner.awaited_from;
                inner.bytes.truncate(from);
                Poll::Ready(Release::Unrecorded(std::mem::take(&mut inner.owed)))
            } else {
                inner.owed.clear();
                Poll::Ready(Release::Recorded)
            }
        })
        .await
    }

    /// Takes the reply bytes, leaving `empty` in their place.
    pub(super) fn take(&self, empty: Vec<u8>) -> Vec<u8> {
        std::mem::replace(&mut self.inner.borrow_mut().bytes, empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::future::Future as _;
    use std::task::Context;

    fn poll(outbox: &Rc<Outbox>) -> Poll<Release> {
        std::pin::pin!(outbox.released()).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn only_the_answers_that_were_not_recorded_are_taken_back() {
        let outbox = Rc::<Outbox>::default();
        outbox.with_bytes(|out| out.extend_from_slice(b"livez "));
        outbox.expect(Owed::Forward(Connection::KeepAlive));
        outbox.with_bytes(|out| out.extend_from_slice(b"first "));
        outbox.release(true);
        assert_eq!(poll(&outbox), Poll::Ready(Release::Recorded));

        outbox.expect(Owed::Forward(Connection::KeepAlive));
        outbox.expect(Owed::Verify(Connection::Close));
        outbox.with_bytes(|out| out.extend_from_slice(b"second third"));
        outbox.release(true);
        assert_eq!(poll(&outbox), Poll::Pending);
        outbox.release(false);
        let owed = vec![Owed::Forward(Connection::KeepAlive), Owed::Verify(Connection::Close)];
        assert_eq!(poll(&outbox), Poll::Ready(Release::Unrecorded(owed)));
        assert_eq!(outbox.take(Vec::new()), b"livez first ");
    }
}
