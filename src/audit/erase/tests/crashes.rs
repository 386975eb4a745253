//! Erasures on the simulated disk: crashes at every operation, of the erasure and of the start behind it.

use super::*;
use crate::audit::{
    body::Body,
    crash_tests::{clock, folder, settings},
    error::AuditFailure,
    folder::SegmentFile,
    merkle::CompactRange,
    note::Checkpoint,
    open::resume,
    sim::{Barrier, Crash, Sim},
    verify::verify_part,
    walk::or_erased,
    writer::{FlushJob, Stamp, Writer, finish_record},
};

/// A finished segment of decisions with long and short bodies, and a second one that is being written.
fn begun(sim: &Sim) -> Writer {
    let folder = folder(sim);
    let (mut writer, _) = resume(&folder, &settings(), clock()).unwrap();
    let mut batch = Vec::new();
    for n in 0..6u64 {
        let start = batch.len();
        batch.resize(start + HEADER_BYTES, 0);
        let mut body = Body::begin(&mut batch);
        body.uint(1, 1);
        body.uint(2, 0);
        body.text(4, &"p".repeat(if n % 2 == 0 { 100 } else { 20 }));
        body.text(5, &"t".repeat(if n % 2 == 0 { 120 } else { 10 }));
        body.uint(9, 1);
        body.uint(10, 1);
        body.end();
        let flags = crate::audit::record::FLAG_REDACTABLE;
        finish_record(
            &mut batch,
            start,
            &Stamp { kind: Kind::Decision, flags, core: 0, core_seq: n + 1, epoch: 1 },
        );
    }
    writer.append(&mut batch).unwrap();
    writer.roll(folder.prepare(2, settings().segment_bytes).unwrap(), 1).unwrap();
    flush(&folder, &mut writer).unwrap();
    writer
}

fn land(folder: &Folder, writer: &mut Writer, job: &FlushJob) -> io::Result<()> {
    job.run()?;
    writer.end_commit(job.head.size);
    job.rolled.iter().try_for_each(|rolled| folder.finish(rolled.index, Some(rolled.bytes)))
}

fn flush(folder: &Folder, writer: &mut Writer) -> io::Result<()> {
    let job = writer.begin_commit().map_err(|failure| refused(&failure))?;
    land(folder, writer, &job)
}

fn refused(failure: &AuditFailure) -> io::Error {
    io::Error::other(failure.to_string())
}

type Segments = Vec<(SegmentFile, Vec<u8>)>;

fn read_segments(sim: &Sim) -> io::Result<Segments> {
    let folder = folder(sim);
    folder.segments()?.into_iter().map(|file| Ok((file, folder.read(file.index)?))).collect()
}

fn segments(sim: &Sim) -> Segments {
    read_segments(sim).unwrap()
}

/// Each record with its offset, of one segment.
fn records(segment: u64, bytes: &[u8]) -> Vec<Erasable> {
    let (mut offset, mut all) = (0, Vec::new());
    while let Ok(record) = or_erased(read_record(bytes, offset), bytes, offset) {
        let Header { seq, body_digest, body_len, .. } = record.header;
        all.push(Erasable { seq, body_digest, segment, offset: offset as u64, body_len });
        offset = record.next;
    }
    all
}

fn key() -> (CheckpointKey, SigningKey) {
    let key = SigningKey::from_bytes(&[5; 32]);
    let name = settings().origin;
    (CheckpointKey::new(name, key.verifying_key().to_bytes()), key)
}

/// A CHECKPOINT record of all there is.
fn sign(sim: &Sim, writer: &mut Writer) -> io::Result<()> {
    let (checkpoint, note, tree) = checkpoint(sim)?;
    record_checkpoint(writer, &checkpoint, &note, &tree)
}

fn checkpoint(sim: &Sim) -> io::Result<(Checkpoint, String, CompactRange)> {
    let mut tree = CompactRange::new(0);
    for (_, bytes) in read_segments(sim)? {
        let mut offset = 0;
        while let Ok(record) = or_erased(read_record(&bytes, offset), &bytes, offset) {
            tree.push(&record.hash);
            offset = record.next;
        }
    }
    let (named, secret) = key();
    let root = tree.root().unwrap();
    let checkpoint = Checkpoint { origin: named.name.clone(), size: tree.end(), root };
    let note = checkpoint.to_note(&named, &secret.sign(checkpoint.to_text().as_bytes()).to_bytes());
    Ok((checkpoint, note, tree))
}

fn record_checkpoint(
    writer: &mut Writer,
    checkpoint: &Checkpoint,
    note: &str,
    tree: &CompactRange,
) -> io::Result<()> {
    writer
        .append_own(Kind::Checkpoint, |body| {
            body.uint(1, checkpoint.size);
            body.bytes(2, &checkpoint.root);
            body.text_whole(3, note);
            body.bytes(4, &tree.to_bytes());
        })
        .map_err(|failure| refused(&failure))
}

fn order(writer: &mut Writer, targets: &[Erasable]) -> io::Result<()> {
    for record in targets {
        writer
            .append_own(Kind::Erase, |body| {
                body.uint(1, record.seq);
                body.bytes(2, &record.body_digest);
                body.text(3, "the officer");
                body.text(4, "case 7");
            })
            .map_err(|failure| refused(&failure))?;
    }
    Ok(())
}

fn targets(sim: &Sim) -> Vec<Erasable> {
    let all = segments(sim);
    records(1, &all[0].1).into_iter().filter(|record| (2..=6).contains(&record.seq)).collect()
}

/// The steps, in the order in which the eraser and the control plane take them.
fn erase(sim: &Sim, writer: &mut Writer, targets: &[Erasable]) -> io::Result<()> {
    let folder = folder(sim);
    let list: Vec<_> = targets
        .iter()
        .map(|record| Erasing { segment: 1, seq: record.seq, body_digest: record.body_digest, from: 2 })
        .collect();
    folder.set_erasing(&list)?;
    order(writer, targets)?;
    flush(&folder, writer)?;
    sign(sim, writer)?;
    flush(&folder, writer)?;
    overwrite(&folder, targets)?;
    folder.set_erasing(&[])
}

fn report(sim: &Sim) -> Report {
    let options = Options { keys: vec![key().0], allow_unsigned: true, ..Options::default() };
    let segments = segments(sim);
    let files: Vec<_> = segments.iter().map(|(file, _)| *file).collect();
    let bytes = |wanted: &SegmentFile| {
        segments.iter().find(|(file, _)| file == wanted).map(|(_, bytes)| bytes.clone())
    };
    verify_part(&files, &options, |file| Ok(bytes(file).unwrap())).unwrap()
}

fn start(sim: &Sim) -> io::Result<Resumed> {
    let folder = folder(sim);
    resume(&folder, &settings(), clock()).map_err(|error| io::Error::other(error.to_string()))?;
    resume_erasures(&folder, Some(&Holds::default()), &[key().0])
}

/// What is there after a crash is whole or lawful, and a start leaves no body that an ERASE in effect names; also one
/// behind a start that crashed.
fn check(sim: &Sim, targets: &[Erasable], story: &str) {
    assert_eq!(report(sim).breaks, vec![], "{story}");
    let signed = segments(sim).iter().any(|(_, bytes)| {
        let mut in_effect = InEffect::default();
        in_effect.scan(bytes, None, &[]);
        targets.iter().all(|record| in_effect.of(record.seq, &record.body_digest).is_some())
    });
    for again in (1..).step_by(2) {
        let first = sim.after(Crash::Kill);
        first.crash_at(again);
        let crashed = start(&first).is_err();
        let left = first.after(if crashed { Crash::Power } else { Crash::Kill });
        start(&left).unwrap_or_else(|error| panic!("{story}, crash {again} of the start: {error}"));
        let found = report(&left);
        assert_eq!(found.breaks, vec![], "{story}, crash {again} of the start");
        let redacted = if signed { targets.len() as u64 } else { 0 };
        assert_eq!(found.redacted, redacted, "{story}, crash {again} of the start: {found:?}");
        if !crashed {
            break;
        }
    }
}

#[test]
fn a_crash_at_every_operation_of_an_erasure_leaves_bodies_or_lawful_zeros() {
    let mut torn = 0;
    for seed in 0..6 {
        for at in 1.. {
            let sim = Sim::new(seed * 1000 + at);
            let mut writer = begun(&sim);
            let targets = targets(&sim);
            assert_eq!(targets.len(), 5);
            sim.crash_at(at);
            let ended = erase(&sim, &mut writer, &targets);
            let crash = if seed % 3 == 0 { Crash::Kill } else { Crash::Power };
            let left = sim.after(crash);
            torn += u64::from(report(&left).notices.iter().any(|one| one.class == Class::ErasePending));
            check(&left, &targets, &format!("seed {seed}, {crash:?} at {at}"));
            if ended.is_ok() {
                assert!(at > 10, "{at} operations");
                break;
            }
        }
    }
    assert!(torn > 10, "{torn} crashes before the last body is overwritten");
}

#[test]
fn a_writer_that_does_not_flush_its_zeros_is_caught() {
    let caught = (0..20).any(|seed| {
        let sim = Sim::new(seed);
        let mut writer = begun(&sim);
        let targets = targets(&sim);
        sim.skip(Some(Barrier::Overwrite));
        erase(&sim, &mut writer, &targets).unwrap();
        report(&sim.after(Crash::Power)).redacted < 5
    });
    assert!(caught);
}

#[test]
fn an_erasure_under_a_checkpoint_whose_record_came_two_segments_later_is_in_effect() {
    let sim = Sim::new(7);
    let mut writer = begun(&sim);
    let targets = targets(&sim);
    let folder = folder(&sim);
    order(&mut writer, &targets).unwrap();
    flush(&folder, &mut writer).unwrap();
    // Signed here, and recorded when the log is two segments further.
    let (checkpoint, note, tree) = checkpoint(&sim).unwrap();
    for segment in 3..=5 {
        writer.roll(folder.prepare(segment, settings().segment_bytes).unwrap(), 1).unwrap();
        flush(&folder, &mut writer).unwrap();
    }
    record_checkpoint(&mut writer, &checkpoint, &note, &tree).unwrap();
    flush(&folder, &mut writer).unwrap();
    overwrite(&folder, &targets).unwrap();
    let found = report(&sim.after(Crash::Power));
    assert_eq!((found.breaks.as_slice(), found.redacted), (&[][..], 5), "{found:?}");
}
