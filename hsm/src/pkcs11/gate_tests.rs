//! The gate among real threads.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::gate::Gate;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

#[test]
fn the_gate_closes_only_when_empty_and_opens_in_a_new_epoch() {
    let gate = Gate::default();
    let inside = gate.enter(soon()).unwrap();
    assert!(gate.close(Instant::now()).is_none());
    // Giving up opened it again.
    drop(gate.enter(Instant::now()).unwrap());
    drop(inside);
    let closed = gate.close(soon()).unwrap();
    assert!(gate.enter(Instant::now()).is_none());
    assert!(gate.close(Instant::now()).is_none());
    drop(closed);
    assert_eq!(gate.enter(soon()).unwrap().epoch(), 1);
}

#[test]
fn nobody_is_ever_inside_while_it_is_closed() {
    let gate = Gate::default();
    let (calls, finalizing, stop) = (AtomicU32::new(0), AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let inside = gate.enter(soon()).unwrap();
                    assert!(!finalizing.load(Ordering::SeqCst));
                    let epoch = gate.epoch();
                    assert_eq!(epoch, inside.epoch());
                    calls.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for round in 1..=200 {
            let closed = gate.close(soon()).unwrap();
            finalizing.store(true, Ordering::SeqCst);
            let before = calls.load(Ordering::SeqCst);
            std::thread::yield_now();
            assert_eq!(calls.load(Ordering::SeqCst), before);
            finalizing.store(false, Ordering::SeqCst);
            drop(closed);
            assert_eq!(gate.epoch(), round);
        }
        stop.store(true, Ordering::Relaxed);
    });
}
