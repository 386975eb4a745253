//! The log as its users see it, on a real folder.

use std::{fs, net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use super::*;
use crate::decision::{Decision, Rejection, UnixSeconds};

const SECOND: Duration = Duration::from_secs(10);

fn settings(dir: &Path) -> Settings {
    let mut settings = Settings::new(dir, "test.example/log");
    settings.segment_bytes = 256 * 1024;
    settings.flush_interval = Duration::from_millis(5);
    settings.create = true;
    settings
}

fn decision(number: u32) -> DecisionEvent<'static> {
    DecisionEvent {
        surface: 1,
        decision: if number.is_multiple_of(3) { Rejection::Expired.into() } else { Decision::Accepted },
        issuer: "agents",
        kid: "k1",
        tenant: "acme",
        caller: "",
        subject: Some("agent-7"),
        jti: Some("5b3c"),
        client: Some(Ipv4Addr::LOCALHOST.into()),
        policy_epoch: 1,
        revocation_epoch: 9,
        latency_us: number,
        expires: Some(UnixSeconds(1_900_000_000)),
        stale: false,
    }
}

#[test]
fn events_are_recorded_then_durable_and_survive_a_close() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { mut appenders, log, recovery } = open(&settings(folder.path()), 2).unwrap();
    assert!(recovery.created && appenders.len() == 3);
    let mut last = None;
    for number in 0..100 {
        let expected = appenders[1].peek_id();
        let id = appenders[1].append(&Event::Decision(decision(number)), Ack::Recorded).unwrap();
        assert_eq!(id, expected);
        last = Some(id);
    }
    appenders[1].wait(last.unwrap(), Ack::Recorded, SECOND).unwrap();
    let stop = appenders[2].append(&Event::Stop(StopEvent { reason: "test" }), Ack::Durable).unwrap();
    appenders[2].wait(stop, Ack::Durable, SECOND).unwrap();
    let status = log.status();
    assert!(status.size >= 102 && status.failure.is_none());
    log.close(SECOND).unwrap();
    assert!(matches!(
        appenders[0].append(&Event::Stop(StopEvent { reason: "late" }), Ack::Recorded),
        Err(AuditError::Refused(failure)) if failure.kind == FailureKind::Closed
    ));
    let Opened { log, recovery, .. } = open(&settings(folder.path()), 2).unwrap();
    assert!(recovery.clean && recovery.torn.is_empty() && recovery.size > 102, "{recovery:?}");
    log.close(SECOND).unwrap();
}

#[test]
fn a_log_that_was_not_closed_is_recovered_whole() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { mut appenders, log, .. } = open(&settings(folder.path()), 1).unwrap();
    let mut last = None;
    for number in 0..5000 {
        last = Some(appenders[0].append(&Event::Decision(decision(number)), Ack::Recorded).unwrap());
        appenders[0].submit();
    }
    appenders[0].wait(last.unwrap(), Ack::Recorded, SECOND).unwrap();
    let size = log.status().size;
    assert!(log.status().segment > 2, "segments roll");
    drop(log);
    let Opened { log, recovery, .. } = open(&settings(folder.path()), 1).unwrap();
    assert!(!recovery.clean && recovery.torn.is_empty() && recovery.size >= size, "{recovery:?}");
    drop(log);
}

#[test]
fn a_folder_without_a_log_is_not_given_one_by_a_typo() {
    let folder = tempfile::tempdir().unwrap();
    let mut typo = settings(folder.path());
    typo.create = false;
    assert!(matches!(open(&typo, 1), Err(AuditError::NotFound { .. })));
    typo.dir = folder.path().join("nowhere");
    assert!(matches!(open(&typo, 1), Err(AuditError::NotFound { .. })));
    assert_eq!(
        fs::read_dir(folder.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name() != "LOCK")
            .count(),
        0
    );
}

#[test]
fn a_live_segment_that_is_renamed_is_noticed_without_a_write() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { mut appenders, log, .. } = open(&settings(folder.path()), 1).unwrap();
    let id = appenders[0].append(&Event::Stop(StopEvent { reason: "test" }), Ack::Durable).unwrap();
    appenders[0].wait(id, Ack::Durable, SECOND).unwrap();
    let name = folder::segment_name(log.status().segment);
    fs::rename(folder.path().join(name), folder.path().join("aside")).unwrap();
    let until = std::time::Instant::now() + SECOND;
    while log.status().failure.is_none_or(|failure| failure.kind != FailureKind::Replaced) {
        assert!(std::time::Instant::now() < until, "{:?}", log.status());
        std::thread::yield_now();
    }
}

#[test]
fn two_processes_cannot_open_one_log() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(&settings(folder.path()), 1).unwrap();
    assert!(matches!(open(&settings(folder.path()), 1), Err(AuditError::Locked { .. })));
    drop(first);
    open(&settings(folder.path()), 1).unwrap();
}

#[test]
fn another_logs_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(&settings(folder.path()), 1).unwrap());
    let mut other = settings(folder.path());
    other.origin = "test.example/other".into();
    assert!(matches!(open(&other, 1), Err(AuditError::OriginMismatch { .. })));
}

fn signing(dir: &Path) -> (Settings, CheckpointSigner) {
    use ed25519_dalek::{Signer as _, SigningKey};
    let key = SigningKey::from_bytes(&[3; 32]);
    let signer = CheckpointSigner {
        verifying_key: key.verifying_key().to_bytes(),
        sign: Box::new(move |message| Ok(key.sign(message).to_bytes())),
    };
    let mut settings = settings(dir);
    settings.checkpoint_interval = Duration::from_millis(4);
    (settings, signer)
}

/// Polls until `done`, for at most ten seconds.
fn until(mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + SECOND;
    while !done() {
        assert!(std::time::Instant::now() < deadline, "it never happens");
        std::thread::yield_now();
    }
}

#[test]
fn a_bit_that_flips_between_hashing_and_storing_is_never_signed() {
    // CT log Yeti 2022 signed a leaf whose stored bytes differed by one bit, and was lost for ever.
    let folder = tempfile::tempdir().unwrap();
    let (mut settings, signer) = signing(folder.path());
    // After the checkpoint of the start the sealer looks again in a second: long enough to flip a bit meanwhile.
    settings.checkpoint_interval = Duration::from_secs(4);
    let Opened { mut appenders, log, .. } = open_signed(&settings, 1, Some(signer)).unwrap();
    until(|| log.status().signed_size > 0);
    let signed = log.status().signed_size;
    let id = appenders[0].append(&Event::Decision(decision(1)), Ack::Durable).unwrap();
    appenders[0].wait(id, Ack::Durable, SECOND).unwrap();
    let path = folder.path().join("0000000001.seg");
    let mut bytes = fs::read(&path).unwrap();
    let mut at = 0;
    while walk::read_record(&bytes, at).unwrap().kind() != Some(schema::Kind::Decision) {
        at = walk::read_record(&bytes, at).unwrap().next;
    }
    let in_body = at + record::HEADER_BYTES + 2;
    bytes[in_body] ^= 1;
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes[in_body..=in_body], in_body as u64).unwrap();
    until(|| log.status().failure.is_some());
    assert_eq!(log.status().failure.unwrap().kind, FailureKind::StoredDiffers);
    assert_eq!(log.status().signed_size, signed);
    assert!(matches!(
        appenders[0].append(&Event::Decision(decision(2)), Ack::Recorded),
        Err(AuditError::Refused(failure)) if failure.kind == FailureKind::StoredDiffers
    ));
}

#[test]
fn a_signer_that_fails_shuts_the_shards_out_after_a_while_and_lets_them_in_again() {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };
    let folder = tempfile::tempdir().unwrap();
    let (mut settings, mut signer) = signing(folder.path());
    settings.unsigned_age_max = Duration::from_millis(30);
    let works = Arc::new(AtomicBool::new(false));
    let (gate, mut sign) = (Arc::clone(&works), signer.sign);
    signer.sign = Box::new(move |message| match gate.load(Ordering::Relaxed) {
        true => sign(message),
        false => Err(SignError("the module is away".into())),
    });
    let Opened { mut appenders, log, .. } = open_signed(&settings, 1, Some(signer)).unwrap();
    let id = appenders[0].append(&Event::Decision(decision(1)), Ack::Durable).unwrap();
    appenders[0].wait(id, Ack::Durable, SECOND).unwrap();
    until(|| log.status().failure.is_some_and(|failure| failure.kind == FailureKind::Unsigned));
    assert!(appenders[0].append(&Event::Decision(decision(2)), Ack::Recorded).is_err());
    // The operator still gets through.
    let id = appenders[1].append(&Event::Stop(StopEvent { reason: "no module" }), Ack::Durable).unwrap();
    appenders[1].wait(id, Ack::Durable, SECOND).unwrap();
    works.store(true, Ordering::Relaxed);
    until(|| log.status().failure.is_none());
    // What was refused is counted, exactly.
    let refused = 1;
    let id = appenders[0].append(&Event::Decision(decision(3)), Ack::Durable).unwrap();
    appenders[0].wait(id, Ack::Durable, SECOND).unwrap();
    log.close(SECOND).unwrap();
    let gaps: Vec<_> = bodies(folder.path(), schema::Kind::Gap);
    assert_eq!(gaps, vec![vec![(1, 2), (2, refused)]]);
}

/// The numbers of the first two fields of every record of a kind.
fn bodies(dir: &Path, kind: schema::Kind) -> Vec<Vec<(u64, u64)>> {
    let mut found = Vec::new();
    for index in 1.. {
        let Ok(bytes) = fs::read(dir.join(format!("{index:010}.seg"))) else { return found };
        let mut offset = 0;
        while let Ok(record) = walk::read_record(&bytes, offset) {
            if record.kind() == Some(kind) {
                let body = record.read_body().unwrap();
                found.push(
                    [1, 2].into_iter().filter_map(|key| Some((key, schema::uint(&body, key)?))).collect(),
                );
            }
            offset = record.next;
        }
    }
    unreachable!("some segment is the last")
}

#[test]
fn a_refusal_of_any_length_leaves_room_in_the_queue() {
    // Lost events used to count as waiting, so that an appender that was refused for long enough stayed full for ever.
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(folder.path());
    settings.queue_events = 16;
    let Opened { mut appenders, log, .. } = open(&settings, 1).unwrap();
    let mut refused = 0;
    let mut taken = 0;
    // Nothing is submitted, so the queue fills.
    for number in 0..1000 {
        match appenders[0].append(&Event::Decision(decision(number)), Ack::Recorded) {
            Ok(_) => taken += 1,
            Err(AuditError::QueueFull) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(taken < 16 && refused > 900);
    let last = taken;
    until(|| {
        appenders[0].submit();
        appenders[0].acknowledged(Ack::Recorded) >= last
    });
    let id = appenders[0].append(&Event::Decision(decision(1)), Ack::Recorded).unwrap();
    assert_eq!(id.core_seq, taken + refused + 2, "each loss has its number, and so has the GAP record");
    appenders[0].wait(id, Ack::Recorded, SECOND).unwrap();
    log.close(SECOND).unwrap();
    assert_eq!(bodies(folder.path(), schema::Kind::Gap), vec![vec![(1, taken + 1), (2, refused)]]);
}

#[test]
fn every_kind_of_event_fits_its_schema() {
    let id = RecordId { boot: 1, core: 2, core_seq: 3 };
    let long = "x".repeat(5000);
    let change = ChangeEvent {
        phase: Phase::Done,
        actor: "op",
        what: "k",
        before: "a",
        after: &long,
        intent: Some(id),
    };
    let item = BatchItem {
        decision: Decision::Accepted,
        issuer: &long,
        kid: &long,
        tenant: "",
        subject: Some("s"),
        jti: Some("j"),
        expires: Some(UnixSeconds(u64::MAX)),
        stale: false,
    };
    let items = vec![item; BATCH_ITEMS_MAX];
    let batch = BatchEvent {
        surface: u8::MAX,
        tenant: &long,
        caller: &long,
        client: Some(std::net::Ipv6Addr::LOCALHOST.into()),
        policy_epoch: u32::MAX,
        revocation_epoch: u64::MAX,
        latency_us: u32::MAX,
        items: &items,
    };
    let issue = IssueEvent {
        phase: Phase::Failed,
        actor: "op",
        issuer: "i",
        kid: "k",
        tenant: "t",
        subject: "s",
        jti: "j",
        issued_at: UnixSeconds(1),
        expires: UnixSeconds(2),
        scope: &["a.b", "c"],
        intent: Some(id),
        failure: Some("no"),
    };
    let revoke = |target_kind, target| RevokeEvent {
        phase: Phase::Intent,
        actor: "op",
        target_kind,
        target,
        issuer: "i",
        tenant: "t",
        reason: Some("r"),
        until: Some(UnixSeconds(3)),
        revocation_epoch: Some(4),
        intent: None,
        failure: None,
        action: "",
        issued_until: None,
    };
    let secret = "a-value-that-must-not-be-stored";
    let hidden = DecisionEvent { subject: Some(secret), jti: Some(secret), ..decision(1) };
    let admin =
        AdminEvent { phase: Phase::Intent, actor: "op", action: "x", target: "", detail: "d", intent: None };
    let erase = EraseEvent { seq: 1, body_digest: &[1; 32], authority: "a", reason: "r" };
    let export = ExportEvent { actor: "op", filter: "f", rows: 1, digest: &[2; 32] };
    let run =
        VerifyRunEvent { actor: "op", mode: "full", from_seq: 0, records: 1, breaks: 0, first_class: "" };
    let start = StartEvent { version: "1", config_digest: Some(&[3; 32]), shards: 2, detail: "" };
    let mut tags = tag::OpenTags::new(Arc::new(tag::TagKey::new(&[0; 32])));
    for event in [
        Event::Admin(admin),
        Event::ConfigChange(change),
        Event::Decision(decision(3)),
        Event::Decision(hidden),
        Event::DecisionBatch(batch),
        Event::Erase(erase),
        Event::Export(export),
        Event::Issue(issue),
        Event::KeyChange(change),
        Event::KeyRotate(change),
        Event::Revoke(revoke("jti", secret)),
        Event::Revoke(revoke("kid", "k1")),
        Event::Start(start),
        Event::Stop(StopEvent { reason: "r" }),
        Event::VerifyRun(run),
    ] {
        let mut bytes = Vec::new();
        body::encode(&event, &mut tags, &mut sealed::Seals::none(), &mut bytes);
        tags.fill(&mut bytes);
        let code = event.kind().code();
        assert!(bytes.len() <= record::BODY_BYTES_MAX, "{event:?}");
        schema::read_body(code, code, &bytes).unwrap_or_else(|error| panic!("{event:?}: {error}"));
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{event:?}");
    }
}

#[test]
fn the_tail_shows_the_last_records_and_those_that_come() {
    let folder = tempfile::tempdir().unwrap();
    let Opened { mut appenders, log, .. } = open(&settings(folder.path()), 1).unwrap();
    let mut append = |number| {
        let id = appenders[0].append(&Event::Decision(decision(number)), Ack::Recorded).unwrap();
        appenders[0].wait(id, Ack::Recorded, SECOND).unwrap();
        id
    };
    // More than one segment.
    let ids: Vec<_> = (0..2000).map(&mut append).collect();
    let mut tail = Tail::last(folder.path(), 1, |_| true).unwrap();
    let last = std::iter::from_fn(|| tail.next().unwrap()).last().unwrap();
    assert!(last.header.seq > 1999);
    // Nothing more for now but the log's own records, which its clock brings.
    assert!(std::iter::from_fn(|| tail.next().unwrap()).all(|entry| entry.kind() != "decision"));
    let id = append(2000);
    let entry = std::iter::from_fn(|| tail.next().unwrap()).find(|entry| entry.kind() == "decision").unwrap();
    assert_eq!(entry.id, id);
    let text = entry.to_text();
    assert!(
        text.contains(" decision ") && text.contains("decision=accepted") && text.contains("latency_us=2000"),
        "{text}"
    );
    let json = serde_json::from_str::<serde_json::Value>(&entry.json()).unwrap();
    assert_eq!(json["body"]["decision"], "accepted");
    assert_eq!(json["id"], id.to_string());
    assert_eq!(json["body"]["subject"].as_str().map(str::len), Some(32), "a tag");

    let mut all = Tail::last(folder.path(), usize::MAX, |_| true).unwrap();
    let shown: Vec<_> = std::iter::from_fn(|| all.next().unwrap()).collect();
    assert!(shown.windows(2).all(|pair| pair[1].header.seq == pair[0].header.seq + 1));
    let decisions = shown.iter().filter(|entry| entry.kind() == "decision").map(|entry| entry.id);
    assert!(decisions.eq(ids.into_iter().chain([id])));
    assert!(matches!(Tail::last(&folder.path().join("quarantine"), 1, |_| true), Err(AuditError::Io { .. })));
    drop(log);
}
