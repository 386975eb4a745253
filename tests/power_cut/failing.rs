//! A disk that fails for a moment, and one that stands still for a moment.

use std::time::{Duration, Instant};

use edgate::audit::{
    Ack, AuditError, Event, FailureKind, Opened, SinkKind, StopEvent, Tail, open,
    verify::{Options, verify_dir},
};

use crate::{FileSystem, PATIENCE, Running, Story, settings};

#[test]
fn after_a_failed_flush_the_next_start_believes_the_disk_and_not_the_cache() {
    // fsyncgate: after a failed fdatasync the pages are marked clean, and a read finds in the cache what the disk has not.
    for sink in [SinkKind::Map, SinkKind::Pwrite] {
        let Some(running) = Running::new(FileSystem::Ext4) else { return };
        let dir = running.path().join("audit");
        std::fs::create_dir(&dir).unwrap();
        let Opened { mut appenders, log, .. } = open(&settings(&dir, sink), 1).unwrap();
        let mut append = |number: u64| {
            let reason = format!("{number:06}");
            let id = appenders[0].append(&Event::Stop(StopEvent { reason: &reason }), Ack::Durable).unwrap();
            appenders[0].wait(id, Ack::Durable, PATIENCE)
        };
        (0..50).for_each(|number| append(number).unwrap());
        // What the file system itself has to say is said, so that only the log's own pages are refused: a segment being made
        // would write to its journal, and a journal that fails makes the whole file system read-only.
        let deadline = Instant::now() + PATIENCE;
        while log.status().prepared_segment < log.status().segment + 2 {
            assert!(Instant::now() < deadline, "the next segments are not made: {:?}", log.status());
            std::thread::yield_now();
        }
        rustix::fs::syncfs(std::fs::File::open(&dir).unwrap()).unwrap();
        running.device.refuse_writes(true);
        let failed = append(50);
        running.device.refuse_writes(false);
        assert!(
            matches!(&failed, Err(AuditError::Refused(failure)) if failure.kind == FailureKind::FlushFailed),
            "{failed:?}"
        );
        drop(log);

        // The same kernel, the same cache, a disk that works again.
        let Opened { log, recovery, .. } = open(&settings(&dir, sink), 1).unwrap();
        let mut claimed = 0;
        let mut tail = Tail::last(&dir, usize::MAX, |_| true).unwrap();
        while let Some(entry) = tail.next().unwrap() {
            claimed += u64::from(entry.kind() == "stop");
        }
        assert!(claimed >= 50, "{claimed}");
        let options =
            Options { allow_unsigned: true, upto: Some(log.status().durable_size), ..Options::default() };
        assert_eq!(
            verify_dir(&dir, &options, &mut |_| {}).unwrap().breaks,
            vec![],
            "{sink:?}, as the cache has it"
        );
        // The power goes. What the start took for stored is stored.
        let story = Story::of(FileSystem::Ext4, sink);
        story
            .judge(&running.device.content(), claimed)
            .unwrap_or_else(|error| panic!("{sink:?}, {claimed} events, {recovery:?}: {error}"));
        drop(log);
    }
}

#[test]
fn a_disk_that_stands_still_refuses_in_time_counts_what_is_lost_and_goes_on() {
    let Some(running) = Running::new(FileSystem::Ext4) else { return };
    let dir = running.path().join("audit");
    std::fs::create_dir(&dir).unwrap();
    let mut settings = settings(&dir, SinkKind::Map);
    settings.unflushed_age_max = Duration::from_millis(50);
    settings.queue_events = 64;
    let Opened { mut appenders, log, .. } = open(&settings, 1).unwrap();
    let event = |appenders: &mut Vec<edgate::audit::Appender>, ack| {
        appenders[0].append(&Event::Stop(StopEvent { reason: "x" }), ack)
    };
    let id = event(&mut appenders, Ack::Durable).unwrap();
    appenders[0].wait(id, Ack::Durable, PATIENCE).unwrap();

    let held = running.device.hold();
    let id = event(&mut appenders, Ack::Durable).unwrap();
    appenders[0].submit();
    let waited = appenders[0].wait(id, Ack::Durable, Duration::from_millis(200));
    assert!(waited.is_err(), "nothing is durable on a disk that stands still");
    // Refused within the call, however often it is asked, without growing.
    let mut refused = 0;
    let asked = Instant::now();
    while refused < 1000 {
        match event(&mut appenders, Ack::Recorded) {
            Ok(_) => appenders[0].submit(),
            Err(AuditError::Refused(failure)) => {
                assert_eq!(failure.kind, FailureKind::Stalled, "{failure}");
                refused += 1;
            }
            Err(AuditError::QueueFull) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(asked.elapsed() < PATIENCE, "{refused} refusals");
    }
    drop(held);

    // It moves again: so does the log, without a restart.
    let until = Instant::now() + PATIENCE;
    let id = loop {
        match event(&mut appenders, Ack::Durable) {
            Ok(id) => break id,
            Err(_) => refused += 1,
        }
        assert!(Instant::now() < until, "service does not resume: {:?}", log.status());
        std::thread::yield_now();
    };
    appenders[0].wait(id, Ack::Durable, PATIENCE).unwrap();
    log.close(PATIENCE).unwrap();
    let mut counted = 0;
    let mut tail = Tail::last(&dir, usize::MAX, |entry| entry.kind() == "gap").unwrap();
    while let Some(entry) = tail.next().unwrap() {
        if entry.kind() == "gap" {
            counted += serde_json::from_str::<serde_json::Value>(&entry.json()).unwrap()["body"]["events"]
                .as_u64()
                .unwrap();
        }
    }
    assert_eq!(counted, refused, "each event that was refused is counted, and no other");
}
