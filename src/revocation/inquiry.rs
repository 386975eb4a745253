//! What the local view cannot answer: asked of a registry, a batch per turn of the event loop.
//!
//! Three questions need more than the view: whether a token is revoked when the view is too old, whether it is on an
//! allow list, and whether it is presented for the first time. Answers may take a round trip to Redis or a write to
//! disk, so a shard hands them over and goes on; one thread, the registrar, puts the batches of all shards into one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::Duration;

use atomic_waker::AtomicWaker;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use crossbeam::queue::ArrayQueue;

use super::view::Identity;
use crate::decision::UnixSeconds;

/// What is asked about one token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// Whether it is revoked: the view is too old to say.
    pub revoked: bool,
    /// Whether it is on its issuer's allow list.
    pub listed: bool,
    /// Whether this is its first use; if so, it is used now.
    pub unused: bool,
}

impl Asked {
    /// Whether anything is asked.
    #[must_use]
    pub const fn is_any(self) -> bool {
        self.revoked || self.listed || self.unused
    }
}

/// One token that must be asked about. Owns its names, since the turn that made it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inquiry {
    // Tenant, issuer, kid, who certified it, jti, subject and session in one piece: every token of a stale view is asked about.
    names: Box<str>,
    // How long each of them is; `None`: the token has none.
    lens: [Option<usize>; 7],
    issued_at: Option<UnixSeconds>,
    /// From this second on it is refused as expired: how long its use must be remembered.
    pub until: UnixSeconds,
    /// What is asked.
    pub asked: Asked,
}

impl Inquiry {
    /// Asks about a token that passes `until` this second.
    #[must_use]
    pub fn new(identity: &Identity<'_>, until: UnixSeconds, asked: Asked) -> Self {
        let Identity { tenant, issuer, kid, certified_by, jti, subject, session, issued_at } = *identity;
        let parts = [Some(tenant), Some(issuer), Some(kid), certified_by, jti, subject, session];
        let lens = parts.map(|part| part.map(str::len));
        let mut names = String::with_capacity(lens.iter().flatten().sum());
        parts.into_iter().flatten().for_each(|part| names.push_str(part));
        Self { names: names.into(), lens, issued_at, until, asked }
    }

    /// Whose token it is.
    #[must_use]
    pub fn identity(&self) -> Identity<'_> {
        let mut rest = &*self.names;
        let [tenant, issuer, kid, certified_by, jti, subject, session] = self.lens.map(|len| {
            let (part, behind) = rest.split_at(len?);
            rest = behind;
            Some(part)
        });
        let always = |part: Option<_>| part.unwrap_or_default();
        Identity {
            tenant: always(tenant),
            issuer: always(issuer),
            kid: always(kid),
            certified_by,
            jti,
            subject,
            session,
            issued_at: self.issued_at,
        }
    }
}

/// What the registry says about one token: the first that applies, in this order, of what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Cannot be told now.
    Unknown,
    /// Revoked.
    Revoked,
    /// Its tenant, issuer, key or subject is disabled for the time being.
    Disabled,
    /// Not on its issuer's allow list.
    NotListed,
    /// Used before.
    Replayed,
    /// It may pass; where its first use was asked for, it is used now.
    Clear,
}

/// Who knows: the state database, or Redis.
pub trait Registry: Send {
    /// Answers a batch, in its order and as many. May block; must come back within the caller's patience, with
    /// [`Answer::Unknown`] where it does not know by then. A token is used only where everything else asked about it is
    /// in order.
    fn answer(&mut self, inquiries: &[Inquiry]) -> Vec<Answer>;
}

/// A shard's way to the registry.
#[derive(Debug)]
pub struct Inquirer {
    requests: Sender<Request>,
    replies: Arc<Replies>,
    next: u64,
}

/// The answers to one batch.
#[derive(Debug)]
pub struct Answers {
    /// What [`Inquirer::ask`] returned.
    pub ticket: u64,
    /// One per inquiry, in order.
    pub answers: Vec<Answer>,
}

/// Runs the registry; one thread's work.
#[derive(Debug)]
pub struct Registrar {
    requests: Receiver<Request>,
}

#[derive(Debug)]
struct Request {
    ticket: u64,
    inquiries: Vec<Inquiry>,
    replies: Arc<Replies>,
}

// Filled by the registrar, emptied by one shard.
#[derive(Debug)]
struct Replies {
    queue: ArrayQueue<Answers>,
    waker: AtomicWaker,
}

/// The two ends: one for the registrar's thread, one per shard.
#[must_use]
pub fn registry(shards: u16) -> (Registrar, Vec<Inquirer>) {
    let (sender, requests) = bounded(usize::from(shards) * BATCHES_MAX);
    let inquirer = |_| Inquirer {
        requests: sender.clone(),
        replies: Arc::new(Replies { queue: ArrayQueue::new(BATCHES_MAX), waker: AtomicWaker::new() }),
        next: 0,
    };
    (Registrar { requests }, (0..shards).map(inquirer).collect())
}

impl Inquirer {
    /// Hands a batch over; its answers come later, or never. `None`: too much is being asked already.
    pub fn ask(&mut self, inquiries: Vec<Inquiry>) -> Option<u64> {
        let ticket = self.next;
        let request = Request { ticket, inquiries, replies: Arc::clone(&self.replies) };
        match self.requests.try_send(request) {
            Ok(()) => {
                self.next += 1;
                Some(ticket)
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => None,
        }
    }

    /// Has `waker` woken when answers come. Register first, then look.
    pub fn register(&self, waker: &Waker) {
        self.replies.waker.register(waker);
    }

    /// Answers that have come, oldest first.
    #[must_use]
    pub fn answers(&self) -> Option<Answers> {
        self.replies.queue.pop()
    }
}

impl Registrar {
    /// Answers until `stop` says so or every [`Inquirer`] is gone. Blocks.
    pub fn run(self, registry: &mut dyn Registry, stop: &AtomicBool) {
        let mut inquiries = Vec::new();
        let mut parts = Vec::new();
        while !stop.load(Ordering::Acquire) {
            let mut next = match self.requests.recv_timeout(STOP_POLL) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            while let Some(Request { ticket, inquiries: some, replies }) = next.take() {
                parts.push((ticket, some.len(), replies));
                inquiries.extend(some);
                if inquiries.len() < INQUIRIES_MAX {
                    next = self.requests.try_recv().ok();
                }
            }
            let mut answers = registry.answer(&inquiries).into_iter();
            inquiries.clear();
            for (ticket, count, replies) in parts.drain(..) {
                // A registry that says too little knows too little.
                let answers = (0..count).map(|_| answers.next().unwrap_or(Answer::Unknown)).collect();
                // Answers that a shard did not fetch are for questions it gave up: the oldest make room.
                replies.queue.force_push(Answers { ticket, answers });
                replies.waker.wake();
            }
        }
    }
}

/// Batches of one shard that may wait to be asked, or whose answers may wait to be fetched: each turn of its event loop makes
/// one while the registrar is busy with those before.
const BATCHES_MAX: usize = 1024;

/// How long the registrar may take to notice that it must end.
const STOP_POLL: Duration = Duration::from_millis(50);

/// Inquiries put into one batch, unless one shard's are more.
const INQUIRIES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    struct Echo;

    impl Registry for Echo {
        fn answer(&mut self, inquiries: &[Inquiry]) -> Vec<Answer> {
            let of = |inquiry: &Inquiry| match inquiry.identity().jti {
                Some("bad") => Answer::Revoked,
                Some("short") => Answer::Unknown,
                _ => Answer::Clear,
            };
            inquiries.iter().map(of).take_while(|answer| *answer != Answer::Unknown).collect()
        }
    }

    fn inquiry(jti: &str) -> Inquiry {
        let identity = Identity {
            tenant: "t",
            issuer: "i",
            kid: "k",
            certified_by: None,
            jti: Some(jti),
            subject: None,
            session: None,
            issued_at: None,
        };
        Inquiry::new(&identity, UnixSeconds(9), Asked { revoked: true, ..Asked::default() })
    }

    #[test]
    fn an_inquiry_keeps_each_name_apart() {
        let names = [None, Some(""), Some("x"), Some("yy")];
        for (jti, subject, session) in [(0, 1, 2), (1, 0, 3), (2, 3, 0), (3, 2, 1), (0, 0, 0)] {
            let identity = Identity {
                tenant: "tenant",
                issuer: "",
                kid: "k",
                certified_by: names[(jti + 2) % 4],
                jti: names[jti],
                subject: names[subject],
                session: names[session],
                issued_at: Some(UnixSeconds(7)),
            };
            assert_eq!(Inquiry::new(&identity, UnixSeconds(9), Asked::default()).identity(), identity);
        }
    }

    #[test]
    fn each_shard_gets_its_own_answers_and_silence_is_unknown() {
        let (registrar, mut inquirers) = registry(2);
        let mut second = inquirers.pop().unwrap();
        let mut first = inquirers.pop().unwrap();
        assert_eq!(first.ask(vec![inquiry("good"), inquiry("bad")]), Some(0));
        assert_eq!(second.ask(vec![inquiry("bad")]), Some(0));
        assert_eq!(first.ask(vec![inquiry("short"), inquiry("good")]), Some(1));
        let (mine, theirs) = (Arc::clone(&first.replies), Arc::clone(&second.replies));
        // The registrar ends with the last of them.
        drop((first, second));
        let stop = AtomicBool::new(false);
        thread::spawn(move || registrar.run(&mut Echo, &stop)).join().unwrap();
        let got = |replies: &Replies| {
            let answers = replies.queue.pop().unwrap();
            (answers.ticket, answers.answers)
        };
        assert_eq!(got(&mine), (0, vec![Answer::Clear, Answer::Revoked]));
        assert_eq!(got(&mine), (1, vec![Answer::Unknown, Answer::Unknown]));
        assert_eq!(got(&theirs), (0, vec![Answer::Revoked]));
    }

    #[test]
    fn a_shard_that_asks_too_much_is_told_so() {
        let (_registrar, mut inquirers) = registry(1);
        let asked = (0..).map_while(|_| inquirers[0].ask(vec![inquiry("x")])).count();
        assert_eq!(asked, BATCHES_MAX);
    }
}
