//! Who is inside the module, and when nobody is.
//!
//! `C_Finalize` while another thread is in a call crashes SoftHSM and opencryptoki, so every call is made inside the
//! gate and re-initialisation happens only once it is closed and empty. A call that never returns keeps it from ever
//! being empty; closing then gives up, and opens again for the rest. Between shutting and emptying whoever closes it can
//! see whether another did first what it wants to do. `hsm/tests/models.rs` tries interleavings.

use std::time::Instant;

use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Counts who is inside. One per loaded module.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    // Grows with each re-initialisation: sessions and handles of another epoch are dead.
    epoch: u64,
    inside: u32,
    closed: bool,
}

/// Permission to call the module; gives it back when dropped.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    gate: &'a Gate,
    epoch: u64,
}

/// The gate shut: nobody enters, some may still be inside. Opens it, in the same epoch, when dropped.
#[derive(Debug)]
pub(crate) struct Shut<'a> {
    gate: &'a Gate,
}

/// The gate shut and empty; opens it, in the next epoch, when dropped.
#[derive(Debug)]
pub(crate) struct Closed<'a>(Shut<'a>);

impl Default for Gate {
    fn default() -> Self {
        Self { state: Mutex::new(State::default()), changed: Condvar::new() }
    }
}

impl Gate {
    /// Enters, waiting while the gate is closed. `None` at the deadline.
    pub(crate) fn enter(&self, deadline: Instant) -> Option<Inside<'_>> {
        let mut state = self.lock();
        while state.closed {
            state = self.wait(state, deadline)?;
        }
        state.inside += 1;
        Some(Inside { gate: self, epoch: state.epoch })
    }

    /// Shuts the gate to all who come after; waits for another that has shut it. `None` at the deadline.
    pub(crate) fn shut(&self, deadline: Instant) -> Option<Shut<'_>> {
        let mut state = self.lock();
        while state.closed {
            state = self.wait(state, deadline)?;
        }
        state.closed = true;
        Some(Shut { gate: self })
    }

    /// The current epoch.
    pub(crate) fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is a single assignment, so the state is whole whatever a panicking thread did.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, deadline: Instant) -> Option<MutexGuard<'a, State>> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        Some(self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0)
    }
}

impl<'a> Shut<'a> {
    /// The epoch that ends if it is emptied.
    pub(crate) fn epoch(&self) -> u64 {
        self.gate.epoch()
    }

    /// Waits until everybody has left. `None`, and the gate open again, if somebody has not by the deadline.
    pub(crate) fn emptied(self, deadline: Instant) -> Option<Closed<'a>> {
        let mut state = self.gate.lock();
        while state.inside > 0 {
            // The guard is given back before `self` is dropped, which locks again.
            state = self.gate.wait(state, deadline)?;
        }
        drop(state);
        Some(Closed(self))
    }
}

impl Inside<'_> {
    /// The epoch in which the calls are made; it cannot change while inside.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.inside -= 1;
        if state.inside == 0 && state.closed {
            self.gate.changed.notify_all();
        }
    }
}

impl Drop for Shut<'_> {
    fn drop(&mut self) {
        self.gate.lock().closed = false;
        self.gate.changed.notify_all();
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        // Then the field's turn comes, and it opens.
        self.0.gate.lock().epoch += 1;
    }
}
