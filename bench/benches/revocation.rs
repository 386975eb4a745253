//! The revocation view at its stated size: 10 million entries (`EDGATE_BENCH_ENTRIES` changes that).
//!
//! Identities are named on the fly, as they come out of a parsed token, so that fetching them costs nothing and each
//! look-up still goes to a place of the table that no cache holds. `naming_only` is that cost alone: subtract it.
//! Times are the thread's CPU time, so that a busy machine disturbs them less.
//!
//! A table this large is searched through thousands of page translations: with transparent huge pages on `madvise`,
//! `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` in the environment shows what they are worth.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]
#![allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "numbers of a bench")]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};
use edgate::decision::UnixSeconds;
use edgate::revocation::{
    BATCH_LEN, Change, Effect, Freshness, Identity, Look, Realms, Status, TargetKind, View,
};
use edgate::store::{OpenMode, Store, StoredChange};
use edgate_bench::wanted;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
/// From one entry that is looked up to the next: coprime to ten million, so that each has its turn.
const STRIDE: u64 = 7_654_321;
const TENANT: &str = "default";
const ISSUER: &str = "https://issuer.example";

/// A `jti` of 22 characters that differs in 16 of them from number to number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Name([u8; 22]);

impl Name {
    const fn new() -> Self {
        Self(*b"jti-xx0000000000000000")
    }

    fn set(&mut self, number: u64) -> &str {
        // SplitMix64 (Steele, Lea and Flood, 2014): a bijection, so numbers never collide.
        let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        for (i, byte) in self.0[6..].iter_mut().enumerate() {
            *byte = b'a' + ((mixed >> (4 * i)) & 15) as u8;
        }
        self.text()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.0).expect("letters and digits")
    }
}

fn revocation(jti: &str) -> Change<'_> {
    let until = Effect::RefusedUntil(UnixSeconds(NOW.0 + 3600));
    Change::new(TargetKind::Token, TENANT, ISSUER, jti, until, 1).expect("a change")
}

fn new_view() -> View {
    View::new(b"a seed for bench", 3600, Freshness::authoritative(Instant::now()))
}

fn identity(jti: &str) -> Identity<'_> {
    Identity {
        tenant: TENANT,
        issuer: ISSUER,
        kid: "2026-01",
        certified_by: None,
        jti: Some(jti),
        subject: Some("agent-0000-1111"),
        session: None,
        issued_at: Some(NOW),
    }
}

/// As a shard checks: a batch at a time, with the issuer's realms at hand. Every token must have this status.
fn check(look: &Look<'_>, realms: &Realms, numbers: impl Iterator<Item = u64>, expected: Status) {
    let mut names = [const { Name::new() }; BATCH_LEN];
    let mut tokens = [None; BATCH_LEN];
    for ((token, name), number) in tokens.iter_mut().zip(&mut names).zip(numbers) {
        *token = Some((realms, identity(name.set(number))));
    }
    for status in black_box(look.check(&tokens, NOW)).into_iter().flatten() {
        assert_eq!(status, expected);
    }
}

/// Measures `routine`, called with the number of look-ups it is to make, in the CPU time of this thread.
fn on_cpu(bencher: &mut Bencher<'_>, mut routine: impl FnMut(u64)) {
    bencher.iter_custom(|iterations| {
        let started = cpu_time();
        let mut left = iterations;
        while left > 0 {
            let count = left.min(BATCH_LEN as u64);
            routine(count);
            left -= count;
        }
        cpu_time().saturating_sub(started)
    });
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).expect("below a second"))
}

fn entries() -> u64 {
    std::env::var("EDGATE_BENCH_ENTRIES").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000_000)
}

fn fill(view: &View, entries: u64) -> Duration {
    let started = cpu_time();
    let mut name = Name::new();
    for number in 0..entries {
        view.apply([revocation(name.set(number))], 1, NOW);
    }
    cpu_time().saturating_sub(started)
}

fn look_up(criterion: &mut Criterion) {
    if !wanted("look_up") {
        return;
    }
    let entries = entries();
    let view = new_view();
    let grown = fill(&view, entries);
    let bytes_each = view.bytes() as f64 / entries as f64;
    println!(
        "{entries} entries one by one from empty: {grown:.2?}, {bytes_each:.1} bytes each (moving: {})",
        view.is_moving()
    );
    // The table asked for in advance, as at start-up.
    let view = new_view();
    view.reserve(usize::try_from(entries).expect("64 bit"));
    let filled = fill(&view, entries);
    let bytes_each = view.bytes() as f64 / entries as f64;
    println!("{entries} entries into a table of their size: {filled:.2?}, {bytes_each:.1} bytes each");

    let mut group = criterion.benchmark_group("revocation/look_up");
    group.throughput(Throughput::Elements(1));
    let mut name = Name::new();
    let mut number = 0;
    group.bench_function("naming_only", |bencher| {
        on_cpu(bencher, |count| {
            for _ in 0..count {
                number += 1;
                black_box(name.set(number));
            }
        });
    });
    let mut absent = |view: &View, realms: &Realms, count| {
        let numbers = entries + number..entries + number + count;
        number += count;
        check(&view.look(), realms, numbers, Status::Clear);
    };
    let realms = view.realms(TENANT, ISSUER);
    group.bench_function("absent", |bencher| on_cpu(bencher, |count| absent(&view, &realms, count)));
    let small = new_view();
    fill(&small, 1000);
    let realms_of_small = small.realms(TENANT, ISSUER);
    group.bench_function("absent_of_a_thousand", |bencher| {
        on_cpu(bencher, |count| absent(&small, &realms_of_small, count));
    });
    let mut number = 0;
    group.bench_function("present", |bencher| {
        on_cpu(bencher, |count| {
            let first = number;
            number += count * STRIDE;
            let numbers = (0..count).map(|i| (first + i * STRIDE) % entries);
            check(&view.look(), &realms, numbers, Status::Revoked);
        });
    });
    group.finish();
}

/// How long a look-up takes at most while a million revocations arrive and the tables grow under it.
fn arrive(_criterion: &mut Criterion) {
    if !wanted("arrive") {
        return;
    }
    let view = new_view();
    fill(&view, 1000);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let realms = view.realms(TENANT, ISSUER);
            let (mut checks, mut longest, mut over) = (0_u64, Duration::ZERO, 0_u64);
            while !done.load(Ordering::Relaxed) {
                // The thread's own time: what another process does to this one is not the view's.
                let began = cpu_time();
                check(&view.look(), &realms, std::iter::once(u64::MAX - checks), Status::Clear);
                let took = cpu_time().saturating_sub(began);
                longest = longest.max(took);
                over += u64::from(took > Duration::from_micros(100));
                checks += 1;
            }
            (checks, longest, over)
        });
        let mut name = Name::new();
        let began = Instant::now();
        for batch in 0..1000_u64 {
            let names: Vec<String> =
                (0..1000).map(|i| name.set(1_000_000 + batch * 1000 + i).to_owned()).collect();
            view.apply(names.iter().map(|name| revocation(name)), batch, NOW);
        }
        let took = began.elapsed();
        done.store(true, Ordering::Relaxed);
        let (checks, longest, over) = reader.join().expect("the reader ends");
        println!(
            "a million arrived in {took:.2?}; of {checks} look-ups meanwhile the longest took {longest:.2?} of processor \
             time, {over} more than 100 µs"
        );
    });
}

/// The load at start: from the state database into the view.
fn load(_criterion: &mut Criterion) {
    if !wanted("load") {
        return;
    }
    let entries = entries();
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("state.db");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store = Store::open(&path, OpenMode::Create).await.expect("a database");
        // In the order of the table: ten million rows in any other take most of an hour to insert.
        let mut names: Vec<Name> = (0..entries).map(|_| Name::new()).collect();
        for (name, number) in names.iter_mut().zip(0..) {
            name.set(number);
        }
        names.sort_unstable();
        for some in names.chunks(10_000) {
            let changes: Vec<StoredChange> = some.iter().map(|name| stored(name.text())).collect();
            store.merge_changes(&changes).await.expect("stored");
        }
        let view = new_view();
        let began = Instant::now();
        let loaded = edgate::control::fill_view(&store, &view, NOW, |_| {}).await.expect("loaded");
        let took = began.elapsed();
        assert_eq!(loaded, entries);
        println!(
            "{entries} revocations loaded at start in {took:.2?}, {:.2} µs each",
            took.as_secs_f64() * 1e6 / entries as f64
        );
    });
}

fn stored(jti: &str) -> StoredChange {
    let until = UnixSeconds(NOW.0 + 3600);
    StoredChange {
        kind: TargetKind::Token,
        tenant: TENANT.to_owned(),
        issuer: ISSUER.to_owned(),
        name: jti.to_owned(),
        effect: Effect::RefusedUntil(until),
        forget_at: until,
        changed_at: NOW,
        reason: "lost laptop".to_owned(),
        actor: "control:127.0.0.1".to_owned(),
        epoch: 1,
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).measurement_time(Duration::from_secs(3));
    targets = look_up, arrive, load
}
criterion_main!(benches);
