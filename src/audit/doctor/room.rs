//! How much room there is, and for how long at the rate at which the log has grown.

use std::{io, path::Path, time::Duration};

use crate::audit::{
    record::Header,
    stored::{Stored, list_segments},
    verify::first_header,
    walk::{or_partly_erased, read_record},
};

/// The room for a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that can still be written.
    pub free: u64,
    /// How fast the log grew, if there is one that is old enough to tell.
    pub rate: Option<Rate>,
}

/// How fast a log grew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Bytes of its segments.
    pub bytes: u64,
    /// In so much time.
    pub over: Duration,
}

impl Rate {
    /// How long it takes to write so many bytes; `None` where nothing is written.
    #[must_use]
    pub fn time_for(&self, bytes: u64) -> Option<Duration> {
        if self.bytes == 0 {
            return None;
        }
        let seconds = u128::from(bytes) * self.over.as_millis() / u128::from(self.bytes) / 1000;
        Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX)))
    }

    /// Bytes in a second, rounded down.
    #[must_use]
    pub fn per_second(&self) -> u64 {
        let millis = self.over.as_millis().max(1);
        u64::try_from(u128::from(self.bytes) * 1000 / millis).unwrap_or(u64::MAX)
    }
}

/// How fast the log in `dir` grew during its last day, or as much of it as is there; `None` where it is no log or one of
/// less than [`SPAN_MIN`].
///
/// # Errors
/// What the system refuses.
pub(super) fn rate_of(dir: &Path) -> io::Result<Option<Rate>> {
    let segments = list_segments(dir)?;
    // Those made ahead have no record yet.
    let mut begun: Vec<(u64, u64)> = Vec::new();
    let (mut used, mut last_ns) = (None, 0);
    for segment in segments.iter().rev() {
        let Some(Header { wall_ns, .. }) = first_header(dir, segment.index)? else { continue };
        if used.is_none() {
            let (end, at) = last_record(dir, segment.index)?;
            (used, last_ns) = (Some(end), at);
            begun.push((wall_ns, end));
            continue;
        }
        begun.push((wall_ns, Stored::open(dir, segment.index)?.len()?));
        if last_ns.saturating_sub(wall_ns) >= nanoseconds(SPAN) {
            break;
        }
    }
    Ok(rate(&begun, last_ns))
}

/// Of segments by when they begun and how long they are, the last one first, and when the last record was made.
fn rate(begun: &[(u64, u64)], last_ns: u64) -> Option<Rate> {
    let (first_ns, _) = begun.last()?;
    let over = Duration::from_nanos(last_ns.checked_sub(*first_ns)?);
    let bytes = begun.iter().map(|(_, bytes)| bytes).sum();
    (over >= SPAN_MIN).then_some(Rate { bytes, over })
}

/// Where the records of a segment end, and when the last of them was made.
fn last_record(dir: &Path, index: u64) -> io::Result<(u64, u64)> {
    let bytes = Stored::open(dir, index)?.read()?;
    let (mut offset, mut at) = (0, 0);
    while let Ok(record) = or_partly_erased(read_record(&bytes, offset), &bytes, offset) {
        (offset, at) = (record.next, record.header.wall_ns);
    }
    Ok((offset as u64, at))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What the rate is taken from: a day has its quiet hours.
const SPAN: Duration = Duration::from_secs(24 * 3600);

/// Below this a start, and what is made ahead, is all there is to see.
const SPAN_MIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_the_segments_took_in_the_time_between_their_records() {
        let minute = 60_000_000_000;
        let two = rate(&[(9 * minute, 1000), (4 * minute, 5000)], 10 * minute).unwrap();
        assert_eq!(two, Rate { bytes: 6000, over: Duration::from_secs(360) });
        assert_eq!(two.per_second(), 16);
        assert_eq!(two.time_for(60_000), Some(Duration::from_secs(3600)));
        assert_eq!(rate(&[(9 * minute, 1000)], 9 * minute + minute / 2), None, "too young");
        assert_eq!(rate(&[(9 * minute, 1000)], 8 * minute), None, "its clock went back");
        assert_eq!(rate(&[], 0), None);
        let idle = Rate { bytes: 0, over: Duration::from_secs(100) };
        assert_eq!((idle.time_for(5), idle.per_second()), (None, 0));
    }
}
