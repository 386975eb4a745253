//! What the audit log costs, each beside the primitive it is made of (issue "The audit log survives", Speed).
//!
//! `cargo bench -p edgate-bench --bench audit [-- lanes|append|sealing|sequencer|verify|export|recovery|durable]`.
//! The log lies in a temporary folder below `EDGATE_BENCH_DIR` (default: the system's). Numbers of acknowledgement
//! and of bytes written are printed, since criterion measures neither percentiles nor `/proc/self/io`.

#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "numbers of a bench")]

use std::{
    fs,
    hint::black_box,
    io,
    net::Ipv4Addr,
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use edgate::audit::{
    Ack, Appender, DecisionEvent, Event, Opened, RecordId, Settings, SinkKind, StopEvent,
    export::{Filter, Format, Source, export as export_log},
    open,
    probe::{Probe, Together, lay_out, read_only, recover_only},
    sealed::{OpenerSecret, Sealing},
    tag::TagField,
    verify::{Options, verify_dir},
};
use edgate::verify::{Engine, Item, ItemKey, Tables, Verdict, Verifier};
use edgate_bench::inputs::{decision, signed_messages};
use edgate_bench::load::summary::median;
use edgate_bench::ratio::{Ratio, interleaved};
use edgate_bench::wanted;
use rustix::time::{ClockId, clock_gettime};
use sha2::{Digest as _, Sha256};

const ORIGIN: &str = "bench.example/log";
const PATIENCE: Duration = Duration::from_secs(60);

fn folder() -> tempfile::TempDir {
    match std::env::var_os("EDGATE_BENCH_DIR") {
        Some(dir) => tempfile::tempdir_in(dir).expect("EDGATE_BENCH_DIR can be written"),
        None => tempfile::tempdir().expect("the temporary folder can be written"),
    }
}

fn settings(dir: &Path) -> Settings {
    Settings { create: true, ..Settings::new(dir, ORIGIN) }
}

/// 96-byte bodies, hashed before the clock starts: what is left is the sequencer's part.
fn sequencer(criterion: &mut Criterion) {
    if !wanted("sequencer") {
        return;
    }
    let mut group = criterion.benchmark_group("audit/sequencer");
    let reason = "x".repeat(92);
    let events = vec![Event::Stop(StopEvent { reason: &reason }); EVENTS];
    let mut batch = lay_out(&events);
    assert_eq!(batch.len(), EVENTS * 224, "96-byte bodies");
    group.throughput(Throughput::Elements(EVENTS as u64));
    for (name, sink) in [("mmap", SinkKind::Map), ("pwrite", SinkKind::Pwrite)] {
        let dir = folder();
        let mut probe = Probe::begin(&settings(dir.path()), sink).expect("a log");
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let mut taken = Duration::ZERO;
                for _ in 0..times {
                    if !probe.has_room(batch.len()) {
                        probe.roll().expect("a segment");
                    }
                    let started = Instant::now();
                    black_box(probe.append(&mut batch).expect("stored"));
                    taken += started.elapsed();
                }
                taken
            });
        });
    }
    let headers: Vec<[u8; 117]> = batch
        .chunks_exact(224)
        .map(|record| {
            let mut input = [0; 117];
            input[1..].copy_from_slice(&record[..116]);
            input
        })
        .collect();
    group.bench_function("sha256_of_the_headers", |bencher| {
        bencher.iter(|| {
            for header in &headers {
                black_box(Sha256::digest(header));
            }
        });
    });
    group.finish();
}

/// Processor time of this thread or process: what neighbours take from us in the middle of a round is not ours.
fn cpu_time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("below a second"))
}

/// What decisions cost the shard, in turns of 64, against the verification of as many signatures, timed in turn.
///
/// Token ids all differ. Behind a load balancer few addresses call, and a thousand agents take turns; in the other case
/// every subject and address of a turn is another one. The log drains between the turns.
fn append(_criterion: &mut Criterion) {
    if !wanted("append") {
        return;
    }
    let signed = signed_messages(SIGNATURES, 4);
    let tables = Tables::new(Engine::Auto, 1 << 30);
    let keys: Vec<_> =
        signed.iter().map(|s| tables.register(&s.verifying_key).expect("an honest key")).collect();
    let items: Vec<Item<'_>> = signed
        .iter()
        .zip(&keys)
        .map(|(s, key)| Item { key: ItemKey::Registered(key), message: &s.message, signature: &s.signature })
        .collect();
    let ids: Vec<String> = (0..SIGNATURES).map(|n| format!("5b3c7c1e-{n:04x}-4a53")).collect();
    let subjects: Vec<String> = (0..SIGNATURES).map(|n| format!("agent-{n:04}-{n:04}")).collect();
    for (name, agents, clients) in
        [("1,000 subjects, 4 addresses", 1000, 4), ("all different", SIGNATURES, SIGNATURES)]
    {
        let dir = folder();
        let Opened { mut appenders, log, .. } = open(&settings(dir.path()), 1).expect("a log");
        let appender = &mut appenders[0];
        let mut verifier = Verifier::new(Engine::Auto);
        let mut verdicts: Vec<Verdict> = Vec::new();
        let (mut shares, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = 0;
        for round in 0..ROUNDS + 1 {
            let (mut appended, mut verified) = (Duration::ZERO, Duration::ZERO);
            for _ in 0..TURNS {
                let turn = at..at + TURN;
                at = (at + TURN) % SIGNATURES;
                let events: Vec<_> = turn
                    .clone()
                    .map(|n| {
                        let [high, low] = ((n % clients) as u16).to_be_bytes();
                        Event::Decision(DecisionEvent {
                            subject: Some(&subjects[n % agents]),
                            jti: Some(&ids[n]),
                            client: Some(Ipv4Addr::new(10, 1, high, low).into()),
                            ..decision()
                        })
                    })
                    .collect();
                let started = cpu_time(ClockId::ThreadCPUTime);
                let mut last = None;
                for event in &events {
                    last = Some(appender.append(black_box(event), Ack::Recorded).expect("room"));
                }
                appender.submit();
                appended += cpu_time(ClockId::ThreadCPUTime) - started;
                appender.wait(last.expect("at least one"), Ack::Recorded, PATIENCE).expect("recorded");
                let started = cpu_time(ClockId::ThreadCPUTime);
                verifier.verify(black_box(&items[turn]), &mut verdicts);
                verified += cpu_time(ClockId::ThreadCPUTime) - started;
                assert!(verdicts.drain(..).all(|verdict| verdict.is_accepted()));
            }
            // The first round warms caches and makes the buffers.
            if round > 0 {
                let each = |time: Duration| time.as_secs_f64() * 1e9 / (TURNS * TURN) as f64;
                shares.push(appended.as_secs_f64() / verified.as_secs_f64());
                ours.push(each(appended));
                theirs.push(each(verified));
            }
        }
        println!(
            "audit/append, {name}: {:.0} ns a decision against {:.0} ns a registered verification; share {:.3}",
            median(&ours),
            median(&theirs),
            Ratio::of(&shares)
        );
        log.close(PATIENCE).expect("closed");
    }
}

/// What it costs the shard to seal a subject and an address in each decision: a log that does and one that does not, in turn.
fn sealing(_criterion: &mut Criterion) {
    if !wanted("sealing") {
        return;
    }
    let keys = folder();
    let openers =
        ["a", "b"].map(|name| OpenerSecret::create(&keys.path().join(name)).expect("a key").public());
    let dirs = [folder(), folder()];
    let sealed = Sealing {
        fields: vec![TagField::Subject, TagField::Client],
        openers: openers.to_vec(),
        tenants: vec!["acme".to_owned()],
    };
    let mut logs = [None, Some(sealed)]
        .into_iter()
        .zip(&dirs)
        .map(|(sealing, dir)| open(&Settings { sealing, ..settings(dir.path()) }, 1).expect("a log"));
    let (mut plain, mut sealed) = (logs.next().expect("two"), logs.next().expect("two"));
    let subjects: Vec<String> = (0..1000).map(|n| format!("agent-{n:04}-{n:04}")).collect();
    let turn = |opened: &mut Opened, at: usize| {
        let events: Vec<_> = (at..at + TURN)
            .map(|n| {
                Event::Decision(DecisionEvent { subject: Some(&subjects[n % subjects.len()]), ..decision() })
            })
            .collect();
        let appender = &mut opened.appenders[0];
        let started = cpu_time(ClockId::ThreadCPUTime);
        let mut last = None;
        for event in &events {
            last = Some(appender.append(black_box(event), Ack::Recorded).expect("room"));
        }
        appender.submit();
        let taken = cpu_time(ClockId::ThreadCPUTime) - started;
        appender.wait(last.expect("at least one"), Ack::Recorded, PATIENCE).expect("recorded");
        taken.as_secs_f64() * 1e9 / TURN as f64
    };
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS + 1 {
        let (mut each_without, mut each_with) = (0.0, 0.0);
        for n in 0..TURNS {
            each_without += turn(&mut plain, n * TURN) / TURNS as f64;
            each_with += turn(&mut sealed, n * TURN) / TURNS as f64;
        }
        if round > 0 {
            without.push(each_without);
            with.push(each_with);
        }
    }
    let bytes = |opened: &Opened| opened.log.status().bytes as f64 / opened.log.status().size as f64;
    println!(
        "audit/sealing: {:.0} ns a decision, {:.0} ns with a subject and an address sealed; {:.0} and {:.0} bytes a record",
        median(&without),
        median(&with),
        bytes(&plain),
        bytes(&sealed)
    );
    assert_eq!(sealed.log.watch().unsealed(), 0);
    for opened in [plain, sealed] {
        opened.log.close(PATIENCE).expect("closed");
    }
}

/// SHA-256 of messages of a record's size in lanes, against the `sha2` crate.
fn lanes(_criterion: &mut Criterion) {
    if !wanted("lanes") {
        return;
    }
    let mut together = Together::default();
    for (count, bytes) in [(64, 96), (64, 117), (16, 117), (8, 117), (64, 300)] {
        let messages: Vec<Vec<u8>> = (0..count).map(|n| vec![n as u8; bytes]).collect();
        let ratio = interleaved(
            ROUNDS,
            Duration::from_millis(5),
            || {
                black_box(together.hash(messages.iter().map(Vec::as_slice)));
            },
            || {
                for message in &messages {
                    black_box(Sha256::digest(black_box(message)));
                }
            },
        );
        println!("audit/lanes, {count} messages of {bytes} bytes: sha2's time / ours {ratio}");
    }
}

/// A log of about `segments` default segments.
fn filled(dir: &Path, segments: u64) {
    let Opened { mut appenders, log, .. } = open(&settings(dir), 1).expect("a log");
    while log.status().segment <= segments {
        let mut last = None;
        for _ in 0..1000 {
            last = Some(appenders[0].append(&Event::Decision(decision()), Ack::Recorded).expect("room"));
        }
        appenders[0].wait(last.expect("some"), Ack::Recorded, PATIENCE).expect("recorded");
    }
    log.close(PATIENCE).expect("closed");
}

/// One thread over a log of one full segment and over one of four: memory for a segment is made once.
fn verify(_criterion: &mut Criterion) {
    if !wanted("verify") {
        return;
    }
    for segments in [1, 4] {
        let dir = folder();
        filled(dir.path(), segments);
        let options = Options { threads: 1, allow_unsigned: true, ..Options::default() };
        let report = verify_dir(dir.path(), &options, &mut |_| {}).expect("a log");
        assert!(report.breaks.is_empty());
        let mut bytes = Vec::new();
        for entry in fs::read_dir(dir.path()).expect("a folder").filter_map(Result::ok) {
            if entry.path().extension().is_some_and(|extension| extension == "seg") {
                bytes.extend(fs::read(entry.path()).expect("a segment"));
            }
        }
        let (mut shares, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let started = cpu_time(ClockId::ProcessCPUTime);
            black_box(verify_dir(dir.path(), black_box(&options), &mut |_| {}).expect("a log"));
            let verified = (cpu_time(ClockId::ProcessCPUTime) - started).as_secs_f64();
            let started = cpu_time(ClockId::ProcessCPUTime);
            black_box(Sha256::digest(black_box(&bytes)));
            let hashed = (cpu_time(ClockId::ProcessCPUTime) - started).as_secs_f64();
            shares.push(hashed / verified);
            ours.push(verified * 1e3);
            theirs.push(hashed * 1e3);
        }
        println!(
            "audit/verify, {segments} full segments, one thread, {} records: {:.1} ms, SHA-256 of the bytes {:.1} ms; share {:.3}",
            report.records,
            median(&ours),
            median(&theirs),
            Ratio::of(&shares)
        );
    }
}

/// Exporting every record as JSON Lines and as CSV, against a full verification of the same log by one thread.
fn export(_criterion: &mut Criterion) {
    if !wanted("export") {
        return;
    }
    let dir = folder();
    filled(dir.path(), 1);
    let options = Options { threads: 1, allow_unsigned: true, ..Options::default() };
    for (name, format) in [("JSON Lines", Format::JsonLines), ("CSV", Format::Csv)] {
        let (mut shares, mut ours, mut theirs, mut rows) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for _ in 0..EXPORT_ROUNDS {
            let started = cpu_time(ClockId::ProcessCPUTime);
            let filter = Filter::default();
            let source = Source { dir: dir.path(), keys: &[], size: None };
            let exported = export_log(&source, &filter, format, &mut io::sink(), &mut |_, _| {});
            let took = (cpu_time(ClockId::ProcessCPUTime) - started).as_secs_f64();
            rows = exported.expect("a whole log").rows;
            let started = cpu_time(ClockId::ProcessCPUTime);
            black_box(verify_dir(dir.path(), black_box(&options), &mut |_| {}).expect("a log"));
            let verified = (cpu_time(ClockId::ProcessCPUTime) - started).as_secs_f64();
            shares.push(verified / took);
            ours.push(rows as f64 / took);
            theirs.push(rows as f64 / verified);
        }
        println!(
            "audit/export, {name}, {rows} records: {:.0}/s, full verification {:.0}/s; share {:.3}",
            median(&ours),
            median(&theirs),
            Ratio::of(&shares)
        );
    }
}

fn recovery(criterion: &mut Criterion) {
    if !wanted("recovery") {
        return;
    }
    let mut group = criterion.benchmark_group("audit/recovery");
    group.sample_size(10);
    let dir = folder();
    // Not closed: the last segment is the active one. 300,000 decisions fill nearly all of its 64 MiB.
    let Opened { mut appenders, log, .. } = open(&settings(dir.path()), 1).expect("a log");
    for _ in 0..250 {
        let mut last = None;
        for _ in 0..1000 {
            last = Some(appenders[0].append(&Event::Decision(decision()), Ack::Recorded).expect("room"));
        }
        appenders[0].wait(last.expect("some"), Ack::Recorded, PATIENCE).expect("recorded");
    }
    assert_eq!(log.status().segment, 1);
    drop(log);
    for ahead in 2..5 {
        let _ = fs::remove_file(dir.path().join(format!("{ahead:010}.seg")));
    }
    group.throughput(Throughput::Bytes(64 << 20));
    group.bench_function("recover_64_MiB", |bencher| {
        bencher.iter(|| recover_only(dir.path(), ORIGIN).expect("whole"));
    });
    group.bench_function("read_64_MiB", |bencher| {
        bencher.iter(|| read_only(dir.path(), 1).expect("a segment"));
    });
    group.finish();
}

/// 64 writers, each waiting for its own durable acknowledgement before it goes on, against one bare `fdatasync`.
fn durable(_criterion: &mut Criterion) {
    if !wanted("durable") {
        return;
    }
    for sink in [SinkKind::Map, SinkKind::Pwrite] {
        durable_by(sink);
    }
}

fn durable_by(sink: SinkKind) {
    let dir = folder();
    let log_dir = dir.path().join("log");
    let bare = Bare::new(&dir.path().join("bare"));
    let Opened { mut appenders, log, .. } =
        open(&Settings { sink: Some(sink), ..settings(&log_dir) }, WRITERS).expect("a log");
    settle();
    let (mut ratios, mut ours, mut theirs, mut times) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut commits, mut bytes, mut device) = (0, 0, 0);
    let writers = &mut appenders[..usize::from(WRITERS)];
    for round in 0..ROUNDS + 1 {
        let before = (log.status().commits, log.status().bytes, written_bytes());
        let mut taken = durable_round(writers);
        let status = log.status();
        let each = (status.commits - before.0, status.bytes - before.1, written_bytes() - before.2);
        let raw = middle(&mut bare.times());
        // In the first round the pages of both files are touched for the first time.
        if round > 0 {
            let p50 = middle(&mut taken);
            (commits, bytes, device) = (commits + each.0, bytes + each.1, device + each.2);
            ratios.push(p50.as_secs_f64() / raw.as_secs_f64());
            ours.push(p50.as_secs_f64() * 1e6);
            theirs.push(raw.as_secs_f64() * 1e6);
            times.append(&mut taken);
        }
    }
    times.sort_unstable();
    println!(
        "audit/durable {sink:?}: {WRITERS} writers p50 {:.0} µs, p99 of all {:.0?} ({} acks, {:.1} per flush); \
         bare fdatasync p50 {:.0} µs; ratio {}",
        median(&ours),
        times[times.len() * 99 / 100],
        times.len(),
        times.len() as f64 / commits as f64,
        median(&theirs),
        Ratio::of(&ratios)
    );
    let (bytes, device) = (bytes / commits, device / commits);
    println!(
        "audit/device {sink:?}: {device} bytes written per commit of {bytes} bytes (bound: {})",
        2 * bytes.next_multiple_of(4096) + 8192
    );
    log.close(PATIENCE).expect("closed");
}

/// What durable acknowledgements took, each writer appending again as soon as it has its own.
fn durable_round(writers: &mut [Appender]) -> Vec<Duration> {
    let event = Event::Decision(decision());
    let mut times = Vec::new();
    let hand_over = |writer: &mut Appender| {
        let id = writer.append(&event, Ack::Durable).expect("room");
        writer.submit();
        (id, Instant::now())
    };
    let mut waiting: Vec<(RecordId, Instant)> = writers.iter_mut().map(hand_over).collect();
    let until = Instant::now() + DURABLE_ROUND;
    while Instant::now() < until {
        for (writer, wait) in writers.iter_mut().zip(&mut waiting) {
            if writer.acknowledged(Ack::Durable) >= wait.0.core_seq {
                times.push(wait.1.elapsed());
                *wait = hand_over(writer);
            }
        }
        // One thread stands for 64 writers: it lets the flusher have the core in between.
        std::thread::yield_now();
    }
    for (writer, (id, _)) in writers.iter_mut().zip(waiting) {
        writer.wait(id, Ack::Durable, PATIENCE).expect("durable");
    }
    times
}

/// A file of zeros, written in place.
struct Bare(fs::File);

impl Bare {
    fn new(path: &Path) -> Self {
        let file = fs::File::options().read(true).write(true).create_new(true).open(path).expect("a file");
        file.write_all_at(&vec![0; 4096 * BARE_WRITES], 0).expect("room");
        file.sync_all().expect("synced");
        Self(file)
    }

    /// What 4 KiB writes with `fdatasync` take.
    fn times(&self) -> Vec<Duration> {
        let one = |page| {
            let started = Instant::now();
            self.0.write_all_at(&[1; 4096], page as u64 * 4096).expect("room");
            self.0.sync_data().expect("synced");
            started.elapsed()
        };
        (0..BARE_WRITES).map(one).collect()
    }
}

fn middle(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Waits until the next segments are made: their zeros are not part of a commit.
fn settle() {
    let mut before = written_bytes();
    loop {
        std::thread::sleep(Duration::from_millis(700));
        let now = written_bytes();
        if now == before {
            return;
        }
        before = now;
    }
}

/// Bytes this process has caused to be written to the device.
fn written_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").expect("procfs");
    io.lines()
        .find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
        .expect("write_bytes is there")
}

const EVENTS: usize = 1000;
/// Distinct signatures and decisions cycled through.
const SIGNATURES: usize = 4096;
const TURN: usize = 64;
/// Turns of a round.
const TURNS: usize = 40;
const ROUNDS: usize = 31;
const EXPORT_ROUNDS: usize = 11;
/// Writers that wait for durable acknowledgements, how long in each round, and bare writes beside them.
const WRITERS: u16 = 64;
const DURABLE_ROUND: Duration = Duration::from_millis(150);
const BARE_WRITES: usize = 512;

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = lanes, append, sealing, sequencer, verify, export, recovery, durable
}
criterion_main!(benches);
