//! What the archive form of a segment takes, and what making and reading it costs.
//!
//! `cargo bench -p edgate-bench --bench archive`. `EDGATE_ARCHIVE_EVENTS` sets how many decisions are recorded (default
//! 300,000). The logs lie in temporary folders below `EDGATE_BENCH_DIR`.

#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "numbers of a bench")]

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

use edgate::audit::{
    Ack, DecisionEvent, Event, Opened, Settings,
    archive::archive,
    open,
    verify::{Options, verify_dir},
};
use edgate::decision::{Decision, Rejection, UnixSeconds};
use edgate_bench::inputs::decision;
use edgate_bench::wanted;

const PATIENCE: Duration = Duration::from_secs(60);

/// Decisions unless `EDGATE_ARCHIVE_EVENTS` says another number.
const EVENTS: u64 = 300_000;

/// Decisions of one turn: they have one time.
const TURN: u64 = 64;

/// Large enough for four full blocks.
const SEGMENT_BYTES: u64 = 16 << 20;

/// A deterministic number that looks like chance (SplitMix64).
fn mixed(n: u64) -> u64 {
    let z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

/// Decisions as a busy node makes them: every token another one, lives of an hour, two per cent refused, a few kids and
/// callers, latencies of some tens of microseconds.
fn fill(dir: &Path, events: u64, agents: u64, clients: u64) {
    let settings = Settings {
        create: true,
        segment_bytes: SEGMENT_BYTES,
        ..Settings::new(dir, "gateway-3.example.com/edgate/log")
    };
    let Opened { mut appenders, log, .. } = open(&settings, 1).expect("a log");
    let begun = Instant::now();
    for turn in 0..events / TURN {
        let mut last = None;
        for n in turn * TURN..(turn + 1) * TURN {
            let chance = mixed(n);
            let subject = format!("agent-{:04}-prod", chance % agents);
            let jti = format!("{:016x}{:016x}", chance, mixed(!n));
            let [a, b, c, d] = ((chance >> 20) % clients).to_be_bytes()[4..].try_into().expect("four bytes");
            let seconds = 1_795_000_000 + begun.elapsed().as_secs();
            let event = DecisionEvent {
                subject: Some(&subject),
                jti: Some(&jti),
                client: Some(Ipv4Addr::new(a | 10, b, c, d).into()),
                issuer: "https://issuer.example.com",
                kid: ["2026-10-signing", "2026-11-signing"][(chance >> 40) as usize % 2],
                tenant: ["acme", "globex", "initech"][(chance >> 42) as usize % 3],
                caller: ["edge-eu-1", "edge-eu-2"][(chance >> 44) as usize % 2],
                decision: if chance.is_multiple_of(50) {
                    Rejection::Expired.into()
                } else {
                    Decision::Accepted
                },
                latency_us: 35 + ((chance >> 46) as u32 % 60),
                expires: Some(UnixSeconds(seconds + (chance >> 30) % 3600)),
                ..decision()
            };
            last = Some(appenders[0].append(&Event::Decision(event), Ack::Recorded).expect("room"));
        }
        appenders[0].submit();
        appenders[0].wait(last.expect("some"), Ack::Recorded, PATIENCE).expect("recorded");
    }
    log.close(PATIENCE).expect("closed");
}

fn main() {
    if !wanted("archive") {
        return;
    }
    let events = std::env::var("EDGATE_ARCHIVE_EVENTS").map_or(EVENTS, |text| {
        text.parse().unwrap_or_else(|_| panic!("EDGATE_ARCHIVE_EVENTS={text} is no number"))
    });
    for (name, agents, clients) in [
        ("subjects and addresses all different", u64::MAX, u64::from(u32::MAX)),
        ("1,000 subjects, 4 addresses", 1000, 4),
    ] {
        let folder = match std::env::var_os("EDGATE_BENCH_DIR") {
            Some(dir) => tempfile::tempdir_in(dir).expect("EDGATE_BENCH_DIR can be written"),
            None => tempfile::tempdir().expect("the temporary folder can be written"),
        };
        let (dir, out) = (folder.path().join("log"), folder.path().join("archives"));
        fs::create_dir(&out).expect("a folder");
        fill(&dir, events, agents, clients);
        let (mut records, mut segment, mut small) = (0, 0, 0);
        let started = Instant::now();
        archive(&dir, Some(&out), &[], &mut |one| {
            records += one.records;
            segment += one.segment_bytes;
            small += one.archive_bytes;
        })
        .expect("archived");
        let made = started.elapsed().as_secs_f64();
        let each = |bytes: u64| bytes as f64 / records as f64;
        println!(
            "archive, {name}: {:.1} bytes a record in the segment, {:.1} in the archive: {:.1} % (floor 35, moonshot 20); \
             made, read back and compared at {:.0} MB/s of segment",
            each(segment),
            each(small),
            100.0 * small as f64 / segment as f64,
            segment as f64 / made / 1e6
        );
        let options = Options { allow_unsigned: true, threads: 1, ..Options::default() };
        let verified = || {
            let started = Instant::now();
            let report = verify_dir(&dir, &options, &mut |_| {}).expect("a log");
            assert!(report.breaks.is_empty(), "{:?}", report.breaks);
            report.records as f64 / started.elapsed().as_secs_f64() / 1e6
        };
        let in_segments = verified();
        archive(&dir, None, &[], &mut |_| {}).expect("archived");
        let in_archives = verified();
        println!(
            "archive/verify, {name}: {in_archives:.2} million records a second on one core, {in_segments:.2} in segments"
        );
    }
}
