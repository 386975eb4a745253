//! The gate around a PKCS#11 module, and the answer of a job, under the interleavings of their threads (loom). The very files
//! of the crate are compiled here with a model checker's primitives in the place of the system's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::time::{Duration, Instant};

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};

/// The model's primitives under the names of the `sync.rs` files. No wait ever times out here.
mod sync {
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
    pub(super) use std::sync::PoisonError;
}

#[allow(dead_code, reason = "the pool uses all of it")]
#[path = "../src/pkcs11/gate.rs"]
mod gate;
#[allow(dead_code, reason = "the pool uses all of it")]
#[path = "../src/pool/once.rs"]
mod once;

use gate::Gate;
use once::Once;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

#[test]
fn nobody_is_inside_while_the_module_is_initialised_anew() {
    // Every interleaving of three threads with up to so many preemptions.
    let mut bounded = loom::model::Builder::new();
    bounded.preemption_bound = Some(2);
    bounded.check(|| {
        let shared = Arc::new((Gate::default(), AtomicUsize::new(0)));
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || {
                    let (gate, calls) = &*shared;
                    let inside = gate.enter(soon()).unwrap();
                    calls.fetch_add(1, Ordering::Relaxed);
                    assert!(inside.epoch() <= 1);
                    calls.fetch_sub(1, Ordering::Relaxed);
                })
            })
            .collect();
        let (gate, calls) = &*shared;
        let closed = gate.shut(soon()).unwrap().emptied(soon()).unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 0, "the module would be taken down under a call");
        drop(closed);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert_eq!(gate.enter(soon()).unwrap().epoch(), 1);
    });
}

#[test]
fn two_that_close_take_turns() {
    loom::model(|| {
        let shared = Arc::new((Gate::default(), AtomicUsize::new(0)));
        let turn = |(gate, holders): &(Gate, AtomicUsize)| {
            let closed = gate.shut(soon()).unwrap().emptied(soon()).unwrap();
            assert_eq!(holders.fetch_add(1, Ordering::Relaxed), 0, "both would initialise the module");
            holders.fetch_sub(1, Ordering::Relaxed);
            drop(closed);
        };
        let other = {
            let shared = Arc::clone(&shared);
            loom::thread::spawn(move || turn(&shared))
        };
        turn(&shared);
        other.join().unwrap();
        assert_eq!(shared.0.enter(soon()).unwrap().epoch(), 2);
    });
}

#[test]
fn a_job_is_answered_once_by_the_worker_or_the_watch() {
    loom::model(|| {
        let job = Arc::new((Once::new(()), AtomicUsize::new(0)));
        let settle = |job: &(Once<()>, AtomicUsize)| {
            if job.0.take().is_some() {
                job.1.fetch_add(1, Ordering::Relaxed);
            }
        };
        let watch = {
            let job = Arc::clone(&job);
            loom::thread::spawn(move || settle(&job))
        };
        settle(&job);
        watch.join().unwrap();
        assert_eq!(job.1.load(Ordering::Relaxed), 1);
        assert!(job.0.is_taken());
    });
}
