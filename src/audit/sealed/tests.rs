//! Sealed values from an appender to an opener, and everything that must not open.

use std::{fs, net::IpAddr, path::Path, sync::Arc, time::Duration};

use zeroize::Zeroizing;

use super::{
    maker::{KeyMaker, Making},
    ring::{KeysInUse, SealRing},
    wrapped::{KeyOf, UnwrapError},
    *,
};
use crate::audit::{
    Ack, BATCH_ITEMS_MAX, BatchEvent, BatchItem, DecisionEvent, Event, IssueEvent, Log, Opened, Phase,
    RecordId, Settings, StopEvent, open,
    proof::ProveError,
    verify::{Options, verify_dir},
};
use crate::decision::{Decision, UnixSeconds};

const PATIENCE: Duration = Duration::from_secs(30);
const ORIGIN: &str = "test.example/log";

fn openers() -> [OpenerSecret; 2] {
    [OpenerSecret::random(), OpenerSecret::random()]
}

fn sealing(openers: &[OpenerSecret]) -> Sealing {
    Sealing {
        fields: vec![TagField::Subject, TagField::Jti, TagField::Client],
        openers: openers.iter().map(OpenerSecret::public).collect(),
        tenants: vec!["acme".into(), "other".into()],
    }
}

fn settings(dir: &Path, sealing: Option<Sealing>) -> Settings {
    Settings {
        create: true,
        sealing,
        segment_bytes: 256 * 1024,
        unflushed_age_max: PATIENCE,
        ..Settings::new(dir, ORIGIN)
    }
}

fn decision<'a>(tenant: &'a str, subject: &'a str) -> DecisionEvent<'a> {
    DecisionEvent {
        surface: 1,
        decision: Decision::Accepted,
        issuer: "agents",
        kid: "k",
        tenant,
        caller: "",
        subject: Some(subject),
        jti: Some("jti-marker"),
        client: Some("192.0.2.7".parse().unwrap()),
        policy_epoch: 1,
        revocation_epoch: 1,
        latency_us: 1,
        expires: None,
        stale: false,
    }
}

/// A closed log with these events, and their ids.
fn logged(dir: &Path, sealing: Option<Sealing>, events: &[Event<'_>]) -> Vec<RecordId> {
    let Opened { mut appenders, log, .. } = open(&settings(dir, sealing), 1).unwrap();
    let ids: Vec<_> = events.iter().map(|event| appenders[0].append(event, Ack::Durable).unwrap()).collect();
    appenders[0].wait(*ids.last().unwrap(), Ack::Durable, PATIENCE).unwrap();
    log.close(PATIENCE).unwrap();
    ids
}

fn opened(dir: &Path, id: RecordId, secrets: &[OpenerSecret]) -> Result<Vec<OpenedValues>, OpenError> {
    SealedRecord::find(dir, dir, id)?.open(secrets)
}

/// The files of the keys, ascending.
fn key_files(dir: &Path) -> Vec<std::path::PathBuf> {
    folder::list(dir).unwrap().iter().map(|named| named.path(dir)).collect()
}

/// The file of the key that this record of this tenant was sealed under.
fn key_file(dir: &Path, tenant: &str) -> std::path::PathBuf {
    let of = |path: &std::path::PathBuf| {
        WrappedKey::parse(&fs::read(path).unwrap()).is_ok_and(|key| key.tenant() == tenant)
    };
    key_files(dir).into_iter().find(of).unwrap()
}

fn holds(folder: &Path, bytes: &[u8]) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, bytes);
        }
        fs::read(&path).unwrap().windows(bytes.len()).any(|window| window == bytes)
    })
}

#[test]
fn what_is_sealed_is_opened_by_all_openers_in_any_order_and_stands_nowhere_in_clear() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let [a, b] = openers();
    let subject = "alice-marker@example.com";
    let events = [Event::Decision(decision("acme", subject)), Event::Decision(decision("acme", "bob"))];
    let sealing = Sealing { openers: vec![a.public(), b.public()], ..sealing(&[]) };
    let ids = logged(dir, Some(sealing), &events);

    let secrets = [b, a];
    let values = opened(dir, ids[0], &secrets).unwrap();
    assert_eq!(values.len(), 1);
    assert_eq!((values[0].item, values[0].tenant.as_str()), (0, "acme"));
    let clear = Clear {
        subject: Some(subject.to_owned()),
        jti: Some("jti-marker".to_owned()),
        client: Some("192.0.2.7".parse().unwrap()),
    };
    assert_eq!(values[0].clear, clear);
    assert_eq!(opened(dir, ids[1], &secrets).unwrap()[0].clear.subject.as_deref(), Some("bob"));
    for value in [subject.as_bytes(), b"jti-marker", &[192, 0, 2, 7]] {
        assert!(!holds(dir, value), "{value:?}");
    }
    let report =
        verify_dir(dir, &Options { allow_unsigned: true, ..Options::default() }, &mut |_| {}).unwrap();
    assert!(report.breaks.is_empty(), "{:?}", report.breaks);
}

#[test]
fn one_opener_alone_opens_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let secrets = openers();
    let id = logged(dir, Some(sealing(&secrets)), &[Event::Decision(decision("acme", "alice"))])[0];
    let [a, b] = secrets;
    let (of_a, of_b) = (a.public(), b.public());
    for (given, absent) in [(vec![a], of_b), (vec![b], of_a), (vec![], of_a.min(of_b))] {
        match opened(dir, id, &given) {
            Err(OpenError::OpenerMissing { missing }) => assert_eq!(missing, absent),
            other => panic!("{other:?}"),
        }
    }
    let strangers = openers();
    assert!(matches!(opened(dir, id, &strangers), Err(OpenError::OpenerMissing { .. })));
    // Below the face that asks first: without a layer's key there is no way to the next one.
    let key = WrappedKey::parse(&fs::read(key_file(dir, "acme")).unwrap()).unwrap();
    assert!(matches!(key.unwrap(&strangers[..1]), Err(UnwrapError::Missing(_))));
}

#[test]
fn calls_about_many_tokens_and_issued_tokens_are_sealed_under_the_keys_of_their_tenants() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let secrets = openers();
    let item = |tenant, subject, jti| BatchItem {
        decision: Decision::Accepted,
        issuer: "agents",
        kid: "k",
        tenant,
        subject,
        jti,
        expires: None,
        stale: false,
    };
    let items = [
        item("acme", Some("alice"), Some("1")),
        item("", None, None),
        item("other", Some("carol"), None),
        item("stranger", Some("dave"), None),
    ];
    let client: IpAddr = "2001:db8::7".parse().unwrap();
    let batch = BatchEvent {
        surface: 1,
        tenant: "",
        caller: "",
        client: Some(client),
        policy_epoch: 1,
        revocation_epoch: 1,
        latency_us: 1,
        items: &items,
    };
    let issue = IssueEvent {
        phase: Phase::Done,
        actor: "op",
        issuer: "own",
        kid: "k",
        tenant: "other",
        subject: "agent-7",
        jti: "jti-9",
        issued_at: UnixSeconds(1),
        expires: UnixSeconds(2),
        scope: &["a.b"],
        intent: None,
        failure: None,
    };
    let ids = logged(
        dir,
        Some(sealing(&secrets)),
        &[Event::DecisionBatch(batch), Event::Issue(issue), Event::Stop(StopEvent { reason: "r" })],
    );
    let values = opened(dir, ids[0], &secrets).unwrap();
    let places: Vec<_> = values.iter().map(|one| (one.item, one.tenant.as_str())).collect();
    assert_eq!(places, [(1, "acme"), (3, "other"), (0, "")]);
    assert_eq!(values[0].clear.subject.as_deref(), Some("alice"));
    assert_eq!(values[1].clear, Clear { subject: Some("carol".into()), ..Clear::default() });
    assert_eq!(values[2].clear, Clear { client: Some(client), ..Clear::default() });
    let issued = &opened(dir, ids[1], &secrets).unwrap()[0].clear;
    assert_eq!((issued.subject.as_deref(), issued.jti.as_deref()), (Some("agent-7"), Some("jti-9")));
    assert!(matches!(opened(dir, ids[2], &secrets), Err(OpenError::NothingSealed { why: None, .. })));
    for subject in ["alice", "carol", "dave", "agent-7"] {
        assert!(!holds(dir, subject.as_bytes()), "{subject}");
    }
}

#[test]
fn the_longest_call_about_many_tokens_fits_whatever_is_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let secrets = openers();
    let (name, subject) = ("n".repeat(64), "s".repeat(900));
    let item = BatchItem {
        decision: Decision::Accepted,
        issuer: &name,
        kid: &name,
        tenant: "acme",
        subject: Some(&subject),
        jti: Some(&subject),
        expires: Some(UnixSeconds(u64::MAX)),
        stale: true,
    };
    let items = vec![item; BATCH_ITEMS_MAX];
    let short = BatchItem {
        issuer: "agents",
        kid: "2026-01",
        subject: Some("agent-0000-1111"),
        jti: Some("5b3c7c1e-0d7a-4a53"),
        ..item
    };
    let short = vec![short; BATCH_ITEMS_MAX];
    let batch = |items| {
        Event::DecisionBatch(BatchEvent {
            surface: 1,
            tenant: "",
            caller: &name,
            client: Some("2001:db8::7".parse().unwrap()),
            policy_epoch: 1,
            revocation_epoch: u64::MAX,
            latency_us: u32::MAX,
            items,
        })
    };
    let Opened { mut appenders, log, .. } = open(&settings(dir, Some(sealing(&secrets))), 1).unwrap();
    let full = appenders[0].append(&batch(&items), Ack::Durable).unwrap();
    assert_eq!(log.watch().unsealed(), 1, "not all of them found room");
    let usual = appenders[0].append(&batch(&short), Ack::Durable).unwrap();
    appenders[0].wait(usual, Ack::Durable, PATIENCE).unwrap();
    assert_eq!(log.watch().unsealed(), 1, "of usual lengths all do");
    log.close(PATIENCE).unwrap();
    let values = opened(dir, full, &secrets).unwrap();
    assert!(values.len() > 4 && values.len() < BATCH_ITEMS_MAX, "{}", values.len());
    assert_eq!(values.last().unwrap().item, 0, "the address has its room");
    assert_eq!(opened(dir, usual, &secrets).unwrap().len(), BATCH_ITEMS_MAX + 1);
}

#[test]
fn a_tenant_without_a_key_has_tags_and_a_word_and_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let secrets = openers();
    let Opened { mut appenders, log, .. } = open(&settings(dir, Some(sealing(&secrets))), 1).unwrap();
    let long = "l".repeat(3000);
    let mut ids = Vec::new();
    for (tenant, subject) in [("stranger", "alice"), ("acme", &long), ("acme", "bob")] {
        ids.push(appenders[0].append(&Event::Decision(decision(tenant, subject)), Ack::Durable).unwrap());
    }
    let nobody = DecisionEvent { subject: None, jti: None, client: None, ..decision("stranger", "") };
    ids.push(appenders[0].append(&Event::Decision(nobody), Ack::Durable).unwrap());
    appenders[0].wait(ids[3], Ack::Durable, PATIENCE).unwrap();
    assert_eq!(log.watch().unsealed(), 2);
    log.close(PATIENCE).unwrap();
    for (id, said) in [(ids[0], Some("no_key")), (ids[1], Some("too_long")), (ids[3], None)] {
        match opened(dir, id, &secrets) {
            Err(OpenError::NothingSealed { why, .. }) => assert_eq!(why.as_deref(), said),
            other => panic!("{other:?}"),
        }
    }
    assert!(!holds(dir, b"alice"));
    assert_eq!(opened(dir, ids[2], &secrets).unwrap()[0].clear.subject.as_deref(), Some("bob"));
}

#[test]
fn without_the_setting_no_byte_of_a_record_changes_and_no_key_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let id = logged(dir, None, &[Event::Decision(decision("acme", "alice"))])[0];
    assert!(!dir.join(folder::FOLDER).exists());
    assert!(matches!(opened(dir, id, &[]), Err(OpenError::NothingSealed { why: None, .. })));
    let mut sealing = sealing(&openers());
    sealing.fields = vec![TagField::Client];
    let bare = DecisionEvent { subject: None, jti: None, client: None, ..decision("acme", "") };
    let [with, without] = [Some(sealing), None].map(|sealing| {
        let folder = tempfile::tempdir().unwrap();
        let id = logged(folder.path(), sealing, &[Event::Decision(bare)])[0];
        crate::audit::proof::find_record(crate::audit::stored::Segments::of(folder.path()), id)
            .unwrap()
            .body
            .unwrap()
    });
    assert_eq!(with, without, "what is not sealed leaves no trace");
}

#[test]
fn another_keys_file_an_altered_one_and_none_have_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let secrets = openers();
    let id = logged(dir, Some(sealing(&secrets)), &[Event::Decision(decision("acme", "alice"))])[0];
    let path = key_file(dir, "acme");
    let kept = fs::read(&path).unwrap();

    // Another tenant's key in its place; then one altered bit, in each line.
    fs::copy(key_file(dir, "other"), &path).unwrap();
    match opened(dir, id, &secrets) {
        Err(OpenError::KeyFile { source, .. }) => assert!(source.to_string().contains("another key's file")),
        other => panic!("{other:?}"),
    }
    for at in (0..kept.len()).step_by(7) {
        let mut altered = kept.clone();
        altered[at] ^= 1;
        fs::write(&path, altered).unwrap();
        assert!(matches!(opened(dir, id, &secrets), Err(OpenError::KeyFile { .. })), "byte {at}");
    }
    fs::remove_file(&path).unwrap();
    let lost = opened(dir, id, &secrets).unwrap_err();
    assert!(matches!(lost, OpenError::Lost { .. }) && lost.to_string().starts_with("LOST"), "{lost}");
    fs::write(path.with_extension("destroyed"), "00-0-7\n").unwrap();
    let destroyed = opened(dir, id, &secrets).unwrap_err();
    assert!(destroyed.to_string().starts_with("redacted, authorised"), "{destroyed}");
    assert!(destroyed.to_string().contains("00-0-7"));
    fs::write(&path, &kept).unwrap();
    assert!(
        matches!(opened(dir, id, &secrets), Err(OpenError::Destroyed { .. })),
        "a begun destruction stands"
    );
    let unknown = RecordId { core_seq: 99, ..id };
    assert!(matches!(opened(dir, unknown, &secrets), Err(OpenError::Find(ProveError::UnknownRecord { .. }))));
}

#[test]
fn a_value_opens_at_its_own_place_and_nowhere_else() {
    use super::value::{Place, SealedValue};
    use aes_gcm::{Aes256Gcm, KeyInit as _, aead::AeadInOut as _};
    let key = Zeroizing::new([7; 32]);
    let mut ring = SealRing::new(&[TagField::Subject], day_of(0));
    ring.add("acme", KeyId([9; 16]), &key);
    let id = RecordId { boot: 0x22, core: 3, core_seq: 41 };
    let mut seals = Seals::new(Some(&ring), crate::audit::schema::Kind::Decision, 0);
    seals.name(id);
    let seal = |seals: &mut Seals<'_>| {
        let mut values = Values { subject: Some("alice"), jti: Some("not sealed"), client: None };
        let planned = seals.plan("acme", &mut values, 65536).unwrap().ok().unwrap();
        let mut out = Vec::new();
        seals.seal(&planned, &values, 15, 0, &mut out);
        assert_eq!(out.len(), planned.bytes());
        out
    };
    let [first, second] = [seal(&mut seals), seal(&mut seals)];
    let open = |bytes: &[u8], place: &Place| {
        let value = SealedValue::parse(bytes)?;
        let mut clear = value.ciphertext.to_vec();
        Aes256Gcm::new((&*key).into())
            .decrypt_inout_detached(
                value.nonce.into(),
                &place.additional_data(&value.key),
                clear.as_mut_slice().into(),
                value.tag.into(),
            )
            .ok()?;
        Clear::read(&clear)
    };
    let here = || Place { kind: 32, item: 0, field: 15, id };
    assert_eq!(open(&first, &here()).unwrap(), Clear { subject: Some("alice".into()), ..Clear::default() });
    assert!(open(&second, &here()).is_some());
    assert_ne!(first[16..28], second[16..28], "no nonce twice");
    for place in [
        Place { kind: 33, ..here() },
        Place { item: 1, ..here() },
        Place { field: 14, ..here() },
        Place { id: RecordId { core_seq: 42, ..id }, ..here() },
        Place { id: RecordId { core: 4, ..id }, ..here() },
        Place { id: RecordId { boot: 0x23, ..id }, ..here() },
    ] {
        assert!(open(&first, &place).is_none());
    }
    for at in 0..first.len() {
        let mut altered = first.clone();
        altered[at] ^= 1;
        assert!(open(&altered, &here()).is_none(), "byte {at}");
    }
    for len in [0, 43, 44, 45, 75, 77, first.len() - 1, first.len() + 1] {
        assert!(SealedValue::parse(&vec![1; len]).is_none(), "{len} bytes");
    }
}

#[test]
fn a_value_of_any_length_has_its_planned_length_and_little_else_shows() {
    let mut ring = SealRing::new(&[TagField::Subject, TagField::Client], day_of(0));
    ring.add("", KeyId([9; 16]), &Zeroizing::new([7; 32]));
    let mut lengths = std::collections::BTreeSet::new();
    for len in 0..300 {
        let subject = "s".repeat(len);
        let mut seals = Seals::new(Some(&ring), crate::audit::schema::Kind::Decision, 0);
        let mut values = Values { subject: Some(&subject), ..Values::default() };
        let planned = seals.plan("", &mut values, 65536).unwrap().ok().unwrap();
        let mut out = Vec::new();
        seals.seal(&planned, &values, 15, 0, &mut out);
        assert!(out.len() == planned.bytes() && is_sealed_len(out.len()), "{len}");
        lengths.insert(out.len());
    }
    assert_eq!(lengths.len(), 10);
}

/// What the threads of a log share, without the log.
fn maker(dir: &Path, openers: &[OpenerSecret]) -> (KeyMaker, Log, Vec<crate::audit::Appender>) {
    // The maker of this log itself makes nothing: nothing is sealed in it.
    let Opened { appenders, log, .. } = open(&settings(dir, None), 1).unwrap();
    let making = Making {
        dir: dir.to_owned(),
        origin: ORIGIN.into(),
        log_id: [1; 16],
        boot: 7,
        sealing: sealing(openers),
    };
    let maker = KeyMaker { making, shared: Arc::clone(log.watch().shared()), today: None, next: None };
    (maker, log, appenders)
}

fn day_in_use(keys: &KeysInUse) -> Option<String> {
    keys.load().as_ref().map(|ring| ring.day.to_string())
}

#[test]
fn keys_are_made_ahead_of_midnight_and_go_with_their_day() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let (mut maker, log, _appenders) = maker(dir, &openers());
    let keys = |log: &Log| day_in_use(&log.watch().shared().sealing);
    let noon = second_of(parse_day("2026-11-29").unwrap()) + 12 * 3600;
    assert_eq!(maker.turn(noon), Duration::from_secs(12 * 3600 - 600));
    assert_eq!(keys(&log).as_deref(), Some("2026-11-29"));
    assert_eq!(key_files(dir).len(), 3, "two tenants, and nobody's");
    let ahead = noon + 12 * 3600 - 600;
    assert_eq!(maker.turn(ahead), Duration::from_secs(600));
    assert_eq!((keys(&log).as_deref(), key_files(dir).len()), (Some("2026-11-29"), 6));
    maker.turn(ahead + 599);
    assert_eq!(keys(&log).as_deref(), Some("2026-11-29"));
    maker.turn(ahead + 600);
    assert_eq!((keys(&log).as_deref(), key_files(dir).len()), (Some("2026-11-30"), 6));
    // A clock that went back a day gets keys of that day, and new ones.
    maker.turn(noon);
    assert_eq!((keys(&log).as_deref(), key_files(dir).len()), (Some("2026-11-29"), 9));
    drop(log);
}

#[test]
fn a_day_whose_keys_cannot_be_made_seals_nothing_until_they_can() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let secrets = openers();
    let (mut maker, log, mut appenders) = maker(dir, &secrets);
    let second = second_of(parse_day("2026-11-29").unwrap());
    maker.turn(second);
    // Where the folder of the keys belongs stands a file: as good as a full disk.
    let kept = dir.join("kept");
    fs::rename(dir.join(folder::FOLDER), &kept).unwrap();
    fs::write(dir.join(folder::FOLDER), "").unwrap();
    let midnight = second + 24 * 3600;
    assert!(maker.turn(midnight) <= Duration::from_secs(5));
    let said = log.watch().sealing_failure().unwrap();
    assert!(said.contains("make a sealed key"), "{said}");
    let id = appenders[0].append(&Event::Decision(decision("acme", "alice")), Ack::Durable).unwrap();
    appenders[0].wait(id, Ack::Durable, PATIENCE).unwrap();
    assert_eq!(log.watch().unsealed(), 1);
    assert!(
        matches!(opened(dir, id, &secrets), Err(OpenError::NothingSealed { why: Some(why), .. }) if why == "no_key")
    );

    fs::remove_file(dir.join(folder::FOLDER)).unwrap();
    fs::rename(&kept, dir.join(folder::FOLDER)).unwrap();
    maker.turn(midnight + 5);
    assert!(log.watch().sealing_failure().is_none());
    appenders[0].append(&Event::Decision(decision("acme", "bob")), Ack::Durable).unwrap();
    assert_eq!(log.watch().unsealed(), 1);
    log.close(PATIENCE).unwrap();
    assert!(!holds(dir, b"alice"));
}

/// A crash between a key's file and the first record that uses it leaves a key for nothing; one while the file was written, a
/// draft that is no key.
#[test]
fn a_crash_around_a_keys_file_leaves_nothing_that_a_start_minds() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let secrets = openers();
    let Opened { log, .. } = open(&settings(dir, Some(sealing(&secrets))), 1).unwrap();
    drop(log);
    let unused = key_files(dir);
    assert!(unused.len() >= 3);
    fs::write(dir.join(folder::FOLDER).join("2026-11-29.00112233445566778899aabbccddeeff.key.new"), "edg")
        .unwrap();
    let id = logged(dir, Some(sealing(&secrets)), &[Event::Decision(decision("acme", "alice"))])[0];
    assert!(!unused.contains(&key_file_of(dir, id)), "each boot has its own");
    assert!(opened(dir, id, &secrets).is_ok());
}

fn key_file_of(dir: &Path, id: RecordId) -> std::path::PathBuf {
    let of_boot = |path: &std::path::PathBuf| {
        let key = WrappedKey::parse(&fs::read(path).unwrap()).unwrap();
        key.of.boot == id.boot && key.tenant() == "acme"
    };
    key_files(dir).into_iter().find(of_boot).unwrap()
}

/// A key of another day, so that there is one to destroy.
fn put_key(dir: &Path, openers: &[OpenerSecret], tenant: &str, day: &str) -> KeyId {
    let of = KeyOf {
        origin: ORIGIN.into(),
        log_id: [1; 16],
        boot: 7,
        tenant: tenant.into(),
        day: parse_day(day).unwrap(),
    };
    let public: Vec<_> = openers.iter().map(OpenerSecret::public).collect();
    let key = WrappedKey::wrap(of, &public, &Zeroizing::new([5; 32])).unwrap();
    folder::store(dir, &key).unwrap();
    key.id()
}

#[test]
fn keys_of_a_tenants_day_are_destroyed_here_and_beside_logs_that_were_set_aside() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("log");
    let aside = parent.path().join("log.damaged-1");
    let secrets = openers();
    let Opened { log, .. } = open(&settings(&dir, Some(sealing(&secrets))), 1).unwrap();
    let day = "2020-02-29";
    let gone = [put_key(&dir, &secrets, "acme", day), put_key(&dir, &secrets, "acme", day)];
    let stays = [put_key(&dir, &secrets, "other", day), put_key(&dir, &secrets, "acme", "2020-03-01")];
    fs::create_dir(&aside).unwrap();
    copy(&dir, &aside).unwrap();

    let keys = log.sealed_keys();
    let record = RecordId { boot: 1, core: 0, core_seq: 7 };
    let destroy = |day: &str, tenant| keys.destroy(tenant, parse_day(day).unwrap(), record);
    let today = day_of(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs());
    assert!(matches!(destroy(&today.to_string(), "acme"), Err(AuditError::SealedKeyInUse { .. })));
    assert!(matches!(destroy(day, "nobody"), Err(AuditError::SealedKeyMissing { .. })));
    fs::write(
        dir.join("holds"),
        "{\"name\":\"case\",\"from_ns\":1582934400000000000,\"to_ns\":1582934400000000001,\"authority\":\"a\",\"reason\":\"r\"}\n",
    )
    .unwrap();
    assert!(matches!(destroy(day, "acme"), Err(AuditError::Held { .. })), "a hold of that day");
    fs::write(
        dir.join("holds"),
        "{\"name\":\"case\",\"from_ns\":0,\"to_ns\":1,\"authority\":\"a\",\"reason\":\"r\"}\n",
    )
    .unwrap();
    assert_eq!(destroy(day, "acme").unwrap(), 2);
    for folder in [&dir, &aside] {
        for id in gone {
            assert_eq!(folder::find(folder, id).unwrap(), KeyState::Destroyed(record.to_string()));
        }
        for id in stays {
            assert!(matches!(folder::find(folder, id).unwrap(), KeyState::Kept(_)));
        }
    }
    assert!(matches!(destroy(day, "acme"), Err(AuditError::SealedKeyMissing { .. })), "it was done");
    log.close(PATIENCE).unwrap();

    // Interrupted when only word of it was left: the next start goes on.
    let named = folder::list(&dir).unwrap().into_iter().find(|named| named.id == stays[0]).unwrap();
    folder::mark(&dir, &named, "00-0-9").unwrap();
    assert!(named.path(&dir).exists());
    drop(open(&settings(&dir, None), 1).unwrap());
    assert!(!named.path(&dir).exists() && !named.path(&aside).exists());
}

#[test]
fn archives_and_the_successor_of_a_log_that_was_set_aside_keep_the_keys() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("log");
    let secrets = openers();
    let id = logged(&dir, Some(sealing(&secrets)), &[Event::Decision(decision("acme", "alice"))])[0];
    for _ in 0..2 {
        logged(&dir, None, &[Event::Stop(StopEvent { reason: "r" })]);
    }
    crate::audit::archive::archive(&dir, None, &[], &mut |_| {}).unwrap();
    assert!(dir.join("0000000001.arc").exists() && !dir.join("0000000001.seg").exists());
    let alice = |log: &Path, keys: &Path| {
        let values = SealedRecord::find(log, keys, id).unwrap().open(&secrets).unwrap();
        assert_eq!(values[0].clear.subject.as_deref(), Some("alice"));
    };
    alice(&dir, &dir);

    fs::remove_file(dir.join("0000000002.arc")).unwrap();
    let decided = crate::audit::Decision { authority: "ticket 7", reason: "lost", time: "20261129T000000Z" };
    let successor = Settings { origin: format!("{ORIGIN}/2"), ..settings(&dir, None) };
    let aside = crate::audit::succeed(&successor, &decided, None).unwrap().unwrap().folder;
    assert_eq!(folder::list(&dir).unwrap(), folder::list(&aside).unwrap());
    alice(&aside, &dir);
}

#[test]
fn a_keys_file_has_one_spelling_and_binds_all_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let secrets = openers();
    let id = put_key(folder.path(), &secrets, "acme", "2026-11-29");
    let KeyState::Kept(key) = folder::find(folder.path(), id).unwrap() else { panic!("it is there") };
    assert_eq!(key.unwrap(&secrets).unwrap(), Zeroizing::new([5; 32]));
    let text = key.to_text();
    assert_eq!(WrappedKey::parse(text.as_bytes()).as_ref(), Ok(&*key));
    // What is changed and still well-formed opens for nobody.
    for (from, to) in [
        ("tenant acme", "tenant other"),
        ("day 2026-11-29", "day 2026-11-30"),
        ("boot 0000000000000007", "boot 0000000000000008"),
        ("origin test.example", "origin west.example"),
        ("log 01", "log 02"),
    ] {
        let changed = WrappedKey::parse(text.replacen(from, to, 1).as_bytes()).unwrap();
        assert!(matches!(changed.unwrap(&secrets), Err(UnwrapError::Altered(_))), "{to}");
    }
    let lines: Vec<&str> = text.lines().collect();
    let swapped = [&lines[..6], &[lines[7], lines[6], lines[8], ""]].concat().join("\n");
    assert!(WrappedKey::parse(swapped.as_bytes()).unwrap().unwrap(&secrets).is_err(), "another order");
    for (from, to) in [
        ("v1", "v2"),
        ("day 2026-11-29", "day 20261129"),
        ("day 2026-11-29", "day 2026-11-31"),
        ("boot 00", "boot 0"),
        ("tenant acme", "tenant ac\tme"),
        ("\nkey ", "\nkey  "),
        ("log 01", "log 0G"),
    ] {
        assert!(WrappedKey::parse(text.replacen(from, to, 1).as_bytes()).is_err(), "{to}");
    }
    let doubled = text.replacen(lines[7], lines[6], 1);
    for other in [doubled, format!("{text}\n"), text.replace('\n', "\r\n"), text.trim_end().to_owned()] {
        assert!(WrappedKey::parse(other.as_bytes()).is_err(), "{other}");
    }
}

#[test]
fn openers_keys_are_what_openssl_writes_and_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("opener.key");
    let made = OpenerSecret::create(&path).unwrap();
    assert_eq!(OpenerSecret::load(&path).unwrap().public(), made.public());
    assert!(OpenerSecret::create(&path).is_err(), "nothing is written over");
    let text = made.public().to_text();
    assert_eq!(OpenerKey::from_text(&text), Some(made.public()));
    let file = folder.path().join("opener.pub");
    fs::write(&file, format!("{text}\n")).unwrap();
    assert_eq!(file.to_str().unwrap().parse::<OpenerKey>(), Ok(made.public()));
    for other in [&text[1..], &format!("{text} "), "x25519:", "x25519:AAAA", "/nowhere"] {
        assert!(other.parse::<OpenerKey>().is_err(), "{other}");
    }
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    assert!(matches!(OpenerSecret::load(&path), Err(AuditError::KeyFileLax { mode: 0o640, .. })));

    // RFC 8410 has no vector of X25519; RFC 7748 §6.1 has the key, and this is what OpenSSL 3 makes of it.
    let alice = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VuBCIEIHcHbQpzGKV9PBbBclGyZkXfTC+H68CZKrF3+6UduSwq\n-----END PRIVATE KEY-----\n";
    let path = folder.path().join("alice.key");
    fs::write(&path, alice).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let public = OpenerSecret::load(&path).unwrap().public();
    assert_eq!(public.to_text(), "x25519:hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
}

#[test]
fn settings_that_cannot_be_meant_are_refused() {
    let good = sealing(&openers());
    good.check().unwrap();
    let twice = Sealing { openers: vec![good.openers[0]; 2], ..good.clone() };
    let nine = (0..9).map(|_| OpenerSecret::random().public()).collect();
    for (sealing, word) in [
        (Sealing { fields: vec![], ..good.clone() }, "fields"),
        (Sealing { fields: vec![TagField::Session], ..good.clone() }, "fields"),
        (Sealing { openers: vec![], ..good.clone() }, "openers"),
        (Sealing { openers: nine, ..good.clone() }, "1 to 8"),
        (twice, "already"),
        (Sealing { tenants: vec!["a\nb".into()], ..good }, "tenant"),
    ] {
        let error = sealing.check().unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}
