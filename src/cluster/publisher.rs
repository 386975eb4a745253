//! Publishing: what was decided here becomes true on every node.

use std::fmt;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::codec;
use super::connect::{self, Backoff};
use super::error::ClusterError;
use super::link::Link;
use super::script::{self, Encoded, Epochs, REQUEST_CHANGES_MAX};
use super::shared::Shared;
use super::status::Work as Task;
use crate::revocation::TargetKind;
use crate::store::{Listed, StoredChange};

/// Publishes; cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    queue: Sender<Request>,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The revocation epoch that has it, on every node.
    pub epoch: u64,
}

impl Publisher {
    /// Publishes changes: all of them in one epoch, or none. `answer` is called on another thread, once, after Redis and
    /// `min_replicas` replicas have them; never, if the daemon stops first.
    ///
    /// The caller applies the changes to the view under epoch 0: the follower raises the view's epoch once it has read the
    /// entry, and so everything before it, which other nodes may have published a moment ago.
    ///
    /// `known_epoch` is the highest epoch this node knows; the new one is above. Publishing again is harmless, and the way
    /// to find out what became of a request whose answer did not come. `answer` must not block.
    pub fn publish(
        &self,
        changes: &[StoredChange],
        known_epoch: u64,
        answer: impl FnOnce(Result<Published, ClusterError>) + Send + 'static,
    ) {
        match Encoded::new(changes, Epochs::New) {
            Ok(encoded) => {
                self.submit(Request { work: Work::Changes(encoded, known_epoch), answer: Box::new(answer) });
            }
            Err(error) => answer(Err(error)),
        }
    }

    /// Puts tokens on the allow list, in the same way.
    ///
    /// What the state database has on its list too is given to Redis again should that lose it.
    pub fn list(
        &self,
        tokens: &[Listed<'_>],
        answer: impl FnOnce(Result<(), ClusterError>) + Send + 'static,
    ) {
        let too_many = ClusterError::TooMany { count: tokens.len(), most: REQUEST_CHANGES_MAX };
        let member = |token: &Listed<'_>| {
            let member = codec::identity(TargetKind::Token, token.tenant, token.issuer, token.jti)?;
            Some((codec::score(token.expires_at), member))
        };
        match tokens.iter().map(member).collect::<Option<Vec<_>>>() {
            Some(members) if members.len() <= REQUEST_CHANGES_MAX => {
                let answer = Box::new(move |done: Result<Published, _>| answer(done.map(drop)));
                self.submit(Request { work: Work::Listing(members), answer });
            }
            _ => answer(Err(too_many)),
        }
    }

    fn submit(&self, request: Request) {
        match self.queue.try_send(request) {
            Ok(()) => {}
            Err(TrySendError::Full(request)) => {
                (request.answer)(Err(ClusterError::Busy { waiting: WAITING_MAX }));
            }
            Err(TrySendError::Disconnected(request)) => (request.answer)(Err(ClusterError::Stopped)),
        }
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("waiting", &self.queue.len()).finish()
    }
}

type Answer = Box<dyn FnOnce(Result<Published, ClusterError>) + Send>;

struct Request {
    work: Work,
    answer: Answer,
}

enum Work {
    Changes(Encoded, u64),
    Listing(Vec<(String, Vec<u8>)>),
}

/// The thread `redis-pub`.
pub(super) struct PublisherThread {
    requests: Receiver<Request>,
    link: Option<Link>,
    backoff: Backoff,
    // Why there is no connection; answers requests until the next try is due.
    last: ClusterError,
}

pub(super) fn publisher() -> (Publisher, PublisherThread) {
    let (queue, requests) = bounded(WAITING_MAX);
    let thread =
        PublisherThread { requests, link: None, backoff: Backoff::new(), last: ClusterError::Stopped };
    (Publisher { queue }, thread)
}

impl PublisherThread {
    /// Works until told to stop.
    pub(super) fn run(mut self, shared: &Shared) {
        while !shared.stop.is_set() {
            match self.requests.recv_timeout(STOP_POLL) {
                Ok(first) => self.serve(shared, first),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        for request in self.requests.try_iter() {
            (request.answer)(Err(ClusterError::Stopped));
        }
    }

    /// Answers a request and those that wait behind it, in one script.
    fn serve(&mut self, shared: &Shared, first: Request) {
        let (mut changes, mut listings) = (Vec::new(), Vec::new());
        let (mut bytes, mut members) = (0, 0);
        let mut next = Some(first);
        while let Some(Request { work, answer }) = next.take() {
            match work {
                Work::Changes(encoded, known) => {
                    (bytes, members) = (bytes + encoded.bytes, members + encoded.changes);
                    changes.push((encoded, known, answer));
                }
                Work::Listing(some) => {
                    members += some.len();
                    listings.push((some, answer));
                }
            }
            if bytes < SCRIPT_BYTES_MAX && members < SCRIPT_MEMBERS_MAX {
                next = self.requests.try_recv().ok();
            }
        }
        if !changes.is_empty() {
            let known = changes.iter().map(|(_, known, _)| *known).max().unwrap_or(0);
            let known = known.max(shared.view.epoch());
            let requests: Vec<&Encoded> = changes.iter().map(|(encoded, ..)| encoded).collect();
            let done = self.twice(shared, |link| {
                let epochs =
                    script::publish(link, &shared.keys, shared.redis.stream_len_max, known, &requests)?;
                link.wait_for_replicas(shared.redis.min_replicas)?;
                Ok(epochs)
            });
            for (i, (.., answer)) in changes.into_iter().enumerate() {
                answer(match &done {
                    Ok(epochs) => Ok(Published { epoch: epochs[i] }),
                    Err(error) => Err(error.clone()),
                });
            }
        }
        if !listings.is_empty() {
            let tokens =
                || listings.iter().flat_map(|(members, _)| members).map(|(score, member)| (score, member));
            let done = self.twice(shared, |link| {
                if tokens().next().is_some() {
                    script::list(link, &shared.keys, tokens())?;
                    link.wait_for_replicas(shared.redis.min_replicas)?;
                }
                Ok(())
            });
            for (_, answer) in listings {
                answer(done.clone().map(|()| Published { epoch: 0 }));
            }
        }
    }

    /// Does it, and once more on a new connection where the old one turns out to be broken or to lead to a replica: what
    /// is done here may be repeated. A server that does not answer in time is not asked twice.
    fn twice<T>(
        &mut self,
        shared: &Shared,
        work: impl Fn(&mut Link) -> Result<T, ClusterError>,
    ) -> Result<T, ClusterError> {
        let used = self.link.is_some();
        let mut done = self.once(shared, &work);
        if used
            && self.link.is_none()
            && let Err(
                ClusterError::NotPrimary { .. }
                | ClusterError::Unreachable { .. }
                | ClusterError::Refused { .. },
            ) = &done
        {
            done = self.once(shared, &work);
        }
        match &done {
            Ok(_) => shared.board.succeed(Task::Publish),
            Err(error) => {
                if shared.board.fail(Task::Publish, error) {
                    tracing::warn!(%error, "cannot publish");
                }
            }
        }
        done
    }

    fn once<T>(
        &mut self,
        shared: &Shared,
        work: impl Fn(&mut Link) -> Result<T, ClusterError>,
    ) -> Result<T, ClusterError> {
        let now = Instant::now();
        let link = match &mut self.link {
            Some(link) => link,
            None if self.backoff.left(now) > Duration::ZERO => return Err(self.last.clone()),
            none => match connect::primary(&shared.redis, shared.votes.as_ref()) {
                Ok(link) => {
                    self.backoff.succeeded();
                    none.insert(link)
                }
                Err(error) => {
                    self.backoff.failed(Instant::now());
                    self.last = error.clone();
                    return Err(error);
                }
            },
        };
        let done = shared.check_named(link).and_then(|()| work(link));
        if let Err(error) = &done
            && !error.spares_connection()
        {
            self.link = None;
        }
        done
    }
}

/// Requests that may wait; the control plane has fewer under way.
const WAITING_MAX: usize = 1024;

/// One script takes no further request once it has this many bytes or members: it stops the server while it runs.
const SCRIPT_BYTES_MAX: usize = 1 << 20;
const SCRIPT_MEMBERS_MAX: usize = 2000;

/// How soon the thread sees that it is to stop.
const STOP_POLL: Duration = Duration::from_millis(100);
