//! Inside a segment: bits, bodies, and records that go, come, or stand elsewhere.

use super::{Done, Undone};
use crate::audit::{
    drill::ground::{Ground, Piece, Place},
    record::{CORE_SEQUENCER, HEADER_BYTES, stored_len},
    schema::Kind,
};

/// Where a header holds the wall clock, and its checksum (FORMAT.md, "Record").
const WALL_NS: usize = 16;
const CHECKSUM: usize = 116;

pub(super) fn header_bit(ground: &Ground<'_>) -> Result<Done, Undone> {
    flip(ground, ground.event()?, WALL_NS)
}

pub(super) fn checksum_bit(ground: &Ground<'_>) -> Result<Done, Undone> {
    flip(ground, ground.event()?, CHECKSUM)
}

pub(super) fn body_bit(ground: &Ground<'_>) -> Result<Done, Undone> {
    let place = ground.event()?;
    let len = place.parts.header(place.at).body_len as usize;
    let byte = HEADER_BYTES + ground.pick("byte", len);
    flip(ground, place, byte)
}

pub(super) fn padding(ground: &Ground<'_>) -> Result<Done, Undone> {
    let padded = |header: &crate::audit::record::Header| {
        let len = header.body_len as usize;
        header.core != CORE_SEQUENCER && stored_len(len) > HEADER_BYTES + len
    };
    let place = ground.record("an event whose length is no multiple of 8", padded)?;
    let byte = HEADER_BYTES + place.parts.header(place.at).body_len as usize;
    flip(ground, place, byte)
}

fn flip(ground: &Ground<'_>, mut place: Place, byte: usize) -> Result<Done, Undone> {
    let bit = ground.pick("bit", 8);
    place.parts.bytes[place.parts.offsets[place.at] + byte] ^= 1 << bit;
    ground.put(&place.segment, &place.parts.bytes)?;
    Ok(Done::at(place.seq))
}

pub(super) fn body_zeroed(ground: &Ground<'_>) -> Result<Done, Undone> {
    let Place { segment, parts, at, seq } = ground.event()?;
    let mut record = parts.stored(at).to_vec();
    record[HEADER_BYTES..].fill(0);
    ground.put(&segment, &parts.with(at..at + 1, &record))?;
    Ok(Done::at(seq))
}

pub(super) fn record_zeroed(ground: &Ground<'_>) -> Result<Done, Undone> {
    let Place { segment, parts, at, seq } = ground.event()?;
    let zeros = vec![0; parts.stored(at).len()];
    ground.put(&segment, &parts.with(at..at + 1, &zeros))?;
    Ok(Done::at(seq))
}

/// What a careful forger does who changes one record and no other.
pub(super) fn body_refitted(ground: &Ground<'_>) -> Result<Done, Undone> {
    let Place { segment, parts, at, seq } = ground.event()?;
    let mut piece = Piece::of(&parts.read(at));
    let other = (1..parts.records()).find(|other| parts.read(*other).body != piece.body);
    let other = other.ok_or(Undone::Needs("two records of different content"))?;
    let other = Piece::of(&parts.read(other));
    (piece.header.kind, piece.header.schema) = (other.header.kind, other.header.schema);
    piece.set_body(other.body);
    ground.put(&segment, &parts.with(at..at + 1, &piece.stored()))?;
    Ok(Done::at(seq))
}

pub(super) fn elsewhere(ground: &Ground<'_>) -> Result<Done, Undone> {
    let Place { segment, parts, at, seq } = ground.event()?;
    let len = parts.stored(at).len();
    let other = (1..parts.records()).rev().find(|other| *other != at && parts.stored(*other).len() == len);
    let other = other.ok_or(Undone::Needs("two records of the same length"))?;
    ground.put(&segment, &parts.with(at..at + 1, parts.stored(other)))?;
    Ok(Done::at(seq))
}

pub(super) fn delete_event(ground: &Ground<'_>) -> Result<Done, Undone> {
    delete(ground, &ground.event()?)
}

pub(super) fn delete_commit(ground: &Ground<'_>) -> Result<Done, Undone> {
    delete(ground, &ground.of_kind(Kind::Commit, "a COMMIT between other records")?)
}

pub(super) fn delete_checkpoint(ground: &Ground<'_>) -> Result<Done, Undone> {
    delete(ground, &ground.of_kind(Kind::Checkpoint, "a CHECKPOINT between other records")?)
}

fn delete(ground: &Ground<'_>, place: &Place) -> Result<Done, Undone> {
    ground.put(&place.segment, &place.parts.with(place.at..place.at + 1, &[]))?;
    Ok(Done::at(place.seq))
}

pub(super) fn insert(ground: &Ground<'_>) -> Result<Done, Undone> {
    let Place { segment, parts, at, seq } = ground.event()?;
    let mut piece = Piece::of(&parts.read(at));
    piece.header.wall_ns ^= 1;
    let both = [&piece.stored(), parts.stored(at)].concat();
    ground.put(&segment, &parts.with(at..at + 1, &both))?;
    Ok(Done::at(seq))
}

pub(super) fn repeat(ground: &Ground<'_>) -> Result<Done, Undone> {
    let Place { segment, parts, at, seq } = ground.event()?;
    let twice = [parts.stored(at), parts.stored(at)].concat();
    ground.put(&segment, &parts.with(at..at + 1, &twice))?;
    Ok(Done::at(seq))
}

pub(super) fn swap(ground: &Ground<'_>) -> Result<Done, Undone> {
    // Behind the first record, whose place is known: the one it is exchanged with comes after it.
    let Place { segment, parts, at, seq } = ground.event()?;
    if at + 2 >= parts.records() {
        return Err(Undone::Needs("three records behind one another"));
    }
    let exchanged = [parts.stored(at + 1), parts.stored(at)].concat();
    ground.put(&segment, &parts.with(at..at + 2, &exchanged))?;
    Ok(Done::at(seq))
}
