//! Damage that nobody planned and changes that somebody did, on logs of several segments: named with the right place
//! by verification, and never continued in silence by the next start. The cases are counted in FAULTS.md.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    tests::{Log2, SECOND, append, open_log, options, signer, small_log, verify, wait_signed, write},
    *,
};
use crate::audit::{AuditError, Decision, Opened, Settings, sim::Random, succeed};

/// A closed log of some segments, and what stands in each of its files.
struct Long {
    folder: tempfile::TempDir,
    segments: BTreeMap<u64, Log2>,
    report: Report,
}

impl Long {
    fn new(events: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut opened = open_log(folder.path());
        append(&mut opened, &(0..events).map(|n| format!("event {n}")).collect::<Vec<_>>());
        opened.log.close(SECOND).unwrap();
        let report = verify(folder.path());
        assert_eq!(report.breaks, vec![], "{report:?}");
        let read = |index| (index, Log2::of(fs::read(folder.path().join(segment_name(index))).unwrap()));
        let segments = (1..=report.segments).map(read).collect();
        Self { folder, segments, report }
    }

    fn path(&self, index: u64) -> PathBuf {
        self.folder.path().join(segment_name(index))
    }

    /// Record at a place, counted through all segments.
    fn seq_at(&self, index: u64, offset: usize) -> u64 {
        let before: usize = self.segments.range(..index).map(|(_, log)| log.records()).sum();
        (before + self.segments[&index].offsets.partition_point(|start| *start <= offset) - 1) as u64
    }

    /// Puts other bytes in a segment's place, and looks.
    fn with(&self, index: u64, bytes: &[u8]) -> Report {
        replace(&self.path(index), bytes);
        let report = verify(self.folder.path());
        replace(&self.path(index), &self.segments[&index].bytes);
        report
    }
}

fn replace(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o400)).unwrap();
}

fn below(random: &mut Random, bound: usize) -> usize {
    usize::try_from(random.below(bound as u64)).unwrap()
}

fn seed() -> u64 {
    let seed = std::env::var("EDGATE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    println!("EDGATE_SEED={seed}");
    seed
}

#[test]
fn any_flipped_bit_of_a_long_log_is_named_with_its_record() {
    let long = Long::new(2500);
    let mut random = Random(seed());
    for _ in 0..60 {
        let index = 1 + random.below(long.report.segments);
        let mut bytes = long.segments[&index].bytes.clone();
        let at = below(&mut random, bytes.len());
        bytes[at] ^= 1 << random.below(8);
        let report = long.with(index, &bytes);
        let first = report.breaks.first().unwrap_or_else(|| panic!("segment {index}, byte {at}: {report:?}"));
        assert_eq!((first.segment, first.seq), (index, long.seq_at(index, at)), "byte {at}: {first}");
        assert!(matches!(first.class, Class::AlteredBody | Class::AlteredHeader), "{first}");
    }
}

#[test]
fn misplaced_repeated_and_stale_blocks_are_named_where_they_lie() {
    let long = Long::new(2500);
    let mut random = Random(seed());
    let mut same_place = 0;
    for round in 0..150 {
        let (from, to) = (1 + random.below(long.report.segments), 1 + random.below(long.report.segments));
        let block = [512, 4096, 16384][below(&mut random, 3)];
        let source = &long.segments[&from].bytes;
        let mut bytes = long.segments[&to].bytes.clone();
        let at = below(&mut random, bytes.len().div_ceil(block)) * block;
        // A stale block lies where it lay in an older segment; a misdirected one anywhere.
        let start =
            if round % 2 == 0 { at } else { below(&mut random, source.len().div_ceil(block)) * block };
        let len = block.min(bytes.len() - at).min(source.len().saturating_sub(start));
        let whole = bytes.clone();
        bytes[at..at + len].copy_from_slice(&source[start.min(source.len() - len)..][..len]);
        let Some(different) = (0..whole.len()).find(|byte| whole[*byte] != bytes[*byte]) else { continue };
        same_place += u64::from(start == at);
        let report = long.with(to, &bytes);
        let first =
            report.breaks.first().unwrap_or_else(|| panic!("{from}:{start} over {to}:{at}: {report:?}"));
        // The start of another segment contradicts the end of the one before: where that is, or where it says it is.
        assert!(
            first.segment == to || (at == 0 && first.segment == to - 1 && first.seq <= long.seq_at(to, 0)),
            "{len} bytes from {from}:{start} over {to}:{at}: {first}"
        );
        // A whole record of another place is named by the number it carries, so it is the place that counts.
        let log = &long.segments[&to];
        let start = log.offsets[log.offsets.partition_point(|start| *start <= different) - 1];
        let there = start as u64..=(at + len) as u64;
        assert!(
            report.breaks.iter().any(|found| found.segment == to && there.contains(&found.offset)),
            "{len} bytes from {from}:{start} over {to}:{at}: {:?}",
            report.breaks
        );
    }
    assert!(same_place > 20, "{same_place}");
}

#[test]
fn a_good_record_in_another_place_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let log = small_log(folder.path());
    // Every record over every other of the same length.
    let mut tried = 0;
    for from in 0..log.records() {
        for to in (0..log.records()).filter(|to| *to != from) {
            let (source, target) =
                (log.offsets[from]..log.offsets[from + 1], log.offsets[to]..log.offsets[to + 1]);
            if source.len() != target.len() {
                continue;
            }
            let mut bytes = log.bytes.clone();
            bytes.copy_within(source, target.start);
            write(folder.path(), &bytes);
            let report = verify(folder.path());
            assert_eq!(report.breaks[0].seq, to as u64, "record {from} over {to}: {report:?}");
            tried += 1;
        }
    }
    assert!(tried > 10, "{tried}");
}

#[test]
fn segments_missing_in_two_places_are_two_breaks() {
    // aws-cli#7054: two digests deleted in a row were reported as one.
    let long = Long::new(5500);
    assert!(long.report.segments >= 6);
    for missing in [vec![2, 5], vec![2, 3, 5], vec![1, 3]] {
        for index in &missing {
            fs::remove_file(long.path(*index)).unwrap();
        }
        let report = verify(long.folder.path());
        let records: u64 = report
            .breaks
            .iter()
            .filter(|found| found.class == Class::MissingSegment)
            .map(|found| found.records)
            .sum();
        let expected: usize = missing.iter().map(|index| long.segments[index].records()).sum();
        assert_eq!(records, expected as u64, "{missing:?}: {:?}", report.breaks);
        let places = report.breaks.iter().filter(|found| found.class == Class::MissingSegment).count();
        assert_eq!(places, 2, "{missing:?}: {:?}", report.breaks);
        assert_eq!(report.breaks[0].segment, missing[0], "{:?}", report.breaks);
        for index in missing {
            replace(&long.path(index), &long.segments[&index].bytes);
        }
    }
    assert_eq!(verify(long.folder.path()).breaks, vec![]);
}

#[test]
fn a_segment_without_its_seal_is_named() {
    let long = Long::new(2500);
    for (index, log) in &long.segments {
        let seal = log.offsets[log.records() - 1];
        let report = long.with(*index, &log.bytes[..seal]);
        let first = report.breaks.first().unwrap_or_else(|| panic!("segment {index}: {report:?}"));
        assert!(first.seq == long.seq_at(*index, seal), "{first}");
    }
}

#[test]
fn every_flipped_byte_of_the_published_checkpoint_is_named() {
    let folder = tempfile::tempdir().unwrap();
    small_log(folder.path());
    let path = folder.path().join("checkpoint");
    let note = fs::read(&path).unwrap();
    for at in 0..note.len() {
        let mut changed = note.clone();
        changed[at] ^= 1 << (at % 7);
        fs::write(&path, changed).unwrap();
        let report = verify(folder.path());
        let first = report.breaks.first().unwrap_or_else(|| panic!("byte {at}: {report:?}"));
        let classes = [Class::BadSignature, Class::Malformed, Class::WrongKey, Class::WrongOrigin];
        assert!(classes.contains(&first.class), "byte {at}: {first}");
    }
}

/// Opens a log that somebody has changed.
fn reopen(dir: &Path) -> Result<Opened, AuditError> {
    let mut settings = Settings::new(dir, "test.example/log");
    settings.segment_bytes = 136 * 1024;
    settings.create = true;
    crate::audit::open_signed(&settings, 1, Some(signer()))
}

#[test]
fn a_closed_log_whose_tail_was_cut_is_not_continued() {
    let folder = tempfile::tempdir().unwrap();
    let log = small_log(folder.path());
    let mut cuts = log.offsets.clone();
    cuts.extend(log.offsets.iter().map(|offset| offset + 64));
    for cut in cuts.into_iter().filter(|cut| *cut < log.bytes.len()) {
        write(folder.path(), &log.bytes[..cut]);
        let refused = reopen(folder.path()).map(|opened| opened.recovery);
        assert!(
            matches!(refused, Err(AuditError::Damaged { .. } | AuditError::RolledBack { .. })),
            "cut at {cut} of {}: {refused:?}",
            log.bytes.len()
        );
        assert_eq!(
            fs::read(folder.path().join(segment_name(1))).unwrap(),
            &log.bytes[..cut],
            "and not repaired"
        );
        assert_eq!(segments(folder.path()), [segment_name(1)], "cut at {cut}: nothing is written beside it");
    }
    // Not a segment left: the folder does not count as a new one.
    fs::remove_file(folder.path().join(segment_name(1))).unwrap();
    let refused = reopen(folder.path()).map(|opened| opened.recovery);
    assert!(matches!(refused, Err(AuditError::RolledBack { .. })), "{refused:?}");
    assert_eq!(segments(folder.path()), Vec::<String>::new(), "and none is begun");
}

/// The names of the segments in a folder.
fn segments(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".seg")).collect();
    names.sort();
    names
}

#[test]
fn a_crashed_log_is_continued_only_behind_what_was_signed() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open_log(folder.path());
    append(&mut opened, &(0..4).map(|n| format!("event {n}")).collect::<Vec<_>>());
    // More than the first few records, however the sealer's turns fall.
    wait_signed(&opened.log, 5);
    append(&mut opened, &["after the checkpoint".to_owned()]);
    drop(opened);
    let signed = fs::read_to_string(folder.path().join("checkpoint")).unwrap();
    let signed: usize = signed.lines().nth(1).unwrap().parse().unwrap();
    let segment = folder.path().join(segment_name(1));
    let whole = fs::read(&segment).unwrap();
    let log = Log2::of(whole.clone());
    assert!(log.records() >= signed, "only what is durable is signed");
    let (mut refused, mut continued) = (0, 0);
    for cut in 1..=log.records() {
        let parent = tempfile::tempdir().unwrap();
        let copy = parent.path().join("audit");
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(folder.path()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
            }
        }
        let mut bytes = whole.clone();
        bytes[log.offsets[cut]..].fill(0);
        fs::write(copy.join(segment_name(1)), &bytes).unwrap();
        match reopen(&copy) {
            Ok(opened) => {
                assert!(cut >= signed, "{cut} records are left of {signed} signed ones");
                assert!(opened.recovery.size >= signed as u64);
                opened.log.close(SECOND).unwrap();
                assert_eq!(verify(&copy).breaks, vec![]);
                continued += 1;
            }
            Err(error) => {
                assert!(
                    cut < signed && matches!(error, AuditError::RolledBack { .. }),
                    "{cut} of {signed}: {error}"
                );
                // The way out that the refusal names is open, also where the signed note itself was taken away.
                fs::remove_file(copy.join("checkpoint")).unwrap();
                let decision = Decision { authority: "ticket 7", reason: "an old image", time: "20261127" };
                let successor = Settings { create: true, ..Settings::new(&copy, "test.example/log/2") };
                let done = succeed(&successor, &decision, None).unwrap().unwrap();
                assert!(done.damage.contains("rolled back: "), "{}", done.damage);
                assert_eq!(fs::read(done.folder.join(segment_name(1))).unwrap(), bytes, "kept as it was");
                refused += 1;
            }
        }
    }
    assert!(refused > 3 && continued > 0, "{refused} refused, {continued} continued");
}

#[test]
fn a_rewrite_without_any_checkpoint_is_unsigned_and_not_whole() {
    // Whoever has the folder but not the key can at best leave a chain that holds and that nobody signed.
    let folder = tempfile::tempdir().unwrap();
    let mut settings = Settings::new(folder.path(), "test.example/log");
    settings.create = true;
    let mut opened = crate::audit::open(&settings, 1).unwrap();
    append(&mut opened, &(0..4).map(|n| format!("forged {n}")).collect::<Vec<_>>());
    opened.log.close(SECOND).unwrap();
    let report = verify(folder.path());
    assert_eq!(report.breaks.iter().map(|found| found.class).collect::<Vec<_>>(), [Class::Unsigned]);
    assert_eq!(report.breaks[0].records, report.size, "all of it: {report:?}");
}

#[test]
fn an_older_and_another_log_are_seen_by_whoever_remembers() {
    // Root with the key can sign whatever it likes, but not what others have already seen.
    let folder = tempfile::tempdir().unwrap();
    let mut opened = open_log(folder.path());
    append(&mut opened, &(0..1500).map(|n| format!("event {n}")).collect::<Vec<_>>());
    opened.log.close(SECOND).unwrap();
    let older = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), older.path().join(entry.file_name())).unwrap();
        }
    }
    let mut opened = open_log(folder.path());
    append(&mut opened, &(0..1500).map(|n| format!("more {n}")).collect::<Vec<_>>());
    opened.log.close(SECOND).unwrap();
    let remembered = verify(folder.path()).trusted;
    let since = Options { since: remembered, ..options() };
    assert_eq!(verify_dir(folder.path(), &since, &mut |_| {}).unwrap().breaks, vec![]);
    // Yesterday's image, whole and signed in itself.
    assert_eq!(verify(older.path()).breaks, vec![]);
    let report = verify_dir(older.path(), &since, &mut |_| {}).unwrap();
    assert_ne!(report.exit_code(), 0, "{report:?}");
    // Another log of that name, as long, signed by the same key.
    let forged = tempfile::tempdir().unwrap();
    for opening in 0..3 {
        let mut opened = open_log(forged.path());
        append(&mut opened, &(0..1500).map(|n| format!("forged {n}")).collect::<Vec<_>>());
        opened.log.close(SECOND).unwrap();
        assert_eq!(verify(forged.path()).breaks, vec![]);
        // Shorter, as long, longer.
        let report = verify_dir(forged.path(), &since, &mut |_| {}).unwrap();
        assert_ne!(report.exit_code(), 0, "{opening}: {report:?}");
    }
}

#[test]
fn a_signature_of_another_kind_is_no_signature() {
    // C2SP signed-note: the key's id names name, kind and key together; kind 2 is ECDSA.
    let folder = tempfile::tempdir().unwrap();
    small_log(folder.path());
    let path = folder.path().join("checkpoint");
    let note = fs::read_to_string(&path).unwrap();
    let (text, signatures) = note.split_once("\n\n").unwrap();
    let (start, encoded) = signatures.trim_end().rsplit_once(' ').unwrap();
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD;
    let mut signature = engine.decode(encoded).unwrap();
    signature[..4].copy_from_slice(&[0, 0, 0, 2]);
    fs::write(&path, format!("{text}\n\n{start} {}\n", engine.encode(signature))).unwrap();
    let report = verify(folder.path());
    assert!(matches!(report.breaks[0].class, Class::WrongKey | Class::BadSignature), "{report:?}");
}
