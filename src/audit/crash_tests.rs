//! The log on the simulated medium: crashes at every boundary, power cuts that keep any part of what was not synced,
//! failing calls, and writers with a barrier deleted.
//!
//! The oracle of each run: every event acknowledged as durable is there, in order; after a
//! mere kill every recorded one; the log verifies; the next start succeeds or refuses by name; nothing torn is
//! silently dropped. `EDGATE_CRASH_SEEDS` sets how many seeds are run, `EDGATE_CRASH_SEED` repeats one.

use std::{io, time::Duration};

use super::{
    AuditError, FailureKind, Settings,
    clock::{Clock, Reading},
    error::AuditFailure,
    folder::{Folder, segment_name},
    open::resume,
    record::HEADER_BYTES,
    schema::{self, Kind},
    sim::{Barrier, Crash, Effect, Fail, Random, Sim},
    verify::{Class, Options, Report, verify_part},
    walk::read_record,
    writer::{FlushJob, Stamp, Writer, finish_record},
};

/// What the world was told.
#[derive(Default, Clone)]
struct Ledger {
    /// Events handed to the writer, numbered from 0; the last ones may or may not have been stored.
    attempted: u64,
    /// Events acknowledged as recorded: all below this.
    recorded: u64,
    /// Events acknowledged as durable: all below this.
    durable: u64,
}

enum End {
    /// The medium crashed, or a call failed.
    Stopped(AuditFailure),
    Refused(AuditError),
    /// All steps were taken; the log was closed if it was to be.
    Done,
}

pub(super) fn settings() -> Settings {
    let mut settings = Settings::new("/sim", "test.example/sim");
    settings.segment_bytes = 8192;
    settings.flush_interval = Duration::ZERO;
    settings
}

pub(super) fn folder(sim: &Sim) -> Folder {
    Folder::new(Box::new(sim.clone()))
}

pub(super) fn clock() -> Clock {
    Clock::new(|| Reading { wall_ns: 1_000, mono_ns: 1_000 })
}

/// One run: start, some steps, perhaps a close.
fn run(sim: &Sim, random: &mut Random, ledger: &mut Ledger, steps: u64, close: bool) -> End {
    let folder = folder(sim);
    let (mut writer, _) = match resume(&folder, &settings(), clock()) {
        Ok(resumed) => resumed,
        Err(error) => return End::Refused(error),
    };
    match drive(&folder, &mut writer, random, ledger, steps, close) {
        Ok(()) => End::Done,
        Err(failure) => End::Stopped(failure),
    }
}

fn drive(
    folder: &Folder,
    writer: &mut Writer,
    random: &mut Random,
    ledger: &mut Ledger,
    steps: u64,
    close: bool,
) -> Result<(), AuditFailure> {
    // A flush that was begun and has not come back, and what it will make durable.
    let mut flight: Option<(FlushJob, u64)> = None;
    for _ in 0..steps {
        match random.below(8) {
            0..5 => append(folder, writer, random, ledger)?,
            5 | 6 if flight.is_none() => flight = Some((writer.begin_commit()?, ledger.recorded)),
            _ => {
                if let Some(flight) = flight.take() {
                    land(folder, writer, ledger, flight)?;
                }
            }
        }
    }
    if let Some(flight) = flight.take() {
        land(folder, writer, ledger, flight)?;
    }
    if close {
        // As the keeper does: the next two are there, and will not be needed.
        for ahead in 1..=2 {
            folder.prepare(writer.segment() + ahead, settings().segment_bytes).map_err(write_failed)?;
        }
        let events = ledger.recorded;
        let job = writer.close(events)?;
        let (segment, bytes) = writer.position();
        land(folder, writer, ledger, (job, events))?;
        folder.tidy(segment, bytes).map_err(write_failed)?;
    }
    Ok(())
}

fn land(
    folder: &Folder,
    writer: &mut Writer,
    ledger: &mut Ledger,
    (job, events): (FlushJob, u64),
) -> Result<(), AuditFailure> {
    job.run().map_err(|error| AuditFailure::new(FailureKind::FlushFailed, error))?;
    writer.end_commit(job.head.size);
    ledger.durable = events;
    for rolled in job.rolled {
        folder.finish(rolled.index, Some(rolled.bytes)).map_err(write_failed)?;
    }
    Ok(())
}

fn append(
    folder: &Folder,
    writer: &mut Writer,
    random: &mut Random,
    ledger: &mut Ledger,
) -> Result<(), AuditFailure> {
    let mut batch = Vec::new();
    let count = 1 + random.below(4);
    ledger.attempted = ledger.recorded + count;
    for number in ledger.recorded..ledger.attempted {
        push_event(&mut batch, number, usize::try_from(random.below(700)).unwrap());
    }
    let mut at = 0;
    while at < batch.len() {
        let appended = writer.append(&mut batch[at..])?;
        at += appended.bytes;
        if let Some(last) = appended.core_seq {
            ledger.recorded = last;
        }
        if at < batch.len() {
            let prepared =
                folder.prepare(writer.segment() + 1, settings().segment_bytes).map_err(write_failed)?;
            writer.roll(prepared, 1)?;
        }
    }
    Ok(())
}

/// An event whose number is its `core_seq - 1`, with a body of some length.
pub(super) fn push_event(batch: &mut Vec<u8>, number: u64, length: usize) {
    let start = batch.len();
    batch.resize(start + HEADER_BYTES, 0);
    let mut body = super::body::Body::begin(batch);
    body.text(1, &"x".repeat(length));
    body.end();
    let stamp = Stamp { kind: Kind::Stop, flags: 0, core: 0, core_seq: number + 1, epoch: 0 };
    finish_record(batch, start, &stamp);
}

fn write_failed(error: io::Error) -> AuditFailure {
    AuditFailure::new(FailureKind::WriteFailed, error)
}

/// The log as stored: its report, and the numbers of the events in it.
fn stored(sim: &Sim) -> (Report, Vec<u64>) {
    let folder = folder(sim);
    let segments: Vec<_> =
        folder.segments().unwrap().into_iter().map(|file| (file, folder.read(file.index).unwrap())).collect();
    let options = Options { allow_unsigned: true, ..Options::default() };
    let mut events = Vec::new();
    for (_, bytes) in &segments {
        let mut offset = 0;
        while let Ok(record) = read_record(bytes, offset) {
            if record.kind() == Some(Kind::Stop) {
                events.push(record.header.core_seq - 1);
            }
            offset = record.next;
        }
    }
    let files: Vec<_> = segments.iter().map(|(file, _)| *file).collect();
    let mut bytes = segments.into_iter().map(|(_, bytes)| bytes);
    let report = verify_part(&files, &options, |_| Ok(bytes.next().expect("bytes per file")));
    (report.expect("bytes in memory"), events)
}

/// Holds the log against what the world was told. Says what is wrong, if anything.
fn judge(sim: &Sim, ledger: &mut Ledger, crash: Crash) -> Result<(), String> {
    let (report, events) = stored(sim);
    if !report.breaks.is_empty() {
        return Err(format!("the log does not verify: {:?}", report.breaks));
    }
    let stored = events.len() as u64;
    if !events.iter().copied().eq(0..stored) || stored > ledger.attempted {
        return Err(format!("{events:?} are stored, {} were attempted", ledger.attempted));
    }
    let promised = if crash == Crash::Kill { ledger.recorded } else { ledger.durable };
    if stored < promised {
        return Err(format!("{stored} events are stored, {promised} were promised"));
    }
    *ledger = Ledger { attempted: stored, recorded: stored, durable: stored };
    Ok(())
}

/// Several lives of one log, each ended by a crash somewhere.
fn lives(seed: u64, skip: Option<Barrier>) -> Result<(), String> {
    let mut random = Random(seed);
    let mut sim = Sim::new(random.next());
    sim.skip(skip);
    let mut ledger = Ledger::default();
    for life in 0..5 {
        // Early enough, often, to hit recovery itself.
        let reach = [12, 60, 300][usize::try_from(random.below(3)).unwrap()];
        sim.crash_at(1 + random.below(reach));
        let crash = if random.below(3) == 0 { Crash::Kill } else { Crash::Power };
        let close = random.below(4) == 0;
        let end = run(&sim, &mut random, &mut ledger, 40, close);
        let refused = match end {
            End::Refused(error) if !sim.crashed() => Some(error.to_string()),
            End::Stopped(failure) if !sim.crashed() => Some(failure.to_string()),
            _ => None,
        };
        if let Some(error) = refused {
            return Err(format!("life {life}: {error}"));
        }
        // What was torn must be found again, in the segment or in quarantine.
        sim = sim.after(crash);
        let mut look = sim.after(Crash::Kill);
        let torn = torn_tails(&look);
        let quiet = resume(&folder(&look), &settings(), clock());
        if let Err(error) = quiet {
            return Err(format!("life {life}: the next start refuses: {error}"));
        }
        look = look.after(Crash::Power);
        for tail in torn {
            if !look.keeps(&tail) {
                return Err(format!("life {life}: {} torn bytes are gone", tail.len()));
            }
        }
        let mut probe = ledger.clone();
        judge(&look, &mut probe, crash).map_err(|error| format!("life {life} ({crash:?}): {error}"))?;
        ledger = probe;
    }
    Ok(())
}

/// The bytes behind the readable records of each segment.
fn torn_tails(sim: &Sim) -> Vec<Vec<u8>> {
    let folder = folder(sim);
    let mut tails = Vec::new();
    for file in folder.segments().unwrap() {
        let bytes = folder.read(file.index).unwrap();
        let mut offset = 0;
        while let Ok(record) = read_record(&bytes, offset) {
            offset = record.next;
        }
        let tail = &bytes[offset..];
        if let Some(last) = tail.iter().rposition(|byte| *byte != 0) {
            tails.push(tail[..=last].to_vec());
        }
    }
    tails
}

fn seeds(default: u64) -> Box<dyn Iterator<Item = u64>> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("EDGATE_CRASH_SEED") {
        Some(seed) => Box::new(std::iter::once(seed)),
        None => Box::new(0..number("EDGATE_CRASH_SEEDS").unwrap_or(default)),
    }
}

#[test]
fn any_crash_keeps_what_was_acknowledged_and_the_next_start_goes_on() {
    for seed in seeds(200) {
        lives(seed, None).unwrap_or_else(|error| panic!("EDGATE_CRASH_SEED={seed}: {error}"));
    }
}

#[test]
fn a_crash_at_every_single_operation_is_survived() {
    for crash in [Crash::Kill, Crash::Power] {
        for operation in 1.. {
            let mut random = Random(7);
            let sim = Sim::new(operation);
            let mut ledger = Ledger::default();
            sim.crash_at(operation);
            let _ = run(&sim, &mut random, &mut ledger, 60, true);
            if !sim.crashed() {
                assert!(operation > 100, "the run is long enough to mean something");
                break;
            }
            let after = sim.after(crash);
            resume(&folder(&after), &settings(), clock())
                .unwrap_or_else(|error| panic!("{crash:?} at operation {operation}: {error}"));
            judge(&after, &mut ledger, crash)
                .unwrap_or_else(|error| panic!("{crash:?} at operation {operation}: {error}"));
        }
    }
}

#[test]
fn a_crash_at_every_operation_of_recovery_is_survived() {
    // A log with a torn tail and a torn next segment.
    let mut tried = 0;
    for seed in 0..40 {
        let mut random = Random(seed);
        let sim = Sim::new(seed);
        let mut ledger = Ledger::default();
        sim.crash_at(60 + random.below(60));
        let _ = run(&sim, &mut random, &mut ledger, 60, false);
        let first = sim.after(Crash::Power);
        for operation in 1..40 {
            let second = first.after(Crash::Kill);
            second.crash_at(operation);
            let resumed = resume(&folder(&second), &settings(), clock());
            let crashed = second.crashed();
            assert!(crashed || resumed.is_ok(), "seed {seed}: {:?}", resumed.err());
            let third = second.after(Crash::Power);
            resume(&folder(&third), &settings(), clock())
                .unwrap_or_else(|error| panic!("seed {seed}, operation {operation}: {error}"));
            judge(&third, &mut ledger.clone(), Crash::Power)
                .unwrap_or_else(|error| panic!("seed {seed}, operation {operation}: {error}"));
            tried += 1;
            if !crashed {
                break;
            }
        }
    }
    assert!(tried > 300, "{tried}");
}

#[test]
fn a_crash_while_recovering_from_a_crash_while_recovering_is_survived() {
    let mut crashes = 0;
    for seed in 0..30 {
        let mut random = Random(seed);
        let sim = Sim::new(seed);
        let mut ledger = Ledger::default();
        sim.crash_at(60 + random.below(60));
        let _ = run(&sim, &mut random, &mut ledger, 60, false);
        let first = sim.after(Crash::Power);
        for at in (1..30).step_by(2) {
            // Thrice in all, at any operation of each.
            let mut next = first.after(Crash::Kill);
            for at in [at, 1 + random.below(25)] {
                next.crash_at(at);
                let resumed = resume(&folder(&next), &settings(), clock());
                assert!(next.crashed() || resumed.is_ok(), "seed {seed}: {:?}", resumed.err());
                crashes += u64::from(next.crashed());
                next = next.after(Crash::Power);
            }
            resume(&folder(&next), &settings(), clock())
                .unwrap_or_else(|error| panic!("seed {seed}, operation {at}: {error}"));
            judge(&next, &mut ledger.clone(), Crash::Power)
                .unwrap_or_else(|error| panic!("seed {seed}, operation {at}: {error}"));
        }
    }
    assert!(crashes > 300, "{crashes}");
}

#[test]
fn a_writer_without_any_one_of_its_barriers_is_caught() {
    for barrier in [Barrier::SyncData, Barrier::Names, Barrier::QuarantineNames] {
        let caught = (0..3000).find_map(|seed| lives(seed, Some(barrier)).err());
        assert!(caught.is_some(), "without {barrier:?} every test passes");
    }
}

#[test]
fn a_failing_call_is_never_followed_by_an_acknowledgement() {
    let errors = [io::ErrorKind::StorageFull, io::ErrorKind::Interrupted, io::ErrorKind::Other];
    let effects = [Effect::Nothing, Effect::Half, Effect::All];
    for (sticky, effect) in
        [false, true].into_iter().flat_map(|sticky| effects.map(|effect| (sticky, effect)))
    {
        for at in 1.. {
            let mut random = Random(9);
            let sim = Sim::new(at);
            sim.fail(Fail { at, sticky, effect, error: errors[usize::try_from(at % 3).unwrap()] });
            let mut ledger = Ledger::default();
            let before = sim.operations();
            let end = run(&sim, &mut random, &mut ledger, 60, true);
            if matches!(end, End::Done) {
                assert!(sim.operations() - before < at, "call {at} failed, and nobody noticed");
                break;
            }
            // The process ends; the machine goes on, with a cache that may lie about the failed flush.
            for crash in [Crash::Kill, Crash::Power] {
                let after = sim.after(crash);
                let story = format!("call {at}, sticky {sticky}, {effect:?}, then {crash:?}");
                match resume(&folder(&after), &settings(), clock()) {
                    Ok(_) => judge(&after, &mut ledger.clone(), Crash::Power)
                        .unwrap_or_else(|error| panic!("{story}: {error}")),
                    Err(error) => panic!("{story}: {error}"),
                }
            }
        }
    }
}

#[test]
fn damage_below_what_was_durable_is_refused_and_not_repaired() {
    let mut random = Random(3);
    let sim = Sim::new(3);
    let mut ledger = Ledger::default();
    assert!(matches!(run(&sim, &mut random, &mut ledger, 60, false), End::Done));
    let folder = folder(&sim);
    let segments = folder.segments().unwrap();
    let last = segments.iter().rposition(|segment| segment.finished).map_or(0, |last| last + 1);
    let bytes = folder.read(segments[last].index).unwrap();
    // The first record of the active segment: commits after it say that it was durable.
    let first = read_record(&bytes, 0).unwrap();
    let durable = {
        let mut offset = 0;
        let mut durable = 0;
        while let Ok(record) = read_record(&bytes, offset) {
            if record.kind() == Some(Kind::Commit) {
                durable = schema::uint(&record.read_body().unwrap(), 3).unwrap();
            }
            offset = record.next;
        }
        durable
    };
    assert!(durable > first.header.seq, "the run commits twice in its last segment");
    sim.corrupt(&segment_name(segments[last].index), 70);
    let refused = resume(&folder, &settings(), clock());
    assert!(
        matches!(refused, Err(AuditError::Damaged { seq, .. }) if seq == first.header.seq),
        "{:?}",
        refused.err()
    );
    let (report, _) = stored(&sim);
    assert!(
        matches!(report.breaks[0].class, Class::AlteredHeader | Class::AlteredBody),
        "{:?}",
        report.breaks
    );
}

#[test]
fn a_missing_segment_is_refused() {
    let mut random = Random(5);
    let sim = Sim::new(5);
    let mut ledger = Ledger::default();
    assert!(matches!(run(&sim, &mut random, &mut ledger, 200, true), End::Done));
    let folder = folder(&sim);
    let segments = folder.segments().unwrap();
    assert!(segments.len() > 3);
    for missing in [segments.len() / 2, segments.len() - 1] {
        let copy = sim.after(Crash::Kill);
        let folder = Folder::new(Box::new(copy.clone()));
        folder.remove(segments[missing].index).unwrap();
        let refused = resume(&folder, &settings(), clock());
        assert!(matches!(refused, Err(AuditError::Damaged { .. })), "segment {missing}: {:?}", refused.err());
    }
}

#[test]
fn a_clock_that_jumps_is_recorded_and_breaks_nothing() {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };
    const HOUR: u64 = 3_600_000_000_000;
    const YEARS: u64 = 10 * 365 * 24 * HOUR;
    let walls = [2 * YEARS, 2 * YEARS + HOUR, 2 * YEARS, 3 * YEARS, YEARS, 0, 0, 2 * YEARS];
    let step = Arc::new(AtomicU64::new(0));
    let now = Arc::clone(&step);
    let clock = Clock::new(move || {
        let at = now.load(Ordering::Relaxed);
        Reading { wall_ns: walls[usize::try_from(at).unwrap()], mono_ns: at * 1000 }
    });
    let sim = Sim::new(1);
    let folder = folder(&sim);
    let (mut writer, _) = resume(&folder, &settings(), clock).unwrap();
    for at in 0..walls.len() as u64 {
        step.store(at, Ordering::Relaxed);
        let mut batch = Vec::new();
        push_event(&mut batch, at, 10);
        writer.append(&mut batch).unwrap();
    }
    let job = writer.begin_commit().unwrap();
    job.run().unwrap();
    let (report, events) = stored(&sim);
    assert_eq!((report.breaks, events.len()), (vec![], walls.len()));
    let bytes = folder.read(1).unwrap();
    let mut jumps = 0;
    let mut offset = 0;
    while let Ok(record) = read_record(&bytes, offset) {
        jumps += u64::from(record.kind() == Some(Kind::ClockJump));
        offset = record.next;
    }
    // Every step but the one where the clock stood still.
    assert_eq!(jumps, 6);
}
