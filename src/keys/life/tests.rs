use std::collections::{BTreeMap, BTreeSet};

use super::*;

const RULES: Rules = Rules {
    propagation_ms: 300,
    verify_for_ms: 1_000,
    require_backup: false,
    rotate_every_ms: None,
    published_max: PUBLISHED_MAX,
};

fn new(kid: &str) -> NewKey {
    let public_key = [kid.as_bytes()[0]; 32];
    NewKey { kid: kid.to_owned(), public_key, place: format!("/keys/{kid}"), wanted: false }
}

fn at(ms: u64) -> UnixMillis {
    UnixMillis(ms)
}

/// A node whose first key `a` was adopted at 0.
fn ring(rules: Rules) -> Ring {
    let (mut ring, mended) = Ring::load(Vec::new(), rules, |_| false, at(0));
    assert!(mended.is_empty());
    ring.adopt_first(new("a"), at(0));
    ring
}

/// As [`ring`], with a Draft `b` published at 100.
fn with_draft(rules: Rules) -> Ring {
    let mut ring = ring(rules);
    ring.create(new("b"), at(50)).unwrap();
    ring.publish("b", at(100));
    ring
}

fn due(ring: &Ring, now: UnixMillis) -> Option<Due> {
    ring.due(now).into_iter().next()
}

fn state(ring: &Ring, kid: &str) -> KeyState {
    ring.key(kid).unwrap().state
}

fn verifying(ring: &Ring) -> Vec<&str> {
    ring.verifying().map(|key| key.kid.as_str()).collect()
}

#[test]
fn a_draft_verifies_at_once_and_signs_once_it_has_propagated() {
    let mut ring = with_draft(RULES);
    assert_eq!(verifying(&ring), ["a", "b"]);
    let refusal = ring.activate("b", at(399)).unwrap_err();
    assert_eq!(refusal, Refusal::NotPropagated { kid: "b".into(), wait_ms: 1 });
    assert_eq!(refusal.rule(), "propagation");
    assert!(refusal.to_string().starts_with("propagation: key b may sign in 1 ms"), "{refusal}");
    assert_eq!(ring.activate("b", at(400)).unwrap(), ["b", "a"]);
    assert_eq!(ring.active().unwrap().kid, "b");
    assert_eq!(verifying(&ring), ["a", "b"]);
    let a = ring.key("a").unwrap();
    assert_eq!((a.stopped, a.retire_not_before), (Some(at(400)), Some(at(1_400))));
}

#[test]
fn a_draft_whose_publication_is_not_known_does_not_sign() {
    let mut ring = ring(RULES);
    ring.create(new("b"), at(50)).unwrap();
    assert_eq!(due(&ring, at(50)), Some(Due::Publish("b".into())));
    let refusal = ring.activate("b", at(1_000_000)).unwrap_err();
    assert_eq!(refusal, Refusal::NotPropagated { kid: "b".into(), wait_ms: 300 });
    ring.publish("b", at(100));
    ring.publish("b", at(200));
    assert_eq!(ring.key("b").unwrap().published, Some(at(100)), "it is published once");
}

#[test]
fn a_clock_that_goes_back_makes_nobody_sign_or_retire_earlier() {
    let mut ring = with_draft(RULES);
    assert!(matches!(ring.may_activate("b", at(0)), Err(Refusal::NotPropagated { wait_ms: 400, .. })));
    ring.activate("b", at(400)).unwrap();
    assert!(matches!(ring.may_retire("a", at(0)), Err(Refusal::Outstanding { wait_ms: 1_400, .. })));
}

#[test]
fn a_key_verifies_until_nothing_it_signed_can_be_valid() {
    let mut ring = with_draft(RULES);
    ring.activate("b", at(400)).unwrap();
    let refusal = ring.retire("a", at(1_399)).unwrap_err();
    assert_eq!(refusal, Refusal::Outstanding { kid: "a".into(), wait_ms: 1 });
    assert_eq!(due(&ring, at(1_399)), None);
    assert_eq!(ring.next_at(at(1_399)), Some(at(1_400)));
    assert_eq!(due(&ring, at(1_400)), Some(Due::Retire("a".into())));
    ring.retire("a", at(1_400)).unwrap();
    assert_eq!(verifying(&ring), ["b"]);
    assert_eq!(ring.next_at(at(1_400)), None);
    ring.destroy("a", at(1_500)).unwrap();
    assert_eq!(state(&ring, "a"), KeyState::Destroyed);
    assert_eq!(ring.destroy("a", at(1_500)).unwrap_err().rule(), "wrong_state");
}

#[test]
fn the_longest_life_that_any_configuration_gave_counts() {
    let stored = ring(RULES).keys().to_vec();
    let shorter = Rules { verify_for_ms: 10, ..RULES };
    let (mut ring, _) = Ring::load(stored, shorter, |_| false, at(5));
    ring.disable("a", at(100)).unwrap();
    assert_eq!(ring.key("a").unwrap().retire_not_before, Some(at(1_100)));
    // What was fixed when it stopped stays.
    let (ring, _) = Ring::load(ring.keys().to_vec(), shorter, |_| false, at(200));
    assert_eq!(ring.key("a").unwrap().retire_not_before, Some(at(1_100)));
}

#[test]
fn the_last_active_key_is_not_retired() {
    let mut ring = with_draft(RULES);
    let refusal = ring.retire("a", at(1_000_000)).unwrap_err();
    assert_eq!(refusal.rule(), "last_active");
    assert_eq!(state(&ring, "a"), KeyState::Active);
    assert_eq!(ring.retire("b", at(1_000_000)).unwrap_err().rule(), "wrong_state");
    assert_eq!(ring.retire("c", at(0)).unwrap_err().rule(), "unknown_key");
}

#[test]
fn a_disabled_key_verifies_on_and_nobody_follows_it() {
    let mut ring = with_draft(Rules { rotate_every_ms: Some(1_000), ..RULES });
    ring.want("b");
    assert_eq!(ring.disable("a", at(200)).unwrap(), ["a", "b"]);
    assert_eq!(ring.active(), None);
    assert_eq!(verifying(&ring), ["a", "b"]);
    // Not the Draft that waited, and no schedule: an operator wanted no more signatures.
    assert_eq!(due(&ring, at(1_100)), None);
    assert_eq!(ring.next_at(at(1_100)), Some(at(1_200)));
    assert_eq!(ring.disable("a", at(200)).unwrap_err().rule(), "wrong_state");
    ring.activate("b", at(1_100)).unwrap();
    assert_eq!(ring.disable("b", at(1_200)).unwrap(), ["b"]);
    // One that was disabled by mistake is published still: it signs again, and stops once more.
    ring.activate("b", at(1_300)).unwrap();
    assert_eq!((state(&ring, "b"), ring.key("b").unwrap().retire_not_before), (KeyState::Active, None));
    ring.disable("b", at(1_400)).unwrap();
    assert_eq!(ring.key("b").unwrap().retire_not_before, Some(at(2_400)));
}

#[test]
fn a_disabled_draft_is_retired_at_once() {
    let mut ring = with_draft(RULES);
    ring.disable("b", at(200)).unwrap();
    assert_eq!(state(&ring, "b"), KeyState::Retired);
    assert_eq!(verifying(&ring), ["a"]);
    assert_eq!(ring.activate("b", at(1_000)).unwrap_err().rule(), "wrong_state");
}

#[test]
fn a_killed_key_verifies_no_more_whatever_it_signed() {
    let mut ring = with_draft(RULES);
    ring.activate("b", at(400)).unwrap();
    for (kid, was) in [("a", KeyState::Trusted), ("b", KeyState::Active)] {
        assert_eq!(ring.kill(kid, at(500)), Some(was));
        assert_eq!(state(&ring, kid), KeyState::Retired);
        assert_eq!(ring.kill(kid, at(500)), None, "it is dead");
    }
    assert_eq!((verifying(&ring).len(), ring.active()), (0, None));
    assert_eq!(ring.kill("c", at(500)), None);
}

#[test]
fn a_key_that_must_be_backed_up_waits_for_that() {
    let mut ring = with_draft(Rules { require_backup: true, ..RULES });
    ring.want("b");
    assert_eq!(ring.activate("b", at(400)).unwrap_err().rule(), "require_backup");
    assert_eq!((due(&ring, at(400)), ring.next_at(at(100))), (None, None));
    ring.back_up("b", at(450)).unwrap();
    ring.back_up("b", at(460)).unwrap();
    assert_eq!(ring.key("b").unwrap().backed_up, Some(at(450)));
    assert_eq!(due(&ring, at(460)), Some(Due::Activate("b".into())));
    ring.disable("a", at(500)).unwrap();
    ring.kill("a", at(500));
    assert_eq!(ring.back_up("a", at(500)).unwrap_err().rule(), "wrong_state");
}

#[test]
fn a_wanted_draft_takes_over_by_itself() {
    let mut ring = with_draft(RULES);
    assert_eq!(ring.next_at(at(100)), None, "a draft that nobody wants waits");
    ring.want("b");
    assert_eq!(ring.next_at(at(100)), Some(at(400)));
    assert_eq!(due(&ring, at(399)), None);
    assert_eq!(due(&ring, at(400)), Some(Due::Activate("b".into())));
    ring.activate("b", at(400)).unwrap();
    assert_eq!(due(&ring, at(400)), None);
}

#[test]
fn a_schedule_prepares_a_draft_one_propagation_ahead() {
    let mut ring = ring(Rules { rotate_every_ms: Some(2_000), ..RULES });
    assert_eq!(ring.next_at(at(0)), Some(at(1_700)));
    assert_eq!((due(&ring, at(1_699)), due(&ring, at(1_700))), (None, Some(Due::Prepare)));
    ring.create(new("b"), at(1_700)).unwrap();
    assert_eq!(due(&ring, at(1_700)), Some(Due::Publish("b".into())));
    ring.publish("b", at(1_700));
    assert_eq!((due(&ring, at(1_999)), ring.next_at(at(1_700))), (None, Some(at(2_000))));
    assert_eq!(due(&ring, at(2_000)), Some(Due::Activate("b".into())));
    ring.activate("b", at(2_000)).unwrap();
    assert_eq!(ring.next_at(at(2_000)), Some(at(3_000)), "the key before may go");
    ring.retire("a", at(3_000)).unwrap();
    assert_eq!(ring.next_at(at(3_000)), Some(at(3_700)));
}

#[test]
fn a_schedule_shorter_than_a_propagation_rotates_as_fast_as_it_may() {
    let mut ring = ring(Rules { rotate_every_ms: Some(100), ..RULES });
    assert_eq!(due(&ring, at(0)), Some(Due::Prepare));
    ring.create(new("b"), at(0)).unwrap();
    ring.publish("b", at(0));
    assert_eq!(ring.next_at(at(0)), Some(at(300)));
}

#[test]
fn the_set_that_is_published_is_bounded() {
    let mut ring = ring(RULES);
    for number in 1..PUBLISHED_MAX {
        ring.create(new(&format!("k{number}")), at(1)).unwrap();
    }
    assert_eq!(ring.create(new("more"), at(1)).unwrap_err(), Refusal::Full { max: PUBLISHED_MAX });
    ring.disable("k1", at(2)).unwrap();
    assert_eq!(ring.create(new("k1"), at(2)).unwrap_err().rule(), "wrong_state", "no key comes back");
    ring.create(new("more"), at(2)).unwrap();
}

#[test]
fn rings_live_beside_one_another() {
    let mut rings = Rings::new(vec![ring(RULES), with_draft(Rules { published_max: 2, ..RULES })]);
    // Names are thumbprints, so that no two rings have one key.
    *rings.at_mut(0) = Ring::load(Vec::new(), RULES, |_| false, at(0)).0;
    rings.at_mut(0).adopt_first(new("z"), at(0));
    assert_eq!(rings.active().map(|key| key.kid.as_str()).collect::<Vec<_>>(), ["z", "a"]);
    assert_eq!(rings.verifying().count(), 3);
    assert_eq!((rings.of("z"), rings.of("b")), (Ok(0), Ok(1)));
    assert_eq!(rings.of("nobody").unwrap_err().rule(), "unknown_key");
    assert_eq!(rings.at(1).may_create(), Err(Refusal::Full { max: 2 }), "each has its share");
    rings.at_mut(1).want("b");
    assert_eq!((rings.due(at(399)), rings.next_at(at(100))), (vec![], Some(at(400))));
    assert_eq!(rings.due(at(400)), [(1, Due::Activate("b".into()))]);
    rings.at_mut(1).activate("b", at(400)).unwrap();
    assert_eq!(rings.active().map(|key| key.kid.as_str()).collect::<Vec<_>>(), ["z", "b"]);
    assert_eq!(rings.key("a").unwrap().state, KeyState::Trusted);
}

#[test]
fn a_start_puts_right_what_a_crash_left() {
    let ring = with_draft(RULES);
    // The claim was stored; whether `b` signed, and until when `a` did, nobody knows.
    let mut stored = ring.keys().to_vec();
    stored[1] = ring.claim("b", at(400)).unwrap();
    let (mended, notes) = Ring::load(stored, RULES, |_| false, at(5_000));
    assert_eq!((state(&mended, "a"), state(&mended, "b")), (KeyState::Trusted, KeyState::Active));
    assert_eq!(mended.key("a").unwrap().retire_not_before, Some(at(6_000)));
    let note = Mended { kid: "a".into(), from: KeyState::Active, to: KeyState::Trusted };
    assert_eq!(notes, [note]);

    let mut stored = ring.keys().to_vec();
    stored[0].state = KeyState::Trusted;
    let (mended, _) = Ring::load(stored.clone(), RULES, |_| false, at(5_000));
    assert_eq!(mended.key("a").unwrap().retire_not_before, Some(at(6_000)));

    let (mended, notes) = Ring::load(stored, RULES, |kid| kid == "a", at(5_000));
    assert_eq!((state(&mended, "a"), notes.len()), (KeyState::Retired, 1), "what was killed stays dead");
}

#[test]
fn names_of_states_are_read_back() {
    for state in KeyState::ALL {
        assert_eq!(KeyState::from_name(state.name()), Some(state));
    }
    assert_eq!(KeyState::from_name("Active"), None);
}

/// A node as the control plane runs it: the ring, what is stored, what was served and signed when. Any step may be cut
/// off by a crash.
struct Model {
    random: u64,
    now: u64,
    ring: Ring,
    stored: BTreeMap<String, SigningKey>,
    killed: BTreeSet<String>,
    /// Since when each key was served; a crash does not take it out of anybody's copy.
    served: BTreeMap<String, u64>,
    /// When each key signed last.
    signed: BTreeMap<String, u64>,
    made: u32,
    rotations: u32,
}

/// The promise of [`RULES`], taken apart: what is signed lives for 500, of 200 max-age and 300 for leeway and signing.
const LIFE_MS: u64 = 500;
const REST_MS: u64 = 500;

impl Model {
    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    fn now(&self) -> UnixMillis {
        at(self.now)
    }

    fn store(&mut self, kid: &str) {
        let key = self.ring.key(kid).unwrap().clone();
        self.stored.insert(kid.to_owned(), key);
    }

    fn serve(&mut self) {
        for key in self.ring.verifying() {
            self.served.entry(key.kid.clone()).or_insert(self.now);
        }
    }

    /// Time goes on, the Active key signs now and then; or the process dies here and starts again.
    fn pass(&mut self) -> Result<(), Crash> {
        self.now += self.below(20);
        self.sign();
        if self.below(40) == 0 { Err(Crash) } else { Ok(()) }
    }

    fn sign(&mut self) {
        let Some(active) = self.ring.active() else { return };
        let kid = active.kid.clone();
        assert_eq!(self.ring.keys().iter().filter(|key| key.state == KeyState::Active).count(), 1);
        if kid != "first" {
            let served = self.served[&kid];
            assert!(
                self.now - served >= RULES.propagation_ms,
                "{kid} signs at {}, served at {served}",
                self.now
            );
        }
        assert!(!self.killed.contains(&kid), "{kid} was killed");
        self.signed.insert(kid, self.now);
    }

    fn check(&self) {
        let verifying: BTreeSet<&str> = self.ring.verifying().map(|key| key.kid.as_str()).collect();
        for (kid, signed) in &self.signed {
            let needed = self.now < signed + LIFE_MS + REST_MS && !self.killed.contains(kid);
            assert!(
                !needed || verifying.contains(kid.as_str()),
                "{kid} signed at {signed}, gone at {}",
                self.now
            );
        }
        assert!(self.killed.iter().all(|kid| !verifying.contains(kid.as_str())));
    }

    fn create(&mut self, wanted: bool) -> Result<(), Crash> {
        self.made += 1;
        let kid = format!("key-{}", self.made);
        let now = self.now();
        if self.ring.create(NewKey { wanted, ..new(&kid) }, now).is_err() {
            return Ok(());
        }
        // The row is stored before anybody sees the key.
        self.store(&kid);
        self.pass()?;
        self.serve();
        self.pass()?;
        let now = self.now();
        self.ring.publish(&kid, now);
        self.pass()?;
        self.store(&kid);
        Ok(())
    }

    fn activate(&mut self, kid: &str) -> Result<(), Crash> {
        let Ok(claim) = self.ring.claim(kid, self.now()) else { return Ok(()) };
        self.stored.insert(kid.to_owned(), claim);
        self.pass()?;
        let now = self.now();
        if let Ok(changed) = self.ring.activate(kid, now) {
            self.rotations += 1;
            self.pass()?;
            for kid in changed {
                self.store(&kid);
            }
        }
        Ok(())
    }

    fn disable(&mut self, kid: &str) -> Result<(), Crash> {
        if self.ring.may_disable(kid) != Ok(KeyState::Trusted) {
            return Ok(());
        }
        let before = SigningKey { state: KeyState::Trusted, ..self.ring.key(kid).unwrap().clone() };
        self.stored.insert(kid.to_owned(), before);
        self.pass()?;
        let now = self.now();
        for kid in self.ring.disable(kid, now).unwrap() {
            self.pass()?;
            self.store(&kid);
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), Crash> {
        self.pass()?;
        match self.ring.due(self.now()).into_iter().next() {
            Some(Due::Publish(kid)) => {
                self.serve();
                let now = self.now();
                self.ring.publish(&kid, now);
                self.store(&kid);
            }
            Some(Due::Activate(kid)) => self.activate(&kid)?,
            Some(Due::Prepare) => self.create(false)?,
            Some(Due::Retire(kid)) => {
                let now = self.now();
                self.ring.retire(&kid, now).unwrap();
                self.pass()?;
                self.store(&kid);
            }
            None => {}
        }
        let kids: Vec<String> = self.ring.keys().iter().map(|key| key.kid.clone()).collect();
        let chosen = usize::try_from(self.below(kids.len() as u64)).unwrap();
        let kid = kids[chosen].clone();
        match self.below(30) {
            0..=2 => self.create(false)?,
            3..=4 => self.create(true)?,
            5..=9 => self.activate(&kid)?,
            10 => self.disable(&kid)?,
            11 => {
                let now = self.now();
                self.ring.kill(&kid, now);
                self.killed.insert(kid);
            }
            12..=14 => {
                let now = self.now();
                let _ = self.ring.retire(&kid, now);
            }
            15 => self.ring.want(&kid),
            _ => self.now += self.below(100),
        }
        Ok(())
    }

    /// What was not stored is gone, but for what was killed, which is stored in the same call.
    fn restart(&mut self) {
        self.now += self.below(1_000);
        let stored = self.stored.values().cloned().collect();
        let now = self.now();
        let killed = self.killed.clone();
        self.ring = Ring::load(stored, *self.ring.rules(), |kid| killed.contains(kid), now).0;
        self.serve();
        for key in self.ring.keys().to_vec() {
            self.stored.insert(key.kid.clone(), key);
        }
    }
}

struct Crash;

#[test]
fn no_order_of_commands_crashes_and_schedules_breaks_a_promise() {
    let seed = std::env::var("EDGATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
    let mut rotations = 0;
    for run in 0..40 {
        println!("EDGATE_SEED={seed}, run {run}");
        let rotate_every_ms = (run % 2 == 0).then_some(800);
        let rules = Rules { rotate_every_ms, ..RULES };
        let (mut ring, _) = Ring::load(Vec::new(), rules, |_| false, at(1_000));
        ring.adopt_first(new("first"), at(1_000));
        let mut model = Model {
            random: seed.wrapping_mul(run * 2 + 1) | 1,
            now: 1_000,
            ring,
            stored: BTreeMap::new(),
            killed: BTreeSet::new(),
            served: BTreeMap::new(),
            signed: BTreeMap::new(),
            made: 0,
            rotations: 0,
        };
        model.store("first");
        model.serve();
        for _ in 0..500 {
            if model.step().is_err() {
                model.restart();
            }
            model.check();
        }
        rotations += model.rotations;
    }
    assert!(rotations > 300, "the model rotates: {rotations}");
}
