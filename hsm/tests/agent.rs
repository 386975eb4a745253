//! A token at an agent: everything a pool does, while the agent is killed, stopped, hung, strict or a liar.

#![allow(clippy::unwrap_used, reason = "test code")]

#[path = "support/agent.rs"]
mod agent;
#[path = "support/liar.rs"]
mod liar;
mod support;

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use agent::HANG_LIMIT;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use edgate_hsm::{
    Agent, AgentAddress, AgentEvent, AgentSettings, AgentUnlock, AuditCheckpoint, EXIT_STUCK, Group,
    HsmError, KeyName, MemberSettings, MemberStanding, PinPolicy, PinSource, Pkcs11Uri, Pool, Purpose,
    Signer, TlsServer, TokenSigning, TokenStanding,
};
use liar::{Liar, frame, honest, read_frame, reply, signature, text};
use support::{PIN, Stage, ed25519, soon, stage, stage_with_faults, until, wait_for, write_pin};

/// How much later than its deadline an answer may come on a busy machine.
const LATE: Duration = Duration::from_millis(250);

const LABEL: &str = "edgate/token-signing/1";

#[test]
#[ignore = "not a test: the agent that others start"]
fn agent_process() {
    stage("agent_process", agent::serve);
}

fn is_ready(standing: &TokenStanding) -> bool {
    matches!(standing, TokenStanding::Ready)
}

fn is_down(standing: &TokenStanding) -> bool {
    matches!(standing, TokenStanding::Unavailable(_))
}

/// An agent in this process, whose pool is as the stage sets it.
fn agent(stage: &Stage, token: &Pkcs11Uri, change: impl FnOnce(&mut AgentSettings)) -> Agent {
    let mut settings = AgentSettings::new(stage.address("agent").socket);
    change(&mut settings);
    Agent::start(stage.settings(token), settings, |event| eprintln!("agent: {event}")).unwrap()
}

fn assert_signs(signer: &Signer<TokenSigning>, message: &[u8]) {
    let made = signer.sign(message, soon()).unwrap();
    verify(signer, message, &made);
}

fn verify(signer: &Signer<TokenSigning>, message: &[u8], made: &[u8; 64]) {
    let verifying_key = VerifyingKey::from_bytes(&signer.public_key()).unwrap();
    verifying_key.verify_strict(message, &Signature::from_bytes(made)).unwrap();
}

#[test]
fn a_signer_at_an_agent_is_a_signer_like_any_other() {
    stage("a_signer_at_an_agent_is_a_signer_like_any_other", |stage| {
        let token = stage.make_token("edgate");
        let key = stage.make_key(&token, Purpose::TokenSigning, "1");
        let other = stage.make_key(&token, Purpose::TokenSigning, "2");
        let _agent = agent(stage, &token, |_| ());
        let pool = Pool::start(stage.at_agent("agent", &token)).unwrap();
        assert!(is_ready(&pool.standing()));
        let signer = pool.signing_key::<TokenSigning>(&key.uri, None, soon()).unwrap();
        assert_eq!(signer.public_key(), ed25519(&key));
        for length in [0, 1, 1 << 17] {
            assert_signs(&signer, &vec![7; length]);
        }
        let too_long = signer.sign(&vec![7; 5 << 20], soon()).unwrap_err();
        assert!(matches!(too_long, HsmError::TooLong { .. }), "{too_long}");

        let (done, outcomes) = mpsc::channel();
        for number in 0..200_u32 {
            let done = done.clone();
            let answer = move |outcome: Result<[u8; 64], HsmError>| done.send((number, outcome)).unwrap();
            signer.submit(number.to_le_bytes().to_vec(), soon(), answer).unwrap();
        }
        for _ in 0..200 {
            let (number, outcome) = outcomes.recv().unwrap();
            verify(&signer, &number.to_le_bytes(), &outcome.unwrap());
        }
        // What is wrong is told as by a pool.
        let error = pool.signing_key::<TokenSigning>(&key.uri, Some(ed25519(&other)), soon()).unwrap_err();
        assert!(matches!(error, HsmError::KeyMismatch { .. }), "{error}");
        let error = pool.signing_key::<AuditCheckpoint>(&key.uri, None, soon()).unwrap_err();
        assert!(matches!(error, HsmError::KeyInUse { found: Purpose::TokenSigning, .. }), "{error}");
        let none = Pkcs11Uri { object: Some("none".into()), id: None, ..key.uri };
        let error = pool.signing_key::<TokenSigning>(&none, None, soon()).unwrap_err();
        assert!(matches!(error, HsmError::Object { matches: 0, .. }), "{error}");
        let past = signer.sign(b"m", Instant::now()).unwrap_err();
        assert!(matches!(past, HsmError::DeadlinePassed { .. }), "{past}");

        let metrics = pool.metrics();
        assert!(metrics.signed >= 203, "{metrics:?}");
        assert_eq!((metrics.outstanding, metrics.signature_faults, metrics.agent_lost), (0, 0, 0));
        until(|| {
            (pool.metrics().logins == 1 && pool.metrics().call.buckets.iter().sum::<u64>() > 200)
                .then_some(())
        });
        drop(pool);
        assert!(matches!(signer.sign(b"m", soon()), Err(HsmError::Stopped)));
    });
}

#[test]
fn every_other_errand_is_run_through_an_agent() {
    stage("every_other_errand_is_run_through_an_agent", |stage| {
        let token = stage.make_token("edgate");
        let kept = stage.make_key(&token, Purpose::TokenSigning, "1");
        let checkpoint = stage.make_key(&token, Purpose::AuditCheckpoint, "1");
        let tls = stage.make_key(&token, Purpose::TlsServer, "1");
        let wrapping = stage.make_key(&token, Purpose::Wrapping, "1");
        let _agent = agent(stage, &token, |_| ());
        let pool = Pool::start(stage.at_agent("agent", &token)).unwrap();

        let signer = pool.signing_key::<TlsServer>(&tls.uri, tls.public_key, soon()).unwrap();
        signer.sign(b"handshake", soon()).unwrap();

        let key = pool.wrapping_key(&wrapping.uri, soon()).unwrap();
        let sealed = key.seal(b"use", b"secret", soon()).unwrap();
        assert_eq!(key.open(b"use", &sealed, soon()).unwrap().as_slice(), b"secret");
        assert!(matches!(key.open(b"other", &sealed, soon()), Err(HsmError::Unsealed | HsmError::Call(_))));

        let name = |name| KeyName::new(Purpose::TokenSigning, name).unwrap();
        let uri = pool.make_signing_key(name("2"), soon()).unwrap();
        let made = pool.signing_key::<TokenSigning>(&uri, None, soon()).unwrap();
        assert_signs(&made, b"m");
        let taken = pool.make_signing_key(name("2"), soon()).unwrap_err();
        assert!(matches!(taken, HsmError::KeyInUse { .. }), "{taken}");
        let other = pool.destroy_signing_key(&uri, ed25519(&kept), soon()).unwrap_err();
        assert!(matches!(other, HsmError::KeyMismatch { .. }), "{other}");
        // A key of another purpose is not destroyed, whatever this service is made to ask for.
        let foreign = pool.destroy_signing_key(&checkpoint.uri, ed25519(&checkpoint), soon()).unwrap_err();
        assert!(matches!(foreign, HsmError::KeyInUse { found: Purpose::AuditCheckpoint, .. }), "{foreign}");
        pool.destroy_signing_key(&uri, made.public_key(), soon()).unwrap();
        pool.destroy_signing_key(&uri, made.public_key(), soon()).unwrap();
        let gone = pool.signing_key::<TokenSigning>(&uri, None, soon()).unwrap_err();
        assert!(matches!(gone, HsmError::Object { matches: 0, .. }), "{gone}");
        signer.sign(b"handshake", soon()).unwrap();
        wait_for(&pool, is_ready);
    });
}

#[test]
fn who_may_not_use_an_agent_is_refused_and_told() {
    stage("who_may_not_use_an_agent_is_refused_and_told", |stage| {
        let (token, other) = (stage.make_token("edgate"), stage.make_token("other"));
        let (said, events) = mpsc::channel();
        let mut settings = AgentSettings::new(stage.address("agent").socket);
        settings.allow_uids = vec![12_345];
        let tell = move |event| said.send(event).unwrap();
        let agent = Agent::start(stage.settings(&token), settings.clone(), tell).unwrap();
        let refused = Pool::start(stage.at_agent("agent", &token)).unwrap_err();
        assert!(matches!(refused.cause(), HsmError::AgentRefused { .. }), "{refused}");
        assert_eq!(refused.exit_code(), 78);
        assert!(refused.to_string().contains("agent.allow_uids"), "{refused}");
        let Ok(AgentEvent::Refused { uid, pid, problem }) = events.recv() else { panic!("nothing is said") };
        assert_eq!((uid, pid), (rustix::process::geteuid().as_raw(), std::process::id()), "{problem}");
        // It may hand in a PIN all the same, being the agent's own user.
        AgentUnlock::connect(&stage.address("agent")).unwrap();
        drop(agent);

        settings.allow_uids = vec![rustix::process::geteuid().as_raw()];
        let agent = Agent::start(stage.settings(&token), settings, |_| ()).unwrap();
        // Who is there is not who is expected, and it is not the token that is expected.
        let mut wrong = stage.at_agent("agent", &token);
        wrong.access =
            edgate_hsm::Access::Agent(AgentAddress { uid: Some(12_345), ..stage.address("agent") });
        let refused = Pool::start(wrong).unwrap_err();
        assert!(refused.to_string().contains("agent_uid is 12345"), "{refused}");
        let refused = Pool::start(stage.at_agent("agent", &other)).unwrap_err();
        assert!(refused.to_string().contains("it serves") && refused.exit_code() == 78, "{refused}");
        drop(agent);
    });
}

/// A thread of another user, whose threads are that user's too.
#[test]
fn another_user_is_refused_by_its_socket_and_by_its_number() {
    if !rustix::process::geteuid().is_root() {
        return support::skip("only root can become another user");
    }
    stage("another_user_is_refused_by_its_socket_and_by_its_number", |stage| {
        let token = stage.make_token("edgate");
        let _agent = agent(stage, &token, |_| ());
        let open = |path: &std::path::Path, mode| {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        open(&stage.folder, 0o755);
        let settings = stage.at_agent("agent", &token);
        let as_nobody = |settings| {
            let attempt = move || {
                rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65_534)).unwrap();
                let started = Pool::start(settings);
                started.map(|pool| pool.standing())
            };
            std::thread::spawn(attempt).join().unwrap()
        };
        let standing = as_nobody(settings.clone()).unwrap();
        assert!(
            matches!(&standing, TokenStanding::Unavailable(cause) if cause.to_string().contains("Permission denied")),
            "{standing:?}"
        );
        open(&stage.address("agent").socket, 0o666);
        let refused = as_nobody(settings).unwrap_err();
        assert!(refused.to_string().contains("user id 65534 is not among agent.allow_uids"), "{refused}");
    });
}

#[test]
fn a_purpose_that_is_not_served_is_refused_and_a_label_is_not_talked_round() {
    stage("a_purpose_that_is_not_served_is_refused_and_a_label_is_not_talked_round", |stage| {
        let token = stage.make_token("edgate");
        let checkpoint = stage.make_key(&token, Purpose::AuditCheckpoint, "1");
        let tls = stage.make_key(&token, Purpose::TlsServer, "1");
        let _agent = agent(stage, &token, |settings| settings.purposes = vec![Purpose::TlsServer]);
        let pool = Pool::start(stage.at_agent("agent", &token)).unwrap();
        let refused = pool
            .signing_key::<AuditCheckpoint>(&checkpoint.uri, Some(ed25519(&checkpoint)), soon())
            .unwrap_err();
        assert!(
            matches!(refused, HsmError::PurposeNotServed { purpose: Purpose::AuditCheckpoint }),
            "{refused}"
        );
        pool.signing_key::<TlsServer>(&tls.uri, None, soon()).unwrap().sign(b"m", soon()).unwrap();

        // A service that was taken over asks for the checkpoint key's signature on a handshake.
        let mut stream = UnixStream::connect(stage.address("agent").socket).unwrap();
        stream.write_all(&frame(1, b"edgehsm\n\x01\x00\x00")).unwrap();
        assert_eq!(read_frame(&mut stream).unwrap()[0], 16);
        let mut request =
            [&1_u32.to_le_bytes()[..], &7_u64.to_le_bytes(), &[1], &9_000_000_u32.to_le_bytes(), &[6]]
                .concat();
        request.extend(text(&checkpoint.uri.to_string()));
        request.extend([1, 0]);
        request.extend(ed25519(&checkpoint));
        request.extend(text("message"));
        stream.write_all(&frame(2, &request)).unwrap();
        let answer = until(|| read_frame(&mut stream).filter(|frame| frame[0] == 18));
        // One reply, to number 7, which is an error: the key is in use for another purpose.
        assert_eq!(answer[..15], *[&[18][..], &1_u32.to_le_bytes(), &7_u64.to_le_bytes(), &[0, 3]].concat());
        // Whoever sends what is none is hung up on.
        stream.write_all(&frame(2, &[0xff; 40])).unwrap();
        until(|| read_frame(&mut stream).is_none().then_some(()));
        pool.signing_key::<TlsServer>(&tls.uri, None, soon()).unwrap().sign(b"m", soon()).unwrap();
    });
}

#[test]
fn deadlines_and_queue_bounds_hold_while_the_agent_is_stopped() {
    stage("deadlines_and_queue_bounds_hold_while_the_agent_is_stopped", |stage| {
        let token = stage.make_token("edgate");
        let key = stage.make_key(&token, Purpose::TokenSigning, "1");
        let process = stage.start_agent("agent_process", "agent", &token);
        let mut settings = stage.at_agent("agent", &token);
        settings.queue_len_max = 16;
        settings.hang_limit = Duration::from_secs(2);
        let pool = Pool::start(settings).unwrap();
        let signer = pool.signing_key::<TokenSigning>(&key.uri, None, soon()).unwrap();
        process.stop();
        let (done, outcomes) = mpsc::channel();
        let started = Instant::now();
        let deadline = started + Duration::from_millis(300);
        let mut refused = 0;
        for _ in 0..40 {
            let done = done.clone();
            let answer = move |outcome: Result<_, HsmError>| done.send((Instant::now(), outcome)).unwrap();
            match signer.submit(b"m".to_vec(), deadline, answer) {
                Ok(()) => {}
                Err(HsmError::Overloaded { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(started.elapsed() < LATE, "refusing takes no time");
        // A probe may have one of the places.
        assert!((24..=25).contains(&refused), "{refused} of 40 were refused");
        for _ in refused..40 {
            let (at, outcome) = outcomes.recv().unwrap();
            assert!(matches!(outcome, Err(HsmError::DeadlinePassed { .. })), "{outcome:?}");
            assert!(at <= deadline + LATE, "{:?} late", at - deadline);
        }
        // Silence is a broken connection after a while, and said at once from then on.
        wait_for(&pool, is_down);
        let error = signer.sign(b"m", soon()).unwrap_err();
        assert!(error.to_string().contains("said nothing"), "{error}");
        process.go_on();
        wait_for(&pool, is_ready);
        assert_signs(&signer, b"m");
        assert!(pool.metrics().agent_lost >= 1);
    });
}

#[test]
fn an_agent_that_is_killed_loses_what_is_under_way_and_no_more() {
    stage_with_faults("an_agent_that_is_killed_loses_what_is_under_way_and_no_more", |stage| {
        let token = stage.make_token("edgate");
        let key = stage.make_key(&token, Purpose::TokenSigning, "1");
        stage.faults("C_Sign delay_us=2000\n");
        let mut process = Some(stage.start_agent("agent_process", "agent", &token));
        let pool = Pool::start(stage.at_agent("agent", &token)).unwrap();
        let signer = pool.signing_key::<TokenSigning>(&key.uri, None, soon()).unwrap();
        for round in 0..3 {
            let (stop, good, lost) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    let (stop, good, lost, signer, pool) = (&stop, &good, &lost, &signer, &pool);
                    scope.spawn(move || {
                        while !stop.load(Ordering::Relaxed) {
                            let started = Instant::now();
                            match signer.sign(b"m", started + Duration::from_secs(20)) {
                                Ok(made) => {
                                    verify(signer, b"m", &made);
                                    good.fetch_add(1, Ordering::Relaxed);
                                }
                                Err(error) => {
                                    assert!(matches!(error.cause(), HsmError::Agent { .. }), "{error}");
                                    // At once, and not at the deadline.
                                    assert!(
                                        started.elapsed() < Duration::from_secs(5),
                                        "{:?}",
                                        started.elapsed()
                                    );
                                    lost.fetch_add(1, Ordering::Relaxed);
                                    // What was under way is lost once; whoever asks meanwhile is told at once.
                                    wait_for(pool, is_ready);
                                }
                            }
                        }
                    });
                }
                until(|| (good.load(Ordering::Relaxed) > 50).then_some(()));
                process.take().unwrap().kill();
                until(|| (lost.load(Ordering::Relaxed) > 0).then_some(()));
                process = Some(stage.start_agent("agent_process", "agent", &token));
                let before = good.load(Ordering::Relaxed);
                until(|| (good.load(Ordering::Relaxed) > before + 50).then_some(()));
                stop.store(true, Ordering::Relaxed);
            });
            let lost = lost.into_inner();
            eprintln!("round {round}: {} good, {lost} lost of 8 at a time", good.into_inner());
            assert!((1..=16).contains(&lost), "{lost} were lost, and 8 were under way");
        }
        assert_eq!(pool.metrics().outstanding, 0);
        assert_eq!(pool.metrics().agent_lost, 3);
    });
}

#[test]
fn a_module_that_hangs_ends_its_agent_and_the_next_one_works() {
    stage_with_faults("a_module_that_hangs_ends_its_agent_and_the_next_one_works", |stage| {
        let token = stage.make_token("edgate");
        let key = stage.make_key(&token, Purpose::TokenSigning, "1");
        stage.faults("");
        let process = stage.start_agent("agent_process", "agent", &token);
        let pool = Pool::start(stage.at_agent("agent", &token)).unwrap();
        let signer = pool.signing_key::<TokenSigning>(&key.uri, None, soon()).unwrap();
        stage.faults("C_Sign hang\n");
        let started = Instant::now();
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let sign = || signer.sign(b"m", started + Duration::from_secs(10));
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(sign)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            let told = matches!(error.cause(), HsmError::Agent { .. } | HsmError::Stuck { .. });
            assert!(told, "{error}");
        }
        assert!(started.elapsed() < HANG_LIMIT + Duration::from_secs(5), "{:?}", started.elapsed());
        assert_eq!(process.wait().code(), Some(i32::from(EXIT_STUCK)));
        wait_for(&pool, is_down);
        stage.faults("");
        let _process = stage.start_agent("agent_process", "agent", &token);
        wait_for(&pool, is_ready);
        assert_signs(&signer, b"m");
    });
}

#[test]
fn a_token_that_comes_back_at_an_agent_is_ready_once_its_keys_are() {
    stage("a_token_that_comes_back_at_an_agent_is_ready_once_its_keys_are", |stage| {
        let token = stage.make_token("edgate");
        let key = stage.make_key(&token, Purpose::TokenSigning, "1");
        let _agent = agent(stage, &token, |_| {});
        let pool = Pool::start(stage.at_agent("agent", &token)).unwrap();
        let signer = pool.signing_key::<TokenSigning>(&key.uri, Some(ed25519(&key)), soon()).unwrap();
        for _ in 0..3 {
            let away = stage.take_away(&token);
            wait_for(&pool, is_down);
            // The keys are asked for meanwhile, by the pool and by others.
            for _ in 0..20 {
                signer.sign(b"m", soon()).unwrap_err();
            }
            away.bring_back();
            wait_for(&pool, is_ready);
            assert_signs(&signer, b"m");
        }
    });
}

#[test]
fn what_a_lying_agent_says_is_not_believed() {
    stage("what_a_lying_agent_says_is_not_believed", |stage| {
        let token = Pkcs11Uri { token: Some("t".into()), serial: Some("1".into()), ..Pkcs11Uri::empty() };
        let uri = Pkcs11Uri { object: Some(LABEL.into()), ..token.clone() };
        let key = SigningKey::from_bytes(&[7; 32]);
        let liar = Liar::listen(&stage.address("agent").socket, &token.to_string(), key.clone());
        let mut settings = stage.at_agent("agent", &token);
        settings.probe_interval = Duration::from_secs(3600);
        let pool = Pool::start(settings).unwrap();
        let public_key = key.verifying_key().to_bytes();
        let signer = pool.signing_key::<TokenSigning>(&uri, Some(public_key), soon()).unwrap();
        let other = pool.signing_key::<TokenSigning>(&uri, Some([1; 32]), soon()).unwrap_err();
        assert!(matches!(other, HsmError::KeyMismatch { .. }), "{other}");
        assert_signs(&signer, b"m");
        let honest_again = || {
            liar.answers(honest);
            // The connection that the last lie ends may not have ended yet.
            let made = until(|| signer.sign(b"m", soon()).ok());
            verify(&signer, b"m", &made);
            wait_for(&pool, is_ready);
        };

        // Signatures that are none, each bit of it, of another message, by another key.
        for byte in 0..64 {
            liar.answers(move |key, asked| {
                let mut altered = key.sign(&asked.message).to_bytes();
                altered[byte] ^= 0x10;
                signature(asked.id, altered)
            });
            let error = signer.sign(b"m", soon()).unwrap_err();
            assert!(matches!(error.cause(), HsmError::SignatureFault { .. }), "{error}");
        }
        liar.answers(|key, asked| signature(asked.id, key.sign(b"another message").to_bytes()));
        assert!(matches!(signer.sign(b"m", soon()).unwrap_err().cause(), HsmError::SignatureFault { .. }));
        liar.answers(|_, asked| {
            signature(asked.id, SigningKey::from_bytes(&[8; 32]).sign(&asked.message).to_bytes())
        });
        assert!(matches!(signer.sign(b"m", soon()).unwrap_err().cause(), HsmError::SignatureFault { .. }));
        assert_eq!(pool.metrics().signature_faults, 66);
        honest_again();

        // What no agent says ends the connection, and what was under way with it.
        let lies: Vec<(&str, Box<liar::Answer>)> = vec![
            (
                "not asked",
                Box::new(|key, asked| signature(asked.id + 1_000_000, key.sign(&asked.message).to_bytes())),
            ),
            ("none to what it was asked", Box::new(|_, asked| reply(asked.id, &[1]))),
            (
                "none to what it was asked",
                Box::new(|_, asked| reply(asked.id, &[&[4][..], &text("secret")].concat())),
            ),
            ("4294967295 bytes", Box::new(|_, _| vec![0xff; 4])),
            ("unknown kind", Box::new(|_, _| frame(77, b"?"))),
            ("cut short", Box::new(|_, asked| frame(18, &asked.id.to_le_bytes()))),
            ("too much", Box::new(|_, _| frame(18, &u32::MAX.to_le_bytes()))),
            (
                "more bytes than fields",
                Box::new(|key, asked| {
                    let mut long = signature(asked.id, key.sign(&asked.message).to_bytes());
                    long[0] += 1;
                    long.push(0);
                    long
                }),
            ),
            ("I am tired", Box::new(|_, _| frame(17, &text("I am tired")))),
        ];
        for (problem, lie) in lies {
            liar.answers(lie);
            let error = signer.sign(b"m", soon()).unwrap_err();
            assert!(matches!(error.cause(), HsmError::Agent { .. }), "{error}");
            assert!(error.to_string().contains(problem), "{problem}: {error}");
            honest_again();
        }
        // An answer given twice counts once, and silence until the deadline.
        liar.answers(|key, asked| honest(key, asked).repeat(2));
        assert_signs(&signer, b"m");
        assert_signs(&signer, b"n");
        liar.answers(|_, _| Vec::new());
        let started = Instant::now();
        let error = signer.sign(b"m", started + Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, HsmError::DeadlinePassed { .. }), "{error}");
        assert!(started.elapsed() < Duration::from_millis(100) + LATE);
        // It says that the PIN is wrong, in words that would clear a screen: they are only words.
        liar.answers(|_, asked| {
            reply(asked.id, &[&[0, 5][..], &text("pkcs11:token=t"), &text("\u{1b}[2Jno")].concat())
        });
        let error = signer.sign(b"m", soon()).unwrap_err();
        assert!(error.needs_operator() && !error.to_string().contains('\u{1b}'), "{error}");
        honest_again();
    });
}

#[test]
fn a_group_of_an_agent_and_a_module_goes_on_when_the_agent_dies() {
    stage("a_group_of_an_agent_and_a_module_goes_on_when_the_agent_dies", |stage| {
        let tokens = ["one", "two"].map(|label| stage.make_token(label));
        let key = SigningKey::from_bytes(&[7; 32]);
        let uris = tokens.each_ref().map(|token| stage.import(token, &key, LABEL));
        let process = stage.start_agent("agent_process", "one", &tokens[0]);
        let pools = [stage.at_agent("one", &tokens[0]), stage.settings(&tokens[1])];
        let members = pools.map(|pool| MemberSettings { pool, weight: 1, draining: false });
        let group = Group::start(members.into(), Duration::from_millis(150)).unwrap();
        let public_key = key.verifying_key().to_bytes();
        let signer =
            group.signing_key::<TokenSigning>(&uris[0].object_only(), Some(public_key), soon()).unwrap();
        let signed = || group.members().iter().map(|member| member.metrics.signed).collect::<Vec<_>>();
        let share = |index: usize| {
            let before = signed()[index];
            until(|| {
                assert_signs(&signer, b"m");
                (signed()[index] > before + 10).then_some(())
            });
        };
        share(0);
        share(1);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                // None of them fails, before, while and after the agent dies.
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        assert_signs(&signer, b"m");
                    }
                });
            }
            let down = |member: &MemberStanding| is_down(&member.standing);
            process.kill();
            until(|| down(&group.members()[0]).then_some(()));
            assert!(is_ready(&group.standing()));
            share(1);
            stop.store(true, Ordering::Relaxed);
        });
        let _process = stage.start_agent("agent_process", "one", &tokens[0]);
        until(|| is_ready(&group.members()[0].standing).then_some(()));
        share(0);
    });
}

#[test]
fn an_agent_that_is_away_at_the_start_is_waited_for_and_shows_its_key_before_it_signs() {
    stage("an_agent_that_is_away_at_the_start_is_waited_for_and_shows_its_key_before_it_signs", |stage| {
        let token = stage.make_token("edgate");
        let key = stage.make_key(&token, Purpose::TokenSigning, "1");
        let pool = Pool::start(stage.at_agent("agent", &token)).unwrap();
        assert!(is_down(&pool.standing()));
        let stranger = SigningKey::from_bytes(&[9; 32]).verifying_key().to_bytes();
        let signer = pool.signing_key::<TokenSigning>(&key.uri, Some(ed25519(&key)), soon()).unwrap();
        let wrong = pool.signing_key::<TokenSigning>(&key.uri, Some(stranger), soon()).unwrap();
        let error = signer.sign(b"m", soon()).unwrap_err();
        assert!(error.to_string().contains("is the agent running?") && error.exit_code() == 69, "{error}");
        let _agent = agent(stage, &token, |_| ());
        wait_for(&pool, is_ready);
        assert_signs(&signer, b"m");
        let error = wrong.sign(b"m", soon()).unwrap_err();
        assert!(matches!(error.cause(), HsmError::KeyMismatch { .. }), "{error}");
    });
}

#[test]
fn an_operator_hands_the_pin_to_the_agent_and_to_nobody_else() {
    stage("an_operator_hands_the_pin_to_the_agent_and_to_nobody_else", |stage| {
        let token = stage.make_token("edgate");
        let key = stage.make_key(&token, Purpose::TokenSigning, "1");
        let mut settings = stage.settings(&token);
        settings.access = stage.access(PinPolicy { source: PinSource::Operator, ..stage.pin() });
        let _agent =
            Agent::start(settings, AgentSettings::new(stage.address("agent").socket), |_| ()).unwrap();
        let pool = Pool::start(stage.at_agent("agent", &token)).unwrap();
        let standing = wait_for(&pool, is_down);
        assert!(
            matches!(&standing, TokenStanding::Unavailable(cause) if cause.needs_operator()),
            "{standing:?}"
        );
        let signer = pool.signing_key::<TokenSigning>(&key.uri, Some(ed25519(&key)), soon()).unwrap();
        let refused = pool.unlock(PIN.to_owned().into()).unwrap_err();
        assert!(refused.to_string().contains("edgate hsm unlock --agent"), "{refused}");

        let address = stage.address("agent");
        let wrong = AgentUnlock::connect(&address).unwrap().unlock(&"0000".to_owned().into()).unwrap_err();
        assert!(wrong.needs_operator() && !wrong.to_string().contains("0000"), "{wrong}");
        let unlock = AgentUnlock::connect(&address).unwrap();
        assert_eq!(unlock.token().serial, token.serial);
        unlock.unlock(&PIN.to_owned().into()).unwrap();
        wait_for(&pool, is_ready);
        assert_signs(&signer, b"m");
    });
}

#[test]
fn an_agent_with_a_wrong_pin_does_not_start_and_tries_it_once() {
    stage_with_faults("an_agent_with_a_wrong_pin_does_not_start_and_tries_it_once", |stage| {
        let token = stage.make_token("edgate");
        stage.faults("");
        write_pin(&stage.folder, "0000");
        let before = stage.calls("C_Login");
        for _ in 0..5 {
            let settings = AgentSettings::new(stage.address("agent").socket);
            let error = Agent::start(stage.settings(&token), settings, |_| ()).unwrap_err();
            assert!(error.needs_operator() && error.exit_code() == 77, "{error}");
            assert!(!stage.address("agent").socket.exists());
        }
        assert_eq!(stage.calls("C_Login"), before + 1);
    });
}
