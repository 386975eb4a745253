//! What is written is read back, and nothing else is read.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::frame::{
    BATCH_LEN_MAX, DATA_BYTES_MAX, Draft, Errand, FRAME_BYTES_MAX, FromAgent, Hello, NamedKey, ReadError,
    Reply, Role, ToAgent, VERSION, read_frame, request_bytes,
};
use super::outbox::Outbox;
use super::status::Status;
use super::wire::{FrameError, TEXT_BYTES_MAX};
use crate::pool::{KeyKind, Output, PinnedKey, Work};
use crate::{
    Algorithm, CallError, Class, Durations, GuardError, HsmError, KeyName, LoginRefusal, Pkcs11Uri,
    PoolMetrics, PublicKey, Purpose, ReleaseChecks, TokenStanding,
};

const PURPOSES: [Purpose; 5] = [
    Purpose::AuditCheckpoint,
    Purpose::TlsServer,
    Purpose::TokenSigning,
    Purpose::Witness,
    Purpose::Wrapping,
];

fn token() -> Pkcs11Uri {
    Pkcs11Uri { token: Some("edgate; ü".into()), serial: Some("0123".into()), ..Pkcs11Uri::empty() }
}

fn key_uri(id: &[u8]) -> Pkcs11Uri {
    let id = (!id.is_empty()).then(|| id.to_vec());
    Pkcs11Uri { object: Some("edgate/token-signing/1".into()), id, ..token() }
}

fn public_keys() -> [PublicKey; 2] {
    let mut point = [7; 65];
    point[0] = 4;
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    [PublicKey::Ed25519(key.verifying_key().to_bytes()), PublicKey::P256(point)]
}

fn pinned(public_key: Option<PublicKey>, id: &[u8]) -> Arc<PinnedKey> {
    let kind = match public_key {
        Some(key) => KeyKind::Signing(Box::new(ReleaseChecks::strict().pin(key).unwrap())),
        None => KeyKind::Wrapping,
    };
    Arc::new(PinnedKey::new(key_uri(id), Purpose::TokenSigning, kind))
}

/// Every kind of work, with these bytes in it, and how it arrives.
fn works(data: &[u8], id: &[u8]) -> Vec<(Work, Errand)> {
    let associated = b"associated".to_vec();
    let name = |key: &Arc<PinnedKey>, public_key| NamedKey { uri: key.uri.to_string(), public_key };
    let mut works = Vec::new();
    for public_key in public_keys() {
        let key = pinned(Some(public_key), id);
        works.push((
            Work::Sign { key: Arc::clone(&key), message: data.to_vec() },
            Errand::Sign { key: name(&key, Some(public_key)), message: data.to_vec() },
        ));
        works.push((
            Work::Destroy { uri: key_uri(id), public_key },
            Errand::Destroy { uri: key_uri(id), public_key },
        ));
    }
    let key = pinned(None, id);
    works.push((
        Work::Seal {
            key: Arc::clone(&key),
            data: Zeroizing::new(data.to_vec()),
            associated: associated.clone(),
        },
        Errand::Seal {
            key: name(&key, None),
            data: Zeroizing::new(data.to_vec()),
            associated: associated.clone(),
        },
    ));
    works.push((
        Work::Open {
            key: Arc::clone(&key),
            iv: [9; 12],
            data: data.to_vec(),
            associated: associated.clone(),
        },
        Errand::Open { key: name(&key, None), iv: [9; 12], data: data.to_vec(), associated },
    ));
    let uri = key_uri(id);
    works.push((
        Work::FindSigning { uri: uri.clone(), allowed: &[Algorithm::P256] },
        Errand::FindSigning { uri: uri.clone() },
    ));
    works.push((Work::FindWrapping { uri: uri.clone() }, Errand::FindWrapping { uri }));
    for purpose in PURPOSES {
        let name = KeyName::new(purpose, "2026").unwrap();
        works.push((Work::Make { name: name.clone() }, Errand::Make { name }));
    }
    let name = KeyName::new(Purpose::TlsServer, "a").unwrap().with_algorithm(Algorithm::Ed25519).unwrap();
    works.push((Work::Make { name: name.clone() }, Errand::Make { name }));
    let name = KeyName::new(Purpose::TokenSigning, "b").unwrap().wrappable().unwrap();
    works.push((Work::Make { name: name.clone() }, Errand::Make { name }));
    works
}

/// Every error with a form of its own, and some that arrive as words.
fn errors() -> Vec<HsmError> {
    let key = || Box::new(key_uri(b"\x01\xff"));
    let path = || std::path::PathBuf::from("/usr/lib/module.so");
    let call = CallError::told("C_Sign".into(), "CKR_DEVICE_ERROR".into(), Class::Device);
    vec![
        HsmError::Call(call),
        HsmError::DeadlinePassed { purpose: Purpose::TlsServer },
        HsmError::KeyInUse { key: key(), found: Purpose::Witness, wanted: Purpose::TlsServer },
        HsmError::KeyMismatch { key: key() },
        HsmError::Login {
            token: Box::new(token()),
            refusal: LoginRefusal::Guard(GuardError::Malformed { path: path() }),
        },
        HsmError::Module { path: path(), problem: "it is not a library".into() },
        HsmError::ModuleBusy { path: path() },
        HsmError::ModuleRenewed { path: path() },
        HsmError::Object { wanted: key(), matches: 0 },
        HsmError::Object { wanted: key(), matches: 2 },
        HsmError::Overloaded { purpose: Purpose::TokenSigning },
        HsmError::PurposeNotServed { purpose: Purpose::AuditCheckpoint },
        HsmError::SignatureFault { purpose: Purpose::AuditCheckpoint },
        HsmError::Stopped,
        HsmError::Stuck { workers: 4 },
        HsmError::Token { wanted: Box::new(token()), matches: 0, present: vec![token(), token()] },
        HsmError::Unavailable {
            token: Box::new(token()),
            cause: Arc::new(HsmError::KeyMismatch { key: key() }),
        },
        HsmError::Unpinned { key: key() },
        HsmError::Unsealed,
        HsmError::KeyAttribute { key: key(), problem: "it can be read out" },
        HsmError::TooLong { bytes: 1 << 30, max: 1 },
    ]
}

fn replies() -> Vec<Reply> {
    let mut outcomes: Vec<Result<Output, HsmError>> = errors().into_iter().map(Err).collect();
    outcomes.extend([
        Ok(Output::Destroyed),
        Ok(Output::Found { public_key: None, label: None, id: Vec::new() }),
        Ok(Output::Found { public_key: Some(public_keys()[1]), label: Some("l".into()), id: vec![0; 255] }),
        Ok(Output::Made { uri: key_uri(b"\x00") }),
        Ok(Output::Opened(Zeroizing::new(b"secret".to_vec()))),
        Ok(Output::Sealed { iv: [1; 12], data: vec![2; 40] }),
        Ok(Output::Signature([3; 64])),
    ]);
    outcomes.into_iter().enumerate().map(|(id, outcome)| Reply { id: id as u64, outcome }).collect()
}

fn shown(outcome: &Result<Output, HsmError>) -> String {
    match outcome {
        Err(error) => format!("{error} / {:?} / {}", error.class(), error.exit_code()),
        Ok(Output::Destroyed) => "destroyed".to_owned(),
        Ok(Output::Found { public_key, label, id }) => format!("{public_key:?} {label:?} {id:?}"),
        Ok(Output::Made { uri }) => uri.to_string(),
        Ok(Output::Opened(data)) => format!("opened {data:?}"),
        Ok(Output::Sealed { iv, data }) => format!("sealed {iv:?} {data:?}"),
        Ok(Output::Signature(signature)) => format!("signature {signature:?}"),
    }
}

/// The frame without its length, which is checked.
fn body(frame: &[u8]) -> &[u8] {
    let (length, body) = frame.split_first_chunk().unwrap();
    assert_eq!(u32::from_le_bytes(*length) as usize, body.len());
    body
}

fn requests_frame(data: &[u8], id: &[u8]) -> (Zeroizing<Vec<u8>>, Vec<Errand>) {
    let works = works(data, id);
    let bytes = works.iter().map(|(work, _)| request_bytes(work)).sum();
    let mut draft = Draft::requests(bytes);
    for (number, (work, _)) in works.iter().enumerate() {
        draft.request(number as u64 + 1, PURPOSES[number % 5], Duration::from_millis(number as u64), work);
    }
    let frame = draft.finish();
    assert!(frame.len() <= bytes + 64, "{} bytes are reserved, and {} written", bytes, frame.len());
    (frame, works.into_iter().map(|(_, errand)| errand).collect())
}

fn replies_frame() -> Zeroizing<Vec<u8>> {
    let mut draft = Draft::replies(64);
    replies().iter().for_each(|reply| draft.reply(reply));
    draft.finish()
}

fn status_frame(standing: TokenStanding) -> Zeroizing<Vec<u8>> {
    let errors = [(("C_Sign".to_owned(), "CKR_DEVICE_ERROR".to_owned()), 7)].into();
    let call = Durations { buckets: [5; 13], sum: Duration::from_micros(77) };
    let metrics = PoolMetrics {
        logins: 3,
        sessions: u64::MAX,
        workers_stuck: 2,
        errors,
        call,
        ..PoolMetrics::default()
    };
    FromAgent::status(&Status { standing, workers: 4, metrics })
}

proptest! {
    #[test]
    fn requests_arrive_as_they_were_sent(data in vec(any::<u8>(), 0..2000), id in vec(any::<u8>(), 0..40)) {
        let (frame, errands) = requests_frame(&data, &id);
        let Ok(ToAgent::Requests(requests)) = ToAgent::decode(body(&frame)) else { panic!("no requests") };
        prop_assert_eq!(requests.len(), errands.len());
        for (number, (request, errand)) in requests.into_iter().zip(errands).enumerate() {
            prop_assert_eq!(request.id, number as u64 + 1);
            prop_assert_eq!(request.purpose, PURPOSES[number % 5]);
            prop_assert_eq!(request.left, Duration::from_millis(number as u64));
            prop_assert_eq!(request.errand, errand);
        }
    }

    #[test]
    fn random_bytes_are_refused_or_read_and_never_panic(bytes in vec(any::<u8>(), 0..400), kind in 0_u8..24) {
        let _ = Hello::decode(&bytes);
        let mut framed = vec![kind];
        framed.extend(&bytes);
        let _ = (Hello::decode(&framed), ToAgent::decode(&framed), FromAgent::decode(&framed));
        let _ = read_frame(&mut &bytes[..]);
    }

    #[test]
    fn an_altered_frame_is_refused_or_read_and_never_panics(at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let ready = status_frame(TokenStanding::Ready);
        for frame in [requests_frame(b"data", b"id").0, replies_frame(), ready] {
            let mut altered = body(&frame).to_vec();
            let at = at.index(altered.len());
            altered[at] = value;
            let _ = (Hello::decode(&altered), ToAgent::decode(&altered), FromAgent::decode(&altered));
        }
    }
}

#[test]
fn replies_arrive_as_they_were_sent() {
    let frame = replies_frame();
    let Ok(FromAgent::Replies(arrived)) = FromAgent::decode(body(&frame)) else { panic!("no replies") };
    let sent = replies();
    assert_eq!(arrived.len(), sent.len());
    for (arrived, sent) in arrived.iter().zip(&sent) {
        assert_eq!(arrived.id, sent.id);
        // What people read, and what programs act on.
        assert_eq!(shown(&arrived.outcome), shown(&sent.outcome));
    }
    let needing = arrived.iter().filter(|reply| reply.outcome.as_ref().is_err_and(HsmError::needs_operator));
    assert_eq!(needing.count(), 1, "a login that an operator must help is still one");
}

#[test]
fn every_truncation_is_refused() {
    let cause = Arc::new(HsmError::Stuck { workers: 1 });
    let frames = [
        requests_frame(b"data", b"\x01\x02").0,
        replies_frame(),
        status_frame(TokenStanding::Unavailable(cause)),
        FromAgent::welcome(&token()),
        FromAgent::refused("no"),
        FromAgent::unlocked(&Ok(())),
        FromAgent::unlocked(&Err(HsmError::Unsealed)),
        ToAgent::unlock("4711"),
        Hello { version: VERSION, role: Role::Unlock }.encode(),
    ];
    for frame in frames {
        let whole = body(&frame);
        let reads = |bytes: &[u8]| {
            Hello::decode(bytes).is_ok() || ToAgent::decode(bytes).is_ok() || FromAgent::decode(bytes).is_ok()
        };
        assert!(reads(whole));
        for end in 0..whole.len() {
            assert!(!reads(&whole[..end]), "{end} of {} bytes are read", whole.len());
        }
        let longer = [whole, b"\0"].concat();
        assert!(!reads(&longer), "what follows is not ignored");
        // In the stream, too, half a frame is none.
        for end in 1..frame.len() {
            assert!(matches!(read_frame(&mut &frame[..end]), Err(ReadError::Io(_))));
        }
        assert_eq!(read_frame(&mut &frame[..]).unwrap().as_slice(), whole);
        assert!(matches!(read_frame(&mut &frame[..0]), Err(ReadError::Closed)));
    }
}

#[test]
fn what_is_too_much_is_refused_before_it_is_kept() {
    let giant = u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_le_bytes();
    assert!(matches!(read_frame(&mut &giant[..]), Err(ReadError::TooLong(_))));
    let all = [0xff; 4];
    assert!(matches!(read_frame(&mut &all[..]), Err(ReadError::TooLong(_))));
    // More requests, replies and bytes than are taken, announced in few bytes.
    let count = u32::try_from(BATCH_LEN_MAX + 1).unwrap().to_le_bytes();
    for kind in [2_u8, 18] {
        let frame = [&[kind][..], &count].concat();
        let refused = [ToAgent::decode(&frame).err(), FromAgent::decode(&frame).err()];
        assert!(refused.contains(&Some(FrameError::TooMany("requests"))), "{refused:?}");
    }
    let works = works(&vec![0; DATA_BYTES_MAX + 1], b"id");
    let too_long = works.iter().filter(|(work, _)| {
        let mut draft = Draft::requests(16);
        draft.request(1, Purpose::TokenSigning, Duration::ZERO, work);
        ToAgent::decode(body(&draft.finish())).err() == Some(FrameError::TooMany("data"))
    });
    assert_eq!(too_long.count(), 4);
    let pin = "1".repeat(256);
    assert!(ToAgent::decode(body(&ToAgent::unlock(&pin))).is_err());
    // An error is told however deep it lies, and only so deep.
    let deep = (0..40).fold(HsmError::Stopped, |cause, _| HsmError::Unavailable {
        token: Box::new(token()),
        cause: Arc::new(cause),
    });
    let mut draft = Draft::replies(64);
    draft.reply(&Reply { id: 1, outcome: Err(deep) });
    assert!(FromAgent::decode(body(&draft.finish())).is_ok());
    // The bytes of one UNAVAILABLE, over and over, do not exhaust the stack.
    let uri = token().to_string();
    let level = [&[16_u8][..], &u32::try_from(uri.len()).unwrap().to_le_bytes(), uri.as_bytes()].concat();
    let mut frame = [&[18_u8][..], &1_u32.to_le_bytes(), &1_u64.to_le_bytes(), &[0]].concat();
    (0..20_000).for_each(|_| frame.extend(&level));
    assert!(FromAgent::decode(&frame).is_err());
}

#[test]
fn a_name_brings_neither_pin_nor_module_and_words_cannot_steer_a_terminal() {
    for extra in ["?pin-source=file:/etc/shadow", "?module-path=/tmp/evil.so"] {
        let text = format!("{}{extra}", token());
        let mut frame = vec![16_u8];
        frame.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        frame.extend(text.as_bytes());
        assert_eq!(FromAgent::decode(&frame).err(), Some(FrameError::Text("URI")));
    }
    let Ok(FromAgent::Refused(words)) = FromAgent::decode(body(&FromAgent::refused("\u{1b}[2Jgone\n")))
    else {
        panic!("no refusal");
    };
    assert!(words.ends_with("[2Jgone\u{fffd}") && !words.contains('\u{1b}'), "{words:?}");
    let long = "ü".repeat(TEXT_BYTES_MAX);
    let Ok(FromAgent::Refused(words)) = FromAgent::decode(body(&FromAgent::refused(&long))) else {
        panic!("no refusal");
    };
    assert_eq!(words.len(), TEXT_BYTES_MAX);
}

#[test]
fn another_version_is_known_for_one_whatever_follows() {
    let mut frame = body(&Hello { version: VERSION + 1, role: Role::Use }.encode()).to_vec();
    frame.extend(b"what the next version has to say");
    assert_eq!(Hello::decode(&frame).unwrap().version, VERSION + 1);
}

#[test]
fn a_status_arrives_with_numbers_that_can_be_added_up() {
    let Ok(FromAgent::Status(status)) = FromAgent::decode(body(&status_frame(TokenStanding::Ready))) else {
        panic!("no status");
    };
    assert!(matches!(status.standing, TokenStanding::Ready));
    assert_eq!((status.workers, status.metrics.workers_stuck, status.metrics.logins), (4, 2, 3));
    assert_eq!(status.metrics.call.sum, Duration::from_micros(77));
    let mut sum = PoolMetrics::default();
    (0..8).for_each(|_| sum.add(&status.metrics));
    assert_eq!(sum.errors.values().sum::<u64>(), 56);
}

#[test]
fn a_connection_holds_no_more_than_it_may_and_no_number_twice() {
    let outbox = Arc::new(Outbox::default());
    for id in 0..32 {
        assert!(outbox.admit(id, 256 << 10));
    }
    let waiting = {
        let outbox = Arc::clone(&outbox);
        std::thread::spawn(move || outbox.admit(99, 1))
    };
    // There is room once an answer has been taken, and not before.
    outbox.push(Reply { id: 0, outcome: Err(HsmError::Stopped) });
    let (replies, over) = outbox.take(Duration::from_secs(60));
    assert_eq!((replies.len(), over), (1, false));
    assert!(waiting.join().unwrap());
    assert!(!outbox.admit(99, 1), "it is under way");
    outbox.close();
    assert!(!outbox.admit(100, 1));
}
