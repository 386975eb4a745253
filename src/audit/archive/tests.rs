//! Segments through the archive and back, and archives of other hands.

use proptest::prelude::*;

use super::*;
use crate::audit::{
    record::{FLAG_CRITICAL, Link, SEQ_MAX, chain},
    stored::Stored,
};

/// A record of the chain: header, body, padding.
struct Made {
    kind: u16,
    flags: u16,
    core: u16,
    wall_ns: u64,
    body: Vec<u8>,
}

fn decision(number: u64) -> Made {
    let mut body = vec![0xA5, 1, 1, 2, 0];
    body.extend_from_slice(&[4, 0x62, b'k', b'0' + (number % 3) as u8, 6, 0x50]);
    body.extend_from_slice(&[(number % 5) as u8; 16]);
    body.extend_from_slice(&[7, 0x50]);
    body.extend_from_slice(&<Hash>::from(Sha256::digest(number.to_le_bytes()))[..16]);
    Made {
        kind: 32,
        flags: FLAG_REDACTABLE,
        core: (number % 2) as u16,
        wall_ns: 1_700_000_000 + number * 977,
        body,
    }
}

/// The records back to back, chained behind record `first_seq - 1`.
fn segment(records: &[Made], first_seq: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut prev = [7; 32];
    for (made, seq) in records.iter().zip(first_seq..) {
        let start = out.len();
        let header = Header {
            body_len: u32::try_from(made.body.len()).unwrap(),
            seq,
            wall_ns: made.wall_ns,
            mono_ns: made.wall_ns.wrapping_sub(5),
            kind: made.kind,
            flags: made.flags,
            core: made.core,
            schema: made.kind,
            core_seq: seq / 2 + 1,
            body_digest: Sha256::digest(&made.body).into(),
            prev_hash: prev,
            epoch: 3,
        };
        out.extend_from_slice(&header.to_bytes());
        out.extend_from_slice(&made.body);
        let (wall_ns, mono_ns) = (made.wall_ns, header.mono_ns);
        prev = chain(&mut out[start..], Link { seq, wall_ns, mono_ns }, &prev);
        out.resize(start + stored_len(made.body.len()), 0);
    }
    out
}

fn restored(archive: Vec<u8>, index: u64) -> (Vec<u8>, Option<Damage>) {
    let stored = Stored::Archive(Archive::from_bytes(archive, index).unwrap());
    (stored.read().unwrap(), stored.damage())
}

#[test]
fn a_segment_comes_back_byte_for_byte_and_takes_a_fraction() {
    let records: Vec<Made> = (0..60_000).map(decision).collect();
    let mut bytes = segment(&records, 41);
    let end = bytes.len() as u64;
    let mut leaves = 0;
    let archive = pack(3, &bytes, end).unwrap();
    let span = measure(&bytes, end, &mut |_| leaves += 1).unwrap();
    assert_eq!((span.first_seq, span.records, leaves), (41, 60_000, 60_000));
    assert!(archive.len() * 6 < bytes.len(), "{} of {}", archive.len(), bytes.len());
    assert_eq!(restored(archive, 3), (bytes.clone(), None));

    // What a crash left behind the last record, and the zeros behind that.
    bytes.extend_from_slice(&[0; 24]);
    bytes.extend_from_slice(b"torn");
    bytes.resize(bytes.len() + 9000, 0);
    let archive = pack(3, &bytes, end).unwrap();
    assert_eq!(restored(archive, 3), (bytes, None));
}

#[test]
fn any_part_of_a_segment_is_read_out_of_its_archive() {
    let records: Vec<Made> = (0..50_000).map(decision).collect();
    let bytes = segment(&records, 0);
    let archive = pack(1, &bytes, bytes.len() as u64).unwrap();
    let stored = Stored::Archive(Archive::from_bytes(archive, 1).unwrap());
    for at in (0..bytes.len()).step_by(999_983).chain([bytes.len() - 1, bytes.len(), bytes.len() + 7]) {
        let mut buffer = vec![0xAA; 300_000];
        let read = stored.read_at(&mut buffer, at as u64).unwrap();
        let expected = bytes.get(at..).unwrap_or_default();
        assert_eq!(buffer[..read], expected[..expected.len().min(300_000)], "at {at}");
    }
}

#[test]
fn erased_bodies_and_bodies_of_other_forms_come_back() {
    let mut records: Vec<Made> = (0..200).map(decision).collect();
    for (at, body) in [
        vec![0; 9],
        vec![0xFF; 40],
        vec![],
        vec![0xA1, 0x18, 1, 0],
        vec![0xA2, 2, 0, 1, 0],
        vec![0xA1, 1, 0x18, 2],
    ]
    .into_iter()
    .enumerate()
    {
        records[at * 7] = Made { body, flags: FLAG_CRITICAL, ..decision(0) };
    }
    let mut bytes = segment(&records, 0);
    // Erased: everything of the record behind the hashed bytes is zero.
    let start = 150 * stored_len(decision(0).body.len());
    let at = bytes
        .windows(4)
        .enumerate()
        .filter(|(at, window)| window == b"EDG\x01" && at % 8 == 0 && *at >= start / 2);
    let at = at.map(|(at, _)| at).nth(50).unwrap();
    let len = stored_len(stored_len_of(&bytes[at..]));
    bytes[at + 116..at + len].fill(0);
    let archive = pack(1, &bytes, bytes.len() as u64).unwrap();
    assert_eq!(restored(archive, 1), (bytes, None));
}

fn stored_len_of(record: &[u8]) -> usize {
    u32::from_le_bytes(record[4..8].try_into().unwrap()) as usize
}

#[test]
fn what_is_not_whole_is_not_archived() {
    let bytes = segment(&(0..100).map(decision).collect::<Vec<_>>(), 0);
    let end = bytes.len() as u64;
    let refused = |bytes: &[u8], end: u64| pack(1, bytes, end).is_err();
    assert!(!refused(&bytes, end));
    assert!(refused(&bytes, end - 8) && refused(&bytes, end + 8) && refused(&[], 0));
    for at in (0..bytes.len()).step_by(11) {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(refused(&changed, end), "byte {at}");
    }
}

#[test]
fn a_flipped_bit_of_an_archive_is_met_as_damage_and_never_as_another_record() {
    let bytes = segment(&(0..2000).map(decision).collect::<Vec<_>>(), 0);
    let archive = pack(1, &bytes, bytes.len() as u64).unwrap();
    for at in (0..archive.len()).step_by(archive.len() / 150).chain(0..FILE_HEADER_BYTES + BLOCK_HEADER_BYTES)
    {
        let mut changed = archive.clone();
        changed[at] ^= 4;
        let (read, damage) = restored(changed, 1);
        if (FILE_HEADER_BYTES + 24..FILE_HEADER_BYTES + 64).contains(&at) {
            // Number and link of the first record, which the records before it and the checkpoints are held against.
            assert_ne!(read, bytes, "byte {at}");
        } else if (16..24).contains(&at) {
            assert!(damage.is_some() || read.len() != bytes.len(), "byte {at}");
        } else {
            let damage = damage.unwrap_or_else(|| panic!("byte {at}"));
            let from = usize::try_from(damage.offset).unwrap();
            assert_eq!(read[..from], bytes[..from], "byte {at}");
            assert_eq!(read[from..from + 4], [0xFF; 4], "byte {at}");
        }
    }
    assert!(restored(archive.clone(), 2).1.is_some(), "another segment's archive");
    for len in (0..archive.len()).step_by(997) {
        assert!(restored(archive[..len].to_vec(), 1).1.is_some(), "{len} bytes");
    }
    assert!(restored([archive, vec![0]].concat(), 1).1.is_some());
}

#[test]
fn lengths_that_promise_too_much_make_nothing() {
    let bytes = segment(&(0..10).map(decision).collect::<Vec<_>>(), 0);
    let archive = pack(1, &bytes, bytes.len() as u64).unwrap();
    for (at, value) in
        [(16, u64::MAX), (24, u64::from(u32::MAX)), (32, u64::MAX), (40, u64::MAX), (48, u64::MAX)]
    {
        let mut changed = archive.clone();
        changed[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let (read, damage) = restored(changed, 1);
        assert!(damage.is_some() && read.len() < 1 << 20, "{at}: {} bytes", read.len());
    }
}

proptest! {
    #[test]
    fn segments_of_any_bodies_come_back(
        bodies in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), any::<u16>(), any::<u64>()), 1..30),
        first_seq in 0..SEQ_MAX / 2,
    ) {
        let records: Vec<Made> = bodies
            .into_iter()
            .map(|(body, kind, wall_ns)| Made { kind, flags: kind, core: kind % 3, wall_ns, body })
            .collect();
        let bytes = segment(&records, first_seq);
        let archive = pack(9, &bytes, bytes.len() as u64).unwrap();
        prop_assert_eq!(restored(archive, 9), (bytes, None));
    }

    #[test]
    fn foreign_contents_of_a_block_are_refused(content in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = block::decode(&content, 20, 4096, 0, &[0; 32]);
    }
}
