//! The gate among real threads.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::gate::{Closed, Gate};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn close(gate: &Gate, deadline: Instant) -> Option<Closed<'_>> {
    gate.shut(deadline)?.emptied(deadline)
}

#[test]
fn the_gate_closes_only_when_empty_and_opens_in_a_new_epoch() {
    let gate = Gate::default();
    let inside = gate.enter(soon()).unwrap();
    assert!(close(&gate, Instant::now()).is_none());
    // Giving up opened it again.
    drop(gate.enter(Instant::now()).unwrap());
    drop(inside);
    let closed = close(&gate, soon()).unwrap();
    assert!(gate.enter(Instant::now()).is_none());
    assert!(close(&gate, Instant::now()).is_none());
    drop(closed);
    assert_eq!(gate.enter(soon()).unwrap().epoch(), 1);
}

#[test]
fn a_gate_that_was_shut_in_vain_opens_in_the_same_epoch() {
    let gate = Gate::default();
    let inside = gate.enter(soon()).unwrap();
    let shut = gate.shut(soon()).unwrap();
    assert_eq!(shut.epoch(), inside.epoch());
    assert!(gate.enter(Instant::now()).is_none());
    drop(shut);
    assert_eq!(gate.enter(Instant::now()).unwrap().epoch(), inside.epoch());
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
            let closed = close(&gate, soon()).unwrap();
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
