//! Receipts against a log of their own, and against everything that is not what was promised.

use std::{path::Path, time::Duration};

use ed25519_dalek::{Signer as _, SigningKey};

use super::{key::LIFE_S, *};
use crate::{
    audit::{
        Ack, CheckpointKey, CheckpointSigner, Event, Opened, Settings, StopEvent, open_signed,
        proof::Expected, record::Header, retire::Order,
    },
    decision::UnixSeconds,
};

const PATIENCE: Duration = Duration::from_secs(10);
const NOW: u64 = 1_900_000_000;

fn checkpoint_key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

fn verifier() -> CheckpointKey {
    CheckpointKey::new("test.example/log", checkpoint_key().verifying_key().to_bytes())
}

/// A key certified at `NOW`.
fn receipt_key(boot: u64) -> std::sync::Arc<ReceiptKey> {
    let mut sign: crate::audit::Sign =
        Box::new(|message: &[u8]| Ok(checkpoint_key().sign(message).to_bytes()));
    let made = Renewal::new(boot).due(NOW, &verifier(), &mut sign).unwrap();
    std::sync::Arc::new(made.unwrap())
}

fn header(core_seq: u64) -> Header {
    let mut digest = [7; 32];
    digest[..8].copy_from_slice(&core_seq.to_le_bytes());
    Header {
        body_len: 0,
        seq: 0,
        wall_ns: 0,
        mono_ns: 0,
        kind: 32,
        flags: 0,
        core: 2,
        schema: 32,
        core_seq,
        body_digest: digest,
        prev_hash: [0; 32],
        epoch: 0,
    }
}

/// The receipts of `wanted` records in a batch that has others between them.
fn receipts(wanted: usize) -> Vec<String> {
    let mut batch = ReceiptBatch::begin(receipt_key(9), wanted, NOW + 5).unwrap();
    let len = batch.text_len();
    (0..wanted as u64).for_each(|n| batch.ask(RecordId { boot: 9, core: 2, core_seq: 10 + 3 * n }));
    let mut signed = batch.sign((1..20 + 3 * wanted as u64).map(header));
    let mut text = |place| {
        let mut text = vec![0; len];
        signed.write(place, &mut text);
        String::from_utf8(text).unwrap()
    };
    (0..wanted).map(&mut text).collect()
}

fn open(text: &str) -> Result<Receipt, crate::audit::proof::Refusal> {
    let keys = [verifier()];
    Receipt::open(text, &Expected { keys: &keys, origin: None, id: None })
}

#[test]
fn every_receipt_of_a_batch_of_any_size_is_genuine_and_about_its_own_record() {
    for wanted in [1, 2, 3, 7, 8, 64, 65, 1024] {
        for (place, text) in receipts(wanted).iter().enumerate() {
            assert!(text.len() <= RECEIPT_CHARS_MAX);
            let receipt = open(text).unwrap_or_else(|refusal| panic!("{place} of {wanted}: {refusal}"));
            let core_seq = 10 + 3 * place as u64;
            assert_eq!(receipt.id, RecordId { boot: 9, core: 2, core_seq });
            assert_eq!((receipt.body_digest, receipt.kind), (header(core_seq).body_digest, 32));
            assert_eq!((receipt.signed_at, receipt.to_text()), (NOW + 5, text.clone()));
        }
    }
    assert!(ReceiptBatch::begin(receipt_key(9), 1025, NOW).is_none(), "no more than one signature is for");
}

#[test]
fn every_changed_byte_of_a_receipt_is_refused() {
    let genuine = open(&receipts(5)[3]).unwrap().to_bytes();
    for at in 0..genuine.len() {
        for flip in [1, 0x80] {
            let mut bytes = genuine.clone();
            bytes[at] ^= flip;
            let refusal = open(&URL_SAFE_NO_PAD.encode(&bytes)).expect_err("a changed byte");
            assert!(!refusal.detail.is_empty(), "{at}: {refusal}");
        }
        let cut = open(&URL_SAFE_NO_PAD.encode(&genuine[..at])).unwrap_err();
        assert_eq!(cut.class, ProofClass::CutShort, "cut at {at}");
    }
    let longer = [genuine.as_slice(), &[0]].concat();
    assert_eq!(open(&URL_SAFE_NO_PAD.encode(longer)).unwrap_err().class, ProofClass::Malformed);
    for text in ["", "null", "!", &"A".repeat(RECEIPT_CHARS_MAX + 4)] {
        open(text).unwrap_err();
    }
}

#[test]
fn a_receipt_is_nothing_without_the_right_key_name_and_record() {
    let text = &receipts(1)[0];
    let stranger = CheckpointKey { verifying_key: [1; 32], ..verifier() };
    let other_name = CheckpointKey { name: "other.example/log".into(), ..verifier() };
    let class = |keys: &[CheckpointKey], origin, id| {
        Receipt::open(text, &Expected { keys, origin, id }).map(|_| ()).map_err(|refusal| refusal.class)
    };
    assert_eq!(class(&[], None, None), Err(ProofClass::WrongKey));
    assert_eq!(class(&[other_name], None, None), Err(ProofClass::WrongKey));
    assert_eq!(class(std::slice::from_ref(&stranger), None, None), Err(ProofClass::BadSignature));
    assert_eq!(class(&[stranger, verifier()], None, None), Ok(()), "one of two keys of that name");
    assert_eq!(class(&[verifier()], Some("other.example/log"), None), Err(ProofClass::WrongOrigin));
    let (mine, other) =
        (RecordId { boot: 9, core: 2, core_seq: 10 }, RecordId { boot: 8, core: 2, core_seq: 10 });
    assert_eq!(class(&[verifier()], None, Some(mine)), Ok(()));
    assert_eq!(class(&[verifier()], None, Some(other)), Err(ProofClass::WrongRecord));
}

#[test]
fn a_key_signs_for_its_hour_and_is_renewed_in_the_half_of_it() {
    assert!(ReceiptBatch::begin(receipt_key(9), 1, NOW + LIFE_S).is_some());
    assert!(ReceiptBatch::begin(receipt_key(9), 1, NOW + LIFE_S + 1).is_none());
    assert!(ReceiptBatch::begin(receipt_key(9), 1, NOW - 1).is_none(), "a clock that went back");

    let mut sign: crate::audit::Sign =
        Box::new(|message: &[u8]| Ok(checkpoint_key().sign(message).to_bytes()));
    let mut renewal = Renewal::new(9);
    let mut due = |now| renewal.due(now, &verifier(), &mut sign).unwrap().is_some();
    assert_eq!(
        [NOW, NOW + 1, NOW + LIFE_S / 2, NOW + LIFE_S / 2 + 1, NOW - 50].map(&mut due),
        [true, false, true, false, true]
    );
    let mut other: crate::audit::Sign =
        Box::new(|message: &[u8]| Ok(SigningKey::from_bytes(&[4; 32]).sign(message).to_bytes()));
    assert!(Renewal::new(9).due(NOW, &verifier(), &mut other).is_err(), "signed by another key");
}

/// A certificate that says more than it may: signed by the right key, for longer than an hour.
#[test]
fn a_certificate_for_longer_than_an_hour_is_refused() {
    let signing = SigningKey::from_bytes(&[5; 32]);
    let mut certified = Certified {
        verifying_key: signing.verifying_key().to_bytes(),
        not_before: NOW,
        not_after: NOW + LIFE_S + 1,
        certificate: [0; 64],
    };
    let origin = verifier().name;
    certified.certificate =
        checkpoint_key().sign(certificate_text(&origin, 9, &certified).as_bytes()).to_bytes();
    let id = RecordId { boot: 9, core: 2, core_seq: 1 };
    let leaf = Promise { id, kind: 32, body_digest: [1; 32] }.leaf();
    let receipt = Receipt {
        id,
        kind: 32,
        body_digest: [1; 32],
        signed_at: NOW,
        signature: signing.sign(batch_text(&origin, NOW, 0, &leaf).as_bytes()).to_bytes(),
        origin,
        certified,
        index: 0,
        path: Vec::new(),
    };
    assert_eq!(open(&receipt.to_text()).unwrap_err().class, ProofClass::BadSignature);
}

/// A running log that gives receipts, with one for each of `events` records.
fn log_with_receipts(dir: &Path, events: usize) -> Vec<Receipt> {
    let settings = Settings { create: true, receipts: true, ..Settings::new(dir, verifier().name) };
    let signer = CheckpointSigner {
        verifying_key: verifier().verifying_key,
        sign: Box::new(|message| Ok(checkpoint_key().sign(message).to_bytes())),
    };
    let Opened { mut appenders, log, .. } = open_signed(&settings, 1, Some(signer)).unwrap();
    let appender = &mut appenders[0];
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut batch = loop {
        match appender.begin_receipts(events, UnixSeconds(now)) {
            Some(batch) => break batch,
            None => assert!(std::time::Instant::now() < deadline, "no key was certified"),
        }
        std::thread::yield_now();
    };
    let ids: Vec<RecordId> = (0..events)
        .map(|_| appender.append(&Event::Stop(StopEvent { reason: "promised" }), Ack::Durable).unwrap())
        .collect();
    ids.iter().for_each(|id| batch.ask(*id));
    let len = batch.text_len();
    let mut signed = appender.sign_receipts(batch);
    appender.wait(ids[events - 1], Ack::Durable, PATIENCE).unwrap();
    log.close(PATIENCE).unwrap();
    let mut text = |place| {
        let mut text = vec![0; len];
        signed.write(place, &mut text);
        String::from_utf8(text).unwrap()
    };
    (0..events).map(|place| open(&text(place)).unwrap()).collect()
}

#[test]
fn a_log_holds_what_it_promised_and_a_log_without_it_is_convicted() {
    let folder = tempfile::tempdir().unwrap();
    let (kept, cut) = (folder.path().join("kept"), folder.path().join("cut"));
    let promised = log_with_receipts(&kept, 3);
    for receipt in &promised {
        receipt.find_in(&kept, None).unwrap().expect("the record is there");
    }
    // The same log at the same boot, without the last of them: another log could not know the first.
    std::fs::create_dir(&cut).unwrap();
    let segment = "0000000001.seg";
    let bytes = std::fs::read(kept.join(segment)).unwrap();
    let mut ends = Vec::new();
    let mut at = 0;
    while let Ok(record) = crate::audit::walk::read_record(&bytes, at) {
        if record.header.core_seq == promised[2].id.core_seq && record.header.core == promised[2].id.core {
            ends.push(at);
        }
        at = record.next;
    }
    std::fs::write(cut.join(segment), &bytes[..ends[0]]).unwrap();
    promised[1].find_in(&cut, None).unwrap().expect("what is before the cut is there");
    let refusal = promised[2].find_in(&cut, None).unwrap().unwrap_err();
    assert_eq!(refusal.class, ProofClass::Rollback, "{refusal}");

    let other = Receipt { body_digest: [1; 32], ..promised[0].clone() };
    assert_eq!(other.find_in(&kept, None).unwrap().unwrap_err().class, ProofClass::Rollback);
}

#[test]
fn a_log_that_gives_no_receipts_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { create: true, ..Settings::new(folder.path(), verifier().name) };
    let opened = crate::audit::open(&settings, 1).unwrap();
    assert!(opened.appenders[0].begin_receipts(1, UnixSeconds(NOW)).is_none());
}

/// Fills a few segments behind what is there and has the first ones retired.
fn retire_first(dir: &Path, place: &Path) {
    let settings = Settings {
        segment_bytes: 160 * 1024,
        checkpoint_interval: Duration::from_millis(20),
        unflushed_age_max: PATIENCE,
        ..Settings::new(dir, verifier().name)
    };
    let signer = CheckpointSigner {
        verifying_key: verifier().verifying_key,
        sign: Box::new(|message| Ok(checkpoint_key().sign(message).to_bytes())),
    };
    let mut opened = open_signed(&settings, 1, Some(signer)).unwrap();
    let appender = &mut opened.appenders[0];
    for n in 1..=1500 {
        let id = appender.append(&Event::Stop(StopEvent { reason: "later" }), Ack::Recorded).unwrap();
        if n % 100 == 0 {
            appender.wait(id, Ack::Recorded, PATIENCE).unwrap();
        }
    }
    let mut retainer = opened.log.retainer().unwrap();
    let order = Order { before_ns: u64::MAX, authority: "records office", reason: "old" };
    let deadline = std::time::Instant::now() + PATIENCE;
    while retainer.turn(place, &order).unwrap().retired.is_empty() {
        assert!(std::time::Instant::now() < deadline, "nothing was retired");
    }
    opened.log.close(PATIENCE).unwrap();
}

#[test]
fn a_promise_about_a_record_that_was_retired_is_no_rollback_and_its_archive_shows_it_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, place) = (folder.path().join("log"), folder.path().join("archives"));
    std::fs::create_dir(&place).unwrap();
    let promised = log_with_receipts(&dir, 3);
    let seq = promised[1].find_in(&dir, None).unwrap().unwrap();
    retire_first(&dir, &place);
    let refusal = promised[1].find_in(&dir, None).unwrap().unwrap_err();
    assert_eq!((refusal.class, refusal.class.exit_code()), (ProofClass::Unchecked, 17), "{refusal}");
    assert_eq!(promised[1].find_in(&dir, Some(&place)).unwrap(), Ok(seq));
    // With everything at hand, what is missing is missing.
    let never = Receipt { id: RecordId { core_seq: 1 << 40, ..promised[1].id }, ..promised[1].clone() };
    let class = |receipt: &Receipt, archives| receipt.find_in(&dir, archives).unwrap().unwrap_err().class;
    assert_eq!(class(&never, Some(place.as_path())), ProofClass::Rollback);
    // And what was promised long after the last record that was retired is not among those.
    let later = Receipt { signed_at: promised[1].signed_at + 2 * LIFE_S, ..never };
    assert_eq!(class(&later, None), ProofClass::Rollback);
}
