//! The audit log as a whole: a small log of two segments, changed, then verified or recovered.
//!
//! The log is in `log/`: once as it stood when the process was killed, once closed in order a moment later. It was
//! written by the real writer ([`write_sample`]) and must verify for as long as its format version is supported.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer as _, SigningKey};
use edgate::audit::note::Checkpoint;
use edgate::audit::verify::{Class, Mode, Options, Report, verify_dir};
use edgate::audit::{
    Ack, AuditError, CheckpointKey, CheckpointSigner, Event, Opened, Settings, StopEvent, open, open_signed,
};
use tempfile::TempDir;

use super::edits::{Image, records_of, segment_name, split};

pub(super) const ORIGIN: &str = "fuzz.example/log";

/// The smallest segment there is.
const SEGMENT_BYTES: usize = 136 * 1024;

/// How long a log of a few records may take to do anything.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) const CLOSED: &[(&str, &[u8])] = &[
    ("0000000001.seg", include_bytes!("../log/closed/0000000001.seg")),
    ("0000000002.seg", include_bytes!("../log/closed/0000000002.seg")),
    ("checkpoint", include_bytes!("../log/closed/checkpoint")),
    ("checkpoint.tree", include_bytes!("../log/closed/checkpoint.tree")),
];

const KILLED: &[(&str, &[u8])] = &[
    ("0000000001.seg", include_bytes!("../log/killed/0000000001.seg")),
    ("0000000002.seg", include_bytes!("../log/killed/0000000002.seg")),
    ("checkpoint", include_bytes!("../log/killed/checkpoint")),
    ("checkpoint.tree", include_bytes!("../log/killed/checkpoint.tree")),
];

/// The segment that the killed process was writing to.
const OPEN: &str = "0000000002.seg";

/// A changed log is called whole only up to where nothing was changed, and never shorter than what is signed.
///
/// The first byte chooses whether the last segment was finished; the rest is a script of changes.
pub fn audit_log(input: &[u8]) {
    let [flags, script @ ..] = input else { return };
    let original = Image::new(CLOSED);
    let mut image = original.clone();
    image.edit(script);
    let folder = folder();
    image.write(folder.path(), (flags & 1 == 1).then_some(OPEN));

    let report = match verify(folder.path(), Mode::Full, false) {
        Ok(report) => report,
        Err(error) => {
            assert!(
                matches!(error, AuditError::NotFound { .. }) && image.segments().next().is_none(),
                "{error}"
            );
            return;
        }
    };
    for mode in
        [Mode::Quick, Mode::Range { from: 3, to: 9 }, Mode::Range { from: u64::MAX - 1, to: u64::MAX }]
    {
        let part = verify(folder.path(), mode, true);
        assert!(part.is_ok_and(|part| part.records <= report.records), "{mode:?}");
    }
    assert_eq!(report.exit_code() == 0, report.breaks.is_empty());
    if report.breaks.is_empty() {
        assert_whole(&original, &image, &report);
    } else {
        assert!(image.files != original.files, "an untouched log is broken: {report:?}");
        assert!(report.breaks.iter().all(|found| !found.to_string().contains('\n')), "{report:?}");
    }
}

/// What must be so for a log that is called whole.
fn assert_whole(original: &Image, image: &Image, report: &Report) {
    let (were, are) = (original.records(), image.records());
    // Whoever makes hashes fit can change what nobody signed; `audit verify` then says how much that is.
    let vouched = if image.forged { report.signed_size } else { report.size };
    assert!(vouched > 0, "nothing vouches for it: {report:?}");
    if image.forged && report.signed_size < report.size {
        assert!(report.notices.iter().any(|found| found.class == Class::Unsigned), "{report:?}");
    }
    for seq in 0..usize::try_from(vouched).expect("a small log") {
        assert_eq!(were.get(seq), are.get(seq), "record {seq} was changed: {report:?}");
    }
    let published = |image: &Image| {
        let note = image.files.get("checkpoint").and_then(|note| std::str::from_utf8(note).ok());
        note.and_then(|note| Checkpoint::open(note, &[key()]).ok())
    };
    if published(image).is_some() {
        assert_eq!(published(image), published(original));
        assert!(report.size >= were.len() as u64, "a cut tail goes unseen: {report:?}");
    }
    for (name, bytes) in image.segments() {
        let end = records_of(bytes).last().copied().unwrap_or(0);
        let torn = bytes[end..].iter().any(|byte| *byte != 0);
        let said = |found: &edgate::audit::verify::Break| {
            found.class == Class::TornUnacknowledged && segment_name(found.segment) == *name
        };
        assert!(!torn || report.notices.iter().any(said), "bytes behind {name} go unseen: {report:?}");
    }
}

/// A start after anything at all either refuses or goes on from records that nobody changed, loses no byte, and leaves
/// a log that verifies.
///
/// The first byte chooses the sample and whether checkpoints are signed; the rest is a script of changes.
pub fn audit_recovery(input: &[u8]) {
    let [flags, script @ ..] = input else { return };
    let (closed, signed) = (flags & 1 == 1, flags & 2 == 0);
    let mut original = Image::new(if closed { CLOSED } else { KILLED });
    if !signed {
        original.files.retain(|name, _| name.ends_with(".seg"));
    }
    let mut image = original.clone();
    if !closed {
        // As it was on the disk: zeros up to the segment's size.
        image.files.entry(OPEN.to_owned()).or_default().resize(SEGMENT_BYTES, 0);
    }
    image.edit(script);
    let folder = folder();
    image.write(folder.path(), (!closed).then_some(OPEN));
    fs::write(folder.path().join("tag.key"), [7; 32]).expect("the folder takes files");
    restrict(&folder.path().join("tag.key"));

    let settings = settings(folder.path());
    let opened = if signed { open_signed(&settings, 1, Some(signer())) } else { open(&settings, 1) };
    let Opened { log, appenders, recovery } = match opened {
        Ok(opened) => opened,
        Err(error) => {
            let named = match error {
                AuditError::Damaged { .. }
                | AuditError::OriginMismatch { .. }
                | AuditError::RolledBack { .. } => true,
                AuditError::NotFound { .. } => image.segments().next().is_none(),
                _ => false,
            };
            assert!(named && image.files != original.files, "{error}");
            assert_kept(&image, folder.path());
            return;
        }
    };
    drop(appenders);
    let ended = log.close(PATIENCE);
    assert!(!matches!(ended, Err(AuditError::DeadlinePassed)), "a thread of the log is lost");
    assert_kept(&image, folder.path());
    if image.forged {
        return;
    }
    // A start looks no further back than to the last segment that was finished; verifying does.
    let segments: Vec<_> = image.segments().collect();
    let first = segments.iter().rposition(|(name, _)| closed || *name != OPEN).unwrap_or(0);
    let (unseen, seen) = segments.split_at(first);
    let were = original.records();
    let seq_of = |record: &&[u8]| u64::from_le_bytes(std::array::from_fn(|i| record[8 + i]));
    let mut next = None;
    for record in seen.iter().flat_map(|(_, bytes)| split(bytes)) {
        let seq = seq_of(&record);
        // The chain ends where a record stands that is not the next one, or that recovery did not take.
        if seq >= recovery.size || next.is_some_and(|next| next != seq) {
            break;
        }
        assert_eq!(were.get(usize::try_from(seq).expect("a small log")), Some(&record), "{recovery:?}");
        next = Some(seq + 1);
    }
    assert_eq!(next.unwrap_or(0), recovery.size, "{recovery:?}");
    if signed && image.files.get("checkpoint.tree") == original.files.get("checkpoint.tree") {
        let note = std::str::from_utf8(&original.files["checkpoint"]).expect("a note is text");
        let size = Checkpoint::open(note, &[key()]).expect("our own note").size;
        assert!(recovery.size >= size, "{size} records were signed: {recovery:?}");
    }
    let begins = segments.first().is_some_and(|(name, _)| *name == "0000000001.seg");
    if ended.is_ok() && begins && unseen.iter().all(|(name, bytes)| original.files.get(*name) == Some(bytes))
    {
        let report = verify(folder.path(), Mode::Full, true).expect("a log is there");
        assert!(report.breaks.is_empty(), "{recovery:?} left {report:?}");
    }
}

/// Every segment is still there, byte for byte, or in quarantine; only such as were never written may go.
fn assert_kept(image: &Image, dir: &Path) {
    let quarantined: Vec<Vec<u8>> = fs::read_dir(dir.join("quarantine"))
        .map(|files| {
            files.map(|file| fs::read(file.expect("listed").path()).expect("our own file")).collect()
        })
        .unwrap_or_default();
    for (name, bytes) in image.segments() {
        let stays = fs::read(dir.join(name)).is_ok_and(|found| found == *bytes);
        let empty = bytes.iter().all(|byte| *byte == 0);
        assert!(stays || empty || quarantined.contains(bytes), "{name} was changed or is gone");
    }
}

/// Writes the samples: `killed` is what a `kill -9` would have left, `closed` the same log after an orderly end.
///
/// # Panics
/// When the log does not do what it must.
pub fn write_sample(to: &Path) {
    let folder = folder();
    let mut settings = settings(folder.path());
    settings.create = true;
    settings.checkpoint_interval = Duration::from_millis(4);
    let mut opened = open_signed(&settings, 1, Some(signer())).expect("an empty folder");
    append(&mut opened, 3);
    opened.log.close(PATIENCE).expect("closed in order");
    settings.create = false;
    let mut opened = open_signed(&settings, 1, Some(signer())).expect("our own log");
    append(&mut opened, 3);
    let signed = opened.log.status().size;
    let since = Instant::now();
    while opened.log.status().signed_size < signed {
        assert!(since.elapsed() < PATIENCE, "{:?}", opened.log.status());
        std::thread::yield_now();
    }
    append(&mut opened, 1);
    copy(folder.path(), &to.join("killed"), KILLED);
    opened.log.close(PATIENCE).expect("closed in order");
    copy(folder.path(), &to.join("closed"), CLOSED);
}

fn append(opened: &mut Opened, events: usize) {
    for n in 0..events {
        let reason = format!("event {n}");
        let appender = &mut opened.appenders[0];
        let id =
            appender.append(&Event::Stop(StopEvent { reason: &reason }), Ack::Durable).expect("an open log");
        appender.submit();
        appender.wait(id, Ack::Durable, PATIENCE).expect("a working disk");
    }
}

/// Copies the files of a sample without the zeros that segments are filled up with.
fn copy(from: &Path, to: &Path, sample: &[(&str, &[u8])]) {
    fs::create_dir_all(to).expect("a folder for the sample");
    for (name, _) in sample {
        let mut bytes = fs::read(from.join(name)).expect("a file of the log");
        if name.ends_with(".seg") {
            bytes.truncate(records_of(&bytes).last().copied().unwrap_or(0));
        }
        fs::write(to.join(name), bytes).expect("the sample can be written");
    }
}

pub(super) fn verify(dir: &Path, mode: Mode, allow_unsigned: bool) -> Result<Report, AuditError> {
    let options = Options { mode, keys: vec![key()], allow_unsigned, threads: 1, ..Options::default() };
    verify_dir(dir, &options, &mut |_| {})
}

fn settings(dir: &Path) -> Settings {
    Settings { segment_bytes: SEGMENT_BYTES as u64, ..Settings::new(dir, ORIGIN) }
}

fn signer() -> CheckpointSigner {
    let key = SigningKey::from_bytes(&[3; 32]);
    let verifying_key = key.verifying_key().to_bytes();
    CheckpointSigner { verifying_key, sign: Box::new(move |message| Ok(key.sign(message).to_bytes())) }
}

pub(super) fn key() -> CheckpointKey {
    CheckpointKey::new(ORIGIN, signer().verifying_key)
}

/// A folder in memory where there is one: thousands of logs are written here.
pub(super) fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a folder for a small log")
}

fn restrict(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("our own file");
}
