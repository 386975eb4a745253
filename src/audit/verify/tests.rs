//! Every way to change a log, and the class and place it is reported with.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use ed25519_dalek::{Signer as _, SigningKey};

use super::*;
use crate::audit::{
    Ack, CheckpointSigner, Event, Log, Opened, Settings, StopEvent, open_signed,
    record::{self, HEADER_BYTES, Link},
    schema::Kind,
    walk::read_record,
};

pub(super) const SECOND: Duration = Duration::from_secs(10);

pub(super) fn signing_key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

pub(super) fn signer() -> CheckpointSigner {
    let key = signing_key();
    CheckpointSigner {
        verifying_key: key.verifying_key().to_bytes(),
        sign: Box::new(move |message| Ok(key.sign(message).to_bytes())),
    }
}

pub(super) fn key() -> CheckpointKey {
    CheckpointKey::new("test.example/log", signer().verifying_key)
}

pub(super) fn open_log(dir: &Path) -> Opened {
    let mut settings = Settings::new(dir, "test.example/log");
    settings.segment_bytes = 136 * 1024;
    settings.flush_interval = Duration::from_millis(2);
    settings.checkpoint_interval = Duration::from_millis(4);
    settings.create = true;
    open_signed(&settings, 1, Some(signer())).unwrap()
}

/// Appends events one by one, and waits for the last to be durable.
pub(super) fn append(opened: &mut Opened, reasons: &[String]) {
    let mut last = None;
    for reason in reasons {
        last = Some(opened.appenders[0].append(&Event::Stop(StopEvent { reason }), Ack::Durable).unwrap());
        opened.appenders[0].submit();
    }
    opened.appenders[0].wait(last.unwrap(), Ack::Durable, SECOND).unwrap();
}

pub(super) fn wait_signed(log: &Log, size: u64) {
    let until = std::time::Instant::now() + SECOND;
    while log.status().signed_size < size {
        assert!(std::time::Instant::now() < until && log.status().failure.is_none(), "{:?}", log.status());
        std::thread::yield_now();
    }
}

/// A closed log of a few signed records in one small segment.
pub(super) fn small_log(dir: &Path) -> Log2 {
    let mut opened = open_log(dir);
    append(&mut opened, &(0..4).map(|n| format!("event {n}")).collect::<Vec<_>>());
    wait_signed(&opened.log, 4);
    append(&mut opened, &["last".to_owned()]);
    opened.log.close(SECOND).unwrap();
    Log2::read(dir)
}

/// A log's one segment, taken apart.
pub(super) struct Log2 {
    pub(super) bytes: Vec<u8>,
    /// Start of each record, and the end of the last.
    pub(super) offsets: Vec<usize>,
}

impl Log2 {
    pub(super) fn read(dir: &Path) -> Self {
        Self::of(fs::read(dir.join(segment_name(1))).unwrap())
    }

    pub(super) fn of(bytes: Vec<u8>) -> Self {
        let mut offsets = vec![0];
        while let Ok(record) = read_record(&bytes, *offsets.last().unwrap()) {
            offsets.push(record.next);
        }
        Self { bytes, offsets }
    }

    pub(super) fn records(&self) -> usize {
        self.offsets.len() - 1
    }

    fn record(&self, at: usize) -> &[u8] {
        &self.bytes[self.offsets[at]..self.offsets[at + 1]]
    }

    fn without(&self, at: usize) -> Vec<u8> {
        [&self.bytes[..self.offsets[at]], &self.bytes[self.offsets[at + 1]..]].concat()
    }
}

pub(super) fn write(dir: &Path, bytes: &[u8]) {
    let path = dir.join(segment_name(1));
    let _ = fs::remove_file(&path);
    fs::write(&path, bytes).unwrap();
    // As the closed log left it.
    fs::set_permissions(path, fs::Permissions::from_mode(0o400)).unwrap();
}

pub(super) fn options() -> Options {
    Options { keys: vec![key()], threads: 1, ..Options::default() }
}

pub(super) fn verify(dir: &Path) -> Report {
    verify_dir(dir, &options(), &mut |_| {}).unwrap()
}

fn first(dir: &Path) -> (Class, u64) {
    let report = verify(dir);
    let first = report.breaks.first().unwrap_or_else(|| panic!("no break: {report:?}"));
    (first.class, first.seq)
}

#[test]
fn a_closed_log_is_whole_signed_to_its_end_and_may_be_continued() {
    let folder = tempfile::tempdir().unwrap();
    small_log(folder.path());
    let report = verify(folder.path());
    assert_eq!(report.breaks, vec![], "{report:?}");
    assert_eq!(report.notices, vec![]);
    assert_eq!(report.signed_size, report.size);
    assert!(report.checkpoints >= 2 && report.exit_code() == 0);
    let mut opened = open_log(folder.path());
    append(&mut opened, &["more".to_owned()]);
    opened.log.close(SECOND).unwrap();
    let since = Options { since: report.trusted, ..options() };
    let later = verify_dir(folder.path(), &since, &mut |_| {}).unwrap();
    assert_eq!(later.breaks, vec![], "{later:?}");
    let whole = verify(folder.path());
    assert_eq!((later.size, later.head, later.root), (whole.size, whole.head, whole.root));
    assert!(later.records < whole.records);
}

#[test]
fn every_flipped_byte_of_a_small_log_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let log = small_log(folder.path());
    for at in 0..log.bytes.len() {
        let mut bytes = log.bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        write(folder.path(), &bytes);
        let seq = log.offsets.partition_point(|offset| *offset <= at) as u64 - 1;
        let report = verify(folder.path());
        let named = report.breaks.first().unwrap_or_else(|| panic!("byte {at} of record {seq}: {report:?}"));
        assert_eq!(
            named.seq,
            seq,
            "byte {at} of record {seq}, offset in it {}: {named}",
            at - log.offsets[usize::try_from(seq).unwrap()]
        );
        assert!(matches!(named.class, Class::AlteredBody | Class::AlteredHeader), "byte {at}: {named}");
    }
}

#[test]
fn a_flipped_body_byte_is_told_from_a_flipped_header_byte() {
    let folder = tempfile::tempdir().unwrap();
    let log = small_log(folder.path());
    let mut bytes = log.bytes.clone();
    bytes[log.offsets[2] + 130] ^= 1;
    write(folder.path(), &bytes);
    assert_eq!(first(folder.path()), (Class::AlteredBody, 2));
    let mut bytes = log.bytes.clone();
    bytes[log.offsets[2] + 20] ^= 1;
    write(folder.path(), &bytes);
    assert_eq!(first(folder.path()), (Class::AlteredHeader, 2));
}

#[test]
fn removed_repeated_swapped_and_foreign_records_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let log = small_log(folder.path());
    for at in 1..log.records() - 1 {
        write(folder.path(), &log.without(at));
        assert_eq!(first(folder.path()), (Class::Deleted, at as u64));

        let twice =
            [&log.bytes[..log.offsets[at + 1]], log.record(at), &log.bytes[log.offsets[at + 1]..]].concat();
        write(folder.path(), &twice);
        assert_eq!(first(folder.path()), (Class::Duplicate, at as u64));

        let mut foreign = log.record(at).to_vec();
        foreign[16] ^= 1;
        let link = Link { seq: at as u64, wall_ns: 1, mono_ns: 1 };
        let prev = read_record(&log.bytes, log.offsets[at]).unwrap().header.prev_hash;
        let end = HEADER_BYTES + u32::from_le_bytes(foreign[4..8].try_into().unwrap()) as usize;
        record::chain(&mut foreign[..end], link, &prev);
        let inserted = [&log.bytes[..log.offsets[at]], &foreign, &log.bytes[log.offsets[at]..]].concat();
        write(folder.path(), &inserted);
        assert_eq!(first(folder.path()), (Class::Inserted, at as u64));
    }
    for at in 1..log.records() - 2 {
        let swapped = [
            &log.bytes[..log.offsets[at]],
            log.record(at + 1),
            log.record(at),
            &log.bytes[log.offsets[at + 2]..],
        ]
        .concat();
        write(folder.path(), &swapped);
        assert_eq!(first(folder.path()), (Class::Reordered, at as u64), "records {at} and {}", at + 1);
    }
}

#[test]
fn a_tail_cut_anywhere_is_seen_through_the_published_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let log = small_log(folder.path());
    let mut cuts = log.offsets.clone();
    cuts.extend(log.offsets.iter().map(|offset| offset + 64));
    for cut in cuts.into_iter().filter(|cut| *cut > 0 && *cut < log.bytes.len()) {
        for zeros in [0, 4096] {
            let mut bytes = log.bytes[..cut].to_vec();
            bytes.resize(cut + zeros, 0);
            write(folder.path(), &bytes);
            let report = verify(folder.path());
            assert_ne!(report.exit_code(), 0, "cut at {cut}: {report:?}");
            let whole = log.offsets.partition_point(|offset| *offset <= cut) as u64 - 1;
            assert_eq!(report.breaks[0].seq, whole, "cut at {cut}: {:?}", report.breaks);
        }
    }
    // Not one byte left.
    write(folder.path(), &[]);
    assert_eq!(first(folder.path()).0, Class::Truncated);
}

/// Re-chains everything from `from` on, as someone with the file but without the keys would.
fn rehash(log: &Log2, from: usize) -> Vec<u8> {
    let mut bytes = log.bytes.clone();
    let mut prev = read_record(&bytes, log.offsets[from]).unwrap().header.prev_hash;
    for at in from..log.records() {
        let header = read_record(&log.bytes, log.offsets[at]).unwrap().header;
        let link = Link { seq: header.seq, wall_ns: header.wall_ns + 1, mono_ns: header.mono_ns };
        let end = log.offsets[at] + HEADER_BYTES + header.body_len as usize;
        prev = record::chain(&mut bytes[log.offsets[at]..end], link, &prev);
    }
    bytes
}

#[test]
fn a_full_rewrite_without_the_key_is_seen_through_the_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let log = small_log(folder.path());
    for from in 1..log.records() {
        write(folder.path(), &rehash(&log, from));
        let report = verify(folder.path());
        assert!(report.breaks.iter().any(|found| found.class == Class::Rewritten), "from {from}: {report:?}");
    }
}

#[test]
fn stripped_and_foreign_signatures_fail() {
    let folder = tempfile::tempdir().unwrap();
    small_log(folder.path());
    let other =
        CheckpointKey { verifying_key: SigningKey::from_bytes(&[4; 32]).verifying_key().to_bytes(), ..key() };
    let report = verify_dir(folder.path(), &Options { keys: vec![other], ..options() }, &mut |_| {}).unwrap();
    assert_eq!(report.breaks[0].class, Class::WrongKey);
    let report = verify_dir(folder.path(), &Options { keys: vec![], ..options() }, &mut |_| {}).unwrap();
    assert_eq!(report.breaks[0].class, Class::Unsigned);
    let origin = Some("test.example/other".to_owned());
    let report = verify_dir(folder.path(), &Options { origin, ..options() }, &mut |_| {}).unwrap();
    assert_eq!(report.breaks[0].class, Class::WrongOrigin);
    let note = fs::read_to_string(folder.path().join("checkpoint")).unwrap();
    let (text, _) = note.split_once("\n\n").unwrap();
    fs::write(folder.path().join("checkpoint"), format!("{text}\n\n")).unwrap();
    assert_eq!(verify(folder.path()).breaks[0].class, Class::Unsigned);
    // Bytes that are no text: an unreadable note is not an absent one.
    fs::write(folder.path().join("checkpoint"), b"\xff").unwrap();
    assert_eq!(verify(folder.path()).breaks[0].class, Class::Malformed);
}

#[test]
fn missing_and_exchanged_segments_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open_log(folder.path());
    append(&mut opened, &(0..3000).map(|n| format!("event {n}")).collect::<Vec<_>>());
    opened.log.close(SECOND).unwrap();
    let report = verify(folder.path());
    assert_eq!(report.breaks, vec![], "{report:?}");
    assert!(report.segments > 3);
    let path = |index| folder.path().join(segment_name(index));
    let parallel = verify_dir(folder.path(), &Options { threads: 3, ..options() }, &mut |_| {}).unwrap();
    assert_eq!(parallel, report);
    let quick = verify_dir(folder.path(), &Options { mode: Mode::Quick, ..options() }, &mut |_| {}).unwrap();
    assert_eq!((quick.breaks.len(), quick.root), (0, report.root));
    let range = Mode::Range { from: 1500, to: 1510 };
    let part = verify_dir(folder.path(), &Options { mode: range, ..options() }, &mut |_| {}).unwrap();
    assert!(part.breaks.is_empty() && part.segments <= 2, "{part:?}");

    fs::rename(path(2), path(99)).unwrap();
    let report = verify(folder.path());
    let named = &report.breaks[0];
    assert_eq!((named.class, named.segment), (Class::MissingSegment, 2), "{report:?}");
    assert!(named.records > 500);
    fs::rename(path(99), path(2)).unwrap();

    fs::rename(path(2), path(99)).unwrap();
    fs::rename(path(3), path(2)).unwrap();
    fs::rename(path(99), path(3)).unwrap();
    let report = verify(folder.path());
    assert!(report.breaks.iter().any(|found| found.class == Class::Reordered), "{report:?}");
    fs::rename(path(2), path(99)).unwrap();
    fs::rename(path(3), path(2)).unwrap();
    fs::rename(path(99), path(3)).unwrap();

    let last = report.segments;
    fs::remove_file(path(last)).unwrap();
    let report = verify(folder.path());
    assert!(report.breaks.iter().any(|found| found.class == Class::MissingSegment), "{report:?}");
    assert!(report.breaks.iter().any(|found| found.class == Class::Truncated), "{report:?}");
}

#[test]
fn a_running_log_is_verified_up_to_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open_log(folder.path());
    append(&mut opened, &(0..100).map(|n| format!("event {n}")).collect::<Vec<_>>());
    wait_signed(&opened.log, 100);
    let upto = Some(opened.log.status().durable_size);
    let report = verify_dir(folder.path(), &Options { upto, ..options() }, &mut |_| {}).unwrap();
    assert_eq!((report.breaks, Some(report.size)), (vec![], upto));
    assert!(report.checkpoints > 0);
}

/// Found by the fuzz body `audit_log`: whoever can write into the folder could make counting overflow, with a file named
/// as segment 0 or as the last number there is, or with a whole record that calls itself the last one. A checked build
/// died (and its other threads waited for ever), an optimised one counted on from 0. The other tests only used names and
/// numbers that logs have.
#[test]
fn numbers_that_no_log_reaches_are_forged() {
    for index in [0, 10_000_000_000, u64::MAX] {
        let folder = tempfile::tempdir().unwrap();
        let log = small_log(folder.path());
        let foreign = folder.path().join(segment_name(index));
        fs::write(&foreign, &log.bytes).unwrap();
        assert_eq!(verify(folder.path()).breaks, vec![], "segment {index} is no file of the log");
        open_log(folder.path()).log.close(SECOND).unwrap();
        assert_eq!(fs::read(&foreign).unwrap(), log.bytes);
        assert_eq!(verify(folder.path()).breaks, vec![]);
    }
    let folder = tempfile::tempdir().unwrap();
    let log = small_log(folder.path());
    for at in [0, 3, log.records() - 1] {
        let mut bytes = log.bytes.clone();
        let header = read_record(&bytes, log.offsets[at]).unwrap().header;
        let link = Link { seq: u64::MAX, wall_ns: header.wall_ns, mono_ns: header.mono_ns };
        let end = log.offsets[at] + HEADER_BYTES + header.body_len as usize;
        record::chain(&mut bytes[log.offsets[at]..end], link, &header.prev_hash);
        write(folder.path(), &bytes);
        let report = verify(folder.path());
        assert_eq!(
            (report.breaks[0].class, report.breaks[0].seq),
            (Class::AlteredHeader, at as u64),
            "{report:?}"
        );
    }
}

#[test]
fn classes_have_distinct_names() {
    for (at, class) in Class::ALL.iter().enumerate() {
        assert!(class.exit_code() != 0 && class.exit_code() != 2);
        assert!(Class::ALL[..at].iter().all(|other| other.name() != class.name()));
    }
    assert!(Kind::ALL.len() > 20);
}
