//! Each rule by which a start tells a torn tail from damage, on logs that this one rule alone refuses, and what the start
//! records of what it found.

use super::{
    AuditError,
    crash_tests::{clock, folder, push_event, settings},
    folder::segment_name,
    open::resume,
    record::{HEADER_BYTES, Hash, Link, chain},
    schema::{self, Kind},
    sim::{Crash, Sim},
    walk::{Record, read_record},
};

/// A log that was killed while it was written: some events, all of them durable, in one segment.
fn killed(events: u64) -> Sim {
    let sim = Sim::new(1);
    let folder = folder(&sim);
    let (mut writer, _) = resume(&folder, &settings(), clock()).unwrap();
    let mut batch = Vec::new();
    (0..events).for_each(|number| push_event(&mut batch, number, 10));
    writer.append(&mut batch).unwrap();
    let job = writer.begin_commit().unwrap();
    job.run().unwrap();
    sim
}

/// The record that `bytes` begin with, whole in itself, but with another number or another predecessor; and its hash.
pub(super) fn forge(record: &Record<'_>, bytes: &[u8], seq_off: u64, hash_off: u8) -> (Vec<u8>, Hash) {
    let header = &record.header;
    let mut forged = bytes[..HEADER_BYTES + record.body.len()].to_vec();
    let mut prev_hash = header.prev_hash;
    prev_hash[0] ^= hash_off;
    let link = Link { seq: header.seq + seq_off, wall_ns: header.wall_ns, mono_ns: header.mono_ns };
    let hash = chain(&mut forged, link, &prev_hash);
    (forged, hash)
}

/// The stored records of one segment: where each starts, and its kind.
pub(super) fn records(bytes: &[u8]) -> Vec<(usize, Option<Kind>)> {
    let (mut offset, mut found) = (0, Vec::new());
    while let Ok(record) = read_record(bytes, offset) {
        found.push((offset, record.kind()));
        offset = record.next;
    }
    found
}

/// Puts bytes into a stored segment, behind everyone's back.
fn put(sim: &Sim, index: u64, offset: usize, bytes: &[u8]) {
    let found = folder(sim).read(index).unwrap();
    for (at, byte) in bytes.iter().enumerate() {
        (0..8).filter(|bit| (found[offset + at] ^ byte) >> bit & 1 == 1).for_each(|bit| {
            sim.flip(&segment_name(index), offset + at, bit);
        });
    }
}

/// The cause for which a start refuses this log.
fn refusal(sim: &Sim) -> String {
    match resume(&folder(sim), &settings(), clock()) {
        Err(AuditError::Damaged { cause, .. }) => cause,
        other => panic!("{:?}", other.map(|(_, report)| report)),
    }
}

#[test]
fn what_a_start_found_and_did_is_recorded() {
    const TORN: &[u8] = b"EDG\x01 cut short";
    for torn in [false, true] {
        let sim = killed(3);
        let bytes = folder(&sim).read(1).unwrap();
        let end = read_record(&bytes, records(&bytes).last().unwrap().0).unwrap().next;
        if torn {
            put(&sim, 1, end, TORN);
        }
        let (_, report) = resume(&folder(&sim), &settings(), clock()).unwrap();
        assert_eq!((report.clean, report.torn.len()), (false, usize::from(torn)));
        let next = folder(&sim).read(2).unwrap();
        let (at, _) = *records(&next).iter().find(|(_, kind)| *kind == Some(Kind::Recovery)).unwrap();
        let record = read_record(&next, at).unwrap();
        let body = record.read_body().unwrap();
        let place = [1, 2, 4].map(|field| schema::uint(&body, field).unwrap());
        assert_eq!(place, [1, end as u64, if torn { TORN.len() as u64 } else { 0 }]);
    }
}

#[test]
fn more_commits_behind_the_end_than_a_crash_can_leave_are_no_torn_tail() {
    for (commits, torn) in [(2, true), (3, false)] {
        let sim = Sim::new(1);
        let folder = folder(&sim);
        let (mut writer, _) = resume(&folder, &settings(), clock()).unwrap();
        let end = usize::try_from(writer.position().1).unwrap();
        // None of them knows of another: what each flushed was not known when the next was written.
        for number in 0..commits {
            let mut batch = Vec::new();
            push_event(&mut batch, number, 10);
            writer.append(&mut batch).unwrap();
            writer.begin_commit().unwrap().run().unwrap();
        }
        sim.corrupt(&segment_name(1), end + 70);
        match torn {
            true => assert_eq!(resume(&folder, &settings(), clock()).unwrap().1.torn.len(), 1),
            false => assert!(refusal(&sim).contains("3 commits follow"), "{}", refusal(&sim)),
        }
    }
}

#[test]
fn a_record_that_a_commit_knew_to_be_durable_is_no_torn_tail() {
    let sim = Sim::new(1);
    let folder = folder(&sim);
    let (mut writer, _) = resume(&folder, &settings(), clock()).unwrap();
    let end = usize::try_from(writer.position().1).unwrap();
    // Two commits, no more than a crash can leave behind the end; but the second knows of the first.
    for number in 0..2 {
        let mut batch = Vec::new();
        push_event(&mut batch, number, 10);
        writer.append(&mut batch).unwrap();
        let job = writer.begin_commit().unwrap();
        job.run().unwrap();
        writer.end_commit(job.head.size);
    }
    sim.corrupt(&segment_name(1), end + 70);
    assert!(refusal(&sim).contains("everything below record"), "{}", refusal(&sim));
}

#[test]
fn bytes_behind_a_seal_and_a_finished_segment_that_cannot_be_read_are_damage() {
    let sim = Sim::new(1);
    let folder = folder(&sim);
    let (mut writer, _) = resume(&folder, &settings(), clock()).unwrap();
    let job = writer.close(0).unwrap();
    job.run().unwrap();
    let (segment, end) = writer.position();
    put(&sim, segment, usize::try_from(end).unwrap(), b"more");
    assert_eq!(refusal(&sim), "bytes follow the seal");

    let sim = killed(3);
    let folder = super::crash_tests::folder(&sim);
    let (_, _) = resume(&folder, &settings(), clock()).unwrap();
    folder.finish(1, None).unwrap();
    folder.remove(2).unwrap();
    sim.corrupt(&segment_name(1), 70);
    assert!(refusal(&sim).starts_with("a finished segment cannot be read: "), "{}", refusal(&sim));
}

#[test]
fn a_segment_that_ended_elsewhere_than_its_successor_says_is_damage() {
    let sim = killed(3);
    let folder = folder(&sim);
    let (mut writer, _) = resume(&folder, &settings(), clock()).unwrap();
    // The successor knows that what it says is durable.
    for _ in 0..2 {
        let job = writer.begin_commit().unwrap();
        job.run().unwrap();
        writer.end_commit(job.head.size);
    }
    let bytes = folder.read(1).unwrap();
    let end = read_record(&bytes, records(&bytes).last().unwrap().0).unwrap().next;
    // Not finished yet, so that its tail can be anything.
    let live = sim.after(Crash::Kill);
    live.unfinish(&segment_name(1));
    assert!(
        resume(&super::crash_tests::folder(&live), &settings(), clock()).is_ok(),
        "as it was, it is continued"
    );
    let live = sim.after(Crash::Kill);
    live.unfinish(&segment_name(1));
    put(&live, 1, end + 64, b"later");
    assert!(refusal(&live).starts_with("the segment before it ended elsewhere"), "{}", refusal(&live));
}

#[test]
fn a_record_with_another_number_or_another_predecessor_does_not_continue_the_chain() {
    for (seq_off, hash_off) in [(1, 0), (0, 1)] {
        let sim = killed(3);
        let bytes = folder(&sim).read(1).unwrap();
        // The last event; only the COMMIT follows it, and claims nothing of it.
        let all = records(&bytes);
        let (at, kind) = all[all.len() - 2];
        assert_eq!(kind, Some(Kind::Stop));
        let record = read_record(&bytes, at).unwrap();
        let (forged, _) = forge(&record, &bytes[at..], seq_off, hash_off);
        put(&sim, 1, at, &forged);
        let (_, report) = resume(&folder(&sim), &settings(), clock()).unwrap();
        assert_eq!(report.size, record.header.seq, "the chain ends before it");
        assert_eq!(report.torn[0].offset, at as u64);
    }
}
