//! The shards' threads: each on a core of its own.

use std::thread::JoinHandle;

use super::StartError;
use crate::shard::{self, DriverInUse};

/// Starts one shard.
///
/// # Errors
/// If its thread cannot be had; what becomes of it later is its own result.
pub(super) fn spawn_shard(
    parts: shard::Parts,
    driver: DriverInUse,
) -> Result<JoinHandle<std::io::Result<()>>, StartError> {
    let number = parts.number;
    std::thread::Builder::new()
        .name(format!("shard-{number}"))
        .spawn(move || {
            pin_to_core(number);
            shard::run(parts, driver)
        })
        .map_err(|error| StartError::Shard { number, error })
}

/// Pins this thread to the `number`th core it may use; a failure costs speed only.
fn pin_to_core(number: u16) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
    if cores.is_empty() {
        return;
    }
    let mut one = CpuSet::new();
    one.set(cores[usize::from(number) % cores.len()]);
    if let Err(error) = sched_setaffinity(None, &one) {
        tracing::warn!(shard = number, %error, "cannot pin the shard to a core");
    }
}
