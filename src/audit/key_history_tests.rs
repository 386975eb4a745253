//! What a key file says and what it cannot be made to say; handovers of running logs.

use std::fs;

use super::*;
use crate::audit::{
    AuditError, SignError,
    running::{
        self, DECISIONS, ORIGIN, PATIENCE, Signed, classes, decide, key_of, open_by, options, sign,
        signer_of, until,
    },
    sealer::CheckpointSigner,
    verify::{Class, Options, Report, verify_dir},
};

/// The key that a log of these tests begins with.
const FIRST: u8 = 1;

fn handover(old: u8, new: u8, size: u64) -> Handover {
    running::handover(old, new, size, [5; 32])
}

/// Keys 1, 2, 3 and 4, which end at 10, 20 and 20.
fn history() -> KeyHistory {
    let mut history = KeyHistory::of(key_of(1));
    for (old, size) in [(1, 10), (2, 20), (3, 20)] {
        history.push(handover(old, old + 1, size)).unwrap();
    }
    history
}

fn sizes(keys: &[CheckpointKey], number: u8) -> (u64, u64) {
    let sizes = &keys[place(keys, &key_of(number)).unwrap()].sizes;
    (*sizes.start(), *sizes.end())
}

#[test]
fn whoever_trusts_any_key_of_the_chain_learns_every_key_and_its_sizes() {
    let text = history().to_text();
    let read = KeyHistory::parse(&text).unwrap();
    assert_eq!((&read, &read.to_text()), (&history(), &text));
    for root in 1..=4 {
        let keys = read.keys(&[key_of(root)]).unwrap();
        let all = [1, 2, 3, 4].map(|number| sizes(&keys, number));
        assert_eq!(all, [(0, 10), (10, 20), (20, 20), (20, u64::MAX)], "from {root}");
    }
    assert_eq!(read.current().unwrap().verifying_key, key_of(4).verifying_key);
    let stranger = read.keys(&[key_of(9)]).unwrap();
    assert_eq!(stranger, [key_of(9)], "nobody of the chain named it");
    // Whoever trusts several of them learns the same.
    for roots in [[1, 2], [3, 1], [2, 4], [4, 3]] {
        let keys = read.keys(&roots.map(key_of)).unwrap();
        let all = [1, 2, 3, 4].map(|number| sizes(&keys, number));
        assert_eq!(all, [(0, 10), (10, 20), (20, 20), (20, u64::MAX)], "from {roots:?}");
    }
    // A copy of an older file beside the newer one says nothing new.
    let twice = read.keys(&read.keys(&[key_of(2)]).unwrap()).unwrap();
    assert_eq!(twice, read.keys(&[key_of(2)]).unwrap());
}

#[test]
fn a_key_signs_nothing_before_its_turn_and_nothing_after() {
    let keys = history().keys(&[key_of(1)]).unwrap();
    for (number, size, opened) in [
        (1, 10, true),
        (1, 11, false),
        (2, 9, false),
        (2, 10, true),
        (2, 21, false),
        (3, 20, true),
        (4, 19, false),
        (4, 1 << 40, true),
    ] {
        let checkpoint = Checkpoint { origin: ORIGIN.into(), size, root: [6; 32] };
        let note = checkpoint.to_note(&key_of(number), &sign(number, &checkpoint.to_text()));
        let expected = if opened { Ok(checkpoint) } else { Err(NoteError::OutOfTurn) };
        assert_eq!(Checkpoint::open(&note, &keys), expected, "key {number} at {size}");
    }
}

#[test]
fn a_key_that_was_put_in_without_the_signature_of_the_one_before_is_named() {
    let (old, new) = (key_of(1), key_of(2));
    let checkpoint = Checkpoint { origin: ORIGIN.into(), size: 10, root: [5; 32] };
    let text = Handover::text(&checkpoint, &old, &new);
    let (by_old, by_new, by_other) = (sign(1, &text), sign(2, &text), sign(3, &text));
    for (signatures, whose) in
        [([&by_new, &by_new], "ends"), ([&by_other, &by_new], "ends"), ([&by_old, &by_other], "begins")]
    {
        let refused = Handover::new(&checkpoint, [&old, &new], signatures).unwrap_err();
        assert_eq!(refused, KeyHistoryError::NotCrossSigned { number: 1, whose });
    }
    let one_line = |number: usize| {
        let text = handover(1, 2, 10).note;
        let (signed, lines) = text.split_once("\n\n").unwrap();
        format!("{}\n\n{signed}\n\n{}\n", key_of(1).to_text(), lines.lines().nth(number).unwrap())
    };
    for number in [0, 1] {
        let refused = KeyHistory::parse(&one_line(number)).unwrap_err();
        assert_eq!(refused, KeyHistoryError::Malformed { number: 1 }, "one signature is not two");
    }
}

#[test]
fn every_changed_byte_of_a_key_file_is_caught_or_says_the_same() {
    let text = history().to_text();
    let keys = history().keys(&[key_of(1)]).unwrap();
    let first_line = text.find('\n').unwrap();
    for at in first_line..text.len() {
        for bit in 0..8 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            // What cuts a handover off whole leaves fewer keys, and none that is not there without it.
            if let Ok(read) = KeyHistory::parse(&changed).and_then(|read| read.keys(&[key_of(1)])) {
                assert!(read.iter().all(|key| place(&keys, key).is_some()), "byte {at} bit {bit}: {changed}");
                assert!(read.len() == keys.len(), "byte {at} bit {bit}: {changed}");
            }
        }
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    let contradiction = |handovers: &[(u8, u8, u64)]| {
        let mut history = KeyHistory::of(key_of(1));
        for (old, new, size) in handovers {
            history.handovers.push(handover(*old, *new, *size));
        }
        match KeyHistory::parse(&history.to_text()) {
            Err(KeyHistoryError::Contradiction { number, problem, .. }) => (number, problem),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(contradiction(&[(1, 2, 10), (1, 3, 10)]), (2, "gave way to another key already"));
    assert_eq!(contradiction(&[(1, 2, 10), (2, 1, 20)]), (2, "was in use before"));
    assert_eq!(contradiction(&[(1, 2, 10), (2, 3, 9)]), (2, "ends before it began"));
    assert_eq!(contradiction(&[(5, 6, 10), (6, 5, 20)]), (2, "was in use before"), "whoever is trusted");
    let mut history = history();
    let before = history.clone();
    assert!(history.push(handover(2, 9, 30)).is_err(), "it ended");
    assert!(history.push(handover(8, 9, 30)).is_err(), "it is a stranger");
    assert_eq!(history, before);
}

fn verify(dir: &Path, keys: Vec<CheckpointKey>) -> Report {
    verify_dir(dir, &Options { keys, ..options() }, &mut |_| {}).unwrap()
}

/// Decides, and waits for a checkpoint over all of it. What is durable by then may be more: nothing is signed for a CHECKPOINT record
/// alone.
fn decide_and_have_signed(opened: &mut crate::audit::Opened, count: u32) {
    let before = opened.log.status().size;
    decide(opened, count);
    until(|| opened.log.status().signed_size >= before + u64::from(count));
}

#[test]
fn a_log_with_twenty_rotated_keys_verifies_with_any_of_them_and_not_with_one_that_was_put_in() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("log");
    let mut opened = open_by(&dir, Signed::Soon, FIRST).unwrap();
    for number in FIRST + 1..=FIRST + 20 {
        // Each signs at least once.
        decide_and_have_signed(&mut opened, DECISIONS / 20);
        let durable = opened.log.status().durable_size;
        let handed = opened.log.handovers().unwrap().hand_over(signer_of(number)).unwrap();
        assert_eq!((handed.old, handed.new), (key_of(number - 1), key_of(number)));
        assert!(handed.checkpoint.size >= durable);
    }
    decide_and_have_signed(&mut opened, 10);
    opened.log.close(PATIENCE).unwrap();

    let history = KeyHistory::beside(&dir).unwrap().unwrap();
    assert_eq!(history.handovers().len(), 20);
    for root in [FIRST, FIRST + 7, FIRST + 20] {
        let report = verify(&dir, history.keys(&[key_of(root)]).unwrap());
        assert_eq!(classes(&report), [], "trusting {root}: {report:?}");
        assert!(report.checkpoints >= 20, "{report:?}");
    }
    // One root without the handovers believes its own checkpoints alone.
    let report = verify(&dir, vec![key_of(FIRST)]);
    assert!(classes(&report).iter().all(|class| *class == Class::WrongKey), "{report:?}");
    assert!(!report.breaks.is_empty());
    // The twelfth names another that nobody cross-signed: the file is refused, and so is what follows in the log without it.
    let text = history.to_text();
    let twelfth = text.match_indices(TITLE_LINE).nth(11).unwrap().0;
    let mut cut = KeyHistory::parse(&text[..twelfth]).unwrap();
    assert!(cut.push(handover(99, 98, 10)).is_err());
    let report = verify(&dir, cut.keys(&[key_of(FIRST)]).unwrap());
    assert!(classes(&report).iter().all(|class| *class == Class::WrongKey), "{report:?}");
    assert!(!report.breaks.is_empty());
}

#[test]
fn a_start_wants_the_key_that_the_last_one_named() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("log");
    let mut opened = open_by(&dir, Signed::Soon, 1).unwrap();
    decide(&mut opened, 10);
    opened.log.handovers().unwrap().hand_over(signer_of(2)).unwrap();
    opened.log.close(PATIENCE).unwrap();
    for wrong in [1, 3] {
        let refused = open_by(&dir, Signed::Soon, wrong).map(drop).unwrap_err();
        assert!(matches!(refused, AuditError::CheckpointKeyUnknown { .. }), "{refused}");
        let (current, configured) = (key_of(2).to_text(), key_of(wrong).to_text());
        assert!(refused.to_string().contains(&current) && refused.to_string().contains(&configured));
    }
    let mut opened = open_by(&dir, Signed::Soon, 2).unwrap();
    decide(&mut opened, 10);
    let handovers = opened.log.handovers().unwrap();
    // Neither one of before nor one that does not sign takes over, and the log is signed on.
    let mute = |cause: &'static str| CheckpointSigner {
        verifying_key: key_of(7).verifying_key,
        sign: Box::new(move |_| Err(SignError(cause.to_owned()))),
    };
    let wrong_key = CheckpointSigner { verifying_key: key_of(7).verifying_key, ..signer_of(8) };
    for (signer, why) in [
        (signer_of(1), "was in use before"),
        (signer_of(2), "malformed"),
        (mute("the token is away"), "the token is away"),
        (wrong_key, "not signed by the key that begins"),
    ] {
        let refused = handovers.hand_over(signer).unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
        assert!(refused.to_string().contains("the one before signs on"), "{refused}");
    }
    let size = opened.log.status().size;
    decide(&mut opened, 10);
    until(|| opened.log.status().signed_size > size);
    opened.log.close(PATIENCE).unwrap();
    assert_eq!(classes(&verify(&dir, own_keys(&dir).unwrap())), []);
    // What was lost is moved away: who holds the new key begins a history with it.
    fs::remove_file(dir.join(KEY_FILE)).unwrap();
    open_by(&dir, Signed::Soon, 9).unwrap().log.close(PATIENCE).unwrap();
    assert_eq!(own_keys(&dir).unwrap(), [key_of(9)]);
}

#[test]
fn a_second_first_key_is_never_believed_and_a_tree_by_another_key_neither() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("log");
    let mut opened = open_by(&dir, Signed::Soon, 1).unwrap();
    decide(&mut opened, 10);
    opened.log.handovers().unwrap().hand_over(signer_of(2)).unwrap();
    // The tree beside the log is the new key's at once.
    let tree = fs::read_to_string(dir.join("checkpoint.tree")).unwrap();
    let note = fs::read_to_string(dir.join("checkpoint")).unwrap();
    assert!(tree.ends_with(&note) && Checkpoint::open(&note, &[key_of(2)]).is_ok());
    opened.log.close(PATIENCE).unwrap();
    let text = fs::read_to_string(dir.join(KEY_FILE)).unwrap();
    fs::write(dir.join(KEY_FILE), format!("{}\n{text}", key_of(9).to_text())).unwrap();
    let refused = open_by(&dir, Signed::Soon, 2).map(drop).unwrap_err();
    assert!(refused.to_string().contains("it begins with 2 keys"), "{refused}");
    assert!(own_keys(&dir).is_err());
}

#[test]
fn a_log_that_is_shorter_than_a_handover_was_rolled_back() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, copy) = (parent.path().join("log"), parent.path().join("copy"));
    let mut opened = open_by(&dir, Signed::Soon, 1).unwrap();
    decide(&mut opened, 10);
    opened.log.close(PATIENCE).unwrap();
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let mut opened = open_by(&dir, Signed::Soon, 1).unwrap();
    decide(&mut opened, 10);
    opened.log.handovers().unwrap().hand_over(signer_of(2)).unwrap();
    opened.log.close(PATIENCE).unwrap();
    // The older log with the newer keys: whole in itself.
    fs::copy(dir.join(KEY_FILE), copy.join(KEY_FILE)).unwrap();
    for name in ["checkpoint", "checkpoint.tree"] {
        fs::remove_file(copy.join(name)).unwrap();
    }
    let history = KeyHistory::beside(&copy).unwrap().unwrap();
    let keys = own_keys(&copy).unwrap();
    let options = Options { handovers: history.signed_by(&keys), keys, ..options() };
    let report = verify_dir(&copy, &options, &mut |_| {}).unwrap();
    assert_eq!(classes(&report), [Class::Rollback], "{report:?}");
    let refused = open_by(&copy, Signed::Soon, 2).map(drop).unwrap_err();
    assert!(matches!(refused, AuditError::RolledBack { .. }), "{refused}");
    let report = verify_dir(&dir, &options, &mut |_| {}).unwrap();
    assert_eq!(classes(&report), [], "{report:?}");
}
