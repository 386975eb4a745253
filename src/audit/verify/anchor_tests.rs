//! What a checkpoint kept elsewhere shows of a log that is whole in itself.

use std::{collections::BTreeMap, fs, path::Path};

use ed25519_dalek::{Signer as _, SigningKey};

use super::{
    tests::{SECOND, append, key, open_log, options, signing_key},
    *,
};
use crate::audit::{
    WitnessKey,
    note::Checkpoint,
    sealer::CHECKPOINT_FILE,
    stored::list_segments,
    walk::{Depth, Walk},
};

fn grow(dir: &Path, text: &str, events: usize) {
    let mut opened = open_log(dir);
    append(&mut opened, &(0..events).map(|n| format!("{text} {n}")).collect::<Vec<_>>());
    opened.log.close(SECOND).unwrap();
}

fn kept(dir: &Path) -> Anchor {
    Anchor { name: "kept".into(), note: published_note(dir).unwrap().unwrap() }
}

fn signed(size: u64, root: Hash) -> Anchor {
    let checkpoint = Checkpoint { origin: key().name, size, root };
    let signature = signing_key().sign(checkpoint.to_text().as_bytes()).to_bytes();
    Anchor { name: "signed".into(), note: checkpoint.to_note(&key(), &signature) }
}

fn with(dir: &Path, anchors: &[Anchor]) -> Report {
    verify_dir(dir, &Options { anchors: anchors.to_vec(), ..options() }, &mut |_| {}).unwrap()
}

fn classes(report: &Report) -> Vec<Class> {
    report.breaks.iter().map(|found| found.class).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn an_anchor_of_any_size_is_compared_with_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    grow(dir, "first", 3000);
    let first = kept(dir);
    grow(dir, "second", 500);
    let report = with(dir, &[]);
    assert!(report.segments > 3, "{report:?}");
    // The tree head of each size, by hand.
    let mut tree = crate::audit::merkle::CompactRange::new(0);
    let mut roots = BTreeMap::from([(0, tree.root().unwrap())]);
    for segment in list_segments(dir).unwrap() {
        let bytes = fs::read(dir.join(segment_name(segment.index))).unwrap();
        let mut walk = Walk::new(&bytes, Depth::Bodies);
        let mut offset = 0;
        while let Ok(record) = walk.read(offset) {
            offset = record.next;
            tree.push(&record.hash);
            roots.insert(tree.end(), tree.root().unwrap());
        }
    }
    let mut sizes: Vec<u64> = roots.keys().copied().step_by(97).collect();
    sizes.extend([0, 1, 2, 1023, 1024, 1025, report.size - 1, report.size]);
    let anchors: Vec<Anchor> = sizes.iter().map(|size| signed(*size, roots[size])).collect();
    for mode in [Mode::Full, Mode::Quick] {
        let options = Options { mode, anchors: anchors.clone(), ..options() };
        let report = verify_dir(dir, &options, &mut |_| {}).unwrap();
        assert_eq!(report.breaks, vec![], "{report:?}");
        assert_eq!(report.anchors.len(), anchors.len());
        assert!(report.anchors.iter().all(|verdict| verdict.failed.is_none()));
    }
    for size in sizes {
        let report = with(dir, &[first.clone(), signed(size, [7; 32])]);
        assert_eq!(classes(&report), [Class::Rollback], "{size}: {report:?}");
        assert_eq!((report.exit_code(), report.anchors[0].failed), (25, None));
    }
}

/// Fault 18: yesterday's disk image is whole in itself.
#[test]
fn yesterdays_log_is_a_rollback_for_whoever_kept_todays_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, yesterday) = (folder.path().join("audit"), folder.path().join("yesterday"));
    grow(&dir, "one", 200);
    let old = kept(&dir);
    copy(&dir, &yesterday);
    grow(&dir, "two", 200);
    let new = kept(&dir);
    assert_eq!(with(&dir, &[old.clone(), new.clone()]).breaks, vec![]);
    let report = with(&yesterday, &[old.clone(), new.clone()]);
    assert_eq!((classes(&report), report.exit_code()), (vec![Class::Rollback], 25), "{report:?}");
    assert_eq!(report.anchors[0].failed, None);
    assert!(report.breaks[0].to_string().contains("records were signed"), "{}", report.breaks[0]);

    // It goes on from there, signed with the same key, until it is longer: a fork.
    grow(&yesterday, "other", 900);
    let report = with(&yesterday, &[old, new]);
    assert_eq!((classes(&report), report.exit_code()), (vec![Class::Rollback], 25), "{report:?}");
    assert!(report.breaks[0].to_string().contains("are not those that were signed"), "{}", report.breaks[0]);
}

/// Fault 17: a rewrite of the same length, by someone who has the key.
#[test]
fn a_rewrite_of_the_same_length_is_a_rollback() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    grow(&one, "aaaa", 100);
    grow(&two, "bbbb", 100);
    let (mine, other) = (kept(&one), kept(&two));
    let size = |anchor: &Anchor| Checkpoint::read_unverified(&anchor.note).unwrap().size;
    let report = with(&two, std::slice::from_ref(&mine));
    assert_eq!(report.exit_code(), 25, "{} and {}: {report:?}", size(&mine), size(&other));
    assert_eq!(with(&two, &[other]).exit_code(), 0);
}

/// Fault 16: whatever is cut off, the anchor tells, also where the log's own checkpoint is gone with it.
#[test]
fn a_cut_tail_is_a_rollback_also_without_the_published_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    grow(dir, "event", 2000);
    let anchor = kept(dir);
    fs::remove_file(dir.join(CHECKPOINT_FILE)).unwrap();
    let last = list_segments(dir).unwrap().last().unwrap().index;
    let path = dir.join(segment_name(last));
    let bytes = fs::read(&path).unwrap();
    let mut cuts = vec![0];
    let mut walk = Walk::new(&bytes, Depth::Bodies);
    while let Ok(record) = walk.read(*cuts.last().unwrap()) {
        cuts.push(record.next);
    }
    cuts.pop();
    cuts.extend([cuts[1] + 9, cuts[cuts.len() / 2] + 100]);
    for cut in cuts {
        fs::remove_file(&path).unwrap();
        fs::write(&path, &bytes[..cut]).unwrap();
        let report = with(dir, std::slice::from_ref(&anchor));
        assert!(classes(&report).contains(&Class::Rollback), "cut at {cut}: {report:?}");
    }
    fs::remove_file(&path).unwrap();
    assert!(classes(&with(dir, &[anchor])).contains(&Class::Rollback));
}

/// Fault 20: an anchor that cannot be believed is a failure, with its class, and never a pass.
#[test]
fn an_anchor_that_cannot_be_believed_fails_with_its_class() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    grow(dir, "event", 20);
    let good = kept(dir);
    let (text, _) = good.note.split_once("\n\n").unwrap();
    let stranger = SigningKey::from_bytes(&[9; 32]);
    let stranger_key = CheckpointKey::new(key().name, stranger.verifying_key().to_bytes());
    let checkpoint = Checkpoint::read_unverified(&good.note).unwrap();
    let signature = stranger.sign(checkpoint.to_text().as_bytes()).to_bytes();
    let other_log = Checkpoint { origin: "other.example/log".into(), ..checkpoint };
    let other_key = CheckpointKey { name: other_log.origin.clone(), ..key() };
    let other_signature = signing_key().sign(other_log.to_text().as_bytes()).to_bytes();
    let mut flipped = good.note.clone().into_bytes();
    let digit = good.note.find('\n').unwrap() + 1;
    flipped[digit] ^= 1;
    for (note, class) in [
        (format!("{text}\n\n"), Class::Unsigned),
        (checkpoint.to_note(&stranger_key, &signature), Class::WrongKey),
        (other_log.to_note(&other_key, &other_signature), Class::WrongOrigin),
        (String::from_utf8(flipped).unwrap(), Class::BadSignature),
        (good.note[..good.note.len() / 2].to_owned(), Class::Malformed),
        (String::new(), Class::Malformed),
        ("\u{fffd}".repeat(100), Class::Malformed),
    ] {
        let keys = vec![key(), CheckpointKey { name: "other.example/log".into(), ..key() }];
        let anchors = vec![Anchor { name: "a".into(), note }, good.clone()];
        let report = verify_dir(dir, &Options { keys, anchors, ..options() }, &mut |_| {}).unwrap();
        assert_eq!((classes(&report), report.exit_code()), (vec![class], class.exit_code()), "{report:?}");
        assert_eq!(report.anchors[1].failed, None, "the other one is looked at all the same");
    }
    // Without any key nothing can be believed.
    let options = Options { keys: vec![], allow_unsigned: true, anchors: vec![good], ..options() };
    let report = verify_dir(dir, &options, &mut |_| {}).unwrap();
    assert_eq!(classes(&report), [Class::WrongKey], "{report:?}");
}

#[test]
fn only_the_cosignatures_of_witnesses_that_count_do() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    grow(dir, "event", 20);
    let plain = kept(dir);
    let checkpoint = Checkpoint::read_unverified(&plain.note).unwrap();
    let witness = |seed: u8| {
        let signing = SigningKey::from_bytes(&[seed; 32]);
        let key = WitnessKey { name: "w.example".into(), verifying_key: signing.verifying_key().to_bytes() };
        let signature = signing.sign(WitnessKey::message(&checkpoint, 77).as_bytes()).to_bytes();
        (key.clone(), key.line(77, &signature))
    };
    let (ours, line) = witness(1);
    let (theirs, other_line) = witness(2);
    let check = |note: String, witnesses: &[WitnessKey]| {
        let anchors = vec![Anchor { name: "a".into(), note }];
        let options = Options { anchors, witnesses: witnesses.to_vec(), ..options() };
        verify_dir(dir, &options, &mut |_| {}).unwrap()
    };
    let report = check(plain.note.clone() + &other_line + &line, &[ours.clone(), theirs.clone()]);
    assert_eq!((report.exit_code(), report.anchors[0].cosigned.len()), (0, 2), "{report:?}");
    assert_eq!(report.anchors[0].cosigned[0].time, 77);
    for note in [plain.note.clone(), plain.note.clone() + &other_line] {
        let report = check(note, std::slice::from_ref(&ours));
        assert_eq!(classes(&report), [Class::WrongKey], "{report:?}");
    }
    let forged = other_line.replacen("w.example ", "w.example  ", 1);
    assert_eq!(classes(&check(plain.note.clone() + &forged, &[])), [Class::Malformed]);
    // A line of ours that does not verify is a failure, whatever else is there.
    let damaged = {
        let at = line.len() - 10;
        let other = if line.as_bytes()[at] == b'A' { "B" } else { "A" };
        format!("{}{other}{}", &line[..at], &line[at + 1..])
    };
    let report = check(plain.note + &damaged + &other_line, &[ours, theirs]);
    assert_eq!(classes(&report), [Class::BadSignature], "{report:?}");
}

#[test]
fn what_an_earlier_run_covered_is_not_compared_again_and_does_not_pass() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    grow(dir, "one", 20);
    let old = kept(dir);
    let trusted = with(dir, &[]).trusted.unwrap();
    grow(dir, "two", 20);
    let new = kept(dir);
    let since = |anchors: Vec<Anchor>| {
        let options = Options { since: Some(trusted.clone()), anchors, ..options() };
        verify_dir(dir, &options, &mut |_| {}).unwrap()
    };
    assert_eq!(since(vec![old.clone(), new]).breaks, vec![], "the state ends where the old anchor does");
    let size = Checkpoint::read_unverified(&old.note).unwrap().size;
    let report = since(vec![signed(size - 1, [1; 32])]);
    assert_eq!((classes(&report), report.exit_code()), (vec![Class::Unchecked], 17), "{report:?}");
}
