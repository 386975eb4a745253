//! How much processor time a server has used, read from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Duration;

/// Processor time of one process at one moment; subtract two to learn what a run cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// In user mode, in steps of one clock tick (usually 10 ms).
    pub user: Duration,
    /// In the kernel, in the same steps.
    pub system: Duration,
    /// Per thread name, to the nanosecond; empty where the kernel has no scheduler statistics.
    ///
    /// Threads that ended before the reading are missing here and present in the ticks.
    pub threads: BTreeMap<String, Duration>,
}

impl CpuTime {
    /// Reads the time `pid` has used so far.
    ///
    /// # Errors
    /// The process is gone or `/proc` is not what proc(5) says.
    pub fn read(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (user_ticks, system_ticks) = parse_stat(&stat)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat: {stat}")))?;
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let folder = task?.path();
            // A thread may end between the listing and the reading.
            let (Ok(name), Ok(schedstat)) =
                (fs::read_to_string(folder.join("comm")), fs::read_to_string(folder.join("schedstat")))
            else {
                continue;
            };
            if let Some(nanoseconds) = parse_schedstat(&schedstat) {
                *threads.entry(name.trim_end().to_owned()).or_default() += Duration::from_nanos(nanoseconds);
            }
        }
        Ok(Self { user: ticks(user_ticks), system: ticks(system_ticks), threads })
    }

    /// User and kernel time together, from the finer source where there is one.
    #[must_use]
    pub fn total(&self) -> Duration {
        if self.threads.is_empty() { self.user + self.system } else { self.threads.values().sum() }
    }

    /// What was used between `earlier` and `self`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let threads = self.threads.iter().map(|(name, time)| {
            let before = earlier.threads.get(name).copied().unwrap_or_default();
            (name.clone(), time.saturating_sub(before))
        });
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
            threads: threads.collect(),
        }
    }
}

/// `utime` and `stime`, fields 14 and 15 of proc_pid_stat(5), in clock ticks.
fn parse_stat(text: &str) -> Option<(u64, u64)> {
    // Field 2, the name, may hold spaces and parentheses: count from its last parenthesis.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let user = fields.nth(11)?.parse().ok()?;
    let system = fields.next()?.parse().ok()?;
    Some((user, system))
}

/// Nanoseconds on the processor: the first field of `schedstat` (kernel, Documentation/scheduler/sched-stats.rst).
fn parse_schedstat(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

fn ticks(count: u64) -> Duration {
    Duration::from_secs_f64(count as f64 / rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_hostile_process_name() {
        let text = "42 (a) b (c)) S 1 42 42 0 -1 4194304 100 0 0 0 137 45 0 0 20 0 3 0 999 1 1\n";
        assert_eq!(parse_stat(text), Some((137, 45)));
        assert_eq!(parse_stat("42 (a) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn schedstat_gives_nanoseconds() {
        assert_eq!(parse_schedstat("402504844 296959 119\n"), Some(402_504_844));
        assert_eq!(parse_schedstat("\n"), None);
    }

    #[test]
    fn total_prefers_nanoseconds_to_ticks() {
        let ticked = CpuTime {
            user: Duration::from_millis(30),
            system: Duration::from_millis(10),
            ..CpuTime::default()
        };
        assert_eq!(ticked.total(), Duration::from_millis(40));
        let threads = [("shard-0".to_owned(), Duration::from_micros(41_234))].into();
        assert_eq!(CpuTime { threads, ..ticked }.total(), Duration::from_micros(41_234));
    }

    #[test]
    fn difference_counts_threads_that_started_in_between() {
        let at = |threads: &[(&str, u64)]| CpuTime {
            threads: threads
                .iter()
                .map(|(name, ms)| ((*name).to_owned(), Duration::from_millis(*ms)))
                .collect(),
            ..CpuTime::default()
        };
        let used = at(&[("shard-0", 50), ("flush", 5)]).since(&at(&[("shard-0", 20)]));
        assert_eq!(used.threads["shard-0"], Duration::from_millis(30));
        assert_eq!(used.total(), Duration::from_millis(35));
    }

    #[test]
    fn own_process_has_used_some_time() {
        let before = CpuTime::read(std::process::id()).unwrap();
        let mut work = crate::inputs::Random::new(1);
        // Until the clock that is being tested has moved; bounded by the test runner's own limit.
        loop {
            for _ in 0..100_000 {
                std::hint::black_box(work.next_u64());
            }
            if CpuTime::read(std::process::id()).unwrap().since(&before).total() > Duration::ZERO {
                break;
            }
        }
    }
}
