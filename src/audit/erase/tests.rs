//! Bodies erased by an authority, by nobody, by forgers, and by a node that crashes in between.

mod archived;
mod crashes;
mod resumed;

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path};

use ed25519_dalek::{Signer as _, SigningKey};

use super::*;
use crate::audit::{
    Ack, EraseEvent, Event, Opened, Settings,
    export::{Filter, Format, Source, export},
    export_again::compare,
    folder::segment_name,
    hold::Hold,
    proof::{Expected, Prover, verify_inclusion},
    running::{
        DECISIONS, ORIGIN, PATIENCE, Signed, classes, decide, filled, key, open_log, options, until, verify,
    },
    stored::list_segments,
    verify::{Class, Mode, Options, Report, Trusted, verify_dir},
};

/// Puts ERASE records into the log.
fn order(opened: &mut Opened, records: &[(u64, Hash)]) {
    let appender = opened.appenders.last_mut().unwrap();
    let mut last = None;
    for (seq, body_digest) in records {
        let erase = EraseEvent { seq: *seq, body_digest, authority: "the officer", reason: "case 7" };
        last = Some(appender.append(&Event::Erase(erase), Ack::Durable).unwrap());
    }
    appender.wait(last.unwrap(), Ack::Durable, PATIENCE).unwrap();
}

fn named(records: &[Erasable]) -> Vec<(u64, Hash)> {
    records.iter().map(|record| (record.seq, record.body_digest)).collect()
}

/// Erases as the control plane does.
fn erase(opened: &mut Opened, names: &[RecordName]) -> Vec<Erasable> {
    let eraser = opened.log.eraser().unwrap();
    let wanted = eraser.find(names).unwrap();
    eraser.announce(&wanted).unwrap();
    order(opened, &named(&wanted.erasable));
    eraser.overwrite(&wanted, PATIENCE).unwrap();
    wanted.erasable
}

fn notices(report: &Report, class: Class) -> usize {
    report.notices.iter().filter(|found| found.class == class).count()
}

/// Changes stored bytes behind everyone's back.
fn tamper(dir: &Path, segment: u64, change: impl FnOnce(&mut Vec<u8>)) {
    let path = dir.join(segment_name(segment));
    let mode = fs::metadata(&path).unwrap().permissions();
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, mode).unwrap();
}

fn zero(dir: &Path, record: &Erasable) {
    tamper(dir, record.segment, |bytes| {
        let at = usize::try_from(record.offset).unwrap();
        bytes[at + HASHED_BYTES..at + HEADER_BYTES + record.body_len as usize].fill(0);
    });
}

fn names(ids: &[RecordId]) -> Vec<RecordName> {
    ids.iter().copied().map(RecordName::Id).collect()
}

/// The first few decisions of the first segment.
fn some(opened: &Opened, ids: &[RecordId]) -> Wanted {
    opened.log.eraser().unwrap().find(&names(&ids[..3])).unwrap()
}

#[test]
fn an_erased_body_is_gone_and_every_proof_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let (mut opened, ids) = filled(dir, Signed::Soon);
    let keys = [key()];
    let prover = Prover { dir, tiles: None, keys: &keys };
    let expected = Expected { keys: &keys, origin: None, id: None };
    let before = prover.inclusion(ids[7], true, &mut |_| {}).unwrap().to_text();
    let first = fs::read(dir.join(segment_name(1))).unwrap();

    let records = erase(&mut opened, &names(&ids[7..10]));
    assert_eq!(records.len(), 3);
    assert!(!dir.join("erasing").exists());
    let after = fs::read(dir.join(segment_name(1))).unwrap();
    for word in [&b"person-7"[..], b"person-8", b"person-9"] {
        assert!(memchr::memmem::find(&first, word).is_some());
        let stays =
            memchr::memmem::find_iter(&after, word).any(|at| !after[at + word.len()].is_ascii_digit());
        assert!(!stays, "{}", String::from_utf8_lossy(word));
    }
    assert_eq!(fs::metadata(dir.join(segment_name(1))).unwrap().permissions().mode() & 0o7777, 0o400);

    for mode in [Mode::Full, Mode::Quick, Mode::Range { from: records[0].seq, to: records[0].seq + 1 }] {
        let report = verify_dir(dir, &Options { mode, ..options() }, &mut |_| {}).unwrap();
        assert_eq!((classes(&report), report.redacted), (vec![], 3), "{mode:?}");
    }
    // What was proven before still is; the neighbour, and what is left of the record itself, can be proven now.
    verify_inclusion(before.as_bytes(), &expected).unwrap();
    for id in [ids[6], ids[7], ids[10]] {
        let proof = prover.inclusion(id, id != ids[7], &mut |_| {}).unwrap();
        verify_inclusion(proof.to_text().as_bytes(), &expected).unwrap();
    }
    let refused = prover.inclusion(ids[7], true, &mut |_| {}).unwrap_err();
    assert!(matches!(refused, ProveError::BodyErased { .. }), "{refused}");
    let again = opened.log.eraser().unwrap().find(&names(&ids[7..10])).unwrap();
    assert_eq!((again.erasable, again.erased.len()), (vec![], 3));

    // Several starts later, and with the tree to be made anew, it is as lawful as it was.
    opened.log.close(PATIENCE).unwrap();
    for _ in 0..2 {
        fs::remove_file(dir.join("checkpoint.tree")).unwrap();
        let opened = open_log(dir, Signed::Soon);
        until(|| opened.log.status().signed_size > u64::from(DECISIONS));
        opened.log.close(PATIENCE).unwrap();
    }
    assert_eq!((classes(&verify(dir)), verify(dir).redacted), (vec![], 3));
}

#[test]
fn zeros_that_no_authority_ordered_are_an_altered_body_in_every_mode() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let (mut opened, ids) = filled(dir, Signed::Soon);
    erase(&mut opened, &names(&ids[30..32]));
    let forged = some(&opened, &ids).erasable[1];
    opened.log.close(PATIENCE).unwrap();
    let whole = verify_dir(dir, &Options { upto: Some(300), ..options() }, &mut |_| {}).unwrap();
    assert_eq!(
        whole.breaks.len(),
        2,
        "what is erased behind the part that is looked at is not explained there"
    );
    zero(dir, &forged);
    for mode in [Mode::Full, Mode::Quick, Mode::Range { from: forged.seq, to: forged.seq + 1 }] {
        let report = verify_dir(dir, &Options { mode, ..options() }, &mut |_| {}).unwrap();
        assert_eq!(
            (classes(&report), report.breaks[0].seq),
            (vec![Class::AlteredBody], forged.seq),
            "{mode:?}"
        );
        assert_eq!(report.redacted, 2);
    }
    // Nor is it taken for erased by whoever is asked to erase it.
    let opened = open_log(dir, Signed::Soon);
    until(|| opened.log.status().signed_size > 0);
    let refused = opened.log.eraser().unwrap().find(&[RecordName::Seq(forged.seq)]).unwrap_err();
    assert!(matches!(&refused, EraseError::Damaged { seq, .. } if *seq == forged.seq), "{refused}");
    drop(opened);
    // Nor is it exported, nor shown as erased.
    let source = Source { dir, keys: &[key()], size: None };
    let exported = export(&source, &Filter::default(), Format::JsonLines, &mut io::sink(), &mut |_, _| {});
    assert!(exported.unwrap_err().to_string().contains("overwritten with zeros"));
}

#[test]
fn only_what_may_be_erased_is_and_the_first_that_may_not_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let (mut opened, ids) = filled(dir, Signed::Soon);
    let eraser = opened.log.eraser().unwrap();
    let refused = |name: RecordName| eraser.find(&[RecordName::Id(ids[0]), name]).unwrap_err();
    assert!(matches!(refused(RecordName::Seq(0)), EraseError::NotRedactable { seq: 0, .. }));
    assert!(matches!(refused(RecordName::Seq(1 << 40)), EraseError::Unknown(_)));
    let unknown = RecordId { core_seq: 1 << 40, ..ids[0] };
    assert!(matches!(refused(RecordName::Id(unknown)), EraseError::Unknown(_)));
    let late = *decide(&mut opened, 1).last().unwrap();
    assert!(matches!(refused(RecordName::Id(late)), EraseError::NotFinished(_)));
    let mut holds = Holds::default();
    let hold = Hold {
        name: "case-9".into(),
        from_ns: 0,
        to_ns: u64::MAX,
        authority: "a".into(),
        reason: "b".into(),
    };
    holds.place(hold).unwrap();
    holds.store(dir).unwrap();
    assert!(matches!(refused(RecordName::Id(ids[1])), EraseError::Held { hold, .. } if hold == "case-9"));
    fs::write(dir.join("holds"), "not a hold").unwrap();
    assert!(matches!(refused(RecordName::Id(ids[1])), EraseError::Audit(_)));
    fs::remove_file(dir.join("holds")).unwrap();
    zero(dir, &some(&opened, &ids).erasable[2]);
    tamper(dir, 1, |bytes| {
        let at = memchr::memmem::find(bytes, b"person-1").unwrap();
        bytes[at] ^= 1;
    });
    assert!(matches!(refused(RecordName::Id(ids[1])), EraseError::Damaged { .. }));
    assert_eq!("17".parse::<RecordName>(), Ok(RecordName::Seq(17)));
    assert_eq!(ids[0].to_string().parse::<RecordName>(), Ok(RecordName::Id(ids[0])));
    assert!("person".parse::<RecordName>().is_err());
}

#[test]
fn an_erase_that_names_what_it_cannot_is_a_break_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let (mut opened, ids) = filled(dir, Signed::Soon);
    let target = some(&opened, &ids).erasable[0];
    let open_digest = {
        let bytes = fs::read(dir.join(segment_name(1))).unwrap();
        Header::parse(bytes.first_chunk().unwrap()).unwrap().body_digest
    };
    order(&mut opened, &[(target.seq, [7; 32])]);
    order(&mut opened, &[(0, open_digest)]);
    order(&mut opened, &[(1 << 40, [7; 32])]);
    // In its own segment: the decision is there, and the next ERASE says so of it.
    let late = *decide(&mut opened, 1).last().unwrap();
    let (segment, offset) = find_id(Segments::of(dir), late).unwrap().unwrap();
    let (header, _) = opened.log.eraser().unwrap().read(segment, offset).unwrap().unwrap();
    order(&mut opened, &[(header.seq, header.body_digest)]);
    opened.log.close(PATIENCE).unwrap();
    let report = verify(dir);
    assert_eq!(classes(&report), vec![Class::BadErase; 4], "{report:?}");
    let words: Vec<_> = report.breaks.iter().map(|found| found.detail.clone()).collect();
    for (at, word) in ["another digest", "never erased", "not before it", "same segment"].iter().enumerate() {
        assert!(words[at].contains(word), "{words:?}");
    }
    // A wrong digest explains nothing.
    zero(dir, &target);
    assert_eq!(classes(&verify(dir))[0], Class::AlteredBody);
}

#[test]
fn an_erase_that_a_crash_left_unsigned_erases_nothing_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let (mut opened, ids) = filled(dir, Signed::OnceOnly);
    until(|| opened.log.status().signed_size > u64::from(DECISIONS));
    let wanted = some(&opened, &ids);
    let eraser = opened.log.eraser().unwrap();
    eraser.announce(&wanted).unwrap();
    order(&mut opened, &named(&wanted.erasable));
    let refused = eraser.overwrite(&wanted, Duration::from_millis(20)).unwrap_err();
    assert!(matches!(refused, EraseError::NotSigned), "{refused}");
    let records = wanted.erasable.clone();
    drop((opened, eraser, wanted));
    assert_eq!((classes(&verify(dir)), notices(&verify(dir), Class::ErasePending)), (vec![], 0));

    // The next start signs the tail it found, and the ERASE in it; that does not make it count.
    let opened = open_log(dir, Signed::Soon);
    assert_eq!(opened.recovery.erasures.kept, records.iter().map(|record| record.seq).collect::<Vec<_>>());
    until(|| opened.log.status().signed_size > u64::from(DECISIONS));
    opened.log.close(PATIENCE).unwrap();
    let report = verify(dir);
    assert_eq!((classes(&report), notices(&report, Class::ErasePending)), (vec![], 3), "{report:?}");
    assert!(report.notices.iter().any(|notice| notice.detail.contains("has no effect")));
    zero(dir, &records[0]);
    assert_eq!(classes(&verify(dir)), [Class::AlteredBody]);
}

#[test]
fn zeros_behind_an_unsigned_erase_stop_the_start_that_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let (mut opened, ids) = filled(dir, Signed::OnceOnly);
    let last = list_segments(dir).unwrap().into_iter().rfind(|file| file.finished).unwrap().index;
    until(|| opened.log.status().signed_size > u64::from(DECISIONS));
    let records = opened.log.eraser().unwrap().find(&names(&ids[ids.len() - 3..])).unwrap().erasable;
    assert_eq!(records[0].segment, last);
    order(&mut opened, &named(&records));
    drop(opened);
    zero(dir, &records[1]);
    let settings = Settings::new(dir, ORIGIN);
    let refused = crate::audit::open(&settings, 1).err().unwrap().to_string();
    assert!(refused.contains("no ERASE that is in effect"), "{refused}");
}

#[test]
fn an_erase_whose_body_is_still_there_is_pending_and_a_start_goes_on() {
    for keep_the_list in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let (mut opened, ids) = filled(dir, Signed::Soon);
        let wanted = some(&opened, &ids);
        let eraser = opened.log.eraser().unwrap();
        eraser.announce(&wanted).unwrap();
        let records = wanted.erasable.clone();
        order(&mut opened, &named(&records));
        let size = opened.log.status().durable_size;
        until(|| opened.log.status().signed_size >= size && eraser.watch.vouched_size() >= size);
        drop((opened, eraser, wanted));
        // One is done, and one is half done.
        zero(dir, &records[0]);
        let report = verify(dir);
        assert_eq!((classes(&report), report.redacted), (vec![], 1), "{report:?}");
        assert_eq!(notices(&report, Class::ErasePending), 2);
        let list = dir.join("erasing");
        // A line that no ERASE stands behind erases nothing.
        let forged =
            format!("{}1 {} {} 1\n", fs::read_to_string(&list).unwrap(), records[2].seq + 1, "07".repeat(32));
        fs::write(&list, forged).unwrap();
        if !keep_the_list {
            fs::remove_file(&list).unwrap();
        }
        let mut opened = open_log(dir, Signed::Soon);
        let done: Vec<u64> = records.iter().filter(|_| keep_the_list).map(|record| record.seq).collect();
        assert_eq!(opened.recovery.erasures, Resumed { erased: done, ..Resumed::default() });
        assert!(!list.exists());
        if !keep_the_list {
            assert_eq!(notices(&verify(dir), Class::ErasePending), 2);
            until(|| opened.log.status().signed_size > u64::from(DECISIONS));
            erase(&mut opened, &names(&ids[..3]));
        }
        opened.log.close(PATIENCE).unwrap();
        let report = verify(dir);
        assert_eq!((classes(&report), report.redacted), (vec![], 3));
        assert_eq!(notices(&report, Class::ErasePending), 0);
    }
}

#[test]
fn a_body_that_was_overwritten_in_part_is_pending_only_where_a_power_cut_can_have_left_it() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let (mut opened, ids) = filled(dir, Signed::Soon);
    let records = opened.log.eraser().unwrap().find(&names(&ids[10..30])).unwrap().erasable;
    order(&mut opened, &named(&records));
    let size = opened.log.status().durable_size;
    until(|| opened.log.status().signed_size >= size);
    opened.log.close(PATIENCE).unwrap();
    let range = |record: &Erasable| {
        let at = usize::try_from(record.offset).unwrap();
        (at + HASHED_BYTES, at + HEADER_BYTES + record.body_len as usize)
    };
    let crosses = |record: &&Erasable| range(record).0 / 512 != (range(record).1 - 1) / 512;
    let crossing = records.iter().find(crosses).unwrap();
    let inside = records.iter().find(|record| !crosses(record)).unwrap();
    let (begin, end) = range(crossing);
    let boundary = (begin / 512 + 1) * 512;
    let good = fs::read(dir.join(segment_name(1))).unwrap();
    for (zeros, pending) in [
        (begin..boundary, true),
        (boundary..end, true),
        (begin..boundary - 1, false),
        (boundary + 1..end, false),
        (range(inside).0..range(inside).1 - 1, false),
    ] {
        tamper(dir, 1, |bytes| {
            bytes.clone_from(&good);
            bytes[zeros.clone()].fill(0);
        });
        let report = verify(dir);
        let expected = if pending { vec![] } else { vec![1] };
        let codes: Vec<_> = report.breaks.iter().map(|found| found.class.exit_code()).collect();
        assert_eq!(codes, expected, "{zeros:?} {report:?}");
        assert_eq!(notices(&report, Class::ErasePending), 20 - usize::from(!pending));
    }
}

#[test]
fn a_continued_verification_looks_at_what_was_erased_in_the_part_it_has_read() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let state =
        |since: Option<Trusted>| verify_dir(dir, &Options { since, ..options() }, &mut |_| {}).unwrap();
    let (mut opened, ids) = filled(dir, Signed::Soon);
    let trusted = state(None).trusted.unwrap();
    assert!(trusted.size > 1500);
    let records = erase(&mut opened, &names(&ids[5..7]));
    opened.log.close(PATIENCE).unwrap();
    let report = state(Some(trusted.clone()));
    assert_eq!((classes(&report), report.redacted), (vec![], 2));
    assert!(report.trusted.unwrap().size >= trusted.size);
    // What is there instead of the body is looked at, and what the ERASE names.
    // What crosses a sector could be the middle of an overwriting.
    let in_one_sector = |record: &&Erasable| {
        let at = record.offset + HASHED_BYTES as u64;
        at / 512 == (record.offset + HEADER_BYTES as u64 + u64::from(record.body_len) - 1) / 512
    };
    let at = usize::try_from(records.iter().find(in_one_sector).unwrap().offset).unwrap();
    let good = fs::read(dir.join(segment_name(1))).unwrap();
    tamper(dir, 1, |bytes| bytes[at + HEADER_BYTES] = 1);
    assert_eq!(classes(&state(Some(trusted.clone()))), [Class::AlteredBody]);
    tamper(dir, 1, |bytes| {
        bytes.clone_from(&good);
        bytes[at + 50] ^= 1;
    });
    assert_eq!(classes(&state(Some(trusted))), [Class::BadErase]);
}

#[test]
fn an_export_from_before_shows_what_was_erased_since_and_one_from_after_is_as_the_log_is() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let (mut opened, ids) = filled(dir, Signed::Soon);
    let keys = [key()];
    let acme = Filter { tenant: Some("acme".into()), ..Filter::default() };
    let made = |filter: &Filter, format, size| {
        let mut out = Vec::new();
        let source = Source { dir, keys: &keys, size };
        let exported = export(&source, filter, format, &mut out, &mut |_, _| {}).unwrap();
        (exported, out)
    };
    let size = opened.log.status().signed_size;
    let source = Source { dir, keys: &keys, size: Some(size) };
    let forms = [Format::Csv, Format::JsonLines];
    let filters = [Filter::default(), acme];
    let asked: Vec<_> =
        forms.iter().flat_map(|form| filters.iter().map(move |filter| (filter, *form))).collect();
    let before: Vec<_> = asked.iter().map(|(filter, form)| made(filter, *form, Some(size))).collect();
    erase(&mut opened, &names(&ids[5..7]));
    for ((filter, form), (was, old)) in asked.iter().zip(&before) {
        let (now, new) = made(filter, *form, Some(size));
        assert_eq!((now.counts.redacted, now.root()), (2, was.root()));
        assert_eq!(was.rows - now.rows, if filter.tenant.is_some() { 2 } else { 0 });
        assert!(memchr::memmem::find(&new, b"person-5\"").is_none());
        let against = |rows: &[u8]| compare(&source, filter, *form, &mut &rows[..]).unwrap();
        let since = against(old);
        assert_eq!((since.erased_since, since.differs_at), (2, None), "{form:?}");
        assert_eq!((against(&new).erased_since, against(&new).differs_at), (0, None));
        // A row less, a row more, another hash, another decision: none of that was an erasure.
        let lines: Vec<&[u8]> = old.split_inclusive(|byte| *byte == b'\n').collect();
        let fifth =
            lines.iter().position(|line| memchr::memmem::find(line, b"person-5\"").is_some()).unwrap();
        let less = [&lines[..fifth + 3], &lines[fifth + 4..]].concat().concat();
        assert!(against(&less).differs_at.is_some());
        let more = [&lines[..fifth], &lines[fifth..=fifth], &lines[fifth..]].concat().concat();
        assert!(against(&more).differs_at.is_some());
        // Of a decision that was not erased; a COMMIT may stand between.
        let acme = |line: &&[u8]| memchr::memmem::find(line, b"acme").is_some();
        let later = fifth + 3 + lines[fifth + 3..].iter().position(acme).unwrap();
        for (at, word) in [(fifth, &b"_hash"[..]), (later, b"acme")] {
            let mut altered = lines.iter().map(|line| line.to_vec()).collect::<Vec<_>>();
            let row = &mut altered[at];
            let place = match form {
                Format::Csv => row.len() - 140,
                _ => memchr::memmem::find(row, word).unwrap() + word.len() + 3,
            };
            row[place] ^= 1;
            let differs = against(&altered.concat()).differs_at;
            assert!(differs.is_some() || *form == Format::Csv && at == fifth, "{form:?} {at}");
        }
    }
    let tail = crate::audit::Tail::first(dir).unwrap();
    let mut tail = tail.with_keys(&keys);
    let shown = std::iter::from_fn(|| tail.next().unwrap()).filter(|entry| entry.erased.is_some());
    let shown: Vec<_> = shown.map(|entry| (entry.to_text(), entry.json())).collect();
    assert_eq!(shown.len(), 2);
    assert!(shown[0].0.contains("[erased by the officer]"), "{shown:?}");
    assert!(shown[0].1.contains("\"body\":{},\"redacted\":true"), "{shown:?}");
}

#[test]
fn a_log_with_erased_records_is_set_aside_only_for_what_is_wrong_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("log");
    fs::create_dir(&dir).unwrap();
    let (mut opened, ids) = filled(&dir, Signed::Soon);
    erase(&mut opened, &[RecordName::Id(ids[5])]);
    let other = some(&opened, &ids).erasable[0];
    opened.log.close(PATIENCE).unwrap();
    let settings = Settings { create: true, ..Settings::new(&dir, "test.example/log/2") };
    let decided = crate::audit::Decision { authority: "a", reason: "b", time: "20260101T000000Z" };
    let refused = crate::audit::succeed(&settings, &decided, None).unwrap_err();
    assert!(matches!(refused, AuditError::NothingToDecide { .. }), "{refused}");
    zero(&dir, &other);
    let aside = crate::audit::succeed(&settings, &decided, None).unwrap().unwrap();
    assert!(aside.damage.contains("altered-body"), "{}", aside.damage);
    let found: BTreeSet<_> = verify(&aside.folder).breaks.iter().map(|found| found.seq).collect();
    assert_eq!(found, BTreeSet::from([other.seq]));
}
