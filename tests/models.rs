//! The log's wake-ups and acknowledgements under the interleavings of their threads, with the weak memory of the C11 model
//! (loom). The very files of the log are compiled here with a model checker's primitives in the place of the system's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The model's primitives under the names of `src/audit/sync.rs`. No sleep ever times out here: what is missed is missed.
mod sync {
    use std::time::Duration;

    pub(super) use loom::future::AtomicWaker as LoomWaker;
    pub(super) use loom::sync::Mutex;
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
    use loom::sync::{Arc, Condvar};
    pub(super) use std::sync::PoisonError;

    /// A thread that can be unparked before it parks, as the system's can and the model checker's cannot.
    #[derive(Clone)]
    pub(super) struct Thread(Arc<(Mutex<bool>, Condvar)>);

    loom::thread_local! {
        static CURRENT: Thread = Thread(Arc::new((Mutex::new(false), Condvar::new())));
    }

    pub(super) fn current() -> Thread {
        CURRENT.with(Thread::clone)
    }

    pub(super) fn park() {
        let (token, given) = &*current().0;
        let mut token = token.lock().unwrap();
        while !std::mem::take(&mut *token) {
            token = given.wait(token).unwrap();
        }
    }

    pub(super) fn park_timeout(_: Duration) {
        park();
    }

    impl Thread {
        pub(super) fn unpark(&self) {
            let (token, given) = &*self.0;
            *token.lock().unwrap() = true;
            given.notify_one();
        }
    }

    pub(super) struct AtomicWaker(LoomWaker);

    impl AtomicWaker {
        pub(super) fn new() -> Self {
            Self(LoomWaker::new())
        }

        pub(super) fn register(&self, waker: &std::task::Waker) {
            self.0.register_by_ref(waker);
        }

        pub(super) fn wake(&self) {
            self.0.wake();
        }
    }
}

#[allow(dead_code, reason = "the log uses all of it")]
#[path = "../src/audit/acks.rs"]
mod acks;
#[allow(dead_code, reason = "the log uses all of it")]
#[path = "../src/audit/doorbell.rs"]
mod doorbell;

use acks::Acks;
use doorbell::Doorbell;

/// Every interleaving with up to so many preemptions; what needs more of them is not seen.
fn bounded() -> loom::model::Builder {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder
}

#[test]
fn work_handed_over_while_the_sequencer_falls_asleep_is_not_missed() {
    bounded().check(|| {
        let shared = Arc::new((Doorbell::default(), AtomicUsize::new(0)));
        let sequencer = {
            let shared = Arc::clone(&shared);
            loom::thread::spawn(move || {
                let (bell, queued) = &*shared;
                bell.answer_here();
                let mut taken = 0;
                while taken < 2 {
                    let found = queued.swap(0, Ordering::AcqRel);
                    taken += found;
                    if found == 0 {
                        bell.sleep_unless(None, || queued.load(Ordering::Acquire) > 0);
                    }
                }
            })
        };
        for _ in 0..2 {
            shared.1.fetch_add(1, Ordering::AcqRel);
            shared.0.ring();
        }
        sequencer.join().unwrap();
    });
}

/// Waits as a shard does: register, look, sleep.
async fn until(acks: Arc<Acks>, reached: impl Fn(&Acks) -> bool) {
    std::future::poll_fn(|context| {
        acks.register(context.waker());
        if reached(&acks) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[test]
fn an_owner_that_waits_for_a_record_is_woken_when_it_is_stored() {
    loom::model(|| {
        let acks = Arc::new(Acks::default());
        let written = Arc::new(AtomicU64::new(0));
        let sequencer = {
            let (acks, written) = (Arc::clone(&acks), Arc::clone(&written));
            loom::thread::spawn(move || {
                written.store(7, Ordering::Relaxed);
                acks.publish_recorded(1);
            })
        };
        loom::future::block_on(until(Arc::clone(&acks), |acks| acks.recorded() >= 1));
        // What the sequencer did before it published is visible to the owner.
        assert_eq!(written.load(Ordering::Relaxed), 7);
        sequencer.join().unwrap();
    });
}

#[test]
fn a_late_wish_for_durability_meets_the_flush_or_wakes() {
    loom::model(|| {
        let acks = Arc::new(Acks::default());
        let flushed = Arc::new(AtomicU64::new(0));
        let flusher = {
            let (acks, flushed) = (Arc::clone(&acks), Arc::clone(&flushed));
            loom::thread::spawn(move || {
                flushed.store(7, Ordering::Relaxed);
                acks.publish_durable(1);
            })
        };
        acks.want_durable(1);
        loom::future::block_on(until(Arc::clone(&acks), |acks| acks.durable() >= 1));
        // What the flusher did before it published is visible to the owner.
        assert_eq!(flushed.load(Ordering::Relaxed), 7);
        flusher.join().unwrap();
    });
}
