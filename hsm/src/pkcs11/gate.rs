//! Who is inside the module, and when nobody is.
//!
//! `C_Finalize` while another thread is in a call crashes SoftHSM and opencryptoki, so every call is made inside the
//! gate and re-initialisation happens only once it is closed and empty. A call that never returns keeps it from ever
//! being empty; closing then gives up, and opens again for the rest. `hsm/tests/models.rs` tries interleavings.

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

/// The gate closed and empty; opens it, in the next epoch, when dropped.
#[derive(Debug)]
pub(crate) struct Closed<'a> {
    gate: &'a Gate,
}

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

    /// Closes the gate and waits until everybody has left. `None` if somebody has not by the deadline, or if another
    /// thread closed it first; it is open again then.
    pub(crate) fn close(&self, deadline: Instant) -> Option<Closed<'_>> {
        let mut state = self.lock();
        while state.closed {
            state = self.wait(state, deadline)?;
        }
        state.closed = true;
        loop {
            if state.inside == 0 {
                return Some(Closed { gate: self });
            }
            match self.wait_or_back(state, deadline) {
                Ok(woken) => state = woken,
                Err(mut state) => {
                    state.closed = false;
                    self.changed.notify_all();
                    return None;
                }
            }
        }
    }

    /// The current epoch.
    #[cfg(test)]
    pub(crate) fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is a single assignment, so the state is whole whatever a panicking thread did.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, deadline: Instant) -> Option<MutexGuard<'a, State>> {
        self.wait_or_back(state, deadline).ok()
    }

    fn wait_or_back<'a>(
        &self,
        state: MutexGuard<'a, State>,
        deadline: Instant,
    ) -> Result<MutexGuard<'a, State>, MutexGuard<'a, State>> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(state);
        }
        Ok(self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0)
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

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.epoch += 1;
        state.closed = false;
        self.gate.changed.notify_all();
    }
}
