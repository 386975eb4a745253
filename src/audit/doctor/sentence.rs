//! What is guaranteed, in one sentence.

use super::{
    Measured, Promise,
    judge::{implausible, is_from_a_cache, micros},
    signing::Signing,
};
use crate::audit::file_system::KeptBy;

/// The sentence, of at most [`SENTENCE_BYTES_MAX`]: it goes into a record.
pub(super) fn of(measured: &Measured, promise: &Promise) -> String {
    const KILL: &str =
        "what is recorded survives the end of the process (kill -9), and no more is guaranteed";
    let found = &measured.file_system;
    let name = found.name;
    match found.kept_by {
        KeptBy::Memory => {
            return format!(
                "Nothing here survives a power cut or a restart of the machine, since {name} is memory: {KILL}."
            );
        }
        KeptBy::Network => {
            return format!(
                "Nothing here is sure to survive a power cut, since another machine decides what a flush to {name} means: {KILL}."
            );
        }
        KeptBy::Program => {
            return format!(
                "Nothing here is sure to survive a power cut, since a program decides what a flush to {name} means: {KILL}."
            );
        }
        KeptBy::Unknown => {
            return format!(
                "Nothing here is sure to survive a power cut, since this file system is not known: {KILL}."
            );
        }
        KeptBy::Disk | KeptBy::Below => {}
    }
    if let Some(option) = measured.below.unflushed_by {
        return format!(
            "Nothing here is sure to survive a power cut, since no flush reaches the disk of a mount with {option}: {KILL}."
        );
    }
    let flushes = &measured.flushes;
    let times = [&flushes.appended, &flushes.overwritten, &flushes.committed].into_iter();
    let times = times.chain(&flushes.direct);
    let lying = if is_from_a_cache(measured) {
        flushes.direct.as_ref().ok()
    } else {
        times.min_by_key(|times| times.median).filter(|times| implausible(measured, times))
    };
    if let Some(times) = lying {
        return format!(
            "Nothing here is sure to survive a power cut, since the drive or the hypervisor acknowledges before it stores ({} for \
             4 KiB): {KILL}.",
            micros(times.median)
        );
    }
    // Recorded right behind the beginning of a flush, it waits for that one, for the next to begin, and for that one.
    let late = promise.flush_interval + 2 * flushes.committed.worst;
    format!(
        "An answer that waits for the disk survives a power cut if {}; one that does not survives kill -9, and a power cut takes \
         back those of the last {} ms, or of {} ms while the disk stalls; {}.",
        assumption(measured),
        late.as_millis() + 1,
        (promise.unflushed_age_max + promise.flush_interval).as_millis(),
        checkpoints(&measured.signing, promise),
    )
}

fn assumption(measured: &Measured) -> String {
    let below = &measured.below;
    match (&below.device, below.is_virtual) {
        (_, true) => "the hypervisor passes flushes on and its disk honours them".to_owned(),
        (Some(device), false) if device.volatile_cache == Some(false) => {
            format!("{} has no volatile cache, as it says", device.name)
        }
        (Some(device), false) => format!("{} honours flushes", device.name),
        (None, false) => format!("what lies below {} honours flushes", measured.file_system.name),
    }
}

fn checkpoints(signing: &Signing, promise: &Promise) -> String {
    let interval = promise.checkpoint_interval;
    match signing {
        Signing::NotMeasured => "how fast checkpoints are signed was not measured".to_owned(),
        Signing::Fails(_) => {
            "no checkpoint can be signed, so who has the disk can rewrite all of it".to_owned()
        }
        Signing::Signs(times) if times.median > interval => {
            format!("checkpoints are {:.1} s apart at best", times.median.as_secs_f64())
        }
        Signing::Signs(_) => {
            format!("a checkpoint over all of it is signed every {} s", interval.as_secs_f64())
        }
    }
}

/// What a record takes as the summary of a report.
#[cfg(test)]
pub(super) const SENTENCE_BYTES_MAX: usize = 512;
