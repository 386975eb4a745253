//! The view against a naive model, and against readers on other threads.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::decision::UnixSeconds;

const SEED: [u8; 16] = *b"a seed for tests";
const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

const ISSUER: &str = "https://issuer.example";
const MARK_LIFE_S: u64 = 3600;

fn view() -> View {
    View::new(&SEED, MARK_LIFE_S, Freshness::authoritative(std::time::Instant::now()))
}

fn revocation(jti: &str, expires_at: u64) -> Change<'_> {
    let effect = Effect::RefusedUntil(UnixSeconds(expires_at));
    Change::new(TargetKind::Token, "acme", ISSUER, jti, effect, 0).unwrap()
}

fn identity(jti: &str) -> Identity<'_> {
    Identity {
        tenant: "acme",
        issuer: ISSUER,
        kid: "key-1",
        certified_by: None,
        jti: Some(jti),
        subject: Some("agent-1"),
        session: Some("session-1"),
        issued_at: Some(NOW),
    }
}

fn check(view: &View, jti: &str, now: UnixSeconds) -> Status {
    view.check(&identity(jti), now)
}

/// The statuses of these tokens, looked up together; a token that is not named has none.
fn check_batch(view: &View, jtis: &[Option<String>], now: UnixSeconds) -> Vec<Option<Status>> {
    let (look, realms) = (view.look(), view.realms("acme", ISSUER));
    let mut tokens = [None; BATCH_LEN];
    for (token, jti) in tokens.iter_mut().zip(jtis) {
        *token = jti.as_deref().map(|jti| (&realms, identity(jti)));
    }
    look.check(&tokens, now)[..jtis.len()].to_vec()
}

#[test]
fn a_batch_is_answered_place_by_place() {
    let view = view();
    let subject = Effect::Switched(Switch::Disabled);
    let disabled = Change::new(TargetKind::Subject, "acme", ISSUER, "agent-2", subject, 1).unwrap();
    view.apply(
        [revocation("one", NOW.0 + 10), mark(TargetKind::Session, "session-3", NOW.0), disabled],
        1,
        NOW,
    );
    let (ours, others) = (view.realms("acme", ISSUER), view.realms("acme", "https://other.example"));
    let here = |session| Identity { session: Some(session), ..identity("two") };
    let mut tokens = [None; BATCH_LEN];
    tokens[0] = Some((&ours, identity("one")));
    tokens[2] = Some((&others, identity("one")));
    tokens[3] = Some((&ours, here("session-3")));
    tokens[4] = Some((&ours, here("session-1")));
    tokens[5] = Some((&ours, Identity { subject: Some("agent-2"), ..identity("two") }));
    tokens[6] = Some((&ours, Identity { subject: Some("agent-2"), ..identity("one") }));
    tokens[7] = Some((&ours, Identity { jti: None, subject: None, session: None, ..identity("") }));
    tokens[BATCH_LEN - 1] = Some((&ours, identity("one")));
    let (clear, revoked) = (Some(Status::Clear), Some(Status::Revoked));
    let mut expected = [None; BATCH_LEN];
    expected[..8].copy_from_slice(&[
        revoked,
        None,
        clear,
        revoked,
        clear,
        Some(Status::Disabled),
        revoked,
        clear,
    ]);
    expected[BATCH_LEN - 1] = revoked;
    assert_eq!(view.look().check(&tokens, NOW), expected);
}

#[test]
fn many_tokens_of_several_issuers_are_answered_in_order() {
    let view = view();
    let names: Vec<String> = (0..50).map(|i| format!("jti-{i}")).collect();
    view.apply(names.iter().step_by(3).map(|jti| revocation(jti, NOW.0 + 10)), 1, NOW);
    let issuers = ["https://issuer.example", "https://other.example"];
    let identities: Vec<Identity<'_>> = names
        .iter()
        .enumerate()
        .map(|(i, jti)| Identity { issuer: issuers[i % 2], ..identity(jti) })
        .collect();
    let expected: Vec<Status> =
        (0..50).map(|i| if i % 3 == 0 && i % 2 == 0 { Status::Revoked } else { Status::Clear }).collect();
    assert_eq!(view.check_all(&identities, NOW), expected);
}

#[test]
fn a_look_tells_no_more_than_it_sees() {
    let view = view();
    view.apply([revocation("one", NOW.0 + 10)], 1, NOW);
    let before = view.look();
    view.apply([revocation("two", NOW.0 + 10)], 2, NOW);
    assert_eq!((before.epoch(), view.look().epoch()), (1, 2));
    assert_eq!(check(&view, "two", NOW), Status::Revoked);
}

#[test]
fn a_revoked_token_is_revoked_until_it_expires() {
    let view = view();
    assert_eq!(check(&view, "one", NOW), Status::Clear);
    view.apply([revocation("one", NOW.0 + 10)], 0, NOW);
    assert_eq!(check(&view, "one", NOW), Status::Revoked);
    assert_eq!(check(&view, "one", NOW.saturating_add(9)), Status::Revoked);
    assert_eq!(check(&view, "one", NOW.saturating_add(10)), Status::Clear);
    assert_eq!(check(&view, "two", NOW), Status::Clear);
}

#[test]
fn another_tenant_or_issuer_with_the_same_jti_is_untouched() {
    let view = view();
    view.apply([revocation("one", NOW.0 + 10)], 0, NOW);
    assert_eq!(view.check(&Identity { tenant: "other", ..identity("one") }, NOW), Status::Clear);
    assert_eq!(
        view.check(&Identity { issuer: "https://issuer.example/", ..identity("one") }, NOW),
        Status::Clear
    );
}

#[test]
fn applying_again_keeps_the_later_expiry() {
    let view = view();
    view.apply([revocation("one", NOW.0 + 100)], 0, NOW);
    view.apply([revocation("one", NOW.0 + 10)], 0, NOW);
    assert_eq!(check(&view, "one", NOW.saturating_add(50)), Status::Revoked);
    assert_eq!(view.len(), 1);
}

#[test]
fn the_epoch_is_the_highest_applied() {
    let view = view();
    assert_eq!(view.epoch(), 0);
    view.apply([revocation("one", NOW.0 + 10), revocation("two", NOW.0 + 10)], 7, NOW);
    view.apply([], 5, NOW);
    assert_eq!(view.epoch(), 7);
}

fn mark(kind: TargetKind, name: &str, issued_until: u64) -> Change<'_> {
    Change::new(kind, "acme", ISSUER, name, Effect::IssuedUntil(UnixSeconds(issued_until)), 0).unwrap()
}

#[test]
fn a_watermark_refuses_what_was_issued_in_or_before_its_second_and_nothing_else() {
    for (kind, name) in [(TargetKind::Subject, "agent-1"), (TargetKind::Session, "session-1")] {
        let view = view();
        view.apply([mark(kind, name, NOW.0)], 1, NOW);
        let issued = |second| Identity { issued_at: second, ..identity("any") };
        assert_eq!(view.check(&issued(Some(NOW)), NOW), Status::Revoked);
        assert_eq!(view.check(&issued(Some(NOW.saturating_add(1))), NOW), Status::Clear);
        assert_eq!(view.check(&issued(None), NOW), Status::Revoked, "no iat: issued before everything");
        let another = Identity { subject: Some("agent-2"), session: None, ..identity("any") };
        assert_eq!(view.check(&another, NOW), Status::Clear);
        assert_eq!(view.check(&Identity { tenant: "other", ..identity("any") }, NOW), Status::Clear);
        // A watermark never goes back.
        view.apply([mark(kind, name, NOW.0 - 100)], 2, NOW);
        assert_eq!(view.check(&identity("any"), NOW), Status::Revoked);
    }
}

#[test]
fn a_watermark_leaves_when_nothing_it_refuses_can_be_valid() {
    let view = view();
    view.apply([mark(TargetKind::Subject, "agent-1", NOW.0)], 1, NOW);
    view.purge(NOW.saturating_add(MARK_LIFE_S + PURGE_DELAY_S), usize::MAX);
    assert_eq!(view.check(&identity("any"), NOW), Status::Revoked);
    view.purge(NOW.saturating_add(MARK_LIFE_S + PURGE_DELAY_S + 1), usize::MAX);
    assert_eq!(view.check(&identity("any"), NOW), Status::Clear);
    assert!(view.is_empty());
}

fn switch(kind: TargetKind, state: Switch, epoch: u64) -> Change<'static> {
    let (issuer, name) = match kind {
        TargetKind::Tenant => ("", ""),
        TargetKind::Issuer => (ISSUER, ""),
        TargetKind::Kid => (ISSUER, "key-1"),
        _ => (ISSUER, "agent-1"),
    };
    Change::new(kind, "acme", issuer, name, Effect::Switched(state), epoch).unwrap()
}

#[test]
fn what_a_token_depends_on_is_disabled_and_enabled_and_revoked_for_good() {
    for kind in [TargetKind::Tenant, TargetKind::Issuer, TargetKind::Kid, TargetKind::Subject] {
        let view = view();
        let status = || check(&view, "any", NOW);
        view.apply([switch(kind, Switch::Disabled, 1)], 1, NOW);
        assert_eq!(status(), Status::Disabled, "{}", kind.name());
        let elsewhere = Identity { tenant: "other", ..identity("any") };
        assert_eq!(view.check(&elsewhere, NOW), Status::Clear);
        view.apply([switch(kind, Switch::Enabled, 3)], 3, NOW);
        assert_eq!(status(), Status::Clear);
        // It was done before it was enabled, and only arrives late.
        view.apply([switch(kind, Switch::Disabled, 2)], 3, NOW);
        assert_eq!(status(), Status::Clear, "{}", kind.name());
        if kind != TargetKind::Subject {
            view.apply([switch(kind, Switch::Revoked, 4)], 4, NOW);
            view.apply([switch(kind, Switch::Enabled, 5)], 5, NOW);
            assert_eq!(status(), Status::Revoked, "{}", kind.name());
        }
    }
}

#[test]
fn parts_that_do_not_go_together_make_no_change() {
    let until = Effect::RefusedUntil(NOW);
    let mark = Effect::IssuedUntil(NOW);
    let revoked = Effect::Switched(Switch::Revoked);
    for (kind, tenant, issuer, name, effect) in [
        (TargetKind::Token, "t", "i", "", until),
        (TargetKind::Token, "t", "", "j", until),
        (TargetKind::Token, "", "i", "j", until),
        (TargetKind::Token, "t", "i", "j", mark),
        (TargetKind::Token, "t", "i", "j", revoked),
        (TargetKind::Subject, "t", "i", "s", revoked),
        (TargetKind::Session, "t", "i", "s", Effect::Switched(Switch::Disabled)),
        (TargetKind::Kid, "t", "i", "k", mark),
        (TargetKind::Issuer, "t", "i", "name", revoked),
        (TargetKind::Tenant, "t", "i", "", revoked),
    ] {
        assert_eq!(Change::new(kind, tenant, issuer, name, effect, 1), None, "{kind:?} {effect:?}");
    }
}

#[test]
fn a_time_beyond_2106_never_expires() {
    let view = view();
    view.apply([revocation("one", u64::MAX)], 0, NOW);
    view.purge(UnixSeconds(1 << 40), usize::MAX);
    assert_eq!(check(&view, "one", UnixSeconds(1 << 40)), Status::Revoked);
}

#[test]
fn setting_the_clock_back_within_the_purge_delay_revives_nothing() {
    let view = view();
    view.apply([revocation("one", NOW.0 + 10)], 0, NOW);
    view.purge(NOW.saturating_add(10 + PURGE_DELAY_S), usize::MAX);
    assert_eq!(check(&view, "one", NOW), Status::Revoked);
    view.purge(NOW.saturating_add(11 + PURGE_DELAY_S), usize::MAX);
    assert_eq!(check(&view, "one", NOW), Status::Clear);
    assert!(view.is_empty());
}

#[test]
fn memory_stays_bounded_while_tokens_come_and_go() {
    let view = view();
    let mut largest = 0;
    for second in 0..200_u64 {
        let now = NOW.saturating_add(second * 60);
        for i in 0..100 {
            view.apply([revocation(&format!("{second}-{i}"), now.0 + 60)], 0, now);
        }
        largest = largest.max(view.bytes());
    }
    // In force or within the purge delay at any time: 11 or 12 minutes of 100, and as many that wait for the sweep.
    assert!(largest <= 3000 * 60, "{largest} bytes for about 1200 entries");
}

#[test]
fn forty_bytes_per_entry_are_enough_at_any_size() {
    let view = view();
    for i in 0..200_000_usize {
        view.apply([revocation(&i.to_string(), NOW.0 + 60)], 0, NOW);
        // While a table is being drained both stand in memory; between moves the promise holds.
        if i > 1000 && !view.is_moving() {
            assert!(view.bytes() <= 40 * (i + 1), "{} bytes for {} entries", view.bytes(), i + 1);
        }
    }
    assert_eq!(view.len(), 200_000);
}

#[test]
fn reserving_keeps_what_is_there() {
    let view = view();
    view.apply([revocation("one", NOW.0 + 10)], 0, NOW);
    view.reserve(100_000);
    let bytes = view.bytes();
    let names: Vec<String> = (0..100_000).map(|i| i.to_string()).collect();
    view.apply(names.iter().map(|jti| revocation(jti, NOW.0 + 10)), 0, NOW);
    assert_eq!(view.bytes(), bytes);
    assert_eq!(check(&view, "one", NOW), Status::Revoked);
    assert_eq!(view.len(), 100_001);
}

/// Readers hammer a token that stays revoked, one that never is, and each token whose revocation was announced, while
/// the writer adds, grows, expires and sweeps.
#[test]
fn readers_never_miss_a_live_entry_nor_see_one_that_is_not() {
    const BATCHES: u64 = 3000;
    let view = Arc::new(view());
    view.apply([revocation("permanent", NOW.0 + 1_000_000)], 0, NOW);
    let announced = Arc::new(AtomicU64::new(0));
    let clock = Arc::new(AtomicU64::new(NOW.0));
    let done = Arc::new(AtomicBool::new(false));

    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (view, announced) = (Arc::clone(&view), Arc::clone(&announced));
            let (clock, done) = (Arc::clone(&clock), Arc::clone(&done));
            thread::spawn(move || {
                let mut checks = 0_u64;
                while !done.load(Ordering::Acquire) {
                    let now = UnixSeconds(clock.load(Ordering::Acquire));
                    let never = format!("never {checks}");
                    let jtis = [Some("permanent".to_owned()), None, Some(never)];
                    let expected = [Some(Status::Revoked), None, Some(Status::Clear)];
                    assert_eq!(check_batch(&view, &jtis, now), expected);
                    // Announced after apply returned: it and its 20 predecessors are in force for 30 s at least.
                    let last = announced.load(Ordering::Acquire);
                    let epoch = view.epoch();
                    assert!(epoch >= last, "epoch {epoch} is behind the announced {last}");
                    for batch in last.saturating_sub(20)..last {
                        let status = check(&view, &format!("{batch}-0"), now);
                        // Unless this thread slept so long that the entry has died and left meanwhile.
                        let leaves = NOW.0 + batch + 60 + PURGE_DELAY_S;
                        let gone = clock.load(Ordering::Acquire) + 1 >= leaves;
                        assert!(status == Status::Revoked || gone, "batch {batch}");
                    }
                    checks += 1;
                }
                checks
            })
        })
        .collect();

    for batch in 0..BATCHES {
        let now = NOW.saturating_add(batch);
        let names: Vec<String> = (0..10).map(|i| format!("{batch}-{i}")).collect();
        view.apply(names.iter().map(|jti| revocation(jti, now.0 + 60)), batch + 1, now);
        announced.store(batch + 1, Ordering::Release);
        clock.store(now.0, Ordering::Release);
    }
    done.store(true, Ordering::Release);
    for reader in readers {
        assert!(reader.join().unwrap() > 0);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Revoke { jti: u16, lifetime: i64 },
    RevokeMany { first: u16, count: u16, lifetime: i64 },
    Check { jti: u16, offset: i64 },
    Purge { slots: usize },
    MoveClock { by: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    let lifetime = -2_000..4_000_i64;
    prop_oneof![
        4 => (0..600_u16, lifetime.clone()).prop_map(|(jti, lifetime)| Step::Revoke { jti, lifetime }),
        1 => (0..600_u16, 0..300_u16, lifetime)
            .prop_map(|(first, count, lifetime)| Step::RevokeMany { first, count, lifetime }),
        4 => (0..600_u16, -3_000..3_000_i64).prop_map(|(jti, offset)| Step::Check { jti, offset }),
        1 => (0..2_000_usize).prop_map(|slots| Step::Purge { slots }),
        2 => (-1_500..2_500_i64).prop_map(|by| Step::MoveClock { by }),
    ]
}

/// The stupid model: each identity's latest expiry, kept for ever.
#[derive(Default)]
struct Model {
    expiries: HashMap<u16, u64>,
    // The latest time the view was told, less the delay: what expired before may be gone.
    horizon: u64,
}

impl Model {
    fn revoke(&mut self, jti: u16, expires_at: u64, now: u64) {
        self.told(now);
        let expiry = self.expiries.entry(jti).or_insert(0);
        *expiry = expires_at.max(*expiry);
    }

    fn told(&mut self, now: u64) {
        self.horizon = self.horizon.max(now - PURGE_DELAY_S);
    }

    /// Compares a batch of tokens, with a place left empty.
    fn compare(&self, view: &View, first: u16, now: u64) {
        let jtis = (first..).take(BATCH_LEN).map(|jti| (jti % 5 != first % 3).then_some(jti));
        let named: Vec<_> = jtis.clone().map(|jti| Some(jti?.to_string())).collect();
        for (jti, status) in jtis.zip(check_batch(view, &named, UnixSeconds(now))) {
            assert_eq!(jti.is_some(), status.is_some());
            if let (Some(jti), Some(status)) = (jti, status) {
                self.compare_one(jti, status, now);
            }
        }
    }

    fn compare_one(&self, jti: u16, status: Status, now: u64) {
        let revoked = self.expiries.get(&jti).is_some_and(|expiry| now < *expiry);
        match (status, revoked) {
            (Status::Revoked, true) | (Status::Clear, false) => {}
            (Status::Clear, true) => {
                assert!(
                    self.expiries[&jti] < self.horizon,
                    "{jti} is revoked at {now}, but the view says clear"
                );
            }
            (Status::Revoked, false) => panic!("{jti} is not revoked at {now}, but the view says so"),
            (Status::Disabled, _) => panic!("nothing was disabled"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_view_agrees_with_a_map_whichever_way_time_moves(steps in prop::collection::vec(step(), 1..200)) {
        let view = view();
        let mut model = Model::default();
        let mut now = NOW.0;
        for step in steps {
            match step {
                Step::Revoke { jti, lifetime } => {
                    let expires_at = now.saturating_add_signed(lifetime);
                    view.apply([revocation(&jti.to_string(), expires_at)], 0, UnixSeconds(now));
                    model.revoke(jti, expires_at, now);
                }
                Step::RevokeMany { first, count, lifetime } => {
                    let expires_at = now.saturating_add_signed(lifetime);
                    let names: Vec<String> = (first..first + count).map(|jti| jti.to_string()).collect();
                    view.apply(names.iter().map(|jti| revocation(jti, expires_at)), 0, UnixSeconds(now));
                    (first..first + count).for_each(|jti| model.revoke(jti, expires_at, now));
                }
                Step::Check { jti, offset } => model.compare(&view, jti, now.saturating_add_signed(offset)),
                Step::Purge { slots } => {
                    view.purge(UnixSeconds(now), slots);
                    model.told(now);
                }
                Step::MoveClock { by } => now = now.saturating_add_signed(by),
            }
        }
        for jti in 0..900 {
            model.compare(&view, jti, now);
        }
        view.purge(UnixSeconds(now), usize::MAX);
        view.purge(UnixSeconds(now), usize::MAX);
        let in_force = model.expiries.values().filter(|expiry| **expiry >= now - PURGE_DELAY_S).count();
        prop_assert!(view.len() <= in_force, "{} entries held, {in_force} in force", view.len());
    }
}

#[derive(Debug, Clone)]
enum Story {
    Mark { session: bool, name: u8, issued_until: i64 },
    Switch { target: u8, state: u8, epoch: u64 },
    Ask { name: u8, issued_at: Option<i64>, offset: i64 },
    Purge,
    MoveClock { by: i64 },
}

fn story() -> impl Strategy<Value = Story> {
    prop_oneof![
        3 => (any::<bool>(), 0..6_u8, -5_000..100_i64)
            .prop_map(|(session, name, issued_until)| Story::Mark { session, name, issued_until }),
        3 => (0..9_u8, 0..3_u8, 0..30_u64)
            .prop_map(|(target, state, epoch)| Story::Switch { target, state, epoch }),
        6 => (0..6_u8, prop::option::of(-5_000..100_i64), -2_000..2_000_i64)
            .prop_map(|(name, issued_at, offset)| Story::Ask { name, issued_at, offset }),
        1 => Just(Story::Purge),
        2 => (-1_500..2_500_i64).prop_map(|by| Story::MoveClock { by }),
    ]
}

/// Tenant, issuer, two keys and five subjects, by number.
fn switched(target: u8) -> (TargetKind, &'static str, &'static str) {
    const SUBJECTS: [&str; 5] = ["agent-0", "agent-1", "agent-2", "agent-3", "agent-4"];
    match target {
        0 => (TargetKind::Tenant, "", ""),
        1 => (TargetKind::Issuer, ISSUER, ""),
        2 => (TargetKind::Kid, ISSUER, "key-0"),
        3 => (TargetKind::Kid, ISSUER, "key-1"),
        subject => (TargetKind::Subject, ISSUER, SUBJECTS[usize::from(subject - 4)]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn watermarks_and_switches_agree_with_lists(steps in prop::collection::vec(story(), 1..150)) {
        let view = view();
        let mut now = NOW.0;
        // Every watermark ever set, and every switch ever thrown, in order.
        let mut marks: Vec<(bool, u8, u64)> = Vec::new();
        let mut thrown: Vec<(u8, Switch, u64)> = Vec::new();
        let mut horizon = 0;
        for step in steps {
            match step {
                Story::Mark { session, name, issued_until } => {
                    let until = now.saturating_add_signed(issued_until);
                    let (kind, prefix) =
                        if session { (TargetKind::Session, "session") } else { (TargetKind::Subject, "agent") };
                    view.apply([mark(kind, &format!("{prefix}-{name}"), until)], 0, UnixSeconds(now));
                    horizon = horizon.max(now - MARK_LIFE_S - PURGE_DELAY_S);
                    marks.push((session, name, until));
                }
                Story::Switch { target, state, epoch } => {
                    let (kind, issuer, name) = switched(target);
                    let state = match (state, kind) {
                        (0, _) => Switch::Enabled,
                        (2, kind) if kind != TargetKind::Subject => Switch::Revoked,
                        _ => Switch::Disabled,
                    };
                    let effect = Effect::Switched(state);
                    view.apply(Change::new(kind, "acme", issuer, name, effect, epoch), epoch, UnixSeconds(now));
                    thrown.push((target, state, epoch));
                }
                Story::Ask { name, issued_at, offset } => {
                    let at = now.saturating_add_signed(offset);
                    let issued_at = issued_at.map(|by| now.saturating_add_signed(by));
                    let (subject, session) = (format!("agent-{name}"), format!("session-{name}"));
                    let kid = format!("key-{}", name % 2);
                    let asked = Identity {
                        kid: &kid,
                        certified_by: None,
                        jti: None,
                        subject: Some(&subject),
                        session: Some(&session),
                        issued_at: issued_at.map(UnixSeconds),
                        ..identity("")
                    };
                    let status = view.check(&asked, UnixSeconds(at));
                    let state_of = |target: u8| {
                        let mut of_it = thrown.iter().filter(|(thrown, ..)| *thrown == target);
                        if of_it.clone().any(|(_, state, _)| *state == Switch::Revoked) {
                            return Switch::Revoked;
                        }
                        // The highest epoch counts, and of two the later.
                        let latest = of_it.clone().map(|(.., epoch)| *epoch).max();
                        of_it.rfind(|(.., epoch)| Some(*epoch) == latest).map_or(Switch::Enabled, |(_, state, _)| *state)
                    };
                    let depends = [Some(0), Some(1), Some(2 + name % 2), (name < 5).then_some(4 + name)];
                    let states: Vec<Switch> = depends.into_iter().flatten().map(state_of).collect();
                    let refuses = |least: u64| {
                        marks.iter().any(|(_, marked, until)| {
                            *marked == name && *until >= least && issued_at.unwrap_or(0) <= *until
                        })
                    };
                    if states.contains(&Switch::Revoked) || refuses(horizon) {
                        prop_assert_eq!(status, Status::Revoked);
                    } else if states.contains(&Switch::Disabled) {
                        prop_assert!(status == Status::Disabled || (status == Status::Revoked && refuses(0)));
                    } else {
                        prop_assert!(status == Status::Clear || (status == Status::Revoked && refuses(0)));
                    }
                }
                Story::Purge => {
                    view.purge(UnixSeconds(now), usize::MAX);
                    horizon = horizon.max(now - MARK_LIFE_S - PURGE_DELAY_S);
                }
                Story::MoveClock { by } => now = now.saturating_add_signed(by),
            }
        }
    }
}
