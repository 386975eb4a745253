//! Two pools in one module: two tokens of one SoftHSM, which share its state and must not share their faults.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use edgate_hsm::{
    Module, PinPolicy, PinSource, Pkcs11Uri, Pool, Purpose, Signer, TokenSigning, TokenStanding,
};
use support::{PIN, Stage, ed25519, soon, stage_with_faults, until, wait_for};

fn is_ready(standing: &TokenStanding) -> bool {
    matches!(standing, TokenStanding::Ready)
}

fn is_down(standing: &TokenStanding) -> bool {
    matches!(standing, TokenStanding::Unavailable(_))
}

fn opened(stage: &Stage, token: &Pkcs11Uri) -> (Pool, Signer<TokenSigning>) {
    let key = stage.make_key(token, Purpose::TokenSigning, "1");
    let pool = Pool::start(stage.settings(token)).unwrap();
    let signer = pool.signing_key(&key.uri, None, soon()).unwrap();
    (pool, signer)
}

/// Has `signer` sign while `body` runs; how many signatures that were, and the longest that one took.
fn while_signing(signer: &Signer<TokenSigning>, body: impl FnOnce()) -> (u64, Duration) {
    let (stop, signed, longest) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let started = Instant::now();
                    signer.sign(b"m", started + Duration::from_secs(10)).unwrap();
                    let us = u64::try_from(started.elapsed().as_micros()).unwrap();
                    longest.fetch_max(us, Ordering::SeqCst);
                    signed.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        body();
        let before = signed.load(Ordering::SeqCst);
        until(|| (signed.load(Ordering::SeqCst) > before + 2).then_some(()));
        stop.store(true, Ordering::SeqCst);
    });
    (signed.into_inner(), Duration::from_micros(longest.into_inner()))
}

#[test]
fn pools_that_start_together_initialise_their_module_once() {
    stage_with_faults("pools_that_start_together_initialise_their_module_once", |stage| {
        let tokens = ["one", "two", "three", "four"].map(|label| stage.make_token(label));
        // Slow enough that all of them find it not initialised.
        stage.faults("C_Initialize delay_us=200000\n");
        let (before, barrier) = (stage.calls("C_Initialize"), Barrier::new(tokens.len()));
        let pools: Vec<Pool> = std::thread::scope(|scope| {
            let threads = tokens.each_ref().map(|token| {
                scope.spawn(|| {
                    barrier.wait();
                    Pool::start(stage.settings(token)).unwrap()
                })
            });
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        pools.iter().for_each(|pool| drop(wait_for(pool, is_ready)));
        assert_eq!(stage.calls("C_Initialize"), before + 1);
        assert_eq!(stage.calls("C_Finalize"), 0);
    });
}

#[test]
fn two_pools_that_want_the_module_anew_get_it_once() {
    stage_with_faults("two_pools_that_want_the_module_anew_get_it_once", |stage| {
        stage.faults("");
        let (one, two) = (stage.make_token("one"), stage.make_token("two"));
        let (first, second) = (opened(stage, &one), opened(stage, &two));
        let module = Module::load(&stage.module).unwrap();
        let (epoch, finalized) = (module.epoch(), stage.calls("C_Finalize"));
        assert!(module.reinitialize(epoch, soon()).unwrap());
        // The other saw its fault in the epoch that is over.
        assert!(!module.reinitialize(epoch, soon()).unwrap());
        assert_eq!(stage.calls("C_Finalize"), finalized + 1);
        for (pool, signer) in [first, second] {
            signer.sign(b"m", soon()).unwrap();
            wait_for(&pool, is_ready);
        }
    });
}

#[test]
fn a_slot_of_another_epoch_is_never_used() {
    stage_with_faults("a_slot_of_another_epoch_is_never_used", |stage| {
        let one = stage.make_token("one");
        // Made by this very process: until SoftHSM is initialised anew its slot is a small number, then its serial's.
        let context = Pkcs11::new(&stage.module).unwrap();
        context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
        let slots = context.get_slots_with_token().unwrap();
        let free = slots.into_iter().find(|slot| !context.get_token_info(*slot).unwrap().token_initialized());
        let free = free.unwrap();
        let officer = AuthPin::from("12345678".to_owned());
        context.init_token(free, &officer, "two").unwrap();
        {
            let session = context.open_rw_session(free).unwrap();
            session.login(UserType::So, Some(&officer)).unwrap();
            session.init_pin(&AuthPin::from(PIN.to_owned())).unwrap();
            session.logout().unwrap();
        }
        let serial = context.get_token_info(free).unwrap().serial_number().to_owned();
        let two = Pkcs11Uri { token: Some("two".into()), serial: Some(serial), ..Pkcs11Uri::empty() };

        let key = stage.make_key(&one, Purpose::TokenSigning, "1");
        let mut settings = stage.settings(&one);
        settings.probe_interval = Duration::from_secs(3600);
        let first = Pool::start(settings).unwrap();
        let idle: Signer<TokenSigning> = first.signing_key(&key.uri, None, soon()).unwrap();
        let (second, signer) = opened(stage, &two);
        let module = Module::load(&stage.module).unwrap();
        let (_, longest) = while_signing(&signer, || {
            // Long enough that workers wait at the gate, with what they know of the slot.
            stage.faults("C_Initialize delay_us=20000\n");
            for _ in 0..20 {
                let (signed, epoch) = (second.metrics().signed, module.epoch());
                assert!(module.reinitialize(epoch, soon()).unwrap());
                until(|| (second.metrics().signed > signed + 2).then_some(()));
            }
        });
        eprintln!("with the module initialised anew 20 times the longest signature took {longest:?}");
        let renumbered = context.get_token_info(free).map(|info| info.token_initialized());
        assert!(!renumbered.unwrap_or(false), "the test shows nothing: the slot is still the token's");
        assert!(second.metrics().errors.is_empty(), "{:?}", second.metrics().errors);
        // Whoever has nothing to sign logs in again, too, before anybody asks.
        wait_for(&first, is_ready);
        until(|| (first.metrics().logins > 20).then_some(()));
        idle.sign(b"m", soon()).unwrap();
    });
}

#[test]
fn a_call_that_hangs_puts_reinitialising_off_and_not_the_others_work() {
    stage_with_faults("a_call_that_hangs_puts_reinitialising_off_and_not_the_others_work", |stage| {
        stage.faults("");
        let (one, two) = (stage.make_token("one"), stage.make_token("two"));
        // Calls may take 20 s before anybody does something about them.
        let (first, signer) = opened(stage, &one);
        let (second, _) = opened(stage, &two);
        stage.faults("C_Sign hang n=1 token=one\n");
        let hung = signer.sign(b"m", Instant::now() + Duration::from_millis(100));
        assert!(hung.is_err());
        let (away, finalized) = (stage.take_away(&two), stage.calls("C_Finalize"));
        wait_for(&second, is_down);
        // By now the other wants the module anew, every 100 ms at first.
        let busy = |standing: &TokenStanding| match standing {
            TokenStanding::Unavailable(cause) => cause.to_string().contains("busy"),
            _ => false,
        };
        let (_, longest) = while_signing(&signer, || drop(wait_for(&second, busy)));
        assert!(longest < Duration::from_secs(2), "a signature took {longest:?}");
        assert_eq!(stage.calls("C_Finalize"), finalized, "under a running call");
        assert!(is_ready(&first.standing()));
        // When the call returns the other's turn comes.
        stage.faults("");
        away.bring_back();
        wait_for(&second, is_ready);
        signer.sign(b"m", soon()).unwrap();
    });
}

#[test]
fn a_token_that_is_away_costs_the_other_little_and_comes_back() {
    stage_with_faults("a_token_that_is_away_costs_the_other_little_and_comes_back", |stage| {
        stage.faults("");
        let (one, two) = (stage.make_token("one"), stage.make_token("two"));
        let (first, signer) = opened(stage, &one);
        let key = stage.make_key(&two, Purpose::TokenSigning, "1");
        let mut settings = stage.settings(&two);
        settings.reinit_interval = Duration::from_millis(400);
        let second = Pool::start(settings).unwrap();
        let other: Signer<TokenSigning> = second.signing_key(&key.uri, None, soon()).unwrap();
        let finalized = stage.calls("C_Finalize");
        let away = stage.take_away(&two);
        let gone = Instant::now();
        wait_for(&second, is_down);
        // The first try waits for the interval, the next for twice that: the other works meanwhile.
        let (_, longest) = while_signing(&signer, || {
            until(|| (stage.calls("C_Finalize") == finalized + 2).then_some(()));
        });
        assert!(gone.elapsed() > Duration::from_millis(400 + 800), "{:?}", gone.elapsed());
        eprintln!("with the module initialised anew twice the longest signature took {longest:?}");
        assert!(first.metrics().reinitialized == 0 && is_ready(&first.standing()));
        away.bring_back();
        wait_for(&second, is_ready);
        other.sign(b"m", soon()).unwrap();
        signer.sign(b"m", soon()).unwrap();
    });
}

#[test]
fn a_login_that_only_a_person_makes_is_never_ended_for_another_token() {
    stage_with_faults("a_login_that_only_a_person_makes_is_never_ended_for_another_token", |stage| {
        stage.faults("");
        let (one, two) = (stage.make_token("one"), stage.make_token("two"));
        let key = stage.make_key(&one, Purpose::TokenSigning, "1");
        let mut settings = stage.settings(&one);
        settings.access = stage.access(PinPolicy { source: PinSource::Operator, ..stage.pin() });
        let first = Pool::start(settings).unwrap();
        let signer: Signer<TokenSigning> = first.signing_key(&key.uri, Some(ed25519(&key)), soon()).unwrap();
        first.unlock(PIN.to_owned().into()).unwrap();
        let (away, finalized) = (stage.take_away(&two), stage.calls("C_Finalize"));
        let second = Pool::start(stage.settings(&two)).unwrap();
        wait_for(&second, is_down);
        let looks = stage.calls("C_GetSlotList");
        until(|| (stage.calls("C_GetSlotList") > looks + 20).then_some(()));
        assert_eq!(stage.calls("C_Finalize"), finalized);
        signer.sign(b"m", soon()).unwrap();
        assert!(is_ready(&first.standing()));
        away.bring_back();
    });
}
