//! Copies that are whole, begin late, are altered or cut.

use std::{path::Path, time::Duration};

use ed25519_dalek::{Signer as _, SigningKey};

use super::super::{
    Ack, CheckpointKey, CheckpointSigner, Entry, Event, Settings, StopEvent, Tail, export, open_signed,
};
use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

fn signing() -> SigningKey {
    SigningKey::from_bytes(&[5; 32])
}

fn key() -> CheckpointKey {
    CheckpointKey::new("copy.example/log", signing().verifying_key().to_bytes())
}

/// A log that was signed several times.
fn grow(dir: &Path) {
    for round in 0..3 {
        let signer = CheckpointSigner {
            verifying_key: signing().verifying_key().to_bytes(),
            sign: Box::new(|message| Ok(signing().sign(message).to_bytes())),
        };
        let settings = Settings {
            segment_bytes: 160 * 1024,
            create: true,
            checkpoint_interval: Duration::from_millis(10),
            ..Settings::new(dir, "copy.example/log")
        };
        let mut opened = open_signed(&settings, 1, Some(signer)).unwrap();
        for n in 0..20 {
            let reason = format!("round {round} \"event\"] {n}\n");
            let event = Event::Stop(StopEvent { reason: &reason });
            let id = opened.appenders[0].append(&event, Ack::Durable).unwrap();
            opened.appenders[0].submit();
            opened.appenders[0].wait(id, Ack::Durable, PATIENCE).unwrap();
        }
        // Each round has a checkpoint of its own.
        let (written, began) = (opened.log.status().durable_size, std::time::Instant::now());
        while opened.log.status().signed_size < written {
            assert!(began.elapsed() < PATIENCE, "nothing was signed");
            std::thread::yield_now();
        }
        opened.log.close(PATIENCE).unwrap();
    }
}

fn entries(dir: &Path) -> Vec<Entry> {
    let mut tail = Tail::first(dir).unwrap();
    std::iter::from_fn(|| tail.next().unwrap()).collect()
}

/// As the mirror sends it, and as a SIEM may store it.
fn line(entry: &Entry) -> String {
    let object: serde_json::Map<_, _> =
        entry.pairs().into_iter().map(|(name, text)| (name.into_owned(), text.into())).collect();
    serde_json::Value::Object(object).to_string()
}

fn check<T: AsRef<str>>(lines: &[T]) -> CopyReport {
    let mut copy = Copy::new(vec![key()]);
    lines.iter().for_each(|line| copy.line(line.as_ref().as_bytes()));
    copy.finish()
}

fn first(report: &CopyReport) -> (Class, u64) {
    let first = report.breaks.first().unwrap_or_else(|| panic!("{report:?}"));
    (first.class, first.seq)
}

#[test]
fn a_copy_proves_itself_in_any_order_and_with_repetitions_and_an_export_does_too() {
    let dir = tempfile::tempdir().unwrap();
    grow(dir.path());
    let entries = entries(dir.path());
    let mut lines: Vec<String> = entries.iter().map(line).collect();
    let report = check(&lines);
    assert_eq!((&report.breaks, report.exit_code()), (&vec![], 0), "{report:?}");
    assert_eq!(
        (report.records, report.first, report.origin.as_str()),
        (entries.len() as u64, 0, "copy.example/log")
    );
    assert!(report.checkpoints >= 3 && report.proven_from == 0, "{report:?}");
    let proven = report.proven_to;
    lines.reverse();
    lines.extend_from_within(3..9);
    lines.push("something else".into());
    let report = check(&lines);
    assert_eq!((&report.breaks, report.repeated, report.other_lines), (&vec![], 6, 1));
    assert_eq!(report.proven_to, proven);

    let mut rows = Vec::new();
    let filter = export::Filter::default();
    let source = export::Source { dir: dir.path(), keys: &[], size: None };
    export::export(&source, &filter, export::Format::JsonLines, &mut rows, &mut |_, _| {}).unwrap();
    let rows = String::from_utf8(rows).unwrap();
    let report = check(&rows.lines().collect::<Vec<_>>());
    assert_eq!((&report.breaks, report.without_header, report.proven_to), (&vec![], report.records, proven));
}

#[test]
fn a_copy_that_begins_late_is_proven_by_the_tree_of_its_first_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    grow(dir.path());
    let lines: Vec<String> = entries(dir.path()).iter().map(line).collect();
    let report = check(&lines[7..]);
    assert!(report.breaks.is_empty() && report.checkpoints >= 2, "{report:?}");
    // What comes before that checkpoint is tied to it by the links.
    assert_eq!((report.first, report.proven_from), (7, 7));
    // A copy with one checkpoint, none of whose records is in a known tree, proves nothing.
    let first = lines.iter().skip(7).position(|line| line.contains("\"checkpoint\":")).unwrap();
    assert_eq!(check(&lines[7..=7 + first]).exit_code(), 12);
}

#[test]
fn whatever_is_done_to_a_copy_has_a_name() {
    let dir = tempfile::tempdir().unwrap();
    grow(dir.path());
    let lines: Vec<String> = entries(dir.path()).iter().map(line).collect();
    let altered = |at: usize, change: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
        let mut object = serde_json::from_str(&lines[at]).unwrap();
        change(&mut object);
        let mut lines = lines.clone();
        lines[at] = serde_json::Value::Object(object).to_string();
        check(&lines)
    };
    // Any one record taken out, but the first and the last, which nobody outside can tell.
    for at in 1..lines.len() - 1 {
        let mut lines = lines.clone();
        lines.remove(at);
        let report = check(&lines);
        assert_eq!(first(&report), (Class::Deleted, at as u64), "{report:?}");
    }
    for (name, text) in [
        ("kind", "decision"),
        ("time", "2020-01-01T00:00:00.000000Z"),
        ("prev_hash", &"ab".repeat(32)),
        ("event_hash", &"ab".repeat(32)),
        ("event_hash", "junk"),
        ("header", "AAAA"),
    ] {
        let report = altered(12, &|object| drop(object.insert(name.into(), text.into())));
        assert_eq!(first(&report), (Class::AlteredHeader, 12), "{name}: {report:?}");
    }
    // Two that exchanged their places keep their hashes, so they are where they were.
    let exchanged = altered(12, &|object| drop(object.insert("seq".into(), "13".into())));
    assert!(exchanged.breaks.iter().any(|one| one.class == Class::AlteredHeader), "{exchanged:?}");
    // Without headers and with links made to fit, the tree tells.
    let mut forged: Vec<serde_json::Value> =
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    for object in &mut forged {
        object.as_object_mut().unwrap().remove("header");
    }
    forged[12]["event_hash"] = "cd".repeat(32).into();
    forged[13]["prev_hash"] = "cd".repeat(32).into();
    let forged: Vec<String> = forged.iter().map(ToString::to_string).collect();
    assert_eq!(check(&forged).breaks[0].class, Class::Rewritten);

    let checkpoint = lines.iter().position(|line| line.contains("\"checkpoint\":")).unwrap();
    let report = altered(checkpoint, &|object| drop(object.insert("checkpoint".into(), "bm90ZQ==".into())));
    assert_eq!(first(&report), (Class::Malformed, checkpoint as u64));
    let mut other = Copy::new(vec![CheckpointKey { verifying_key: [9; 32], ..key() }]);
    lines.iter().for_each(|line| other.line(line.as_bytes()));
    assert_eq!(other.finish().breaks[0].class, Class::WrongKey);
    let unsigned: Vec<&String> = lines.iter().take_while(|line| !line.contains("\"checkpoint\":")).collect();
    assert_eq!(check(&unsigned).exit_code(), 12);
    assert_eq!(check::<&str>(&[]).exit_code(), 12);
    // A hole that the mirror stated is a hole, and the reason is shown.
    let mut stated = lines.clone();
    stated.splice(5..9, [r#"{"kind":"mirror_gap","from":"5","to":"9","cause":"gone"}"#.to_owned()]);
    let report = check(&stated);
    assert_eq!(first(&report), (Class::Deleted, 5));
    assert!(report.breaks[0].detail.contains("gone"), "{report:?}");
}
