//! What `doorbell` and `acks` are built of. `tests/models.rs` puts a model checker's in its place.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
pub(super) use std::sync::{Mutex, PoisonError};
pub(super) use std::thread::{Thread, current, park, park_timeout};

pub(super) use atomic_waker::AtomicWaker;
