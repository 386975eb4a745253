//! A damaged log is set aside whole, and its successor says so.

use std::{fs, path::Path, time::Duration};

use super::{
    AdminEvent, AuditError, Decision, Event, Phase, Settings, StopEvent,
    hold::{ACTION_HOLD, Hold, Holds},
    open,
    schema::{self, Kind},
    succeed,
    verify::{Class, Options, verify_dir},
    walk::read_record,
};
use crate::audit::{Ack, tag_file};

const SECOND: Duration = Duration::from_secs(10);
const DECISION: Decision<'static> =
    Decision { authority: "ticket 7", reason: "the disk lost a sector", time: "20261127T143000Z" };

fn settings(dir: &Path, origin: &str) -> Settings {
    Settings { segment_bytes: 256 * 1024, create: true, ..Settings::new(dir, origin) }
}

/// A closed log of ten events in `dir`.
fn log(dir: &Path) {
    let mut opened = open(&settings(dir, "test.example/log"), 1).unwrap();
    for n in 0..10 {
        let reason = format!("event {n}");
        let id =
            opened.appenders[0].append(&Event::Stop(StopEvent { reason: &reason }), Ack::Durable).unwrap();
        opened.appenders[0].wait(id, Ack::Durable, SECOND).unwrap();
    }
    opened.log.close(SECOND).unwrap();
}

/// Changes one byte of a body in the middle.
fn damage(dir: &Path) -> Vec<u8> {
    let path = dir.join("0000000001.seg");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(7).position(|window| window == b"event 5").unwrap();
    bytes[at] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, &bytes).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    bytes
}

#[test]
fn a_damaged_log_is_set_aside_whole_and_its_successor_names_the_decision() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("audit");
    log(&dir);
    tag_file::create(&dir.join("tag.key.2"), 2, None).unwrap();
    let tag_keys = |dir: &Path| ["tag.key", "tag.key.2"].map(|name| fs::read(dir.join(name)).unwrap());
    let before = tag_keys(&dir);
    let damaged = damage(&dir);
    assert!(matches!(
        open(&Settings { create: false, ..settings(&dir, "test.example/log") }, 1),
        Err(AuditError::Damaged { .. })
    ));

    let successor = settings(&dir, "test.example/log/2");
    let done = succeed(&successor, &DECISION, None).unwrap().unwrap();
    assert_eq!(done.folder, folder.path().join("audit.damaged-20261127T143000Z"));
    assert_eq!(fs::read(done.folder.join("0000000001.seg")).unwrap(), damaged, "not a byte is changed");
    assert_eq!(tag_keys(&dir), before, "tags stay comparable");
    assert!(!folder.path().join("audit.successor").exists());

    // The successor is whole, and says what happened; verification shows it.
    let options = Options { allow_unsigned: true, ..Options::default() };
    let report = verify_dir(&dir, &options, &mut |_| {}).unwrap();
    assert_eq!(report.breaks, vec![]);
    let notice = report.notices.iter().find(|notice| notice.class == Class::SetAside).unwrap();
    assert!(notice.detail.contains("by ticket 7: log test.example/log was set aside"), "{notice}");
    assert!(notice.detail.contains("the disk lost a sector"), "{notice}");
    let bytes = fs::read(dir.join("0000000001.seg")).unwrap();
    let mut at = 0;
    let record = loop {
        let record = read_record(&bytes, at).unwrap();
        if record.kind() == Some(Kind::Recovery) {
            break record;
        }
        at = record.next;
    };
    let body = record.read_body().unwrap();
    assert_eq!(schema::bytes(&body, 5), Some(&done.digest[..]));
    assert_eq!(schema::uint(&body, 4), Some(damaged.len() as u64));

    // And goes on like any other.
    let opened = open(&Settings { create: false, ..successor }, 1).unwrap();
    opened.log.close(SECOND).unwrap();
}

#[test]
fn a_whole_log_a_running_one_and_a_successor_of_the_same_name_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("audit");
    log(&dir);
    let successor = settings(&dir, "test.example/log/2");
    assert!(matches!(succeed(&successor, &DECISION, None), Err(AuditError::NothingToDecide { .. })));
    let running = open(&Settings { create: false, ..settings(&dir, "test.example/log") }, 1).unwrap();
    assert!(matches!(succeed(&successor, &DECISION, None), Err(AuditError::Locked { .. })));
    running.log.close(SECOND).unwrap();
    damage(&dir);
    let error = succeed(&settings(&dir, "test.example/log"), &DECISION, None).unwrap_err();
    assert!(error.to_string().contains("test.example/log/2"), "{error}");
    assert!(dir.join("0000000001.seg").exists() && fs::read_dir(folder.path()).unwrap().count() == 1);
}

#[test]
fn a_decision_that_was_interrupted_is_completed_by_the_next_call() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("audit");
    log(&dir);
    damage(&dir);
    let successor = settings(&dir, "test.example/log/2");
    // Before the first rename: an incomplete successor is made anew.
    fs::create_dir(folder.path().join("audit.successor")).unwrap();
    fs::write(folder.path().join("audit.successor/0000000001.seg"), b"cut").unwrap();
    succeed(&successor, &DECISION, None).unwrap().unwrap();
    // Between the renames.
    fs::rename(&dir, folder.path().join("audit.successor")).unwrap();
    assert_eq!(succeed(&successor, &DECISION, None).unwrap(), None);
    let opened = open(&Settings { create: false, ..successor }, 1).unwrap();
    opened.log.close(SECOND).unwrap();
}

#[test]
fn what_is_held_stays_held_in_the_successor_and_on_its_record() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("audit");
    log(&dir);
    let hold = |name: &str| {
        let (authority, reason) = ("counsel".to_owned(), "why".to_owned());
        Hold { name: name.into(), from_ns: 1, to_ns: u64::MAX, authority, reason }
    };
    // One is in the file; of another only the log knows, for somebody lost its line.
    let mut opened = open(&settings(&dir, "test.example/log"), 1).unwrap();
    let detail = hold("case-8").detail();
    let placed = AdminEvent {
        phase: Phase::Done,
        actor: "control:127.0.0.1",
        action: ACTION_HOLD,
        target: "case-8",
        detail: &detail,
        intent: None,
    };
    let id = opened.appenders[0].append(&Event::Admin(placed), Ack::Durable).unwrap();
    opened.appenders[0].wait(id, Ack::Durable, SECOND).unwrap();
    opened.log.close(SECOND).unwrap();
    let mut holds = Holds::default();
    holds.place(hold("case-7")).unwrap();
    holds.store(&dir).unwrap();
    damage(&dir);
    let successor = settings(&dir, "test.example/log/2");
    let aside = succeed(&successor, &DECISION, None).unwrap().unwrap().folder;

    let names = |holds: &Holds| holds.all().iter().map(|hold| hold.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&Holds::load(&dir).unwrap()), ["case-7", "case-8"]);
    fs::remove_file(dir.join("holds")).unwrap();
    let mut holds = Holds::in_force(&dir).unwrap();
    assert_eq!(names(&holds), ["case-7", "case-8"], "the successor's own records say so");

    // Also what was set aside keeps its keys as long as it is held.
    let opened = open(&successor, 0).unwrap();
    let tags = opened.log.tags();
    tags.rotate().unwrap();
    for name in ["case-7", "case-8"] {
        holds.release(name).unwrap();
    }
    holds.store(&dir).unwrap();
    assert!(matches!(tags.may_destroy(1), Err(AuditError::Held { name }) if name == "case-7"));
    Holds::release_aside(&dir, "case-7").unwrap();
    assert_eq!(Holds::load(&aside).unwrap(), Holds::default());
    tags.may_destroy(1).unwrap();
    opened.log.close(SECOND).unwrap();
}
