//! What the gate is built of. `hsm/tests/models.rs` puts a model checker's in its place.

pub(super) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
